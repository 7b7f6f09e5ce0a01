"""Keep one object for equal strings: processes share most of their arguments and environment with each other.

Covers a bounded interner of immutable values. Leaves out the strings of the shared tables: those are interned in the
arena (`pipeline.shm`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

CAPACITY = 8192


class Interner[T: (str, bytes)]:
    """An LRU of values; the least recently used leaves. One user at a time.

    Args:
        capacity: values kept. Values that left stay alive in whoever holds them, they are only no longer shared.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        if capacity < 1:
            raise ValueError(f"capacity {capacity} must be positive")
        self._capacity = capacity
        self._values: OrderedDict[T, T] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def intern(self, value: T) -> T:
        """The object that stands for this value; `value` itself when it is new."""
        known = self._values.get(value)
        if known is not None:
            self._values.move_to_end(value)
            return known
        self._values[value] = value
        if len(self._values) > self._capacity:
            self._values.popitem(last=False)
        return value

    def intern_all(self, values: Iterable[T]) -> list[T]:
        """`intern` of each."""
        return [self.intern(value) for value in values]
