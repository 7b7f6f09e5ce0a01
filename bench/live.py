"""Shared code of the live benches: a daemon with its own runtime directory, storms, crowds, and CPU time of processes.

The daemon and the workload are those of the live tests (tests/live/harness.py). What a daemon uses is measured as in
`procline load` (pipeline/load/measuring.py). Live benches need root, like the daemon.
"""

from __future__ import annotations

import argparse
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
from pathlib import Path

import common

from pipeline.host.boot import now_boot_ns
from pipeline.load.measuring import Usage, caught_up, cpu_ns, usage
from pipeline.load.program import program
from pipeline.shm.reader.statistics import Stats
from tests.live.harness import Daemon, build_workload

__all__ = [
    "SETTLES_S", "Daemon", "Storm", "Usage", "add_programs", "caught_up", "cpu_ns", "crowd", "event_counts",
    "now_boot_ns", "peer", "program", "storms", "total_ns", "usage", "use_programs",
]  # fmt: skip

HERE = Path(__file__).resolve().parent
#: After this time a new daemon on an idle host has finished the work of the snapshot, and its workers share a CPU.
SETTLES_S = 8.0


def add_programs(parser: argparse.ArgumentParser) -> None:
    """Add the option for the set of BPF programs; see `use_programs`."""
    parser.add_argument("--programs", choices=["old"], help="the BPF programs for older kernels (docs/kernels.md)")


def use_programs(options: argparse.Namespace) -> None:
    """Have the daemons and captures of this bench load the set of the option --programs."""
    if options.programs:
        os.environ["PROCLINE_BPF_PROGRAMS"] = options.programs


def event_counts(stats: Stats, kinds: Sequence[str] = ("fork", "exec", "exit")) -> dict[str, int]:
    """Return the events applied so far, by kind."""
    return {kind: stats["events"][kind] for kind in kinds}


def total_ns(used: Usage) -> int:
    """Return the CPU time of all processes."""
    return sum(used.ns.values())


class Storm:
    """A fork storm by a silent C program: its children exit at once, and some call exec before."""

    def __init__(self, program: Path, forks: int, execs: int, width: int = 8) -> None:
        self.program = program
        self.arguments = [str(program), "storm", str(forks), str(execs), str(width)]
        #: Events of the storm: a fork and an exit for each child, an exec for some, and the events of the program.
        self.made = {"fork": forks + execs + 1, "exec": execs + 1, "exit": forks + execs + 1}

    def run(self) -> tuple[float, float]:
        """Run the storm once; returns (wall seconds, CPU seconds of the storm)."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        begin = time.perf_counter()
        subprocess.run(self.arguments, stdout=subprocess.DEVNULL, check=True)
        took = time.perf_counter() - begin
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def start(self) -> subprocess.Popen[bytes]:
        """Start the storm in the background."""
        return subprocess.Popen(self.arguments, stdout=subprocess.DEVNULL)


@contextmanager
def storms() -> Iterator[Path]:
    """Compile the workload, and yield the program for `Storm`."""
    with tempfile.TemporaryDirectory(prefix="procline-bench-") as place:
        yield build_workload(Path(place))


def cache(name: str) -> Path:
    """Return a persistent directory below .cache/ of the repository, for caches of compilers."""
    place = common.ROOT / ".cache" / name
    place.mkdir(parents=True, exist_ok=True)
    return place


def libzmq() -> str:
    """Return the path of pyzmq's libzmq, which the daemon uses."""
    import zmq  # noqa: F401  (maps the library)

    return next(line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "/libzmq" in line)


@functools.cache
def peer(name: str) -> Path:
    """Compile peers/NAME.c on first use, and return the program; it is removed when this process ends."""
    place = tempfile.mkdtemp(prefix="procline-bench-")
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    program = Path(place) / name
    headers = [f"-I{common.ROOT / 'pipeline' / part}" for part in ("records", "shm/layout", "shm/reader")]
    source = HERE / "peers" / f"{name}.c"
    subprocess.run(["gcc", "-O2", "-Wall", "-Werror", *headers, "-o", program, source, "-lm"], check=True)
    return program


def relay(samples: int, gap_ms: float, hops: int, *where: str) -> list[float]:
    """Return how long a chain of sleeping processes needs to pass a number on, in microseconds."""
    done = subprocess.run(
        [*where, str(peer("relay")), str(hops), str(samples), str(gap_ms), "1"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return [int(line) / 1000 for line in done.stdout.split()]


@contextmanager
def crowd(count: int, *, is_exec: bool = True) -> Iterator[list[int]]:
    """Run `count` sleeping processes (peers/crowd.c), with distinct arguments if `is_exec`; yields their pids."""
    process = subprocess.Popen(
        [str(peer("crowd")), str(count), *(["exec"] if is_exec else [])], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        pids = [int(line) for line in iter(process.stdout.readline, b".\n")]
        assert len(pids) == count, f"only {len(pids)} of {count} sleepers started"
        yield pids
    finally:
        process.stdin.close()  # ends the processes
        process.wait(60)
