"""The objects of the resolver's interface: what an event carries and what a process cache entry consists of.

Values (file, credentials, cgroup, container, session) are immutable: an entry's field is replaced, never changed in
place, because an entry may be a row of the shared tables, where a change is a write under the row's sequence word.
Names are those of specification 1 in snake case. Leaves out the entry itself (`cache_entry`).

Times of entries are nanoseconds since the Unix epoch, None is unset; times of events are of the boot clock, 0 is unset.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.errors import LineageError as LineageError
from pipeline.errors import NoProcessContextError as NoProcessContextError
from pipeline.errors import ProcessIncompleteLineageError as ProcessIncompleteLineageError
from pipeline.errors import ProcessMissingParentNodeError as ProcessMissingParentNodeError
from pipeline.errors import ProcessWrongParentNodeError as ProcessWrongParentNodeError
from pipeline.errors import ResolverError as ResolverError
from pipeline.procfs.info import UNSET
from pipeline.shm.layout.declared import CGROUP_SOURCE_EVENT as CGROUP_SOURCE_EVENT
from pipeline.shm.layout.declared import CGROUP_SOURCE_INHERITED as CGROUP_SOURCE_INHERITED
from pipeline.shm.layout.declared import CGROUP_SOURCE_PROCFS as CGROUP_SOURCE_PROCFS
from pipeline.shm.layout.declared import CGROUP_SOURCE_UNKNOWN as CGROUP_SOURCE_UNKNOWN
from pipeline.shm.layout.declared import MOUNT_ORIGIN_PROCFS as MOUNT_ORIGIN_PROCFS
from pipeline.shm.layout.declared import MOUNT_ORIGIN_UNKNOWN as MOUNT_ORIGIN_UNKNOWN
from pipeline.shm.layout.declared import MOUNT_SOURCE_SNAPSHOT as MOUNT_SOURCE_SNAPSHOT
from pipeline.shm.layout.declared import MOUNT_SOURCE_UNKNOWN as MOUNT_SOURCE_UNKNOWN

if TYPE_CHECKING:
    from pipeline.resolver.entries.cache_entry import ProcessCacheEntry

#: The two states of the eBPF resolver: being filled, filled.
SNAPSHOTTING = 0
SNAPSHOTTED = 1

FILELESS_PREFIX = "memfd:"
FILELESS_FILESYSTEM = "tmpfs"

#: FileFields.flags: the layer of an overlay file system that the file lies in.
UPPER_LAYER = 1
LOWER_LAYER = 2


# -- errors (specification 1.11) ---------------------------------------------------------------------------------------


class ProcessBrokenLineageError(ResolverError):
    """An event's process has a broken lineage; `__cause__` is the `LineageError`."""

    def __init__(self, cause: LineageError) -> None:
        super().__init__(f"broken process lineage: {cause}")
        self.__cause__ = cause


class InvalidKeyPathError(ResolverError):
    """A path was asked for by a key that names no file."""

    def __init__(self, message: str, *, inode: int = 0, mount_id: int = 0) -> None:
        super().__init__(message)
        self.inode = inode
        self.mount_id = mount_id


class PathResolutionError(ResolverError):
    """The path of an executable or an interpreter could not be resolved; `__cause__` says why."""


class NotSupportedError(ResolverError):
    """This resolver does not do that."""


# -- process context ---------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class PIDContext:
    """Who made an event.

    `start_boot_ns` and `parent_start_boot_ns` make pids identities; 0: unknown, then whoever has the pid is meant.
    `exec_inode` is of an executable as the kernel knew it; of which process and image depends on the event's kind
    (specification 2.3).
    """

    pid: int = 0
    tid: int = 0
    ppid: int = 0
    net_ns: int = 0
    mnt_ns: int = 0
    is_kworker: bool = False
    sid: int = 0
    exec_inode: int = 0
    user_session_id: int = 0
    nsid: int = 0  #: pid namespace, eBPF-less only
    start_boot_ns: int = 0
    parent_start_boot_ns: int = 0


