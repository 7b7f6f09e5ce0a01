#!/usr/bin/env python3
"""How much slower are the calls of other processes while Procline runs?

Method
    A C program (peers/host_tax.c) makes bursts of each call and measures their CPU time: an empty call, a write of one
    byte, an open with its close, a signal to itself (ignored), an ioctl that reads the settings of a terminal, a change
    of its name, of its effective user and of its process group, a move between two cgroups, a fork with the child's
    exit, and the same with an exec. It runs without a daemon, with a daemon of the default settings, and with one of
    capture.credentials = "syscalls", in turns: A B C, then C B A, and so on. A turn's figure is the first decile of its
    bursts, because a shared machine makes some of them longer and none of them shorter. The figure of a call is the
    median of the ratios between a turn with a daemon and the turn without one of the same round.
Command
    python bench/host_tax.py [--rounds N] [--bursts N] [--credentials METHOD...] [--programs old] [--json]     (root)
How to read it
    `tax %` is the median ratio - 1, `low` and `high` its 95 % confidence interval (bootstrap over the rounds), `ns` the
    median of the differences. Only the first five calls have nothing to do with what Procline records. The target is
    for these calls, with the default. It is reached if the whole interval is at most the target, and missed if all of
    it is above. Otherwise `verdict` is "none", and so it is if the daemon sees no changes by any method.
    Changes, moves, forks, execs and exits are recorded; those of user and group not by the method "sampled". Their tax
    is the cost of the record, and of the daemon that reads it on the same machine. With "syscalls", that of an empty
    call is in each of them. The note says which methods the daemons used.
What it does not show
    Time in which a caller waits for a CPU that the daemon uses, because this is not CPU time of the caller. Calls of
    other kinds; the tax of the method "syscalls" on an empty call applies to any call. Calls that wait for a device:
    their tax in ns is the same, and less in percent. If another program traces the host's calls, `ns without` includes
    the cost of that, and the note says so. The clock of some guests counts instructions (tests/vm/run --virtual-time).
    There the figures are instructions, not time: a load that waits for memory counts as much as an addition.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import common
import live
import numpy as np

from pipeline.host import tiers
from pipeline.load import measuring
from pipeline.procfs.containers import cgroup_v2_root

TARGET_PERCENT = 2
#: Calls that Procline does not record.
UNRELATED = ("empty call", "write of 1 byte", "open and close", "signal", "ioctl on a terminal")
#: The method of a daemon that sees no changes of credentials.
NO_METHOD = "none"
#: The snapshot is done; the daemon is quiet after this time.
QUIET_S = 1.5
SMALL = {"rounds": 1, "bursts": 3}

Turn = dict[str, float]


@contextmanager
def two_cgroups() -> Iterator[list[Path]]:
    """Create two cgroups of version 2, and yield their files cgroup.procs; none where they cannot be created."""
    root = cgroup_v2_root()
    if root is None or not os.access(root, os.W_OK):
        yield []
        return
    groups = [Path(root, f"procline-tax-{os.getpid()}-{n}") for n in range(2)]
    with ExitStack() as made:
        for group in groups:
            group.mkdir()
            made.callback(group.rmdir)
        yield [group / "cgroup.procs" for group in groups]


def turn(program: Path, bursts: int, cgroups: list[Path]) -> Turn:
    """Make all calls; return the ns of each, by its name."""
    done = subprocess.run([program, str(bursts), *cgroups], capture_output=True, text=True, check=True)
    found: dict[str, list[float]] = {}
    for line in done.stdout.splitlines():
        name, _, ns = line.rpartition(": ")
        found.setdefault(name, []).append(float(ns))
    return {name: measuring.at_part(sorted(values), 0.1) for name, values in found.items()}


def interval(ratios: list[float]) -> tuple[float, float]:
    """Return the 95 % confidence interval of the median."""
    samples = np.random.default_rng(1).choice(np.array(ratios), (4000, len(ratios)))
    low, high = np.quantile(np.median(samples, axis=1), [0.025, 0.975])
    return float(low), float(high)


def method_in_force(daemon: live.Daemon) -> str:
    """Return the tier by which a daemon sees changes of credentials."""
    used = tiers.read(daemon.directory)
    found = [name for name, detail in used.items() if name.startswith("cred_") and tiers.is_on(detail)]
    return found[0] if found else NO_METHOD


def tracers() -> list[str]:
    """Return the programs, other than this bench's daemons, that hold perf events or BPF programs."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            kinds = {str(fd.readlink()) for fd in (process / "fd").iterdir()}
            if any("perf_event" in kind or "bpf-prog" in kind for kind in kinds):
                found.add((process / "comm").read_text().strip())
        except OSError:
            continue
    return sorted(found)


