"""Remove processes after a lost exit event (specification 3.4, DequeueExited).

There is one way to remove such a process, `Flusher.flush_if_gone`, and two callers that suspect one. A program that
uses the resolver as a library has a thread here, which compares the cache with ``/proc`` every two minutes and queues
the processes that are missing there. A daemon has no such thread, so its queue is always empty: its `Repairer` compares
the tables with all live processes, periodically and after each loss. After a take-over it may suspect thousands at
once. `Flusher.flush_all_gone` removes many: in one pass, the applier removes all that have no live children.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np

from pipeline.host.alive import watched
from pipeline.host.boot import is_same_start
from pipeline.resolver.api.proc_access import ProcAccess
from pipeline.resolver.api.registry import Registry
from pipeline.resolver.api.reparenting import Reparenter
from pipeline.resolver.api.state import ResolverState
from pipeline.resolver.api.stats import DEQUEUE_EXITED
from pipeline.resolver.entries.cache_entry import ProcessCacheEntry

if TYPE_CHECKING:
    import numpy.typing as npt

FLUSH_INTERVAL_S = 120.0
#: A process must be older than this to be flushed from the queue.
FLUSH_AGE_NS = 60 * 1_000_000_000


class Flusher:
    """Removes processes that are gone although no event reported their end.

    Args:
        state: of the resolver.
        proc: shows which processes live.
        registry: removes them.
        reparenter: moves their children.
    """

    def __init__(self, state: ResolverState, proc: ProcAccess, registry: Registry, reparenter: Reparenter) -> None:
        self._state = state
        self._proc = proc
        self._registry = registry
        self._reparenter = reparenter
        self._queue: list[tuple[int, int]] = []  # pid, start

    # -- one process ---------------------------------------------------------------------------------------------------

    def flush_if_gone(self, pid: int, start_boot_ns: int, time_boot_ns: int) -> bool:
        """Read ``/proc`` once more, and remove the process unless it lives. Arguments and result as of `flush`."""
        return self._is_gone(pid, start_boot_ns) and self.flush(pid, start_boot_ns, time_boot_ns)

    def _is_gone(self, pid: int, start_boot_ns: int) -> bool:
        info = self._proc.read(pid, 0)
        return info is None or info.is_zombie or not is_same_start(start_boot_ns, info.start_ticks)

    def flush(self, pid: int, start_boot_ns: int, time_boot_ns: int) -> bool:
        """Remove a process that was gone at a time although no event reported its end.

        Returns:
            Whether it was removed: False if it is not cached, or the tables have a more recent fact about it.
        """
        entry = self._state.book.head(pid)
        if entry is None or entry.start_boot_ns != start_boot_ns or not self._registry.close(entry, time_boot_ns):
            return False
        self._reparenter.move_children(entry, DEQUEUE_EXITED, None)
        return True

    def flush_all_gone(
        self, pids: npt.NDArray[np.uint32], starts_boot_ns: npt.NDArray[np.uint64], is_absent: npt.NDArray[np.bool_],
        time_boot_ns: int,
    ) -> int:  # fmt: skip
        """Do what `flush_if_gone` does with many processes; see `EBPFResolver.flush_all_gone`."""
        is_gone = is_absent.copy()
        for number in watched(np.flatnonzero(~is_absent).tolist(), self._state.tables.py_show_life):
            is_gone[number] = self._is_gone(int(pids[number]), int(starts_boot_ns[number]))
        pids, starts_boot_ns = pids[is_gone], starts_boot_ns[is_gone]
        forgotten = 0

        def flush(number: int) -> bool:
            nonlocal forgotten
            self._registry.forget(pids[forgotten:number].tolist())
            forgotten = number + 1
            return self.flush(int(pids[number]), int(starts_boot_ns[number]), time_boot_ns)

        is_flushed = self._state.applier.close_all_missing(
            pids, starts_boot_ns, is_absent[is_gone].view(np.uint8), time_boot_ns=time_boot_ns, close=flush
        )
        self._registry.forget(pids[forgotten:].tolist())
        return is_flushed.count(1)

    # -- the queue of a program without a repairer ---------------------------------------------------------------------

    def run(self, ctx: threading.Event) -> threading.Thread:
        """Start a thread that fills the queue every FLUSH_INTERVAL_S seconds until `ctx` is set."""
        thread = threading.Thread(target=self._tick_until, args=(ctx,), name="flush", daemon=True)
        thread.start()
        return thread

    def _tick_until(self, ctx: threading.Event) -> None:
        while not ctx.wait(FLUSH_INTERVAL_S):
            with self._state.lock:
                self.tick()

    def tick(self) -> int:
        """Queue each cached process that ``/proc`` does not list; returns how many. A failed listing queues none."""
        try:
            alive = self._proc.list_pids()
        except OSError:
            return 0
        gone = [(entry.pid, entry.start_boot_ns) for entry in self._state.book.heads() if entry.pid not in alive]
        self._queue += gone
        return len(gone)

    def dequeue(self) -> None:
        """Remove the queued processes that are old enough and still gone, and clear the queue.

        ``/proc`` is read again, because the pid may have a live owner by now (specification 9.3.14).
        """
        queued, self._queue = self._queue, []
        before = self._state.clock.to_unix_ns(self._state.now_boot_ns()) - FLUSH_AGE_NS
        for pid, start in queued:
            entry = self._state.book.head(pid)
            if entry is not None and entry.start_boot_ns == start and _is_old(entry, before):
                self.flush_if_gone(pid, start, self._state.now_boot_ns())


def _is_old(entry: ProcessCacheEntry, before: int) -> bool:
    """Whether an entry is old enough: rules (a) to (c) of DequeueExited."""
    times = [time_ns for time_ns in (entry.exec_time, entry.fork_time) if time_ns is not None]
    return not times or any(time_ns < before for time_ns in times)
