"""The systemd units of Procline: whether one failed, why, and what to do. It asks systemctl and journalctl.

Source: systemd.exec(5) (the exit codes of a service that could not be started), systemd.service(5) (`Result`).
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

#: Exists if systemd is the service manager (sd_booted(3)).
_BOOTED = Path("/run/systemd/system")
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_PROPERTIES = (
    "LoadState", "UnitFileState", "ActiveState", "SubState", "Result", "ExecMainCode", "ExecMainStatus", "NRestarts",
    "InvocationID", "StatusText", "NeedDaemonReload",
)  # fmt: skip

#: A remedy with this in it sends the reader to the log of the unit.
_LOG = "journalctl -u {unit} -n 50"
_SEE_LOG = f"see the reason: {_LOG}"

_Meanings = Mapping[int | str, tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Service:
    """A unit of Procline.

    Attributes:
        unit: its name.
        is_optional: whether a host can do without it, so that nothing is wrong if it is not enabled.
        meanings: what its exit codes and results mean and what to do, where this differs from `_MEANINGS`.
    """

    unit: str
    is_optional: bool
    meanings: _Meanings


#: Exit codes (numbers) and results (names) that mean the same for every unit, and what to do.
_MEANINGS: _Meanings = {
    1: ("an unexpected error", f"{_SEE_LOG}; report it"),
    200: ("its working directory cannot be used", "remove WorkingDirectory= from the drop-ins"),
    203: ("the program of ExecStart= cannot be executed", "install the package again, or correct ExecStart="),
    216: ("its group does not exist", "systemd-sysusers"),
    217: ("its user does not exist", "systemd-sysusers"),
    218: ("its capabilities cannot be set", "a container or the boot line restricts capabilities: run it on the host"),
    226: ("its mount namespace cannot be made", "in a container, allow mounts or remove Protect*= and Private*="),
    228: ("its system call filter cannot be set", "the kernel needs CONFIG_SECCOMP_FILTER"),
    233: ("its runtime directory cannot be made", "make room on /run, and check the owner of /run/procline"),
    243: ("its credentials cannot be read", "check the files in /etc/credstore and /etc/credstore.encrypted"),
    "timeout": ("systemd ended it because it was not ready, or did not stop, in time", _SEE_LOG),
    "watchdog": (
        "it did not report within WatchdogSec=",
        "the host was suspended or gave it no CPU time; if it repeats, report a bug",
    ),
    "oom-kill": ("it needed more memory than it may use", "raise MemoryMax="),
    "start-limit-hit": ("it was started too often in a short time", _SEE_LOG),
    "resources": ("systemd could not provide what the unit asks for", _SEE_LOG),
    "protocol": ("it ended before it was ready", _SEE_LOG),
}  # fmt: skip

DAEMON = Service("procline.service", False, {
    1: ("a process did not drain in time and was killed while the daemon stopped", "raise supervision.stop_timeout_s"),
    2: ("the daemon cannot run with these settings or on this host", "correct what the last line says, and start it"),
    4: ("a process of the daemon ended repeatedly, or the start took too long", _SEE_LOG),
    "timeout": (
        "systemd ended it because it was not ready, or did not stop, in time",
        "raise TimeoutStartSec= with supervision.start_timeout_s, TimeoutStopSec= with supervision.stop_timeout_s",
    ),
    "oom-kill": ("it needed more memory than it may use", "raise MemoryMax=, or lower the ceilings of [tables]"),
})  # fmt: skip

FORWARDER = Service("procline-forward.service", True, {
    2: (
        "it cannot forward with these settings or secrets",
        "correct what the last line says ([forward] of /etc/procline/procline.toml; secrets in /etc/credstore), and "
        "check it: procline forward --check --config /etc/procline/procline.toml",
    ),
    238: ("its directory for the spool cannot be made", "make room in /var/lib, and check /var/lib/private"),
})  # fmt: skip

FLEET_STORE = Service("procline-fleet-ingest.service", True, {
    2: (
        "it cannot store with these options, or a package is missing",
        "correct what the last line says (PROCLINE_FLEET_FROM in /etc/procline/fleet-ingest.env; secrets in "
        "/etc/credstore; the extra `fleet` in /opt/procline-fleet)",
    ),
    203: (
        "/opt/procline-fleet/bin/procline cannot be executed",
        "python3 -m venv /opt/procline-fleet; /opt/procline-fleet/bin/pip install 'procline[fleet]'",
    ),
    238: ("its directory for the store cannot be made", "make room in /var/lib, and check /var/lib/private"),
    "timeout": (
        "systemd ended it because it was not ready, or did not stop, in time",
        "raise TimeoutStopSec=, in which the last merge must end",
    ),
    "oom-kill": ("it needed more memory than it may use", "raise MemoryMax=, or lower --memory in ExecStart="),
    "resources": (
        "systemd could not provide what the unit asks for",
        f"write PROCLINE_FLEET_FROM=ADDRESS to /etc/procline/fleet-ingest.env if it is missing; else {_SEE_LOG}",
    ),
})  # fmt: skip

SERVICES = (DAEMON, FORWARDER, FLEET_STORE)


@dataclass(frozen=True, slots=True)
class UnitState:
    """Properties of the unit, as systemd reports them.

    Attributes:
        ok: True: it runs; False: it failed; None: it is stopped, or starts or stops now.
        detail: what it does, or why it failed.
        hint: what to do; empty if nothing is needed.
    """

    ok: bool | None
    detail: str
    hint: str = ""


def state(service: Service) -> UnitState | None:
    """Return the state of a unit; None if there is no systemd or no such unit."""
    if not _BOOTED.is_dir():
        return None
    shown = output_of(["systemctl", "show", service.unit, "--property", ",".join(_PROPERTIES)])
    properties = dict(line.partition("=")[::2] for line in (shown or "").splitlines())
    last_error = _last_error(properties.get("InvocationID", "")) if _has_failed(properties) else ""
    return explain(service, properties, last_error)


def explain(service: Service, properties: Mapping[str, str], last_error: str = "") -> UnitState | None:
    """Return what the properties of ``systemctl show`` mean; None if there is no such unit.

    Args:
        service: the unit.
        properties: by name.
        last_error: the last error that the unit wrote to the journal; empty if unknown.
    """
    unit = service.unit
    load, active = properties.get("LoadState", ""), properties.get("ActiveState", "")
    if load in {"", "not-found"}:
        return None
    if load == "masked":
        return UnitState(None, f"{unit} is masked", "" if service.is_optional else f"systemctl unmask {unit}")
    if load != "loaded":
        return UnitState(False, f"{unit} cannot be loaded ({load})", f"systemd-analyze verify {unit}")
    reload = "; its files have changed since systemd read them" if properties.get("NeedDaemonReload") == "yes" else ""
    if active == "active":
        restarts = properties.get("NRestarts", "0")
        note = "" if restarts == "0" else f", restarted {restarts} times after a failure"
        hint = "systemctl daemon-reload" if reload else "" if restarts == "0" else _LOG.format(unit=unit)
        return UnitState(True, f"{unit} is running{note}{reload}", hint)
    if not _has_failed(properties):
        if active == "inactive" and service.is_optional and properties.get("UnitFileState") == "disabled":
            return UnitState(None, f"{unit} is not enabled")
        hint = f"systemctl enable --now {unit}" if active == "inactive" else ""
        return UnitState(None, f"{unit} is {active} ({properties.get('SubState', '')}){reload}", hint)
    reason, hint = _reason(service, properties)
    said = f'; it said: "{last_error}"' if last_error else ""
    again = f"then: systemctl reset-failed {unit}; systemctl start {unit}"
    return UnitState(False, f"{unit} has failed: {reason}{said}{reload}", f"{hint}; {again}")


def _has_failed(properties: Mapping[str, str]) -> bool:
    """Whether it failed; a unit that waits for its restart has failed too."""
    active, result = properties.get("ActiveState"), properties.get("Result", "success")
    # "auto-restart" until the time of RestartSec= is over, then "auto-restart-queued" until the manager starts it.
    is_waiting = properties.get("SubState", "").startswith("auto-restart")
    return (
        active == "failed" or (active == "activating" and is_waiting) or (active == "inactive" and result != "success")
    )


def _reason(service: Service, properties: Mapping[str, str]) -> tuple[str, str]:
    """Return why a unit failed, and what to do."""
    meanings = {**_MEANINGS, **service.meanings}
    log = _LOG.format(unit=service.unit)
    result = properties.get("Result", "")
    try:
        status = int(properties.get("ExecMainStatus", "0"))
    except ValueError:
        status = 0
    # "core-dump" and "signal" are in ExecMainStatus as a signal, "exit-code" as a code.
    if result in {"signal", "core-dump"}:
        try:
            name = signal.Signals(status).name
        except ValueError:
            name = f"signal {status}"
        if status == signal.SIGSYS:
            return "it made a system call that SystemCallFilter= forbids", "remove the drop-in that changes it"
        return f"it was killed by {name}", f"see the reason: {log}"
    # A unit that was started too often has the exit code of its last run, which says more than the limit.
    if result in {"exit-code", "start-limit-hit"} and status:
        meaning, hint = meanings.get(status, ("see the last line of its log", _LOG))
        return f"exit code {status}, {meaning}", hint.format(unit=service.unit)
    meaning, hint = meanings.get(result, (result or "for an unknown reason", _SEE_LOG))
    return meaning, hint.format(unit=service.unit)


def _last_error(invocation: str) -> str:
    """Return the last error that a run of the unit wrote to the journal; empty if this user cannot read it."""
    if not invocation:
        return ""
    shown = output_of([
        "journalctl", "--quiet", "--no-pager", "--output", "cat", "--priority", "err", "--lines", "1",
        f"_SYSTEMD_INVOCATION_ID={invocation}",
    ])  # fmt: skip
    lines = (shown or "").splitlines()
    return lines[-1] if lines else ""


def output_of(command: Sequence[str], timeout_s: float = 5) -> str | None:
    """Return what a program of systemd prints, whatever PATH and language the caller has; None if it fails.

    It also fails if it is not there, or takes too long.
    """
    try:
        done = subprocess.run(
            list(command), stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False,
            encoding="utf-8", timeout=timeout_s, env={"PATH": _PATH, "LC_ALL": "C.UTF-8", "SYSTEMD_COLORS": "0"},
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
