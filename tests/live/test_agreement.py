"""Table and /proc agree for every process."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from tests.live.agreement import assert_agrees
from tests.live.harness import Daemon, eventually, run_workload

pytestmark = [pytest.mark.live, pytest.mark.alone]


def test_after_the_snapshot_and_after_a_storm(live_kernel: None, workload: Path) -> None:
    with Daemon('[args]\nshow = "raw"\n') as daemon, daemon.attach() as table:
        time.sleep(1)
        # A process may rename itself or lose its parent between the two looks: the difference must not last.
        assert eventually(lambda: assert_agrees(table), timeout=3) >= 5
        sleepers = [subprocess.Popen(["sleep", "60"]) for _ in range(97)]
        try:
            run_workload(workload, "storm", 8000, 2000)
            time.sleep(1)
            assert eventually(lambda: assert_agrees(table), timeout=3) >= 100
        finally:
            for sleeper in sleepers:
                sleeper.kill()
                sleeper.wait()
        time.sleep(1)
        eventually(lambda: assert_agrees(table), timeout=3)
