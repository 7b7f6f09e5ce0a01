#!/usr/bin/env python3
"""Do readers ever see a torn row, and how much do they slow down the writer?

Method
    Several processes read as fast as possible while the writer applies forks, execs and exits, changes rows in place,
    and reuses rows and strings.
    torn:   One process applies frames to tables with checksums: changes of credentials, execs, forks, exits and
            evictions of only a few pids, so that reads and writes collide. Readers resolve these pids, also read the
            cold part, and verify the row's checksum; every eighth time they also verify the ancestors. A read that had
            to be repeated overlapped a write. Look-ups of pids that are always live must never return None.
    writer: Process the loads of ingest_replay.py without readers, with readers on the same tables, and with readers on
            other tables, in turn. The writer has its own core; the readers share the others. The ratios use the
            writer's CPU time, which is least sensitive to other work on the machine.
Command
    python bench/readers_hammer.py [--reads N] [--readers N] [--rounds N] [--events N] [--json]
How to read it
    torn, absent and wrong must be 0, with overlapped in the 100,000s. `slowdown %` is the median of the rounds, with
    the smallest and the largest value. `elsewhere %` is the slowdown by the same readers on other tables, because cores
    share a cache, memory and a clock. `sharing %` is the rest: the waiting for cache lines that both sides use.
What it does not show
    Tables larger than the caches, and readers on the writer's core, which cost as much as any other process there.
"""

from __future__ import annotations

import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import common
import loads
import numpy as np
import numpy.typing as npt
import replay
from hammers import Hammers

from pipeline.errors import BusyError, TooOldError

SMALL = {"reads": 400_000, "rounds": 1, "events": 20_000}

Array = npt.NDArray[Any]
BOOT = bytes(range(16))
LIVE_PIDS = range(2, 6)  # always live; their credentials and images change constantly, those of the first pid most
PASSING_PIDS = range(100, 140)  # fork and exit constantly


# -- torn --------------------------------------------------------------------------------------------------------------


