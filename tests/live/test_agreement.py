"""Table and /proc agree for every process."""

from __future__ import annotations

import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.live.agreement import agrees_s, assert_agrees
from tests.live.harness import Daemon, run_workload, running_workload
from tests.live.storms import full_rings
from tests.waiting import eventually

pytestmark = pytest.mark.live

#: After this time without a reader the daemon does its housekeeping every few seconds only.
QUIET_S = 6.0
#: A comparison with /proc takes less.
LOOK_S = 0.4


@pytest.mark.alone
def test_after_the_snapshot_and_after_a_storm(live_kernel: None, workload: Path) -> None:
    with Daemon('[args]\nshow = "raw"\n') as daemon, daemon.attach() as table:
        time.sleep(1)
        # A process can change its name or lose its parent between the two reads, but a difference must not persist.
        assert eventually(lambda: assert_agrees(table)) >= 5
        sleepers = [subprocess.Popen(["sleep", "60"]) for _ in range(97)]
        try:
            run_workload(workload, "storm", 8000, 2000)
            time.sleep(1)
            assert eventually(lambda: assert_agrees(table)) >= 100
        finally:
            for sleeper in sleepers:
                sleeper.kill()
                sleeper.wait()
        time.sleep(1)
        eventually(lambda: assert_agrees(table))


def test_a_process_with_a_leader_that_ended_before_the_start(live_kernel: None, workload: Path) -> None:
    with running_workload(workload, "leaderexit", 30_000) as (pid, _):
        eventually(lambda: "Z" in Path(f"/proc/{pid}/stat").read_text().split(")")[1])
        with Daemon('[args]\nshow = "raw"\n') as daemon, daemon.attach() as table:
            entry = table.resolve(pid)
            assert entry is not None and entry.exit_time_ns is None
            assert (entry.path, entry.argv) == (str(workload), [str(workload), "leaderexit", "30000"])


@pytest.mark.alone
@pytest.mark.parametrize("is_read", [True, False], ids=["a reader", "nobody"])
def test_counted_losses_are_repaired_in_time(live_kernel: None, is_read: bool) -> None:
    """Exits are lost. Nothing happens on the host afterwards, and perhaps no reader has the tables open."""
    with ExitStack() as stack:
        sleepers = [subprocess.Popen(["sleep", "600"]) for _ in range(40)]
        daemon = stack.enter_context(Daemon('[args]\nshow = "raw"\n[capture]\nring_bytes = 4096\n'))
        with daemon.attach() as table:
            eventually(lambda: assert_agrees(table))
        if is_read:
            table = stack.enter_context(daemon.attach())
        else:
            time.sleep(QUIET_S)  # until the daemon has noticed that no program reads
        with full_rings(daemon):
            for sleeper in sleepers:
                sleeper.kill()
                sleeper.wait()
        if is_read:
            eventually(lambda: assert_agrees(table), agrees_s())
        else:
            time.sleep(agrees_s() - agrees_s(LOOK_S))
            table = stack.enter_context(daemon.attach())
            eventually(lambda: assert_agrees(table), agrees_s(LOOK_S))
        stats = table.stats()
        assert stats["lost"]["exit"] > 0 and stats["counters"]["repair_closed"] > 0
