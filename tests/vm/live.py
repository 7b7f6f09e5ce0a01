"""The live tests under another kernel, in parts: `tests/vm/live --suite bullseye [PATHS]`.

A guest runs the tests of some modules with virtual time (README.md). Results are kept at once, in a file below
.cache/vm/live; the next guest continues with the tests that have none. When all tests of a module have a result,
`--table` adds the module to live.json. It makes the table of docs/kernels.md from that file.

Exit code 0: each test that ran has passed. 1: one failed. Others are those of guest.py.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import debian
import guest
from results import PREFIX

ROOT = guest.ROOT
RESULTS = guest.CACHE / "live"
#: The BPF programs that a guest can load, without those for other machines.
OBJECTS = sorted(
    path for path in (ROOT / "pipeline" / "bpf" / "programs").glob("*.bpf.o") if ".aarch64." not in path.name
)
#: What ran of each module under each kernel; see `summary`.
KEPT = Path(__file__).with_name("live.json")
PAGE = ROOT / "docs" / "kernels.md"
BEGIN, END = "<!-- written by tests/vm/live --table -->", "<!-- end of the live tests -->"

#: The modules that load programs into the kernel, and what they need of it.
PATHS = ("tests/bpf", "tests/live", "tests/sources", "tests/attacks", "tests/faults", "tests/supervisor")
SELECTED = "live or vm"
#: Seconds in the guest for one test.
TEST_S = 3000
#: A guest that was ended this many times in the same test does not run it again.
TRIES = 2
#: Longest reason in live.json of a test that did not pass, and in the table; whole reasons are in the results.
WHY_MAX = 140

#: What a guest does not have, or the emulator cannot do, with the reason. A module, or a test.
LEFT_OUT: dict[str, str] = {
    "tests/live/test_documents.py::test_every_block_runs": "some hundred commands and programs of the documents, each "
    "with an interpreter of its own. It would take hours, and what they do with the kernel is in other tests, too",
}


def parsed() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="tests/vm/live", description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--suite", default="", help="as of tests/vm/run")
    parser.add_argument("--flavour", default="cloud", choices=debian.FLAVOURS, help="as of tests/vm/run")
    parser.add_argument("--minutes", type=float, default=30, help="for all guests together; default: %(default)g")
    parser.add_argument(
        "--part", type=float, default=10, metavar="MINUTES",
        help="after these a guest ends with the test that it runs; default: %(default)g",
    )  # fmt: skip
    parser.add_argument(
        "--test", type=float, default=20, metavar="MINUTES",
        help="a test that takes longer than these has no result; default: %(default)g",
    )  # fmt: skip
    parser.add_argument(
        "--modules", type=int, default=6, metavar="N",
        help="a guest imports no more than these; default: %(default)d",
    )  # fmt: skip
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--again", action="store_true", help="also those of PATHS that have a result")
    which.add_argument("--failed", action="store_true", help="also those that did not pass")
    which.add_argument(
        "--stale", action="store_true", help="only modules with results of earlier BPF programs, oldest result first"
    )
    parser.add_argument("--show", action="store_true", help="print the results, and run nothing")
    parser.add_argument(
        "--table", action="store_true", help="write live.json and the table of docs/kernels.md, and run nothing"
    )
    parser.add_argument("paths", nargs="*", help="modules, directories or tests; default: all that need the kernel")
    return parser.parse_args()


def main() -> int:
    """Run the tests that have no result yet, guest after guest."""
    options = parsed()
    if options.table:
        write_table()
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(guest.NO_CODE))
    try:
        guest.require()
        directory = debian.kernel(guest.CACHE, options.flavour, *debian.parse_suite(options.suite))
    except debian.NotPossibleError as error:
        print(f"vm: NO GUEST: {error}", file=sys.stderr)
        return guest.NOT_POSSIBLE
    kernel = directory.name.removeprefix("linux-image-")
    results = Results(RESULTS / f"{kernel}.json")
    if options.show:
        results.show()
        return int(results.has_failed())
    tests = collect(options.paths or PATHS)
    # Each guest would compile these again, and its processes of other users with each start.
    subprocess.run([python(), "-m", "compileall", "-q", "pipeline", "tests"], cwd=ROOT, check=False)
    wanted = set(tests)
    if options.stale:
        tests = stale(by_module(tests), results, kept().get(kernel, {}))
    elif options.again or options.failed:
        results.forget(lambda test, row: test in wanted and (options.again or not is_good(row)))
    else:
        ended = kept().get(kernel, {})
        tests = [
            test for module, mine in by_module(tests).items() if not is_whole(ended.get(module), mine) for test in mine
        ]
    if code := run(tests, results, directory, options):
        return code
    results.show()
    return int(results.has_failed())


def run(tests: Sequence[str], results: Results, directory: Path, options: argparse.Namespace) -> int:
    """Start guests until each test has a result or the time is over; not 0: in the last guest no test began."""
    end = time.monotonic() + options.minutes * 60
    while left := [test for test in tests if not results.is_done(test, is_stale_done=not options.stale)]:
        now = time.monotonic()
        if now >= end:
            break
        print(f"vm: {len(left)} of {len(tests)} tests have no result", flush=True)
        part = Part(results, min(end, now + options.part * 60), options.test * 60)
        code = guest.run(
            directory,
            command(results, first(left, options.modules)),
            timeout_s=24 * 3600,
            has_virtual_time=True,
            watch=part.watch,
        )
        if not part.has_begun:
            print("vm: no test began", flush=True)
            return code or 1
    return 0


def collect(paths: Sequence[str]) -> list[str]:
    """Return the selected tests of these paths, without those that are left out."""
    done = subprocess.run(
        [python(), "-m", "pytest", "-p", "no:cacheprovider", "-q", "--collect-only", "-m", SELECTED, *paths],
        cwd=ROOT, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = [line for line in done.stdout.splitlines() if "::" in line and line.startswith("tests/")]
    if not found:
        sys.exit(f"tests/vm/live: no tests: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    places = {path: place for place, path in reversed([*enumerate(paths)])}

    def place(test: str) -> int:
        return min(number for path, number in places.items() if test.startswith(path))

    # In the order of the paths, which pytest sorts.
    return sorted((test for test in found if not left_out(test)), key=place)


def programs() -> str:
    """Return a short digest of the present BPF programs. Results have that of the programs that they ran with."""
    digest = hashlib.sha256()
    for path in OBJECTS:
        digest.update(f"{path.name} {path.stat().st_size}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def stale(modules: dict[str, list[str]], results: Results, ended: dict[str, dict[str, Any]]) -> list[str]:
    """Return the tests of the modules with results of earlier programs, those with the oldest result first.

    `ended` has the summaries of live.json: results of other checkouts are only there.
    """
    dates = {}
    for module, tests in modules.items():
        found = [each for each in (ended.get(module), summary(results.done(tests))) if each]
        present = [each for each in found if not is_earlier(each, results.programs)]
        if len(present) < len(found) and not any(is_whole(each, tests) for each in present):
            dates[module] = found[-1]["date"]
    return [test for module in sorted(dates, key=dates.__getitem__) for test in modules[module]]


def first(tests: list[str], modules: int) -> list[str]:
    """Return the tests of the first modules."""
    chosen = list(dict.fromkeys(test.partition("::")[0] for test in tests))[:modules]
    return [test for test in tests if test.partition("::")[0] in chosen]


def left_out(test: str) -> str:
    """Return the reason why a test is left out, "" if it is not."""
    return LEFT_OUT.get(test) or LEFT_OUT.get(test.partition("[")[0]) or LEFT_OUT.get(test.partition("::")[0]) or ""


def python() -> str:
    return os.environ.get("PROCLINE_VM_PYTHON") or str(ROOT / ".venv" / "bin" / "python")


def command(results: Results, tests: list[str]) -> list[str]:
    """Return the command that a guest must run. Names of tests can be too many for a command line."""
    path = results.list_path
    path.write_text("".join(f"{test}\n" for test in tests))
    return [
        python(), "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-p", "tests.vm.results",
        "-q", "--tb=short", "--timeout", str(TEST_S), "-n", "0", "--tests", str(path),
        *dict.fromkeys(test.partition("::")[0] for test in tests),
    ]  # fmt: skip


def is_good(row: dict[str, Any]) -> bool:
    return row["outcome"] in ("passed", "skipped")


class Part:
    """One guest: it keeps its results and decides when it ends."""

    def __init__(self, results: Results, end: float, test_s: float) -> None:
        self._results, self._end, self._test_s = results, end, test_s
        self._rest = b""
        self._test, self._began, self._cpu_before = "", time.monotonic(), 0.0
        self.has_begun = False

    def watch(self, piece: bytes, cpu_s: float) -> bool:
        *lines, self._rest = (self._rest + piece).split(b"\n")
        now = time.monotonic()
        has_ended = False
        for line in lines:
            if line.startswith(PREFIX.encode()):
                row = json.loads(line.removeprefix(PREFIX.encode()))
                test = row.pop("test")
                self.has_begun = True
                if row["outcome"] == "started":
                    self._test, self._began, self._cpu_before = test, now, cpu_s
                    has_ended = now > self._end
                    if has_ended:
                        break
                    self._results.begun(test)
                else:
                    self._results.add(test, {**row, **(self._took(now, cpu_s) if test == self._test else {})})
                    self._test = ""
        if not has_ended and self._test and now > self._began + self._test_s:
            self._results.add(self._test, {"outcome": "unfinished", **self._took(now, cpu_s)})
            return True
        return has_ended

    def _took(self, now: float, cpu_s: float) -> dict[str, float]:
        """Seconds, and CPU seconds, of this machine."""
        return {"host_seconds": round(now - self._began), "host_cpu_seconds": round(cpu_s - self._cpu_before, 1)}


class Results:
    """Results of the tests under one kernel, in a file."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self.programs = programs()
        #: For the names of the tests of a guest. Guests of other kernels may run at the same time.
        self.list_path = path.with_suffix(".tests")
        self._rows: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}

    def add(self, test: str, row: dict[str, Any]) -> None:
        self._rows[test] = {**row, "date": datetime.date.today().isoformat(), "programs": self.programs}
        self._write()

    def begun(self, test: str) -> None:
        """A guest that hangs in a test leaves no other row of it."""
        before = self._rows.get(test, {})
        tries = 0 if is_earlier(before, self.programs) else before.get("tries", 0)
        self.add(test, {"outcome": "begun", "tries": tries + 1})

    def is_done(self, test: str, *, is_stale_done: bool = True) -> bool:
        """Return whether a test need not run again; `is_stale_done`: a result of earlier programs is enough."""
        row = self._rows.get(test)
        if row is None or (not is_stale_done and is_earlier(row, self.programs)):
            return False
        return bool(row["outcome"] != "begun" or row["tries"] >= TRIES)

    def forget(self, is_chosen: Any) -> None:
        self._rows = {test: row for test, row in self._rows.items() if not is_chosen(test, row)}
        self._write()

    def done(self, tests: list[str]) -> dict[str, dict[str, Any]]:
        """Return the rows of those of these tests that need not run again."""
        return {test: row for test, row in self._rows.items() if test in tests and self.is_done(test)}

    def has_failed(self) -> bool:
        return not all(map(is_good, self._rows.values()))

    def show(self) -> None:
        """Print what did not pass, and the number of each outcome for each module."""
        for test, row in sorted(self._rows.items()):
            if row["outcome"] != "passed":
                print(f"{row['outcome']}: {test}: {row.get('why', '')}")
        for module, tests in by_module(sorted(self._rows)).items():
            print(f"{module}: {cell(summary({test: self._rows[test] for test in tests}))}")

    def _write(self) -> None:
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps(self._rows, indent=1) + "\n")
        new.replace(self._path)


