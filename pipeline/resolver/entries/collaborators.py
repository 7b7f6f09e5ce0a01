"""The interfaces of the resolver's collaborators, each of which may be absent.

It does not implement any. If Procline has an implementation, the interface names it.

Example:
    >>> import os, tempfile
    >>> with tempfile.TemporaryDirectory(dir="/dev/shm") as directory, create_tables(path=directory) as tables:
    ...     found: list[int] = []
    ...     def note(entry, error):
    ...         found.append(entry.pid)
    ...     callback: NewEntryCallback = note
    ...     resolver = EBPFResolver(tables=tables)
    ...     resolver.set_state(SNAPSHOTTED)
    ...     entry = resolver.resolve(os.getpid(), os.getpid(), 0, use_procfs=True, new_entry_cb=callback)
    ...     print(os.getpid() in found)
    True
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, SupportsInt

from pipeline.procfs.info import ProcInfo
from pipeline.resolver.entries.cache_entry import ProcessCacheEntry
from pipeline.resolver.entries.model import (
    CGroupContext,
    ContainerContext,
    FileEvent,
    PIDContext,
    ResolverError,
    SSHSessionContext,
)

#: A function that is called with each entry that the resolver inserts by itself. It runs under the lock, so it may call
#: only the `..._locked` methods.
NewEntryCallback = Callable[[ProcessCacheEntry, ResolverError | None], None]


class MountResolver(Protocol):
    """Follows mounts.

    Example:
        >>> import os, tempfile
        >>> class Overlays:
        ...     def process_seen(self, pid, mnt_ns):
        ...         pass
        ...     def filesystem(self, mount_id, device, pid):
        ...         return "overlay"
        >>> with tempfile.TemporaryDirectory(dir="/dev/shm") as directory, create_tables(path=directory) as tables:
        ...     resolver = EBPFResolver(tables=tables, mount_resolver=Overlays())
        ...     resolver.sync_cache(os.getpid())  # from /proc
        ...     print(resolver.get(os.getpid()).file_event.filesystem)
        overlay
    """

    def process_seen(self, pid: int, mnt_ns: int) -> object:
        """Note that a process has this mount namespace."""

    def filesystem(self, mount_id: int, device: int, pid: int) -> str:
        """Return the type of a mount's file system.

        Raises:
            LookupError, OSError: it is unknown.
        """


class CGroupResolver(Protocol):
    """Follows the cgroups of processes; `cgroup_contexts.CgroupContexts` implements it.

    Example:
        >>> import os, tempfile
        >>> class OneCGroup:
        ...     def add_pid(self, pid, cgroup):
        ...         return CGroupContext(cgroup_id="/system.slice/web.service"), ContainerContext()
        ...     def del_pid(self, pid):
        ...         pass
        >>> with tempfile.TemporaryDirectory(dir="/dev/shm") as directory, create_tables(path=directory) as tables:
        ...     resolver = EBPFResolver(tables=tables, cgroup_resolver=OneCGroup())
        ...     resolver.sync_cache(os.getpid())  # from /proc
        ...     print(resolver.get(os.getpid()).cgroup.cgroup_id)
        /system.slice/web.service
    """

    def add_pid(self, pid: int, cgroup: CGroupContext) -> tuple[CGroupContext, ContainerContext] | None:
        """Register a process; returns its cgroup and container, None: unknown. If `cgroup` is null, look it up."""

    def del_pid(self, pid: int) -> object:
        """Note that a process has left the cache."""


class UserGroupResolver(Protocol):
    """Names of users and groups; `users.UserNames` implements it.

    `view` is the mount namespace of a process in a container, else 0.

    Example:
        >>> import tempfile
        >>> class TwoNames:
        ...     def user(self, uid, tgid=0, view=0):
        ...         return {0: "root", 1000: "alice"}.get(uid, "")
        ...     def group(self, gid, tgid=0, view=0):
        ...         return ""
        >>> with tempfile.TemporaryDirectory(dir="/dev/shm") as directory, create_tables(path=directory) as tables:
        ...     resolver = EBPFResolver(tables=tables, user_group_resolver=TwoNames())
        ...     entry = ProcessCacheEntry(pid=7, credentials=Credentials(uid=1000))
        ...     resolver.set_process_users_groups(entry)
        ...     print(entry.credentials.user)
        alice
    """

    def user(self, uid: int, tgid: int = 0, view: int = 0) -> str:
        """Return the name of a user; "" if it has none."""

    def group(self, gid: int, tgid: int = 0, view: int = 0) -> str:
        """Return the name of a group; "" if it has none."""


class TimeResolver(Protocol):
    """Converts times; `boot.BootClock` implements it.

    Example:
        >>> import tempfile
        >>> class Since2020:
        ...     boot_ns = 1_577_836_800 * 10**9
        ...     def to_unix_ns(self, boot_ns):
        ...         return boot_ns + self.boot_ns
        ...     def to_boot_ns(self, unix_ns):
        ...         return unix_ns - self.boot_ns
        >>> with tempfile.TemporaryDirectory(dir="/dev/shm") as directory, create_tables(path=directory) as tables:
        ...     resolver = EBPFResolver(tables=tables, time_resolver=Since2020())
        ...     entry = ProcessCacheEntry(pid=7, exec_time=90 * 10**9)
        ...     resolver.apply_boot_time(entry)
        ...     print(entry.exec_time)
        1577836890000000000
    """

    def to_unix_ns(self, boot_ns: int) -> int:
        """Convert a time of the boot clock to ns since the Unix epoch."""

    def to_boot_ns(self, unix_ns: int) -> int:
        """Convert ns since the Unix epoch to the boot clock."""


class PathResolver(Protocol):
    """Finds the paths of files that the kernel did not report.

    Example:
        >>> import tempfile
        >>> class ByInode:
        ...     def resolve(self, file, context):
        ...         return file.with_pathname({42: "/usr/bin/date"}[file.inode])
        >>> with tempfile.TemporaryDirectory(dir="/dev/shm") as directory, create_tables(path=directory) as tables:
        ...     resolver = EBPFResolver(tables=tables, path_resolver=ByInode())
        ...     event = ResolverEvent(pid_context=PIDContext(pid=7, tid=7))
        ...     event.entry = resolver.new_process_cache_entry(event.pid_context)
        ...     event.entry.file_event = FileEvent(inode=42, mount_id=28)
        ...     resolver.add_exec_entry(event, CGroupContext())
        ...     print(resolver.resolve(7, 7, 0, use_procfs=False).file_event.pathname)
        /usr/bin/date
    """

    def resolve(self, file: FileEvent, context: PIDContext) -> FileEvent:
        """Return the file with its names and mount.

        Raises:
            ResolverError, LookupError, OSError: they are unknown.
        """


class EnvVarsResolver(Protocol):
    """Reads environments.

    Example:
        >>> import os, tempfile
        >>> class SameForAll:
        ...     def resolve(self, pid):
        ...         return ["LANG=C", "TOKEN=secret"], False
        >>> opts = ResolverOpts().with_envs_resolution_enabled().with_envs_value(["LANG"])
        >>> with tempfile.TemporaryDirectory(dir="/dev/shm") as directory, create_tables(path=directory) as tables:
        ...     resolver = EBPFResolver(tables=tables, env_vars_resolver=SameForAll(), opts=opts)
        ...     resolver.sync_cache(os.getpid())  # from /proc
        ...     print(resolver.get_process_envs(resolver.get(os.getpid())))
        (['LANG=C', 'TOKEN'], False)
    """

    def resolve(self, pid: int) -> tuple[list[str], bool]:
        """Return the environment of a process, and whether it was truncated.

        Raises:
            OSError: it cannot be read.
        """


class UserSessionResolver(Protocol):
    """Finds the sessions that processes belong to.

    Example:
        >>> import os, tempfile
        >>> from pipeline.resolver.entries.model import SSHSessionContext
        >>> class AliceOnly:
        ...     def resolve_ssh(self, entry):
        ...         return SSHSessionContext(ssh_session_id=3, ssh_username="alice")
        >>> with tempfile.TemporaryDirectory(dir="/dev/shm") as directory, create_tables(path=directory) as tables:
        ...     resolver = EBPFResolver(tables=tables, user_session_resolver=AliceOnly())
        ...     resolver.sync_cache(os.getpid())  # from /proc
        ...     print(resolver.get(os.getpid()).user_session.ssh.ssh_username)
        alice
    """

    def resolve_ssh(self, entry: ProcessCacheEntry) -> SSHSessionContext | None:
        """Return the ssh session of a process; None: it is in none."""


class ProcSource(Protocol):
    """Reads ``/proc``; `procfs.ProcReader` implements it.

    One thread at a time calls `read`; several may call the other methods. Most calls come without the resolver's lock.

    Example:
        >>> import tempfile
        >>> class Nothing:
        ...     def read(self, tgid, want=0):
        ...         return None
        ...     def read_ppid(self, tgid):
        ...         return None
        ...     def list_pids(self):
        ...         return []
        >>> with tempfile.TemporaryDirectory(dir="/dev/shm") as directory, create_tables(path=directory) as tables:
        ...     resolver = EBPFResolver(tables=tables, proc=Nothing())
        ...     print(resolver.resolve(1, 1, 0, use_procfs=True))
        None
    """

    def read(self, tgid: int, want: int = ...) -> ProcInfo | None:
        """Read a process; `want` selects the facts. None: it is gone."""

    def read_ppid(self, tgid: int) -> int | None:
        """Read the parent of a process; None: it is gone."""

    def list_pids(self) -> Iterable[SupportsInt]:
        """List the pids of all processes. Raises OSError: the directory cannot be read."""
