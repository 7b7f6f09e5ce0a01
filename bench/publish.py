"""How many events a second can be published, and how many can a Python subscriber receive?

Method
    Write rows of 2,000 processes into real tables, each with a path, arguments, a cgroup and `--depth` ancestors (a
    build below a shell below a session). Each process has an image from its fork, with its parent's path and arguments,
    and an image from its exec. The encoder and the publisher then run as in the resolver, in steps of `--step` events
    that alternate between fork, exec and exit, over a real ipc socket. Publisher and subscriber are two processes, each
    pinned to one core together with its ZeroMQ thread. A first run is not counted.
    nobody: events get numbers, but there is no subscriber. encode: events are encoded but not sent. send: events are
    encoded and sent as fast as possible to a subscriber that does not decode them. receive: the Python subscriber
    decodes all fields of all events into dicts; the publisher is at most `--window` messages ahead. receive, mixed: as
    receive, but neighbouring events have less in common, because a subscriber reuses equal fields of the previous
    event. There are 16 users with different cgroups, namespaces, capabilities and chains of ancestors, and 97 programs,
    in random order.
Command
    python bench/publish.py [--events N] [--runs N] [--step N] [--depth N] [--window N] [--file exec|all] [--json]
How to read it
    `events/s` is by wall time, the median of the runs. `us CPU/event` is the user and system time of one process,
    including its ZeroMQ thread. For `send`, `lost` counts the events that were dropped because the subscriber's queue
    was full, because the publisher never waits. With each side on its own core it should be 0.
What it does not show
    CURVE over TCP, several subscribers, and cold rows (all rows are in the cache after the first round, as they are
    directly after apply has written them).
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
import numpy as np

from pipeline.bus.sockets import Bus
from pipeline.bus.stream.stream_reader import StreamReader
from pipeline.resolver.stream._encoder import Encoder
from pipeline.resolver.stream.publisher import Publisher
from pipeline.shm.layout import layout
from pipeline.shm.writer._opening import open_tables
from tests.resolver import _inside as resolver_inside
from tests.shm import _inside

BOOT = bytes(range(16))
BOOT_UNIX_NS = 1_700_000_000_000_000_000
SMALL = {"events": 6000, "runs": 1}
MIXED = "receive, mixed"
TARGET_SEND = 300_000
TARGET_RECEIVE = 150_000


def make_rows(tables: Any, processes: int, depth: int, users: int) -> np.ndarray:
    """Write a chain of ancestors for each user and `processes` below them; returns the rows (fork, exec) of each."""
    parents = []
    for user in range(users):
        parent = 0
        for n in range(max(depth - 1 - user % 4, 1)):
            path = b"/usr/bin/bash" if users == 1 else b"/usr/bin/shell-%d" % (n + user)
            parent = make_row(tables, 100 + 10 * user + n, user, path, b"-bash", [parent] * 3)
        parents.append(parent)
    rows = np.empty((processes, 2), np.uint32)
    for n in range(processes):
        user = n % users
        parent, pid = parents[user], 1000 + n
        before = make_row(tables, pid, user, b"/usr/bin/bash", b"-bash", [parent] * 3)
        path = b"/usr/lib/gcc/x86_64-linux-gnu/14/cc1" if users == 1 else b"/usr/lib/tools/x86_64/program-%d" % (n % 97)
        args = b"cc1\0-quiet\0-O2\0source_%d.c\0-o\0out.s" % (n % 50)
        rows[n] = before, make_row(tables, pid, user, path, args, [before, parent, parent])
    return rows


def make_row(tables: Any, pid: int, user: int, path: bytes, args: bytes, links: list[int], row: int = 0) -> int:
    """Write one image and return its row.

    Args:
        tables: the writer.
        pid: pid of the process.
        user: number of the user.
        path: the executable.
        args: the arguments, with NULs in between.
        links: the rows of its ancestor, parent and creator; 0: none.
        row: an open row; 0: a new one.
    """
    row = row or _inside.new_row(tables)
    hot, cold = tables.hot_view()[row : row + 1], tables.cold_view()[row : row + 1]
    ppid = tables.hot_view()[links[1]]["tgid"] if links[1] else 1
    hot["tgid"], hot["ppid"] = pid, ppid
    hot["start_boot_ns"] = hot["exec_boot_ns"] = cold["fork_boot_ns"] = 10**12 + 1000 * pid
    hot["known"] = 0x7FFF
    hot["flags"] = layout.ROW_HEAD | layout.ROW_IS_EXEC
    hot["uid"] = hot["gid"] = 1000 + user
    for name in ("euid", "egid", "suid", "sgid", "fsuid", "fsgid"):
        cold[name] = 1000 + user
    hot["comm"] = path.rpartition(b"/")[2][:15]
    hot["source"], hot["images"], hot["cgroup_id"], hot["inode"] = layout.SOURCE_EVENT, 2, 77 + user, 123_456
    cold["tid"] = cold["ns_pid"] = pid
    cold["creator_tgid"] = ppid
    for name in ("pid_ns", "mnt_ns", "net_ns", "user_ns"):
        cold[name] = 4_026_531_836 + user
    cold["cap_effective"] = cold["cap_permitted"] = user
    cold["sid"] = cold["pgid"] = 100 + user
    cold["tty"], cold["argc"] = b"pts%d" % (3 + user), args.count(b"\0") + 1
    file = np.zeros(1, layout.FILE)
    file["file_inode"], file["device"], file["mount_id"], file["mode"] = 123_456, 8 << 20 | 1, 29, 0o100755
    file["mtime_ns"] = file["ctime_ns"] = BOOT_UNIX_NS - 10**15
    file["nlink"], file["fs_magic"], file["mount_end"] = 1, 0xEF53, 1
    file["mount_source"], file["mount_origin"] = layout.MOUNT_SOURCE_ID, layout.MOUNT_ORIGIN_EVENT
    file["mount_flags"] = layout.MOUNT_RESOLVED | layout.MOUNT_VISIBLE
    tables.py_set_ref("file", row, tables.py_intern_names(file.tobytes() + path))
    tables.py_set_ref("args", row, tables.py_intern_args((len(args) + 1).to_bytes(4, "little") + args + b"\0"))
    tables.py_set_ref("name", row, tables.py_intern_names(path))
    scope = b"/user.slice/user-%d.slice/session-%d.scope" % (1000 + user, 3 + user)
    tables.py_set_ref("cgroup", row, tables.py_intern_names(bytes(layout.CGROUP.itemsize) + scope))
    for link, to in zip(("ancestor", "parent", "creator"), links, strict=True):
        if to:
            tables.py_set_link(link, row, to)
    tables.py_end(row)
    _inside.set_head(tables, pid, row)
    return row


class Load:
    """Tables, an encoder, and the events of one step."""

    def __init__(self, directory: Path, step: int, depth: int, file: str = "exec", *, is_mixed: bool = False) -> None:
        self.tables = open_tables(
            directory,
            boot_id=BOOT,
            capture_id=1,
            ring_count=1,
            row_capacity=8192,
            chunk_rows=4096,
            pid_capacity=8192,
            key_capacity=1024,
            names_bytes=1 << 22,
            args_bytes=1 << 22,
            envs_bytes=1 << 22,
            boot_unix_ns=BOOT_UNIX_NS,
            retention_ns=10**9,
        )
        images = make_rows(self.tables, 2000, depth, 16 if is_mixed else 1)
        order = np.arange(step)
        process = order // 3 % len(images)
        if is_mixed:
            process = np.random.default_rng(1).permutation(len(images))[process]
        self.step = step
        self.topics = (order % 3).astype(np.uint8)
        self.rows = images[process, self.topics.clip(max=1)]
        self.kinds = (order % 3 + 1).astype(np.uint8)
        self.times = 10**12 + order.astype(np.uint64)
        self.encoder = Encoder(BOOT, file=file)

    def encode(self) -> None:
        resolver_inside.add_many(self.encoder, self.tables, self.topics, self.kinds, self.rows, self.times)


def measure_encoder(directory: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure the cases without a socket."""
    common.pin(0)
    load = Load(directory, options.step, options.depth, options.file)
    results = []
    for case, mask in (("nobody", 0), ("encode", 7)):
        load.encoder.topics_mask = mask
        rates, cpus, size = [], [], 0
        for run in common.laps(options):
            events = size = 0
            begin, cpu = time.perf_counter(), time.process_time()
            while events < options.events:
                load.encode()
                size += sum(len(message.body) for message in load.encoder.take())
                events += options.step
            elapsed, cpu = time.perf_counter() - begin, time.process_time() - cpu
            if run:  # the first run is a warm-up
                rates.append(events / elapsed)
                cpus.append(cpu / events * 1e6)
        results.append(_result(case, rates, cpus, size / events, 0))
    load.tables.close(remove=True)
    return results


