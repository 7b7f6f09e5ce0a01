"""Which process of the daemon's own ``/proc`` it is that a tracer names by its number in another pid namespace.

What a tracer can not tell of a process (the files of its root, its environment as sshd left it) is read where the
daemon can see the process too, which is so where it runs on the host. Leaves out whether what is found is meant: who
asks compares start or namespaces. Nobody found is the usual answer for a daemon that is in a container itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from pipeline.shm.layout import tables as layout
from pipeline.shm.writer._writer import TableWriter

#: A pass over ``/proc`` costs some 15 us a process, so passes are at least so far apart.
PASS_NS = 100_000_000

#: Number of a process in its innermost pid namespace, and the inode of that.
Key = tuple[int, int]


def key_of(tables: TableWriter, tgid: int) -> Key | None:
    """The key of an entry of the index; None: it is no tracer's, or nobody has it."""
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
        """Look at all processes; False: that was done a moment before."""
        now = self._now_ns()
        if now < self._due_ns:
            return False
        processes = (path for path in Path(self._proc).iterdir() if path.name.isdigit())
        self._pids = {key: int(path.name) for path in processes if (key := _key(path))}
        self._due_ns = self._now_ns() + PASS_NS
        return True

    def find(self, key: Key) -> int:
        """The pid of a process as of the last look; 0: it was not there, or is not any more."""
        pid = self._pids.get(key, 0)
        return pid if pid and _key(Path(self._proc, str(pid))) == key else 0


def _key(process: Path) -> Key | None:
    try:
        namespace = (process / "ns/pid").stat().st_ino
        for line in (process / "status").read_bytes().splitlines():
            if line.startswith(b"NSpid:"):
                return int(line.split()[-1]), namespace
    except OSError:
        pass
    return None
