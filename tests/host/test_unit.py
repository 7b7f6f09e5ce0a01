"""The lines of `procline doctor` about the systemd units."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from pipeline.host import unit

LOADED = {"LoadState": "loaded", "ActiveState": "failed", "SubState": "failed", "NRestarts": "0"}


def failed(
    result: str, status: int = 0, said: str = "", service: unit.Service = unit.DAEMON, **changes: str
) -> unit.UnitState:
    found = unit.explain(service, {**LOADED, "Result": result, "ExecMainStatus": str(status), **changes}, said)
    assert found is not None and found.ok is False
    return found


@pytest.mark.parametrize(
    ("result", "status", "reason", "hint"),
    [
        ("exit-code", 2, "exit code 2, the daemon cannot run with these settings", "correct what the last line says"),
        ("exit-code", 4, "exit code 4, a process of the daemon ended repeatedly", "journalctl -u procline.service"),
        ("exit-code", 203, "the program of ExecStart= cannot be executed", "install the package again"),
        ("exit-code", 217, "its user does not exist", "systemd-sysusers"),
        ("exit-code", 99, "exit code 99", "journalctl"),
        ("start-limit-hit", 4, "exit code 4", "journalctl"),
        ("start-limit-hit", 0, "it was started too often", "journalctl"),
        ("oom-kill", signal.SIGKILL, "more memory than it may use", "MemoryMax="),
        ("watchdog", signal.SIGABRT, "did not report within WatchdogSec=", "suspended"),
        ("timeout", signal.SIGKILL, "not ready, or did not stop, in time", "TimeoutStartSec="),
        ("core-dump", signal.SIGSYS, "a system call that SystemCallFilter= forbids", "drop-in"),
        ("signal", signal.SIGSEGV, "killed by SIGSEGV", "journalctl"),
        ("a new one", 0, "a new one", "journalctl"),
    ],
)
def test_each_failure_has_a_reason_and_a_remedy(result: str, status: int, reason: str, hint: str) -> None:
    found = failed(result, status)
    assert reason in found.detail and hint in found.hint
    assert "systemctl reset-failed procline.service" in found.hint


@pytest.mark.parametrize(
    ("service", "result", "status", "reason", "hint"),
    [
        (unit.FORWARDER, "exit-code", 2, "cannot forward with these settings or secrets", "procline forward --check"),
        (unit.FORWARDER, "exit-code", 1, "an unexpected error", "journalctl -u procline-forward.service"),
        (unit.FORWARDER, "exit-code", 243, "its credentials cannot be read", "/etc/credstore"),
        (unit.FORWARDER, "start-limit-hit", 0, "started too often", "journalctl -u procline-forward.service"),
        (unit.FORWARDER, "watchdog", signal.SIGABRT, "did not report within WatchdogSec=", "suspended"),
        (unit.FLEET_STORE, "exit-code", 2, "cannot store with these options", "/etc/procline/fleet-ingest.env"),
        (unit.FLEET_STORE, "exit-code", 203, "/opt/procline-fleet/bin/procline", "pip install 'procline[fleet]'"),
        (unit.FLEET_STORE, "resources", 0, "could not provide what the unit asks for", "PROCLINE_FLEET_FROM=ADDRESS"),
        (unit.FLEET_STORE, "oom-kill", signal.SIGKILL, "more memory", "--memory"),
    ],
)
def test_other_units_have_reasons_and_remedies_of_their_own(
    service: unit.Service, result: str, status: int, reason: str, hint: str
) -> None:
    found = failed(result, status, service=service)
    assert found.detail.startswith(f"{service.unit} has failed: ") and reason in found.detail and hint in found.hint
    assert f"systemctl reset-failed {service.unit}; systemctl start {service.unit}" in found.hint
    assert "{unit}" not in found.hint


@pytest.mark.parametrize("service", [unit.FORWARDER, unit.FLEET_STORE])
def test_an_optional_unit_that_is_not_enabled_needs_no_remedy(service: unit.Service) -> None:
    off = {**LOADED, "ActiveState": "inactive", "SubState": "dead", "Result": "success", "UnitFileState": "disabled"}
    assert unit.explain(service, off) == unit.UnitState(None, f"{service.unit} is not enabled")
    stopped = unit.explain(service, {**off, "UnitFileState": "enabled"})
    assert stopped is not None and stopped.ok is None and stopped.hint == f"systemctl enable --now {service.unit}"
    daemon = unit.explain(unit.DAEMON, off)
    assert daemon is not None and daemon.hint == "systemctl enable --now procline.service"


def test_each_unit_that_is_packaged_is_explained() -> None:
    packaged = Path(__file__).parents[2] / "packaging/systemd"
    assert {service.unit for service in unit.SERVICES} == {path.name for path in packaged.glob("*.service")}


def test_its_own_last_error_is_quoted() -> None:
    found = failed("exit-code", 2, "procline: access.group: this host has no group 'x'")
    assert "access.group: this host has no group 'x'" in found.detail


@pytest.mark.parametrize("state", ["auto-restart", "auto-restart-queued"])
def test_a_unit_that_waits_for_its_restart_has_failed(state: str) -> None:
    assert "exit code 4" in failed("exit-code", 4, ActiveState="activating", SubState=state).detail


@pytest.mark.parametrize(
    ("properties", "ok", "text"),
    [
        ({"LoadState": "loaded", "ActiveState": "active", "NRestarts": "0"}, True, "is running"),
        ({"LoadState": "loaded", "ActiveState": "active", "NRestarts": "3"}, True, "restarted 3 times"),
        ({"LoadState": "loaded", "ActiveState": "active", "NeedDaemonReload": "yes"}, True, "files have changed"),
        ({"LoadState": "loaded", "ActiveState": "inactive", "SubState": "dead", "Result": "success"}, None, "inactive"),
        ({"LoadState": "masked", "ActiveState": "inactive"}, None, "masked"),
        ({"LoadState": "bad-setting", "ActiveState": "inactive"}, False, "cannot be loaded"),
    ],
)
def test_other_states(properties: dict[str, str], ok: bool | None, text: str) -> None:
    found = unit.explain(unit.DAEMON, properties)
    assert found is not None and found.ok is ok and text in found.detail


@pytest.mark.parametrize("properties", [{}, {"LoadState": "not-found", "ActiveState": "inactive"}])
def test_nothing_is_said_where_there_is_no_unit(properties: dict[str, str]) -> None:
    assert all(unit.explain(service, properties) is None for service in unit.SERVICES)


def test_it_asks_systemd_and_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {
        "systemctl": "LoadState=loaded\nActiveState=failed\nSubState=failed\nResult=exit-code\nExecMainStatus=2\n"
        "InvocationID=abc\nStatusText=a=b",
        "journalctl": "procline: no BTF here",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\necho \"$@\" >> {tmp_path}/asked\nprintf '%s\\n' '{text}'\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setattr(unit, "_PATH", f"{tmp_path}:{unit._PATH}")
    monkeypatch.setattr(unit, "_BOOTED", tmp_path)
    found = unit.state(unit.DAEMON)
    assert found is not None and found.ok is False
    assert 'it said: "procline: no BTF here"' in found.detail
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked[0].startswith("show procline.service") and asked[1].endswith("_SYSTEMD_INVOCATION_ID=abc")
    monkeypatch.setattr(unit, "_BOOTED", tmp_path / "none")
    assert unit.state(unit.DAEMON) is None
