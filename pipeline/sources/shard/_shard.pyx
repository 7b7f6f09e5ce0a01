"""The duty cycle of a shard: acknowledge, drain, encode, hand over. Waiting and signals are in `_pacing`.

ZeroMQ loses what it holds when one of its ends is killed, so the ring is the queue. A shard reads ahead of what it has
given back, and gives back only what the resolver says it has applied. When the resolver finds a hole or starts anew it
asks for a position, and the shard reads from there again; the resolver drops what it has seen by byte range. So it does
not matter which frames were lost, and a shard has nothing to remember: a new one begins at the consumer position.

What all rings have at one time goes out as one message: a message costs more than a thousand small records.

A shard imports neither numpy nor the record dtypes, which makes each 9 MB smaller. Compiled because a cycle finds cold
caches (see the resolver's _turn.pyx).
"""

from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport free, realloc

from pipeline.bus.frames._column cimport column
from pipeline.bus.frames._frame_writer cimport FrameEncoder
from pipeline.bus._push cimport FramePush
from pipeline.records._limits cimport MERGE_SLACK_NS
from pipeline.sources.ring._acks cimport ControlAcks, ack
from pipeline.sources.ring._drain cimport STOP_CAUGHT_UP, STOP_CORRUPT, STOP_FULL, Columns
from pipeline.sources.ring._ring cimport Ring
from pipeline.sources.ring._shared cimport CpuStates


cdef extern from "reader.h" nogil:
    uint64_t pl_now_boot_ns()

cdef enum:
    UNKNOWN = -1

#: That a ring may hold more of any time.
NO_WATERMARK = UNKNOWN


