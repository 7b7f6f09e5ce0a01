"""Names of users and groups: of the host, and of the container that a process is in.

Covers the look-ups and their cache with an age limit. Leaves out whose ids they are, and how entries and events of a
running instance get names without waiting for any: `names`.

A container has its own users: uid 1000 there may be "app" while the host calls it "alice" or nothing. So for a process
with another root directory its own ``/etc/passwd`` and ``/etc/group`` are read, after its user namespace's map has
turned the kernel's id into the one inside.

A user other than root can make a user namespace, and choose its map of ids and what is mounted at ``/etc/passwd`` in
it. So files and map count only where root made the namespaces, as for most containers (`_owner`). Elsewhere the host's
names of the kernel's ids count, which nobody can choose.

Files that count still belong to a container, so to a stranger:

1. They are opened so that no symbolic link, ``..`` or magic link leads out of the process' root (openat2 with
   RESOLVE_IN_ROOT, since 5.6; before, every component with O_NOFOLLOW).
2. Only regular files are opened for reading. At most 1 MiB of them is read, line by line, and of the names at most
   `KEPT_BYTES` are kept, and only those of ids that the user namespace maps.
3. Nothing on a file system that a process serves, or a network (FUSE, NFS, 9p and the like), is touched: its server
   could let us wait for ever. ``mountinfo`` tells beforehand, and no other mount is crossed. (One that is mounted over
   ``/etc/passwd`` in the very moment between would hold up the thread of `names`, nothing else.)

Names that can not be had are "", never a guess; and in a container that root made never the host's.
"""

from __future__ import annotations

import fcntl
import grp
import io
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

from pipeline.procfs.rooted import is_root_local, open_in_root, read_all

Kind = Literal["user", "group"]

#: View of the host: ids as this process' own name service knows them.
HOST = 0

FILE_BYTES = 1 << 20
NAME_CHARS = 256
#: What is kept of one file: the length of the names, with NAME_OVERHEAD for each. That is about 2,000 names.
KEPT_BYTES = 1 << 16
NAME_OVERHEAD = 24
TTL_NS = 300 * 1_000_000_000
#: An id without a name is asked for again sooner: `useradd` often runs after the process was started.
MISS_TTL_NS = 60 * 1_000_000_000

_ID_DIGITS = 10
_LINES_AT_ONCE = 256
_NS_GET_USERNS = 0xB701
_NS_GET_USERNS_PARENT = 0xB702
_NS_GET_OWNER_UID = 0xB704
_UID = struct.Struct("=I")
_NAMESPACES_MAX = 33  # create_user_ns() refuses deeper ones
_FILES: dict[Kind, str] = {"user": "etc/passwd", "group": "etc/group"}


class RootNames(NamedTuple):
    """The names of one root directory, by the ids inside."""

    user: dict[int, str]
    group: dict[int, str]
    uid_map: list[tuple[int, int, int]]  #: inside, outside, count
    gid_map: list[tuple[int, int, int]]
    root: tuple[int, int]  #: device and inode of the directory
    #: User of the initial user namespace that made the process' namespaces; 0: root. Of another one's nothing is read.
    owner: int = 0
    is_cut: bool = False  #: there are more names than are kept

    @property
    def is_hosts(self) -> bool:
        """Whether the host's names count instead."""
        return self.owner != 0

    def outside(self) -> tuple[dict[int, str], dict[int, str]]:
        """Users and groups by the ids outside, as the kernel's credentials have them."""
        return _outside(self.user, self.uid_map), _outside(self.group, self.gid_map)


class UserNames:
    """Ids to names, cached. Not thread-safe; a look-up may wait for a name service.

    Args:
        proc: where procfs is mounted.
        ttl_ns: how long a name, or a container's files, are believed.
        miss_ttl_ns: the same for an id without a name.
        capacity: ids of the host remembered, for users and groups together.
        views: containers remembered.
        clock: monotonic, in ns.
        host: looks an id up on the host; raises KeyError when there is none.
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
        """Name of a user, or "".

        Args:
            uid: in the initial user namespace, as the kernel's credentials have it.
            tgid: a process of the view, whose files are read when the view is not cached.
            view: names the container, for example by its mount namespace's inode; HOST: none.
        """
        return self.name("user", uid, tgid, view)

    def group(self, gid: int, tgid: int = 0, view: int = HOST) -> str:
        """Name of a group, or "". Arguments as of `user`."""
        return self.name("group", gid, tgid, view)

    def name(self, kind: Kind, number: int, tgid: int = 0, view: int = HOST) -> str:
        """`user` or `group`."""
        if (known := self.cached(kind, number, view)) is not None:
            return known
        now = self._clock()
        if view != HOST:
            names = read_names(tgid, self._proc, KEPT_BYTES)
            if names is not None and names.is_hosts:
                # Not kept: it is true of this process, and others of the view may have another user namespace.
                return self.name(kind, number)
            self._views[view] = (names, now + (self._ttl_ns if names is not None else self._miss_ttl_ns))
            self._views.move_to_end(view)
            if len(self._views) > self._views_max:
                self._views.popitem(last=False)
            return _inside(names, kind, number)
        name = ""
        # KeyError: no such id. OSError: the name service failed. OverflowError: an id that C can not hold.
        with suppress(KeyError, OSError, OverflowError):
            name = self._host(kind, number)[:NAME_CHARS]
        self._names[kind, number] = (name, now + (self._ttl_ns if name else self._miss_ttl_ns))
        self._names.move_to_end((kind, number))
        if len(self._names) > self._capacity:
            self._names.popitem(last=False)
        return name

    def cached(self, kind: Kind, number: int, view: int = HOST) -> str | None:
        """What is known without asking anybody; None: nothing, or it is too old."""
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
        """Drop a container's names, for example when its last process has ended."""
        self._views.pop(view, None)


