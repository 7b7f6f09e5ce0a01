"""Count tests over several pytest runs, and those that ran against the live kernel apart. Loaded by script/test.

As a plugin it adds the outcome of each test to the file that PROCLINE_TEST_COUNTS names; as a program it prints the
sums, and ends with 1 if nothing ran. With xdist only the controller sees the reports of all workers and writes.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path

import pytest

VARIABLE = "PROCLINE_TEST_COUNTS"


class Counts:
    """Outcomes of this run's tests, by node id: a test counts once, whatever its set-up and tear-down did."""

    def __init__(self) -> None:
        self._outcomes: dict[str, str] = {}
        self._live: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if "live" in report.keywords:
            self._live.add(report.nodeid)
        if report.failed:
            self._outcomes[report.nodeid] = "failed"
        elif report.skipped:
            self._outcomes.setdefault(report.nodeid, "skipped")
        elif report.when == "call":
            self._outcomes.setdefault(report.nodeid, "passed")

    def pytest_sessionfinish(self) -> None:
        with Path(os.environ[VARIABLE]).open("a") as file:
            for node, outcome in self._outcomes.items():
                file.write(json.dumps([node in self._live, outcome]) + "\n")


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get(VARIABLE) and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Counts())


def main() -> int:
    rows = [tuple(json.loads(line)) for line in Path(sys.argv[1]).read_text().splitlines()]
    every = Counter(outcome for _, outcome in rows)
    live = Counter(outcome for is_live, outcome in rows if is_live)
    print()
    print(f"tests against the live kernel: {live['passed'] + live['failed']} ran, {live['skipped']} skipped")
    print(f"{every['passed']} passed, {every['failed']} failed, {every['skipped']} skipped")
    if not every["passed"] + every["failed"]:
        print("no test ran", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
