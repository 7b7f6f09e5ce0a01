#!/usr/bin/env python3
"""What does the daemon cost on an ordinary day: CPU and wake-ups at 2 to 20,000 events a second, and how fresh is it?

Method
    `procline load` makes processes at random times at a chosen rate: `forks` (they exit at once) or `execs` (with two
    execs each). A daemon with default settings watches, with three audiences: nobody, a program that has the tables
    open, and a subscriber of forks, execs and exits, which also notes how late it has each. forkstat watches the same
    processes at the same time, and with `--execs` also execsnoop, if they are installed. CPU time is that of all
    threads as the scheduler counts it in ns. A wake-up is a voluntary context switch of a thread
    (/proc/PID/task/TID/status). Each point takes `--seconds`, after four seconds for the daemon to notice the audience.
    Then the same load runs again, and with it a C program (peers/wake.c) that wakes up as often as the daemon did, and
    does nothing else.
    Freshness: at each rate with readers, the probe of `procline load` forks children at random moments and reads the
    tables until they show it; see live_latency. On demand: without a load, a program forks a child at random moments
    and asks for its state as of now. In turns with that, six sleeping C processes pass a number on through pipes
    (peers/relay.c, row `wake-ups`): for a question the resolver wakes up, a shard, an I/O thread of ZeroMQ in each of
    them, the resolver again, and the program that asked.
Command
    python bench/everyday.py [--seconds S] [--rates N,N,...] [--execs] [--json]     (root; forkstat libbpf-tools)
How to read it
    `% of a core` is the figure to budget for. `us/event` shows why: at low rates an event costs what its turn costs, so
    what counts is the number of turns (`wake-ups/s`), not of events. `events/s` is what the daemon applied, so it
    includes the events of other processes. `over forkstat` is the ratio of the CPU times at the same time. `waking %`
    is the C program: less is not possible with this many wake-ups. p50 and p99 are how late the audience has an event.
What it does not show
    The cost of the BPF programs, which the forking processes pay (live_cost), and that of the subscriber itself.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import live
from live_latency import listening
from live_peers import PACKAGES, TOOLS, find_tool

from pipeline.host import processes
from pipeline.load.program import Load
from pipeline.load.scenarios import Settings

RATES = (1, 2, 20, 100, 400, 1000, 2000, 5000, 8000, 20_000)
AUDIENCES = ("nobody", "reader", "subscriber")
#: The resolver notices that readers have gone at its housekeeping, and believes it at the next one.
NOTICES_S = 4.0
PROBE_GAP_MS, PROBE_POLL_US = 20, 100

#: Over forkstat's CPU time, without readers and subscribers.
TARGETS_OVER_FORKSTAT = {20: 1.5, 100: 0.8, 1000: 0.3, 5000: 0.12}
ON_DEMAND_P99_MS = 2.0
#: Pause between two questions, questions between two measurements of a chain of wake-ups, and wake-ups of one question.
SHORTEST_GAP_S, LONGEST_GAP_S, IN_TURN, WAKEUPS_OF_A_QUESTION = 0.02, 0.2, 25, 6

SMALL = {"seconds": 0.2, "rates": "200,2000", "questions": 5}


@dataclass(frozen=True, slots=True)
class Point:
    """The resources that were used during one point: ns by role, and wake-ups."""

    ns: dict[str, int]
    wakeups: int


def used(directory: Path) -> Point:
    """Return CPU time and wake-ups of the daemon so far."""
    wakeups = 0
    for process in processes.measure(directory):
        for task in Path(f"/proc/{process['pid']}/task").iterdir():
            with contextlib.suppress(OSError):
                status = (task / "status").read_text()
                wakeups += int(status.partition("\nvoluntary_ctxt_switches:")[2].split(None, 1)[0])
    return Point(live.usage(directory).ns, wakeups)


@contextlib.contextmanager
def audience(kind: str, daemon: live.Daemon, comm: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Be one of AUDIENCES, and give the daemon time to notice; the dict then has what a subscriber heard."""
    with contextlib.ExitStack() as stack:
        heard: dict[str, Any] = {}
        if kind == "reader":
            stack.enter_context(daemon.attach())
        elif kind == "subscriber":
            with daemon.attach() as table:
                offset = table.boot_unix_ns
            heard = stack.enter_context(listening(daemon, comm, offset))
        common.settle(options, NOTICES_S)
        yield heard


