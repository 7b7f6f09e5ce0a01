"""A numpy dtype for each layout of `pipeline.records.declared`, which a process without numpy uses instead."""

from __future__ import annotations

import numpy as np

from pipeline.records import declared

HEADER = np.dtype(declared.HEADER_LAYOUT.dtype())
TASK = np.dtype(declared.TASK_LAYOUT.dtype())
FORK = np.dtype(declared.FORK_LAYOUT.dtype())
EXEC = np.dtype(declared.EXEC_LAYOUT.dtype())
EXIT = np.dtype(declared.EXIT_LAYOUT.dtype())
NAMED_CGROUP = np.dtype(declared.NAMED_CGROUP_LAYOUT.dtype())
MEMBER = np.dtype(declared.MEMBER_LAYOUT.dtype())
COST = np.dtype(declared.COST_LAYOUT.dtype())
SENDER = np.dtype(declared.SENDER_LAYOUT.dtype())
SAMPLED = np.dtype(declared.SAMPLED_LAYOUT.dtype())
CAPS = np.dtype(declared.CAPS_LAYOUT.dtype())

#: Body dtype by kind; kinds that are not here have none.
BODIES = {declared.KIND_FORK: FORK, declared.KIND_EXEC: EXEC, declared.KIND_EXIT: EXIT}
