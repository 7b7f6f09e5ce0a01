"""How long events may gather; see _gathering.pyx."""

from libc.stdint cimport int64_t, uint32_t


cdef class Gathering:
    cdef double _freshness_ns, _gather_ns, _delay_ns
    cdef readonly uint32_t gather_us

    cpdef bint note(self, int64_t age_ns) noexcept nogil
    cdef void _choose(self) noexcept nogil
