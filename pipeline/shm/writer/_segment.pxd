"""Mapped memory of one writer: a segment's file, or private memory that costs nothing until it is touched."""

from libc.stdint cimport uint64_t


cdef class Segment:
    cdef readonly object name
    cdef int fd  # -1: private memory
    cdef char *base
    cdef readonly uint64_t capacity, allocated  # bytes mapped; bytes that may be touched
    cdef uint64_t refused  # allocations that the file system refused
    cdef uint64_t waits  # requests until the next try after a refusal

    cdef bint grow(self, uint64_t to_bytes) noexcept nogil
    cdef void populate(self, uint64_t from_bytes) noexcept nogil
    cdef void close_file(self) noexcept
