"""Which numbers of a topic are stored: few intervals, because numbers arrive in order."""

from __future__ import annotations

from bisect import bisect_right


class Numbers:
    """A set of numbers as sorted, separate intervals [first, next).

    Example:
        >>> numbers = Numbers([(1, 5)])
        >>> numbers.missing(3, 8)
        [(5, 8)]
        >>> numbers.add(7, 8)
        >>> numbers.intervals
        [(1, 5), (7, 8)]
        >>> numbers.holes()
        [(5, 7)]
    """

    __slots__ = ("_firsts", "_nexts")

    def __init__(self, intervals: list[tuple[int, int]] | None = None) -> None:
        self._firsts: list[int] = []
        self._nexts: list[int] = []
        for first, after in sorted(intervals or []):
            self.add(first, after)

    @property
    def intervals(self) -> list[tuple[int, int]]:
        """The intervals in order."""
        return list(zip(self._firsts, self._nexts, strict=True))

    def __len__(self) -> int:
        return len(self._firsts)

    def missing(self, first: int, after: int) -> list[tuple[int, int]]:
        """Return the parts of [first, after) that are not in the set."""
        found = []
        place = max(bisect_right(self._firsts, first) - 1, 0)
        while first < after:
            if place < len(self._firsts) and self._nexts[place] <= first:
                place += 1
                continue
            begin = self._firsts[place] if place < len(self._firsts) else after
            if begin > first:
                found.append((first, min(begin, after)))
            if place >= len(self._firsts):
                break
            first = max(first, self._nexts[place])
            place += 1
        return found

    def add(self, first: int, after: int) -> None:
        """Add [first, after)."""
        if first >= after:
            return
        begin = bisect_right(self._firsts, first)
        if begin and self._nexts[begin - 1] >= first:
            begin -= 1
            first = self._firsts[begin]
        end = begin
        while end < len(self._firsts) and self._firsts[end] <= after:
            after = max(after, self._nexts[end])
            end += 1
        self._firsts[begin:end] = [first]
        self._nexts[begin:end] = [after]

    def holes(self) -> list[tuple[int, int]]:
        """Return the intervals between the first and the last number that are not in the set."""
        return list(zip(self._nexts[:-1], self._firsts[1:], strict=True))
