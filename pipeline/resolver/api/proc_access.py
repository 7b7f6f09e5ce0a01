"""All reads of ``/proc`` by the eBPF resolver. They release the resolver's lock (specification 9.3.13).

It does not enter anything into the tables: `proc_entries` does.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from pipeline.procfs.info import ProcInfo
from pipeline.resolver.api.lock import ResolverLock
from pipeline.resolver.entries.collaborators import ProcSource


class ProcAccess:
    """``/proc`` for callers that hold the resolver's lock.

    Each method releases the lock while it reads, unless the caller holds it more than once.

    Args:
        lock: the resolver's.
        proc: the reader of ``/proc``.
    """

    def __init__(self, lock: ResolverLock, proc: ProcSource) -> None:
        self._lock = lock
        self._proc = proc
        # A reader serves one thread at a time. No thread waits for the resolver's lock while it holds this one.
        self._reading = threading.Lock()

    def read(self, pid: int, want: int) -> ProcInfo | None:
        """Read a process; `want` selects the facts, see `pipeline.procfs.proc_reader`."""
        with self._lock.put_down(), self._reading:
            return self._proc.read(pid, want)

    def read_ppid(self, pid: int) -> int | None:
        """Read the parent of a process; None: it is gone."""
        with self._lock.put_down():
            return self._proc.read_ppid(pid)

    def read_ppids(self, pids: Iterable[int]) -> list[int | None]:
        """Read the parents of several processes, with one release of the lock."""
        with self._lock.put_down():
            return [self._proc.read_ppid(pid) for pid in pids]

    def list_pids(self) -> set[int]:
        """List the pids of all processes.

        Raises:
            OSError: the directory cannot be read.
        """
        with self._lock.put_down():
            return {int(pid) for pid in self._proc.list_pids()}