def host_name(kind: Kind, number: int) -> str:
    """Ask this host's name service (files, LDAP, …). Raises KeyError: no such id."""
    return pwd.getpwuid(number).pw_name if kind == "user" else grp.getgrgid(number).gr_name


def read_names(
    tgid: int,
    proc: str = "/proc",
    kept_bytes: int | None = None,
    *,
    namespaces: tuple[int, int] = (0, 0),
    is_host: bool = False,
) -> RootNames | None:
    """The names in a process' own root directory; None: gone or not to be read safely. A file that is absent is empty.

    Args:
        tgid: the process.
        proc: where procfs is mounted.
        kept_bytes: see KEPT_BYTES; None: no limit but the file's.
        namespaces: inodes of the mount and user namespace that the process must have; 0: any.
        is_host: the root directory is the host's, so the owner of the namespaces is not looked up.

    The descriptor of ``/proc/PID`` pins the process, so pid reuse can not mix two roots.
    """
    try:
        process = os.open(f"{proc}/{tgid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    root = -1
    try:
        owner = 0 if is_host else _owner(process)
        if owner:
            return RootNames({}, {}, [], [], (0, 0), owner) if _has(process, namespaces) else None
        root = os.open("root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=process)
        mounts = read_all(os.open("mountinfo", os.O_RDONLY | os.O_CLOEXEC, dir_fd=process), 4 * FILE_BYTES)
        if not is_root_local(root, mounts):
            return None
        uid_map, gid_map = _read_id_map(process, "uid_map"), _read_id_map(process, "gid_map")
        users, are_users_cut = _read_file(root, "user", mounts, uid_map, kept_bytes)
        groups, are_groups_cut = _read_file(root, "group", mounts, gid_map, kept_bytes)
        # At the end: a process never comes back to namespaces that it left, unless as root.
        if not _has(process, namespaces) or not (is_host or _owner(process) == 0):
            return None
        return RootNames(users, groups, uid_map, gid_map, root_identity(root), is_cut=are_users_cut or are_groups_cut)
    except OSError:
        return None
    finally:
        if root >= 0:
            os.close(root)
        os.close(process)


def root_identity(root: int | str) -> tuple[int, int]:
    """Device and inode of a root directory, by which two can be told apart. Raises OSError."""
    status = os.stat(root)  # noqa: PTH116 - a descriptor, mostly
    return status.st_dev, status.st_ino


def parse_names(text: bytes) -> dict[int, str]:
    """Ids and names of a passwd or group file; of two names of one id the first counts, as for the C library."""
    return _parse(io.BytesIO(text), [(0, 0, 1 << 32)], None)[0]


def _parse(file: BinaryIO, ranges: list[tuple[int, int, int]], kept_bytes: int | None) -> tuple[dict[int, str], bool]:
    """The names of the ids that `ranges` map, and whether there are more than may be kept."""
    names: dict[int, str] = {}
    left = kept_bytes
    for line in _lines(file):
        fields = line.split(b":", 3)
        if len(fields) < 3 or not fields[0] or fields[0][:1] in b"#+-" or not fields[2].isdigit():
            continue
        digits = fields[2].lstrip(b"0") or b"0"
        if len(digits) > _ID_DIGITS:  # thousands of digits int() refuses
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
    """The lines of the first FILE_BYTES, one by one, so that a large file never is in memory."""
    left = FILE_BYTES
    count = 0
    while left > 0 and (line := file.readline(left)):
        left -= len(line)
        if left > 0 or line.endswith(b"\n"):  # else it is cut, and half a number is another number
            yield line.rstrip(b"\n")
        count += 1
        if count % _LINES_AT_ONCE == 0:
            time.sleep(0)  # lets the thread go on that has no time to lose


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
    """Lines of uid_map: first id inside, first id outside (in this reader's user namespace), count."""
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


def _owner(process: int) -> int:
    """The user that made the user namespace of a process, or that of its mount namespace; 0: root.

    The mount namespace is asked as well: root can enter one that a user has made. Raises OSError: not known.
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
    """The user that made a user namespace, or the outermost one around it below ours; 0: root, or it is ours.

    A user can make further namespaces inside of the own one, under any of the ids that were delegated to it. So the
    owner of the outermost one is responsible. Closes the descriptor. Raises OSError: it is not below ours.
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
    """Whether a process has this mount and user namespace; 0: any. Raises OSError."""
    names = ("ns/mnt", "ns/user")
    return all(
        not wanted or os.stat(name, dir_fd=process).st_ino == wanted
        for name, wanted in zip(names, namespaces, strict=True)
    )
