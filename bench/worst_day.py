#!/usr/bin/env python3
"""What happens on the worst day: a starved host, a killed resolver with full tables, and hours with full tables?

Method
    One daemon with default settings, and four cases, one after another:
    Starved: `--busy` processes that never sleep, and `procline load forks` at `--rate` events a second for `--seconds`.
    The load has nice -20 and `--workers` workers, of which each waits for its child, so that it keeps its rate: the
    busy processes have 1/87 of its weight. It therefore also goes before the daemon, but not as a real-time load would,
    which the daemon could never interrupt. A thread of this script with a real-time priority reads every 20 ms how far
    the tables are behind.
    Loaded: `--busy-few` such processes, and a subscriber in a process of its own that compares the time of forks and
    exits with the time at which it has them, with 200 events a second for `--seconds`. The journal shows when each of
    these events was published. As a control, a real-time thread wakes another process through a socket as often, and
    that process compares the times too. Its only delay is its own waiting for a CPU.
    Take-over: `procline load forks` fills the tables with `--images` images. Then the resolver is killed `--runs`
    times. The wall time ends when the tables are ready again; CPU time is that of the new resolver until then.
    Full: `procline load execs` at `--full-rate` events a second, which the full tables evict, for `--hours`. The memory
    of all processes (PSS) is read ten times a minute.
Command
    python bench/worst_day.py [--case TEXT] [--seconds S] [--hours H] [--images N] [--json]     (root)
How to read it
    `lost` are events that are counted as lost, `missed` those reported to the subscriber as missed. `p50`, `p99`
    and `max` are in ms: how far the tables are behind, how late the subscriber has an event, and how long until the
    tables are ready. `takeovers` are resolvers that were replaced without being killed by the bench; a starved one must
    not be. An event first gathers with others (docs/architecture.md says for how long), and then several processes wake
    each other; none has priority over the busy processes. `growth %` compares the median of the last tenth of the
    memory readings with that of the first tenth.
What it does not show
    The waiting of other programs for a CPU that the daemon uses: host_tax and live_slowdown.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import common
import live
from live_latency import listening

from pipeline.bus.stream._decoder import Decoder
from pipeline.bus.stream.journal import open_journal
from pipeline.bus.stream.messages import Header, unpack_events
from pipeline.errors import ProclineError
from pipeline.host import processes
from pipeline.load.program import Load
from pipeline.load.scenarios import SCENARIOS, Settings
from tests.live.storms import busy, prefer

LAG_P99_MS, SUBSCRIBER_P99_MS, READY_MS, TAKEOVER_CPU_MS, GROWTH_PERCENT = 500.0, 15.0, 1500.0, 1000.0, 2.0
_READ_S = 0.02
_READY_LIMIT_S = 120
#: Events a second beside few busy processes.
_FEW = 200.0
#: The starved case measures what it claims only if the load reaches this part of `--rate`.
_REACHED = 0.9
#: How long one load lasts. It keeps a log of what it made.
_PART_S = 60.0

SMALL = {
    "seconds": 0.4, "busy": 6, "busy_few": 2, "rate": 500.0, "images": 2000, "runs": 1, "hours": 0.0005,
    "full_rate": 500.0,
}  # fmt: skip


@contextmanager
def lags(daemon: live.Daemon) -> Iterator[list[float]]:
    """Read how far the tables are behind, in ms, during the block."""
    found: list[float] = []
    over = threading.Event()

    def read() -> None:
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
        with daemon.attach() as table:
            while not over.wait(_READ_S):
                with contextlib.suppress(ProclineError):
                    found.append((live.now_boot_ns() - table.watermark_boot_ns) / 1e6)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


def counts(daemon: live.Daemon) -> tuple[int, int, int]:
    """Return the events that were applied, those that were lost, and the take-overs."""
    with daemon.attach() as table:
        stats = live.caught_up(table, 60.0)
    return sum(live.event_counts(stats).values()), sum(stats["lost"].values()), int(stats["takeovers"])


def make(
    scenario: str, rate: float | None, seconds: float, workers: int = 2, *, first: bool = False
) -> tuple[float, float]:
    """Make a load, which may go before other programs; returns how long it took, in s, and its events a second."""
    with Load(Settings(scenario, rate, seconds, workers)) as load:
        if first:
            prefer(load)
        begin = time.perf_counter()
        load.begin()
        made = load.result()
        return time.perf_counter() - begin, made.units * SCENARIOS[scenario].events / made.seconds


def starved(daemon: live.Daemon, options: argparse.Namespace, report: common.Report) -> None:
    """Measure losses and the delay of the tables on a host without free CPU time."""
    _, lost, takeovers = counts(daemon)
    cpu = live.usage(daemon.directory)
    with busy(options.busy, own_sessions=True), lags(daemon) as found:
        took, rate = make("forks", options.rate, options.seconds, options.workers, first=True)
    used = live.usage(daemon.directory).since(cpu)
    _, lost_now, takeovers_now = counts(daemon)
    row = times(found)
    report.rows.append({
        "case": f"starved, {options.busy} busy", "events/s": rate, **row,
        "% of a core": live.total_ns(used) / took / 1e7, "lost": lost_now - lost,
        "takeovers": takeovers_now - takeovers,
    })  # fmt: skip
    report.target("starved, load", rate, options.rate * _REACHED, "events/s", is_upper_bound=False)
    report.target("starved, lost", lost_now - lost, 0, "events")
    report.target("starved, how far behind, p99", row["p99 ms"], LAG_P99_MS, "ms")
    report.target("starved, workers taken for hung", takeovers_now - takeovers, 0, "")


def wait(there: socket.socket, count: int, results: Any) -> None:
    """Receive times and compare them with the clock, `count` times or until the other end is closed."""
    found = []
    for _ in range(count):
        data = there.recv(8)
        if not data:
            break
        found.append((live.now_boot_ns() - int.from_bytes(data, "little")) / 1e6)
    results.send(found)


@contextmanager
def waking(rate: float, seconds: float) -> Iterator[list[float]]:
    """Wake a process through a socket `rate` times a second during the block; then the list has the delays, in ms."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    results, sent = common.PROCESSES.Pipe(duplex=False)
    process = common.PROCESSES.Process(target=wait, args=(there, int(rate * seconds), sent))
    process.start()
    there.close()
    over = threading.Event()

    def wake() -> None:
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
        with contextlib.suppress(OSError):  # it has received all
            while not over.wait(1 / rate):
                here.send(live.now_boot_ns().to_bytes(8, "little"))

    thread = threading.Thread(target=wake)
    found: list[float] = []
    try:
        time.sleep(1.0)  # until it has started
        thread.start()
        yield found
    finally:
        over.set()
        thread.join()
        here.close()
        found.extend(results.recv())
        process.join(10)


