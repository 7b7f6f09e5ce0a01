"""Namespaces that a process shares with this one, if its links below ``/proc/PID/ns`` cannot be read.

Some kernels let nobody, including root, read the links of pid 1 (and its executable). Other files of ``/proc/PID`` show
which namespaces it shares with this process, and this process can read its own links:

* pid: NSpid has one number for each namespace, from that of the procfs mount inwards. If there is only one number, the
  process is in the namespace of the mount.
* mnt: mountinfo lists the mounts of one namespace, by ids that are unique at a time. If the mount of this process's
  root directory, which cannot go away meanwhile, is in the list, both share the namespace.
* net: inodes below ``/proc/PID/net`` are unique to a network namespace at a time.

Nothing shows the user namespace, so it remains unknown. A mount namespace is used to look up names of ids, so it is
reported as shared only if both processes map ids in the same way (equal uid_map and gid_map). What is not shown to be
shared remains 0.
"""

from __future__ import annotations

import os

from pipeline import proc_text
from pipeline.procfs.info import ProcInfo
from pipeline.procfs.rooted import read_all

_OPEN = os.O_RDONLY | os.O_CLOEXEC
#: Maximum bytes read of each file: of mountinfo about 500 mounts. The root is among the first.
_BYTES = 64 << 10


def fill(info: ProcInfo, fd: int, proc: int) -> None:
    """Set pid_ns, mnt_ns and net_ns of a process if they are those of this process.

    Args:
        info: the process; its `ns_pids` must be known.
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
        return  # this file cannot be read either, or the process has ended
    finally:
        os.close(own)


def _is_of_the_mount(own: int) -> bool:
    """Return whether this process is in the pid namespace for which procfs was mounted."""
    return len(proc_text.status_value(_read(own, "status"), b"NSpid").split()) == 1


def _shares_root_mount(fd: int, own: int) -> bool:
    # The last mount on "/" is the root directory's.
    roots = [mounted[0] for mounted, _ in proc_text.mounts_of(_read(own, "mountinfo")) if mounted[4] == b"/"]
    return bool(roots) and any(mounted[0] == roots[-1] for mounted, _ in proc_text.mounts_of(_read(fd, "mountinfo")))


def _inode(own: int, kind: str) -> int:
    return int(os.readlink(f"ns/{kind}", dir_fd=own)[len(kind) + 2 : -1])


def _read(below: int, name: str) -> bytes:
    return read_all(os.open(name, _OPEN, dir_fd=below), _BYTES)
