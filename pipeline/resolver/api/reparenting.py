"""Follow the kernel when it moves a process to another parent (specification 3.3.12 to 3.3.14, 9.2).

The edge of a process' first image moves, so its exec history stays; the applier moves it. The cheap source is the
current ppid in each event, the fallback is ``/proc``. Fetching an unknown parent from ``/proc`` is rate-limited
(9.3.13).
"""

from __future__ import annotations

from pipeline.host.rate_limiter import RateLimiter
from pipeline.resolver.api.finder import PROCFS_DEPTH, Finder
from pipeline.resolver.api.proc_access import ProcAccess
from pipeline.resolver.api.state import ResolverState
from pipeline.resolver.api.stats import CALLPATHS, KERNEL_PPID
from pipeline.resolver.entries.cache_entry import ProcessCacheEntry
from pipeline.resolver.entries.collaborators import NewEntryCallback
from pipeline.resolver.entries.model import ResolverError

#: A walk crosses this many forks, and then examines one more parent.
FORK_LEVELS = 3
#: A walk visits this many entries at most.
WALK_STEPS = 64


class Reparenter:
    """Moves entries below other parents.

    Args:
        state: of the resolver.
        proc: reads the parents of processes.
        finder: inserts parents that are unknown.
        limiter: how often ``/proc`` is read about one parent.
    """

    def __init__(self, state: ResolverState, proc: ProcAccess, finder: Finder, limiter: RateLimiter[int]) -> None:
        self._state = state
        self._proc = proc
        self._finder = finder
        self._limiter = limiter

    def follow_kernel(self, entry: ProcessCacheEntry, kernel_ppid: int, new_entry_cb: NewEntryCallback | None) -> None:
        """Move an entry below the parent that the kernel reported with an event, unless it is there."""
        if kernel_ppid == 0 or entry.pid <= 1 or kernel_ppid == entry.ppid:
            return
        self._reparent_to(entry, kernel_ppid, KERNEL_PPID, new_entry_cb)

    def walk_up(self, entry: ProcessCacheEntry, callpath_tag: str, new_entry_cb: NewEntryCallback | None) -> None:
        """Examine an entry and its ancestors: read the parents of exited and of unknown ancestors from ``/proc``.

        At most four parents are examined; exec edges cost no level. The walk follows the exited parent's own ancestors
        even if its child has just been moved.

        Raises:
            ResolverError: `callpath_tag` is not one of CALLPATHS.
            TooOldError: an ancestor was evicted while the lock was released.
        """
        if callpath_tag not in CALLPATHS:
            raise ResolverError(f"callpath {callpath_tag!r} has no counter: use one of {', '.join(CALLPATHS)}")
        level = 0
        below: ProcessCacheEntry | None = None
        current: ProcessCacheEntry | None = entry
        for _ in range(WALK_STEPS):
            if current is None or current.pid == 1:
                return
            ancestor = current.ancestor
            if below is not None and below.pid != current.pid:
                level += 1
                if current.has_ended:
                    self.move_children(current, callpath_tag, new_entry_cb, below)
            if ancestor is None:
                if not self._find_missing_ancestor(current, callpath_tag, new_entry_cb):
                    return
                ancestor = current.ancestor
            if level > FORK_LEVELS:
                return
            below, current = current, ancestor

    # -- specification 3.3.12 ------------------------------------------------------------------------------------------

    def _reparent_to(
        self, entry: ProcessCacheEntry, ppid: int, callpath: str, new_entry_cb: NewEntryCallback | None
    ) -> bool:
        state = self._state
        parent = state.book.head(ppid)
        if parent is None:
            if self._limiter.allow(ppid):
                before = state.tree_position(entry)
                parent = self._finder.from_procfs(ppid, 0, PROCFS_DEPTH, new_entry_cb)
                state.stats.add("reparent_procfs_ok" if parent is not None else "reparent_procfs_fail")
                now = state.tree_position(entry)
                if now is None or (now != before and not (parent is not None and _is_below(entry, parent))):
                    return False  # it has another parent by now, or its pid another owner
            else:
                state.stats.add("limiter_drop")
        if parent is None or not (_is_below(entry, parent) or entry.reparent(parent)):
            state.stats.add("reparent_failed", callpath)
            return False
        state.stats.add("reparent_success", callpath)
        return True

    # -- specification 3.3.13 ------------------------------------------------------------------------------------------

    def move_children(
        self, entry: ProcessCacheEntry, callpath: str, new_entry_cb: NewEntryCallback | None,
        below: ProcessCacheEntry | None = None,
    ) -> None:  # fmt: skip
        """Move the children of an ended entry to the parents that ``/proc`` shows.

        Children are indexed by their parent's pid. If that pid has another owner by now, or the entry has left the
        cache, only `below` is known to be a child: the entry through which the walk arrived.
        """
        children = entry.children
        if below is not None:
            head = self._state.book.head(below.pid)
            if head is not None and head not in children and head.root is below.root:
                children.append(head)
        exited = entry.pid
        asked = [(child, child.pid, self._state.tree_position(child)) for child in children if child.pid != exited]
        if not asked:
            return
        ppids = self._proc.read_ppids(pid for _, pid, _ in asked)
        for (child, _, before), ppid in zip(asked, ppids, strict=True):
            if ppid is None or before is None or self._state.tree_position(child) != before:
                continue
            if ppid in (0, exited):
                # The kernel has not moved it yet.
                self._state.stats.add("reparent_failed", callpath)
            else:
                self._reparent_to(child, ppid, callpath, new_entry_cb)

    # -- specification 3.3.14 ------------------------------------------------------------------------------------------

    def _find_missing_ancestor(
        self, entry: ProcessCacheEntry, callpath: str, new_entry_cb: NewEntryCallback | None
    ) -> bool:
        ppid, before = entry.ppid, self._state.tree_position(entry)
        if not ppid and before is not None and before.is_owner:
            ppid = self._proc.read_ppid(entry.pid) or 0
            if self._state.tree_position(entry) != before:
                return False
        if ppid <= 0:
            self._state.stats.add("reparent_failed", callpath)
            return False
        return self._reparent_to(entry, ppid, callpath, new_entry_cb)


def _is_below(entry: ProcessCacheEntry, parent: ProcessCacheEntry) -> bool:
    before = entry.root.ancestor
    return before is not None and before.root is parent.root and entry.ppid == parent.pid
