#!/usr/bin/env python3
"""How do the cost of an event and the cost of a read grow with the number of readers?

Method
    0 to `--readers` processes resolve pids and walk to ancestors as fast as possible, while a storm of forks and exits
    is replayed into the same tables. The writer has its own core; the readers share the others. Each number of readers
    is measured in pairs with the smallest (none for events, one for reads), `--rounds` times. The series `tables at
    rest` has the same readers on tables that are not written, in turn with the others.
Command
    python bench/growth_readers.py [--readers N] [--events N] [--rounds N] [--json]
How to read it
    CPU ns of the writer for an event, and CPU ns of the readers for a look-up (one in sixteen also walks to the
    ancestors). Readers write no shared memory and take no lock, so both should be flat. The only cost for the writer is
    to fetch back the cache lines of rows that it changes. If there are more readers than cores, they take turns and
    lose their cache contents. This cost is the same for tables at rest, so `read over tables at rest` excludes it.
What it does not show
    More simultaneous readers than cores.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable

import common
import curves
import loads
import replay
from hammers import Hammers

SMALL = {"readers": 2, "events": 4000, "rounds": 1}
COUNTS = (1, 2, 4, 8, 16)


def main(argv: list[str] | None = None) -> int:
    """Measure all numbers of readers; returns the exit code."""
    parser = common.parser(__doc__)
    parser.add_argument("--readers", type=int, default=16, help="largest number of readers")
    parser.add_argument("--events", type=int, default=50_000, help="events in a round")
    parser.add_argument("--rounds", type=int, default=7)
    options = common.parse(parser, argv, SMALL)
    report = common.begin(__file__, __doc__, options)
    counts = [count for count in COUNTS if count <= options.readers]
    load = loads.Load(loads.storm(options.events))
    stream = load.stream(4)
    allowed = os.sched_getaffinity(0)
    with replay.Resolver(4) as resolver, replay.Resolver(4) as other:
        for each, messages in ((resolver, next(stream)), (other, load.messages(4))):
            each.enter()
            each.open_for_readers()
            each.take_in(messages)
        with Hammers(resolver.directory, max(counts)) as here, Hammers(other.directory, max(counts)) as elsewhere:
            common.pin(0)

            def measured(count: int, hammers: Hammers = here) -> tuple[float, float]:
                """Return (ns an event, ns a read) with `count` readers."""
                messages = next(stream)
                hammers.let(count)
                reads, cpu_ns = hammers.read()
                begin = time.process_time_ns()
                resolver.take_in(messages)
                event = (time.process_time_ns() - begin) / load.count
                time.sleep(0.05 if count else 0)  # with few events, give each reader the time to run
                now_reads, now_cpu_ns = hammers.read()
                while count and now_reads == reads:  # on a busy machine, none has run yet
                    time.sleep(0.01)
                    now_reads, now_cpu_ns = hammers.read()
                hammers.let(0)
                return event, (now_cpu_ns - cpu_ns) / max(now_reads - reads, 1)

            def of(which: int, count: int, hammers: Hammers = here) -> Callable[[], float]:
                return lambda: measured(count, hammers)[which]

            event = curves.paired({count: of(0, count) for count in (0, *counts)}, options.rounds)
            read = curves.paired({count: of(1, count) for count in counts}, options.rounds)
            rest = curves.paired({count: of(1, count, elsewhere) for count in counts}, options.rounds)
            over = [measured(counts[-1])[1] / measured(counts[-1], elsewhere)[1] for _ in range(options.rounds)]
        resolver.check()
    os.sched_setaffinity(0, allowed)
    curves.add(report, "event against readers", "readers", "ns/event", {"fork/exit": event}, {"fork/exit": 1.05})
    curves.add(report, "read against readers", "readers", "ns/read", {"resolve": read, "tables at rest": rest}, {})
    report.rows.append({"readers": counts[-1], "read over tables at rest": statistics.median(over)})
    what = f"read with {counts[-1]} readers, relative to tables at rest"
    report.target(what, statistics.median(over), 1.25, "times")
    return common.finish(report, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
