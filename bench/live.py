"""What the live benches share: a daemon with its own runtime directory, storms, crowds, and the CPU time of processes.

The daemon and the workload are those of the live tests (tests/live/harness.py). Needs root, like the daemon.
"""

from __future__ import annotations

import atexit
import functools
import os
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common

from pipeline.host import processes
from pipeline.host.boot import now_boot_ns
from tests.live.harness import Daemon, build_workload

__all__ = ["SETTLES_S", "Daemon", "Storm", "Usage", "caught_up", "crowd", "now_boot_ns", "peer", "storms", "usage"]

HERE = Path(__file__).resolve().parent
#: Behind its start a daemon on an idle host has done what the snapshot left, and its workers have found a CPU to share.
SETTLES_S = 8.0
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU time of the instance's processes so far, in ns, by role; `user_s` and `system_s` of all in ticks of 10 ms."""

    ns: dict[str, int]
    user_s: float
    system_s: float

    def since(self, before: Usage) -> Usage:
        """What was used between `before` and this."""
        ns = {role: value - before.ns.get(role, 0) for role, value in self.ns.items()}
        return Usage(ns, self.user_s - before.user_s, self.system_s - before.system_s)

    @property
    def total_ns(self) -> int:
        """Of all processes."""
        return sum(self.ns.values())


def cpu_ns(pid: int) -> int:
    """User and system time of a process and all its threads, in ns: what the scheduler gave them (schedstat)."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            total += int((task / "schedstat").read_text().split()[0])
        except (OSError, IndexError):
            # No schedstat in this kernel: ticks.
            fields = (task / "stat").read_bytes().rpartition(b") ")[2].split()
            total += int((int(fields[11]) + int(fields[12])) * _TICK_S * 1e9)
    return total


def usage(directory: Path) -> Usage:
    """Look at all processes of the instance in `directory`."""
    ns: dict[str, int] = {}
    user = system = 0.0
    for process in processes.measure(directory):
        ns[process["role"]] = cpu_ns(process["pid"])
        fields = Path(f"/proc/{process['pid']}/stat").read_bytes().rpartition(b") ")[2].split()
        user += int(fields[11]) * _TICK_S
        system += int(fields[12]) * _TICK_S
    return Usage(ns, user, system)


class Storm:
    """A fork storm by a C program that says nothing: children that end at once, some of which exec first."""

    def __init__(self, program: Path, forks: int, execs: int, width: int = 8) -> None:
        self.program = program
        self.arguments = [str(program), "storm", str(forks), str(execs), str(width)]
        #: Events that it makes: a fork and an exit each, an exec for some, and those of the program itself.
        self.made = {"fork": forks + execs + 1, "exec": execs + 1, "exit": forks + execs + 1}

    def run(self) -> tuple[float, float]:
        """Run once; returns (wall seconds, CPU seconds of the storm itself)."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        begin = time.perf_counter()
        subprocess.run(self.arguments, stdout=subprocess.DEVNULL, check=True)
        took = time.perf_counter() - begin
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def start(self) -> subprocess.Popen[bytes]:
        """Start it in the background."""
        return subprocess.Popen(self.arguments, stdout=subprocess.DEVNULL)


@contextmanager
def storms() -> Iterator[Path]:
    """Compile the workload; yields the program for `Storm`."""
    with tempfile.TemporaryDirectory(prefix="procline-bench-") as place:
        yield build_workload(Path(place))


def cache(name: str) -> Path:
    """A directory below .cache/ of the repository that outlives the run; for compilers' caches."""
    place = common.ROOT / ".cache" / name
    place.mkdir(parents=True, exist_ok=True)
    return place


def libzmq() -> str:
    """The library that pyzmq brings, which the daemon uses."""
    import zmq  # noqa: F401  (maps it)

    return next(line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "/libzmq" in line)


@functools.cache
def peer(name: str) -> Path:
    """The program that peers/NAME.c makes: compiled when it is first asked for, and gone when this process ends."""
    place = tempfile.mkdtemp(prefix="procline-bench-")
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    program = Path(place) / name
    headers = [f"-I{common.ROOT / 'pipeline' / part}" for part in ("shm", "bpf")]
    source = HERE / "peers" / f"{name}.c"
    subprocess.run(["gcc", "-O2", "-Wall", "-Werror", *headers, "-o", program, source, "-lm"], check=True)
    return program


@contextmanager
def crowd(count: int, *, is_exec: bool = True) -> Iterator[list[int]]:
    """Let `count` processes sleep (peers/crowd.c), each with arguments of its own if `is_exec`; yields their pids."""
    process = subprocess.Popen(
        [str(peer("crowd")), str(count), *(["exec"] if is_exec else [])], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        pids = [int(line) for line in iter(process.stdout.readline, b".\n")]
        assert len(pids) == count, f"{len(pids)} of {count} sleepers were made"
        yield pids
    finally:
        process.stdin.close()  # they end with it
        process.wait(60)


def caught_up(table: Any, timeout_s: float = 10.0) -> dict[str, Any]:
    """Wait until the tables have all that happened before the call; returns the statistics of then."""
    called = now_boot_ns()
    deadline = time.monotonic() + timeout_s
    # The statistics are read afterwards: what they say of the watermark is of another moment than their counters.
    while table.watermark_boot_ns <= called + 1_000_000:
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {timeout_s} s the tables were still behind")
        time.sleep(0.01)
    stats: dict[str, Any] = table.stats()
    return stats


def event_counts(stats: dict[str, Any], kinds: Sequence[str] = ("fork", "exec", "exit")) -> dict[str, int]:
    """Events applied so far, by kind."""
    return {kind: stats["events"][kind] for kind in kinds}
