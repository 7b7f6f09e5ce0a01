"""Insert the images that forks and execs create (specification 3.3.3, 3.3.4).

An entry is turned into the record that a BPF program would have written, and the applier of the live batches applies
it. This module chooses the record and its parent, and adds the fields that records do not carry. It does not search for
unknown parents: `finder` does.
"""

from __future__ import annotations

from typing import NamedTuple, cast

from pipeline.host import boot
from pipeline.records import declared
from pipeline.resolver.api.fields import FieldFiller
from pipeline.resolver.api.registry import Registry
from pipeline.resolver.api.state import ResolverState
from pipeline.resolver.entries import entry_records
from pipeline.resolver.entries.cache_entry import ProcessCacheEntry
from pipeline.resolver.entries.entry_rows import is_number, row_of
from pipeline.resolver.entries.model import CGroupContext, PathKey, ResolverError, Source
from pipeline.secrets.argsenvs import ArgsEntry, EnvsEntry

#: Fields that a record carries, or that are the row's identity.
_IN_RECORDS = (
    "pid", "tid", "ppid", "start_boot_ns", "fork_time", "fork_flags", "exec_inode", "comm", "tty_name", "source",
    "is_exec", "is_exec_exec", "is_parent_missing", "ancestor", "exit_time",
)  # fmt: skip
#: Fields that a fork has from its parent, whatever its event reported.
_OF_THE_PARENT = (
    "file_event", "interpreter", "exec_time", "cookie", "tracer_metadata", "args_entry", "envs_entry",
    "args_truncated", "envs_truncated", "args_id", "envs_id", "symlink_paths", "symlink_basename", "is_through_symlink",
)  # fmt: skip


class Fork(NamedTuple):
    """A fork that is to be inserted, with what the tables know of its parent.

    Attributes:
        entry: the new process.
        inode: of the executable that the parent ran, as the event reported it; 0: any.
        time_ns, start_ns: of the fork and of the process, boot clock.
        born_ns: the latest time at which the process can have started.
        parent_start_ns: of the parent, boot clock; 0: unknown, then the owner of its pid at the fork is meant.
        parent: the image that forked; None: unknown.
        is_exec_lost: no image of the parent runs that executable, so an exec of the parent was lost.
    """

    entry: ProcessCacheEntry
    inode: int
    time_ns: int
    start_ns: int
    born_ns: int
    parent_start_ns: int
    parent: ProcessCacheEntry | None
    is_exec_lost: bool


