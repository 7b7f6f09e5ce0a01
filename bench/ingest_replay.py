#!/usr/bin/env python3
"""How many events a second can one resolver core process, from frames to tables?

Method
    Two loads: a storm of forks and exits, and a build (one event in four is an exec; paths, arguments and environments
    resemble compiler runs). The messages of `--rings` rings are prepared and encoded as by shards. Each run uses new
    tables on tmpfs, a new merger and a new applier, and measures the resolver's steps: decode, add, advance, take,
    apply, done, commit. A first run is not counted. The process is pinned. In the rows `ipc`, the messages arrive
    through a PUSH and a PULL socket from a second process on another core. In the rows with subscribers, every event is
    also encoded. `ipc, thrown away` receives the same messages and discards them. Its figure is the CPU time of both
    threads, which is the upper limit for any resolver behind ZeroMQ on one core.
Command
    python bench/ingest_replay.py [--events N] [--rings N] [--runs N] [--json]
How to read it
    `M events/s` is the median of the runs, with the best run and the spread; ns/event is split by step. At the targets
    the resolver does not limit the event rate of any host.
What it does not show
    The kernel, the shards, contention for the cores, and cold caches: the messages are in memory, and the working set
    is a few thousand live processes (growth_entries.py has more).
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import time

import common
import loads
import replay

SMALL = {"events": 6000, "runs": 1}
TARGETS = {"fork/exit": 5.0, "build": 1.0}


def measure(
    load: loads.Load, messages: loads.Messages, rings: int, *, ipc: bool, encode: bool
) -> tuple[float, list[float]]:
    """Measure one run; returns (events/s, seconds by step)."""
    allowed = sorted(os.sched_getaffinity(0))
    with replay.Resolver(rings, encode=encode) as resolver:
        resolver.enter()
        with replay.through_ipc(messages, allowed[-1]) if ipc else contextlib.nullcontext() as source:
            os.sched_setaffinity(0, {allowed[0]})
            try:
                seconds = resolver.take_in(messages, source)
            finally:
                os.sched_setaffinity(0, allowed)
        resolver.check()
        assert resolver.applied == load.count, "an event was lost or applied twice"
        return load.count / seconds, list(resolver.spent.values())


def thrown_away(load: loads.Load, messages: loads.Messages) -> float:
    """Receive the messages and discard them; returns events a second of the receiver's CPU time."""
    allowed = sorted(os.sched_getaffinity(0))
    with replay.through_ipc(messages, allowed[-1]) as source:
        os.sched_setaffinity(0, {allowed[0]})
        try:
            begin = time.process_time()
            for _ in source:
                pass
            seconds = time.process_time() - begin
        finally:
            os.sched_setaffinity(0, allowed)
    return load.count / seconds


def main(argv: list[str] | None = None) -> int:
    """Run all cases; returns the exit code."""
    parser = common.parser(__doc__)
    parser.add_argument("--events", type=int, default=400_000)
    parser.add_argument("--rings", type=int, default=4)
    parser.add_argument("--runs", type=int, default=5)
    options = common.parse(parser, argv, SMALL)
    report = common.begin(__file__, __doc__, options)
    cases = {
        "fork/exit": loads.Load(loads.storm(options.events)),
        "build": loads.Load(loads.build(options.events), strings=loads.compiler_runs()),
    }
    for name, load in cases.items():
        messages = load.messages(options.rings)
        for case, ipc, encode in (("memory", False, False), ("ipc", True, False), ("memory, subscribers", False, True)):
            laps = [measure(load, messages, options.rings, ipc=ipc, encode=encode) for _ in common.laps(options)]
            runs = laps[-options.runs :]
            rates = [rate / 1e6 for rate, _ in runs]
            steps = [statistics.median(step) / load.count * 1e9 for step in zip(*(s for _, s in runs), strict=True)]
            report.rows.append({
                "load": name, "from": case, "M events/s": statistics.median(rates), "best": max(rates),
                "spread": common.spread(rates),
            } | {f"{step} ns": ns for step, ns in zip(replay.STEPS, steps, strict=True)})  # fmt: skip
            if ipc:
                raw = [thrown_away(load, messages) / 1e6 for _ in common.laps(options)][-options.runs :]
                report.rows.append({
                    "load": name, "from": "ipc, thrown away", "M events/s": statistics.median(raw), "best": max(raw),
                    "spread": common.spread(raw),
                })  # fmt: skip
                rate = statistics.median(rates)
                report.target(f"{name} through ipc", rate, TARGETS[name], "M events/s", is_upper_bound=False)
    return common.finish(report, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
