"""The values that a process cache entry and an event consist of, and the errors of the resolver's interface.

Values (file, credentials, cgroup, container, session) are immutable. A field of an entry is replaced, never changed in
place: an entry may be a row of the shared tables, where a change is a write under the row's sequence word. Names are
those of specification 1 in snake case. The entry is in `cache_entry`, the event in `event`.

Times of entries are nanoseconds since the Unix epoch, None is unset; times of events are of the boot clock, 0 is unset.

Example:
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory(dir="/dev/shm") as directory, create_tables(path=directory) as tables:
    ...     resolver = EBPFResolver(tables=tables)
    ...     print(resolver.state == SNAPSHOTTING)
    ...     resolver.set_state(SNAPSHOTTED)  # now misses are answered from the kernel's maps and from /proc
    True
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from pipeline.errors import LineageError as LineageError
from pipeline.errors import NoProcessContextError as NoProcessContextError
from pipeline.errors import ProcessIncompleteLineageError as ProcessIncompleteLineageError
from pipeline.errors import ProcessMissingParentNodeError as ProcessMissingParentNodeError
from pipeline.errors import ProcessWrongParentNodeError as ProcessWrongParentNodeError
from pipeline.errors import ResolverError as ResolverError
from pipeline.procfs.info import UNSET
from pipeline.shm.layout import declared
from pipeline.shm.layout.declared import CGROUP_SOURCE_EVENT as CGROUP_SOURCE_EVENT
from pipeline.shm.layout.declared import CGROUP_SOURCE_INHERITED as CGROUP_SOURCE_INHERITED
from pipeline.shm.layout.declared import CGROUP_SOURCE_PROCFS as CGROUP_SOURCE_PROCFS
from pipeline.shm.layout.declared import CGROUP_SOURCE_UNKNOWN as CGROUP_SOURCE_UNKNOWN
from pipeline.shm.layout.declared import MOUNT_ORIGIN_PROCFS as MOUNT_ORIGIN_PROCFS
from pipeline.shm.layout.declared import MOUNT_ORIGIN_UNKNOWN as MOUNT_ORIGIN_UNKNOWN
from pipeline.shm.layout.declared import MOUNT_SOURCE_SNAPSHOT as MOUNT_SOURCE_SNAPSHOT
from pipeline.shm.layout.declared import MOUNT_SOURCE_UNKNOWN as MOUNT_SOURCE_UNKNOWN

#: The two states of the eBPF resolver: being filled, filled.
SNAPSHOTTING = 0
SNAPSHOTTED = 1

FILELESS_PREFIX = "memfd:"
FILELESS_FILESYSTEM = "tmpfs"

#: FileFields.flags: the file lies in the upper layer of an overlay file system.
UPPER_LAYER = 1


# -- errors (specification 1.11) ---------------------------------------------------------------------------------------


class ProcessBrokenLineageError(ResolverError):
    """An event's process has a broken lineage; `__cause__` is the `LineageError`."""

    def __init__(self, cause: LineageError) -> None:
        super().__init__(f"broken process lineage: {cause}")
        self.__cause__ = cause


class InvalidKeyPathError(ResolverError):
    """A path cannot be resolved because its key names no file."""

    def __init__(self, message: str, *, inode: int = 0, mount_id: int = 0) -> None:
        super().__init__(message)
        self.inode = inode
        self.mount_id = mount_id


class PathResolutionError(ResolverError):
    """The path of an executable or an interpreter could not be resolved; `__cause__` says why.

    Example:
        >>> import tempfile
        >>> class NoPaths:
        ...     def resolve(self, file, context):
        ...         raise LookupError("unknown inode")
        >>> with tempfile.TemporaryDirectory(dir="/dev/shm") as directory, create_tables(path=directory) as tables:
        ...     resolver = EBPFResolver(tables=tables, path_resolver=NoPaths())
        ...     event = ResolverEvent(pid_context=PIDContext(pid=7, tid=7))
        ...     event.entry = resolver.new_process_cache_entry(event.pid_context)
        ...     event.entry.file_event = FileEvent(inode=42, mount_id=28)
        ...     resolver.add_exec_entry(event, CGroupContext())
        Traceback (most recent call last):
            ...
        pipeline.resolver.entries.model.PathResolutionError: ...
    """


class NotSupportedError(ResolverError):
    """This resolver does not implement the method."""


