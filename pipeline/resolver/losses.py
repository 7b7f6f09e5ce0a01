"""What the kernel could not write, and what it filtered: the sums over all CPUs of the shared counters."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.bpf import maps


class SharedCounters:
    """Counters of the BPF programs for this capture; see CPU_STATE in bpf/maps.py.

    Args:
        shared_fd: descriptor of the map `pl_shared`.
        cpu_count: possible CPUs.
    """

    def __init__(self, shared_fd: int, cpu_count: int) -> None:
        self._states = maps.cpu_states(shared_fd)[:cpu_count]

    def lost(self) -> npt.NDArray[np.uint64]:
        """Records lost so far by kind, shape (8,)."""
        return self._states["lost_samples"].sum(axis=0, dtype=np.uint64)

    def threads_forked(self) -> int:
        """New threads, which are not recorded."""
        return int(self._states["threads_forked"].sum(dtype=np.uint64))

    def kthreads_forked(self) -> int:
        """New kernel threads, which are not recorded."""
        return int(self._states["kthreads_forked"].sum(dtype=np.uint64))
