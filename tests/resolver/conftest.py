"""A look of a scenario that fails shows what it found, as an assert in a test does."""

import pytest

pytest.register_assert_rewrite("scenario_happens", "scenario_looks", "keyed_world")
