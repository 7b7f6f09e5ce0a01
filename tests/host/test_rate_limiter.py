"""Windows, allowances and forgetting; tokens that come back with time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.host.rate_limiter import RateLimiter, TokenBucket

PERIOD_NS = 30_000_000_000


class Clock:
    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now


def test_once_per_window_and_key() -> None:
    clock = Clock()
    limiter: RateLimiter[int] = RateLimiter(128, PERIOD_NS, clock=clock)
    assert limiter.allow(1) and limiter.allow(2)
    assert not limiter.allow(1)
    clock.now = PERIOD_NS - 1
    assert not limiter.allow(1)
    clock.now = PERIOD_NS
    assert limiter.allow(1)
    assert not limiter.allow(1)


def test_a_caller_may_pass_the_time() -> None:
    limiter: RateLimiter[int] = RateLimiter(128, PERIOD_NS, clock=Clock())
    assert limiter.allow(1, 5)
    assert not limiter.allow(1, PERIOD_NS + 4)
    assert limiter.allow(1, PERIOD_NS + 5)


def test_refusal_does_not_extend_the_window() -> None:
    clock = Clock()
    limiter: RateLimiter[int] = RateLimiter(128, PERIOD_NS, clock=clock)
    limiter.allow(1)
    for clock.now in range(0, PERIOD_NS, PERIOD_NS // 100):
        assert not limiter.allow(1)
    clock.now = PERIOD_NS
    assert limiter.allow(1)


def test_larger_allowance() -> None:
    limiter: RateLimiter[str] = RateLimiter(128, PERIOD_NS, 3, Clock())
    assert [limiter.allow("a") for _ in range(5)] == [True, True, True, False, False]


def test_key_that_was_pushed_out_starts_afresh() -> None:
    limiter: RateLimiter[int] = RateLimiter(2, PERIOD_NS, clock=Clock())
    assert limiter.allow(1) and limiter.allow(2)
    assert not limiter.allow(1), "also a refusal is a use"
    assert limiter.allow(3), "pushes 2 out"
    assert not limiter.allow(1)
    assert limiter.allow(2)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 12)), max_size=60))
def test_never_more_than_the_allowance_in_a_window(steps: list[tuple[int, int]]) -> None:
    """Against the plain rule, with room for all keys."""
    clock = Clock()
    limiter: RateLimiter[int] = RateLimiter(128, 10, 2, clock)
    windows: dict[int, tuple[int, int]] = {}
    for key, step in steps:
        clock.now += step
        start, count = windows.get(key, (-100, 0))
        if clock.now - start >= 10:
            start, count = clock.now, 0
        expected = count < 2
        windows[key] = (start, count + expected)
        assert limiter.allow(key) == expected


@pytest.mark.parametrize("options", [{"capacity": 0}, {"capacity": 1, "allowance": 0}])
def test_nonsense_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="positive"):
        RateLimiter(**options, period_ns=PERIOD_NS)


def test_tokens_come_back_with_time() -> None:
    bucket = TokenBucket(1000, 5)
    assert bucket.available(10**9) == 5
    bucket.spend(5)
    assert bucket.available(10**9) == 0
    assert bucket.available(10**9 + 2_100_000) == 2
    assert bucket.available(10**12) == 5
    assert bucket.available(10**12 - 5) == 5  # a clock that stepped back removes nothing
