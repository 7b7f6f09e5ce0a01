"""A look of a scenario that fails shows what it found, as an assert in a test does."""

import pytest

pytest.register_assert_rewrite(
    "tests.resolver.api.scenario_happens", "tests.resolver.api.scenario_looks", "tests.resolver.api.keyed_world"
)
