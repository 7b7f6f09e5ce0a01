"""The readers' benches run, small: no copy is torn, and every figure is there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

BENCH = Path(__file__).resolve().parents[2] / "bench"


def run(name: str, *options: str) -> dict[str, Any]:
    command = [sys.executable, str(BENCH / name), "--json", *options]
    report: dict[str, Any] = json.loads(
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    )
    return report


def test_hammered_rows_are_whole_and_live_pids_are_there() -> None:
    """Four readers against the real apply, on tables with checksums."""
    report = run("readers_hammer.py", "--reads", "400000", "--pairs", "1", "--events", "20000")
    torn = report["torn"]
    assert torn["torn"] == torn["absent"] == torn["wrong"] == 0
    assert torn["reads"] >= 400_000 and torn["overlapped"] > 100 and torn["rows_evicted"] > 0
    assert set(report["writer"]) == {"fork/exit", "build"}
    assert all(load["slowdown"] > 0 for load in report["writer"].values())


def test_latencies_are_measured() -> None:
    report = run("readers_latency.py", "--sizes", "62", "--runs", "5")
    assert report["ns"]["62"]["resolve"]["median"] > 0
    assert report["psutil"]["depth"] >= 8 and report["psutil"]["psutil / procline, fields"] > 1
    assert report["process"]["RSS beyond numpy, MB"] > 0
