#!/usr/bin/env python3
"""How much slower is a fork storm because Procline watches it?

Method
    The same storm (a C program, children that end at once, 8 at a time) with a daemon of default settings that records,
    and beside the same daemon while its programs are told not to record (`flags` of `pl_settings`), when all of its
    processes sleep: storms A (recording) and B (not) in the order A B B A A B B A ..., half a second each, so that a
    drift of the machine falls on both. Starting and ending a daemon between A and B takes seconds, in which a shared
    machine changes by more than what is looked for. A pair is an A and the B beside it; the figure is the median of the
    pairs' ratios, with their quartiles. As a measure of the noise the same is done with neighbours of one kind.
    What the programs cost while they are told not to record is measured by the kernel (BPF_ENABLE_STATS), in a storm of
    its own, and added: `attached` is that time for a fork and its exit over the time that the storm takes for them.
Command
    python bench/live_slowdown.py [--forks N] [--pairs N] [--width N] [--json]     (root)
How to read it
    `slowdown` is ratio - 1. `wall` is what the storm's owner waits for: BPF programs, and the daemon's share of the
    cores. `CPU` is user and system time of the storm itself, so only what happens inside its system calls; it is the
    steadier of the two on a machine with other work. Where the middle of the pairs' ratios is not known to half the
    target (by the distance of their quartiles and their number), no verdict is given.
What it does not show
    Storms narrower than the machine (then the daemon runs on another core and only `CPU` remains), execs (they cost the
    storm so much more that the daemon's part is smaller), other hosts: a fork here is that of a small C program.
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

TARGET_PERCENT = 5
SMALL = {"forks": 300, "pairs": 2}


class Recording:
    """Whether a daemon's programs record."""

    def __init__(self, daemon: live.Daemon, table: Any) -> None:
        from pipeline.bpf import words

        self._table = table
        fd = daemon.map_fd(value_size=words.SETTINGS_LAYOUT.size, max_entries=1)
        self._words = words.settings_words(fd)
        os.close(fd)
        self._at, self._on = words.FLAGS, words.CAPTURE_ON
        assert self._words[self._at] & self._on, "this is not the map of the settings"

    @contextmanager
    def off(self) -> Iterator[None]:
        """Not recording, and done with what was recorded."""
        live.caught_up(self._table)
        self._words[self._at] &= ~self._on
        try:
            yield
        finally:
            self._words[self._at] |= self._on


def attached_share(daemon: live.Daemon, recording: Recording, storm: live.Storm) -> float:
    """Run time of all programs while they do not record, over the CPU time of the storm."""
    from pipeline.bpf.loader import enable_stats

    assert daemon.process is not None
    fd = enable_stats()
    try:
        with recording.off():
            before = {identity: ns for identity, (_, ns, _, _) in program_runs(daemon.process.pid).items()}
            _, cpu_s = storm.run()
            after = program_runs(daemon.process.pid)
    finally:
        os.close(fd)
    return sum(ns - before.get(identity, 0) for identity, (_, ns, _, _) in after.items()) / (cpu_s * 1e9)


def measure(program: Path, options: argparse.Namespace, report: common.Report) -> None:
    """Run the storms and add the rows."""
    storm = live.Storm(program, options.forks, 0, options.width)
    with live.Daemon() as daemon, daemon.attach() as table:
        time.sleep(1.0)  # what the snapshot left to do
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
        assert made <= seen < 1.5 * made, f"the daemon saw {seen} events of {made}"
        attached = attached_share(daemon, recording, storm)
    for column, what in enumerate(("wall", "CPU")):
        times = [each[column] for each in took]
        ratios = [times[i + 1 - kinds[i]] / times[i + kinds[i]] for i in range(0, len(times), 2)]
        noise = [times[i + 1] / times[i] for i in range(len(times) - 1) if kinds[i] == kinds[i + 1]]
        for case, values in ((what, ratios), (f"{what}, noise", noise)):
            low, middle, high = _quartiles(values)
            report.rows.append({
                "case": case, "slowdown %": (middle - 1) * 100, "p25": (low - 1) * 100, "p75": (high - 1) * 100,
                "min": (min(values) - 1) * 100, "max": (max(values) - 1) * 100, "pairs": len(values),
                "forks/s without": storm.made["fork"] / statistics.median(
                    time for time, is_recording in zip(times, kinds, strict=True) if not is_recording
                ),
            })  # fmt: skip
        low, middle, high = _quartiles(ratios)
        # Standard error of a median of values of a normal distribution, by their quartiles.
        if 1.25 * (high - low) / 1.35 / len(ratios) ** 0.5 * 100 > TARGET_PERCENT / 2:
            report.notes.append(f"{what}: undecided, the pairs differ by too much")
        else:
            percent = (middle * (1 + attached) - 1) * 100
            report.target(f"slowdown of a fork storm, {what}", percent, TARGET_PERCENT, "%")
    report.rows.append({"case": "attached, not recording", "slowdown %": attached * 100})


def _quartiles(values: list[float]) -> tuple[float, float, float]:
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def main(argv: list[str] | None = None) -> int:
    """Run the pairs; returns the exit code."""
    parser = common.parser(__doc__)
    parser.add_argument("--forks", type=int, default=5000, help="children of one storm")
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--width", type=int, default=8, help="children that live at a time")
    options = common.parse(parser, argv, SMALL)
    report = common.begin(__file__, __doc__)
    with live.storms() as program:
        measure(program, options, report)
    return common.finish(report, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
