"""Which mutant of an instrumented copy is tried, and which functions were reached; switch.h is the same for C.

A copy has this file as a module of `pipeline`, so it imports nothing of the project.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

VARIABLE = "PROCLINE_MUTANT_SWITCH"
#: Four bytes for the number of the mutant, then one for each number. As in switch.h.
_BYTES = 1 << 16


def _mapped(path: str) -> mmap.mmap:
    try:
        fd = os.open(path, os.O_RDWR)
    except OSError:
        return mmap.mmap(-1, _BYTES)  # this process may not read the file: it runs the unchanged code
    try:
        return mmap.mmap(fd, _BYTES)
    finally:
        os.close(fd)


_file = _mapped(os.environ.get(VARIABLE, ""))
_chosen = memoryview(_file)[:4].cast("I")


def pl_mutant(number: int) -> bool:
    """Note that a function was reached, and return whether this is the mutant to try."""
    _file[4 + number] = 1
    return _chosen[0] == number


class Switch:
    """The side of the program that tries mutants.

    Args:
        path: the file to make.
    """

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(_BYTES))
        path.chmod(0o666)  # some tests drop their privileges
        self.path = path
        self._file = _mapped(str(path))

    def choose(self, number: int) -> None:
        """Make this the mutant from now on (0: none), and forget what was reached."""
        self._file[:] = number.to_bytes(4, "little") + bytes(_BYTES - 4)

    def reached(self) -> set[int]:
        """Return the numbers that were reached since."""
        return {number for number, byte in enumerate(self._file[4:]) if byte}
