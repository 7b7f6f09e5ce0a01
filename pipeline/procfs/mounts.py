"""Mount point and type of the file system of an executable, from ``/proc/PID/mountinfo``.

This is for executables that are known only from ``/proc``. The BPF programs walk a path across its mounts (`mounts`).
``/proc`` shows a path and the id of a mount; mountinfo lists the mounts that the process can reach, below its root
directory. Reading this list takes about 1 us per mount, so one reading serves all processes with the same mount
namespace and root directory, for at most one second. No descriptor is kept, because it would keep the namespace alive.

The kernel reuses the id of a removed mount. So an older reading is used only for a mount of the device that the file is
on, and a mount is used only if the file's path leads through its mount point. A mount that the process cannot reach
remains unknown. Its executable is outside its root, was unmounted, or is in the mount namespace that the process came
from; the list of the process does not show which of these is the case.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from pipeline.proc_text import unescape
from pipeline.procfs.filesystems import magic_of

MAX_AGE_NS = 1_000_000_000
#: Maximum number of cached readings, one for each pair of mount namespace and root directory. Beyond it all are
#: dropped.
TABLES_MAX = 1024
#: Maximum number of pieces read of a list, about 4 KiB each; the rest is unknown (the kernel's default limit is 100,000
#: mounts per namespace).
PIECES_MAX = 1024


class MountPoint(NamedTuple):
    """The mount that a file is on, in the form of an EXEC record."""

    end: int  #: 1 + length of the mount point at the start of the file's path
    fs_magic: int  #: 0: unknown


class _Mount(NamedTuple):
    """One line of a mountinfo."""

    device: int  #: device of its file system, in the kernel's encoding
    point: bytes  #: mount point, below the root of the mount tree; b"" for that root
    fs_magic: int


class _Table:
    """One reading of the mountinfo of a process with this root directory."""

    __slots__ = ("_known", "_lines", "_root", "checked", "read_at_ns")

    def __init__(self, read_at_ns: int, root: bytes) -> None:
        self.read_at_ns = read_at_ns
        self._root = b"" if root == b"/" else root
        self._lines: dict[bytes, bytes] = {}
        self._known: dict[int, _Mount | None] = {}
        #: Pairs of mount and device that a new reading did not contain, or that have a device of their own (btrfs).
        self.checked: set[tuple[int, int]] = set()

    def fill(self, lines: dict[bytes, bytes]) -> None:
        """Set the lines by mount id, replacing earlier ones."""
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
        # "/" is the root directory of the process.
        point = self._root + (b"" if point == b"/" else point)
        return _Mount(int(major) << 20 | int(minor), point, magic_of(tail.split(b" ", 1)[0].decode("ascii", "replace")))


class MountPoints:
    """Mounts of processes, read on demand. Not thread-safe: each `ProcReader` has its own.

    Args:
        proc_fd: descriptor of the mount of procfs.
        now_ns: a monotonic clock.
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
        """Return the mount that the executable of a process is on; None: unknown.

        Args:
            proc_fd: directory of the process.
            below: directory of a thread below it: "" or ``task/TID/``.
            mnt_ns: inode of its mount namespace.
            root: its root directory, below the root of the mount tree.
            mount_id: mount of the executable.
            device: device of the executable, in the kernel's encoding.
            path: path of the executable.
        """
        mount = self._mount((mnt_ns, root), proc_fd, below, mount_id, device)
        if mount is None and root != b"/" and mnt_ns == self._own_ns:
            # In a chroot the process cannot reach the mount of its root directory, but this process can.
            mount = self._mount((mnt_ns, b"/"), self._proc, b"self/", mount_id, device)
        if mount is None:
            return None
        end = len(mount.point)
        if not path.startswith(mount.point) or path[end : end + 1] not in {b"", b"/"}:
            return None
        return MountPoint(1 + end, mount.fs_magic)

    def _mount(self, key: tuple[int, bytes], proc_fd: int, below: bytes, mount_id: int, device: int) -> _Mount | None:
        """Return a mount from the table `key`, which is read again if the mount is missing or the table is too old."""
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
    """Return the lines of mountinfo by mount id; empty if it cannot be read."""
    pieces: list[bytes] = []
    with suppress(OSError):
        fd = os.open(below + b"mountinfo", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc_fd)
        try:
            # A read ends before a line that does not fit, so a short piece need not be the last.
            for _ in range(PIECES_MAX):
                piece = os.read(fd, 1 << 16)
                if not piece:
                    break
                pieces.append(piece)
        finally:
            os.close(fd)
    # The kernel escapes spaces, tabs, newlines and backslashes in names, but no other control characters.
    return {line[: line.find(b" ")]: line for line in b"".join(pieces).split(b"\n") if line.count(b" ") > 7}
