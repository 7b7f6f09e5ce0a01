"""Where mounts are and of what type, from ``/proc/PID/mountinfo``: for executables that only ``/proc`` told of.

The kernel's programs walk a path across its mounts (`mounts`); ``/proc`` shows a path and the number of a mount, and
beside it the mounts that the process can reach, below its root directory. Reading them costs about 1 us a mount, so one
reading serves all processes of a mount namespace with the same root directory, for a second at most. No descriptor is
kept, which would keep the namespace alive.

The number of a mount that is gone is given to the next one. So a reading that is not new is taken only for a mount of
the device that the file is on, and a mount only if the file's path leads through where it is. What a process cannot
reach (its executable is outside of its root, was unmounted, or is of the mount namespace that it came from) is unknown,
not hidden: its own mounts do not tell which of these it is.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from pipeline.procfs.filesystems import magic_of
from pipeline.procfs.mountinfo import unescape

MAX_AGE_NS = 1_000_000_000
#: Readings kept: mount namespaces times root directories. With more, all are forgotten.
TABLES_MAX = 1024
#: Of a longer list, about 4 KiB each, the rest is unknown (the kernel's default is at most 100,000 mounts a namespace).
PIECES_MAX = 1024


class MountPoint(NamedTuple):
    """The mount that a file is on, as EXEC has it."""

    end: int  #: 1 + how much of the file's path leads to where the mount is
    fs_magic: int  #: 0 unknown


class _Mount(NamedTuple):
    """A line of a mountinfo."""

    device: int  #: of its file system, in the kernel's encoding
    point: bytes  #: where it is, below the root of the mount tree; b"" for that root
    fs_magic: int


class _Table:
    """One reading of a mountinfo, of a process with this root directory."""

    __slots__ = ("_known", "_lines", "_root", "checked", "read_at_ns")

    def __init__(self, read_at_ns: int, root: bytes) -> None:
        self.read_at_ns = read_at_ns
        self._root = b"" if root == b"/" else root
        self._lines: dict[bytes, bytes] = {}
        self._known: dict[int, _Mount | None] = {}
        #: (mount, device) that were looked for in a new reading in vain, or that have a device of their own (btrfs).
        self.checked: set[tuple[int, int]] = set()

    def fill(self, lines: dict[bytes, bytes]) -> None:
        """Take lines by the numbers of their mounts, in the place of former ones."""
        self._lines, self._known = lines, {}

    def mount(self, mount_id: int) -> _Mount | None:
        found = self._known.get(mount_id, self)
        if found is self:
            line = self._lines.get(b"%d" % mount_id)
            found = self._known[mount_id] = None if line is None else self._parsed(line)
        return found  # type: ignore[return-value]

    def _parsed(self, line: bytes) -> _Mount:
        fields, _, tail = line.partition(b" - ")
        _, _, device, _, point, *_ = fields.split(b" ")
        major, _, minor = device.partition(b":")
        point = unescape(point) if b"\\" in point else point
        # "/" is the process' root.
        point = self._root + (b"" if point == b"/" else point)
        return _Mount(int(major) << 20 | int(minor), point, magic_of(tail.split(b" ", 1)[0].decode("ascii", "replace")))


class MountPoints:
    """Mounts of processes, read when somebody asks. Not thread-safe: one for a `procfs.ProcReader`.

    Args:
        proc_fd: the mount of procfs.
        now_ns: a clock that does not step.
    """

    def __init__(self, proc_fd: int, now_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._proc = proc_fd
        self._now_ns = now_ns
        self._tables: dict[tuple[int, bytes], _Table] = {}
        self._own_ns = -1
        with suppress(OSError):
            self._own_ns = os.stat("self/ns/mnt", dir_fd=proc_fd).st_ino

    def find(
        self, proc_fd: int, below: bytes, mnt_ns: int, root: bytes, mount_id: int, device: int, path: bytes
    ) -> MountPoint | None:
        """The mount that a process' executable is on; None: unknown.

        Args:
            proc_fd, below: directory of the process, and of the thread in it ("" or ``task/TID/``).
            mnt_ns: inode of its mount namespace.
            root: its root directory, below the root of the mount tree.
            mount_id, device, path: of the executable; the device in the kernel's encoding.
        """
        mount = self._mount((mnt_ns, root), proc_fd, below, mount_id, device)
        if mount is None and root != b"/" and mnt_ns == self._own_ns:
            # A chroot: the directory's mount is not among what the process can reach, but among ours.
            mount = self._mount((mnt_ns, b"/"), self._proc, b"self/", mount_id, device)
        if mount is None:
            return None
        end = len(mount.point)
        if not path.startswith(mount.point) or path[end : end + 1] not in {b"", b"/"}:
            return None
        return MountPoint(1 + end, mount.fs_magic)

    def _mount(self, key: tuple[int, bytes], proc_fd: int, below: bytes, mount_id: int, device: int) -> _Mount | None:
        """A mount of the table `key`, which is read below that directory where it is not there or too old."""
        now = self._now_ns()
        table = self._tables.get(key)
        is_new = table is None or now - table.read_at_ns > MAX_AGE_NS
        if table is None or is_new:
            if len(self._tables) >= TABLES_MAX:
                self._tables.clear()
            table = self._tables[key] = _Table(now, key[1])
            table.fill(_read(proc_fd, below))
        mount = table.mount(mount_id)
        if (mount is None or mount.device != device) and (mount_id, device) not in table.checked:
            table.checked.add((mount_id, device))
            if not is_new:
                table.fill(_read(proc_fd, below))
                mount = table.mount(mount_id)
        return mount


def _read(proc_fd: int, below: bytes) -> dict[bytes, bytes]:
    """Lines of mountinfo by the number of the mount; none if it cannot be read."""
    pieces: list[bytes] = []
    with suppress(OSError):
        fd = os.open(below + b"mountinfo", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc_fd)
        try:
            # A read ends where a line would not fit: the length of a piece does not tell whether it is the last.
            for _ in range(PIECES_MAX):
                piece = os.read(fd, 1 << 16)
                if not piece:
                    break
                pieces.append(piece)
        finally:
            os.close(fd)
    # Spaces, tabs, newlines and backslashes in names are escaped, other control characters are not.
    return {line[: line.find(b" ")]: line for line in b"".join(pieces).split(b"\n") if line.count(b" ") > 7}
