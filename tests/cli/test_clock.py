"""The clock was set since the start of an instance: commands count from its tables' present, not from the clock's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline import ProcessTable
from pipeline.host import boot
from pipeline.shm.reader import control_fields
from tests.cli.conftest import Command
from tests.shm.handmade import Tables, now_boot_ns

S = 1_000_000_000
HOUR_NS = 3600 * S
Make = Callable[[int], Tables]


@pytest.fixture
def set_by(runtime: Path) -> Make:
    """Return a function that makes tables. It gets by how many ns the clock was set since their instance began."""

    def make(step_ns: int) -> Tables:
        tables = Tables(runtime / "test")
        tables.control["boot_id"] = np.frombuffer(boot.boot_id(), "V16")[0]
        tables.control["boot_unix_ns"] = boot.BootClock.read().offset_ns - step_ns
        tables.row(5, comm=b"five", start_boot_ns=now_boot_ns() - 90 * S)
        tables.commit(1, watermark_boot_ns=now_boot_ns())
        return tables

    return make


def attach_by_name(monkeypatch: pytest.MonkeyPatch, tables: Tables) -> None:
    """Let commands find these tables by the name of their instance."""
    attach = ProcessTable.attach
    monkeypatch.setattr(
        "pipeline.ProcessTable.attach", classmethod(lambda cls, name: attach("test", path=tables.directory))
    )


steps = pytest.mark.parametrize("step_ns", [0, 3 * HOUR_NS, -5 * HOUR_NS], ids=["0", "3h", "-5h"])


@steps
def test_ages(set_by: Make, step_ns: int) -> None:
    tables = set_by(step_ns)
    with ProcessTable.attach("test", path=tables.directory) as table:
        entry = table.resolve(5)
        assert entry is not None and entry.age_ns is not None
        assert 90 * S <= entry.age_ns < 300 * S


@steps
def test_commands(procline: Command, set_by: Make, monkeypatch: pytest.MonkeyPatch, step_ns: int) -> None:
    tables = set_by(step_ns)
    attach_by_name(monkeypatch, tables)

    def run(*arguments: str) -> int:
        tables.heartbeat()
        return procline(*arguments, "--name", "test").code  # last, and read first

    assert run("resolve", "5", "--at", "-60s", "--json") == 0
    assert run("resolve", "5", "--at", "-30m", "--json") != 0
    assert run("ps", "--where", "pid == 5 and age > 80s and age < 5m", "--json") == 0


@steps
def test_by_how_much_the_clock_was_set(
    runtime: Path, monkeypatch: pytest.MonkeyPatch, set_by: Make, step_ns: int
) -> None:
    monkeypatch.setenv("PROCLINE_RUNTIME_DIR", str(runtime))
    set_by(step_ns)
    found = control_fields.clock_step_ns("test")
    assert found is not None and abs(found - step_ns) < S


def test_tables_of_another_boot_and_none(runtime: Path, monkeypatch: pytest.MonkeyPatch, set_by: Make) -> None:
    monkeypatch.setenv("PROCLINE_RUNTIME_DIR", str(runtime))
    set_by(HOUR_NS).control["boot_id"] = np.frombuffer(bytes(16), "V16")[0]
    assert control_fields.clock_step_ns("test") is None and control_fields.clock_step_ns("other") is None


@steps
def test_stat_shows_it(procline: Command, set_by: Make, monkeypatch: pytest.MonkeyPatch, step_ns: int) -> None:
    tables = set_by(step_ns)
    attach_by_name(monkeypatch, tables)
    tables.heartbeat()
    out = procline("stat", "--name", "test").out
    shown = {0: "", 3 * HOUR_NS: "set forward by 3 h 0 min", -5 * HOUR_NS: "set back by 5 h 0 min"}[step_ns]
    assert (shown in out) if shown else ("clock" not in out)
