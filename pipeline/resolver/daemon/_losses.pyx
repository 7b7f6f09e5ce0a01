"""Records that the kernel lost or filtered: sums of the shared counters over all CPUs.

The module is compiled because it runs twice a second with cold caches (see _turn.pyx). When it used numpy's sums, it
took a third of the resolver's housekeeping time.
"""

from libc.stdint cimport uint64_t
from libc.string cimport memcmp, memcpy, memset

import numpy as np

from pipeline.bpf import maps, words

from pipeline.bpf._cpus cimport PL_KIND_COUNT, pl_add_lost, pl_counted, pl_cpu


cdef class SharedCounters:
    """Counters of the BPF programs in this capture, as of the last `read`; see CPU_STATE in bpf/maps.py.

    Args:
        shared_fd: descriptor of the map `pl_shared`.
        cpu_count: number of possible CPUs.

    Attributes:
        lost_total: records lost so far.
    """

    def __init__(self, int shared_fd, uint64_t cpu_count):
        cdef const unsigned char[:, ::1] view
        self._states = maps.cpu_states(shared_fd)
        if not 0 < cpu_count <= words.MISSED:
            raise ValueError(f"{cpu_count} CPUs, expected 1 to {words.MISSED}")
        view = self._states.view(np.uint8).reshape(len(self._states), -1)
        self._cpus = <const pl_cpu *>&view[0, 0]
        self._cpu_count, self._missed = cpu_count, words.MISSED
        self.read()

    @property
    def lost(self):
        """Records lost so far by kind, shape (KIND_COUNT,), uint64."""
        cdef int kind
        return np.array([self._now.lost[kind] for kind in range(PL_KIND_COUNT)], np.uint64)

    @property
    def threads_forked(self) -> int:
        """New threads so far; they are not recorded."""
        return self._now.threads_forked

    @property
    def kthreads_forked(self) -> int:
        """New kernel threads so far; they are not recorded."""
        return self._now.kthreads_forked

    @property
    def pids_full(self) -> int:
        """Processes for which `pid_cache` had no room, so far."""
        return self._now.pids_full

    @property
    def runs_skipped(self) -> int:
        """Runs of programs that the kernel skipped so far, few of which would have recorded anything."""
        return self._now.runs_skipped

    def read(self) -> bool:
        """Read the counters; return whether they have changed since the last time."""
        cdef counts now
        cdef uint64_t cpu
        cdef int kind
        memset(&now, 0, sizeof(now))
        self._add_lost(now.lost)
        for cpu in range(self._cpu_count):
            now.threads_forked += pl_counted(&self._cpus[cpu].threads_forked)
            now.kthreads_forked += pl_counted(&self._cpus[cpu].kthreads_forked)
            now.pids_full += pl_counted(&self._cpus[cpu].pids_full)
        now.runs_skipped = pl_counted(&self._cpus[self._missed].runs_skipped)
        if memcmp(&now, &self._now, sizeof(now)) == 0:
            return False
        memcpy(&self._now, &now, sizeof(now))
        self.lost_total = 0
        for kind in range(PL_KIND_COUNT):
            self.lost_total += now.lost[kind]
        return True

    cdef void _add_lost(self, uint64_t *lost) noexcept nogil:
        """Add up the records lost so far, by kind."""
        cdef uint64_t cpu
        for cpu in range(self._cpu_count):
            pl_add_lost(&self._cpus[cpu], lost)
        # The programs use nothing of this element.
        pl_add_lost(&self._cpus[self._missed], lost)

    cdef bint has_new_losses(self) noexcept nogil:
        """Whether records were lost since the last `read`."""
        cdef uint64_t lost[PL_KIND_COUNT]
        cdef uint64_t total = 0
        cdef int kind
        memset(lost, 0, sizeof(lost))
        self._add_lost(lost)
        for kind in range(PL_KIND_COUNT):
            total += lost[kind]
        return total != self.lost_total
