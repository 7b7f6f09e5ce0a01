"""A process that has collected the tests of an instrumented copy, and forks one for each mutant.

Nothing is imported or collected again for a mutant, so that a test of a millisecond takes little more than a fork.
`Collected` starts the process; the rest is its pytest plugin. A function that runs when a module is imported does so
before the mutant is chosen: `Runner` (`warm.py`) tries such mutants in a new interpreter.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import sampling
from tests.mutants.switch import VARIABLE, Switch
from tests.plugins import hurried

#: File descriptors for requests and answers, in the environment.
_PIPES = "PROCLINE_MUTANT_PIPES"


@dataclass(frozen=True)
class Run:
    """The result of some tests.

    Attributes:
        failed: the first test that failed, or did not end in time; None: all passed.
        seconds: how long they took.
        is_late: it did not end in time.
    """

    failed: str | None
    seconds: float
    is_late: bool = False


class Collected:
    """The process.

    Args:
        directory: an instrumented copy.
        switch: chooses the mutant.
        tests: files and directories of tests.
        marks: an expression that selects some of them.
        level: of `sampling`.
        limit_s: for one test.

    Attributes:
        tests: ids of the tests that can be run, in their order.
        imported: numbers of the mutants that were reached during the collection.
    """

    def __init__(
        self, directory: Path, switch: Switch, tests: Sequence[str], marks: str, level: str, limit_s: float
    ) -> None:
        self._running = switch.path.with_suffix(".running")
        requests, self._requests = os.pipe()
        self._answers, answers = os.pipe()
        environment = dict(os.environ) | {
            "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(directory), _PIPES: f"{requests},{answers}",
            VARIABLE: str(switch.path), hurried.VARIABLE: str(self._running), sampling.VARIABLE: level,
        }  # fmt: skip
        switch.choose(0)
        # Not /dev/null: mutants that return 0 as a descriptor change the mode of this file.
        with tempfile.TemporaryFile() as nothing:
            self._process = subprocess.Popen(
                [
                    sys.executable, "-m", "pytest", "-q", "--tb=no", "-n", "0", "-s", "-p", "no:cacheprovider",
                    "-p", hurried.__name__, "-p", __name__, "--hypothesis-seed=1", "-m", marks,
                    "-o", f"faulthandler_timeout={limit_s}", "-o", "faulthandler_exit_on_timeout=true", *tests,
                ],
                cwd=directory, env=environment, pass_fds=(requests, answers), start_new_session=True,
                stdin=nothing, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        os.close(requests)
        os.close(answers)
        self._input = os.fdopen(self._answers)
        answer = self._input.readline()
        if not answer:
            self.close()
            raise ValueError(f"pytest cannot collect {' '.join(tests)}")
        self.tests: list[str] = json.loads(answer)
        self.imported = switch.reached()

    def run(self, tests: Sequence[str], limit_s: float) -> Run:
        """Run tests in a new process, up to the first that fails."""
        begin = time.monotonic()
        self._running.unlink(missing_ok=True)
        os.write(self._requests, json.dumps([tests, limit_s]).encode() + b"\n")
        code, is_late = json.loads(self._input.readline())
        failed = None
        if code != 0 or is_late:
            failed = self._running.read_text("utf-8") if self._running.exists() else ""
        return Run(failed, time.monotonic() - begin, is_late)

    def close(self) -> None:
        """End the process."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._input.close()
        os.close(self._requests)


# -- the plugin --------------------------------------------------------------------------------------------------------


def pytest_runtestloop(session: pytest.Session) -> bool:
    """Serve requests instead of running the tests."""
    requests, answers = map(int, os.environ[_PIPES].split(","))
    items = {item.nodeid: item for item in session.items}
    with os.fdopen(requests) as lines, os.fdopen(answers, "w", buffering=1) as written:
        print(json.dumps(list(items)), file=written)
        for line in lines:
            tests, limit_s = json.loads(line)
            print(json.dumps(_forked([items[test] for test in tests], limit_s)), file=written)
    return True


def _forked(items: Sequence[pytest.Item], limit_s: float) -> tuple[int, bool]:
    """Run tests in a process group of their own; return its exit code, and whether it took longer than the limit."""
    child = os.fork()
    if not child:
        code = 3
        try:
            os.setsid()
            code = _run(items)
        finally:
            os._exit(code)
    fd = os.pidfd_open(child)
    is_done = bool(select.select([fd], [], [], limit_s)[0])
    os.close(fd)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # also what it has started
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), not is_done


def _run(items: Sequence[pytest.Item]) -> int:
    """Return 1 after the first test that fails."""
    failed: list[str] = []

    class Watch:
        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.failed:
                failed.append(report.nodeid)

    session = items[0].session
    session.config.pluginmanager.register(Watch())
    for item, following in zip(items, [*items[1:], None], strict=True):
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if failed:
            session._setupstate.teardown_exact(None)
            return 1
    return 0
