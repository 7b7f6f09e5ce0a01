"""A host of processes over a TableWriter: the work of apply in plain Python, and a model of the expected tables."""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import MutableSequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from pipeline.shm.layout import layout
from pipeline.shm.writer._opening import open_tables
from pipeline.shm.writer._writer import TableWriter
from tests.shm import _inside

BOOT_ID = bytes(range(16))
_COSTS = struct.Struct("<6Q4I")


def make_writer(directory: Path, **changes: Any) -> TableWriter:
    """A small table in `directory`; keyword arguments as in open_tables."""
    settings: dict[str, Any] = {
        "boot_id": BOOT_ID, "capture_id": 1, "ring_count": 2, "row_capacity": 4096, "chunk_rows": 64,
        "pid_capacity": 1024, "names_bytes": 1 << 20, "args_bytes": 1 << 20, "envs_bytes": 1 << 20,
        "key_capacity": 1024, "boot_unix_ns": 10**18, "retention_ns": 1000, "checked": True,
    }  # fmt: skip
    return open_tables(directory, **(settings | changes))


@dataclass(slots=True)
class Process:
    """The model's facts about a live process."""

    start: int
    ppid: int
    comm: bytes
    args: bytes
    images: int = 1


class Columns(dict[str, MutableSequence[Any]]):
    """The columns of an array by their names.

    Tests stop a writer after each of its instructions. So a column is made when it is first used, and is a memoryview
    if possible: a store to it takes a fifth of the instructions of a store to an array.
    """

    def __init__(self, rows: npt.NDArray[Any]) -> None:
        super().__init__()
        self._rows = rows

    def __missing__(self, name: str) -> MutableSequence[Any]:
        column = self._rows[name]
        self[name] = memoryview(column) if column.dtype.kind in "ui" and column.ndim == 1 else column
        return self[name]


