#!/usr/bin/env python3
"""What does a subscriber cost for each event that is published, by what it wants of them and how it prints them?

Method
    Publish forks, execs and exits of 2,000 processes over a real ipc socket with the relay in front of it, as the
    resolver does (16 users, 97 programs), in steps of 1,000 events. In each step, one event is an exec of a program
    that no other event is about, and one has the topic cred. The subscriber is another process on another core; it uses
    the classes that `Subscriber` uses. The publisher is at most `--window` events ahead of it. The cases alternate.
    everything: all events. selected: a `Selection` of that program, which the subscriber evaluates itself; it decodes
    only messages that contain the path. narrowed: the same `Selection`, of which the publisher evaluates the path.
    topic: only cred, which ZeroMQ evaluates in the publisher. nobody: without a subscriber. format: the CPU time to
    make the JSON of an event that has arrived, native or by `convert_event`.
Command
    python bench/subscribe.py [--events N] [--runs N] [--window N] [--json]
How to read it
    CPU time divided by all events that were published, in microseconds: of the subscriber with its ZeroMQ thread, of
    the resolver's thread (it encodes and sends), of the relay with the publisher's ZeroMQ thread. `us CPU/wanted` is
    the sum of the three divided by the events that the subscriber asked for. Medians of the runs; a first run is not
    counted.
What it does not show
    The cost of applying the events; writing the lines; snapshots.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import common
import publish

from pipeline.bus._relay import Relay
from pipeline.bus.sockets import Bus
from pipeline.bus.stream.declared import FILTERS_MAX
from pipeline.bus.stream.stream_reader import StreamReader
from pipeline.client.event_filter import EventFilter
from pipeline.export.json import dumps
from pipeline.formats.convert import convert_event
from pipeline.formats.declared import FORMATS
from pipeline.records import declared
from pipeline.resolver.stream.publisher import Publisher
from pipeline.select.selection import Selection
from pipeline.shm.layout import layout

SMALL = {"events": 10_000, "runs": 1}
STEP = 1000
PROGRAM = b"/usr/bin/wanted"
CASES: dict[str, tuple[str, ...]] = {
    "everything": ("proc",), "selected": ("proc",), "narrowed": ("proc",), "topic": ("cred",), "nobody": (),
}  # fmt: skip
TARGET_NARROW_US = 0.3
_QUIET_S = 0.5
#: Topics of the events, from the first one on.
_TOPICS = 4


def make_load(directory: Path) -> publish.Load:
    """Return the events of a step: one is wanted by its program, and one by its topic."""
    load = publish.Load(directory, STEP, 5, is_mixed=True)
    wanted = publish.make_row(load.tables, 90_000, 1, PROGRAM, b"wanted", [0, 0, 0])
    load.rows[0] = wanted
    load.topics[0], load.kinds[0] = layout.TOPICS.index("proc.exec"), declared.KIND_EXEC
    load.topics[1], load.kinds[1] = layout.TOPICS.index("proc.cred"), declared.KIND_CRED
    return load


def subscriber_main(socket: Path, core: int, case: str, progress: Any, is_over: Any, result: Any) -> None:
    """Receive until the publisher has ended, and send how many events were wanted and the CPU time."""
    os.sched_setaffinity(0, {core})
    topics = CASES[case]
    wanted = None
    if case in {"selected", "narrowed"}:
        wanted = EventFilter(Selection(paths=[PROGRAM.decode()]), topics)
    reader = StreamReader(
        f"ipc://{socket}", topics, receive_hwm=4096, skips=wanted and wanted.skips,
        only=wanted.only if wanted is not None and case == "narrowed" else None,
    )  # fmt: skip
    before = sum((reader.welcome.seqs or ())[:_TOPICS])
    count = 0
    begin = time.process_time()
    while True:
        read = reader.read(_QUIET_S)
        if not read and is_over.value:
            break
        progress.value = sum(last or 0 for last in reader.tracker.last[:_TOPICS]) - before
        count += len(read if wanted is None else wanted.of(read, lambda: None))
    result.send((count, time.process_time() - begin, reader.tracker.missed.total()))
    reader.close()


class Run(NamedTuple):
    """The CPU time of one run by its parts, s, and what the subscriber got."""

    subscriber: float
    resolver: float
    relay: float
    wanted: int
    lost: int


def run_case(case: str, load: publish.Load, socket: Path, core: int, options: argparse.Namespace) -> Run:
    """Publish to one subscriber, which runs on `core`, or to nobody."""
    load.encoder.topics_mask = 0
    for number in range(FILTERS_MAX):
        load.encoder.filters.set(number)  # that of the last run
    progress, is_over = common.PROCESSES.Value("q", 0, lock=False), common.PROCESSES.Value("b", 0, lock=False)
    receiving, sending = common.PROCESSES.Pipe(duplex=False)
    inner = socket.with_suffix(".inner")
    with Bus() as bus, Relay(socket, inner, mode=0o600):
        publisher = Publisher(
            load.encoder, bus, inner, boot=publish.BOOT, boot_unix_ns=publish.BOOT_UNIX_NS, epoch=1, send_hwm=4096
        )
        child = common.PROCESSES.Process(target=subscriber_main, args=(socket, core, case, progress, is_over, sending))
        if case != "nobody":
            child.start()
            while not load.encoder.subscribed_mask:
                publisher.do_work(time.monotonic_ns())
                time.sleep(0.01)
            publisher.do_work(time.monotonic_ns())
            time.sleep(0.1)
        sent = 0
        own, everything = time.thread_time(), time.process_time()
        while sent < options.events:
            if case in {"everything", "selected"} and sent - progress.value > options.window:
                time.sleep(0.0002)
                continue
            load.encode()
            publisher.send(load.encoder.take())
            publisher.do_work(time.monotonic_ns())
            sent += STEP
        own = time.thread_time() - own
        is_over.value = 1
        count, cpu, missed = 0, 0.0, 0
        if case != "nobody":
            begin = time.thread_time()
            while not receiving.poll():  # heartbeats, as in the resolver
                publisher.do_work(time.monotonic_ns())
                time.sleep(0.01)
            own_after = time.thread_time() - begin
            count, cpu, missed = receiving.recv()
            child.join()
        else:
            own_after = 0.0
        others = time.process_time() - everything - own - own_after
        publisher.close()
    return Run(cpu, own, others, count, missed)


def measure(directory: Path, core: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure all cases, alternating, with subscribers that run on `core`."""
    common.pin(0)
    load = make_load(directory)
    runs: dict[str, list[Run]] = {case: [] for case in CASES}
    for number in common.laps(options):
        for case in CASES:
            run = run_case(case, load, directory / f"stream-{case}-{number}.ipc", core, options)
            if number:
                runs[case].append(run)
    load.tables.close(remove=True)
    sent = -(-options.events // STEP) * STEP
    rows = []
    for case, made in runs.items():
        parts = {
            part: [getattr(run, part) / sent * 1e6 for run in made] for part in ("subscriber", "resolver", "relay")
        }
        total = [sum(run[:3]) for run in made]
        wanted = statistics.median(run.wanted for run in made)
        rows.append(
            {
                "case": case,
                **{f"{part} us": statistics.median(values) for part, values in parts.items()},
                "spread": common.spread(total),
                "us CPU/wanted": statistics.median(total) / wanted * 1e6 if wanted else None,
                "wanted in 1000": wanted * 1000 / sent,
                "lost": sum(run.lost for run in made),
            }
        )
    return rows


def measure_formats(directory: Path, runs: int) -> list[dict[str, Any]]:
    """Measure how long it takes to make the JSON of an event."""
    from pipeline.bus.stream.messages import Decoder, unpack_events

    load = make_load(directory)
    load.encoder.topics_mask = 15
    load.encode()
    decoder = Decoder()
    made = [event for message in load.encoder.take() for event in unpack_events(decoder, message.body, message.count)]
    load.tables.close(remove=True)
    rows = []
    for form in ("native", *FORMATS):
        times = []
        for run in range(runs + 1):
            begin = time.process_time()
            size = sum(len(dumps(each if form == "native" else convert_event(each, form, host="h"))) for each in made)
            if run:
                times.append((time.process_time() - begin) / len(made) * 1e6)
        row = {"format": form, "us CPU/event": statistics.median(times), "spread": common.spread(times)}
        rows.append(row | {"bytes/event": size / len(made)})
    return rows


def main(argv: list[str] | None = None) -> int:
    """Run all cases; returns the exit code."""
    parser = common.parser(__doc__)
    parser.add_argument("--events", type=int, default=200_000, help="events a run")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--window", type=int, default=4000, help="events that the publisher may be ahead")
    options = common.parse(parser, argv, SMALL)
    report = common.begin(__file__, __doc__, options)
    root = Path(tempfile.mkdtemp(prefix="procline-bench-", dir="/dev/shm"))
    cores = os.sched_getaffinity(0)
    try:
        rows = {row["case"]: row for row in measure(root / "stream", max(cores), options)}
        report.rows += [*rows.values(), *measure_formats(root / "formats", options.runs)]
        for case in ("narrowed", "topic"):
            report.target(f"{case}, subscriber, per event", rows[case]["subscriber us"], TARGET_NARROW_US, "us")
    finally:
        os.sched_setaffinity(0, cores)
        shutil.rmtree(root, ignore_errors=True)
    return common.finish(report, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
