#!/usr/bin/env python3
"""How much memory do a process in the tables and a reader need, and how fast are look-ups among a million entries?

Method
    live:    Start a daemon with default settings, then `--sleepers` processes that fork and exec a program with
             distinct arguments. Count their images in the table (one of the fork, one of the exec; 320 bytes each). Add
             the growth of names, from the daemon's statistics, and of the memory of `costs`, which grows with processes
             that end among them. Arguments are shown apart.
    reader:  Write tables of 10,000 entries. Compare a new Python process with numpy that attaches and resolves all of
             them with one that only imports numpy: PSS and private memory of /proc/self/smaps_rollup.
    growth:  Write tables of 10^2 to `--entries` entries, each with a path (one of 1,000) and a parent. Measure
             `resolve_many` on random pids (fixed seed) in calls of `--batch`: best and median of `--runs`, after a
             first pass over all pages.
Command
    python bench/memory.py [--entries N] [--sleepers N] [--batch N] [--runs N] [--no-live] [--json]     (live: root)
How to read it
    Bytes a process: growth of the tables. ns/pid by entries: how look-ups slow down when the tables exceed the caches;
    `MB` is the size of the table files on tmpfs.
What it does not show
    The daemon's own memory (live_cost.py). The tables that this bench writes have no arguments.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common
import live
import numpy as np

from pipeline.shm.layout import layout
from pipeline.shm.reader.table import ProcessTable
from pipeline.shm.writer._opening import open_tables
from pipeline.shm.writer._writer import TableWriter
from tests.shm import _inside

SMALL = {"entries": 1000, "sleepers": 20, "batch": 100, "runs": 2}
SIZES = (100, 1000, 10_000, 65_000, 250_000, 1_000_000)
FIRST_PID = 2
READER = """
import json, sys
import numpy as np
def memory():
    lines = dict(line.split(":", 1) for line in open("/proc/self/smaps_rollup").read().splitlines()[1:])
    return {name: int(lines[name].split()[0]) * 1024 for name in ("Pss", "Private_Clean", "Private_Dirty")}
