"""From when on the tables of an instance are complete, and why they do not reach further back.

The tables have every process that ended after the horizon. A process that ended earlier was evicted, or it ended before
the capture began.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

from pipeline.host import retention
from pipeline.shm.reader import control_fields

_NAMES = ("boot_unix_ns", "takeovers", "horizon_boot_ns", "ready_boot_ns")
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
        now_ns: the present time as the tables count it (see `control_fields.now_ns`).
        began_ns: when the capture began; ns since the Unix epoch.
    """

    time_ns: int
    cause: str
    retention_s: float | None
    now_ns: int
    began_ns: int = 0


def horizon(directory: str | Path) -> Horizon | None:
    """Return how far back the tables in the directory of an instance reach; None: unknown, or of a recording."""
    header = control_fields.fields(directory, *_NAMES)
    if header is None:
        return None
    found_ns, ready_ns = header["horizon_boot_ns"], header["ready_boot_ns"]
    retention_s = retention.read(Path(directory))
    if retention_s == math.inf or not (found_ns or ready_ns):
        return None
    is_first = not header["takeovers"] or not found_ns
    if is_first:
        # Processes that ended before the first table was complete were never in it. Nothing is evicted at first.
        found_ns = max(found_ns, ready_ns)
    now_boot_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    age_ns = now_boot_ns - found_ns
    if is_first and found_ns == ready_ns:
        cause = BEGIN
    elif retention_s is None or age_ns >= retention_s * 1e9 - _SLACK_NS:
        cause = RETENTION
    else:
        # With kept tables, a capture that begins again moves the horizon to its start.
        cause = BEGIN if found_ns <= ready_ns else FULL
    boot_unix_ns = header["boot_unix_ns"]
    return Horizon(
        found_ns + boot_unix_ns, cause, retention_s, now_boot_ns + boot_unix_ns, began_ns=ready_ns + boot_unix_ns
    )
