"""What does the journal cost the publisher, and how fast is it read?

Method
    The rows, the encoder and the events are those of bench/publish.py, in steps of `--step` events. Two publishers, one
    with a journal and one without, take turns for `--pairs` rounds of `--events` events each. Both have a subscriber
    that receives messages and does not decode them, on another core. The CPU time of the publisher's process, ZeroMQ's
    threads included, is compared round by round with that of the neighbour; which one comes first alternates. Each
    round writes about as much as the journal holds, so that the ring is in use as a whole after the first one, which is
    not counted. Then a reader goes through the journal from its oldest block to its end.
Command
    python bench/journal.py [--events N] [--pairs N] [--step N] [--json]
How to read it
    `us CPU/event` is the median of the rounds. `ratio` is the median of the ratios of neighbours; the target is at most
    1.1. `read` is the rate at which blocks are read and checked, without decoding the events.
What it does not show
    The merge and the application of events, which cost more than publishing and do not depend on the journal. A journal
    of the default size, which does not fit into the caches any more than this one does.
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
import zmq
from publish import BOOT, BOOT_UNIX_NS, Load

from pipeline.bus.sockets import Bus
from pipeline.bus.stream.journal import NAME, JournalFile, JournalReader
from pipeline.resolver.stream.journal_writer import JournalWriter
from pipeline.resolver.stream.publisher import Publisher

JOURNAL_BYTES = 64 << 20
TARGET = 1.1
SMALL = {"events": 6000, "pairs": 2}


def drain(socket: Path, core: int, stop: Any) -> None:
    """Receive messages and drop them."""
    os.sched_setaffinity(0, {core})
    context: zmq.Context[Any] = zmq.Context()
    subscriber = context.socket(zmq.SUB)
    subscriber.setsockopt(zmq.RCVHWM, 8192)
    subscriber.subscribe(b"proc.")
    subscriber.connect(f"ipc://{socket}")
    while not stop.value:
        if subscriber.poll(50):
            for _ in range(1000):
                try:
                    subscriber.recv_multipart(zmq.NOBLOCK, copy=False)
                except zmq.Again:
                    break
    context.destroy(linger=0)


class Side:
    """A publisher with its subscriber, with or without a journal."""

    def __init__(self, directory: Path, step: int, core: int, *, has_journal: bool) -> None:
        directory.mkdir()
        self.load = Load(directory, step, 5)
        self.journal = None
        if has_journal:
            self.journal = JournalWriter(directory, boot=BOOT, journal_bytes=JOURNAL_BYTES, mode=0o600, keep_ns=10**12)
        self.bus = Bus()
        socket = directory / "stream.ipc"
        self.publisher = Publisher(
            self.load.encoder, self.bus, socket, boot=BOOT, boot_unix_ns=BOOT_UNIX_NS, epoch=1, send_hwm=8192,
            journal=self.journal,
        )  # fmt: skip
        context = multiprocessing.get_context("spawn")
        self.stop = context.Value("i", 0, lock=False)
        self.child = context.Process(target=drain, args=(socket, core, self.stop))
        self.child.start()
        while not self.load.encoder.topics_mask:
            self.publisher.do_work(time.monotonic_ns())
            time.sleep(0.01)

    def run(self, events: int) -> tuple[float, float]:
        """Publish events; return CPU time and wall time of an event, us."""
        made = 0
        begin, cpu = time.perf_counter(), time.process_time()
        while made < events:
            self.load.encode()
            self.publisher.send(self.load.encoder.take())
            made += self.load.step
        self.publisher.do_work(time.monotonic_ns())
        return (time.process_time() - cpu) / made * 1e6, (time.perf_counter() - begin) / made * 1e6

    def close(self) -> None:
        self.stop.value = 1
        self.child.join()
        self.publisher.close()
        self.bus.close()
        self.load.tables.close(remove=True)


def read(directory: Path) -> dict[str, Any]:
    """Read the journal once."""
    reader = JournalReader(JournalFile(directory / NAME))
    reader.at = reader.firsts()[0].at
    size = 0
    begin = time.perf_counter()
    while (found := reader.read()) is not None:
        size += found[0].size
    elapsed = time.perf_counter() - begin
    reader.close()
    return {"case": "read", "MB/s": size / elapsed / 1e6, "MB": size / 1e6}


def main(argv: list[str] | None = None) -> int:
    """Run all cases; returns the exit code."""
    parser = common.parser(__doc__)
    parser.add_argument("--events", type=int, default=60_000, help="events a round")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--step", type=int, default=768, help="events between two commits")
    options: argparse.Namespace = common.parse(parser, argv, SMALL)
    report = common.begin(__file__, __doc__)
    root = Path(tempfile.mkdtemp(prefix="procline-bench-", dir="/dev/shm"))
    cores = os.sched_getaffinity(0)
    try:
        common.pin(0)
        sides = [
            Side(root / name, options.step, max(cores), has_journal=has_journal)
            for name, has_journal in (("without", False), ("with", True))
        ]
        figures: list[list[tuple[float, float]]] = [[], []]
        for pair in range(options.pairs + 1):
            for number in (0, 1) if pair % 2 else (1, 0):
                figure = sides[number].run(options.events)
                if pair:
                    figures[number].append(figure)
        for number, case in enumerate(("without", "with")):
            cpus = [cpu for cpu, _ in figures[number]]
            report.rows.append({"case": case, "us CPU/event": statistics.median(cpus), "spread": common.spread(cpus)})
        ratios = [after[0] / before[0] for before, after in zip(*figures, strict=True)]
        journal = sides[1].journal
        assert journal is not None and journal.failed == 0
        report.rows.append({
            "case": "ratio", "ratio": statistics.median(ratios), "spread": common.spread(ratios),
            "bytes/event": journal.bytes / journal.events,
        })  # fmt: skip
        report.rows.append(read(root / "with"))
        report.target("with / without", statistics.median(ratios), TARGET, "", is_upper_bound=True)
        for side in sides:
            side.close()
    finally:
        os.sched_setaffinity(0, cores)
        shutil.rmtree(root, ignore_errors=True)
    return common.finish(report, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
