"""A resolver process in the test's own process: it is assembled from a description, and a thread is its shard."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq

from pipeline import paths
from pipeline.config.schema import Config, Tables
from pipeline.host import boot
from pipeline.resolver.daemon import build
from pipeline.resolver.daemon.process import ResolverProcess
from pipeline.shm.writer._writer import TableWriter
from pipeline.worker.description import WorkerDescription
from tests.resolver.story import BOOT_ID, Event, message_of
from tests.waiting import until

NAME = "a"
PIDS = 8192
SMALL: dict[str, Any] = {"max_entries": 4096, "pid_capacity": PIDS, "checked": True}


@contextmanager
def instance_directory() -> Iterator[Path]:
    """The directory of an instance as the supervisor leaves it to the resolver."""
    root = Path(tempfile.mkdtemp(prefix="procline-test-", dir="/dev/shm"))
    for below in (paths.FRAMES_DIR, paths.STREAM_DIR, paths.REQUESTS_DIR):
        (root / NAME / below).mkdir(parents=True)
    try:
        yield root / NAME
    finally:
        shutil.rmtree(root)


def description(directory: Path, source: str = "replay:x", **sections: Any) -> WorkerDescription:
    """Return a description with small tables; `sections` are those of the settings, or fields of the description."""
    fields = {name: sections.pop(name) for name in list(sections) if name in WorkerDescription.__struct_fields__}
    sections.setdefault("tables", Tables(**SMALL))
    return WorkerDescription(
        instance=NAME, dir=str(directory), role="resolver", source=source, config=Config(**sections),
        boot_id=BOOT_ID.hex(), capture_id=1, ring_count=1, **{"supervisor_tgid": os.getppid()} | fields,
    )  # fmt: skip


class Shard:
    """Sends frames of ring 0 as a shard does, and all the time that there is nothing else."""

    def __init__(self, directory: Path, *, is_silent: bool = False) -> None:
        self._context = zmq.Context()
        self._push = self._context.socket(zmq.PUSH)
        self._push.set_hwm(0)  # a process that has ended blocks no test
        self._push.connect(f"ipc://{paths.frames_socket(directory)}")
        self._position = self._count = 0
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        if is_silent:
            self._stopping.set()
        self._thread.start()

    def send(self, *events: Event) -> None:
        """Send events, and report that the ring has no other event until now."""
        with self._lock:
            where = {"ring": 0, "from_pos": self._position, "seq": self._count}
            self._push.send(message_of(events, **where, watermark_boot_ns=boot.now_boot_ns()))
            self._count += len(events)
            self._position += sum(8 + (int(event.header["record_bytes"][0]) + 7 & ~7) for event in events)

    def _run(self) -> None:
        while not self._stopping.wait(0.003):
            self.send()

    def stop(self) -> None:
        """Send nothing any more but what a test sends."""
        self._stopping.set()
        self._thread.join()

    def close(self) -> None:
        self.stop()
        self._context.destroy(linger=0)


@dataclass
class Resolver:
    """A process that is driven by the test, and its shard."""

    process: ResolverProcess
    shard: Shard

    @property
    def tables(self) -> TableWriter:
        return self.process.loop.tables

    def until(self, condition: Callable[[], object]) -> None:
        """Run cycles until the condition is met."""
        until(condition, pause_s=0, meanwhile=lambda: self.process.loop.do_work() or self.process.wait(1))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run cycles in another thread, as main.py does; the body must not touch the tables."""
        stopping = threading.Event()

        def run() -> None:
            while not stopping.is_set():
                self.process.loop.do_work()
                self.process.follow()

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            stopping.set()
            thread.join()


@contextmanager
def built(directory: Path, source: str = "replay:x", *, is_silent: bool = False, **sections: Any) -> Iterator[Resolver]:
    """Build a process; `is_silent`: the shard sends nothing by itself."""
    with build.build(description(directory, source, **sections)) as process:
        shard = Shard(directory, is_silent=is_silent)
        try:
            yield Resolver(process, shard)
        finally:
            shard.close()


@contextmanager
def started(directory: Path, source: str = "replay:x", **sections: Any) -> Iterator[Resolver]:
    with built(directory, source, **sections) as resolver:
        resolver.process.start()
        yield resolver