def published(daemon: live.Daemon, comm: str) -> list[float]:
    """Return how long after each event of a program it was published, in ms, as the journal shows it."""
    reader = open_journal(daemon.directory)
    assert reader is not None
    decoder = Decoder()
    found = []
    firsts = reader.firsts()
    reader.at = firsts[0].at if firsts else 0
    while (read := reader.read()) is not None:
        block, messages = read
        for message in messages:
            for event in unpack_events(decoder, message.body, Header.parse(message.header).count):
                if event["event"] in {"fork", "exit"} and event["comm"] == comm:
                    found.append((block.time_ns - event["time_ns"]) / 1e6)
    reader.close()
    return found


def loaded(daemon: live.Daemon, options: argparse.Namespace, report: common.Report) -> None:
    """Measure how late a subscriber has an event beside busy processes, and which part of that is the daemon's."""
    with daemon.attach() as table:
        offset = table.boot_unix_ns
    with (
        Load(Settings("forks", _FEW, options.seconds, 1)) as load,
        listening(daemon, load.comm, offset) as heard,
        waking(_FEW, options.seconds) as woken,
        busy(options.busy_few, own_sessions=True),
    ):
        load.begin()
        load.result()
        time.sleep(1.0)
    delays = {
        f"subscriber, {options.busy_few} busy": [value / 1000 for kind in ("fork", "exit") for value in heard[kind]],
        "of that: until it is published": published(daemon, load.comm),
        "a process that a socket wakes": woken,
    }
    rows = {name: times(values) for name, values in delays.items()}
    report.rows += [
        {"case": name, **row, "missed": None if n else heard["missed"]} for n, (name, row) in enumerate(rows.items())
    ]
    whole, to_stream, wake_up = (row["p99 ms"] for row in rows.values())
    report.target("subscriber beside busy processes, p99", whole, SUBSCRIBER_P99_MS, "ms", floor=wake_up)
    report.target("until an event is published, p99", to_stream, SUBSCRIBER_P99_MS, "ms", floor=wake_up)


def times(values: list[float]) -> dict[str, Any]:
    """Return the number of values, and their middle, 99th percentile and maximum."""
    found = common.percentiles(values)
    return {"n": len(values), "p50 ms": found["p50"], "p99 ms": found["p99"], "max ms": max(values)}


def fill(daemon: live.Daemon, images: int) -> int:
    """Make processes until the tables hold at least `images` images; returns how many they hold."""
    deadline = time.monotonic() + _READY_LIMIT_S
    while (now := int(daemon.stat()["entries"]["images"])) < images and time.monotonic() < deadline:
        make("forks", None, 2.0 if images - now > 20_000 else 0.2)
        counts(daemon)
    return now


