"""Tools to test disturbed daemons: storms that count what they make, and readers that record wrong answers."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from pipeline import ProcessTable
from pipeline.errors import BusyError, StaleError
from pipeline.load.program import Load
from pipeline.shm.layout.layout import COLD, HOT, ROW_GAP, ROW_IS_EXEC
from tests.live.harness import Daemon
from tests.waiting import eventually

#: A storm beside other tests: their daemons record it too, so each of its processes costs as much as ten.
SHARED = {"forks": 140, "execs": 34}


class Made(NamedTuple):
    """A process that a storm made: "fork", or "exec", which forked first; its start lies between the two times."""

    kind: str
    pid: int
    parent: int
    begin_boot_ns: int
    end_boot_ns: int


class Storm:
    """Runs workloads one after another, and counts their events by kind.

    Attributes:
        made: how many processes were made, by kind: "fork", or "exec" (which forked first).
        processes: each of them.
        parents: pids of the processes that made them.

    Args:
        program: the workload, see `workload.c`.
        pause_s: between two workloads.
        forks, execs: of each workload.
    """

    def __init__(self, program: Path, pause_s: float = 0.0, *, forks: int = 700, execs: int = 170) -> None:
        self.program = program
        self.made: Counter[str] = Counter()
        self.processes: list[Made] = []
        self.parents: set[int] = set()
        self._pause_s = pause_s
        self._arguments = [str(program), "storm", str(forks), str(execs), "4"]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.wait(self._pause_s):
            begin_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            out = subprocess.run(self._arguments, stdout=subprocess.PIPE, text=True, check=True).stdout
            end_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            for line in out.splitlines():
                kind, pid, parent = line.split()
                self.made[kind] += 1
                self.processes.append(Made(kind, int(pid), int(parent), begin_ns, end_ns))
                self.parents.add(int(parent))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()


@contextmanager
def busy(count: int, *, own_sessions: bool = False) -> Iterator[None]:
    """Run processes that never sleep; they end with the block, and after an hour in any case.

    Args:
        count: how many.
        own_sessions: where the kernel divides the CPU among sessions (sched(7), "The autogroup feature"), each has the
            share of a session. Otherwise all together have the share of this process's session.
    """
    spin = ["timeout", "3600", "sh", "-c", "while :; do :; done"]
    running: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(count):
            running.append(
                subprocess.Popen(spin, start_new_session=True)
                if own_sessions
                else subprocess.Popen(spin, process_group=0)
            )
        yield
    finally:
        for process in running:
            os.killpg(process.pid, signal.SIGKILL)
        for process in running:
            process.wait()


def prefer(load: Load, nice: int = -20) -> None:
    """Give a load priority over other programs, so that it keeps its rate on a busy host. Call this first."""
    os.setpriority(os.PRIO_PROCESS, load.pid, nice)
    # It is a session of its own, as each busy process may be. Where the kernel divides the CPU among sessions, only the
    # nice of the session counts.
    group = Path(f"/proc/{load.pid}/autogroup")
    if group.exists():
        group.write_text(str(nice))


class Watcher(threading.Thread):
    """A reader that looks up a pid that is always live, and records every wrong answer.

    Args:
        table: of its own.
        pid: of a process with the name "sleep".
    """

    def __init__(self, table: ProcessTable, pid: int) -> None:
        super().__init__(daemon=True)
        self.table = table
        self.pid = pid
        self.wrong: list[str] = []
        self.answers: Counter[str] = Counter()
        self.slowest_s = 0.0
        self.stop = False
        # What was started just now can still have the name of the program that forked it.
        eventually(
            lambda: (entry := table.resolve(pid, wait_ms=1000)) is not None and entry.comm == "sleep", limit_s=60
        )

    def run(self) -> None:
        while not self.stop:
            begin = time.monotonic()
            try:
                entry = self.table.resolve(self.pid)
                if entry is None:
                    self.wrong.append("a live pid was said to be absent")
                elif entry.pid != self.pid or entry.comm != "sleep":
                    self.wrong.append(f"another process: {entry.pid} {entry.comm}")
                self.answers["right"] += 1
            except (StaleError, BusyError) as error:
                self.answers[type(error).__name__] += 1
            except Exception as error:  # the thread would end, and a test that reads `wrong` alone would pass
                self.wrong.append(repr(error))
            self.slowest_s = max(self.slowest_s, time.monotonic() - begin)
            time.sleep(0.0005)


@contextmanager
def full_rings(daemon: Daemon) -> Iterator[None]:
    """During the block the rings are not drained. Those of one page are full."""
    # The supervisor too: on a busy machine the block may take so long that it would replace the shards.
    frozen = [*daemon.pids("supervisor"), *daemon.pids("shard")]
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    try:
        for cpu in os.sched_getaffinity(0):
            # One shell forks and executes on each CPU, so that every ring is full.
            loop = "for i in $(seq 40); do /bin/true; done"
            subprocess.run(["taskset", "-c", str(cpu), "sh", "-c", loop], check=True)
        yield
    finally:
        for pid in reversed(frozen):
            os.kill(pid, signal.SIGCONT)


def is_found(table: ProcessTable, pid: int) -> bool:
    """Whether the tables, which may be stale for a moment, show the process with the image of its exec."""
    try:
        entry = table.resolve(pid)
    except (StaleError, BusyError):
        return False
    return entry is not None and entry.is_exec


def _rows_of(directory: Path, parents: set[int]) -> npt.NDArray[Any]:
    """Return the images of all children of `parents` in the tables, without rows that are being written.

    If the exit of a child was lost, it appears alive when its parent ends, and gets another parent. So its creator
    counts, too.
    """
    hot, cold = np.fromfile(directory / "hot", HOT), np.fromfile(directory / "cold", COLD)
    is_child = np.isin(hot["ppid"], list(parents)) | np.isin(cold["creator_tgid"], list(parents))
    return hot[(hot["flags"] != 0) & (hot["row_seq"] % 2 == 0) & is_child]


def images_of(directory: Path, parents: set[int], comm: bytes | None = b"workload") -> Counter[str]:
    """Count the images of the processes of a storm in the tables by kind.

    Args:
        directory: of the instance.
        parents: pids of the processes of the storm that made the others.
        comm: of the processes that are counted; None counts all children of `parents`, for a source that may miss the
            exec of a parent and with it the name that its children inherit.

    Raises:
        AssertionError: an image is there twice, so an event was applied twice.
    """
    mine = _rows_of(directory, parents)
    if comm is not None:
        mine = mine[mine["comm"] == comm]
    is_exec = (mine["flags"] & ROW_IS_EXEC) != 0
    keys = Counter(
        zip(mine["tgid"].tolist(), mine["start_boot_ns"].tolist(), np.where(is_exec, mine["exec_boot_ns"], 0).tolist(),
            strict=True)
    )  # fmt: skip
    twice = [key for key, n in keys.items() if n > 1]
    assert not twice, f"applied twice: {twice[:5]}"
    return Counter(fork=int((~is_exec).sum()), exec=int(is_exec.sum()), alive=int((mine["exit_boot_ns"] == 0).sum()))


def unforked(directory: Path, parents: set[int]) -> int:
    """Count the images from an exec that was applied before its fork, so that they have no image from the fork."""
    flags = _rows_of(directory, parents)["flags"]
    return int(((flags & ROW_IS_EXEC != 0) & (flags & ROW_GAP != 0)).sum())
