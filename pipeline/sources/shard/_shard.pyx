"""The duty cycle of a shard: read acknowledgements, drain, encode, hand over. Waiting and signals are in `_pacing`.

ZeroMQ loses the messages that it holds when one of its ends is killed, so the ring serves as the queue. A shard reads
ahead of the position up to which it has released the space, and it releases only records that the resolver has reported
as applied. When the resolver finds a gap or restarts, it requests a position, and the shard reads from there again. The
resolver drops records that it has already applied, by their byte range. Lost frames therefore do no harm, and a shard
keeps no state of its own: a new shard begins at the consumer position.

The frames of all rings in one cycle leave as one message: a message costs more than a thousand small records.

A shard imports neither numpy nor the record dtypes, which saves 9 MB in each shard. It is compiled because each cycle
runs with cold caches (see the resolver's _turn.pyx).
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc

from pipeline.bus.frames._column cimport column
from pipeline.bus.frames._frame_writer cimport FrameEncoder
from pipeline.bus._push cimport FramePush
from pipeline.records._clock cimport pl_now_boot_ns
from pipeline.records._limits cimport MERGE_SLACK_NS
from pipeline.shm.layout._layout cimport PL_AUDIENCE_SUBSCRIBERS
from pipeline.sources.ring._acks cimport ControlAcks, ack
from pipeline.sources.ring._drain cimport STOP_CAUGHT_UP, STOP_CORRUPT, STOP_FULL, Columns
from pipeline.sources.ring._ring cimport Ring
from pipeline.sources.ring._shared cimport CpuStates


cdef enum:
    UNKNOWN = -1
    #: With more rings than this, a message has no frames of rings without records: each costs the resolver some 4 us.
    ATTESTED_RINGS = 16

#: Means that a ring may still hold records of any time.
NO_WATERMARK = UNKNOWN


cdef class Shard:
    """Owns rings, and is the only consumer of each.

    Attributes:
        rings: the rings, in the order of the argument.
        frames_total: frames handed over.
        blocked_total: times that a message could not be sent because the send would have blocked.
        rewinds_total: times that a ring was read again from an earlier position.
    """

    def __init__(
        self, rings, *, acks, send, CpuStates cpus not None, bytes boot_id not None, str source="ebpf",
        uint64_t frame_max_bytes=1 << 20, uint64_t capture_id=0,
    ):
        """Become the owner of open rings; `close` closes them.

        Args:
            rings: at least one ring.
            acks: reports the acknowledgements (see acks.AckReader).
            send: sends a message; returns False if it would block, and is then called again later.
            cpus: the states of the CPUs, `pl_shared`.
            boot_id, source, capture_id: written into the frames.
            frame_max_bytes: limit in bytes for the records of a frame; a message is complete when its frames reach it.
        """
        cdef Ring ring
        self.rings = list(rings)
        for ring in self.rings:
            if ring is None:
                raise TypeError("a ring is None")
        self._acks, self._send, self._cpus = acks, send, cpus
        self._control = acks if isinstance(acks, ControlAcks) else None
        self._push = send if isinstance(send, FramePush) else None
        self._encoder = FrameEncoder(boot_id=boot_id, source=source, capture_id=capture_id)
        self._columns = Columns(frame_max_bytes)
        self._max_bytes = frame_max_bytes
        # The previous shard may have been killed while it slept, and its request for a wake-up may still be set.
        self.wake_up()

    def __dealloc__(self):
        free(self._parts)

    @property
    def is_blocked(self) -> bool:
        """Whether a message is waiting to be sent."""
        return self.is_blocking()

    cdef bint is_blocking(self) noexcept:
        return self._is_waiting

    @property
    def is_caught_up(self) -> bool:
        """Whether the last cycle left nothing: no waiting frame, and no record that is readable or being written."""
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
        """Whether every record that was read has been applied and its space released."""
        return self.has_applied()

    cdef bint has_applied(self) noexcept:
        cdef Ring ring
        for ring in self.rings:
            if ring.consumer_pos != ring.cursor:
                return False
        return True

    cdef uint32_t audience(self) noexcept:
        """Return which programs wait for events, AUDIENCE_*."""
        return self._control.audience() if self._control is not None else PL_AUDIENCE_SUBSCRIBERS

    cdef uint32_t gather_us(self) noexcept:
        """Return for how long events may gather with readers; 0: not measured."""
        return self._control.gather_us() if self._control is not None else 0

    cdef bint has_unread(self) except -1:
        """Whether a ring has a record that was not read yet."""
        cdef Ring ring
        for ring in self.rings:
            if ring.is_behind():
                return True
        return False

    cdef bint has_seen_faults(self) noexcept:
        """Whether a ring has had invalid content or an impossible acknowledgement; its counters contain the details."""
        cdef Ring ring
        for ring in self.rings:
            if ring.malformed_total or ring.refused_total:
                return True
        return False

    def do_work(self, int64_t budget) -> int:
        """Do bounded work: release applied records, and hand over at most about `budget` records.

        Returns:
            The number of records read, including the discarded and the malformed ones.
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
        # Start with another ring each time: with a busy first ring and a slow receiver, the last ring would starve.
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
        if 0 < self._part_count < n <= ATTESTED_RINGS and work < budget:
            work += self._attest(budget - work)
        self._hand_over()
        return work

    cdef int64_t _attest(self, int64_t max_records) except -1:
        """Add a frame for each ring that has none in this message; returns the number of records read.

        The resolver can only order the events of a message up to the time that every ring is known to be read. Without
        a frame it learns that of a ring when it finds nothing unread there. If a record arrives at the wrong moment, it
        would wait for that record, and thus for as long as events gather.
        """
        cdef Py_ssize_t i, place, covered = self._part_count
        cdef int64_t work = 0
        cdef bint is_covered
        for place in range(len(self.rings)):
            is_covered = False
            for i in range(covered):
                if self._parts[i].ring == place:
                    is_covered = True
                    break
            if not is_covered:
                self._is_attesting = True
                try:
                    work += self._gather(place, max_records)
                finally:
                    self._is_attesting = False
        return work

    cdef bint _read_ack(self, Ring ring, ack *answer) except -1:
        """Read the ring's acknowledgement; return whether there is one."""
        if self._control is not None:
            return self._control.read(ring.number, answer)
        found = self._acks.ring(ring.number)
        if found is None:
            return False
        answer.applied_pos, answer.wanted_pos, rewind_id = found
        answer.file, answer.rewind_seq = rewind_id >> 64, rewind_id & <uint64_t>-1
        return True

    cdef int _acknowledge(self, Ring ring) except -1:
        cdef ack answer
        cdef Py_ssize_t i
        cdef uint64_t wanted_pos, before
        cdef bint is_first = not ring.is_acknowledged
        if not self._read_ack(ring, &answer):
            return 0
        ring.release(answer.applied_pos)
        if not is_first and answer.file == ring.ack_file and answer.rewind_seq == ring.ack_seq:
            return 0
        ring.is_acknowledged, ring.ack_file, ring.ack_seq = True, answer.file, answer.rewind_seq
        wanted_pos = answer.wanted_pos
        if is_first:
            # The resolver that requested this may have started after frames were handed over, so read those again.
            # Never skip forward: the request may come from a resolver that has died since.
            wanted_pos = min(wanted_pos, ring.cursor)
        before = ring.cursor
        if not ring.rewind(wanted_pos) or ring.cursor == before:
            return 0
        self.rewinds_total += 1
        if self._is_waiting:
            for i in range(self._part_count):
                if self.rings[self._parts[i].ring] is ring:
                    self._discard_message()
                    break
        return 0

    cdef int _discard_message(self) except -1:
        """Discard the waiting message: after a gap the resolver would only drop it. Its rings are read again."""
        cdef Ring ring
        cdef Py_ssize_t i
        for i in range(self._part_count):
            ring = <Ring>self.rings[self._parts[i].ring]
            if ring.cursor > self._parts[i].from_pos:
                ring.rewind(self._parts[i].from_pos)
        self._empty()
        return 0

    cdef int64_t _gather(self, Py_ssize_t place, int64_t max_records) except -1:
        """Make one frame of a ring's next records, if there are any; returns the number of records read."""
        cdef Ring ring = <Ring>self.rings[place]
        cdef int64_t watermark
        cdef uint64_t from_pos = ring.cursor
        cdef column[6] columns
        # Read the clock before the producer position; the resolver's merge explains why this makes a valid watermark.
        cdef uint64_t clock_ns = pl_now_boot_ns()
        cdef int64_t read = ring.read(self._columns, max_records)
        if (
            not ring.has_new_losses(self._cpus) and ring.cursor == from_pos
            and not self._is_attesting and not self._has_news(ring)
        ):
            return read
        watermark = self._watermark(ring, clock_ns)
        self._columns.parts(columns)
        self._encoder.put(
            ring.number, self.frames_total + self._part_count, from_pos, ring.cursor, self._columns.count,
            ring.lost_packed, columns, ring.malformed_total, watermark != UNKNOWN, watermark,
        )
        self._note(place, from_pos)
        self._part_bytes += ring.cursor - from_pos
        return read

    cdef int _note(self, Py_ssize_t place, uint64_t from_pos) except -1:
        """Record that the encoder now contains a frame of this ring, which starts at `from_pos`."""
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
        """Whether to send a frame although no ring had records. Never the case for the kernel's rings."""
        return False

    cpdef int64_t _watermark(self, Ring ring, uint64_t clock_ns) except? -2:
        """Return the time before which a ring drained after `clock_ns` gets no more records, or NO_WATERMARK."""
        return <int64_t>(clock_ns - MERGE_SLACK_NS) if ring.stop == STOP_CAUGHT_UP else UNKNOWN

    cdef bint _hand_over(self) except -1:
        """Make one message of the gathered frames and try to send it; returns whether nothing is left."""
        self._is_waiting = self._part_count > 0
        return self._flush()

    cdef bint _flush(self) except -1:
        """Try to send the waiting message; returns whether no message is left."""
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
        """Clear the encoder and its list of frames for the next message."""
        self._is_waiting = False
        self._part_count = 0
        self._part_bytes = self._encoder.used = 0

    cpdef bint may_sleep(self) except -1:
        """Request a wake-up by the next record.

        Returns:
            Whether the shard may sleep. If not, a record that may have missed the request has arrived: work again.
        """
        cdef Ring ring
        for ring in self.rings:
            self._cpus.set_sleeping(ring.number, True)
        # set_sleeping executed a fence: a record that missed the request is visible now (see set_sleeping).
        if self.has_unread():
            self.wake_up()
            return False
        return True

    cpdef wake_up(self):
        """Clear the request for a wake-up: from now on the shard reads its rings by itself."""
        cdef Ring ring
        for ring in self.rings:
            self._cpus.set_sleeping(ring.number, False)

    def close(self) -> None:
        """Unmap the rings. Records that were read but not applied stay in the rings for the next shard."""
        cdef Ring ring
        self.wake_up()
        for ring in self.rings:
            ring.close()
