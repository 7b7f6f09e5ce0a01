"""The daemon's list of its own processes."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from pipeline.host import processes


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
