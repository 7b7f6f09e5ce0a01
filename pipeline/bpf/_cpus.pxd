"""C view of the elements of `pl_shared` (bpf/programs/shared.h), for shards and resolver, which read its counters.

The counters are of the kernel's type `__u64`, which is `unsigned long long` on every architecture; `uint64_t` is
`unsigned long` on 64-bit Linux. Both have the same size, but a pointer to one is no pointer to the other.
"""

from libc.stdint cimport uint64_t

include "shared.pxi"


cdef extern from *:
    """
    #include <stdint.h>
    /* A counter as of now; another CPU counts on. */
    static inline uint64_t pl_counted(const __u64 *at) { return __atomic_load_n(at, __ATOMIC_ACQUIRE); }
    /* Add up what a CPU could not write, by kind. */
    static inline void pl_add_lost(const struct pl_cpu *cpu, uint64_t *sums)
    {
        for (int kind = 0; kind < PL_KIND_COUNT; kind++)
            sums[kind] += pl_counted(&cpu->lost_samples[kind]);
    }
    """
    enum:
        PL_KIND_COUNT
    uint64_t pl_counted(const __u64 *at) nogil
    void pl_add_lost(const pl_cpu *cpu, uint64_t *sums) nogil
