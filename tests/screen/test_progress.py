"""A line that shows how far a command is."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator

import pytest

from pipeline.screen import progress as module
from pipeline.screen.progress import Progress
from tests.waiting import until


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The time in seconds; a test changes it."""
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    yield now


def test_work_of_less_than_a_second_shows_nothing(clock: list[float]) -> None:
    stream = Terminal()
    with Progress("reading", stream=stream) as progress:
        clock[0] += 0.9
        progress.show("5 processes")
    assert stream.getvalue() == ""


def test_longer_work_shows_one_line_that_is_removed(clock: list[float]) -> None:
    stream = Terminal()
    with Progress("reading", stream=stream) as progress:
        for _ in range(20):
            clock[0] += 0.1
            progress.show("5 processes")
        shown = stream.getvalue()
        assert shown.startswith("\rreading: 5 processes  1 s\033[K\r") and "\n" not in shown
        assert 2 <= shown.count("5 processes") <= 6
    assert stream.getvalue() == shown + "\r\033[K"


def test_a_line_fits_and_has_no_control_characters_of_its_detail(clock: list[float]) -> None:
    stream = Terminal()
    with Progress("reading", stream=stream) as progress:
        clock[0] += 2
        progress.show("\x1b[2J" + "x" * 100)
        line = stream.getvalue().removeprefix("\r").removesuffix("\033[K\r")
        assert line.isprintable() and len(line) == 39


def test_a_new_step_is_shown_at_once_and_new_figures_a_few_times_a_second(clock: list[float]) -> None:
    stream = Terminal()
    with Progress(stream=stream) as progress:
        clock[0] += 2
        for detail in ("forks: 1 of 5 s", "forks: 2 of 5 s", "comparing"):
            progress.show(detail)
    assert stream.getvalue() == "\rforks: 1 of 5 s  2 s\033[K\r\rcomparing  2 s\033[K\r\r\033[K"


def test_a_line_that_was_cleared_comes_back_and_one_that_was_closed_does_not(clock: list[float]) -> None:
    stream = Terminal()
    progress = Progress("starting", stream=stream)
    for end in (progress.clear, progress.close):
        clock[0] += 2
        progress.show()
        end()
    shown = stream.getvalue()
    assert shown == "\rstarting  2 s\033[K\r\r\033[K\rstarting  4 s\033[K\r\r\033[K"
    clock[0] += 2
    progress.show()
    assert stream.getvalue() == shown


@pytest.mark.parametrize("term", ["dumb", ""])
def test_a_pipe_or_a_terminal_without_escapes_gets_nothing(
    clock: list[float], monkeypatch: pytest.MonkeyPatch, term: str
) -> None:
    pipe, terminal = io.StringIO(), Terminal()
    one = Progress("reading", stream=pipe)
    monkeypatch.setenv("TERM", term)
    other = Progress("reading", stream=terminal)
    clock[0] += 5
    one.show("1")
    other.show("1")
    assert pipe.getvalue() == terminal.getvalue() == ""


def test_one_long_call_is_shown_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(module, "AFTER_S", 0.01)
    monkeypatch.setattr(module, "_INTERVAL_S", 0.01)
    stream, before = Terminal(), threading.active_count()
    with Progress("reading", ticks=True, stream=stream):
        until(lambda: stream.getvalue().count("reading") >= 2)
    assert stream.getvalue().endswith("\r\033[K")
    assert threading.active_count() == before


def test_nothing_ticks_where_nobody_looks() -> None:
    before = threading.active_count()
    with Progress("reading", ticks=True, stream=io.StringIO()):
        assert threading.active_count() == before


def test_a_terminal_that_is_gone_ends_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(module, "AFTER_S", 0.01)
    written = threading.Event()

    class Gone(Terminal):
        def write(self, text: str) -> int:
            written.set()
            raise OSError(5, "Input/output error")

    with Progress("reading", ticks=True, stream=Gone()):
        assert written.wait(30)
