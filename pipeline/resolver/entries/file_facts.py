"""Facts about a file by its path: stat(2) and the descriptor's mount, instead of a kernel map."""

from __future__ import annotations

import os

from pipeline import proc_text
from pipeline.host import statx
from pipeline.resolver.entries.model import FileFields, ResolverError


def file_fields(filename: str) -> FileFields:
    """Read the facts about a file.

    Args:
        filename: path of the file.

    Raises:
        OSError: the file cannot be opened.
        ResolverError: it has no inode.
    """
    descriptor = os.open(filename, os.O_PATH | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        mount_id = proc_text.mount_id(descriptor)
    finally:
        os.close(descriptor)
    if status.st_ino == 0:
        raise ResolverError(f"{filename} has no inode")
    return FileFields(
        inode=status.st_ino, mount_id=int(mount_id or 0), uid=status.st_uid, gid=status.st_gid,
        mode=status.st_mode & 0xFFFF,
        ctime=statx.stored_ns(status.st_ctime_ns), mtime=statx.stored_ns(status.st_mtime_ns), nlink=status.st_nlink,
        device=os.major(status.st_dev) << 20 | os.minor(status.st_dev),
    )  # fmt: skip