if len(sys.argv) > 1:
    from pipeline import ProcessTable
    table = ProcessTable.attach(path=sys.argv[1], max_age_ms=10**8)
    pids = np.arange(int(sys.argv[2]), dtype=np.uint32) + int(sys.argv[3])
    for pid in pids[:: len(pids) // 1000 or 1]:
        entry = table.resolve(int(pid))
        assert entry.pid == pid and entry.path
        table.ancestors(int(pid))
    for at in range(0, len(pids), 1000):
        assert table.resolve_many(pids[at : at + 1000])["generation"].all()
print(json.dumps(memory()))
"""


def write_tables(directory: Path, entries: int, depth: int = 8) -> TableWriter:
    """Write tables with `entries` live processes, pids from FIRST_PID on, in chains of `depth` with random parents."""
    tables = open_tables(
        directory, boot_id=bytes(range(16)), capture_id=1, ring_count=1, row_capacity=entries + 4096,
        pid_capacity=max(32768, entries + FIRST_PID + 1), names_bytes=1 << 24, args_bytes=1 << 20, envs_bytes=1 << 20,
        chunk_rows=4096, key_capacity=1024, boot_unix_ns=10**18, retention_ns=10**9,
    )  # fmt: skip
    file = bytes(layout.FILE.itemsize)
    rows = [_inside.new_row(tables) for _ in range(entries)]
    hot = tables.hot_view()
    numbers = np.arange(entries)
    begins = np.random.default_rng(1).integers(0, np.maximum(numbers, 1))
    parents = np.where(numbers % (depth + 1), numbers - 1, begins)
    hot["tgid"][rows] = numbers + FIRST_PID
    hot["ppid"][rows] = parents + FIRST_PID
    hot["start_boot_ns"][rows] = 10**12 + numbers
    hot["flags"][rows], hot["known"][rows] = layout.ROW_HEAD, 0x7FFF
    hot["comm"][rows] = b"sleeper"
    tables.cold_view()["fork_boot_ns"][rows] = 10**12 + numbers
    for number, row in enumerate(rows):
        tables.py_set_ref("file", row, tables.py_intern_names(file + b"/usr/lib/things/program-%d" % (number % 1000)))
        if number:
            tables.py_set_link("ancestor", row, rows[parents[number]])
        tables.py_end(row)
        _inside.set_head(tables, number + FIRST_PID, row)
    tables.set_state(layout.STATE_READY)
    tables.heartbeat(live.now_boot_ns())
    return tables


def growth(root: Path, options: argparse.Namespace, report: common.Report) -> None:
    """Measure random look-ups by the number of entries."""
    sizes = [size for size in SIZES if size <= options.entries] or [options.entries]
    rng = np.random.default_rng(1)
    curve: dict[int, float] = {}
    for size in sizes:
        directory = root / f"tables-{size}"
        with write_tables(directory, size), ProcessTable.attach(path=directory, max_age_ms=10**8) as table:
            batches = [
                (rng.integers(0, size, options.batch) + FIRST_PID).astype(np.uint32)
                for _ in range(max(1, min(1_000_000, max(size * 4, 200_000)) // options.batch))
            ]
            out = np.empty(options.batch, layout.HOT)
            every = (np.arange(size) + FIRST_PID).astype(np.uint32)
            assert table.resolve_many(every)["generation"].all()
            runs = []
            for _ in range(options.runs + 1):
                begin = time.perf_counter_ns()
                for batch in batches:
                    table.resolve_many(batch, out)
                runs.append((time.perf_counter_ns() - begin) / len(batches) / options.batch)
            size_bytes = sum(file.stat().st_blocks for file in directory.iterdir()) * 512
        shutil.rmtree(directory, ignore_errors=True)
        curve[size] = statistics.median(runs[1:])
        report.rows.append({
            "case": "resolve_many at random", "entries": size, "ns/pid": curve[size], "best": min(runs[1:]),
            "spread": common.spread(runs[1:]), "MB": size_bytes / 1e6,
        })  # fmt: skip
    report.curves.append({
        "title": "look-up at random against entries", "x_label": "entries", "y_label": "ns/pid", "x": list(curve),
        "y": {"resolve_many": list(curve.values())},
    })  # fmt: skip
    if 65_000 in curve:
        report.target("resolve_many at random, 65,000 entries", curve[65_000], 25, "ns/pid")
        if 1_000_000 in curve:
            report.target("1,000,000 entries relative to 65,000", curve[1_000_000] / curve[65_000], 4, "times")


def reader(root: Path, options: argparse.Namespace, report: common.Report) -> None:
    """Measure the memory of a reader process in addition to numpy's."""
    entries = min(10_000, options.entries)
    directory = root / "reader"
    with write_tables(directory, entries):
        found: dict[str, list[dict[str, int]]] = {"numpy only": [], "reader": []}
        for _ in range(options.runs):
            for case, arguments in (
                ("numpy only", []), ("reader", [str(directory), str(entries), str(FIRST_PID)]),
            ):  # fmt: skip
                done = subprocess.run(
                    [sys.executable, "-c", READER, *arguments], stdout=subprocess.PIPE, check=True, cwd=common.ROOT,
                    env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
                )  # fmt: skip
                found[case].append(json.loads(done.stdout))
    private: dict[str, float] = {}
    for case, each in found.items():
        pss = statistics.median(one["Pss"] for one in each) / 1e6
        private[case] = statistics.median(one["Private_Clean"] + one["Private_Dirty"] for one in each) / 1e6
        report.rows.append({"case": case, "entries": entries, "PSS MB": pss, "private MB": private[case]})
    extra = private["reader"] - private["numpy only"]
    report.target(f"private memory of a reader beyond numpy, {entries} entries", extra, 3, "MB")


def costs_bytes(directory: Path) -> int:
    """Return how much memory the segment `costs` has; its length is its ceiling."""
    return (directory / "costs").stat().st_blocks * 512


def daemon(options: argparse.Namespace, report: common.Report) -> None:
    """Measure the growth of a live daemon's tables for each process."""
    with live.Daemon() as running, running.attach() as table:
        time.sleep(1.0)
        before, costs = live.caught_up(table)["memory"], costs_bytes(running.directory)
        with live.crowd(options.sleepers) as pids:
            after, costs = live.caught_up(table)["memory"], costs_bytes(running.directory) - costs
            # Count only the images of the sleepers, because other processes make the tables grow too.
            rows = sum(1 + sum(image.pid == pid for image in table.ancestors(pid)) for pid in pids)
    grown = {what: after[f"{what}_used_bytes"] - before[f"{what}_used_bytes"] for what in ("names", "args")}
    each = (rows * (layout.HOT.itemsize + layout.COLD.itemsize) + grown["names"] + costs) / options.sleepers
    report.rows.append({
        "case": "live process", "processes": options.sleepers, "images each": rows / options.sleepers,
        "bytes each": each, "of it costs": costs / options.sleepers,
        "args bytes each": grown["args"] / options.sleepers,
    })  # fmt: skip
    report.target("memory of a live process, without arguments", each, 700, "bytes")
    report.notes.append("live process: names and arguments include those of other processes, images do not")


def main(argv: list[str] | None = None) -> int:
    """Run all cases; returns the exit code."""
    parser = common.parser(__doc__)
    parser.add_argument("--entries", type=int, default=1_000_000, help="entries of the largest table")
    parser.add_argument("--sleepers", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=1000, help="pids of one call")
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--no-live", action="store_true", help="skip the part that needs a daemon and root")
    options = common.parse(parser, argv, SMALL)
    report = common.begin(__file__, __doc__, options)
    root = Path(tempfile.mkdtemp(prefix="procline-bench-", dir="/dev/shm"))
    allowed = os.sched_getaffinity(0)
    try:
        if not options.no_live:
            daemon(options, report)
        common.pin(0)
        reader(root, options, report)
        growth(root, options, report)
    finally:
        os.sched_setaffinity(0, allowed)
        shutil.rmtree(root, ignore_errors=True)
    return common.finish(report, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
