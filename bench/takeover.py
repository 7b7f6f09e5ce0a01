#!/usr/bin/env python3
"""How much CPU time does a resolver need to take over the tables of a killed predecessor?

Method
    A process fills tables with `--images` images by replaying forks, execs and exits, and exits without closing them,
    like a killed resolver. One of three processes is still alive; each exec has distinct arguments. A second process
    then builds the resolver of an instance from these tables, as `pipeline.resolver.daemon.main` does, and starts it
    until the state is READY. This is repeated `--runs` times on the same tables. The source is the proc connector
    without its socket, which has no BPF maps to load, and the resolver does not wait for a first frame.
Command
    python bench/takeover.py [--images N] [--runs N] [--json]     (root, for the tables' file modes)
How to read it
    CPU milliseconds of the second process, by phase. `imports` is part of any start of a resolver. `tables` is the
    compiled pass over all rows and strings; `other` is everything else until READY: sockets, names, sessions,
    terminals. `take-over` is `tables` plus `other`. The predecessor did not complete its tables, so the first run also
    enters the processes of the host and ends all others: `first take-over`. The next runs have nothing to end.
What it does not show
    The repair after a take-over, during which the instance is already usable, and the time of waiting for shards,
    subscribers and the host's names.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common

from pipeline import paths

SMALL = {"images": 4000, "runs": 1}
IMAGES = 262_144
#: The largest kernel.pid_max, which is usual on hosts with many CPUs.
PIDS = 1 << 22
LIMIT_MS = 1000.0
PHASES = ("imports", "tables", "other", "take-over")


def specification(directory: Path) -> Any:
    """Return the specification that a supervisor passes to the resolver of an instance in `directory`."""
    import loads

    from pipeline.config.schema import Config, Tables
    from pipeline.worker.description import WorkerDescription

    return WorkerDescription(
        instance="bench", dir=str(directory), role="resolver", source="proc-connector",
        config=Config(tables=Tables(pid_capacity=PIDS)), boot_id=loads.BOOT.hex(), capture_id=1,
        supervisor_tgid=os.getppid(), ring_count=1,
    )  # fmt: skip


def fill(directory: Path, images: int) -> None:
    """Fill new tables in `directory` with about `images` images, and exit without closing them."""
    import loads
    import replay

    from pipeline.records import declared
    from pipeline.resolver.daemon import build

    processes = (images - len(loads.PARENTS.tgid)) // 2
    kinds: list[int] = []
    actors: list[int] = []
    for number in range(processes):
        lifetime = [declared.KIND_FORK, declared.KIND_EXEC] + [declared.KIND_EXIT] * (number % 3 > 0)
        kinds += lifetime
        actors += [number] * len(lifetime)
    strings = [
        (b"/usr/bin/cc1", b"cc1", b"cc1\0-O2\0-o\0build/part_%d.o\0source/part_%d.c\0" % (i, i), b"")
        for i in range(processes)
    ]
    load = loads.Load((kinds, actors), strings=strings, pid_range=processes, begin_boot_ns=2_000_000_000)
    tables = build._tables(specification(directory), 0)
    resolver = replay.Resolver(1, tables=tables)
    shutil.rmtree(resolver.root)
    resolver.enter()
    resolver.take_in(load.messages(1))
    resolver.check()
    print(json.dumps({"images": tables.rows_used, "live": tables.heads_live}), flush=True)
    os._exit(0)


def take(directory: Path) -> None:
    """Take over the tables in `directory` and print CPU ms by phase."""
    from pipeline.resolver.daemon import build, process

    # Waiting for frames is not part of the take-over, and no frames arrive here.
    process.CATCH_UP_SECONDS = 0.0
    spec = specification(directory)
    begin = time.process_time()
    make, spent = build._tables, 0.0

    def timed(*arguments: Any) -> Any:
        nonlocal spent
        before = time.process_time()
        tables = make(*arguments)
        spent = time.process_time() - before
        return tables

    build._tables = timed
    with build.build(spec) as worker:
        worker.start()
        end = time.process_time()
        tables = worker.loop.tables
        found = {"imports": begin, "tables": spent, "other": end - begin - spent, "take-over": end - begin}
        assert tables.is_takeover, tables.fresh_reason
        print(json.dumps({phase: seconds * 1000 for phase, seconds in found.items()}), flush=True)
        os._exit(0)


def child(*arguments: str) -> dict[str, float]:
    """Run this script with one of its internal options; returns the JSON that it prints."""
    done = subprocess.run([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main(argv: list[str] | None = None) -> int:
    """Measure all phases; returns the exit code."""
    parser = common.parser(__doc__)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--fill", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--take", type=Path, help=argparse.SUPPRESS)
    options = common.parse(parser, argv, SMALL)
    if options.fill:
        fill(options.fill, options.images)
    if options.take:
        take(options.take)
    report = common.begin(__file__, __doc__, options)
    root = Path(tempfile.mkdtemp(prefix="procline-bench-", dir="/dev/shm"))
    try:
        directory = root / "bench"
        filled = child("--fill", str(directory), "--images", str(options.images))
        for below in (paths.FRAMES_DIR, paths.STREAM_DIR, paths.REQUESTS_DIR):
            (directory / below).mkdir()
        runs = [child("--take", str(directory)) for _ in range(options.runs)]
    finally:
        shutil.rmtree(root, ignore_errors=True)
    for phase in PHASES:
        report.rows.append({"phase": phase, **common.percentiles([run[phase] for run in runs])})
    report.rows.append({"phase": "first take-over", **common.percentiles([runs[0]["take-over"]])})
    report.target("take-over, CPU, p50", common.percentiles([run["take-over"] for run in runs])["p50"], LIMIT_MS, "ms")
    report.notes.append(f"{filled['images']} images, {filled['live']} live processes")
    return common.finish(report, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