class Changes:
    """Makes frames of records that constantly change a few processes."""

    def __init__(self) -> None:
        from pipeline.bus.frames.frame import FrameEncoder
        from pipeline.records import declared, dtypes

        self.declared, self.dtypes = declared, dtypes
        self.encoder = FrameEncoder(boot_id=BOOT, source="replay")
        self.rng = np.random.default_rng(23)
        self.choice = random.Random(23)
        self.now = 1_000_000_000
        self.start: dict[int, int] = {}
        self.position = self.sent = self.records = 0
        self.execs = []
        for i in range(64):
            path, args = b"/bin/%d" % i, b"x" * self.choice.randrange(1, 300) + b"\0"
            body = np.zeros(1, dtypes.EXEC)
            body["inode"], body["path_bytes"], body["args_bytes"] = 5, len(path), len(args)
            body["args_full_bytes"], body["argc"] = len(args), 1
            self.execs.append((body.tobytes(), path + args))

    def _action(self, time_ns: int) -> tuple[int, int, int]:
        """Return (kind, pid, start of the process) of a record that creates or ends an image."""
        declared, choice = self.declared, self.choice
        if choice.random() < 0.5:
            pid = choice.choice(LIVE_PIDS)
            return declared.KIND_EXEC, pid, self.start[pid]
        pid = choice.choice(PASSING_PIDS)
        if pid in self.start:
            return declared.KIND_EXIT, pid, self.start.pop(pid)
        self.start[pid] = time_ns - 500
        return declared.KIND_FORK, pid, self.start[pid]

    def images(self, count: int) -> bytes:
        """Return a frame of forks, execs and exits; the first frame creates the pids that are always live."""
        declared = self.declared
        if self.records:
            actions = [self._action(self.now + 1000 * i) for i in range(1, count + 1)]
        else:
            self.start |= dict.fromkeys(LIVE_PIDS, self.now)
            actions = [(kind, pid, self.now) for kind in (declared.KIND_FORK, declared.KIND_EXEC) for pid in LIVE_PIDS]
        kinds, pids, starts = (np.array(column, np.uint64) for column in zip(*actions, strict=True))
        execs = [self.choice.choice(self.execs) for _ in range(int((kinds == declared.KIND_EXEC).sum()))]
        return self._frame(kinds, pids, starts, execs)

    def changes(self, count: int) -> bytes:
        """Return a frame of records that change rows in place."""
        pids = np.full(count, LIVE_PIDS[0], np.uint64)
        pids[::16] = self.rng.choice(np.array(LIVE_PIDS, np.uint64), len(pids[::16]))
        return self._frame(np.full(count, self.declared.KIND_CRED), pids, np.full(count, self.start[LIVE_PIDS[0]]), [])

    def _frame(self, kinds: Array, pids: Array, starts: Array, execs: list[tuple[bytes, bytes]]) -> bytes:
        declared, dtypes = self.declared, self.dtypes
        n = len(kinds)
        header, task = np.zeros(n, dtypes.HEADER), np.zeros(n, dtypes.TASK)
        header["kind"], header["start_boot_ns"] = kinds, starts
        header["time_boot_ns"] = self.now + 1000 * np.arange(1, n + 1)
        header["tgid"] = header["tid"] = pids
        passing = pids >= PASSING_PIDS[0]
        header["ppid"] = np.where(passing, LIVE_PIDS[0] + pids % len(LIVE_PIDS), 0)
        header["parent_start_boot_ns"] = np.where(passing, self.start[LIVE_PIDS[0]], 0)
        for name in ("uid", "euid", "gid", "fsgid"):
            task[name] = self.rng.integers(0, 1 << 20, n)
        task["comm"], task["ns_pid"], task["cgroup_id"] = b"c%d" % self.sent, 1, 4711
        counts = {
            kind: int((kinds == kind).sum()) for kind in (declared.KIND_FORK, declared.KIND_EXEC, declared.KIND_EXIT)
        }
        sizes = np.zeros(declared.KIND_COUNT, np.uint32)
        sizes[[declared.KIND_FORK, declared.KIND_EXEC, declared.KIND_EXIT]] = 32, 128, 32
        header["var_bytes"][kinds == declared.KIND_EXEC] = [len(strings) for _, strings in execs]
        header["record_bytes"] = 224 + header["var_bytes"] + sizes[header["kind"]]
        spans = 8 + (header["record_bytes"].astype(np.uint64) + 7 & ~np.uint64(7))
        ends = self.position + np.cumsum(spans)
        header["ring_pos"], header["ring_seq"] = ends - spans, self.records + np.arange(n)
        message = self.encoder.encode(
            ring=0, seq=self.sent, from_pos=self.position, to_pos=int(ends[-1]), count=n, lost={},
            header=header.tobytes(), task=task.tobytes(), fork=bytes(32 * counts[declared.KIND_FORK]),
            exec=b"".join(body for body, _ in execs), exit=bytes(32 * counts[declared.KIND_EXIT]),
            blob=b"".join(strings for _, strings in execs),
        )  # fmt: skip
        self.position, self.sent, self.records = int(ends[-1]), self.sent + 1, self.records + n
        self.now += 1000 * n
        return message


