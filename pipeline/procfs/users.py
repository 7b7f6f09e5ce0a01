"""Names of users and groups: of the host, and of the container that a process is in.

Covers the look-ups and a cache with expiry. `pipeline.resolver.upkeep.names` provides names for entries and events of a
running instance without blocking it.

A container has its own users: uid 1000 may be "app" in the container and "alice" or nothing on the host. So for a
process with another root directory, its own ``/etc/passwd`` and ``/etc/group`` are read, and the kernel's ids are
converted to ids inside the container by the map of its user namespace.

Users other than root can create a user namespace and choose its id map and what is mounted at ``/etc/passwd`` in it. So
files and map are used only if root created the namespaces, as for most containers (`owner_of`). Otherwise the host's
names of the kernel's ids are used, which nobody else can choose.

Even then the files belong to a container and are untrusted:

1. They are opened so that no symbolic link, ``..`` or magic link leads out of the root of the process. Since Linux 5.6,
   openat2 with RESOLVE_IN_ROOT does this; on older kernels, every component is opened with O_NOFOLLOW.
2. Only regular files are opened for reading. At most 1 MiB of each is read, line by line. At most `KEPT_BYTES` of names
   are kept, and only names of ids that the user namespace maps.
3. Nothing is accessed on a file system that is served by a process or over a network (FUSE, NFS, 9p and the like),
   because its server could block forever. This is checked in ``mountinfo`` before, and no other mount is crossed. (A
   mount over ``/etc/passwd`` between check and use would block only the thread that reads names.)

A name that cannot be read is "", never a guess. In a container that root created it is never replaced by the host's
name.
"""

from __future__ import annotations

import fcntl
import grp
import os
import pwd
import stat
import struct
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

from pipeline.procfs.rooted import is_root_local, open_in_root, open_process, read_all, read_mounts

Kind = Literal["user", "group"]

#: The host's view: ids as the name service of this process resolves them.
HOST = 0

FILE_BYTES = 1 << 20
NAME_CHARS = 256
#: Maximum size of the names kept of one file, with NAME_OVERHEAD for each name: about 2,000 names.
KEPT_BYTES = 1 << 16
NAME_OVERHEAD = 24
TTL_NS = 300 * 1_000_000_000
#: An id without a name expires earlier: `useradd` often runs after the process was started.
MISS_TTL_NS = 60 * 1_000_000_000

_ID_DIGITS = 10
_LINES_AT_ONCE = 256
_NS_GET_USERNS = 0xB701
_NS_GET_USERNS_PARENT = 0xB702
_NS_GET_OWNER_UID = 0xB704
_UID = struct.Struct("=I")
_NAMESPACES_MAX = 33  # create_user_ns() rejects deeper nesting
_FILES: dict[Kind, str] = {"user": "etc/passwd", "group": "etc/group"}


class RootNames(NamedTuple):
    """The names of one root directory, by the ids inside its user namespace."""

    user: dict[int, str]
    group: dict[int, str]
    uid_map: list[tuple[int, int, int]]  #: first id inside, first id outside, count
    gid_map: list[tuple[int, int, int]]
    root: tuple[int, int]  #: device and inode of the directory
    #: Uid, in the initial user namespace, of the user that created the namespaces of the process. If it is not 0
    #: (root), no files are read.
    owner: int = 0
    is_cut: bool = False  #: the files have more names than are kept

    @property
    def is_hosts(self) -> bool:
        """Whether the host's names are used instead."""
        return self.owner != 0

    def outside(self) -> tuple[dict[int, str], dict[int, str]]:
        """Return users and groups by the ids outside, as in the kernel's credentials."""
        return _outside(self.user, self.uid_map), _outside(self.group, self.gid_map)


