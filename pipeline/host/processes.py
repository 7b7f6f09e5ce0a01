"""The daemon's own processes: which they are, and what they cost.

The supervisor writes the list and `procline stat` reads it. It is the file `processes` in the directory of the
instance: JSON, replaced atomically at each change. A process is identified by pid and start time (clock ticks of
``/proc/PID/stat``), so an outdated list never matches an unrelated process. Readers import this module, so it uses the
standard library only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypedDict

from pipeline import trust
from pipeline.host.boot import CLOCK_TICKS, TICK_NS

FILE = "processes"


def describe(roles: Mapping[str, int]) -> bytes:
    """Return the content of the list.

    Args:
        roles: pid by role, the supervisor first.
    """
    rows = [{"role": role, "pid": pid, "start_ticks": _stat(pid)[1]} for role, pid in roles.items()]
    return json.dumps({"processes": rows}).encode() + b"\n"


class WorkerUsage(TypedDict):
    """What one process of the instance uses; `pss_bytes` is None if the caller may not read it."""

    role: str
    pid: int
    cpu_seconds: float
    pss_bytes: int | None


def measure(directory: Path) -> list[WorkerUsage]:
    """Return what `stat --json` shows for each live process of the instance in `directory`.

    Returns:
        One dict per process with `role`, `pid`, `cpu_seconds` (user and system) and `pss_bytes` (None if the caller has
        no permission to read it). Empty if the instance has no list.
    """
    try:
        rows: Iterable[dict[str, Any]] = json.loads(trust.read(directory / FILE))["processes"]
    except (OSError, ValueError, KeyError):
        return []
    found: list[WorkerUsage] = []
    for row in rows:
        cpu_seconds, start_ticks = _stat(row["pid"])
        if start_ticks and start_ticks == row["start_ticks"]:
            pss = _pss_bytes(row["pid"])
            found.append({"role": row["role"], "pid": row["pid"], "cpu_seconds": cpu_seconds, "pss_bytes": pss})
    return found


def lives(pid: int, start_boot_ns: int) -> bool:
    """Return whether the process with this pid and start time exists. A zombie does not count.

    Args:
        pid: in the caller's pid namespace.
        start_boot_ns: start time from a control segment, accurate to a clock tick; 0: unknown, any process with this
            pid counts.
    """
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it exists
    fields = _fields(pid)
    if fields is None:
        return True  # /proc is mounted with hidepid
    if fields[0] in {b"Z", b"X"}:
        return False
    return not start_boot_ns or abs(int(fields[19]) * TICK_NS - start_boot_ns) < 2 * TICK_NS


def _stat(pid: int) -> tuple[float, int]:
    """Return the CPU seconds and the start time in ticks of a process; zeros if it has ended."""
    fields = _fields(pid)
    return (0.0, 0) if fields is None else ((int(fields[11]) + int(fields[12])) / CLOCK_TICKS, int(fields[19]))


def _fields(pid: int) -> list[bytes] | None:
    """Return the fields of proc_pid_stat(5) from the third (the state) on; None: no such process is visible."""
    try:
        line = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    return line.rpartition(b") ")[2].split()  # the name before it is in parentheses and may contain any byte


def _pss_bytes(pid: int) -> int | None:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_bytes().splitlines():
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        return None
    return None
