"""Take only some of the tests marked `expensive`, and others in each run. Loaded by `script/test --quick`.

PROCLINE_TEST_SEED chooses them, so a run can be repeated.
"""

from __future__ import annotations

import os

import pytest

from tests.sampling import SEED, by_seed, examples


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Choose among those that other options have selected; at least one of them is taken."""
    expensive = {item: mark for item in items if (mark := item.get_closest_marker("expensive"))}
    possible = [item for item, mark in expensive.items() if "seconds" not in mark.kwargs]
    chosen = by_seed(possible, examples(len(possible)))
    config.hook.pytest_deselected(items=[item for item in expensive if item not in chosen])
    others = [item for item in items if item not in expensive]
    # Some of them wait for many seconds, so they come first. Each worker begins with an equal part of the list.
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    items[:] = others
    for number, item in reversed(list(enumerate(chosen))):
        items.insert(number % workers * len(others) // workers, item)


def pytest_report_header() -> str:
    """Say how the same tests and cases are chosen again."""
    return f"some of the tests and cases that are expensive, chosen by {SEED}={os.environ[SEED]}"