@contextlib.contextmanager
def running(command: list[str], settle_s: float) -> Iterator[int]:
    """Run a program that watches or wakes; yields its pid."""
    with tempfile.TemporaryFile(dir="/dev/shm") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL)
        try:
            time.sleep(settle_s)
            yield process.pid
        finally:
            process.terminate()
            process.wait(10)


@contextlib.contextmanager
def peers(report: common.Report, *, execs: bool) -> Iterator[dict[str, int]]:
    """Run the tools that watch the same processes; yields their pids by name. One that is not installed is missing."""
    with contextlib.ExitStack() as stack:
        found = {}
        for name in ("forkstat", "execsnoop") if execs else ("forkstat",):
            path = find_tool(name)
            if path is None:
                report.notes.append(f"{name} is not installed (Debian: {PACKAGES[name]})")
            else:
                pid = stack.enter_context(running([path, *TOOLS[name][1]], TOOLS[name][2]))
                if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                    found[name] = pid
                else:
                    report.notes.append(f"{name} cannot run on this kernel")
        yield found


def events_so_far(daemon: live.Daemon) -> tuple[int, int]:
    """Return the events that the daemon has applied and lost; nothing of the daemon stays open."""
    with daemon.attach() as table:
        stats = live.caught_up(table)
    return sum(live.event_counts(stats).values()), sum(stats["lost"].values())


def measure(
    daemon: live.Daemon, kind: str, rate: int, watching: dict[str, int], options: argparse.Namespace
) -> dict[str, Any]:
    """Measure one point."""
    settings = Settings("execs" if options.execs else "forks", float(rate), options.seconds, 1)
    events, lost = events_so_far(daemon)
    with Load(settings) as load, audience(kind, daemon, load.comm, options) as heard:
        before, peers_before = used(daemon.directory), {name: live.cpu_ns(pid) for name, pid in watching.items()}
        begin = time.perf_counter()
        load.begin()
        load.result()
        took = time.perf_counter() - begin
        after, peers_after = used(daemon.directory), {name: live.cpu_ns(pid) for name, pid in watching.items()}
        # The events of the pauses around the point are counted too, so the rate is that of the whole time.
        now, lost_now = events_so_far(daemon)
    ns = {role: after.ns[role] - before.ns.get(role, 0) for role in after.ns}
    total, made, wakeups = sum(ns.values()), max(now - events, 1), (after.wakeups - before.wakeups) / took
    row: dict[str, Any] = {
        "audience": kind, "rate": rate, "events/s": made / took, "% of a core": total / took / 1e7,
        "us/event": total / made / 1000, "wake-ups/s": wakeups, "waking %": waking(wakeups, settings),
        **{role: value / took / 1e7 for role, value in ns.items()}, "lost": lost_now - lost,
    }  # fmt: skip
    for name in watching:
        spent = peers_after[name] - peers_before[name]
        row |= {f"{name} %": spent / took / 1e7, f"over {name}": total / max(spent, 1)}
    return row | late([value / 1000 for event in ("fork", "exit") for value in heard.get(event, ())])


def waking(per_s: float, settings: Settings) -> float:
    """Return what a C program with this many wake-ups a second takes beside the same load, in percent of a core."""
    with Load(settings) as load, running([str(live.peer("wake")), repr(max(per_s, 0.1))], 0.2) as pid:
        before, begin = live.cpu_ns(pid), time.perf_counter()
        load.begin()
        load.result()
        return (live.cpu_ns(pid) - before) / (time.perf_counter() - begin) / 1e7


def late(delays_ms: list[float]) -> dict[str, Any]:
    """Return number and percentiles of delays as columns; nothing if there are none."""
    if not delays_ms:
        return {}
    found = common.percentiles(delays_ms)
    return {"n": len(delays_ms), "p50 ms": found["p50"], "p99 ms": found["p99"]}


