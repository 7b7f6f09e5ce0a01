"""Who is spawning all this: forks, execs and exits a second, by executable, unit, user or spawning process.

The images in the tables contain when they began and ended. An image that began and ended between two readings is
retained, so these counts include processes that lived for a microsecond. A fork belongs to the program that called
fork, an exec to the program that was executed, an exit to the program that ended.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from pipeline.shm.layout.declared import ROW_IS_EXEC, ROW_REPLACED, ROW_SCRIPT
from pipeline.top.sparks import HISTORY

if TYPE_CHECKING:
    import numpy.typing as npt

#: A rate is the mean over this many readings.
SMOOTHED = 4
#: Groups that are kept; the quietest ones are dropped first.
GROUPS_MAX = 512
_KINDS = 3


@dataclass(slots=True)
class Group:
    """The events of one group.

    Attributes:
        name: of the group.
        totals: forks, execs and exits since the start of the count.
        recent: (forks, execs, exits, seconds) of the last readings, oldest first.
    """

    name: str
    totals: list[int] = field(default_factory=lambda: [0] * _KINDS)
    recent: deque[tuple[int, int, int, float]] = field(default_factory=lambda: deque(maxlen=HISTORY))

    def rates(self) -> tuple[float, float, float]:
        """Return forks, execs and exits a second, of the last readings."""
        last = list(self.recent)[-SMOOTHED:]
        seconds = sum(reading[3] for reading in last)
        if not seconds:
            return 0.0, 0.0, 0.0
        forks, execs, exits = (sum(reading[kind] for reading in last) / seconds for kind in range(_KINDS))
        return forks, execs, exits

    def history(self) -> list[float]:
        """Return events a second of each reading, oldest first."""
        return [(forks + execs + exits) / seconds if seconds else 0.0 for forks, execs, exits, seconds in self.recent]


class Rates:
    """Counts by group.

    Args:
        grouping: one of GROUPINGS.
        name: returns the name of the group of an image, by grouping, link, rows and place of its row.

    Attributes:
        groups: by name.
        last: forks, execs and exits of the last reading, and how many seconds it covers.
    """

    def __init__(self, grouping: str, name: Callable[[str, int, npt.NDArray[np.void], int], str]) -> None:
        self.grouping = grouping
        self._name = name
        self._until_ns = 0
        self.groups: dict[str, Group] = {}
        self.last: tuple[int, int, int, float] = (0, 0, 0, 0.0)

    def restart(self) -> None:
        """Forget everything, after a jump in time."""
        self._until_ns = 0
        self.last = (0, 0, 0, 0.0)
        self.groups.clear()

    def count(self, numbers: npt.NDArray[np.uint32], rows: npt.NDArray[np.void], until_boot_ns: int) -> None:
        """Count what happened since the previous call.

        Args:
            numbers: of the rows.
            rows: images, with all that lived or ended since then.
            until_boot_ns: everything that happened before is in the rows.
        """
        since, self._until_ns = self._until_ns, max(self._until_ns, until_boot_ns)
        if not since or until_boot_ns <= since:
            return
        seconds = (until_boot_ns - since) / 1e9
        found: dict[str, list[int]] = {}
        happened = [np.flatnonzero(mask) for mask in happenings(rows, since, until_boot_ns)]
        self.last = len(happened[0]), len(happened[1]), len(happened[2]), seconds
        for kind, places in enumerate(happened):
            if not len(places):
                continue
            _, first, counts = np.unique(self._keys(rows[places]), return_index=True, return_counts=True)
            for place, count in zip(places[first].tolist(), counts.tolist(), strict=True):
                link = int(numbers[place]) | int(rows["generation"][place]) << 32
                name = self._name(self.grouping, link, rows, place)
                found.setdefault(name, [0] * _KINDS)[kind] += count
        for name in found:
            if name not in self.groups:
                self.groups[name] = Group(name)
        for name, group in self.groups.items():
            forks, execs, exits = found.get(name, (0, 0, 0))
            group.recent.append((forks, execs, exits, seconds))
            for kind, number in enumerate((forks, execs, exits)):
                group.totals[kind] += number
        if len(self.groups) > GROUPS_MAX:
            quiet = sorted(self.groups.values(), key=lambda group: (sum(group.history()), sum(group.totals)))
            for group in quiet[: len(self.groups) - GROUPS_MAX]:
                del self.groups[group.name]

    def busiest(self) -> list[Group]:
        """Return the groups that have done anything lately, the busiest first."""
        ranked = [(sum(group.rates()), sum(group.history()), group) for group in self.groups.values()]
        ranked = [each for each in ranked if each[1]]
        return [group for _, _, group in sorted(ranked, key=lambda each: (-each[0], -each[1], each[2].name))]

    def _keys(self, rows: npt.NDArray[np.void]) -> npt.NDArray[np.uint64]:
        """Return a number for each row; rows with the same number belong to the same group."""
        if self.grouping == "unit":
            return np.ascontiguousarray(rows["cgroup_id"])
        if self.grouping == "user":
            return rows["uid"].astype(np.uint64)
        if self.grouping == "spawner":
            return np.ascontiguousarray(rows["creator"])
        keys = rows["file_ref"].astype(np.uint64)
        # All scripts of one interpreter are one file, and an image without a file has only its name.
        is_named = (rows["flags"] & ROW_SCRIPT != 0) | (keys == 0)
        if is_named.any():
            names = np.ascontiguousarray(rows["comm"][is_named]).view(np.uint64).reshape(-1, 2)
            keys[is_named] ^= names[:, 0] * np.uint64(0x9E3779B97F4A7C15) ^ names[:, 1] * np.uint64(0xC2B2AE3D27D4EB4F)
        return keys


def happenings(
    rows: npt.NDArray[np.void], since_boot_ns: int, until_boot_ns: int
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return which images a fork began, which an exec began, and which the end of a process ended in a period."""
    since, until = np.uint64(since_boot_ns), np.uint64(until_boot_ns)

    def is_within(times: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        return (times > since) & (times <= until)

    flags = rows["flags"]
    is_exec = flags & ROW_IS_EXEC != 0
    return (
        ~is_exec & is_within(rows["start_boot_ns"]),
        is_exec & is_within(rows["exec_boot_ns"]),
        (flags & ROW_REPLACED == 0) & is_within(rows["exit_boot_ns"]),
    )
