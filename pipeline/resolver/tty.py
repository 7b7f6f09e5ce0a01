"""Names of controlling terminals: from a device number, from the kernel's ``tty->name``, from an open descriptor.

A name has the kernel's form, without directory and slash: ``pts3``, ``tty1``, ``ttyS0``. Leaves out which process has
which terminal: `procfs` and the BPF programs read that.
"""

from __future__ import annotations

import os
from pathlib import Path

_PTS_MAJOR = 136
_PTS_MAJOR_LAST = 143
_TTY_MAJOR = 4
_TTY_VIRTUAL = 64
_BSD_PTY_SLAVE_MAJOR = 3
_BSD_LETTERS = b"pqrstuvwxyzabcde"
_CACHE_MAX = 1024


class TtyNames:
    """Device numbers to names, cached. One user at a time; the numbers of a driver never change while it is loaded.

    Args:
        sys_dev_char: where sysfs lists character devices by number.
    """

    def __init__(self, sys_dev_char: str = "/sys/dev/char") -> None:
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
        if major == _PTS_MAJOR:
            return b"pts%d" % minor
        if _PTS_MAJOR < major <= _PTS_MAJOR_LAST:  # kernels that gave each of these majors 256 terminals
            return b"pts%d" % ((major - _PTS_MAJOR) * 256 + minor)
        if major == _TTY_MAJOR and minor < _TTY_VIRTUAL:
            return b"tty%d" % minor
        try:
            # A relative link that ends in the device's name: ../../devices/platform/serial8250/tty/ttyS0
            return os.fsencode(Path(self._sys, f"{major}:{minor}").readlink().name)
        except OSError:
            pass
        if major == _TTY_MAJOR:
            return b"ttyS%d" % (minor - _TTY_VIRTUAL)
        if major == _BSD_PTY_SLAVE_MAJOR:
            return b"tty%c%x" % (_BSD_LETTERS[(minor >> 4) & 15], minor & 15)
        return b""


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


def tty_of_link(target: bytes) -> str:
    """A terminal's name from what a descriptor points to: ``/dev/pts/3`` is ``pts3``, ``/dev/tty1`` is ``tty1``.

    Anything else in ``/dev`` gives its last segment, ``/dev/null`` and what lies outside give "". A terminal that was
    hung up and removed (``/dev/pts/3 (deleted)``) is none.

    Source: specification 3.4, SetProcessTTY.
    """
    if target == b"/dev/null" or not target.startswith(b"/dev/") or target.endswith(b" (deleted)"):
        return ""
    last = target.rpartition(b"/")[2].decode("utf-8", "surrogateescape")
    return f"pts{last}" if target.startswith(b"/dev/pts/") else last


def procfs_tty(tgid: int, proc: str = "/proc") -> str:
    """A process' terminal by its descriptor 0: the fallback where no better source names one. "" when unreadable."""
    try:
        return tty_of_link(os.fsencode(Path(proc, str(tgid), "fd/0").readlink()))
    except OSError:
        return ""
