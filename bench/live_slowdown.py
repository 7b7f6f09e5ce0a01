#!/usr/bin/env python3
"""How much slower is a fork storm because Procline watches it?

Method
    The same storm (a C program, children that end at once, 8 at a time) with a daemon of default settings and without
    any: phases A (with) and B (without) in the order A B B A A B B A …, so that a drift of the machine falls on both.
    In B the daemon has ended and no program is attached. Each phase begins with a short storm that is not counted, then
    runs `--repeat` storms and counts the median of their wall times. A pair is an A and the B beside it; the figure is
    the median of the pairs' ratios. As a measure of the noise the same is done with two storms of the same phase.
Command
    python bench/live_slowdown.py [--forks N] [--pairs N] [--repeat N] [--width N] [--json]     (root)
How to read it
    `slowdown` is ratio - 1. `wall` is what the storm's owner waits for: BPF programs, and the daemon's share of the
    cores. `CPU` is user and system time of the storm itself, so only what happens inside its system calls; it is the
    steadier of the two on a machine with other work. Where half the distance of the noise's quartiles is
    more than the target, no verdict is given.
What it does not show
    Storms narrower than the machine (then the daemon runs on another core and only `CPU` remains), execs (they cost the
    storm so much more that the daemon's part is smaller), other hosts: a fork here is that of a small C program.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import common
import live

TARGET_PERCENT = 5
SMALL = {"forks": 300, "pairs": 2, "repeat": 2}


def phase(storm: live.Storm, warm_up: live.Storm, repeat: int) -> list[tuple[float, float]]:
    """Wall and CPU seconds of `repeat` storms."""
    warm_up.run()
    return [storm.run() for _ in range(repeat)]


def with_daemon(storm: live.Storm, warm_up: live.Storm, repeat: int) -> list[tuple[float, float]]:
    """The same beside a daemon; fails if the daemon did not see the storms."""
    with live.Daemon() as daemon, daemon.attach() as table:
        time.sleep(0.3)  # what the snapshot left to do
        before = live.caught_up(table)["events"]["fork"]
        found = phase(storm, warm_up, repeat)
        stats = live.caught_up(table)
        seen = stats["events"]["fork"] + stats["lost"]["fork"] - before
        assert seen >= repeat * storm.made["fork"], f"the daemon saw {seen} forks only"
    return found


def measure(program: Path, options: argparse.Namespace, report: common.Report) -> None:
    """Run the phases and add the rows."""
    storm = live.Storm(program, options.forks, 0, options.width)
    warm_up = live.Storm(program, options.forks // 4, 0, options.width)
    pairs = []
    for pair in range(options.pairs):
        order = (with_daemon, phase) if pair % 2 == 0 else (phase, with_daemon)
        done = {run: run(storm, warm_up, options.repeat) for run in order}
        pairs.append((done[with_daemon], done[phase]))
    for column, what in enumerate(("wall", "CPU")):
        middles = [tuple(statistics.median(run[column] for run in half) for half in pair) for pair in pairs]
        ratios = sorted(a / b for a, b in middles)
        noise = [
            half[i + 1][column] / half[i][column] for pair in pairs for half in pair for i in range(options.repeat - 1)
        ]
        for case, values in ((what, ratios), (f"{what}, noise", noise)):
            low, middle, high = _quartiles(values)
            report.rows.append({
                "case": case, "slowdown %": (middle - 1) * 100, "p25": (low - 1) * 100, "p75": (high - 1) * 100,
                "min": (min(values) - 1) * 100, "max": (max(values) - 1) * 100, "pairs": len(values),
                "forks/s without": storm.made["fork"] / statistics.median(b for _, b in middles),
            })  # fmt: skip
        low, _, high = _quartiles(noise)
        if (high - low) / 2 * 100 > TARGET_PERCENT:
            # A verdict would be a coin's.
            report.notes.append(f"{what}: undecided, storms of the same kind differ by more than the target")
        else:
            percent = (statistics.median(ratios) - 1) * 100
            report.target(f"slowdown of a fork storm, {what}", percent, TARGET_PERCENT, "%")


def _quartiles(values: list[float]) -> tuple[float, float, float]:
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def main(argv: list[str] | None = None) -> int:
    """Run the pairs; returns the exit code."""
    parser = common.parser(__doc__)
    parser.add_argument("--forks", type=int, default=5000, help="children of one storm")
    parser.add_argument("--pairs", type=int, default=11)
    parser.add_argument("--repeat", type=int, default=3, help="storms of a phase")
    parser.add_argument("--width", type=int, default=8, help="children that live at a time")
    options = common.parse(parser, argv, SMALL)
    report = common.begin(__file__, __doc__)
    with live.storms() as program:
        measure(program, options, report)
    return common.finish(report, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
