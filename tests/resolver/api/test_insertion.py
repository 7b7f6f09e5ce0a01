"""The time that counts as the start of a process whose start is known to the tick only."""

from __future__ import annotations

import pytest

from pipeline.host.boot import TICK_NS
from pipeline.resolver.api import insertion


@pytest.mark.parametrize("start", [0, TICK_NS, 7 * TICK_NS])
def test_a_rounded_start_can_be_anywhere_in_its_tick_and_an_exact_one_is_that(start: int) -> None:
    assert insertion._latest(start) == start + TICK_NS - 1
    for exact in (start + 1, start + TICK_NS - 1):
        assert insertion._latest(exact) == exact
