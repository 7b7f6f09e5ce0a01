"""Facts about the running kernel that tests need."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pipeline.records.declared import KIND_NAMES

#: Whether this is a machine of tests/vm, which tests may change for each other.
IS_GUEST = os.environ.get("PROCLINE_GUEST") == "1"
IS_REAL_TIME = "PREEMPT_RT" in os.uname().version
#: The kernel skips runs of a program while it is preempted on that CPU, and counts them (docs/sources.md#preemption).
#: Since Linux 7.0 programs on tracepoints can be preempted.
SKIPS_RUNS = int(os.uname().release.partition(".")[0]) >= 7


def _preempts_itself() -> bool:
    """Whether a process can lose its CPU within the kernel: one setting is in parentheses (kernel/sched/debug.c)."""
    try:
        setting = Path("/sys/kernel/debug/sched/preempt").read_text()
    except OSError:
        setting = ""
    return IS_REAL_TIME or "(full)" in setting or "(lazy)" in setting


def _kinds_that_are_skipped() -> frozenset[str]:
    if SKIPS_RUNS:
        return frozenset(KIND_NAMES)
    # Programs of fentry can be preempted before Linux 7.0, too.
    return frozenset({"cred", "sid"}) if _preempts_itself() else frozenset()


#: Kinds of events that this kernel may skip, and then counts as lost.
SKIPPED_KINDS = _kinds_that_are_skipped()
#: The kernel counts all runs of programs of kprobes and system calls that it skipped. Before Linux 6.7 it does not.
COUNTS_EVERY_SKIP = tuple(int(part) for part in os.uname().release.split(".")[:2]) >= (6, 7)


def lost_kinds(lost: Mapping[str, int]) -> set[str]:
    """Return the kinds of events of which an instance has lost some, from its counts of lost events by kind."""
    return {kind for kind, count in lost.items() if count}
