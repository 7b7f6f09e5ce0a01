from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pipeline.load import paired
from pipeline.load.scenarios import Settings


def test_the_interval_of_a_median() -> None:
    """By the binomial distribution: of ten values the second smallest and the second largest, with 97.9 %."""
    low, high, confidence = paired.median_interval([float(each) for each in range(1, 11)])
    assert (low, high) == (2.0, 9.0)
    assert confidence == pytest.approx(1 - 2 * 11 / 1024)


@pytest.mark.parametrize(
    ("count", "low", "confidence"), [(1, 1, 0.0), (2, 1, 0.5), (5, 1, 0.9375), (6, 1, 0.96875), (9, 2, 0.9609375)]
)
def test_few_values_give_less_confidence(count: int, low: int, confidence: float) -> None:
    found = paired.median_interval([float(each) for each in range(1, count + 1)])
    assert found == (low, count + 1 - low, pytest.approx(confidence))


def test_a_slowdown_is_in_percent() -> None:
    found = paired.slowdown([1.02, 1.04, 1.03])
    assert found["slowdown_percent"] == pytest.approx(3)
    assert (found["low_percent"], found["high_percent"]) == (pytest.approx(2), pytest.approx(4))


class FakeInstance:
    """Notes when it is started and stopped."""

    def __init__(self) -> None:
        self.is_running = False
        self.starts = 0

    def start(self, progress: Callable[[], None]) -> None:
        assert not self.is_running
        self.is_running, self.starts = True, self.starts + 1

    def stop(self) -> None:
        self.is_running = False


def test_rounds_alternate_and_the_ratios_are_those_of_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A load that is a fifth slower with the instance, on a host that becomes faster with each round."""
    instance = FakeInstance()
    ran: list[bool] = []

    class FakeLoad:
        def __init__(self, settings: Settings) -> None:
            ran.append(instance.is_running)

        def __enter__(self) -> FakeLoad:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def begin(self) -> None:
            pass

        def result(self) -> Any:
            class Made:
                events = 1000 + len(ran)
                seconds = 1.2 if ran[-1] else 1.0
                cpu_ns = events * (110_000 if ran[-1] else 100_000)

            return Made

    monkeypatch.setattr(paired, "Load", FakeLoad)
    monkeypatch.setattr(paired.time, "sleep", lambda s: None)
    said: list[str] = []
    found = paired.measure(instance, Settings("forks", None, 1, 1), 4, said.append)  # type: ignore[arg-type]
    assert ran == [True, False, False, True, True, False, False, True]
    assert instance.starts == 3 and not instance.is_running
    assert found["time"]["slowdown_percent"] == pytest.approx(20, abs=0.2)
    assert found["cpu"]["slowdown_percent"] == pytest.approx(10, abs=0.01)
    assert found["noise"]["count"] == 3 and abs(found["noise"]["low_percent"]) < 0.2
    assert [each["is_with"] for each in found["rounds"]] == ran
    assert said[0] == "round 1 of 8, with the instance"