def write_torn(directory: str, core: int, stop: Event, out: Connection) -> None:
    """Apply frames until `stop` is set, then send the number of records."""
    os.sched_setaffinity(0, {core})
    from pipeline.bus.frames.frame import decode_frame
    from pipeline.resolver.apply._applier import Applier
    from pipeline.resolver.merge._merger import Merger
    from pipeline.shm.layout import layout
    from pipeline.shm.writer._opening import open_tables

    tables = open_tables(
        Path(directory), boot_id=BOOT, capture_id=1, ring_count=1, row_capacity=600, chunk_rows=64, pid_capacity=1024,
        key_capacity=1024, names_bytes=1 << 20, args_bytes=256 << 10, envs_bytes=1 << 20, boot_unix_ns=0,
        retention_ns=1000, checked=True,
    )  # fmt: skip
    applier = Applier(tables, None)
    merger = Merger(1, stall_ms=1e9, hold_ms=1e9)
    changes = Changes()

    def take(message: bytes) -> tuple[Array, Any]:
        """Pass one frame through the merger; return its times, which can be modified, and its batch."""
        buffer = bytearray(message)
        frame = decode_frame(buffer)
        header = np.frombuffer(buffer, frame.header.dtype, frame.count, buffer.index(frame.header.tobytes()))
        merger.add(frame)
        merger.advance(changes.now + 10**9, merger.received_pos)
        return header["time_boot_ns"], merger.take(1 << 20)

    def images() -> None:
        _, batch = take(changes.images(64))
        applier.apply(batch)
        merger.done(batch)

    images()
    tables.heartbeat(time.clock_gettime_ns(time.CLOCK_BOOTTIME))
    tables.set_state(layout.STATE_READY)
    out.send(True)
    applied = 0
    while not stop.is_set():
        images()
        # Making a frame takes longer than applying it, so this frame is applied repeatedly, each time with later times.
        times, batch = take(changes.changes(8192))
        for _ in range(40):
            applied += applier.apply(batch)
            times += np.uint64(1000 * 8192)
            changes.now += 1000 * 8192
            tables.heartbeat(time.clock_gettime_ns(time.CLOCK_BOOTTIME))
        merger.done(batch)
        tables.evict_exited(changes.now, 1000)
    out.send(
        (
            changes.records + applied,
            tables.evicted_total,
            {name: tables.counter(name) for name in ("late", "exit_unknown")},
        )
    )
    tables.close()


def read_torn(directory: str, cores: list[int], reads: int, seed: int, out: Connection) -> None:
    """Read `reads` rows and verify each."""
    os.sched_setaffinity(0, cores)
    from pipeline.shm.reader.table import ProcessTable

    pids = random.Random(seed).choices([LIVE_PIDS[0]] * 150 + [*LIVE_PIDS, *PASSING_PIDS], k=4096)
    done = torn = absent = overlapped = wrong = gone = 0
    with ProcessTable.attach(path=directory) as table:
        view = table.view
        retries = view.busy_retries
        resolve = table.resolve
        at = 0
        while done < reads:
            at += 1
            pid = pids[at & 4095]
            try:
                entry = resolve(pid)
                if entry is None:
                    absent += pid in LIVE_PIDS
                    continue
                done += 1
                wrong += entry.pid != pid
                torn += not entry.verify()
                if at & 7 == 0:
                    for ancestor in table.ancestors(entry):
                        done += 1
                        torn += not ancestor.verify()
            except (BusyError, TooOldError):
                gone += 1  # busy for 50 ms, or evicted between the two reads; both are correct results
            if view.busy_retries != retries:
                retries = view.busy_retries
                overlapped += 1
    out.send({"reads": done, "torn": torn, "absent": absent, "wrong": wrong, "overlapped": overlapped, "gone": gone})


