"""Find a process: in the cache, then in the kernel's maps, then in ``/proc`` (specification 3.3.1 to 3.3.6).

Single calls, questions of readers and context events share this order. A process that is found outside the cache is
inserted as its events would have left it, below its missing ancestors, the oldest first. Reading and inserting are in
`map_entries` and `proc_entries`.

``/proc`` is read with the lock released. A fact that was reported about the pid meanwhile is more recent than what was
read, which is dropped then.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from pipeline.bus.requests import ABSENT, LIMITED
from pipeline.host.boot import ticks_of
from pipeline.host.rate_limiter import RateLimiter
from pipeline.resolver.api.insertion import Inserter
from pipeline.resolver.api.map_entries import MapEntries
from pipeline.resolver.api.proc_entries import ProcEntries
from pipeline.resolver.api.state import ResolverState
from pipeline.resolver.entries.cache_entry import ProcessCacheEntry
from pipeline.resolver.entries.collaborators import NewEntryCallback
from pipeline.resolver.entries.model import SNAPSHOTTED, CGroupContext, Source

#: Missing ancestors are read from ``/proc`` at most this many levels up.
PROCFS_DEPTH = 16

#: Where a process was found: the tags of `hits`.
CACHE, KERNEL_MAPS, PROCFS = "cache", "kernel_maps", "procfs"


def is_process(pid: int) -> bool:
    """Whether `pid` is a process of this pid namespace. The id of another thread than the leader is not."""
    try:
        os.close(os.pidfd_open(pid))
    except OSError:
        return False
    return True


class FindResult(NamedTuple):
    """The result of a search: the entry and where it was found, or None and why not (ABSENT, LIMITED)."""

    entry: ProcessCacheEntry | None
    how: str


class Finder:
    """Finds processes.

    Args:
        state: of the resolver.
        maps: searched second, after the cache.
        proc: searched third.
        inserter: inserts forks.
        limiter: how often ``/proc`` is read about one pid.
        is_process: whether a pid is a process, and not another thread of one.
    """

    def __init__(
        self,
        state: ResolverState,
        maps: MapEntries,
        proc: ProcEntries,
        inserter: Inserter,
        limiter: RateLimiter[int],
        is_process: Callable[[int], bool],
    ) -> None:
        self._state = state
        self._maps = maps
        self._proc = proc
        self._inserter = inserter
        self._limiter = limiter
        self._is_process = is_process

    # -- the order (3.3.1) ---------------------------------------------------------------------------------------------

    def find_or_insert(
        self, pid: int, tid: int, inode: int, use_procfs: bool, new_entry_cb: NewEntryCallback | None,
        *, must_live: bool = False,
    ) -> FindResult:  # fmt: skip
        """Find a process, and count where. One that is not cached is inserted, below its missing ancestors.

        Args:
            pid: of the process.
            tid: of its thread.
            inode: of the executable that it is expected to run; 0: any.
            use_procfs: whether ``/proc`` may be read.
            new_entry_cb: is informed of each entry that is inserted.
            must_live: whether only a live process is meant, and not a thread.
        """
        state = self._state
        entry = self.from_cache(pid, tid, inode)
        if entry is not None:
            state.stats.add("hits", CACHE)
            return FindResult(entry, CACHE)
        if state.phase != SNAPSHOTTED:
            return FindResult(None, ABSENT)
        how, reason = KERNEL_MAPS, ABSENT
        if state.has_slot(pid) and (not must_live or (use_procfs and self._is_process(pid))):
            entry = self.from_kernel_maps(pid, tid, inode, new_entry_cb, must_live=must_live)
            if entry is None and use_procfs:
                how = PROCFS
                if self._limiter.allow(pid):
                    entry = self.from_procfs(pid, inode, PROCFS_DEPTH, new_entry_cb)
                else:
                    state.stats.add("limiter_drop")
                    reason = LIMITED
        if entry is None:
            state.stats.add("miss")
            return FindResult(None, reason)
        state.stats.add("hits", how)
        return FindResult(entry, how)

    # -- where it is searched ------------------------------------------------------------------------------------------

    def from_cache(self, pid: int, tid: int, inode: int) -> ProcessCacheEntry | None:
        """Return the cached entry of a pid, if it runs the expected executable (3.3.2)."""
        entry = self._cached(pid, inode)
        if entry is not None and tid and entry.tid != tid:
            entry.tid = tid
        return entry

    def from_kernel_maps(
        self, pid: int, tid: int, inode: int, new_entry_cb: NewEntryCallback | None, *, must_live: bool = False
    ) -> ProcessCacheEntry | None:
        """Insert the process that the kernel's maps have under a pid (3.3.5)."""
        if not self._state.has_slot(pid):
            return None
        link = self._state.link(pid)
        mapped = self._maps.read(pid, tid, inode, new_entry_cb, must_live=must_live)
        if mapped is None:
            return None
        entry = mapped.entry
        if mapped.is_alive:
            self._insert_ancestor(entry.ppid, PROCFS_DEPTH - 1, new_entry_cb)
        if self._state.link(pid) != link:
            return self._cached(pid, inode)
        exit_time, entry.exit_time = entry.exit_time, None
        if mapped.has_called_exec:
            found = self._maps.insert_exec(mapped)
        else:
            found = self.insert_fork(entry, entry.file_event.inode, CGroupContext(), Source.MAP, new_entry_cb)
        if exit_time is not None and found.exit_time is None:
            found.exit(exit_time)
        if new_entry_cb is not None:
            new_entry_cb(found, None)
        return found

    def from_procfs(
        self, pid: int, inode: int, depth: int, new_entry_cb: NewEntryCallback | None
    ) -> ProcessCacheEntry | None:
        """Insert the process that ``/proc`` shows under a pid (3.3.6).

        Args:
            pid: of the process.
            inode: of the executable that the event named; 0: any.
            depth: levels that may be read: 1 for the process alone.
            new_entry_cb: is informed of each entry that is inserted.
        """
        if depth < 1 or not self._state.has_slot(pid):
            return None
        link, time_ns = self._state.link(pid), self._state.now_boot_ns()
        info = self._proc.read(pid)
        if info is None or info.is_zombie or self._state.is_kernel_thread(info.ppid, pid):
            return None
        self._insert_ancestor(info.ppid, depth - 1, new_entry_cb)
        if self._state.link(pid) != link:
            return self._cached(pid, inode)
        return self._proc.insert(info, inode, Source.PROCFS_FALLBACK, new_entry_cb, time_ns)

    def _insert_ancestor(self, ppid: int, depth: int, new_entry_cb: NewEntryCallback | None) -> None:
        if ppid and self._state.book.head(ppid) is None:
            self.from_procfs(ppid, 0, depth, new_entry_cb)

    def _cached(self, pid: int, inode: int) -> ProcessCacheEntry | None:
        entry = self._state.book.head(pid)
        # Another inode: an exec was lost, so the cached image is not the one that the event is about.
        return None if entry is None or (inode and entry.file_event.inode != inode) else entry

    # -- a fork, with a search for its parent (3.3.3) ------------------------------------------------------------------

    def insert_fork(
        self, entry: ProcessCacheEntry, inode: int, cgroup: CGroupContext, source: Source,
        new_entry_cb: NewEntryCallback | None, parent_start_ns: int = 0,
    ) -> ProcessCacheEntry:  # fmt: skip
        """Insert a new process below its parent, which is searched first if an exec of the parent was lost.

        Args:
            entry: the process.
            inode: of the executable that the parent ran; 0: any.
            cgroup: of the entry.
            source: where it comes from.
            new_entry_cb: is informed of each other entry that is inserted.
            parent_start_ns: of the parent, boot clock; 0: unknown.

        Raises:
            ResolverError: no process can have the pid, no parent the ppid, or the table is full.
        """
        fork = self._inserter.fork_of(entry, inode, parent_start_ns)
        if fork.is_exec_lost:
            found = self.find_or_insert(entry.ppid, entry.ppid, inode, True, new_entry_cb).entry
            fork = self._inserter.with_parent(fork, found)
        return self._inserter.insert_fork(fork, cgroup, source)

    # -- owners at a past time -----------------------------------------------------------------------------------------

    def find_at(self, pid: int, time_boot_ns: int, inode: int, start_boot_ns: int) -> ProcessCacheEntry | None:
        """Return the process that had the pid at a time, even if it has ended since. Arguments as of `EBPFResolver`."""
        book = self._state.book
        entry = book.of_identity(pid, start_boot_ns) if start_boot_ns else None
        if entry is None:
            entry = book.owner_at(pid, time_boot_ns)
            if entry is not None and start_boot_ns and ticks_of(entry.start_boot_ns) != ticks_of(start_boot_ns):
                return None
        if entry is None or (inode and entry.file_event.inode != inode):
            return None
        self._state.stats.add("hits", CACHE)
        return entry
