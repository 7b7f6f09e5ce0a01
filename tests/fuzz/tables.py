"""Targets that read and take over damaged tables. The tables stay; what an input changed is put back after it."""

from __future__ import annotations

import errno
import os
import struct
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.errors import ProclineError
from pipeline.host.vitals import read_vitals
from pipeline.shm.layout import layout
from pipeline.shm.layout.declared import CHANGES_KEPT
from pipeline.shm.reader import _view
from pipeline.shm.reader.horizon import horizon
from pipeline.shm.reader.table import ProcessTable
from pipeline.shm.writer._writer import TableWriter
from pipeline.shm.writer.keyspace import KeySpace
from pipeline.shm.writer.segments import SEGMENTS
from pipeline.sources.ring._acks import ControlAcks
from tests.fuzz.target import scratch
from tests.shm import _inside
from tests.shm.table_host import Host, Process, make_writer

#: Pids of the tables; the last one has ended.
_PIDS = range(1, 7)
_BIGGER = 4 * len(_PIDS)
#: Small arenas that cannot grow, so that all bytes can be put back quickly.
_SIZES: dict[str, int] = {
    "row_capacity": 64, "chunk_rows": 64, "pid_capacity": 128, "key_capacity": 4, "names_bytes": 1 << 14,
    "args_bytes": 1 << 14, "envs_bytes": 1 << 14, "chain_max": 4,
}  # fmt: skip
_MAX_AGE_MS = 1 << 31


