"""For how long events gather follows from how late they were: within bounds, and so that the freshness is kept."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.records.limits import GATHER_PART
from pipeline.resolver.daemon._gathering import Gathering
from tests.written import fraction

FRESHNESS_NS = 20_000_000
MS = 1_000_000
LEAST = fraction("pipeline/resolver/daemon/_gathering.pyx", "_LEAST")
#: What is measured on hosts with other programs on all CPUs: mostly little, sometimes a time slice of another program.
DELAYS: dict[str, Callable[[random.Random], float]] = {
    "idle": lambda rng: 0.3 + rng.expovariate(1 / 0.1),
    "busy": lambda rng: 0.5 + rng.expovariate(1 / 1.5),
    "slices": lambda rng: 0.5 + (rng.uniform(3, 8) if rng.random() < 0.03 else 0.0),
    "outliers": lambda rng: 0.3 + (rng.uniform(50, 500) if rng.random() < 0.005 else 0.0),
}


def _live_through(gathering: Gathering, delay_ms: Callable[[random.Random], float], turns: int) -> float:
    """Let events gather as long as is chosen and then be delayed; return the share of turns beyond the freshness."""
    rng = random.Random(7)
    late = 0
    for _ in range(turns):
        age_ns = gathering.gather_us * 1000 + int(delay_ms(rng) * MS)
        late += age_ns > FRESHNESS_NS
        gathering.note(age_ns)
    return late / turns


@given(st.floats(10_000, 1e9), st.lists(st.one_of(st.integers(-(2**62), 2**62), st.integers(0, 10**8)), max_size=300))
def test_it_stays_within_bounds_whatever_is_measured(freshness_ns: float, ages: list[int]) -> None:
    gathering = Gathering(freshness_ns)
    for age_ns in [0, *ages]:
        before = gathering.gather_us
        assert gathering.note(age_ns) == (gathering.gather_us != before)
        # One measurement never decides.
        assert abs(gathering.gather_us - before) * 1000 <= 0.05 * freshness_ns + 1_000_000
        assert LEAST * freshness_ns - 1000 <= gathering.gather_us * 1000 <= GATHER_PART * freshness_ns + 1000
        assert 0 <= gathering.delay_ns <= freshness_ns


@pytest.mark.parametrize("host", DELAYS)
def test_the_freshness_is_kept_at_the_99th_percentile(host: str) -> None:
    gathering = Gathering(FRESHNESS_NS)
    _live_through(gathering, DELAYS[host], 2000)
    assert _live_through(gathering, DELAYS[host], 20_000) <= 0.013


def test_events_gather_for_long_on_an_idle_host_and_for_less_on_a_busy_one() -> None:
    chosen = {}
    for host in ("idle", "busy", "slices"):
        gathering = Gathering(FRESHNESS_NS)
        _live_through(gathering, DELAYS[host], 5000)
        chosen[host] = gathering.gather_us
    assert chosen["idle"] == 16_000 > chosen["busy"] > 8_000
    assert 16_000 > chosen["slices"] > 8_000


def test_a_small_freshness_is_used_to_a_fraction_of_a_millisecond() -> None:
    gathering = Gathering(2 * MS)
    changes = sum(gathering.note(gathering.gather_us * 1000 + MS // 2) for _ in range(2000))
    assert 1300 <= gathering.gather_us <= 1400
    # In steps of a twentieth, so that the shards are not asked to change it at each turn.
    assert gathering.gather_us % 100 == 0
    assert changes < 100


def test_it_recovers_within_seconds() -> None:
    gathering = Gathering(FRESHNESS_NS)
    for _ in range(1000):
        gathering.note(500 * MS)
    assert gathering.gather_us == 8000
    # 60 to 250 turns a second: the more often, the shorter events gather.
    for _ in range(2000):
        gathering.note(gathering.gather_us * 1000 + MS)
    assert gathering.gather_us == 16_000


def test_late_events_raise_the_estimate() -> None:
    gathering = Gathering(FRESHNESS_NS)
    first = gathering.delay_ns
    for _ in range(100):
        gathering.note(FRESHNESS_NS)
    assert 0 < first < gathering.delay_ns


def test_a_freshness_of_nothing_is_rejected() -> None:
    with pytest.raises(ValueError, match="positive"):
        Gathering(0)
