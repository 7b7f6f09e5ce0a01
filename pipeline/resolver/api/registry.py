"""Add processes to the cache and remove them (specification 3.3.7, 3.3.11).

Collaborators are informed here. The records that change the tables are written by `insertion`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pipeline.resolver.api.proc_access import ProcAccess
from pipeline.resolver.api.state import ResolverState
from pipeline.resolver.api.stats import SET_PROCESS_CONTEXT
from pipeline.resolver.entries.cache_entry import ProcessCacheEntry
from pipeline.resolver.entries.collaborators import CGroupResolver, MountResolver
from pipeline.resolver.entries.model import (
    CGROUP_SOURCE_EVENT,
    CGROUP_SOURCE_PROCFS,
    CGROUP_SOURCE_UNKNOWN,
    CGroupContext,
    Source,
)

_CGROUP_SOURCES = {
    Source.EVENT: CGROUP_SOURCE_EVENT,
    Source.PROCFS_FALLBACK: CGROUP_SOURCE_PROCFS,
    Source.PROCFS_SNAPSHOT: CGROUP_SOURCE_PROCFS,
}


class Registry:
    """Registers processes that entered the cache, and removes those that leave it.

    Args:
        state: of the resolver.
        proc: reads ``/proc``.
        mounts, cgroups: collaborators that follow processes; None: there is none.
    """

    def __init__(
        self, state: ResolverState, proc: ProcAccess, mounts: MountResolver | None, cgroups: CGroupResolver | None
    ) -> None:
        self._state = state
        self._proc = proc
        self._mounts = mounts
        self._cgroups = cgroups

    def register(self, entry: ProcessCacheEntry, cgroup: CGroupContext, source: Source) -> None:
        """Do what follows an insertion, except for counting, which the applier does."""
        pid = entry.pid
        self._state.book.leaving.pop(pid, None)
        if self._mounts is not None:
            self._mounts.process_seen(pid, entry.mnt_ns)
        if entry.ppid == 0 and pid != 1 and not self._read_parent(entry):
            return
        if self._cgroups is None:
            return
        kind = _CGROUP_SOURCES.get(source, CGROUP_SOURCE_UNKNOWN)
        found = self._cgroups.add_pid(pid, replace(cgroup, created_at=entry.created_at, source=kind))
        if found is not None:
            entry.set(cgroup=found[0], container=found[1])

    def _read_parent(self, entry: ProcessCacheEntry) -> bool:
        """Read an unknown parent from ``/proc`` (3.3.7 step 5); returns whether the pid still has the same owner."""
        state, before = self._state, self._state.tree_position(entry)
        ppid = self._proc.read_ppid(entry.pid)
        now = state.tree_position(entry)
        if now is None or before is None or now.is_owner != before.is_owner:
            return False
        if ppid and now == before:
            parent = state.book.head(ppid)
            if parent is not None and entry.reparent(parent):
                state.stats.add("reparent_success", SET_PROCESS_CONTEXT)
            else:
                if parent is None:
                    entry.ppid = ppid
                state.stats.add("reparent_failed", SET_PROCESS_CONTEXT)
        return True

    def delete(self, pid: int, exit_unix_ns: int) -> bool:
        """Remove the process that ended at that time; descendants keep it as ancestor.

        Returns:
            Whether it was removed: False if the pid is not cached, or if its owner started after that time.
        """
        book = self._state.book
        entry = book.head(pid)
        if entry is None:
            return False
        if pid not in book.leaving and entry.start_boot_ns > book.to_boot(exit_unix_ns):
            return False  # an earlier owner of the pid ended then
        link = self._state.link(pid)
        self._forget_cgroup(pid)
        if entry.exit_time is None:
            self._state.applier.close_missing(pid, entry.start_boot_ns, book.to_boot(exit_unix_ns), seen=True)
        elif entry.exit_time != exit_unix_ns:
            entry.exit(exit_unix_ns)
        book.delete(pid, link)
        return True

    def close(self, entry: ProcessCacheEntry, time_boot_ns: int) -> bool:
        """Remove a process that was gone at that time although no event reported its end.

        Returns:
            Whether it was removed: False if the tables have a more recent fact about it.
        """
        pid, link = entry.pid, self._state.link(entry.pid)
        if not self._state.applier.close_missing(pid, entry.start_boot_ns, time_boot_ns) and entry.exit_time is None:
            return False
        self._forget_cgroup(pid)
        self._state.book.delete(pid, link)
        self._state.stats.add("flushed")
        return True

    def forget(self, pids: Sequence[int]) -> None:
        """Do what follows for processes that the applier has removed."""
        leaving = self._state.book.leaving
        for pid in pids if leaving else ():
            leaving.pop(pid, None)
        if self._cgroups is not None:
            for pid in pids:
                self._cgroups.del_pid(pid)

    def _forget_cgroup(self, pid: int) -> None:
        if self._cgroups is not None:
            self._cgroups.del_pid(pid)
