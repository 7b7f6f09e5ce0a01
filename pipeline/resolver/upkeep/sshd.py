"""Decide whether a process is the host's own sshd, so that the environment that it sets can be trusted.

A name proves nothing: any user can call a program sshd, and can mount a file of root's over that name in an own mount
namespace. So a process is the host's sshd only if all of these conditions hold:

1. It runs in the host's mount namespace (pid 1's) and in the initial user namespace.
2. Its real and effective user is root, or it was forked, as the same image, by such a process. sshd drops root's
   privileges in the process that forks the user's shell.
3. Its executable is the host's file at that path: device and inode are equal. The file is called sshd, sshd-session or
   sshd-auth, is a regular file of root that only root can write, and is neither setuid nor setgid.
4. Every directory on the path belongs to root, and only root can write to it. A directory with the sticky bit is
   accepted, except the last one, where other users could add a link to a file of root.

If one of these facts is unknown, the process is not accepted: a missing session is better than a wrong one. So an sshd
in a container, or with its own mount namespace, begins no session.
"""

from __future__ import annotations

import os
import stat
from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from pipeline.host.boot import TICK_NS
from pipeline.proc_text import mount_id
from pipeline.procfs.filesystems import name_of
from pipeline.procfs.proc_reader import WANT_EXE, WANT_IDS, WANT_NS, read_process
from pipeline.records import declared
from pipeline.resolver.upkeep.namespaces import host_namespaces
from pipeline.shm.layout import layout
from pipeline.trust import WRITABLE_BY_OTHERS

if TYPE_CHECKING:
    from pipeline.shm.writer._writer import TableWriter

NAMES = frozenset({b"sshd", b"sshd-session", b"sshd-auth"})
_Key = TypeVar("_Key")

#: Accepted processes and files that are remembered; beyond that, the oldest are forgotten.
PROCESSES_MAX = 1024
FILES_MAX = 64
#: Processes with lost records that are read from `/proc` in one turn.
READS_PER_TURN = 16
#: Longest path, in components, that is examined.
DEPTH_MAX = 32

_KNOWN = layout.KNOWN_CREDS | layout.KNOWN_NS | layout.KNOWN_FILE
_NOT_A_PATH = (
    declared.EXEC_MEMFD | declared.EXEC_DELETED | declared.EXEC_PATH_TRUNCATED | declared.EXEC_DETACHED
    | declared.EXEC_ESCAPED | declared.EXEC_NO_ROOT
)  # fmt: skip
#: File systems with a server, where a stat(2) could block.
_SERVED = frozenset({"fuse", "nfs", "9p", "cifs", "ceph", "afs", "coda", "vboxsf", "autofs", "ocfs2", "gfs2"})


class _Facts(NamedTuple):
    uid: int
    euid: int
    mnt_ns: int
    user_ns: int
    file: bytes  #: a FILE record and the path

    @property
    def is_roots(self) -> bool:
        return self.uid == 0 and self.euid == 0

    @property
    def image(self) -> tuple[int, bytes]:
        """Inode and path; the other facts of a file differ slightly between the kernel's record and `/proc`."""
        record = np.frombuffer(self.file[: layout.FILE.itemsize], layout.FILE)[0]
        return int(record["file_inode"]), self.file[layout.FILE.itemsize :]


