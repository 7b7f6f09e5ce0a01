"""Limit how often one thing is done for one key, for example how often ``/proc`` is read about one pid.

The caller does the thing, and decides what a refusal means.
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

    def allow(self, key: _K) -> bool:
        """Return whether the key may be used now, and count the use. A refusal does not extend the window."""
        now = self._clock()
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
