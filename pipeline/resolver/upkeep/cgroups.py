"""Name the cgroups of the tables: find the path and the container for the ids in rows.

Names come from the records of moves and of new cgroups, before the event of the record is published; from every reading
of ``/proc``; and, if neither had the name, from the cgroup file systems. _cgroups.pyx writes the names into rows;
containers.py and hierarchies.py walk the file systems.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from pipeline.procfs.containers import CgroupTree, Container, container_of_cgroups, container_of_path
from pipeline.procfs.hierarchies import Hierarchies
from pipeline.records.cgroup_sets import cgroup_set
from pipeline.records.declared import MEMBER_LAYOUT, NAMED_CGROUP_LAYOUT
from pipeline.resolver.apply._cgroups import CgroupNames

#: Attempts to find a cgroup, which may be gone already. They last longer than the time between two walks.
TRIES = 25
#: Number of containers for which the creation time is remembered.
MADE_MAX = 16384

_NAMED_CGROUP = NAMED_CGROUP_LAYOUT.struct(
    "named_id", "named_hierarchy", "named_path_bytes", "named_members", whole=True
)
_MEMBER = MEMBER_LAYOUT.struct("member_id", "member_hierarchy", whole=True)


class CgroupNamer:
    """Finds the names that `CgroupNames` needs, and learns those in records. A part of the resolver's housekeeping.

    Args:
        names: of the applier.
        tree: finds paths of version 2.
        hierarchies: those of version 1; None: the records are not about this host.
        learns: whether records name cgroups as ``/proc`` does, so that their names are learned.
    """

    def __init__(
        self, names: CgroupNames, tree: CgroupTree, hierarchies: Hierarchies | None = None, *, learns: bool = True
    ) -> None:
        self._names = names
        self._tree = tree
        self._hierarchies = hierarchies
        self._tries: dict[int, tuple[int, int]] = {}
        self._made: dict[str, int] = {}
        names.on_record = self.learn_from_record if learns else None

    @property
    def is_waiting(self) -> bool:
        """Whether there are cgroups without a name that are tried again."""
        return bool(self._tries)

    def __call__(self) -> None:
        """Name the cgroups that need it; those that are not found are tried again at the next calls."""
        for cgroup_id, tgid in self._names.take_wanted():
            self._tries.setdefault(cgroup_id, (tgid, 0))
        left: set[int] = set()
        for cgroup_id, (tgid, tries) in list(self._tries.items()):
            if self._find(cgroup_id, tgid) or tries + 1 >= TRIES:
                del self._tries[cgroup_id]
            else:
                self._tries[cgroup_id] = tgid, tries + 1
                if is_set(cgroup_id):
                    left.add(cgroup_id)
        if left:
            # Only the processes in a set know its cgroups. The one that was asked has moved on, so ask another.
            for cgroup_id, tgid in self._names.members_of(left).items():
                self._tries[cgroup_id] = tgid, self._tries[cgroup_id][1]

    def _find(self, cgroup_id: int, tgid: int) -> bool:
        if not is_set(cgroup_id):
            path = self._tree.path_of(cgroup_id, tgid)
            if path is not None:
                self.learn(cgroup_id, os.fsencode(path))
            return path is not None
        if self._hierarchies is None:
            return False
        # If the process has moved since, its cgroups are another set, with another number.
        found, text = self._hierarchies.set_of_process(tgid)
        if found == cgroup_id:
            self.learn(cgroup_id, text)
        return found == cgroup_id

    def learn(self, cgroup_id: int, path: bytes) -> None:
        """Learn names from ``/proc``.

        Args:
            cgroup_id: of a version 2 cgroup, or the `cgroup_set` of version 1 cgroups.
            path: of the cgroup; for a set, the whole of ``/proc/PID/cgroup``.
        """
        self.learn_all([(cgroup_id, path)])

    def learn_all(self, paths: Iterable[tuple[int, bytes]]) -> None:
        """Learn the names of many cgroups, by (id, path), as `learn` does. The rows are read once for all."""
        named = []
        for cgroup_id, path in paths:
            if is_set(cgroup_id):
                lines = [line for line in path.split(b"\n") if not line.startswith(b"0:")]
                container, own_path = container_of_cgroups(b"\n".join(lines)), b""
            else:
                text = os.fsdecode(path)
                self._tree.learn(cgroup_id, text)
                container, own_path = container_of_path(text), path
            number = container.container_id if container else ""
            made_boot_ns = self._container_made(number, own_path, 0) if own_path and number else 0
            named.append((cgroup_id, own_path, os.fsencode(number), made_boot_ns))
        self._names.name_all(named)

    def learn_from_record(self, strings: bytes, cgroups_v1: int, made_boot_ns: int) -> None:
        """Learn names from a CGROUP record.

        Args:
            strings: of the record, in the form of pipeline.records.declared.
            cgroups_v1: the set of version 1 cgroups of its process.
            made_boot_ns: when the cgroup was made; 0: the record is about a move.
        """
        if len(strings) < _NAMED_CGROUP.size:
            return
        named_id, hierarchy, path_bytes, count = _NAMED_CGROUP.unpack_from(strings)
        path_at = _NAMED_CGROUP.size + count * _MEMBER.size
        if path_at + path_bytes > len(strings):
            return
        path = strings[path_at : path_at + path_bytes]
        if path and hierarchy == 0:
            self._tree.learn(named_id, os.fsdecode(path))
            self._name(named_id, path, container_of_path(os.fsdecode(path)), made_boot_ns)
        elif path and self._hierarchies is not None:
            self._hierarchies.learn(hierarchy, named_id, os.fsdecode(path))
        if not is_set(cgroups_v1):
            return
        members = [
            (number, cgroup_id)
            for cgroup_id, number in _MEMBER.iter_unpack(strings[_NAMED_CGROUP.size : path_at])
        ]  # fmt: skip
        if cgroup_set(members) != cgroups_v1:
            return
        if self._hierarchies is not None:
            container, is_complete = self._hierarchies.container_of(members)
        else:
            container = container_of_path(os.fsdecode(path)) if hierarchy else None
            is_complete = members == [(hierarchy, named_id)]
        if container is not None or is_complete:
            self._name(cgroups_v1, b"", container)

    def _name(self, cgroup_id: int, path: bytes, container: Container | None, made_boot_ns: int = 0) -> None:
        number = container.container_id if container else ""
        self._names.name(
            cgroup_id, path, os.fsencode(number),
            # A new cgroup has no processes, so no row can have its id.
            is_new=made_boot_ns != 0,
            made_boot_ns=made_boot_ns,
            container_made_boot_ns=self._container_made(number, path, made_boot_ns) if path and number else 0,
        )  # fmt: skip

    def _container_made(self, number: str, path: bytes, made_boot_ns: int) -> int:
        """Return when a container was made, which is when its outermost cgroup was made; 0: unknown."""
        above = container_of_path(os.fsdecode(path.rpartition(b"/")[0]))
        if made_boot_ns and (above is None or above.container_id != number):
            self._made[number] = made_boot_ns
            if len(self._made) > MADE_MAX:
                del self._made[next(iter(self._made))]
        return self._made.get(number, 0)


def is_set(cgroup_id: int) -> bool:
    """Whether the number is from `cgroup_set` instead of being the id of a cgroup."""
    return bool(cgroup_id >> 63)
