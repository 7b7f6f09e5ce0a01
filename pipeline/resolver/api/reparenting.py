"""Following the kernel when it gives a process another parent (specification 3.3.12 to 3.3.14, 9.2).

The edge that moves is that of a process' first image, so its exec history stays; the applier does the moving. The cheap
source is the live ppid in every event; procfs is the fallback. It is asked with the lock put down, and fetching an
unknown parent from it is rate-limited (9.3.13).
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from pipeline.errors import TooOldError
from pipeline.resolver.api.limiter import Limiter
from pipeline.resolver.api.lookup import PROCFS_DEPTH, Lookups
from pipeline.resolver.api.stats import CALLPATHS, KERNEL_PPID
from pipeline.resolver.entries.cache_entry import ProcessCacheEntry
from pipeline.resolver.entries.collaborators import NewEntryCallback
from pipeline.resolver.entries.model import ResolverError

#: A walk crosses this many forks, and then examines one parent more.
FORK_LEVELS = 3
#: A walk visits this many entries at most.
WALK_STEPS = 64


class Reparenting(Lookups):
    """The part of the eBPF resolver that moves entries below other parents."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._parent_limiter: Limiter[int] = Limiter(clock=args[-1])

    def try_reparent_from_kernel_ppid(
        self, entry: ProcessCacheEntry, kernel_ppid: int, new_entry_cb: NewEntryCallback | None = None
    ) -> None:
        """The kernel says with an event who the parent is now; nothing when that is known."""
        with self.lock:
            if kernel_ppid == 0 or entry.pid <= 1 or kernel_ppid == entry.ppid:
                return
            self._reparent_to(entry, kernel_ppid, KERNEL_PPID, new_entry_cb)

    def try_reparent_from_procfs(
        self, entry: ProcessCacheEntry, callpath_tag: str, new_entry_cb: NewEntryCallback | None = None
    ) -> None:
        """Repair the lineage of an entry that is being used: ask procfs where a parent has ended or is unknown.

        Args:
            callpath_tag: of the statistics, one of `stats.CALLPATHS`.

        Raises:
            ResolverError: another one; nothing was moved.
        """
        # Too old: an ancestor that was left behind while the lock was put down.
        with self.lock, suppress(TooOldError):
            self._walk_up(entry, callpath_tag, new_entry_cb)

    def try_reparent_from_procfs_locked(
        self, entry: ProcessCacheEntry, callpath_tag: str, new_entry_cb: NewEntryCallback | None = None
    ) -> None:
        """The same, for a caller that holds the lock, and keeps it while procfs is asked."""
        with self.lock:
            self._walk_up(entry, callpath_tag, new_entry_cb)

    def _walk_up(self, entry: ProcessCacheEntry, callpath_tag: str, new_entry_cb: NewEntryCallback | None) -> None:
        """Examine an entry and its ancestors.

        At most four parents are examined; exec edges cost no level. The walk goes on along the exited parent's own
        ancestors even if its child has just been moved elsewhere.
        """
        if callpath_tag not in CALLPATHS:
            raise ResolverError(f"no callpath {callpath_tag!r} is counted: there are {', '.join(CALLPATHS)}")
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
                    self._reparent_children(current, callpath_tag, new_entry_cb, below)
            if ancestor is None:
                if not self._resolve_missing_ancestor(current, callpath_tag, new_entry_cb):
                    return
                ancestor = current.ancestor
            if level > FORK_LEVELS:
                return
            below, current = current, ancestor

    # -- 3.3.12 --------------------------------------------------------------------------------------------------------

    def _reparent_to(
        self, entry: ProcessCacheEntry, ppid: int, callpath: str, new_entry_cb: NewEntryCallback | None
    ) -> bool:
        parent = self.book.head(ppid)
        if parent is None:
            if self._parent_limiter.allow(ppid):
                place = self._place(entry)
                parent = self._from_procfs(ppid, 0, PROCFS_DEPTH, new_entry_cb)
                self.stats.add("reparent_procfs_ok" if parent is not None else "reparent_procfs_fail")
                now = self._place(entry)
                if now is None or (now != place and not (parent is not None and self._is_below(entry, parent))):
                    return False  # it has got another parent meanwhile, or its pid another owner
            else:
                self.stats.add("limiter_drop")
        if parent is None or not self._move(entry, parent):
            self.stats.add("reparent_failed", callpath)
            return False
        self.stats.add("reparent_success", callpath)
        return True

    def _move(self, entry: ProcessCacheEntry, parent: ProcessCacheEntry) -> bool:
        """Move the process that `entry` is an image of, unless it is there already."""
        return self._is_below(entry, parent) or entry.reparent(parent)

    @staticmethod
    def _is_below(entry: ProcessCacheEntry, parent: ProcessCacheEntry) -> bool:
        before = entry.root.ancestor
        return before is not None and before.root is parent.root and entry.ppid == parent.pid

    # -- 3.3.13 --------------------------------------------------------------------------------------------------------

    def _reparent_children(
        self, entry: ProcessCacheEntry, callpath: str, new_entry_cb: NewEntryCallback | None,
        below: ProcessCacheEntry | None = None,
    ) -> None:  # fmt: skip
        """The children of an entry that has ended go to whom procfs names.

        Children are indexed by their parent's pid; where that pid has another owner by now, or the entry has left the
        cache, only `below`, by which the walk came here, is known to be one.
        """
        children = entry.children
        if below is not None:
            head = self.book.head(below.pid)
            if head is not None and head not in children and head.root is below.root:
                children.append(head)
        exited = entry.pid
        asked = [(child, child.pid, self._place(child)) for child in children if child.pid != exited]
        if not asked:
            return
        with self.lock.put_down():
            ppids = [self.proc.read_ppid(pid) for _, pid, _ in asked]
        for (child, _, place), ppid in zip(asked, ppids, strict=True):
            if ppid is None or place is None or self._place(child) != place:
                continue
            if ppid in (0, exited):
                # The kernel has not relinked it yet.
                self.stats.add("reparent_failed", callpath)
            else:
                self._reparent_to(child, ppid, callpath, new_entry_cb)

    # -- 3.3.14 --------------------------------------------------------------------------------------------------------

    def _resolve_missing_ancestor(
        self, entry: ProcessCacheEntry, callpath: str, new_entry_cb: NewEntryCallback | None
    ) -> bool:
        pid, ppid, place = entry.pid, entry.ppid, self._place(entry)
        if not ppid and place is not None and place.is_owner:
            with self.lock.put_down():
                ppid = self.proc.read_ppid(pid) or 0
            if self._place(entry) != place:
                return False
        if ppid <= 0:
            self.stats.add("reparent_failed", callpath)
            return False
        return self._reparent_to(entry, ppid, callpath, new_entry_cb)
