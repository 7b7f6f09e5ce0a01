#!/usr/bin/env python3
"""How long does an event take to appear in the table, and to reach a subscriber?

Method
    Table: a small C program (pipeline/load/programs/watch.c, as in `procline load`) forks children one at a time, at
    random moments (exponential, mean `--gap-ms`, fixed seed), and reads the table until it shows the child. Then it
    kills the child, also at a random moment, and waits for its exit in the same way. The latency is the boot clock at
    the first read that shows the event minus the kernel's time of the event, which is in the entry. On an idle host the
    program reads every 5 us without sleeping, at idle priority on a CPU without workers of the daemon, so that it does
    not disturb them. In a storm it reads every `--poll-us` at normal priority. Storm: a C program forks as fast as
    possible, 8 children at a time.
    Subscriber: a `Subscriber` on fork and exit reads the clock when it returns an event; on an idle host for the events
    of the same children, in a storm for all events of the storm.
    All of it three times: with default settings, where events gather for readers; with `freshness_ms = 0.5`; and with 0
    (`at once`), where they do not gather.
Command
    python bench/live_latency.py [--samples N] [--gap-ms MS] [--poll-us US] [--json]     (root)
How to read it
    Microseconds; p50, p99 and maximum of `n` events. The time begins when the kernel's tracepoint runs, so it includes
    the waiting in a ring, in a frame and in the merge. The other rows show what the machine itself needs. `chain of 4`:
    four sleeping C processes pass a number on through pipes (peers/relay.c); on an idle host an event passes the shard,
    two I/O threads of ZeroMQ and the resolver, which all sleep. `hop through libzmq`: a message between two C processes
    that do nothing else (peers/hop.c). `on one CPU`: all processes are bound to one CPU, as the daemon's workers are on
    an idle host. `poked from another CPU`: a process on another CPU wakes the sender, as an event does. This last row
    is the minimum for any daemon that uses ZeroMQ.
What it does not show
    The time from the system call to the tracepoint. If the storm occupies all cores, the reader also waits for a core,
    and the figures include that; `late turn` is the delay of its timer. A Python reader that sleeps between reads needs
    about 100 us more.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import common
import live

from pipeline.host import processes

#: Sleeping threads between the event and the table: the shard, its I/O thread, the resolver's I/O thread, the resolver.
CHAIN = 4
IDLE_POLL_US = 5.0
#: Approximate size of a shard's message with one event.
MESSAGE_BYTES = 512

SMALL = {"samples": 6, "gap_ms": 10.0, "storm_forks": 2000, "lead": 0.15}


class Case(NamedTuple):
    """Settings of the daemon, and the limits for them, p99 in microseconds; None: no target."""

    name: str
    config: str
    idle_us: float
    storm_us: float
    subscriber_us: float | None


CASES = (
    # The setting's own promise is a limit for the tables.
    Case("defaults", "", 20_000, 20_000, 15_000),
    Case("0.5 ms", "[capture]\nfreshness_ms = 0.5\n", 500, 10_000, None),
    Case("at once", "[capture]\nfreshness_ms = 0\n", 500, 10_000, None),
)

Times = dict[str, list[float]]


def watch(daemon: live.Daemon, samples: int, gap_ms: float, poll_us: float, *, seed: int, is_idle: bool) -> Times:
    """Measure the latencies of the forks and exits of children, and the delays of the reader's timer, in microseconds.

    Args:
        daemon: the daemon; its tables are read.
        samples: number of children.
        gap_ms: see pipeline/load/programs/watch.c.
        poll_us: see pipeline/load/programs/watch.c.
        seed: see pipeline/load/programs/watch.c.
        is_idle: read at idle priority on a CPU without workers of the daemon.
    """
    arguments = [str(live.program()), "watch", str(daemon.directory), *map(str, (samples, gap_ms, poll_us, seed))]
    if is_idle:
        arguments = [*on_cpus(elsewhere(daemon)), *arguments, "idle"]
    done = subprocess.run(arguments, check=True, stdout=subprocess.PIPE, text=True)
    found: Times = {"fork": [], "exit": [], "turn": []}
    for line in done.stdout.splitlines():
        what, value = line.split()
        found[what].append(float(value))
    return found


def elsewhere(daemon: live.Daemon) -> set[int]:
    """Return the CPUs to which no worker of the daemon is bound; if there are none, all CPUs."""
    cpus = os.sched_getaffinity(0)
    workers = [os.sched_getaffinity(p["pid"]) for p in processes.measure(daemon.directory) if p["role"] != "supervisor"]
    bound = set().union(*(worker for worker in workers if worker < cpus))
    return cpus - bound or cpus


def on_cpus(cpus: set[int]) -> tuple[str, ...]:
    """Return the prefix that runs a command on these CPUs only."""
    return ("taskset", "-c", ",".join(map(str, sorted(cpus))))


#: The CPU for measurements on one CPU, and the CPU that pokes it; they are equal if the machine has only one CPU.
ONE_CPU, OTHER_CPU = max(os.sched_getaffinity(0)), min(os.sched_getaffinity(0))
ON_ONE_CPU = on_cpus({ONE_CPU})


def hop(samples: int, gap_ms: float, *where: str, poked_from: int | None = None) -> list[float]:
    """Return the latency of libzmq between two sleeping processes, in microseconds.

    If `poked_from` is given, a process on that CPU wakes the sender, and the time begins there.
    """
    arguments = [*where, str(live.peer("hop")), live.libzmq(), str(int(gap_ms)), str(MESSAGE_BYTES), str(samples)]
    if poked_from is not None:
        arguments.append(str(poked_from))
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None  # stdin must stay open, because the program ends with it
        lines = process.stdout.read().splitlines()
    return [float(line) for line in lines[1:]]


def listen(directory: Path, comm: str, boot_unix_ns: int, results: Any) -> None:
    """Subscribe, and record the latency of each event of processes named `comm`, until a message on `results`."""
    from pipeline import Subscriber

    found: dict[str, list[float]] = {"fork": [], "exit": []}
    missed = 0
    with Subscriber(path=directory, topics=["fork", "exec", "exit"], idle_timeout=0.1) as subscriber:
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
    """Run a subscriber in its own process; the yielded dict contains its latencies after the block."""
    here, there = common.PROCESSES.Pipe()
    process = common.PROCESSES.Process(target=listen, args=(daemon.directory, comm, boot_unix_ns, there))
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
def storming(program: Path, options: argparse.Namespace) -> Iterator[None]:
    """Repeat a fork storm during the block."""
    script = 'while :; do "$@" > /dev/null; done'
    arguments = live.Storm(program, options.storm_forks, 0).arguments
    process = subprocess.Popen(["sh", "-c", script, "storm", *arguments], start_new_session=True)
    try:
        time.sleep(options.lead)
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def add(
    report: common.Report,
    case: str,
    what: str,
    values: list[float],
    limit: float | None = None,
    floor: float | None = None,
) -> float:
    """Add a row to the report, and a target if there is a limit; return the 99th percentile."""
    row = common.percentiles(values)
    report.rows.append({"case": case, "what": what, **row})
    if limit is not None and values:
        report.target(f"{what}, {case}, p99", row["p99"], limit, "us", floor=floor)
    return float(row["p99"])


def measure_machine(options: argparse.Namespace, report: common.Report) -> float:
    """Measure what the machine itself needs; return the 99th percentile of the minimum, in microseconds."""
    samples, gap_ms = options.samples, options.gap_ms
    add(report, "idle", f"chain of {CHAIN}", live.relay(samples, gap_ms, CHAIN))
    add(report, "idle", "hop through libzmq", hop(samples, gap_ms))
    add(report, "idle", f"chain of {CHAIN}, on one CPU", live.relay(samples, gap_ms, CHAIN, *ON_ONE_CPU))
    add(report, "idle", "hop through libzmq, on one CPU", hop(samples, gap_ms, *ON_ONE_CPU))
    poked = hop(samples, gap_ms, *ON_ONE_CPU, poked_from=OTHER_CPU)
    return add(report, "idle", "the same, poked from another CPU", poked)


def measure(
    daemon: live.Daemon, case: Case, program: Path, options: argparse.Namespace, report: common.Report, floor: float
) -> None:
    """Measure a case on an idle host and in a storm."""
    idle, storm = f"idle, {case.name}", f"storm, {case.name}"
    with daemon.attach() as table:
        offset = table.boot_unix_ns
        found = watch(daemon, options.samples, options.gap_ms, IDLE_POLL_US, seed=1, is_idle=True)
        add(report, idle, "fork to table", found["fork"], case.idle_us, floor)
        add(report, idle, "exit to table", found["exit"], case.idle_us, floor)
        with listening(daemon, live.program().name, offset) as heard:
            watch(daemon, options.samples // 2, options.gap_ms, IDLE_POLL_US, seed=2, is_idle=True)
        add(report, idle, "fork to subscriber", heard["fork"])
        add(report, idle, "exit to subscriber", heard["exit"])

        begin, counts = time.perf_counter(), live.event_counts(table.stats())
        with storming(program, options):
            busy = watch(daemon, options.samples, options.gap_ms / 5, options.poll_us, seed=3, is_idle=False)
        took = time.perf_counter() - begin
        rate = (sum(live.event_counts(live.caught_up(table)).values()) - sum(counts.values())) / took
        add(report, storm, "fork to table", busy["fork"], case.storm_us)
        add(report, storm, "exit to table", busy["exit"], case.storm_us)
        add(report, storm, "late turn", busy["turn"])
        with listening(daemon, "workload", offset) as heard, storming(program, options):
            time.sleep(options.samples * options.gap_ms / 5000)
        add(report, storm, "fork to subscriber", heard["fork"], case.subscriber_us)
        add(report, storm, "exit to subscriber", heard["exit"], case.subscriber_us)
        report.notes.append(
            f"{case.name}: the storm made {rate:,.0f} events/s; the subscriber missed {heard['missed']}"
        )
        if lost := sum(table.stats()["lost"].values()):
            report.notes.append(f"{case.name}: {lost} events were lost")


def main(argv: list[str] | None = None) -> int:
    """Run all cases; returns the exit code."""
    parser = common.parser(__doc__)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--gap-ms", type=float, default=50.0, help="mean time between two children")
    parser.add_argument("--poll-us", type=float, default=100.0, help="interval of reads in a storm")
    parser.add_argument("--storm-forks", type=int, default=20_000)
    parser.add_argument("--lead", type=float, default=0.5, help="seconds of a storm before it is measured")
    options = common.parse(parser, argv, SMALL)
    report = common.begin(__file__, __doc__, options)
    with live.storms() as program:
        floor = measure_machine(options, report)
        for case in CASES:
            with live.Daemon(case.config) as daemon:
                common.settle(options, live.SETTLES_S)
                measure(daemon, case, program, options, report, floor)
    return common.finish(report, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
