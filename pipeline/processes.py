"""The daemon's own processes: who they are, and what they cost. The supervisor writes the list, `procline stat` reads.

The list is the file `processes` in the instance's directory: JSON, replaced whole at each change. A process is named
by pid and start time (clock ticks of ``/proc/PID/stat``), so that an old list never speaks of a stranger. Leaf module:
readers import it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline import trust

FILE = "processes"
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def describe(roles: Mapping[str, int]) -> bytes:
    """Return the list to write.

    Args:
        roles: pid by role, the supervisor first.
    """
    rows = [{"role": role, "pid": pid, "start_ticks": _stat(pid)[1]} for role, pid in roles.items()]
    return json.dumps({"processes": rows}).encode() + b"\n"


def measure(directory: Path) -> list[dict[str, Any]]:
    """Return what `stat --json` shows of each process of the instance in `directory` that lives.

    Each has `role`, `pid`, `cpu_seconds` (user and system) and `pss_bytes`, which is None where the caller may not
    know it. An instance that has no list has no processes.
    """
    try:
        rows: Iterable[dict[str, Any]] = json.loads(trust.read(directory / FILE))["processes"]
    except (OSError, ValueError, KeyError):
        return []
    found = []
    for row in rows:
        cpu_seconds, start_ticks = _stat(row["pid"])
        if start_ticks and start_ticks == row["start_ticks"]:
            pss = _pss_bytes(row["pid"])
            found.append({"role": row["role"], "pid": row["pid"], "cpu_seconds": cpu_seconds, "pss_bytes": pss})
    return found


def lives(pid: int, start_boot_ns: int) -> bool:
    """Whether the process that started then still has this pid, in the pid namespace of the caller. A zombie does not.

    Args:
        start_boot_ns: as in a control segment, to a clock tick; 0: not known, whoever has the pid counts.
    """
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it exists
    try:
        line = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return True  # /proc is mounted with hidepid
    fields = line.rpartition(b") ")[2].split()
    if fields[0] in {b"Z", b"X"}:
        return False
    tick_ns = 1_000_000_000 // _TICKS_PER_SECOND
    return not start_boot_ns or abs(int(fields[19]) * tick_ns - start_boot_ns) < 2 * tick_ns


def _stat(pid: int) -> tuple[float, int]:
    """Return CPU seconds and start time in ticks of a process, zeros if it is gone."""
    try:
        line = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return 0.0, 0
    # proc_pid_stat(5): the name is in parentheses and may hold any byte; fields from the third on follow it.
    fields = line.rpartition(b") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND, int(fields[19])


def _pss_bytes(pid: int) -> int | None:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_bytes().splitlines():
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        return None
    return None
