"""Every bench runs with small sizes and prints what its docstring promises; the combined report is written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.sampling import chosen, is_quick, times

BENCH = Path(__file__).parents[1] / "bench"
#: Required texts in the first column of each bench. The benches of the first table need a daemon.
LIVE: dict[str, set[object]] = {
    "host_tax": {
        "empty call",
        "write of 1 byte",
        "open and close",
        "signal",
        "ioctl on a terminal",
        "rename",
        "change of user",
        "change of group",
        "fork and exit",
    },
    "live_cost": {"idle", "fork/exit", "one exec in 5", "bpf, all"},
    "everyday": {"nobody", "reader", "subscriber", "reader, freshness", "on demand"},
    "live_slowdown": {"wall", "CPU", "wall, noise", "CPU, noise"},
    "live_latency": {
        "idle",
        "idle, defaults",
        "storm, defaults",
        "idle, 0.5 ms",
        "storm, 0.5 ms",
        "idle, at once",
        "storm, at once",
    },
    "live_peers": {"nobody", "Procline"},
    "live_lookup": {"Procline"},
    "sampling": {0, 20, 50, 100},
    "start": {"attach and resolve", "procline resolve", "snapshot", "memory of the import"},
    "memory": {"live process", "reader", "resolve_many at random"},
    "build_cost": {1},
    "load_paired": {"wall", "CPU"},
    "worst_day": {
        "starved, 6 busy",
        "subscriber, 2 busy",
        "of that: until it is published",
        "a process that a socket wakes",
        "take-over",
        "full tables, 0.0005 h",
    },
    "top": {"idle, 80x24", "tree, 80x24", "rates, 80x24"},
}
REPLAYED: dict[str, set[object]] = {
    "ingest_replay": {"fork/exit", "build"},
    "columns": {"columns", "to_dict of each", "to_arrow", "to_pandas", "to_polars", "psutil.process_iter"},
    "screens": {"python -c pass", "ps", "grep", "tree --exited"},
    "journal": {"without", "with", "ratio", "first lap", "read"},
    "publish": {"nobody", "encode", "send", "receive"},
    "subscribe": {"everything", "selected", "topic", "native", "otel", "ecs", "ocsf"},
    "readers_hammer": {"fork/exit", "build"},
    "fleet": {"publish", "ingest", "live", "where", "ancestry", "new", "lineage", "spawners", "lifetimes", "lost"},
    "handwritten": {
        "event written: msgpack",
        "cpid: SHA-256",
        "state of a socket: libzmq",
        "16 KiB: CRC-32",
        "process written: JSON",
        "8 fields: row cache",
    },
    "growth_args": {"process against size of arguments", "argv against size of arguments"},
    "growth_depth": {"event against ancestry depth", "walk against ancestry depth"},
    "growth_entries": {"event against entries", "read against entries"},
    "growth_readers": {"event against readers", "read against readers"},
    "growth_rings": {"event against rings", "a shard's turn against rings"},
    "takeover": {"imports", "tables", "other", "take-over"},
}


#: A `matplotlib` that draws nothing: to import the real one takes longer than a bench.
PLOTS = """
import sys

pyplot = sys.modules[__name__]

class Nothing:
    def __getattr__(self, name):
        return lambda *arguments, **options: None

class Figure(Nothing):
    def savefig(self, path, metadata):
        path.write_text("<svg></svg>")

def use(backend):
    pass

def subplots(figsize):
    return Figure(), Nothing()

def close(figure):
    pass
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=240)


def report_of(name: str, expected: set[object], *options: str) -> dict[str, Any]:
    """Run a bench with small sizes, and check what all reports have in common."""
    done = run(str(BENCH / f"{name}.py"), "--small", "--json", *options)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["bench"] == name
    assert report["question"].endswith("?")
    assert report["machine"]["kernel"]
    assert {next(iter(row.values())) for row in report["rows"]} >= expected
    for target in report["targets"]:
        assert isinstance(target["value"], (int, float)), target
    for curve in report["curves"]:
        assert all(len(values) == len(curve["x"]) > 1 for values in curve["y"].values()), curve
    for row in report["rows"]:
        assert row.get("lost", 0) == 0, row
    return report


@pytest.mark.live
@pytest.mark.slow
@pytest.mark.parametrize("name", LIVE)
def test_a_live_bench_runs(name: str, live_kernel: None) -> None:
    report_of(name, LIVE[name])


@pytest.mark.expensive
@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *chosen(name for name in REPLAYED if name not in {"readers_hammer", "fleet"}),
        pytest.param("fleet", marks=pytest.mark.expensive),  # a server
    ],
)
def test_a_bench_that_replays_runs(name: str) -> None:
    report = report_of(name, REPLAYED[name])
    assert bool(report["curves"]) == name.startswith("growth_")


@pytest.mark.expensive
@pytest.mark.slow
def test_hammered_rows_are_whole_and_live_pids_are_there() -> None:
    """Four readers against the real apply, on tables with checksums. On a busy machine few reads overlap a write."""
    overlapped = runs = 0
    reads = times(400_000, 100_000)
    while overlapped <= times(100, 20):
        torn = report_of("readers_hammer", REPLAYED["readers_hammer"], "--reads", str(reads))["rows"][0]
        assert torn["torn"] == torn["absent"] == torn["wrong"] == 0
        assert torn["reads"] >= reads and torn["overlapped"] > 0 and torn["rows evicted"] > 0
        overlapped += torn["overlapped"]
        runs += 1
        assert runs < 10, f"{overlapped} reads overlapped a write in {runs} runs"


