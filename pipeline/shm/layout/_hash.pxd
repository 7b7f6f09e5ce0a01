"""C declarations of hash.h for the Cython modules."""

from libc.stdint cimport uint32_t, uint64_t

from pipeline.shm.layout._layout cimport pl_cold, pl_costs, pl_hot


cdef extern from "hash.h" nogil:
    uint64_t pl_hash64(const void *data, size_t n, uint64_t seed)
    uint32_t pl_row_check(const pl_hot *hot, const pl_cold *cold, const pl_costs *costs)
