"""A small resolver: real tables, applier, encoder and publisher; a thread feeds it with events of fake processes."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import paths
from pipeline.bus.sockets import Bus
from pipeline.resolver.apply._applier import Applier
from pipeline.resolver.stream._encoder import Encoder
from pipeline.resolver.stream.journal_writer import JournalWriter
from pipeline.resolver.stream.publisher import Publisher
from pipeline.shm.layout import layout
from tests.resolver.story import BOOT_ID, Story, make_tables

BOOT_UNIX_NS = 1_700_000_000_000_000_000


def now_boot_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class MiniResolver:
    """Applies, publishes and commits in the resolver's order (see pipeline/resolver/daemon/duty_cycle.py)."""

    def __init__(self, directory: Path, *, journal_bytes: int = 0, **publisher: Any) -> None:
        self.directory = directory
        self.tables = make_tables(directory, ring_count=1, retention_ns=3600 * 10**9, row_capacity=1 << 18)
        (directory / paths.STREAM_DIR).mkdir(exist_ok=True)
        self.encoder = Encoder(BOOT_ID)
        self.encoder.restore(self.tables.committed().topic_seq)
        if journal_bytes:
            self.journal = JournalWriter(
                directory / paths.STREAM_DIR, boot=BOOT_ID, journal_bytes=journal_bytes, mode=0o660,
                keep_ns=3600 * 10**9,
            )  # fmt: skip
            self.adopted = self.journal.adopt(self.encoder, BOOT_UNIX_NS)
            publisher["journal"] = self.journal
        self.bus = Bus()
        self.publisher = Publisher(
            self.encoder, self.bus, paths.stream_socket(directory), boot=BOOT_ID,
            boot_unix_ns=BOOT_UNIX_NS, epoch=self.tables.epoch, takeovers=self.tables.takeovers,
            **publisher,
        )  # fmt: skip
        self.applier = Applier(self.tables, self.encoder)
        self.watermark = 0
        self.commit()
        self.tables.heartbeat(now_boot_ns())
        self.tables.set_state(layout.STATE_READY)

    def commit(self) -> None:
        zeros = np.zeros(1, np.uint64)
        self.tables.commit(self.watermark, zeros, zeros, self.encoder.sequences())

    def apply(self, events: list[Any], *, commit: bool = True) -> None:
        """Apply and publish events; commit unless told otherwise."""
        for event in events:
            event.apply(self.applier)
            self.watermark = max(self.watermark, event.time + 1)
        self.publisher.watermark_boot_ns = self.watermark
        self.publisher.send(self.encoder.take())
        if commit:
            self.commit()

    def do_work(self) -> None:
        self.tables.heartbeat(now_boot_ns())
        self.publisher.do_work(now_boot_ns())
        self.commit()

    def close(self, *, kill: bool = False) -> None:
        """End in an orderly way and remove all files, or as if killed."""
        if kill:
            self.bus.close()
            self.tables.close()
        else:
            self.publisher.close()
            self.bus.close(linger_ms=500)
            self.tables.close(remove=True)


class Host:
    """Fake processes that fork, exec and exit at random. `live` maps each live pid to its number of images."""

    def __init__(self, resolver: MiniResolver, *, seed: int = 1) -> None:
        self.resolver = resolver
        self.random = random.Random(seed)
        self.story = Story(now=10**12)
        self.story.processes[1] = self.story.begin(1)
        self.live: dict[int, int] = {}
        self.made: dict[str, int] = {"fork": 0, "exec": 0, "exit": 0}
        self.next_pid = 2
        self.lock = threading.Lock()
        self.is_over = False
        self.step_events = 20
        self.pause_s = 0.002
        #: Up to which roll an event is a fork, and an exec; the others are exits.
        self.rolls = (0.4, 0.7)
        self.thread: threading.Thread | None = None

    def step(self, count: int, *, commit: bool = True) -> None:
        events = []
        for _ in range(count):
            roll = self.random.random()
            if not self.live or roll < self.rolls[0]:
                parent = self.random.choice([1, *self.live])
                pid, self.next_pid = self.next_pid, self.next_pid % 60_000 + 1
                events.append(self.story.fork(parent, pid))
                self.live[pid] = 1
                self.made["fork"] += 1
            elif roll < self.rolls[1]:
                pid = self.random.choice(list(self.live))
                self.made["exec"] += 1
                path = self.random.choice((b"/bin/sh", b"/usr/bin/make", b"/opt/caf\xe9"))
                # With its own arguments; otherwise it may execute the same program again, which makes no image.
                events.append(self.story.exec(pid, path, args=[path, b"%d" % self.made["exec"]]))
                self.live[pid] += 1
            else:
                pid = self.random.choice(list(self.live))
                events.append(self.story.exit(pid))
                del self.live[pid]
                self.made["exit"] += 1
        self.resolver.apply(events, commit=commit)

    def run(self) -> None:
        """Make steps in a thread until `stop`."""

        def loop() -> None:
            while not self.is_over:
                with self.lock:
                    self.step(self.step_events)
                    self.resolver.do_work()
                time.sleep(self.pause_s)

        self.thread = threading.Thread(target=loop)
        self.thread.start()

    def stop(self) -> None:
        self.is_over = True
        if self.thread is not None:
            self.thread.join()
