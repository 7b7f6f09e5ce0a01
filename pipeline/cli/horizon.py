"""How far back the tables of an instance reach, as a sentence.

A command that finds nothing prints it, because "not found" does not mean "there was none".
"""

from __future__ import annotations

from collections.abc import Mapping

from pipeline import paths
from pipeline.errors import ProclineError
from pipeline.screen.times import period, when
from pipeline.shm.reader.horizon import BEGIN, RETENTION, Horizon, horizon

#: A table counts as full from this share on. It has then evicted entries early.
_FULL = 0.9


def sentence(horizon: Horizon, memory: Mapping[str, int] | None = None) -> str:
    """Return what is not in the tables, and why, without a full stop.

    Args:
        horizon: how far the tables reach.
        memory: of `ProcessTable.stats`: how full the tables are.
    """
    at = when(horizon.time_ns, horizon.now_ns)
    if horizon.cause == BEGIN:
        return f"processes that ended before {at} are not known: the capture began then"
    if horizon.cause == RETENTION:
        how_long = "" if horizon.retention_s is None else f" is {period(horizon.retention_s)}"
        return f"processes that ended before {at} are not kept (tables.retention_s{how_long})"
    return (
        f"processes that ended before {at} are not kept: a table was full, so they were evicted early "
        f"({_full_setting(memory)})"
    )


def ending(name: str) -> str:
    """Return the horizon of an instance as the end of a sentence; empty if it is unknown."""
    try:
        found = horizon(paths.instance_dir(name))
    except ProclineError:
        return ""
    return "" if found is None else f"; {sentence(found)}"


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