def torn(reads: int, readers: int) -> dict[str, Any]:
    """Run the readers and the writer of the torn case."""
    directory = tempfile.mkdtemp(prefix="procline-bench-", dir="/dev/shm")
    cores = sorted(os.sched_getaffinity(0))
    stop = common.PROCESSES.Event()
    mine, theirs = common.PROCESSES.Pipe()
    writer = common.PROCESSES.Process(target=write_torn, args=(directory, cores[0], stop, theirs))
    writer.start()
    theirs.close()  # so that recv() fails if the writer dies
    try:
        mine.recv()
        pipes, processes = [], []
        begin = time.perf_counter()
        for seed in range(readers):
            end, other = common.PROCESSES.Pipe()
            arguments = (directory, cores[1:] or cores, reads // readers, seed, other)
            process = common.PROCESSES.Process(target=read_torn, args=arguments)
            process.start()
            pipes.append(end)
            processes.append(process)
        found = [end.recv() for end in pipes]
        seconds = time.perf_counter() - begin
        for process in processes:
            process.join()
        stop.set()
        applied, evicted, oddities = mine.recv()
        writer.join()
    finally:
        writer.kill()
        shutil.rmtree(directory, ignore_errors=True)
    total = {"case": "torn"} | {key: sum(one[key] for one in found) for key in found[0]}
    assert not any(oddities.values()), oddities
    return total | {"readers": readers, "records applied": applied, "rows evicted": evicted, "seconds": seconds}


# -- writer ------------------------------------------------------------------------------------------------------------


def writer_slowdown(name: str, rounds: int, events: int, readers: int) -> dict[str, Any]:
    """Apply a load without readers, with readers of the same tables and with readers of other tables, in turn."""
    load = loads.Load(loads.storm(events)) if name == "fork/exit" else loads.Load(
        loads.build(events), strings=loads.compiler_runs()
    )  # fmt: skip
    stream = load.stream(4)
    cores = os.sched_getaffinity(0)
    with replay.Resolver(4) as resolver, replay.Resolver(4) as other:
        for each, messages in ((resolver, next(stream)), (other, load.messages(4))):
            each.enter()
            each.open_for_readers()
            each.take_in(messages)  # warm-up
        with Hammers(resolver.directory, readers) as here, Hammers(other.directory, readers) as elsewhere:
            os.sched_setaffinity(0, {min(cores)})
            cases = [("nobody", None), ("here", here), ("elsewhere", elsewhere)]
            found: list[dict[str, float]] = []
            reads, seconds = 0, 0.0
            for number in range(rounds):
                took = {}
                for case, hammers in cases[:: -1 if number % 2 else 1]:
                    messages = next(stream)
                    if hammers is not None:
                        hammers.let(readers)
                    before, begin, used = here.read()[0], time.perf_counter(), time.process_time()
                    resolver.take_in(messages)
                    took[case] = time.process_time() - used
                    if case == "here":
                        reads += here.read()[0] - before
                        seconds += time.perf_counter() - begin
                    if hammers is not None:
                        hammers.let(0)
                found.append(took)
            os.sched_setaffinity(0, cores)
        resolver.check()

    def percent(case: str, base: str) -> list[float]:
        return sorted(100 * (took[case] / took[base] - 1) for took in found)

    slowdown = percent("here", "nobody")
    return {
        "writer": name, "readers": readers, "rounds": rounds, "slowdown %": statistics.median(slowdown),
        "least": slowdown[0], "most": slowdown[-1], "elsewhere %": statistics.median(percent("elsewhere", "nobody")),
        "sharing %": statistics.median(percent("here", "elsewhere")), "M reads/s": reads / seconds / 1e6,
    }  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Run both cases; returns the exit code, which is 1 if a row was torn, absent or wrong."""
    parser = common.parser(__doc__)
    parser.add_argument("--reads", type=int, default=10_000_000)
    parser.add_argument("--readers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--events", type=int, default=100_000)
    options = common.parse(parser, argv, SMALL)
    report = common.begin(__file__, __doc__, options)
    found = torn(options.reads, options.readers)
    report.rows.append(found)
    bad = sum(found[what] for what in ("torn", "absent", "wrong"))
    report.target("rows torn, absent or wrong", bad, 0, "rows")
    for name in ("fork/exit", "build"):
        row = writer_slowdown(name, options.rounds, options.events, options.readers)
        report.rows.append(row)
        report.target(f"writer with readers, {name}", row["slowdown %"], 5, "% slower")
    return common.finish(report, as_json=options.json) or (1 if bad else 0)


if __name__ == "__main__":
    sys.exit(main())
