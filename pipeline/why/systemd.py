"""Facts of systemd about a unit and about a login session. Both are requested only on the host of the instance."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import UntrustedError
from pipeline.host.unit import output_of
from pipeline.software.container_files import read_trusted

#: How long systemctl may take.
TIMEOUT_S = 2.0
#: Timers of a unit that are asked about, at most.
TIMERS_MAX = 4
_UNIT = re.compile(r"[\w:.\\@-]{1,255}\Z", re.ASCII)
_SESSION = re.compile(r"\w{1,32}\Z", re.ASCII)
#: Between the moment at which a timer elapses and the start of its service's first process.
TIMER_DELAY_NS = 5_000_000_000
_SYSTEMCTL = ("systemctl", "--no-pager", "--no-ask-password")

Run = Callable[[Sequence[str]], str | None]


def run(arguments: Sequence[str]) -> str | None:
    """Return what a program of systemd prints; None if it fails, or is not there."""
    return output_of(arguments, TIMEOUT_S)


@dataclass(frozen=True)
class Timer:
    """A timer that starts a unit.

    Attributes:
        name: its unit.
        last_ns: when it last elapsed, ns since the Unix epoch, to the second; None: unknown.
    """

    name: str
    last_ns: int | None


@dataclass(frozen=True)
class UnitFacts:
    """The facts of the system's service manager about a unit now.

    Attributes:
        description: its description.
        invocation: id of the run that is active now; journalctl finds its messages by it.
        file: the file that defines it.
        trigger: the unit that started this run, as systemd recorded it; None: unknown.
        timers: timers that can start it.
        since_ns: when this run began, ns since the Unix epoch, to the second; None: unknown.
    """

    description: str | None = None
    invocation: str | None = None
    file: str | None = None
    trigger: str | None = None
    timers: tuple[Timer, ...] = ()
    since_ns: int | None = None


def unit_facts(unit: str, runner: Run = run) -> UnitFacts | None:
    """Return systemd's facts about a unit of the system; None if it knows nothing."""
    if not _UNIT.match(unit) or unit.startswith("-"):
        return None
    wanted = "Description,InvocationID,FragmentPath,TriggeredBy,LoadState,InactiveExitTimestamp"
    shown = _properties(runner([*_SYSTEMCTL, "show", "--timestamp=utc", f"--property={wanted}", "--", unit]))
    if not shown or shown.get("LoadState") in {"not-found", None}:
        return None
    timers = [each for each in shown.get("TriggeredBy", "").split() if each.endswith(".timer") and _UNIT.match(each)]
    return UnitFacts(
        shown.get("Description") or None, shown.get("InvocationID") or None, shown.get("FragmentPath") or None,
        _trigger(unit, runner) if shown.get("TriggeredBy") else None,
        tuple(_timer(each, runner) for each in timers[:TIMERS_MAX]),
        _moment_ns(shown.get("InactiveExitTimestamp", "")),
    )  # fmt: skip


def _trigger(unit: str, runner: Run) -> str | None:
    """Return the unit that started the present run; systemctl cannot print this property."""
    path = "".join(each if each.isascii() and each.isalnum() else f"_{ord(each):02x}" for each in unit)
    shown = runner([
        "busctl", "get-property", "org.freedesktop.systemd1", f"/org/freedesktop/systemd1/unit/{path}",
        "org.freedesktop.systemd1.Unit", "ActivationDetails",
    ])  # fmt: skip
    found = re.search(r'"trigger_unit" "([\w:.\\@-]+)"', shown or "")
    return found[1] if found else None


def _timer(name: str, runner: Run) -> Timer:
    shown = _properties(runner([*_SYSTEMCTL, "show", "--timestamp=utc", "--property=LastTriggerUSec", "--", name]))
    return Timer(name, _moment_ns(shown.get("LastTriggerUSec", "")))


def _moment_ns(text: str) -> int | None:
    from datetime import UTC, datetime

    found = re.search(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(?:\.(\d{1,6}))? UTC", text)
    if found is None:
        return None
    seconds = round(datetime.strptime(found[1], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC).timestamp())
    return seconds * 1_000_000_000 + int((found[2] or "0").ljust(6, "0")) * 1000


def _properties(text: str | None) -> dict[str, str]:
    pairs = (line.partition("=") for line in (text or "").splitlines()[:1000])
    return {key: value for key, equals, value in pairs if equals}


def login_session(number: str, root: str = "/") -> dict[str, str] | None:
    """Return what systemd-logind recorded about a session, by its own keys; None: nothing.

    The keys are those of its state file: USER, UID, SERVICE, REMOTE_HOST, TTY, LEADER and others.
    """
    if not _SESSION.match(number):
        return None
    path = os.path.join(root, "run/systemd/sessions", number)  # noqa: PTH118 - not a path of a Path user
    try:
        text = read_trusted(path).decode(errors="replace")
    except (OSError, UntrustedError, ValueError):
        return None
    return _properties("\n".join(line for line in text.splitlines() if not line.startswith("#"))) | {"file": path}


def is_running(root: str = "/") -> bool:
    """Whether systemd is the init of this host (sd_booted(3))."""
    return Path(root, "run/systemd/system").is_dir()
