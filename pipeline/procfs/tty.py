"""Names of controlling terminals: from a device number, from the kernel's ``tty->name``, or from an open descriptor.

A name has the kernel's form, without directory and slash: ``pts3``, ``tty1``, ``ttyS0``. `proc_reader` and the BPF
programs read which process has which terminal.
"""

from __future__ import annotations

import os
import stat
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


class TtyNames:
    """Names of terminals by device number, cached. Not thread-safe.

    The numbers of a driver never change while it is loaded.

    Args:
        sys_dev_char: directory in which sysfs lists character devices by number.
    """

    def __init__(self, sys_dev_char: str = SYS_DEV_CHAR) -> None:
        self._sys = sys_dev_char
        self._names: dict[int, bytes] = {0: b""}

    def name(self, tty_nr: int) -> bytes:
        """Return the name of a terminal; b"": none or unknown.

        The names of pseudo-terminals, which are not in sysfs, and of virtual consoles, which have consecutive numbers,
        are computed.

        Args:
            tty_nr: device number, in the form of field 7 of ``/proc/PID/stat``.
        """
        name = self._names.get(tty_nr)
        if name is None:
            if len(self._names) >= _CACHE_MAX:
                self._names = {0: b""}
            name = self._names[tty_nr] = self._find_name(tty_nr & 0xFFFFFFFF)
        return name

    def _find_name(self, number: int) -> bytes:
        # Layout of new_encode_dev(): minor in bits 0-7 and 20-31, major in 8-19.
        major = (number >> 8) & 0xFFF
        minor = (number & 0xFF) | ((number >> 12) & 0xFFF00)
        return _device_name(major, minor, self._sys)


def clean_tty_name(raw: bytes) -> str:
    """Return a terminal's name from a record of the kernel: up to the first NUL; "" if it is not printable ASCII.

    Specification 1.3 keeps only names that begin with ``tty`` or ``pts``. Here every record contains the kernel's own
    names, and a console can also be ``hvc0`` or ``sclp_line0``, so all names are kept under the same rule.
    """
    name = raw.partition(b"\0")[0]
    if not name.isascii():
        return ""
    text = name.decode("ascii")
    return text if text.isprintable() else ""


def procfs_tty(tgid: int, proc: str = "/proc") -> str:
    """Return the terminal of a process by its descriptor 0, for use where no better source has one; "": none.

    The device number shows that it is a terminal, and which one. Its path does not, because the process chooses it: it
    may mount anything at ``/dev/pts/3``. The path only excludes files outside of ``/dev``, which may be on a file
    system that blocks. Specification 3.4, SetProcessTTY, uses the path.

    Args:
        tgid: the process.
        proc: mount point of procfs.
    """
    try:
        link = os.fsencode(Path(proc, str(tgid), "fd/0").readlink())
        if not link.startswith(b"/dev/") or link == b"/dev/null":
            return ""
        device = _device(Path(proc, str(tgid)))
    except (OSError, ValueError):
        return ""
    if device is None or not _is_terminal(*device, SYS_DEV_CHAR):
        return ""
    return os.fsdecode(_device_name(*device, SYS_DEV_CHAR))


def _device(process: Path) -> tuple[int, int] | None:
    """Return the number of the character device that is descriptor 0 of a process; None: it is something else.

    Raises:
        OSError: the process has ended, or has no descriptor 0.
        ValueError: the kernel's text has an unknown format.
    """
    file = statx.statx(statx.AT_FDCWD, os.fsencode(process / "fd/0"), statx.AT_DONT_SYNC)
    if file is None or not stat.S_ISCHR(file.mode) or file.nlink == 0:  # a terminal that was hung up has no links
        return None
    # Any process can have an O_PATH descriptor of any device, and a FUSE file can have any device number: neither has
    # opened the device. Inode and mount must be the same here as in statx(), otherwise the descriptor was replaced.
    lines = (process / "fdinfo/0").read_text("ascii").splitlines()
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    is_same = int(facts.get("ino", file.inode)) == file.inode  # since 5.14
    is_same = is_same and (not file.mount_id or int(facts["mnt_id"]) == file.mount_id)
    return (file.own_major, file.own_minor) if is_same and not int(facts["flags"], 8) & os.O_PATH else None


def _is_terminal(major: int, minor: int, sys_dev_char: str) -> bool:
    """Return whether a character device is a terminal itself; the class ``tty`` also has /dev/tty and /dev/ptmx."""
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
    if _PTS_MAJOR < major <= _PTS_MAJOR_LAST:  # older kernels had 256 terminals per major
        return b"pts%d" % ((major - _PTS_MAJOR) * 256 + minor)
    if major == _TTY_MAJOR and minor < _TTY_VIRTUAL:
        return b"tty%d" % minor
    try:
        # A relative link; its last part is the name: ../../devices/platform/serial8250/tty/ttyS0
        return os.fsencode(Path(sys_dev_char, f"{major}:{minor}").readlink().name)
    except OSError:
        pass
    if major == _TTY_MAJOR:
        return b"ttyS%d" % (minor - _TTY_VIRTUAL)
    if major == _BSD_PTY_SLAVE_MAJOR:
        return b"tty%c%x" % (_BSD_LETTERS[(minor >> 4) & 15], minor & 15)
    return b""
