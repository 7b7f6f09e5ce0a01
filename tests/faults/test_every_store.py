"""Some stores of an update, in each of which the resolver is killed. `python -m tests.faults.every_store` tries all."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.faults import every_store, stores
from tests.faults.rounds import Tally
from tests.live.conftest import workload as workload

pytestmark = [
    pytest.mark.live,
    pytest.mark.slow,
    pytest.mark.timeout(1800),  # ten seconds on an idle machine
    pytest.mark.usefixtures("live_kernel"),
]

#: One process causes more than that many stores, and fewer than the second number.
STORES_MIN, STORES_MAX = 400, 100_000


@pytest.mark.skipif(not stores.is_possible(), reason="needs x86-64")
def test_a_writer_that_is_killed_between_two_stores_is_taken_over(workload: Path) -> None:
    tally = Tally()
    chosen = sorted(random.Random(1).sample(range(1, STORES_MIN), 5))
    assert every_store.run(workload, tally, [*chosen, STORES_MAX]) == STORES_MAX
    assert tally.faults == len(chosen)
