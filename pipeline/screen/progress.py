"""One line that shows how far a command is, on a terminal, if it takes longer than a second."""

from __future__ import annotations

import contextlib
import math
import os
import re
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

from pipeline.screen.lines import Line
from pipeline.screen.styles import Style
from pipeline.screen.terminal import Screen

if TYPE_CHECKING:
    import threading

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
        ticks: also show the line, from a thread, while the work calls nothing here. For work that is one long call.
        stream: where to write; standard error if it is omitted.

    Example:
        >>> with Progress("reading") as progress:
        ...     for count in range(3):
        ...         progress.show(f"{count} processes")
    """

    def __init__(
        self, what: str = "", *, is_beside_output: bool = False, ticks: bool = False, stream: IO[str] | None = None
    ) -> None:
        self._what = what
        self._screen = Screen(sys.stderr if stream is None else stream)
        self._begin_s = time.monotonic()
        is_shown = self._screen.is_terminal and os.environ.get("TERM", "") not in {"", "dumb"}
        is_shown = is_shown and not (is_beside_output and sys.stdout.isatty())
        self._next_s = self._begin_s + AFTER_S if is_shown else math.inf
        self._is_shown = False
        self._step = ""
        self._detail = ""
        self._ticks = ticks
        self._ticker: threading.Thread | None = None
        self._lock: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()

    def show(self, detail: str = "") -> None:
        """Show the present state. Calls within a fraction of a second do nothing, except for a new step."""
        with self._lock:
            self._detail = detail
            self._show(detail)

    def _show(self, detail: str) -> None:
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
        with self._lock:
            self.clear()
            self._next_s = math.inf
        if self._ticker is not None:
            self._over.set()
            self._ticker.join()
            self._ticker = None

    def clear(self) -> None:
        """Remove the line until the state is shown again, so that another line can be written."""
        with self._lock:
            if self._is_shown:
                self._screen.stream.write("\r\033[K")
                self._screen.stream.flush()
                self._is_shown = False

    def __enter__(self) -> Self:
        if self._ticks and self._next_s < math.inf:
            import threading  # deferred: only a terminal needs it

            self._lock, self._over = threading.RLock(), threading.Event()
            self._ticker = threading.Thread(target=self._tick, name="progress", daemon=True)
            self._ticker.start()
        return self

    def _tick(self) -> None:
        wait_s = AFTER_S
        while not self._over.wait(wait_s):
            wait_s = _INTERVAL_S
            with contextlib.suppress(OSError), self._lock:  # the terminal may be gone
                self._show(self._detail)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _step(detail: str) -> str:
    found = _step_of(detail)
    return found[0] if found is not None else ""