class Host:
    """Forks, execs and exits by number; `processes` is the model. Time is a counter of steps."""

    def __init__(self, writer: TableWriter, now: int = 100) -> None:
        self.writer = writer
        self.now = now
        self.processes: dict[int, Process] = {}
        self.refused = 0
        self._rows = 0  # those that the columns have
        self.refresh(0)

    def refresh(self, row: int) -> None:
        """Get the columns again if the table has grown for a row."""
        if row >= self._rows:
            hot, cold = self.writer.hot_view(), self.writer.cold_view()
            self._rows = len(hot)
            self.hot, self.cold = Columns(hot), Columns(cold)

    def adopt_model(self) -> None:
        """Rebuild the model from the tables (after a take-over)."""
        hot = self.hot
        self.processes = {}
        for pid in self.writer.index_view().nonzero()[0].tolist():
            row = self.writer.py_head(pid)
            if not hot["exit_boot_ns"][row]:
                self.processes[pid] = self.process_of(row)
            self.now = max(self.now, int(hot["exit_boot_ns"][row]), int(hot["start_boot_ns"][row]))
        self.now += 1

    def process_of(self, row: int) -> Process:
        """The tables' facts about the process that has `row` as its newest image."""
        hot = self.hot
        return Process(
            start=int(hot["start_boot_ns"][row]), ppid=int(hot["ppid"][row]), comm=bytes(hot["comm"][row]),
            args=self.args_of(row), images=int(hot["images"][row]),
        )  # fmt: skip

    def args_of(self, row: int) -> bytes:
        return self.writer.args.py_bytes(int(self.hot["args_ref"][row]))

    def fork(self, ppid: int, pid: int) -> int:
        """Process `ppid` (0: none) forks `pid`. An earlier owner of `pid` that still lives has ended unseen."""
        writer = self.writer
        self.now += 1
        if pid in self.processes:
            self.exit(pid, flags=layout.ROW_EXIT_UNSEEN)
            if ppid == pid:
                ppid = 0
        parent = writer.py_head(ppid) if ppid in self.processes else 0
        row = _inside.copy_row(writer, parent) if parent else _inside.new_row(writer)
        if not row:
            self.refused += 1
            return 0
        self.refresh(row)
        hot, cold = self.hot, self.cold
        hot["tgid"][row] = pid
        hot["ppid"][row] = ppid if parent else 0
        hot["start_boot_ns"][row] = self.now
        hot["exec_boot_ns"][row] = 0
        hot["exit_boot_ns"][row] = 0
        hot["flags"][row] = layout.ROW_HEAD
        hot["images"][row] = 1
        cold["fork_boot_ns"][row] = self.now
        if parent:
            for field in ("ancestor", "parent", "creator"):
                writer.py_set_link(field, row, parent)
        else:
            hot["comm"][row] = b"root%d" % pid
        owner = writer.py_head(pid)
        writer.py_set_link("previous_owner", row, owner)
        writer.py_end(row)
        _inside.set_head(writer, pid, row)
        if parent:
            writer.py_adopt(pid, ppid)
        self.processes[pid] = Process(
            start=self.now, ppid=ppid if parent else 0, comm=bytes(hot["comm"][row]), args=self.args_of(row)
        )
        return row

    def exec(self, pid: int, comm: bytes, args: bytes, *, head_first: bool = False) -> int:
        """Process `pid` executes another image. `head_first`: the index is stored before the old image is stamped."""
        writer = self.writer
        self.now += 1
        old = writer.py_head(pid)
        new = _inside.copy_row(writer, old)
        if not new:
            self.refused += 1
            return 0
        self.refresh(new)
        hot = self.hot
        hot["exec_boot_ns"][new] = self.now
        hot["images"][new] = min(int(hot["images"][old]) + 1, 65535)
        hot["flags"][new] = layout.ROW_HEAD | layout.ROW_IS_EXEC
        hot["comm"][new] = comm
        hot["known"][new] = layout.KNOWN_ARGS | layout.KNOWN_COMM
        writer.py_set_ref("args", new, writer.py_intern_args(args))
        writer.py_set_ref("file", new, _inside.intern2(writer.names, b"f" * 64, b"/bin/" + comm))
        writer.py_set_link("ancestor", new, old)
        writer.py_end(new)
        if head_first:
            _inside.set_head(writer, pid, new)
        writer.py_begin(old)
        hot["flags"][old] = int(hot["flags"][old]) & ~layout.ROW_HEAD | layout.ROW_REPLACED
        hot["exit_boot_ns"][old] = self.now
        writer.py_end(old)
        if not head_first:
            _inside.set_head(writer, pid, new)
        process = self.processes[pid]
        process.comm, process.args = bytes(hot["comm"][new]), self.args_of(new)
        process.images += 1
        return new

    def rename(self, pid: int, comm: bytes) -> None:
        """Change the name in place."""
        row = self.writer.py_head(pid)
        self.writer.py_begin(row)
        self.hot["comm"][row] = comm
        self.writer.py_end(row)
        self.processes[pid].comm = comm[:16].rstrip(b"\0")

    def exit(self, pid: int, flags: int = 0) -> None:
        """Process `pid` ends; its children pass to pid 1, or to no process."""
        writer = self.writer
        self.now += 1
        hot = self.hot
        for child in writer.py_children(pid):
            init = self.processes.get(1)
            # No process passes to its own descendant: here pid 1 may end and belong to another process.
            reaper = 1 if pid != 1 and init and init.start < self.processes[child].start else 0
            row = writer.py_head(child)
            writer.py_begin(row)
            hot["ppid"][row] = reaper
            writer.py_set_link("parent", row, writer.py_head(reaper) if reaper else 0)
            if hot["images"][row] == 1:
                writer.py_set_link("ancestor", row, writer.py_head(reaper) if reaper else 0)
            writer.py_end(row)
            writer.py_adopt(child, reaper)
            self.processes[child].ppid = reaper
        writer.py_orphan(pid)
        row = writer.py_head(pid)
        writer.py_begin(row)
        if self.now % 2:  # of the others it is unknown
            _inside.set_costs(writer, row, _COSTS.pack(*[self.now & 0xFFFF_FFFF] * 10))
        hot["exit_boot_ns"][row] = self.now
        hot["flags"][row] = int(hot["flags"][row]) | layout.ROW_DELETED | flags
        writer.py_end(row)
        writer.py_retire(row)
        del self.processes[pid]

    def check(self) -> None:
        """Every live process of the model is in the tables with its facts, and no other process is live there."""
        writer = self.writer
        hot = self.hot
        index = writer.index_view()
        live = {pid for pid in index.nonzero()[0].tolist() if not hot["exit_boot_ns"][index[pid]]}
        assert live == set(self.processes)
        for pid, process in self.processes.items():
            assert self.process_of(writer.py_head(pid)) == process, pid
        children: defaultdict[int, list[int]] = defaultdict(list)
        for pid, process in self.processes.items():
            children[process.ppid].append(pid)
        for pid in live:
            assert sorted(writer.py_children(pid)) == sorted(children[pid])
