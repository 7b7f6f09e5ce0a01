"""One CPU for all workers of an idle host: the home.

On an idle host everybody sleeps, and an event wakes four threads one after the other: the shard, ZeroMQ's thread there,
that of the resolver, the resolver. The scheduler gives each an idle CPU, so every wake-up is an interrupt of another
CPU, which has to leave its sleep first and has cold caches. On one CPU all but the first are mere changes of context,
and an event is in the table a third sooner or more (docs/performance.md).

On a busy host the scheduler knows better: a thread that is bound to a CPU waits there while others are free. So the
workers are bound to a home only while it is theirs for the asking, by the kernel's own count of how long they waited
for it. Else they are free, until a CPU is idle again.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

#: A home is a CPU that was idle for this share of the time between two looks.
IDLE_SHARE = 0.75
#: A worker that waited for so long each time that it was to run has to share its home.
WAIT_NS = 100_000
#: Less says nothing about a CPU: its times are told in ticks of 10 ms.
BETWEEN_LOOKS_S = 1.0


class Home:
    """Chooses the home and binds the workers to it, or frees them.

    Where the kernel does not tell what workers wait for (CONFIG_SCHED_INFO), or does not let this process bind them,
    they stay free. CPUs are those that this process may run on, so whoever bound the daemon to some CPUs is obeyed.

    Args:
        proc: where /proc is.
        bind: sets the CPUs of a thread; sched_setaffinity(2).

    Attributes:
        cpu: the home; None: the workers are free.
    """

    def __init__(
        self,
        proc: Path = Path("/proc"),
        bind: Callable[[int, Iterable[int]], None] = os.sched_setaffinity,
    ) -> None:
        self.cpu: int | None = None
        self._proc = proc
        self._bind = bind
        self._looked_s = float("-inf")
        self._times: dict[int, tuple[int, int]] = {}
        self._waits: dict[int, tuple[int, int]] = {}
        self._bound: set[int] = set()
        self._is_possible = True

    def look(self, pids: Iterable[int], now_s: float) -> None:
        """See how the workers fare, and move them if need be; soon after the last look, nothing.

        Args:
            pids: the workers that are alive.
            now_s: monotonic time.
        """
        if not self._is_possible or now_s - self._looked_s < BETWEEN_LOOKS_S:
            return
        self._looked_s = now_s
        workers = set(pids)
        try:
            longest_ns = self._longest_wait_ns(workers)
            if self.cpu is None:
                self.cpu = self._idlest()
            elif longest_ns > WAIT_NS:
                self.cpu = None
                self._times = self._cpu_times()
            self._follow(workers)
        except (OSError, ValueError, IndexError):
            self._is_possible, self.cpu = False, None
            with contextlib.suppress(OSError):
                self._follow(workers)

    def _longest_wait_ns(self, workers: set[int]) -> float:
        """What the worker that waited longest waited on average, each time that it was to run since the last look."""
        waits, longest = {}, 0.0
        for pid in workers:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                # time on the CPU, time waiting for it (ns), times that it ran (Documentation/scheduler/sched-stats.rst)
                _, wait_ns, runs = map(int, (self._proc / str(pid) / "schedstat").read_bytes().split())
                if not runs:
                    raise ValueError("the kernel does not count them")
                waits[pid] = wait_ns, runs
                before = self._waits.get(pid, waits[pid])
                longest = max(longest, (wait_ns - before[0]) / max(1, runs - before[1]))
        self._waits = waits
        return longest

    def _idlest(self) -> int | None:
        """The CPU that was idle for longest since the last call, if that was IDLE_SHARE of the time."""
        before, self._times = self._times, self._cpu_times()
        shares = {
            cpu: (idle - before[cpu][0]) / max(1, total - before[cpu][1])
            for cpu, (idle, total) in self._times.items()
            if cpu in before
        }
        best = max(shares, key=lambda cpu: (shares[cpu], cpu), default=None)
        return best if best is not None and shares[best] >= IDLE_SHARE else None

    def _cpu_times(self) -> dict[int, tuple[int, int]]:
        """By CPU that workers may run on: ticks idle, ticks in all; proc_stat(5)."""
        allowed = os.sched_getaffinity(0)
        times = {}
        for line in (self._proc / "stat").read_bytes().splitlines()[1:]:  # the first is the sum of all
            if not line.startswith(b"cpu"):
                break
            name, *fields = line.split()
            ticks = [int(field) for field in fields[:8]]  # those behind are parts of the first two
            if int(name[3:]) in allowed:
                times[int(name[3:])] = ticks[3] + ticks[4], sum(ticks)
        return times

    def _follow(self, workers: set[int]) -> None:
        """Bind who is not yet bound to the home, or free who is. A worker begins where this process may run."""
        self._bound &= workers
        if self.cpu is None:
            while self._bound:
                self._bind_all(self._bound.pop(), os.sched_getaffinity(0))
        else:
            for pid in workers - self._bound:
                self._bound.add(pid)  # before, so that who is half bound can be freed
                self._bind_all(pid, {self.cpu})

    def _bind_all(self, pid: int, where: Iterable[int]) -> None:
        """All threads of a process; one that it starts later begins where the one that starts it is bound."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for thread in (self._proc / str(pid) / "task").iterdir():
                with contextlib.suppress(ProcessLookupError):
                    self._bind(int(thread.name), where)
