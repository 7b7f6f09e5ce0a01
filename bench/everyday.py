#!/usr/bin/env python3
"""What does the daemon cost on an ordinary day: CPU and wake-ups at 2 to 20,000 events a second, and how fresh is it?

Method
    `procline load` makes processes at random times at a chosen rate: `forks` (they exit at once) or `execs` (with two
    execs each). A daemon with default settings watches, with three audiences: nobody, a program that has the tables
    open, and a subscriber of forks, execs and exits. forkstat watches the same processes at the same time, if it is
    installed. CPU time is that of all threads as the scheduler counts it in ns. A wake-up is a voluntary context switch
    of a thread (/proc/PID/task/TID/status). Each point takes `--seconds`, after two seconds for the daemon to notice
    the audience.
    Freshness: at each rate with readers, the probe of `procline load` forks children at random moments and reads the
    tables until they show it; see live_latency.
Command
    python bench/everyday.py [--seconds S] [--rates N,N,...] [--execs] [--json]     (root; Debian: forkstat)
How to read it
    `% of a core` is the figure to budget for. `us/event` shows why: at low rates an event costs what its turn costs, so
    what counts is the number of turns (`wake-ups/s`), not of events. `events/s` is what the daemon applied, so it
    includes the events of other processes. `over forkstat` is the ratio of the CPU times at the same time.
What it does not show
    The cost of the BPF programs, which the forking processes pay (live_cost), and that of the subscriber itself.
"""

from __future__ import annotations

import argparse
import contextlib
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
from live_peers import find_tool

from pipeline.host import processes
from pipeline.load.measuring import at_part
from pipeline.load.program import Load
from pipeline.load.scenarios import Settings

RATES = (2, 20, 100, 400, 1000, 2000, 5000, 8000, 20_000)
AUDIENCES = ("nobody", "reader", "subscriber")
#: The resolver notices a change of its audience at its housekeeping.
NOTICES_S = 2.5
PROBE_GAP_MS, PROBE_POLL_US = 20, 100

SMALL = {"seconds": 0.5, "rates": "200,2000"}

#: Reads events and drops them; its name is not Procline's, so it is not counted.
_SUBSCRIBER = """
import sys
from pathlib import Path
from pipeline import Subscriber
for _ in Subscriber(path=Path(sys.argv[1]), topics=["proc.fork", "proc.exec", "proc.exit"]):
    pass
"""


@dataclass(frozen=True, slots=True)
class Point:
    """What was used during one point: ns by role, and wake-ups."""

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
def audience(kind: str, daemon: live.Daemon, options: argparse.Namespace) -> Iterator[None]:
    """Be one of AUDIENCES, and give the daemon time to notice."""
    with contextlib.ExitStack() as stack:
        if kind == "reader":
            stack.enter_context(daemon.attach())
        elif kind == "subscriber":
            process = subprocess.Popen([sys.executable, "-c", _SUBSCRIBER, str(daemon.directory)], cwd=common.ROOT)
            stack.callback(process.wait)
            stack.callback(process.kill)
        common.settle(options, NOTICES_S)
        yield


@contextlib.contextmanager
def forkstat() -> Iterator[int | None]:
    """Run forkstat, and yield its pid; None: it is not installed."""
    path = find_tool("forkstat")
    if path is None:
        yield None
        return
    with tempfile.TemporaryFile(dir="/dev/shm") as out:
        process = subprocess.Popen([path, "-e", "fork,exec,exit", "-l"], stdout=out, stderr=subprocess.DEVNULL)
        try:
            time.sleep(0.5)
            yield process.pid
        finally:
            process.terminate()
            process.wait(10)


def events_so_far(daemon: live.Daemon) -> tuple[int, int]:
    """Return the events that the daemon has applied and lost; nothing of the daemon stays open."""
    with daemon.attach() as table:
        stats = live.caught_up(table)
    return sum(live.event_counts(stats).values()), sum(stats["lost"].values())


def measure(daemon: live.Daemon, kind: str, rate: int, peer: int | None, options: argparse.Namespace) -> dict[str, Any]:
    """Measure one point."""
    scenario = "execs" if options.execs else "forks"
    settings = Settings(scenario, float(rate), options.seconds, 1)
    events, lost = events_so_far(daemon)
    with audience(kind, daemon, options), Load(settings) as load:
        before, peer_before = used(daemon.directory), live.cpu_ns(peer) if peer else 0
        begin = time.perf_counter()
        load.begin()
        load.result()
        took = time.perf_counter() - begin
        after, peer_after = used(daemon.directory), live.cpu_ns(peer) if peer else 0
    now, lost_now = events_so_far(daemon)
    ns = {role: after.ns[role] - before.ns.get(role, 0) for role in after.ns}
    # The events of the pauses around the point are counted too, so the rate is that of the whole time.
    total, made = sum(ns.values()), max(now - events, 1)
    row: dict[str, Any] = {
        "audience": kind, "rate": rate, "events/s": made / took, "% of a core": total / took / 1e7,
        "us/event": total / made / 1000, "wake-ups/s": (after.wakeups - before.wakeups) / took,
        **{role: value / took / 1e7 for role, value in ns.items()}, "lost": lost_now - lost,
    }  # fmt: skip
    if peer:
        row |= {"forkstat %": (peer_after - peer_before) / took / 1e7}
        row |= {"over forkstat": total / max(peer_after - peer_before, 1)}
    return row


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
    seen = sorted(float(fields[1]) for fields in lines if len(fields) == 2 and fields[0] in {"fork", "exit"})
    if not seen:
        return {"audience": "reader, freshness", "rate": rate}
    return {
        "audience": "reader, freshness", "rate": rate, "n": len(seen), "p50 ms": at_part(seen, 0.5) / 1000,
        "p99 ms": at_part(seen, 0.99) / 1000,
    }  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Run all points; returns the exit code."""
    parser = common.parser(__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a point")
    parser.add_argument("--rates", default=",".join(map(str, RATES)), help="events a second")
    parser.add_argument("--execs", action="store_true", help="processes with two execs instead of none")
    options = common.parse(parser, argv, SMALL)
    rates = [int(rate) for rate in options.rates.split(",")]
    report = common.begin(__file__, __doc__)
    with live.Daemon() as daemon, forkstat() as peer:
        if peer is None:
            report.notes.append("forkstat is not installed (Debian: forkstat)")
        common.settle(options, live.SETTLES_S)
        for kind in AUDIENCES:
            for rate in rates:
                report.rows.append(measure(daemon, kind, rate, peer, options))
                if report.rows[-1]["lost"]:
                    report.notes.append(f"{kind}, {rate} events/s: {report.rows[-1]['lost']} events were lost")
        report.rows += [freshness(daemon, rate, options) for rate in rates]
    for row in report.rows:
        if row["audience"] == "nobody" and row["rate"] == 1000:
            report.target("CPU at 1,000 events/s, default settings", row["% of a core"], 1.2, "% of a core")
        if row["audience"] == "nobody" and row["rate"] == 2:
            report.target("CPU at 2 events/s", row["% of a core"], 0.1, "% of a core")
    return common.finish(report, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
