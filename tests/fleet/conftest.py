"""A store of three hosts for the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fleet.filled_store import AGES_H, HOUR_NS, NOW_NS, Fleet
from tests.fleet.traffic import SimulatedHost


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    made = []
    try:
        for number, (name, age_h) in enumerate(AGES_H.items(), 1):
            made.append(SimulatedHost(name, number, NOW_NS - age_h * HOUR_NS))
        found = Fleet(tmp_path_factory.mktemp("fleet") / "store", made)
        yield found
        found.opened.close()
    finally:
        for host in made:
            host.__exit__()
