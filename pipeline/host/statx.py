"""statx(2), which the standard library does not have: only the call, and the flags that its callers share."""

from __future__ import annotations

import ctypes

#: Stands for the current directory; does not matter for an absolute path.
AT_FDCWD = -100
#: Of what another process or host serves (FUSE, NFS), take what the kernel knows, and do not wait for that server.
AT_DONT_SYNC = 0x4000
BASIC_STATS = 0x7FF
MNT_ID = 0x1000  #: since 5.8; the field is 0 before
BUFFER_BYTES = 256

#: statx(directory, path, flags, mask, buffer), 0 or -1.
statx = ctypes.CDLL(None).statx
statx.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_char_p)
statx.restype = ctypes.c_int
