#!/usr/bin/env python3
"""What does a subscriber spend on each event that is published, by what it wants of them and how it prints them?

Method
    Publish forks, execs and exits of 2,000 processes over a real ipc socket, as `publish` does (16 users, 97 programs),
    in steps of 1,000 events. In each step, one event is an exec of a program that no other event is about, and one has
    the topic cred. The subscriber is another process on another core; it uses the classes that `Subscriber` uses. The
    publisher is at most `--window` events ahead of it.
    everything: all events. selected: a `Selection` of that program, which the subscriber evaluates itself; it decodes
    only messages that contain the path. topic: only cred, which ZeroMQ evaluates in the publisher. format: the CPU time
    to make the JSON of an event that has arrived, native or by `convert_event`.
Command
    python bench/subscribe.py [--events N] [--runs N] [--window N] [--json]
How to read it
    `us CPU/published` is the subscriber's CPU time, including its ZeroMQ thread, divided by all events that were
    published, and `us CPU/wanted` by those that it asked for. Medians of the runs; a first run is not counted.
What it does not show
    The cost of the publisher, which is in `publish`; writing the lines; snapshots.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common
import publish

from pipeline.bus.sockets import Bus
from pipeline.bus.stream.stream_reader import StreamReader
from pipeline.client.event_filter import EventFilter
from pipeline.export.json import dumps
from pipeline.formats.convert import convert_event
from pipeline.formats.declared import FORMATS
from pipeline.records import events
from pipeline.resolver.stream.publisher import Publisher
from pipeline.select.selection import Selection
from pipeline.shm.layout import layout

SMALL = {"events": 10_000, "runs": 1}
STEP = 1000
PROGRAM = b"/usr/bin/wanted"
CASES: dict[str, tuple[str, ...]] = {"everything": ("proc",), "selected": ("proc",), "topic": ("cred",)}
TARGET_TOPIC_US = 0.3
_QUIET_S = 0.5
#: Topics of the events, from the first one on.
_TOPICS = 4


def make_load(directory: Path) -> publish.Load:
    """Return the events of a step: one is wanted by its program, and one by its topic."""
    load = publish.Load(directory, STEP, 5, is_mixed=True)
    wanted = publish.make_row(load.tables, 90_000, 1, PROGRAM, b"wanted", [0, 0, 0])
    load.rows[0] = wanted
    load.topics[0], load.kinds[0] = layout.TOPICS.index("proc.exec"), events.KIND_EXEC
    load.topics[1], load.kinds[1] = layout.TOPICS.index("proc.cred"), events.KIND_CRED
    return load


def subscriber_main(socket: Path, core: int, case: str, progress: Any, is_over: Any, result: Any) -> None:
    """Receive until the publisher has ended, and send how many events were wanted and the CPU time."""
    os.sched_setaffinity(0, {core})
    topics = CASES[case]
    wanted = EventFilter(Selection(paths=[PROGRAM.decode()]), topics) if case == "selected" else None
    skips = None if wanted is None else wanted.skips
    reader = StreamReader(f"ipc://{socket}", topics, receive_hwm=4096, skips=skips)
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


def measure(case: str, directory: Path, core: int, options: argparse.Namespace) -> dict[str, Any]:
    """Measure a case with a subscriber, which runs on `core`."""
    common.pin(0)
    context = multiprocessing.get_context("spawn")
    load = make_load(directory)
    published, wanted, lost = [], [], 0
    for run in range(options.runs + 1):
        load.encoder.topics_mask = 0
        progress, is_over = context.Value("q", 0, lock=False), context.Value("b", 0, lock=False)
        receiving, sending = context.Pipe(duplex=False)
        socket = directory / f"stream-{run}.ipc"
        with Bus() as bus:
            publisher = Publisher(
                load.encoder, bus, socket, boot=publish.BOOT, boot_unix_ns=publish.BOOT_UNIX_NS, epoch=1, send_hwm=4096
            )
            child = context.Process(target=subscriber_main, args=(socket, core, case, progress, is_over, sending))
            child.start()
            while not load.encoder.topics_mask:
                publisher.do_work(time.monotonic_ns())
                time.sleep(0.01)
            publisher.do_work(time.monotonic_ns())
            time.sleep(0.1)
            sent = 0
            while sent < options.events:
                if case != "topic" and sent - progress.value > options.window:
                    time.sleep(0.0002)
                    continue
                load.encode()
                publisher.send(load.encoder.take())
                publisher.do_work(time.monotonic_ns())
                sent += STEP
            is_over.value = 1
            while not receiving.poll():  # heartbeats, as in the resolver
                publisher.do_work(time.monotonic_ns())
                time.sleep(0.01)
            count, cpu, missed = receiving.recv()
            child.join()
            publisher.close()
        if run:
            published.append(cpu / sent * 1e6)
            wanted.append(cpu / max(count, 1) * 1e6)
            lost += missed
    load.tables.close(remove=True)
    return {
        "case": case, "us CPU/published": statistics.median(published), "us CPU/wanted": statistics.median(wanted),
        "spread": common.spread(published), "wanted in 1000": count * 1000 / sent, "lost": lost,
    }  # fmt: skip


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
    report = common.begin(__file__, __doc__)
    root = Path(tempfile.mkdtemp(prefix="procline-bench-", dir="/dev/shm"))
    cores = os.sched_getaffinity(0)
    try:
        for case in CASES:
            report.rows.append(measure(case, root / case, max(cores), options))
        report.rows += measure_formats(root / "formats", options.runs)
        topic = report.rows[-1 - len(FORMATS) - 1]
        report.target("topic, per published event", topic["us CPU/published"], TARGET_TOPIC_US, "us")
    finally:
        os.sched_setaffinity(0, cores)
        shutil.rmtree(root, ignore_errors=True)
    return common.finish(report, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
