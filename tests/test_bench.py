"""Every bench of the live daemon runs, small, and says what its docstring promises; the report of all is written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "bench"
LIVE = ("live_cost", "live_slowdown", "live_latency", "live_peers", "live_lookup", "start", "memory")
#: A value of the first column of each bench that must be there.
EXPECTED = {
    "live_cost": {"idle", "fork/exit", "one exec in 5", "bpf, all"},
    "live_slowdown": {"wall", "CPU", "wall, noise", "CPU, noise"},
    "live_latency": {"idle", "storm"},
    "live_peers": {"nobody", "Procline"},
    "live_lookup": {"Procline"},
    "start": {"attach and resolve", "procline resolve", "snapshot"},
    "memory": {"live process", "reader", "resolve_many at random"},
}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=240)


@pytest.mark.live
@pytest.mark.alone
@pytest.mark.parametrize("name", LIVE)
def test_a_live_bench_runs(name: str, live_kernel: None) -> None:
    done = run(str(BENCH / f"{name}.py"), "--small", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["bench"] == name
    assert report["question"].endswith("?")
    assert report["machine"]["kernel"]
    assert {next(iter(row.values())) for row in report["rows"]} >= EXPECTED[name]
    for target in report["targets"]:
        assert isinstance(target["value"], (int, float)), target
    for row in report["rows"]:
        assert row.get("lost", 0) == 0, row


def test_every_bench_says_question_method_command_reading_and_limits() -> None:
    for name in LIVE:
        doc = (BENCH / f"{name}.py").read_text().split('"""')[1]
        assert doc.splitlines()[0].endswith("?"), name
        for part in ("\nMethod\n", "\nCommand\n", "\nHow to read it\n", "\nWhat it does not show\n"):
            assert part in doc, f"{name}: no part {part.strip()!r}"


def test_one_report_of_several_benches_is_written(tmp_path: Path) -> None:
    done = run(
        str(BENCH / "_all.py"), "memory", "--output", str(tmp_path), "--",
        "--no-live", "--entries", "1000", "--runs", "1", "--batch", "100",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (report,) = json.loads((tmp_path / "report.json").read_text())["reports"]
    assert report["curves"][0]["x"] == [100, 1000]
    assert "resolve_many at random" in (tmp_path / "report.txt").read_text()


def test_a_bench_that_fails_is_in_the_report_and_in_the_exit_code(tmp_path: Path) -> None:
    done = run(str(BENCH / "_all.py"), "memory", "--output", str(tmp_path), "--", "--no-such-option")
    assert done.returncode == 1
    (report,) = json.loads((tmp_path / "report.json").read_text())["reports"]
    assert report["failed"]
    assert any("--no-such-option" in line for line in report["said"])


def test_a_bench_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = run(str(BENCH / "_all.py"), "nonesuch", "--output", str(tmp_path))
    assert done.returncode == 2
    assert "nonesuch" in done.stderr
