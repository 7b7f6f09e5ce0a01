"""A host of processes over a TableWriter: what apply does, in plain Python, and a model of what must come out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.shm import layout
from pipeline.shm._writer import TableWriter

BOOT_ID = bytes(range(16))


def make_writer(directory: Path, **changes: Any) -> TableWriter:
    """A small table in `directory`; keyword arguments as for TableWriter.create."""
    settings: dict[str, Any] = {
        "boot_id": BOOT_ID, "capture_id": 1, "ring_count": 2, "row_capacity": 4096, "chunk_rows": 64,
        "pid_capacity": 1024, "names_bytes": 1 << 20, "args_bytes": 1 << 20, "envs_bytes": 1 << 20,
        "boot_unix_ns": 10**18, "retention_ns": 1000, "checked": True,
    }  # fmt: skip
    return TableWriter.create(directory, **(settings | changes))


@dataclass(slots=True)
class Process:
    """What the model knows of a live process."""

    start: int
    ppid: int
    comm: bytes
    args: bytes
    images: int = 1


class Host:
    """Forks, execs and exits by number; `processes` is the model. Time is a counter of steps."""

    def __init__(self, writer: TableWriter, now: int = 100) -> None:
        self.writer = writer
        self.now = now
        self.processes: dict[int, Process] = {}
        self.refused = 0

    def adopt_model(self) -> None:
        """Take the model from the tables (after a take-over)."""
        hot = self.writer.hot_view()
        self.processes = {}
        for pid in self.writer.index_view().nonzero()[0].tolist():
            row = self.writer.py_head(pid)
            if not hot[row]["exit_boot_ns"]:
                self.processes[pid] = Process(
                    start=int(hot[row]["start_boot_ns"]), ppid=int(hot[row]["ppid"]), comm=bytes(hot[row]["comm"]),
                    args=self.args_of(row), images=int(hot[row]["images"]),
                )  # fmt: skip
            self.now = max(self.now, int(hot[row]["exit_boot_ns"]), int(hot[row]["start_boot_ns"]))
        self.now += 1

    def args_of(self, row: int) -> bytes:
        return self.writer.args.py_bytes(int(self.writer.hot_view()[row]["args_ref"]))

    def fork(self, ppid: int, pid: int) -> int:
        """Process `ppid` (0: nobody) forks `pid`, whose earlier owner, if it still lives, ended unseen."""
        writer = self.writer
        self.now += 1
        if pid in self.processes:
            self.exit(pid, flags=layout.ROW_EXIT_UNSEEN)
            if ppid == pid:
                ppid = 0
        parent = writer.py_head(ppid) if ppid in self.processes else 0
        row = writer.py_copy_row(parent) if parent else writer.py_new_row()
        if not row:
            self.refused += 1
            return 0
        hot, cold = writer.hot_view(), writer.cold_view()
        hot[row]["tgid"] = pid
        hot[row]["ppid"] = ppid if parent else 0
        hot[row]["start_boot_ns"] = self.now
        hot[row]["exec_boot_ns"] = 0
        hot[row]["exit_boot_ns"] = 0
        hot[row]["flags"] = layout.ROW_HEAD
        hot[row]["images"] = 1
        cold[row]["fork_boot_ns"] = self.now
        if parent:
            for field in ("ancestor", "parent", "creator"):
                writer.py_set_link(field, row, parent)
        else:
            hot[row]["comm"] = b"root%d" % pid
        owner = writer.py_head(pid)
        writer.py_set_link("previous_owner", row, owner)
        writer.py_end(row)
        writer.py_set_head(pid, row)
        if parent:
            writer.py_adopt(pid, ppid)
        self.processes[pid] = Process(
            start=self.now, ppid=ppid if parent else 0, comm=bytes(hot[row]["comm"]), args=self.args_of(row)
        )
        return row

    def exec(self, pid: int, comm: bytes, args: bytes, *, head_first: bool = False) -> int:
        """Process `pid` loads another image; `head_first`: the index is stored before the old image is stamped."""
        writer = self.writer
        self.now += 1
        old = writer.py_head(pid)
        new = writer.py_copy_row(old)
        if not new:
            self.refused += 1
            return 0
        hot = writer.hot_view()
        hot[new]["exec_boot_ns"] = self.now
        hot[new]["images"] = min(int(hot[old]["images"]) + 1, 65535)
        hot[new]["flags"] = layout.ROW_HEAD | layout.ROW_IS_EXEC
        hot[new]["comm"] = comm
        writer.py_set_ref("args", new, writer.py_intern_args(args))
        writer.py_set_ref("file", new, writer.names.py_intern2(b"f" * 64, b"/bin/" + comm))
        writer.py_set_link("ancestor", new, old)
        writer.py_end(new)
        if head_first:
            writer.py_set_head(pid, new)
        writer.py_begin(old)
        hot[old]["flags"] = int(hot[old]["flags"]) & ~layout.ROW_HEAD | layout.ROW_REPLACED
        hot[old]["exit_boot_ns"] = self.now
        writer.py_end(old)
        if not head_first:
            writer.py_set_head(pid, new)
        process = self.processes[pid]
        process.comm, process.args = bytes(hot[new]["comm"]), self.args_of(new)
        process.images += 1
        return new

    def rename(self, pid: int, comm: bytes) -> None:
        """A change in place."""
        row = self.writer.py_head(pid)
        self.writer.py_begin(row)
        self.writer.hot_view()[row]["comm"] = comm
        self.writer.py_end(row)
        self.processes[pid].comm = comm[:16].rstrip(b"\0")

    def exit(self, pid: int, flags: int = 0) -> None:
        """Process `pid` ends; its children pass to pid 1, or to nobody."""
        writer = self.writer
        self.now += 1
        hot = writer.hot_view()
        for child in writer.py_children(pid):
            reaper = 1 if 1 not in (pid, child) and 1 in self.processes else 0
            row = writer.py_head(child)
            writer.py_begin(row)
            hot[row]["ppid"] = reaper
            writer.py_set_link("parent", row, writer.py_head(reaper) if reaper else 0)
            if hot[row]["images"] == 1:
                writer.py_set_link("ancestor", row, writer.py_head(reaper) if reaper else 0)
            writer.py_end(row)
            writer.py_adopt(child, reaper)
            self.processes[child].ppid = reaper
        writer.py_orphan(pid)
        row = writer.py_head(pid)
        writer.py_begin(row)
        hot[row]["exit_boot_ns"] = self.now
        hot[row]["flags"] = int(hot[row]["flags"]) | layout.ROW_DELETED | flags
        writer.py_end(row)
        writer.py_retire(row)
        del self.processes[pid]

    def check(self) -> None:
        """Every live process of the model is in the tables as it should be, and no other lives."""
        writer = self.writer
        hot = writer.hot_view()
        index = writer.index_view()
        live = {pid for pid in index.nonzero()[0].tolist() if not hot[index[pid]]["exit_boot_ns"]}
        assert live == set(self.processes)
        for pid, process in self.processes.items():
            row = hot[writer.py_head(pid)]
            found = Process(
                start=int(row["start_boot_ns"]), ppid=int(row["ppid"]), comm=bytes(row["comm"]),
                args=self.args_of(writer.py_head(pid)), images=int(row["images"]),
            )  # fmt: skip
            assert found == process, pid
        for pid in live:
            children = sorted(child for child, process in self.processes.items() if process.ppid == pid)
            assert sorted(writer.py_children(pid)) == children