# -- process context ---------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class PIDContext:
    """The process that caused an event.

    `start_boot_ns` and `parent_start_boot_ns` turn pids into identities; 0: unknown, then the pid's current owner is
    meant. `exec_inode` is the inode of an executable as the kernel knew it; the event's kind decides which process and
    image it belongs to (specification 2.3).

    Example:
        >>> context = PIDContext(pid=8676, tid=8676, ppid=8674)
        >>> ProcessCacheEntry(pid=context.pid, ppid=context.ppid).ppid
        8674
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
    """A process as its pid namespace numbers it: the key of the eBPF-less resolver.

    Example:
        >>> key = CacheResolverKey(pid=7, nsid=4026532000)
        >>> key.pid
        7
    """

    pid: int
    nsid: int


class Source(enum.IntEnum):
    """The origin of an entry; the numbers are those of the tables.

    Example:
        >>> Source.PROCFS_SNAPSHOT.text, ProcessCacheEntry(pid=7).source is Source.UNKNOWN
        ('procfs_snapshot', True)
    """

    UNKNOWN = declared.SOURCE_UNKNOWN
    PLACEHOLDER = declared.SOURCE_PLACEHOLDER
    EVENT = declared.SOURCE_EVENT
    MAP = declared.SOURCE_MAP
    PROCFS_FALLBACK = declared.SOURCE_PROCFS
    PROCFS_SNAPSHOT = declared.SOURCE_SNAPSHOT

    @property
    def text(self) -> str:
        """The name in dumps."""
        return declared.SOURCE_NAMES[self]


# -- files -------------------------------------------------------------------------------------------------------------


class PathKey(NamedTuple):
    """The numbers by which the kernel identifies a file.

    Example:
        >>> str(PathKey(inode=42, mount_id=28)), PathKey().is_null
        ('1c/2a', True)
    """

    inode: int = 0
    mount_id: int = 0
    path_id: int = 0

    @property
    def is_null(self) -> bool:
        """Whether this key names no file."""
        return self.inode == 0 and self.mount_id == 0

    def __str__(self) -> str:
        return f"{self.mount_id:x}/{self.inode:x}"


NO_KEY = PathKey()


@dataclass(frozen=True, slots=True)
class FileFields:
    """Facts about a file that the kernel reports; times in ns since the Unix epoch, `device` in kernel encoding.

    Example:
        >>> fields = FileFields(inode=42, mount_id=28, uid=0, mode=0o100755)
        >>> str(fields.key), fields.in_upper_layer
        ('1c/2a', False)
    """

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
    flags: int = 0  #: UPPER_LAYER

    @property
    def key(self) -> PathKey:
        """The key of the file in the kernel's map of paths."""
        return PathKey(self.inode, self.mount_id, self.path_id)

    @property
    def in_upper_layer(self) -> bool:
        """Whether the file is in the upper layer of an overlay file system."""
        return bool(self.flags & UPPER_LAYER)

    @property
    def is_fileless(self) -> bool:
        """Whether this is an anonymous file in memory: it has an inode and no mount."""
        return self.inode != 0 and self.mount_id == 0


@dataclass(frozen=True, slots=True)
class FileEvent(FileFields):
    """A file with its names. An empty name is unknown, unless its `is_..._resolved` mark is set: then it is empty.

    Example:
        >>> file = FileEvent(inode=42, mount_id=28).with_pathname("/usr/bin/date")
        >>> file.basename, file.is_fileless
        ('date', False)
        >>> FileEvent(inode=42).with_pathname("payload").basename  # no mount: a memfd
        'memfd:payload'
    """

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

    def equals(self, other: FileEvent) -> bool:
        """Whether both are the same file in the same state: inode, mount, mtime, owner and mode. Paths do not count."""
        return (
            self.inode == other.inode
            and self.mount_id == other.mount_id
            and self.mtime == other.mtime
            and self.uid == other.uid
            and self.gid == other.gid
            and self.mode == other.mode
        )

    def with_names(self, pathname: str, basename: str) -> FileEvent:
        """Return a copy with these names, marked as resolved; the extension follows from `basename`."""
        return replace(
            self, pathname=pathname, basename=basename, extension=extension_of(basename),
            is_pathname_resolved=True, is_basename_resolved=True,
        )  # fmt: skip

    def with_pathname(self, pathname: str) -> FileEvent:
        """Return a copy with the names that a path has; a fileless one has no path, and `memfd:` before its basename.

        Source: specification 1.4, setPathname.
        """
        base = pathname.rpartition("/")[2]
        if not self.is_fileless:
            return self.with_names(pathname, base)
        if not base.startswith(FILELESS_PREFIX):
            base = FILELESS_PREFIX + base
        return self.with_names("", base)

    def as_memfd(self, walked: str) -> FileEvent:
        """Return a copy that is a memfd, named by the path that the kernel walked.

        The kernel's internal mount of memfds has a number, but no process can see that mount, so it is stored as 0: a
        file without a mount is fileless.
        """
        name = FILELESS_PREFIX + walked.removeprefix("/").removeprefix(FILELESS_PREFIX)
        return replace(self, mount_id=0).with_names("", name)

    def unresolved(self, error: str = "") -> FileEvent:
        """Return a copy with empty names that are marked as resolved, so that they are not looked up again."""
        return replace(self.with_names("", ""), path_resolution_error=error)


