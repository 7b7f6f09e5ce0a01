"""bench/publish.py runs, small, and says what it promises."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[2] / "bench" / "publish.py"


def test_the_bench_of_the_publisher_runs() -> None:
    done = subprocess.run(
        [sys.executable, str(BENCH), "--events", "6000", "--runs", "1", "--json"],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    report = json.loads(done.stdout)
    results = {each["case"]: each for each in report["results"]}
    assert list(results) == ["nobody", "encode", "send", "receive"]
    assert all(each["events_per_s"] > 0 for each in results.values())
    assert results["nobody"]["bytes_per_event"] == 0
    assert results["receive"]["lost"] == 0
