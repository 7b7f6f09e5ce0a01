"""When a scenario's check fails, pytest shows the values that it compared, as for an assert in a test."""

import pytest

pytest.register_assert_rewrite(
    "tests.resolver.api.scenario_happens", "tests.resolver.api.scenario_looks", "tests.resolver.api.keyed_world"
)
