"""`procline wait`: until an instance is ready."""

from __future__ import annotations

import time

import click

from pipeline import paths
from pipeline.boot import now_boot_ns
from pipeline.cli import common
from pipeline.errors import AccessError, NotRunningError

_LOOK_S = 0.02
#: An older heartbeat is that of a resolver which was killed and left its tables behind.
_FRESH_NS = 1_000_000_000


@click.command(
    epilog="""\b
Examples:
  procline wait --timeout 10 && procline tree
"""
)
@click.option("--timeout", type=common.Seconds(), metavar="S", default=30.0, show_default=True, help="Seconds to wait.")
@common.name_option
def command(timeout: float, name: str) -> int:
    """Wait until an instance knows all processes and can be asked.

    Ends with 0 when it is ready, with 3 when the time is up.
    """
    deadline = time.monotonic() + timeout
    while not is_ready(name):
        if time.monotonic() >= deadline:
            directory = paths.instance_dir(name)
            what = "is not ready" if directory.exists() else "is not running"
            raise NotRunningError(f"instance {name!r} {what} after {timeout:g} s ({directory})", instance=name)
        time.sleep(_LOOK_S)
    return 0


def is_ready(name: str) -> bool:
    """Whether the tables of an instance are complete and its resolver alive."""
    from pipeline.shm import layout
    from pipeline.supervisor.vitals import look

    directory = paths.instance_dir(name)
    try:
        vitals = look(directory)
    except PermissionError:
        raise AccessError(
            f"you may not read {directory / paths.CONTROL}: run as root or as a member of its group",
            path=str(directory / paths.CONTROL),
        ) from None
    if vitals is None or vitals.state != layout.STATE_READY:
        return False
    return now_boot_ns() - vitals.heartbeat_boot_ns < _FRESH_NS
