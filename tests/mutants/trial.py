"""Try mutants of bodies in an instrumented copy."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from math import inf
from pathlib import Path

from tests import sampling
from tests.mutants.collected import Collected
from tests.mutants.place import Place
from tests.mutants.reach import Reach
from tests.mutants.results import Result
from tests.mutants.switch import VARIABLE, Switch
from tests.mutants.warm import Runner, arguments_of
from tests.plugins import hurried

#: A mutant counts as noticed if one test, or all of them, take longer than this; to the second is added what they take
#: without it.
TEST_LIMIT_S, TIME_LIMIT_S = 15, 30
#: A test that takes longer may have failed because the machine was busy: it must fail twice.
QUICK_S = 0.3


class Trial:
    """Tries mutants with the tests that reach them.

    Args:
        directory: an instrumented copy.
        tests: files and directories of tests.
        marks, level: see `Collected`.
        seed: see `Reach`.
    """

    def __init__(self, directory: Path, tests: Sequence[str], marks: str, level: str, seed: int) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="procline-mutants-")
        private = Path(self._temporary.name)
        private.chmod(0o755)
        self.switch = Switch(private / "switch")
        self._collected = Collected(directory, self.switch, tests, marks, level, TEST_LIMIT_S)
        self.imported = self._collected.imported
        self.reach = Reach(directory, self._collected.tests, seed)
        self._runner = Runner(directory)
        self._marks, self._environment = marks, {
            VARIABLE: str(self.switch.path), "PYTHONPATH": str(directory), sampling.VARIABLE: level,
            hurried.VARIABLE: str(self.switch.path.with_suffix(".fresh")),
        }  # fmt: skip
        self._sound: set[str] = set()

    def measure(self, end: float) -> bool:
        """Find out which functions the tests reach; return whether that was done before `end`."""
        for _ in self.reach.measure(self._collected, self.switch, TEST_LIMIT_S * 4):
            if time.monotonic() > end:
                break
        return not self.reach.unknown

    def attempt(self, place: Place, number: int, nearest: Sequence[str], stage: str, budget_s: float = inf) -> Result:
        """Return what becomes of a mutant.

        Args:
            place: the mutant.
            number: of it in the copy.
            nearest: files and directories of tests, the nearest first.
            stage: see `Result`.
            budget_s: see `Reach.tests`.
        """
        begin = time.monotonic()

        def result(outcome: str, by: str = "") -> Result:
            return Result(*place.key, place.mutant.line, outcome, by, stage, 0.0, round(time.monotonic() - begin, 2))

        tests = self.reach.tests(number, nearest, budget_s)
        if (failed := self._noticing(number, tests)) is not None:
            return result("killed", failed)
        if number in self.imported:
            self.switch.choose(number)
            failed = self._failing_afresh(nearest)
            if failed is not None:
                self.switch.choose(0)
                if self._failing_afresh([failed] if failed else nearest) is None:
                    return result("killed", failed or nearest[0])
        elif not tests:
            return result("unreached")
        return result("survived")

    def _noticing(self, number: int, tests: Sequence[str]) -> str | None:
        """Return the first test that fails with the mutant (a slow one: twice), and not without it."""
        left = list(tests)
        while left:
            self.switch.choose(number)
            done = self._collected.run(left, TIME_LIMIT_S + 5 * self.reach.seconds(left))
            if done.failed is None:
                return None
            if done.failed not in left:
                return done.failed  # it ended before the first test
            if self._is_sound(done.failed):
                self.switch.choose(number)
                is_sure = self.reach.seconds([done.failed]) < QUICK_S
                if is_sure or self._collected.run([done.failed], TIME_LIMIT_S).failed is not None:
                    return done.failed
            left = left[left.index(done.failed) + 1 :]
        return None

    def _is_sound(self, test: str) -> bool:
        if test not in self._sound:
            self.switch.choose(0)
            if self._collected.run([test], TIME_LIMIT_S).failed is not None:
                return False
            self._sound.add(test)
        return True

    def _failing_afresh(self, tests: Sequence[str]) -> str | None:
        """Return the first test that fails in a new interpreter; empty: it does not come to the tests."""
        running = Path(self._environment[hurried.VARIABLE])
        running.unlink(missing_ok=True)
        deselected = [f"--deselect={test}" for test in self.reach.failing]
        arguments = arguments_of([*tests, *deselected], self._marks, TEST_LIMIT_S)
        if self._runner.run(arguments, self._environment, TIME_LIMIT_S * 5) == 0:
            return None
        return running.read_text("utf-8") if running.exists() else ""

    def close(self) -> None:
        """End what was started."""
        self._collected.close()
        self._runner.close()
        self._temporary.cleanup()
