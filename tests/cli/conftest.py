"""Run the commands in this process, with a fake table and a fake subscriber."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

import pytest

import pipeline
from pipeline.cli.main import main
from pipeline.screen.terminal import Screen
from tests.cli.fakes import FakeSubscriber, FakeTable, entry


class Done(NamedTuple):
    """The result of a command."""

    code: int
    out: str
    err: str


Command = Callable[..., Done]


@pytest.fixture
def runtime() -> Iterator[Path]:
    """A runtime directory on tmpfs without an instance."""
    with tempfile.TemporaryDirectory(prefix="procline-test-", dir="/dev/shm") as directory:
        yield Path(directory)


@pytest.fixture
def procline(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, runtime: Path) -> Command:
    """Run a command in this process, with a runtime directory without an instance."""
    monkeypatch.setenv("PROCLINE_RUNTIME_DIR", str(runtime))
    monkeypatch.delenv("PROCLINE_CONFIG", raising=False)

    def run(*arguments: str) -> Done:
        code = main(arguments)
        out, err = capsys.readouterr()
        return Done(code, out, err)

    return run


@pytest.fixture
def narrow_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Print as on a terminal of 40 columns without colours."""

    def narrow(screen: Screen, stream: IO[str] | None = None) -> None:
        screen.stream, screen.is_terminal, screen.width, screen.has_colour = stream or sys.stdout, True, 40, False

    monkeypatch.setattr(Screen, "__init__", narrow)


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeTable]]:
    """A table with init, its child, a shell, and two children of the shell; one of these has exited."""

    class Table(FakeTable):
        entries = (
            entry(1, 0, "systemd", parent_entity_id=None),
            entry(40, 1, "bash"),
            entry(41, 40, "sleep", argv=["sleep", "1 0"]),
            entry(42, 40, "true", exit_time_ns=1_700_000_050_000_000_000),
        )

    monkeypatch.setattr(pipeline, "ProcessTable", Table, raising=False)
    yield Table


@pytest.fixture
def subscriber(monkeypatch: pytest.MonkeyPatch) -> type[FakeSubscriber]:
    class Subscriber(FakeSubscriber):
        pass

    monkeypatch.setattr(pipeline, "Subscriber", Subscriber, raising=False)
    return Subscriber
