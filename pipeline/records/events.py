"""Event records for numpy: the constants of the declaration, and a dtype for each layout.

The declaration is `pipeline.records.declared`; a process that has no numpy uses that one.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from pipeline.records import declared
from pipeline.records.declared import *  # noqa: F403 - a constant has the same name here

HEAD = np.dtype(declared.HEAD_LAYOUT.dtype())
TASK = np.dtype(declared.TASK_LAYOUT.dtype())
FORK = np.dtype(declared.FORK_LAYOUT.dtype())
EXEC = np.dtype(declared.EXEC_LAYOUT.dtype())
EXIT = np.dtype(declared.EXIT_LAYOUT.dtype())
NAMED_CGROUP = np.dtype(declared.NAMED_CGROUP_LAYOUT.dtype())
MEMBER = np.dtype(declared.MEMBER_LAYOUT.dtype())
COST = np.dtype(declared.COST_LAYOUT.dtype())
SENDER = np.dtype(declared.SENDER_LAYOUT.dtype())
CAPS = np.dtype(declared.CAPS_LAYOUT.dtype())

#: Body dtype by kind; kinds that are not here have none.
BODIES = {declared.KIND_FORK: FORK, declared.KIND_EXEC: EXEC, declared.KIND_EXIT: EXIT}


def cgroup_set(members: Iterable[tuple[int, int]]) -> int:
    """Return TASK.cgroups_v1 of a process in these cgroups of version 1, as ``bpf/programs/task.bpf.h`` computes it.

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
    return every | 1 << 63 if count else declared.CGROUPS_V1_ROOTS


_U64 = (1 << 64) - 1
