"""Limit how often something is done. The caller does it, and decides what a refusal means.

`RateLimiter` is for work about one of many keys, such as reading ``/proc`` about a pid. Each key has its own allowance,
and keys that were not used for a long time are forgotten. `TokenBucket` is for the work of all together, such as
answering questions: it says how many uses are left, so that the caller can do as many at once.

The relay of the stream limits each connection in the same way as `TokenBucket`, but in fields of its compiled `Client`
(`pipeline.bus._relay`), because its thread never holds the GIL.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

_K = TypeVar("_K", bound=Hashable)


class RateLimiter(Generic[_K]):
    """Allows a number of uses for each key in each window of time. For one thread at a time.

    Args:
        capacity: keys remembered, the last used ones. A forgotten key starts a new window.
        period_ns: length of a window, from its first use.
        allowance: uses in a window.
        clock: monotonic, in ns.

    Raises:
        ValueError: `capacity` or `allowance` is not positive.

    Source: specification 3.7.
    """

    def __init__(
        self, capacity: int, period_ns: int, allowance: int = 1, clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        if capacity < 1 or allowance < 1:
            raise ValueError(f"capacity {capacity} and allowance {allowance} must be positive")
        self._capacity = capacity
        self._allowance = allowance
        self._period_ns = period_ns
        self._clock = clock
        self._windows: OrderedDict[_K, list[int]] = OrderedDict()  # key -> [count, start of the window]

    def allow(self, key: _K, now_ns: int | None = None) -> bool:
        """Return whether the key may be used now, and count the use. A refusal does not extend the window.

        Args:
            key: what is used.
            now_ns: the time, if the caller has read the clock already.
        """
        now = self._clock() if now_ns is None else now_ns
        window = self._windows.get(key)
        if window is None or now - window[1] >= self._period_ns:
            self._windows[key] = [1, now]
            self._windows.move_to_end(key)
            if len(self._windows) > self._capacity:
                self._windows.popitem(last=False)
            return True
        self._windows.move_to_end(key)
        if window[0] < self._allowance:
            window[0] += 1
            return True
        return False


class TokenBucket:
    """Allows `rate_per_s` uses a second on average and `burst` at once."""

    def __init__(self, rate_per_s: float, burst: int) -> None:
        self._ns_per_token = 1e9 / rate_per_s
        self._burst = burst
        self._tokens = float(burst)
        self._filled_ns = 0

    def available(self, now_ns: int) -> int:
        """Return how many uses are left now."""
        if self._filled_ns:
            gained = (now_ns - self._filled_ns) / self._ns_per_token
            self._tokens = min(float(self._burst), self._tokens + max(0.0, gained))
        self._filled_ns = now_ns
        return int(self._tokens)

    def spend(self, count: int = 1) -> None:
        """Count uses; the caller has checked that they are available."""
        self._tokens -= count
