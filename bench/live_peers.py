#!/usr/bin/env python3
"""How much does watching the same storm cost with Procline and with other tools?

Method
    Procline, `forkstat` (netlink proc connector; reads /proc for each event) and `execsnoop` of libbpf-tools (eBPF;
    execs only) watch the same storm one after another, `--runs` times. The storm is a C program. Its children exit at
    once; one in five calls exec before. Each tool writes to a file on tmpfs. Its CPU time (as the scheduler counts it
    in ns) is read before and after the storm. Its lines are counted and compared with the events of the storm; lines of
    forkstat are recognised by the program's name. If a tool is not installed or does not start, the report says so.
Command
    python bench/live_peers.py [--forks N] [--runs N] [--json]     (root; Debian: forkstat, libbpf-tools)
How to read it
    `us/event` is the tool's CPU time divided by the events that it reported. `lost %` is the part of the storm's events
    that it did not report. `unnamed %` is the part of the reported events without a name, because the process had
    exited before the tool read it. `storm` is the storm's wall time relative to the same storm without a watcher
    (median over median). Procline maintains a table with the lineage of all processes and prints nothing. The other
    tools print, and keep no state (forkstat: names and times of live processes).
What it does not show
    Losses on a more loaded machine, and the tools' cost in the kernel: the BPF programs of Procline and execsnoop and
    the connector's messages run inside the storm and appear only in `storm`.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import common
import live

SMALL = {"forks": 400, "runs": 1}
KINDS = ("fork", "exec", "exit")
#: A tool has read all events when it uses less CPU time than this in 0.2 s, or at the latest after _SETTLE_S.
_QUIET_NS = 2_000_000
_SETTLE_S = 5.0
#: Counts in a tool's output the events of the storm, and those without a name.
Counter = Callable[[str], tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Run:
    """One watched storm: its wall seconds, the watcher's CPU ns, the reported events, and those without a name."""

    seconds: float
    cpu_ns: int
    reported: int
    unnamed: int


def watched_by_nobody(storm: live.Storm) -> Run:
    """Run the storm without a watcher."""
    return Run(storm.run()[0], 0, 0, 0)


def watched_by_procline(storm: live.Storm, daemon: live.Daemon) -> Run:
    """Run the storm while a daemon is running."""
    with daemon.attach() as table:
        counts = live.event_counts(live.caught_up(table))
        before = live.usage(daemon.directory)
        seconds, _ = storm.run()
        seen = live.event_counts(live.caught_up(table))
        used = live.total_ns(live.usage(daemon.directory).since(before))
    reported = sum(min(seen[kind] - counts[kind], storm.made[kind]) for kind in KINDS)
    return Run(seconds, used, reported, 0)


def watched_by(command: list[str], settle_s: float, storm: live.Storm, place: Path, count: Counter) -> Run:
    """Run the storm while a tool writes lines; `count` counts the storm's events in them."""
    path = place / "out"
    with path.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE, cwd=place)
        try:
            time.sleep(settle_s)
            if process.poll() is not None:
                assert process.stderr is not None
                said = process.stderr.read().decode(errors="replace").strip().splitlines()
                raise OSError(said[-1] if said else f"it exited with {process.returncode}")
            before = live.cpu_ns(process.pid)
            seconds, _ = storm.run()
            used, deadline = 0, time.monotonic() + _SETTLE_S
            while time.monotonic() < deadline:  # wait until the tool has read all events
                time.sleep(0.2)
                before_look, used = used, live.cpu_ns(process.pid) - before
                if used - before_look < _QUIET_NS:
                    break
        finally:
            process.terminate()
            process.wait(10)
    return Run(seconds, used, *count(path.read_text(errors="replace")))


def forkstat_events(text: str) -> tuple[int, int]:
    """Count the storm's events, and those without a name: "TIME fork PID child … workload", "TIME exec PID …".

    A process that exited before forkstat read /proc is <unknown>. Such events of other processes are counted too.
    """
    found = unnamed = 0
    for line in text.splitlines():
        fields = line.split(None, 4)
        if len(fields) > 3 and fields[1] in KINDS and (fields[1] != "fork" or fields[3] == "child"):
            found += "workload" in line or "<unknown>" in line
            unnamed += "<unknown>" in line
    return found, unnamed


