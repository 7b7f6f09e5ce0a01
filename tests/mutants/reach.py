"""Which tests reach which functions of an instrumented copy, and how long each test takes."""

from __future__ import annotations

import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from math import inf
from pathlib import Path

from tests.mutants.collected import Collected
from tests.mutants.switch import Switch


class Reach:
    """A file with a line for each test that was run alone without a mutant. Runs at the same time can add to it.

    Args:
        directory: the instrumented copy.
        tests: what to use of the file; a test whose file has changed since is unknown.
        seed: of the order in which unknown tests run, so that two runs at the same time begin with different ones.

    Attributes:
        unknown: tests that must run first.
        failing: tests that fail without a mutant, or do not end in time.
    """

    def __init__(self, directory: Path, tests: Sequence[str], seed: int) -> None:
        self._directory = directory
        self._path = directory / "reach.jsonl"
        self._digests: dict[str, str] = {}
        self._seconds: dict[str, float] = {}
        self._by_number: defaultdict[int, list[str]] = defaultdict(list)
        self.failing: list[str] = []
        self.unknown = sorted(set(tests))
        random.Random(seed).shuffle(self.unknown)
        self._offset = 0
        self._read()

    def _read(self) -> None:
        """Take over what was added to the file."""
        if not self._path.exists():
            return
        unknown = set(self.unknown)
        with self._path.open(encoding="utf-8") as file:
            file.seek(self._offset)
            while (line := file.readline()).endswith("\n"):
                self._offset = file.tell()
                test, digest, seconds, numbers = json.loads(line)
                if test in unknown and digest == self._digest(test):
                    self._note(test, seconds, numbers)
                    unknown.remove(test)
        self.unknown = [test for test in self.unknown if test in unknown]

    def _digest(self, test: str) -> str:
        file = test.partition("::")[0]
        if file not in self._digests:
            self._digests[file] = hashlib.sha256((self._directory / file).read_bytes()).hexdigest()[:16]
        return self._digests[file]

    def _note(self, test: str, seconds: float, numbers: Iterable[int] | None) -> None:
        if numbers is None:
            self.failing.append(test)
            return
        self._seconds[test] = seconds
        for number in numbers:
            self._by_number[number].append(test)

    def measure(self, collected: Collected, switch: Switch, limit_s: float) -> Iterator[str]:
        """Run the unknown tests, one after another; yield each when it is known."""
        while self.unknown:
            test = self.unknown[0]
            switch.choose(0)
            done = collected.run([test], limit_s)
            numbers = None if done.failed is not None else sorted(switch.reached())
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([test, self._digest(test), round(done.seconds, 4), numbers]) + "\n")
            self._read()
            yield test

    def tests(self, number: int, nearest: Sequence[str], budget_s: float = inf) -> list[str]:
        """Return the tests that reach a mutant: the nearest files and directories first, and the quick tests first.

        Tests of one file stay together, because they share fixtures.

        Args:
            number: of the mutant.
            nearest: files and directories, the nearest first.
            budget_s: how long they may take together, without a mutant. The quick ones of each file are taken; of
                nearer files, more of them.
        """
        files: defaultdict[str, list[str]] = defaultdict(list)
        for test in sorted(self._by_number[number], key=self._seconds.__getitem__):
            files[test.partition("::")[0]].append(test)

        def near(file: str) -> int:
            return next((at for at, each in enumerate(nearest) if file.startswith(each)), len(nearest))

        order = sorted(files, key=lambda file: (near(file), self.seconds(files[file])))
        found = [test for file in order for test in files[file]]
        until: dict[str, float] = {}
        for file, tests in files.items():
            taken = 0.0
            for test in tests:
                taken += self._seconds[test]
                until[test] = taken * 4 ** near(file)
        kept: set[str] = set()
        for test in sorted(found, key=until.__getitem__):
            budget_s -= self._seconds[test]
            if kept and budget_s < 0:
                break
            kept.add(test)
        return [test for test in found if test in kept]

    def seconds(self, tests: Iterable[str]) -> float:
        """Return how long these tests take."""
        return sum(self._seconds[test] for test in tests)