cdef class Shard:
    """Owns rings: the one consumer of each.

    Attributes:
        rings: in the order in which they were given.
        frames_total: frames handed over.
        blocked_total: times that the resolver's side took no frame.
        rewinds_total: times that a ring was read again.
    """

    def __init__(
        self, rings, *, acks, send, CpuStates cpus not None, bytes boot_id not None, str source="ebpf",
        uint64_t frame_max_bytes=1 << 20,
    ):
        """Take over the rings.

        Args:
            rings: at least one.
            acks: what is applied (see acks.AckSource).
            send: hands a frame on; False if it would block, then the frame is offered again later.
            cpus: `pl_shared`.
            boot_id, source: of the frames.
            frame_max_bytes: a frame is closed when it holds so many bytes of records, and a message when its frames do.
        """
        cdef Ring ring
        self.rings = list(rings)
        for ring in self.rings:
            if ring is None:
                raise TypeError("a ring is None")
        self._acks, self._send, self._cpus = acks, send, cpus
        self._control = acks if isinstance(acks, ControlAcks) else None
        self._push = send if isinstance(send, FramePush) else None
        self._encoder = FrameEncoder(boot_id=boot_id, source=source)
        self._columns = Columns(frame_max_bytes)
        self._max_bytes = frame_max_bytes
        # The shard before may have been killed in its sleep.
        self.wake_up()

    def __dealloc__(self):
        free(self._parts)

    @property
    def is_blocked(self) -> bool:
        """Whether a message waits to be taken."""
        return self.is_blocking()

    cdef bint is_blocking(self) noexcept:
        return self._is_waiting

    @property
    def is_caught_up(self) -> bool:
        """Whether the last cycle left nothing: no frame, and no record that could be read or is being written."""
        return self.has_caught_up()

    cdef bint has_caught_up(self) noexcept:
        cdef Ring ring
        if self._is_waiting:
            return False
        for ring in self.rings:
            if ring.stop != STOP_CAUGHT_UP:
                return False
        return True

    @property
    def is_applied(self) -> bool:
        """Whether everything that was read has been given back."""
        return self.has_applied()

    cdef bint has_applied(self) noexcept:
        cdef Ring ring
        for ring in self.rings:
            if ring.consumer_pos != ring.cursor:
                return False
        return True

    @property
    def has_faults(self) -> bool:
        """Whether a ring has held what it should not, or was told what cannot be: its counters say what."""
        return self.has_seen_faults()

    cdef bint has_seen_faults(self) noexcept:
        cdef Ring ring
        for ring in self.rings:
            if ring.malformed_total or ring.refused_total:
                return True
        return False

    def poll(self, int64_t budget) -> int:
        """Do bounded work: give back what is applied, and hand over at most about `budget` records.

        Returns:
            Records read, the discarded and malformed included.
        """
        return self.cycle(budget)

    cdef int64_t cycle(self, int64_t budget) except -1:
        cdef int64_t work = self._work(budget)
        if self._control is not None:
            self._control.check(work > 0)
        return work

    cdef int64_t _work(self, int64_t budget) except -1:
        cdef Py_ssize_t i, place, n = len(self.rings)
        cdef int64_t work = 0
        cdef Ring ring
        if self._control is not None:
            self._control.follow()
        else:
            self._acks.refresh()
        for ring in self.rings:
            self._acknowledge(ring)
        if not self._flush():
            return 0
        # Not always the same ring first: with a busy first ring and a slow receiver the last one would starve.
        self._first = (self._first + 1) % n
        for i in range(n):
            place = (self._first + i) % n
            ring = <Ring>self.rings[place]
            while work < budget:
                work += self._gather(place, budget - work)
                if self._part_bytes >= self._max_bytes and not self._hand_over():
                    return work
                if ring.stop != STOP_FULL and ring.stop != STOP_CORRUPT:
                    break
        self._hand_over()
        return work

    cdef bint _is_told(self, Ring ring, ack *answer) except -1:
        """Ask what is applied of the ring; returns whether anybody says something."""
        if self._control is not None:
            return self._control.look(ring.number, answer)
        found = self._acks.ring(ring.number)
        if found is None:
            return False
        answer.applied_pos, answer.wanted_pos, mark = found
        answer.file, answer.rewind_seq = mark >> 64, mark & <uint64_t>-1
        return True

    cdef int _acknowledge(self, Ring ring) except -1:
        cdef ack answer
        cdef Py_ssize_t i
        cdef uint64_t wanted_pos, before
        cdef bint is_first = not ring.is_acknowledged
        if not self._is_told(ring, &answer):
            return 0
        ring.release(answer.applied_pos)
        if not is_first and answer.file == ring.ack_file and answer.rewind_seq == ring.ack_seq:
            return 0
        ring.is_acknowledged, ring.ack_file, ring.ack_seq = True, answer.file, answer.rewind_seq
        wanted_pos = answer.wanted_pos
        if is_first:
            # Whoever wrote this may have come after frames were handed over: read those again. Nothing is skipped: the
            # position may have been asked for by a resolver that is dead by now.
            wanted_pos = min(wanted_pos, ring.cursor)
        before = ring.cursor
        if not ring.rewind(wanted_pos) or ring.cursor == before:
            return 0
        self.rewinds_total += 1
        if self._is_waiting:
            for i in range(self._part_count):
                if self.rings[self._parts[i].ring] is ring:
                    self._take_back()
                    break
        return 0

    cdef int _take_back(self) except -1:
        """Give up the message that waits: behind a hole it would only be dropped. Its rings are read again."""
        cdef Ring ring
        cdef Py_ssize_t i
        for i in range(self._part_count):
            ring = <Ring>self.rings[self._parts[i].ring]
            if ring.cursor > self._parts[i].from_pos:
                ring.rewind(self._parts[i].from_pos)
        self._empty()
        return 0

    cdef int64_t _gather(self, Py_ssize_t place, int64_t max_records) except -1:
        """Make one frame of what comes next in a ring, if there is anything; returns the records read."""
        cdef Ring ring = <Ring>self.rings[place]
        cdef int64_t watermark
        cdef uint64_t from_pos = ring.cursor
        cdef column[6] columns
        # Before the producer position is read: see the resolver's merge for why this makes a watermark.
        cdef uint64_t looked_ns = pl_now_boot_ns()
        cdef int64_t read = ring.read(self._columns, max_records)
        if not ring.has_new_losses(self._cpus) and ring.cursor == from_pos and not self._has_news(ring):
            return read
        watermark = self._watermark(ring, looked_ns)
        self._columns.parts(columns)
        self._encoder.put(
            ring.number, self.frames_total + self._part_count, from_pos, ring.cursor, self._columns.count,
            ring.lost_packed, columns, ring.malformed_total, watermark != UNKNOWN, watermark,
        )
        self._note(place, from_pos)
        self._part_bytes += ring.cursor - from_pos
        return read

    cdef int _note(self, Py_ssize_t place, uint64_t from_pos) except -1:
        """A frame of a ring was put into the encoder."""
        cdef Py_ssize_t room
        cdef void *parts
        if self._part_count == self._part_room:
            room = 2 * self._part_room + 8
            parts = realloc(self._parts, room * sizeof(part))
            if parts == NULL:
                raise MemoryError
            self._parts, self._part_room = <part *>parts, room
        self._parts[self._part_count].ring, self._parts[self._part_count].from_pos = place, from_pos
        self._part_count += 1
        return 0

    cpdef bint _has_news(self, Ring ring) except -1:
        """Whether a frame is to be sent although the ring gave nothing. The kernel's rings speak for themselves."""
        return False

    cpdef int64_t _watermark(self, Ring ring, uint64_t looked_ns) except? -2:
        """Return the time before which nothing more comes in a ring that was drained after `looked_ns`, or NO_WATERMARK."""
        return <int64_t>(looked_ns - MERGE_SLACK_NS) if ring.stop == STOP_CAUGHT_UP else UNKNOWN

    cdef bint _hand_over(self) except -1:
        """Make one message of the frames that were gathered, and offer it; returns whether nothing is left."""
        self._is_waiting = self._part_count > 0
        return self._flush()

    cdef bint _flush(self) except -1:
        """Offer the message that waits; returns whether none is left."""
        cdef Py_ssize_t frames = self._part_count
        if not self._is_waiting:
            return True
        if not (
            self._push.offer(self._encoder.data, self._encoder.used) if self._push is not None
            else self._send(self._encoder.data[:self._encoder.used])
        ):
            self.blocked_total += 1
            return False
        self._empty()
        self.frames_total += frames
        return True

    cdef void _empty(self) noexcept:
        """Begin another message."""
        self._is_waiting = False
        self._part_count = 0
        self._part_bytes = self._encoder.used = 0

    def fall_asleep(self) -> bool:
        """Ask the kernel's side to wake this shard with the next record.

        Returns:
            Whether it may sleep. If not, a record came in between and has perhaps not seen the request: poll again.
        """
        return self.may_sleep()

    cdef bint may_sleep(self) except -1:
        cdef Ring ring
        for ring in self.rings:
            self._cpus.set_sleeping(ring.number, True)
        # set_sleeping fenced: a record that did not see the request is visible now (see there).
        for ring in self.rings:
            if ring.is_behind():
                self.wake_up()
                return False
        return True

    cpdef wake_up(self):
        """Take the request back: from now on this side looks by itself."""
        cdef Ring ring
        for ring in self.rings:
            self._cpus.set_sleeping(ring.number, False)

    def close(self) -> None:
        """Unmap the rings. What was read and is not applied stays in them for the next shard."""
        cdef Ring ring
        self.wake_up()
        for ring in self.rings:
            ring.close()
