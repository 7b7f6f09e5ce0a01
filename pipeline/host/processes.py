"""Live processes as /proc shows them: the daemon's own and what they cost, and facts about others that tables lack.

The supervisor writes the list and `procline stat` reads it. It is the file `processes` in the directory of the
instance: JSON, replaced atomically at each change. A process is identified by pid and start time (clock ticks of
``/proc/PID/stat``), so an outdated list never matches an unrelated process. Readers import this module, so it uses the
standard library only.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from pipeline import proc_text, trust
from pipeline.host.boot import CLOCK_TICKS, TICK_NS, now_boot_ns

FILE = "processes"

#: The largest pid_t. A damaged control segment can have a larger number.
_PID_MAX = (1 << 31) - 1


def describe(roles: Mapping[str, int]) -> bytes:
    """Return the content of the list.

    Args:
        roles: pid by role, the supervisor first.
    """
    import json  # deferred, as below: a reader that asks about one process needs none

    rows = [{"role": role, "pid": pid, "start_ticks": _stat(pid)[1]} for role, pid in roles.items()]
    return json.dumps({"processes": rows}).encode() + b"\n"


class Listed(NamedTuple):
    """One process of the list.

    Attributes:
        role: for example "supervisor", which is the first.
        pid: in the pid namespace of the instance.
        start_ticks: its start, in clock ticks since the boot.
        is_live: whether it still exists, as far as this process can see.
    """

    role: str
    pid: int
    start_ticks: int
    is_live: bool


def listed(directory: Path) -> list[Listed]:
    """Return the list of the instance in `directory`; empty if it has none."""
    import json

    try:
        rows: Iterable[dict[str, Any]] = json.loads(trust.read(directory / FILE))["processes"]
        return [Listed(row["role"], row["pid"], row["start_ticks"], _is(row)) for row in rows]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _is(row: Mapping[str, Any]) -> bool:
    fields = _fields(row["pid"])
    return fields is not None and _start_ticks(fields) == row["start_ticks"] and not proc_text.has_ended(fields)


#: `used` reads the bytes of processes with at most this many threads, because each thread costs 20 us.
_THREADS_MAX = 1024


class WorkerUsage(TypedDict):
    """The resources that one process of the instance uses; `pss_bytes` is None if the caller may not read it."""

    role: str
    pid: int
    cpu_seconds: float
    pss_bytes: int | None


def measure(directory: Path, *, with_memory: bool = True) -> list[WorkerUsage]:
    """Return what `stat --json` shows for each live process of the instance in `directory`.

    Args:
        directory: of the instance.
        with_memory: also read `pss_bytes`, for which the kernel adds up all pages of a process: some ms each.

    Returns:
        One dict per process with `role`, `pid`, `cpu_seconds` (user and system) and `pss_bytes` (None if the caller has
        no permission to read it). Empty if the instance has no list.
    """
    found: list[WorkerUsage] = []
    for row in listed(directory):
        cpu_seconds, start_ticks = _stat(row.pid)
        if start_ticks and start_ticks == row.start_ticks:
            pss = _pss_bytes(row.pid) if with_memory else None
            found.append({"role": row.role, "pid": row.pid, "cpu_seconds": cpu_seconds, "pss_bytes": pss})
    return found


def lives(pid: int, start_boot_ns: int) -> bool:
    """Return whether the process with this pid and start time exists. A zombie does not count.

    Args:
        pid: in the caller's pid namespace.
        start_boot_ns: start time from a control segment, accurate to a clock tick; 0: unknown, any process with this
            pid counts.
    """
    if not 0 < pid <= _PID_MAX:
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
    return not proc_text.has_ended(fields) and _is_of(fields, start_boot_ns)


def age_s(pid: int) -> float:
    """Return how long ago a live process was started, in seconds, accurate to a clock tick."""
    return max(0.0, (now_boot_ns() - _stat(pid)[1] * TICK_NS) / 1e9)


def thread_count(pid: int, start_boot_ns: int) -> int | None:
    """Return how many threads a live process has; None if it has ended. Arguments as in `lives`."""
    fields = _fields(pid)
    return int(fields[proc_text.THREADS]) if fields is not None and _is_of(fields, start_boot_ns) else None


def used(pid: int, start_boot_ns: int) -> dict[str, int | None] | None:
    """Return what a live process has used so far, with its threads; None if it has ended. Arguments as in `lives`.

    CPU times have the resolution of a clock tick. `read_bytes` and `write_bytes` are those of the live threads. They
    are None if the caller may not read them: another user's processes need CAP_SYS_PTRACE. Switches are None, because
    /proc has them by thread.
    """
    fields = _fields(pid)
    if fields is None or not _is_of(fields, start_boot_ns):
        return None
    minor, major, user, system, children_user, children_system = (int(fields[at]) for at in _USED)
    read, written = _own_io(pid)
    peak = proc_text.status_value(_read(pid, "status"), b"VmHWM").split()  # a kernel thread has no memory of its own
    return {
        "cpu_user_ns": user * TICK_NS,
        "cpu_system_ns": system * TICK_NS,
        "children_cpu_ns": (children_user + children_system) * TICK_NS,
        "max_rss_bytes": int(peak[0]) * 1024 if peak else None,
        "minor_faults": minor,
        "major_faults": major,
        "read_bytes": read,
        "write_bytes": written,
    }


#: Faults and CPU times of a process, and CPU times of its children.
_USED = (
    proc_text.MINOR_FAULTS, proc_text.MAJOR_FAULTS, proc_text.USER_TICKS, proc_text.SYSTEM_TICKS,
    proc_text.CHILDREN_USER_TICKS, proc_text.CHILDREN_SYSTEM_TICKS,
)  # fmt: skip


def _own_io(pid: int) -> tuple[int | None, int | None]:
    """Return the bytes that the live threads of a process have read and written; None: unknown, or too many threads.

    /proc/PID/io would be wrong here: the kernel adds to it what the children that the process waited for have read and
    written (wait_task_zombie() in kernel/exit.c), and these have numbers of their own.
    """
    read = written = 0
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return None, None
    if len(threads) > _THREADS_MAX:
        return None, None
    for thread in threads:
        lines = _read(pid, f"task/{thread.name}/io").splitlines()
        counts = {key: value for key, _, value in (line.partition(b": ") for line in lines)}
        if b"read_bytes" in counts and b"write_bytes" in counts:
            read += int(counts[b"read_bytes"])
            written += int(counts[b"write_bytes"])
        elif thread.exists():
            return None, None
    return read, written


def _read(pid: int, name: str) -> bytes:
    """Return the content of a file of a process; empty if it cannot be read."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def arguments(pid: int, start_boot_ns: int) -> list[str] | None:
    """Return the arguments of a live process; None if it has ended, or has none. Arguments as in `lives`."""
    try:
        area = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return None
    if not area or not lives(pid, start_boot_ns):
        return None
    return area.removesuffix(b"\0").decode("utf-8", "surrogateescape").split("\0")


def _is_of(fields: list[bytes], start_boot_ns: int) -> bool:
    """Whether the fields are of the process with this start time, accurate to a clock tick; 0: of any process."""
    return not start_boot_ns or abs(_start_ticks(fields) * TICK_NS - start_boot_ns) < 2 * TICK_NS


def _start_ticks(fields: list[bytes]) -> int:
    return int(fields[proc_text.START_TICKS])


def _stat(pid: int) -> tuple[float, int]:
    """Return the CPU seconds and the start time in ticks of a process; zeros if it has ended."""
    fields = _fields(pid)
    return (0.0, 0) if fields is None else (proc_text.cpu_ticks(fields) / CLOCK_TICKS, _start_ticks(fields))


def _fields(pid: int) -> list[bytes] | None:
    """Return the fields of the process's `stat`; None: no such process is visible."""
    try:
        return proc_text.stat_fields(Path(f"/proc/{pid}/stat").read_bytes())
    except OSError:
        return None


def _pss_bytes(pid: int) -> int | None:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_bytes().splitlines():
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        return None
    return None
