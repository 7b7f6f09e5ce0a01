"""The resolver's internal procedures: finding processes and entering them (specification 3.3.1 to 3.3.11).

Whatever enters the tables does so as records through the applier, as a live batch does; what is here decides which
record, with which parent, and completes the entry with what records do not carry. Reparenting is in `reparenting`, the
exported methods are in `ebpf`. All of it runs under the resolver's lock.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any, NamedTuple

from pipeline import boot, events
from pipeline.bus.requests import ABSENT, LIMITED
from pipeline.errors import ProclineError
from pipeline.resolver import entry_records as records
from pipeline.resolver import kernel_maps, procfs
from pipeline.resolver._apply import ADDED
from pipeline.resolver.args_views import is_kworker
from pipeline.resolver.argsenvs import PRIORITY_PREFIXES, ArgsEntry, EnvsEntry, cut_environ
from pipeline.resolver.cache_entry import ProcessCacheEntry
from pipeline.resolver.collaborators import NewEntryCallback
from pipeline.resolver.fields import Fields
from pipeline.resolver.model import (
    CGROUP_SOURCE_EVENT,
    CGROUP_SOURCE_PROCFS,
    CGROUP_SOURCE_UNKNOWN,
    FILELESS_FILESYSTEM,
    MOUNT_ORIGIN_PROCFS,
    MOUNT_SOURCE_SNAPSHOT,
    NO_FILE,
    SNAPSHOTTED,
    CGroupContext,
    FileEvent,
    InvalidKeyPathError,
    PathResolutionError,
    ResolverError,
    Source,
)
from pipeline.resolver.procinfo import ProcInfo, to_record
from pipeline.resolver.repair import proc_knows
from pipeline.resolver.stats import SET_PROCESS_CONTEXT
from pipeline.shm import layout

#: Missing ancestors are fetched from procfs at most this many levels up.
PROCFS_DEPTH = 16

#: What found a process: the tags of `hits`.
CACHE, KERNEL_MAPS, PROCFS = "cache", "kernel_maps", "procfs"


class LookUp(NamedTuple):
    """A process that was looked for: the entry and what found it, or None and why (ABSENT, LIMITED)."""

    entry: ProcessCacheEntry | None
    how: str


class ResolverCore(Fields):
    """The internal procedures of the eBPF resolver."""

    # -- 3.3.1, 3.3.2 --------------------------------------------------------------------------------------------------

    def _resolve(
        self, pid: int, tid: int, inode: int, use_procfs: bool, new_entry_cb: NewEntryCallback | None
    ) -> ProcessCacheEntry | None:
        return self._look_up(pid, tid, inode, use_procfs, new_entry_cb).entry

    def _look_up(
        self, pid: int, tid: int, inode: int, use_procfs: bool, new_entry_cb: NewEntryCallback | None,
        *, must_live: bool = False,
    ) -> LookUp:  # fmt: skip
        """The order: cache, kernel maps, procfs. `must_live`: who has ended is not meant, nor is a thread."""
        entry = self._from_cache(pid, tid, inode)
        if entry is not None:
            self.stats.add("hits", CACHE)
            return LookUp(entry, CACHE)
        if self.state != SNAPSHOTTED:
            return LookUp(None, ABSENT)
        how, reason = KERNEL_MAPS, ABSENT
        if pid < self.pid_capacity and (not must_live or (use_procfs and self.is_process(pid))):
            entry = self._from_kernel_maps(pid, tid, inode, new_entry_cb, must_live=must_live)
            if entry is None and use_procfs:
                how = PROCFS
                if self.limiter.allow(pid):
                    entry = self._from_procfs(pid, inode, PROCFS_DEPTH, new_entry_cb)
                else:
                    self.stats.add("limiter_drop")
                    reason = LIMITED
        if entry is None:
            self.stats.add("miss")
            return LookUp(None, reason)
        self.stats.add("hits", how)
        return LookUp(entry, how)

    def _from_cache(self, pid: int, tid: int, inode: int) -> ProcessCacheEntry | None:
        entry = self.book.head(pid)
        # Another inode: an exec was lost, so what is here is not the image that the event is about.
        if entry is None or (inode and entry.file_event.inode != inode):
            return None
        if tid and entry.tid != tid:
            entry.tid = tid
        return entry

    # -- 3.3.3, 3.3.4 --------------------------------------------------------------------------------------------------

    def _insert_fork(
        self, entry: ProcessCacheEntry, inode: int, cgroup: CGroupContext, source: Source,
        new_entry_cb: NewEntryCallback | None,
    ) -> ProcessCacheEntry | None:  # fmt: skip
        pid, ppid = entry.pid, entry.ppid
        if pid == 0:
            return None
        parent: ProcessCacheEntry | None = None
        is_missing = is_other = False
        time_ns = self._boot_time(entry.fork_time)
        if pid != 1:
            parent = self._parent_at(ppid, time_ns)
            if ppid and inode and (parent is None or parent.file_event.inode != inode):
                candidate = self._resolve(ppid, ppid, inode, True, new_entry_cb)
                if candidate is not None:
                    parent = candidate
                else:
                    is_missing = is_other = True
            is_missing = is_missing or parent is None
        if not cgroup.is_null:
            entry.cgroup = cgroup
        start = entry.start_boot_ns or time_ns
        told = records.task(entry, inode)
        counted = self.stats.get("inode_error", "fork_parent_missing")
        row = self.applier.apply_records(
            records.head(events.KIND_FORK, pid, entry.tid, time_ns, start, *self._named_parent(ppid, parent)),
            told.task, records.fork(entry, parent), known=told.known, source=int(source),
        )  # fmt: skip
        self._count_inode_error("fork_parent_missing", is_other, counted)
        if parent is not None and not self.tables.py_follow(int(self.tables.hot_view()[row]["ancestor"])):
            parent = None  # younger than its child: another process, which only has the pid
        return self._complete_row(entry, row, parent, cgroup, source, is_missing, is_fork=True)

    def _insert_exec(
        self, entry: ProcessCacheEntry, inode: int, cgroup: CGroupContext, source: Source
    ) -> ProcessCacheEntry | None:
        pid = entry.pid
        if pid == 0:
            return None
        previous = self.book.head(pid)
        if previous is not None and not self._is_same_process(previous, entry.start_boot_ns):
            previous = None  # an earlier owner of the pid, whose exit was lost
        is_other = previous is not None and bool(inode) and previous.file_event.inode != inode
        is_missing = previous is None or is_other
        if not cgroup.is_null:
            entry.cgroup = cgroup
        time_ns = self._boot_time(entry.exec_time)
        if previous is not None:
            start, named = previous.start_boot_ns, (entry.ppid or previous.ppid, 0)
        else:
            start = entry.start_boot_ns or self._boot_time(entry.fork_time or entry.exec_time)
            named = self._named_parent(entry.ppid, self._parent_at(entry.ppid, start))
        told = records.task(entry)
        body, strings = records.image(entry, *self._kept(entry), previous_inode=inode)
        counted = self.stats.get("inode_error", "exec_parent_missing")
        before = self.tables.py_head(pid)
        link = self.tables.py_link(before) if before else 0
        folds, self.applier.fold_exec_bombs = self.applier.fold_exec_bombs, True
        try:
            row = self.applier.apply_records(
                records.head(events.KIND_EXEC, pid, entry.tid, time_ns, start, *named, len(strings)),
                told.task, body, strings, known=told.known, source=int(source),
            )  # fmt: skip
        finally:
            self.applier.fold_exec_bombs = folds
        self._count_inode_error("exec_parent_missing", is_other, counted)
        if row and previous is not None and self.tables.py_link(row) == link:
            return previous  # an exec bomb, or an exec that was applied already
        return self._complete_row(entry, row, previous, cgroup, source, is_missing, is_fork=False)

    def _count_inode_error(self, tag: str, is_other: bool, counted: int) -> None:
        """The applier counts what it sees by itself, which is less: not every row has the inode from the kernel."""
        if is_other and self.stats.get("inode_error", tag) == counted:
            self.stats.add("inode_error", tag)

    def _complete_row(
        self, entry: ProcessCacheEntry, row: int, before: ProcessCacheEntry | None, cgroup: CGroupContext,
        source: Source, is_missing: bool, *, is_fork: bool,
    ) -> ProcessCacheEntry:  # fmt: skip
        """The record is applied: write what it did not carry, and let the entry be the row from now on."""
        if not row:
            raise ResolverError(f"pid {entry.pid}: the table is full")
        values = dict(records.told(entry))
        ppid = entry.ppid
        attached = self.book.attach(entry, row)
        if attached is not entry:
            return attached  # the event was applied before
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
        if entry.ppid == 0 and ppid:
            values["ppid"] = ppid
        if values:
            entry.set(**values)
        if before is not None:
            entry.inherit_from(before)
        self._register(entry, cgroup, source)
        return entry

    # -- 3.3.5 ---------------------------------------------------------------------------------------------------------

    def _from_kernel_maps(
        self, pid: int, tid: int, inode: int, new_entry_cb: NewEntryCallback | None, *, must_live: bool = False
    ) -> ProcessCacheEntry | None:
        if pid == 0 or self.pid_cache is None or self.proc_cache is None:
            return None
        try:
            owner = self.pid_cache.get(pid)
            image = self.proc_cache.get(int(owner["cookie"])) if owner is not None else None
        except OSError:
            return None  # a kernel that does not let us ask
        if owner is None or image is None or (must_live and int(owner["exit_boot_ns"])):
            return None
        info = self.proc.read(pid, 0)
        if info is None:
            if must_live:
                return None
        elif info.start_ticks != int(owner["start_boot_ns"]) // boot.TICK_NS:
            return None  # the maps are LRU and keep who ended: the pid has another owner by now
        elif info.is_kthread or (must_live and info.is_zombie):
            return None
        entry, is_whole = kernel_maps.entry_of(pid, tid, inode, owner, image, info)
        # Inode 0 accepts any (specification 9.3.2), as everywhere.
        if inode and entry.file_event.inode and entry.file_event.inode != inode:
            return None
        if self._has_left(pid, entry.start_boot_ns):
            return None
        try:
            self._complete(entry, is_whole)
        except ResolverError as error:
            if new_entry_cb is not None:
                new_entry_cb(entry, error)
            return None
        if info is not None and entry.ppid and self.book.head(entry.ppid) is None:
            self._from_procfs(entry.ppid, 0, PROCFS_DEPTH - 1, new_entry_cb)
        exit_time = entry.exit_time
        entry.exit_time = None
        found = self._insert_from_maps(entry, int(image["tgid"]) == pid, new_entry_cb)
        if found is not None and exit_time is not None and found.exit_time is None:
            found.exit(exit_time)
        if found is not None and new_entry_cb is not None:
            new_entry_cb(found, None)
        return found

    def _insert_from_maps(
        self, entry: ProcessCacheEntry, has_own_image: bool, new_entry_cb: NewEntryCallback | None
    ) -> ProcessCacheEntry | None:
        """Fork or exec; of a process that is not cached at all both, as its two events would have done.

        A child that has not called exec has the cookie, so the image and its exec time, of its parent.
        """
        fork_time, exec_time = entry.fork_time, entry.exec_time
        previous = self.book.head(entry.pid)
        if previous is not None and not self._is_same_process(previous, entry.start_boot_ns):
            previous = None
        is_older = exec_time is None  # than the capture
        if is_older and has_own_image:
            if previous is not None and previous.file_event.inode == entry.file_event.inode:
                return previous
            # Nobody knows when; after what is known of it.
            exec_time = entry.exec_time = fork_time if previous is None else self.clock.to_unix_ns(self.now_boot_ns())
        if exec_time is None or (fork_time is not None and exec_time < fork_time):
            return self._insert_fork(entry, entry.file_event.inode, CGroupContext(), Source.MAP, new_entry_cb)
        if fork_time is not None and previous is None:
            first = ProcessCacheEntry(
                pid=entry.pid, tid=entry.pid, ppid=entry.ppid, start_boot_ns=entry.start_boot_ns, fork_time=fork_time,
                cgroup=entry.cgroup,
            )  # fmt: skip
            self._insert_fork(first, 0, CGroupContext(), Source.MAP, new_entry_cb)
        found = self._insert_exec(entry, 0, CGroupContext(), Source.MAP)
        if found is entry and is_older:
            found.exec_time = None
        return found

    # -- 3.3.6, 3.3.8, 3.3.9 -------------------------------------------------------------------------------------------

    def _from_procfs(
        self, pid: int, inode: int, depth: int, new_entry_cb: NewEntryCallback | None
    ) -> ProcessCacheEntry | None:
        if depth < 1 or pid == 0 or pid >= self.pid_capacity:
            return None
        info = self._read(pid)
        if info is None or info.is_zombie or is_kworker(info.ppid, pid):
            return None
        if info.ppid and self.book.head(info.ppid) is None:
            self._from_procfs(info.ppid, 0, depth - 1, new_entry_cb)
        return self._new_from_procfs(info, inode, Source.PROCFS_FALLBACK, new_entry_cb)

    def _read(self, pid: int) -> ProcInfo | None:
        want = procfs.WANT_DEFAULT
        if self.opts.envs_resolution_enabled and self.env_vars_resolver is None:
            want |= procfs.WANT_ENVS
        self.tables.count("procfs_reads")
        info = self.proc.read(pid, want)
        if info is None:
            self.tables.count("procfs_failed")
        return info

    def _new_from_procfs(
        self, info: ProcInfo, inode: int, source: Source, new_entry_cb: NewEntryCallback | None
    ) -> ProcessCacheEntry | None:
        values = self._enrich(info)
        if values is None or self._has_left(info.tgid, info.start_boot_ns):
            return None
        if info.cgroup_path is not None and info.cgroup_id:
            self.learn_cgroup(info.cgroup_id, info.cgroup_path)
        if info.cgroups_v1 > events.CGROUPS_V1_ROOTS and info.cgroup is not None:
            self.learn_cgroup(info.cgroups_v1, info.cgroup)
        args, envs = self._kept_of(values.pop("args_entry"), values.pop("envs_entry"))
        info.argv = records.area(args.values) if args is not None else None
        info.envs = records.area(envs.values) if envs is not None else None
        info.envs_full_bytes = info.envs_full_bytes or len(info.envs or b"")
        info.is_envs_truncated = envs is not None and envs.is_truncated
        is_other = bool(inode) and info.exe_inode != inode
        if is_other:
            # The process was replaced since the event; path and the rest describe the newer image.
            info.exe_inode = inode
            self.stats.add("inode_error", "procfs_mismatch")
        read = to_record(info, time_boot_ns=self.now_boot_ns())
        result = self.applier.insert_snapshot(
            read.head, read.task, read.exec, read.blob,
            source=int(source), known=proc_knows(read.task[0]), start_ticks=info.start_is_ticks,
            flags=self._marks(source, info.start_boot_ns),
        )  # fmt: skip
        row = self.tables.py_head(info.tgid)
        if not row or int(self.tables.hot_view()[row]["start_boot_ns"]) // boot.TICK_NS != info.start_ticks:
            return None  # the pid has a younger owner
        entry = self.book.entry(row)
        if result == ADDED:
            if is_other:
                values["is_parent_missing"] = True
        elif is_other:
            values["is_parent_missing"] = True
            values["file_event"] = replace(values.get("file_event", entry.file_event), inode=inode)
        entry.set(**values)
        before = entry.ancestor
        if before is not None:
            entry.inherit_from(before)
        self.set_process_users_groups(entry)
        if self.user_session_resolver is not None:
            ssh = self.user_session_resolver.resolve_ssh(entry)
            if ssh is not None:
                entry.user_session = replace(entry.user_session, ssh=ssh)
        self._register(entry, CGroupContext(), source)
        if new_entry_cb is not None:
            new_entry_cb(entry, None)
        return entry

    def _enrich(self, info: ProcInfo) -> dict[str, Any] | None:
        """Fields that /proc gives and records do not carry; None: no entry is made of this process.

        An executable that may not be looked at leaves its facts unknown, not the process out (9.1.12), and so does a
        kernel without a login uid (9.3.10).
        """
        if info.is_kthread or info.exe is None or (info.exe == b"/" and info.is_exe_deleted):
            return None
        values: dict[str, Any] = {
            "args_entry": ArgsEntry([os.fsdecode(arg) for arg in info.args], info.is_args_truncated),
            "envs_entry": self._environ(info),
        }
        if info.script_path is None:
            values["interpreter"] = NO_FILE.with_names("", "")
        elif info.exe_inode == 0:
            values["interpreter"] = NO_FILE.with_pathname(os.fsdecode(info.exe))
        file = FileEvent(
            inode=info.exe_inode, mount_id=info.mount_id, uid=info.exe_uid, gid=info.exe_gid, mode=info.exe_mode,
            ctime=info.exe_ctime_ns, mtime=info.exe_mtime_ns, device=info.exe_device, nlink=info.exe_nlink,
            mount_origin=MOUNT_ORIGIN_PROCFS, mount_source=MOUNT_SOURCE_SNAPSHOT, mount_visibility_resolved=True,
        )  # fmt: skip
        # A memfd lies on a mount that nobody sees; the kernel's records give it mount id 0.
        file = replace(file, mount_id=0) if info.is_memfd else file
        file = file.with_pathname(os.fsdecode(info.exe))
        if file.is_fileless:
            values["file_event"] = replace(file, mount_detached=True, filesystem=FILELESS_FILESYSTEM)
        elif self.mount_resolver is not None and file.mount_id:
            file = replace(file, mount_visible=True)
            try:
                kind = self.mount_resolver.filesystem(file.mount_id, file.device, info.tgid)
                file = replace(file, filesystem=kind)
            except (LookupError, OSError):
                pass
            values["file_event"] = file
        return values

    def _environ(self, info: ProcInfo) -> EnvsEntry:
        if self.env_vars_resolver is not None:
            try:
                strings, is_cut = self.env_vars_resolver.resolve(info.tgid)
            except OSError:
                return EnvsEntry()
            return EnvsEntry(strings, is_cut)
        if not self.opts.envs_resolution_enabled:
            return EnvsEntry((), True)
        if info.envs is None:
            return EnvsEntry()
        strings, is_cut = cut_environ(info.envs, (*PRIORITY_PREFIXES, *sorted(self.opts.envs_with_value)))
        return EnvsEntry(strings, is_cut or info.is_envs_truncated)

    # -- 3.3.7 ---------------------------------------------------------------------------------------------------------

    def _register(self, entry: ProcessCacheEntry, cgroup: CGroupContext, source: Source) -> None:
        """What follows an insertion; counting is the applier's."""
        pid = entry.pid
        self.book.leaving.pop(pid, None)
        if self.mount_resolver is not None:
            self.mount_resolver.process_seen(pid, entry.mnt_ns)
        if entry.ppid == 0 and pid != 1:
            ppid = self.proc.read_ppid(pid)
            if ppid:
                parent = self.book.head(ppid)
                if parent is not None and entry.reparent(parent):
                    self.stats.add("reparent_success", SET_PROCESS_CONTEXT)
                else:
                    if parent is None:
                        entry.ppid = ppid
                    self.stats.add("reparent_failed", SET_PROCESS_CONTEXT)
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

    # -- 3.3.10 --------------------------------------------------------------------------------------------------------

    def _complete(self, entry: ProcessCacheEntry, is_path_whole: bool = True) -> None:
        """Complete an entry that was decoded from the kernel.

        Raises:
            PathResolutionError: of the executable or the interpreter; the entry is to be used no further.
        """
        entry.file_event = self._with_path(entry, entry.file_event, is_path_whole)
        if entry.has_interpreter:
            entry.interpreter = self._with_path(entry, entry.interpreter, True)
        else:
            entry.interpreter = NO_FILE.with_names("", "")
        self.set_process_args(entry)
        self.set_process_envs(entry)
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

    def _with_path(self, entry: ProcessCacheEntry, file: FileEvent, is_whole: bool) -> FileEvent:
        try:
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
        except (ProclineError, LookupError, OSError) as error:
            entry.file_event = entry.file_event.unresolved(str(error))
            self.stats.add("path_error")
            raise PathResolutionError(f"pid {entry.pid}: path of inode {file.inode}: {error}") from error

    # -- 3.3.11 --------------------------------------------------------------------------------------------------------

    def _delete(self, pid: int, exit_time: int) -> bool:
        entry = self.book.head(pid)
        if entry is None:
            return False
        if self.cgroup_resolver is not None:
            self.cgroup_resolver.del_pid(pid)
        link = self.tables.py_link(self.tables.py_head(pid))
        if entry.exit_time is None:
            self.applier.close_missing(pid, entry.start_boot_ns, self.book.to_boot(exit_time), seen=True)
        elif entry.exit_time != exit_time:
            entry.exit(exit_time)
        self.book.delete(pid, link)
        return True

    # -- helpers -------------------------------------------------------------------------------------------------------

    def _marks(self, source: Source, start_boot_ns: int) -> int:
        """What is not certain of an entry that no event told: the capture ran and has not got it."""
        if source not in (Source.MAP, Source.PROCFS_FALLBACK) or not self.capture_boot_ns:
            return 0
        return layout.ROW_GAP | (layout.ROW_BEFORE_CAPTURE if start_boot_ns < self.capture_boot_ns else 0)

    def _has_left(self, pid: int, start_boot_ns: int) -> bool:
        """Whether the tables know the end of this process, which whoever was asked has not seen yet."""
        row = self.tables.py_head(pid)
        if not row or self.book.is_cached(row):
            return False
        own = int(self.tables.hot_view()[row]["start_boot_ns"])
        return own == start_boot_ns or own // boot.TICK_NS == start_boot_ns // boot.TICK_NS

    def _is_same_process(self, entry: ProcessCacheEntry, start_boot_ns: int) -> bool:
        """Whether a cached entry is of the process that began then; 0 is unknown, and believed to be the same."""
        own = entry.start_boot_ns
        if not start_boot_ns or own == start_boot_ns:
            return True
        flags = int(self.tables.hot_view()[self.tables.py_head(entry.pid)]["flags"])
        return bool(flags & layout.ROW_START_TICKS) and own // boot.TICK_NS == start_boot_ns // boot.TICK_NS

    def _parent_at(self, ppid: int, time_ns: int) -> ProcessCacheEntry | None:
        """Who had a parent's pid then: a cached process, or one whose exit was told before its child's fork."""
        row = self.tables.py_head(ppid) if ppid else 0
        if not row:
            return None
        if self.book.is_cached(row) or int(self.tables.hot_view()[row]["exit_boot_ns"]) >= time_ns:
            return self.book.entry(row)
        return None

    def _named_parent(self, ppid: int, parent: ProcessCacheEntry | None) -> tuple[int, int]:
        """Pid and start of the parent for a record.

        Nobody, where the pid's last owner had ended before: the parent is a process that was never seen.
        """
        if parent is not None:
            return ppid, parent.start_boot_ns
        return (0 if self.tables.py_head(ppid) else ppid), 0

    def _boot_time(self, unix_ns: int | None) -> int:
        return self.book.to_boot(unix_ns) if unix_ns is not None else self.now_boot_ns()


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
