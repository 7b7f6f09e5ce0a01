"""Open files of strangers, below the root directories of their processes, so that nobody can lead or hold us.

1. No symbolic link, ``..`` or magic link leads out of the process' root (openat2 with RESOLVE_IN_ROOT, since 5.6;
   before, every component with O_NOFOLLOW).
2. Nothing on a file system that a process serves, or a network (FUSE, NFS, 9p and the like), is touched: its server
   could let us wait for ever. ``mountinfo`` tells beforehand.

What may be read of which file is up to who asks (`users`, `ssh_auth`).
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from pathlib import Path

from pipeline.procfs.mountinfo import mounts_of, unescape

_SYS_OPENAT2 = 437  # the same number on every architecture
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_IN_ROOT = 0x10
_OPEN_HOW = struct.Struct("=QQQ")
_LOCAL_FILE_SYSTEMS = frozenset(
    b"ext2 ext3 ext4 xfs btrfs zfs f2fs bcachefs overlay aufs tmpfs ramfs squashfs erofs iso9660 vfat rootfs".split()
)

_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long


def open_in_root(root: int, path: str, mounts: bytes) -> int:
    """An O_PATH descriptor of a file below `root`: nothing is opened yet, so a pipe or device notices nothing."""
    inside = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
    try:
        return openat2(root, path, os.O_PATH | os.O_CLOEXEC, inside | RESOLVE_NO_XDEV)
    except OSError as error:
        if error.errno == errno.ENOSYS:
            return _open_by_component(root, path)
        if error.errno != errno.EXDEV:
            raise
    # Another mount lies on the way, as `docker run -v /etc/passwd:/etc/passwd:ro` makes one. Without links the way is
    # known, so the mounts on it are, too.
    if not all(is_local(mounts, b"/" + os.fsencode(part)) for part in (path, str(Path(path).parent))):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
    return openat2(root, path, os.O_PATH | os.O_CLOEXEC, inside | RESOLVE_NO_SYMLINKS)


def openat2(root: int, path: str, flags: int, resolve: int) -> int:
    """openat2(2) below a descriptor; `resolve` are RESOLVE_* bits. Raises OSError, ENOSYS before 5.6."""
    how = _OPEN_HOW.pack(flags, 0, resolve)
    for _ in range(4):
        fd = int(_syscall(_SYS_OPENAT2, root, os.fsencode(path), how, ctypes.c_size_t(len(how))))
        if fd >= 0:
            return fd
        number = ctypes.get_errno()
        if number != errno.EAGAIN:  # somebody renames something on the way at this moment
            break
    raise OSError(number, os.strerror(number), path)


def _open_by_component(root: int, path: str) -> int:
    """For kernels before 5.6: no component may be a symbolic link, so none leads out of the root."""
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
    """Whether an opened directory of a process lies on a file system of this kernel alone; not known is no.

    Its mount is named by number, which asks the file system nothing. The mount of a chroot's directory is missing in
    the process' own list, being outside of what it can reach; then it is in ours, if the two share a mount namespace.
    """
    number = mount_id(root)
    for text in (mounts, Path("/proc/self/mountinfo").read_bytes()):
        for mounted, tail in mounts_of(text):
            if mounted[0] == number:
                return _is_of_local_type(tail)
    return False


def mount_id(fd: int) -> bytes:
    """Number of the mount that a descriptor is on, in digits; the file system is asked nothing. Raises OSError."""
    return Path(f"/proc/self/fdinfo/{fd}").read_bytes().partition(b"mnt_id:")[2].split(None, 1)[0]


def is_local(mounts: bytes, point: bytes) -> bool:
    """Whether what is mounted there last is a file system of this kernel alone; true where nothing is mounted."""
    tails = [tail for mounted, tail in mounts_of(mounts) if unescape(mounted[4]) == point]
    return not tails or _is_of_local_type(tails[-1])


def _is_of_local_type(tail: bytes) -> bool:
    return tail.split(b" ", 1)[0] in _LOCAL_FILE_SYSTEMS


def read_all(fd: int, limit: int) -> bytes:
    """Read at most `limit` bytes and close."""
    try:
        pieces = []
        while limit > 0 and (piece := os.read(fd, min(limit, 1 << 16))):
            pieces.append(piece)
            limit -= len(piece)
        return b"".join(pieces)
    finally:
        os.close(fd)
