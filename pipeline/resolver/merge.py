"""Decide when events may be applied: receive frames once each, and let events out behind the watermark.

The boot time T was read before the rings' producer positions. When everything of a ring up to its position has been
received, no record of that ring older than T - 100 us is still to come: between a record's reservation and its timestamp
stands a full barrier, and the slack covers the kernel's fast clock. That time is the ring's watermark; the least of all
rings is how far events may go out, in the order (time, ring, ring_seq). Sorting itself is in `_merge`.

A ring that makes no progress for `stall_ms` while events of others wait, or that is behind for `hold_ms`, is passed over
until it moves (or, when it crawls, until it has caught up). What it brings later is late if younger events have gone out meanwhile:
flagged, so that apply lets no time run backwards. When a ring moves again, its shard is back, and all stalled rings are
waited for anew: so a single shard that dies and comes back within `hold_ms` makes nothing late.

A frame names the byte range of the ring that it covers. What was received before is dropped, whole or in part; a frame
that begins behind a hole is dropped too and the hole asked for again (`take_rewinds`).

Rings without producer positions (sources that are no kernel ring) say in their frames up to when they are complete.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.resolver._merge import Batch, Sorter

if TYPE_CHECKING:
    import numpy.typing as npt

    from pipeline.bus.frames import Frame

__all__ = ["SLACK_NS", "Batch", "Merger"]

#: See above; measured lag of positions behind the clock without a barrier: 73 us, with one: none.
SLACK_NS = 100_000
#: Samples of (time, positions) that wait for their frames. Beyond it every other one is given up.
SAMPLES_MAX = 64
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
        ring_watermark: shape (ring_count,), uint64, boot ns: events of the ring with this time or an earlier one are applied.
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
        self.stalled = np.zeros(ring_count, np.bool_)
        self.watermark = 0
        self._sorter = Sorter(ring_count)
        # Boot time up to which each ring has been received; the least of the rings not passed over.
        self._seen = np.zeros(ring_count, np.uint64)
        self._limit = 0
        self._complete = True
        self._now = 0
        # Samples, oldest first: row i was taken at _sample_times[i].
        self._samples = np.zeros((SAMPLES_MAX, ring_count), np.uint64)
        self._sample_times = np.zeros(SAMPLES_MAX, np.uint64)
        self._sample_count = 0
        self._producer = np.zeros(ring_count, np.uint64)
        # When each ring was last seen to move or to be current, and since when it holds the others back.
        self._moved_pos = np.zeros(ring_count, np.uint64)
        self._moved_ns = np.zeros(ring_count, np.uint64)
        self._behind_ns = np.zeros(ring_count, np.uint64)
        self._given_up = np.zeros(ring_count, np.bool_)
        self._still = np.zeros(ring_count, np.bool_)
        self._speaking = np.zeros(ring_count, np.bool_)
        self._rewind_asked: dict[int, int] = {}
        self._rewinds: list[tuple[int, int]] = []
        self._counters: dict[str, int] = {}
        self._reported = (0, 0)

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
        self.applied_pos[:] = self.received_pos[:] = self._moved_pos[:] = applied_pos
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
            if self._sorter.add(ring, frame, received, frame.to_pos, frame.count) < 0:
                self._count("malformed", frame.count)
            self.received_pos[ring] = frame.to_pos
            self._settled(ring)
        if frame.watermark_boot_ns is not None:
            if self.timed_by_sender:
                self._speaking[ring] = True
                self._moved_ns[ring] = self._now
            # A shard that drained its ring to the end says from when on: sooner known than by our own samples, which
            # the frames after this one have to reach.
            self._seen[ring] = max(int(self._seen[ring]), frame.watermark_boot_ns)

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
            self._moved_ns[:] = self._behind_ns[:] = now_boot_ns
        self._now = now_boot_ns
        if self.timed_by_sender:
            behind = self._advance_by_sender(now_boot_ns)
        elif producer_pos is None:
            raise ValueError("positions are needed: senders do not say their watermark")
        else:
            behind = self._advance_by_position(now_boot_ns, producer_pos)
        self._find_stalled(now_boot_ns, behind)
        holding = self._seen[~self.stalled & self._speaking] if self.timed_by_sender else self._seen[~self.stalled]
        self._complete = not self.stalled.any()
        # All are stalled: nothing to go by, and nothing that could be out of order with anything else. Wait.
        self._limit = int(holding.min()) if holding.size else 0
        return self._limit

    def _advance_by_position(self, now: int, producer: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        received = self.received_pos
        behind: npt.NDArray[np.bool_] = received < producer
        if not behind.any():
            self._sample_count = 0
            self._seen[:] = np.maximum(self._seen, np.uint64(max(now - self.slack_ns, 0)))
            return behind
        if self._sample_count == SAMPLES_MAX:
            # Long behind: keep the oldest, which tells when the ring was current last, and every other one.
            kept = SAMPLES_MAX // 2
            self._samples[:kept] = self._samples[::2].copy()
            self._sample_times[:kept] = self._sample_times[::2].copy()
            self._sample_count = kept
        count = self._sample_count
        self._samples[count] = producer
        self._sample_times[count] = now
        count += 1
        # Positions only grow, so the samples that a ring has reached are the first ones.
        reached = (self._samples[:count] <= received).sum(axis=0)
        newest = self._sample_times[np.maximum(reached, 1) - 1]
        seen = np.where(newest > self.slack_ns, newest - np.uint64(self.slack_ns), np.uint64(0))
        self._seen = np.where(reached > 0, np.maximum(self._seen, seen), self._seen)
        passed = int(reached.min())
        if passed:
            self._samples[: count - passed] = self._samples[passed:count].copy()
            self._sample_times[: count - passed] = self._sample_times[passed:count].copy()
        self._sample_count = count - passed
        return behind

    def _advance_by_sender(self, now: int) -> npt.NDArray[np.bool_]:
        # A sender that is current says so within the stall time, with an empty frame if need be.
        behind: npt.NDArray[np.bool_] = self._speaking & (self._moved_ns + np.uint64(self.stall_ns) < np.uint64(now))
        return behind

    def _find_stalled(self, now: int, behind: npt.NDArray[np.bool_]) -> None:
        if self.timed_by_sender:
            self.stalled = behind
            return
        moved: npt.NDArray[np.bool_] = self.received_pos != self._moved_pos
        self._moved_pos[:] = self.received_pos
        if (moved & self._still).any():
            # A shard is back. Its rings come one after the other: wait for all of them again, and nothing is late.
            back = self._still & ~self._given_up
            self._moved_ns[back] = self._behind_ns[back] = now
        self._moved_ns[moved | ~behind] = now
        self._behind_ns[~behind] = now
        self._still = behind & (now - self._moved_ns.astype(np.int64) > self.stall_ns)
        held = behind & (now - self._behind_ns.astype(np.int64) > self.hold_ns)
        self._given_up = behind & (self._given_up | (held & ~self._still) | (self.pending > self.max_pending))
        # Nobody is held up while all that waits is the still rings' own.
        held_up = bool(((self.applied_pos < self.received_pos) & ~self._still).any())
        stalled = self._given_up | (self._still & (held | held_up))
        fresh = int((stalled & ~self.stalled).sum())
        if fresh:
            self._count("stalls", fresh)
        self.stalled = stalled

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
        # Strictly before the frontier: events with its very time may be in the next batch. Not beyond what a ring has
        # been received up to: a successor would skip what a stalled ring still has to bring.
        limits = np.minimum(seen, np.uint64(frontier))
        self.ring_watermark = np.maximum(self.ring_watermark, np.where(limits > 0, limits - np.uint64(1), limits))
        self.watermark = max(self.watermark, frontier)

    # -- counters ------------------------------------------------------------------------------------------------------

    def _count(self, name: str, n: int) -> None:
        self._counters[name] = self._counters.get(name, 0) + n

    def take_counters(self) -> dict[str, int]:
        """Return what was counted since the last call, by the names of pipeline.shm.layout.COUNTERS."""
        late, replayed = self._sorter.late_total, self._sorter.replayed_total
        if late > self._reported[0]:
            self._count("late", late - self._reported[0])
        if replayed > self._reported[1]:
            self._count("replayed", replayed - self._reported[1])
        self._reported = (late, replayed)
        counters, self._counters = self._counters, {}
        return counters