# -- the table --------------------------------------------------------------------------------------------------------


def by_module(tests: Sequence[str]) -> dict[str, list[str]]:
    modules: dict[str, list[str]] = {}
    for test in tests:
        modules.setdefault(test.partition("::")[0], []).append(test)
    return modules


def summary(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return what became of a module's tests.

    It has the number of those that passed, the numbers of those that were skipped by reason, what happened to each
    other one by its name, the date of the first result, and the BPF programs if all ran with the same.
    """
    date = min((row["date"] for row in rows.values()), default="")
    used = {row.get("programs", "") for row in rows.values()}
    found: dict[str, Any] = {
        "passed": 0, "skipped": {}, "others": {}, "date": date, "programs": used.pop() if len(used) == 1 else "",
    }  # fmt: skip
    for test, row in rows.items():
        why = row.get("why", "")
        match row["outcome"]:
            case "passed":
                found["passed"] += 1
            case "skipped":
                found["skipped"][why] = found["skipped"].get(why, 0) + 1
            case outcome:
                found["others"][test] = textwrap.shorten(f"{outcome}: {why}", WHY_MAX, placeholder=" …")
    return {name: value for name, value in found.items() if value}


def counts_of(found: dict[str, Any]) -> dict[str, int]:
    """Return the number of tests for each outcome of a summary."""
    counts = {"passed": found.get("passed", 0), "skipped": sum(found.get("skipped", {}).values())}
    for what in found.get("others", {}).values():
        outcome = what.partition(":")[0]
        counts[outcome] = counts.get(outcome, 0) + 1
    return {name: count for name, count in counts.items() if count}


def is_whole(found: dict[str, Any] | None, tests: Sequence[str]) -> bool:
    """Return whether a summary has as many tests as the module has now."""
    return found is not None and sum(counts_of(found).values()) == len(tests)


def is_earlier(found: dict[str, Any], present: str) -> bool:
    """Return whether a result or a summary is of other programs. The oldest do not name theirs."""
    return bool(found.get("programs", "") != present)


def kept() -> dict[str, dict[str, Any]]:
    """Return the summaries by kernel and module."""
    found: dict[str, dict[str, Any]] = json.loads(KEPT.read_text())
    return found


def write_table() -> None:
    """Keep what ran whole under each kernel, and write it into the page."""
    modules = by_module(collect(PATHS))
    kernels = kept()
    for path in sorted(RESULTS.glob("*.json")):
        mine, results = kernels.setdefault(path.stem, {}), Results(path)
        for module, tests in modules.items():
            rows = results.done(tests)
            if len(rows) == len(tests):
                mine[module] = summary(rows)
    KEPT.write_text(json.dumps(kernels, indent=1, sort_keys=True) + "\n")
    text = PAGE.read_text()
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    PAGE.write_text(f"{head}{BEGIN}\n\n{table(kernels, modules)}\n{END}{tail}")


def table(kernels: dict[str, dict[str, Any]], modules: dict[str, list[str]]) -> str:
    """Return Markdown: a row for each module that has run, the number of those that have not, and what did not pass."""
    in_order = ordered(kernels)
    lines = [f"| tests | {' | '.join(in_order)} |", f"| --- {'| --- ' * len(in_order)}|"]
    without = 0
    for module in modules:
        if any(module in mine for mine in in_order.values()):
            lines.append(f"| `{module}` | {' | '.join(cell(mine.get(module, {})) for mine in in_order.values())} |")
        else:
            without += 1
    notes = [
        f"- {kernel}, `{what.removeprefix('tests/')}`, {said}"
        for kernel, mine in in_order.items()
        for module, found in mine.items()
        for what, said in said_of(module, found)
    ]
    lines += ["", *when(in_order)]
    if notes:
        lines += ["", "What did not pass:", "", *dict.fromkeys(notes)]
    if LEFT_OUT:
        lines += ["", "Left out:", "", *(f"- `{test}`: {reason}" for test, reason in LEFT_OUT.items())]
    if without:
        lines += ["", f"Not run yet: {without} other modules of {len(modules)}."]
    return "\n".join(lines) + "\n"


def ordered(kernels: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the kernels by version, and those of the same version by name."""

    def version(item: tuple[str, dict[str, Any]]) -> tuple[list[int], str]:
        return [int(number) for number in re.findall(r"\d+", item[0])[:3]], item[0]

    return dict(sorted(kernels.items(), key=version))


def when(kernels: dict[str, dict[str, Any]]) -> list[str]:
    """Return Markdown: when the modules of each kernel ran, and how many with other programs than the present ones."""
    return [
        "When they ran (of each module, the date of its oldest result), and with which BPF programs:",
        "",
        *(f"- {kernel}: {dates_of(mine)}{earlier_of(mine)}" for kernel, mine in kernels.items()),
    ]


def earlier_of(mine: dict[str, Any]) -> str:
    """Return how many modules of a kernel ran with other programs than the present ones."""
    if not mine:
        return ""
    present = programs()
    count = sum(is_earlier(found, present) for found in mine.values())
    return f", {count} of {len(mine)} modules with earlier programs" if count else ", all with the present programs"


def dates_of(mine: dict[str, Any]) -> str:
    """Return the first and the last date on which a module of a kernel ran."""
    dates = [found["date"] for found in mine.values()]
    return " to ".join(dict.fromkeys((min(dates), max(dates)))) if dates else "-"


def cell(found: dict[str, Any]) -> str:
    """Return the numbers of a module under a kernel, as the table shows them."""
    return ", ".join(f"{count} {outcome}" for outcome, count in counts_of(found).items()) or "-"


def said_of(module: str, found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what did not pass: the module or test, and what happened."""
    for why, count in found.get("skipped", {}).items():
        # What the kernel lacks is in other tables of the page.
        short = textwrap.shorten(why.partition(" (this kernel has no")[0], WHY_MAX, placeholder=" …")
        yield module, f"skipped: {short}" + (f" ({count} tests)" if count > 1 else "")
    yield from found.get("others", {}).items()


if __name__ == "__main__":
    sys.exit(main())
