"""Mapped memory of one writer: a segment's file, or private memory that uses no pages until it is accessed."""

from libc.stdint cimport uint64_t


cdef class Segment:
    cdef readonly object name
    cdef int fd  # -1: private memory
    cdef char *base
    cdef readonly uint64_t capacity, allocated  # bytes mapped; bytes that may be accessed
    cdef uint64_t refused  # allocations that the file system rejected
    cdef uint64_t waits  # requests to skip after a refusal before asking the kernel again

    cdef bint grow(self, uint64_t to_bytes) noexcept nogil
    cdef bint allocate(self, uint64_t begin, uint64_t length) noexcept nogil
    cdef void populate_read(self, uint64_t to_bytes) noexcept nogil
    cdef void populate(self, uint64_t from_bytes, uint64_t to_bytes) noexcept nogil
    cdef void close_file(self) noexcept
