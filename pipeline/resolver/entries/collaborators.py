"""What the resolver is given: the interfaces of its collaborators, each of which may be absent.

Leaves out what they do; where Procline has one of its own, the interface names it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

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

#: Told of each entry that the resolver makes by itself. Runs under the lock: only `..._locked` methods may be called.
NewEntryCallback = Callable[[ProcessCacheEntry, ResolverError | None], None]


class MountResolver(Protocol):
    def process_seen(self, pid: int, mnt_ns: int) -> object:
        """A process with this mount namespace is there."""
        ...

    def filesystem(self, mount_id: int, device: int, pid: int) -> str:
        """Type of a mount's file system. Raises LookupError or OSError."""
        ...


class CGroupResolver(Protocol):
    def add_pid(self, pid: int, cgroup: CGroupContext) -> tuple[CGroupContext, ContainerContext] | None:
        """Register a process and tell its cgroup and container; None: unknown. A null `cgroup`: look it up."""
        ...

    def del_pid(self, pid: int) -> object: ...


class UserGroupResolver(Protocol):
    """`users.UserNames`; `view` is the mount namespace of a process in a container, else 0."""

    def user(self, uid: int, tgid: int = 0, view: int = 0) -> str: ...

    def group(self, gid: int, tgid: int = 0, view: int = 0) -> str: ...


class TimeResolver(Protocol):
    """`boot.BootClock`."""

    def to_unix_ns(self, boot_ns: int) -> int: ...

    def to_boot_ns(self, unix_ns: int) -> int: ...


class PathResolver(Protocol):
    def resolve(self, file: FileEvent, context: PIDContext) -> FileEvent:
        """The file with its names and mount. Raises ResolverError, LookupError or OSError."""
        ...


class EnvVarsResolver(Protocol):
    def resolve(self, pid: int) -> tuple[list[str], bool]:
        """Environment of a process, and whether it was cut. Raises OSError."""
        ...


class UserSessionResolver(Protocol):
    def resolve_ssh(self, entry: ProcessCacheEntry) -> SSHSessionContext | None: ...


class ProcSource(Protocol):
    """`procfs.ProcReader`. `read` is called by one thread at a time, the others by any; mostly without the lock."""

    def read(self, tgid: int, want: int = ...) -> ProcInfo | None: ...

    def read_ppid(self, tgid: int) -> int | None: ...

    def list_pids(self) -> Iterable[Any]: ...
