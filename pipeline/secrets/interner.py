"""Keep one object for equal strings, because processes share most of their arguments and environment.

The interner is bounded. Strings of the shared tables are interned in the arena (`pipeline.shm`) instead.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Generic, TypeVar

CAPACITY = 8192

_T = TypeVar("_T", str, bytes)


class Interner(Generic[_T]):
    """An LRU cache of immutable values: the least recently used is evicted. Not thread-safe.

    Args:
        capacity: maximum number of values. Holders of an evicted value keep it, but it is no longer shared.

    Raises:
        ValueError: the capacity is not positive.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        if capacity < 1:
            raise ValueError(f"capacity: expected a positive number, got {capacity}")
        self._capacity = capacity
        self._values: OrderedDict[_T, _T] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def intern(self, value: _T) -> _T:
        """Return the object for this value; `value` itself if it is new."""
        known = self._values.get(value)
        if known is not None:
            self._values.move_to_end(value)
            return known
        self._values[value] = value
        if len(self._values) > self._capacity:
            self._values.popitem(last=False)
        return value

    def intern_all(self, values: Iterable[_T]) -> list[_T]:
        """Return the objects for these values, as `intern` does."""
        return [self.intern(value) for value in values]
