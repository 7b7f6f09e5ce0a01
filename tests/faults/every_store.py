"""Kill the resolver of a running daemon in every store of an update, one after another, not by luck.

`python -m tests.faults.every_store` runs one process after another; each forks, executes and ends. The resolver is
killed before the first store that it makes from then on. At the next process it is killed before the second store, and
so on. This ends when it survives a process. Then it was killed before every store of such an update, and of the commits
after it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from pipeline import ProcessTable
from pipeline.errors import BusyError, StaleError
from pipeline.shm.check.validate import violations
from tests.faults import stores
from tests.faults.rounds import Tally, preloaded, sleepers
from tests.live.agreement import assert_agrees
from tests.live.harness import Daemon, build_workload
from tests.live.storms import Watcher, images_of
from tests.waiting import eventually

NAME = "kill the resolver in the update of one process"
PROGRAM = "every-store"
#: For a busy machine; two idle cores need less than two seconds.
WAIT_S = 120.0
#: Rows have checksums. The resolver is killed hundreds of times, soon after each start.
CONFIG = """
[args]
show = "raw"
[tables]
checked = true
chunk_rows = 64
retention_s = 3600
[supervision]
early_deaths_max = 1000
restarts_max = 100000
backoff_max_ms = 0
"""


def run(workload: Path, tally: Tally, numbers: Iterable[int], *, is_silent: bool = True) -> int:
    """Kill the resolver before each of these stores, counted from before a process begins.

    Args:
        workload: the program that each process executes.
        tally: of all rounds.
        numbers: the stores, in increasing order.
        is_silent: prints nothing.

    Returns:
        The number before which the resolver was not killed, because the process caused fewer stores; 0 if there was
        none among `numbers`.

    Raises:
        AssertionError: something that must be true is not.
    """
    survived = made = 0
    parents: set[int] = set()
    # Storms beside this one may have parents with the same pids, but not the name.
    workload = Path(shutil.copy(workload, workload.with_name(PROGRAM)))
    with preloaded(workload, CONFIG) as daemon, daemon.attach() as table, sleepers(1) as (sleeper,):
        with _watching(daemon, sleeper, tally):
            for number in numbers:
                victim = stores.writer(daemon, WAIT_S)
                _wait_until_applied(table)
                stores.kill_before(victim, number)
                begin = time.monotonic()
                # The shell, a parent with another name, waits for a process that forks, executes and ends.
                shell = subprocess.Popen(["sh", "-c", f"{workload} nop; exit 0"])
                shell.wait()
                parents.add(shell.pid)
                made += 1
                if not _is_replaced(table, victim):
                    survived = number
                    os.kill(victim, signal.SIGKILL)  # it would be killed at any later store
                stores.writer(daemon, WAIT_S, victim)
                _wait_until_applied(table)
                if survived:
                    break
                tally.recovered_s[NAME].append(time.monotonic() - begin)
                if not is_silent:
                    print(f"killed before store {number}", file=sys.stderr, flush=True)
                found = violations(daemon.directory)
                assert not found, found[:5]
        _check(daemon, table, parents, made)
        begin = time.monotonic()
        tally.agreement(NAME, begin, lambda: assert_agrees(table, complete=False), WAIT_S)
        tally.made.update(fork=made, exec=made)
        assert daemon.stop() == 0, daemon.log.read_text()[-2000:]
    return survived


@contextmanager
def _watching(daemon: Daemon, pid: int, tally: Tally) -> Iterator[None]:
    """A reader looks up a live process all the time, and gets no wrong answer."""
    with daemon.attach() as table:
        watcher = Watcher(table, pid)
        watcher.start()
        try:
            yield
        finally:
            watcher.stop = True
            watcher.join()
    assert not watcher.wrong, Counter(watcher.wrong)
    assert watcher.answers["right"] > 0
    tally.reads.update(watcher.answers)
    tally.slowest_read_s = max(tally.slowest_read_s, watcher.slowest_s)


def _wait_until_applied(table: ProcessTable) -> None:
    """Wait until all that has happened before this call is in the tables."""
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def is_applied() -> bool:
        try:
            return table.watermark_boot_ns > now and table.resolve(1) is not None
        except (StaleError, BusyError):
            return False

    eventually(is_applied, WAIT_S, 0.005)


def _is_replaced(table: ProcessTable, victim: int) -> bool:
    """Whether the resolver was killed before everything was applied that had happened before this call."""
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    deadline = time.monotonic() + WAIT_S
    while stores.is_alive(victim):
        with suppress(StaleError, BusyError):  # on a busy machine it may be behind
            if table.watermark_boot_ns > now:
                return False
        assert time.monotonic() < deadline
        time.sleep(0.002)
    return True


def _check(daemon: Daemon, table: ProcessTable, parents: set[int], made: int) -> None:
    """Each process is in the tables once, with its exec and its end, and nothing is lost."""
    lost = {kind: number for kind, number in table.stats()["lost"].items() if number}
    assert not lost, lost
    found = images_of(daemon.directory, parents, PROGRAM.encode())  # the image before the exec has the shell's name
    assert (found["exec"], found["alive"]) == (made, 0), (found, made)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--from", type=int, default=1, metavar="N", dest="first", help="number of the first store (default: 1)"
    )
    parser.add_argument("--step", type=int, default=1, metavar="N", help="kill at every N-th store (default: 1)")
    options = parser.parse_args()
    # A shell ignores SIGINT for jobs in the background. Nothing is left behind by either signal.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="procline-faults-") as directory:
        last = run(build_workload(Path(directory)), tally, count(options.first, options.step), is_silent=False)
    print("\n".join(tally.lines()))
    print(f"One process causes fewer than {last} stores.")


if __name__ == "__main__":
    main()
