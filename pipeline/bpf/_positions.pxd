"""Producer positions for the resolver's turn."""

from libc.stdint cimport uint64_t


cdef class ProducerPositions:
    cdef uint64_t **pages  # `ring_count` of them; NULL: a ring without a descriptor
    cdef readonly int ring_count
    cdef long page_bytes

    cdef uint64_t read(self, uint64_t *positions) noexcept nogil
