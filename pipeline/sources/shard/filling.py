"""Sources that fill their own ring: their shard, and the duty cycle of their process.

The proc connector and the tracer source read events from a socket and write records to a ring in a file
(`pipeline.sources.ring.handring`). From there on, the ring is treated like a ring of the kernel.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from pipeline.host.boot import now_boot_ns
from pipeline.host.rate_limiter import RateLimiter
from pipeline.log import Logger, get_logger
from pipeline.sources.ring._drain import CAUGHT_UP
from pipeline.sources.ring._ring import Ring
from pipeline.sources.shard._pacing import RingWaiter, Wait
from pipeline.sources.shard._shard import NO_WATERMARK, Shard
from pipeline.sources.shard.source import drain_rings

#: Maximum number of events in one duty cycle; then the source reads the acknowledgements again.
BUDGET_EVENTS = 512
#: An empty frame is sent at least this often, so that the merge does not wait the stall time for a silent ring.
KEEP_ALIVE_NS = 100_000_000
#: A record counts as complete after the slack; it does not need a following record.
_SLACK_S = 0.0012
_IDLE_S = 0.1
#: Shortest time between two reports of a source's counters.
_REPORT_AGAIN_NS = 10_000_000_000


class Filler(Protocol):
    """Moves records from a socket into a ring: the one producer of that ring."""

    #: Every record older than this time is in the ring.
    complete_boot_ns: int
    #: Time of the newest record so far.
    last_boot_ns: int

    def pump(self, budget: int) -> int:
        """Move at most about `budget` events into the ring; return the number of events."""


class FillingShard(Shard):
    """A shard that fills its own ring, and reports in its frames up to what time the ring is complete."""

    def __init__(
        self, filler: Filler, ring: Ring, *, source: str, clock_ns: Callable[[], int] = now_boot_ns, **common: Any
    ) -> None:
        """Set up the shard with its one ring.

        Args:
            filler: fills the ring.
            ring: the only ring.
            source: name of the source, for the frames.
            clock_ns: returns the boot clock in nanoseconds.
            common: the other arguments of a Shard.
        """
        self._filler = filler
        self._clock_ns = clock_ns
        self._reported_ns = 0  # the last watermark that was sent
        self._sent_ns = 0  # time of the last frame
        super().__init__([ring], source=source, **common)

    @property
    def owes(self) -> bool:
        """Whether no frame has yet reported the last record as complete, so that another frame must follow soon."""
        return self._reported_ns <= self._filler.last_boot_ns

    def do_work(self, budget: int) -> int:
        """Fill the ring, then run a shard's duty cycle; returns the number of events read."""
        # Fill the ring even while no frame can be sent: the ring has more room than the socket.
        count = self._filler.pump(budget)
        super().do_work(budget)
        return count

    def _has_news(self, ring: Ring) -> bool:
        if ring.stop != CAUGHT_UP or self._filler.complete_boot_ns <= self._reported_ns:
            return False
        return self.owes or self._clock_ns() - self._sent_ns >= KEEP_ALIVE_NS

    def _watermark(self, ring: Ring, clock_ns: int) -> int:
        self._sent_ns = self._clock_ns()
        if ring.stop != CAUGHT_UP:
            return NO_WATERMARK
        self._reported_ns = max(self._reported_ns, self._filler.complete_boot_ns)
        return self._reported_ns


class FillingSource:
    """The worker-process side of a source that fills its own ring.

    Args:
        shard: fills and drains the ring.
        fd: readable when events arrive.
        pause: maps the number of events in a cycle to the seconds to sleep afterwards; 0.0 waits for events instead.
        report: logs losses; called after every cycle.
    """

    def __init__(
        self, shard: FillingShard, fd: int, *, pause: Callable[[int], float], report: Callable[[], None]
    ) -> None:
        self._shard = shard
        self._pause = pause
        self._report = report
        self._log: Logger = get_logger()
        self.descriptors = (fd,)

    def run(self, waiter: RingWaiter) -> None:
        """Read events until the waiter reports that it is time to stop."""
        while not waiter.stopping:
            events = self._shard.do_work(BUDGET_EVENTS)
            self._report()
            if events >= BUDGET_EVENTS:
                continue
            pause_s = self._pause(events)
            if pause_s:
                # Not with the waiter: the next event would end the pause.
                time.sleep(pause_s)
            else:
                waiter.wait(Wait(_SLACK_S if self._shard.owes else _IDLE_S, True))

    def drain(self, deadline_s: float) -> None:
        """Wait until every record now in the ring is applied, at most until this monotonic time."""
        drain_rings(self._shard, deadline_s, self._log)
        self._report()


class CounterReport:
    """Logs counters that have changed, at most once every ten seconds.

    Args:
        read: returns the counters as they are now; all begin at 0.
        log: called with the counters of the last report and with those of now.
    """

    def __init__(
        self, read: Callable[[], tuple[int, ...]], log: Callable[[tuple[int, ...], tuple[int, ...]], None]
    ) -> None:
        self._read = read
        self._log = log
        self._reported = (0,) * len(read())
        self._limiter: RateLimiter[None] = RateLimiter(1, _REPORT_AGAIN_NS)

    def check(self) -> None:
        """Report the counters if one of them has changed and a report is due."""
        now = self._read()
        if now != self._reported and self._limiter.allow(None, time.monotonic_ns()):
            self._log(self._reported, now)
            self._reported = now
