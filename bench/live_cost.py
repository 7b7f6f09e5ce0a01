#!/usr/bin/env python3
"""How much does the running daemon cost: CPU per event in a storm, CPU when idle, and memory?

Method
    Start a crowd of `--sleepers` sleeping processes, then a daemon with default settings.
    Idle: the CPU time of all its processes over `--idle-s` seconds. Storms: a C program forks children that exit at
    once (`fork/exit`); in the second storm one in five calls exec before (`one exec in 5`). The daemon's CPU time and
    event counters are read before the storm and when all its events are in the tables. CPU time is the time of all
    threads of supervisor, shard and resolver as the scheduler counts it in ns (/proc/PID/task/*/schedstat); the split
    into user and system time is in ticks of 10 ms (/proc/PID/stat). With BPF_ENABLE_STATS the kernel measures each of
    the daemon's BPF programs, in `--bpf-storms` short storms of 200 forks, of which one in five calls exec. PSS comes
    from /proc/PID/smaps_rollup.
    Transport alone: before the daemon starts, two C processes pass 16 KiB through libzmq every 8 ms during the same
    storms and do nothing else (peers/hop.c); shard and resolver do the same in a storm.
Command
    python bench/live_cost.py [--forks N] [--runs N] [--idle-s S] [--sleepers N] [--bpf-storms N]
        [--programs old] [--json]     (root)
How to read it
    `us/event` is the daemon's CPU time divided by the events that it applied, including events of other processes; the
    next columns split it by process. `transport alone` is the minimum cost of an event for any daemon with two
    processes and ZeroMQ between them. `bpf us/event` is the time of the BPF programs inside the forking processes. It
    is not part of the first figure; the storm pays it. `us/run` of a BPF program is the median of the storms' means,
    between the least and the largest of them (`min`, `max`). Idle is in percent of one core, with the events a second
    of the host in that time. `sleeper` is the cost of five wake-ups a second in an otherwise idle Python process.
What it does not show
    Subscribers (bench/publish.py) and readers. The BPF statistics cost some tens of ns a run, so the figures of the BPF
    programs are slightly too high; the storms are measured without the statistics.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import common
import live

#: Name, and how many of five children call exec.
STORMS = (("fork/exit", 0), ("one exec in 5", 1))
#: Typical interval and size of a shard's messages in a storm.
INTERVAL_MS = 8
MESSAGE_BYTES = 16 << 10

#: Children of each of the storms that measure the BPF programs. Short storms, because the median of many is less
#: affected by other programs than the mean of a long one.
BPF_FORKS = 200

SMALL = {"forks": 500, "runs": 1, "idle_s": 0.5, "sleepers": 20, "bpf_storms": 3}


def storm_of(program: Path, forks: int, fifths: int) -> live.Storm:
    """Return a storm of `forks` children, of which `fifths` in five call exec."""
    execs = fifths * forks // 5
    return live.Storm(program, forks - execs, execs)


def storm_rows(daemon: live.Daemon, program: Path, options: argparse.Namespace, report: common.Report) -> None:
    """Measure the daemon's CPU time per event, for two kinds of storm."""
    with daemon.attach() as table:
        for case, fifths in STORMS:
            storm = storm_of(program, options.forks, fifths)
            runs: list[dict[str, Any]] = []
            user = system = 0.0
            for run in range(options.runs + 1):
                stats = live.caught_up(table)
                before, counts = live.usage(daemon.directory), live.event_counts(stats)
                lost = sum(stats["lost"].values())
                took, _ = storm.run()
                stats = live.caught_up(table)
                used = live.usage(daemon.directory).since(before)
                events = sum(live.event_counts(stats).values()) - sum(counts.values())
                if run == 0:
                    continue  # warm-up: the first run touches new pages of the tables
                user, system = user + used.user_s, system + used.system_s
                runs.append({
                    "us": live.total_ns(used) / events / 1000, "rate": events / took, "events": events,
                    "percent": live.total_ns(used) / took / 1e7,
                    "lost": sum(stats["lost"].values()) - lost,
                    **{role: ns / events / 1000 for role, ns in used.ns.items()},
                })  # fmt: skip
            us = [run["us"] for run in runs]
            roles = [role for role in runs[0] if role == "supervisor" or role == "resolver" or role.startswith("shard")]
            report.rows.append({
                "case": case, "us/event": statistics.median(us), "max": max(us), "spread": common.spread(us),
                **{role: statistics.median(run[role] for run in runs) for role in roles},
                "system share": system / (user + system) if user + system else None,
                "% of a core": statistics.median(run["percent"] for run in runs),
                "events/s": statistics.median(run["rate"] for run in runs),
                "events": sum(run["events"] for run in runs), "lost": sum(run["lost"] for run in runs),
            })  # fmt: skip
            report.target(f"CPU of the daemon, {case}", statistics.median(us), 2.0, "us/event")
            if report.rows[-1]["lost"]:
                report.notes.append(f"{case}: {report.rows[-1]['lost']} events were lost")


