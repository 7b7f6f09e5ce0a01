"""The daemon's list of its own processes."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.host import processes
from pipeline.host.boot import TICK_NS

PR_SET_NAME = 15


def test_living_processes_are_measured_and_others_left_out(tmp_path: Path) -> None:
    child = subprocess.Popen(["sleep", "100"])
    try:
        (tmp_path / processes.FILE).write_bytes(processes.describe({"supervisor": os.getpid(), "shard-0": child.pid}))
        rows = processes.measure(tmp_path)
        assert [(row["role"], row["pid"]) for row in rows] == [("supervisor", os.getpid()), ("shard-0", child.pid)]
        assert rows[0]["cpu_seconds"] > 0
        assert rows[0]["pss_bytes"] > 1 << 20
        assert rows[1]["pss_bytes"] >= 0
    finally:
        child.kill()
        child.wait()
    assert [row["role"] for row in processes.measure(tmp_path)] == ["supervisor"]


def test_an_old_list_does_not_speak_of_a_successor_of_the_pid(tmp_path: Path) -> None:
    listed = json.loads(processes.describe({"shard-0": os.getpid()}))
    listed["processes"][0]["start_ticks"] -= 1
    (tmp_path / processes.FILE).write_text(json.dumps(listed))
    assert processes.measure(tmp_path) == []


def test_no_list_is_no_processes(tmp_path: Path) -> None:
    assert processes.measure(tmp_path) == []
    (tmp_path / processes.FILE).write_text("{")
    assert processes.measure(tmp_path) == []


def test_threads_and_arguments_are_those_of_the_process_that_is_meant() -> None:
    code = (
        "import threading, time\n"
        "for _ in range(3): threading.Thread(target=time.sleep, args=(100,)).start()\n"
        "print(flush=True)"
    )
    arguments = ["python3", "-c", code, "", "\udcff"]
    with subprocess.Popen(arguments, executable=sys.executable, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        start_ns = int(Path(f"/proc/{child.pid}/stat").read_text().rpartition(") ")[2].split()[19]) * TICK_NS
        for given in (0, start_ns, start_ns + TICK_NS - 1):
            assert processes.thread_count(child.pid, given) == 4
            assert processes.arguments(child.pid, given) == arguments
        assert processes.thread_count(child.pid, start_ns + 10**9) is None
        assert processes.arguments(child.pid, start_ns + 10**9) is None
        child.kill()
        eventually_a_zombie(child.pid)
        assert processes.arguments(child.pid, start_ns) is None
    assert processes.thread_count(child.pid, 0) is None


def test_what_children_have_written_is_not_their_parents(tmp_path: Path) -> None:
    """/proc/PID/io of the shell has both, once it has waited for the child."""
    command = f"head -c 3000000 /dev/zero > {tmp_path}/a; sync {tmp_path}/a; echo; read line"
    with subprocess.Popen(["bash", "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as shell:
        assert shell.stdin is not None and shell.stdout is not None
        shell.stdout.readline()
        found = processes.used(shell.pid, 0)
        counts = dict(line.split(": ") for line in Path(f"/proc/{shell.pid}/io").read_text().splitlines())
        shell.stdin.close()
    assert found is not None
    both = int(counts["write_bytes"])
    if not both:
        pytest.skip("NOT TESTED: the file system of the temporary directory writes to no disk")
    assert both >= 3_000_000 and found["write_bytes"] == 0


def eventually_a_zombie(pid: int) -> None:
    while ") Z " not in Path(f"/proc/{pid}/stat").read_text():
        time.sleep(0.01)


@pytest.mark.parametrize("name", ["²", "\rVmHWM:\t7 kB", "\x1cVmHWM:\t² kB"])
def test_the_name_of_a_process_is_no_line_of_its_numbers(name: str) -> None:
    """A process chooses its name, and the kernel escapes only the end of a line in it."""
    before = Path("/proc/self/comm").read_bytes().removesuffix(b"\n")
    # Not by that file: without root, a process cannot write to it once a test has made the process undumpable.
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_NAME, name.encode(), 0, 0, 0)
    try:
        assert Path("/proc/self/comm").read_bytes() == name.encode() + b"\n"
        found = processes.used(os.getpid(), 0)
    finally:
        prctl(PR_SET_NAME, before, 0, 0, 0)
    assert found is not None and (found["max_rss_bytes"] or 0) > 1 << 20
