#!/usr/bin/env python3
"""How much does Procline slow down a fork storm?

Method
    Run the same storm (a C program with 8 children at a time that exit at once) with a daemon with default settings
    that records (A), and with the same daemon while its BPF programs do not record (B; `flags` of `pl_settings`) and
    its processes sleep. The order is A B B A A B B A ..., half a second each, so that a drift of the machine affects
    both. (Restarting the daemon between A and B would take seconds, and a shared machine changes in that time by more
    than the effect to be measured.) A pair is an A and the B next to it. The figure is the median of the pairs' ratios,
    with their quartiles. Ratios of neighbours of the same kind show the noise.
    The kernel measures the cost of the programs that do not record (BPF_ENABLE_STATS) in a separate storm. This cost is
    added: `attached` is this time for a fork and its exit, relative to the storm's time for them.
Command
    python bench/live_slowdown.py [--forks N] [--pairs N] [--width N] [--json]     (root)
How to read it
    `slowdown` is ratio - 1. `wall` is the storm's wall time; it includes the BPF programs and the daemon's use of the
    cores. `CPU` is the storm's user and system time; it includes only the BPF programs, and is steadier on a loaded
    machine. If the error of the median (from the quartiles and the number of pairs) exceeds half the target, the report
    gives no verdict.
What it does not show
    Storms with fewer processes than cores (the daemon then runs on another core, and only `CPU` is affected), execs
    (the storm pays much more for them, so the daemon's part is smaller), and larger processes: here a small C program
    forks.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import common
import live
from live_cost import program_runs

from pipeline.load import measuring

TARGET_PERCENT = 5
SMALL = {"forks": 300, "pairs": 2}


class Recording:
    """Switches the recording of a daemon's BPF programs."""

    def __init__(self, daemon: live.Daemon, table: Any) -> None:
        from pipeline.bpf import words

        self._table = table
        fd = daemon.map_fd(value_size=words.SETTINGS_LAYOUT.size, max_entries=1)
        self._words = words.settings_words(fd)
        os.close(fd)
        self._at, self._on = words.FLAGS, words.CAPTURE_ON
        assert self._words[self._at] & self._on, "the map is not pl_settings, or the capture is off"

    @contextmanager
    def off(self) -> Iterator[None]:
        """Wait until all recorded events are applied, and record nothing during the block."""
        live.caught_up(self._table)
        self._words[self._at] &= ~self._on
        try:
            yield
        finally:
            self._words[self._at] |= self._on


def attached_share(daemon: live.Daemon, recording: Recording, storm: live.Storm) -> float:
    """Return the run time of all programs while they do not record, relative to the CPU time of the storm."""
    from tests.bpf.run_time import run_time_measured

    assert daemon.process is not None
    with run_time_measured(), recording.off():
        before = {identity: ns for identity, (_, ns, _, _) in program_runs(daemon.process.pid).items()}
        _, cpu_s = storm.run()
        after = program_runs(daemon.process.pid)
    return sum(ns - before.get(identity, 0) for identity, (_, ns, _, _) in after.items()) / (cpu_s * 1e9)


def measure(program: Path, options: argparse.Namespace, report: common.Report) -> None:
    """Run the storms and add the rows."""
    storm = live.Storm(program, options.forks, 0, options.width)
    with live.Daemon() as daemon, daemon.attach() as table:
        time.sleep(1.0)  # let the daemon finish the work of the snapshot
        recording = Recording(daemon, table)
        storm.run()
        before = live.caught_up(table)
        kinds: list[bool] = []
        took: list[tuple[float, float]] = []
        for pair in range(options.pairs):
            for is_recording in (True, False) if pair % 2 == 0 else (False, True):
                if is_recording:
                    took.append(storm.run())
                else:
                    with recording.off():
                        took.append(storm.run())
                kinds.append(is_recording)
        after = live.caught_up(table)
        seen = sum(after["events"][kind] + after["lost"][kind] for kind in ("fork", "exit"))
        seen -= sum(before["events"][kind] + before["lost"][kind] for kind in ("fork", "exit"))
        made = options.pairs * (storm.made["fork"] + storm.made["exit"])
        # A short run may share the machine with others, whose processes the daemon sees too.
        assert made <= seen and (options.small or seen < 1.5 * made), f"the daemon saw {seen} events of {made}"
        attached = attached_share(daemon, recording, storm)
    for column, what in enumerate(("wall", "CPU")):
        times = [each[column] for each in took]
        ratios = [times[i + 1 - kinds[i]] / times[i + kinds[i]] for i in range(0, len(times), 2)]
        noise = [times[i + 1] / times[i] for i in range(len(times) - 1) if kinds[i] == kinds[i + 1]]
        for case, values in ((what, ratios), (f"{what}, noise", noise)):
            low, middle, high = measuring.quartiles(values)
            report.rows.append({
                "case": case, "slowdown %": (middle - 1) * 100, "p25": (low - 1) * 100, "p75": (high - 1) * 100,
                "min": (min(values) - 1) * 100, "max": (max(values) - 1) * 100, "pairs": len(values),
                "forks/s without": storm.made["fork"] / statistics.median(
                    time for time, is_recording in zip(times, kinds, strict=True) if not is_recording
                ),
            })  # fmt: skip
        _, middle, _ = measuring.quartiles(ratios)
        if common.median_error(ratios) * 100 > TARGET_PERCENT / 2:
            report.notes.append(f"{what}: no verdict, because the pairs differ too much; use more --pairs")
        else:
            percent = (middle * (1 + attached) - 1) * 100
            report.target(f"slowdown of a fork storm, {what}", percent, TARGET_PERCENT, "%")
    report.rows.append({"case": "attached, not recording", "slowdown %": attached * 100})


def main(argv: list[str] | None = None) -> int:
    """Run the pairs; returns the exit code."""
    parser = common.parser(__doc__)
    parser.add_argument("--forks", type=int, default=5000, help="children of one storm")
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--width", type=int, default=8, help="children that run at a time")
    options = common.parse(parser, argv, SMALL)
    report = common.begin(__file__, __doc__, options)
    with live.storms() as program:
        measure(program, options, report)
    return common.finish(report, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
