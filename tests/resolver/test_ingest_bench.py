"""bench/ingest_replay.py runs, small: every event once, in both loads, with and without a socket between."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench" / "ingest_replay.py"


@pytest.mark.parametrize("options", [[], ["--ipc"], ["--encode", "--rings", "7"]])
def test_ingest_replay_runs(options):
    command = [sys.executable, str(BENCH), "--events", "6000", "--runs", "1", "--json", *options]
    report = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout)
    assert set(report["loads"]) == {"fork/exit", "build"}
    for load in report["loads"].values():
        assert load["events"] >= 4000 and load["events_per_s"]["median"] > 0
