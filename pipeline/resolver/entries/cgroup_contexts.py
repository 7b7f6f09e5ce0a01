"""The resolver's collaborator for cgroups: paths and containers of cgroup ids, from the daemon's tree of cgroups.

It serves single calls and context events. The applier names the cgroups of live events (`_cgroups`), and `containers`
walks the cgroup file system.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from pipeline.procfs.containers import CgroupTree, container_of_path
from pipeline.resolver.entries.model import CGroupContext, ContainerContext, PathKey


class CgroupContexts:
    """A `collaborators.CGroupResolver` over a tree.

    Args:
        tree: the paths of cgroups.
        learn: is called with (cgroup id, path) of each resolved cgroup, so that other rows get the path too.
    """

    def __init__(self, tree: CgroupTree, learn: Callable[[int, bytes], None]) -> None:
        self._tree = tree
        self._learn = learn

    def add_pid(self, pid: int, cgroup: CGroupContext) -> tuple[CGroupContext, ContainerContext] | None:
        """Return the cgroup and its container; None: unknown, or a null cgroup; its row is filled by the applier."""
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
        """Do nothing: no state is stored by pid."""