def verdict(call: str, tax: float, low: float, high: float, method: str, report: common.Report) -> str:
    """Compare the interval of the tax of an unrelated call, in percent, with the target; "none" if it is on both sides.

    With the method "none", the daemon does less than the default settings intend. Then there is no verdict either.
    """
    if method == NO_METHOD:
        report.notes.append(f"{call}: no verdict, because the daemon sees no changes of credentials by any method")
        return "none"
    if low <= TARGET_PERCENT < high:
        report.notes.append(f"{call}: no verdict, because the target is within the interval; use more --rounds")
        return "none"
    report.target(f"tax on {call}, default settings", tax, TARGET_PERCENT, "%")
    return "reached" if report.targets[-1].is_reached else "MISSED"


def measure(options: argparse.Namespace, report: common.Report) -> None:
    """Make the turns and add the rows."""
    program = live.peer("host_tax")
    methods: list[str] = options.credentials
    turns: Mapping[str, list[Turn]] = {"": [], **{method: [] for method in methods}}
    in_force: dict[str, str] = {}
    others: set[str] = set(tracers())
    lost = 0
    with two_cgroups() as cgroups:
        if not cgroups:
            report.notes.append("no cgroup of version 2 can be created here: moves are not measured")
        for number in range(options.rounds):
            for method in ["", *methods] if number % 2 == 0 else [*reversed(methods), ""]:
                if not method:
                    turns[method].append(turn(program, options.bursts, cgroups))
                    others.update(tracers())
                    continue
                with live.Daemon(f'[capture]\ncredentials = "{method}"\n') as daemon:
                    common.settle(options, QUIET_S)
                    if in_force.get(method) != NO_METHOD:
                        in_force[method] = method_in_force(daemon)
                    turns[method].append(turn(program, options.bursts, cgroups))
                    with daemon.attach() as table:
                        lost += sum(live.caught_up(table)["lost"].values())
    for call in turns[""][0]:
        without = [each[call] for each in turns[""]]
        for method in methods:
            pairs = [(each[call], before) for each, before in zip(turns[method], without, strict=True)]
            ratios = [with_it / before for with_it, before in pairs]
            low, high, tax = ((ratio - 1) * 100 for ratio in (*interval(ratios), measuring.quartiles(ratios)[1]))
            is_judged = method == "auto" and call in UNRELATED
            report.rows.append({
                "call": call, "credentials": method, "ns without": measuring.quartiles(without)[1],
                "ns with": measuring.quartiles([with_it for with_it, _ in pairs])[1],
                "ns": measuring.quartiles([with_it - before for with_it, before in pairs])[1],
                "tax %": tax, "low": low, "high": high, "rounds": len(ratios),
                "verdict": verdict(call, tax, low, high, in_force[method], report) if is_judged else "",
            })  # fmt: skip
    if lost:
        report.notes.append(f"{lost} events were lost, so what is recorded cost less than it should")
    if others:
        report.notes.append(f"other programs traced this host meanwhile: {', '.join(sorted(others))}")
    report.notes.append("methods: " + ", ".join(f"{method} is {used}" for method, used in in_force.items()))
    if options.programs:
        report.notes.append(f"the {options.programs} set of BPF programs")


def main(argv: list[str] | None = None) -> int:
    """Make the turns; returns the exit code."""
    parser = common.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=12, help="turns without a daemon, and with each kind of daemon")
    parser.add_argument("--bursts", type=int, default=80, help="bursts of each call in a turn")
    parser.add_argument("--credentials", nargs="+", default=["auto", "syscalls"], help="values of capture.credentials")
    live.add_programs(parser)
    options = common.parse(parser, argv, SMALL)
    live.use_programs(options)
    report = common.begin(__file__, __doc__, options)
    measure(options, report)
    return common.finish(report, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
