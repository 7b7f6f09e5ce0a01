"""Times and periods that somebody typed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from pipeline.select.times import NS, period_ns, since_ns, time_ns

NOW_NS = int(datetime(2026, 3, 5, 12, 30, tzinfo=UTC).timestamp()) * NS


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("10m", 600), ("1h30m", 5400), ("2 h", 7200), ("0.5s", 0.5), ("90", 90), ("1d", 86_400),
     ("250ms", 0.25)],
)  # fmt: skip
def test_periods(text: str, seconds: float) -> None:
    assert period_ns(text) == seconds * NS


@pytest.mark.parametrize("text", ["", "m", "5x", "1h30", "-5m", "nan", "1e3s", "9" * 400, "9" * 400 + "m"])
def test_other_text_is_no_period(text: str) -> None:
    with pytest.raises(ValueError, match="is not a period: use"):
        period_ns(text)


@pytest.mark.parametrize(
    ("text", "expected_ns"),
    [
        ("now", NOW_NS),
        ("-5m", NOW_NS - 300 * NS),
        ("12:05", NOW_NS - 25 * 60 * NS),
        ("13:05", NOW_NS - (24 * 60 - 35) * 60 * NS),
        ("12:05:30", NOW_NS - 25 * 60 * NS + 30 * NS),
        ("12:05:30.25", NOW_NS - 25 * 60 * NS + 30 * NS + NS // 4),
        ("12:30:00.5", NOW_NS - 24 * 3600 * NS + NS // 2),
        ("2026-03-05T12:00:00Z", NOW_NS - 1800 * NS),
        ("2026-03-05 12:00:00.5", NOW_NS - 1800 * NS + NS // 2),
        ("2026-03-05T13:00:00+01:00", NOW_NS - 1800 * NS),
        (str(NOW_NS), NOW_NS),
    ],
)
def test_times(text: str, expected_ns: int) -> None:
    assert time_ns(text, NOW_NS) == expected_ns


@pytest.mark.parametrize("text", ["", "yesterday", "25:00", "-x", "9" * 30, "2026-13-01"])
def test_other_text_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match="is not a time: use now"):
        time_ns(text, NOW_NS)


@pytest.mark.parametrize(
    ("now", "text", "expected"),
    [
        # Clocks are put back at 01:00 UTC: 02:00 to 03:00 occurs twice.
        ("2026-10-25T00:45", "02:30", "2026-10-25T00:30"),
        ("2026-10-25T01:45", "02:30", "2026-10-25T01:30"),
        ("2026-10-25T01:45", "02:50", "2026-10-25T00:50"),
        ("2026-10-25T09:00", "02:30", "2026-10-25T01:30"),
        # They are put forward at 01:00 UTC: 02:00 to 03:00 does not occur.
        ("2026-03-29T01:15", "02:30", "2026-03-28T01:30"),
        ("2026-03-29T09:00", "02:30", "2026-03-28T01:30"),
        ("2026-03-29T09:00", "01:30", "2026-03-29T00:30"),
    ],
)
def test_a_time_of_day_is_the_last_one_when_clocks_are_changed(
    now: str, text: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    found_ns = time_ns(text, int(datetime.fromisoformat(f"{now}+00:00").timestamp()) * NS)
    assert datetime.fromtimestamp(found_ns / NS, UTC).isoformat(timespec="minutes") == f"{expected}+00:00"


@pytest.mark.parametrize("text", ["25m", "-25m", "12:05", "2026-03-05T12:05:00Z", str(NOW_NS - 25 * 60 * NS)])
def test_a_beginning_is_a_time_or_how_long_ago(text: str) -> None:
    assert since_ns(text, NOW_NS) == NOW_NS - 25 * 60 * NS


@pytest.mark.parametrize("text", ["", "ten minutes", "5x", "--5m"])
def test_other_text_is_no_beginning(text: str) -> None:
    with pytest.raises(ValueError, match="is not a time: use 5m"):
        since_ns(text, NOW_NS)
