"""A look of a scenario that fails shows what it found, as an assert in a test does."""

import pytest

pytest.register_assert_rewrite(
    "tests.resolver.scenario_happens", "tests.resolver.scenario_looks", "tests.resolver.keyed_world"
)
