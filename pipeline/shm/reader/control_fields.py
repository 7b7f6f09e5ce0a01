"""Fields of the control segment of an instance, read without attaching to its tables."""

from __future__ import annotations

import contextlib
import os
import struct
import time
from pathlib import Path

from pipeline import paths, trust
from pipeline.errors import ProclineError
from pipeline.host import boot
from pipeline.shm.layout.declared import CONTROL_LAYOUT


def fields(directory: str | Path, *names: str) -> dict[str, int] | None:
    """Return these numbers of the control segment in the directory of an instance; None: there is none to read."""
    found = _read(Path(directory), *names)
    return None if found is None else found[0]


def now_ns(instance: str) -> int:
    """Return the present time as the tables of an instance count it, in ns since the Unix epoch.

    It is that of the clock, unless the clock was set since the instance's start; see `present_ns`. Without readable
    tables, it is that of the clock.
    """
    from pipeline.shm.reader._view import present_ns  # commands that read no table need not load it

    with contextlib.suppress(OSError, ProclineError):
        found = _read(paths.instance_dir(instance), "boot_unix_ns") if instance else None
        if found is not None:
            return present_ns(found[0]["boot_unix_ns"], found[1])
    return time.time_ns()


def clock_step_ns(instance: str) -> int | None:
    """Return by how much the clock was set since the start of an instance, ns; None: it has no tables of this boot."""
    try:
        found = _read(paths.instance_dir(instance), "boot_unix_ns") if instance else None
        if found is None or found[1] != boot.boot_id():
            return None
    except (OSError, ProclineError):
        return None
    return boot.BootClock.read(2).offset_ns - found[0]["boot_unix_ns"]


def _read(directory: Path, *names: str) -> tuple[dict[str, int], bytes] | None:
    """Return fields, and the boot id."""
    try:
        with os.fdopen(trust.open_file(directory / paths.CONTROL), "rb") as file:
            data = file.read(CONTROL_LAYOUT.size)
        values = CONTROL_LAYOUT.struct(*names).unpack_from(data)
    except (OSError, struct.error, ProclineError):
        return None
    return dict(zip(names, map(int, values), strict=True)), data[CONTROL_LAYOUT.span("boot_id")]
