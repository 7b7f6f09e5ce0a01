"""A slow, obvious reader of the rings, as the kernel (kernel/bpf/ringbuf.c) describes them. Only for tests."""

from __future__ import annotations

import mmap
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import zip_longest
from typing import Any

import numpy as np

from pipeline.bpf.loader import Capture
from pipeline.records import declared, dtypes

BUSY, DISCARDED = 1 << 31, 1 << 30


#: Other tests of this host may make tens of thousands of processes while a test does not read.
RING_BYTES = 16 << 20

_HEADER = {name: (offset, dtype.str[1:]) for name, (dtype, offset, *_) in dtypes.HEADER.fields.items()}


def _field(data: bytes, name: str) -> int:
    offset, form = _HEADER[name]
    return int.from_bytes(data[offset : offset + int(form[1:])], sys.byteorder)


@dataclass
class Parts:
    """The parts of a record after HEADER. `body` is None for kinds without one; `task` is None without all of it."""

    task: np.void | None = None
    body: np.void | None = None
    path: bytes = b""
    name: bytes = b""
    args: bytes = b""
    envs: bytes = b""
    named: np.void | None = None
    members: list[tuple[int, int]] = field(default_factory=list)
    caps: np.void | None = None
    sampled: np.void | None = None
    cost: np.void | None = None
    sender: np.void | None = None
    directories: dict[str, bytes | None] = field(default_factory=dict)


class Record:
    """One record. Most are of processes of other programs, so its parts are split when a test reads the first one.

    Args:
        ring: its number.
        data: as the ring has it.
        parts: for records that are not from a ring.
        header: the same.
    """

    def __init__(
        self, ring: int, data: bytes = b"", *, header: np.void | None = None, parts: Parts | None = None
    ) -> None:
        self.ring = ring
        if header is not None:
            self.header = header
        if parts is not None:
            self.parts = parts
        if data:
            # Programs for older kernels reserve constant sizes.
            size = _field(data, "record_bytes")
            assert size <= len(data)
            self._data = data[:size]
            self.kind, self.tgid = _field(data, "kind"), _field(data, "tgid")
        else:
            self.kind, self.tgid = int(self.header["kind"]), int(self.header["tgid"])

    @cached_property
    def header(self) -> np.void:
        return np.frombuffer(self._data, dtypes.HEADER, 1)[0]

    @cached_property
    def parts(self) -> Parts:
        return parse(self.header, self._data)

    def __getattr__(self, name: str) -> Any:
        if name in _PARTS:
            return getattr(self.parts, name)
        raise AttributeError(name)

    @property
    def is_about_a_cgroup(self) -> bool:
        return bool(self.header["flags"] & declared.FLAG_CGROUP_MADE)

    @property
    def is_head_only(self) -> bool:
        return bool(self.header["flags"] & declared.FLAG_HEAD_ONLY)

    def argv(self) -> list[bytes]:
        return self.args.split(b"\0")[:-1]


_PARTS = frozenset(Parts.__dataclass_fields__)


def parse(header: np.void, data: bytes) -> Parts:
    """Split a record into its parts, and check every length in it."""
    if header["flags"] & declared.FLAG_HEAD_ONLY:
        assert len(data) == dtypes.HEADER.itemsize
        assert header["var_bytes"] == 0
        return Parts()
    at = dtypes.HEADER.itemsize
    task = np.frombuffer(data, dtypes.TASK, 1, at)[0]
    at += dtypes.TASK.itemsize
    body_dtype = dtypes.BODIES.get(int(header["kind"]))
    body = None
    if body_dtype is not None:
        body = np.frombuffer(data, body_dtype, 1, at)[0]
        at += body_dtype.itemsize
    assert at + int(header["var_bytes"]) == len(data)
    strings = []
    if header["kind"] == declared.KIND_CGROUP:
        named = np.frombuffer(data, dtypes.NAMED_CGROUP, 1, at)[0]
        at += dtypes.NAMED_CGROUP.itemsize
        members = np.frombuffer(data, dtypes.MEMBER, int(named["named_members"]), at)
        at += members.nbytes
        assert at + int(named["named_path_bytes"]) == len(data)
        pairs = list(zip(members["member_hierarchy"].tolist(), members["member_id"].tolist(), strict=True))
        return Parts(task, body, path=data[at:], named=named, members=pairs)
    if header["kind"] == declared.KIND_CAPS:
        assert header["var_bytes"] == dtypes.CAPS.itemsize
        return Parts(task, body, caps=np.frombuffer(data, dtypes.CAPS, 1, at)[0])
    if header["flags"] & declared.FLAG_SAMPLED:
        assert header["kind"] in (declared.KIND_CRED, declared.KIND_SID)
        assert header["var_bytes"] == dtypes.SAMPLED.itemsize
        return Parts(task, body, sampled=np.frombuffer(data, dtypes.SAMPLED, 1, at)[0])
    if header["kind"] == declared.KIND_EXIT and body is not None and body["exit_flags"] & declared.EXIT_COST:
        cost = np.frombuffer(data, dtypes.COST, 1, at)[0]
        at += dtypes.COST.itemsize
        sender = None
        if body["exit_flags"] & declared.EXIT_SENDER:
            sender = np.frombuffer(data, dtypes.SENDER, 1, at)[0]
            at += dtypes.SENDER.itemsize
        assert at == len(data)
        return Parts(task, body, cost=cost, sender=sender)
    if header["kind"] == declared.KIND_EXEC:
        assert body is not None
        for field in ("path_bytes", "name_bytes", "args_bytes", "envs_bytes"):
            strings.append(data[at : at + int(body[field])])
            at += int(body[field])
    assert at == len(data)
    directories: dict[str, bytes | None] = {}
    if strings:
        assert not strings[1].endswith(b"\0")
        strings[1], *paths = strings[1].split(b"\0")
        assert len(paths) <= len(declared.DIRECTORIES)
        directories = {
            directory.name: path or None for directory, path in zip_longest(declared.DIRECTORIES, paths, fillvalue=b"")
        }
    return Parts(task, body, *strings, directories=directories)