def bpf_rows(daemon: live.Daemon, program: Path, options: argparse.Namespace, report: common.Report) -> None:
    """Measure the run time of the daemon's BPF programs with the kernel's statistics, in many short storms."""
    from tests.bpf.run_time import run_time_measured

    storm = storm_of(program, BPF_FORKS, 1)
    per_run: dict[str, list[float]] = {}
    runs: dict[str, int] = {}
    missed: dict[str, int] = {}
    total = 0
    with daemon.attach() as table:
        assert daemon.process is not None
        with run_time_measured():
            counts = live.event_counts(live.caught_up(table))
            before = program_runs(daemon.process.pid)
            for _ in range(options.bpf_storms):
                storm.run()
                after = program_runs(daemon.process.pid)
                for identity in after.keys() & before.keys():
                    name, run_ns, made, misses = after[identity]
                    _, old_ns, old_made, old_misses = before[identity]
                    total += run_ns - old_ns
                    runs[name] = runs.get(name, 0) + made - old_made
                    missed[name] = missed.get(name, 0) + misses - old_misses
                    if made > old_made:
                        per_run.setdefault(name, []).append((run_ns - old_ns) / (made - old_made) / 1000)
                before = after
            events = sum(live.event_counts(live.caught_up(table)).values()) - sum(counts.values())
    for name, each in per_run.items():
        middle = statistics.median(each)
        report.rows.append({
            "case": f"bpf {name}", "us/run": middle, "min": min(each), "max": max(each), "runs": runs[name],
            "missed": missed[name],
        })  # fmt: skip
        if name in TARGETS_US:
            report.target(f"BPF program {name}, median of {len(each)} storms", middle, TARGETS_US[name], "us/run")
    report.rows.append({"case": "bpf, all", "bpf us/event": total / events / 1000, "events": events})


def transport_rows(program: Path, options: argparse.Namespace, report: common.Report) -> None:
    """Measure the CPU time of passing a message every 8 ms, in the same storms."""
    for case, fifths in STORMS:
        storm = storm_of(program, options.forks, fifths)
        each: list[float] = []
        per_event: list[float] = []
        for _ in range(options.runs):
            arguments = [str(live.peer("hop")), live.libzmq(), str(INTERVAL_MS), str(MESSAGE_BYTES)]
            with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
                time.sleep(0.1)
                storm.run()
                messages, cpu_ns = map(int, process.communicate()[0].split("\n", 1)[0].split())
            each.append(cpu_ns / messages / 1000)
            per_event.append(cpu_ns / sum(storm.made.values()) / 1000)
        report.rows.append({
            "case": f"transport alone, {case}", "us/event": statistics.median(per_event), "max": max(per_event),
            "spread": common.spread(per_event), "us/message": statistics.median(each),
        })  # fmt: skip


#: The kernel shows 15 characters of a program's name.
TARGETS_US = {"pl_on_fork": 1.5, "pl_on_exit": 1.5, "pl_on_exec": 8.0}


