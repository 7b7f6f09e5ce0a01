"""Order the events of all rings by time. _merger.pyx decides which events may be released, and when.

Each ring has a queue of its pending events, sorted by (time, ring_seq). A ring is nearly sorted (a program that
interrupts another reserves later and stamps earlier), so an arriving event moves a few places at most. A batch is
merged from the queues by (time, ring, ring_seq). A frame is kept until the last of its events is done, and a batch
refers to the columns of the frames, so no event is copied.

The queues also know how far each ring is applied without a hole, so that its bytes can be released.
"""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, qsort, realloc
from libc.string cimport memmove


from pipeline.records._records cimport PL_FLAG_HEAD_ONLY, PL_KIND_EXIT, pl_header_any
from pipeline.bus.frames._frame cimport Frame


cdef enum:
    NO_FRAME = 0xFFFFFFFF


cdef struct frame_state:
    uint8_t *done  # one byte for each event
    uint32_t count
    uint32_t prefix  # events before it are done
    uint32_t ring
    uint32_t next  # younger frame of the same ring; or next free number
    uint64_t to_pos


cdef struct ring_queue:
    pending_event *items  # [first, last) is sorted
    uint64_t first, last, capacity
    uint32_t oldest, youngest  # frames with events that are not done, NO_FRAME for none
    uint64_t skip_time  # events not younger were applied by a predecessor
    uint64_t applied_pos
    bint is_touched  # by the batch that is being done


cdef struct waiting_ring:
    uint64_t time  # of its oldest pending event
    uint32_t ring


cdef inline bint _is_before(const waiting_ring *a, const waiting_ring *b) noexcept nogil:
    return a.time < b.time or (a.time == b.time and a.ring < b.ring)


cdef inline void _sift(waiting_ring *heap, uint32_t at, uint32_t n) noexcept nogil:
    """Let the ring at `at` of a heap sink to where it belongs."""
    cdef waiting_ring moved = heap[at]
    cdef uint32_t child
    while True:
        child = 2 * at + 1
        if child >= n:
            break
        if child + 1 < n and _is_before(&heap[child + 1], &heap[child]):
            child += 1
        if not _is_before(&heap[child], &moved):
            break
        heap[at] = heap[child]
        at = child
    heap[at] = moved


cdef inline bint _later(const pending_event *a, const pending_event *b) noexcept nogil:
    return a.time > b.time or (a.time == b.time and a.seq > b.seq)


cdef int _compare(const void *a, const void *b) noexcept nogil:
    if _later(<const pending_event *>a, <const pending_event *>b):
        return 1
    return -1 if _later(<const pending_event *>b, <const pending_event *>a) else 0


@cython.freelist(1)
cdef class Batch:
    """Events in the order in which they are to be applied. Made by `RingQueues.take`, ended by `RingQueues.done`.

    Attributes:
        count: events.
        frontier: boot time in ns; every event known at `take` with an earlier time has gone out by now.
    """

    def __dealloc__(self):
        free(self.items)

    def __len__(self):
        return self.count

    @property
    def frames(self):
        """The list to which the events refer; None at unused numbers."""
        return self.queues.frames


