#!/usr/bin/env python3
"""How long after it happened does an event show in the table, and when does a subscriber have it?

Method
    Table: a small C program forks children one at a time, at random moments (exponential, mean `--gap-ms`, fixed seed);
    the reader gets the pid through shared memory and reads the table until `resolve` shows the child; then it kills the
    child, and the same is done for its exit. The latency is the boot clock at the first reading that shows it minus the
    kernel's time of the event, which the entry has. The reader looks every 20 us, in a storm every `--poll-us`: one
    that spins takes a core from what it measures, and on two cores whoever is woken on that one waits for its slice to
    end (3 to 4 ms). Storm: a C program forks as fast as it can, 8 at a time, for the whole run.
    Subscriber: a `Subscriber` on fork and exit takes the clock when an event comes out of it; idle the events of the
    same children, in a storm all of the storm's.
Command
    python bench/live_latency.py [--samples N] [--gap-ms MS] [--poll-us US] [--json]     (root)
How to read it
    Microseconds; p50, p99 and maximum of `n` events. An event is due when the kernel's tracepoint runs, so nothing is
    left out that waits in a ring, a frame or the merge. The row `floor` is when the reader knew the pid that it had to
    ask for: no reading can be earlier. `chain of N` is what the machine itself takes for so long a way: N sleeping C
    processes hand a number on by pipes (peers/relay.c). An event passes the shard, the two I/O threads of ZeroMQ and
    the resolver, which on an idle host all sleep.
What it does not show
    The time from the system call to the tracepoint. In a storm on as many cores as it has children to run, the reader
    itself waits for its turn, and that is in the figures: `late turn` says by how much its timer was late meanwhile.
"""

from __future__ import annotations

import argparse
import ctypes
import mmap
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import common
import live

#: Sleepers between the kernel's event and the table: shard, its I/O thread, the resolver's, the resolver.
CHAIN = 4
IDLE_POLL_US = 20.0
_PR_SET_TIMERSLACK = 29

SMALL = {"samples": 15, "gap_ms": 10.0, "storm_forks": 2000}
_NEVER_S = 5.0


class Prober:
    """Has children forked, and watches them appear in the table and end there."""

    def __init__(self, table: Any, forker: Forker, poll_us: float) -> None:
        self.table = table
        self.forker = forker
        self.poll_s = poll_us / 1e6
        self.fork: list[float] = []
        self.exit: list[float] = []
        self.floor: list[float] = []
        self.late_turn: list[float] = []

    def watch(self, is_there: Callable[[], int | None]) -> float:
        """Read until `is_there` gives the event's boot time; returns microseconds since then."""
        deadline = time.monotonic() + _NEVER_S
        while (happened := is_there()) is None:
            if self.poll_s:
                due = time.perf_counter() + self.poll_s
                time.sleep(self.poll_s)
                self.late_turn.append((time.perf_counter() - due) * 1e6)
            if time.monotonic() > deadline:
                raise TimeoutError(f"an event did not show within {_NEVER_S} s")
        return (live.now_boot_ns() - happened) / 1000

    def probe(self) -> None:
        """One child from fork to exit."""
        table, offset = self.table, self.table.boot_unix_ns
        called = live.now_boot_ns()
        pid = self.forker.fork(self.poll_s)
        known = live.now_boot_ns()

        def forked() -> int | None:
            entry = table.resolve(pid)
            # Whoever had the pid before may still be in the table.
            if entry is None or (at := entry.fork_time_ns - offset) < called:
                return None
            return int(at)

        def exited() -> int | None:
            entry = table.resolve(pid)
            return None if entry is None or not entry.exit_time_ns else int(entry.exit_time_ns - offset)

        self.fork.append(self.watch(forked))
        at = forked()
        if at is not None:
            self.floor.append((known - at) / 1000)
        os.kill(pid, signal.SIGKILL)
        self.exit.append(self.watch(exited))


