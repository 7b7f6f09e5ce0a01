"""`procline wait`: wait until an instance is ready."""

from __future__ import annotations

import time
from pathlib import Path

import click

from pipeline import paths
from pipeline.cli import common
from pipeline.errors import (
    AccessError,
    BehindError,
    LayoutError,
    NotRunningError,
    ProclineError,
    StaleError,
    StartingError,
    UntrustedError,
)
from pipeline.host import failed_start, instances, processes
from pipeline.host.boot import now_boot_ns
from pipeline.host.vitals import read_vitals
from pipeline.screen.progress import Progress
from pipeline.shm.layout import control_header

#: How often the state of the instance is read.
_STATE_S = 0.02
#: How often it is checked whether the instance still starts; this costs more than reading its state.
_CHECK_S = 0.1
#: A start that has failed is reported after this time, in which another one may begin, for example by systemd.
_GRACE_S = 0.5
#: A start that failed this long before the command began is the one to wait for: a script has just started it.
_JUST_NOW_NS = 5_000_000_000


@click.command(
    epilog="""\b
Examples:
  procline wait && procline tree                   show the tree as soon as it is complete
  procline wait --timeout 60                       on a busy host, where a start can take long
"""
)
@click.option(
    "--timeout", type=common.Seconds(), metavar="S", default=30.0, show_default=True, help="Wait at most S seconds."
)
@common.name_option
def command(timeout: float, name: str) -> int:
    """Wait until an instance is ready, which means that its tables contain all live processes.

    Exits with 0 when the instance is ready, and with 3 if it is not ready in time or if its start fails. A start that
    fails is reported within about a second. Exits with 75 if the instance is running but its tables are behind.
    """
    deadline = time.monotonic() + timeout
    start = _Start(name)
    with Progress(f"waiting for instance {name!r}") as progress:
        while True:
            try:
                if is_ready(paths.instance_dir(name)):
                    return 0
                start.check()
            except UntrustedError:
                # A daemon of root that starts now moves another user's directory away, so retry.
                if time.monotonic() >= deadline:
                    raise
            else:
                if time.monotonic() >= deadline:
                    raise _not_ready(name, timeout)
            progress.show(start.state)
            time.sleep(_STATE_S)


class _Start:
    """Notices that a start has failed.

    An instance that was ready or about to end does not count: a restart may be under way.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._failed_after_ns = now_boot_ns() - _JUST_NOW_NS
        self._next_s = 0.0
        self._was_starting = False
        self._gone_s: float | None = None
        self.state = "not started yet"

    def check(self) -> None:
        """Check the instance, a few times a second.

        Raises:
            NotRunningError: it was starting and has ended, or it could not start.
        """
        now = time.monotonic()
        if now < self._next_s:
            return
        self._next_s = now + _CHECK_S
        found = instances.find(self._name)
        if found is not None and found.is_running:
            self.state = found.state
            self._gone_s = None
            # Without a supervisor it may also be one that has just ended: its last sign of life is recent.
            self._was_starting = found.state == instances.STARTING and found.pid is not None
        elif self._was_starting or failed_start.boot_ns(self._name) > self._failed_after_ns:
            self._gone_s = self._gone_s or now
            if now - self._gone_s >= _GRACE_S:
                what = "has ended during its start" if self._was_starting else "could not start"
                raise NotRunningError(
                    f"instance {self._name!r} {what}: see the output of `procline run`, or `journalctl -u procline` "
                    "for the service",
                    instance=self._name,
                )
        else:
            self._gone_s = None


def _not_ready(name: str, timeout: float) -> ProclineError:
    behind_ns = behind(name)
    if behind_ns:
        return BehindError(
            f"instance {name!r} is running, behind by {behind_ns / 1e9:.1f} s after waiting for {timeout:g} s",
            behind_ns=behind_ns,
        )
    directory = paths.instance_dir(name)
    found = instances.find(name)
    if found is not None and found.state == instances.STARTING and found.is_running:
        return StartingError(
            f"instance {name!r} is still starting after {timeout:g} s: wait again, or longer with --timeout",
            instance=name,
        )
    what = "is not ready" if directory.exists() else "is not running"
    return NotRunningError(f"instance {name!r} {what} after {timeout:g} s ({directory})", instance=name)


def behind(name: str) -> int:
    """Return how far a running instance with complete tables is behind, ns; 0: it is not behind, or not running.

    Raises:
        AccessError: this user may not read the tables.
    """
    from pipeline import ProcessTable

    try:
        with ProcessTable.attach(name) as table:
            view, _, behind_ns = table.status()
            return behind_ns if view.state == control_header.STATE_READY and view.writer_lives() is not False else 0
    except (NotRunningError, StaleError, LayoutError):
        return 0


def is_ready(directory: Path) -> bool:
    """Whether the tables of the instance in `directory` are complete and its resolver and supervisor are alive.

    Raises:
        AccessError: this user may not read the tables.
        UntrustedError: another user could have created the instance's directory.
    """
    try:
        vitals = read_vitals(directory)
    except NotADirectoryError:
        return False
    except PermissionError:
        raise AccessError(
            f"you do not have permission to read {directory / paths.CONTROL}: run as root or as a member of its group",
            path=str(directory / paths.CONTROL),
        ) from None
    if vitals is None or vitals.state != control_header.STATE_READY:
        return False
    return now_boot_ns() - vitals.heartbeat_boot_ns < instances.FRESH_NS and not _is_orphaned(directory)


def _is_orphaned(directory: Path) -> bool:
    """Whether the supervisor has died and its resolver, which still looks ready, is about to end.

    Processes of an instance in another pid namespace cannot be seen: then neither of them seems to live.
    """
    live = {each.role: each.is_live for each in processes.listed(directory)}
    return live.get("resolver", False) and not live.get("supervisor", True)
