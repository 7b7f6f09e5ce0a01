"""When a shard looks at its rings again: `Pacer` decides, `Waiter` waits.

A wake-up for each record costs more than the rest of a small record, so under load the kernel gives none, and a shard
looks every few milliseconds. Where little happens a timer would make every event late and the host's idle CPUs busy:
then the shard sleeps, and the next record wakes it. Between the two decides the rate of records: below one in the
shortest interval, a timer would not gather anything.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from types import FrameType

#: The rate of records is averaged over this time.
_RATE_WINDOW_S = 0.1
#: At this rate of records the interval is longest.
_BUSY_RATE = 10_000.0
#: A sleeping shard looks after this time whether the resolver wants something.
_SLEEP_S = 1.0
#: The same while records are not applied yet, and space waits to be given back; doubled at each vain look.
_UNAPPLIED_S = 0.02
_UNAPPLIED_MAX_S = 0.2


@dataclass(frozen=True, slots=True)
class Wait:
    """How to wait. `asleep`: any record may end it; otherwise only a ring that is filling up does."""

    seconds: float
    asleep: bool


class Pacer:
    """Chooses the next wait from what the last duty cycle found. Knows no clock and no descriptor."""

    def __init__(self, *, interval_min_s: float, interval_max_s: float) -> None:
        self._min_s = interval_min_s
        self._max_s = max(interval_min_s, interval_max_s)
        self._unapplied_s = _UNAPPLIED_S
        self.rate = 0.0

    def choose(
        self, records: int, elapsed_s: float, *, is_exhausted: bool, is_caught_up: bool, is_applied: bool
    ) -> Wait:
        """Return how long to wait, and how.

        Args:
            records: that the cycle read.
            elapsed_s: since the cycle before.
            is_exhausted: the cycle ended because it had done enough.
            is_caught_up: nothing was left: no record being written, no frame waiting to be sent.
            is_applied: everything that was read is applied.
        """
        weight = min(1.0, max(elapsed_s, 1e-6) / _RATE_WINDOW_S)
        self.rate += weight * (records / max(elapsed_s, 1e-6) - self.rate)
        if is_exhausted:
            return Wait(0.0, False)
        if is_caught_up and self.rate * self._min_s < 1.0:
            if is_applied:
                self._unapplied_s = _UNAPPLIED_S
                return Wait(_SLEEP_S, True)
            seconds = self._unapplied_s = _UNAPPLIED_S if records else min(self._unapplied_s * 2, _UNAPPLIED_MAX_S)
            return Wait(seconds, True)
        return Wait(self._min_s + (self._max_s - self._min_s) * min(1.0, self.rate / _BUSY_RATE), False)


class Waiter:
    """Waits for time to pass, for a ring's wake-up, or for SIGTERM or SIGINT, which it takes over."""

    def __init__(self, descriptors: Iterable[int]) -> None:
        """Watch the rings' descriptors. Belongs to the main thread, which alone may handle signals."""
        self.stopping = False
        self._epoll = select.epoll()
        for fd in descriptors:
            # Edge-triggered: a ring counts as readable while its consumer position lags, and it does so on purpose.
            # A ring in an ordinary file cannot be waited on: such a ring is looked at when the time is over.
            with contextlib.suppress(PermissionError):
                self._epoll.register(fd, select.EPOLLIN | select.EPOLLET)
        # A handler alone would not end epoll_wait: Python goes on waiting after it (PEP 475).
        self._signalled, self._signal = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._epoll.register(self._signalled, select.EPOLLIN)
        self._wakeup_before = signal.set_wakeup_fd(self._signal, warn_on_full_buffer=False)
        self._handlers_before = {
            number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)
        }

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.stopping = True

    def wait(self, wait: Wait) -> None:
        """Return when the time is over or something happened."""
        if not self.stopping and wait.seconds > 0:
            self._epoll.poll(wait.seconds)

    def close(self) -> None:
        """Give the signals back and close what was opened."""
        for number, handler in self._handlers_before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        self._epoll.close()
        os.close(self._signalled)
        os.close(self._signal)
