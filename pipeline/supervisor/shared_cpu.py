"""One shared CPU for all workers of an idle host.

On an idle host every thread sleeps, and an event wakes four threads one after the other: the shard, its ZeroMQ thread,
the resolver's ZeroMQ thread, and the resolver. The scheduler chooses an idle CPU for each, so every wake-up interrupts
another CPU, which must leave its sleep state and has cold caches. On one CPU all wake-ups but the first are context
switches, and an event is in the table at least a third sooner (docs/performance.md).

On a busy host the scheduler decides better: a thread that is bound to a CPU waits for it while others are idle. So the
workers share a CPU only while they hardly wait for it, by the kernel's own count. Then they are released until a CPU is
idle again.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from pipeline import files, proc_text

#: The shared CPU must have been idle for this share of the time since the last check.
IDLE_SHARE = 0.75
#: The workers are released if one of them waited this long for the CPU, on average per run.
WAIT_NS = 100_000
#: Time between two checks. The kernel counts in ticks of 10 ms, so a shorter time is not meaningful.
BALANCE_INTERVAL_S = 1.0


class SharedCpu:
    """Chooses the shared CPU and binds the workers to it, or releases them.

    If the kernel does not count waiting time (CONFIG_SCHED_INFO), or does not permit this process to bind workers, they
    stay free. Only CPUs that this process may run on are used, so an affinity that was set for the daemon is respected.

    Args:
        proc: where /proc is.
        bind: sets the CPUs of a thread; sched_setaffinity(2).

    Attributes:
        cpu: the shared CPU; None if the workers are free.
    """

    def __init__(
        self,
        proc: Path = Path("/proc"),
        bind: Callable[[int, Iterable[int]], None] = os.sched_setaffinity,
    ) -> None:
        self.cpu: int | None = None
        self._proc = proc
        self._bind = bind
        self._balanced_s = float("-inf")
        self._times: dict[int, tuple[int, int]] = {}
        self._waits: dict[int, tuple[int, int]] = {}
        self._bound: set[int] = set()
        self._is_possible = True

    def balance(self, pids: Iterable[int], now_s: float) -> None:
        """Bind or free the workers if necessary. Does nothing soon after the last call.

        Args:
            pids: the live workers.
            now_s: monotonic time.
        """
        if not self._is_possible or now_s - self._balanced_s < BALANCE_INTERVAL_S:
            return
        self._balanced_s = now_s
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
        """Return the longest average wait of a worker for its CPU, per run since the last call."""
        waits, longest = {}, 0.0
        for pid in workers:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                _, wait_ns, runs = proc_text.schedstat(files.read_kernel(f"{self._proc}/{pid}/schedstat"))
                if not runs:
                    raise ValueError("the kernel does not count waiting time")
                waits[pid] = wait_ns, runs
                before = self._waits.get(pid, waits[pid])
                longest = max(longest, (wait_ns - before[0]) / max(1, runs - before[1]))
        self._waits = waits
        return longest

    def _idlest(self) -> int | None:
        """Return the CPU that was idle longest since the last call, if that was at least IDLE_SHARE of the time."""
        before, self._times = self._times, self._cpu_times()
        shares = {
            cpu: (idle - before[cpu][0]) / max(1, total - before[cpu][1])
            for cpu, (idle, total) in self._times.items()
            if cpu in before
        }
        best = max(shares, key=lambda cpu: (shares[cpu], cpu), default=None)
        return best if best is not None and shares[best] >= IDLE_SHARE else None

    def _cpu_times(self) -> dict[int, tuple[int, int]]:
        """Return idle ticks and total ticks of each CPU that workers may run on; proc_stat(5)."""
        allowed = os.sched_getaffinity(0)
        times = {}
        for line in files.read_kernel(f"{self._proc}/stat").splitlines()[1:]:  # the first line is the sum
            if not line.startswith(b"cpu"):
                break
            name, *fields = line.split()
            ticks = [int(field) for field in fields[:8]]  # the others are parts of the first two
            if int(name[3:]) in allowed:
                times[int(name[3:])] = ticks[3] + ticks[4], sum(ticks)
        return times

    def _follow(self, workers: set[int]) -> None:
        """Bind workers to the shared CPU, or release them. A new worker may run wherever this process may."""
        self._bound &= workers
        if self.cpu is None:
            while self._bound:
                self._bind_all(self._bound.pop(), os.sched_getaffinity(0))
        else:
            for pid in workers - self._bound:
                self._bound.add(pid)  # before, so that a worker that is only partly bound can be released
                self._bind_all(pid, {self.cpu})

    def _bind_all(self, pid: int, where: Iterable[int]) -> None:
        """Bind all threads of a process. A new thread inherits the affinity of the thread that starts it."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for thread in (self._proc / str(pid) / "task").iterdir():
                with contextlib.suppress(ProcessLookupError):
                    self._bind(int(thread.name), where)
