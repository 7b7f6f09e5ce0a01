"""The lines of the screen: which processes are shown, in which order, and how deep they are in the tree."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from pipeline.top.processes import Mask, Numbers, Processes, arranged

if TYPE_CHECKING:
    import numpy.typing as npt

#: The tree shows this many ended processes without children of each family, the last ones to end.
ENDED_SHOWN = 8


@dataclass(frozen=True)
class Lines:
    """The lines, from top to bottom. Arrays have one element for each line.

    Attributes:
        processes: what the lines show.
        positions: the process of each line.
        depths: levels above it; zeros in a list.
        is_match: whether it is shown for its own sake, not for a descendant; None: all are.
        ended_hidden: by position of a parent, how many of its ended children have no line.
        folded: positions of the processes with folded children.
        place: by position of a process, its index among the children; -1: no line, or no parent.
        children: of all families, one after the other.
    """

    processes: Processes
    positions: Numbers
    depths: Numbers
    is_match: Mask | None = None
    ended_hidden: dict[int, int] = field(default_factory=dict)
    folded: Collection[int] = ()
    place: Numbers | None = None
    children: Numbers | None = None

    def __len__(self) -> int:
        return len(self.positions)

    def find(self, position: int) -> int:
        """Return the line of a process; -1: it has none."""
        found = np.flatnonzero(self.positions == position)
        return int(found[0]) if len(found) else -1

    def hidden_below(self, position: int) -> int:
        """Return how many processes a folded process hides."""
        return int(np.count_nonzero(self.processes.below(position))) - 1 if position in self.folded else 0

    def branches(self, line: int, limit: int | None = None) -> list[bool]:
        """Return for each level from the top down to the line whether the branch continues below the line.

        Args:
            line: number of the line.
            limit: at most this many levels, those next to the line; None: all.
        """
        if self.place is None or self.children is None:
            return []
        parents, place, children = self.processes.parents, self.place, self.children
        at, continues = int(self.positions[line]), []
        levels = int(self.depths[line])
        for _ in range(levels if limit is None else min(levels, limit)):
            after = int(place[at]) + 1
            continues.append(after < len(children) and int(parents[children[after]]) == int(parents[at]))
            at = int(parents[at])
        return continues[::-1]


def list_lines(processes: Processes, keys: npt.NDArray[np.generic] | None, keep: Mask | None, reverse: bool) -> Lines:
    """Return the processes as a list, ordered by `keys` (None: by start)."""
    positions = _ordered(len(processes), keys, reverse)
    if keep is not None:
        positions = positions[keep[positions]]
    return Lines(processes, positions, np.zeros(len(positions), np.int64))


def tree_lines(
    processes: Processes,
    keys: npt.NDArray[np.generic] | None,
    keep: Mask | None,
    reverse: bool,
    folded: Collection[int] = (),
) -> Lines:
    """Return the processes as a tree.

    Args:
        processes: what to show.
        keys: the order of each family; None: by start.
        keep: the processes that are wanted; their ancestors are shown too.
        reverse: order from the highest key to the lowest.
        folded: positions of processes with hidden descendants.
    """
    count = len(processes)
    shown = np.ones(count, np.bool_) if keep is None else with_ancestors(processes, keep)
    hidden = _drop_ended(processes, shown)
    order = _ordered(count, keys, reverse)
    order = order[shown[order]]
    children, offsets = arranged(processes.parents, order, count)
    place = np.full(count, -1, np.int64)
    place[children] = np.arange(len(children))
    roots = order[processes.parents[order] < 0].tolist()
    positions, depths = _walk(roots, children.tolist(), offsets.tolist(), frozenset(folded))
    if not folded and len(positions) < len(order):
        # Rows that were read at different moments can name each other as parents: show them all the same.
        missed = np.setdiff1d(order, np.array(positions, np.int64), assume_unique=True)
        positions += missed.tolist()
        depths += [0] * len(missed)
    lines = np.array(positions, np.int64)
    return Lines(
        processes, lines, np.array(depths, np.int64), None if keep is None else keep[lines], hidden,
        folded, place, children,
    )  # fmt: skip


def with_ancestors(processes: Processes, keep: Mask) -> Mask:
    """Return the processes of a mask and their ancestors."""
    shown = keep.copy()
    edge = np.flatnonzero(keep)
    while len(edge):
        above = processes.parents[edge]
        above = np.unique(above[above >= 0])
        edge = above[~shown[above]]
        shown[edge] = True
    return shown


def _ordered(count: int, keys: npt.NDArray[np.generic] | None, reverse: bool) -> Numbers:
    """Return all positions in order; equal keys stay in order of start."""
    if keys is None:
        return np.arange(count)[::-1] if reverse else np.arange(count)
    if reverse:
        return count - 1 - np.argsort(keys[::-1], kind="stable")[::-1]
    return np.argsort(keys, kind="stable")


def _drop_ended(processes: Processes, shown: Mask) -> dict[int, int]:
    """Remove most of the ended processes of large families from a mask; return how many, by position of the parent."""
    is_parent = np.zeros(len(processes), np.bool_)
    of = processes.parents[shown]
    is_parent[of[of >= 0]] = True
    ended = np.flatnonzero(shown & ~is_parent & (processes.ended_boot_ns != 0) & (processes.parents >= 0))
    if len(ended) <= ENDED_SHOWN:
        return {}
    parents = processes.parents[ended]
    last_first = np.lexsort((-processes.ended_boot_ns[ended].astype(np.int64), parents))
    ended, parents = ended[last_first], parents[last_first]
    rank = np.arange(len(ended)) - np.searchsorted(parents, parents)
    dropped = rank >= ENDED_SHOWN
    shown[ended[dropped]] = False
    families, counts = np.unique(parents[dropped], return_counts=True)
    return dict(zip(families.tolist(), counts.tolist(), strict=True))


def _walk(
    roots: list[int], children: list[int], offsets: list[int], folded: frozenset[int]
) -> tuple[list[int], list[int]]:
    positions: list[int] = []
    depths: list[int] = []
    waiting = [(root, 0) for root in reversed(roots)]
    while waiting:
        position, depth = waiting.pop()
        positions.append(position)
        depths.append(depth)
        first, last = offsets[position], offsets[position + 1]
        if first != last and position not in folded:
            depth += 1
            waiting += [(child, depth) for child in reversed(children[first:last])]
    return positions, depths