def execsnoop_events(text: str) -> tuple[int, int]:
    """Count the storm's execs; execsnoop always knows the name, which comes from the kernel."""
    return sum(line.startswith("workload") for line in text.splitlines()), 0


#: name: (programs, arguments, seconds to start, counter, kinds of events that it reports)
TOOLS: dict[str, tuple[tuple[str, ...], list[str], float, Counter, tuple[str, ...]]] = {
    "forkstat": (("forkstat",), ["-e", "fork,exec,exit", "-l"], 0.5, forkstat_events, KINDS),
    "execsnoop": (("execsnoop-libbpf", "execsnoop"), [], 1.5, execsnoop_events, ("exec",)),
}


PACKAGES = {"forkstat": "forkstat", "execsnoop": "libbpf-tools"}


def find_tool(name: str) -> str | None:
    """Return the path of a tool, also outside the user's PATH."""
    for program in TOOLS[name][0]:
        if path := shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin"):
            return path
    return None


def measure(program: Path, place: Path, options: argparse.Namespace, report: common.Report) -> None:
    """Run the rounds and add the rows."""
    storm = live.Storm(program, options.forks - options.forks // 5, options.forks // 5)
    runs: dict[str, list[Run]] = {"nobody": [], "Procline": []}
    missing: dict[str, str] = {}
    for _ in range(options.runs):
        storm.run()
        runs["nobody"].append(watched_by_nobody(storm))
        with live.Daemon() as daemon:
            time.sleep(0.5)
            watched_by_procline(storm, daemon)  # warm-up: touches new pages
            runs["Procline"].append(watched_by_procline(storm, daemon))
        for name, (_, arguments, settle_s, count, _) in TOOLS.items():
            path = find_tool(name)
            if path is None or name in missing:
                missing.setdefault(name, f"not installed (Debian: {PACKAGES[name]})")
                continue
            try:
                found = watched_by([path, *arguments], settle_s, storm, place, count)
            except OSError as error:
                missing[name] = f"did not start: {error}"
                if not Path("/sys/kernel/tracing/events").exists():
                    missing[name] += " (tracefs is not mounted: mount -t tracefs none /sys/kernel/tracing)"
                continue
            runs.setdefault(name, []).append(found)
    alone = statistics.median(run.seconds for run in runs["nobody"])
    for name, found_runs in runs.items():
        kinds = TOOLS[name][4] if name in TOOLS else KINDS
        visible = sum(storm.made[kind] for kind in kinds)
        costs = [run.cpu_ns / run.reported / 1000 for run in found_runs if run.reported]
        report.rows.append({
            "watched by": name, "sees": "-" if name == "nobody" else ", ".join(kinds),
            "us/event": statistics.median(costs) if costs else None,
            "max": max(costs) if costs else None,
            "lost %": statistics.median(100 * (1 - min(run.reported, visible) / visible) for run in found_runs)
            if name != "nobody" else None,
            "unnamed %": statistics.median(100 * run.unnamed / run.reported for run in found_runs if run.reported)
            if costs else None,
            "storm": statistics.median(run.seconds for run in found_runs) / alone,
            "events/s": sum(storm.made.values()) / statistics.median(run.seconds for run in found_runs),
        })  # fmt: skip
    for name, why in missing.items():
        report.notes.append(f"{name}: {why}")


def main(argv: list[str] | None = None) -> int:
    """Run all tools; returns the exit code."""
    parser = common.parser(__doc__)
    parser.add_argument("--forks", type=int, default=5000, help="children of a storm")
    parser.add_argument("--runs", type=int, default=2)
    options = common.parse(parser, argv, SMALL)
    report = common.begin(__file__, __doc__, options)
    with live.storms() as program, tempfile.TemporaryDirectory(prefix="procline-bench-", dir="/dev/shm") as place:
        measure(program, Path(place), options, report)
    return common.finish(report, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
