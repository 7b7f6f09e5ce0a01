"""The scenarios of specification 8, on the real resolvers over real tables, with the invariants after each step.

Each row is a story: steps, and what holds after them. Where the specification recommends something other than the
reference does (section 9), the row expects the recommendation; docs/parity.md lists these. A letter after a number
marks another story for the same requirement.
"""

from __future__ import annotations

import re

import pytest

from tests.resolver.api.scenario_steps import play
from tests.resolver.api.scenarios_derived import DERIVED
from tests.resolver.api.scenarios_of_entries import OF_ENTRIES
from tests.resolver.api.scenarios_of_resolver import OF_RESOLVER

SCENARIOS = OF_RESOLVER | OF_ENTRIES | DERIVED

#: The specification's numbers.
IDS = [f"R{n}" for n in range(1, 24)] + [f"E{n}" for n in range(1, 10)] + [f"D{n}" for n in range(1, 28)]


def id_of(name: str) -> str:
    """R20 of "R20b kernel ppid moves the fork root"."""
    found = re.match(r"[RED]\d+(?=[b-z]? )", name)
    assert found is not None, name
    return found[0]


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario(name: str) -> None:
    play(SCENARIOS[name])


def test_the_table_holds_every_scenario_of_the_specification() -> None:
    assert len(SCENARIOS) == len(OF_RESOLVER) + len(OF_ENTRIES) + len(DERIVED)
    assert sorted({id_of(name) for name in SCENARIOS}) == sorted(IDS)
    for wanted in IDS:
        # The first row is the specification's own story; the others have a letter.
        (own,) = (row for name, row in SCENARIOS.items() if name.startswith(f"{wanted} "))
        assert any(step.is_check for step in own.steps), wanted
