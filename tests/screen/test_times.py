"""Durations, ages and points in time."""

from __future__ import annotations

from datetime import datetime

import pytest

from pipeline.screen import times


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (5, "5 ns"), (582_300, "582 µs"), (999_700, "1000 µs"), (1_580_000, "1.58 ms"), (1_500_000_000, "1.5 s"),
        (60_000_000_000, "1 min 0 s"), (3_599_999_999_999, "59 min 59 s"), (7_500_000_000_000, "2 h 5 min"),
        (86_400_000_000_000, "1 d 0 h"), (400 * 86_400_000_000_000 - 1, "399 d 23 h"),
    ],
)  # fmt: skip
def test_durations_are_for_people(ns: int, text: str) -> None:
    assert times.duration(ns) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0s"), (0, "0s"), (99, "99s"), (100, "1m"), (5999, "99m"), (6000, "1h"), (172_799, "47h"), (172_800, "2d"),
     (999 * 86_400, "999d"), (1000 * 86_400, "2y")],
)  # fmt: skip
def test_ages_fit_a_column(seconds: int, text: str) -> None:
    assert times.age(seconds * 1_000_000_000) == text
    assert len(text) <= 4


def test_unknown_times_are_said_to_be_unknown() -> None:
    assert (times.moment(None), times.clock(None), times.since(None, 5)) == ("-", "-", "?")


def test_a_time_in_the_future_is_not_negative() -> None:
    assert times.since(2_000_000_000, 1_000_000_000) == "0 ns ago"


def test_a_time_of_another_day_has_its_date() -> None:
    noon = int(datetime(2026, 3, 5, 12, 30, 7).timestamp()) * 10**9
    assert times.when(noon, noon + 3600 * 10**9) == "12:30:07"
    assert times.when(noon, noon + 86_400 * 10**9) == "2026-03-05 12:30:07"


@pytest.mark.parametrize(("seconds", "text"), [(300, "5 min"), (5400, "1 h 30 min"), (86_400, "1 d"), (0.5, "500 ms")])
def test_a_period_has_no_unit_that_is_zero(seconds: float, text: str) -> None:
    assert times.period(seconds) == text


@pytest.mark.parametrize(
    ("ns", "text"),
    [(53_900_000_000, "53s"), (10_900_000, "10ms"), (1_250_000, "1.2ms"), (779_000, "779µs"), (9, "9ns")],
)
def test_a_brief_duration_fits_a_column(ns: int, text: str) -> None:
    assert times.brief(ns) == text
