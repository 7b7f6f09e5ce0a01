#!/usr/bin/env python3
"""What does it cost to compare all processes with their last records, and within what time is a change seen?

Method
    Load a capture with capture.credentials = "sampled" beside 0, 1,000, 2,500 and 5,000 sleeping processes. Make the
    passes of a supervisor in this process (pipeline/bpf/sampling.py) for `--seconds` each, so that caches are as cold
    as between the passes of a daemon.
Command
    python bench/sampling.py [--processes N] [--seconds N] [--programs old] [--json]     (root)
How to read it
    `processes` are all processes of the host. `ms/pass` is the CPU time of a pass, `us/process` its growth with the
    sleeping processes. `gap s` is the median time between the beginnings of two passes, within which a change is seen,
    and `longest s` the longest one. It grows if passes would take more than their share of a CPU, or if this process
    gets no CPU. The target is for the median. `share %` is what the passes took of one CPU, with the system calls of
    the supervisor.
What it does not show
    Changes themselves: only what differs makes a record. Threads other than the leader cost less than processes.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from pathlib import Path

import common
import live

SMALL = {"processes": 100, "seconds": 1}
INTERVAL_S = 2.0  # capture.sampling_interval_s
TARGET_PROCESSES = 5000
TARGET_SHARE_PERCENT = 0.3


def measure(seconds: float) -> dict[str, float]:
    """Load a capture, make passes, and return the figures of a row."""
    from pipeline.bpf import syscall
    from pipeline.bpf.loader import Capture
    from pipeline.bpf.sampling import Sampler

    begun: list[float] = []

    def create(link_fd: int) -> int:
        begun.append(time.monotonic())
        return syscall.iter_create(link_fd)

    with Capture(ring_bytes=1 << 20, credentials="sampled") as capture:
        time.sleep(0.2)
        sampler = Sampler(capture.fds.sample_link, INTERVAL_S, create=create)
        before, began = time.thread_time(), time.monotonic()
        while len(begun) < 3 or time.monotonic() < began + seconds:
            time.sleep(sampler.advance())
        cpu_s, end = time.thread_time() - before, time.monotonic()
        sampler.close()
    gaps = [later - first for first, later in itertools.pairwise(begun)]
    return {
        "processes": sum(entry.name.isdecimal() for entry in Path("/proc").iterdir()),
        "ms/pass": cpu_s / len(begun) * 1000,
        "gap s": statistics.median(gaps),
        "longest s": max(gaps),
        "share %": cpu_s / (end - began) * 100,
        "passes": len(begun),
    }


def main(argv: list[str] | None = None) -> int:
    """Measure all sizes; returns the exit code."""
    parser = common.parser(__doc__)
    parser.add_argument("--processes", type=int, default=TARGET_PROCESSES, help="sleeping processes of the last row")
    parser.add_argument("--seconds", type=float, default=20, help="for each row")
    live.add_programs(parser)
    options: argparse.Namespace = common.parse(parser, argv, SMALL)
    live.use_programs(options)
    report = common.begin(__file__, __doc__, options)
    nothing: dict[str, float] = {}
    for count in dict.fromkeys((0, options.processes // 5, options.processes // 2, options.processes)):
        with live.crowd(count, is_exec=False) as pids:
            row = measure(options.seconds)
            nothing = nothing or row
            added = (row["ms/pass"] - nothing["ms/pass"]) * 1000 / len(pids) if pids else None
            report.rows.append({"sleeping": count, **row, "us/process": added})
    last = report.rows[-1]
    if options.processes == TARGET_PROCESSES:
        report.target(f"time in which a change is seen, {TARGET_PROCESSES:,} sleepers", last["gap s"], INTERVAL_S, "s")
        report.target("share of a CPU", last["share %"], TARGET_SHARE_PERCENT, "%")
    return common.finish(report, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
