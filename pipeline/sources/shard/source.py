"""The source ``ebpf`` in a worker process: one shard, which drains the rings that BPF programs fill."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pipeline.log import Logger, get_logger
from pipeline.sources.ring._ring import Ring
from pipeline.sources.shard._pacing import Pacer, RingWaiter, run
from pipeline.sources.shard._shard import Shard
from pipeline.sources.shard.process import SourceParts

if TYPE_CHECKING:
    from contextlib import ExitStack

    from pipeline.worker.description import WorkerDescription

#: Maximum number of records in one duty cycle; then the shard reads the acknowledgements again.
BUDGET_RECORDS = 16_384
_DRAIN_PAUSE_S = 0.002


class RingSource:
    """A shard with rings that the kernel fills.

    Args:
        shard: owns the rings.
        pacer: decides when the shard reads the rings again.
        log: receives faults, and the number of records left at the end.
    """

    def __init__(self, shard: Shard, pacer: Pacer, log: Logger) -> None:
        self._shard = shard
        self._pacer = pacer
        self._log = log
        self._reported: set[tuple[int, str]] = set()
        self.descriptors = [ring.fileno() for ring in shard.rings]

    def run(self, waiter: RingWaiter) -> None:
        """Drain the rings until the waiter reports that it is time to stop."""
        run(self._shard, self._pacer, waiter, self.report_faults, BUDGET_RECORDS)

    def drain(self, deadline_s: float) -> None:
        """Wait until every record now in the rings is applied, at most until this monotonic time."""
        drain_rings(self._shard, deadline_s, self._log)

    def report_faults(self) -> None:
        """Log each ring's faults, each kind only once."""
        for ring in self._shard.rings:
            self._report(ring)

    def _report(self, ring: Ring) -> None:
        for name, count, event in (
            ("corrupt", ring.corrupt_total, "corrupt ring header; skipped to the producer position"),
            ("malformed", ring.malformed_total, "malformed record in a ring; skipped"),
            ("refused", ring.refused_total, "the resolver asked for a position that the ring has not reached; ignored"),
        ):
            if count and (ring.number, name) not in self._reported:
                self._reported.add((ring.number, name))
                self._log.error(event, ring=ring.number, count=count)


def open_source(description: WorkerDescription, parts: SourceParts, stack: ExitStack) -> RingSource:
    """Build the shard of a worker process."""
    pacer = Pacer(freshness_s=description.config.capture.freshness_ms / 1000)
    return RingSource(open_shard(parts, stack), pacer, get_logger())


def open_shard(parts: SourceParts, stack: ExitStack) -> Shard:
    """Build the shard of rings that the kernel fills; the stack closes it."""
    shard = Shard(parts.rings, source="ebpf", **parts.of_shard())
    stack.callback(shard.close)
    return shard


def drain_rings(shard: Shard, deadline_s: float, log: Logger) -> bool:
    """Hand over every record now in the rings, and wait until all are applied.

    Args:
        shard: owns the rings.
        deadline_s: monotonic time at which to stop waiting.
        log: receives a warning if records are left.

    Returns:
        Whether everything was applied.
    """
    # Ignore later records: while the programs are attached, new ones never stop arriving.
    targets = [(ring, ring.producer_pos) for ring in shard.rings]
    while time.monotonic() < deadline_s:
        shard.do_work(BUDGET_RECORDS)
        if all(ring.consumer_pos >= target for ring, target in targets):
            return True
        time.sleep(_DRAIN_PAUSE_S)
    left = sum(max(0, target - ring.consumer_pos) for ring, target in targets)
    log.warning("stopped before every record was applied; the next process reads the rest", unapplied_bytes=left)
    return False
