"""The resolver's cgroup resolver: cgroup ids to paths and containers, from what the daemon knows of cgroups.

Rows of live events get their names from the applier (`_cgroups`); this is for single calls and context events. Leaves
out the walk of the cgroup file system (`containers`).
"""

from __future__ import annotations

import os
from collections.abc import Callable

from pipeline.procfs.containers import CgroupTree, container_of_path
from pipeline.resolver.entries.model import CGroupContext, ContainerContext, PathKey


class CgroupContexts:
    """A `collaborators.CGroupResolver` over a tree.

    Args:
        tree: knows paths.
        learn: told (cgroup id, path) of what is resolved here, so that the rows of others have it too.
    """

    def __init__(self, tree: CgroupTree, learn: Callable[[int, bytes], None]) -> None:
        self._tree = tree
        self._learn = learn

    def add_pid(self, pid: int, cgroup: CGroupContext) -> tuple[CGroupContext, ContainerContext] | None:
        """The cgroup and its container; None: of a null cgroup, whose row has what the applier knew, or unknown."""
        inode = cgroup.path_key.inode
        if not inode:
            return None
        path = self._tree.path_of(inode)
        if path is None:
            return None
        self._learn(inode, os.fsencode(path))
        found = container_of_path(path)
        container = ContainerContext(container_id=found.container_id) if found is not None else ContainerContext()
        return CGroupContext(cgroup_id=path, path_key=PathKey(inode), source=cgroup.source), container

    def del_pid(self, pid: int) -> None:
        """Nothing is kept by pid."""
