"""An instance is healthy if it is ready, loses nothing, is not behind, and sees a process begin and end."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from ansible.module_utils import basic
from ansible_collections.procline.procline.plugins.modules import health

NS = 1_000_000


def stat(**changed):
    """Return figures as `procline stat --json` prints them."""
    return {"state": "ready", "lost": {"fork": 0, "exec": 0}, "watermark_lag_ns": 3 * NS, "behind_ns": 0, **changed}


@pytest.fixture
def healthy(command):
    """Answer as a healthy instance without a probe."""
    command.answer("version", out={"procline": "0.1.0"})
    command.answer("stat", out=stat())
    return command


def test_a_healthy_instance_passes(run, healthy):
    result = run(health, probe=False)
    assert "failed" not in result
    assert (result["changed"], result["version"], result["lost"]) == (False, "0.1.0", 0)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"state": "filling"}, "state filling, not ready"),
        ({"lost": {"fork": 2, "exec": 1}}, "3 records were lost"),
        ({"watermark_lag_ns": 1001 * NS}, "behind by 1001 ms"),
        ({"behind_ns": 4000 * NS}, "behind by 4000 ms"),
        ({"watermark_lag_ns": None}, "not applied anything"),
    ],
)
def test_an_unhealthy_instance_fails_with_the_reason(run, command, changed, reason):
    command.answer("version", out={"procline": "0.1.0"})
    command.answer("stat", out=stat(**changed))
    result = run(health, timeout=0, probe=False)
    assert result["failed"]
    assert reason in result["msg"]
    assert result["stat"] == stat(**changed)


@pytest.mark.parametrize(("lost", "before", "counted"), [(5, 5, 0), (7, 5, 2), (3, 5, 3)])
def test_records_that_were_lost_before_do_not_count(run, command, lost, before, counted):
    command.answer("version", out={"procline": "0.1.0"})
    command.answer("stat", out=stat(lost={"fork": lost}))
    result = run(health, timeout=0, probe=False, lost_before=before)
    assert result["lost"] == counted
    assert result.get("failed", False) == (counted > 0)


def test_an_instance_that_becomes_ready_in_time_passes(run, command):
    command.answer("version", out={"procline": "0.1.0"})
    command.answer("stat", code=3, err="'default' is not running")
    command.answer("stat", out=stat(state="filling"))
    command.answer("stat", out=stat())
    assert "failed" not in run(health, probe=False)


def test_another_version_fails(run, healthy):
    assert "version 0.1.0 is installed, not 0.2.0" in run(health, version="0.2.0", probe=False)["msg"]


class Host:
    """Answers look-ups of processes from /proc, and remembers those that ended."""

    def __init__(self, command, **changed):
        self.command = command
        self.changed = changed

    def __call__(self, argv, **kwargs):
        """Take the place of AnsibleModule.run_command."""
        if argv[1] != "resolve":
            return self.command(argv, **kwargs)
        pid = int(argv[2])
        is_live = Path(f"/proc/{pid}").exists()
        entry = {
            "pid": pid,
            "ppid": os.getpid(),
            "path": "/usr/bin/sleep",
            "exec_time_ns": 1,
            "exit_time_ns": None if is_live else 2,
        }
        entry.update(self.changed)
        return (0, json.dumps(entry), "") if self.changed.get("pid", pid) else (1, "", "not found")


@pytest.fixture
def host(monkeypatch, healthy):
    """Make a host with changed answers."""

    def make(**changed):
        monkeypatch.setattr(basic.AnsibleModule, "run_command", Host(healthy, **changed))

    return make


def test_the_probe_is_seen_and_ended(run, host):
    host()
    result = run(health)
    assert "failed" not in result
    assert result["probe"]["path"] == "/usr/bin/sleep"
    assert not Path(f"/proc/{result['probe']['pid']}").exists()


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"pid": 0}, "does not show process"),
        ({"ppid": 1}, "shows 1 as parent"),
        ({"exec_time_ns": None}, "executed a program and lives"),
        ({"exit_time_ns": None}, "has ended"),
    ],
)
def test_a_process_that_is_not_seen_fails(run, host, changed, reason):
    host(**changed)
    result = run(health, timeout=0.5)
    assert result["failed"]
    assert reason in result["msg"]