def subscriber_main(socket: Path, core: int, case: str, total: int, progress: Any, result: Any) -> None:
    """Receive `total` events on core `core`, and send the time that it took."""
    os.sched_setaffinity(0, {core})  # not common.pin: the allowed cores were inherited from the pinned publisher
    reader = StreamReader(f"ipc://{socket}", ["proc"], receive_hwm=4096)
    if case == "send":
        reader.tracker.feed = _Counter(reader.tracker)  # type: ignore[method-assign]
    got = before = 0
    begin = cpu = 0.0
    while got < total:
        events = reader.read(2.0)
        if not events:
            break
        got += len(events)
        progress.value = got
        if not begin:  # do not count the first batch, which waited for the publisher
            begin, cpu, before = time.perf_counter(), time.process_time(), got
    result.send((got - before, time.perf_counter() - begin, time.process_time() - cpu, reader.tracker.missed.total()))
    reader.close()


class _Counter:
    """Replaces Tracker.feed: counts events from the header only."""

    def __init__(self, tracker: Any) -> None:
        self.tracker = tracker

    def __call__(self, topic: bytes, header: bytes, body: bytes) -> range:
        from pipeline.bus.stream.messages import TOPIC_NUMBERS, Header

        parsed = Header.parse(header)
        number = TOPIC_NUMBERS[topic]
        last = self.tracker.last[number] or 0
        self.tracker.missed[topic] += parsed.first - last - 1
        self.tracker.last[number] = parsed.first + parsed.count - 1
        return range(parsed.count)


