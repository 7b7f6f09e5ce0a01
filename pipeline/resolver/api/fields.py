"""State of the resolver, and the methods that fill single fields of an entry (specification 3.1, 3.4).

Covers arguments and environment, terminal, names of users and groups, symlink names, times, cookies, and what of the
arguments may be stored. Leaves out entering entries (`insertion`).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pipeline.host import boot
from pipeline.procfs import reader as procfs
from pipeline.procfs.tty import procfs_tty
from pipeline.resolver.api.limiter import Limiter
from pipeline.resolver.api.lock import ResolverLock
from pipeline.resolver.api.stats import Stats
from pipeline.resolver.apply._applier import Applier
from pipeline.resolver.entries import args_views, kernel_maps
from pipeline.resolver.entries.cache_entry import FreeStore, ProcessCacheEntry
from pipeline.resolver.entries.collaborators import (
    CGroupResolver,
    EnvVarsResolver,
    MountResolver,
    PathResolver,
    ProcSource,
    TimeResolver,
    UserGroupResolver,
    UserSessionResolver,
)
from pipeline.resolver.entries.entry_rows import Book
from pipeline.resolver.entries.model import SNAPSHOTTING, Credentials, PIDContext
from pipeline.resolver.entries.opts import ResolverOpts
from pipeline.secrets.argsenvs import ArgScrubber, ArgsEntry, ArgsEnvsCache, EnvsEntry
from pipeline.shm.names.symlinks import symlink_names
from pipeline.shm.writer._writer import TableWriter


def is_process(pid: int) -> bool:
    """Whether `pid` is a process of this pid namespace; a thread that is not its process' leader is none."""
    try:
        os.close(os.pidfd_open(pid))
    except OSError:
        return False
    return True


def _learn_nothing(cgroup_id: int, path: bytes) -> None:
    """Nobody names cgroups."""


