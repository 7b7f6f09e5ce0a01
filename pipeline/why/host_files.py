"""Examine a file of this host by a path that a process chose, without waiting for a file system that may not answer.

A user can mount a FUSE file system over any directory of his own, and its server need not answer. So the path is
followed one name after the other, and the walk ends before the first question to such a file system: what is mounted
where is known without asking it.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from pipeline import proc_text
from pipeline.why.programs import FOREIGN

_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
#: File systems that are not asked, by the first part of their name in mountinfo, as in ``fuse.sshfs`` and ``nfs4``.
_SILENT = tuple(name.encode() for name in (*sorted(FOREIGN), "autofs", "smb"))


def inode_of(path: str, root: str = "/") -> int | None:
    """Return the inode at an absolute path; None: it is not known without waiting, or a symbolic link is on the way.

    The kernel reported the path without links, so a link came later.

    Args:
        path: below `root`.
        root: where the host's files are.

    Raises:
        OSError: there is no such file, or the caller may not search a directory.
        ValueError: the path contains a NUL.
    """
    answering = answering_mounts(Path("/proc/self/mountinfo").read_bytes())
    at = os.open(root, os.O_PATH | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        for name in path.split("/"):
            if name in ("", "."):
                continue
            if name == "..":
                return None
            below = os.open(name, _PATH, dir_fd=at)
            os.close(at)
            at = below
            # What follows asks the file system itself. A mount that is not in the list is newer than the list.
            if proc_text.mount_id(at).decode() not in answering:
                return None
            if stat.S_ISLNK(os.fstat(at).st_mode):
                return None
        return os.fstat(at).st_ino
    finally:
        os.close(at)


def answering_mounts(mountinfo: bytes) -> frozenset[str]:
    """Return the ids of the mounts whose file systems can be asked, from the text of ``/proc/PID/mountinfo``."""
    return frozenset(
        mounted[0].decode() for mounted, tail in proc_text.mounts_of(mountinfo) if tail and not tail.startswith(_SILENT)
    )
