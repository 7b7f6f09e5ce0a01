"""Decide when events may be applied: accept each frame once, and release events up to the watermark.

The boot time T is read before the producer positions of the rings. When everything of a ring up to its position has
been received, no record of that ring older than T - MERGE_SLACK_NS can still arrive. That time is the ring's watermark.
The reason is the full barrier between a record's reservation and its timestamp; the slack covers the lag of the
kernel's fast clock. Events are released up to the lowest watermark of all rings, in the order (time, ring, ring_seq).
`_queues` sorts them, and `_watermark` keeps the watermarks.

A ring is passed over if it makes no progress for `stall_ms` while events of other rings wait, or if it has been behind
for `hold_ms` and its watermark lags by more than `stall_ms`. It stays so until it moves, or, if it is slow, until it
lags by less than half of that. Its events are late if younger ones have been released meanwhile; they are counted, and
apply does not let them undo younger facts. When a ring moves again, its shard has returned, and the merger waits for
all stalled rings again. So a single shard that dies and returns within `hold_ms` makes no event late.

A frame names the byte range of the ring that it covers. Bytes that were received before are dropped. A frame after a
hole is dropped too, and the hole is requested again (`take_rewinds`).

Sources without a kernel ring have no producer positions; their frames say up to when they are complete.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

import numpy as np

from pipeline.bus.frames._frame cimport Frame
from pipeline.records._limits cimport MERGE_SLACK_NS
from pipeline.resolver.merge._queues cimport Batch, RingQueues
from pipeline.resolver.merge._watermark cimport RingWatermarks
from pipeline.shm.layout._layout cimport PL_SEQ_COUNT
from pipeline.shm.writer._control cimport ControlWriter

cdef enum:
    #: A hole is requested again if the shard has not rewound by then.
    REWIND_RETRY_NS = 100_000_000


cdef class Merger:
    """Turns frames into batches of events in time order. Only the resolver's thread uses it.

    Args:
        ring_count: rings are numbered 0 to ring_count - 1.
        stall_ms: a ring without progress for this long is passed over.
        hold_ms: a ring that is behind for this long is passed over even if it makes progress, if it lags by `stall_ms`.
        slack_ns: see the module.
        max_pending: with more events than this waiting, rings that are behind are passed over at once.
        timed_by_sender: frames carry the watermark of their ring; `advance` gets no positions.

    Attributes:
        received_pos, applied_pos: shape (ring_count,), uint64, bytes: received and applied without a hole.
        ring_watermark: shape (ring_count,), uint64, boot ns: events of the ring up to this time, included, are applied.
        stalled: shape (ring_count,), bool: passed over at the moment.
        watermark: boot ns: events before it are applied, except those of stalled rings.
        pending: events received and not yet in a batch.
    """

    def __init__(
        self,
        uint32_t ring_count,
        *,
        double stall_ms=250,
        double hold_ms=1000,
        uint64_t slack_ns=MERGE_SLACK_NS,
        uint64_t max_pending=1 << 20,
        bint timed_by_sender=False,
    ):
        self.ring_count = ring_count
        self.stall_ns, self.hold_ns = <uint64_t>(stall_ms * 1e6), <uint64_t>(hold_ms * 1e6)
        self.max_pending, self.slack_ns, self.timed_by_sender = max_pending, slack_ns, timed_by_sender
        self.received_pos = np.zeros(ring_count, np.uint64)
        self.applied_pos = np.zeros(ring_count, np.uint64)
        self.ring_watermark = np.zeros(ring_count, np.uint64)
        self._watermarks = RingWatermarks(
            ring_count, self.received_pos, self.applied_pos, self.stall_ns, self.hold_ns, slack_ns
        )
        self.stalled = self._watermarks.stalled
        self._received, self._applied, self._marks = self.received_pos, self.applied_pos, self.ring_watermark
        # Boot time up to which each ring has been received.
        self._seen = self._watermarks.seen
        self._limits = np.zeros(ring_count, np.uint64)
        self._queues = RingQueues(ring_count)
        self._is_complete = True
        # When each sender has sent its watermark last, if senders do that.
        self._spoke_ns = np.zeros(ring_count, np.uint64)
        self._speaking = np.zeros(ring_count, np.uint8)
        self._malformed = np.zeros(ring_count, np.uint64)
        self._rewind_asked = {}
        self._rewinds = []

    # -- frames in -----------------------------------------------------------------------------------------------------

    @property
    def pending(self) -> int:
        """Events received and not yet in a batch."""
        return self._queues.pending

    def resume(self, applied_pos, ring_watermark, watermark=None) -> None:
        """Continue where a predecessor committed. Call it before the first frame.

        Args:
            applied_pos: shape (ring_count,), bytes; records before it are not needed again.
            ring_watermark: shape (ring_count,), boot ns; events of the ring with this time or an earlier one are in the
                tables already. They are skipped and counted as `replayed`.
            watermark: the committed watermark; events before it that are not skipped are late.
        """
        self.applied_pos[:] = self.received_pos[:] = applied_pos
        self.ring_watermark[:] = self._watermarks.seen[:] = ring_watermark
        for ring in range(self.ring_count):
            self._queues.skip_until(ring, int(ring_watermark[ring]), int(applied_pos[ring]))
        self.watermark = int(ring_watermark.min()) + 1 if watermark is None else watermark
        self._queues.raise_frontier(self.watermark)

    cpdef add(self, Frame frame):
        """Accept a frame. Repeated records are dropped; a frame after a hole is dropped, and a rewind is requested.

        Raises:
            IndexError: the frame names a ring that does not exist.
        """
        cdef uint32_t ring
        cdef uint64_t received
        if frame is None:
            raise TypeError("a frame is None")
        ring = frame.ring
        if ring >= self.ring_count:
            raise IndexError(f"ring {ring} is outside 0..{self.ring_count - 1}")
        received = self._received[ring]
        if frame.malformed != self._malformed[ring]:
            # A sender counts the records that it dropped since its start, so a lower count is from a new sender.
            self.malformed += frame.malformed - (
                self._malformed[ring] if frame.malformed > self._malformed[ring] else 0
            )
            self._malformed[ring] = frame.malformed
        if frame.from_pos > received:
            self.frames_gap += 1
            self._ask_rewind(ring, received)
            return
        if frame.to_pos <= received:
            if frame.to_pos > frame.from_pos:
                self.frames_duplicate += 1
        else:
            # The requested records have arrived.
            if self._rewind_asked:
                self._rewind_asked.pop(ring, None)
            self._queues.add(frame, received)
            self._received[ring] = frame.to_pos
            self._applied[ring] = self._queues.applied(ring)
        if frame.has_watermark:
            if self.timed_by_sender:
                self._speaking[ring] = True
                self._spoke_ns[ring] = self._now
            # A shard that drained its ring to the end sends its watermark. That is known sooner than by our own
            # samples, which need the frames after this one.
            self._seen[ring] = max(self._seen[ring], frame.watermark)

    def _ask_rewind(self, ring, received):
        # Frames that were under way at the request show the same hole: request once, then wait.
        asked = self._rewind_asked.get(ring)
        if asked is None or self._now - <uint64_t>asked >= REWIND_RETRY_NS:
            self._rewind_asked[ring] = self._now
            self._rewinds.append((ring, received))

    def take_rewinds(self) -> list[tuple[int, int]]:
        """Return (ring, position) of the holes to request again, and forget them."""
        rewinds = self._rewinds
        if rewinds:
            self._rewinds = []
        return rewinds

    # -- the watermark -------------------------------------------------------------------------------------------------

    def advance(self, uint64_t now_boot_ns, const uint64_t[::1] producer_pos=None) -> int:
        """Note the time and the producer positions, which were read after it.

        Args:
            now_boot_ns: boot clock, ns.
            producer_pos: shape (ring_count,), bytes; not needed if senders send their watermark.

        Returns:
            Boot time in ns before which events may be released now. It decreases when a stalled ring moves again.
        """
        if self.timed_by_sender:
            return self.observe(now_boot_ns, NULL)
        if producer_pos is None or <uint64_t>producer_pos.shape[0] < self.ring_count:
            raise ValueError("a position of each ring is needed, because senders do not send their watermark")
        return self.observe(now_boot_ns, &producer_pos[0])

    cdef uint64_t observe(self, uint64_t now_boot_ns, const uint64_t *producer_pos) noexcept nogil:
        """As `advance`; `producer_pos` has ring_count numbers and is not read if senders send their watermark."""
        cdef uint32_t ring
        if not self._now:
            for ring in range(self.ring_count):
                self._spoke_ns[ring] = now_boot_ns
            self._watermarks.begin(now_boot_ns)
        self._now = now_boot_ns
        if self.timed_by_sender:
            self._limit = self._advance_by_sender(now_boot_ns)
            return self._limit
        self._limit = self._watermarks.observe(now_boot_ns, producer_pos, self._queues.pending > self.max_pending)
        self._is_complete = self._watermarks.complete
        return self._limit

    cdef uint64_t _advance_by_sender(self, uint64_t now) noexcept nogil:
        # A sender that is current sends its watermark within the stall time, with an empty frame if necessary.
        cdef uint32_t ring
        cdef uint64_t limit = 0
        cdef bint is_stalled, has_limit = False
        self._is_complete = True
        for ring in range(self.ring_count):
            is_stalled = self._speaking[ring] and self._spoke_ns[ring] + self.stall_ns < now
            self._watermarks.stalled_view[ring] = is_stalled
            if is_stalled:
                self._is_complete = False
            elif self._speaking[ring] and (not has_limit or self._seen[ring] < limit):
                limit, has_limit = self._seen[ring], True
        return limit

    cdef bint lags(self) noexcept nogil:
        return not self.timed_by_sender and self._watermarks.is_behind()

    @property
    def is_lagging(self) -> bool:
        """Whether a ring held more at the last `advance` than had been received."""
        return self.lags()

    @property
    def due_boot_ns(self) -> int:
        """When the oldest pending event may be released if its ring is received up to then; 0: nothing is pending."""
        return self.due()

    cdef uint64_t due(self) noexcept nogil:
        return self._queues.oldest() + self.slack_ns + 1 if self._queues.pending else 0

    # -- batches out ---------------------------------------------------------------------------------------------------

    cpdef Batch take(self, uint32_t max_events):
        """Return the next events that may be released, at most `max_events`, in the order of applying; None: none.

        There is one batch at a time: the one before must be `done`.
        """
        cdef Batch batch = self._queues.take(self._limit, max_events, self._is_complete)
        if batch is None:
            self._applied_until(self._queues.frontier, &self._seen[0])
        else:
            memcpy(&self._limits[0], &self._seen[0], self.ring_count * sizeof(uint64_t))
        return batch

    cpdef done(self, Batch batch):
        """The batch is applied: move `applied_pos`, `ring_watermark` and `watermark`."""
        cdef uint32_t ring
        if batch is None:
            raise TypeError("a batch is None")
        self._queues.done(batch)
        for ring in range(self.ring_count):
            self._applied[ring] = self._queues.applied(ring)
        self._applied_until(batch.frontier, &self._limits[0])

    cdef void _applied_until(self, uint64_t frontier, const uint64_t *limits) noexcept nogil:
        self._watermarks.applied_until(frontier, limits, &self._marks[0])
        if frontier > self.watermark:
            self.watermark = frontier

    def commit(self, ControlWriter tables not None, const uint64_t[::1] topic_seq not None) -> None:
        """Commit the applied events with their counters, and let the shards release them."""
        if topic_seq.shape[0] != PL_SEQ_COUNT:
            raise ValueError(f"topic_seq has {topic_seq.shape[0]} numbers, not {PL_SEQ_COUNT}")
        self.commit_to(tables, &topic_seq[0])

    cdef int commit_to(self, ControlWriter tables, const uint64_t *topic_seq) except -1:
        """As `commit`; `topic_seq` has SEQ_COUNT numbers."""
        cdef uint64_t value
        if tables.control == NULL or tables.control.ring_count != self.ring_count:
            raise ValueError("the tables are closed or have other rings")
        if self._has_news():
            for name, value in self.take_counters().items():
                tables.count(name, value)
        with nogil:
            tables._commit(self.watermark, &self._applied[0], &self._marks[0], topic_seq, PL_SEQ_COUNT)
            tables._acknowledge(&self._received[0], &self._watermarks.stalled_view[0])
        return 0

    # -- counters ------------------------------------------------------------------------------------------------------

    cdef bint _has_news(self) noexcept nogil:
        return (
            self.malformed or self.frames_gap or self.frames_duplicate
            or self._watermarks.stalls != self._reported_stalls
            or self._queues.late_total != self._reported_late or self._queues.replayed_total != self._reported_replayed
        )

    def take_counters(self) -> dict[str, int]:
        """Return what was counted since the last call, by the names of pipeline.shm.layout.layout.COUNTERS."""
        counters = {
            "malformed": self.malformed,
            "frames_gap": self.frames_gap,
            "frames_duplicate": self.frames_duplicate,
            "stalls": self._watermarks.stalls - self._reported_stalls,
            "late": self._queues.late_total - self._reported_late,
            "replayed": self._queues.replayed_total - self._reported_replayed,
        }
        self.malformed = self.frames_gap = self.frames_duplicate = 0
        self._reported_stalls = self._watermarks.stalls
        self._reported_late, self._reported_replayed = self._queues.late_total, self._queues.replayed_total
        return {name: value for name, value in counters.items() if value}
