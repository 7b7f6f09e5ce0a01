"""The use of a process is the same in its entry, its exit event and `procline cost`, and as wait4() says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline import Subscriber
from pipeline.shm.layout.entry_fields import EXIT_FIELDS
from tests.live.harness import Daemon
from tests.waiting import eventually

pytestmark = pytest.mark.live

MS = 1_000_000
#: Uses time in user mode, some memory, and waits for two children that do so too.
WORK = """
import os, time
block = bytearray(48 << 20)
def use(ms):
    end = time.process_time_ns() + ms * 1_000_000
    while time.process_time_ns() < end:
        pass
for _ in range(2):
    pid = os.fork()
    if pid == 0:
        use(60)
        os._exit(3)
    os.waitpid(pid, 0)
use(80)
"""


def run_to_end(*command: str) -> tuple[int, Any]:
    """Run a command; return its pid and what wait4() says."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, _, usage = os.wait4(process.pid, 0)
    process.returncode = 0
    return process.pid, usage


def exited(daemon: Daemon, pid: int) -> dict[str, Any]:
    """Return the entry of a process that has exited, as soon as the tables know that."""
    found: dict[str, Any] = {}

    def has_exited() -> bool:
        found.update(daemon.resolved(pid))
        return found["exit_time_ns"] is not None

    eventually(has_exited)
    return found


def test_entry_event_and_command_agree_with_wait4(daemon: Daemon) -> None:
    with Subscriber(daemon.name, ["proc.exit"], path=daemon.directory) as subscriber:
        pid, usage = run_to_end(sys.executable, "-c", WORK)
        entry = exited(daemon, pid)
        deadline = time.monotonic() + 60
        event = None
        while event is None and time.monotonic() < deadline:
            event = next((each for each in subscriber.read(timeout=1) if each.get("pid") == pid), None)
    assert event is not None
    assert {name: event[name] for name in EXIT_FIELDS} == {name: entry[name] for name in EXIT_FIELDS}
    waited = round((usage.ru_utime + usage.ru_stime) * 1e9)
    counted = entry["cpu_user_ns"] + entry["cpu_system_ns"] + entry["children_cpu_ns"]
    # Less by what the end of the process itself needed.
    assert waited - max(20 * MS, waited // 20) < counted <= waited + 1000
    assert 120 * MS <= entry["children_cpu_ns"] < counted - 80 * MS
    assert entry["max_rss_bytes"] >= 48 << 20
    assert entry["minor_faults"] > 1000

    found = json.loads(daemon.cli("cost", "--under", str(pid), "--json").stdout)
    total = found["total"]
    assert (total["processes"], total["live"], total["unknown"]) == (3, 0, 0)
    assert abs(total["cpu_ns"] - counted) < 1000  # the children's records and the rest are the kernel's count
    assert 0 < total["rest_cpu_ns"] < counted
    text = daemon.cli("cost", "--under", str(pid)).stdout
    assert "CPU" in text.splitlines()[0] and os.path.realpath(sys.executable) in text
    stacks = daemon.cli("cost", "--under", str(pid), "--folded", "-").stdout.splitlines()
    name = Path(os.path.realpath(sys.executable)).name
    weights = dict(line.rsplit(" ", 1) for line in stacks)
    assert set(weights) == {name, f"{name};{name}", f"{name};(ended)"}
    assert abs(sum(map(int, weights.values())) * 1000 - total["cpu_ns"]) < 10_000


def test_a_live_process_counts_with_what_it_has_used_so_far(daemon: Daemon) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WORK + "\nprint(flush=True)\nimport sys; sys.stdin.read()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        process.stdout.readline()
        entry = json.loads(daemon.cli("resolve", str(process.pid), "--json").stdout)
        assert {entry[name] for name in EXIT_FIELDS} == {None}
        total = json.loads(daemon.cli("cost", "--under", str(process.pid), "--json").stdout)["total"]
        process.stdin.close()
    assert (total["processes"], total["live"], total["unknown"]) == (3, 1, 0)
    assert total["cpu_ns"] >= 180 * MS
    assert total["max_rss_bytes"] >= 48 << 20


def test_without_ebpf_it_is_unknown() -> None:
    with Daemon("", "--source", "proc-connector") as daemon:
        pid, _ = run_to_end("/bin/sleep", "1")
        entry = exited(daemon, pid)
        assert {entry[name] for name in EXIT_FIELDS} == {None}
