"""Assign slots of the index to (pid, pid namespace) keys, and reclaim them as late as possible.

A slot belongs to its key as an entry of the pid index belongs to its pid: all successive processes with this number in
this namespace are found there. _keys.pyx implements the hash.

Slots are reclaimed only when none is free. First come the slots of evicted processes. If there are none, the
slots of the processes that ended first are reclaimed; these processes become history without an index entry, as after a
reuse of a pid. A slot is never reclaimed if a retained row names it as parent or creator, or if a process waits for its
owner as its parent. Nor is a slot that was requested within QUIET_NS, because its events may still be under way.
Requests that still find no slot are counted (`keys_refused`).

A number in the daemon's own pid namespace is a pid and needs no slot.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from pipeline.shm.layout import layout
from pipeline.shm.writer._writer import TableWriter

if TYPE_CHECKING:
    import numpy.typing as npt

QUIET_NS = 10_000_000_000
#: Minimum time before a pass over all rows is repeated that found no slot.
_AGAIN_NS = 1_000_000_000


class KeySpace:
    """Slots of one writer's tables.

    Args:
        tables: tables of which this process is the writer.
        now_boot_ns: returns the boot clock, ns.
        is_awaited: returns whether a process waits for the owner of an index entry.
        quiet_ns: how long a slot is kept after it was requested.
    """

    def __init__(
        self,
        tables: TableWriter,
        now_boot_ns: Callable[[], int],
        *,
        is_awaited: Callable[[int], bool] = lambda tgid: False,
        quiet_ns: int = QUIET_NS,
    ) -> None:
        self._tables = tables
        self._keys = tables.keys
        self._own_ns = int(tables.control_view()[0]["pid_ns"])
        self._now_boot_ns = now_boot_ns
        self._is_awaited = is_awaited
        self._quiet_ns = quiet_ns
        # Treat all requests to a predecessor as made now.
        self._asked_ns = np.full(tables.keys.capacity, now_boot_ns(), np.uint64)
        self._reclaimed_ns = 0

    def find(self, pid: int, pid_ns: int) -> int:
        """Return the index entry of a key; 0 if it has none."""
        if pid_ns == self._own_ns:
            return pid if pid < self._tables.root_pids else 0
        return self._keys.find(pid, pid_ns)

    def slot(self, pid: int, pid_ns: int) -> int:
        """Return the index entry of a key, assigning one if needed; 0 for pid 0, or if there is no room."""
        if pid == 0:
            return 0
        if pid_ns == self._own_ns:
            return self.find(pid, pid_ns)
        slot = self._keys.find(pid, pid_ns) or self._keys.add(pid, pid_ns)
        if not slot and self._make_room():
            slot = self._keys.add(pid, pid_ns)
        if slot:
            self._asked_ns[slot - self._keys.first] = self._now_boot_ns()
        else:
            self._tables.count("keys_refused")
        return slot

    def _make_room(self) -> bool:
        now = self._now_boot_ns()
        if self._reclaimed_ns and now - self._reclaimed_ns < _AGAIN_NS:
            return False
        self._reclaimed_ns = now
        slots = self._spare(now)
        for slot in slots:
            self._tables.forget_head(self._keys.first + slot)
        self._keys.remove(slots)
        self._tables.count("keys_recycled", len(slots))
        if slots:
            self._reclaimed_ns = 0
        return bool(slots)

    def _spare(self, now: int) -> list[int]:
        """Return slots that may be reclaimed; at most an eighth of all slots if the index still names their rows."""
        first, capacity = self._keys.first, self._keys.capacity
        frontier = self._tables.rows_frontier
        hot, cold = self._tables.hot_view()[:frontier], self._tables.cold_view()[:frontier]
        is_foreign = hot["flags"] & layout.ROW_FOREIGN != 0
        is_idle = (self._keys.view() != 0) & (self._asked_ns + np.uint64(self._quiet_ns) <= np.uint64(now))
        for named in (hot["ppid"][is_foreign], cold["creator_tgid"][is_foreign]):
            is_idle[named[(named >= first) & (named < first + capacity)] - first] = False
        heads = self._tables.index_view()[first : first + capacity]
        unnamed = self._unawaited(is_idle & (heads == 0))
        if unnamed:
            return unnamed
        ends = hot["exit_boot_ns"][heads]
        ended = self._unawaited(is_idle & (ends != 0))
        return sorted(ended, key=lambda slot: int(ends[slot]))[: max(1, capacity // 8)]

    def _unawaited(self, wanted: npt.NDArray[np.bool_]) -> list[int]:
        first = self._keys.first
        return [slot for slot in np.flatnonzero(wanted).tolist() if not self._is_awaited(first + slot)]
