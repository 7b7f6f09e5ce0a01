"""Four hundred live processes. `python -m tests.faults.crowd` makes as many as the host has pids for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import crowd
from tests.live.conftest import workload as workload

pytestmark = [
    pytest.mark.live,
    pytest.mark.slow,
    pytest.mark.timeout(1800),  # twenty seconds on an idle machine
    pytest.mark.usefixtures("live_kernel"),
]

COUNT = 400


def test_tables_equal_proc_and_losses_are_repaired(workload: Path) -> None:
    report = crowd.run(workload, COUNT)  # compares
    assert ("live processes", f"{COUNT:,}") in report.lines