def measure_socket(case: str, directory: Path, core: int, options: argparse.Namespace) -> dict[str, Any]:
    """Measure a case with a subscriber, which runs on `core`."""
    common.pin(0)
    rates, cpus, lost, size = [], [], 0, 1.0
    load = Load(directory, options.step, options.depth, options.file, is_mixed=case == MIXED)
    for run in common.laps(options):
        load.encoder.topics_mask = 0
        progress = common.PROCESSES.Value("q", 0, lock=False)
        receiving, sending = common.PROCESSES.Pipe(duplex=False)
        socket = directory / f"stream-{run}.ipc"
        with Bus() as bus:
            publisher = Publisher(
                load.encoder, bus, socket, boot=BOOT, boot_unix_ns=BOOT_UNIX_NS, epoch=1, send_hwm=4096
            )
            arguments = (socket, core, case, options.events, progress, sending)
            child = common.PROCESSES.Process(target=subscriber_main, args=arguments)
            child.start()
            while not load.encoder.topics_mask:
                publisher.do_work(time.monotonic_ns())
                time.sleep(0.01)
            publisher.do_work(time.monotonic_ns())
            time.sleep(0.1)
            sent = bytes_sent = 0
            begin, cpu = time.perf_counter(), time.process_time()
            window = options.window * 32
            while not receiving.poll() and (case != "send" or sent < options.events):
                if case != "send" and sent - progress.value > window + options.step:
                    time.sleep(0.0002)
                    continue
                load.encode()
                messages = load.encoder.take()
                bytes_sent += sum(len(message.body) for message in messages)
                sent += publisher.send(messages)
                publisher.do_work(time.monotonic_ns())
            elapsed, cpu = time.perf_counter() - begin, time.process_time() - cpu
            got, took, child_cpu, missed = receiving.recv()
            child.join()
            publisher.close()
        if run:
            rates.append(sent / elapsed if case == "send" else got / took)
            cpus.append((cpu / sent if case == "send" else child_cpu / max(got, 1)) * 1e6)
            lost += missed
            size = bytes_sent / sent
    load.tables.close(remove=True)
    return _result(case, rates, cpus, size, lost)


def _result(case: str, rates: list[float], cpus: list[float], size: float, lost: int) -> dict[str, Any]:
    return {
        "case": case, "events/s": statistics.median(rates), "spread": common.spread(rates),
        "us CPU/event": statistics.median(cpus), "bytes/event": size, "lost": lost,
    }  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Run all cases; returns the exit code."""
    parser = common.parser(__doc__)
    parser.add_argument("--events", type=int, default=300_000, help="events a run")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--step", type=int, default=768, help="events between two commits (4 ms at 200,000/s)")
    parser.add_argument("--depth", type=int, default=5, help="ancestors of an image from an exec")
    parser.add_argument("--window", type=int, default=64, help="messages that the publisher may be ahead (receive)")
    parser.add_argument("--file", choices=("exec", "all"), default="exec", help="events with the fields of the file")
    options = common.parse(parser, argv, SMALL)
    report = common.begin(__file__, __doc__, options)
    root = Path(tempfile.mkdtemp(prefix="procline-bench-", dir="/dev/shm"))
    cores = os.sched_getaffinity(0)
    try:
        report.rows += measure_encoder(root / "encoder", options)
        for case, limit in (("send", TARGET_SEND), ("receive", TARGET_RECEIVE), (MIXED, None)):
            row = measure_socket(case, root / case.replace(", ", "-"), max(cores), options)
            report.rows.append(row)
            if limit is not None:
                report.target(case, row["events/s"], limit, "events/s", is_upper_bound=False)
    finally:
        os.sched_setaffinity(0, cores)
        shutil.rmtree(root, ignore_errors=True)
    return common.finish(report, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
