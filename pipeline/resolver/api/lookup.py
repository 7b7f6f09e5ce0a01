"""The one order in which a process is looked for: cache, kernel maps, procfs (specification 3.3.1, 3.3.5 to 3.3.9).

For single calls, questions of readers and context events alike. What is found is entered as its events would have left
it, with its missing ancestors, oldest first. ``/proc`` is read with the lock put down: what is told of a pid meanwhile
is newer than what was read. Reading the maps' records is in `kernel_maps`, reading ``/proc`` in `procfs`.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any, NamedTuple

from pipeline.bus.requests import ABSENT, LIMITED
from pipeline.host import boot
from pipeline.procfs import reader as procfs
from pipeline.procfs.info import ProcInfo, proc_knows, to_record
from pipeline.records import kinds as events
from pipeline.resolver.api.insertion import Insertion
from pipeline.resolver.apply._applier import ADDED
from pipeline.resolver.entries import entry_records as records
from pipeline.resolver.entries import kernel_maps, mounts
from pipeline.resolver.entries.args_views import is_kworker
from pipeline.resolver.entries.cache_entry import ProcessCacheEntry
from pipeline.resolver.entries.collaborators import NewEntryCallback
from pipeline.resolver.entries.model import (
    FILELESS_FILESYSTEM,
    MOUNT_ORIGIN_PROCFS,
    MOUNT_SOURCE_SNAPSHOT,
    SNAPSHOTTED,
    CGroupContext,
    FileEvent,
    ResolverError,
    Source,
)
from pipeline.secrets.argsenvs import PRIORITY_PREFIXES, ArgsEntry, EnvsEntry, cut_environ

#: Missing ancestors are fetched from procfs at most this many levels up.
PROCFS_DEPTH = 16

#: What found a process: the tags of `hits`.
CACHE, KERNEL_MAPS, PROCFS = "cache", "kernel_maps", "procfs"


class LookUp(NamedTuple):
    """A process that was looked for: the entry and what found it, or None and why (ABSENT, LIMITED)."""

    entry: ProcessCacheEntry | None
    how: str


class Lookups(Insertion):
    """The part of the eBPF resolver that finds processes."""

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
        if 0 < pid < self.pid_capacity and (not must_live or (use_procfs and self.is_process(pid))):
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

    # -- 3.3.5 ---------------------------------------------------------------------------------------------------------

    def _from_kernel_maps(
        self, pid: int, tid: int, inode: int, new_entry_cb: NewEntryCallback | None, *, must_live: bool = False
    ) -> ProcessCacheEntry | None:
        if not 0 < pid < self.pid_capacity or self.pid_cache is None or self.proc_cache is None:
            return None
        link = self._link(pid)
        try:
            owner = self.pid_cache.get(pid)
            image = self.proc_cache.get(int(owner["cookie"])) if owner is not None else None
        except OSError:
            return None  # a kernel that does not let us ask
        if owner is None or image is None or (must_live and int(owner["exit_boot_ns"])):
            return None
        info = self._ask(pid, 0)
        if info is None:
            if must_live:
                return None
        elif info.start_ticks != int(owner["start_boot_ns"]) // boot.TICK_NS:
            return None  # the maps keep who ended: the pid has another owner by now
        elif info.is_kthread or (must_live and info.is_zombie):
            return None
        entry, is_whole = kernel_maps.entry_of(pid, tid, inode, owner, image, info)
        # Inode 0 accepts any (specification 9.3.2), as everywhere.
        if inode and entry.file_event.inode and entry.file_event.inode != inode:
            return None
        if self._has_left(pid, entry.start_boot_ns):
            return None
        cached = self.book.head(pid)
        if (
            cached is not None
            and kernel_maps.is_rounded(owner)
            and boot.ticks_of(cached.start_boot_ns) == boot.ticks_of(entry.start_boot_ns)
        ):
            entry.start_boot_ns = cached.start_boot_ns
        try:
            self._complete(entry, is_whole)
        except ResolverError as error:
            if new_entry_cb is not None:
                new_entry_cb(entry, error)
            return None
        if info is not None and entry.ppid and self.book.head(entry.ppid) is None:
            self._from_procfs(entry.ppid, 0, PROCFS_DEPTH - 1, new_entry_cb)
        if self._link(pid) != link:
            return self._told_meanwhile(pid, inode)
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
        if depth < 1 or not 0 < pid < self.pid_capacity:
            return None
        link, time_ns = self._link(pid), self.now_boot_ns()
        info = self._read(pid)
        if info is None or info.is_zombie or is_kworker(info.ppid, pid):
            return None
        if info.ppid and self.book.head(info.ppid) is None:
            self._from_procfs(info.ppid, 0, depth - 1, new_entry_cb)
        if self._link(pid) != link:
            return self._told_meanwhile(pid, inode)
        return self._new_from_procfs(info, inode, Source.PROCFS_FALLBACK, new_entry_cb, time_ns)

    def _told_meanwhile(self, pid: int, inode: int) -> ProcessCacheEntry | None:
        """An event or another look-up has entered somebody, or a newer image, while ``/proc`` was read."""
        entry = self.book.head(pid)
        return None if entry is None or (inode and entry.file_event.inode != inode) else entry

    def _ask(self, pid: int, want: int) -> ProcInfo | None:
        """Read a process, with the lock put down."""
        with self.lock.put_down(), self._reading:
            return self.proc.read(pid, want)

    def _read(self, pid: int) -> ProcInfo | None:
        want = procfs.WANT_DEFAULT
        if self.opts.envs_resolution_enabled and self.env_vars_resolver is None:
            want |= procfs.WANT_ENVS
        self.tables.count("procfs_reads")
        info = self._ask(pid, want)
        if info is None:
            self.tables.count("procfs_failed")
        return info

    def _new_from_procfs(
        self, info: ProcInfo, inode: int, source: Source, new_entry_cb: NewEntryCallback | None, time_boot_ns: int
    ) -> ProcessCacheEntry | None:
        """3.3.9. `time_boot_ns`: from before it was read, so that what events have told since is kept."""
        values = self._enrich(info)
        if values is None or self._has_left(info.tgid, info.start_boot_ns):
            return None
        if info.cgroup_path is not None and info.cgroup_id:
            self.learn_cgroup(info.cgroup_id, info.cgroup_path)
        if info.cgroups_v1 > events.CGROUPS_V1_ROOTS and info.cgroup is not None:
            self.learn_cgroup(info.cgroups_v1, info.cgroup)
        raw = values.pop("args_entry"), values.pop("envs_entry")
        args, envs = self._kept_of(*raw)
        info.argv = records.area(args.values) if args is not None else None
        info.envs = records.area(envs.values) if envs is not None else None
        info.envs_full_bytes = info.envs_full_bytes or len(info.envs or b"")
        info.is_envs_truncated = envs is not None and envs.is_truncated
        is_other = bool(inode) and info.exe_inode != inode
        if is_other:
            # The process was replaced since the event; path and the rest describe the newer image.
            info.exe_inode = inode
            self.stats.add("inode_error", "procfs_mismatch")
        read = to_record(info, time_boot_ns=time_boot_ns)
        result = self.applier.insert_snapshot(
            read.head, read.task, read.exec, read.blob,
            source=int(source), known=proc_knows(read.task[0]), start_ticks=info.start_is_ticks,
            flags=self._marks(source, info.start_boot_ns), digest=records.digest_of(*raw),
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
        file = FileEvent(
            inode=info.exe_inode, mount_id=info.mount_id, uid=info.exe_uid, gid=info.exe_gid, mode=info.exe_mode,
            ctime=info.exe_ctime_ns, mtime=info.exe_mtime_ns, device=info.exe_device, nlink=info.exe_nlink,
            mount_origin=MOUNT_ORIGIN_PROCFS, mount_source=MOUNT_SOURCE_SNAPSHOT, mount_visibility_resolved=True,
        )  # fmt: skip
        # A memfd lies on a mount that nobody sees; its number is as good as none.
        file = replace(file, mount_id=0) if info.is_memfd else file
        file = file.with_pathname(os.fsdecode(info.exe))
        if file.is_fileless:
            values["file_event"] = replace(file, mount_detached=True, filesystem=FILELESS_FILESYSTEM)
        elif self.mount_resolver is not None and file.mount_id:
            where = mounts.path_of(info.exe, info.mount_end, 0)
            file = replace(file, mount_visible=True, mount_path=where)
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

    def _has_left(self, pid: int, start_boot_ns: int) -> bool:
        """Whether the tables know the end of this process, which whoever was asked has not seen yet."""
        row = self.tables.py_head(pid)
        if not row or self.book.is_cached(row):
            return False
        own = int(self.tables.hot_view()[row]["start_boot_ns"])
        return own == start_boot_ns or own // boot.TICK_NS == start_boot_ns // boot.TICK_NS
