"""Processes that read tables as fast as possible, for benches of the cost of readers and the consistency of reads."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import Any, Self

import common
import loads

from pipeline.errors import BusyError, StaleError


def _hammer(directory: str, cores: list[int], number: int, active: Any, reads: Any, cpu_ns: Any) -> None:
    """Resolve and walk as fast as possible while `number` is below `active`; end when `active` is -1."""
    from pipeline.shm.reader.table import ProcessTable

    os.sched_setaffinity(0, cores)
    # Half of the pids are live throughout, the others come and go.
    passing = range(loads.FIRST_PID, loads.FIRST_PID + loads.PID_RANGE)
    pids = random.Random(number).choices(loads.PARENTS.tgid.tolist(), k=2048)
    pids += random.Random(number).choices(passing, k=2048)
    random.Random(number).shuffle(pids)
    with ProcessTable.attach(path=directory, max_age_ms=10**8) as table:
        at = 0
        while active.value >= 0:
            if number >= active.value:
                time.sleep(0.001)
                continue
            for _ in range(64):
                at += 1
                pid = pids[at & 4095]
                try:
                    table.resolve(pid)
                    if at & 15 == 0:
                        table.ancestors(pid)
                except (StaleError, BusyError):
                    continue
            reads[number] += 64
            cpu_ns[number] = time.process_time_ns()


class Hammers:
    """A context manager with `count` processes that read a table as fast as possible; `let` activates some of them.

    The processes are pinned to all cores except the first, if there are several.
    """

    def __init__(self, directory: Path, count: int) -> None:
        cores = sorted(os.sched_getaffinity(0))
        self._active = common.PROCESSES.Value("i", 0, lock=False)
        self._reads = common.PROCESSES.Array("Q", max(count, 1), lock=False)
        self._cpu_ns = common.PROCESSES.Array("Q", max(count, 1), lock=False)
        shared = (self._active, self._reads, self._cpu_ns)
        self._processes = [
            common.PROCESSES.Process(target=_hammer, args=(str(directory), cores[1:] or cores, number, *shared))
            for number in range(count)
        ]

    def __enter__(self) -> Self:
        for process in self._processes:
            process.start()
        self.let(len(self._processes))
        deadline = time.monotonic() + 30
        while not all(self._reads[number] for number in range(len(self._processes))):
            assert time.monotonic() < deadline and all(p.is_alive() for p in self._processes), "a reader did not start"
            time.sleep(0.01)
        self.let(0)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._active.value = -1
        for process in self._processes:
            process.join(10)
            process.kill()

    def let(self, active: int) -> None:
        """Activate the first `active` processes; the others pause."""
        self._active.value = active
        time.sleep(0.02)

    def read(self) -> tuple[int, int]:
        """Return the look-ups so far, and the CPU time of the readers in ns."""
        return sum(self._reads), sum(self._cpu_ns)
