"""The daemon gives up the priority of its start, in all threads, and only if systemd gave it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.supervisor import priority

#: A process at -5 with a thread of each of these nice values; it prints a line when they run.
PROGRAM = """
import os, threading
def run(nice):
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
    ready.wait()
    stop.wait()
ready, stop = threading.Barrier(4), threading.Event()
os.nice(-5)
for nice in (-10, -1, 7):
    threading.Thread(target=run, args=(nice,), daemon=True).start()
ready.wait()
print("ready", flush=True)
input()
"""


def nices(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sorted(os.getpriority(os.PRIO_PROCESS, int(task.name)) for task in tasks)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may raise a priority")
def test_all_threads_are_lowered_to_normal_and_none_is_raised() -> None:
    base = os.getpriority(os.PRIO_PROCESS, 0)
    try:
        os.setpriority(os.PRIO_PROCESS, 0, 0)
        with subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
            assert other.stdin is not None and other.stdout is not None
            other.stdout.readline()
            assert nices(other.pid) == [-10, -5, -1, 7]
            priority.settle([other.pid])
            assert nices(other.pid) == [0, 0, 0, 7]
            other.stdin.close()
        priority.settle([other.pid])  # it has ended
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, base)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may raise a priority")
def test_only_a_priority_that_systemd_raised_is_given_up() -> None:
    program = (
        "import os; from pipeline.supervisor import priority\n"
        "for nice in (-3, 0, 4):\n"
        "    os.setpriority(os.PRIO_PROCESS, 0, nice)\n"
        "    print(nice, priority.was_raised({'NOTIFY_SOCKET': '/run/x'}), priority.was_raised({}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["-3 True False", "0 False False", "4 False False"]
