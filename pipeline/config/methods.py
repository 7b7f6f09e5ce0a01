"""The values of `capture.credentials`: the changes of a process that each one sees or sees late, and its cost.

These texts are in the settings, in the report of `procline doctor` and in the tiers of an instance. docs/sources.md
explains them.
"""

from __future__ import annotations

#: How much longer calls of other processes take with "syscalls", in ns. Each range covers all tables of the documents,
#: which are of several machines and of both sets of programs; tests/docs/test_syscalls_cost.py compares them. The last
#: one covers calls that change something, and calls that do not.
SYSCALLS_ADDS_NS = {
    "every system call of the host": (5, 190),
    "a write or an ioctl": (25, 390),
    "an open with its close": (100, 630),
    "a signal": (50, 430),
    "setresuid() and the like": (230, 1900),
}
#: The part of it that each call takes longer for 32-bit calls, from the same tables.
COMPAT_ADDS_NS = (4, 130)


def _cost() -> str:
    (first, (low, high)), *others = SYSCALLS_ADDS_NS.items()
    texts = [f"{first} takes {low} to {high} ns longer"]
    return ", ".join(texts + [f"{call} {low:,} to {high:,} ns" for call, (low, high) in others])


SYSCALLS_COST = _cost()

#: What "sampled" does not see.
SAMPLED_MISSES = (
    "a change that is reverted before the next comparison, single steps of several changes before it, and changes of a "
    "process that ends before it, except those that its exit record contains"
)

#: What "syscalls" sees late, with the next record of the process.
SYSCALLS_DELAYS = (
    "a login uid that io_uring or a write of more than 64 bytes sets, a terminal that io_uring opens, setpgid() of a "
    "child that another thread forked, and changes by 32-bit calls that are not traced"
)

#: What an instance sees by each method.
SEES = {
    "fentry": "seen at once, at no cost to others",
    "kprobe": "seen at once, at no cost to others; can be late: setpgid() of a child that another thread forked",
    "sampled": "seen within capture.sampling_interval_s by comparison, at no cost to others; "
    f"not seen: {SAMPLED_MISSES}",
    "syscalls": f"seen at once; only with the next record of the process: {SYSCALLS_DELAYS}; {SYSCALLS_COST}",
    "off": "seen at the next fork, exec, exit, change of name or of cgroup",
}
