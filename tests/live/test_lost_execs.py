"""After a counted loss, recorded arguments stay, and a lost exec of a process from the snapshot is noticed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from pipeline import Entry, ProcessTable
from tests.live.harness import Daemon, resolve
from tests.live.storms import full_rings
from tests.waiting import eventually

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("live_kernel")]

CONFIG = """
[args]
show = "raw"
[capture]
ring_bytes = 4096
args_bytes = 256
"""
NO_REPAIR = """
[repair]
min_interval_ms = 3600000
check_interval_s = 0
"""
#: Overwrites its own arguments, as setproctitle() does.
REWRITER = """
import sys
fields = open("/proc/self/stat").read().rpartition(")")[2].split()
start, end = int(fields[45]), int(fields[46])
with open("/proc/self/mem", "r+b", 0) as memory:
    memory.seek(start)
    memory.write(b"sshd: root@pts/0\\0".ljust(end - start, b"\\0"))
print("ready", flush=True)
sys.stdin.read()
"""
#: Forks a child for each line that it reads.
FORKER = """
import os, sys, time
print("ready", flush=True)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    print(child, flush=True)
"""


@contextmanager
def started(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, start_new_session=True)
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for file in (process.stdin, process.stdout):
            if file is not None:
                file.close()


def tell(process: subprocess.Popen[str], line: str) -> str:
    """Write a line to the process; returns its answer."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def wait_until_applied(table: ProcessTable) -> None:
    """Wait until every event that was recorded before this call is in the tables, or is counted as lost."""
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    eventually(lambda: table.watermark_boot_ns > now, 60)


def test_a_process_that_rewrites_its_arguments_keeps_those_of_its_exec() -> None:
    command = [sys.executable, "-c", REWRITER, *(str(number) for number in range(3000))]
    with Daemon(CONFIG, name="rewritten") as daemon, daemon.attach() as table, ExitStack() as stack:
        for _ in range(20):
            process = stack.enter_context(started(command))
            assert process.stdout is not None and process.stdout.readline().strip() == "ready"
            assert Path(f"/proc/{process.pid}/cmdline").read_bytes().startswith(b"sshd: root")
            wait_until_applied(table)  # else its fork may be in the tables, and its exec not yet
            before = table.resolve(process.pid, wait_ms=60_000)
            # Other tests can fill the small rings. Then the exec may be lost, and its image keeps the mark.
            if before is not None and "gap" not in before.marks:
                break
        assert before is not None
        told = before.argv, before.args_truncated, before.argc
        assert told[0] and told[0][:2] == command[:2] and told[1:] == (True, len(command))
        for _ in range(2):  # a repair that already runs when the loss begins may not repair it
            lost, repairs = _losses(daemon)
            with full_rings(daemon):
                pass
            eventually(lambda lost=lost: _losses(daemon)[0] > lost, 60, 0.2)
            eventually(lambda repairs=repairs: _losses(daemon)[1] > repairs, 60, 0.2)
        # Other tests can fill the small rings too, so there may be a gap once more until the next repair.
        eventually(lambda: "gap" not in resolve(table, process.pid).marks)
        after = resolve(table, process.pid)
        assert (after.argv, after.args_truncated, after.argc, after.image_number) == (*told, before.image_number)


def seen_fork(shell: subprocess.Popen[str], table: ProcessTable) -> tuple[int, Entry]:
    """Let the process fork until a fork is recorded as a whole; returns the child.

    Other tests can fill the small rings. Then a fork is lost, or only its header is recorded. A header does not say
    which program forked, so the resolver cannot notice that an exec of the parent was lost: it reads only the child.
    """
    for _ in range(20):
        child = int(tell(shell, "fork"))
        found = table.resolve(child, wait_ms=60_000)
        # Only a whole record names the creator. An entry without one comes from a header or from another event.
        if found is not None and found.creator_pid is not None:
            assert found.creator_pid == shell.pid
            return child, found
    raise AssertionError("none of 20 forks was recorded as a whole")


def _losses(daemon: Daemon) -> tuple[int, int]:
    """Return the number of lost events and of repairs."""
    now = daemon.stat()
    return sum(now["lost"].values()), now["repairs"]


def test_a_lost_exec_of_a_process_from_the_snapshot_shows_at_its_next_fork() -> None:
    with ExitStack() as stack:
        shells = [stack.enter_context(started(["/bin/sh"])) for _ in range(5)]
        for shell in shells:
            assert tell(shell, "echo ready") == "ready"
        daemon = stack.enter_context(Daemon(CONFIG + NO_REPAIR, name="unseen"))
        table = stack.enter_context(daemon.attach())
        old, new = (str(Path(path).resolve()) for path in ("/bin/sh", sys.executable))
        script = Path(daemon.root, "forker.py")
        script.write_text(FORKER)
        with full_rings(daemon):
            for shell in shells:
                assert tell(shell, f"exec {sys.executable} {script}") == "ready"
        # Some of the execs may be in a ring. Before they are applied, a shell would seem to have lost its exec.
        wait_until_applied(table)
        eventually(lambda: _losses(daemon)[0] > 0, 60, 0.1)  # the count follows the events by a beat
        missed = [shell for shell in shells if resolve(table, shell.pid).path == old]
        assert missed, "no exec was lost"
        for shell in missed:
            child, found = seen_fork(shell, table)
            assert found.inode != Path(new).stat().st_ino or found.path != old, "new inode with the old path"
            eventually(lambda child=child: resolve(table, child).path == new, 60)
            eventually(lambda shell=shell: resolve(table, shell.pid).path == new, 60)
            chain = [resolve(table, child), *table.ancestors(child)]
            mine = [entry for entry in chain if entry.pid == child]
            assert any(entry.is_parent_missing and "gap" in entry.marks for entry in mine)
        assert daemon.stat()["counters"]["inode_error_fork_parent_missing"] >= len(missed)
