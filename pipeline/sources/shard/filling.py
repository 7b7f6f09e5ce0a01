"""Sources that fill their own ring: the shard, and the duty cycle of their process.

The proc connector and the frames of tracers are read from a socket. Their records go into a ring in a file
(`pipeline.sources.ring.handring`); from there on everything is as for a ring of the kernel.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from pipeline.host.boot import now_boot_ns
from pipeline.log import Logger, get_logger
from pipeline.sources.ring._drain import CAUGHT_UP
from pipeline.sources.ring._ring import Ring
from pipeline.sources.shard._pacing import RingWaiter, Wait
from pipeline.sources.shard._shard import NO_WATERMARK, Shard
from pipeline.sources.shard.source import drain_rings

#: Events of one duty cycle, after which the source reads the acknowledgements again.
BUDGET_EVENTS = 512
#: An empty frame follows at least so often: the merge stops waiting for a ring that is silent for its stall time.
KEEP_ALIVE_NS = 100_000_000
#: A record counts as complete after the slack; no other record need follow it.
_SLACK_S = 0.0012
_IDLE_S = 0.1


class Filler(Protocol):
    """Moves records from a socket into a ring: the one producer of that ring."""

    #: Every older record is in the ring.
    complete_boot_ns: int
    #: Time of the youngest record so far.
    last_boot_ns: int

    def pump(self, budget: int) -> int:
        """Move at most about `budget` events; return how many."""


class FillingShard(Shard):
    """A shard that fills its ring itself, and reports in its frames up to what time the ring is complete."""

    def __init__(
        self, filler: Filler, ring: Ring, *, source: str, clock_ns: Callable[[], int] = now_boot_ns, **common: Any
    ) -> None:
        """Take over the ring.

        Args:
            filler: fills the ring.
            ring: the one ring.
            source: of the frames.
            clock_ns: the boot clock.
            common: as for a Shard.
        """
        self._filler = filler
        self._clock_ns = clock_ns
        self._reported_ns = 0  # the last watermark
        self._sent_ns = 0  # when the last frame was made
        super().__init__([ring], source=source, **common)

    @property
    def owes(self) -> bool:
        """Whether no frame has yet reported the last record as complete, so that another frame must follow soon."""
        return self._reported_ns <= self._filler.last_boot_ns

    def poll(self, budget: int) -> int:
        """Fill the ring, then do what a shard does; returns the events that were read."""
        # Even while no frame can be sent: the ring has more room than the socket.
        count = self._filler.pump(budget)
        super().poll(budget)
        return count

    def _has_news(self, ring: Ring) -> bool:
        if ring.stop != CAUGHT_UP or self._filler.complete_boot_ns <= self._reported_ns:
            return False
        return self.owes or self._clock_ns() - self._sent_ns >= KEEP_ALIVE_NS

    def _watermark(self, ring: Ring, looked_ns: int) -> int:
        self._sent_ns = self._clock_ns()
        if ring.stop != CAUGHT_UP:
            return NO_WATERMARK
        self._reported_ns = max(self._reported_ns, self._filler.complete_boot_ns)
        return self._reported_ns


class FillingSource:
    """A source in its process that fills its own ring.

    Args:
        shard: fills and drains the ring.
        fd: readable when events arrive.
        pause: how long to sleep after a cycle with so many events, whatever arrives meanwhile; 0.0: wait for events.
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
        """Read events until the waiter says that it is time to stop."""
        while not waiter.stopping:
            events = self._shard.poll(BUDGET_EVENTS)
            self._report()
            if events >= BUDGET_EVENTS:
                continue
            pause_s = self._pause(events)
            if pause_s:
                # Not by the waiter: it would return at the next event.
                time.sleep(pause_s)
            else:
                waiter.wait(Wait(_SLACK_S if self._shard.owes else _IDLE_S, True))

    def drain(self, deadline_s: float) -> None:
        """Wait until everything that the ring holds now is applied, at most until this monotonic time."""
        drain_rings(self._shard, deadline_s, self._log)
        self._report()
