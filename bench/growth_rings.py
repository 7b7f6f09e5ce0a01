#!/usr/bin/env python3
"""How does the cost of an event, and of a shard's turn, grow with the number of CPUs (one ring each)?

Method
    Replay a storm of forks and exits, and a build, from 1 to `--rings` rings: decode, merge, apply, commit. A message
    has one frame for each ring. With `8,192 in all`, a message has 8,192 events, so each ring has fewer if there are
    more rings. With `64 a ring`, each ring has 64 events in a message. Each number of rings is measured in pairs with
    one ring, `--rounds` times.
    One shard then runs turns with as many rings, which are empty: it reads each ring, asks to be woken, and withdraws
    that. Before each turn, 32 MiB of other memory are read, so that the caches are cold, as they are after a sleep.
Command
    python bench/growth_rings.py [--rings N] [--events N] [--rounds N] [--json]
How to read it
    CPU ns of the resolver for an event. `8,192 in all` grows for two reasons: the merge compares more rings (by the
    logarithm of their number), and each frame has a fixed cost; with 256 rings a frame has only 32 events. `ns/frame`
    is the difference between the largest number of rings and one ring, divided by the number of frames. `64 a ring` has
    frames of constant size and is nearly flat.
    A turn of a shard takes at least the time of `1`; what it adds for each further ring is the cost of one shard for
    all rings.
What it does not show
    Several shards with their own rings, and the event rate of 256 CPUs.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack

import common
import curves
import loads
import numpy as np
import replay

from pipeline.sources.ring._ring import PAGE_BYTES, Ring
from pipeline.sources.ring._shared import CpuStates
from pipeline.sources.ring.handring import make_ring_file
from pipeline.sources.shard._shard import Shard

SMALL = {"rings": 4, "events": 4000, "rounds": 1}
COUNTS = (1, 4, 16, 64, 256)
TURNS = 20
#: Size of `struct pl_cpu`, one for each CPU.
CPU_BYTES = 256
COLD_BYTES, LINE_BYTES = 32 << 20, 64


class NoAcks:
    """No records have been applied."""

    def refresh(self) -> None:
        """Nothing to check."""

    def ring(self, number: int) -> None:
        """Return nothing: no resolver acknowledges the ring."""


def cost(stack: ExitStack, load: loads.Load, rings: int, round_events: int) -> Callable[[], float]:
    """Return a function that measures CPU ns an event for one more pass of the load."""
    resolver = stack.enter_context(replay.Resolver(rings))
    resolver.enter()
    stream = load.stream(rings, round_events)

    def run() -> float:
        messages = next(stream)
        begin = time.process_time_ns()
        resolver.take_in(messages)
        took = time.process_time_ns() - begin
        resolver.check()
        return took / load.count

    return run


def turn(stack: ExitStack, rings: int, others: np.ndarray) -> Callable[[], float]:
    """Return a function that measures CPU ns of a shard's turn with empty rings and cold caches."""
    made = []
    for number in range(rings):
        fd = make_ring_file(PAGE_BYTES)
        stack.callback(os.close, fd)
        made.append(Ring(fd, number=number, cpus=(number,)))
    states = CpuStates(bytearray(CPU_BYTES * rings))
    shard = Shard(made, acks=NoAcks(), send=lambda message: True, cpus=states, boot_id=bytes(16))
    stack.callback(shard.close)

    def run() -> float:
        took = 0
        for _ in range(TURNS):
            others[::LINE_BYTES].sum()
            begin = time.process_time_ns()
            shard.do_work(1 << 14)
            shard.may_sleep()
            shard.wake_up()
            took += time.process_time_ns() - begin
        return took / TURNS

    return run


def main(argv: list[str] | None = None) -> int:
    """Measure all numbers of rings; returns the exit code."""
    parser = common.parser(__doc__)
    parser.add_argument("--rings", type=int, default=256, help="largest number of rings")
    parser.add_argument("--events", type=int, default=50_000, help="events in a round")
    parser.add_argument("--rounds", type=int, default=5)
    options = common.parse(parser, argv, SMALL)
    report = common.begin(__file__, __doc__, options)
    counts = [count for count in COUNTS if count <= options.rings]
    fork_exit = loads.Load(loads.storm(options.events))
    build = loads.Load(loads.build(options.events), strings=loads.compiler_runs())
    allowed = os.sched_getaffinity(0)
    common.pin(0)
    series = {}
    for name, load, round_events in (
        ("fork/exit, 8,192 in all", fork_exit, lambda rings: 8192),
        ("fork/exit, 64 a ring", fork_exit, lambda rings: 64 * rings),
        ("build, 8,192 in all", build, lambda rings: 8192),
    ):
        with ExitStack() as stack:
            runs = {rings: cost(stack, load, rings, round_events(rings)) for rings in counts}
            series[name] = curves.paired(runs, options.rounds)
    with ExitStack() as stack:
        others = np.ones(COLD_BYTES, np.uint8)
        turns = curves.paired({rings: turn(stack, rings, others) for rings in counts}, options.rounds)
    os.sched_setaffinity(0, allowed)
    flat = {"fork/exit, 64 a ring": 1.5}
    curves.add(report, "event against rings", "rings", "ns/event", series, flat)
    curves.add(report, "a shard's turn against rings", "rings", "ns/turn", {"empty rings": turns}, {})
    for name, costs in series.items():
        if name.endswith("in all"):
            most = max(counts)
            extra = (costs[most].ns - costs[1].ns) * 8192 / (most - 1)
            report.rows.append({"cost of a frame": name, "rings": most, "ns/frame": extra})
    return common.finish(report, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
