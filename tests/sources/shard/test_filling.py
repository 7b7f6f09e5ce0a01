"""Reports of a source that fills its own ring about itself."""

from __future__ import annotations

import pytest

from pipeline.sources.shard import filling
from pipeline.sources.shard.filling import CounterReport


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The monotonic clock in nanoseconds, as a list of one number."""
    now = [1_000_000_000_000]
    monkeypatch.setattr(filling.time, "monotonic_ns", lambda: now[0])
    return now


def test_changed_counters_are_reported_once_and_at_most_every_ten_seconds(clock: list[int]) -> None:
    counters = (0, 5)
    reports: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    report = CounterReport(lambda: counters, lambda before, now: reports.append((before, now)))
    report.check()
    report.check()
    assert reports == [((0, 0), (0, 5))], "counters begin at 0, so what the predecessor counted is reported"
    counters = (1, 5)
    clock[0] += 9_900_000_000
    report.check()
    assert len(reports) == 1
    counters = (2, 5)
    clock[0] += 100_000_000
    report.check()
    assert reports[1:] == [((0, 5), (2, 5))]
