"""What does the journal cost the publisher, and how fast is it read?

Method
    The rows, the encoder and the events are those of bench/publish.py, in steps of `--step` events. Two publishers, one
    with a journal and one without, take turns for `--pairs` rounds of `--events` events each, on the same core; which
    one comes first alternates. Both have a subscriber that receives messages and does not decode them, on another core.
    The CPU time of the publishing thread and of the publisher's own ZeroMQ threads is compared round by round with that
    of the neighbour. A round ends when these threads have sent everything. The first lap, until the journal has written
    each of its pages once, is separate and does not count. Then a reader goes through the journal from its oldest block
    to its end.
Command
    python bench/journal.py [--events N] [--pairs N] [--step N] [--json]
How to read it
    `us CPU/event` is the median of the rounds. `ratio` is the median of the ratios of neighbours; the target is at most
    1.1. `quartiles` is the distance of the upper from the lower quartile, divided by the median. `append us` is the CPU
    time of the journal's own code for an event: on the first lap, while the kernel provides the memory of the journal,
    and on the second one. `read` is the rate at which blocks are read and checked, without decoding the events.
What it does not show
    The merge and the application of events, which cost more than publishing and do not depend on the journal. A journal
    of the default size, which does not fit into the caches any more than this one does.
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
SMALL = {"events": 768, "pairs": 4}


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
        self.append_ns = 0
        #: Reading the clock costs system calls, which the comparison must not contain.
        self.is_timed = False
        if has_journal:
            self.journal = JournalWriter(directory, boot=BOOT, journal_bytes=JOURNAL_BYTES, mode=0o600, keep_ns=10**12)
            self.journal.append = self._timed(self.journal.append)  # type: ignore[method-assign]
        threads = _threads()
        self.bus = Bus()
        socket = directory / "stream.ipc"
        self.publisher = Publisher(
            self.load.encoder, self.bus, socket, boot=BOOT, boot_unix_ns=BOOT_UNIX_NS, epoch=1, send_hwm=8192,
            journal=self.journal,
        )  # fmt: skip
        #: Clocks of the CPU time of ZeroMQ's threads.
        self.clocks = [_clock_of(tid) for tid in _threads() - threads]
        self.stop = common.PROCESSES.Value("i", 0, lock=False)
        self.child = common.PROCESSES.Process(target=drain, args=(socket, core, self.stop))
        self.child.start()
        while not self.load.encoder.topics_mask:
            assert self.child.is_alive()
            self.publisher.do_work(time.monotonic_ns())
            time.sleep(0.01)

    def _timed(self, append: Any) -> Any:
        def timed(*args: Any, **named: Any) -> None:
            if not self.is_timed:
                append(*args, **named)
                return
            begin_ns = time.thread_time_ns()
            append(*args, **named)
            self.append_ns += time.thread_time_ns() - begin_ns

        return timed

    def sending_ns(self) -> int:
        """Return the CPU time of ZeroMQ's threads."""
        return sum(map(time.clock_gettime_ns, self.clocks))

    def run(self, steps: int) -> int:
        """Publish `steps` steps; returns the CPU time of this thread, ns."""
        begin_ns = time.thread_time_ns()
        for _ in range(steps):
            self.load.encode()
            self.publisher.send(self.load.encoder.take())
        self.publisher.do_work(time.monotonic_ns())
        return time.thread_time_ns() - begin_ns

    def settle(self) -> None:
        """Wait until ZeroMQ's threads have nothing to do."""
        used_ns = -1
        while used_ns != (used_ns := self.sending_ns()):
            time.sleep(0.002)

    def close(self) -> None:
        self.stop.value = 1
        self.child.join()
        self.publisher.close()
        self.bus.close()
        self.load.tables.close(remove=True)


def _threads() -> set[int]:
    return {int(path.name) for path in Path("/proc/self/task").iterdir()}


def _clock_of(tid: int) -> int:
    """Return the clock of a thread's CPU time: CPUCLOCK_PERTHREAD_MASK | CPUCLOCK_SCHED of the kernel's headers."""
    return ~tid << 3 | 6


def append_us(side: Side, size: int) -> float:
    """Publish until the journal has `size` bytes more; returns the CPU time of its own code, us an event."""
    journal = side.journal
    assert journal is not None
    events, end, side.append_ns, side.is_timed = journal.events, journal.bytes + size, 0, True
    while journal.bytes < end:
        side.run(1)
        time.sleep(0.001)  # for the subscriber, so that no queue is full
    side.is_timed = False
    return side.append_ns / 1000 / (journal.events - events)


def rounds(sides: list[Side], pairs: int, steps: int) -> list[list[float]]:
    """Let the sides take turns; returns for each one the CPU time of an event, us, by round."""
    found: list[list[float]] = [[], []]
    for pair in range(pairs):
        for number in (0, 1) if pair % 2 else (1, 0):
            side = sides[number]
            sending_ns = side.sending_ns()
            used_ns = side.run(steps)
            side.settle()
            found[number].append((used_ns + side.sending_ns() - sending_ns) / (steps * side.load.step) / 1e3)
    return found


def quartiles(values: list[float]) -> float:
    """Return the distance between the quartiles, divided by the median."""
    lower, middle, upper = statistics.quantiles(values, n=4)
    return (upper - lower) / middle


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
    parser.add_argument("--events", type=int, default=7680, help="events a round")
    parser.add_argument("--pairs", type=int, default=300)
    parser.add_argument("--step", type=int, default=768, help="events between two commits")
    options: argparse.Namespace = common.parse(parser, argv, SMALL)
    report = common.begin(__file__, __doc__, options)
    root = Path(tempfile.mkdtemp(prefix="procline-bench-", dir="/dev/shm"))
    cores = os.sched_getaffinity(0)
    try:
        common.pin(0)
        sides = [
            Side(root / name, options.step, max(cores), has_journal=has_journal)
            for name, has_journal in (("without", False), ("with", True))
        ]
        journal = sides[1].journal
        assert journal is not None
        ring_bytes = journal.geometry.ring_bytes
        laps = [append_us(sides[1], ring_bytes) for _ in range(2)]
        size, events = journal.bytes, journal.events
        figures = rounds(sides, options.pairs, max(1, options.events // options.step))
        for case, cpus in zip(("without", "with"), figures, strict=True):
            report.rows.append({"case": case, "us CPU/event": statistics.median(cpus), "quartiles": quartiles(cpus)})
        ratios = [after / before for before, after in zip(*figures, strict=True)]
        assert journal.failed == 0
        if unsent := sum(side.publisher.unsent for side in sides):
            report.notes.append(f"the subscribers had no time for {unsent:,} events, which cost less to send")
        report.rows.append({
            "case": "ratio", "ratio": statistics.median(ratios), "quartiles": quartiles(ratios),
            "bytes/event": (journal.bytes - size) / (journal.events - events),
        })  # fmt: skip
        for case, us in zip(("first lap", "second lap"), laps, strict=True):
            report.rows.append({"case": case, "append us": us, "MB": ring_bytes / 1e6})
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
