"""The results of mutants: kept in a file, so that a later run continues, and summed up by package."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from math import sqrt
from pathlib import Path
from typing import NamedTuple

#: Two-sided 95 % of the normal distribution.
_Z = 1.959964


class Key(NamedTuple):
    """The identity of a mutant, which stays the same if lines before it change.

    Attributes:
        module: its path relative to ROOT.
        before, after: the changed line.
        number: of the mutants of the module with these lines, from 0.
    """

    module: str
    before: str
    after: str
    number: int


@dataclass(frozen=True)
class Result:
    """The result of one mutant.

    Attributes:
        module, before, after, number: see `Key`.
        line: number of the changed line at that time.
        outcome: "killed", "survived", "unreached" (no test runs it), "invalid" (it does not compile) or "unsound" (its
            tests fail without it).
        by: the test that noticed it, or the name of all tests that ran; empty: none did.
        stage: the tests that ran last: "quick", "thorough" or "named".
        compile_s, tests_s: how long it took.
    """

    module: str
    before: str
    after: str
    number: int
    line: int
    outcome: str
    by: str = ""
    stage: str = "quick"
    compile_s: float = 0.0
    tests_s: float = 0.0

    @property
    def key(self) -> Key:
        """Return what identifies the mutant."""
        return Key(self.module, self.before, self.after, self.number)

    def __str__(self) -> str:
        by = f" by {self.by}" if self.by else ""
        return f"{self.outcome}{by}: {self.module}:{self.line}: {self.before.strip()}  ->  {self.after.strip()}"


def keep(path: Path, result: Result) -> None:
    """Append a result to a file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(result)) + "\n")


def kept(path: Path) -> dict[Key, Result]:
    """Return the last result of each mutant in a file, without a line that was cut short; no file: none."""
    results: dict[Key, Result] = {}
    if path.exists():
        text = path.read_text("utf-8")
        if not text.endswith("\n"):  # a killed run; what is appended next must begin a line
            text = text[: text.rfind("\n") + 1]
            path.write_text(text, "utf-8")
        for line in text.splitlines():
            result = Result(**json.loads(line))
            results[result.key] = result
    return results


def wilson(hits: int, tried: int) -> tuple[float, float]:
    """Return the limits between which the true share is with 95 % confidence (Wilson's score interval)."""
    if not tried:
        return 0.0, 1.0
    share, weight = hits / tried, _Z**2 / tried
    middle = (share + weight / 2) / (1 + weight)
    width = _Z / (1 + weight) * sqrt(share * (1 - share) / tried + weight / (4 * tried))
    return max(0.0, middle - width), min(1.0, middle + width)


def table(results: Iterable[Result], mutants: Counter[str]) -> Iterator[str]:
    """Yield a Markdown table of the results by package.

    Args:
        results: of the mutants that were tried.
        mutants: how many there are in each package, also of packages of which none was tried.
    """
    tried: Counter[str] = Counter()
    noticed: defaultdict[str, Counter[str]] = defaultdict(Counter)
    without: Counter[str] = Counter()
    for result in results:
        if result.outcome not in {"killed", "survived", "unreached"}:
            without[result.outcome] += 1
            continue
        for package in (str(Path(result.module).parent), "all"):
            tried[package] += 1
            if result.outcome == "killed":
                noticed[package]["at once" if result.stage == "quick" else "later"] += 1
    yield "| package | mutants | tried | noticed at once | by more tests | score, and its 95 % interval |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for package in [*sorted(mutants), "all"]:
        count = mutants.total() if package == "all" else mutants[package]
        hits = noticed[package].total()
        score = "-"
        if tried[package]:
            low, high = wilson(hits, tried[package])
            score = f"{hits / tried[package]:.0%} ({low:.0%} to {high:.0%})"
        at_once, later = noticed[package]["at once"], noticed[package]["later"]
        yield f"| {package} | {count:,} | {tried[package]} | {at_once} | {later} | {score} |"
    yield ""
    yield f"{without['invalid']} more do not compile. The tests of {without['unsound']} more also fail without them."
