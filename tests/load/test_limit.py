from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pipeline.load import limit
from pipeline.load.scenarios import RATE_MAX, Settings
from tests.load.reports import report


def host(*, loses_above: float = 1e18, makes: float = 1e18, misses_above: float = 1e18) -> Callable[[Settings], Any]:
    """A host that loses events above a rate, that cannot make more than another, and a subscriber that misses some."""

    def run(settings: Settings) -> dict[str, Any]:
        assert settings.rate_events_per_s is not None
        found = report()
        found["settings"]["rate_events_per_s"] = settings.rate_events_per_s
        found["load"]["events_per_s"] = rate = min(settings.rate_events_per_s, makes)
        if rate > loses_above:
            found["host_events"]["lost"] = {"fork": 3}
            found["lost"]["fork"] = 3
        elif rate > misses_above:
            found["missed_by_subscriber"] = found["lost"]["exit"] = 5
        return found

    return run


def find(run: Callable[[Settings], Any], rate: float = 2000) -> dict[str, Any]:
    found = limit.find(Settings("forks", rate, 1, 1), run)
    assert len(found["limit"]["steps"]) <= limit.STEPS_MAX
    return found


@pytest.mark.parametrize("edge", [90, 700, 1999, 2000, 10_000, 123_456])
def test_the_rate_is_doubled_then_bisected(edge: float) -> None:
    found = find(host(loses_above=edge))
    assert edge / 1.1 <= found["limit"]["events_per_s"] <= edge
    assert found["limit"]["reason"] == "lost"
    assert found["load"]["events_per_s"] == found["limit"]["events_per_s"], "it is the report of that step"
    assert not found["host_events"]["lost"]


def test_a_host_that_makes_no_more_is_the_reason() -> None:
    found = find(host(makes=7000))["limit"]
    assert found["reason"] == "load" and 7000 / 1.1 <= found["events_per_s"] <= 7000 / 0.95


def test_a_subscriber_that_is_too_slow_is_the_reason() -> None:
    assert find(host(misses_above=3000))["limit"]["reason"] == "subscriber"


def test_nothing_is_sustained() -> None:
    found = find(host(loses_above=0))
    assert found["limit"]["events_per_s"] is None and found["limit"]["reason"] == "lost"
    assert found["host_events"]["lost"]


def test_everything_is_sustained() -> None:
    found = find(host())["limit"]
    assert (found["events_per_s"], found["reason"]) == (RATE_MAX, "rate")


def test_every_reason_is_described() -> None:
    assert {"lost", "subscriber", "load", "rate", "steps"} == set(limit.REASONS)
