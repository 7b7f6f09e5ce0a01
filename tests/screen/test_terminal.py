"""Where text goes: width and colour."""

from __future__ import annotations

import fcntl
import io
import os
import struct
import termios

import pytest

from pipeline.screen.lines import Line
from pipeline.screen.styles import Style
from pipeline.screen.terminal import Screen


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")


LINE = Line(("7 ", Style.PID), "x" * 60)


def test_a_pipe_gets_whole_lines_without_colour() -> None:
    output = io.StringIO()
    Screen(output).cut([LINE])
    assert output.getvalue() == LINE.plain + "\n"


def test_a_terminal_gets_colour_and_lines_that_fit() -> None:
    output = Terminal()
    Screen(output).cut([LINE])
    assert output.getvalue().startswith("\x1b[1m7 \x1b[0m")
    assert "x" * 37 in output.getvalue()
    assert "x" * 38 not in output.getvalue()


def test_the_width_is_that_of_the_terminal_of_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard output may be a file while something is shown on standard error."""
    monkeypatch.delenv("COLUMNS")
    leader, follower = os.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 20, 33, 0, 0))
    with os.fdopen(leader, "wb"), os.fdopen(follower, "w") as stream:
        assert Screen(stream).width == 33


@pytest.mark.parametrize(
    ("name", "value", "is_terminal", "has_colour"),
    [("NO_COLOR", "1", True, False), ("TERM", "dumb", True, False), ("FORCE_COLOR", "1", False, True),
     ("NO_COLOR", "", True, True)],
)  # fmt: skip
def test_the_environment_decides_on_colour(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, is_terminal: bool, has_colour: bool
) -> None:
    monkeypatch.setenv(name, value)
    assert Screen(Terminal() if is_terminal else io.StringIO()).has_colour is has_colour
