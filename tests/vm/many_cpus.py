"""Measure the cost of an instance on a host with many CPUs, and whether it counts every event there. Run it in a guest.

    tests/vm/run --cpus 32 --timeout 1500 -- .venv/bin/python tests/vm/many_cpus.py

It starts a daemon with default settings and prints its start time, its memory and its CPU time while nothing happens.
Then a storm runs on each CPU at the same time. Afterwards seen and lost events of each kind must be as many as were
made. With --full, a second daemon with rings of one page must lose events in the same storm, and count all of them.

Exit code 1: an event is missing or too many, or the memory is above the limit. Nothing else may run in the guest.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from pipeline import ProcessTable  # noqa: E402
from pipeline.bpf.host import online_cpus, possible_cpus  # noqa: E402
from pipeline.config.loading import load  # noqa: E402
from pipeline.errors import ProclineError  # noqa: E402
from pipeline.host import processes  # noqa: E402
from pipeline.supervisor.footprint import estimate  # noqa: E402
from tests.live.harness import Daemon, build_workload  # noqa: E402
from tests.live.memory import kernel_bytes, process_bytes  # noqa: E402

MEMORY_LIMIT_BYTES = 200 * 10**6
START_S = 1500
KINDS = ("fork", "exec", "exit")


@contextmanager
def daemon(config: str = "") -> Iterator[tuple[Daemon, ProcessTable, float]]:
    """Run a daemon; yields it, its tables, and the seconds until it was ready. Emulated CPUs need minutes for a start.

    No command of Procline runs meanwhile: to start Python takes seconds there.
    """
    running = Daemon(f"{config}\n[supervision]\nstart_timeout_s = 600\n")
    began = time.monotonic()
    try:
        running.start(wait=False)
        table = None
        while table is None or table.stats()["state"] != "ready":
            if running.process is None or running.process.poll() is not None or time.monotonic() > began + START_S:
                raise SystemExit(f"not ready:\n{running.log.read_text()}")
            time.sleep(0.5)
            with suppress(ProclineError):
                table = table or running.attach()
        yield running, table, time.monotonic() - began
    finally:
        running.close()


def cpu_seconds(running: Daemon) -> dict[str, float]:
    """Return the CPU time of each process of the daemon, by role."""
    return {one["role"]: one["cpu_seconds"] for one in processes.measure(running.directory, with_memory=False)}


def counts(table: ProcessTable) -> dict[str, int]:
    """Return how many events of each kind were seen or counted as lost."""
    stats = table.stats()
    return {kind: stats["events"][kind] + stats["lost"].get(kind, 0) for kind in KINDS}


def quiet(table: ProcessTable) -> dict[str, int]:
    """Return the counts when they have not changed for some time."""
    before, since = counts(table), time.monotonic()
    while time.monotonic() - since < 5:
        time.sleep(0.5)
        now = counts(table)
        if now != before:
            before, since = now, time.monotonic()
    return before


def storm(program: Path, cpus: list[int], forks: int, execs: int) -> float:
    """Run a workload on each CPU at the same time; return the seconds that it took."""
    began = time.monotonic()
    allowed = os.sched_getaffinity(0)
    running = []
    for cpu in cpus:
        os.sched_setaffinity(0, {cpu})  # the child inherits it
        running.append(subprocess.Popen([program, "storm", str(forks), str(execs), "4"], stdout=subprocess.DEVNULL))
    os.sched_setaffinity(0, allowed)
    assert not any(process.wait() for process in running)
    return time.monotonic() - began


def check_storm(name: str, table: ProcessTable, program: Path, forks: int, execs: int) -> tuple[bool, int]:
    """Run a storm, and compare what was made with what was seen or lost; return (all is counted, lost events)."""
    cpus = online_cpus()
    before, lost_before = quiet(table), sum(table.stats()["lost"].values())
    seconds = storm(program, cpus, forks, execs)
    after = quiet(table)
    stats = table.stats()
    made = {"fork": forks + execs + 1, "exec": execs + 1, "exit": forks + execs + 1}
    found = {kind: after[kind] - before[kind] for kind in KINDS}
    wanted = {kind: count * len(cpus) for kind, count in made.items()}
    lost = sum(stats["lost"].values()) - lost_before
    print(f"{name}: {sum(wanted.values())} events on {len(cpus)} CPUs in {seconds:.1f} s: lost {lost}, "
          f"late {stats['late']}, seen + lost {found}, made {wanted}", flush=True)  # fmt: skip
    return found == wanted, lost


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forks", type=int, default=200, help="of each CPU; default: %(default)d")
    parser.add_argument("--execs", type=int, default=20, help="of each CPU; default: %(default)d")
    parser.add_argument("--idle", type=float, default=20, help="seconds; default: %(default)g")
    parser.add_argument("--full", action="store_true", help="also with rings that are too small")
    parser.add_argument("--workload", type=Path, help="built by tests/live/harness.py; default: build it")
    options = parser.parse_args()
    is_good = True
    online, possible = online_cpus(), possible_cpus()
    with tempfile.TemporaryDirectory() as directory:
        program = options.workload or build_workload(Path(directory))
        with daemon() as (running, table, ready_s):
            print(f"{len(online)} CPUs online, {len(possible)} possible; ready after {ready_s:.1f} s", flush=True)
            pids = {one["role"]: one["pid"] for one in processes.measure(running.directory, with_memory=False)}
            rings, maps = kernel_bytes(pids["supervisor"])
            own = {role: process_bytes(pid) for role, pid in pids.items()}
            tables = sum(file.stat().st_blocks * 512 for file in running.directory.rglob("*") if file.is_file())
            total = rings + maps + sum(own.values()) + tables
            shown = ", ".join(f"{role} {size / 1e6:.1f}" for role, size in own.items())
            print(f"memory, MB: rings {rings / 1e6:.1f}, other maps {maps / 1e6:.1f}, {shown}, "
                  f"tables {tables / 1e6:.1f}: {total / 1e6:.1f}", flush=True)  # fmt: skip
            expected = estimate(load(environ={}), len(online), len(possible))
            print(f"estimate of procline doctor, MB: kernel {expected.kernel_bytes / 1e6:.1f}, processes "
                  f"{expected.processes_bytes / 1e6:.1f}: {expected.start_bytes / 1e6:.1f}", flush=True)  # fmt: skip
            is_good &= total <= MEMORY_LIMIT_BYTES
            quiet(table)
            before = cpu_seconds(running)
            time.sleep(options.idle)
            used = {role: 100 * (end - before[role]) / options.idle for role, end in cpu_seconds(running).items()}
            print("idle, % of a CPU: " + ", ".join(f"{role} {share:.2f}" for role, share in used.items()), flush=True)
            is_counted, lost = check_storm("default rings", table, program, options.forks, options.execs)
            is_good &= is_counted
            print("processes afterwards: " + ", ".join(cpu_seconds(running)), flush=True)
        if options.full:
            with daemon("[capture]\nring_bytes = 4096\n") as (running, table, _):
                is_counted, lost = check_storm("rings of one page", table, program, options.forks, options.execs)
                is_good &= is_counted and lost > 0
    print("all is counted, and the memory is below the limit" if is_good else "NOT AS PROMISED", flush=True)
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
