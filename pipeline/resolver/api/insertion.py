"""The resolver's internal procedures: entering processes, completing and deleting them (specification 3.3.3 to 3.3.11).

Whatever enters the tables does so as records through the applier, as a live batch does; what is here decides which
record, with which parent, and completes the entry with what records do not carry. Finding processes is in `lookup`,
reparenting in `reparenting`, the exported methods are in `ebpf`. All of it runs under the resolver's lock, which is put
down while ``/proc`` is read (specification 9.3.13): `_link` before and after tells whether somebody has told of a pid
meanwhile, `_place` whether an entry is still what it was. An answer that is about something else by then is dropped.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from pipeline.errors import ProclineError, TooOldError
from pipeline.host import boot
from pipeline.records import kinds as events
from pipeline.resolver.api.fields import Fields
from pipeline.resolver.api.stats import SET_PROCESS_CONTEXT
from pipeline.resolver.entries import entry_records as records
from pipeline.resolver.entries.cache_entry import ProcessCacheEntry
from pipeline.resolver.entries.collaborators import NewEntryCallback
from pipeline.resolver.entries.entry_rows import is_number, row_of
from pipeline.resolver.entries.model import (
    CGROUP_SOURCE_EVENT,
    CGROUP_SOURCE_PROCFS,
    CGROUP_SOURCE_UNKNOWN,
    NO_FILE,
    CGroupContext,
    FileEvent,
    InvalidKeyPathError,
    PathResolutionError,
    ResolverError,
    Source,
)
from pipeline.shm.layout import tables as layout


class Place(NamedTuple):
    """Where an entry is in the tree."""

    is_owner: bool  #: its process is the one that has its pid now
    ppid: int
    ancestor: ProcessCacheEntry | None  #: of the oldest image of the process


class Insertion(Fields):
    """The part of the eBPF resolver that enters and deletes processes."""

    def _resolve(
        self, pid: int, tid: int, inode: int, use_procfs: bool, new_entry_cb: NewEntryCallback | None
    ) -> ProcessCacheEntry | None:
        """Look a parent up whose exec was lost: see `lookup`."""
        raise NotImplementedError

    # -- 3.3.3, 3.3.4 --------------------------------------------------------------------------------------------------

    def _insert_fork(
        self, entry: ProcessCacheEntry, inode: int, cgroup: CGroupContext, source: Source,
        new_entry_cb: NewEntryCallback | None, parent_start: int = 0,
    ) -> ProcessCacheEntry | None:  # fmt: skip
        """`parent_start`: of the parent, boot ns; 0: unknown, then whoever had its pid at the fork is meant."""
        pid, ppid = entry.pid, entry.ppid
        if pid == 0:
            return None
        self._require_pids(pid, ppid)
        time_ns = self._boot_time(entry.fork_time)
        start = entry.start_boot_ns or time_ns
        born = min(time_ns, _latest(start))
        parent: ProcessCacheEntry | None = None
        is_missing = is_other = False
        if pid != 1:
            parent = self._parent_at(ppid, parent_start, born)
            is_expected = not inode or (parent is not None and parent.file_event.inode == inode)
            if ppid and not is_expected and not self.applier.py_find(pid, start):
                candidate = self._resolve(ppid, ppid, inode, True, new_entry_cb)
                if (
                    candidate is not None
                    and candidate.start_boot_ns <= born
                    and self._is_same_process(candidate, parent_start)
                ):
                    parent = candidate
                else:
                    parent = self._parent_at(ppid, parent_start, born)  # again: the lock was put down
                    is_missing = is_other = True
            is_missing = is_missing or parent is None
        if not cgroup.is_null:
            entry.cgroup = cgroup
        told = records.task(entry, inode)
        if parent is not None:
            told.task["cookie"] = 0  # a fork has its parent's
        is_known = self.applier.py_find(pid, start) != 0
        counted = self.stats.get("inode_error", "fork_parent_missing")
        named = self._named_parent(ppid, parent_start, parent)
        row = self.applier.apply_records(
            records.head(events.KIND_FORK, pid, entry.tid, time_ns, start, *named),
            told.task, records.fork(entry, *named), known=told.known, source=int(source),
        )  # fmt: skip
        self._count_inode_error("fork_parent_missing", is_other, counted)
        self._require_row(pid, row)
        if is_known:
            # From before, or the fork was told already: the applier has taken what was not known.
            return self.book.entry(self.applier.py_root(row))
        # The image that forked; none where the parent is younger than its child: another process, which has its pid.
        image = self.book.of_link(int(self.tables.hot_view()[row]["ancestor"]))
        return self._complete_row(entry, row, image, cgroup, source, is_missing, not named[0], is_fork=True)

    def _insert_exec(
        self, entry: ProcessCacheEntry, inode: int, cgroup: CGroupContext, source: Source, parent_start: int = 0
    ) -> ProcessCacheEntry | None:
        """`parent_start` as for `_insert_fork`."""
        pid = entry.pid
        if pid == 0:
            return None
        self._require_pids(pid, entry.ppid)
        time_ns = self._boot_time(entry.exec_time)
        known = self._process_of(pid, entry.start_boot_ns, time_ns)
        images = int(self.tables.hot_view()[known]["images"]) if known else 0
        previous = self.book.entry(self.applier.py_image_at(known, time_ns - 1)) if known else None
        is_other = previous is not None and bool(inode) and previous.file_event.inode != inode
        is_missing = previous is None or is_other
        if not cgroup.is_null:
            entry.cgroup = cgroup
        if previous is not None:
            start = previous.start_boot_ns
            named = (entry.ppid, parent_start) if entry.ppid else (previous.ppid, 0)
        else:
            start = entry.start_boot_ns or self._boot_time(entry.fork_time or entry.exec_time)
            parent = self._parent_at(entry.ppid, parent_start, start)
            named = self._named_parent(entry.ppid, parent_start, parent)
        told = records.task(entry)
        body, strings = records.image(entry, *self._kept(entry), previous_inode=inode)
        counted = self.stats.get("inode_error", "exec_parent_missing")
        row = self.applier.apply_records(
            records.head(events.KIND_EXEC, pid, entry.tid, time_ns, start, *named, len(strings)),
            told.task, body, strings, known=told.known, source=int(source),
            digest=records.digest_of(entry.args_entry, entry.envs_entry),
        )  # fmt: skip
        self._count_inode_error("exec_parent_missing", is_other, counted)
        self._require_row(pid, row)
        image = self.book.image_of_exec(row, time_ns) or self.applier.py_image_at(row, time_ns)
        if int(self.tables.hot_view()[row]["images"]) == images:
            return self.book.entry(image)  # an exec bomb, or an exec that was applied already
        return self._complete_row(entry, image, previous, cgroup, source, is_missing, not named[0], is_fork=False)

    def _process_of(self, pid: int, start_boot_ns: int, time_boot_ns: int) -> int:
        """The row of the newest image of the process that a record is about; 0: it is not in the tables.

        Args:
            start_boot_ns: of the process; 0: unknown, then whoever had the pid at `time_boot_ns` is meant.
        """
        if start_boot_ns:
            return self.applier.py_find(pid, start_boot_ns)
        owner = self.book.owner_at(pid, time_boot_ns)
        return row_of(owner) if owner is not None else 0

    def _require_pids(self, pid: int, ppid: int) -> None:
        if not 0 < pid < self.pid_capacity:
            raise ResolverError(f"pid {pid} is outside the table's pids, which end at {self.pid_capacity - 1}")
        if not is_number(ppid):
            raise ResolverError(f"pid {pid}: no parent can have the pid {ppid}")

    def _require_row(self, pid: int, row: int) -> None:
        if not row:
            raise ResolverError(f"pid {pid}: the table is full")

    def _count_inode_error(self, tag: str, is_other: bool, counted: int) -> None:
        """The applier counts what it sees by itself, which is less: not every row has the inode from the kernel."""
        if is_other and self.stats.get("inode_error", tag) == counted:
            self.stats.add("inode_error", tag)

    def _complete_row(
        self, entry: ProcessCacheEntry, row: int, before: ProcessCacheEntry | None, cgroup: CGroupContext,
        source: Source, is_missing: bool, is_parent_unnamed: bool, *, is_fork: bool,
    ) -> ProcessCacheEntry:  # fmt: skip
        """The record made this row: write what it did not carry, and let the entry be the row from now on."""
        values = dict(records.told(entry))
        ppid = entry.ppid
        # It has an object where the process had ended: then the row of its head holds the image that came late.
        entry = self.book.attach(entry, row)
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
            args, envs = self._kept_of(values.get("args_entry"), values.get("envs_entry"))
            values |= {name: kept for name, kept in (("args_entry", args), ("envs_entry", envs)) if kept is not None}
        if is_missing:
            values["is_parent_missing"] = True
        self.book.mark(row, self._marks(source, entry.start_boot_ns))
        if is_parent_unnamed and ppid:
            values["ppid"] = ppid  # told, of a process that nobody has seen
        if values:
            entry.set(**values)
        if before is not None:
            entry.inherit_from(before)
        self._register(entry, cgroup, source)
        return entry

    # -- 3.3.7 ---------------------------------------------------------------------------------------------------------

    def _register(self, entry: ProcessCacheEntry, cgroup: CGroupContext, source: Source) -> None:
        """What follows an insertion; counting is the applier's."""
        pid = entry.pid
        self.book.leaving.pop(pid, None)
        if self.mount_resolver is not None:
            self.mount_resolver.process_seen(pid, entry.mnt_ns)
        if entry.ppid == 0 and pid != 1 and not self._take_parent_of_procfs(entry):
            return
        if self.cgroup_resolver is None:
            return
        kind = CGROUP_SOURCE_UNKNOWN
        if source == Source.EVENT:
            kind = CGROUP_SOURCE_EVENT
        elif source in (Source.PROCFS_FALLBACK, Source.PROCFS_SNAPSHOT):
            kind = CGROUP_SOURCE_PROCFS
        found = self.cgroup_resolver.add_pid(pid, replace(cgroup, created_at=entry.created_at, source=kind))
        if found is not None:
            entry.set(cgroup=found[0], container=found[1])

    def _take_parent_of_procfs(self, entry: ProcessCacheEntry) -> bool:
        """Step 5; returns whether the pid is still the entry's."""
        pid, place = entry.pid, self._place(entry)
        with self.lock.put_down():
            ppid = self.proc.read_ppid(pid)
        now = self._place(entry)
        if now is None or place is None or now.is_owner != place.is_owner:
            return False
        if ppid and now == place:
            parent = self.book.head(ppid)
            if parent is not None and entry.reparent(parent):
                self.stats.add("reparent_success", SET_PROCESS_CONTEXT)
            else:
                if parent is None:
                    entry.ppid = ppid
                self.stats.add("reparent_failed", SET_PROCESS_CONTEXT)
        return True

    # -- 3.3.10 --------------------------------------------------------------------------------------------------------

    def _complete(self, entry: ProcessCacheEntry, is_path_whole: bool = True) -> None:
        """Complete an entry that was decoded from the kernel.

        Raises:
            PathResolutionError: of the executable or the interpreter; the entry is to be used no further.
        """
        self._find_path(entry, "file_event", is_path_whole)
        if entry.has_interpreter:
            self._find_path(entry, "interpreter", True)
        else:
            entry.interpreter = NO_FILE.with_names("", "")
        self.set_process_args(entry)
        self.set_process_envs(entry)
        with self.lock.put_down():  # it may look at /proc; nobody else has this entry
            self.set_process_tty(entry)
        self.set_process_users_groups(entry)
        self.apply_boot_time(entry)
        self.set_process_symlink(entry)
        file = entry.file_event
        if self.mount_resolver is not None and file.mount_id:
            try:
                kind = self.mount_resolver.filesystem(file.mount_id, file.device, entry.pid)
            except (LookupError, OSError) as error:
                raise ResolverError(f"file system of mount {file.mount_id}: {error}") from error
            entry.file_event = replace(file, filesystem=kind)

    def _find_path(self, entry: ProcessCacheEntry, field: str, is_whole: bool) -> None:
        file: FileEvent = getattr(entry, field)
        try:
            entry.set(**{field: self._with_path(entry, file, is_whole)})
        except (ProclineError, LookupError, OSError) as error:
            entry.set(**{field: file.unresolved(str(error))})
            self.stats.add("path_error")
            raise PathResolutionError(f"pid {entry.pid}: path of inode {file.inode}: {error}") from error

    def _with_path(self, entry: ProcessCacheEntry, file: FileEvent, is_whole: bool) -> FileEvent:
        if file.inode == 0:
            raise InvalidKeyPathError("no inode", inode=0, mount_id=file.mount_id)
        if is_whole and (file.pathname or file.is_pathname_resolved):
            # Our own programs resolve the path in the kernel, while the file is still there.
            return file if file.is_pathname_resolved else file.with_pathname(file.pathname)
        if self.path_resolver is None:
            raise InvalidKeyPathError(
                "nobody told the path, and there is no path resolver", inode=file.inode, mount_id=file.mount_id
            )
        return self.path_resolver.resolve(file, entry.pid_context)

    # -- 3.3.11 --------------------------------------------------------------------------------------------------------

    def _delete(self, pid: int, exit_time: int) -> bool:
        entry = self.book.head(pid)
        if entry is None:
            return False
        if pid not in self.book.leaving and entry.start_boot_ns > self.book.to_boot(exit_time):
            return False  # who ended then had the pid before
        if self.cgroup_resolver is not None:
            self.cgroup_resolver.del_pid(pid)
        link = self.tables.py_link(self.tables.py_head(pid))
        if entry.exit_time is None:
            self.applier.close_missing(pid, entry.start_boot_ns, self.book.to_boot(exit_time), seen=True)
        elif entry.exit_time != exit_time:
            entry.exit(exit_time)
        self.book.delete(pid, link)
        return True

    # -- before and after the lock was put down ------------------------------------------------------------------------

    def _link(self, pid: int) -> int:
        """The newest image of whoever has the pid now: another number after a fork or an exec; 0: nobody."""
        row = self.tables.py_head(pid)
        return self.tables.py_link(row) if row else 0

    def _place(self, entry: ProcessCacheEntry) -> Place | None:
        """Where an entry is now; None: it is not retained any more."""
        try:
            row = self.tables.py_head(entry.pid)
            is_owner = bool(row) and int(self.tables.hot_view()[row]["start_boot_ns"]) == entry.start_boot_ns
            return Place(is_owner or entry.is_free, entry.ppid, entry.root.ancestor)
        except TooOldError:
            return None

    # -- helpers -------------------------------------------------------------------------------------------------------

    def _marks(self, source: Source, start_boot_ns: int) -> int:
        """What is not certain of an entry that no event told: the capture ran and has not got it."""
        marks = 0
        if source == Source.MAP and start_boot_ns % boot.TICK_NS == 0:
            marks |= layout.ROW_START_TICKS  # the map may have it from /proc; of an exact one it changes nothing
        if source in (Source.MAP, Source.PROCFS_FALLBACK) and self.capture_boot_ns:
            marks |= layout.ROW_GAP | (layout.ROW_BEFORE_CAPTURE if start_boot_ns < self.capture_boot_ns else 0)
        return marks

    def _is_same_process(self, entry: ProcessCacheEntry, start_boot_ns: int) -> bool:
        """Whether a cached entry is of the process that began then; 0 is unknown, and believed to be the same."""
        own = entry.start_boot_ns
        if not start_boot_ns or own == start_boot_ns:
            return True
        flags = int(self.tables.hot_view()[self.tables.py_head(entry.pid)]["flags"])
        return bool(flags & layout.ROW_START_TICKS) and own // boot.TICK_NS == start_boot_ns // boot.TICK_NS

    def _parent_at(self, ppid: int, start_boot_ns: int, time_ns: int) -> ProcessCacheEntry | None:
        """The image that a parent ran then; its exit may have been told before its child's fork.

        Args:
            start_boot_ns: of the parent; 0: whoever had the pid then.
        """
        row = self._process_of(ppid, start_boot_ns, time_ns) if ppid else 0
        if not row or int(self.tables.hot_view()[row]["start_boot_ns"]) > time_ns:
            return None
        return self.book.entry(self.applier.py_image_at(row, time_ns))

    def _named_parent(self, ppid: int, start_boot_ns: int, parent: ProcessCacheEntry | None) -> tuple[int, int]:
        """Pid and start of the parent for a record.

        Nobody, where no start is told and the pid's owner then has not been seen: not who had it before or after.
        """
        if parent is not None:
            return ppid, parent.start_boot_ns
        return (0 if not start_boot_ns and self.tables.py_head(ppid) else ppid), start_boot_ns

    def _boot_time(self, unix_ns: int | None) -> int:
        return self.book.to_boot(unix_ns) if unix_ns is not None else self.now_boot_ns()


def _latest(start_boot_ns: int) -> int:
    """When a process began at the latest: a start that is known to the tick only is rounded down."""
    return start_boot_ns + boot.TICK_NS - 1 if start_boot_ns % boot.TICK_NS == 0 else start_boot_ns


#: Fields that a record carried, or that are the row's identity.
_IN_RECORDS = (
    "pid", "tid", "ppid", "start_boot_ns", "fork_time", "fork_flags", "exec_inode", "comm", "tty_name", "source",
    "is_exec", "is_exec_exec", "is_parent_missing", "ancestor", "exit_time",
)  # fmt: skip
#: Fields that a fork takes from its parent, whatever its event said.
_OF_THE_PARENT = (
    "file_event", "interpreter", "exec_time", "cookie", "tracer_metadata", "args_entry", "envs_entry",
    "args_truncated", "envs_truncated", "args_id", "envs_id", "symlink_paths", "symlink_basename", "is_through_symlink",
)  # fmt: skip
