"""Fork, exec and exit events: the methods of specification 3.4 that create and end entries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.records import declared, dtypes
from pipeline.resolver.api.completion import Completer
from pipeline.resolver.api.fields import FieldFiller
from pipeline.resolver.api.finder import CACHE, Finder
from pipeline.resolver.api.insertion import Inserter
from pipeline.resolver.api.reparenting import Reparenter
from pipeline.resolver.api.state import ResolverState
from pipeline.resolver.api.stats import DO_EXIT
from pipeline.resolver.entries import entry_records
from pipeline.resolver.entries.cache_entry import ProcessCacheEntry
from pipeline.resolver.entries.collaborators import NewEntryCallback
from pipeline.resolver.entries.entry_rows import row_of
from pipeline.resolver.entries.model import SNAPSHOTTED, CGroupContext, PathResolutionError, ResolverError, Source
from pipeline.shm.layout import layout

if TYPE_CHECKING:
    from pipeline.resolver.entries.event import Event


class Lifecycle:
    """Applies fork, exec and exit events.

    Args:
        state: of the resolver.
        fields: converts times.
        completer: completes the image of an exec.
        finder: finds parents and exiting processes.
        inserter: inserts execs.
        reparenter: moves the children of exiting processes.
    """

    def __init__(
        self,
        state: ResolverState,
        fields: FieldFiller,
        completer: Completer,
        finder: Finder,
        inserter: Inserter,
        reparenter: Reparenter,
    ) -> None:
        self._state = state
        self._fields = fields
        self._completer = completer
        self._finder = finder
        self._inserter = inserter
        self._reparenter = reparenter

    def add_fork(self, event: Event, cgroup: CGroupContext, new_entry_cb: NewEntryCallback | None) -> None:
        """Insert the process of a fork event; see `EBPFResolver.add_fork_entry`."""
        entry = _entry_of(event)
        self._fields.set_boot_times(entry)
        entry.set(span_id=event.span.span_id, trace_id=event.span.trace_id)
        if entry.pid == 0:
            raise ResolverError("the fork event has no pid: set `pid` of its process entry")
        if entry.is_kworker or self._state.is_kernel_thread(entry.ppid, entry.pid):
            raise ResolverError(f"pid {entry.pid} is a kernel thread")
        context = event.pid_context
        event.entry = self._finder.insert_fork(
            entry, context.exec_inode, cgroup, Source.EVENT, new_entry_cb, context.parent_start_boot_ns
        )

    def add_exec(self, event: Event, cgroup: CGroupContext) -> None:
        """Insert the image of an exec event; see `EBPFResolver.add_exec_entry`."""
        event.exec_entry = entry = _entry_of(event)
        try:
            self._completer.complete(entry)
        except PathResolutionError as error:
            event.error = error
            raise
        if entry.pid == 0:
            event.exec_entry = None
            raise ResolverError("the exec event has no pid: set `pid` of its process entry")
        context = event.pid_context
        event.entry = event.exec_entry = self._inserter.insert_exec(
            entry, context.exec_inode, cgroup, Source.EVENT, context.parent_start_boot_ns
        )

    def apply_exit(self, event: Event, new_entry_cb: NewEntryCallback | None) -> bool:
        """Record the end of a process; see `EBPFResolver.apply_exit_entry`."""
        state = self._state
        entry = self._exiting(event, new_entry_cb) if state.has_slot(event.pid_context.pid) else None
        if entry is not None and self._is_leaving(entry):
            entry = None
        event.entry = event.exit_entry = entry
        if entry is None:
            return False
        self._apply_record(event, entry.start_boot_ns)
        if event.exit_status is None:
            state.book.forget_exit_code(entry)
        link = state.link(entry.pid)
        if state.tables.py_follow(link) == row_of(entry):
            state.book.leaving[entry.pid] = link
        self._reparenter.move_children(entry, DO_EXIT, new_entry_cb)
        return True

    def _is_leaving(self, entry: ProcessCacheEntry) -> bool:
        """Whether the end of this process was reported, and it is only waiting for its deletion."""
        link = self._state.link(entry.pid)
        is_waiting = self._state.book.leaving.get(entry.pid) == link
        return is_waiting and self._state.tables.py_follow(link) == row_of(entry)

    def _exiting(self, event: Event, new_entry_cb: NewEntryCallback | None) -> ProcessCacheEntry | None:
        """Return the process that an exit event reports; None if it is unknown, or its end is known."""
        state, context = self._state, event.pid_context
        start = context.start_boot_ns
        entry = state.book.of_identity(context.pid, start) if start else None
        if entry is not None:
            row = row_of(entry)
            is_unseen = int(state.tables.hot_view()[row]["flags"]) & layout.ROW_EXIT_UNSEEN
            if not state.book.is_cached(row) and not is_unseen:
                return None
            state.stats.add("hits", CACHE)
            return entry
        if not start or state.book.head(context.pid) is None:
            entry = self._finder.find_or_insert(context.pid, context.tid, context.exec_inode, False, new_entry_cb).entry
        elif state.phase == SNAPSHOTTED:
            state.stats.add("miss")  # the cache has another process of this pid
        if entry is not None and state.is_same_process(entry, start):
            return entry
        if start:
            # The applier remembers the end: if the fork is still reported, the process is not alive.
            self._apply_record(event, start)
        return None

    def _apply_record(self, event: Event, start_boot_ns: int) -> None:
        context = event.pid_context
        self._state.applier.apply_records(
            entry_records.header(
                declared.KIND_EXIT, context.pid, context.tid, event.timestamp_ns or self._state.now_boot_ns(),
                start_boot_ns, context.ppid, context.parent_start_boot_ns,
            ),
            np.zeros(1, dtypes.TASK), entry_records.exit_body(event), known=0,
        )  # fmt: skip


def _entry_of(event: Event) -> ProcessCacheEntry:
    if event.entry is None:
        raise ResolverError("the event has no process entry: create one with new_process_cache_entry")
    return event.entry