NO_FILE = FileEvent()


def extension_of(basename: str) -> str:
    """Return the end of a name from its last dot on; "" if it has none."""
    _, dot, end = basename.rpartition(".")
    return dot + end if dot else ""


# -- credentials, cgroup, container, sessions --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Credentials:
    """Ids of the kernel's credentials, with names where the user/group resolver knew them.

    Example:
        >>> before, after = Credentials(uid=1000, user="alice"), Credentials(uid=1000, euid=0)
        >>> before.equals(after), before.equals(Credentials(uid=1000, user="bob"))  # names are not compared
        (True, True)
    """

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
        """Whether ids and capabilities are the same; login uid and names are not compared."""
        return all(getattr(self, name) == getattr(other, name) for name in _COMPARED)


_COMPARED = ("uid", "gid", "euid", "egid", "fsuid", "fsgid", "cap_effective", "cap_permitted")


@dataclass(frozen=True, slots=True)
class CGroupContext:
    """The cgroup of a process: its path as id, and the key of its directory.

    Example:
        >>> CGroupContext(cgroup_id="/machine.slice/web.scope").is_resolved  # the key of its directory is unknown
        False
        >>> CGroupContext().is_null
        True
    """

    cgroup_id: str = ""
    path_key: PathKey = NO_KEY
    version: int = 0
    source: int = CGROUP_SOURCE_UNKNOWN
    created_at: int = 0

    @property
    def is_null(self) -> bool:
        """Whether nothing is known about the cgroup."""
        return self.path_key.is_null and not self.cgroup_id

    @property
    def is_resolved(self) -> bool:
        """Whether both the directory and the path of the cgroup are known."""
        return not self.path_key.is_null and bool(self.cgroup_id)

    def equals(self, other: CGroupContext) -> bool:
        """Whether both are the same directory. Mount ids are not compared: they differ between views of one cgroup."""
        return self.path_key.inode == other.path_key.inode


@dataclass(frozen=True, slots=True)
class ContainerContext:
    """The container of a process.

    Example:
        >>> ContainerContext().is_null, ContainerContext("c0ffee" * 10 + "c0ff").is_null
        (True, False)
    """

    container_id: str = ""
    created_at: int = 0
    tags: tuple[str, ...] = ()
    resolved: bool = False

    @property
    def is_null(self) -> bool:
        """Whether there is no container."""
        return not self.container_id


@dataclass(frozen=True, slots=True)
class SSHSessionContext:
    """The ssh part of a user session; children inherit it."""

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
    """The user session that a process belongs to.

    Example:
        >>> session = UserSessionContext(id=3)
        >>> ProcessCacheEntry(pid=8675, user_session=session).user_session.id
        3
    """

    id: int = 0
    session_type: int = 0
    k8s: K8SSessionContext = K8SSessionContext()
    ssh: SSHSessionContext = SSHSessionContext()


@dataclass(frozen=True, slots=True)
class AWSSecurityCredentials:
    """Metadata of credentials that a cloud metadata service handed out. Secrets are never stored.

    `expiration` is in ns since the Unix epoch.

    Example:
        >>> found = AWSSecurityCredentials(code="Success", type="AWS-HMAC", access_key_id="ASIAEXAMPLE")
        >>> ProcessCacheEntry(pid=8675, aws_security_credentials=(found,)).aws_security_credentials[0].code
        'Success'
    """

    code: str = ""
    type: str = ""
    access_key_id: str = ""
    last_updated: str = ""
    expiration: int = 0
    expiration_raw: str = ""


@dataclass(frozen=True, slots=True)
class SpanContext:
    """The tracing span that was active in an application."""

    span_id: int = 0
    trace_id: int = 0
