#!/usr/bin/env python3
"""How do the cost of an event and the cost of a walk grow with the depth of the ancestry?

Method
    The tables contain a chain of 1 to `--depth` ancestors. `apply`: replay a storm of forks and exits of children of
    the last process of the chain. `encode`: encode events of processes at the end of the chain for subscribers, with
    the default of eight ancestors in each event. Walks: `ancestors(pid)` and `ancestors_many` from the end of the
    chain. Each depth is measured in pairs with the smallest, `--rounds` times.
Command
    python bench/growth_depth.py [--depth N] [--events N] [--rounds N] [--json]
How to read it
    CPU ns an event: `apply` is flat, because a fork only links to its parent. `encode` grows until depth 8, because an
    event has at most eight ancestors. CPU ns a hop: `ancestors(pid)` falls towards the cost of an Entry, because more
    hops share the fixed cost of the call. `ancestors_many` is flat until the rows exceed the first-level cache (512
    rows of 128 bytes do).
What it does not show
    Chains with rows all over a large table, where each hop is a cache miss (live_lookup.py, 65,000 entries).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import common
import curves
import loads
import numpy as np
import publish
import replay

from pipeline.shm.reader.table import ProcessTable

SMALL = {"depth": 8, "events": 4000, "rounds": 1}
DEPTHS = (1, 2, 8, 32, 128, 512)
WALKS = 20_000  # hops of one measurement


def apply_cost(resolver: replay.Resolver, last: loads.Processes, events: int) -> Callable[[], float]:
    """Return a function that measures CPU ns an event of children of `last`."""
    load = loads.Load(loads.storm(events), parents=last)
    return resolver.event_cost(load)


def encode_cost(place: Path, depth: int, events: int) -> Callable[[], float]:
    """Return a function that measures CPU ns for encoding an event of a process with `depth` ancestors."""
    load = publish.Load(place, 768, depth)
    load.encoder.topics_mask = 7

    def run() -> float:
        begin = time.process_time_ns()
        for _ in range(-(-events // load.step)):
            load.encode()
            load.encoder.take()
        return (time.process_time_ns() - begin) / (load.step * -(-events // load.step))

    return run


def walks(table: ProcessTable, pid: int, depth: int) -> dict[str, Callable[[], float]]:
    """Return functions that measure CPU ns a hop, by kind of call."""
    assert len(table.ancestors(pid)) == depth
    count = max(1, WALKS // depth)
    many = np.full(count, pid, np.uint32)

    def one() -> float:
        begin = time.process_time_ns()
        for _ in range(count):
            table.ancestors(pid)
        return (time.process_time_ns() - begin) / (count * depth)

    def bulk() -> float:
        begin = time.process_time_ns()
        hops = len(table.ancestors_many(many)[0])
        return (time.process_time_ns() - begin) / hops

    return {"ancestors(pid)": one, "ancestors_many": bulk}


def measure(options: argparse.Namespace, report: common.Report) -> None:
    """Measure all depths and add them to the report."""
    depths = [depth for depth in DEPTHS if depth <= options.depth]
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="procline-bench-", dir="/dev/shm")))
        applied, encoded, walked = {}, {}, {}
        for depth in depths:
            resolver = stack.enter_context(replay.Resolver(1))
            # The walk begins at the last process of the chain, which has `depth` ancestors.
            chain = loads.Processes.row(2, depth + 1)
            resolver.enter(chain, is_chain=True)
            resolver.open_for_readers()
            table = stack.enter_context(ProcessTable.attach(path=resolver.directory, max_age_ms=10**8))
            walked[depth] = walks(table, int(chain.tgid[-1]), depth)
            last = loads.Processes(chain.tgid[-1:], chain.start_boot_ns[-1:])
            applied[depth] = apply_cost(resolver, last, options.events)
            encoded[depth] = encode_cost(place / str(depth), depth, options.events)
        events = {
            "apply": curves.paired(applied, options.rounds),
            "encode": curves.paired(encoded, options.rounds),
        }
        hops = {
            what: curves.paired({depth: walked[depth][what] for depth in depths}, options.rounds)
            for what in ("ancestors(pid)", "ancestors_many")
        }
    curves.add(report, "event against ancestry depth", "depth", "ns/event", events, {"apply": 1.25})
    curves.add(report, "walk against ancestry depth", "depth", "ns/hop", hops, {})


def main(argv: list[str] | None = None) -> int:
    """Measure all depths; returns the exit code."""
    parser = common.parser(__doc__)
    parser.add_argument("--depth", type=int, default=512, help="largest depth")
    parser.add_argument("--events", type=int, default=30_000, help="events in a round")
    parser.add_argument("--rounds", type=int, default=7)
    options = common.parse(parser, argv, SMALL)
    report = common.begin(__file__, __doc__, options)
    with common.pinned(0):
        measure(options, report)
    return common.finish(report, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
