"""The mount of a file: conversion between the walk of its path, the FILE record and a FileEvent.

The BPF programs walk the path of an executable across the mounts of that moment. They report how many bytes of the path
lead to the mount point of the file, plus 1 (`mount_end` of EXEC; 0: unknown). So no table of mounts is needed, and no
look-up by the number of a mount, which the kernel may reuse after an unmount.
"""

from __future__ import annotations

from os import fsdecode, fsencode
from typing import Any

from pipeline.records.declared import EXEC_DETACHED, EXEC_ESCAPED, EXEC_MEMFD, EXEC_NO_ROOT, EXEC_PATH_TRUNCATED
from pipeline.resolver.entries.model import FileEvent
from pipeline.shm.layout.declared import (
    MOUNT_DETACHED,
    MOUNT_ORIGIN_EVENT,
    MOUNT_RESOLVED,
    MOUNT_SOURCE_ID,
    MOUNT_VISIBLE,
)


def path_of(path: bytes, end: int, flags: int) -> str:
    """Return the mount point of a file with this path, `mount_end` and MOUNT_* flags; "": unknown or detached."""
    if end == 0 or end - 1 > len(path) or flags & MOUNT_DETACHED:
        return ""
    return fsdecode(path[: end - 1]) or "/"


def end_of(path: bytes, mount_path: str) -> int:
    """Return the `mount_end` of a path; 0 if the file is not below `mount_path`."""
    mount = b"" if mount_path == "/" else fsencode(mount_path)
    is_below = path.startswith(mount) and path[len(mount) : len(mount) + 1] in {b"", b"/"}
    return 1 + len(mount) if mount_path and is_below else 0


def flags_of(file: FileEvent) -> int:
    """Return the MOUNT_* flags of a file."""
    flags = MOUNT_VISIBLE if file.mount_visible else 0
    flags |= MOUNT_DETACHED if file.mount_detached else 0
    return flags | (MOUNT_RESOLVED if file.mount_visibility_resolved else 0)


def marks(flags: int) -> dict[str, bool]:
    """Return the fields of a FileEvent that MOUNT_* flags represent."""
    return {
        "mount_visible": bool(flags & MOUNT_VISIBLE), "mount_detached": bool(flags & MOUNT_DETACHED),
        "mount_visibility_resolved": bool(flags & MOUNT_RESOLVED),
    }  # fmt: skip


def walked(path: bytes, end: int, exec_flags: int) -> dict[str, Any]:
    """Return the fields of a FileEvent that an event's walk reported, as the applier sets them; none without a walk."""
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
