"""statx(2), which the standard library lacks: the call, its flags, and how file times are stored."""

from __future__ import annotations

import ctypes

#: The current directory; ignored if the path is absolute.
AT_FDCWD = -100
#: Return the attributes that the kernel has cached; do not wait for a file server (FUSE, NFS).
AT_DONT_SYNC = 0x4000
BASIC_STATS = 0x7FF
MNT_ID = 0x1000  #: since 5.8; on older kernels the field is 0
BUFFER_BYTES = 256

#: statx(directory, path, flags, mask, buffer), 0 or -1.
statx = ctypes.CDLL(None).statx
statx.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_char_p)
statx.restype = ctypes.c_int


def stored_ns(ns: int) -> int:
    """Return a time of a file as rows have it: 64 bits without a sign.

    An owner can choose any time, also one before 1970. It wraps as in the BPF programs (path.bpf.h).
    """
    return ns & 0xFFFF_FFFF_FFFF_FFFF
