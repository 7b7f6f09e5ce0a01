"""One line that shows how far a command is, while somebody looks at it and it takes longer than a second."""

from __future__ import annotations

import math
import os
import re
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import IO, Self

from pipeline.screen.lines import Line
from pipeline.screen.styles import Style
from pipeline.screen.terminal import Screen

#: A command that is quicker shows nothing.
AFTER_S = 1.0
_INTERVAL_S = 0.2
#: The words of a detail before its first digit name the step.
_step_of = re.compile(r"\D*").match

#: How work reports its state to the command that started it: it is called with a text such as "12 of 40 rounds".
Show = Callable[[str], None]


def silent(detail: str) -> None:
    """Show nothing."""


class Progress:
    """A line on standard error that is replaced at each step and removed at the end.

    Nothing is written if standard error is not a terminal, or if the work takes less than `AFTER_S`. A terminal that
    understands no escapes (``TERM=dumb``) gets nothing either. The cursor stays at the beginning of the line, so that
    another process that writes to the same terminal overwrites it.

    Args:
        what: what the command is doing, as in "reading the tables"; empty if each detail says it.
        is_beside_output: whether the command writes its output meanwhile. Then nothing is shown if that goes to a
            terminal too, because both would mix.
        stream: where to write; standard error if it is omitted.

    Example:
        >>> with Progress("reading") as progress:
        ...     for count in range(3):
        ...         progress.show(f"{count} processes")
    """

    def __init__(self, what: str = "", *, is_beside_output: bool = False, stream: IO[str] | None = None) -> None:
        self._what = what
        self._screen = Screen(sys.stderr if stream is None else stream)
        self._begin_s = time.monotonic()
        is_shown = self._screen.is_terminal and os.environ.get("TERM", "") not in {"", "dumb"}
        is_shown = is_shown and not (is_beside_output and sys.stdout.isatty())
        self._next_s = self._begin_s + AFTER_S if is_shown else math.inf
        self._is_shown = False
        self._step = ""

    def show(self, detail: str = "") -> None:
        """Show the present state. Calls within a fraction of a second do nothing, except for a new step."""
        now = time.monotonic()
        if now < self._next_s and not (self._is_shown and _step(detail) != self._step):
            return
        self._next_s, self._step = now + _INTERVAL_S, _step(detail)
        text = ": ".join(filter(None, (self._what, detail)))
        line = Line(text, (f"  {now - self._begin_s:.0f} s", Style.TIME))
        width = self._screen.width or 0
        # One cell stays free: a line of the whole width would move the cursor to the next one.
        self._screen.stream.write(f"\r{self._screen.text(line.cut(width - 1))}\033[K\r")
        self._screen.stream.flush()
        self._is_shown = True

    def close(self) -> None:
        """Remove the line for good."""
        self.clear()
        self._next_s = math.inf

    def clear(self) -> None:
        """Remove the line until the state is shown again, so that another line can be written."""
        if self._is_shown:
            self._screen.stream.write("\r\033[K")
            self._screen.stream.flush()
            self._is_shown = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _step(detail: str) -> str:
    found = _step_of(detail)
    return found[0] if found is not None else ""
