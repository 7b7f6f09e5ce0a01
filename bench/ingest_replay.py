#!/usr/bin/env python3
"""How many events a second does one resolver core take in, from frames to tables?

Question
    How long do decode, merge, apply and commit take per event when frames are there as fast as they are wanted, for a
    fork/exit storm and for a build (one exec in four, paths, arguments and environments as a compiler run has them)?
Method
    Frames of `--rings` rings are made beforehand, encoded as shards encode them. Then, for each run: fresh tables on
    tmpfs, a new merger and applier, and the clock runs over the resolver's own steps: decode, add, advance, take,
    apply, done, commit. Everything is touched and compiled in a first run, which is not counted. The process is pinned.
    `--ipc` sends the frames through a PUSH and a PULL socket over ipc from a second process instead.
Command
    bench/ingest_replay.py [--events N] [--rings N] [--runs N] [--ipc] [--encode] [--json]
How to read it
    events/s is the median of the runs; ns/event is split by step. Above 5 M/s for fork/exit and 1 M/s for the build the
    resolver is not what limits any host.
What it does not show
    The kernel, the shards, contention for the cores, and cold caches: frames lie in memory, and the working set is that
    of a few thousand live processes. Without --encode no event is encoded for subscribers.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pipeline import events
from pipeline.bus.frames import FrameEncoder, decode_frame
from pipeline.resolver._apply import Applier
from pipeline.resolver._merger import Merger
from pipeline.shm._writer import TableWriter

BOOT = bytes(range(16))
PARENTS = 200
FIRST_PID = 1000
PID_RANGE = 30_000
LIVE = 1500  # children that live at any time
FRAME_RECORDS = 512
BODY = {events.KIND_FORK: 32, events.KIND_EXEC: 128, events.KIND_EXIT: 32}


class Load:
    """Events in time order as columns, then cut into frames by ring."""

    def __init__(self, name: str, count: int, rings: int, seed: int = 1) -> None:
        self.name = name
        rng = np.random.default_rng(seed)
        kinds, actor = (self._storm if name == "fork/exit" else self._build)(count)
        self.count = len(kinds)
        self.starts: dict[int, int] = {}
        strings = self._strings(rng) if name != "fork/exit" else []
        self._records(kinds, actor, rng, strings)
        self.rings = rings
        self.messages = list(self._frames(rng.integers(0, rings, self.count)))
        self.bytes = sum(len(m) for m in self.messages)

    @staticmethod
    def _storm(count: int) -> tuple[list[int], list[int]]:
        kinds, actor = [], []
        for i in range(count // 2):
            kinds.append(events.KIND_FORK)
            actor.append(i)
            if i >= LIVE:
                kinds.append(events.KIND_EXIT)
                actor.append(i - LIVE)
        return kinds, actor

    @staticmethod
    def _build(count: int) -> tuple[list[int], list[int]]:
        """Of three processes two exec: eight events, two of them execs."""
        kinds, actor = [], []
        for i in range(count * 3 // 8):
            kinds.append(events.KIND_FORK)
            actor.append(i)
            if i >= LIVE // 2 and (i - LIVE // 2) % 3:
                kinds.append(events.KIND_EXEC)
                actor.append(i - LIVE // 2)
            if i >= LIVE:
                kinds.append(events.KIND_EXIT)
                actor.append(i - LIVE)
        return kinds, actor

    @staticmethod
    def _strings(rng: np.random.Generator) -> list[tuple[bytes, bytes, bytes, bytes]]:
        """(path, name, args, envs) of some compiler runs; every run has arguments of its own."""
        programs = [b"/usr/bin/x86_64-linux-gnu-gcc-14", b"/usr/libexec/gcc/x86_64-linux-gnu/14/cc1", b"/usr/bin/dash",
                    b"/usr/bin/x86_64-linux-gnu-as", b"/usr/bin/make", b"/usr/bin/sed"]  # fmt: skip
        environments = []
        for i in range(8):
            names = [b"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", b"MAKELEVEL=%d" % i]
            names += [b"VARIABLE_%d=%s" % (j, b"v" * int(rng.integers(8, 60))) for j in range(30)]
            environments.append(b"".join(n + b"\0" for n in names))
        found = []
        for i in range(4096):
            path = programs[int(rng.integers(len(programs)))]
            args = [path.rsplit(b"/", 1)[-1], b"-O2", b"-Wall", b"-I.", b"-Iinclude/generated", b"-D_GNU_SOURCE",
                    b"-c", b"-o", b"build/objects/part_%d.o" % i, b"source/part_%d.c" % i]  # fmt: skip
            found.append((path, path, b"".join(a + b"\0" for a in args), environments[i % len(environments)]))
        return found

    def _records(
        self, kinds: list[int], actor: list[int], rng: np.random.Generator,
        strings: list[tuple[bytes, bytes, bytes, bytes]],
    ) -> None:  # fmt: skip
        n = self.count
        kind, who = np.array(kinds, np.uint8), np.array(actor, np.int64)
        times = 2_000_000_000 + np.cumsum(rng.integers(500, 3000, n)).astype(np.uint64)
        first = np.zeros(int(who.max()) + 1, np.uint64)
        forks = kind == events.KIND_FORK
        first[who[forks]] = times[forks] - np.uint64(400)
        parent = rng.integers(0, PARENTS, len(first))
        self.head = head = np.zeros(n, events.HEAD)
        head["time_boot_ns"], head["kind"] = times, kind
        head["tgid"] = head["tid"] = FIRST_PID + who % PID_RANGE
        head["start_boot_ns"] = first[who]
        head["ppid"] = 2 + parent[who]
        head["parent_start_boot_ns"] = 1_000_000_000 + parent[who].astype(np.uint64)
        self.task = task = np.zeros(n, events.TASK)
        for name in ("uid", "gid", "euid", "egid", "suid", "sgid", "fsuid", "fsgid"):
            task[name] = 1000
        task["auid"], task["audit_session"], task["sid"] = 1000, 1, 2
        task["ns_pid"], task["pid_ns"], task["mnt_ns"], task["net_ns"], task["user_ns"] = head["tgid"], 1, 2, 3, 4
        task["cgroup_id"], task["comm"], task["tty"] = 4711, b"worker", b"pts0"
        self.bodies: list[bytes] = [b""] * n
        self.blobs: list[bytes] = [b""] * n
        fork, exit_ = np.zeros(1, events.FORK), np.zeros(1, events.EXIT)
        exec_ = np.zeros(1, events.EXEC)
        for i in range(n):
            if kinds[i] == events.KIND_FORK:
                fork["creator_tgid"], fork["creator_start_boot_ns"] = head["ppid"][i], head["parent_start_boot_ns"][i]
                self.bodies[i] = fork.tobytes()
            elif kinds[i] == events.KIND_EXIT:
                exit_["reaper_tgid"], exit_["reaper_start_boot_ns"] = 2, 1_000_000_000
                self.bodies[i] = exit_.tobytes()
            else:
                path, name, args, envs = strings[i % len(strings)]
                exec_["inode"], exec_["mtime_ns"] = 1 + len(path), 5
                for part, value in (("path", path), ("name", name), ("args", args), ("envs", envs)):
                    exec_[part + "_bytes"] = len(value)
                exec_["args_full_bytes"], exec_["envs_full_bytes"] = len(args), len(envs)
                self.bodies[i], self.blobs[i] = exec_.tobytes(), path + name + args + envs
        lengths = np.array([len(b) for b in self.blobs], np.uint32)
        head["var_bytes"] = lengths
        head["record_bytes"] = 64 + 160 + lengths + np.array([len(b) for b in self.bodies], np.uint32)

    def _frames(self, ring_of: npt.NDArray[np.int64]) -> Iterator[bytes]:
        encoder = FrameEncoder(boot_id=BOOT, source="replay")
        position, seq, frames = [0] * self.rings, [0] * self.rings, [0] * self.rings
        lots = [np.flatnonzero(ring_of == r) for r in range(self.rings)]
        for at in range(0, max(len(lot) for lot in lots), FRAME_RECORDS):
            for ring, lot in enumerate(lots):
                rows = lot[at : at + FRAME_RECORDS]
                if not len(rows):
                    continue
                head = self.head[rows].copy()
                spans = 8 + (head["record_bytes"].astype(np.uint64) + 7 & ~np.uint64(7))
                ends = position[ring] + np.cumsum(spans)
                head["ring_pos"] = ends - spans
                head["ring_seq"] = seq[ring] + np.arange(len(rows))
                kinds = head["kind"]
                bodies = {k: b"".join(self.bodies[i] for i in rows[kinds == k]) for k in BODY}
                yield encoder.encode(
                    ring=ring, seq=frames[ring], from_pos=position[ring], to_pos=int(ends[-1]), count=len(rows),
                    lost={}, head=head.tobytes(), task=self.task[rows].tobytes(), fork=bodies[1], exec=bodies[2],
                    exit=bodies[3], blob=b"".join(self.blobs[i] for i in rows),
                )  # fmt: skip
                position[ring], seq[ring], frames[ring] = int(ends[-1]), seq[ring] + len(rows), frames[ring] + 1


def _tables(directory: Path, rings: int) -> TableWriter:
    return TableWriter.create(
        directory, boot_id=BOOT, capture_id=1, ring_count=rings, row_capacity=1 << 18, chunk_rows=16384,
        pid_capacity=1 << 16, names_bytes=64 << 20, args_bytes=256 << 20, envs_bytes=64 << 20, boot_unix_ns=0,
        retention_ns=50_000_000,
    )  # fmt: skip


def _enter_parents(applier: Applier) -> None:
    head, task, body = np.zeros(1, events.HEAD), np.zeros(1, events.TASK), np.zeros(1, events.EXEC)
    head["time_boot_ns"] = 1_500_000_000
    task["pid_ns"], task["cgroup_id"], task["comm"] = 1, 4711, b"make"
    strings = b"/usr/bin/makemake\0-j\0"
    body["inode"], body["path_bytes"], body["args_bytes"], body["args_full_bytes"] = 9, 13, 8, 8
    for i in range(PARENTS):
        head["tgid"], head["start_boot_ns"] = 2 + i, 1_000_000_000 + i
        applier.insert_snapshot(head, task, body, strings)


STEPS = ("decode", "add", "advance", "take", "apply", "done", "commit")


def replay(load: Load, source: Iterator[bytes | memoryview], *, encode: bool) -> tuple[float, dict[str, float], int]:
    """Take a load in; returns (seconds, seconds by step, events applied)."""
    encoder = None
    if encode:
        from pipeline.resolver._encode import Encoder

        encoder = Encoder(BOOT)
        encoder.topics_mask = 0xFF
    directory = Path(tempfile.mkdtemp(prefix="procline-bench-", dir="/dev/shm"))
    clock = time.perf_counter
    spent = dict.fromkeys(STEPS, 0.0)
    try:
        tables = _tables(directory / "t", load.rings)
        applier = Applier(tables, encoder)
        _enter_parents(applier)
        merger = Merger(load.rings, stall_ms=1e9, hold_ms=1e9)
        topics = np.zeros(16, np.uint64)
        now, applied, frames = 2_000_000_000, 0, 0
        begin = clock()
        for message in source:
            t0 = clock()
            frame = decode_frame(message)
            t1 = clock()
            merger.add(frame)
            t2 = clock()
            spent["decode"] += t1 - t0
            spent["add"] += t2 - t1
            frames += 1
            if frames % (4 * load.rings) and frames < len(load.messages):
                continue
            t0 = clock()
            # The clock of the host is at the youngest event; every ring is received up to its position.
            now = max(now, int(frame.head["time_boot_ns"][-1]) + 1_000_000)
            merger.advance(now, merger.received_pos)
            t1 = clock()
            spent["advance"] += t1 - t0
            while True:
                t1 = clock()
                batch = merger.take(8192)
                t2 = clock()
                spent["take"] += t2 - t1
                if batch is None:
                    break
                applied += applier.apply(batch)
                t3 = clock()
                merger.done(batch)
                t4 = clock()
                if encoder is not None:
                    encoder.take()
                tables.commit(merger.watermark, merger.applied_pos, merger.ring_watermark, topics)
                tables.evict_exited(now, 1 << 16)
                t5 = clock()
                spent["apply"] += t3 - t2
                spent["done"] += t4 - t3
                spent["commit"] += t5 - t4
        seconds = clock() - begin
        assert tables.counter("late") == tables.counter("exit_unknown") == tables.counter("table_full") == 0
        assert tables.counter("parent_missing") == tables.counter("arena_full") == 0
        tables.close()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return seconds, spent, applied


def _push(address: str, messages: list[bytes], pin: int) -> None:
    import zmq

    os.sched_setaffinity(0, {pin})
    context = zmq.Context()
    socket = context.socket(zmq.PUSH)
    socket.set_hwm(256)
    socket.connect(address)
    for message in messages:
        socket.send(message, copy=False)
    socket.close(linger=-1)
    context.term()


def through_ipc(load: Load, pin: int) -> Iterator[memoryview]:
    """The load's messages, sent by a second process on core `pin`."""
    import zmq

    with tempfile.TemporaryDirectory(prefix="procline-bench-") as place:
        address = f"ipc://{place}/frames.ipc"
        context = zmq.Context()
        socket = context.socket(zmq.PULL)
        socket.set_hwm(256)
        socket.bind(address)
        sender = multiprocessing.get_context("fork").Process(target=_push, args=(address, load.messages, pin))
        sender.start()
        for _ in load.messages:
            yield socket.recv(copy=False).buffer
        sender.join()
        socket.close()
        context.term()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=400_000)
    parser.add_argument("--rings", type=int, default=4)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--ipc", action="store_true", help="frames come through a socket from a second process")
    parser.add_argument("--encode", action="store_true", help="every topic has a subscriber")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    allowed = sorted(os.sched_getaffinity(0))
    report: dict[str, object] = {
        "machine": platform.machine(), "kernel": platform.release(), "cores": os.cpu_count(),
        "rings": options.rings, "ipc": options.ipc, "encode": options.encode, "loads": {},
    }  # fmt: skip
    for name in ("fork/exit", "build"):
        load = Load(name, options.events, options.rings)
        runs = []
        for _ in range(options.runs + 1):
            source = through_ipc(load, allowed[-1]) if options.ipc else iter(load.messages)
            os.sched_setaffinity(0, {allowed[0]})
            runs.append(replay(load, source, encode=options.encode))
            os.sched_setaffinity(0, allowed)
        assert all(applied == load.count for _, _, applied in runs), "every event once"
        rates = sorted(load.count / seconds for seconds, _, _ in runs[1:])
        steps = {s: statistics.median(spent[s] for _, spent, _ in runs[1:]) / load.count * 1e9 for s in STEPS}
        result = {
            "events": load.count, "frame_bytes": load.bytes // len(load.messages), "events_per_s": {
                "median": statistics.median(rates), "min": rates[0], "max": rates[-1],
            }, "ns_per_event": steps,
        }  # fmt: skip
        report["loads"][name] = result  # type: ignore[index]
        if not options.json:
            print(f"{name}: {load.count} events, {len(load.messages)} frames, {options.runs} runs")
            print(f"  {statistics.median(rates) / 1e6:.2f} M events/s  ({rates[0] / 1e6:.2f} to {rates[-1] / 1e6:.2f})")
            print("  ns/event: " + "  ".join(f"{step} {ns:.1f}" for step, ns in steps.items()))
    if options.json:
        print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
