#!/usr/bin/env python3
"""How do the cost of an event and the cost of a read grow with the number of entries in the tables?

Method
    Fill tables with 100 to `--entries` live processes by replaying forks. Then replay a storm of forks and exits into
    them. Its parents are chosen at random from all entries (`parents: any`) or from 200 entries (`parents: 200`).
    Readers look up random pids. Each size is measured in pairs with the smallest, `--rounds` times.
Command
    python bench/growth_entries.py [--entries N] [--events N] [--rounds N] [--json]
How to read it
    CPU ns of the resolver for an event, from decode to commit; CPU ns for `resolve` of one pid and for one pid in
    `resolve_many`. `ratio` is relative to the smallest size, with the quartiles of the pairs. `parents: 200` is flat,
    because no code depends on the number of entries. If the tables exceed the caches, `resolve` has two or three cache
    misses of 80 to 100 ns each. Those of `resolve_many`, and of events with `parents: any`, overlap.
What it does not show
    The cost of the snapshot and of repairs, which walk over all entries.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import common
import curves
import loads
import numpy as np
import replay

from pipeline.shm.layout import layout
from pipeline.shm.reader.table import ProcessTable

SMALL = {"entries": 1000, "events": 2000, "rounds": 1}
SIZES = (100, 1000, 10_000, 65_000, 250_000, 1_000_000)
FILL_PID = 1000


def fill(size: int) -> tuple[loads.Load, loads.Messages]:
    """Return a load of `size` forks of processes that stay, and its messages."""
    load = loads.Load(
        loads.forks(size), first_pid=FILL_PID, pid_range=size, begin_boot_ns=1_600_000_000
    )  # fmt: skip
    return load, load.messages(1)


def filled(stack: ExitStack, load: loads.Load, messages: loads.Messages) -> replay.Resolver:
    """Return a resolver whose tables contain the processes of `load`."""
    pids = FILL_PID + load.count + loads.PID_RANGE + 1
    made = replay.Resolver(1, rows=load.count + (1 << 17), pids=1 << pids.bit_length())
    resolver = stack.enter_context(made)
    resolver.enter()
    resolver.take_in(messages)
    # The storm begins with new rings, as a new capture does.
    resolver.restart()
    return resolver


def storm_cost(resolver: replay.Resolver, filling: loads.Load, events: int, parents: Any) -> Callable[[], float]:
    """Return a function that measures CPU ns an event in one round of a storm."""
    load = loads.Load(
        loads.storm(events), parents=parents, first_pid=FILL_PID + filling.count,
        begin_boot_ns=filling.end_boot_ns,
    )  # fmt: skip
    return resolver.event_cost(load)


def reads(table: ProcessTable, size: int) -> dict[str, Callable[[], float]]:
    """Return functions that measure CPU ns a pid, by kind of read."""
    rng = np.random.default_rng(1)
    asked = [(rng.integers(0, size, 1000) + FILL_PID).astype(np.uint32) for _ in range(40)]
    batch = itertools.cycle(asked)
    single = itertools.cycle([pids.tolist() for pids in asked])
    out = np.empty(1000, layout.HOT)
    resolve = table.resolve

    def one() -> float:
        begin = time.process_time_ns()
        for pids in (next(single) for _ in range(20)):
            for pid in pids:
                resolve(pid)
        return (time.process_time_ns() - begin) / 20_000

    def many() -> float:
        begin = time.process_time_ns()
        for pids in itertools.islice(batch, 40):
            table.resolve_many(pids, out)
        return (time.process_time_ns() - begin) / 40_000

    return {"resolve": one, "resolve_many": many}


def main(argv: list[str] | None = None) -> int:
    """Measure all sizes; returns the exit code."""
    parser = common.parser(__doc__)
    parser.add_argument("--entries", type=int, default=1_000_000, help="entries of the largest table")
    parser.add_argument("--events", type=int, default=20_000, help="events in a round")
    parser.add_argument("--rounds", type=int, default=7)
    options = common.parse(parser, argv, SMALL)
    report = common.begin(__file__, __doc__, options)
    sizes = [size for size in SIZES if size <= options.entries]
    fills = {size: fill(size) for size in sizes}
    allowed = os.sched_getaffinity(0)
    common.pin(0)
    events: dict[str, dict[int, curves.Cost]] = {}
    looked: dict[str, dict[int, curves.Cost]] = {}
    for name in ("parents: 200", "parents: any"):
        with ExitStack() as stack:
            resolvers = {size: filled(stack, *fills[size]) for size in sizes}
            runs = {}
            for size, resolver in resolvers.items():
                filling = fills[size][0]
                parents = loads.PARENTS if name == "parents: 200" else filling.processes
                runs[size] = storm_cost(resolver, filling, options.events, parents)
            events[name] = curves.paired(runs, options.rounds)
            if name == "parents: any":
                by_size = {}
                for size, resolver in resolvers.items():
                    resolver.check()
                    resolver.open_for_readers()
                    table = stack.enter_context(ProcessTable.attach(path=resolver.directory, max_age_ms=10**8))
                    by_size[size] = reads(table, size)
                for what in next(iter(by_size.values())):
                    looked[what] = curves.paired({size: by_size[size][what] for size in sizes}, options.rounds)
    os.sched_setaffinity(0, allowed)
    curves.add(report, "event against entries", "entries", "ns/event", events, {"parents: 200": 1.25})
    curves.add(report, "read against entries", "entries", "ns/pid", looked, {})
    return common.finish(report, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