class HostSshd:
    """Recognizes the host's sshd among the rows of the tables. Not thread-safe.

    Args:
        tables: of this instance.

    Attributes:
        decisions: rows that were examined; remembered rows are not.
    """

    def __init__(self, tables: TableWriter) -> None:
        self._tables = tables
        self._root = _root_of("/proc")
        self._namespaces: tuple[int, int] | None = None
        self._rows: OrderedDict[int, None] = OrderedDict()
        self._files: OrderedDict[bytes, None] = OrderedDict()
        self._reads = READS_PER_TURN
        self.decisions = 0

    def turn(self) -> None:
        """Begin another turn, in which `/proc` may be read again."""
        self._reads = READS_PER_TURN

    def recognizes(self, row: int) -> bool:
        """Whether the image in this row is the host's sshd, run by root."""
        link = self._tables.py_link(row)
        if link in self._rows:
            return True
        self.decisions += 1
        if not self._is_sshd(row):
            return False
        _remember(self._rows, link, PROCESSES_MAX)
        return True

    def _is_sshd(self, row: int) -> bool:
        if self._namespaces is None:
            self._namespaces = host_namespaces(self._tables)
        facts = self._facts(row)
        if facts is None or not self._is_on_host(facts):
            return False
        if not facts.is_roots:
            hot = self._tables.hot_view()[row]
            if int(hot["source"]) == layout.SOURCE_EVENT and int(hot["flags"]) & layout.ROW_IS_EXEC:
                return False  # the user has executed it
            above = self._tables.py_follow(int(hot["creator"])) or self._tables.py_follow(int(hot["parent"]))
            up = self._facts(above) if above else None
            if up is None or not self._is_on_host(up) or not up.is_roots or up.image != facts.image:
                return False
        if facts.file not in self._files:
            if not is_hosts_file(facts.file, self._root):
                return False
            _remember(self._files, facts.file, FILES_MAX)
        return True

    def _is_on_host(self, facts: _Facts) -> bool:
        return bool(facts.mnt_ns and facts.user_ns) and (facts.mnt_ns, facts.user_ns) == self._namespaces

    def _facts(self, row: int) -> _Facts | None:
        hot, cold = self._tables.hot_view()[row], self._tables.cold_view()[row]
        if int(hot["known"]) & _KNOWN == _KNOWN and hot["file_ref"]:
            return _Facts(
                int(hot["uid"]), int(cold["euid"]), int(cold["mnt_ns"]), int(cold["user_ns"]),
                self._tables.names.py_bytes(int(hot["file_ref"])),
            )  # fmt: skip
        if int(hot["flags"]) & layout.ROW_FOREIGN or self._reads == 0:
            return None
        self._reads -= 1
        info = read_process(int(hot["tgid"]), WANT_IDS | WANT_EXE | WANT_NS)
        if info is None or info.is_torn or info.start_ticks != int(hot["start_boot_ns"]) // TICK_NS or not info.exe:
            return None
        file = np.zeros(1, layout.FILE)
        for name, value in (
            ("file_inode", info.exe_inode), ("device", info.exe_device), ("mount_id", info.mount_id),
            ("file_uid", info.exe_uid), ("mode", info.exe_mode), ("fs_magic", info.fs_magic),
            ("file_flags", info.is_memfd * declared.EXEC_MEMFD | info.is_exe_deleted * declared.EXEC_DELETED),
        ):  # fmt: skip
            file[name] = value
        return _Facts(info.uids[0], info.uids[1], info.mnt_ns, info.user_ns, file.tobytes() + info.exe)


def is_hosts_file(record: bytes, root: str = "") -> bool:
    """Whether a FILE record with its path is the host's sshd at that path (conditions 3 and 4 above).

    Args:
        record: in the form of the names arena.
        root: the host's root directory, without a slash at the end.
    """
    file = np.frombuffer(record[: layout.FILE.itemsize], layout.FILE)[0]
    path = record[layout.FILE.itemsize :]
    *directories, name = path.split(b"/")
    if (
        name not in NAMES or not path.startswith(b"/") or len(directories) > DEPTH_MAX
        or int(file["file_flags"]) & _NOT_A_PATH or int(file["file_uid"]) != 0 or not _is_safe(int(file["mode"]))
        or name_of(int(file["fs_magic"])) in _SERVED
    ):  # fmt: skip
        return False
    try:
        way = os.fsencode(root)
        for number, directory in enumerate(directories, 1):
            way += directory + b"/"
            status = os.stat(way) if number == 1 else os.lstat(way[:-1])  # noqa: PTH116 - bytes
            is_shared = status.st_mode & WRITABLE_BY_OTHERS and (
                number == len(directories) or not status.st_mode & stat.S_ISVTX
            )
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != 0 or is_shared:
                return False
        status = os.lstat(way + name)
        if status.st_uid != 0 or not _is_safe(status.st_mode) or status.st_ino != int(file["file_inode"]):
            return False
        device = os.major(status.st_dev) << 20 | os.minor(status.st_dev)
        # btrfs shows each subvolume as a separate device; the kernel's record does not.
        return device == int(file["device"]) or _mount_of(way + name) == int(file["mount_id"])
    except (OSError, ValueError):
        return False


def _is_safe(mode: int) -> bool:
    return stat.S_ISREG(mode) and not mode & (stat.S_ISUID | stat.S_ISGID | WRITABLE_BY_OTHERS)


def _mount_of(path: bytes) -> int:
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return int(mount_id(fd))
    finally:
        os.close(fd)


def _root_of(proc: str) -> str:
    """Return the root directory of pid 1, which may differ from the daemon's; "" (the daemon's) without permission."""
    root = f"{proc}/1/root"
    with suppress(OSError):
        os.stat(root)  # noqa: PTH116
        return root
    return ""


def _remember(kept: OrderedDict[_Key, None], key: _Key, limit: int) -> None:
    while len(kept) >= limit:
        kept.popitem(last=False)
    kept[key] = None
