"""One fault of each kind. `python -m tests.faults.run` makes hundreds, in random order and at random moments."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.faults.faults import BETWEEN_STORMS, IN_A_STORM
from tests.faults.rounds import Tally, start_round, storm_round
from tests.live.conftest import workload as workload

pytestmark = [pytest.mark.live, pytest.mark.alone, pytest.mark.tolerant, pytest.mark.usefixtures("live_kernel")]


def test_each_fault_in_a_storm_is_survived(workload: Path) -> None:
    tally = Tally()
    storm_round(workload, tally, IN_A_STORM, random.Random(1))
    assert tally.faults == len(IN_A_STORM)


def test_an_instance_that_was_killed_is_followed_by_one_that_is_right(workload: Path) -> None:
    tally = Tally()
    start_round(workload, tally, BETWEEN_STORMS, random.Random(1))
    assert tally.faults == len(BETWEEN_STORMS)
