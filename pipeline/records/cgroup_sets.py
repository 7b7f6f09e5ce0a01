"""The number of a set of cgroups of version 1, as ``bpf/programs/task.bpf.h`` computes it."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.records.declared import CGROUPS_V1_ROOTS

_U64 = (1 << 64) - 1


def cgroup_set(members: Iterable[tuple[int, int]]) -> int:
    """Return TASK.cgroups_v1 of a process in these cgroups of version 1.

    The order does not matter. The top bit is set, so the number differs from the id of any cgroup.

    Args:
        members: hierarchy id and cgroup id of each cgroup that is not the root of its hierarchy.
    """
    every, count = 0, 0
    for hierarchy, cgroup_id in members:
        value = (hierarchy << 48 ^ cgroup_id) & _U64
        value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & _U64
        value = (value ^ value >> 27) * 0x94D049BB133111EB & _U64
        every ^= value ^ value >> 31
        count += 1
    return every | 1 << 63 if count else CGROUPS_V1_ROOTS
