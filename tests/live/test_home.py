"""The workers of a real daemon share one CPU while nothing else uses it, and leave it otherwise."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Collection
from pathlib import Path

import pytest

from pipeline.host import processes
from tests.linux import SKIPPED_KINDS, lost_kinds
from tests.live.harness import Daemon
from tests.waiting import eventually

pytestmark = pytest.mark.live

ALLOWED = os.sched_getaffinity(0)
#: The supervisor checks every four seconds; a CPU can be busy with something else at first.
SETTLES_S = 30
#: A check must have seen a CPU that was idle for this time.
IDLE_S = 15
#: If no CPU was idle for half of this time, the test does not wait for one.
BUSY_S = 6
#: A program that uses half of a CPU, in pieces, and that workers wait for. Before EEVDF (Linux 6.6), the scheduler lets
#: what seldom runs, as workers on an idle host do, pass any program that is not a real-time one.
HOG = """
import os, sys, time
os.sched_setaffinity(0, {int(sys.argv[1])})
os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
while True:
    end = time.monotonic() + 0.02
    while time.monotonic() < end:
        pass
    time.sleep(0.02)
"""


def cpus(daemon: Daemon) -> list[set[int]]:
    """Return the allowed CPUs of the workers, one set for each thread; none while one of them ends."""
    try:
        return [
            os.sched_getaffinity(int(thread.name))
            for process in processes.measure(daemon.directory)
            if process["role"] != "supervisor"
            for thread in Path(f"/proc/{process['pid']}/task").iterdir()
        ]
    except (FileNotFoundError, ProcessLookupError):
        return []


def settles(check: Callable[[], bool]) -> None:
    """Wait with few checks, so that the test does not make CPUs busy."""
    eventually(check, limit_s=SETTLES_S, pause_s=0.25)


def idle_s() -> dict[int, float]:
    """Return how long each CPU that workers may run on has been idle since boot; proc_stat(5)."""
    lines = [line.split() for line in Path("/proc/stat").read_text().splitlines() if line.startswith("cpu")]
    ticks = {int(name[3:]): int(idle) + int(wait) for name, _, _, _, idle, wait, *_ in lines[1:]}
    return {cpu: ticks[cpu] / os.sysconf("SC_CLK_TCK") for cpu in ALLOWED}


def comes_home(daemon: Daemon, *others: int | None) -> bool:
    """Wait until the workers share a CPU that is not one of `others`; False if no other CPU was ever idle for long.

    Programs that leave no CPU idle, whatever their priority, are a reason to leave the workers free.
    """
    shares: dict[int, float] | None = None
    samples = [(time.monotonic(), idle_s())]
    while samples[-1][0] - samples[0][0] < SETTLES_S:
        if home(daemon) not in {None, *others}:
            return True
        time.sleep(0.25)
        samples.append((time.monotonic(), idle_s()))
        if (shares := idle_shares(samples, IDLE_S, others)) is not None:
            assert max(shares.values()) < 0.9, f"a CPU is idle, and no worker is bound to it: {shares}"
        if (shares := idle_shares(samples, BUSY_S, others)) is not None and max(shares.values()) < 0.5:
            break
    warnings.warn(f"NOT TESTED: no CPU was idle, so workers need not share one: {shares}", stacklevel=1)
    return False


def idle_shares(
    samples: list[tuple[float, dict[int, float]]], for_s: float, others: Collection[int | None]
) -> dict[int, float] | None:
    """Return the share of the last `for_s` seconds for which each CPU but `others` was idle; None: not measured yet."""
    now, idle_now = samples[-1]
    then, idle_then = next((each for each in reversed(samples) if now - each[0] > for_s), (now, idle_now))
    if now == then:
        return None
    return {cpu: (idle - idle_then[cpu]) / (now - then) for cpu, idle in idle_now.items() if cpu not in others}


def home(daemon: Daemon) -> int | None:
    """Return the CPU to which all threads of all workers are bound."""
    where = cpus(daemon)
    return next(iter(where[0])) if len(where) >= 4 and where == [where[0]] * len(where) and len(where[0]) == 1 else None


@pytest.mark.alone  # workers share a CPU only where one has nothing else to do
@pytest.mark.skipif(len(ALLOWED) < 2, reason="needs at least two CPUs")
def test_workers_share_a_cpu_and_give_way_to_other_programs(live_kernel: None) -> None:
    with Daemon() as daemon:
        if not comes_home(daemon):
            return  # what follows is about workers that share a CPU
        first = home(daemon)
        hog = subprocess.Popen([sys.executable, "-c", HOG, str(first)])
        try:
            settles(lambda: home(daemon) != first)
            (shard,) = daemon.pids("shard")
            os.kill(shard, signal.SIGKILL)
            settles(lambda: not Path(f"/proc/{shard}").exists())
            comes_home(daemon, first)
        finally:
            hog.kill()
            hog.wait()
        assert lost_kinds(daemon.stat()["lost"]) <= SKIPPED_KINDS
        assert daemon.stop() == 0


def test_share_cpu_false_binds_no_worker(live_kernel: None) -> None:
    with Daemon("[supervision]\nshare_cpu = false\n") as daemon:
        time.sleep(9)  # two checks of the supervisor
        assert cpus(daemon) == [set(ALLOWED)] * len(cpus(daemon))
