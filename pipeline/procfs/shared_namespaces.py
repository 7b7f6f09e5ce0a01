"""Namespaces that a process shares with this one, where reading its links below ``/proc/PID/ns`` is refused.

Some kernels refuse the links of pid 1 (and its executable) to everyone, root included. Other files of ``/proc/PID``
show which namespaces it has in common with this process, and this process can read its own links:

* pid: NSpid has one number for each namespace from that of the mount inwards. If it has one, it is the mount's.
* mnt: mountinfo has the mounts of one namespace, by ids that no two mounts share at a time. If the mount of this
  process's root directory, which cannot go away meanwhile, is among them, it is the same namespace.
* net: no two network namespaces share an inode below ``/proc/PID/net`` at a time.

Nothing shows the user namespace, so it stays unknown. But the two may still have the same names for the same ids; a
mount namespace is taken as shared only if they do (equal uid_map and gid_map). What cannot be shown stays 0.
"""

from __future__ import annotations

import os
import re

from pipeline.procfs.info import ProcInfo
from pipeline.procfs.rooted import read_all

_OPEN = os.O_RDONLY | os.O_CLOEXEC
#: Of each file so much is read: of mountinfo some 500 mounts. The root is among the first.
_BYTES = 64 << 10


def fill(info: ProcInfo, fd: int, proc: int) -> None:
    """Fill in pid_ns, mnt_ns and net_ns of a process as far as they are those of this process.

    Args:
        info: what is known of it; `ns_pids` has been read.
        fd: descriptor of its ``/proc/PID``.
        proc: descriptor of the mount of procfs.
    """
    try:
        own = os.open("self", _OPEN | os.O_DIRECTORY, dir_fd=proc)
    except OSError:
        return
    try:
        if len(info.ns_pids) == 1 and _is_of_the_mount(own):
            info.pid_ns = _inode(own, "pid")
        if _shares_root_mount(fd, own) and all(_read(fd, name) == _read(own, name) for name in ("uid_map", "gid_map")):
            info.mnt_ns = _inode(own, "mnt")
        if os.stat("net/dev", dir_fd=fd).st_ino == os.stat("net/dev", dir_fd=own).st_ino:
            info.net_ns = _inode(own, "net")
    except OSError:
        return  # a file that may not be read either; or the process is gone
    finally:
        os.close(own)


def _is_of_the_mount(own: int) -> bool:
    """Whether this process, too, is of the pid namespace that procfs was mounted for."""
    found = re.search(rb"^NSpid:((?:\t\d+)+)$", _read(own, "status"), re.MULTILINE)
    return found is not None and len(found[1].split()) == 1


def _shares_root_mount(fd: int, own: int) -> bool:
    # proc_pid_mountinfo(5): ID PARENT MAJOR:MINOR ROOT MOUNT_POINT ...; the last one on "/" is the root directory's.
    roots = re.findall(rb"^(\d+) \d+ \S+ \S+ / ", _read(own, "mountinfo"), re.MULTILINE)
    return bool(roots) and roots[-1] in re.findall(rb"^(\d+) ", _read(fd, "mountinfo"), re.MULTILINE)


def _inode(own: int, kind: str) -> int:
    return int(os.readlink(f"ns/{kind}", dir_fd=own)[len(kind) + 2 : -1])


def _read(below: int, name: str) -> bytes:
    return read_all(os.open(name, _OPEN, dir_fd=below), _BYTES)
