"""As many live processes as the host has pids for: `python -m tests.faults.crowd --help`.

One instance sees them begin. A second one finds them at its start, and has rings of one page, so that it loses most of
their exits and must repair its tables. The tables must be equal to /proc each time. The times, the latency of readers,
the time of each command and the memory are printed as a table.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pipeline import ProcessTable
from pipeline.host import processes
from pipeline.host.boot import pid_max
from pipeline.records.limits import KTHREADD
from tests.live.agreement import agrees_s
from tests.live.harness import Daemon, build_workload, patience
from tests.live.memory import kernel_bytes, process_bytes
from tests.waiting import eventually

#: At least that many pids stay free for other programs of the host.
PIDS_LEFT = 4096
LOOKUPS = 2000
#: A survey of thirty thousand processes takes seconds, and so does the comparison of this module.
CROWD_AGREES_S = 60.0
#: Loses most of a storm.
TINY_RINGS = "[capture]\nring_bytes = 4096\n"
_TICK_NS = 10_000_000
_PID_MAX = Path("/proc/sys/kernel/pid_max")


@dataclass
class Report:
    """The measurements, a line each."""

    lines: list[tuple[str, str]] = field(default_factory=list)

    def add(self, what: str, value: str) -> None:
        """Add a line, and print it at once."""
        self.lines.append((what, value))
        print(f"{what}: {value}", flush=True)

    def table(self) -> str:
        """Return a Markdown table."""
        return "\n".join(
            ["| what | value |", "| --- | --- |", *(f"| {what} | {value} |" for what, value in self.lines)]
        )


@contextmanager
def crowd(workload: Path, count: int) -> Iterator[int]:
    """Run this many processes; yields the pid of their parent, with which they end."""
    process = subprocess.Popen([workload, "crowd", str(count), "86400000"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line == f"crowd {count} {process.pid}\n", line
        yield process.pid
    finally:
        process.kill()
        process.communicate()


@contextmanager
def highest_pid(limit: int = 0) -> Iterator[None]:
    """Allow more pids for a while; 0 changes nothing. Instances that run already cannot index the additional ones.

    At the end `pid_max` is what it was, also if something else has changed it meanwhile.
    """
    before = pid_max()
    try:
        if limit:
            _PID_MAX.write_text(str(limit))
        yield
    finally:
        if pid_max() != before:
            _PID_MAX.write_text(str(before))


def is_of_namespace() -> bool:
    """Return whether each pid namespace has a `pid_max` of its own (Linux 6.14); others change that of the host."""
    before = pid_max()
    with highest_pid():
        change = ["unshare", "--pid", "--fork", "sh", "-c", f"echo {before - 1} > {_PID_MAX}"]
        subprocess.run(change, check=True)
        return pid_max() == before


def commands(daemon: Daemon, parent: int, child: int, count: int) -> Iterator[tuple[str, float]]:
    """Run commands whose output has each process, or is about all of them; yield each with its time, s."""
    for arguments, lines in (
        (("ps",), count),
        (("ps", "--json"), count),
        (("tree",), 1),  # equal children are one line
        (("children", str(parent)), count),
        (("grep", "crowd"), count),
        (("ps", "--where", f"ppid == {parent}", "--format", "csv"), count),
        (("resolve", str(child)), 1),
        (("why", str(child)), 1),
        (("stat",), 1),
    ):
        begin = time.monotonic()
        done = daemon.cli(*arguments, timeout=120)
        taken = time.monotonic() - begin
        assert done.returncode == 0, (arguments, done.stderr)
        shown = len(json.loads(done.stdout) if "--json" in arguments else done.stdout.splitlines())
        assert shown >= lines, (arguments, shown, lines)
        yield " ".join(arguments), taken


def room() -> int:
    """Return how many more processes the host has pids for, if some are left to other programs."""
    return pid_max() - sum(1 for path in Path("/proc").iterdir() if path.name.isdigit()) - PIDS_LEFT


def living() -> dict[int, tuple[int, int]]:
    """Return parent and start in ticks of all processes in /proc but kernel threads and zombies."""
    found = {}
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                fields = (path / "stat").read_bytes().rpartition(b")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if fields[0] not in b"ZX" and int(fields[1]) != KTHREADD and int(path.name) != KTHREADD:
                found[int(path.name)] = int(fields[1]), int(fields[19])
    return found


def assert_equal(table: ProcessTable, parent: int, count: int) -> int:
    """Fail if /proc and the tables differ in a process that lived all the time; return how many were compared."""
    before = living()
    found = table.batch(("pid", "ppid", "start_time_ns"), running=True).dicts()
    after = living()
    shown = {
        int(each["pid"]): (each["ppid"], (int(each["start_time_ns"] or 0) - table.boot_unix_ns) // _TICK_NS)
        for each in found
    }
    stable = {pid: facts for pid, facts in before.items() if after.get(pid) == facts}
    wrong = {pid: (facts, shown.get(pid)) for pid, facts in stable.items() if shown.get(pid) != facts}
    assert not wrong, f"{len(wrong)} of {len(stable)} differ (/proc, tables): {dict(list(wrong.items())[:5])}"
    invented = [pid for pid in shown if pid not in before and pid not in after]
    assert len(invented) < 50, f"{len(invented)} processes live in the tables alone"  # those that began just now
    assert sum(1 for facts in shown.values() if facts[0] == parent) == count
    return len(stable)


def latency(table: ProcessTable, pids: list[int], parent: int) -> str:
    """Return how long look-ups of random processes take."""
    taken = []
    for pid in random.Random(1).choices(pids, k=LOOKUPS):
        begin = time.perf_counter_ns()
        entry = table.resolve(pid)
        taken.append(time.perf_counter_ns() - begin)
        assert entry is not None and entry.pid == pid and entry.ppid == parent
    taken.sort()
    return f"{taken[LOOKUPS // 2] / 1000:.1f}, {taken[LOOKUPS * 99 // 100] / 1000:.1f}, {taken[-1] / 1000:.0f}"


def memory(daemon: Daemon) -> str:
    """Return the memory of the processes, the tables and the kernel's maps."""
    pids = {one["role"]: one["pid"] for one in processes.measure(daemon.directory, with_memory=False)}
    own = {role: process_bytes(pid) for role, pid in pids.items()}
    tables = sum(file.stat().st_blocks * 512 for file in daemon.directory.rglob("*") if file.is_file())
    rings, maps = kernel_bytes(pids["supervisor"])
    parts = [*own.items(), ("tables", tables), ("rings", rings), ("other maps", maps)]
    return ", ".join(f"{name} {size / 1e6:.1f}" for name, size in parts)


