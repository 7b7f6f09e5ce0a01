"""What tests have to know about the kernel that they run on."""

from __future__ import annotations

import os

#: The kernel skips runs of a program while it is preempted on that CPU, and counts them (docs/sources.md#preemption).
#: Since Linux 7.0 programs on tracepoints can be preempted.
SKIPS_RUNS = int(os.uname().release.partition(".")[0]) >= 7
#: The kernel shows how often it did not run the program of a kprobe; before Linux 6.7 it does not.
SHOWS_MISSED_PROBES = tuple(int(part) for part in os.uname().release.split(".")[:2]) >= (6, 7)
