"""Try mutants, and report those that no test notices: `python -m tests.mutants.run --help`."""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.checkout_copy import ROOT, compile_module, copy_checkout, library_of
from tests.mutants.mutants import Mutant, mutants

#: The resolver and the shared tables.
PACKAGES = ("pipeline/resolver", "pipeline/shm")
#: Tests of a package, the nearest first. Of other packages: the folder of the same name.
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
#: A mutant that takes longer than this counts as noticed: the tests would not end.
TIME_LIMIT_S = 600
_MARKS = "not live and not alone and not vm"


@dataclass(frozen=True)
class Place:
    """A mutant and its module, relative to ROOT."""

    module: str
    mutant: Mutant

    def __str__(self) -> str:
        before, after = self.mutant.before.strip(), self.mutant.after.strip()
        return f"{self.module}:{self.mutant.line}: {before}  ->  {after}"


def places() -> list[Place]:
    """Return all mutants of the resolver and the tables. Generated modules and declarations have none."""
    found = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py*")):
            if path.suffix in {".py", ".pyx"} and path.name not in {"declared.py", "entry_fields.py", "__init__.py"}:
                module = str(path.relative_to(ROOT))
                found += [Place(module, mutant) for mutant in mutants(path.read_text("utf-8"))]
    return found


class Copy:
    """A copy of the checkout, in which one module at a time has a fault."""

    def __init__(self, directory: Path) -> None:
        self.root = directory
        copy_checkout(directory)
        self._writes = 0
        self._is_sound: dict[Sequence[str], bool] = {}

    def write(self, module: str, source: str) -> None:
        """Write a module, with a time of its own, so that no older bytecode is taken for it."""
        path = self.root / module
        path.write_text(source, "utf-8")
        self._writes += 1
        os.utime(path, (time.time(), int(time.time()) - 10_000_000 + self._writes))

    def is_sound(self, tests: Sequence[str]) -> bool:
        """Whether the tests pass without a fault. Otherwise they would notice everything."""
        if not self._is_sound.get(tests):  # they may have failed because the machine was busy
            self._is_sound[tests] = self.test(tests, "quick")
        return self._is_sound[tests]

    def test(self, tests: Sequence[str], level: str) -> bool:
        """Return whether the tests pass."""
        environment = dict(os.environ, OPENBLAS_NUM_THREADS="1", PROCLINE_TEST_LEVEL=level)
        marks = f"{_MARKS} and not slow" if level == "quick" else _MARKS
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider", "-m", marks, *tests]
        process = subprocess.Popen(
            command, cwd=self.root, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        try:
            return process.wait(TIME_LIMIT_S) == 0
        except subprocess.TimeoutExpired:
            return False
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # also what a killed test has started
            process.wait()


def tests_of(module: str) -> tuple[str, ...]:
    """Return the tests of a module, the nearest first."""
    package = str(Path(module).parent)
    tests = TESTS.get(package, (package.replace("pipeline", "tests", 1),))
    own = f"{tests[0]}/test_{Path(module).stem.lstrip('_')}.py"
    return (own, *tests) if (ROOT / own).exists() else tests


def attempt(copy: Copy, place: Place, *, is_thorough: bool = False) -> str:
    """Return "killed", "survived", "invalid" (it does not compile) or "unsound" (tests fail without it).

    Args:
        copy: in which to try it.
        place: the mutant.
        is_thorough: a survivor must also survive the slow tests, with the examples of CI.
    """
    source = (ROOT / place.module).read_text("utf-8")
    changed = place.mutant.apply(source)
    tests = tests_of(place.module)
    is_compiled = place.module.endswith(".pyx")
    if not is_compiled:
        try:
            compile(changed, place.module, "exec")
        except SyntaxError:
            return "invalid"
    # Most mutants are noticed by the nearest tests, in a few seconds.
    steps = [((test,), "quick") for test in tests] + ([(tests, "")] if is_thorough else [])
    copy.write(place.module, changed)
    noticed: tuple[str, ...] = ()
    try:
        if is_compiled and compile_module(copy.root, place.module):
            return "invalid"
        for some, level in steps:
            if not copy.test(some, level):
                noticed = some
                break
    finally:
        copy.write(place.module, source)
        if is_compiled:
            library = library_of(place.module)
            shutil.copy2(ROOT / library, copy.root / library)
    if not noticed:
        return "survived"
    return "killed" if copy.is_sound(noticed) else "unsound"


def chosen(options: argparse.Namespace) -> Iterator[Place]:
    """Yield the mutants to try, in an order that follows from the seed."""
    found = [place for place in places() if re.search(options.only, str(place))]
    random.Random(options.seed).shuffle(found)
    yield from found[: options.sample]


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, default=100, metavar="N", help="how many to try (default: 100)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="the same seed chooses the same mutants")
    parser.add_argument("--only", default="", metavar="REGEX", help="of the place: pipeline/x.py:10: before -> after")
    parser.add_argument("--thorough", action="store_true", help="slow tests, and the examples of CI, for survivors too")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no mutant after this time")
    parser.add_argument("--list", action="store_true", help="only list them")
    parser.add_argument("--json", type=Path, metavar="FILE", help="append each result to a file")
    options = parser.parse_args()
    if options.list:
        for place in chosen(options):
            print(place)
        return
    results: Counter[str] = Counter()
    end = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory(prefix="procline-mutants-") as directory:
        copy = Copy(Path(directory))
        for place in chosen(options):
            if time.monotonic() > end:
                break
            begin = time.monotonic()
            result = attempt(copy, place, is_thorough=options.thorough)
            results[result] += 1
            print(f"{result} in {time.monotonic() - begin:.0f} s: {place}", flush=True)
            if options.json:
                with options.json.open("a") as file:
                    file.write(json.dumps({"result": result, "place": str(place)}) + "\n")
    tried = results["killed"] + results["survived"]
    print(f"{results['killed']} of {tried} mutants were noticed, {results['invalid']} do not compile")
    if results["unsound"]:
        print(f"of {results['unsound']} nothing is known: their tests also fail without them")


if __name__ == "__main__":
    main()