def program_runs(pid: int) -> dict[int, tuple[str, int, int, int]]:
    """Return (name, run ns, runs, recursion misses) of the BPF programs that a process holds, by program id."""
    import ctypes
    import struct

    from pipeline.bpf import syscall
    from tests.live.memory import fdinfo

    found = {}
    for _, lines in fdinfo(pid):
        if "run_time_ns" not in lines:
            continue
        identity = int(lines["prog_id"])
        attributes = ctypes.create_string_buffer(struct.pack("=III", identity, 0, 0), 12)
        fd = syscall.bpf(13, attributes)  # BPF_PROG_GET_FD_BY_ID, because only the object info has the name
        name = syscall.info(fd, 232)[64:80].split(b"\0")[0].decode()
        os.close(fd)
        found[identity] = (
            name, int(lines["run_time_ns"]), int(lines["run_cnt"]), int(lines.get("recursion_misses", 0))
        )  # fmt: skip
    return found


def sleeper_percent(seconds: float) -> float:
    """Return the CPU percentage of a Python process that only wakes up, as often as an idle resolver."""
    code = "import select; sleep = select.epoll().poll\nwhile True: sleep(0.2)"
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        try:
            time.sleep(0.5)
            before, begin = live.cpu_ns(process.pid), time.perf_counter()
            time.sleep(seconds)
            return (live.cpu_ns(process.pid) - before) / (time.perf_counter() - begin) / 1e7
        finally:
            process.kill()


def idle_row(daemon: live.Daemon, options: argparse.Namespace, report: common.Report) -> None:
    """Measure the daemon's CPU time while the bench is idle."""
    with daemon.attach() as table:
        stats, before, begin = live.caught_up(table), live.usage(daemon.directory), time.perf_counter()
        time.sleep(options.idle_s)
        used, took = live.usage(daemon.directory).since(before), time.perf_counter() - begin
        events = sum(live.event_counts(live.caught_up(table)).values()) - sum(live.event_counts(stats).values())
    percent = live.total_ns(used) / took / 1e7
    report.rows.append({
        "case": "idle", "% of a core": percent, **{role: ns / took / 1e7 for role, ns in used.ns.items()},
        "events/s": events / took,
    })  # fmt: skip
    report.rows.append({"case": "sleeper", "% of a core": sleeper_percent(options.idle_s)})
    report.target("idle", percent, 0.3, "% of a core")
    if events / took > 5:
        report.notes.append(f"the host was not idle: other processes made {events / took:.0f} events a second")


def memory_row(daemon: live.Daemon, options: argparse.Namespace, report: common.Report) -> None:
    """Measure the PSS of all processes of the daemon."""
    from pipeline.host import processes

    pss = {each["role"]: each["pss_bytes"] / 1e6 for each in processes.measure(daemon.directory)}
    report.rows.append({"case": f"PSS with {options.sleepers} sleepers", "MB": sum(pss.values()), **pss})
    report.target(f"PSS with {options.sleepers} sleepers", sum(pss.values()), 90, "MB")


def main(argv: list[str] | None = None) -> int:
    """Run all cases; returns the exit code."""
    parser = common.parser(__doc__)
    parser.add_argument("--forks", type=int, default=10_000, help="children of a storm")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--idle-s", type=float, default=5.0)
    parser.add_argument("--sleepers", type=int, default=1000)
    parser.add_argument("--bpf-storms", type=int, default=60, help=f"storms of {BPF_FORKS} forks for the BPF programs")
    live.add_programs(parser)
    options = common.parse(parser, argv, SMALL)
    live.use_programs(options)
    report = common.begin(__file__, __doc__, options)
    with live.storms() as program, live.crowd(options.sleepers):
        transport_rows(program, options, report)
        with live.Daemon() as daemon:
            common.settle(options, live.SETTLES_S)
            memory_row(daemon, options, report)
            idle_row(daemon, options, report)
            storm_rows(daemon, program, options, report)
            bpf_rows(daemon, program, options, report)
    return common.finish(report, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
