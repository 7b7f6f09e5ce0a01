"""A column of a frame, for those who write frames and those who read them. In a file of its own: neither needs the other."""

from libc.stdint cimport uint64_t


cdef struct column:
    const unsigned char *at  # any alignment
    uint64_t bytes
