"""`procline stat`: what an operator asks first, and everything on request."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipeline.cli.topics import STAT_LINES
from pipeline.host import tiers
from tests.cli.conftest import Command
from tests.cli.fakes import FakeTable


def test_statistics(procline: Command, table: type[FakeTable]) -> None:
    assert json.loads(procline("stat", "--json").out)["events"] == {"fork": 3, "exec": 0}
    lines = procline("stat").out.splitlines()
    assert "lag 1.5 ms" in lines[0]
    assert "  lost      nothing" in lines
    assert any(line.split() == ["events", "3", "fork", "3"] for line in lines)
    assert any(line.split() == ["resolver", "7", "1.50", "s", "-", "3", "MiB"] for line in lines)
    assert any(line.split() == ["shard-0", "8", "0.00", "s", "-", "-"] for line in lines)


@pytest.mark.usefixtures("narrow_screen")
def test_a_narrow_screen_keeps_the_memory(procline: Command, table: type[FakeTable]) -> None:
    lines = procline("stat").out.splitlines()
    assert all(len(line) <= 40 for line in lines)
    assert any(line.split() == ["resolver", "1.50", "s", "-", "3", "MiB"] for line in lines)


def test_how_soon_a_comparison_finds_a_change(
    procline: Command, table: type[FakeTable], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "changes" not in procline("stat").out
    usual = FakeTable.stats
    monkeypatch.setattr(table, "stats", lambda self: usual(self) | {"sampling_interval_s": 7.5})
    assert "  changes   found within 7.5 s, by comparison\n" in procline("stat").out
    monkeypatch.setattr(tiers, "read", lambda directory: {"cred_fentry": "changes", "cred_sampled": "others"})
    shown = " ".join(procline("stat").out.split())
    assert "changes some found within 7.5 s, by comparison; the others are seen at once" in shown
    assert "compared with their last records" in " ".join(procline("help", "changes").out.split())


def test_losses_and_problems_stand_out_only_if_there_are_any(
    procline: Command, table: type[FakeTable], monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = FakeTable.stats

    def stats(self: FakeTable) -> dict[str, Any]:
        return usual(self) | {
            "lost": {"fork": 2, "exec": 1, "exit": 0},
            "late": 7,
            "counters": {"arena_full": 5, "x": 1},
        }

    monkeypatch.setattr(table, "stats", stats)
    out = procline("stat").out
    assert "lost      3 events: fork 2, exec 1" in out and "problems  arena_full 5\n" in out
    assert "late      7 events" in out
    labels = {line.split()[0] for line in out.splitlines()[1:] if line.startswith("  ") and line[2] != " "}
    assert {"lost", "late", "problems"} <= labels - {"PROCESS", "all", "resolver", "shard-0"} <= set(STAT_LINES)
    everything = procline("stat", "-v").out
    assert any(line.split() == ["x", "1"] for line in everything.splitlines())


def test_rates_are_measured_on_request(
    procline: Command, table: type[FakeTable], monkeypatch: pytest.MonkeyPatch
) -> None:
    usual, calls = FakeTable.stats, 0

    def stats(self: FakeTable) -> dict[str, Any]:
        nonlocal calls
        calls += 1
        return usual(self) | {"events": {"fork": 1000 * calls}}

    monkeypatch.setattr(table, "stats", stats)
    assert "2,000, " in procline("stat", "--seconds", "0.1").out
    assert calls == 2
