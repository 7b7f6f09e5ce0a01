"""How far back the tables of an instance reach, and why not further.

The tables have every process that ended after the horizon. A process that ended earlier was evicted, or it ended before
the capture began. A command that finds nothing prints the horizon, because "not found" does not mean "there was none".
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline import paths
from pipeline.cli import control
from pipeline.errors import ProclineError
from pipeline.host import retention
from pipeline.screen.times import period, when

_NAMES = ("boot_unix_ns", "takeovers", "horizon_boot_ns", "ready_boot_ns")
#: Tolerance: an entry may be evicted this much later than its retention says or, by the resolution of the clocks,
#: earlier.
_SLACK_NS = 2_000_000_000
#: A table counts as full from this share on. It has then evicted entries early.
_FULL = 0.9

BEGIN, RETENTION, FULL = "begin", "retention", "full"


@dataclass(frozen=True)
class Horizon:
    """From when on the tables of an instance are complete.

    Attributes:
        time_ns: every process that ended later is in the tables; ns since the Unix epoch.
        cause: why the tables do not reach further back. BEGIN: the capture began then; RETENTION: entries are kept for
            `retention_s`; FULL: a table was full, and the oldest entries were evicted early.
        retention_s: how long entries are kept; None: unknown.
        now_ns: the present time as the tables count it (see `control.now_ns`).
    """

    time_ns: int
    cause: str
    retention_s: float | None
    now_ns: int

    def sentence(self, memory: Mapping[str, int] | None = None) -> str:
        """Return what is not in the tables, and why, without a full stop.

        Args:
            memory: of `ProcessTable.stats`: how full the tables are.
        """
        at = when(self.time_ns, self.now_ns)
        if self.cause == BEGIN:
            return f"processes that ended before {at} are not known: the capture began then"
        if self.cause == RETENTION:
            how_long = "" if self.retention_s is None else f" is {period(self.retention_s)}"
            return f"processes that ended before {at} are not kept (tables.retention_s{how_long})"
        return (
            f"processes that ended before {at} are not kept: a table was full, so they were evicted early "
            f"({_full_setting(memory)})"
        )


def horizon(directory: str | Path) -> Horizon | None:
    """Return how far back the tables in the directory of an instance reach; None: unknown, or of a recording."""
    header = control.fields(directory, *_NAMES)
    if header is None:
        return None
    found_ns, ready_ns = header["horizon_boot_ns"], header["ready_boot_ns"]
    retention_s = retention.read(Path(directory))
    if retention_s == math.inf or not found_ns:
        return None
    is_first = not header["takeovers"]
    if is_first:
        # Processes that ended before the first table was complete were never in it.
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
    return Horizon(found_ns + header["boot_unix_ns"], cause, retention_s, now_boot_ns + header["boot_unix_ns"])


def ending(name: str) -> str:
    """Return the horizon of an instance as the end of a sentence; empty if it is unknown."""
    try:
        found = horizon(paths.instance_dir(name))
    except ProclineError:
        return ""
    return "" if found is None else f"; {found.sentence()}"


def _full_setting(memory: Mapping[str, int] | None) -> str:
    """Return the settings of the tables that are full; without knowledge of that, where to look."""
    shares = {"tables.max_entries": _share(memory, "rows_used", "rows_capacity")} | {
        f"tables.{name}_bytes": _share(memory, f"{name}_used_bytes", f"{name}_capacity_bytes")
        for name in ("names", "args", "envs")
    }
    full = [setting for setting, share in shares.items() if share >= _FULL]
    return " and ".join(full) or "tables.max_entries, or one of the tables.*_bytes: see `procline stat`"


def _share(memory: Mapping[str, int] | None, used: str, capacity: str) -> float:
    return memory[used] / memory[capacity] if memory and memory.get(capacity) else 0.0
