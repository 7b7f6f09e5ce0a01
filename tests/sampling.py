"""How many examples a property test tries: by default the number that it names; less in CI and in a quick run."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Sequence
from typing import TypeVar

_T = TypeVar("_T")

#: Set by script/test: one of these levels. Examples are random, so that many runs of CI try as many as one deep search.
VARIABLE = "PROCLINE_TEST_LEVEL"
#: Set by script/test: what chooses the cases of a quick run.
SEED = "PROCLINE_TEST_SEED"
FACTORS = {"quick": 0.05, "sampled": 0.25, "": 1.0, "deep": 20.0}
#: Fewer than this would not reach the second branch of most properties.
EXAMPLES_MIN = 5
#: What Hypothesis tries where a test names no number.
EXAMPLES_DEFAULT = 100


def examples(count: int) -> int:
    """Return how many examples to try at this level, for a test that names `count`.

    Raises:
        ValueError: the environment names an unknown level.
    """
    level = os.environ.get(VARIABLE, "")
    if level not in FACTORS:
        raise ValueError(f"{VARIABLE}={level!r} is unknown; set it to one of {', '.join(filter(None, FACTORS))}")
    return max(min(count, EXAMPLES_MIN), round(count * FACTORS[level]))


def some(cases: Sequence[_T], least: int) -> Sequence[_T]:
    """Return the cases to try at this level, in their order: all of them, or as large a part of them as of examples.

    Args:
        cases: the first and the last one are always tried.
        least: how many are tried at any level.
    """
    count = max(least, examples(len(cases)))
    if count >= len(cases):
        return cases
    chosen = {0, len(cases) - 1, *random.SystemRandom().sample(range(len(cases)), count - 2)}
    return [cases[number] for number in sorted(chosen)]


def is_quick() -> bool:
    """Return whether this is a quick run, for a test that then asks its question in a cheaper way."""
    return os.environ.get(VARIABLE) == "quick"


def times(count: int, quick: int) -> int:
    """Return how often to do what no example chooses: `count` times, or `quick` times in a quick run."""
    return quick if is_quick() else count


def chosen(cases: Iterable[_T], quick: int = 1) -> list[_T]:
    """Return all cases, or in a quick run as many as `quick` names: those that SEED chooses, in their order.

    Also for parameters of a test: workers of pytest-xdist have to collect the same tests.
    """
    every = list(cases)
    return by_seed(every, quick) if is_quick() and quick < len(every) else every


def by_seed(cases: Sequence[_T], count: int) -> list[_T]:
    """Return that many of the cases, in their order. Without SEED, the run of pytest-xdist chooses, or chance."""
    seed = os.environ.get(SEED) or os.environ.get("PYTEST_XDIST_TESTRUNUID")
    numbers = random.Random(seed).sample(range(len(cases)), count)
    return [cases[number] for number in sorted(numbers)]


def load_profile() -> None:
    """Make the level apply to tests that name no number, too.

    Hypothesis tries EXAMPLES_DEFAULT by itself, so it is only imported for another level: that takes a second, and
    twenty in an emulated guest.
    """
    if examples(EXAMPLES_DEFAULT) == EXAMPLES_DEFAULT:
        return
    from hypothesis import HealthCheck, settings

    # What makes an example slow in CI is what runs beside the test.
    settings.register_profile(
        "level", max_examples=examples(EXAMPLES_DEFAULT), deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("level")