class CacheResolverKey(NamedTuple):
    """A process as seen in its pid namespace: the key of the eBPF-less resolver."""

    pid: int
    nsid: int


class Source(enum.IntEnum):
    """Where an entry comes from; the numbers are those of the tables (SOURCE_* of shm/layout/tables.py)."""

    UNKNOWN = 0
    PLACEHOLDER = 1
    EVENT = 2
    MAP = 3
    PROCFS_FALLBACK = 4
    PROCFS_SNAPSHOT = 5

    @property
    def text(self) -> str:
        """Its name in dumps."""
        return self.name.lower()


# -- files -------------------------------------------------------------------------------------------------------------


class PathKey(NamedTuple):
    """What names a file to the kernel."""

    inode: int = 0
    mount_id: int = 0
    path_id: int = 0

    @property
    def is_null(self) -> bool:
        return self.inode == 0 and self.mount_id == 0

    def __str__(self) -> str:
        return f"{self.mount_id:x}/{self.inode:x}"


NO_KEY = PathKey()


@dataclass(frozen=True, slots=True)
class FileFields:
    """Facts about a file that the kernel tells; times in ns since the Unix epoch, `device` in kernel encoding."""

    inode: int = 0
    mount_id: int = 0
    path_id: int = 0
    uid: int = 0
    gid: int = 0
    user: str = ""
    group: str = ""
    mode: int = 0
    ctime: int = 0
    mtime: int = 0
    device: int = 0
    nlink: int = 0
    flags: int = 0  #: UPPER_LAYER, LOWER_LAYER

    @property
    def key(self) -> PathKey:
        return PathKey(self.inode, self.mount_id, self.path_id)

    @property
    def in_upper_layer(self) -> bool:
        return bool(self.flags & UPPER_LAYER)

    @property
    def is_fileless(self) -> bool:
        """An anonymous file in memory: it has an inode and no mount."""
        return self.inode != 0 and self.mount_id == 0


@dataclass(frozen=True, slots=True)
class FileEvent(FileFields):
    """A file with its names. "" is unknown unless the `is_..._resolved` mark says that it is resolved, and empty."""

    pathname: str = ""
    basename: str = ""
    filesystem: str = ""
    extension: str = ""
    mount_path: str = ""
    mount_source: int = MOUNT_SOURCE_UNKNOWN
    mount_origin: int = MOUNT_ORIGIN_UNKNOWN
    mount_visible: bool = False
    mount_detached: bool = False
    mount_visibility_resolved: bool = False
    path_resolution_error: str = ""
    package_name: str = ""
    package_version: str = ""
    package_epoch: int = 0
    package_release: str = ""
    package_source_version: str = ""
    package_source_epoch: int = 0
    package_source_release: str = ""
    hash_state: int = 0
    hashes: tuple[str, ...] = ()
    is_pathname_resolved: bool = False
    is_basename_resolved: bool = False

    @classmethod
    def of_fields(cls, fields: FileFields, **names: Any) -> FileEvent:
        """A file event with these kernel facts."""
        return cls(**{name: getattr(fields, name) for name in FileFields.__slots__}, **names)

    def equals(self, other: FileEvent) -> bool:
        """Same file in the same state: inode, mount, modification time, owner and mode. Paths play no part."""
        return (
            self.inode == other.inode
            and self.mount_id == other.mount_id
            and self.mtime == other.mtime
            and self.uid == other.uid
            and self.gid == other.gid
            and self.mode == other.mode
        )

    def with_names(self, pathname: str, basename: str) -> FileEvent:
        """With these names, marked as resolved, so "" is an answer too; the extension follows from the second."""
        return replace(
            self, pathname=pathname, basename=basename, extension=extension_of(basename),
            is_pathname_resolved=True, is_basename_resolved=True,
        )  # fmt: skip

    def with_pathname(self, pathname: str) -> FileEvent:
        """With the names that a path gives; a fileless one has no path and a basename with `memfd:` before it.

        Source: specification 1.4, setPathname.
        """
        base = pathname.rpartition("/")[2]
        if not self.is_fileless:
            return self.with_names(pathname, base)
        if not base.startswith(FILELESS_PREFIX):
            base = FILELESS_PREFIX + base
        return self.with_names("", base)

    def as_memfd(self, walked: str) -> FileEvent:
        """A memfd's, by the path that the kernel's walk gave. Its own mount has a number, which is nobody's to see:
        fileless is what is on no mount."""
        name = FILELESS_PREFIX + walked.removeprefix("/").removeprefix(FILELESS_PREFIX)
        return replace(self, mount_id=0).with_names("", name)

    def unresolved(self, error: str = "") -> FileEvent:
        """With empty names that are marked as resolved: they will not be asked for again."""
        return replace(self.with_names("", ""), path_resolution_error=error)


