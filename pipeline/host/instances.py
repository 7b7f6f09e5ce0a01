"""The instances of this host: which have a directory, and whether they run.

The directory of an instance shows it without opening its tables: the supervisor's list of processes, and the state and
the last sign of life in the control segment.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from pipeline import paths, trust
from pipeline.errors import ConfigError, NotRunningError, ProclineError, UntrustedError
from pipeline.host import processes
from pipeline.host.boot import TICK_NS, BootClock, now_boot_ns
from pipeline.shm.layout import control_header

#: A resolver that is not busy shows a sign of life more often than this.
FRESH_NS = 1_000_000_000
#: At most this many directories are examined: a wrong PROCLINE_RUNTIME_DIR may have many.
_DIRECTORIES_MAX = 1000

READY, STARTING, BEHIND, ENDING, ENDED = "ready", "starting", "behind", "ending", "ended"


@dataclass(frozen=True)
class Instance:
    """An instance that has a directory.

    Attributes:
        name: its name.
        state: ready; starting: its tables are not complete; behind: ready, but without a recent sign of life; ending;
            ended: its processes are gone and have left the tables behind.
        pid: of its supervisor; None: unknown, or ended.
        since_ns: when the supervisor started, ns since the Unix epoch; None: unknown, or ended.
    """

    name: str
    state: str
    pid: int | None
    since_ns: int | None

    @property
    def is_running(self) -> bool:
        """Whether its processes live."""
        return self.state != ENDED


def find(name: str) -> Instance | None:
    """Return an instance; None: it has no directory.

    Raises:
        ConfigError: the name is not valid.
        UntrustedError: another user could have created the directory.
    """
    directory = paths.instance_dir(name)
    if not directory.is_dir():
        return None
    roles = processes.listed(directory)
    control = _control_header(directory)
    state = control_header.STATE_DOWN if control is None else control.state
    is_fresh = control is not None and now_boot_ns() - control.heartbeat_boot_ns < FRESH_NS
    lives = any(each.is_live for each in roles)
    if (
        not lives
        and not is_fresh
        and (roles or state in {control_header.STATE_READY, control_header.STATE_STOPPED} or _is_left(directory))
    ):
        return Instance(name, ENDED, None, None)
    supervisor = next((each for each in roles if each.is_live), None)
    since_ns = None
    if supervisor is not None:
        pid: int | None = supervisor.pid
        since_ns = supervisor.start_ticks * TICK_NS + BootClock.read(2).offset_ns
    else:
        pid = None if roles else _locked_by(directory)
    if state == control_header.STATE_READY:
        shown = READY if is_fresh else BEHIND
    elif state == control_header.STATE_STOPPED or (control is None and any(not each.is_live for each in roles)):
        # The workers end first, then the supervisor removes the segments.
        shown = ENDING
    else:
        shown = STARTING
    return Instance(name, shown, pid, since_ns)


def every() -> list[Instance]:
    """Return all instances with a directory that this user may read, by name."""
    found = []
    root = paths.runtime_root()
    try:
        names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir(follow_symlinks=False))
    except OSError:
        return []
    for name in names[:_DIRECTORIES_MAX]:
        with contextlib.suppress(ConfigError, UntrustedError, OSError):
            paths.check_name(name)
            if _is_instance(root / name) and (instance := find(name)):
                found.append(instance)
    return found


def running() -> list[Instance]:
    """Return the instances with live processes, by name."""
    return [each for each in every() if each.is_running]


def others(instance: str) -> tuple[str, ...]:
    """Return the names of the running instances but one, for a message that this one does not run."""
    with contextlib.suppress(ProclineError, OSError):
        return tuple(each.name for each in running() if each.name != instance)
    return ()


def name_others(error: NotRunningError) -> NotRunningError:
    """Return an error that also names the instances that do run, or if there are none, where they were searched."""
    names = others(error.instance)
    if error.running:
        return error
    if names:
        return type(error)(f"{error}; running: {', '.join(names)}", instance=error.instance, running=names)
    with contextlib.suppress(ProclineError, OSError):
        if error.instance and not paths.instance_dir(error.instance).exists():
            variable = paths.RUNTIME_DIR_VARIABLE
            is_set = bool(os.environ.get(variable))
            where = f"; {variable} is set" if is_set else f"; if it has another runtime directory, set {variable}"
            return type(error)(f"{error}{where}", instance=error.instance)
    return error


def _is_instance(directory: Path) -> bool:
    return any((directory / name).exists() for name in (paths.CONTROL, paths.SUPERVISOR_LOCK))


def _is_left(directory: Path) -> bool:
    """Whether the supervisor was killed before it had written its list. Only its own user and root can see that."""
    pid = _locked_by(directory)
    return pid is not None and not processes.lives(pid, 0)


def _locked_by(directory: Path) -> int | None:
    """Return the pid in the lock file; None: there is none yet, or this user may not read it."""
    try:
        return int(trust.read(directory / paths.SUPERVISOR_LOCK))
    except (OSError, ValueError):
        return None


def _control_header(directory: Path) -> control_header.ControlHeader | None:
    """Return the first fields of the control segment; None: it does not exist, is of another version, or is secret."""
    try:
        with os.fdopen(trust.open_file(directory / paths.CONTROL), "rb") as file:
            return control_header.read_header(file.read(control_header.CONTROL_BYTES))
    except (FileNotFoundError, PermissionError, NotADirectoryError):
        return None
