"""Distinguish a worker that hangs from one that is starved. The supervisor defines the signs of life and reacts.

A worker hangs if it shows no sign of life for a time in which it could have shown one. Only such time is counted
(`counted_s`):

- its own CPU time: a worker that computes for that long without a sign of life is in an endless loop;
- time in which it slept, was stopped, or was blocked without any progress.

Time in which it waited for a CPU is not counted, nor time in which it waited for memory or a disk and made progress in
between. Then the host starves the worker, and a replacement would be starved too. So a worker that makes progress is
never killed on a loaded or swapping host, however long its work takes.

Only the main thread is observed: it does the work and shows the signs of life. This module sends no signal.

Source: proc_pid_stat(5) for the state; Documentation/scheduler/sched-stats.rst for ``schedstat``. The kernel adds the
time that a thread waited for a CPU to ``schedstat`` only when the wait is over, so a thread that is found runnable is
taken to have waited.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from pipeline import files, proc_text
from pipeline.host.boot import CLOCK_TICKS

#: At most this much of the time between two observations is counted, so that one observation never decides: the
#: observer itself may have been starved.
INTERVAL_MAX_S = 5.0

_RUNNABLE = "R"
_BLOCKED = "D"


class Times(NamedTuple):
    """The state and the times of a thread, as the kernel reports them.

    Attributes:
        state: a letter of proc_pid_stat(5).
        cpu_s: CPU time so far.
        waited_s: time so far in which it was runnable and waited for a CPU; 0 if the kernel does not count it.
    """

    state: str
    cpu_s: float
    waited_s: float


def read_times(pid: int, proc: Path = Path("/proc")) -> Times | None:
    """Read the times of a process's main thread; return None if they cannot be read."""
    thread = f"{proc}/{pid}/task/{pid}"
    try:
        fields = proc_text.stat_fields(files.read_kernel(f"{thread}/stat"))
        cpu_s, waited_s = proc_text.cpu_ticks(fields) / CLOCK_TICKS, 0.0
        try:
            cpu_ns, wait_ns, runs = proc_text.schedstat(files.read_kernel(f"{thread}/schedstat"))
        except FileNotFoundError:
            runs = 0  # a kernel without CONFIG_SCHED_INFO
        if runs:
            cpu_s, waited_s = cpu_ns / 1e9, wait_ns / 1e9
        return Times(fields[proc_text.STATE].decode("ascii"), cpu_s, waited_s)
    except (OSError, ValueError, IndexError):
        return None


class Watchdog:
    """Observes one process; a new process needs a new one.

    Args:
        pid: the process.
        proc: where /proc is.

    Attributes:
        still_s: how long its sign of life has been the same.
        counted_s: the part of that in which it could have shown one; see this module's docstring.
    """

    def __init__(self, pid: int, proc: Path = Path("/proc")) -> None:
        self.still_s = 0.0
        self.counted_s = 0.0
        self._pid = pid
        self._proc = proc
        self._sign: object = None
        self._since_s = 0.0
        self._observed_s = 0.0
        self._times: Times | None = None

    def observe(self, sign: object, now_s: float) -> None:
        """Record the current sign of life.

        Args:
            sign: any value that changes while the process makes progress; None if no progress is expected now.
            now_s: monotonic time, which stops while the host is suspended.
        """
        before, self._times = self._times, read_times(self._pid, self._proc)
        elapsed_s, self._observed_s = now_s - self._observed_s, now_s
        if sign is None or sign != self._sign:
            self._sign, self._since_s, self.counted_s = sign, now_s, 0.0
        else:
            self.counted_s += min(_countable_s(before, self._times, elapsed_s), INTERVAL_MAX_S)
        self.still_s = now_s - self._since_s


def _countable_s(before: Times | None, after: Times | None, elapsed_s: float) -> float:
    """Return how much of the time between two observations a process could have used."""
    if before is None or after is None:
        return elapsed_s
    cpu_s = max(0.0, after.cpu_s - before.cpu_s)
    if after.state == _RUNNABLE or (after.state == _BLOCKED and cpu_s > 0):
        return cpu_s
    return max(cpu_s, elapsed_s - (after.waited_s - before.waited_s))
