"""One turn of the resolver: frames in, batches applied, told, committed. What else a duty cycle does is in loop.py.

Compiled, and without a Python object for what did not happen, because a turn finds cold caches: the host's processes have
had them since the last one. In a storm a turn applies two hundred events and had spent half of its time on fifty lines of
Python that cost a few microseconds when they are run in a loop.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp

from pipeline.bus.context_events import CONTEXT_MARK
from pipeline.errors import FrameError

from pipeline.bpf._positions cimport ProducerPositions
from pipeline.bus.frames._frame cimport Frame, decode_all
from pipeline.resolver.apply._applier cimport Applier
from pipeline.secrets._conceal cimport Sieve
from pipeline.resolver.stream._encoder cimport Encoder
from pipeline.resolver.merge._queues cimport Batch
from pipeline.resolver.merge._merger cimport Merger
from pipeline.resolver.daemon._waiting cimport FrameSocket, Waiter
from pipeline.shm.writer._control cimport boot_ns
from pipeline.shm.layout._layout cimport PL_C_FRAMES, PL_C_FRAMES_REFUSED, PL_C_REWINDS
from pipeline.shm.writer._writer cimport TableWriter

cdef enum:
    #: Frames taken from the socket before the tables are brought up to date.
    FRAMES_PER_TURN = 32
    #: The same of what ended a sleep: it is there to be seen, and that nothing is behind it is asked for afterwards.
    FRAMES_AT_FIRST = 1

cdef bytes _CONTEXT_MARK = CONTEXT_MARK

#: Less than this is not worth a sleep of its own.
cdef double WAIT_LEAST_MS = 0.01

#: A frame is on its way, and its arrival ends the sleep.
cdef double _WAIT_FRAMES_MS = 10
WAIT_FRAMES_MS = _WAIT_FRAMES_MS

#: Without a frame for so long, nothing is under way.
cdef double LULL_MS = 2

cdef enum:
    #: Sleeps for the merge's slack, which see no question, before questions are asked for.
    BLIND_SLEEPS = 8


cdef class FrameReader:
    """Messages of the frames' socket -> frames of this boot, with what is to be hidden hidden.

    Args:
        boot_id: 16 bytes; frames of another boot are refused.
        ring_count: frames of rings beyond are refused.
        sieve: what is to be hidden in a frame is hidden by it.
        translate: a message -> the message to read (see keyed_frames.py), or None.

    Attributes:
        take_context: takes a message of context events; None: there are none, and it is refused as a frame.
    """

    cdef bytes boot_id
    cdef uint32_t ring_count
    cdef Sieve sieve
    cdef object translate
    cdef public object take_context

    def __init__(self, bytes boot_id not None, uint32_t ring_count, Sieve sieve not None, translate=None):
        if len(boot_id) != 16:
            raise ValueError(f"a boot id has 16 bytes, not {len(boot_id)}")
        self.boot_id, self.ring_count, self.sieve, self.translate = boot_id, ring_count, sieve, translate

    cpdef list read(self, object message):
        """Return the frames of a message; none of one with context events, which is taken instead.

        Raises:
            FrameError: it is refused, all of it.
        """
        cdef Frame frame
        cdef list frames
        cdef uint32_t i
        if self.take_context is not None and self._is_context(message):
            self.take_context(message)
            return []
        frames = decode_all(message if self.translate is None else self.translate(message))
        for i in range(<uint32_t>len(frames)):
            frame = <Frame>frames[i]
            if memcmp(frame.boot, <const char *>self.boot_id, 16) != 0:
                raise FrameError("a frame of another boot", peer=frame.source, reason="boot")
            if frame.ring >= self.ring_count:
                raise FrameError(f"there is no ring {frame.ring}", peer=frame.source, reason="ring")
            frames[i] = self.sieve.frame(frame)
        return frames

    cdef bint _is_context(self, object message) except -1:
        cdef Py_buffer buffer
        cdef Py_ssize_t n = len(_CONTEXT_MARK)
        PyObject_GetBuffer(message, &buffer, PyBUF_SIMPLE)
        cdef bint is_one = buffer.len > n and memcmp(<char *>buffer.buf + 1, <const char *>_CONTEXT_MARK, n) == 0
        PyBuffer_Release(&buffer)
        return is_one


cdef class Turn:
    """The stages that a turn goes through, and the order of its steps, which loop.py gives the reasons for.

    Args:
        tables: held by this process.
        merger, applier, encoder: `applier` writes `tables` and calls `encoder`.
        frames: where messages come from.
        reader: what becomes of them.
        positions: of the kernel's rings; None where senders say up to when they are complete.
        batch_events: applied between two commits.
        evicts: with each batch as many images that have ended go as it has events, where their retention is over.
        publish: messages of the encoder -> subscribers.
        refused: called with each FrameError.
        look_closer: called when a batch has left something that only Python knows how to complete.

    Attributes:
        ended_boot_ns: when the last turn ended.
        heartbeat_boot_ns: the last sign of life that Python, or a rest, has given; turns give theirs besides.
        is_idle: nothing came for as long as the last `follow` was to wait.
        is_calm: nothing came at the end of the last `follow`, though perhaps for LULL_MS only.
        is_wanted: what ended the last `follow` is on the stream's socket.
    """

    cdef TableWriter tables
    cdef Merger merger
    cdef Applier applier
    cdef Encoder encoder
    cdef FrameSocket frames
    cdef FrameReader reader
    cdef ProducerPositions positions
    cdef uint32_t batch_events
    cdef bint evicts
    cdef object publish, refused, look_closer
    cdef uint64_t *producer  # by ring
    cdef bint has_called  # Python may have more to do than it had before this turn
    cdef readonly uint64_t ended_boot_ns, heartbeat_boot_ns
    cdef readonly bint is_idle, is_calm, is_wanted

    def __init__(
        self, *, TableWriter tables not None, Merger merger not None, Applier applier not None,
        Encoder encoder not None, FrameSocket frames not None, FrameReader reader not None,
        ProducerPositions positions, uint32_t batch_events, bint evicts, publish, refused, look_closer,
    ):
        if positions is None and not merger.timed_by_sender:
            raise ValueError("without positions, senders must say up to when they are complete")
        if positions is not None and <uint32_t>positions.ring_count != merger.ring_count:
            raise ValueError(f"positions of {positions.ring_count} rings, not of {merger.ring_count}")
        self.tables, self.merger, self.applier, self.encoder = tables, merger, applier, encoder
        self.frames, self.reader, self.positions, self.batch_events = frames, reader, positions, batch_events
        self.evicts = evicts
        self.publish, self.refused, self.look_closer = publish, refused, look_closer
        self.producer = <uint64_t *>calloc(merger.ring_count, sizeof(uint64_t))
        if self.producer == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.producer)

    def run(self) -> int:
        """Take what frames there are, bounded, and bring the tables up to date; returns frames and events together."""
        cdef int work = self._take_frames(FRAMES_PER_TURN)
        work += self._bring_up_to_date()
        self.ended_boot_ns = boot_ns()
        return work

    def follow(
        self, Waiter waiter not None, double idle_ms, double gather_ms, uint64_t due_ns, uint64_t latest_ns,
        uint64_t rest_until_boot_ns,
    ) -> int:
        """Sleep and take turns, for as long as frames are all that comes; returns frames and events together.

        Args:
            waiter: on the socket of the frames, among others.
            idle_ms: the longest sleep while the merger holds nothing back; behind it comes a sign of life.
            gather_ms: pause before a frame that was waited for is taken, for those that are right behind it.
            due_ns: so long behind a sign of life Python has something to do. It waits for a lull: where somebody looks for
                a process that he has just seen, and ends it, what the host does with its caches next is his.
            latest_ns: so long behind it Python has that to do in any case. It waits until what has begun is applied: of an
                event on an idle host that is all but the first turn.
            rest_until_boot_ns: while nothing comes, signs of life are given here, and Python has nothing to do before this.
                An idle host's caches are cold, so that each line of Python costs tens of times what it does under load.
        """
        cdef double ms
        cdef uint64_t now
        cdef int work = 0, blind = 0
        cdef bint is_due
        self.is_idle = self.is_calm = self.is_wanted = False
        while True:
            ms = self._wait_ms()
            is_due = self.ended_boot_ns >= self.heartbeat_boot_ns + due_ns
            self.is_wanted = waiter.wait(ms if ms >= 0 else LULL_MS if is_due else idle_ms)
            if ms < 0 and waiter.slept_through:
                now = boot_ns()
                if work == 0 and not is_due and now < rest_until_boot_ns:
                    self.rest(now)
                    continue
                self.is_calm, self.is_idle = True, not is_due
                return work
            if ms == _WAIT_FRAMES_MS and gather_ms > 0 and not self.is_wanted:
                waiter.pause(gather_ms)
            self.has_called = False
            # Of several senders all are waited for in any case.
            work += self._take_frames(FRAMES_AT_FIRST if waiter.has_slept and gather_ms == 0 else FRAMES_PER_TURN)
            work += self._bring_up_to_date()
            self.ended_boot_ns = boot_ns()
            self.tables.heartbeat(self.ended_boot_ns)
            blind += waiter.may_be_asked
            if waiter.is_asked or waiter.is_interrupted or blind >= BLIND_SLEEPS:
                return work
            if self.has_called or self.is_wanted or self._wants_names() or (
                self.ended_boot_ns >= self.heartbeat_boot_ns + latest_ns
            ):
                ms = self._wait_ms()
                if ms < 0 or ms == _WAIT_FRAMES_MS:
                    return work

    cpdef int rest(self, uint64_t now_boot_ns) except -1:
        """A turn in which nothing came: the watermark follows the clock, and a sign of life is given."""
        self._bring_up_to_date()
        self.beat(now_boot_ns)
        return self._commit()

    cpdef int beat(self, uint64_t now_boot_ns) except -1:
        """Give a sign of life."""
        self.heartbeat_boot_ns = now_boot_ns
        self.tables.heartbeat(now_boot_ns)
        return 0

    def commit(self) -> None:
        """Make what was applied so far the point that a successor goes on from, then let the shards release it."""
        self._commit()

    @property
    def wants_names(self) -> bool:
        """Whether the encoder met somebody whose name it does not know."""
        return self._wants_names()

    cdef bint _wants_names(self) except -1:
        return self.encoder.names is not None and self.encoder.names.wants()

    def wait_ms(self) -> float:
        """How long to sleep for what the merger holds back, if no message comes; negative: it holds nothing back."""
        return self._wait_ms()

    cdef double _wait_ms(self) except? -2.0:
        if self.merger._sorter.pending == 0:
            return -1.0
        # Everything that the rings hold is here, so only the slack keeps events back; otherwise frames do.
        if self.merger.timed_by_sender or self.merger.lags():
            return _WAIT_FRAMES_MS
        return max(WAIT_LEAST_MS, <double><int64_t>(self.merger.due() - boot_ns()) / 1e6)

    cdef int _take_frames(self, int limit) except -1:
        cdef int taken = 0, messages = 0
        cdef Frame frame
        cdef list frames
        while taken < limit and messages < limit:  # a message may hold several frames, or none
            message = self.frames.receive()
            if message is None:
                break
            messages += 1
            try:
                frames = self.reader.read(message)
            except FrameError as error:
                self.has_called = True
                taken += 1
                self.tables.counters[PL_C_FRAMES_REFUSED] += 1
                self.refused(error)
                continue
            if not frames:
                self.has_called = True  # context events
            taken += <int>len(frames)
            for frame in frames:
                self.merger.add(frame)
        if taken:
            self.tables.counters[PL_C_FRAMES] += taken
            if self.merger._rewinds:
                for ring, position in self.merger.take_rewinds():
                    self.tables.counters[PL_C_REWINDS] += 1
                    self.tables.request_rewind(ring, position)
        return taken

    cdef int _bring_up_to_date(self) except -1:
        cdef int applied = 0
        cdef Batch batch
        cdef uint64_t now = boot_ns() if self.positions is None else self.positions.read(self.producer)
        self.merger.take_note(now, self.producer)
        while True:
            batch = self.merger.take(self.batch_events)
            if batch is None:
                return applied
            with nogil:
                self.applier.apply_batch(batch)
            applied += batch.count
            if self.applier.followups.is_any() or self.applier.heirs_count:
                self.has_called = True
                self.look_closer()
            if self.encoder.has_messages():
                self.publish(self.encoder.take())
            self.merger.done(batch)
            self._commit()
            self.tables.show_life()  # what had waited for a ring that stalled may be a hundred batches
            if self.evicts:
                # So much at a time, and no more: a storm leaves as fast as it came. Not before the commit: a successor
                # applies what is not committed once more, and needs the rows that it was applied to.
                self.tables.evict(now, batch.count)

    cdef int _commit(self) except -1:
        return self.merger.commit_to(self.tables, self.encoder.numbers())
