"""Intervals against a set."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.fleet.numbers import Numbers

INTERVALS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 8)).map(lambda each: (each[0], each[0] + each[1])))


@given(INTERVALS, st.integers(0, 50), st.integers(0, 20))
def test_numbers_are_a_set(added: list[tuple[int, int]], first: int, count: int) -> None:
    numbers, plain = Numbers(), set()
    for begin, end in added:
        numbers.add(begin, end)
        plain |= set(range(begin, end))
    assert {n for begin, end in numbers.intervals for n in range(begin, end)} == plain
    assert all(end < begin for (_, end), (begin, _) in zip(numbers.intervals, numbers.intervals[1:], strict=False))
    missing = numbers.missing(first, first + count)
    assert [n for begin, end in missing for n in range(begin, end)] == [
        n for n in range(first, first + count) if n not in plain
    ]
    holes = {n for begin, end in numbers.holes() for n in range(begin, end)}
    assert holes == ({n for n in range(min(plain), max(plain)) if n not in plain} if plain else set())
    assert Numbers(numbers.intervals).intervals == numbers.intervals
