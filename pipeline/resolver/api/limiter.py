"""Limit how often one thing is done for one key: procfs is asked about a process at most so often.

Covers counting and windows. Leaves out the thing itself, and what a refusal is counted as.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

CAPACITY = 128
ALLOWANCE = 1
PERIOD_NS = 30 * 1_000_000_000


class Limiter[K: Hashable]:
    """Allows `allowance` uses per key and period, for the `capacity` keys used last. One user at a time.

    Args:
        capacity: keys remembered; a key that was pushed out starts afresh.
        allowance: uses per window.
        period_ns: length of a window, from its first use.
        clock: monotonic, in ns.

    Source: specification 3.7.
    """

    def __init__(
        self,
        capacity: int = CAPACITY,
        allowance: int = ALLOWANCE,
        period_ns: int = PERIOD_NS,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        if capacity < 1 or allowance < 1:
            raise ValueError(f"capacity {capacity} and allowance {allowance} must be positive")
        self._capacity = capacity
        self._allowance = allowance
        self._period_ns = period_ns
        self._clock = clock
        self._windows: OrderedDict[K, list[int]] = OrderedDict()  # key -> [count, start of the window]

    def allow(self, key: K) -> bool:
        """Whether the key may be used now; a yes counts as a use. A refusal does not extend the window."""
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
