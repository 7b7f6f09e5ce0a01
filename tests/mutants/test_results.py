"""Tests of the results of mutants and of their sums."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from tests.mutants.results import Result, keep, kept, table, wilson

RESULT = Result("pipeline/shm/a.py", "    if a < b:", "    if a <= b:", 0, 7, "killed", "tests/shm/test_a.py::test_a")


def test_results_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "state"
    assert kept(file) == {}
    results = [RESULT, replace(RESULT, number=1, outcome="survived", by="")]
    for result in results:
        keep(file, result)
    assert list(kept(file).values()) == results


def test_the_last_result_of_a_mutant_counts(tmp_path: Path) -> None:
    file = tmp_path / "state"
    for outcome in ("survived", "killed"):
        keep(file, replace(RESULT, outcome=outcome, line=9))
    assert [result.outcome for result in kept(file).values()] == ["killed"]


def test_a_result_that_was_cut_short_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "state"
    keep(file, RESULT)
    with file.open("a") as written:
        written.write('{"module": "pipe')
    assert list(kept(file).values()) == [RESULT]
    keep(file, replace(RESULT, number=1))
    assert len(kept(file)) == 2


@pytest.mark.parametrize(
    ("hits", "tried", "low", "high"),
    [(0, 0, 0, 1), (8, 8, 0.6756, 1), (0, 8, 0, 0.3244), (50, 100, 0.4038, 0.5962), (180, 200, 0.8506, 0.9343)],
)
def test_the_interval_of_wilson(hits: int, tried: int, low: float, high: float) -> None:
    assert wilson(hits, tried) == pytest.approx((low, high), abs=1e-4)


def test_the_limits_are_the_shares_that_differ_from_the_result_by_1_96_deviations() -> None:
    for tried in (1, 7, 120):
        for hits in range(tried + 1):
            for limit in wilson(hits, tried):
                deviation = (limit * (1 - limit) / tried) ** 0.5
                assert abs(hits / tried - limit) == pytest.approx(1.959964 * deviation, abs=1e-6)


def test_the_sums_of_each_package() -> None:
    results = [
        RESULT, replace(RESULT, number=1), replace(RESULT, number=2, stage="named"),
        replace(RESULT, number=3, outcome="survived"), replace(RESULT, number=4, outcome="invalid"),
        replace(RESULT, number=5, outcome="unsound"), replace(RESULT, module="pipeline/resolver/b.py"),
    ]  # fmt: skip
    packages = Counter({"pipeline/shm": 1000, "pipeline/resolver": 10, "pipeline/resolver/api": 5})
    assert list(table(results, packages))[2:] == [
        "| pipeline/resolver | 10 | 1 | 1 | 0 | 100% (21% to 100%) |",
        "| pipeline/resolver/api | 5 | 0 | 0 | 0 | - |",
        "| pipeline/shm | 1,000 | 4 | 2 | 1 | 75% (30% to 95%) |",
        "| all | 1,015 | 5 | 3 | 1 | 80% (38% to 96%) |",
        "",
        "1 more do not compile. The tests of 1 more also fail without them.",
    ]
