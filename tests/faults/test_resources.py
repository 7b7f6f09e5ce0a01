"""Each fault of a resource once. `python -m tests.faults.run` makes them again and again, among others."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.faults.resources import RESOURCES, Resource, resource_round
from tests.faults.rounds import Tally
from tests.live.conftest import workload as workload

pytestmark = [
    pytest.mark.live,
    pytest.mark.slow,
    pytest.mark.timeout(1800),  # ten seconds on an idle machine
    pytest.mark.usefixtures("live_kernel"),
]

#: Other tests use the machine at the same time. A storm makes more than a thousand processes in half a second.
CROWD_MAX, PATIENCE_S, STORM_S = 1000, 60.0, 0.5


@pytest.mark.parametrize("kind", RESOURCES, ids=lambda kind: kind.name.replace(" ", "-"))
def test_the_fault_is_survived(workload: Path, kind: Resource) -> None:
    if missing := kind.missing():
        pytest.skip(missing)
    tally = Tally()
    resource_round(
        workload, tally, [kind], random.Random(1), crowd_max=CROWD_MAX, patience_s=PATIENCE_S, storm_s=STORM_S
    )
    assert tally.faults == 1
