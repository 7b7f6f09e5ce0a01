"""Try mutants, and report those that no test notices: `python -m tests.mutants.run --help`."""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path

from tests import sampling
from tests.checkout_copy import ROOT, compile_module, copy_checkout, library_of
from tests.mutants.mutants import mutants
from tests.mutants.place import PACKAGES, Place
from tests.mutants.results import Key, Result, keep, kept, table
from tests.mutants.schemata import body_places, make_copy, skipped
from tests.mutants.trial import Trial
from tests.mutants.warm import Runner, arguments_of
from tests.plugins import hurried

#: Tests of a package, the nearest first. Other packages have the tests of the directory of the same name.
TESTS = {
    "pipeline/resolver/agents": ("tests/resolver/agents",),
    "pipeline/resolver/api": ("tests/resolver/api", "tests/resolver/agents"),
    "pipeline/resolver/apply": ("tests/resolver/apply", "tests/resolver/api", "tests/resolver/upkeep/test_cgroups.py"),
    "pipeline/resolver/daemon": ("tests/resolver/daemon", "tests/resolver/upkeep"),
    "pipeline/resolver/entries": ("tests/resolver/entries", "tests/resolver/api"),
    "pipeline/resolver/merge": ("tests/resolver/merge", "tests/resolver/daemon"),
    "pipeline/resolver/stream": ("tests/resolver/stream", "tests/bus/stream"),
    "pipeline/shm/layout": ("tests/shm",),
    "pipeline/shm/reader": ("tests/shm/reader", "tests/shm/check"),
    "pipeline/shm/writer": ("tests/shm/writer", "tests/shm/check", "tests/shm/reader"),
}
#: Names of modules that only declare.
_DECLARATIONS = {"declared.py", "entry_fields.py", "file_fields.py", "__init__.py"}
#: Tests of all mutants of bodies; each is tried with those that reach it. `--survivors` adds tests of what uses the
#: tables or the stream.
BODY_TESTS = ("tests/shm", "tests/resolver")
FURTHER_TESTS = (
    "tests/client", "tests/sources", "tests/bus/stream", "tests/timeline", "tests/export", "tests/supervisor",
    "tests/cli", "tests/why", "tests/account",
)  # fmt: skip
#: A mutant counts as noticed if one test, or all of them, take longer than this: they would not end.
TEST_LIMIT_S, TIME_LIMIT_S = 30, 600
_MARKS = "not live and not alone and not vm"
#: Marks and levels of the tests at each stage. What is named on the command line may need the kernel.
_STAGES = {"quick": (f"{_MARKS} and not slow", "quick"), "thorough": (_MARKS, ""), "named": ("not vm", "quick")}
#: Exit codes of pytest: all passed; it does not know what it should run; no test was selected.
_PASSED, _UNKNOWN, _NONE = 0, 4, 5


def places() -> list[Place]:
    """Return all mutants of the resolver and the tables. Generated modules and declarations have none."""
    found = []
    seen: Counter[tuple[str, str, str]] = Counter()
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py*")):
            if path.suffix in {".py", ".pyx"} and path.name not in _DECLARATIONS:
                module = str(path.relative_to(ROOT))
                for mutant in mutants(path.read_text("utf-8")):
                    equal = (module, mutant.before, mutant.after)
                    found.append(Place(module, mutant, seen[equal]))
                    seen[equal] += 1
    return found


