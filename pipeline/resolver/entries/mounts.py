"""The mount that a file is on: between what the walk of its path told, the FILE record, and a FileEvent.

The kernel's programs walk the path of an executable across the mounts as they are at that moment, and tell how much of
it leads to where the file's mount is (`mount_end` of EXEC: 1 + that many bytes, 0 unknown). So no table of mounts is
kept, and none is asked by the number of a mount, which is another one's after an unmount.
"""

from __future__ import annotations

from os import fsdecode, fsencode
from typing import Any

from pipeline.records.kinds import EXEC_DETACHED, EXEC_ESCAPED, EXEC_MEMFD, EXEC_NO_ROOT, EXEC_PATH_TRUNCATED
from pipeline.resolver.entries.model import FileEvent
from pipeline.shm.layout.declared import (
    MOUNT_DETACHED,
    MOUNT_ORIGIN_EVENT,
    MOUNT_RESOLVED,
    MOUNT_SOURCE_ID,
    MOUNT_VISIBLE,
)


def path_of(path: bytes, end: int, flags: int) -> str:
    """Where the mount is, of a path, its `mount_end` and MOUNT_*; "" unknown, or nowhere."""
    if end == 0 or end - 1 > len(path) or flags & MOUNT_DETACHED:
        return ""
    return fsdecode(path[: end - 1]) or "/"


def end_of(path: bytes, mount_path: str) -> int:
    """The opposite; 0 where the file is not below that path."""
    mount = b"" if mount_path == "/" else fsencode(mount_path)
    is_below = path.startswith(mount) and path[len(mount) : len(mount) + 1] in {b"", b"/"}
    return 1 + len(mount) if mount_path and is_below else 0


def flags_of(file: FileEvent) -> int:
    """MOUNT_* of a file."""
    flags = MOUNT_VISIBLE if file.mount_visible else 0
    flags |= MOUNT_DETACHED if file.mount_detached else 0
    return flags | (MOUNT_RESOLVED if file.mount_visibility_resolved else 0)


def marks(flags: int) -> dict[str, bool]:
    """The fields of a FileEvent that MOUNT_* flags stand for."""
    return {
        "mount_visible": bool(flags & MOUNT_VISIBLE), "mount_detached": bool(flags & MOUNT_DETACHED),
        "mount_visibility_resolved": bool(flags & MOUNT_RESOLVED),
    }  # fmt: skip


def walked(path: bytes, end: int, exec_flags: int) -> dict[str, Any]:
    """The fields of a FileEvent that an event's walk tells, as the applier has them; nothing where nobody walked."""
    if not end and not exec_flags & (EXEC_MEMFD | EXEC_ESCAPED | EXEC_PATH_TRUNCATED):
        return {}
    flags = 0
    if exec_flags & EXEC_MEMFD or (end and exec_flags & EXEC_DETACHED):
        flags = MOUNT_RESOLVED | MOUNT_DETACHED
    elif end:
        flags = MOUNT_RESOLVED | (0 if exec_flags & EXEC_NO_ROOT else MOUNT_VISIBLE)
    return {
        "mount_path": path_of(path, end, flags), "mount_source": MOUNT_SOURCE_ID, "mount_origin": MOUNT_ORIGIN_EVENT,
        **marks(flags),
    }  # fmt: skip
