"""Each decoder gets some hundred inputs. `python -m tests.fuzz.run` tries millions."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.mutate import mutate
from tests.fuzz.tables import change, check_segments
from tests.fuzz.target import CORPUS, Target
from tests.fuzz.targets import TARGETS
from tests.sampling import examples, some, times

every_target = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)


@every_target
def test_inputs_that_are_kept_are_decoded(target: Target) -> None:
    seeds = target.seeds()
    for data in [*some(seeds, times(len(seeds), 40)), *target.kept()]:
        target.check(data)


@every_target
def test_the_unchanged_inputs_are_accepted(target: Target) -> None:
    """Otherwise the inputs that are made from them would test no more than the first comparison."""
    assert any(target.check(data) for data in target.seeds())


@every_target
@settings(max_examples=examples(200), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_bytes_are_decoded_or_rejected(target: Target, data: st.DataObject) -> None:
    target.check(data.draw(st.binary(max_size=300)))
    target.check(mutate(data.draw(st.randoms(use_true_random=False)), target.corpus()))


def test_every_kept_input_belongs_to_a_target() -> None:
    assert {path.stem for path in CORPUS.glob("*.hex")} <= set(TARGETS)


def test_changes_follow_from_the_seed() -> None:
    made = [mutate(random.Random(3), [b"abc" * 20]) for _ in range(2)]
    assert made[0] == made[1] != b"abc" * 20


@pytest.mark.parametrize(
    ("offset", "value"), [(69, 1), (91, 128), (145, 1), (195, 255)], ids=["state", "ceiling", "commit", "keys"]
)
def test_a_damaged_control_segment_is_an_error(offset: int, value: int) -> None:
    """Own errors: a state without a name, a mapping that cannot be made, a short buffer, keys beyond 32 bits."""
    assert check_segments(change("control", offset, value)) in (True, False)
