"""Find the process in the daemon's own ``/proc`` that a tracer names by its number in another pid namespace.

Facts that a tracer cannot report (files in the root of a process, its environment) are read from ``/proc`` if the
daemon sees the process there, which is the case on the host. The caller checks by start or namespaces that the right
process was found. A daemon that runs in a container usually finds none.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from pipeline import proc_text
from pipeline.shm.layout import layout
from pipeline.shm.writer._writer import TableWriter

#: Least time between two passes over ``/proc``, which cost about 15 us for each process.
PASS_NS = 100_000_000

#: Number of a process in its innermost pid namespace, and the inode of that namespace.
Key = tuple[int, int]


def key_of(tables: TableWriter, tgid: int) -> Key | None:
    """Return the key of an index entry; None: it has no process, or the process is not a tracer's."""
    row = tables.py_head(tgid)
    if not row or not int(tables.hot_view()["flags"][row]) & layout.ROW_FOREIGN:
        return None
    cold = tables.cold_view()
    return int(cold["ns_pid"][row]), int(cold["pid_ns"][row])


class ForeignPids:
    """Finds pids by key. For one thread.

    Args:
        proc: where procfs is mounted.
        now_ns: a clock.
    """

    def __init__(self, proc: str = "/proc", now_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._proc = proc
        self._now_ns = now_ns
        self._pids: dict[Key, int] = {}
        self._due_ns = 0

    def refresh(self) -> bool:
        """Read all processes; False: they were read less than PASS_NS ago."""
        now = self._now_ns()
        if now < self._due_ns:
            return False
        processes = (path for path in Path(self._proc).iterdir() if path.name.isdigit())
        self._pids = {key: int(path.name) for path in processes if (key := _key(path))}
        self._due_ns = self._now_ns() + PASS_NS
        return True

    def find(self, key: Key) -> int:
        """Return the pid that the last `refresh` found for a process; 0: there was none, or it is gone."""
        pid = self._pids.get(key, 0)
        return pid if pid and _key(Path(self._proc, str(pid))) == key else 0


def _key(process: Path) -> Key | None:
    try:
        namespace = (process / "ns/pid").stat().st_ino
        numbers = proc_text.status_value((process / "status").read_bytes(), b"NSpid").split()
    except OSError:
        return None
    return (int(numbers[-1]), namespace) if numbers else None