NO_FILE = FileEvent()


def extension_of(basename: str) -> str:
    """From the last dot on; "" where there is none."""
    _, dot, end = basename.rpartition(".")
    return dot + end if dot else ""


# -- credentials, cgroup, container, sessions --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Credentials:
    """Ids as the kernel's credentials have them, with names where the user/group resolver knew any."""

    uid: int = 0
    gid: int = 0
    euid: int = 0
    egid: int = 0
    fsuid: int = 0
    fsgid: int = 0
    user: str = ""
    group: str = ""
    euser: str = ""
    egroup: str = ""
    fsuser: str = ""
    fsgroup: str = ""
    auid: int = UNSET
    cap_effective: int = 0
    cap_permitted: int = 0

    def equals(self, other: Credentials) -> bool:
        """Same ids and capabilities; the login uid and names play no part."""
        return all(getattr(self, name) == getattr(other, name) for name in _COMPARED)


_COMPARED = ("uid", "gid", "euid", "egid", "fsuid", "fsgid", "cap_effective", "cap_permitted")


@dataclass(frozen=True, slots=True)
class CGroupContext:
    """The cgroup of a process: its path as id, and the key of its directory."""

    cgroup_id: str = ""
    path_key: PathKey = NO_KEY
    version: int = 0
    source: int = CGROUP_SOURCE_UNKNOWN
    created_at: int = 0

    @property
    def is_null(self) -> bool:
        return self.path_key.is_null and not self.cgroup_id

    @property
    def is_resolved(self) -> bool:
        return not self.path_key.is_null and bool(self.cgroup_id)

    def equals(self, other: CGroupContext) -> bool:
        """Same directory; mount ids differ between views of one cgroup."""
        return self.path_key.inode == other.path_key.inode


@dataclass(frozen=True, slots=True)
class ContainerContext:
    """The container of a process."""

    container_id: str = ""
    created_at: int = 0
    tags: tuple[str, ...] = ()
    resolved: bool = False

    @property
    def is_null(self) -> bool:
        return not self.container_id


@dataclass(frozen=True, slots=True)
class SSHSessionContext:
    """The ssh part of a user session; it is inherited down the tree."""

    ssh_session_id: int = 0
    ssh_username: str = ""
    ssh_client_port: int = 0
    ssh_client_ip: str = ""
    ssh_auth_method: str = ""
    ssh_public_key: str = ""


@dataclass(frozen=True, slots=True)
class K8SSessionContext:
    """The Kubernetes part of a user session."""

    k8s_session_id: int = 0
    k8s_username: str = ""
    k8s_uid: str = ""
    k8s_groups: tuple[str, ...] = ()
    k8s_extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class UserSessionContext:
    """Who is behind a process."""

    id: int = 0
    session_type: int = 0
    k8s: K8SSessionContext = K8SSessionContext()
    ssh: SSHSessionContext = SSHSessionContext()


