#!/usr/bin/env python3
"""How long does a look-up take, beside psutil, and what does a reader cost?

Question
    Nanoseconds for `resolve` and for a full entry, in bulk, and for a walk to the ancestors; seconds from nothing to
    the first answer in a new process; memory of a reader.
Method
    Tables are made by the real writer: the host's own processes (read with psutil) for the comparison, and 62 to 65,000
    made up ones in random order for the curve. A figure is the median of many short runs (time per call of a batch of
    calls), with the least and the 99th percentile; the process is pinned. psutil is asked for the same fields, its
    objects made anew, as a look-up by pid means. Memory: RSS and PSS of a process that has read every row of a table of
    10,000, less those of one that has only imported numpy. Start: a new interpreter that attaches, resolves one pid and
    ends, as wall time.
Command
    bench/readers_latency.py [--sizes N,N,...] [--runs N] [--json]
How to read it
    ns per call, per pid or per hop. Below 100,000 rows the tables fit into the last-level cache of a large machine: the
    figures there are what a warm table gives. Look-ups go to pids at random.
What it does not show
    A table larger than the caches on a machine that does something else; readers during a storm (readers_hammer.py).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pipeline.shm import layout
from pipeline.shm._writer import TableWriter
from pipeline.shm.table import ProcessTable

ROOT = Path(__file__).resolve().parent.parent
DEPTH = 8


def make_writer(directory: Path, rows: int, pids: int) -> TableWriter:
    """Tables for up to `rows` processes, whose heartbeat never ages."""
    writer = TableWriter.create(
        directory, boot_id=bytes(16), capture_id=1, ring_count=1, row_capacity=rows + 64, chunk_rows=4096,
        pid_capacity=pids, names_bytes=64 << 20, args_bytes=64 << 20, envs_bytes=1 << 20, boot_unix_ns=0,
        retention_ns=10**9,
    )  # fmt: skip
    writer.heartbeat(time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 10**15)
    writer.set_state(layout.STATE_READY)
    return writer


def add(writer: TableWriter, pid: int, ppid: int, comm: bytes, path: bytes, argv: list[bytes], uid: int) -> None:
    """Enter one process."""
    row = writer.py_new_row()
    hot, cold = writer.hot_view()[row : row + 1], writer.cold_view()[row : row + 1]
    parent = writer.py_head(ppid)
    hot["tgid"], hot["ppid"], hot["comm"], hot["uid"], hot["images"] = pid, ppid, comm[:16], uid, 1
    hot["start_boot_ns"], hot["flags"], hot["known"] = 1000 + row, layout.ROW_HEAD, 0x7FFF
    cold["euid"] = uid
    if parent:
        for field in ("ancestor", "parent", "creator"):
            writer.py_set_link(field, row, parent)
    writer.py_set_ref("file", row, writer.names.py_intern2(bytes(64), path or b"?"))
    strings = b"".join(part + b"\0" for part in argv)
    writer.py_set_ref("args", row, writer.args.py_intern(len(strings).to_bytes(4, "little") + strings))
    writer.py_end(row)
    writer.py_set_head(pid, row)


def measure(call: Callable[[], object], per_call: int, runs: int, repeat: int = 1) -> dict[str, float]:
    """Time `repeat` calls, `runs` times; ns per unit, of which one call does `per_call`."""
    call()
    clock = time.perf_counter_ns
    times = []
    for _ in range(runs):
        begin = clock()
        for _ in range(repeat):
            call()
        times.append((clock() - begin) / (per_call * repeat))
    times.sort()
    return {"median": statistics.median(times), "min": times[0], "p99": times[min(runs - 1, runs * 99 // 100)]}


def each(function: Callable[[int], object], pids: list[int]) -> Callable[[], None]:
    def run() -> None:
        for pid in pids:
            function(pid)

    return run


def fields_of(table: ProcessTable) -> Callable[[int], object]:
    resolve = table.resolve

    def read(pid: int) -> object:
        entry = resolve(pid)
        return entry.pid, entry.ppid, entry.comm, entry.path, entry.uid, entry.start_time_ns

    return read


def curve(size: int, runs: int) -> dict[str, Any]:
    """Made-up processes: a tree of fan-out 3, rows in random order of pids."""
    directory = Path(tempfile.mkdtemp(prefix="procline-bench-", dir="/dev/shm"))
    try:
        writer = make_writer(directory, size, 1 << 17)
        pids = list(range(1, size + 1))
        order = pids[:1] + random.Random(1).sample(pids[1:], size - 1)
        place = {pid: number for number, pid in enumerate(order)}
        for number, pid in enumerate(order):
            ppid = order[(number - 1) // 3] if number else 0
            add(writer, pid, ppid, b"p%d" % pid, b"/usr/bin/p%d" % (pid % 500), [b"p", b"-x"], pid % 7)
        deep = [pid for pid in pids if place[pid] >= size // 2]
        asked = random.Random(2).choices(pids, k=4096)
        many = np.array(random.Random(3).choices(pids, k=1 << 16), np.uint32)
        out = np.empty(len(many), layout.HOT)
        result: dict[str, Any] = {}
        with ProcessTable.attach(path=directory) as table:
            result["resolve"] = measure(each(table.resolve, asked), len(asked), runs)
            result["resolve, 6 fields"] = measure(each(fields_of(table), asked), len(asked), runs)
            result["resolve_many"] = measure(lambda: table.resolve_many(many, out), len(many), runs)
            result["resolve_many, new array"] = measure(lambda: table.resolve_many(many), len(many), runs)
            chains = np.array(random.Random(4).choices(deep, k=4096), np.uint32)
            hops = len(table.ancestors_many(chains)[0])
            result["ancestors_many, a hop"] = measure(lambda: table.ancestors_many(chains), hops, runs)
            result["children"] = measure(lambda: table.children(1), 1, runs)
            result["rows, a process"] = measure(table.rows, size, max(runs // 10, 3))
        writer.close()
        return result
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def beside_psutil(runs: int) -> dict[str, Any]:
    """The host's own processes, and a chain of DEPTH ancestors for both."""
    import psutil

    directory = Path(tempfile.mkdtemp(prefix="procline-bench-", dir="/dev/shm"))
    nested = "import os, sys, time\nn = int(sys.argv[1])\nif n and os.fork() == 0: os.execv(sys.executable, "
    nested += "[sys.executable, '-S', '-c', sys.argv[2], str(n - 1), sys.argv[2]])\n"
    nested += "print(os.getpid(), flush=True) if n == 0 else None\nsys.stdin.read()\n"
    command = [sys.executable, "-S", "-c", nested, str(DEPTH - 1), nested]
    chain = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert chain.stdout is not None
        leaf = int(chain.stdout.readline())
        writer = make_writer(directory, 10_000, 1 << 22)
        seen = []
        for process in sorted(psutil.process_iter(), key=lambda process: process.pid):
            try:
                with process.oneshot():
                    ppid, name, path = process.ppid(), process.name().encode(), process.exe().encode()
                    argv = [part.encode(errors="surrogateescape") for part in process.cmdline()]
                    uid = process.uids().real
            except psutil.Error:
                continue
            add(writer, process.pid, ppid, name, path, argv, uid)
            seen.append(process.pid)
        ours = [pid for pid in seen if pid == os.getpid() or pid == leaf] * 8
        with ProcessTable.attach(path=directory) as table:

            def with_psutil(pid: int) -> object:
                process = psutil.Process(pid)
                return process.pid, process.ppid(), process.name(), process.exe(), process.uids(), process.create_time()

            depth = len(table.ancestors(leaf))
            few = max(runs // 10, 3)
            parents = [process.pid for process in psutil.Process(leaf).parents()]
            assert [entry.pid for entry in table.ancestors(leaf)][:DEPTH] == parents[:DEPTH]
            report: dict[str, Any] = {
                "processes": len(seen),
                "depth": depth,
                "entry, 6 fields": measure(each(fields_of(table), ours), len(ours), runs, 16),
                "psutil, same fields": measure(each(with_psutil, ours), len(ours), few),
                "ancestors(pid)": measure(lambda: table.ancestors(leaf), 1, runs, 64),
                "psutil parents()": measure(lambda: psutil.Process(leaf).parents(), 1, few),
            }
        writer.close()
    finally:
        chain.kill()
        chain.communicate()
        shutil.rmtree(directory, ignore_errors=True)
    ratios = (
        ("fields", "psutil, same fields", "entry, 6 fields"),
        ("ancestors", "psutil parents()", "ancestors(pid)"),
    )
    for name, theirs, mine in ratios:
        report[f"psutil / procline, {name}"] = report[theirs]["median"] / report[mine]["median"]
    return report


SPENT = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy
if len(sys.argv) > 2:
    from pipeline.shm.table import ProcessTable
    table = ProcessTable.attach(path=sys.argv[2])
    rows = table.rows()
    assert len(rows) == 10_000 and len({entry.path for entry in table.walk()}) == 500
    del rows
fields = dict(line.split(":") for line in open("/proc/self/smaps_rollup").read().splitlines()[1:])
print(fields["Rss"].split()[0], fields["Pss"].split()[0])
"""

FIRST = """
import sys
sys.path.insert(0, sys.argv[1])
from pipeline import ProcessTable
assert ProcessTable.attach(path=sys.argv[2]).resolve(7).comm == "p7"
"""


def of_a_process(runs: int) -> dict[str, Any]:
    """Memory of a reader of 10,000 entries, and time to the first answer."""
    directory = Path(tempfile.mkdtemp(prefix="procline-bench-", dir="/dev/shm"))
    try:
        writer = make_writer(directory, 10_000, 1 << 22)
        for pid in range(1, 10_001):
            add(writer, pid, pid // 3, b"p%d" % pid, b"/usr/bin/p%d" % (pid % 500), [b"p"], 0)

        def spent(*arguments: str) -> tuple[float, float]:
            command = [sys.executable, "-c", SPENT, str(ROOT), *arguments]
            found = [subprocess.run(command, check=True, capture_output=True, text=True).stdout.split() for _ in "abc"]
            rss, pss = zip(*found, strict=True)
            return statistics.median(map(int, rss)) / 1024, statistics.median(map(int, pss)) / 1024

        bare, reader = spent(), spent(str(directory))

        def start(*command: str) -> list[float]:
            times = []
            for _ in range(max(runs // 5, 5)):
                begin = time.perf_counter()
                subprocess.run([sys.executable, *command], check=True)
                times.append(time.perf_counter() - begin)
            return sorted(times)

        first, nothing = start("-c", FIRST, str(ROOT), str(directory)), start("-c", "pass")
        writer.close()
        return {
            "RSS beyond numpy, MB": reader[0] - bare[0],
            "PSS beyond numpy, MB": reader[1] - bare[1],
            "first answer, s": statistics.median(first),
            "first answer, worst, s": first[-1],
            "an interpreter that does nothing, s": statistics.median(nothing),
        }
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="62,1000,10000,65000")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[-1]})
    report: dict[str, Any] = {
        "machine": platform.machine(), "kernel": platform.release(), "cores": os.cpu_count(),
        "python": platform.python_version(), "ns": {}, "psutil": {}, "process": {},
    }  # fmt: skip
    for size in map(int, options.sizes.split(",")):
        report["ns"][size] = curve(size, options.runs)
    report["psutil"] = beside_psutil(options.runs)
    report["process"] = of_a_process(options.runs)
    if options.json:
        print(json.dumps(report, indent=2))
        return
    for size, figures in report["ns"].items():
        print(f"{size:,} processes            ns: median     min     p99")
        for name, figure in figures.items():
            print(f"  {name:30} {figure['median']:9.1f} {figure['min']:7.1f} {figure['p99']:7.1f}")
    print("beside psutil")
    for name, figure in report["psutil"].items():
        value = f"{figure['median']:12,.0f} ns" if isinstance(figure, dict) else f"{figure:12,.0f}"
        print(f"  {name:30} {value}")
    print("a reader process")
    for name, figure in report["process"].items():
        print(f"  {name:38} {figure:8.3f}")


if __name__ == "__main__":
    main()
