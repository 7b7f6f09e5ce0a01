"""An exit without an event: the process is flushed within the interval of the comparison, and counted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.bpf import maps
from tests.live.harness import Daemon
from tests.waiting import eventually

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("live_kernel")]

INTERVAL_S = 2
CONFIG = f"""
[repair]
check_interval_s = {INTERVAL_S}
"""


@contextmanager
def nothing_is_recorded(daemon: Daemon) -> Iterator[None]:
    """Events during the block are neither in a ring nor counted as lost."""
    # The map with the switch for the BPF programs.
    fd = daemon.map_fd(value_size=64, max_entries=1)
    try:
        (settings,) = maps.settings(fd, writable=True)
        settings["flags"] &= ~maps.CAPTURE_ON & 0xFFFFFFFF
        try:
            yield
        finally:
            settings["flags"] |= maps.CAPTURE_ON
    finally:
        os.close(fd)


@pytest.mark.alone  # a process of another test that ends in the same moment is flushed and counted, too
def test_a_process_with_a_lost_exit_is_flushed_within_the_interval() -> None:
    with Daemon(CONFIG, name="flushed") as daemon, daemon.attach() as table:
        kept = subprocess.Popen(["/bin/sleep", "300"])
        gone = subprocess.Popen(["/bin/sleep", "300"])
        try:
            eventually(lambda: all(_comm(table, one.pid) == "sleep" for one in (kept, gone)))
            before = daemon.stat()["counters"]
            with nothing_is_recorded(daemon):
                gone.kill()
                gone.wait()
                ended = time.monotonic()
            assert table.resolve(gone.pid).exit_time_ns is None  # no event was recorded
            eventually(lambda: table.resolve(gone.pid).exit_time_ns is not None, INTERVAL_S + 3)
            assert time.monotonic() - ended < INTERVAL_S + 2
            entry = table.resolve(gone.pid)
            assert entry.is_exit_unseen and entry.exit_code is None and "exit_unseen" in entry.marks
            assert table.resolve(kept.pid).exit_time_ns is None
            eventually(lambda: daemon.stat()["counters"]["flushed"] == before["flushed"] + 1)
            after = daemon.stat()["counters"]
            assert after["repair_closed"] == before["repair_closed"] + 1
            assert sum(daemon.stat()["lost"].values()) == 0
        finally:
            for one in (kept, gone):
                one.kill()
                one.wait()


#: Forks a child, prints its pid, and waits.
PARENT = "import os, time; pid = os.fork(); pid and print(pid, flush=True); time.sleep(300)"


def test_a_flush_moves_the_children_of_a_process_with_a_lost_exit() -> None:
    """The orphan gets the parent that the kernel chose, counted under the callpath of the flush."""
    with Daemon(CONFIG, name="orphaned") as daemon, daemon.attach() as table:
        parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE)
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            eventually(lambda: table.resolve(child) is not None and table.resolve(child).ppid == parent.pid)
            before = daemon.stat()["counters"]
            with nothing_is_recorded(daemon):
                parent.kill()
                parent.wait()
            adopter = int(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[1])
            assert adopter not in (0, parent.pid)
            eventually(lambda: table.resolve(child).ppid == adopter, INTERVAL_S + 3)
            eventually(lambda: daemon.stat()["counters"]["flushed"] > before["flushed"])
            after = daemon.stat()["counters"]
            name = "reparent_success_dequeue_exited"
            assert after[name] > before[name]
        finally:
            os.kill(child, signal.SIGKILL)
            parent.kill()
            parent.wait()
            parent.stdout.close()


def _comm(table, pid: int) -> str | None:
    entry = table.resolve(pid)
    return entry.comm if entry is not None else None
