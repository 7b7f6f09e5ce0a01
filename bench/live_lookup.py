#!/usr/bin/env python3
"""How much does a look-up cost, compared with psutil, a Go map with a mutex, and libsinsp's table?

Method
    Python: a live daemon and a crowd of `--sleepers` processes. One thread calls, for each pid in turn: `resolve`;
    `resolve` followed by reading pid, ppid, comm, path, argv, uid, gid and start time; the same fields of a new
    psutil.Process; `ancestors`; psutil's `parents()`.
    Bulk: tables with each number of `--entries`, in chains of `--depth`, and random pids (fixed seed): `resolve_many`
    in calls of 1,000 pids, the same with only the fields ppid and start, `ancestors_many`, and `ancestor_pids_many` of
    `--depth` ancestors, of random pids and of pids that are different from each other in each call (at most as many as
    there are entries). A Go program and a C++ program (peers/gomap, peers/sinsp) with the same number of entries in
    the same chains do single look-ups in process, and walk as many ancestors. They run in turns with the calls of
    Procline. They are built if their compilers and libraries are installed (Debian: golang-go; libfalcosecurity0-dev);
    otherwise the report says that they are missing.
    A round of bulk calls is the median of its calls, and that of a peer the median of as many pids, so that other work
    on the machine disturbs both as little as possible.
    Everything is pinned to one core; a first round is not counted; `--runs` rounds. In each round, both sides first
    make the same calls once without counting them, because the caches hold the data of the other side.
Command
    python bench/live_lookup.py [--sleepers N] [--entries N,N,…] [--runs N] [--no-peers] [--json]     (root)
How to read it
    ns a call, a pid or a hop: median, best and spread of the rounds. Python calls are compared with Python calls, and
    bulk with bulk. Procline's tables belong to another process, and each copy is checked against the writer. The peers'
    tables are in the calling process; libsinsp's has no lock. The targets that name the best peer are medians of the
    ratios of one round's neighbours. Questions for few fields are answered with words that the reader keeps since the
    first round; nothing changes in these tables. `ancestor_pids_many` copies what it has walked before in the same
    call: with 100 entries, most chains of 1,000 random pids, and a part of most chains of 100 different pids.
    A reader caches the names, paths and arguments of the last rows (2,048 places) until a row changes. Those of the
    crowd are in this cache, as on a host of that size. With `--sleepers 5000` few of them are.
What it does not show
    psutil's cache of Process objects that are kept, and the cost of asking a Go or C++ program from another process.
    With few entries all data is in the first-level cache.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import live
import numpy as np
from memory import FIRST_PID, write_tables

from pipeline.shm.layout import layout
from pipeline.shm.reader.table import ProcessTable

#: Compiling the peers takes 24 s of CPU time, and no test requires them.
SMALL = {"sleepers": 20, "entries": "100", "runs": 1, "least_s": 0.002, "lookups": 10_000, "peers": False}


def add(report: common.Report, case: str, what: str, unit: str, runs: list[float], **more: Any) -> float:
    """Add a row; returns the median."""
    middle = statistics.median(runs)
    report.rows.append({
        "case": case, "what": what, **more, "ns": middle, "best": min(runs), "spread": common.spread(runs), "per": unit,
    })  # fmt: skip
    return middle


def python_calls(options: argparse.Namespace, report: common.Report) -> None:
    """Compare Python calls with psutil on the live host."""
    with live.crowd(options.sleepers) as pids, live.Daemon() as daemon, daemon.attach() as table:
        time.sleep(0.5)
        common.pin(0)

        def timed(call: Callable[[int], Any]) -> list[float]:
            turn = itertools.cycle(pids).__next__
            nothing = common.time_ns_per_call(lambda: turn(), least_s=options.least_s, runs=options.runs)
            overhead = statistics.median(nothing)
            runs = common.time_ns_per_call(lambda: call(turn()), least_s=options.least_s, runs=options.runs)
            return [run - overhead for run in runs]

        def whole(pid: int) -> tuple[Any, ...]:
            e = table.resolve(pid)
            return e.pid, e.ppid, e.comm, e.path, e.argv, e.uid, e.gid, e.start_time_ns

        row = add(report, "Procline", "resolve", "call", timed(table.resolve))
        report.target("resolve, bare row", row, 100, "ns")
        fields = add(report, "Procline", "resolve, 8 fields", "call", timed(whole))
        report.target("resolve, 8 fields read", fields, 300, "ns")
        hops = len(table.ancestors(pids[0]))
        chain = add(report, "Procline", f"ancestors, {hops} of them", "call", timed(table.ancestors))
        try:
            import psutil
        except ImportError:
            report.notes.append("psutil is not installed: no comparison")
            return

        def theirs(pid: int) -> dict[str, Any]:
            wanted = ["pid", "ppid", "name", "exe", "cmdline", "uids", "gids", "create_time"]
            return dict(psutil.Process(pid).as_dict(wanted))

        peer = add(report, "psutil", "new Process, 8 fields", "call", timed(theirs))
        count = len(psutil.Process(pids[0]).parents())
        parents = add(
            report, "psutil", f"parents(), {count} of them", "call", timed(lambda pid: psutil.Process(pid).parents())
        )
        report.target("psutil relative to Procline, same fields", peer / fields, 300, "times", is_upper_bound=False)
        ratio = parents / count / (chain / hops)
        report.target("psutil relative to Procline, an ancestor", ratio, 200, "times", is_upper_bound=False)


def bulk(root: Path, entries: int, peers: dict[str, Path], options: argparse.Namespace, report: common.Report) -> None:
    """Measure bulk look-ups in tables of one size."""
    directory = root / f"tables-{entries}"
    ours: dict[str, list[float]] = {"rows": [], "hops": [], "fields": [], "pid hops": [], "different": []}
    theirs: dict[str, dict[str, list[float]]] = {name: {"lookup_ns": [], "hop_ns": []} for name in peers}
    with (
        write_tables(directory, entries, options.depth),
        ProcessTable.attach(path=directory, max_age_ms=10**8) as table,
    ):
        rng = np.random.default_rng(1)
        pids = [(rng.integers(0, entries, 1000) + FIRST_PID).astype(np.uint32) for _ in range(options.lookups // 1000)]
        out = np.empty(1000, layout.HOT)
        few = pids[: options.lookups // 10_000]
        size = min(entries, 1000)
        different = [
            (rng.permutation(entries)[:size] + FIRST_PID).astype(np.uint32) for _ in range(options.lookups // 1000)
        ]
        row_hops = [len(table.ancestors_many(batch)[0]) for batch in few]
        pid_hops = [int(np.count_nonzero(table.ancestor_pids_many(each, options.depth).ancestors)) for each in pids]
        different_hops = [
            int(np.count_nonzero(table.ancestor_pids_many(each, options.depth).ancestors)) for each in different
        ]
        all_of = [1000] * len(pids)
        calls: dict[str, tuple[Callable[[Any], Any], list[Any], list[int]]] = {
            "rows": (lambda batch: table.resolve_many(batch, out), pids, all_of),
            "hops": (table.ancestors_many, pids, row_hops),
            "fields": (lambda batch: table.resolve_many(batch, fields=("ppid", "start_time_ns")), pids, all_of),
            "pid hops": (lambda batch: table.ancestor_pids_many(batch, options.depth), pids, pid_hops),
            "different": (lambda batch: table.ancestor_pids_many(batch, options.depth), different, different_hops),
        }
        for _ in range(options.runs + 1):
            for what, (call, batches, counts) in calls.items():
                # The peers and the other calls have filled the caches. The peers do not count their first run either.
                for batch in batches:
                    call(batch)
                times = []
                for batch, count in zip(batches, counts, strict=False):
                    begin = time.perf_counter_ns()
                    call(batch)
                    times.append((time.perf_counter_ns() - begin) / max(1, count))
                ours[what].append(statistics.median(times))
            for name, program in peers.items():
                arguments = [program, *map(str, [entries, options.lookups, 1, options.depth])]
                done = subprocess.run(arguments, stdout=subprocess.PIPE, check=True, timeout=120)
                found = json.loads(done.stdout)
                for what, values in theirs[name].items():
                    values += found[what]
    shutil.rmtree(directory, ignore_errors=True)
    lookup = add(report, "Procline", "resolve_many", "pid", ours["rows"][1:], entries=entries)
    report.target(f"resolve_many, {entries:,} entries", lookup, 8 if entries < 10_000 else 25, "ns/pid")
    hop = add(report, "Procline", "ancestors_many", "hop", ours["hops"][1:], entries=entries)
    report.target(f"ancestors_many, {entries:,} entries", hop, 20, "ns/hop")
    add(report, "Procline", "resolve_many, ppid and start", "pid", ours["fields"][1:], entries=entries)
    add(report, "Procline", "ancestor_pids_many", "hop", ours["pid hops"][1:], entries=entries)
    add(report, "Procline", "ancestor_pids_many, different pids", "hop", ours["different"][1:], entries=entries)
    for name, found in theirs.items():
        add(report, name, "look-up", "pid", found["lookup_ns"][1:], entries=entries)
        add(report, name, "ancestors", "hop", found["hop_ns"][1:], entries=entries)
    if not peers:
        return
    least = 1 if entries < 10_000 else 8
    for what, own, peer in (
        ("ppid and start", "fields", "lookup_ns"), ("ancestor pids", "pid hops", "hop_ns"),
        ("ancestor pids, different pids", "different", "hop_ns"),
    ):  # fmt: skip
        # Neighbours of one round are compared: all of a round may have been slowed down by other work.
        rounds = zip(ours[own], *(found[peer] for found in theirs.values()), strict=True)
        ratio = statistics.median([min(others) / mine for mine, *others in rounds][1:])
        report.target(f"the best peer, {what}, {entries:,} entries", ratio, least, "times", is_upper_bound=False)


def build_peers(place: Path, report: common.Report) -> dict[str, Path]:
    """Build the peers; if one cannot be built, the notes of the report say why."""
    peers = live.HERE / "peers"
    built = {}
    go = shutil.which("go")
    if go is None:
        report.notes.append("the Go map is missing: install Go (Debian: golang-go)")
    else:
        # Nothing is downloaded, because the program uses only the standard library.
        environment = os.environ | {"GOCACHE": str(live.cache("go")), "GOFLAGS": "-mod=mod", "GOTOOLCHAIN": "local"}
        build = [go, "build", "-o", str(place / "gomap"), "."]
        if (error := _build(build, cwd=peers / "gomap", env=environment)) is None:
            built["Go map, mutex"] = place / "gomap"
        else:
            report.notes.append(f"the Go map is missing: {error}")
    if not Path("/usr/include/falcosecurity/libsinsp/sinsp.h").exists():
        report.notes.append("libsinsp is missing: install its headers (Debian: libfalcosecurity0-dev)")
        return built
    if shutil.which("pkg-config") is None or shutil.which("g++") is None:
        report.notes.append("libsinsp is missing: install a compiler (Debian: g++, pkg-config, uthash-dev)")
        return built
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "libsinsp"], capture_output=True, text=True)
    # Debian's pkg-config file names a directory of headers that does not exist.
    compiler = ["g++", "-std=c++17", "-O2", "-o", str(place / "sinsp"), "main.cpp", "-I/usr/include/falcosecurity"]
    if (error := _build([*compiler, *flags.stdout.split()], cwd=peers / "sinsp", env=dict(os.environ))) is None:
        built["libsinsp"] = place / "sinsp"
    else:
        report.notes.append(f"libsinsp is missing: {error}")
    return built


def _build(command: list[str], *, cwd: Path, env: dict[str, str]) -> str | None:
    """Run a compiler; returns the last line of its errors if it failed, otherwise None."""
    try:
        done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    except OSError as error:
        return str(error)
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]


def main(argv: list[str] | None = None) -> int:
    """Run all cases; returns the exit code."""
    parser = common.parser(__doc__)
    parser.add_argument("--sleepers", type=int, default=200)
    parser.add_argument("--entries", default="100,65000", help="table sizes of the bulk cases, comma-separated")
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--lookups", type=int, default=200_000, help="random pids in a round of the bulk cases")
    parser.add_argument(
        "--peers", action=argparse.BooleanOptionalAction, default=True, help="compile and run the Go and C++ programs"
    )
    parser.add_argument("--least-s", type=float, default=0.05, help="minimum length of a round of Python calls")
    options = common.parse(parser, argv, SMALL)
    report = common.begin(__file__, __doc__, options)
    allowed = os.sched_getaffinity(0)
    root = Path(tempfile.mkdtemp(prefix="procline-bench-", dir="/dev/shm"))
    try:
        with tempfile.TemporaryDirectory(prefix="procline-bench-") as place:
            peers = build_peers(Path(place), report) if options.peers else {}
            python_calls(options, report)
            common.pin(0)
            for entries in map(int, options.entries.split(",")):
                bulk(root, entries, peers, options, report)
    finally:
        os.sched_setaffinity(0, allowed)
        shutil.rmtree(root, ignore_errors=True)
    return common.finish(report, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
