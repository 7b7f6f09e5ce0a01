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
from pipeline.records import declared
from pipeline.resolver.apply._applier import Applier
from pipeline.resolver.stream._encoder import Encoder
from pipeline.resolver.stream.journal_writer import JournalWriter
from pipeline.resolver.stream.publisher import Publisher
from pipeline.shm.layout import layout
from tests.resolver.story import BOOT_ID, Event, Story, make_tables

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
        """Apply and publish events; commit them by default."""
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


_KINDS = {declared.KIND_FORK: "fork", declared.KIND_EXEC: "exec", declared.KIND_EXIT: "exit"}
#: Times and cookies of processes other than pid 1, by column. In a header, `ppid` identifies the process of the time.
_SHIFTED = {"header": ("time_boot_ns", "start_boot_ns"), "task": ("cookie",), "exec": ("prev_cookie",)}


class Lap:
    """Events of processes that all end, which can be repeated as often as wanted: making them anew takes much longer.

    Each repetition has the same pids, later times and other cookies.
    """

    def __init__(self, made: list[Event]) -> None:
        self._at = 0
        self._span_ns = made[-1].time - made[0].time + 1_000_000
        columns = {"header": [event.header for event in made], "task": [event.task for event in made]}
        bodies = {kind: [event.body for event in made if event.kind == kind] for kind in _KINDS}
        columns |= {name: bodies[kind] for kind, name in _KINDS.items()}
        self._columns = {name: np.concatenate(parts) for name, parts in columns.items()}
        # Views, so that a change of a column changes all events.
        used = dict.fromkeys(_KINDS, 0)
        self._events = []
        for at, event in enumerate(made):
            header, task = (self._columns[name][at : at + 1] for name in ("header", "task"))
            place = used[event.kind]
            used[event.kind] += 1
            body = self._columns[_KINDS[event.kind]][place : place + 1]
            self._events.append(Event(header, task, body, event.strings))
        #: Each time that is shifted, and where.
        header, fork, exit_ = (self._columns[name] for name in ("header", "fork", "exit"))
        self._places = [
            (header, "parent_start_boot_ns", header["ppid"] != 1),
            (fork, "creator_start_boot_ns", fork["creator_tgid"] != 1),
            (exit_, "reaper_start_boot_ns", exit_["reaper_tgid"] != 1),
        ]
        for name, fields in _SHIFTED.items():
            column = self._columns[name]
            self._places += [(column, field, column[field] > 1) for field in fields]

    def take(self, count: int) -> list[Event]:
        """Return the next events, at most to the end of a repetition. They are valid until the next call."""
        if self._at == len(self._events):
            self._at = 0
            for column, field, where in self._places:
                column[field][where] += self._span_ns
        taken = self._events[self._at : self._at + count]
        self._at += len(taken)
        return taken


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
        #: Repeated instead of new events.
        self.lap: Lap | None = None
        self.thread: threading.Thread | None = None

    def step(self, count: int, *, commit: bool = True) -> None:
        if self.lap is None:
            happened = self._make(count)
        else:
            happened = self.lap.take(count)
            for event in happened:
                self.made[_KINDS[event.kind]] += 1
        self.resolver.apply(happened, commit=commit)

    def repeat(self, count: int) -> None:
        """From now on, repeat about this many events, which are made now. No process may be live."""
        assert not self.live
        before = dict(self.made)
        made = self._make(count)
        for pid in list(self.live):
            made.append(self.story.exit(pid))
            del self.live[pid]
        self.made = before
        self.lap = Lap(made)
        self.story.events.clear()
        self.story.everyone.clear()

    def _make(self, count: int) -> list[Event]:
        made: list[Event] = []
        for _ in range(count):
            roll = self.random.random()
            if not self.live or roll < self.rolls[0]:
                parent = self.random.choice([1, *self.live])
                pid, self.next_pid = self.next_pid, self.next_pid + 1 if self.next_pid < 60_000 else 2
                made.append(self.story.fork(parent, pid))
                self.live[pid] = 1
                self.made["fork"] += 1
            elif roll < self.rolls[1]:
                pid = self.random.choice(list(self.live))
                self.made["exec"] += 1
                path = self.random.choice((b"/bin/sh", b"/usr/bin/make", b"/opt/caf\xe9"))
                # With its own arguments; otherwise it may execute the same program again, which makes no image.
                made.append(self.story.exec(pid, path, args=[path, b"%d" % self.made["exec"]]))
                self.live[pid] += 1
            else:
                pid = self.random.choice(list(self.live))
                made.append(self.story.exit(pid))
                del self.live[pid]
                self.made["exit"] += 1
        return made

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
