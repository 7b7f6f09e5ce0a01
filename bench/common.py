"""What the benches share: options, facts about the machine, distributions, and one form of report.

A bench makes a `Report` and gives it to `finish`, which prints tables, or with --json one object:

    bench     name of the script
    question  first line of its docstring
    machine   processor, cores, kernel, versions, and how busy others kept the machine when the bench began
    rows      list of objects, one for each line of the table
    targets   list of {name, value, limit, unit, floor, is_reached, remark}
    notes     list of sentences: what is missing, what to know about these figures
    curves    list of {title, x, y, x_label, y_label}; y is {series: values}

What needs a running daemon is in live.py.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

#: Cores that others keep busy above which a figure is marked as taken on a shared machine.
QUIET_BUSY_CORES = 0.15
_VERSIONS = ("numpy", "pyzmq", "msgpack", "psutil")


@dataclass(frozen=True, slots=True)
class Target:
    """A figure that is owed: `value` against `limit`, and whether more or less is better.

    `floor` is what the machine took in the same run for the part that no design can do without, if that was measured.
    """

    name: str
    value: float
    limit: float
    unit: str
    is_upper_bound: bool = True
    floor: float | None = None

    @property
    def is_reached(self) -> bool:
        """Whether the value is on the right side of the limit."""
        return self.value <= self.limit if self.is_upper_bound else self.value >= self.limit

    @property
    def remark(self) -> str:
        """What to know beside the verdict: the floor, where the target was missed."""
        if self.is_reached or self.floor is None:
            return ""
        return f"; the machine alone takes {number(self.floor)} {self.unit}"


@dataclass(slots=True)
class Report:
    """What a bench found; see the module's docstring for the JSON form."""

    bench: str
    question: str
    machine: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    curves: list[dict[str, Any]] = field(default_factory=list)

    def target(
        self,
        name: str,
        value: float,
        limit: float,
        unit: str,
        *,
        is_upper_bound: bool = True,
        floor: float | None = None,
    ) -> None:
        """Add a target; a value that is None or not a number is left out by the caller."""
        self.targets.append(Target(name, value, limit, unit, is_upper_bound, floor))

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON shows it."""
        targets = [asdict(each) | {"is_reached": each.is_reached, "remark": each.remark} for each in self.targets]
        return {name: getattr(self, name) for name in self.__dataclass_fields__} | {"targets": targets}


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser with the script's docstring as help, and the options that every bench has."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    made.add_argument("--small", action="store_true", help="so little that it only shows that the bench works")
    return made


def parse(made: argparse.ArgumentParser, argv: Sequence[str] | None, small: Mapping[str, Any]) -> argparse.Namespace:
    """Parse; with --small, `small` are the defaults."""
    options = made.parse_args(argv)
    if options.small:
        made.set_defaults(**small)
        options = made.parse_args(argv)
    return options


def begin(script: str, doc: str | None) -> Report:
    """Return an empty report of the script `script` (its __file__) with the facts of this moment."""
    question = (doc or "").strip().partition("\n\n")[0].replace("\n", " ")
    report = Report(Path(script).stem, question, machine())
    if report.machine["busy_cores_before"] > QUIET_BUSY_CORES:
        report.notes.append(
            f"measured on a shared, loaded machine: others kept {report.machine['busy_cores_before']:.2f} of "
            f"{report.machine['cores']} cores busy when the bench began"
        )
    return report


def finish(report: Report, *, as_json: bool) -> int:
    """Print the report; returns the exit code of the script, which is 0 also when a target is missed."""
    if as_json:
        print(json.dumps(report.as_dict()))
        return 0
    print(report.question)
    facts = report.machine
    print(f"{facts['processor']}, {facts['cores']} cores; Linux {facts['kernel']}; Python {facts['python']}")
    print()
    print(tables(report.rows))
    if report.targets:
        print()
        for target in report.targets:
            sign = "<=" if target.is_upper_bound else ">="
            verdict = "reached" if target.is_reached else "MISSED"
            figure = f"{number(target.value)} {target.unit} (target {sign} {target.limit:g})"
            print(f"{verdict}: {target.name}: {figure}{target.remark}")
    for note in report.notes:
        print(f"note: {note}")
    return 0


def machine() -> dict[str, Any]:
    """Facts that a figure cannot be understood without."""
    facts: dict[str, Any] = {
        "processor": _processor(),
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "busy_cores_before": round(busy_cores(0.5), 3),
        "load_average": os.getloadavg()[0],
    }
    for name in ("procline", *_VERSIONS):
        try:
            facts[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            facts[name] = None
    return facts


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def busy_cores(seconds: float) -> float:
    """Cores that were not idle during the next `seconds`, time stolen by the hypervisor included."""

    def look() -> tuple[int, int]:
        fields = [int(value) for value in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        return sum(fields), fields[3] + fields[4]  # all; idle and iowait

    all_before, idle_before = look()
    time.sleep(seconds)
    all_after, idle_after = look()
    ticks = max(all_after - all_before, 1)
    return (os.cpu_count() or 1) * (1 - (idle_after - idle_before) / ticks)


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p99 and maximum of a sample; the nearest sample, nothing interpolated."""
    ordered = sorted(values)
    if not ordered:
        return {"n": 0}

    def at(part: float) -> float:
        return ordered[min(len(ordered) - 1, int(part * len(ordered)))]

    return {"n": len(ordered), "p50": at(0.5), "p99": at(0.99), "max": ordered[-1]}


def spread(values: Sequence[float]) -> float:
    """(largest - smallest) / median: how far runs of the same thing lie apart."""
    middle = statistics.median(values)
    return (max(values) - min(values)) / middle if middle else 0.0


def time_ns_per_call(call: Any, *, least_s: float = 0.05, runs: int = 5) -> list[float]:
    """Time `call` in `runs` loops of at least `least_s` seconds; returns ns a call of each. A first loop warms up."""
    loops = 1
    while True:
        begin_ns = time.perf_counter_ns()
        for _ in range(loops):
            call()
        took = time.perf_counter_ns() - begin_ns
        if took >= least_s * 1e9:
            break
        loops = max(loops * 2, int(loops * least_s * 1e9 / max(took, 1)) + 1)
    found = []
    for _ in range(runs):
        begin_ns = time.perf_counter_ns()
        for _ in range(loops):
            call()
        found.append((time.perf_counter_ns() - begin_ns) / loops)
    return found


def pin(core: int) -> None:
    """Run on one of the allowed cores from now on; counted round."""
    allowed = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {allowed[core % len(allowed)]})


def number(value: Any) -> str:
    """A figure with three significant digits, thousands apart; anything else as it is; None as a dash."""
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def tables(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as text: a table for each group of rows, one after another, that have the same keys."""
    return "\n\n".join(table(list(group)) for _, group in itertools.groupby(rows, lambda row: list(row)))


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as aligned text; a column for each key, in order of appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[number(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(column), *(len(line[i]) for line in cells)) for i, column in enumerate(columns)]
    # Words to the left, figures to the right.
    is_text = [any(isinstance(row.get(column), str) for row in rows) for column in columns]

    def line(values: Sequence[str]) -> str:
        parts = (v.ljust(w) if text else v.rjust(w) for v, w, text in zip(values, widths, is_text, strict=True))
        return "  ".join(parts).rstrip()

    return "\n".join([line(columns), *(line(values) for values in cells)])
