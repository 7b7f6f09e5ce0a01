#!/usr/bin/env python3
"""How long does it take to read many processes at once, as arrays and as tables of other libraries?

Method
    Fill tables with `--live` live and `--exited` exited processes of a build, as bench/screens.py does. Read eight
    fields of all of them, texts and arguments included: with `ProcessTable.columns`, and with `to_dict` of each entry.
    Turn the columns into a pyarrow table and into frames of pandas and polars. Run `--runs` rounds in turn, after one
    that does not count. psutil reads the same fields of the processes of this host.
Command
    python bench/columns.py [--live N] [--exited N] [--runs N] [--json]
How to read it
    ms of CPU for all processes (`p50`), and µs a process. The forms of other libraries start from columns that were
    just read, and include the conversion. The ratio to psutil is for one process.
What it does not show
    The first import of numpy and of the other libraries.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable
from typing import Any

import common
import numpy as np
import screens

from pipeline.shm.reader.columns import Columns
from pipeline.shm.reader.table import ProcessTable

SMALL = {"live": 100, "exited": 200, "runs": 1}
NAMES = ("pid", "ppid", "comm", "path", "argv", "user", "uid", "start_time_ns")
THEIRS = ["pid", "ppid", "name", "exe", "cmdline", "username", "uids", "create_time"]
TARGET_MS = 50
TARGET_RATIO = 300


def used_ms(call: Callable[[], Any]) -> float:
    """Return the CPU time of a call."""
    begin = time.process_time_ns()
    call()
    return (time.process_time_ns() - begin) / 1e6


def arrays(table: ProcessTable) -> Columns:
    """Read all columns and make the arrays."""
    found = table.columns(NAMES, running=False)
    for name in NAMES:
        _ = found[name]
    return found


def main(argv: list[str] | None = None) -> int:
    """Run all cases; returns the exit code."""
    parser = common.parser(__doc__)
    parser.add_argument("--live", type=int, default=5000)
    parser.add_argument("--exited", type=int, default=27_000)
    parser.add_argument("--runs", type=int, default=9)
    options = common.parse(parser, argv, SMALL)
    report = common.begin(__file__, __doc__, options)
    found: dict[str, list[float]] = {}
    with (
        screens.filled(options.live, options.exited) as resolver,
        ProcessTable.attach(path=resolver.directory, max_age_ms=10**8) as table,
    ):
        count = arrays(table).count
        forms = {"to_records": "numpy", "to_arrow": "pyarrow", "to_pandas": "pandas", "to_polars": "polars"}
        for form, module in list(forms.items()):
            if importlib.util.find_spec(module) is None:
                report.notes.append(f"{form} is missing: install {module}")
                del forms[form]
        for run in common.laps(options):
            times = {
                "columns": used_ms(lambda: arrays(table)),
                "to_dict of each": used_ms(lambda: [entry.to_dict(NAMES) for entry in table.walk()]),
                "batch, dicts": used_ms(lambda: table.batch(NAMES).dicts()),
            }
            for form in forms:
                columns = table.columns(NAMES, running=False)
                times[form] = used_ms(getattr(columns, form))
            if run:
                for case, ms in times.items():
                    found.setdefault(case, []).append(ms)
    for case, times_ms in found.items():
        middle = common.percentiles(times_ms)
        report.rows.append({"case": case, **middle, "us a process": middle["p50"] * 1000 / count})
    ours = float(np.median(found["columns"]))
    report.target(f"columns of {count:,} processes, {len(NAMES)} fields", ours, TARGET_MS, "ms")
    report.notes.append(f"{count} processes")
    try:
        import psutil
    except ImportError:
        report.notes.append("psutil is not installed: no comparison")
        return common.finish(report, as_json=options.json)
    theirs = []
    for _ in range(options.runs):
        number = len(list(psutil.process_iter()))
        theirs.append(used_ms(lambda: list(psutil.process_iter(THEIRS))) * 1000 / number)
        psutil.process_iter.cache_clear()
    report.rows.append({"case": "psutil.process_iter", "us a process": float(np.median(theirs))})
    ratio = float(np.median(theirs)) / (ours * 1000 / count)
    report.target("psutil relative to columns, a process", ratio, TARGET_RATIO, "times", is_upper_bound=False)
    return common.finish(report, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
