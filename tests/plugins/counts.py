"""Count tests over several pytest runs, and those that ran against the live kernel apart. Loaded by script/test.

As a plugin it adds the outcome of each test to the file that PROCLINE_TEST_COUNTS names; as a program it prints the
sums, and ends with 1 if nothing ran. With xdist only the controller sees the reports of all workers and writes.

With `--again` the program prints the tests that may run a second time: a few tests of the live kernel that failed,
if nothing else did. Such a test has limits in seconds, and other tests beside it can use them up. What then passes is
named in the sums, so that nobody takes it for a test that passed.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path

import pytest

VARIABLE = "PROCLINE_TEST_COUNTS"
#: More failures than this are no accident of a busy machine.
AGAIN_MAX = 3


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
                file.write(json.dumps([node, node in self._live, outcome]) + "\n")


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get(VARIABLE) and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Counts())


def main() -> int:
    """Print the sums, or with `--again` the tests that may run a second time."""
    first: dict[str, str] = {}
    last: dict[str, str] = {}
    is_live: dict[str, bool] = {}
    for line in Path(sys.argv[1]).read_text().splitlines():
        node, is_live[node], outcome = json.loads(line)
        first.setdefault(node, outcome)
        last[node] = outcome
    if "--again" in sys.argv[2:]:
        failed = [node for node, outcome in last.items() if outcome == "failed"]
        if 0 < len(failed) <= AGAIN_MAX and all(is_live[node] for node in failed):
            print("\n".join(failed))
        return 0
    every = Counter(last.values())
    live = Counter(outcome for node, outcome in last.items() if is_live[node])
    print()
    print(f"tests against the live kernel: {live['passed'] + live['failed']} ran, {live['skipped']} skipped")
    print(f"{every['passed']} passed, {every['failed']} failed, {every['skipped']} skipped")
    for node, outcome in first.items():
        if outcome == "failed" and last[node] == "passed":
            print(f"NOT RELIABLE: {node} failed beside other tests and passed alone")
    if not every["passed"] + every["failed"]:
        print("no test ran", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
