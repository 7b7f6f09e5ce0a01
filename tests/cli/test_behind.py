"""An instance that is behind is reported as running by `stat`, look-ups, `wait` and `doctor`; `stat` still shows it."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest

from pipeline.bpf import probe
from pipeline.shm.layout import layout
from tests.cli.conftest import Command
from tests.shm.handmade import Tables

BEHIND_S = 30


@pytest.fixture
def behind(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> Tables:
    """Tables of a live writer (this process) with a last heartbeat half a minute ago."""
    monkeypatch.setattr("pipeline.cli.common.PATIENCE_S", 0.05)
    tables = Tables(runtime / "default")
    tables.row(7)
    tables.commit(1, watermark_boot_ns=time.clock_gettime_ns(time.CLOCK_BOOTTIME) - BEHIND_S * 10**9)
    tables.heartbeat(age_s=BEHIND_S)
    return tables


def test_stat_shows_an_instance_that_is_behind(procline: Command, behind: Tables) -> None:
    done = procline("stat", "--json")
    assert done.code == 0
    assert "instance 'default' is running, behind by 3" in done.err and "procline run" not in done.err
    stats = json.loads(done.out)
    assert stats["state"] == "ready"
    for name in ("behind_ns", "heartbeat_age_ns", "watermark_lag_ns"):
        assert BEHIND_S * 10**9 <= stats[name] < (BEHIND_S + 60) * 10**9
    done = procline("stat")
    assert done.code == 0 and "is running, behind by" in done.err and "default: behind by 3" in done.out
    behind.heartbeat()
    assert procline("stat").err == ""


@pytest.mark.parametrize(
    "arguments", [["resolve", "7"], ["resolve", "8"], ["dump", "--json"], ["tree"], ["children", "7"]]
)
def test_look_ups_of_an_instance_that_is_behind_ask_for_a_retry(
    procline: Command, behind: Tables, arguments: list[str]
) -> None:
    done = procline(*arguments)
    assert done.code == 75 and done.out == ""
    assert "is running, behind by 3" in done.err and "again" in done.err
    assert "not running" not in done.err and "procline run" not in done.err


def test_wait_and_doctor_report_an_instance_that_is_behind_as_running(
    procline: Command, behind: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = procline("wait", "--timeout", "0.05")
    assert done.code == 75 and "is running, behind by 3" in done.err and len(done.err.splitlines()) == 1
    monkeypatch.setattr(probe, "findings", lambda *_: [])
    checks = {check["name"]: check for check in json.loads(procline("doctor", "--json").out)["checks"]}
    assert "'default' is running, behind by 3" in checks["instance"]["detail"]
    assert "log" in checks["instance"]["hint"]


def test_an_instance_with_an_ended_writer_does_not_run(procline: Command, behind: Tables) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    behind.control["writer_tgid"] = ended.pid
    for arguments in (["stat"], ["dump", "--json"], ["resolve", "7"]):
        done = procline(*arguments)
        assert done.code == 3 and "is not running" in done.err and "procline run" in done.err
    done = procline("wait", "--timeout", "0.05")
    assert done.code == 3 and "is not ready" in done.err


def test_an_instance_that_is_being_filled_is_not_behind(procline: Command, behind: Tables) -> None:
    behind.control["state"] = layout.STATE_FILLING
    done = procline("wait", "--timeout", "0.05")
    assert done.code == 3 and "is still starting" in done.err
