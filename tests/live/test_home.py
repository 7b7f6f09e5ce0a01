"""The workers of a real daemon share one CPU while nothing else uses it, and leave it otherwise."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.host import processes
from tests.live.harness import Daemon, eventually

pytestmark = pytest.mark.live

ALLOWED = os.sched_getaffinity(0)
#: The supervisor checks every four seconds; a CPU can be busy with something else at first.
SETTLES_S = 30


def cpus(daemon: Daemon) -> list[set[int]]:
    """Return the allowed CPUs of the workers, one set for each thread."""
    return [
        os.sched_getaffinity(int(thread.name))
        for process in processes.measure(daemon.directory)
        if process["role"] != "supervisor"
        for thread in Path(f"/proc/{process['pid']}/task").iterdir()
    ]


def settles(check: Callable[[], bool]) -> None:
    """Wait with few checks, so that the test does not make CPUs busy."""
    eventually(check, timeout=SETTLES_S, interval=0.25)


def home(daemon: Daemon) -> int | None:
    """Return the CPU to which all threads of all workers are bound."""
    where = cpus(daemon)
    return next(iter(where[0])) if len(where) >= 4 and where == [where[0]] * len(where) and len(where[0]) == 1 else None


@pytest.mark.alone  # workers share a CPU only where one has nothing else to do
@pytest.mark.skipif(len(ALLOWED) < 2, reason="needs at least two CPUs")
def test_workers_share_a_cpu_and_give_way_to_other_programs(live_kernel: None) -> None:
    with Daemon() as daemon:
        settles(lambda: home(daemon) is not None)
        first = home(daemon)
        program = f"import os; os.sched_setaffinity(0, {{{first}}})\nwhile True: pass"
        hog = subprocess.Popen([sys.executable, "-c", program])
        try:
            settles(lambda: home(daemon) != first)
            (shard,) = daemon.pids("shard")
            os.kill(shard, signal.SIGKILL)
            settles(lambda: not Path(f"/proc/{shard}").exists() and home(daemon) not in {first, None})
        finally:
            hog.kill()
            hog.wait()
        assert daemon.stat()["lost"] == dict.fromkeys(daemon.stat()["lost"], 0)
        assert daemon.stop() == 0


def test_share_cpu_false_binds_no_worker(live_kernel: None) -> None:
    with Daemon("[supervision]\nshare_cpu = false\n") as daemon:
        time.sleep(9)  # two checks of the supervisor
        assert cpus(daemon) == [set(ALLOWED)] * len(cpus(daemon))
