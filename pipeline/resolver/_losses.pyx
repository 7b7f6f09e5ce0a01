"""What the kernel could not write or tell, and what it filtered: the sums over all CPUs of the shared counters."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.bpf import maps, words


class SharedCounters:
    """Counters of the BPF programs for this capture, as of the last `read`; see CPU_STATE in bpf/maps.py.

    Args:
        shared_fd: descriptor of the map `pl_shared`.
        cpu_count: possible CPUs.

    Attributes:
        lost: records lost so far by kind, shape (KIND_COUNT,), uint64.
        threads_forked, kthreads_forked: new threads and kernel threads, which are not recorded.
        pids_full: processes that `pid_cache` had no place for.
    """

    def __init__(self, shared_fd: int, cpu_count: int) -> None:
        states = maps.cpu_states(shared_fd)
        self._states = states[:cpu_count]
        self._missed = states[words.MISSED :]
        self._before = b""
        self.read()

    def read(self) -> bool:
        """Read the counters anew; returns whether anything was counted since the last time."""
        now = self._states.tobytes() + self._missed.tobytes()
        if now == self._before:
            return False
        self._before = now
        states = np.frombuffer(now, self._states.dtype)
        self.lost: npt.NDArray[np.uint64] = states["lost_samples"].sum(axis=0, dtype=np.uint64)
        self.threads_forked = int(states["threads_forked"].sum(dtype=np.uint64))
        self.kthreads_forked = int(states["kthreads_forked"].sum(dtype=np.uint64))
        self.pids_full = int(states["pids_full"].sum(dtype=np.uint64))
        return True
