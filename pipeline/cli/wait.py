"""`procline wait`: wait until an instance is ready."""

from __future__ import annotations

import time

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
    UntrustedError,
)
from pipeline.host.boot import now_boot_ns

_LOOK_S = 0.02
#: An older heartbeat belongs to a resolver that was killed and left its tables behind.
_FRESH_NS = 1_000_000_000


@click.command(
    epilog="""\b
Examples:
  procline wait --timeout 10 && procline tree      show the tree as soon as it is complete
"""
)
@click.option(
    "--timeout", type=common.Seconds(), metavar="S", default=30.0, show_default=True, help="Wait at most S seconds."
)
@common.name_option
def command(timeout: float, name: str) -> int:
    """Wait until an instance is ready, which means that it knows all processes.

    Exits with 0 when the instance is ready. If it is not ready in time, exits with 3, or with 75 if the instance is
    running but behind.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            if is_ready(name):
                return 0
        except UntrustedError:
            # A daemon of root that starts now moves another user's directory away, so retry.
            if time.monotonic() >= deadline:
                raise
        else:
            if time.monotonic() >= deadline:
                raise _not_ready(name, timeout)
        time.sleep(_LOOK_S)


def _not_ready(name: str, timeout: float) -> ProclineError:
    behind_ns = behind(name)
    if behind_ns:
        return BehindError(
            f"instance {name!r} is running, behind by {behind_ns / 1e9:.1f} s after waiting for {timeout:g} s",
            behind_ns=behind_ns,
        )
    directory = paths.instance_dir(name)
    what = "is not ready" if directory.exists() else "is not running"
    return NotRunningError(f"instance {name!r} {what} after {timeout:g} s ({directory})", instance=name)


def behind(name: str) -> int:
    """Return how far a running instance with complete tables is behind, ns; 0: it is not behind, or not running.

    Raises:
        AccessError: this user may not read the tables.
    """
    from pipeline import ProcessTable
    from pipeline.shm.layout import layout

    try:
        with ProcessTable.attach(name) as table:
            view, _, behind_ns = table.status()
            return behind_ns if view.state == layout.STATE_READY and view.writer_lives() is not False else 0
    except (NotRunningError, StaleError, LayoutError):
        return 0


def is_ready(name: str) -> bool:
    """Whether the tables of an instance are complete and its resolver is alive.

    Raises:
        AccessError: this user may not read the tables.
        UntrustedError: another user could have created the instance's directory.
    """
    from pipeline.shm.layout import layout
    from pipeline.supervisor.vitals import read_vitals

    directory = paths.instance_dir(name)
    try:
        vitals = read_vitals(directory)
    except NotADirectoryError:
        return False
    except PermissionError:
        raise AccessError(
            f"you do not have permission to read {directory / paths.CONTROL}: run as root or as a member of its group",
            path=str(directory / paths.CONTROL),
        ) from None
    if vitals is None or vitals.state != layout.STATE_READY:
        return False
    return now_boot_ns() - vitals.heartbeat_boot_ns < _FRESH_NS
