#!/usr/bin/env python3
"""How long do the screens that list processes take on a host with many of them?

Method
    Fill tables with `--live` processes of a build, by replaying forks and execs, and with `--exited` more that have
    exited and are retained. Each process has ten arguments, a cgroup and a named user; every eighth is in a container.
    Start each command `--runs` times in turn, as a whole process, with its output to a pipe. The page cache is warm.
Command
    python bench/screens.py [--live N] [--exited N] [--runs N] [--json]
How to read it
    Milliseconds from the start of a command to its end (`p50`), and ms of CPU (`cpu p50`). `python -c pass` is the cost
    of any Python program. `ps`, `grep` and `tree` read the live processes; with `--exited`, and in `grep`, also those
    that are retained.
What it does not show
    Terminals: colours and cutting of lines. Thread counts: the processes are synthetic, so /proc does not have them.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import common
import loads
import numpy as np
import replay

from pipeline.records import declared
from pipeline.shm.names.usernames import DIRECTORY, HOST_FILE

SMALL = {"live": 200, "exited": 300, "runs": 1}
TARGET_MS = 300
#: Any form of `ps` and `grep` lists this many processes, live or retained, within TARGET_MS.
SMALL_TOTAL = 5000
TARGETS_CPU_MS = {"tree --exited": 1000, "dump": 700, "cost": 1000}
CGROUP = 4711
CONTAINER = b"5b0d9eb8a1c6f1d9a30a8a4a1c2b8f6d7c1e9f0a2b3c4d5e6f708192a3b4c5d6"


def story(live: int, exited: int) -> loads.Actions:
    """Return the events: each process forks and calls exec, and the first `exited` ones end when younger ones live."""
    kinds: list[int] = []
    actors: list[int] = []
    for number in range(live + exited):
        kinds += [declared.KIND_FORK, declared.KIND_EXEC]
        actors += [number, number]
        if number >= live:
            kinds.append(declared.KIND_EXIT)
            actors.append(number - live)
    return kinds, actors


def filled(live: int, exited: int) -> replay.Resolver:
    """Return tables with that many processes, open for readers."""
    total = live + exited
    resolver = replay.Resolver(1, rows=3 * total + (1 << 15), pids=1 << 17, retention_ns=1 << 60)
    resolver.applier.cgroups.name(CGROUP, b"/system.slice/build.service")
    resolver.applier.cgroups.name(CGROUP + 1, b"/system.slice/docker-" + CONTAINER + b".scope", CONTAINER)
    resolver.enter()
    load = loads.Load(story(live, exited), strings=loads.compiler_runs(), pid_range=total)
    load.task["cgroup_id"] = CGROUP + (load.header["tgid"] % 8 == 0)
    resolver.take_in(load.messages(1))
    resolver.check()
    names = resolver.directory / DIRECTORY
    names.mkdir()
    users = {"mnt_ns": 0, "user_ns": 0, "user": {"0": "root", "1000": "dev"}, "group": {"0": "root", "1000": "dev"}}
    (names / HOST_FILE).write_text(json.dumps(users))
    resolver.open_for_readers()
    return resolver


def cases(instance: str) -> dict[str, list[str]]:
    """Return the command of each case."""
    start = [sys.executable, "-m", "pipeline.cli.main"]
    name = ["--name", instance]
    return {
        "python -c pass": [sys.executable, "-c", "pass"],
        "ps": [*start, "ps", *name],
        "ps --where": [*start, "ps", *name, "--where", "command ~ 'part_[0-9]*77' and uid > 0"],
        "ps --json": [*start, "ps", *name, "--json"],
        "ps --exited": [*start, "ps", *name, "--exited"],
        "grep --live": [*start, "grep", *name, "part_[0-9]*77", "--live"],
        "grep": [*start, "grep", *name, "part_[0-9]*77"],
        "tree": [*start, "tree", *name],
        "tree --exited": [*start, "tree", *name, "--exited"],
        "dump": [*start, "dump", *name],
        "cost": [*start, "cost", *name],
        "tree --exited --all": [*start, "tree", *name, "--exited", "--all"],
    }


def timed(arguments: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Run a command; returns ms of wall time and ms of CPU."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.perf_counter()
    subprocess.run(arguments, env=environment, cwd=os.sep, stdout=subprocess.PIPE, check=True)
    wall = time.perf_counter() - begin
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall * 1000, (after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime) * 1000


def main(argv: list[str] | None = None) -> int:
    """Run all cases; returns the exit code."""
    parser = common.parser(__doc__)
    parser.add_argument("--live", type=int, default=5000)
    parser.add_argument("--exited", type=int, default=32_000)
    parser.add_argument("--runs", type=int, default=7)
    options = common.parse(parser, argv, SMALL)
    report = common.begin(__file__, __doc__, options)
    wall: dict[str, list[float]] = {}
    cpu: dict[str, list[float]] = {}
    with filled(options.live, options.exited) as resolver:
        directory = Path(resolver.directory)
        environment = os.environ | {"PROCLINE_RUNTIME_DIR": str(directory.parent), "PYTHONPATH": str(common.ROOT)}
        for run in common.laps(options):
            for case, arguments in cases(directory.name).items():
                times = timed(arguments, environment)
                if run:  # the first run fills the page cache
                    wall.setdefault(case, []).append(times[0])
                    cpu.setdefault(case, []).append(times[1])
    for case, found in wall.items():
        report.rows.append({
            "case": case, **common.percentiles(found), "cpu p50": float(np.median(cpu[case])),
        })  # fmt: skip
        # With more retained processes, those commands that also list these may take longer.
        is_small = options.live + options.exited <= SMALL_TOTAL and case in {"ps --json", "ps --exited", "grep"}
        if is_small or case in {"ps", "ps --where", "grep --live"}:
            floor = common.percentiles(wall["python -c pass"])["p50"]
            report.target(f"{case}, p50", common.percentiles(found)["p50"], TARGET_MS, "ms", floor=floor)
    for case, most in TARGETS_CPU_MS.items():
        report.target(f"{case}, CPU", float(np.median(cpu[case])), most, "ms")
    report.notes.append(f"{options.live} live and {options.exited} exited processes")
    return common.finish(report, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
