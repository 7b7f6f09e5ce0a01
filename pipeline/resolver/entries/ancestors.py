"""Walk along the ancestors of an event's process. Fork and exec edges both count."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from pipeline.resolver.entries.cache_entry import ProcessCacheEntry


class ProcessAncestorsIterator:
    """The ancestors of an event's process, nearest first.

    Args:
        root: the process' entry; the walk begins with its ancestor. None: there are no ancestors.
    """

    def __init__(self, root: ProcessCacheEntry | None) -> None:
        self._root = root
        self._first = root.ancestor if root is not None else None
        self._current: ProcessCacheEntry | None = None
        self._at: tuple[int, ProcessCacheEntry] | None = None

    def front(self) -> ProcessCacheEntry | None:
        """Return the direct ancestor and restart the walk there."""
        self._current = self._first
        return self._current

    def next(self) -> ProcessCacheEntry | None:
        """Return the ancestor of the last one; None at the end."""
        if self._current is not None:
            self._current = self._current.ancestor
        return self._current

    def at(self, position: int) -> ProcessCacheEntry | None:
        """Return the ancestor at a position, 0 is the direct one; None: the chain is shorter, or it is negative.

        The last position is remembered, so a loop over rising positions walks the chain once.
        """
        number, entry = 0, self._first if position >= 0 else None
        if self._at is not None and self._at[0] <= position:
            number, entry = self._at
        while entry is not None and number < position:
            entry = entry.ancestor
            number += 1
        if entry is not None:
            self._at = (number, entry)
        return entry

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[ProcessCacheEntry]:
        # `chain` has a limit, so this ends even where a caller has linked entries to a ring.
        return islice(self._root.chain(), 1, None) if self._root is not None else iter(())
