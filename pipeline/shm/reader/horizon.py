"""From when on the tables of an instance are complete, and why they do not reach further back.

The tables have every process that ended after the horizon. A process that ended earlier was evicted, or it ended before
the capture began.
"""

from __future__ import annotations

import math
import os
import struct
import time
from dataclasses import dataclass
from pathlib import Path

from pipeline import paths, trust
from pipeline.errors import ProclineError
from pipeline.host import retention
from pipeline.shm.layout.declared import CONTROL_LAYOUT

_NAMES = ("boot_unix_ns", "takeovers", "horizon_boot_ns", "ready_boot_ns")
_HEADER = CONTROL_LAYOUT.struct(*_NAMES)
#: Tolerance: an entry may be evicted this much later than its retention says or, by the resolution of the clocks,
#: earlier.
_SLACK_NS = 2_000_000_000

BEGIN, RETENTION, FULL = "begin", "retention", "full"


@dataclass(frozen=True)
class Horizon:
    """From when on the tables of an instance are complete.

    Attributes:
        time_ns: every process that ended later is in the tables; ns since the Unix epoch.
        cause: why the tables do not reach further back. BEGIN: the capture began then; RETENTION: entries are kept for
            `retention_s`; FULL: a table was full, and the oldest entries were evicted early.
        retention_s: how long entries are kept; None: unknown.
        began_ns: when the capture began; ns since the Unix epoch.
    """

    time_ns: int
    cause: str
    retention_s: float | None
    began_ns: int = 0


def horizon(directory: str | Path) -> Horizon | None:
    """Return how far back the tables in the directory of an instance reach; None: unknown, or of a recording."""
    try:
        with os.fdopen(trust.open_file(Path(directory) / paths.CONTROL), "rb") as file:
            fields = _HEADER.unpack_from(file.read(CONTROL_LAYOUT.size))
    except (OSError, struct.error, ProclineError):
        return None
    header = dict(zip(_NAMES, map(int, fields), strict=True))
    found_ns, ready_ns = header["horizon_boot_ns"], header["ready_boot_ns"]
    retention_s = retention.read(Path(directory))
    if retention_s == math.inf or not (found_ns or ready_ns):
        return None
    is_first = not header["takeovers"] or not found_ns
    if is_first:
        # Processes that ended before the first table was complete were never in it. Nothing is evicted at first.
        found_ns = max(found_ns, ready_ns)
    age_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - found_ns
    if is_first and found_ns == ready_ns:
        cause = BEGIN
    elif retention_s is None or age_ns >= retention_s * 1e9 - _SLACK_NS:
        cause = RETENTION
    else:
        # With kept tables, a capture that begins again moves the horizon to its start.
        cause = BEGIN if found_ns <= ready_ns else FULL
    return Horizon(found_ns + header["boot_unix_ns"], cause, retention_s, ready_ns + header["boot_unix_ns"])
