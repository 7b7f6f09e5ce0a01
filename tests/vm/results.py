"""Plugin of pytest: prints the result of each test as a line of JSON, at once, for `tests/vm/live`.

A guest may be ended at any time, and what it has printed by then is kept.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PREFIX = "result: "
#: Where the checkout is. Results are committed, and do not say where they were made.
ROOT = Path(__file__).resolve().parents[2]

_started = 0.0
_found: dict[str, Any] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--tests", help="a file with the names of the tests to run")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Select the listed tests. As arguments of pytest, one that does not exist here would end the run."""
    listed = config.getoption("--tests")
    if listed is None:
        return
    wanted = dict.fromkeys(Path(listed).read_text().splitlines())
    found = {item.nodeid: item for item in items}
    items[:] = [found[name] for name in wanted if name in found]
    with config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        for name in wanted:
            if name not in found:
                _print(test=name, outcome="skipped", why="it does not exist in the guest, which cannot do this")


def _print(**fields: Any) -> None:
    line = json.dumps(fields).replace(f"{ROOT}/", "")
    sys.__stdout__.write(f"\n{PREFIX}{line}\n")
    sys.__stdout__.flush()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    global _started, _found
    _started, _found = time.monotonic(), {"outcome": "passed"}
    with item.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        _print(test=item.nodeid, outcome="started")
    result = yield
    with item.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        _print(test=item.nodeid, seconds=round(time.monotonic() - _started, 1), **_found)
    return result


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    global _found
    if report.outcome == "skipped" and _found["outcome"] == "passed":
        place = report.longrepr
        text = place[2] if isinstance(place, tuple) else str(place)
        reason = getattr(report, "wasxfail", "") or text.removeprefix("Skipped: ")
        _found = {"outcome": "skipped", "why": reason[:300]}
    elif report.outcome == "failed" and _found["outcome"] != "failed":
        crash = getattr(report.longrepr, "reprcrash", None)
        message = crash.message if crash else str(report.longrepr)
        _found = {"outcome": "failed", "when": report.when, "why": message[:600], "text": str(report.longrepr)[-6000:]}
