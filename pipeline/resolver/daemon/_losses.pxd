"""Records that the kernel lost or filtered; see _losses.pyx."""

from libc.stdint cimport uint64_t

from pipeline.bpf._cpus cimport PL_KIND_COUNT, pl_cpu


cdef struct counts:
    uint64_t lost[PL_KIND_COUNT]
    uint64_t threads_forked, kthreads_forked, pids_full, runs_skipped


cdef class SharedCounters:
    cdef object _states  # keeps the mapping alive
    cdef const pl_cpu *_cpus
    cdef uint64_t _cpu_count, _missed
    cdef counts _now
    cdef readonly uint64_t lost_total

    cdef void _add_lost(self, uint64_t *lost) noexcept nogil
    cdef bint has_new_losses(self) noexcept nogil
