"""Names of controlling terminals: from a device number, from the kernel's ``tty->name``, from an open descriptor.

A name has the kernel's form, without directory and slash: ``pts3``, ``tty1``, ``ttyS0``. Leaves out which process has
which terminal: `procfs` and the BPF programs read that.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from pathlib import Path

from pipeline.host import statx

SYS_DEV_CHAR = "/sys/dev/char"
_PTS_MAJOR = 136
_PTS_MAJOR_LAST = 143
_TTY_MAJOR = 4
_TTY_AUX_MAJOR = 5
_CONSOLE_MINOR = 1
_TTY_VIRTUAL = 64
_BSD_PTY_SLAVE_MAJOR = 3
_BSD_LETTERS = b"pqrstuvwxyzabcde"
_CACHE_MAX = 1024

# struct statx: nlink, mode, ino, rdev_major, rdev_minor, mnt_id.
_STATX = struct.Struct("=16xI8xH2xQ88xII8xQ")


class TtyNames:
    """Device numbers to names, cached. One user at a time; the numbers of a driver never change while it is loaded.

    Args:
        sys_dev_char: where sysfs lists character devices by number.
    """

    def __init__(self, sys_dev_char: str = SYS_DEV_CHAR) -> None:
        self._sys = sys_dev_char
        self._names: dict[int, bytes] = {0: b""}

    def name(self, tty_nr: int) -> bytes:
        """Name of the terminal with this number, as field 7 of ``/proc/PID/stat`` has it; b"" for none or unknown.

        Pseudo-terminals have no entry in sysfs and virtual consoles are numbered straight, so both are computed.
        """
        name = self._names.get(tty_nr)
        if name is None:
            if len(self._names) >= _CACHE_MAX:
                self._names = {0: b""}
            name = self._names[tty_nr] = self._look_up(tty_nr & 0xFFFFFFFF)
        return name

    def _look_up(self, number: int) -> bytes:
        # Layout of new_encode_dev(): minor in bits 0-7 and 20-31, major in 8-19.
        major = (number >> 8) & 0xFFF
        minor = (number & 0xFF) | ((number >> 12) & 0xFFF00)
        return _device_name(major, minor, self._sys)


def clean_tty_name(raw: bytes) -> str:
    """A terminal's name as a record of the kernel's maps has it: up to the first NUL, "" unless it is printable ASCII.

    Specification 1.3 keeps what begins with ``tty`` or ``pts`` only. The names here are the kernel's own in every
    record, and a console is also called ``hvc0`` or ``sclp_line0``: one rule for all, and no process loses it in a map.
    """
    name = raw.partition(b"\0")[0]
    if not name.isascii():
        return ""
    text = name.decode("ascii")
    return text if text.isprintable() else ""


def procfs_tty(tgid: int, proc: str = "/proc", sys_dev_char: str = SYS_DEV_CHAR) -> str:
    """A process' terminal by its descriptor 0: the fallback where no better source names one. "" when unreadable.

    The device's number says which terminal it is, and that it is one. Its path is the process' choice: it may mount
    anything at ``/dev/pts/3``. The path only tells which files are left alone: outside of ``/dev`` they may be on a
    file system that does not answer. Specification 3.4, SetProcessTTY, goes by the path.
    """
    try:
        link = os.fsencode(Path(proc, str(tgid), "fd/0").readlink())
        if not link.startswith(b"/dev/") or link == b"/dev/null":
            return ""
        device = _device(Path(proc, str(tgid)))
    except (OSError, ValueError):
        return ""
    if device is None or not _is_terminal(*device, sys_dev_char):
        return ""
    return os.fsdecode(_device_name(*device, sys_dev_char))


def _device(process: Path) -> tuple[int, int] | None:
    """Number of the character device that a process has opened as descriptor 0; None: it is something else.

    Raises:
        OSError: the process is gone, or has no descriptor 0.
        ValueError: the kernel's text has another form.
    """
    buffer = ctypes.create_string_buffer(statx.BUFFER_BYTES)
    path = os.fsencode(process / "fd/0")
    if statx.statx(statx.AT_FDCWD, path, statx.AT_DONT_SYNC, statx.BASIC_STATS | statx.MNT_ID, buffer) != 0:
        return None
    links, mode, inode, major, minor, mount = _STATX.unpack_from(buffer)
    if not stat.S_ISCHR(mode) or links == 0:  # a terminal that was hung up has no link any more
        return None
    # Anybody may have an O_PATH descriptor of any device, and a FUSE file may have any number: neither was opened as
    # one. It is the same file in both looks, or it has been replaced in between.
    lines = (process / "fdinfo/0").read_text("ascii").splitlines()
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    is_same = int(facts.get("ino", inode)) == inode and (not mount or int(facts["mnt_id"]) == mount)  # ino: since 5.14
    return (major, minor) if is_same and not int(facts["flags"], 8) & os.O_PATH else None


def _is_terminal(major: int, minor: int, sys_dev_char: str) -> bool:
    """Whether a character device is a terminal by itself; the class ``tty`` also has /dev/tty and /dev/ptmx."""
    if major == _TTY_MAJOR or _PTS_MAJOR <= major <= _PTS_MAJOR_LAST:
        return True
    if major == _TTY_AUX_MAJOR and minor != _CONSOLE_MINOR:
        return False
    try:
        return Path(sys_dev_char, f"{major}:{minor}").readlink().parent.name == "tty"
    except OSError:
        return False


def _device_name(major: int, minor: int, sys_dev_char: str) -> bytes:
    if major == _PTS_MAJOR:
        return b"pts%d" % minor
    if _PTS_MAJOR < major <= _PTS_MAJOR_LAST:  # kernels that gave each of these majors 256 terminals
        return b"pts%d" % ((major - _PTS_MAJOR) * 256 + minor)
    if major == _TTY_MAJOR and minor < _TTY_VIRTUAL:
        return b"tty%d" % minor
    try:
        # A relative link that ends in the device's name: ../../devices/platform/serial8250/tty/ttyS0
        return os.fsencode(Path(sys_dev_char, f"{major}:{minor}").readlink().name)
    except OSError:
        pass
    if major == _TTY_MAJOR:
        return b"ttyS%d" % (minor - _TTY_VIRTUAL)
    if major == _BSD_PTY_SLAVE_MAJOR:
        return b"tty%c%x" % (_BSD_LETTERS[(minor >> 4) & 15], minor & 15)
    return b""
