#!/usr/bin/env python3
"""How long does it take until a look-up can be answered by a new reader, a shell command, or a new daemon?

Method
    Start `--processes` sleeping processes with distinct arguments. Start a daemon `--starts` times and measure the time
    until its tables are complete (`daemon, start to ready`) and the time of the resolver's snapshot, from the state in
    the control segment, which is read every ms (`snapshot`). While the last daemon is running, start these processes
    `--runs` times in turn: a Python that does nothing; one that imports ProcessTable, attaches and resolves one pid;
    the command `procline resolve PID`. The page cache is warm. The first two and one that only imports ProcessTable
    also report their resident memory (VmRSS) and CPU time at their end.
Command
    python bench/start.py [--processes N] [--starts N] [--runs N] [--json]     (root)
How to read it
    Milliseconds of wall time from the start of a process to its end, or until the daemon is ready; for memory, MB.
    `python -c pass` is the cost of any Python program; the difference is Procline's.
What it does not show
    The first start after boot, from disk. In a running process, attaching takes less than a millisecond.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import common
import live

SMALL = {"processes": 50, "starts": 1, "runs": 2}
IMPORT = "from pipeline import ProcessTable"
READ_ONE = f"{IMPORT}; print(ProcessTable.attach().resolve(1).comm)"
#: Reports the memory in kB and the CPU time in s of the process in which it runs.
WEIGH = """
import time
for line in open('/proc/self/status'):
    if line.startswith('VmRSS:'):
        print(line.split()[1], time.process_time())
"""


def daemon_start(daemon: live.Daemon) -> dict[str, float]:
    """Start the daemon; returns the ms until it is ready, and of its snapshot."""
    from pipeline.host.vitals import read_vitals
    from pipeline.shm.layout import layout

    begin = time.perf_counter()
    daemon.start(wait=False)
    filling = 0.0
    while True:
        vitals = read_vitals(daemon.directory)
        now = time.perf_counter()
        if vitals is not None and vitals.state == layout.STATE_FILLING and not filling:
            filling = now
        if vitals is not None and vitals.state == layout.STATE_READY:
            return {"ready": (now - begin) * 1000, "snapshot": (now - (filling or now)) * 1000}
        assert daemon.process is not None
        assert daemon.process.poll() is None, daemon.log.read_text()
        time.sleep(0.001)


def command(daemon: live.Daemon) -> list[str]:
    """Return the command line of `procline resolve 1`, with the installed script or with the module."""
    script = Path(sys.executable).with_name("procline")
    start = [str(script)] if script.exists() else [sys.executable, "-m", "pipeline.cli.main"]
    return [*start, "resolve", "--name", daemon.name, "1"]


def main(argv: list[str] | None = None) -> int:
    """Run all cases; returns the exit code."""
    parser = common.parser(__doc__)
    parser.add_argument("--processes", type=int, default=5000)
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--runs", type=int, default=20)
    options = common.parse(parser, argv, SMALL)
    report = common.begin(__file__, __doc__, options)
    found: dict[str, list[float]] = {}
    with live.crowd(options.processes):
        for start in range(options.starts):
            daemon = live.Daemon()
            try:
                for what, ms in daemon_start(daemon).items():
                    found.setdefault(what, []).append(ms)
                if start == options.starts - 1:
                    found |= readers(daemon, options)
            finally:
                daemon.close()
    for case, limit, unit in (
        ("python -c pass", None, "ms"), ("attach and resolve", 250, "ms"), ("procline resolve", 200, "ms"),
        ("ready", None, "ms"), ("snapshot", 400 * max(1.0, options.processes / 5000), "ms"),
        ("memory of python -c pass", None, "MB"), ("memory of the import", 13, "MB"),
        ("memory of attach and resolve", None, "MB"), ("CPU time of the import", 50, "ms"),
    ):  # fmt: skip
        figures = common.percentiles(found[case])
        report.rows.append({"case": NAMES.get(case, case), "unit": unit, **figures})
        if limit:
            report.target(f"{NAMES.get(case, case)}, p50", figures["p50"], limit, unit)
    report.notes.append(f"the host had {options.processes} sleeping processes in addition to its own")
    return common.finish(report, as_json=options.json)


NAMES = {"ready": "daemon, start to ready", "snapshot": "snapshot"}


def readers(daemon: live.Daemon, options: argparse.Namespace) -> dict[str, list[float]]:
    """Start short processes in turn; returns ms of each by case."""
    environment = daemon.environment | {"PYTHONPATH": str(common.ROOT)}
    reading = READ_ONE.replace("attach()", f"attach({daemon.name!r})")
    cases = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "attach and resolve": [sys.executable, "-c", reading],
        "procline resolve": command(daemon),
    }
    found: dict[str, list[float]] = {case: [] for case in cases}
    weighed = {"python -c pass": "pass", "the import": IMPORT, "attach and resolve": reading}
    for run in range(options.runs + 1):
        for case, arguments in cases.items():
            begin = time.perf_counter()
            subprocess.run(arguments, env=environment, cwd=os.sep, stdout=subprocess.DEVNULL, check=True)
            if run:  # the first run fills the page cache
                found[case].append((time.perf_counter() - begin) * 1000)
        for case, code in weighed.items():
            memory_mb, cpu_ms = weigh(code, environment)
            found.setdefault(f"memory of {case}", []).append(memory_mb)
            found.setdefault(f"CPU time of {case}", []).append(cpu_ms)
    return found


def weigh(code: str, environment: dict[str, str]) -> tuple[float, float]:
    """Run code in a new Python; returns its resident memory in MB and its CPU time in ms."""
    command = [sys.executable, "-c", f"{code}\n{WEIGH}"]
    done = subprocess.run(command, env=environment, cwd=os.sep, stdout=subprocess.PIPE, text=True, check=True)
    memory_kb, cpu_s = done.stdout.splitlines()[-1].split()
    return int(memory_kb) * 1024 / 1e6, float(cpu_s) * 1000


if __name__ == "__main__":
    sys.exit(main())