def freshness(daemon: live.Daemon, rate: int, options: argparse.Namespace) -> dict[str, Any]:
    """Measure how long the tables take to show an event, with a reader and a load of `rate`."""
    command = [str(live.program()), "watch", str(daemon.directory), "0", str(PROBE_GAP_MS), str(PROBE_POLL_US), "1"]
    with (
        daemon.attach(),
        Load(Settings("forks", float(rate), options.seconds, 1)) as load,
        tempfile.TemporaryFile("w+") as out,
    ):
        common.settle(options, NOTICES_S)
        probe = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=subprocess.DEVNULL)
        try:
            load.begin()
            load.result()
        finally:
            assert probe.stdin is not None
            probe.stdin.close()
            probe.wait(10)
        out.seek(0)
        lines = [line.split() for line in out]
    seen = [float(fields[1]) / 1000 for fields in lines if len(fields) == 2 and fields[0] in {"fork", "exit"}]
    return {"audience": "reader, freshness", "rate": rate, **late(seen)}


def on_demand(daemon: live.Daemon, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure how long an answer takes about a process that was forked just before the question, and the wake-ups."""
    took: list[float] = []
    chain: list[float] = []
    gaps = random.Random(7)
    with daemon.attach() as table:
        common.settle(options, NOTICES_S)
        for number in range(options.questions):
            if number % IN_TURN == 0:
                passed = min(IN_TURN, options.questions)
                chain += live.relay(passed, 1000 * (SHORTEST_GAP_S + LONGEST_GAP_S) / 2, WAKEUPS_OF_A_QUESTION)
            time.sleep(gaps.uniform(SHORTEST_GAP_S, LONGEST_GAP_S))
            child = os.fork()
            if not child:
                signal.pause()
            try:
                begin = time.perf_counter()
                entry = table.resolve(child, fresh=True)
                took.append((time.perf_counter() - begin) * 1000)
                assert entry is not None and entry.pid == child, "a process that was just forked is unknown"
            finally:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
    return [
        {"audience": "wake-ups", **late([value / 1000 for value in chain])},
        {"audience": "on demand", **late(took)},
    ]


def curve(rows: list[dict[str, Any]], rates: list[int], name: str) -> dict[str, Any]:
    """Return the CPU time by rate as a curve of the report."""
    series = {kind: [row["% of a core"] for row in rows if row["audience"] == kind] for kind in AUDIENCES}
    for column in ("forkstat %", "execsnoop %", "waking %"):
        values = [row[column] for row in rows if row["audience"] == "nobody" and column in row]
        if values:
            series[column.removesuffix(" %")] = values
    return {
        "title": f"An ordinary day ({name})", "x": rates, "y": series, "x_label": "events a second, as asked for",
        "y_label": "% of a core",
    }  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Run all points; returns the exit code."""
    parser = common.parser(__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a point")
    parser.add_argument("--rates", default=",".join(map(str, RATES)), help="events a second")
    parser.add_argument("--execs", action="store_true", help="processes with two execs instead of none")
    parser.add_argument("--questions", type=int, default=200, help="for a state as of now")
    options = common.parse(parser, argv, SMALL)
    rates = [int(rate) for rate in options.rates.split(",")]
    report = common.begin(__file__, __doc__, options)
    with live.Daemon() as daemon, peers(report, execs=options.execs) as watching:
        common.settle(options, live.SETTLES_S)
        for kind in AUDIENCES:
            for rate in rates:
                report.rows.append(measure(daemon, kind, rate, watching, options))
                if report.rows[-1]["lost"]:
                    report.notes.append(f"{kind}, {rate} events/s: {report.rows[-1]['lost']} events were lost")
        report.curves.append(curve(report.rows, rates, "fork, execs, exit" if options.execs else "fork, exit"))
        report.rows += [freshness(daemon, rate, options) for rate in rates]
        report.rows += on_demand(daemon, options)
        wakeups, asked = report.rows[-2:]
        report.target("on demand, p99", asked["p99 ms"], ON_DEMAND_P99_MS, "ms", floor=wakeups["p99 ms"])
    for row in report.rows[:-2]:
        if row["audience"] == "nobody" and "over forkstat" in row and row["rate"] in TARGETS_OVER_FORKSTAT:
            limit = TARGETS_OVER_FORKSTAT[row["rate"]]
            report.target(f"over forkstat at {row['rate']:,} events/s", row["over forkstat"], limit, "x")
        if row["audience"] == "nobody" and row["rate"] == 1000:
            report.target("CPU at 1,000 events/s, default settings", row["% of a core"], 1.2, "% of a core")
        if row["audience"] == "nobody" and row["rate"] == 2:
            report.target("CPU at 2 events/s", row["% of a core"], 0.1, "% of a core", floor=row["waking %"])
    return common.finish(report, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
