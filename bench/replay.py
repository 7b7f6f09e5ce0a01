"""The resolver's steps for the replaying benches, with the daemon's own code.

A `Resolver` has its own tables on tmpfs and processes the messages of loads.py: decode, add, advance, take, apply,
done, commit, evict. It does not involve the kernel.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import synchronize
from pathlib import Path
from typing import Self

import common
import numpy as np
from loads import BOOT, PARENTS, PID_NS, Load, Messages, Processes

from pipeline.bus.frames.frame import decode_frames
from pipeline.bus.sockets import PULL_HWM_FRAMES, PUSH_HWM_FRAMES
from pipeline.records import dtypes
from pipeline.records.limits import MERGE_SLACK_NS
from pipeline.resolver.apply._applier import Applier
from pipeline.resolver.merge._merger import Merger
from pipeline.resolver.stream._encoder import Encoder
from pipeline.shm.layout import layout
from pipeline.shm.writer._opening import open_tables
from pipeline.shm.writer._writer import TableWriter

STEPS = ("decode", "add", "advance", "take", "apply", "done", "commit")


class Resolver:
    """A context manager with tables on tmpfs, a merger and an applier; it processes messages like the daemon.

    Args:
        rings: number of rings of the capture.
        rows: row capacity of the tables.
        pids: pid capacity of the tables.
        retention_ns: how long exited entries are retained.
        encode: also encode all events, as if every topic had a subscriber.
        tables: existing tables to fill; None: create new tables with these capacities.

    Attributes:
        spent: seconds by step (STEPS).
        applied: number of applied events.
    """

    def __init__(
        self, rings: int, *, rows: int = 1 << 18, pids: int = 1 << 16, retention_ns: int = 50_000_000,
        encode: bool = False, tables: TableWriter | None = None,
    ) -> None:  # fmt: skip
        self.root = Path(tempfile.mkdtemp(prefix="procline-bench-", dir="/dev/shm"))
        self.directory = self.root / "tables"
        self.tables = tables or open_tables(
            self.directory, boot_id=BOOT, capture_id=1, ring_count=rings, row_capacity=rows, chunk_rows=16384,
            pid_capacity=pids, names_bytes=64 << 20, args_bytes=256 << 20, envs_bytes=64 << 20, boot_unix_ns=0,
            retention_ns=retention_ns, key_capacity=1024,
        )  # fmt: skip
        self.encoder = Encoder(BOOT) if encode else None
        if self.encoder is not None:
            self.encoder.topics_mask = 0xFF
        self.applier = Applier(self.tables, self.encoder)
        self.merger = Merger(rings, stall_ms=1e9, hold_ms=1e9)
        self.topics = np.zeros(16, np.uint64)
        self.applied = 0
        self.spent = dict.fromkeys(STEPS, 0.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.tables.close()
        shutil.rmtree(self.root, ignore_errors=True)

    def enter(self, processes: Processes = PARENTS, *, is_chain: bool = False) -> None:
        """Add processes to the tables as a snapshot does; with `is_chain` each is the child of the one before."""
        header, task, body = np.zeros(1, dtypes.HEADER), np.zeros(1, dtypes.TASK), np.zeros(1, dtypes.EXEC)
        header["time_boot_ns"] = 1_500_000_000
        task["pid_ns"], task["cgroup_id"], task["comm"] = PID_NS, 4711, b"make"
        strings = b"/usr/bin/makemake\0-j\0"
        body["inode"], body["path_bytes"], body["args_bytes"], body["args_full_bytes"] = 9, 13, 8, 8
        for i, (tgid, start) in enumerate(zip(processes.tgid, processes.start_boot_ns, strict=True)):
            header["tgid"], header["start_boot_ns"], task["ns_pid"] = tgid, start, tgid
            if is_chain and i:
                header["ppid"] = processes.tgid[i - 1]
                header["parent_start_boot_ns"] = processes.start_boot_ns[i - 1]
            self.applier.insert_from_proc(header, task, body, strings)

    def restart(self) -> None:
        """Begin with all rings at position 0 again, as after a new capture."""
        self.merger = Merger(self.merger.ring_count, stall_ms=1e9, hold_ms=1e9)

    def open_for_readers(self) -> None:
        """Allow readers to attach for the duration of the bench."""
        self.tables.heartbeat(time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 10**15)
        self.tables.set_state(layout.STATE_READY)

    def take_in(self, messages: Messages, source: Iterable[bytes | memoryview] | None = None) -> float:
        """Process messages, which come from `source` if it is given; returns the wall time, s."""
        clock, spent, merger, tables = time.perf_counter, self.spent, self.merger, self.tables
        begin = clock()
        for message, now in zip(source or messages, messages.youngest_ns, strict=True):
            t0 = clock()
            frames = decode_frames(message)
            t1 = clock()
            for frame in frames:
                merger.add(frame)
            t2 = clock()
            # Every ring is received up to its position, so all events may go out, and none of the next message.
            merger.advance(now + MERGE_SLACK_NS + 1, merger.received_pos)
            t3 = clock()
            spent["decode"] += t1 - t0
            spent["add"] += t2 - t1
            spent["advance"] += t3 - t2
            while True:
                t0 = clock()
                batch = merger.take(8192)
                t1 = clock()
                spent["take"] += t1 - t0
                if batch is None:
                    break
                self.applied += self.applier.apply(batch)
                t2 = clock()
                merger.done(batch)
                t3 = clock()
                if self.encoder is not None:
                    self.encoder.take()
                merger.commit(tables, self.topics)
                tables.evict_exited(now, 1 << 16)
                t4 = clock()
                spent["apply"] += t2 - t1
                spent["done"] += t3 - t2
                spent["commit"] += t4 - t3
        return clock() - begin

    def event_cost(self, load: Load) -> Callable[[], float]:
        """Return a function that applies the load once more, with one ring, and returns CPU ns an event."""
        stream = load.stream(1)

        def run() -> float:
            messages = next(stream)
            begin = time.process_time_ns()
            self.take_in(messages)
            return (time.process_time_ns() - begin) / load.count

        return run

    def check(self) -> None:
        """Check that no event was late, lost or about an unknown process."""
        names = ("late", "exit_unknown", "table_full", "parent_missing", "arena_full")
        odd = {name: self.tables.counter(name) for name in names if self.tables.counter(name)}
        assert not odd, odd


def _push(
    address: str, messages: Messages, core: int, is_there: synchronize.Event, may_begin: synchronize.Event,
    is_done: synchronize.Event,
) -> None:  # fmt: skip
    import zmq

    os.sched_setaffinity(0, {core})
    context = zmq.Context()
    socket = context.socket(zmq.PUSH)
    socket.set_hwm(PUSH_HWM_FRAMES)
    socket.setsockopt(zmq.IMMEDIATE, 1)
    socket.connect(address)
    socket.poll(flags=zmq.POLLOUT)
    is_there.set()
    may_begin.wait()
    for message in messages:
        socket.send(message, copy=False)
    # If a peer closes its socket while the receiver's queue is full, the receiver loses the messages in the kernel.
    is_done.wait()
    socket.close(linger=-1)
    context.term()


@contextlib.contextmanager
def through_ipc(messages: Messages, core: int) -> Iterator[Iterator[memoryview]]:
    """Yield an iterator over the messages, which a second process on core `core` sends over ipc.

    The queues have the sizes of the daemon's queues. The process connects when the context begins and starts sending
    when the first message is requested, so a measurement includes neither its start nor its end.
    """
    import zmq

    with tempfile.TemporaryDirectory(prefix="procline-bench-") as place:
        address = f"ipc://{place}/frames.ipc"
        context = zmq.Context()
        socket = context.socket(zmq.PULL)
        socket.set_hwm(PULL_HWM_FRAMES)
        socket.bind(address)
        # A sender that is forked from this process would share its memory. Each page that the receiver then writes for
        # the first time would be copied and removed from the TLB of the other core, which took up to half of the CPU
        # time of a run. The processes of a daemon share no memory.
        is_there, may_begin, is_done = (common.PROCESSES.Event() for _ in range(3))
        sender = common.PROCESSES.Process(target=_push, args=(address, messages, core, is_there, may_begin, is_done))
        sender.start()
        is_there.wait()

        def received() -> Iterator[memoryview]:
            may_begin.set()
            for _ in messages:
                yield socket.recv(copy=False).buffer

        try:
            yield received()
        except BaseException:
            sender.kill()  # it may wait for room in a queue that is no longer read
            raise
        finally:
            may_begin.set()
            is_done.set()
            sender.join()
            socket.close()
            context.term()
