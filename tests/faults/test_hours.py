"""Half an hour of load, replayed. `python -m tests.faults.hours` replays eight hours."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import hours

pytestmark = [
    pytest.mark.live,
    pytest.mark.slow,
    pytest.mark.timeout(1800),  # ten seconds on an idle machine
    pytest.mark.usefixtures("live_kernel"),
]


def test_tables_equal_a_model_and_nothing_grows(tmp_path: Path) -> None:
    samples = hours.run(0.5, 1, tmp_path, pauses=2)  # compares and checks
    # On a busy machine the replay may be over before it is stopped, and then no process is alive.
    assert len(samples) == 2 and all(each.ended > 0 for each in samples)
