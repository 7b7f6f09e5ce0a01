"""A command waits for what happened before it began, but not for long."""

from __future__ import annotations

import time

import pytest

from pipeline.errors import StaleError
from tests.cli.conftest import Command
from tests.cli.fakes import FakeTable


class Watermark:
    """What `watermark_boot_ns` is at each read: 0 until `passes_at_s` (monotonic), then the present."""

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
    monkeypatch.setattr("pipeline.cli.common._CATCH_UP_S", 60.0)
    assert procline("resolve", "1").code == 0
    assert time.monotonic() >= passes_at_s


def test_it_does_not_wait_for_an_instance_that_is_behind(
    procline: Command, table: type[FakeTable], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "watermark_boot_ns", 0)
    began = time.monotonic()
    assert procline("resolve", "1").code == 0
    assert time.monotonic() - began >= 0.03


def test_an_error_is_left_to_the_command(
    procline: Command, table: type[FakeTable], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "watermark_boot_ns", Stale())
    assert procline("resolve", "1").code == 0
