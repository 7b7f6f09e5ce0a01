"""Table and /proc agree for every process."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from tests.live.agreement import assert_agrees
from tests.live.harness import Daemon, eventually, run_workload, running_workload

pytestmark = pytest.mark.live


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