class Copy:
    """A copy of the checkout, in which one module at a time has a fault."""

    def __init__(self, directory: Path) -> None:
        self.root = directory
        copy_checkout(directory)
        directory.chmod(0o755)  # some tests read it as another user
        self._writes = 0
        self._sound: set[tuple[Sequence[str], str]] = set()
        self._failing: list[str] = []
        self._runner = Runner(directory)

    def put(self, module: str, source: str) -> bool:
        """Replace a module, and compile it; return whether it compiles."""
        if not module.endswith(".pyx"):
            with suppress(SyntaxError):
                compile(source, module, "exec")
                self._write(module, source)
                return True
            return False
        self._write(module, source)
        return not compile_module(self.root, module)

    def put_back(self, module: str) -> None:
        """Replace a module by the original."""
        self._write(module, (ROOT / module).read_text("utf-8"))
        if module.endswith(".pyx"):
            shutil.copy2(ROOT / library_of(module), self.root / library_of(module))

    def _write(self, module: str, source: str) -> None:
        """Write a module, with a time of its own, so that no older bytecode is taken for it."""
        path = self.root / module
        path.write_text(source, "utf-8")
        self._writes += 1
        os.utime(path, (time.time(), int(time.time()) - 10_000_000 + self._writes))

    def is_sound(self, test: str, tests: Sequence[str], stage: str) -> bool:
        """Whether the tests pass without a fault. One that does not pass is left out from now on.

        Args:
            test: which failed; empty: unknown.
            tests: of which it is one.
            stage: of these tests.
        """
        if test and ((test,), stage) in self._sound:
            return True
        if test:
            code = self._run((test,), stage)
            if code in {_UNKNOWN, _NONE}:  # its parameters are chosen at random
                test = test.partition("[")[0]
                code = self._run((test,), stage)
            if code != _PASSED:
                self._failing.append(test)
                return False
            self._sound.add(((test,), stage))
            return True
        if (tests, stage) not in self._sound and self._run(tests, stage) == _PASSED:
            self._sound.add((tests, stage))
        return (tests, stage) in self._sound

    def noticing(self, tests: Sequence[str], stage: str) -> str | None:
        """Return the first test that fails; empty: it is unknown. None: all pass."""
        running = self.root / "running-test"
        running.unlink(missing_ok=True)
        if self._run(tests, stage) in {_PASSED, _NONE}:
            return None
        return running.read_text("utf-8") if running.exists() else ""

    def _run(self, tests: Sequence[str], stage: str) -> int:
        marks, level = _STAGES[stage]
        environment = {sampling.VARIABLE: level, hurried.VARIABLE: str(self.root / "running-test")}
        left_out = [f"--deselect={test}" for test in self._failing]
        arguments = arguments_of([*tests, *left_out], marks, TEST_LIMIT_S)
        return self._runner.run(arguments, environment, TIME_LIMIT_S)

    def close(self) -> None:
        """End what was started in the copy."""
        self._runner.close()


def tests_of(module: str) -> list[tuple[str, ...]]:
    """Return the tests of a module in steps, the nearest first: most mutants are noticed by these, in a few seconds."""
    package = str(Path(module).parent)
    nearest, *others = TESTS.get(package, (package.replace("pipeline", "tests", 1),))
    own = f"{nearest}/test_{Path(module).stem.lstrip('_')}.py"
    if (ROOT / own).exists():
        return [(own,), (nearest, *others, f"--ignore={own}")]
    return [(nearest,), tuple(others)] if others else [(nearest,)]


def attempt(copy: Copy, place: Place, steps: Sequence[tuple[str, ...]], stage: str) -> Result:
    """Return what becomes of a mutant.

    Args:
        copy: in which to try it.
        place: the mutant.
        steps: the tests to run, one step after another.
        stage: see `Result`.
    """
    changed = place.mutant.apply((ROOT / place.module).read_text("utf-8"))
    begin = middle = time.monotonic()

    def result(outcome: str, by: str = "") -> Result:
        times = round(middle - begin, 2), round(time.monotonic() - middle, 2)
        return Result(*place.key, place.mutant.line, outcome, by, stage, *times)

    try:
        if not copy.put(place.module, changed):
            return result("invalid")
        middle = time.monotonic()
        for step in steps:
            while (test := copy.noticing(step, stage)) is not None:
                copy.put_back(place.module)
                if copy.is_sound(test, step, stage):
                    return result("killed", test or " ".join(step))
                if not test:
                    return result("unsound", " ".join(step))
                copy.put(place.module, changed)  # that test is left out now
    finally:
        copy.put_back(place.module)
    return result("survived")


def all_places(options: argparse.Namespace) -> list[Place]:
    """Return all mutants of the kind."""
    return body_places() if options.kind == "bodies" else places()


def chosen(options: argparse.Namespace) -> list[Place]:
    """Return the mutants to try.

    Their order follows from the seed and from each mutant alone, so that a run continues where the last one ended
    although the code has changed.
    """

    def rank(place: Place) -> bytes:
        return hashlib.sha256(repr((options.seed, *place.key)).encode()).digest()

    found = [place for place in all_places(options) if re.search(options.only, str(place))]
    return sorted(found, key=rank)[: options.sample]


def left(options: argparse.Namespace, results: dict[Key, Result]) -> Iterator[Place]:
    """Yield the mutants of which nothing is known yet, or those that have survived so far."""
    for place in chosen(options):
        outcome = results[place.key].outcome if place.key in results else "unsound"
        if outcome in ({"survived", "unreached"} if options.survivors else {"unsound"}):
            yield place


