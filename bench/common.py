"""Shared code of the benches: options, facts about the machine, distributions, and the report.

A bench fills a `Report` and passes it to `finish`, which prints tables, or with --json one object:

    bench     name of the script
    question  first paragraph of its docstring
    machine   processor, cores, kernel, versions, and the load of the machine before the bench
    rows      list of objects, one for each line of the table
    targets   list of {name, value, limit, unit, floor, is_reached, remark}
    notes     list of sentences about missing parts and about the figures
    curves    list of {title, x, y, x_label, y_label}; y is {series: values}

live.py has the shared code of the benches that need a running daemon.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import multiprocessing
import os
import platform
import signal
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

#: If other programs keep more cores busy than this, the report marks its figures as measured on a shared machine.
QUIET_BUSY_CORES = 0.15
#: Starts processes of a bench. A server imports the script once, and each process is forked from the server. So it does
#: not import everything again, and shares neither memory nor descriptors with the process that measures.
PROCESSES = multiprocessing.get_context("forkserver")
_VERSIONS = ("numpy", "pyzmq", "msgpack", "psutil")


@dataclass(frozen=True, slots=True)
class Target:
    """A figure with a target: `value` against `limit`, which is an upper or a lower bound.

    `floor` is the time that the machine itself needs for the unavoidable part, measured in the same run; None: not
    measured.
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
        """A remark for the report: the floor, if the target was missed."""
        if self.is_reached or self.floor is None:
            return ""
        return f"; the machine alone needs {number(self.floor)} {self.unit}"


@dataclass(slots=True)
class Report:
    """The results of a bench; the module's docstring describes the JSON form."""

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
        """Add a target; `value` must be a number."""
        self.targets.append(Target(name, value, limit, unit, is_upper_bound, floor))

    def as_dict(self) -> dict[str, Any]:
        """Return the report in its JSON form."""
        targets = [asdict(each) | {"is_reached": each.is_reached, "remark": each.remark} for each in self.targets]
        return {name: getattr(self, name) for name in self.__dataclass_fields__} | {"targets": targets}


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser with the script's docstring as help and the common options."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    made.add_argument("--small", action="store_true", help="run with tiny sizes, only to check that the bench works")
    return made


def parse(made: argparse.ArgumentParser, argv: Sequence[str] | None, small: Mapping[str, Any]) -> argparse.Namespace:
    """Parse the arguments; with --small, the defaults are those in `small`."""
    options = made.parse_args(argv)
    if options.small:
        made.set_defaults(**small)
        options = made.parse_args(argv)
    return options


def laps(options: argparse.Namespace) -> range:
    """Return the numbers of the runs. Number 0 is a warm-up, which does not count; with --small there is none."""
    return range(1 if options.small else 0, options.runs + 1)


def settle(options: argparse.Namespace, seconds: float) -> None:
    """Let a daemon become quiet before it is measured; with --small a tenth of that time is enough."""
    time.sleep(seconds / 10 if options.small else seconds)


def begin(script: str, doc: str | None, options: argparse.Namespace) -> Report:
    """Return an empty report for a script (its __file__, __doc__ and options), with facts about the machine."""
    # What a bench has made is removed when a signal ends it, too. Its children need not do that.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    # As on a host of users, where Python keeps what it has compiled: else a command takes twice as long.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    question = (doc or "").strip().partition("\n\n")[0].replace("\n", " ")
    report = Report(Path(script).stem, question, machine(0.05 if options.small else 0.5))
    if report.machine["busy_cores_before"] > QUIET_BUSY_CORES:
        report.notes.append(
            f"measured on a loaded machine: other programs kept {report.machine['busy_cores_before']:.2f} of "
            f"{report.machine['cores']} cores busy before the bench"
        )
    return report


def finish(report: Report, *, as_json: bool) -> int:
    """Print the report; returns the exit code of the script, which is 0 even if a target was missed."""
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


def busy_cores(seconds: float) -> float:
    """Return the average number of busy cores during the next `seconds`, including time stolen by the hypervisor."""

    def read_ticks() -> tuple[int, int]:
        fields = [int(value) for value in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        return sum(fields), fields[3] + fields[4]  # total; idle and iowait

    all_before, idle_before = read_ticks()
    time.sleep(seconds)
    all_after, idle_after = read_ticks()
    ticks = max(all_after - all_before, 1)
    return (os.cpu_count() or 1) * (1 - (idle_after - idle_before) / ticks)


def machine(observe_s: float = 0.5) -> dict[str, Any]:
    """Return the facts about the machine that are needed to interpret the figures; its load is that of `observe_s`."""
    from pipeline.load import measuring  # deferred: it would count as imports of the processes that a bench measures

    facts: dict[str, Any] = {
        "processor": measuring.processor(),
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "busy_cores_before": round(busy_cores(observe_s), 3),
        "load_average": os.getloadavg()[0],
    }
    for name in ("procline", *_VERSIONS):
        try:
            facts[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            facts[name] = None
    return facts


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Return p50, p99 and the maximum of a sample, without interpolation."""
    from pipeline.load.measuring import at_part

    ordered = sorted(values)
    if not ordered:
        return {"n": 0}
    return {"n": len(ordered), "p50": at_part(ordered, 0.5), "p99": at_part(ordered, 0.99), "max": ordered[-1]}


def median_error(values: Sequence[float]) -> float:
    """Return the standard error of the median for a normal distribution, estimated from the quartiles."""
    from pipeline.load.measuring import quartiles

    low, _, high = quartiles(values)
    return float(1.25 * (high - low) / 1.35 / len(values) ** 0.5)


def spread(values: Sequence[float]) -> float:
    """Return (largest - smallest) / median, the relative spread of several runs."""
    middle = statistics.median(values)
    return (max(values) - min(values)) / middle if middle else 0.0


def time_ns_per_call(call: Any, *, least_s: float = 0.05, runs: int = 5) -> list[float]:
    """Time `call` in `runs` loops of at least `least_s` seconds, after a warm-up; returns ns a call for each loop."""
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
    """Pin this process to one of the allowed cores; `core` is taken modulo their number."""
    allowed = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {allowed[core % len(allowed)]})


@contextlib.contextmanager
def pinned(core: int) -> Iterator[None]:
    """Pin this process as `pin` does, and allow all its cores again at the end."""
    allowed = os.sched_getaffinity(0)
    pin(core)
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def number(value: Any) -> str:
    """Format a number with three significant digits or with thousands separators; None becomes a dash."""
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def tables(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format rows as tables, one for each run of consecutive rows with the same keys."""
    return "\n\n".join(table(list(group)) for _, group in itertools.groupby(rows, lambda row: list(row)))


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format rows as an aligned table with a column for each key, in order of appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[number(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(column), *(len(line[i]) for line in cells)) for i, column in enumerate(columns)]
    # Text is left-aligned, numbers are right-aligned.
    is_text = [any(isinstance(row.get(column), str) for row in rows) for column in columns]

    def line(values: Sequence[str]) -> str:
        parts = (v.ljust(w) if text else v.rjust(w) for v, w, text in zip(values, widths, is_text, strict=True))
        return "  ".join(parts).rstrip()

    return "\n".join([line(columns), *(line(values) for values in cells)])
