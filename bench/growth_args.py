#!/usr/bin/env python3
"""How do the cost of an exec and the cost of reading its arguments grow with their size?

Method
    Replay processes that fork, exec and exit, with arguments of 0 to `--bytes` bytes in strings of 16 bytes. In the
    series `new` all arguments differ, so the tables must store them; in `same` all are equal, so they are found and
    shared. Reads: `resolve` and then `argv` of a process. Each size is measured in pairs with size 0, `--rounds` times.
Command
    python bench/growth_args.py [--bytes N] [--processes N] [--rounds N] [--json]
How to read it
    CPU ns of the resolver for one process (three events), from decode to commit, and CPU ns of a reader for one `argv`.
    The curves cannot be flat: each byte is fetched from the message, hashed, and copied (`new`) or compared (`same`),
    and `argv` is a Python list with a string for each 16 bytes. `ns/KiB` is the slope between the last two sizes. If
    `new` and `same` cost the same, most of the time is spent on cache misses of the message.
What it does not show
    The cost in the kernel of copying the arguments out of the process; see live_cost.py.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack

import common
import curves
import loads
import replay

from pipeline.shm.reader.table import ProcessTable

SMALL = {"bytes": 1024, "processes": 300, "rounds": 1}
SIZES = (0, 256, 1024, 4096, 16384, 32768)
LIVE = 64
NEW = 512  # different arguments; more than are retained at one time, so each is new to the tables


def arguments(size: int, number: int) -> bytes:
    """Return `size` bytes of arguments that differ for each number."""
    return b"".join(b"file%011d\0" % (number * 4096 + i) for i in range(size // 16))


def cost(stack: ExitStack, size: int, variants: int, processes: int) -> tuple[replay.Resolver, Callable[[], float]]:
    """Return a resolver and a function that measures CPU ns a process."""
    strings = [(b"/usr/bin/cc1", b"cc1", arguments(size, number), b"") for number in range(variants)]
    load = loads.Load(loads.lives(processes, LIVE, lambda i: True), strings=strings)
    resolver = stack.enter_context(replay.Resolver(1, retention_ns=100_000))
    resolver.enter()
    stream = load.stream(1, 128)

    def run() -> float:
        messages = next(stream)
        begin = time.process_time_ns()
        resolver.take_in(messages)
        return (time.process_time_ns() - begin) / processes

    return resolver, run


def read_cost(stack: ExitStack, resolver: replay.Resolver, size: int) -> Callable[[], float]:
    """Return a function that measures CPU ns for reading the arguments of one live process."""
    body = (b"/usr/bin/cc1", b"cc1", arguments(size, 1), b"")
    load = loads.Load(([1, 2], [0, 0]), strings=[body])  # a fork and an exec
    resolver.enter()
    resolver.take_in(load.messages(1))
    resolver.open_for_readers()
    table = stack.enter_context(ProcessTable.attach(path=resolver.directory, max_age_ms=10**8))
    pid = int(load.processes.tgid[0])
    count = max(20, 2000 // (1 + size // 256))

    def run() -> float:
        begin = time.process_time_ns()
        for _ in range(count):
            argv = table.resolve(pid).argv
        took = time.process_time_ns() - begin
        assert sum(len(part) + 1 for part in argv) == size
        return took / count

    return run


def measure(options: argparse.Namespace, report: common.Report) -> None:
    """Measure all sizes and add them to the report."""
    sizes = [size for size in SIZES if size <= options.bytes]
    series = {}
    for name, variants in (("new", NEW), ("same", 1)):
        with ExitStack() as stack:
            made = {size: cost(stack, size, variants, options.processes) for size in sizes}
            series[name] = curves.paired({size: run for size, (_, run) in made.items()}, options.rounds)
            for resolver, _ in made.values():
                resolver.check()
    with ExitStack() as stack:
        runs = {size: read_cost(stack, stack.enter_context(replay.Resolver(1)), size) for size in sizes}
        read = {"argv": curves.paired(runs, options.rounds)}
    curves.add(report, "process against size of arguments", "bytes", "ns/process", series, {})
    curves.add(report, "argv against size of arguments", "bytes", "ns/read", read, {})
    before, last = sizes[-2:]
    for name, costs in (series | read).items():
        slope = (costs[last].ns - costs[before].ns) / ((last - before) / 1024)
        report.rows.append({"slope": name, "from bytes": before, "to": last, "ns/KiB": slope})


def main(argv: list[str] | None = None) -> int:
    """Measure all sizes; returns the exit code."""
    parser = common.parser(__doc__)
    parser.add_argument("--bytes", type=int, default=32768, help="largest size")
    parser.add_argument("--processes", type=int, default=2000, help="processes in a round")
    parser.add_argument("--rounds", type=int, default=7)
    options = common.parse(parser, argv, SMALL)
    report = common.begin(__file__, __doc__, options)
    with common.pinned(0):
        measure(options, report)
    return common.finish(report, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
