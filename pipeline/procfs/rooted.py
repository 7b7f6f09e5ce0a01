"""Open files below the root directories of untrusted processes, without being redirected or blocked.

1. No symbolic link, ``..`` or magic link leads out of the root of the process (openat2 with RESOLVE_IN_ROOT, since
   Linux 5.6; on older kernels, every component is opened with O_NOFOLLOW).
2. Nothing is accessed on a file system that is served by a process or over a network (FUSE, NFS, 9p and the like),
   because its server could block forever. This is checked in ``mountinfo`` before.

The callers decide which files to read and how much of them.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from collections.abc import Mapping
from functools import cache
from pathlib import Path, PurePath

from pipeline.proc_text import mount_id, mounts_of, unescape

_SYS_OPENAT2 = 437  # the same number on every architecture
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_IN_ROOT = 0x10
_OPEN_HOW = struct.Struct("=QQQ")
#: Paths with more parts are not opened: an untrusted process chose them.
PARTS_MAX = 64
#: A longer mountinfo is rejected, see `read_mounts`.
MOUNTINFO_BYTES_MAX = 4 << 20
_LOCAL_FILE_SYSTEMS = frozenset(
    b"ext2 ext3 ext4 xfs btrfs zfs f2fs bcachefs overlay aufs tmpfs devtmpfs ramfs rootfs squashfs erofs iso9660 "
    b"vfat".split()
)

_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long


def open_process(tgid: int | str, proc: str | Path = "/proc") -> int:
    """Return a descriptor of the directory of a process, or of "self".

    Every file below it is of the same process, also if the pid gets another owner.

    Args:
        tgid: the process.
        proc: mount point of procfs.

    Raises:
        OSError: there is no such process.
    """
    return os.open(f"{proc}/{tgid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def open_in_root(root: int, path: str, mounts: bytes) -> int:
    """Return an O_PATH descriptor of a file below `root`.

    The file itself is not opened, so a pipe or device is not affected.

    Args:
        root: descriptor of the root directory.
        path: relative path of the file.
        mounts: mountinfo of the process.

    Raises:
        OSError: the file does not exist, the path has more than PARTS_MAX parts, or it crosses a mount of a file system
            that could block.
    """
    if len(PurePath(path).parts) > PARTS_MAX:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), path)
    inside = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
    try:
        return openat2(root, path, os.O_PATH | os.O_CLOEXEC, inside | RESOLVE_NO_XDEV)
    except OSError as error:
        if error.errno == errno.ENOSYS:
            return _open_by_component(root, path)
        if error.errno != errno.EXDEV:
            raise
    # The path crosses a mount, such as `docker run -v /etc/passwd:/etc/passwd:ro` creates. Without symbolic links the
    # path is fixed, so the mounts on it can be checked.
    path = os.path.normpath(f"/{path}").lstrip("/")
    above = [str(part) for part in PurePath(path).parents if part.name]
    types = types_of(mounts)
    if not all(is_local(types, b"/" + os.fsencode(part)) for part in (path, *above)):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
    return openat2(root, path, os.O_PATH | os.O_CLOEXEC, inside | RESOLVE_NO_SYMLINKS)


def openat2(root: int, path: str, flags: int, resolve: int) -> int:
    """Open a path below a descriptor with the system call openat2.

    Args:
        root: descriptor of the directory.
        path: path below it.
        flags: O_* bits.
        resolve: RESOLVE_* bits.

    Raises:
        OSError: the file cannot be opened; ENOSYS before Linux 5.6.
    """
    how = _OPEN_HOW.pack(flags, 0, resolve)
    for _ in range(4):
        fd = int(_syscall(_SYS_OPENAT2, root, os.fsencode(path), how, ctypes.c_size_t(len(how))))
        if fd >= 0:
            return fd
        number = ctypes.get_errno()
        if number != errno.EAGAIN:  # EAGAIN: a part of the path was renamed during the call
            break
    raise OSError(number, os.strerror(number), path)


def _open_by_component(root: int, path: str) -> int:
    """Open a path on kernels before 5.6: no component may be a symbolic link, so none leads out of the root."""
    *directories, last = path.split("/")
    fd = os.dup(root)
    try:
        device = os.fstat(root).st_dev
        for part in (*directories, last):
            kind = 0 if part == last else os.O_DIRECTORY
            below = os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC | kind, dir_fd=fd)
            os.close(fd)
            fd = below
        status = os.fstat(fd)
        if stat.S_ISLNK(status.st_mode) or status.st_dev != device:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        return fd
    except OSError:
        os.close(fd)
        raise


def is_root_local(root: int, mounts: bytes) -> bool:
    """Return whether an open directory of a process is on a file system of this kernel alone; unknown is False.

    The mount is identified by its id, which does not access the file system. If the directory is the root of a chroot,
    the process may not reach its mount, and its list then lacks the mount. The list of this process has the mount in
    that case, if both share a mount namespace.

    Args:
        root: the directory.
        mounts: mountinfo of the process.
    """
    number = mount_id(root)
    for text in (mounts, Path("/proc/self/mountinfo").read_bytes()):
        for mounted, tail in mounts_of(text):
            if mounted[0] == number:
                return is_local_type(tail.split(b" ", 1)[0])
    return False


@cache
def memfd_mount() -> bytes:
    """Return the id of the mount that all memfds are on (except those with huge pages), and no file with a name."""
    fd = os.memfd_create("procline", os.MFD_CLOEXEC)
    try:
        return mount_id(fd)
    finally:
        os.close(fd)


def types_of(mounts: bytes) -> dict[bytes, bytes]:
    """Return the type of the last mount on each mount point of a mountinfo."""
    return {unescape(mounted[4]): tail.split(b" ", 1)[0] for mounted, tail in mounts_of(mounts)}


def is_local(types: Mapping[bytes, bytes], point: bytes) -> bool:
    """Return whether the last mount on `point` is a file system of this kernel alone; True if nothing is mounted there.

    Args:
        types: see `types_of`.
        point: the mount point.
    """
    return point not in types or types[point] in _LOCAL_FILE_SYSTEMS


def is_local_type(name: bytes) -> bool:
    """Return whether a file system of this type is of this kernel alone; an overlay is, if those below it are."""
    return name in _LOCAL_FILE_SYSTEMS


def read_mounts(process: int, limit: int) -> bytes:
    """Read the mountinfo of a process.

    Args:
        process: descriptor of its ``/proc/PID``.
        limit: a longer text is rejected, because a mount that is missing in it would seem not to exist. A user can
            create 100,000 mounts in a namespace.

    Raises:
        OSError: it cannot be read, or it is too long.
    """
    text = read_all(os.open("mountinfo", os.O_RDONLY | os.O_CLOEXEC, dir_fd=process), limit)
    if len(text) >= limit:
        raise OSError(errno.EFBIG, "too many mounts")
    return text


def read_all(fd: int, limit: int) -> bytes:
    """Read at most `limit` bytes and close the descriptor."""
    try:
        pieces = []
        while limit > 0 and (piece := os.read(fd, min(limit, 1 << 16))):
            pieces.append(piece)
            limit -= len(piece)
        return b"".join(pieces)
    finally:
        os.close(fd)
