"""statx(2), which the standard library lacks: the call, its structure and flags, and how file times are stored."""

from __future__ import annotations

import ctypes
import struct
from typing import NamedTuple

#: The current directory; ignored if the path is absolute.
AT_FDCWD = -100
#: Return the attributes that the kernel has cached; do not wait for a file server (FUSE, NFS).
AT_DONT_SYNC = 0x4000
_BASIC_STATS = 0x7FF
_MNT_ID = 0x1000

#: The fields of `Status` in struct statx, which has 256 bytes.
_LAYOUT = struct.Struct("=16xIIIH2xQ56xqI4xqI4xIIIIQ")
_BUFFER_BYTES = 256

_statx = ctypes.CDLL(None).statx
_statx.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_char_p)
_statx.restype = ctypes.c_int


class Status(NamedTuple):
    """The result of statx(2) for a file, in the order of its structure.

    Attributes:
        ctime_s, ctime_part_ns, mtime_s, mtime_part_ns: see `ctime_ns` and `mtime_ns`.
        own_major, own_minor: of a device file, the device that it leads to; else 0.
        device_major, device_minor: the device that the file is on.
        mount_id: since Linux 5.8; on older kernels 0.
    """

    nlink: int
    uid: int
    gid: int
    mode: int
    inode: int
    ctime_s: int
    ctime_part_ns: int
    mtime_s: int
    mtime_part_ns: int
    own_major: int
    own_minor: int
    device_major: int
    device_minor: int
    mount_id: int

    @property
    def ctime_ns(self) -> int:
        """Time of the last change of the inode, as `stored_ns` returns it."""
        return stored_ns(self.ctime_s * 1_000_000_000 + self.ctime_part_ns)

    @property
    def mtime_ns(self) -> int:
        """Time of the last change of the content, as `stored_ns` returns it."""
        return stored_ns(self.mtime_s * 1_000_000_000 + self.mtime_part_ns)

    @property
    def device(self) -> int:
        """The device that the file is on, in the kernel's encoding."""
        return self.device_major << 20 | self.device_minor


def statx(directory: int, path: bytes, flags: int = 0) -> Status | None:
    """Return the status of a file; None if the call failed.

    Args:
        directory: a descriptor, or AT_FDCWD.
        path: below the directory, or absolute.
        flags: AT_* bits.
    """
    buffer = ctypes.create_string_buffer(_BUFFER_BYTES)
    if _statx(directory, path, flags, _BASIC_STATS | _MNT_ID, buffer) != 0:
        return None
    return Status._make(_LAYOUT.unpack_from(buffer))


def stored_ns(ns: int) -> int:
    """Return a time of a file as rows have it: 64 bits without a sign.

    An owner can choose any time, also one before 1970. It wraps as in the BPF programs (path.bpf.h).
    """
    return ns & 0xFFFF_FFFF_FFFF_FFFF
