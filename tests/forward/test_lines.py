"""`--to jsonl`: each event is a line, the file is rotated, and the next forwarder continues behind the last one."""

from __future__ import annotations

import contextlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pipeline.forward.figures import Figures
from pipeline.forward.lines import Lines
from tests.forward.world import Command, Published, host, wait_for

__all__ = ["host"]


def lines_of(*paths: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def seqs(events: list[dict[str, Any]], kind: str) -> list[int]:
    return [event["seq"] for event in events if event["event"] == kind]


@pytest.mark.expensive
@pytest.mark.slow
def test_all_events_are_in_the_file_and_a_restart_goes_on_behind_them(host: Published, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    with contextlib.ExitStack() as stack:
        forward = Command(host.runtime, "--to", f"jsonl:{file}", log=tmp_path / "log")
        stack.callback(forward.kill)
        forward.start()
        wait_for((tmp_path / "events.jsonl.position").exists, "the begin")
        host.go(500)
        host.settle()
        wait_for(lambda: all(max(made) in seqs(lines_of(file), kind) for kind, made in host.events.items()), "events")
        assert forward.stop() == 0
        before = {kind: seqs(lines_of(file), kind) for kind in host.events}
        host.go(500)
        host.settle()
        forward.start()
        wait_for(lambda: all(max(made) in seqs(lines_of(file), kind) for kind, made in host.events.items()), "events")
        assert forward.stop() == 0
    events = lines_of(file)
    assert not [event for event in events if event["event"] == "missed"]
    for kind, made in host.events.items():
        assert seqs(events, kind) == list(range(before[kind][0], max(made) + 1))
    assert (file.stat().st_mode & 0o777) == 0o600


@pytest.mark.expensive
@pytest.mark.slow
def test_standard_output_and_another_format(host: Published, tmp_path: Path) -> None:
    command = Command(
        host.runtime, "--to", "jsonl", "--format", "ecs", log=tmp_path / "log", stdout=subprocess.PIPE
    )  # fmt: skip
    with command:
        host.begin(pause_s=0.05)
        pipe = command.process.stdout
        assert pipe is not None
        found = [json.loads(pipe.readline()) for _ in range(50)]
        assert all("@timestamp" in each and each["host"]["name"] == "host.1" for each in found)
        # No process reads the pipe any more, and the forwarder still ends.
        host.begin(step=200)
        wait_for(lambda: host.count > 3000, "events")
        assert command.stop() == 0


def lines(path: Path, **options: Any) -> Lines:
    defaults: dict[str, Any] = {"file_max_bytes": 1000, "files_max": 2, "figures": Figures()}
    return Lines(path, is_ending=lambda: False, **{**defaults, **options})


def event(seq: int) -> dict[str, Any]:
    return {"event": "exec", "seq": seq, "time_ns": 1000 + seq, "argv": ["caf\udce9", "x" * 100]}


def test_a_file_is_rotated_between_two_lines(tmp_path: Path) -> None:
    file = tmp_path / "e.jsonl"
    out = lines(file)
    out.resume("", 7)
    for seq in range(1, 41):
        out.event(event(seq))
        out.tick()
    out.close()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["e.jsonl", "e.jsonl.1", "e.jsonl.2", "e.jsonl.position"]
    kept = lines_of(tmp_path / "e.jsonl.2", tmp_path / "e.jsonl.1", file)
    assert seqs(kept, "exec") == list(range(kept[0]["seq"], 41)) and 12 < len(kept) < 30
    assert kept[0]["argv"][0] == "caf\udce9"
    assert all(path.stat().st_size < 1200 for path in tmp_path.iterdir())
    again = lines(file)
    position = again.position()
    assert position is not None and position.stream == 7 and position.next == {"proc.exec": 41}
    again.close()


def test_no_old_file_is_kept_if_none_is_wanted(tmp_path: Path) -> None:
    out = lines(tmp_path / "e", files_max=0)
    out.resume("", 7)
    for seq in range(1, 41):
        out.event(event(seq))
        out.tick()
    out.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e", "e.position"]


def test_an_unreadable_position_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "e.position").write_text("{")
    out = lines(tmp_path / "e")
    assert out.position() is None
    out.close()
