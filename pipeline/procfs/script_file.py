"""Facts about a script's own file, read from the path that was invoked, below the root of the process.

The kernel reports the interpreter of a script, because that is what it runs. The file that was invoked is read here, at
some moment after the exec, so the path may lead to another file by then: `looked_at_ns` says when it was read.

The process chose the path. It is opened with O_PATH only, so no pipe or device blocks or is changed. Nothing leads out
of the root of the process, and file systems that could block are not accessed (`pipeline.procfs.rooted`). A file that
nobody may execute is no script, so the process cannot learn about other files in this way.
"""

from __future__ import annotations

import os
import stat
import time
from typing import Any

from pipeline import proc_text
from pipeline.proc_text import DELETED, mount_id, mounts_of, unescape
from pipeline.procfs.rooted import (
    MOUNTINFO_BYTES_MAX,
    is_root_local,
    open_in_root,
    open_process,
    read_all,
    read_mounts,
)

#: Longer paths are not opened, as by the kernel (PATH_MAX).
PATH_BYTES_MAX = 4096
_EXECUTE = stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH
_I64_MAX = 0x7FFF_FFFF_FFFF_FFFF


def script_file(tgid: int, start_ticks: int, invoked: bytes) -> dict[str, Any] | None:
    """Return the facts of the file that a process invoked as a script.

    Args:
        tgid: the process.
        start_ticks: its start; another owner of the pid is not read.
        invoked: the path; a relative one begins in the present working directory of the process.

    Returns:
        path (bytes, absolute below the root of the process), inode, device (in the kernel's encoding), mount_id, mode,
        nlink, uid and gid (of the initial user namespace), mtime_ns, ctime_ns, filesystem and mount_path (bytes; None:
        unknown), looked_at_ns. Times that do not fit in 64 signed bits are the nearest that do. None: the process has
        ended, the path leads to no regular file that somebody may execute, or it cannot be read safely.
    """
    held: list[int] = []
    try:
        held.append(process := open_process(tgid))
        text = read_all(os.open("stat", os.O_RDONLY | os.O_CLOEXEC, dir_fd=process), 4096)
        if int(proc_text.stat_fields(text)[proc_text.START_TICKS]) != start_ticks:
            return None
        path = _absolute(process, invoked)
        if path is None:
            return None
        held.append(root := os.open("root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=process))
        mounts = read_mounts(process, MOUNTINFO_BYTES_MAX)
        if not is_root_local(root, mounts):
            return None
        held.append(file := open_in_root(root, os.fsdecode(path[1:]), mounts))
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode) or not status.st_mode & _EXECUTE:
            return None
        number = mount_id(file)
    except (OSError, ValueError, IndexError):
        return None
    finally:
        for descriptor in held:
            os.close(descriptor)
    mount = next(((fields, tail) for fields, tail in mounts_of(mounts) if fields[0] == number), None)
    return {
        "path": path, "inode": status.st_ino,
        "device": os.major(status.st_dev) << 20 | os.minor(status.st_dev), "mount_id": int(number),
        "mode": status.st_mode & 0xFFFF, "nlink": status.st_nlink, "uid": status.st_uid, "gid": status.st_gid,
        "mtime_ns": _clamped(status.st_mtime_ns), "ctime_ns": _clamped(status.st_ctime_ns),
        "filesystem": None if mount is None else mount[1].split(b" ", 1)[0].decode("ascii", "replace"),
        "mount_path": None if mount is None else unescape(mount[0][4]), "looked_at_ns": time.time_ns(),
    }  # fmt: skip


def _clamped(time_ns: int) -> int:
    """Return the nearest time that fits in 64 bits: an owner can choose any."""
    return max(~_I64_MAX, min(time_ns, _I64_MAX))


def _absolute(process: int, invoked: bytes) -> bytes | None:
    """Return the path below the root of the process; None: unknown."""
    if not invoked or b"\0" in invoked or len(invoked) > PATH_BYTES_MAX:
        return None
    if invoked.startswith(b"/"):
        return invoked
    directory, root = (os.readlink(link, dir_fd=process) for link in (b"cwd", b"root"))
    if root != b"/":  # of a chroot: both are below the root of this process
        if directory != root and not directory.startswith(root + b"/"):
            return None
        directory = directory.removeprefix(root)
    if (directory and not directory.startswith(b"/")) or directory.endswith(DELETED):
        return None
    return directory.rstrip(b"/") + b"/" + invoked
