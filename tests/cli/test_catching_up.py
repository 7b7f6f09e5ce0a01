"""A command waits for what happened before it began, but not for long."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import paths
from pipeline.cli import catching_up
from pipeline.cli.commands import COMMANDS, command_of
from pipeline.errors import StaleError
from tests.cli.conftest import Command
from tests.cli.fakes import FakeTable


class Watermark:
    """The value of `watermark_boot_ns` at each read: 0 until `passes_at_s` (monotonic), then the present."""

    def __init__(self, passes_at_s: float) -> None:
        self.passes_at_s = passes_at_s

    def __get__(self, table: object, owner: object) -> int:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) if time.monotonic() >= self.passes_at_s else 0


class Stale:
    """A table whose instance is down."""

    def __get__(self, table: object, owner: object) -> int:
        raise StaleError("the instance has ended")


def test_a_command_waits_until_the_tables_have_passed_its_begin(
    procline: Command, table: type[FakeTable], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes_at_s = time.monotonic() + 0.02
    monkeypatch.setattr(table, "watermark_boot_ns", Watermark(passes_at_s))
    monkeypatch.setattr("pipeline.cli.catching_up._CATCH_UP_S", 60.0)
    assert procline("resolve", "1").code == 0
    assert time.monotonic() >= passes_at_s


def test_it_does_not_wait_for_an_instance_that_is_behind(
    procline: Command, table: type[FakeTable], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "watermark_boot_ns", 0)
    began = time.monotonic()
    assert procline("resolve", "1").code == 0
    assert 0.03 <= time.monotonic() - began < 20


def test_an_error_is_left_to_the_command(
    procline: Command, table: type[FakeTable], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "watermark_boot_ns", Stale())
    assert procline("resolve", "1").code == 0


@pytest.fixture
def control(runtime: Path) -> Path:
    """The control segment of an instance that has only this file."""
    file = runtime / "some" / paths.CONTROL
    file.parent.mkdir()
    file.write_bytes(b"")
    return file


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, runtime: Path) -> Iterator[dict[str, tuple[int, float]]]:
    monkeypatch.setenv("PROCLINE_RUNTIME_DIR", str(runtime))
    yield catching_up._opened
    catching_up.begin([])


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["resolve", "1", "--name", "some"], ["some"]),
        (["ps", "--name=some", "-o", "pid"], ["some"]),
        (["ps", "--name", "other", "--name", "some"], ["some"]),
        (["grep", "--name", "some", "--", "--name", "other"], ["some"]),
        (["resolve", "1"], []),
        (["resolve", "1", "--name"], []),
        (["resolve", "1", "--name", "other"], []),
        (["resolve", "1", "--name", "../some"], []),
        (["config", "--name", "some"], []),
        ([], []),
    ],
)
def test_the_tables_are_opened_before_the_command_is_imported(
    control: Path, opened: dict[str, tuple[int, float]], arguments: list[str], names: list[str]
) -> None:
    catching_up.begin(arguments)
    assert list(opened) == names


def test_the_environment_names_the_instance(
    control: Path, opened: dict[str, tuple[int, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(paths.INSTANCE_VARIABLE, "some")
    catching_up.begin(["why", "1"])
    assert list(opened) == ["some"]


def test_the_wait_counts_from_that_opening(
    table: type[FakeTable], control: Path, opened: dict[str, tuple[int, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    catching_up.begin(["resolve", "1", "--name", "some"])
    then_boot_ns, _ = opened["some"]
    monkeypatch.setattr("pipeline.cli.catching_up._CATCH_UP_S", 0.05)
    monkeypatch.setattr(table, "watermark_boot_ns", then_boot_ns)
    began = time.monotonic()
    catching_up.wait(table(), "some")  # the tables have passed the opening
    assert time.monotonic() - began < 0.05
    began = time.monotonic()
    catching_up.wait(table(), "some")  # the same tables for what happened after it
    assert time.monotonic() - began >= 0.05


def test_the_commands_that_read_tables_are_known() -> None:
    modules = {name: Path(str(sys.modules[command_of(name).callback.__module__].__file__)) for name in COMMANDS}
    read = {name for name, module in modules.items() if "common.attached(" in module.read_text()}
    assert read == catching_up.READING
