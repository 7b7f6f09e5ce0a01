"""What tests have to know about the kernel that they run on."""

from __future__ import annotations

import os

#: The kernel skips runs of a program while it is preempted on that CPU, and counts them (docs/sources.md#preemption).
#: Since Linux 7.0 programs on tracepoints can be preempted.
SKIPS_RUNS = int(os.uname().release.partition(".")[0]) >= 7
#: The kernel counts all runs of programs of kprobes and system calls that it skipped. Before Linux 6.7 it does not.
COUNTS_EVERY_SKIP = tuple(int(part) for part in os.uname().release.split(".")[:2]) >= (6, 7)