def are_gone(table: ProcessTable, pids: set[int]) -> bool:
    """Return whether none of these is live in the tables."""
    return not pids & {each["pid"] for each in table.batch(("pid",), running=True).dicts()}


def lost(table: ProcessTable) -> int:
    """Return the number of lost events."""
    return sum(table.stats()["lost"].values())


def observe(report: Report, daemon: Daemon, table: ProcessTable, parent: int, count: int) -> set[int]:
    """Compare the instance that has seen the processes begin, and measure readers and commands; return their pids."""
    compared = eventually(lambda: assert_equal(table, parent, count), agrees_s(CROWD_AGREES_S), 1)
    report.add("equal to /proc: processes with their parent and start", f"{compared:,}")
    report.add("lag of the watermark, ms", f"{table.stats()['watermark_lag_ns'] / 1e6:.0f}")
    pids = [entry.pid for entry in table.children(parent)]
    report.add("look-up, µs: median, 99 %, longest", latency(table, pids, parent))
    begin = time.monotonic()
    rows = len(table.batch(("pid", "comm", "argv", "ppid"), running=True).dicts())
    report.add("all processes with four fields", f"{rows:,} in {time.monotonic() - begin:.3f} s")
    for what, taken in commands(daemon, parent, pids[0], count):
        words = what.replace(str(parent), "PID").replace(str(pids[0]), "PID")
        report.add(f"`procline {words}`, s", f"{taken:.2f}")
    report.add("memory, MB", memory(daemon))
    return set(pids)


def run(workload: Path, count: int) -> Report:
    """Run all, and return what was measured.

    Raises:
        AssertionError: the tables and /proc differ, or more was lost than was counted.
    """
    report = Report()
    report.add("live processes", f"{count:,}")
    with Daemon() as daemon, daemon.attach() as table:
        report.add("memory before, MB", memory(daemon))
        begin = time.monotonic()
        with crowd(workload, count) as parent:
            made_s = time.monotonic() - begin
            eventually(lambda: len(table.children(parent)) == count, 60 * patience(), 0.1)
            late_s = time.monotonic() - begin - made_s
            report.add("made in, and in the tables after that, s", f"{made_s:.2f}, {late_s:.2f}")
            pids = observe(report, daemon, table, parent, count)
            begin = time.monotonic()
            with Daemon(TINY_RINGS) as second, second.attach() as other:
                report.add("a second instance is ready, s after its start", f"{time.monotonic() - begin:.2f}")
                eventually(lambda: assert_equal(other, parent, count), agrees_s(CROWD_AGREES_S), 1)
                report.add("equal to /proc there, s after its start", f"{time.monotonic() - begin:.2f}")
                report.add("memory of the second instance, MB", memory(second))
                os.kill(parent, signal.SIGKILL)
                begin = time.monotonic()
                eventually(lambda: are_gone(table, pids), 60 * patience(), 0.1)
                report.add("all gone, s after their parent was killed", f"{time.monotonic() - begin:.2f}")
                eventually(lambda: are_gone(other, pids), 60 * patience(), 0.1)
                repaired_s = time.monotonic() - begin
                assert lost(other) > 0, "rings of one page should have lost exits"
                report.add(
                    "the same where exits were lost",
                    f"{repaired_s:.2f} s, {lost(other):,} lost events, {other.stats()['repairs']:,} repairs",
                )
        report.add("memory afterwards, MB", memory(daemon))
        report.add("events that the first instance lost", f"{lost(table):,}")
    return report


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, metavar="N", help="default: all free pids but 4,096")
    parser.add_argument("--pid-max", type=int, default=0, metavar="N", help="raise kernel.pid_max for the run")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="procline-crowd-") as directory,
        highest_pid(options.pid_max),
    ):
        count = min(options.processes or 1 << 22, room())
        print(run(build_workload(Path(directory)), count).table())


if __name__ == "__main__":
    main()
