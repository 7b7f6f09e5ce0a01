#!/usr/bin/env python3
"""How much faster are our own msgpack, SHA-256, libzmq calls, CRC-32, JSON and caches than the standard ones?

Method
    Each hand-written part does the same work as the library or the plain form of the same code, on the same data and in
    one process. The two are measured in turn, A B B A, `--rounds` times, each for `--least-s` seconds of CPU time.
    event: 768 events of `bench/publish.py`. Written: the library packs dicts that exist already; making them from rows
    is not counted. Read: the library returns the same objects.
    frame: one record, as on an idle host, and 150 records of a storm. Written: only our encoder also finds the TASKs
    that are equal, which is most of its work with 150 records. Read: only our decoder also checks the columns.
    cpid: a Common Process Identifier, by SHA-256. Measured as the difference of events that need a new cpid and
    events with a remembered one. The library is hashlib in `pipeline.host.boot.cpid`.
    libzmq: an option of a socket that is read, and a message that is sent to a socket of the same process and received.
    The library is pyzmq.
    CRC-32: of 16 KiB, a block of the journal. The library is zlib.
    JSON: 8 fields of 1,000 processes that were read at once. The library is json, after a dict of each process is made.
    row cache: `resolve` of two processes in turn and 8 fields of each. Plain: the two have the same place in the cache,
    so each read finds it taken and decodes. Storing the values again, which nobody would do without a cache, is a few
    percent of that.
    string cache: the same two processes, which run the same program. Plain: path and arguments of the two have the same
    places in the cache of strings.
    property table: `entry.pid` by the type's own way to find an attribute, and by that of `object`, both called as
    functions. The call itself is in both figures, so the ratio of the look-ups alone is larger. And 8 fields of a
    process that is in the row cache, with the table or with object's way in its place, as any code reads them.
Command
    python bench/handwritten.py [--rounds N] [--least-s S] [--json]
How to read it
    CPU ns for one event, frame, message, value or process: the medians. `ratio` is the median of the pairs' ratios,
    library or plain relative to hand-written, with its quartiles `low` and `high`. Above 1, the hand-written part is
    faster. One that is below about 1.5 is not worth its code, except in a look-up (caches and property table), which
    users repeat at any rate.
What it does not show
    Cold caches: a daemon in a storm runs each part once and then something else, where a library with its objects costs
    several times as much as here.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import functools
import itertools
import shutil
import statistics
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import common
import loads
import msgpack
import numpy as np
import publish
import zmq

from pipeline import ProcessTable
from pipeline.bus._libzmq import NativeSocket
from pipeline.bus._push import FramePush
from pipeline.bus.frames.encode import FrameEncoder
from pipeline.bus.frames.frame import decode
from pipeline.bus.stream._blocks import crc32
from pipeline.bus.stream._decoder import Decoder
from pipeline.export.json import batch_lines, dumps
from pipeline.host.boot import cpid, now_boot_ns
from pipeline.records.declared import KIND_NAMES
from pipeline.resolver.daemon._waiting import FrameSocket
from pipeline.shm.layout import layout
from pipeline.shm.writer._opening import open_tables
from tests.shm import _inside
from tests.written import constant

SMALL = {"rounds": 1, "least_s": 0.001}
FRAME_RECORDS = 150
WORTH = 1.5
#: Sizes of the caches of strings, of rows and of cpids.
KEPT = constant("pipeline/shm/reader/_entry.pyx", "KEPT")
KEPT_ROWS = constant("pipeline/shm/reader/_entry.pyx", "KEPT_ROWS")
CPIDS = constant("pipeline/resolver/stream/_encoder.pxd", "CPIDS")
#: Losses by kind, as a shard sends them.
LOST: dict[str, int] = dict.fromkeys(KIND_NAMES[1:], 0)
JSON_FIELDS = ("pid", "ppid", "comm", "path", "argv", "uid", "gid", "start_time_ns")
#: Where a type has `tp_getattro`: behind 18 words of its header and its other slots, in CPython 3.11 to 3.14.
GETATTRO_OFFSET = 18 * 8
COLUMNS = ("header", "task", "fork", "exec", "exit", "blob")


class Bench:
    """Measures pairs and adds their rows to the report."""

    def __init__(self, report: common.Report, options: argparse.Namespace) -> None:
        self.report, self.options = report, options

    def _ns(self, call: Callable[[], Any]) -> float:
        """Return CPU ns of this thread for one call."""
        loops = took_ns = 0
        while took_ns < self.options.least_s * 1e9:
            more = max(1, loops)
            begin_ns = time.thread_time_ns()
            for _ in itertools.repeat(None, more):
                call()
            took_ns += time.thread_time_ns() - begin_ns
            loops += more
        return took_ns / loops

    def pair(
        self,
        part: str,
        own: Callable[[], Any],
        plain: Callable[[], Any],
        *,
        count: int = 1,
        plain_count: int = 1,
        floor: Callable[[], Any] | None = None,
        is_equal: bool = True,
    ) -> None:
        """Measure `own` and `plain` in turn.

        Args:
            part: name of the row.
            own: the hand-written form.
            plain: the library, or the plain form.
            count: events (or others) in one call of `own`.
            plain_count: the same for `plain`.
            floor: what `own` does besides; it is measured each time, and subtracted.
            is_equal: both do the same work, so that their ratio has a target.
        """
        owns, plains, ratios = [], [], []
        for number in range(self.options.rounds + 1):
            order = (True, False) if number % 2 else (False, True)
            found = {}
            for is_own in order:
                call, below, events = (own, floor, count) if is_own else (plain, None, plain_count)
                found[is_own] = (self._ns(call) - (self._ns(below) if below else 0.0)) / events
            if number == 0 and self.options.rounds > 1:
                continue  # warm-up
            owns.append(found[True])
            plains.append(found[False])
            ratios.append(found[False] / found[True])
        ordered = sorted(ratios)
        self.report.rows.append({
            "part": part, "hand-written": statistics.median(owns), "standard": statistics.median(plains),
            "ratio": statistics.median(ratios),
            "low": ordered[len(ordered) // 4], "high": ordered[3 * len(ordered) // 4],
        })  # fmt: skip
        if is_equal:
            self.report.target(part, statistics.median(ratios), WORTH, "times", is_upper_bound=False)


def events(bench: Bench, directory: Path) -> None:
    """Measure events: written, read, a value that is found, and cpids."""
    load = publish.Load(directory, 768, 5)
    load.encoder.topics_mask = 7

    def encode() -> None:
        load.encode()
        load.encoder.take()

    load.encode()
    messages = load.encoder.take()
    decoder, unpacker, packer = Decoder(), msgpack.Unpacker(strict_map_key=False), msgpack.Packer()
    decoded = [event for message in messages for event in decoder.decode(message.body, message.count)]

    def pack() -> None:
        for event in decoded:
            packer.pack(event)

    def read() -> None:
        for message in messages:
            decoder.decode(message.body, message.count)

    def unpack() -> None:
        for message in messages:
            unpacker.feed(message.body)
            list(unpacker)

    bench.pair("event written: msgpack", encode, pack, count=load.step, plain_count=len(decoded))
    bench.pair("event read: msgpack", read, unpack, count=len(decoded), plain_count=len(decoded))

    row = int(load.rows[1])
    load.topics[:], load.kinds[:] = 1, 2

    def of(*rows: int) -> Callable[[], None]:
        wanted = np.resize(np.array(rows, load.rows.dtype), load.step)

        def call() -> None:
            load.rows[:] = wanted
            encode()

        return call

    def place(number: int) -> int:
        return (number ^ number >> 10) & (CPIDS - 1)

    # Two rows with one place in the cache of cpids, and two with different places, otherwise the same.
    first = 20_000
    second = next(number for number in range(first + 1, first + 4096) if place(number) == place(first))
    ours = [
        publish.make_row(load.tables, 7000 + number, 0, b"/usr/bin/cc", b"cc", [row, row, row]) for number in range(3)
    ]
    for one, tgid in zip(ours, (first, second, first + 1), strict=True):
        load.tables.hot_view()[one]["tgid"] = tgid
    bench.pair(
        "cpid: SHA-256", of(ours[0], ours[1]), lambda: cpid(publish.BOOT, 4_026_531_836, 100_000, first),
        count=load.step, floor=of(ours[0], ours[2]),
    )  # fmt: skip
    load.tables.close(remove=True)


def frames(bench: Bench) -> None:
    """Measure frames, written and read."""
    load = loads.Load(loads.storm(4 * FRAME_RECORDS), strings=loads.compiler_runs()[:16])
    encoder = FrameEncoder(boot_id=loads.BOOT, source="ebpf")
    for records in (1, FRAME_RECORDS):
        message = load.messages(1, records)[1]
        frame = decode(message)
        columns = {name: bytes(getattr(frame, name)) for name in COLUMNS}

        def own(records: int = records, columns: dict[str, bytes] = columns) -> bytes:
            return encoder.encode(ring=3, seq=70_000, from_pos=5, to_pos=600_000, count=records, lost=LOST, **columns)

        def library(records: int = records, columns: dict[str, bytes] = columns) -> bytes:
            return msgpack.packb({
                "v": 1, "boot": loads.BOOT, "src": "ebpf", "ring": 3, "seq": 70_000, "from": 5, "to": 600_000,
                "n": records, "lost": LOST, **columns,
            })  # fmt: skip

        what = f"frame of {records} record{'s' if records > 1 else ''}"
        bench.pair(f"{what} written: msgpack", own, library, is_equal=records == 1)
        bench.pair(
            f"{what} read: msgpack", functools.partial(decode, message), functools.partial(msgpack.unpackb, message)
        )


def sockets(bench: Bench) -> None:
    """Measure calls of libzmq."""
    context = zmq.Context(1)
    push, pull = context.socket(zmq.PUSH), context.socket(zmq.PULL)
    push.sndhwm = pull.rcvhwm = 0  # otherwise a full queue refuses messages until libzmq handles its own commands
    try:
        pull.bind("inproc://handwritten")
        push.connect("inproc://handwritten")
        native, send, receive = NativeSocket(pull), FramePush(push), FrameSocket(pull).receive
        message = bytes(16_384)
        assert send(message) and bytes(receive()) == message

        def library() -> None:
            push.send(message, zmq.DONTWAIT)
            pull.recv(zmq.DONTWAIT, copy=False)

        def own() -> None:
            send(message)
            receive()

        bench.pair(
            "state of a socket: libzmq", native.is_readable, lambda: int(pull.getsockopt(zmq.EVENTS)) & zmq.POLLIN
        )
        bench.pair("message sent and received: libzmq", own, library)
    finally:
        push.close(0)
        pull.close(0)
        context.term()


def checksums(bench: Bench) -> None:
    """Measure the checksum of a block."""
    block = bytes(range(256)) * 64
    assert crc32(block) == zlib.crc32(block)
    bench.pair("16 KiB: CRC-32", lambda: crc32(block), lambda: zlib.crc32(block))


def texts(bench: Bench, table: ProcessTable) -> None:
    """Measure processes that are written as JSON."""
    batch = next(table.batches(JSON_FIELDS, size=1000))

    def library() -> bytes:
        return "\n".join(map(dumps, batch.dicts())).encode("ascii")

    assert batch_lines(batch, "\n") == library() and len(batch) >= 1000
    bench.pair(
        "process written: JSON", lambda: batch_lines(batch, "\n"), library, count=len(batch), plain_count=len(batch)
    )


def read(table: Any, pids: tuple[int, ...]) -> Callable[[], None]:
    """Return a function that resolves some pids and reads 8 fields of each."""

    def call() -> None:
        for pid in pids:
            e = table.resolve(pid)
            e.pid, e.ppid, e.comm, e.path, e.argv, e.uid, e.gid, e.start_time_ns  # noqa: B018

    return call


@contextlib.contextmanager
def generic_attributes(kind: type) -> Iterator[None]:
    """Let a compiled class find attributes as `object` does, until the context ends."""
    slot = ctypes.c_void_p.from_address(id(kind) + GETATTRO_OFFSET)
    of_object = ctypes.c_void_p.from_address(id(object) + GETATTRO_OFFSET)
    assert of_object.value == ctypes.cast(ctypes.pythonapi.PyObject_GenericGetAttr, ctypes.c_void_p).value
    own = slot.value
    slot.value = of_object.value
    try:
        yield
    finally:
        slot.value = own


def entries(bench: Bench, directory: Path) -> None:
    """Measure what the reader keeps: values of rows, strings, and the places of properties."""
    tables = open_tables(
        directory, boot_id=publish.BOOT, capture_id=1, ring_count=1, row_capacity=8 * KEPT_ROWS, pid_capacity=32768,
        chunk_rows=4096, key_capacity=1024, names_bytes=1 << 22, args_bytes=1 << 22, envs_bytes=1 << 20,
        boot_unix_ns=10**18, retention_ns=10**9,
    )  # fmt: skip
    path, args = b"/usr/lib/gcc/x86_64-linux-gnu/14/cc1", b"cc1\0-quiet\0-O2\0source.c\0-o\0out.s"
    rows = [_inside.new_row(tables) for _ in range(2 * KEPT_ROWS + 1)]

    def make(pid: int, row: int, path_number: int = 0, args_number: int = 0) -> tuple[int, int]:
        """Write a row; return the places of its path and its arguments in the cache of strings."""
        texts = [text[:-4] + b"%04d" % number for text, number in ((path, path_number), (args, args_number))]
        publish.make_row(tables, pid, 0, *texts, [0, 0, 0], row)
        hot = tables.hot_view()[row]
        return int(hot["file_ref"]) % KEPT, int(hot["args_ref"]) % KEPT

    # Two different paths with one place in the cache of strings, and two such arguments, among many that all stay.
    places = [make(1000 + number, _inside.new_row(tables), number, number) for number in range(6000)]
    twins = []
    for found in zip(*places, strict=True):
        one = next(number for number, place in enumerate(found) if place in found[number + 1 :])
        twins.append((one, found.index(found[one], one + 1)))
    firsts, others = zip(*twins, strict=True)
    # These rows have one place in the cache of rows, except the second.
    for pid, row, numbers in (
        (100, rows[0], firsts), (101, rows[1], firsts), (102, rows[KEPT_ROWS], firsts),
        (103, rows[2 * KEPT_ROWS], others),
    ):  # fmt: skip
        make(pid, row, *numbers)
    tables.set_state(layout.STATE_READY)
    tables.heartbeat(now_boot_ns())
    with tables, ProcessTable.attach(path=directory, max_age_ms=10**8) as table:
        texts(bench, table)  # first, while the table is fresh
        assert len({table.resolve(pid).row % KEPT_ROWS for pid in (100, 102, 103)}) == 1
        assert table.resolve(103).path == (path[:-4] + b"%04d" % others[0]).decode()
        one, same, other = read(table, (100, 101)), read(table, (100, 102)), read(table, (100, 103))
        bench.pair("8 fields: row cache", one, same, count=2, plain_count=2)
        bench.pair("8 fields: string cache", same, other, count=2, plain_count=2, is_equal=False)
        entry = table.resolve(100)
        own, plain = type(entry).__getattribute__, object.__getattribute__
        assert own(entry, "pid") == plain(entry, "pid") == 100
        bench.pair("a field: property table", lambda: own(entry, "pid"), lambda: plain(entry, "pid"), is_equal=False)
        count = 2000  # so many that the exchange of the slot costs nothing
        fields = read(table, (100,) * count)

        def without_table() -> None:
            with generic_attributes(type(entry)):
                fields()

        bench.pair("8 fields: property table", fields, without_table, count=count, plain_count=count, is_equal=False)


def main(argv: list[str] | None = None) -> int:
    """Measure all parts; returns the exit code."""
    parser = common.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--least-s", type=float, default=0.02, help="shortest time of one measurement")
    options = common.parse(parser, argv, SMALL)
    report = common.begin(__file__, __doc__, options)
    bench = Bench(report, options)
    root = Path(tempfile.mkdtemp(prefix="procline-bench-", dir="/dev/shm"))
    common.pin(0)
    try:
        events(bench, root / "events")
        frames(bench)
        sockets(bench)
        checksums(bench)
        entries(bench, root / "entries")
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return common.finish(report, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