def _make_tables(directory: Path) -> TableWriter:
    """Create tables in a new directory: a tree of processes, each with two images; one has ended, one was replaced."""
    directory.mkdir(mode=0o755)
    writer = make_writer(directory, **_SIZES)
    host = Host(writer)
    for pid in _PIDS:
        host.fork(pid // 2, pid)
        host.exec(pid, b"sh", b"\x08\0\0\0sh\0" + b"x" * pid)
    host.exit(_PIDS[-1])
    host.exit(5)
    host.fork(2, 5)
    for pid in range(_SIZES["key_capacity"]):
        key = writer.keys.add(5 + pid, 1234)
    row = host.fork(0, key)
    writer.py_begin(row)
    host.hot["flags"][row] |= layout.ROW_FOREIGN
    writer.py_end(row)
    writer.set_state(layout.STATE_READY)
    writer.heartbeat(time.clock_gettime_ns(time.CLOCK_BOOTTIME))
    return writer


def _used_bytes(writer: TableWriter) -> dict[str, int]:
    """Return how much of each segment has content; the ring of changes at the end of `control` is left out."""
    rows = writer.rows_frontier
    return {
        "control": int(writer.control_view()[0]["changes_offset"]),
        "index": 4 * _BIGGER,
        "keys": 8 + 8 * _SIZES["key_capacity"],
        "hot": rows * layout.HOT.itemsize,
        "cold": rows * layout.COLD.itemsize,
        "costs": rows * layout.COSTS.itemsize,
        **{name: getattr(writer, name).frontier_bytes + 32 for name in ("names", "args", "envs")},
    }


def _memory(path: Path) -> npt.NDArray[np.uint8]:
    return np.memmap(path, np.uint8, "r+")


@contextmanager
def _own_errors() -> Iterator[None]:
    """Accept Procline's errors, and that a mapping needs more address space than the fuzzer allows itself."""
    try:
        yield
    except ProclineError:
        pass
    except OSError as error:
        if error.errno != errno.ENOMEM:
            raise


@contextmanager
def _patience(chosen: int) -> Iterator[None]:
    """Let readers wait only in a few inputs for a row or a segment that seems to be written: no writer will end it."""
    if chosen % 4096 == 0:
        yield
        return
    before = _inside.set_patience(1, 2, 0)
    tries, _view._OPEN_TRIES = _view._OPEN_TRIES, 1
    try:
        yield
    finally:
        _inside.set_patience(*before)
        _view._OPEN_TRIES = tries


def _attach(directory: Path) -> ProcessTable:
    return ProcessTable.attach(path=directory, max_age_ms=_MAX_AGE_MS)


class _Tables:
    """Tables of which bytes are changed, and a reader that stays attached."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.writer = _make_tables(directory)
        self.names = sorted(path.name for path in directory.iterdir() if path.is_file() and path.stat().st_size)
        self.maps = [_memory(directory / name) for name in self.names]
        used = _used_bytes(self.writer)
        self.used = [used.get(name, len(memory)) for name, memory in zip(self.names, self.maps, strict=True)]
        self.control = self.maps[self.names.index("control")]
        self.hot = self.maps[self.names.index("hot")].view(layout.HOT)
        self._noted = self.control[: layout.CONTROL.itemsize].view(layout.CONTROL)["changes"]
        self._serial = 1 << 10
        self._attached: ProcessTable | None = None

    def attached(self) -> ProcessTable:
        """Return the reader that stays attached; it must be called while the tables are sound."""
        if self._attached is None or self._attached.closed:
            self._attached = _attach(self.directory)
        return self._attached

    def detach(self) -> None:
        """Let the next call of `attached` open the tables again."""
        if self._attached is not None:
            self._attached.close()
            self._attached = None

    def live(self) -> None:
        """Store a heartbeat, and have readers forget what they keep of all rows."""
        self.writer.heartbeat(time.clock_gettime_ns(time.CLOCK_BOOTTIME))
        self._noted += 2 * CHANGES_KEPT

    def renumber(self, rows: Sequence[int], before: Sequence[int]) -> None:
        """Give rows a number that they never had, as a change does, if they were not being written."""
        self._serial += 2
        for row, number in zip(rows, before, strict=True):
            if number % 2 == 0:
                self.hot["row_seq"][row] = self._serial


@cache
def _table() -> _Tables:
    return _Tables(scratch() / "table")


# -- readers -----------------------------------------------------------------------------------------------------------

_CHANGE = struct.Struct("<BIB")


def damages() -> list[bytes]:
    """Return changes of single bytes: number of the segment, place, and what is changed (exclusive or)."""
    tables = _table()
    made = [b"".join(_CHANGE.pack(n, 1000 * k + n, 255) for k in range(3)) for n in range(8)]
    for number, used in enumerate(tables.used):
        made += [_CHANGE.pack(number, used * part // 12, 1 << part % 8) for part in range(12)]
    return made


def change(segment: str, offset: int, value: int) -> bytes:
    """Return the input of `check_segments` that changes one byte of a segment."""
    return _CHANGE.pack(_table().names.index(segment), offset, value)


def check_segments(data: bytes) -> bool:
    """Any bytes of the tables are changed: readers get answers or errors of their own, in bounded time.

    A place beyond the end of a segment is taken for one of the bytes with content. In most inputs, the changed rows are
    made valid as a writer does at the end of a change, so that readers get to their content. Most inputs are read by a
    reader that is attached already, unless they change what is read when it attaches.
    """
    tables = _table()
    chosen = zlib.crc32(data)
    tables.live()
    table = tables.attached()
    undo = []
    rows = set()
    is_attached = chosen % 16 != 0
    for segment, offset, value in _CHANGE.iter_unpack(data[: len(data) // _CHANGE.size * _CHANGE.size][:600]):
        number = segment % len(tables.maps)
        name, memory = tables.names[number], tables.maps[number]
        at = offset if offset < len(memory) else offset % tables.used[number]
        if name in ("hot", "cold", "costs"):
            rows.add(at // {"hot": layout.HOT, "cold": layout.COLD, "costs": layout.COSTS}[name].itemsize)
        elif name == "control":
            is_attached = False
        undo.append((memory, at, int(memory[at])))
        memory[at] ^= value
    changed = sorted(row for row in rows if row < len(tables.hot))
    before = [int(tables.hot["row_seq"][row]) for row in changed]
    if chosen % 8:
        tables.renumber(changed, [0] * len(changed))
    begin = time.process_time()
    reads = _ALL_READS if chosen % 128 == 1 else _READS
    accepted = False
    try:
        with _patience(chosen):
            if is_attached:
                accepted = _read_all(table, reads)
            else:
                with _own_errors(), _attach(tables.directory) as fresh:
                    accepted = _read_all(fresh, reads)
    finally:
        for memory, at, old in reversed(undo):
            memory[at] = old
        tables.renumber(changed, before)
    assert time.process_time() - begin < 10
    return accepted


def _all_entries(table: ProcessTable) -> None:
    for entry in table.walk(exited=True):
        entry.to_dict()
        assert entry.pid >= 0


_ASKED = np.arange(1, _PIDS[-1] + 3)

_READS: tuple[Callable[[ProcessTable], object], ...] = (
    lambda table: [table.resolve(pid) for pid in range(1, _PIDS[-1] + 3)],
    lambda table: [each.comm for each in table.ancestors(4)],
    lambda table: table.children(2),
    _all_entries,
    lambda table: table.rows(exited=True),
    lambda table: table.resolve_many(_ASKED),
    lambda table: table.ancestor_pids_many(_ASKED),
    lambda table: table.columns(["pid", "comm", "argv", "ppid"]),
)
_ALL_READS = (*_READS, lambda table: table.stats())


def _read_all(table: ProcessTable, calls: Sequence[Callable[[ProcessTable], object]]) -> bool:
    """Make these calls; return whether one had an answer. Errors of Procline's own are answers of damaged tables."""
    answered = False
    for call in calls:
        with _own_errors():
            call(table)
            answered = True
    return answered


# -- the control segment -----------------------------------------------------------------------------------------------

_WORD = struct.Struct("<BIBQ")
_WIDTHS = (1, 2, 4, 8)
_VALUES = (0, 1, 0xFF, 0x7FFF_FFFF, 0xFFFF_FFFF, 1 << 40, (1 << 64) - 1)

_Undo = list[tuple[npt.NDArray[np.uint8], int, bytes]]


def words() -> list[bytes]:
    """Return changes of words: number of the segment, place, width, value. A place near 0 is in the header."""
    return [
        b"".join(_WORD.pack(segment, 8 * (7 * number + segment), 2 + number % 2, value) for segment in segments)
        for number, value in enumerate(_VALUES)
        for segments in ((0,), (0, 0, 0), (0, 1, 2, 3))
    ]


def control_words() -> list[bytes]:
    """Return changes of words of the control segment: of each field of the header, of the rings and of the commits."""
    used = _table().used[_table().names.index("control")]
    fields = [_WORD.pack(0, at, 3, _VALUES[at // 8 % 7]) for at in range(0, layout.CONTROL.itemsize, 8)]
    return [*words(), *fields, *(_WORD.pack(0, at, 3, _VALUES[at // 8 % 7]) for at in range(512, used, used // 40))]


def _replace_words(data: bytes, mapped: Sequence[npt.NDArray[np.uint8]], used: Sequence[int]) -> _Undo:
    """Replace words of files; return what was there before, as `_put_back` takes it."""
    undo: _Undo = []
    for segment, place, width, value in _WORD.iter_unpack(data[: len(data) // _WORD.size * _WORD.size][:1400]):
        memory, size = mapped[segment % len(mapped)], _WIDTHS[width % 4]
        end = len(memory) if place < len(memory) else used[segment % len(mapped)]
        at = place % (end - size + 1) // size * size
        undo.append((memory, at, memory[at : at + size].tobytes()))
        memory[at : at + size] = np.frombuffer(value.to_bytes(8, "little")[:size], np.uint8)
    return undo


def _put_back(undo: _Undo) -> None:
    for memory, at, before in reversed(undo):
        memory[at : at + len(before)] = np.frombuffer(before, np.uint8)


def check_control(data: bytes) -> bool:
    """Words of the control segment have any value: a reader attaches later, and another reads the segment.

    The other one is a reader that is attached already, the supervisor and a command, or a shard.
    """
    tables = _table()
    directory = tables.directory
    tables.live()
    attached = tables.attached()
    view = attached.view
    chosen = zlib.crc32(data)
    reads = (*_QUICK_READS, _ALL_READS[-1]) if chosen % 128 == 1 else _QUICK_READS
    accepted = False
    begin = time.process_time()
    undo = _replace_words(data, [tables.control], tables.used[tables.names.index("control") :])
    try:
        with _patience(chosen):
            with _own_errors(), _attach(tables.directory) as later:
                accepted = _read_all(later, reads)
            if chosen % 3 == 0:
                _read_all(attached, reads)
        if chosen % 3 == 1:
            vitals = read_vitals(directory)
            assert vitals is None or len(vitals.received_pos) <= len(tables.control)
            horizon(directory)
        if chosen % 3 == 2:
            acks = ControlAcks(directory / "control", capture_id=1)
            acks.refresh()
            for number in (0, 1, 2, 1 << 16, (1 << 32) - 1):
                acks.ring(number)
            acks.close()
    finally:
        _put_back(undo)
        if attached.closed or attached.view is not view:  # it has opened the tables again, with the damage
            tables.detach()
    assert time.process_time() - begin < 10
    return accepted


#: Without those that read a row again and again for a while if it seems to be written.
_QUICK_READS: tuple[Callable[[ProcessTable], object], ...] = (
    lambda table: table.resolve(5),
    lambda table: table.resolve(5, 10**18 + 150),
    lambda table: table.rows(exited=True),
    lambda table: table.ancestor_pids_many(_ASKED),
    lambda table: table.columns(["pid", "comm", "argv", "ppid"]),
    lambda table: [table.watermark_boot_ns, table.boot_unix_ns],
)


# -- a successor of the writer -----------------------------------------------------------------------------------------


class _Leftovers:
    """The tables of a killed writer, which each input damages, and which a successor takes over or replaces."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        writer = _make_tables(directory)
        used = _used_bytes(writer)
        del writer  # without `close`: what a kill leaves
        self._kept = directory.with_name("kept")
        self._kept.mkdir()
        self._names = SEGMENTS[::-1]  # the control segment is first
        for name in self._names:
            os.link(directory / name, self._kept / name)
        self.maps = [_memory(self._kept / name) for name in self._names]
        self.used = [used[name] for name in self._names]
        self._sound = [memory.copy() for memory in self.maps]
        self._inode = os.stat(self._kept / "control").st_ino  # noqa: PTH116 - Path.stat takes longer

    def restore(self) -> None:
        """Put the sound tables back."""
        if os.stat(self.directory / "control").st_ino != self._inode:  # noqa: PTH116
            for name in self._names:
                os.unlink(self.directory / name)  # noqa: PTH108
                os.link(self._kept / name, self.directory / name)
        for memory, sound in zip(self.maps, self._sound, strict=True):
            memory[:] = sound


@cache
def _leftovers() -> _Leftovers:
    return _Leftovers(scratch() / "leftovers")


def leftover_words() -> list[bytes]:
    """Return changes of words of all segments; of the control segment, mostly of what a successor does not compare."""
    made = words()
    for number, used in enumerate(_leftovers().used[1:], 1):
        steps = sorted({used * part // 48 // 4 * 4 for part in range(48)})
        made += [_WORD.pack(number, at, 2, _VALUES[part % 7]) for part, at in enumerate(steps)]
    for name in ("heartbeat_boot_ns", "horizon_boot_ns", "capture_id", "commit_index", "changes", "takeovers"):
        made.append(_WORD.pack(0, layout.CONTROL.fields[name][1], 3, _VALUES[len(name) % 7]))
    return made


def check_takeover(data: bytes) -> bool:
    """Words of the tables of a dead instance have any value: its successor takes over or begins anew, and works."""
    leftovers = _leftovers()
    leftovers.restore()
    begin = time.process_time()
    _replace_words(data, leftovers.maps, leftovers.used)
    try:
        writer = make_writer(leftovers.directory, **_SIZES)
    except ProclineError:
        return False
    with writer:
        is_takeover = bool(writer.is_takeover)
        _work(writer)
        writer.set_state(layout.STATE_READY)
        writer.heartbeat(time.clock_gettime_ns(time.CLOCK_BOOTTIME))
        if zlib.crc32(data) % 16 == 0:
            with (
                _patience(1),
                _own_errors(),
                ProcessTable.attach(path=leftovers.directory, max_age_ms=_MAX_AGE_MS) as table,
            ):
                _read_all(table, _QUICK_READS)
    assert time.process_time() - begin < 20
    return is_takeover


def _work(writer: TableWriter) -> None:
    """Do what a resolver does with tables: end torn rows, then new processes and images, exits and evictions."""
    for row in writer.torn_rows:
        writer.py_end(row)
    host = Host(writer)
    ended = host.hot["exit_boot_ns"]
    for pid in (2, 4):  # these are in the leftovers
        row = writer.py_head(pid)
        if row and not ended[row]:
            host.processes[pid] = Process(start=0, ppid=0, comm=b"", args=b"")
            for number in range(3):
                host.exec(pid, b"new", b"new%d\0" % number)
            writer.py_children(pid)
    host.fork(0, 100)
    host.fork(100, 101)
    host.exec(101, b"new", b"new\0")
    host.exit(101)
    KeySpace(writer, lambda: 1 << 62, quiet_ns=0).slot(5, 4321)
    writer.evict_exited(1 << 62, 1000)
