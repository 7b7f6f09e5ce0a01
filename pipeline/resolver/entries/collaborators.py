"""The interfaces of the resolver's collaborators, each of which may be absent.

It does not implement any. If Procline has an implementation, the interface names it.
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

#: Is called with each entry that the resolver inserts by itself. It runs under the lock, so it may call only the
#: `..._locked` methods.
NewEntryCallback = Callable[[ProcessCacheEntry, ResolverError | None], None]


class MountResolver(Protocol):
    """Follows mounts."""

    def process_seen(self, pid: int, mnt_ns: int) -> object:
        """Note that a process has this mount namespace."""

    def filesystem(self, mount_id: int, device: int, pid: int) -> str:
        """Return the type of a mount's file system.

        Raises:
            LookupError, OSError: it is unknown.
        """


class CGroupResolver(Protocol):
    """Follows the cgroups of processes; `cgroup_contexts.CgroupContexts` implements it."""

    def add_pid(self, pid: int, cgroup: CGroupContext) -> tuple[CGroupContext, ContainerContext] | None:
        """Register a process; returns its cgroup and container, None: unknown. If `cgroup` is null, look it up."""

    def del_pid(self, pid: int) -> object:
        """Note that a process has left the cache."""


class UserGroupResolver(Protocol):
    """Names of users and groups; `users.UserNames` implements it.

    `view` is the mount namespace of a process in a container, else 0.
    """

    def user(self, uid: int, tgid: int = 0, view: int = 0) -> str:
        """Return the name of a user; "" if it has none."""

    def group(self, gid: int, tgid: int = 0, view: int = 0) -> str:
        """Return the name of a group; "" if it has none."""


class TimeResolver(Protocol):
    """Converts times; `boot.BootClock` implements it."""

    def to_unix_ns(self, boot_ns: int) -> int:
        """Convert a time of the boot clock to ns since the Unix epoch."""

    def to_boot_ns(self, unix_ns: int) -> int:
        """Convert ns since the Unix epoch to the boot clock."""


class PathResolver(Protocol):
    """Finds the paths of files that the kernel did not report."""

    def resolve(self, file: FileEvent, context: PIDContext) -> FileEvent:
        """Return the file with its names and mount.

        Raises:
            ResolverError, LookupError, OSError: they are unknown.
        """


class EnvVarsResolver(Protocol):
    """Reads environments."""

    def resolve(self, pid: int) -> tuple[list[str], bool]:
        """Return the environment of a process, and whether it was truncated.

        Raises:
            OSError: it cannot be read.
        """


class UserSessionResolver(Protocol):
    """Finds the sessions that processes belong to."""

    def resolve_ssh(self, entry: ProcessCacheEntry) -> SSHSessionContext | None:
        """Return the ssh session of a process; None: it is in none."""


class ProcSource(Protocol):
    """Reads ``/proc``; `procfs.ProcReader` implements it.

    One thread at a time calls `read`; several may call the other methods. Most calls come without the resolver's lock.
    """

    def read(self, tgid: int, want: int = ...) -> ProcInfo | None:
        """Read a process; `want` selects the facts. None: it is gone."""

    def read_ppid(self, tgid: int) -> int | None:
        """Read the parent of a process; None: it is gone."""

    def list_pids(self) -> Iterable[SupportsInt]:
        """List the pids of all processes. Raises OSError: the directory cannot be read."""