@dataclass(frozen=True, slots=True)
class AWSSecurityCredentials:
    """What a cloud metadata service said of the credentials that it handed out. Secrets are never stored.

    `expiration` is in ns since the Unix epoch.
    """

    code: str = ""
    type: str = ""
    access_key_id: str = ""
    last_updated: str = ""
    expiration: int = 0
    expiration_raw: str = ""


@dataclass(frozen=True, slots=True)
class SpanContext:
    """The span that was active in an application."""

    span_id: int = 0
    trace_id: int = 0


# -- events ------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class ArgsEnvsEvent:
    """A chunk of arguments or environment, sent before its exec event. `count` is how many strings, where told."""

    id: int
    payload: bytes
    count: int | None = None


@dataclass(slots=True)
class Event:
    """What the resolver's methods take of an event; which fields hold something depends on the kind.

    Attributes:
        timestamp_ns: boot clock; 0: unknown.
        pid_context: who made it.
        entry: the process: built by `new_process_cache_entry` for a fork or exec, found by the resolver otherwise.
        span: active at the event.
        credentials: the body of a uid, gid, capset or login uid event.
        aws: the body of an IMDS event.
        fd: the descriptor of a tracer memfd event.
        exit_status: wait status of an exit event, None unknown.
        reaper_pid, reaper_start_boot_ns: who adopts an exiting process' children, 0 where the kernel did not say.
        exec_entry, exit_entry: the sections that rules read; set by the resolver.
        error: why the event's process or path is not what it should be.
    """

    timestamp_ns: int = 0
    pid_context: PIDContext = field(default_factory=PIDContext)
    entry: ProcessCacheEntry | None = None
    span: SpanContext = SpanContext()
    credentials: Credentials | None = None
    aws: AWSSecurityCredentials | None = None
    fd: int = -1
    exit_status: int | None = None
    reaper_pid: int = 0
    reaper_start_boot_ns: int = 0
    exec_entry: ProcessCacheEntry | None = None
    exit_entry: ProcessCacheEntry | None = None
    error: ResolverError | None = None

    @property
    def exit_cause(self) -> tuple[str, int]:
        """Cause ("exited", "coredumped", "signaled") and code of the wait status. Source: specification 1.12."""
        status = self.exit_status or 0
        low = status & 0x7F
        if low == 0:
            return "exited", status >> 8 & 0xFF
        return ("coredumped" if status & 0x80 else "signaled"), low


class ProcessAncestorsIterator:
    """The ancestors of an event's process, nearest first. Fork and exec edges both count.

    Args:
        root: the process' entry; its ancestor is the first that is given.
    """

    def __init__(self, root: ProcessCacheEntry | None) -> None:
        self._root = root
        self._first = root.ancestor if root is not None else None
        self._current: ProcessCacheEntry | None = None
        self._at: tuple[int, ProcessCacheEntry] | None = None

    def front(self) -> ProcessCacheEntry | None:
        """The direct ancestor; the walk begins anew."""
        self._current = self._first
        return self._current

    def next(self) -> ProcessCacheEntry | None:
        """The ancestor of the last one, None at the end."""
        if self._current is not None:
            self._current = self._current.ancestor
        return self._current

    def at(self, position: int) -> ProcessCacheEntry | None:
        """The ancestor at a position, 0 the direct one; None: there are not so many, or it is below 0.

        The last position is remembered, so going on is cheap.
        """
        number, entry = 0, self._first if position >= 0 else None
        if self._at is not None and self._at[0] <= position:
            number, entry = self._at
        while entry is not None and number < position:
            entry = entry.ancestor
            number += 1
        if entry is not None:
            self._at = (number, entry)
        return entry

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[ProcessCacheEntry]:
        # Not by hand: a chain that somebody has closed to a ring ends too.
        return islice(self._root.chain(), 1, None) if self._root is not None else iter(())
