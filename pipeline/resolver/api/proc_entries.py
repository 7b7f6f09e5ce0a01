"""Read processes from ``/proc`` as entries, and insert them (specification 3.3.6 to 3.3.9, SyncCache).

`finder` inserts missing ancestors. A daemon reads all processes at once instead: `upkeep/repair.py`. Both insert
through `proc_rows`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from pipeline.host import boot
from pipeline.procfs import proc_reader
from pipeline.procfs.info import ProcInfo, to_record
from pipeline.procfs.survey import LiveProcess, named_cgroups
from pipeline.resolver.api.fields import FieldFiller
from pipeline.resolver.api.proc_access import ProcAccess
from pipeline.resolver.api.proc_rows import ProcRows
from pipeline.resolver.api.registry import Registry
from pipeline.resolver.api.state import ResolverState
from pipeline.resolver.apply._applier import ADDED
from pipeline.resolver.entries import entry_records, mounts
from pipeline.resolver.entries.cache_entry import ProcessCacheEntry
from pipeline.resolver.entries.collaborators import (
    EnvVarsResolver,
    MountResolver,
    NewEntryCallback,
    UserSessionResolver,
)
from pipeline.resolver.entries.kernel_maps import KernelMaps
from pipeline.resolver.entries.model import (
    FILELESS_FILESYSTEM,
    MOUNT_ORIGIN_PROCFS,
    MOUNT_SOURCE_SNAPSHOT,
    CGroupContext,
    FileEvent,
    Source,
)
from pipeline.secrets.argsenvs import PRIORITY_PREFIXES, ArgsEntry, EnvsEntry, cut_environ


class ProcEntries:
    """Processes of ``/proc`` as entries.

    Args:
        state: of the resolver.
        proc: reads ``/proc``.
        rows: enters what was read into the tables.
        maps: the kernel's; the snapshot stores processes there.
        fields: fills fields that ``/proc`` does not show.
        registry: is informed of each new entry.
        learn_cgroup: is called with (cgroup id, path) of every cgroup that ``/proc`` named.
        mount_resolver, env_vars_resolver, user_session_resolver: collaborators; None: there is none.
    """

    def __init__(
        self,
        state: ResolverState,
        proc: ProcAccess,
        rows: ProcRows,
        maps: KernelMaps,
        fields: FieldFiller,
        registry: Registry,
        learn_cgroup: Callable[[int, bytes], None],
        mount_resolver: MountResolver | None,
        env_vars_resolver: EnvVarsResolver | None,
        user_session_resolver: UserSessionResolver | None,
    ) -> None:
        self._state = state
        self._proc = proc
        self._rows = rows
        self._maps = maps
        self._fields = fields
        self._registry = registry
        self._learn_cgroup = learn_cgroup
        self._mounts = mount_resolver
        self._env_vars = env_vars_resolver
        self._sessions = user_session_resolver

    def read(self, pid: int) -> ProcInfo | None:
        """Read a process; None: it is gone."""
        want = proc_reader.WANT_DEFAULT
        if self._state.opts.envs_resolution_enabled and self._env_vars is None:
            want |= proc_reader.WANT_ENVS
        self._state.tables.count("procfs_reads")
        info = self._proc.read(pid, want)
        if info is None:
            self._state.tables.count("procfs_failed")
        return info

    def insert(
        self, info: ProcInfo, inode: int, source: Source, new_entry_cb: NewEntryCallback | None, time_boot_ns: int
    ) -> ProcessCacheEntry | None:
        """Enter a process that was read (3.3.9).

        Args:
            info: of a live process.
            inode: of the executable that the event named; 0: any.
            source: of the entry.
            new_entry_cb: is informed of the entry.
            time_boot_ns: from before the read, so that facts which events have reported since are kept.

        Returns:
            The entry; None: it is no process with an image, it has ended, or its pid has a younger owner.
        """
        state = self._state
        if not _has_image(info) or state.has_left(info.tgid, info.start_boot_ns):
            return None
        for cgroup_id, path in named_cgroups(info):
            self._learn_cgroup(cgroup_id, path)
        file, values = self._mounted_file(info), dict[str, object]()
        digest = self._conceal(info)
        is_other = bool(inode) and info.exe_inode != inode
        if is_other:
            # The image was replaced since the event; path and the other facts describe the newer one.
            info.exe_inode = inode
            state.stats.add("inode_error", "procfs_mismatch")
        read = to_record(info, time_boot_ns=time_boot_ns)
        process = LiveProcess(read.header[0], read.task[0], read.exec[0], read.blob, not info.start_is_ticks, digest)
        result = self._rows.insert(process, int(source), state.marks(source, info.start_boot_ns))
        row = state.tables.py_head(info.tgid)
        if not row or boot.ticks_of(int(state.tables.hot_view()[row]["start_boot_ns"])) != info.start_ticks:
            return None  # the pid has a younger owner
        entry = state.book.entry(row)
        if file is not None:
            values["file_event"] = file
        if is_other:
            values["is_parent_missing"] = True
            if result != ADDED:
                values["file_event"] = replace(file or entry.file_event, inode=inode)
        entry.set(**values)
        before = entry.ancestor
        if before is not None:
            entry.inherit_from(before)
        self._fields.set_users_groups(entry)
        ssh = self._sessions.resolve_ssh(entry) if self._sessions is not None else None
        if ssh is not None:
            entry.user_session = replace(entry.user_session, ssh=ssh)
        self._registry.register(entry, CGroupContext(), source)
        if new_entry_cb is not None:
            new_entry_cb(entry, None)
        return entry

    def sync(self, process: int | ProcInfo) -> None:
        """Enter one process of the snapshot at the start, and store it in the kernel's maps.

        Args:
            process: a pid, or the facts that were read. Call for the oldest process first, so that parents come before
                their children.
        """
        state = self._state
        pid = process if isinstance(process, int) else process.tgid
        if not state.has_slot(pid):
            return
        link, time_ns = state.link(pid), state.now_boot_ns()
        info = self.read(process) if isinstance(process, int) else process
        if info is None or state.is_kernel_thread(info.ppid, info.tgid) or state.link(pid) != link:
            return
        entry = self.insert(info, 0, Source.PROCFS_SNAPSHOT, None, time_ns)
        if entry is None:
            return
        read = to_record(info)
        header = read.header[0].copy()
        header["start_boot_ns"] = entry.start_boot_ns
        cookie = self._maps.fill(header, read.task[0], read.exec[0], info.exe or b"", entry.cookie)
        if cookie:
            entry.cookie = cookie

    def _conceal(self, info: ProcInfo) -> int:
        """Replace arguments and environment by what may be stored; returns the digest of the originals."""
        args = ArgsEntry([os.fsdecode(arg) for arg in info.args], info.is_args_truncated)
        envs = self._environ(info)
        kept_args, kept_envs = self._fields.storable(args, envs)
        info.argv = entry_records.area(kept_args.values) if kept_args is not None else None
        info.envs = entry_records.area(kept_envs.values) if kept_envs is not None else None
        info.envs_full_bytes = info.envs_full_bytes or len(info.envs or b"")
        info.is_envs_truncated = kept_envs is not None and kept_envs.is_truncated
        return entry_records.digest_of(args, envs)

    def _environ(self, info: ProcInfo) -> EnvsEntry:
        opts = self._state.opts
        if self._env_vars is not None:
            try:
                strings, is_cut = self._env_vars.resolve(info.tgid)
            except OSError:
                return EnvsEntry()
            return EnvsEntry(strings, is_cut)
        if not opts.envs_resolution_enabled:
            return EnvsEntry((), True)
        if info.envs is None:
            return EnvsEntry()
        strings, is_cut = cut_environ(info.envs, (*PRIORITY_PREFIXES, *sorted(opts.envs_with_value)))
        return EnvsEntry(strings, is_cut or info.is_envs_truncated)

    def _mounted_file(self, info: ProcInfo) -> FileEvent | None:
        """Return the executable with the facts of its mount that records do not carry; None: there are none (3.3.8)."""
        # A memfd is on a mount that no process can see, so the number of that mount is useless.
        file = FileEvent(
            inode=info.exe_inode, mount_id=0 if info.is_memfd else info.mount_id, uid=info.exe_uid, gid=info.exe_gid,
            mode=info.exe_mode, ctime=info.exe_ctime_ns, mtime=info.exe_mtime_ns, device=info.exe_device,
            nlink=info.exe_nlink, mount_origin=MOUNT_ORIGIN_PROCFS, mount_source=MOUNT_SOURCE_SNAPSHOT,
            mount_visibility_resolved=True,
        ).with_pathname(os.fsdecode(info.exe or b""))  # fmt: skip
        if file.is_fileless:
            return replace(file, mount_detached=True, filesystem=FILELESS_FILESYSTEM)
        if self._mounts is None or not file.mount_id:
            return None
        file = replace(file, mount_visible=True, mount_path=mounts.path_of(info.exe or b"", info.mount_end, 0))
        with suppress(LookupError, OSError):
            file = replace(file, filesystem=self._mounts.filesystem(file.mount_id, file.device, info.tgid))
        return file


def _has_image(info: ProcInfo) -> bool:
    """Whether an entry is made of a process.

    If its executable may not be read, the process is entered without the executable's facts (9.1.12), and if the kernel
    has no login uid, without that (9.3.10).
    """
    return not info.is_kthread and info.exe is not None and not (info.exe == b"/" and info.is_exe_deleted)