class RingReader:
    """One ring, read from its consumer position on."""

    def __init__(self, ring: int, fd: int, ring_bytes: int) -> None:
        page = mmap.PAGESIZE
        self.ring, self.ring_bytes = ring, ring_bytes
        consumer = mmap.mmap(fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self.data = mmap.mmap(fd, page + 2 * ring_bytes, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        # Store whole words: `struct.pack_into` clears its bytes before it writes them one by one, and a program that
        # reads the position in between takes the ring for full.
        self.consumer, self.words = memoryview(consumer).cast("Q"), memoryview(self.data).cast("I")
        self.producer = memoryview(self.data).cast("Q")

    def read(self) -> list[Record]:
        """Return the complete records, and release their space."""
        records = []
        position, end = self.consumer[0], self.producer[0]
        while position < end:
            at = mmap.PAGESIZE + position % self.ring_bytes
            length = self.words[at // 4]
            if length & BUSY:
                break
            size = length & ~(BUSY | DISCARDED)
            if not length & DISCARDED:
                records.append(Record(self.ring, self.data[at + 8 : at + 8 + size]))
            position += 8 + (size + 7) // 8 * 8
        self.consumer[0] = position
        return records


class Records(list[Record]):
    """A list that can only grow or be cleared, and finds the records of a process without a search."""

    def __init__(self) -> None:
        super().__init__()
        self.of_process: dict[int, list[Record]] = {}

    def add(self, records: Iterable[Record]) -> None:
        for record in records:
            self.append(record)
            self.of_process.setdefault(record.tgid, []).append(record)

    def clear(self) -> None:
        super().clear()
        self.of_process.clear()


class Reader:
    """All rings of a capture; `records` holds everything read so far."""

    def __init__(self, capture: Capture) -> None:
        self.rings = [RingReader(ring, fd, capture.ring_bytes) for ring, fd in capture.fds.rings.items()]
        self.records = Records()

    def poll(self) -> None:
        """Read the available records."""
        for ring in self.rings:
            self.records.add(ring.read())

    def until(self, enough: Callable[[], Any], timeout_s: float = 60) -> Any:
        """Poll until `enough` returns something true, and return that."""
        end = time.monotonic() + timeout_s
        while True:
            self.poll()
            if found := enough():
                return found
            assert time.monotonic() < end, f"not seen within {timeout_s} s; {len(self.records)} records read"
            time.sleep(0.002)

    def of(self, tgids: int | Iterable[int], kind: int | None = None) -> list[Record]:
        """Return the records of these processes that were read so far, in order of time."""
        wanted = {tgids} if isinstance(tgids, int) else set(tgids)
        found = [
            r
            for tgid in wanted
            for r in self.records.of_process.get(tgid, ())
            if kind in (None, r.kind) and not r.is_about_a_cgroup
        ]
        return sorted(found, key=lambda r: (int(r.header["time_boot_ns"]), r.ring, int(r.header["ring_seq"])))

    def one(self, tgid: int, kind: int, timeout_s: float = 60) -> Record:
        """Wait for the record of this kind of a process; fail if there are several."""
        self.until(lambda: self.of(tgid, kind), timeout_s)
        (record,) = self.of(tgid, kind)
        return record

    def ended(self, *tgids: int) -> None:
        """Wait until these processes' exits have been read."""
        self.until(lambda: all(self.of(tgid, declared.KIND_EXIT) for tgid in tgids))
