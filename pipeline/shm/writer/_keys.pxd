"""The writer's side of the hash of (pid, pid namespace) keys."""

from libc.stdint cimport uint32_t, uint64_t

from pipeline.shm.layout._layout cimport pl_keys
from pipeline.shm.writer._segment cimport Segment


cdef class NamespaceKeys:
    cdef Segment segment
    cdef pl_keys *keys
    cdef uint64_t *names
    cdef uint32_t *table
    cdef readonly uint32_t first, capacity, used
    cdef uint32_t buckets
    cdef object free

    cdef void _insert(self, uint64_t key, uint32_t slot) noexcept nogil
    cdef void _lay_out(self) noexcept nogil