def resolver_of(daemon: live.Daemon) -> int | None:
    """Return the pid of the live resolver."""
    return next((p.pid for p in processes.listed(daemon.directory) if p.role == "resolver" and p.is_live), None)


def taken_over(daemon: live.Daemon) -> tuple[float, float]:
    """Kill the resolver; return the ms until the tables are ready again, and the successor's CPU ms until then."""
    old = resolver_of(daemon)
    assert old is not None
    before = int(daemon.stat()["takeovers"])
    begin = time.perf_counter()
    os.kill(old, signal.SIGKILL)
    deadline = begin + _READY_LIMIT_S
    while time.perf_counter() < deadline:
        with contextlib.suppress(ProclineError), daemon.attach() as table:
            stats = table.stats()
            new = resolver_of(daemon)
            if stats["takeovers"] > before and stats["state"] == "ready" and new not in (None, old):
                return (time.perf_counter() - begin) * 1000, live.cpu_ns(new or 0) / 1e6
        time.sleep(0.005)
    raise SystemExit(f"no take-over within {_READY_LIMIT_S} s:\n{daemon.log.read_text()[-2000:]}")


def takeover(daemon: live.Daemon, options: argparse.Namespace, report: common.Report) -> None:
    """Measure the time and the CPU time of take-overs of full tables."""
    images = fill(daemon, options.images)
    found = []
    for _ in range(options.runs):
        common.settle(options, live.SETTLES_S)
        found.append(taken_over(daemon))
    row = times([wall for wall, _ in found])
    cpu_ms = statistics.median(cpu for _, cpu in found)
    report.rows.append({"case": "take-over", **row, "CPU ms": cpu_ms, "images": images})
    report.target("take-over, ready, p50", row["p50 ms"], READY_MS, "ms")
    report.target("take-over, CPU", cpu_ms, TAKEOVER_CPU_MS, "ms")


def full(daemon: live.Daemon, options: argparse.Namespace, report: common.Report) -> None:
    """Measure the memory of all processes while full tables evict."""
    fill(daemon, options.images)
    _, lost, _ = counts(daemon)
    sizes: list[float] = []
    over = threading.Event()

    def read() -> None:
        while not over.wait(min(6.0, options.hours * 100)):
            found = [each["pss_bytes"] or 0 for each in processes.measure(daemon.directory)]
            sizes.append(sum(found) / 1e6)

    thread = threading.Thread(target=read)
    thread.start()
    end = time.monotonic() + options.hours * 3600
    try:
        while (left := end - time.monotonic()) > 0.1:
            make("execs", options.full_rate, min(_PART_S, left))
    finally:
        over.set()
        thread.join()
    part = max(1, len(sizes) // 10)
    first, last = statistics.median(sizes[:part]), statistics.median(sizes[-part:])
    growth = (last / first - 1) * 100
    report.rows.append({
        "case": f"full tables, {options.hours:g} h", "n": len(sizes), "images": daemon.stat()["entries"]["images"],
        "MB, first": first, "MB, last": last, "growth %": growth, "lost": counts(daemon)[1] - lost,
    })  # fmt: skip
    report.target("full tables, growth of memory", growth, GROWTH_PERCENT, "%")


CASES = {"starved": starved, "subscriber": loaded, "take-over": takeover, "full": full}


def main(argv: list[str] | None = None) -> int:
    """Run the cases; returns the exit code."""
    parser = common.parser(__doc__)
    parser.add_argument("--case", default="", help=f"only cases that contain this text: {', '.join(CASES)}")
    parser.add_argument("--seconds", type=float, default=30.0, help="of the starved and of the loaded host")
    parser.add_argument("--busy", type=int, default=60, help="processes that never sleep")
    parser.add_argument("--busy-few", type=int, default=10, help="the same, beside the subscriber")
    parser.add_argument("--rate", type=float, default=5000.0, help="events a second on the starved host")
    parser.add_argument("--workers", type=int, default=32, help="of the load on the starved host")
    parser.add_argument("--images", type=int, default=260_000, help="images of full tables (262,144 is the limit)")
    parser.add_argument("--runs", type=int, default=3, help="take-overs")
    parser.add_argument("--hours", type=float, default=1.0, help="with full tables")
    parser.add_argument("--full-rate", type=float, default=4000.0, help="events a second with full tables")
    options = common.parse(parser, argv, SMALL)
    report = common.begin(__file__, __doc__, options)
    with live.Daemon() as daemon:
        common.settle(options, live.SETTLES_S)
        for name, case in CASES.items():
            if options.case in name:
                case(daemon, options, report)
    return common.finish(report, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
