"""C view of the elements of `pl_shared` (bpf/shared.h), for who reads its counters: shards and the resolver."""

from libc.stdint cimport uint32_t, uint64_t


cdef extern from *:
    """
    #include <stdint.h>
    #include <linux/types.h>
    #include "records.h"
    #include "shared.h"
    /* A counter as of now; another CPU counts on. */
    static inline uint64_t pl_counted(const uint64_t *at) { return __atomic_load_n(at, __ATOMIC_ACQUIRE); }
    /* Add up what a CPU could not write, by kind. */
    static inline void pl_add_lost(const struct pl_cpu *cpu, uint64_t *sums)
    {
        for (int kind = 0; kind < PL_KIND_COUNT; kind++)
            sums[kind] += pl_counted(&cpu->lost_samples[kind]);
    }
    """
    enum:
        PL_KIND_COUNT
    struct pl_cpu:
        uint32_t sleeping
        uint32_t ring
        uint64_t lost_samples[PL_KIND_COUNT]
        uint64_t threads_forked
        uint64_t kthreads_forked
        uint64_t pids_full
    uint64_t pl_counted(const uint64_t *at) nogil
    void pl_add_lost(const pl_cpu *cpu, uint64_t *sums) nogil
