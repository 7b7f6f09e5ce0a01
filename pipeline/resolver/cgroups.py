"""Give the cgroups of the tables their names: ids that rows have, to paths and containers.

The walk of the cgroup file system is in containers.py, the names in the rows are _cgroups.pyx's.
"""

from __future__ import annotations

import os

from pipeline.resolver._cgroups import CgroupNames
from pipeline.resolver.containers import CgroupTree, container_of_path

#: A cgroup that is gone before anybody looked is looked for so often.
TRIES = 5


class CgroupNamer:
    """Finds what `CgroupNames` asks for; a part of the resolver's housekeeping.

    Args:
        names: of the applier.
        tree: knows paths.
    """

    def __init__(self, names: CgroupNames, tree: CgroupTree) -> None:
        self._names = names
        self._tree = tree
        self._tries: dict[int, int] = {}

    def __call__(self) -> None:
        """Name what is asked for; what is not found yet is tried again the next times."""
        for cgroup_id in self._names.take_wanted():
            self._tries.setdefault(cgroup_id, 0)
        for cgroup_id in list(self._tries):
            path = self._tree.path_of(cgroup_id)
            if path is not None:
                self.learn(cgroup_id, os.fsencode(path))
            self._tries[cgroup_id] += 1
            if path is not None or self._tries[cgroup_id] >= TRIES:
                del self._tries[cgroup_id]

    def learn(self, cgroup_id: int, path: bytes) -> None:
        """Take a path that a survey found."""
        text = os.fsdecode(path)
        self._tree.learn(cgroup_id, text)
        container = container_of_path(text)
        self._names.name(cgroup_id, path, container.container_id.encode() if container else b"")
