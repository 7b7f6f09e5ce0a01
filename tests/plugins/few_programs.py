"""Take only some of the tests marked `programs`, and others in each run. Loaded by `script/test --quick`.

PROCLINE_TEST_SEED chooses them, so that all workers of a run choose the same, and a run can be repeated.
"""

from __future__ import annotations

import os
import random

import pytest

from tests.sampling import examples

VARIABLE = "PROCLINE_TEST_SEED"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Choose among those that other options have selected; at least one of them is taken."""
    programs = [item for item in items if item.get_closest_marker("programs")]
    chosen = random.Random(os.environ[VARIABLE]).sample(programs, examples(len(programs)))
    config.hook.pytest_deselected(items=[item for item in programs if item not in chosen])
    others = [item for item in items if item not in set(programs)]
    # Some of them take half a minute, mostly waiting. Each worker begins with an equal part of the list.
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    items[:] = others
    for number, item in reversed(list(enumerate(chosen))):
        items.insert(number % workers * len(others) // workers, item)


def pytest_report_header() -> str:
    """Say how the same tests are chosen again."""
    return f"a part of the tests marked programs, chosen by {VARIABLE}={os.environ[VARIABLE]}"