def report(results: Iterable[Result], options: argparse.Namespace) -> None:
    """Print a table of the results, and the survivors."""
    results = list(results)
    for line in table(results, Counter(str(Path(place.module).parent) for place in all_places(options))):
        print(line)
    if options.kind == "bodies":
        for reason, count in sorted(skipped().items()):
            print(f"{count} functions have no mutant: {reason}.")
    for result in sorted(results, key=lambda result: (result.module, result.line)):
        if result.outcome != "killed":
            print(result)


def run(options: argparse.Namespace, results: dict[Key, Result]) -> None:
    """Try the mutants that are left, and add what becomes of them to the results and to the state."""
    stage = "named" if options.tests else "thorough" if options.thorough else "quick"
    end = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory(prefix="procline-mutants-") as directory:
        if options.kind == "bodies":
            tried = tried_bodies(options, results, Path(options.copy or directory), stage, end)
        else:
            tried = tried_lines(options, results, Path(directory), stage)
        with closing(tried):
            for result in tried:
                results[result.key] = result
                print(f"{result.compile_s:.0f} + {result.tests_s:.0f} s: {result}", flush=True)
                if options.state:
                    keep(options.state, result)
                if time.monotonic() > end:
                    break


def tried_lines(
    options: argparse.Namespace, results: dict[Key, Result], directory: Path, stage: str
) -> Generator[Result]:
    """Try the mutants of lines that are left, each compiled by itself; yield what becomes of them."""
    with closing(Copy(directory)) as copy:
        for place in left(options, results):
            steps = [tuple(options.tests)] if options.tests else tests_of(place.module)
            yield attempt(copy, place, steps, stage)


def tried_bodies(
    options: argparse.Namespace, results: dict[Key, Result], directory: Path, stage: str, end: float
) -> Generator[Result]:
    """Try the mutants of bodies that are left, which are compiled together; yield what becomes of them."""
    directory.mkdir(parents=True, exist_ok=True)
    make_copy(directory)
    numbers = {place.key: number for number, place in enumerate(body_places(), 1)}
    tests = options.tests or (BODY_TESTS + FURTHER_TESTS if options.survivors else BODY_TESTS)
    with closing(Trial(directory, tests, *_STAGES[stage], options.seed)) as trial:
        if trial.measure(end):
            for place in left(options, results):
                nearest = [each for step in tests_of(place.module) for each in step if not each.startswith("-")]
                yield trial.attempt(place, numbers[place.key], nearest, stage, options.budget)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--kind", choices=("lines", "bodies"), default="lines",
        help="faults in one line (default), or bodies of functions that are replaced by a return",
    )  # fmt: skip
    parser.add_argument(
        "--sample", type=int, metavar="N", help="number of mutants to try (default: 100; with --kind bodies, all)"
    )
    parser.add_argument(
        "--copy", type=Path, metavar="DIR", help="with --kind bodies: keep the compiled copy there for the next run"
    )
    parser.add_argument(
        "--budget", type=float, default=10, metavar="S",
        help="with --kind bodies: maximum seconds of tests for each mutant (default: 10)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="the same seed chooses the same mutants")
    parser.add_argument("--only", default="", metavar="REGEX", help="select from `pipeline/x.py:10: before -> after`")
    parser.add_argument("--minutes", type=float, default=1e9, metavar="M", help="begin no mutant after this time")
    parser.add_argument("--state", type=Path, metavar="FILE", help="keep each result there, and continue from there")
    parser.add_argument("--survivors", action="store_true", help="try only mutants that survived according to --state")
    parser.add_argument("--thorough", action="store_true", help="run slow tests too, and all examples of each property")
    parser.add_argument(
        "--tests", nargs="+", default=(), metavar="TEST", help="run these tests, also such that need the kernel"
    )
    parser.add_argument("--list", action="store_true", help="list the mutants and run nothing")
    parser.add_argument(
        "--report", type=Path, nargs="+", metavar="FILE", help="only print what became of those in these states"
    )
    options = parser.parse_args()
    if options.sample is None and options.kind == "lines":
        options.sample = 100
    # A shell ignores SIGINT for jobs in the background. The copy is removed after either signal.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    if options.list:
        for place in chosen(options):
            print(place)
        return
    results: dict[Key, Result] = {}
    for path in options.report or filter(None, [options.state]):
        results |= kept(path)
    if not options.report:
        run(options, results)
    report(results.values(), options)


if __name__ == "__main__":
    main()