class Fields:
    """State of the eBPF resolver, and single fields of entries. See `ebpf.EBPFResolver` for the arguments."""

    def __init__(
        self,
        scrubber: ArgScrubber | None,
        mount_resolver: MountResolver | None,
        cgroup_resolver: CGroupResolver | None,
        user_group_resolver: UserGroupResolver | None,
        time_resolver: TimeResolver | None,
        path_resolver: PathResolver | None,
        env_vars_resolver: EnvVarsResolver | None,
        user_session_resolver: UserSessionResolver | None,
        opts: ResolverOpts,
        tables: TableWriter,
        applier: Applier | None,
        proc: ProcSource | None,
        now_boot_ns: Callable[[], int],
        limiter_clock: Callable[[], int],
    ) -> None:
        self.scrubber = args_views.scrubber_or_default(scrubber, opts)
        self.mount_resolver = mount_resolver
        self.cgroup_resolver = cgroup_resolver
        self.user_group_resolver = user_group_resolver
        self.path_resolver = path_resolver
        self.env_vars_resolver = env_vars_resolver
        self.user_session_resolver = user_session_resolver
        self.opts = opts
        self.tables = tables
        self.applier = applier if applier is not None else Applier(tables)
        self.proc: ProcSource = proc if proc is not None else procfs.ProcReader()
        self.now_boot_ns = now_boot_ns
        offset_ns = int(tables.control_view()[0]["boot_unix_ns"])
        self.clock: TimeResolver = time_resolver if time_resolver is not None else boot.BootClock(offset_ns)
        self.book = Book(tables, self.applier, offset_ns, now_boot_ns)
        self.stats = Stats(tables)
        self.args_envs = ArgsEnvsCache()
        self.limiter: Limiter[int] = Limiter(clock=limiter_clock)
        self.pid_cache: kernel_maps.PidCache | None = None
        self.proc_cache: kernel_maps.KernelMap | None = None
        self.lock = ResolverLock()
        #: Held for one read of a process: a reader serves one thread at a time. Nobody waits for `lock` with it.
        self._reading = threading.Lock()
        self.state = SNAPSHOTTING
        self.pid_capacity = tables.root_pids
        #: When the capture began, on the boot clock; 0: there is none, so nothing is marked as missed by it.
        self.capture_boot_ns = 0
        #: Told (cgroup id, path) of what ``/proc`` named.
        self.learn_cgroup: Callable[[int, bytes], None] = _learn_nothing
        #: Tells a process from a thread and from a free pid.
        self.is_process: Callable[[int], bool] = is_process

    # -- fields --------------------------------------------------------------------------------------------------------

    def new_process_cache_entry(self, pid_context: PIDContext) -> ProcessCacheEntry:
        """An empty entry with this context and a random cookie, in no table. Needs no lock."""
        cookie = int.from_bytes(os.urandom(4)) << 32 | time.time_ns() & 0xFFFFFFFF
        return ProcessCacheEntry.of_context(pid_context, cookie=cookie)

    def apply_boot_time(self, entry: ProcessCacheEntry) -> None:
        """Turn an entry's times of the boot clock into Unix time. Once: a second call does nothing. Needs no lock.

        The boot clock counts suspend and one offset in ns is used, so there is no drift to correct.
        """
        store = entry.store
        if not isinstance(store, FreeStore) or not store.times_are_boot:
            return
        store.times_are_boot = False
        for name, value in (
            ("fork_time", entry.fork_time), ("exec_time", entry.exec_time), ("exit_time", entry.exit_time),
        ):  # fmt: skip
            if value is not None:  # 0 is the kernel's unset time
                store.update({name: self.clock.to_unix_ns(value) if value else None})

    def set_process_args(self, pce: ProcessCacheEntry) -> None:
        """Take the arguments that came before the exec event; nothing when their id is not there (any more)."""
        with self.lock:
            taken = self._take("args", pce.args_id, pce.args_truncated)
            if taken is None:
                return
            values, is_truncated = taken
            pce.set(args_entry=self._kept_args(pce, ArgsEntry(values, is_truncated)), args_truncated=is_truncated)

    def set_process_envs(self, pce: ProcessCacheEntry) -> None:
        """The same for the environment; nothing unless environments are enabled."""
        if not self.opts.envs_resolution_enabled:
            return
        with self.lock:
            taken = self._take("envs", pce.envs_id, pce.envs_truncated)
            if taken is None:
                return
            values, is_truncated = taken
            envs = EnvsEntry(values, is_truncated)
            if not pce.is_free:
                envs = self._kept_of(None, envs)[1] or envs
            pce.set(envs_entry=envs, envs_truncated=is_truncated)

    def _take(self, what: str, entry_id: int, is_cut: bool) -> tuple[list[str], bool] | None:
        """Take what came before the exec event, and count it; None when it is not there.

        Args:
            is_cut: the exec event says so: the kernel had no room for more chunks, and those that came are whole.
        """
        taken = self.args_envs.take(entry_id) if entry_id else None
        if taken is None:
            return None
        values, is_truncated = taken[0], taken[1] or is_cut
        if is_truncated:
            self.stats.add(f"{what}_truncated")
        self.stats.add(f"{what}_size", n=len(values))
        return values, is_truncated

    def set_process_tty(self, pce: ProcessCacheEntry) -> str:
        """Look a missing terminal up in procfs, if that is enabled; returns the terminal's name."""
        if pce.tty_name or not self.opts.tty_fallback_enabled:
            return pce.tty_name
        name = procfs_tty(pce.pid)
        with self.lock:
            if not pce.tty_name:
                pce.tty_name = name
            return pce.tty_name

    def set_process_users_groups(self, pce: ProcessCacheEntry) -> None:
        """Names of the six ids, as the process' own container knows them; "" where nobody knows any."""
        with self.lock:
            credentials = self._with_names(pce, pce.credentials)
            if credentials != pce.credentials:
                pce.credentials = credentials

    def set_process_symlink(self, entry: ProcessCacheEntry) -> None:
        """Names under which a busybox or linked executable was invoked."""
        with self.lock:
            args = entry.args_entry
            names = symlink_names(
                entry.file_event.pathname, args.argv0 if args is not None else "", entry.is_through_symlink
            )
            if names is not None:
                entry.set(symlink_paths=names.paths, symlink_basename=names.basename)

    def _with_names(self, pce: ProcessCacheEntry, credentials: Credentials) -> Credentials:
        if self.user_group_resolver is None:
            return credentials
        view = pce.mnt_ns if not pce.container.is_null else 0
        names: dict[str, Any] = {}
        for name, kind, number in (
            ("user", "user", credentials.uid), ("euser", "user", credentials.euid),
            ("fsuser", "user", credentials.fsuid), ("group", "group", credentials.gid),
            ("egroup", "group", credentials.egid), ("fsgroup", "group", credentials.fsgid),
        ):  # fmt: skip
            look_up = self.user_group_resolver.user if kind == "user" else self.user_group_resolver.group
            try:
                names[name] = look_up(number, pce.pid, view)
            except (LookupError, OSError):
                names[name] = ""
        return replace(credentials, **names)

    # -- what may be stored --------------------------------------------------------------------------------------------

    def _kept(self, entry: ProcessCacheEntry) -> tuple[ArgsEntry | None, EnvsEntry | None]:
        """What may be stored of an entry's arguments and environment."""
        return self._kept_of(entry.args_entry, entry.envs_entry)

    def _kept_of(self, args: ArgsEntry | None, envs: EnvsEntry | None) -> tuple[ArgsEntry | None, EnvsEntry | None]:
        return args_views.kept(args, envs, self.scrubber, self.opts)

    def _kept_args(self, pce: ProcessCacheEntry, args: ArgsEntry) -> ArgsEntry:
        return args if pce.is_free else self._kept_of(args, None)[0] or args
