"""Passes of the iterator that compares live processes with their last records, for the tier "sampled".

The comparison is in the kernel (cred_sampled.bpf.c), and only differences become records. This module decides when a
pass begins and divides it into parts. It needs only a descriptor. It does not import numpy, because the supervisor
runs it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress

from pipeline.bpf import syscall

#: Maximum CPU time of passes, as a share of one CPU. With many processes, passes become less frequent instead.
CPU_SHARE = 0.003
#: A pass begins this much before the interval is over, so that it ends within the interval.
_EARLY = 0.9


class Sampler:
    """Compare every process within each interval, in parts of `declared.SAMPLE_PART` tasks.

    Args:
        link_fd: `CaptureFds.sample_link`; the caller keeps ownership.
        interval_s: a change is seen within this time, unless that would take more than CPU_SHARE.
        create: returns a descriptor of a new pass.
        clock, cpu_clock: seconds that have passed, and that this thread has run.

    Attributes:
        interval_s: a change is seen within this time at the moment: what was asked for, or more.
    """

    def __init__(
        self,
        link_fd: int,
        interval_s: float,
        *,
        create: Callable[[int], int] = syscall.iter_create,
        clock: Callable[[], float] = time.monotonic,
        cpu_clock: Callable[[], float] = time.thread_time,
    ) -> None:
        self._link_fd = link_fd
        self.interval_s = self._least_s = interval_s
        self._create = create
        self._clock, self._cpu_clock = clock, cpu_clock
        self._fd: int | None = None
        self._began_s = 0.0
        self._cpu_s = 0.0
        self._due_s = clock()

    def advance(self) -> float:
        """Make the next part of a pass if one is due; return the seconds until the next part, or pass, is due.

        Raises:
            OSError: the kernel does not run the iterator.
        """
        now = self._clock()
        if self._fd is None:
            if now < self._due_s:
                return self._due_s - now
            self._began_s, self._cpu_s = now, 0.0
        before = self._cpu_clock()
        try:
            if self._fd is None:
                self._fd = self._create(self._link_fd)
            is_last = not os.read(self._fd, 1)
        except OSError:
            self.close()
            self._due_s = now + self._least_s * _EARLY
            raise
        self._cpu_s += self._cpu_clock() - before
        if not is_last:
            return 0.0
        self.close()
        affordable_s = self._cpu_s / CPU_SHARE
        self.interval_s = max(self._least_s, affordable_s)
        self._due_s = self._began_s + max(self._least_s * _EARLY, affordable_s)
        return max(0.0, self._due_s - self._clock())

    def close(self) -> None:
        """End a pass that has begun; idempotent."""
        fd, self._fd = self._fd, None
        if fd is not None:
            with suppress(OSError):
                os.close(fd)