class UserNames:
    """Names of ids, cached. Not thread-safe; a look-up may wait for a name service.

    Args:
        proc: mount point of procfs.
        ttl_ns: how long a name, or the names of a container, are cached.
        miss_ttl_ns: the same for an id without a name.
        capacity: maximum number of cached ids of the host, users and groups together.
        views: maximum number of cached containers.
        clock: monotonic, in ns.
        host: returns the name of an id on the host and raises KeyError if there is none; None: `host_name`.
    """

    def __init__(
        self,
        proc: str = "/proc",
        *,
        ttl_ns: int = TTL_NS,
        miss_ttl_ns: int = MISS_TTL_NS,
        capacity: int = 4096,
        views: int = 256,
        clock: Callable[[], int] = time.monotonic_ns,
        host: Callable[[Kind, int], str] | None = None,
    ) -> None:
        self._proc = proc
        self._ttl_ns = ttl_ns
        self._miss_ttl_ns = miss_ttl_ns
        self._capacity = capacity
        self._views_max = views
        self._clock = clock
        self._host = host if host is not None else host_name
        self._names: OrderedDict[tuple[Kind, int], tuple[str, int]] = OrderedDict()
        self._views: OrderedDict[int, tuple[RootNames | None, int]] = OrderedDict()

    def user(self, uid: int, tgid: int = 0, view: int = HOST) -> str:
        """Return the name of a user, or "".

        Args:
            uid: id in the initial user namespace, as in the kernel's credentials.
            tgid: a process in the container; its files are read if the container is not cached.
            view: identifies the container, for example by the inode of its mount namespace; HOST: none.
        """
        return self.name("user", uid, tgid, view)

    def group(self, gid: int, tgid: int = 0, view: int = HOST) -> str:
        """Return the name of a group, or "".

        Args:
            gid: id in the initial user namespace, as in the kernel's credentials.
            tgid: see `user`.
            view: see `user`.
        """
        return self.name("group", gid, tgid, view)

    def name(self, kind: Kind, number: int, tgid: int = 0, view: int = HOST) -> str:
        """Return the name of a user or group, or "".

        Args:
            kind: "user" or "group".
            number: the id; see `user`.
            tgid: see `user`.
            view: see `user`.
        """
        if (known := self.cached(kind, number, view)) is not None:
            return known
        now = self._clock()
        if view != HOST:
            names = read_names(tgid, self._proc, KEPT_BYTES)
            if names is not None and names.is_hosts:
                # Not cached: it applies to this process, but others in the container may have another user namespace.
                return self.name(kind, number)
            self._views[view] = (names, now + (self._ttl_ns if names is not None else self._miss_ttl_ns))
            self._views.move_to_end(view)
            if len(self._views) > self._views_max:
                self._views.popitem(last=False)
            return _inside(names, kind, number)
        name = ""
        # KeyError: no such id. OSError: the name service failed. OverflowError: the id does not fit a C integer.
        with suppress(KeyError, OSError, OverflowError):
            name = self._host(kind, number)[:NAME_CHARS]
        self._names[kind, number] = (name, now + (self._ttl_ns if name else self._miss_ttl_ns))
        self._names.move_to_end((kind, number))
        if len(self._names) > self._capacity:
            self._names.popitem(last=False)
        return name

    def cached(self, kind: Kind, number: int, view: int = HOST) -> str | None:
        """Return the cached name without reading anything; None: there is none, or it has expired."""
        now = self._clock()
        if view != HOST:
            known = self._views.get(view)
            if known is None or now >= known[1]:
                return None
            self._views.move_to_end(view)
            return _inside(known[0], kind, number)
        entry = self._names.get((kind, number))
        if entry is None or now >= entry[1]:
            return None
        self._names.move_to_end((kind, number))
        return entry[0]

    def forget(self, view: int) -> None:
        """Drop the names of a container, for example when its last process has ended."""
        self._views.pop(view, None)


def host_name(kind: Kind, number: int) -> str:
    """Return the name of an id from this host's name service (files, LDAP, …).

    Args:
        kind: "user" or "group".
        number: the id.

    Raises:
        KeyError: there is no such id.
    """
    return pwd.getpwuid(number).pw_name if kind == "user" else grp.getgrgid(number).gr_name


