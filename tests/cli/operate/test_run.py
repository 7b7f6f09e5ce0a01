"""`procline run`, `wait` and `config`: errors before anything is started, and when an instance counts as ready."""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline import paths
from pipeline.config.loading import load
from pipeline.config.schema import Config
from pipeline.log import get_logger
from pipeline.shm.layout import layout
from tests.cli.conftest import Command


def write_control(state: int, heartbeat_boot_ns: int) -> None:
    directory = paths.instance_dir("default")
    directory.mkdir(parents=True, exist_ok=True)
    header = np.zeros(1, layout.CONTROL)
    header["magic"], header["layout_version"] = layout.MAGIC, layout.LAYOUT_VERSION
    header["state"], header["heartbeat_boot_ns"] = state, heartbeat_boot_ns
    (directory / "control").write_bytes(header.tobytes())


def now() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def test_ready_is_a_complete_table_with_a_living_writer(procline: Command) -> None:
    write_control(layout.STATE_READY, now())
    assert procline("wait", "--timeout", "0").code == 0


@pytest.mark.parametrize(
    ("state", "age_ns"), [(layout.STATE_FILLING, 0), (layout.STATE_STOPPED, 0), (layout.STATE_READY, 10**10)]
)
def test_any_other_state_is_awaited_and_then_reported(procline: Command, state: int, age_ns: int) -> None:
    write_control(state, now() - age_ns)
    begun = time.monotonic()
    done = procline("wait", "--timeout", "0.1")
    assert 0.1 <= time.monotonic() - begun < 5
    assert done.code == 3
    # An instance that starts must not be started again.
    starts = state == layout.STATE_FILLING
    assert ("is still starting after 0.1 s" if starts else "is not ready after 0.1 s") in done.err
    assert ("procline run" in done.err) != starts


def test_settings_are_printed_with_their_origin(procline: Command, tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text("[merge]\nstall_ms = 99\n")
    done = procline("config", "--config", str(file), "--set", "log.level=debug")
    assert done.code == 0
    assert f"stall_ms = 99  # {file}" in done.out and 'level = "debug"  # command line' in done.out
    printed = tmp_path / "y.toml"
    printed.write_text(done.out)
    assert load(printed).merge.stall_ms == 99
    assert json.loads(procline("config", "--json").out)["merge"]["stall_ms"] == Config().merge.stall_ms


def test_a_good_file_passes_quietly_and_a_bad_one_is_explained(procline: Command, tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text("[merge]\nstall_ms = 99\n")
    assert procline("config", "--config", str(file), "--check") == (0, "", "")
    file.write_text("[merge]\nstall_m = 99\n")
    done = procline("config", "--config", str(file), "--check")
    assert done.code == 2 and "did you mean stall_ms?" in done.err


def test_the_example_can_be_used(procline: Command, tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text(procline("config", "--example").out)
    assert procline("config", "--config", str(file), "--check").code == 0


def test_a_runtime_directory_on_disk_is_refused(procline: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROCLINE_RUNTIME_DIR", "/proc/x")
    done = procline("run")
    assert done.code == 2 and "not on tmpfs" in done.err


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("replay:/nonexistent/x", "/nonexistent/x"),
        ("replay:/etc/passwd", "passwd"),
    ],
)
def test_a_source_that_is_not_there_leaves_nothing_behind(procline: Command, source: str, expected: str) -> None:
    done = procline("run", "--source", source)
    assert done.code == 2 and expected in done.err
    assert len(done.err.splitlines()) == 1
    assert not paths.instance_dir("default").exists()


def test_packages_that_only_the_daemon_needs_are_named(procline: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(__import__("sys").modules, "pipeline.log", raising=False)
    monkeypatch.delattr("pipeline.log", raising=False)
    monkeypatch.delitem(__import__("sys").modules, "pythonjsonlogger.json", raising=False)
    monkeypatch.setitem(__import__("sys").modules, "pythonjsonlogger", None)  # type: ignore[arg-type]
    done = procline("run")
    assert done.code == 2 and "pip install 'procline[daemon]'" in done.err


def test_packages_of_workers_are_checked_before_any_worker_starts(
    procline: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "re2" else find_spec(name))
    done = procline("run", "--source", "tracer")
    assert done.code == 2 and "'re2' is not installed" in done.err and "procline[daemon]" in done.err
    assert not paths.instance_dir("default").exists()


@pytest.mark.parametrize("command", ["run", "replay"])
def test_a_start_of_more_than_a_second_shows_itself_until_it_is_ready(
    procline: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str
) -> None:
    now_s = [100.0]

    class Supervisor:
        def __init__(self, settings: Config, name: str, starting: Callable[[bool], None]) -> None:
            self._starting = starting

        def run(self) -> int:
            for is_ready in (False, False, True, False):
                now_s[0] += 0.7
                self._starting(is_ready)
                if now_s[0] > 101:
                    get_logger().info("a line")
            return 0

    monkeypatch.setattr("pipeline.supervisor.Supervisor", Supervisor)
    monkeypatch.setattr("time.monotonic", lambda: now_s[0])
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    for name, value in (("TERM", "xterm"), ("NO_COLOR", "1"), ("COLUMNS", "200")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("pipeline.cli.operate.settings.check", lambda *_: None)
    file = tmp_path / "x.rec"
    arguments = ("run", "--source", f"replay:{file}") if command == "run" else ("replay", str(file))
    shown = procline(*arguments, "--name", "x").err
    assert shown.startswith(f"\rreplaying {file}  1 s\033[K\r\r\033[K"), "it is removed before a line of the log"
    assert shown.count("replaying") == 1 and shown.count("a line") == 3
