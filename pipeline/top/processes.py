"""The processes of one moment, from the images in the tables.

A row of the tables is one image of one process: a fork begins an image, and each exec begins another one. The images
contain their times, so the processes of any retained moment follow from them, of the present as of the past.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from pipeline.host.boot import TICK_NS
from pipeline.shm.layout.declared import ROW_IS_EXEC, ROW_REPLACED

if TYPE_CHECKING:
    import numpy.typing as npt

Numbers: TypeAlias = "npt.NDArray[np.int64]"
Times: TypeAlias = "npt.NDArray[np.uint64]"
Mask: TypeAlias = "npt.NDArray[np.bool_]"


@dataclass(frozen=True)
class Processes:
    """The processes of one moment: those that live, and those that ended shortly before. Arrays have one element each.

    Attributes:
        now_boot_ns: the moment.
        rows: dtype HOT; the image that each process had then. Ordered by start, and by pid within one start time.
        links: of these images, ``number | generation << 32``.
        began_boot_ns: when the image began.
        ended_boot_ns: when the process ended; 0: it lives.
        parents: position of the parent; -1: it is not among the processes.
    """

    now_boot_ns: int
    rows: npt.NDArray[np.void]
    links: Times
    began_boot_ns: Times
    ended_boot_ns: Times
    parents: Numbers

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def starts_boot_ns(self) -> Times:
        """When each process started."""
        return np.ascontiguousarray(self.rows["start_boot_ns"])

    @cached_property
    def pids(self) -> npt.NDArray[np.uint32]:
        """Entry of the index of each process: its pid, unless a tracer reported it."""
        return np.ascontiguousarray(self.rows["tgid"])

    @cached_property
    def identities(self) -> list[tuple[int, int]]:
        """(start, pid) of each process, as Python numbers."""
        return list(zip(self.starts_boot_ns.tolist(), self.pids.tolist(), strict=True))

    @cached_property
    def link_list(self) -> list[int]:
        """`links` as Python numbers."""
        numbers: list[int] = self.links.tolist()
        return numbers

    @cached_property
    def sequences(self) -> list[int]:
        """Sequence number of the row of each process."""
        numbers: list[int] = self.rows["row_seq"].tolist()
        return numbers

    @cached_property
    def live_count(self) -> int:
        """Number of processes that live."""
        return int(np.count_nonzero(self.ended_boot_ns == 0))

    def find(self, start_boot_ns: int, pid: int) -> int:
        """Return the position of a process; -1: it is not here."""
        first = int(np.searchsorted(self.starts_boot_ns, np.uint64(start_boot_ns), side="left"))
        while first < len(self) and int(self.starts_boot_ns[first]) == start_boot_ns:
            if int(self.pids[first]) == pid:
                return first
            first += 1
        return -1

    def below(self, position: int) -> Mask:
        """Return which processes are in the subtree of one process, itself among them."""
        inside = np.zeros(len(self), np.bool_)
        inside[position] = True
        edge = np.array([position])
        children, offsets = self.families
        while len(edge):
            edge = np.concatenate([children[offsets[each] : offsets[each + 1]] for each in edge.tolist()])
            inside[edge] = True
        return inside

    @cached_property
    def families(self) -> tuple[Numbers, Numbers]:
        """(children, offsets): children[offsets[i]:offsets[i + 1]] are those of process i, by start."""
        return arranged(self.parents, np.arange(len(self)), len(self))


def arranged(parents: Numbers, order: Numbers, count: int) -> tuple[Numbers, Numbers]:
    """Sort positions by parent, and within a family as in `order`.

    Args:
        parents: of each process; -1: none.
        order: the positions that take part.
        count: number of processes.

    Returns:
        (children, offsets) as `Processes.families`; those without a parent are not contained.
    """
    of = parents[order]
    by_parent = np.argsort(of, kind="stable")
    of = of[by_parent]
    first = int(np.searchsorted(of, 0))
    offsets = np.searchsorted(of[first:], np.arange(count + 1))
    return order[by_parent[first:]], offsets


def processes_at(
    numbers: npt.NDArray[np.uint32],
    rows: npt.NDArray[np.void],
    now_boot_ns: int,
    keep_ns: int,
    *,
    is_past: bool = False,
) -> Processes:
    """Arrange images as the processes of one moment.

    Args:
        numbers: of the rows.
        rows: what `TableReader.images` returned, with all images that ended after now - keep.
        now_boot_ns: the moment.
        keep_ns: how long processes stay after their end.
        is_past: later images are in the rows too, and a parent may be one that had not adopted the process yet.
    """
    flags = rows["flags"]
    starts = rows["start_boot_ns"]
    began = np.where((flags & ROW_IS_EXEC != 0) & (rows["exec_boot_ns"] != 0), rows["exec_boot_ns"], starts)
    ends = rows["exit_boot_ns"]
    if is_past:
        # The first image of a process is kept if it had begun. One that is loaded repeatedly has the time of its last
        # exec; it is kept as the only image that the process has.
        chosen = np.flatnonzero(starts <= np.uint64(now_boot_ns))
        late = began[chosen] > np.uint64(now_boot_ns)
    else:
        chosen = np.arange(len(rows))
        late = np.zeros(len(rows), np.bool_)
    # The newest image of each process that is not late; a late one only if there is no other.
    keys = (rows["images"][chosen], ~late, starts[chosen], rows["tgid"][chosen])
    chosen = chosen[np.lexsort(keys)]
    pids, begins = rows["tgid"][chosen], starts[chosen]
    is_last = np.ones(len(chosen), np.bool_)
    is_last[:-1] = (pids[1:] != pids[:-1]) | (begins[1:] != begins[:-1])
    chosen = chosen[is_last]
    ended = ends[chosen].copy()
    # A replaced image without a newer one: the exec happened later, or while the rows were read.
    ended[(flags[chosen] & ROW_REPLACED) != 0] = 0
    if is_past:
        ended[ended > np.uint64(now_boot_ns)] = 0
    keep = (ended == 0) | (ended > np.uint64(max(0, now_boot_ns - keep_ns)))
    chosen, ended = chosen[keep], ended[keep]
    by_pid = rows[chosen]
    links = numbers[chosen].astype(np.uint64) | by_pid["generation"].astype(np.uint64) << np.uint64(32)
    parents = _parents(by_pid)
    if is_past:
        _return_to_creators(parents, by_pid, ended, numbers, rows)
    order = np.argsort(by_pid["start_boot_ns"], kind="stable")
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    parents = parents[order]
    parents[parents >= 0] = place[parents[parents >= 0]]
    return Processes(now_boot_ns, by_pid[order], links[order], began[chosen][order], ended[order], parents)


def _parents(rows: npt.NDArray[np.void]) -> Numbers:
    """Return the position of the current parent of each row; the rows are sorted by pid, then by start."""
    pids, starts, ppids = rows["tgid"], rows["start_boot_ns"], rows["ppid"]
    found = np.searchsorted(pids, ppids, side="right") - 1
    # Starts from /proc are rounded to a clock tick, so a parent can appear to be this much younger than its child.
    latest = starts + np.uint64(TICK_NS)
    while True:
        is_owner = (found >= 0) & (pids[found] == ppids)
        # The pid has had a new owner since the process became its child: take the one before.
        is_younger = is_owner & (starts[found] > latest)
        if not is_younger.any():
            break
        found[is_younger] -= 1
    found[~is_owner | (found == np.arange(len(rows)))] = -1
    return found


def _return_to_creators(
    parents: Numbers,
    by_pid: npt.NDArray[np.void],
    ended: Times,
    numbers: npt.NDArray[np.uint32],
    rows: npt.NDArray[np.void],
) -> None:
    """Undo adoptions that had not happened: a process whose creator lived then was its child."""
    creators = by_pid["creator"]
    at = np.searchsorted(numbers, (creators & np.uint64(0xFFFFFFFF)).astype(np.uint32))
    at[at == len(numbers)] = 0
    is_image = (numbers[at] == creators & np.uint64(0xFFFFFFFF)) & (rows["generation"][at] == creators >> np.uint64(32))
    # The creating image belongs to a process; find the place of that process among those sorted by pid and start.
    place = np.searchsorted(by_pid["tgid"], rows["tgid"][at], side="left")
    for position in np.flatnonzero(is_image).tolist():
        image = rows[at[position]]
        owner = int(place[position])
        while owner < len(by_pid) and by_pid["tgid"][owner] == image["tgid"]:
            if by_pid["start_boot_ns"][owner] == image["start_boot_ns"]:
                if ended[owner] == 0 and owner != position:
                    parents[position] = owner
                break
            owner += 1