class Forker:
    """peers/forker.c: forks a child on command."""

    def __init__(self, place: Path) -> None:
        program = live.compile_c(live.HERE / "peers" / "forker.c", place / "forker")
        shared = place / "pid"
        shared.write_bytes(bytes(4096))
        with shared.open("r+b") as file:
            self._pid = memoryview(mmap.mmap(file.fileno(), 4096)).cast("I")
        self._process = subprocess.Popen([str(program), str(shared)], stdin=subprocess.PIPE, bufsize=0)

    def fork(self, poll_s: float) -> int:
        """Have a child forked; returns its pid."""
        assert self._process.stdin is not None
        self._pid[0] = 0
        self._process.stdin.write(b"f")
        deadline = time.monotonic() + _NEVER_S
        while not (pid := self._pid[0]):
            if poll_s:
                time.sleep(poll_s)
            if time.monotonic() > deadline:
                raise TimeoutError("no child was forked")
        assert pid != 0xFFFFFFFF, "fork failed"
        return int(pid)

    def close(self) -> None:
        """End it, and with it what it forked."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def probe_many(table: Any, samples: int, gap_ms: float, poll_us: float, seed: int) -> Prober:
    """Probe `samples` children at random moments."""
    with tempfile.TemporaryDirectory(prefix="procline-bench-", dir="/dev/shm") as place:
        forker = Forker(Path(place))
        prober, moments = Prober(table, forker, poll_us), random.Random(seed)
        try:
            for _ in range(samples):
                time.sleep(moments.expovariate(1000 / gap_ms))
                prober.probe()
        finally:
            forker.close()
    return prober


def relay(samples: int, gap_ms: float, hops: int) -> list[float]:
    """How long a chain of sleeping processes takes to hand a number on, in microseconds."""
    with tempfile.TemporaryDirectory(prefix="procline-bench-") as place:
        program = live.compile_c(live.HERE / "peers" / "relay.c", Path(place) / "relay")
        done = subprocess.run(
            [str(program), str(hops), str(samples), str(gap_ms), "1"], check=True, capture_output=True, text=True
        )
    return [int(line) / 1000 for line in done.stdout.split()]


def listen(directory: Path, comm: str, boot_unix_ns: int, results: Any) -> None:
    """Subscribe, and note the latency in microseconds of each event of processes named `comm`, until told to stop."""
    from pipeline import Subscriber

    found: dict[str, list[float]] = {"fork": [], "exit": []}
    missed = 0
    with Subscriber(path=directory, topics=["fork", "exit"], timeout=0.1) as subscriber:
        results.send("ready")
        while not results.poll():
            for event in subscriber:
                now = live.now_boot_ns() + boot_unix_ns
                if event["event"] in found:
                    if event["comm"] != comm:
                        continue
                    found[event["event"]].append((now - event["time_ns"]) / 1000)
                elif event["event"] == "missed":
                    missed += event["count"]
                if results.poll():
                    break
    results.send((found, missed))


@contextmanager
def listening(daemon: live.Daemon, comm: str, boot_unix_ns: int) -> Iterator[dict[str, Any]]:
    """A subscriber in a process of its own; its findings are in what this yields, after the end."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=listen, args=(daemon.directory, comm, boot_unix_ns, there))
    process.start()
    assert here.recv() == "ready"
    time.sleep(0.3)
    found: dict[str, Any] = {}
    try:
        yield found
        time.sleep(0.3)
    finally:
        here.send("stop")
        events, found["missed"] = here.recv()
        found.update(events)
        process.join(10)


@contextmanager
def storming(program: Path, forks: int) -> Iterator[None]:
    """A fork storm, again and again, for as long as the block lasts."""
    script = 'while :; do "$@" > /dev/null; done'
    arguments = live.Storm(program, forks, 0).arguments
    process = subprocess.Popen(["sh", "-c", script, "storm", *arguments], start_new_session=True)
    try:
        time.sleep(0.5)
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def measure(daemon: live.Daemon, program: Path, options: argparse.Namespace, report: common.Report) -> None:
    """All cases."""
    with daemon.attach() as table:
        table.resolve(os.getpid())
        offset = table.boot_unix_ns

        def add(case: str, what: str, values: list[float], limit: float | None = None) -> None:
            row = common.percentiles(values)
            report.rows.append({"case": case, "what": what, **row})
            if limit is not None and values:
                report.target(f"{what}, {case}, p99", row["p99"], limit, "us")

        for hops in (1, CHAIN):
            add("idle", f"chain of {hops}", relay(options.samples, options.gap_ms, hops))
        idle = probe_many(table, options.samples, options.gap_ms, IDLE_POLL_US, seed=1)
        add("idle", "fork to table", idle.fork, 500)
        add("idle", "exit to table", idle.exit, 500)
        add("idle", "floor", idle.floor)
        with listening(daemon, "forker", offset) as heard:
            probe_many(table, options.samples // 2, options.gap_ms, 100, seed=2)
        add("idle", "fork to subscriber", heard["fork"])
        add("idle", "exit to subscriber", heard["exit"])

        begin, counts = time.perf_counter(), live.event_counts(table.stats())
        with storming(program, options.storm_forks):
            busy = probe_many(table, options.samples, options.gap_ms / 5, options.poll_us, seed=3)
        took = time.perf_counter() - begin
        rate = (sum(live.event_counts(live.caught_up(table)).values()) - sum(counts.values())) / took
        add("storm", "fork to table", busy.fork, 10_000)
        add("storm", "exit to table", busy.exit, 10_000)
        add("storm", "late turn", busy.late_turn)
        with listening(daemon, "workload", offset) as heard, storming(program, options.storm_forks):
            time.sleep(options.samples * options.gap_ms / 5000)
        add("storm", "fork to subscriber", heard["fork"], 15_000)
        add("storm", "exit to subscriber", heard["exit"], 15_000)
        report.notes.append(f"the storm made {rate:,.0f} events/s; the subscriber missed {heard['missed']}")
        if lost := sum(table.stats()["lost"].values()):
            report.notes.append(f"{lost} events were lost")


def main(argv: list[str] | None = None) -> int:
    """Run all cases; returns the exit code."""
    parser = common.parser(__doc__)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--gap-ms", type=float, default=50.0, help="mean time between two children")
    parser.add_argument("--poll-us", type=float, default=100.0, help="how often it looks in a storm; idle every 20")
    parser.add_argument("--storm-forks", type=int, default=20_000)
    options = common.parse(parser, argv, SMALL)
    report = common.begin(__file__, __doc__)
    # Timers of the reader are else up to 50 us late (prctl(2)).
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1000, 0, 0, 0)
    with live.storms() as program, live.Daemon() as daemon:
        time.sleep(1.0)
        measure(daemon, program, options, report)
    return common.finish(report, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
