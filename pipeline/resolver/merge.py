"""Decide when events may be applied: receive frames once each, and let events out behind the watermark.

The boot time T was read before the rings' producer positions. When everything of a ring up to its position has been
received, no record of that ring older than T - 100 us is still to come: between a record's reservation and its
timestamp stands a full barrier, and the slack covers the kernel's fast clock. That time is the ring's watermark; the
least of all rings is how far events may go out, in the order (time, ring, ring_seq). Sorting itself is in `_merge`.

A ring that makes no progress for `stall_ms` while events of others wait, or that is behind for `hold_ms`, is passed
over until it moves (or, when it crawls, until it has caught up). What it brings later is late if younger events have
gone out meanwhile: flagged, so that apply lets no time run backwards. When a ring moves again, its shard is back, and
all stalled rings are waited for anew: so a single shard that dies and comes back within `hold_ms` makes nothing late.

A frame names the byte range of the ring that it covers. What was received before is dropped, whole or in part; a frame
that begins behind a hole is dropped too and the hole asked for again (`take_rewinds`).

Rings without producer positions (sources that are no kernel ring) say in their frames up to when they are complete.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.resolver._merge import Batch, Sorter
from pipeline.resolver._watermark import RingClock

if TYPE_CHECKING:
    import numpy.typing as npt

    from pipeline.bus.frames import Frame

__all__ = ["SLACK_NS", "Batch", "Merger"]

#: See above; measured lag of positions behind the clock without a barrier: 73 us, with one: none.
SLACK_NS = 100_000
#: A gap is reported again when the shard has not rewound by then.
REWIND_RETRY_NS = 100_000_000


class Merger:
    """Frames in, batches of events in time order out. Belongs to the resolver's thread.

    Args:
        ring_count: rings are numbered 0 to ring_count - 1.
        stall_ms: a ring without progress for so long is passed over.
        hold_ms: a ring that is behind for so long is passed over even if it makes progress.
        slack_ns: see the module.
        max_pending: events; with more of them waiting, rings that are behind are passed over at once.
        timed_by_sender: frames carry the watermark of their ring; `advance` gets no positions.

    Attributes:
        received_pos, applied_pos: shape (ring_count,), uint64, bytes: received without a hole; applied without a hole.
        ring_watermark: shape (ring_count,), uint64, boot ns: events of the ring up to this time, included, are applied.
        stalled: shape (ring_count,), bool: passed over at the moment.
        watermark: boot ns: events before it are applied, but for those of stalled rings.
        pending: events received and not yet in a batch.
    """

    def __init__(
        self,
        ring_count: int,
        *,
        stall_ms: float = 250,
        hold_ms: float = 1000,
        slack_ns: int = SLACK_NS,
        max_pending: int = 1 << 20,
        timed_by_sender: bool = False,
    ) -> None:
        self.ring_count = ring_count
        self.stall_ns = int(stall_ms * 1e6)
        self.hold_ns = int(hold_ms * 1e6)
        self.slack_ns = slack_ns
        self.max_pending = max_pending
        self.timed_by_sender = timed_by_sender
        self.received_pos = np.zeros(ring_count, np.uint64)
        self.applied_pos = np.zeros(ring_count, np.uint64)
        self.ring_watermark = np.zeros(ring_count, np.uint64)
        self._clock = RingClock(
            ring_count, self.received_pos, self.applied_pos, self.stall_ns, self.hold_ns, self.slack_ns
        )
        self.stalled = self._clock.stalled
        self.watermark = 0
        self._sorter = Sorter(ring_count)
        # Boot time up to which each ring has been received; the least of the rings not passed over.
        self._seen = self._clock.seen
        self._limit = 0
        self._complete = True
        self._now = 0
        # Of senders that say their watermark: when each did so last.
        self._spoke_ns = np.zeros(ring_count, np.uint64)
        self._speaking = np.zeros(ring_count, np.bool_)
        self._rewind_asked: dict[int, int] = {}
        self._rewinds: list[tuple[int, int]] = []
        self._counters: dict[str, int] = {}
        self._malformed: dict[int, int] = {}
        self._reported = (0, 0)
        self._stalls = 0

    # -- frames in -----------------------------------------------------------------------------------------------------

    @property
    def pending(self) -> int:
        """Events received and not yet in a batch."""
        return self._sorter.pending

    def resume(
        self,
        applied_pos: npt.NDArray[np.uint64],
        ring_watermark: npt.NDArray[np.uint64],
        watermark: int | None = None,
    ) -> None:
        """Go on from where a predecessor committed. Call before the first frame.

        Args:
            applied_pos: shape (ring_count,), bytes; records before it are not wanted again.
            ring_watermark: shape (ring_count,), boot ns; events of the ring with this time or an earlier one are in the
                tables already. They are skipped and counted as `replayed`.
            watermark: the committed watermark; events before it that are not skipped are late.
        """
        self.applied_pos[:] = self.received_pos[:] = applied_pos
        self.ring_watermark[:] = self._seen[:] = ring_watermark
        for ring in range(self.ring_count):
            self._sorter.skip_until(ring, int(ring_watermark[ring]), int(applied_pos[ring]))
        self.watermark = int(ring_watermark.min()) + 1 if watermark is None else watermark
        self._sorter.raise_frontier(self.watermark)

    def add(self, frame: Frame) -> None:
        """Take a frame. What it repeats is dropped; behind a hole all of it is, and a rewind is asked for.

        Raises:
            IndexError: the frame names a ring that does not exist.
        """
        ring = frame.ring
        if not 0 <= ring < self.ring_count:
            raise IndexError(f"ring {ring} is outside 0..{self.ring_count - 1}")
        received = int(self.received_pos[ring])
        if frame.malformed:
            self._note_malformed(ring, frame.malformed)
        if frame.from_pos > received:
            self._count("frames_gap", 1)
            self._ask_rewind(ring, received)
            return
        if frame.to_pos <= received:
            if frame.to_pos > frame.from_pos:
                self._count("frames_duplicate", 1)
        else:
            # The records that were asked for are here.
            self._rewind_asked.pop(ring, None)
            self._sorter.add(frame, received)
            self.received_pos[ring] = frame.to_pos
            self._settled(ring)
        if frame.watermark_boot_ns is not None:
            if self.timed_by_sender:
                self._speaking[ring] = True
                self._spoke_ns[ring] = self._now
            # A shard that drained its ring to the end says from when on: sooner known than by our own samples, which
            # the frames after this one have to reach.
            self._seen[ring] = max(int(self._seen[ring]), frame.watermark_boot_ns)

    def _note_malformed(self, ring: int, total: int) -> None:
        """Count what a sender left out; it says how much since it started, so less than before is a new sender."""
        before = self._malformed.get(ring, 0)
        self._malformed[ring] = total
        if total != before:
            self._count("malformed", total - before if total > before else total)

    def _ask_rewind(self, ring: int, received: int) -> None:
        # The shard's frames that were under way when it was asked come with the same hole: ask once, then wait.
        asked = self._rewind_asked.get(ring)
        if asked is None or self._now - asked >= REWIND_RETRY_NS:
            self._rewind_asked[ring] = self._now
            self._rewinds.append((ring, received))

    def take_rewinds(self) -> list[tuple[int, int]]:
        """Return (ring, position) of the holes to ask for again, and forget them."""
        rewinds, self._rewinds = self._rewinds, []
        return rewinds

    # -- the watermark -------------------------------------------------------------------------------------------------

    def advance(self, now_boot_ns: int, producer_pos: npt.NDArray[np.uint64] | None = None) -> int:
        """Take note of the time and of the producer positions that were read after it.

        Args:
            now_boot_ns: boot clock, ns.
            producer_pos: shape (ring_count,), bytes; not needed when senders say their watermark.

        Returns:
            Boot time in ns before which events may go out now. It falls back when a stalled ring moves again.
        """
        if not self._now:
            self._spoke_ns[:] = now_boot_ns
            self._clock.begin(now_boot_ns)
        self._now = now_boot_ns
        if self.timed_by_sender:
            self._limit = self._advance_by_sender(now_boot_ns)
        elif producer_pos is None:
            raise ValueError("positions are needed: senders do not say their watermark")
        else:
            self._limit = self._clock.advance(now_boot_ns, producer_pos, self.pending > self.max_pending)
            self._complete = self._clock.complete
        return self._limit

    def _advance_by_sender(self, now: int) -> int:
        # A sender that is current says so within the stall time, with an empty frame if need be.
        self.stalled[:] = self._speaking & (self._spoke_ns + np.uint64(self.stall_ns) < np.uint64(now))
        self._complete = not self.stalled.any()
        holding = self._seen[~self.stalled & self._speaking]
        return int(holding.min()) if holding.size else 0

    @property
    def is_behind(self) -> bool:
        """Whether a ring held more than had been received when `advance` looked."""
        return not self.timed_by_sender and self._clock.is_behind()

    # -- batches out ---------------------------------------------------------------------------------------------------

    def take(self, max_events: int) -> Batch | None:
        """Return the next events that may go out, at most `max_events`, in the order in which to apply them.

        One batch at a time: the one before must be `done`.
        """
        batch = self._sorter.take(self._limit, max_events, self._complete)
        if batch is None:
            self._applied(self._sorter.frontier, self._seen)
            return None
        batch.limits = self._seen.copy()
        return batch

    def done(self, batch: Batch) -> None:
        """The batch is applied: move `applied_pos`, `ring_watermark` and `watermark`."""
        for ring in self._sorter.done(batch):
            self._settled(ring)
        self._applied(batch.frontier, batch.limits)

    def _settled(self, ring: int) -> None:
        self.applied_pos[ring] = self._sorter.applied_pos(ring)

    def _applied(self, frontier: int, seen: npt.NDArray[np.uint64]) -> None:
        self._clock.applied_until(frontier, seen, self.ring_watermark)
        self.watermark = max(self.watermark, frontier)

    # -- counters ------------------------------------------------------------------------------------------------------

    def _count(self, name: str, n: int) -> None:
        self._counters[name] = self._counters.get(name, 0) + n

    def take_counters(self) -> dict[str, int]:
        """Return what was counted since the last call, by the names of pipeline.shm.layout.COUNTERS."""
        if self._clock.stalls > self._stalls:
            self._count("stalls", self._clock.stalls - self._stalls)
            self._stalls = self._clock.stalls
        late, replayed = self._sorter.late_total, self._sorter.replayed_total
        if late > self._reported[0]:
            self._count("late", late - self._reported[0])
        if replayed > self._reported[1]:
            self._count("replayed", replayed - self._reported[1])
        self._reported = (late, replayed)
        counters, self._counters = self._counters, {}
        return counters
