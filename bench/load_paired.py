#!/usr/bin/env python3
"""Does `procline load --paired` find the same slowdown as the bench of a fork storm?

Method
    First bench/live_slowdown.py measures a fork storm with eight children at a time, in pairs with and without
    recording. Then `procline load forks --own --paired` measures the same kind of load with eight workers, in pairs
    with and without an instance, as a user of Procline would. Both run on the same machine within minutes. The
    kernel's own measurement of the programs that do not record is added to the first figure, because the second
    compares with no instance at all.
Command
    python bench/load_paired.py [--pairs N] [--load-pairs N] [--duration S] [--json]     (root)
How to read it
    `bench %` and `load %` are the slowdowns that the two found, each between `low` and `high`: for the bench 95 % of a
    normal distribution from its quartiles, for the load test the interval that it prints itself. `apart` is by how many
    percentage points the two intervals miss each other; 0 means that they agree within the noise that they state.
    `wall` is the time for the same number of events, `CPU` the load's own CPU time.
What it does not show
    Whether both are wrong in the same way: bench/host_tax.py and the kernel's statistics in bench/live_cost.py are
    other ways to the same cost.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import Any

import common
import live
import live_slowdown

WIDTH = 8
SMALL = {"forks": 300, "pairs": 2, "load_pairs": 2, "duration": 0.3}
#: Rows of the bench, and parts of the load test's report.
FIGURES = (("wall", "time"), ("CPU", "cpu"))


def by_bench(options: argparse.Namespace) -> dict[str, tuple[float, float, float]]:
    """Return (slowdown, low, high) in percent of each figure, as the bench of a fork storm finds it."""
    inner = common.Report("live_slowdown", "", {})
    with live.storms() as program:
        live_slowdown.measure(
            program,
            argparse.Namespace(forks=options.forks, pairs=options.pairs, width=WIDTH, small=options.small),
            inner,
        )
    rows = {row["case"]: row for row in inner.rows}
    attached = rows["attached, not recording"]["slowdown %"]
    found = {}
    for name, _ in FIGURES:
        row = rows[name]
        error = 1.96 * 1.25 * (row["p75"] - row["p25"]) / 1.35 / row["pairs"] ** 0.5
        middle = row["slowdown %"] + attached
        found[name] = middle, middle - error, middle + error
    return found


def by_load(options: argparse.Namespace) -> dict[str, Any]:
    """Return the part `paired` of the report of a load test."""
    command = [
        sys.executable, "-m", "pipeline.cli.main", "load", "forks", "--own", "--name", "bench-paired", "--paired",
        "--pairs", str(options.load_pairs), "--duration", str(options.duration), "--concurrency", str(WIDTH), "--json",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=common.ROOT, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise SystemExit(f"procline load failed:\n{done.stderr[-2000:]}")
    paired: dict[str, Any] = json.loads(done.stdout)["paired"]
    return paired


def main(argv: list[str] | None = None) -> int:
    """Measure both; returns the exit code."""
    made = common.parser(__doc__)
    made.add_argument("--forks", type=int, default=5000, help="children of one storm")
    made.add_argument("--pairs", type=int, default=40, help="pairs of the bench")
    made.add_argument("--load-pairs", type=int, default=10, help="pairs of the load test")
    made.add_argument("--duration", type=float, default=2.0, help="seconds of each round of the load test")
    options = common.parse(made, argv, SMALL)
    report = common.begin(__file__, __doc__, options)
    bench, load = by_bench(options), by_load(options)
    for name, part in FIGURES:
        middle, low, high = bench[name]
        found = load[part]
        apart = max(0.0, low - found["high_percent"], found["low_percent"] - high)
        report.rows.append({
            "case": name, "bench %": middle, "low": low, "high": high, "load %": found["slowdown_percent"],
            "load low": found["low_percent"], "load high": found["high_percent"],
            "confidence %": found["confidence_percent"], "apart": apart,
        })  # fmt: skip
        report.target(f"the two {name} figures, how far apart their intervals are", apart, 0.0, "percentage points")
    noise = load["noise"]
    if noise["count"]:
        report.notes.append(
            f"noise of the load test, quartiles of {noise['count']} neighbours of the same kind: "
            f"{noise['low_percent']:+.1f} to {noise['high_percent']:+.1f} %"
        )
    return common.finish(report, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