cdef class RingQueues:
    """Pending events of all rings. One batch may be out at a time.

    Args:
        ring_count: rings are numbered 0 to ring_count - 1.
    """

    def __cinit__(self, uint32_t ring_count):
        cdef uint32_t ring
        cdef ring_queue *rings
        self.ring_count = ring_count
        self.frames = []
        self.free_number = NO_FRAME
        self.rings = calloc(max(ring_count, 1), sizeof(ring_queue))
        self.heap = malloc(max(ring_count, 1) * sizeof(waiting_ring))
        if self.rings == NULL or self.heap == NULL:
            raise MemoryError
        rings = <ring_queue *>self.rings
        for ring in range(ring_count):
            rings[ring].oldest = rings[ring].youngest = NO_FRAME

    def __dealloc__(self):
        cdef uint32_t i
        cdef ring_queue *rings = <ring_queue *>self.rings
        cdef frame_state *states = <frame_state *>self.states
        if states != NULL:
            for i in range(self.frame_capacity):
                free(states[i].done)
        if rings != NULL:
            for i in range(self.ring_count):
                free(rings[i].items)
        free(self.rings)
        free(self.states)
        free(self.columns)
        free(self.heap)

    cdef int _grow_frames(self) except -1:
        cdef uint32_t capacity = self.frame_capacity * 2 if self.frame_capacity else 64, i
        cdef void *states = realloc(self.states, capacity * sizeof(frame_state))
        if states == NULL:
            raise MemoryError
        self.states = states
        cdef void *found = realloc(self.columns, capacity * sizeof(columns))
        if found == NULL:
            raise MemoryError
        self.columns = <columns *>found
        for i in range(self.frame_capacity, capacity):
            (<frame_state *>states)[i].done = NULL
            (<frame_state *>states)[i].next = i + 1 if i + 1 < capacity else NO_FRAME
            self.frames.append(None)
        self.free_number = self.frame_capacity
        self.frame_capacity = capacity
        return 0

    cdef void _release(self, uint32_t number):
        cdef frame_state *state = &(<frame_state *>self.states)[number]
        free(state.done)
        state.done = NULL
        self.frames[number] = None
        state.next = self.free_number
        self.free_number = number

    def skip_until(self, uint32_t ring, uint64_t time_boot_ns, uint64_t position):
        """Start `ring` at `position`; later events with a time up to `time_boot_ns` count as replayed."""
        if ring >= self.ring_count:
            raise IndexError(ring)
        (<ring_queue *>self.rings)[ring].skip_time = time_boot_ns
        (<ring_queue *>self.rings)[ring].applied_pos = position

    cpdef void raise_frontier(self, uint64_t time_boot_ns) noexcept:
        """Treat everything before `time_boot_ns` as released."""
        if time_boot_ns > self.frontier:
            self.frontier = time_boot_ns

    cdef uint64_t applied(self, uint32_t ring) noexcept nogil:
        """Position in bytes before which all records of the ring are done."""
        return (<ring_queue *>self.rings)[ring].applied_pos

    cpdef int64_t add(self, Frame frame, uint64_t from_pos) except -1:
        """Queue the events of a frame from position `from_pos` on; earlier ones were queued before.

        The frame is kept until the last of its events is done. Its columns were checked when it was decoded.
        """
        cdef ring_queue *queue
        cdef frame_state *state
        cdef columns *col
        cdef uint32_t ring, count, number, taken = 0
        cdef uint32_t added
        if frame is None:
            raise TypeError("a frame is None")
        ring, count = frame.ring, frame.count
        if ring >= self.ring_count:
            raise IndexError(ring)
        queue = &(<ring_queue *>self.rings)[ring]
        if count == 0:
            if queue.oldest == NO_FRAME:
                queue.applied_pos = frame.to_pos
            else:
                (<frame_state *>self.states)[queue.youngest].to_pos = frame.to_pos
            return 0
        if self.free_number == NO_FRAME:
            self._grow_frames()
        number = self.free_number
        state = &(<frame_state *>self.states)[number]
        state.done = <uint8_t *>calloc(count, 1)
        if state.done == NULL:
            raise MemoryError
        col = &self.columns[number]
        col.header = <const char *>frame.headers.at
        col.task = <const char *>frame.tasks.at
        col.task_of = frame.task_of.at if frame.task_of.bytes else NULL
        col.ns_pid = frame.ns_pids.at if frame.task_of.bytes else NULL
        col.fork = <const char *>frame.forks.at
        col.exec = <const char *>frame.execs.at
        col.exit = <const char *>frame.exits.at
        col.blob = <const char *>frame.strings.at
        col.digests = frame.digests.at if frame.digests.bytes else NULL
        state.count = count
        state.prefix = 0
        state.ring = ring
        state.to_pos = frame.to_pos
        state.next, self.free_number = NO_FRAME, state.next
        self.frames[number] = frame
        if queue.last + count > queue.capacity:
            self._make_room(queue, count)
        with nogil:
            added = _enqueue(queue, state, number, col, from_pos, &taken)
        self.replayed_total += taken
        self.pending += added
        if queue.oldest == NO_FRAME:
            queue.oldest = number
        else:
            (<frame_state *>self.states)[queue.youngest].next = number
        queue.youngest = number
        if added == 0:
            self._settle(ring)
        return added

    cdef int _make_room(self, void *of, uint32_t count) except -1:
        cdef ring_queue *queue = <ring_queue *>of
        cdef uint64_t used = queue.last - queue.first, capacity = queue.capacity
        cdef void *items
        if queue.first >= used + count:
            # The front half is free: the copy moves at most as many events as were removed since the last one.
            memmove(queue.items, queue.items + queue.first, used * sizeof(pending_event))
            queue.first, queue.last = 0, used
            return 0
        while queue.last + count > capacity:
            capacity = capacity * 2 if capacity else 1024
        items = realloc(queue.items, capacity * sizeof(pending_event))
        if items == NULL:
            raise MemoryError
        queue.items = <pending_event *>items
        queue.capacity = capacity
        return 0

    cdef void _settle(self, uint32_t ring):
        """Release the oldest frames of a ring that are done, and move its applied position."""
        cdef ring_queue *queue = &(<ring_queue *>self.rings)[ring]
        cdef frame_state *state
        cdef uint32_t number
        while queue.oldest != NO_FRAME:
            number = queue.oldest
            state = &(<frame_state *>self.states)[number]
            while state.prefix < state.count and state.done[state.prefix]:
                state.prefix += 1
            if state.prefix < state.count:
                queue.applied_pos = (<const pl_header_any *>self.columns[number].header)[state.prefix].ring_pos
                return
            queue.applied_pos = state.to_pos
            queue.oldest = state.next
            if queue.oldest == NO_FRAME:
                queue.youngest = NO_FRAME
            self._release(number)

    cdef uint32_t _merge(self, uint64_t limit, pending_event *out, uint32_t room) noexcept nogil:
        """Move events with a time before `limit` to `out`, at most `room`; returns how many."""
        cdef ring_queue *rings = <ring_queue *>self.rings
        cdef ring_queue *queue
        cdef waiting_ring *heap = <waiting_ring *>self.heap
        cdef waiting_ring *rival
        cdef uint32_t n = 0, i, taken = 0
        cdef uint64_t until
        cdef const pending_event *item
        cdef const pending_event *end
        for i in range(self.ring_count):
            if rings[i].first < rings[i].last and rings[i].items[rings[i].first].time < limit:
                heap[n].ring, heap[n].time = i, rings[i].items[rings[i].first].time
                n += 1
        for i in range(n // 2):
            _sift(heap, n // 2 - 1 - i, n)
        while n and taken < room:
            queue = &rings[heap[0].ring]
            # Events of this ring go out until one of the runner-up comes first; it is one of the root's children.
            until = limit
            if n > 1:
                rival = &heap[1]
                if n > 2 and _is_before(&heap[2], rival):
                    rival = &heap[2]
                until = rival.time
                if heap[0].ring < rival.ring and until < limit:
                    until += 1
            item, end = &queue.items[queue.first], &queue.items[queue.last]
            while taken < room and item < end and item.time < until:
                out[taken] = item[0]
                item += 1
                taken += 1
            queue.first = item - queue.items
            if item == end:
                queue.first = queue.last = 0
            if item == end or item.time >= limit:
                n -= 1
                heap[0] = heap[n]
            else:
                heap[0].time = item.time
            if n > 1:
                _sift(heap, 0, n)
        return taken

    cdef uint64_t oldest(self) noexcept nogil:
        """Time of the oldest pending event; there is one."""
        cdef ring_queue *rings = <ring_queue *>self.rings
        cdef uint64_t found = <uint64_t>-1
        cdef uint32_t i
        for i in range(self.ring_count):
            if rings[i].first < rings[i].last and rings[i].items[rings[i].first].time < found:
                found = rings[i].items[rings[i].first].time
        return found

    cpdef Batch take(self, uint64_t limit_boot_ns, uint32_t max_events, bint complete=True):
        """Return the next events with a time before `limit_boot_ns`, at most `max_events`, or None.

        Args:
            complete: no earlier event is expected any more, so that the frontier may move up to the limit.
        """
        cdef Batch batch
        cdef uint32_t room, late = 0
        cdef uint64_t newest
        if self.outstanding:
            raise RuntimeError("the last batch is not done")
        room = <uint32_t>min(<uint64_t>max_events, self.pending)
        if room == 0:
            if max_events and complete:
                self.raise_frontier(limit_boot_ns)
            return None
        batch = Batch.__new__(Batch)
        batch.queues = self
        batch.items = <pending_event *>malloc(room * sizeof(pending_event))
        if batch.items == NULL:
            raise MemoryError
        with nogil:
            batch.count = self._merge(limit_boot_ns, batch.items, room)
        self.pending -= batch.count
        while late < batch.count and batch.items[late].time < self.frontier:
            late += 1  # sorted, so the late ones come first
        self.late_total += late
        if batch.count < max_events and complete:
            self.raise_frontier(limit_boot_ns)
        elif batch.count:
            # The batch is sorted, so the last event is the newest; late ones do not move the frontier back. The
            # frontier lies after its time, unless a pending event has the same time: a successor skips what is before
            # it.
            newest = batch.items[batch.count - 1].time
            self.raise_frontier(newest if self.pending and self.oldest() == newest else newest + 1)
        if batch.count == 0:
            return None
        batch.frontier = self.frontier
        self.outstanding = True
        return batch

    cpdef done(self, Batch batch):
        """The events of `batch` are applied: rings' applied positions move."""
        cdef uint32_t i, ring
        cdef frame_state *states = <frame_state *>self.states
        cdef ring_queue *rings = <ring_queue *>self.rings
        if batch is None:
            raise TypeError("a batch is None")
        if batch.queues is not self or not self.outstanding:
            raise RuntimeError("not the batch that is out")
        self.outstanding = False
        for i in range(batch.count):
            states[batch.items[i].frame].done[batch.items[i].event] = 1
            rings[states[batch.items[i].frame].ring].is_touched = True
        for ring in range(self.ring_count):
            if rings[ring].is_touched:
                rings[ring].is_touched = False
                self._settle(ring)


cdef uint32_t _enqueue(
    ring_queue *queue, frame_state *state, uint32_t number, columns *col, uint64_t from_pos, uint32_t *replayed
) noexcept nogil:
    """Append a frame's events to the queue of their ring, which has room, and keep it sorted; return how many."""
    cdef const pl_header_any *headers = <const pl_header_any *>col.header
    cdef const pl_header_any *header
    cdef pending_event *items = queue.items
    cdef pending_event item
    cdef uint64_t at, last = queue.last, moves = 0, added
    cdef uint32_t counts[4]
    cdef uint32_t i, var = 0
    cdef bint sorted_now = True
    counts[0] = counts[1] = counts[2] = counts[3] = 0
    item.frame = number
    for i in range(state.count):
        header = &headers[i]
        item.time = header.time_boot_ns
        item.seq = header.ring_seq
        item.event = i
        item.var = var
        item.body = 0
        var += header.var_bytes
        if header.kind <= PL_KIND_EXIT and not header.flags & PL_FLAG_HEAD_ONLY:
            item.body = counts[header.kind]
            counts[header.kind] += 1
        if header.ring_pos < from_pos:
            state.done[i] = 1
            continue
        if item.time <= queue.skip_time:
            state.done[i] = 1
            replayed[0] += 1
            continue
        at = last
        if sorted_now:
            while at > queue.first and _later(&items[at - 1], &item):
                items[at] = items[at - 1]
                at -= 1
            moves += last - at
            # The order is far off (a broken sender): sort once instead of moving each event.
            if moves > 65536 + 16 * <uint64_t>i:
                sorted_now = False
        items[at] = item
        last += 1
    if not sorted_now:
        qsort(&items[queue.first], last - queue.first, sizeof(pending_event), &_compare)
    added = last - queue.last
    queue.last = last
    return <uint32_t>added
