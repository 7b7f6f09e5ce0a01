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

from pipeline.cli.main import EXIT_USAGE
from pipeline.config.schema import Config

ROOT = Path(__file__).resolve().parents[2]
SYSTEMD = ROOT / "packaging" / "systemd"
UNIT = SYSTEMD / "procline.service"
#: systemd-analyze security: 0 is fully confined, 10 not at all.
EXPOSURE_MAX = 2.5


def service() -> dict[str, list[str]]:
    """Return the settings of [Service], each with all of its values."""
    section, found = "", {}
    for line in UNIT.read_text().splitlines():
        if line.startswith("["):
            section = line
        elif section == "[Service]" and line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def test_it_is_confined_as_documented(missing: Callable[[str], NoReturn]) -> None:
    if shutil.which("systemd-analyze") is None:
        missing("systemd-analyze is not installed")
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", f"--threshold={EXPOSURE_MAX * 10:g}", UNIT],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-400:]
    assert "Unknown" not in done.stderr
    shown = re.search(r"Overall exposure level for procline\.service: ([\d.]+)", done.stdout)
    stated = re.search(r"`systemd-analyze security` rates it ([\d.]+)", (ROOT / "docs/operations.md").read_text())
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
