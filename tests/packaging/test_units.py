"""The files of the service agree with the settings, and the unit is as confined as the documentation says."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from pipeline.cli.commands import EXIT_USAGE
from pipeline.cli.operate.fleet import STORE_VARIABLE
from pipeline.config.schema import Config

ROOT = Path(__file__).resolve().parents[2]
SYSTEMD = ROOT / "packaging" / "systemd"
UNIT = SYSTEMD / "procline.service"
FORWARD = SYSTEMD / "procline-forward.service"
#: systemd-analyze security: 0 is fully confined, 10 not at all. Each unit has a limit, and a page with its rating.
INGEST = SYSTEMD / "procline-fleet-ingest.service"
EXPOSURE_MAX = {
    UNIT: (2.5, "docs/operations.md"), FORWARD: (1.6, "docs/forward.md"), INGEST: (1.4, "docs/fleet.md"),
}  # fmt: skip


def service(unit: Path = UNIT) -> dict[str, list[str]]:
    """Return the settings of [Service], each with all of its values."""
    section, found = "", {}
    for line in unit.read_text().splitlines():
        if line.startswith("["):
            section = line
        elif section == "[Service]" and line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


@pytest.mark.parametrize("unit", EXPOSURE_MAX, ids=lambda unit: unit.stem)
def test_it_is_confined_as_documented(unit: Path, missing: Callable[[str], NoReturn]) -> None:
    limit, page = EXPOSURE_MAX[unit]
    if shutil.which("systemd-analyze") is None:
        missing("systemd-analyze is not installed")
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", f"--threshold={limit * 10:g}", unit],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-400:]
    assert "Unknown" not in done.stderr
    shown = re.search(rf"Overall exposure level for {re.escape(unit.name)}: ([\d.]+)", done.stdout)
    stated = re.search(r"`systemd-analyze security` rates it ([\d.]+)", (ROOT / page).read_text())
    assert shown and stated and shown[1] == stated[1]


def test_times_leave_room_for_those_of_the_daemon() -> None:
    found, settings = service(), Config().supervision
    assert seconds(found["TimeoutStartSec"][0]) >= settings.start_timeout_s + 20
    assert seconds(found["TimeoutStopSec"][0]) >= 2 * settings.stop_timeout_s + 5
    assert found["RestartPreventExitStatus"] == [str(EXIT_USAGE)]


def test_what_the_daemon_needs_is_not_forbidden() -> None:
    found = service()
    assert found["AmbientCapabilities"] == found["CapabilityBoundingSet"]
    assert not {"ProtectProc", "ProcSubset", "PrivateUsers", "PrivatePIDs"} & set(found)
    assert found["RuntimeDirectoryPreserve"] == ["restart"]
    assert "supervision.keep_tables=true" in found["ExecStart"][0]
    # A worker must get its SIGTERM from the supervisor, after those before it have drained.
    assert found["KillMode"] == ["mixed"]


def test_the_forwarder_shares_the_hardening_of_the_daemon_and_has_no_capability() -> None:
    daemon, forward = service(), service(FORWARD)
    own = {
        "ExecStart", "AmbientCapabilities", "CapabilityBoundingSet", "User", "Group", "SystemCallFilter", "WatchdogSec",
        "TimeoutStartSec", "TimeoutStopSec", "RuntimeDirectory", "RuntimeDirectoryMode", "RuntimeDirectoryPreserve",
        "KillMode", "IPAddressDeny", "IPAddressAllow", "LimitMEMLOCK", "Nice",
    }  # fmt: skip
    shared = set(daemon) - own
    assert {key: forward.get(key) for key in shared} == {key: daemon[key] for key in shared}
    assert forward["AmbientCapabilities"] == forward["CapabilityBoundingSet"] == [""]
    refused = set(forward["SystemCallFilter"][1].removeprefix("~").split())
    assert set(daemon["SystemCallFilter"][1].removeprefix("~").split()) < refused
    assert "@privileged" in refused and "bpf" not in forward["SystemCallFilter"][0]


def test_the_forwarder_may_write_its_spool_and_read_the_stream() -> None:
    found = service(FORWARD)
    assert found["StateDirectory"] == ["procline-forward"] and found["StateDirectoryMode"] == ["0700"]
    assert "--spool %S/procline-forward/" in found["ExecStart"][0]
    # Not the daemon's user: it needs only what any reader may.
    assert found["User"] != service()["User"] and found["SupplementaryGroups"] == service()["Group"]
    assert seconds(found["TimeoutStopSec"][0]) >= Config().forward.drain_s + 20
    assert found["ImportCredential"] == ["procline-forward.*"]


def test_the_fleet_store_is_confined_like_the_forwarder() -> None:
    forward, ingest = service(FORWARD), service(INGEST)
    own = {
        "ExecStart", "User", "SupplementaryGroups", "StateDirectory", "ImportCredential", "EnvironmentFile",
        "Environment", "WatchdogSec", "TimeoutStopSec", "SystemCallFilter",
    }  # fmt: skip
    # The forwarder's libzmq needs a system call more.
    assert ingest["SystemCallFilter"] == forward["SystemCallFilter"][:-1]
    assert {key: value for key, value in ingest.items() if key not in own} == {
        key: value for key, value in forward.items() if key not in own
    }
    assert "SupplementaryGroups" not in ingest  # it reads nothing of the daemon
    (store,) = ingest["Environment"]
    assert store == f"{STORE_VARIABLE}=%S/{ingest['StateDirectory'][0]}/store"
    assert ingest["ImportCredential"] == ["procline-fleet-ingest.*"]


@pytest.mark.parametrize("path", sorted((SYSTEMD / "drop-ins").iterdir()), ids=lambda path: path.stem)
def test_drop_ins_are_correct_and_documented(path: Path) -> None:
    parser = configparser.ConfigParser(strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(path)
    assert parser.sections() == ["Service"]
    assert path.read_text().startswith("#")
    assert f"`{path.name}`" in (ROOT / "docs/operations.md").read_text()


def test_the_user_of_the_unit_is_made_before_it_is_needed() -> None:
    user = service()["User"][0]
    assert service()["Group"] == [user]
    assert re.search(rf"^u {user} ", (ROOT / "packaging/sysusers.d/procline.conf").read_text(), re.MULTILINE)
    assert f"0755 {user} {user} " in (ROOT / "packaging/tmpfiles.d/procline.conf").read_text()