def read_names(
    tgid: int,
    proc: str = "/proc",
    kept_bytes: int | None = None,
    *,
    namespaces: tuple[int, int] = (0, 0),
    is_host: bool = False,
) -> RootNames | None:
    """Read the names in the root directory of a process.

    The descriptor of ``/proc/PID`` pins the process, so a reused pid cannot mix two roots.

    Args:
        tgid: the process.
        proc: mount point of procfs.
        kept_bytes: see KEPT_BYTES; None: no limit except that of the file.
        namespaces: inodes of the mount and user namespace that the process must have; 0: any.
        is_host: the root directory is the host's, so the owner of the namespaces is not checked.

    Returns:
        The names; None: the process has ended, has other namespaces, or its files cannot be read safely. A missing file
        counts as empty.
    """
    try:
        process = open_process(tgid, proc)
    except OSError:
        return None
    root = -1
    try:
        owner = 0 if is_host else owner_of(process)
        if owner:
            return RootNames({}, {}, [], [], (0, 0), owner) if _has(process, namespaces) else None
        root = os.open("root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=process)
        mounts = read_mounts(process, 4 * FILE_BYTES)
        if not is_root_local(root, mounts):
            return None
        uid_map, gid_map = _read_id_map(process, "uid_map"), _read_id_map(process, "gid_map")
        users, are_users_cut = _read_file(root, "user", mounts, uid_map, kept_bytes)
        groups, are_groups_cut = _read_file(root, "group", mounts, gid_map, kept_bytes)
        # Check at the end: a process never returns to namespaces that it has left, except as root.
        if not _has(process, namespaces) or not (is_host or owner_of(process) == 0):
            return None
        return RootNames(users, groups, uid_map, gid_map, root_identity(root), is_cut=are_users_cut or are_groups_cut)
    except OSError:
        return None
    finally:
        if root >= 0:
            os.close(root)
        os.close(process)


def root_identity(root: int | str) -> tuple[int, int]:
    """Return device and inode of a root directory, which identify it.

    Raises:
        OSError: it cannot be accessed.
    """
    status = os.stat(root)  # noqa: PTH116 - a descriptor, mostly
    return status.st_dev, status.st_ino


def _parse(file: BinaryIO, ranges: list[tuple[int, int, int]], kept_bytes: int | None) -> tuple[dict[int, str], bool]:
    """Return the names of the ids in `ranges`, and whether there are more than may be kept.

    The first name of an id counts, as in the C library.
    """
    names: dict[int, str] = {}
    left = kept_bytes
    for line in _lines(file):
        fields = line.split(b":", 3)
        if len(fields) < 3 or not fields[0] or fields[0][:1] in b"#+-" or not fields[2].isdigit():
            continue
        digits = fields[2].lstrip(b"0") or b"0"
        if len(digits) > _ID_DIGITS:  # int() rejects thousands of digits
            continue
        number = int(digits)
        if number in names or not any(inside <= number < inside + count for inside, _, count in ranges):
            continue
        name = fields[0].decode("utf-8", "surrogateescape")[:NAME_CHARS]
        if left is not None:
            left -= len(name) + NAME_OVERHEAD
            if left < 0:
                return names, True
        names[number] = name
    return names, False


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of the first FILE_BYTES one by one, so that a large file is never in memory as a whole."""
    left = FILE_BYTES
    count = 0
    while left > 0 and (line := file.readline(left)):
        left -= len(line)
        if left > 0 or line.endswith(b"\n"):  # otherwise it is truncated, and half a number is another number
            yield line.rstrip(b"\n")
        count += 1
        if count % _LINES_AT_ONCE == 0:
            time.sleep(0)  # releases the GIL, so that more urgent threads can run


def _outside(names: dict[int, str], ranges: list[tuple[int, int, int]]) -> dict[int, str]:
    found = {}
    for number, name in names.items():
        for inside, outside, count in ranges:
            if inside <= number < inside + count:
                found[number - inside + outside] = name
                break
    return found


def _inside(names: RootNames | None, kind: Kind, number: int) -> str:
    if names is None:
        return ""
    known, ranges = (names.user, names.uid_map) if kind == "user" else (names.group, names.gid_map)
    for inside, outside, count in ranges:
        if outside <= number < outside + count:
            return known.get(number - outside + inside, "")
    return ""


def _read_id_map(process: int, name: str) -> list[tuple[int, int, int]]:
    """Read a uid_map or gid_map: first id inside, first id outside (in this reader's user namespace), count."""
    try:
        text = read_all(os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=process), FILE_BYTES)
    except FileNotFoundError:
        return [(0, 0, 1 << 32)]  # a kernel without user namespaces
    ranges = []
    for line in text.splitlines():
        first, second, count = line.split()
        ranges.append((int(first), int(second), int(count)))
    return ranges


def _read_file(
    root: int, kind: Kind, mounts: bytes, ranges: list[tuple[int, int, int]], kept_bytes: int | None
) -> tuple[dict[int, str], bool]:
    path = _FILES[kind]
    try:
        handle = open_in_root(root, path, mounts)
    except FileNotFoundError:
        return {}, False
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return {}, False
        with open(f"/proc/self/fd/{handle}", "rb") as file:  # noqa: PTH123 - a descriptor
            return _parse(file, ranges, kept_bytes)
    finally:
        os.close(handle)


def owner_of(process: int) -> int:
    """Return the user that created the user namespace of a process, or that of its mount namespace; 0: root.

    The mount namespace is checked too, because root can enter one that another user created.

    Raises:
        OSError: the owner is unknown.
    """
    try:
        own = Path("/proc/self/ns/user").stat()
    except FileNotFoundError:
        return 0  # a kernel without user namespaces
    owner = _outermost_owner(os.open("ns/user", os.O_RDONLY | os.O_CLOEXEC, dir_fd=process), own)
    if owner:
        return owner
    mounts = os.open("ns/mnt", os.O_RDONLY | os.O_CLOEXEC, dir_fd=process)
    try:
        namespace = fcntl.ioctl(mounts, _NS_GET_USERNS)
    finally:
        os.close(mounts)
    return _outermost_owner(namespace, own)


def _outermost_owner(namespace: int, own: os.stat_result) -> int:
    """Return the user that created a user namespace, or the outermost one around it below ours; 0: root, or it is ours.

    A user can create further namespaces inside an own one, under any of the ids that were delegated to it. So the owner
    of the outermost one is responsible. The descriptor is closed.

    Raises:
        OSError: the namespace is not below ours.
    """
    owner = 0
    try:
        for _ in range(_NAMESPACES_MAX):
            status = os.fstat(namespace)
            if (status.st_dev, status.st_ino) == (own.st_dev, own.st_ino):
                break
            owner = _UID.unpack(fcntl.ioctl(namespace, _NS_GET_OWNER_UID, bytes(_UID.size)))[0]
            outer = fcntl.ioctl(namespace, _NS_GET_USERNS_PARENT)
            os.close(namespace)
            namespace = outer
        return owner
    finally:
        os.close(namespace)


def _has(process: int, namespaces: tuple[int, int]) -> bool:
    """Return whether a process has this mount and user namespace; 0: any.

    Raises:
        OSError: the process has ended.
    """
    names = ("ns/mnt", "ns/user")
    return all(
        not wanted or os.stat(name, dir_fd=process).st_ino == wanted
        for name, wanted in zip(names, namespaces, strict=True)
    )
