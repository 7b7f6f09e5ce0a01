"""End at the first example that fails, and say which test it was. Loaded by the programs that make faults in the code.

Hypothesis otherwise looks for the smallest example that fails, which takes minutes. The node id of the test that runs
is in the file that PROCLINE_TEST_RUNS names: with `-x` that is the test that failed, also if it ended the interpreter.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

VARIABLE = "PROCLINE_TEST_RUNS"


def pytest_configure(config: pytest.Config) -> None:
    """Change what Hypothesis does in each test module, as these are imported later."""
    from hypothesis import Phase, settings

    settings.register_profile(
        "hurried",
        parent=settings.get_profile(settings.get_current_profile_name()),
        phases=(Phase.explicit, Phase.generate),
        report_multiple_bugs=False,
        deadline=None,
        database=None,
    )
    settings.load_profile("hurried")


def pytest_runtest_logstart(nodeid: str) -> None:
    """Write the name of the test."""
    Path(os.environ[VARIABLE]).write_text(nodeid, "utf-8")
