"""Where text goes: whether that is a terminal, how wide it is, and whether it has colour."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import IO

from pipeline.screen.lines import Line

#: Narrower screens are not designed for; lines are cut at the real width all the same.
WIDTH_MIN = 40


class Screen:
    """An output for people.

    Attributes:
        is_terminal: whether the output goes to a terminal.
        width: cells of a line; None: lines are not cut, because the output is a file or a pipe.
        has_colour: whether styles are shown. `NO_COLOR` (no-color.org) and ``TERM=dumb`` switch them off,
            `FORCE_COLOR` switches them on for a pipe too.
    """

    def __init__(self, stream: IO[str] | None = None) -> None:
        self.stream = sys.stdout if stream is None else stream
        self.is_terminal = self.stream.isatty()
        self.width = _columns(self.stream) if self.is_terminal else None
        self.has_colour = _has_colour(self.is_terminal)

    @property
    def is_plain(self) -> bool:
        """Whether lines are written as they are: without styles, and not cut."""
        return self.width is None and not self.has_colour

    def write(self, lines: Iterable[str]) -> None:
        """Write lines of printable text."""
        self.stream.writelines(f"{line}\n" for line in lines)

    def text(self, line: Line) -> str:
        """Return a line as it is written, without its end."""
        return line.painted() if self.has_colour else line.plain

    def cut(self, lines: Iterable[Line]) -> None:
        """Write lines; on a terminal, those that do not fit are cut."""
        write = self.stream.write
        for line in lines:
            write(self.text(line.cut(self.width)) + "\n")

    def wrap(self, lines: Iterable[Line], indent: int = 2) -> None:
        """Write lines; on a terminal, those that do not fit are continued on indented lines."""
        for line in lines:
            for part in line.wrapped(self.width, indent):
                self.stream.write(self.text(part) + "\n")


def _columns(stream: IO[str]) -> int:
    """Return the width of the terminal to which a stream goes; another one may belong to standard output."""
    if "COLUMNS" not in os.environ:
        with suppress(OSError, ValueError):
            return os.get_terminal_size(stream.fileno()).columns or 80
    from shutil import get_terminal_size  # deferred: it imports libraries of compression

    return max(1, get_terminal_size().columns)


def _has_colour(is_terminal: bool) -> bool:
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return is_terminal and os.environ.get("TERM", "") not in {"", "dumb"}