def test_every_bench_is_tested() -> None:
    assert run(str(BENCH / "_all.py"), "--list").stdout.split() == sorted(LIVE | REPLAYED)


@pytest.mark.parametrize("name", LIVE | REPLAYED)
def test_every_bench_documents_question_method_command_reading_and_limits(name: str) -> None:
    doc = (BENCH / f"{name}.py").read_text().split('"""')[1]
    assert doc.splitlines()[0].endswith("?")
    for part in ("\nMethod\n", "\nCommand\n", "\nHow to read it\n", "\nWhat it does not show\n"):
        assert part in doc, f"no part {part.strip()!r}"


@pytest.fixture
def plots(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a quick run, PLOTS instead of matplotlib."""
    if is_quick():
        modules = tmp_path_factory.mktemp("modules")
        (modules / "matplotlib").with_suffix(".py").write_text(PLOTS)
        monkeypatch.setenv("PYTHONPATH", str(modules))


@pytest.mark.expensive
@pytest.mark.slow
def test_one_report_of_several_benches_is_written(plots: None, tmp_path: Path) -> None:
    """In a quick run, of one bench."""
    curves = dict(chosen((("growth_args", "argv-against-size-of-arguments"), ("growth_rings", "event-against-rings"))))
    done = run(str(BENCH / "_all.py"), *curves, "--output", str(tmp_path), "--", "--small")
    assert done.returncode == 0, done.stdout + done.stderr
    whole = json.loads((tmp_path / "report.json").read_text())
    assert [report["bench"] for report in whole["reports"]] == [*curves]
    text = (tmp_path / "report.md").read_text()
    assert "| question | figure | measured | target | |" in text
    for curve in curves.values():
        assert f"({curve}.svg)" in text
        assert (tmp_path / f"{curve}.svg").read_text().rstrip().endswith("</svg>")


@pytest.mark.expensive
@pytest.mark.slow
def test_a_bench_that_fails_is_in_the_report_and_in_the_exit_code(plots: None, tmp_path: Path) -> None:
    """One of them rejects the option of the other one."""
    passes, fails, *options = (
        ("growth_args", "growth_rings", "--processes", "10") if is_quick() else ("memory", "growth_args", "--no-live")
    )
    done = run(str(BENCH / "_all.py"), passes, fails, "--output", str(tmp_path), "--", *options, "--small")
    assert done.returncode == 1
    failed, passed = sorted(
        json.loads((tmp_path / "report.json").read_text())["reports"], key=lambda each: "rows" in each
    )
    assert failed["bench"] == fails and passed["bench"] == passes
    assert any(options[0] in line for line in failed["said"])
    assert f"**{fails} failed**" in (tmp_path / "report.md").read_text()


def test_a_missed_target_is_shown_with_the_cost_of_the_machine_alone() -> None:
    """A reached target does not, nor does one without such a figure."""
    cases = "(600, 500, 'us', True, 520), (400, 500, 'us', True, 520), (600, 500, 'us')"
    code = f"import common; print([common.Target('idle', *case).remark for case in ({cases})])"
    done = subprocess.run([sys.executable, "-c", code], cwd=BENCH, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "['; the machine alone needs 520 us', '', '']", done.stderr


def test_busy_cores_and_sums_and_the_error_of_the_median() -> None:
    code = """if True:
        import os, common, live
        assert live.total_ns(live.Usage({"a": 4, "b": 3}, 0.5, 2.0)) == 7
        assert 0 <= common.busy_cores(0.05) <= (os.cpu_count() or 1) * 1.001
        assert common.median_error([3.0] * 9) == 0
        assert 0 < common.median_error([1, 2, 3, 4, 5] * 20) < common.median_error([1, 2, 3, 4, 5])
        """
    done = subprocess.run([sys.executable, "-c", code], cwd=BENCH, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_tax_has_a_verdict_only_if_the_whole_interval_is_on_one_side_of_the_target() -> None:
    code = """if True:
        import common, host_tax
        def verdict(tax, low, high, method="cred_fentry"):
            report = common.Report("host_tax", "?", {})
            found = host_tax.verdict("signal", tax, low, high, method, report)
            assert bool(report.notes) == (found == "none") == (not report.targets)
            assert not report.targets or report.targets[0].is_reached == (found == "reached")
            return found
        assert verdict(0.2, -1.8, 0.8) == verdict(-1.9, -6.2, 1.1) == verdict(1.5, 1.0, 2.0) == "reached"
        assert verdict(1.9, -0.1, 3.9) == verdict(2.1, 2.0, 2.2) == "none"
        assert verdict(2.4, 2.1, 9.0) == "MISSED"
        assert verdict(0.0, 0.0, 0.0, "none") == verdict(3, 3, 3, "none") == "none"
        """
    done = subprocess.run([sys.executable, "-c", code], cwd=BENCH, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_bench_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = run(str(BENCH / "_all.py"), "nonesuch", "--output", str(tmp_path))
    assert done.returncode == 2
    assert "nonesuch" in done.stderr