class Inserter:
    """Inserts forks and execs.

    Args:
        state: of the resolver.
        fields: decides what may be stored of arguments and environment.
        registry: is informed of each new entry.
    """

    def __init__(self, state: ResolverState, fields: FieldFiller, registry: Registry) -> None:
        self._state = state
        self._fields = fields
        self._registry = registry

    # -- specification 3.3.3 -------------------------------------------------------------------------------------------

    def fork_of(self, entry: ProcessCacheEntry, inode: int, parent_start_ns: int = 0) -> Fork:
        """Find the parent of a new process in the tables. Arguments as of `Fork`.

        Raises:
            ResolverError: no process can have the pid, or no parent the ppid.
        """
        self._require_pids(entry.pid, entry.ppid)
        time_ns = self._state.boot_time(entry.fork_time)
        start_ns = entry.start_boot_ns or time_ns
        born_ns = min(time_ns, _latest(start_ns))
        if entry.pid == 1:
            return Fork(entry, inode, time_ns, start_ns, born_ns, parent_start_ns, None, False)
        parent = self._parent_at(entry.ppid, parent_start_ns, born_ns)
        is_expected = not inode or (parent is not None and parent.file_event.inode == inode)
        is_exec_lost = bool(entry.ppid) and not is_expected and not self._state.applier.py_find(entry.pid, start_ns)
        return Fork(entry, inode, time_ns, start_ns, born_ns, parent_start_ns, parent, is_exec_lost)

    def with_parent(self, fork: Fork, candidate: ProcessCacheEntry | None) -> Fork:
        """Return a fork with the parent that was found elsewhere, if that can have forked it."""
        if (
            candidate is not None
            and candidate.start_boot_ns <= fork.born_ns
            and self._state.is_same_process(candidate, fork.parent_start_ns)
        ):
            return fork._replace(parent=candidate, is_exec_lost=False)
        # The search released the lock: the tables may have another image by now.
        return fork._replace(parent=self._parent_at(fork.entry.ppid, fork.parent_start_ns, fork.born_ns))

    def insert_fork(self, fork: Fork, cgroup: CGroupContext, source: Source) -> ProcessCacheEntry:
        """Insert a process below its parent; returns its entry, or the entry that it has already.

        Raises:
            ResolverError: the table is full.
        """
        state, entry, parent = self._state, fork.entry, fork.parent
        pid, ppid = entry.pid, entry.ppid
        is_missing = pid != 1 and (parent is None or fork.is_exec_lost)
        if not cgroup.is_null:
            entry.cgroup = cgroup
        task_record = entry_records.task(entry, fork.inode)
        if parent is not None:
            task_record.task["cookie"] = 0  # a fork has its parent's
        is_known = state.applier.py_find(pid, fork.start_ns) != 0
        counted = state.stats.get("inode_error", "fork_parent_missing")
        named = self._named_parent(ppid, fork.parent_start_ns, parent)
        row = state.applier.apply_records(
            entry_records.header(declared.KIND_FORK, pid, entry.tid, fork.time_ns, fork.start_ns, *named),
            task_record.task, entry_records.fork(entry, *named), known=task_record.known, source=int(source),
        )  # fmt: skip
        self._count_inode_error("fork_parent_missing", fork.is_exec_lost, counted)
        self._require_row(pid, row)
        if is_known:
            # A snapshot or an earlier report of this fork came first; the applier has added what was unknown.
            return state.book.entry(state.applier.py_root(row))
        # The image that forked. None if the parent is younger than its child: then another process has its pid.
        image = state.book.of_link(int(state.tables.hot_view()[row]["ancestor"]))
        return self._complete_row(entry, row, image, cgroup, source, is_missing, not named[0], is_fork=True)

    # -- specification 3.3.4 -------------------------------------------------------------------------------------------

    def insert_exec(
        self, entry: ProcessCacheEntry, inode: int, cgroup: CGroupContext, source: Source, parent_start_ns: int = 0
    ) -> ProcessCacheEntry:
        """Insert an image above the image before it; returns its entry.

        Args:
            entry: the new image.
            inode: of the executable that the image before ran; 0: any.
            cgroup: of the entry.
            source: where it comes from.
            parent_start_ns: as of `Fork`.

        Raises:
            ResolverError: no process can have the pid, no parent the ppid, or the table is full.
        """
        state, pid = self._state, entry.pid
        self._require_pids(pid, entry.ppid)
        time_ns = state.boot_time(entry.exec_time)
        known = self._process_of(pid, entry.start_boot_ns, time_ns)
        images = int(state.tables.hot_view()[known]["images"]) if known else 0
        previous = state.book.entry(state.applier.py_image_at(known, time_ns - 1)) if known else None
        is_other = previous is not None and bool(inode) and previous.file_event.inode != inode
        is_missing = previous is None or is_other
        if not cgroup.is_null:
            entry.cgroup = cgroup
        if previous is not None:
            start = previous.start_boot_ns
            named = (entry.ppid, parent_start_ns) if entry.ppid else (previous.ppid, 0)
        else:
            start = entry.start_boot_ns or state.boot_time(entry.fork_time or entry.exec_time)
            parent = self._parent_at(entry.ppid, parent_start_ns, start)
            named = self._named_parent(entry.ppid, parent_start_ns, parent)
        task_record = entry_records.task(entry)
        kept = self._fields.storable(entry.args_entry, entry.envs_entry)
        body, strings = entry_records.image(entry, *kept, previous_inode=inode)
        counted = state.stats.get("inode_error", "exec_parent_missing")
        row = state.applier.apply_records(
            entry_records.header(declared.KIND_EXEC, pid, entry.tid, time_ns, start, *named, len(strings)),
            task_record.task, body, strings, known=task_record.known, source=int(source),
            digest=entry_records.digest_of(entry.args_entry, entry.envs_entry),
        )  # fmt: skip
        self._count_inode_error("exec_parent_missing", is_other, counted)
        self._require_row(pid, row)
        image = state.applier.py_image_at(row, time_ns)
        if int(state.tables.hot_view()[row]["images"]) == images:
            return state.book.entry(image)  # an exec bomb, or an exec that was applied already
        return self._complete_row(entry, image, previous, cgroup, source, is_missing, not named[0], is_fork=False)

    # -- after the record was applied ----------------------------------------------------------------------------------

    def _complete_row(
        self, entry: ProcessCacheEntry, row: int, before: ProcessCacheEntry | None, cgroup: CGroupContext,
        source: Source, is_missing: bool, is_parent_unnamed: bool, *, is_fork: bool,
    ) -> ProcessCacheEntry:  # fmt: skip
        """Write the fields that the record did not carry, and make the entry the object of its row."""
        values: dict[str, object] = dict(entry_records.fields_of(entry))
        ppid, cgroup_key = entry.ppid, entry.cgroup.path_key
        if entry.cgroup == CGroupContext(path_key=PathKey(cgroup_key.inode)):
            values.pop("cgroup", None)  # the record had the id, and the applier knows the path
        # If the process had ended, the row has an object already: its head holds the image that arrived late.
        entry = self._state.book.attach(entry, row)
        for name in _IN_RECORDS:
            values.pop(name, None)
        if is_fork and before is not None:
            for name in _OF_THE_PARENT:
                values.pop(name, None)
            for name in ("file_event", "interpreter", "tracer_metadata"):
                if getattr(entry, name) != getattr(before, name) and not is_missing:
                    values[name] = getattr(before, name)
            if is_missing:
                values["file_event"] = before.file_event
        elif not is_fork:
            values.pop("exec_time", None)
            for name in ("args_entry", "envs_entry", "args_truncated", "envs_truncated"):
                values.pop(name, None)
        else:
            args, envs = self._fields.storable(
                cast("ArgsEntry | None", values.get("args_entry")), cast("EnvsEntry | None", values.get("envs_entry"))
            )
            values |= {name: kept for name, kept in (("args_entry", args), ("envs_entry", envs)) if kept is not None}
        if is_missing:
            values["is_parent_missing"] = True
        self._state.book.mark(row, self._state.marks(source, entry.start_boot_ns))
        if is_parent_unnamed and ppid:
            values["ppid"] = ppid  # reported, but its process is unknown
        if values:
            entry.set(**values)
        if before is not None:
            entry.inherit_from(before)
        self._registry.register(entry, cgroup, source)
        return entry

    def _count_inode_error(self, tag: str, is_other: bool, counted: int) -> None:
        """Count a wrong inode, unless the applier did: it cannot see all, as not every row has the kernel's inode."""
        if is_other and self._state.stats.get("inode_error", tag) == counted:
            self._state.stats.add("inode_error", tag)

    # -- processes and parents -----------------------------------------------------------------------------------------

    def _process_of(self, pid: int, start_boot_ns: int, time_boot_ns: int) -> int:
        """Return the row of the newest image of a process; 0: it is not in the tables.

        Args:
            pid: of the process.
            start_boot_ns: of the process; 0: unknown, then the owner of the pid at `time_boot_ns` is meant.
            time_boot_ns: of the event.
        """
        if start_boot_ns:
            return self._state.applier.py_find(pid, start_boot_ns)
        owner = self._state.book.owner_at(pid, time_boot_ns)
        return row_of(owner) if owner is not None else 0

    def _parent_at(self, ppid: int, start_boot_ns: int, time_ns: int) -> ProcessCacheEntry | None:
        """Return the image that a parent ran at `time_ns`. The parent's exit may be known before its child's fork."""
        row = self._process_of(ppid, start_boot_ns, time_ns) if ppid else 0
        if not row or int(self._state.tables.hot_view()[row]["start_boot_ns"]) > time_ns:
            return None
        return self._state.book.entry(self._state.applier.py_image_at(row, time_ns))

    def _named_parent(self, ppid: int, start_boot_ns: int, parent: ProcessCacheEntry | None) -> tuple[int, int]:
        """Return pid and start of the parent for a record.

        Pid 0 if the start is unknown and the tables do not have the owner that the pid had then. Otherwise the applier
        would link to an earlier or later owner.
        """
        if parent is not None:
            return ppid, parent.start_boot_ns
        return (0 if not start_boot_ns and self._state.tables.py_head(ppid) else ppid), start_boot_ns

    def _require_pids(self, pid: int, ppid: int) -> None:
        if not self._state.has_slot(pid):
            last = self._state.tables.root_pids - 1
            raise ResolverError(f"pid {pid} is outside the table's pids, which end at {last}")
        if not is_number(ppid):
            raise ResolverError(f"pid {pid}: no parent can have the pid {ppid}")

    def _require_row(self, pid: int, row: int) -> None:
        if not row:
            raise ResolverError(f"pid {pid}: the table is full: increase tables.max_entries")


def _latest(start_boot_ns: int) -> int:
    """Return the latest start of a process: a start that is known to the tick only is rounded down."""
    return start_boot_ns + boot.TICK_NS - 1 if start_boot_ns % boot.TICK_NS == 0 else start_boot_ns
