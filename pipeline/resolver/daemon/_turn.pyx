"""One turn of the resolver: receive frames, apply batches, publish, commit. The rest of the cycle is in duty_cycle.py.

A turn starts with cold caches, because the host's processes have used the CPU since the last one. The module is
therefore compiled, and creates no Python objects for work that is not needed. In a storm, a turn applies two hundred
events, and fifty lines of Python, which cost a few microseconds in a loop, took half of the turn's time.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp

from pipeline.bus.context_events import CONTEXT_MAGIC
from pipeline.errors import FrameError

from pipeline.bpf._positions cimport ProducerPositions
from pipeline.bus.frames._frame cimport Frame, decode_all
from pipeline.records._clock cimport pl_now_boot_ns
from pipeline.resolver.apply._applier cimport Applier
from pipeline.secrets._conceal cimport Sieve
from pipeline.resolver.stream._encoder cimport Encoder
from pipeline.resolver.merge._queues cimport Batch
from pipeline.resolver.merge._merger cimport Merger
from pipeline.resolver.daemon._gathering cimport Gathering
from pipeline.resolver.daemon._losses cimport SharedCounters
from pipeline.resolver.daemon._waiting cimport FrameSocket, TurnWaiter
from pipeline.shm.layout._layout cimport (
    PL_AUDIENCE_READERS, PL_C_FRAMES, PL_C_FRAMES_REFUSED, PL_C_REWINDS,
)
from pipeline.shm.writer._writer cimport TableWriter

cdef enum:
    #: Maximum number of frames received from the socket before the tables are updated.
    FRAMES_PER_TURN = 32
    #: The same after a sleep: the frame that ended it is applied first, and the next one is received afterwards.
    FRAMES_AT_FIRST = 1

cdef bytes _CONTEXT_MAGIC = CONTEXT_MAGIC

#: Shorter sleeps are not worthwhile.
cdef double WAIT_LEAST_MS = 0.01

#: Longest sleep while a frame is on its way; its arrival ends the sleep.
cdef double WAIT_FRAMES_MS = 50

#: After this time without a frame, no frame is expected.
cdef double LULL_MS = 2

cdef enum:
    #: The kernel's counters of lost records are compared this often. That takes a microsecond, while the housekeeping
    #: that handles a loss is seconds apart on an idle host.
    LOSS_CHECK_NS = 250_000_000

cdef enum:
    #: A turn with at least this many events is part of a storm. The age of its events does not change how long events
    #: gather: turns compete with the storm for the CPUs, and more turns would only cost more CPU time.
    STORM_EVENTS = 128

cdef enum:
    #: Sleeps for the merge's slack, which questions do not end, before the question socket is read.
    BLIND_SLEEPS = 8


cdef class FrameReader:
    """Decodes messages from the frame socket into frames of this boot and capture, and hides secrets in them.

    Args:
        boot_id: 16 bytes; frames of another boot are rejected.
        ring_count: frames with a higher ring number are rejected.
        sieve: hides secrets in a frame.
        translate: maps a message to the message to read (see keyed_frames.py); None: messages are read as they are.
        receive_context: receives messages of context events; None: they are rejected as frames.
        capture_id: frames that name another capture are rejected; 0: each is accepted.
    """

    cdef bytes boot_id
    cdef uint64_t capture_id
    cdef uint32_t ring_count
    cdef Sieve sieve
    cdef object translate, receive_context

    def __init__(
        self, bytes boot_id not None, uint32_t ring_count, Sieve sieve not None, translate=None, receive_context=None,
        *, uint64_t capture_id=0,
    ):
        if len(boot_id) != 16:
            raise ValueError(f"a boot id has 16 bytes, not {len(boot_id)}")
        self.boot_id, self.ring_count, self.sieve = boot_id, ring_count, sieve
        self.translate, self.receive_context = translate, receive_context
        self.capture_id = capture_id

    cpdef list read(self, object message):
        """Return the frames of a message. A message of context events is passed to `receive_context` and has no frames.

        Raises:
            FrameError: the whole message is rejected.
        """
        cdef Frame frame
        cdef list frames
        cdef uint32_t i
        if self.receive_context is not None and self._is_context(message):
            self.receive_context(message)
            return []
        frames = decode_all(message if self.translate is None else self.translate(message))
        for i in range(<uint32_t>len(frames)):
            frame = <Frame>frames[i]
            if memcmp(frame.boot, <const char *>self.boot_id, 16) != 0:
                raise FrameError("a frame of another boot", peer=frame.source, reason="boot")
            if frame.capture_id and self.capture_id and frame.capture_id != self.capture_id:
                # A shard of a killed instance sent it. This instance would take its positions for those of its own
                # rings, and drop their records as already known.
                raise FrameError("a frame of another capture", peer=frame.source, reason="capture")
            if frame.ring >= self.ring_count:
                raise FrameError(f"there is no ring {frame.ring}", peer=frame.source, reason="ring")
            frames[i] = self.sieve.frame(frame)
        return frames

    cdef bint _is_context(self, object message) except -1:
        cdef Py_buffer buffer
        cdef Py_ssize_t n = len(_CONTEXT_MAGIC)
        PyObject_GetBuffer(message, &buffer, PyBUF_SIMPLE)
        cdef bint is_one = buffer.len > n and memcmp(<char *>buffer.buf + 1, <const char *>_CONTEXT_MAGIC, n) == 0
        PyBuffer_Release(&buffer)
        return is_one


cdef class Turn:
    """The stages of a turn, and the order of its steps; duty_cycle.py explains that order.

    Args:
        tables: the tables, which this process writes.
        merger, applier, encoder: `applier` writes `tables` and calls `encoder`.
        frames: receives messages.
        reader: decodes messages.
        positions: producer positions of the kernel's rings; None if the senders report up to what time they are
            complete.
        batch_events: maximum number of events applied between two commits.
        gathering: chooses for how long events gather with readers; None: the senders do.
        losses: counts the records that the kernel lost; None: nothing does.
        evicts: whether each batch evicts as many ended images as it has events, if their retention is over.
        send: sends messages of the encoder to subscribers.
        reject: called with each FrameError.
        follow_up: called when a batch has left work for Python.

    Attributes:
        ended_boot_ns: when the last turn ended.
        heartbeat_boot_ns: the last heartbeat of `beat` or `rest`; turns also store their own.
        is_idle: no frame arrived during the longest sleep of the last `follow`.
        is_calm: no frame arrived at the end of the last `follow`, perhaps for LULL_MS only.
        is_wanted: the last `follow` ended because the stream's socket has something to read.
        has_lost: the last `follow` found that records were lost since the counters were read.
    """

    cdef TableWriter tables
    cdef Merger merger
    cdef Applier applier
    cdef Encoder encoder
    cdef FrameSocket frames
    cdef FrameReader reader
    cdef ProducerPositions positions
    cdef Gathering gathering
    cdef SharedCounters losses
    cdef uint32_t batch_events
    cdef bint evicts
    cdef object send, reject, follow_up
    cdef uint64_t *producer  # by ring
    cdef bint has_called  # Python may have work that it did not have before this turn
    cdef readonly uint64_t ended_boot_ns, heartbeat_boot_ns
    cdef uint64_t losses_seen_boot_ns
    cdef readonly bint is_idle, is_calm, is_wanted, has_lost

    def __init__(
        self, *, TableWriter tables not None, Merger merger not None, Applier applier not None,
        Encoder encoder not None, FrameSocket frames not None, FrameReader reader not None,
        ProducerPositions positions, uint32_t batch_events, bint evicts, send, reject, follow_up,
        Gathering gathering=None, SharedCounters losses=None,
    ):
        if positions is None and not merger.timed_by_sender:
            raise ValueError("without positions, senders must say up to when they are complete")
        if positions is not None and <uint32_t>positions.ring_count != merger.ring_count:
            raise ValueError(f"positions of {positions.ring_count} rings, not of {merger.ring_count}")
        self.tables, self.merger, self.applier, self.encoder = tables, merger, applier, encoder
        self.frames, self.reader, self.positions, self.batch_events = frames, reader, positions, batch_events
        self.evicts, self.gathering, self.losses = evicts, gathering, losses
        self.send, self.reject, self.follow_up = send, reject, follow_up
        self.producer = <uint64_t *>calloc(merger.ring_count, sizeof(uint64_t))
        if self.producer == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.producer)

    def run(self) -> int:
        """Receive a bounded number of frames and bring the tables up to date; returns frames plus events."""
        cdef int work = self._receive_frames(FRAMES_PER_TURN)
        work += self._bring_up_to_date()
        self.ended_boot_ns = pl_now_boot_ns()
        return work

    def follow(
        self, TurnWaiter waiter not None, double idle_ms, double gather_ms, uint64_t due_ns, uint64_t latest_ns,
        uint64_t rest_until_boot_ns,
    ) -> int:
        """Sleep and run turns until something other than a frame needs work; returns frames plus events.

        Args:
            waiter: sleeps on the sockets.
            idle_ms: longest sleep while the merger holds nothing back; a heartbeat follows it.
            gather_ms: pause before an awaited frame is received, so that frames directly after it are received too.
            due_ns: time after a heartbeat at which Python has work. The work waits for a moment without frames, so that
                it does not delay an event that a user is waiting for.
            latest_ns: time after a heartbeat at which Python runs in any case, after the pending events are applied.
            rest_until_boot_ns: until then, heartbeats of an idle host are stored here, and Python has no work, unless
                records were lost. With the cold caches of an idle host, a line of Python costs tens of times as much as
                under load.
        """
        cdef double ms
        cdef uint64_t now
        cdef int work = 0, blind = 0
        cdef bint is_due
        self.is_idle = self.is_calm = self.is_wanted = self.has_lost = False
        while True:
            ms = self._wait_ms()
            is_due = self.ended_boot_ns >= self.heartbeat_boot_ns + due_ns
            self.is_wanted = waiter.wait(ms if ms >= 0 else LULL_MS if is_due else idle_ms)
            if ms < 0 and waiter.slept_through:
                now = pl_now_boot_ns()
                if work == 0 and not is_due and now < rest_until_boot_ns and not self._sees_losses(now):
                    self.rest(now)
                    continue
                self.is_calm, self.is_idle = True, not is_due
                return work
            if ms == WAIT_FRAMES_MS and gather_ms > 0 and not self.is_wanted:
                waiter.pause(gather_ms)
            self.has_called = False
            # With several senders, their frames have already arrived during the pause above.
            work += self._receive_frames(FRAMES_AT_FIRST if waiter.has_slept and gather_ms == 0 else FRAMES_PER_TURN)
            work += self._bring_up_to_date()
            self.ended_boot_ns = pl_now_boot_ns()
            self.tables.heartbeat(self.ended_boot_ns)
            blind += waiter.may_be_asked
            if waiter.is_asked or waiter.is_opened or waiter.is_interrupted or blind >= BLIND_SLEEPS:
                return work
            if self.has_called or self.is_wanted or self._wants_names() or (
                self.ended_boot_ns >= self.heartbeat_boot_ns + latest_ns
            ) or self._sees_losses(self.ended_boot_ns):
                ms = self._wait_ms()
                if ms < 0 or ms == WAIT_FRAMES_MS:
                    return work

    cdef bint _sees_losses(self, uint64_t now_boot_ns) noexcept nogil:
        if self.losses is not None and now_boot_ns >= self.losses_seen_boot_ns + LOSS_CHECK_NS:
            self.losses_seen_boot_ns = now_boot_ns
            self.has_lost = self.losses.has_new_losses()
        return self.has_lost

    cpdef int rest(self, uint64_t now_boot_ns) except -1:
        """Run a turn without frames: the watermark follows the clock, and a heartbeat is stored."""
        self._bring_up_to_date()
        self.beat(now_boot_ns)
        return self._commit()

    cpdef int beat(self, uint64_t now_boot_ns) except -1:
        """Store a heartbeat."""
        self.heartbeat_boot_ns = now_boot_ns
        self.tables.heartbeat(now_boot_ns)
        return 0

    def commit(self) -> None:
        """Commit the events applied so far: a successor continues from there, and the shards may release them."""
        self._commit()

    @property
    def wants_names(self) -> bool:
        """Whether an event needed a name, details of a container, or facts of a file that are not known."""
        return self._wants_names()

    cdef bint _wants_names(self) except -1:
        return self.encoder.wants()

    def wait_ms(self) -> float:
        """How long to sleep for the events that the merger holds back; negative: it holds none back."""
        return self._wait_ms()

    cdef double _wait_ms(self) except? -2.0:
        if self.merger._queues.pending == 0:
            return -1.0
        # If everything in the rings has arrived, only the slack holds events back; otherwise missing frames do.
        if self.merger.timed_by_sender or self.merger.lags():
            return WAIT_FRAMES_MS
        return max(WAIT_LEAST_MS, <double><int64_t>(self.merger.due() - pl_now_boot_ns()) / 1e6)

    cdef int _receive_frames(self, int limit) except -1:
        cdef int taken = 0, messages = 0
        cdef Frame frame
        cdef list frames
        while taken < limit and messages < limit:  # a message may contain several frames, or none
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
                self.reject(error)
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

    cdef void _note_age(self, Batch batch) noexcept nogil:
        """Measure how late the events of a batch are in the tables, if readers wait for them."""
        if (
            batch.count < STORM_EVENTS
            and self.tables.control.audience == PL_AUDIENCE_READERS
            and self.gathering.note(<int64_t>(pl_now_boot_ns() - batch.items[0].time))
        ):
            self.tables.show_gathering(self.gathering.gather_us)

    cdef int _bring_up_to_date(self) except -1:
        cdef int applied = 0
        cdef Batch batch
        cdef uint64_t now = pl_now_boot_ns() if self.positions is None else self.positions.read(self.producer)
        self.merger.observe(now, self.producer)
        while True:
            batch = self.merger.take(self.batch_events)
            if batch is None:
                return applied
            with nogil:
                self.applier.apply_batch(batch)
            applied += batch.count
            if self.applier.followups.is_any() or self.applier.heirs_count:
                self.has_called = True
                self.follow_up()
            if self.encoder.has_messages():
                self.send(self.encoder.take())
            self.merger.done(batch)
            self._commit()
            if self.gathering is not None:
                self._note_age(batch)
            self.tables.show_life()  # after a ring has stalled, there may be a hundred batches
            if self.evicts:
                # As many as the batch had, so that a storm is evicted as fast as it arrived. Not before the commit: a
                # successor applies uncommitted events again, and needs the rows to which they were applied.
                self.tables.evict(now, batch.count)

    cdef int _commit(self) except -1:
        return self.merger.commit_to(self.tables, self.encoder.numbers())
