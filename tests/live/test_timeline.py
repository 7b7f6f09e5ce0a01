"""`procline timeline` with a real kernel: a tree of processes with its images and ends, live and from a recording."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.live.harness import Daemon
from tests.live.recordings import finish, record
from tests.waiting import eventually

pytestmark = pytest.mark.live

#: A shell that forks a shell, which calls exec twice and fails, and a process in between.
TREE = "sh -c 'exec sh -c \"exec false\"'; /bin/true; exit 5"


def tree() -> int:
    """Run TREE; return its pid."""
    child = subprocess.Popen(["sh", "-c", TREE])
    assert child.wait() == 5
    return child.pid


def check(found: dict[str, Any], pid: int) -> None:
    processes = found["processes"]
    assert [len(processes), processes[0]["pid"]] == [3, pid] and found["left_out"] == 0
    shell, failing, last = processes
    for child in (failing, last):
        assert child["creator_entity_id"] == child["parent_entity_id"] == shell["entity_id"]
        assert shell["start_time_ns"] < child["start_time_ns"] < child["exit_time_ns"] < shell["exit_time_ns"]
    assert [image["comm"] for image in failing["images"]] == ["sh", "sh", "sh", "false"]
    assert [image["is_exec"] for image in failing["images"]] == [False, True, True, True]
    times = [image["time_ns"] for image in failing["images"]]
    assert times == sorted(times) and times[0] == failing["start_time_ns"] and times[-1] < failing["exit_time_ns"]
    assert (failing["exit_cause"], failing["exit_cause_code"], last["exit_code"]) == ("exited", 1, 0)
    assert shell["exit_cause_code"] == 5
    assert found["from_time_ns"] == shell["start_time_ns"] and found["to_time_ns"] == shell["exit_time_ns"]


def test_a_subtree_of_a_live_instance(daemon: Daemon) -> None:
    pid = tree()
    eventually(lambda: daemon.resolved(pid)["exit_time_ns"] is not None)
    done = daemon.cli("timeline", "--json", "--under", str(pid))
    assert done.returncode == 0, done.stderr
    check(json.loads(done.stdout), pid)


def test_a_subtree_of_a_recording(live_kernel: None, tmp_path: Path) -> None:
    file, page = tmp_path / "tree.rec", tmp_path / "tree.html"
    recorder = record(file)
    pid = tree()
    time.sleep(0.2)
    finish(recorder)
    command = [sys.executable, "-m", "pipeline.cli.main", "timeline", "--replay", str(file)]
    done = subprocess.run(
        [*command, "--json", "--under", str(pid), "--html", str(page)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    check(json.loads(done.stdout), pid)
    assert "<h1>Processes: tree.rec; under" in page.read_text()


def test_a_recording_that_was_cut_off_shows_what_is_left(live_kernel: None, tmp_path: Path) -> None:
    file = tmp_path / "tree.rec"
    recorder = record(file)
    tree()
    finish(recorder)
    file.write_bytes(file.read_bytes()[:-3])
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli.main", "timeline", "--replay", str(file), "--json"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "cut off" in done.stderr and json.loads(done.stdout)["processes"]
