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

from pipeline.bus._column cimport column
from pipeline.bus._frame_writer cimport FrameEncoder
from pipeline.bus._push cimport FramePush
from pipeline.sources._acks cimport ControlAcks, ack
from pipeline.sources._drain cimport STOP_CAUGHT_UP, STOP_CORRUPT, STOP_FULL, Columns
from pipeline.sources._ring cimport Ring
from pipeline.sources._shared cimport CpuStates


cdef extern from "reader.h" nogil:
    uint64_t pl_now_boot_ns()

cdef enum:
    #: The clock of the BPF programs is the kernel's fast one and may be behind by so much.
    SLACK_NS = 100_000


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
        self._gathered = []
        # The shard before may have been killed in its sleep.
        self.wake_up()

    @property
    def is_blocked(self) -> bool:
        """Whether a message waits to be taken."""
        return self.is_blocking()

    cdef bint is_blocking(self) noexcept:
        return self._message is not None

    @property
    def is_caught_up(self) -> bool:
        """Whether the last cycle left nothing: no frame, and no record that could be read or is being written."""
        return self.has_caught_up()

    cdef bint has_caught_up(self) noexcept:
        cdef Ring ring
        if self._message is not None:
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
        cdef Py_ssize_t i, n = len(self.rings)
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
            ring = <Ring>self.rings[(self._first + i) % n]
            while work < budget:
                work += self._gather(ring, budget - work)
                if self._gathered_bytes >= self._max_bytes and not self._hand_over():
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
        cdef Ring one
        cdef ack answer
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
        if self._message is not None:
            for one, _ in self._waiting:
                if one is ring:
                    self._take_back()
                    break
        return 0

    cdef int _take_back(self) except -1:
        """Give up the message that waits: behind a hole it would only be dropped. Its rings are read again."""
        cdef Ring ring
        cdef uint64_t from_pos
        self._message = None
        for ring, from_pos in self._waiting:
            if ring.cursor > from_pos:
                ring.rewind(from_pos)
        return 0

    cdef int64_t _gather(self, Ring ring, int64_t max_records) except -1:
        """Make one frame of what comes next in the ring, if there is anything; returns the records read."""
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
            ring.number, self.frames_total + len(self._gathered), from_pos, ring.cursor, self._columns.count, ring.lost,
            columns, ring.malformed_total, watermark is not None, 0 if watermark is None else watermark,
        )
        self._gathered.append((ring, from_pos))
        self._gathered_bytes += ring.cursor - from_pos
        return read

    cpdef bint _has_news(self, Ring ring) except -1:
        """Whether a frame is to be sent although the ring gave nothing. The kernel's rings speak for themselves."""
        return False

    cpdef object _watermark(self, Ring ring, uint64_t looked_ns):
        """Return the time before which nothing more comes in a ring that was drained after `looked_ns`, or None."""
        return looked_ns - SLACK_NS if ring.stop == STOP_CAUGHT_UP else None

    cdef bint _hand_over(self) except -1:
        """Make one message of the frames that were gathered, and offer it; returns whether nothing is left."""
        if self._gathered:
            self._message, self._waiting = self._encoder.take(), self._gathered
            self._gathered = []
            self._gathered_bytes = 0
        return self._flush()

    cdef bint _flush(self) except -1:
        """Offer the message that waits; returns whether none is left."""
        if self._message is None:
            return True
        if not (self._push.offer(self._message) if self._push is not None else self._send(self._message)):
            self.blocked_total += 1
            return False
        self.frames_total += len(self._waiting)
        self._message = None
        return True

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
            if ring.has_more:
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
