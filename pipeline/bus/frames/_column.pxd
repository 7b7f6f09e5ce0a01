"""A column of a frame, shared by the frame writer and the frame reader, which do not depend on each other."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t


cdef extern from *:
    """
    #include <stdint.h>
    static inline uint16_t pl_get16(const unsigned char *p) { uint16_t v; __builtin_memcpy(&v, p, 2); return v; }
    static inline uint32_t pl_get32(const unsigned char *p) { uint32_t v; __builtin_memcpy(&v, p, 4); return v; }
    static inline uint64_t pl_get64(const unsigned char *p) { uint64_t v; __builtin_memcpy(&v, p, 8); return v; }
    """
    uint16_t pl_get16(const unsigned char *p) noexcept nogil
    uint32_t pl_get32(const unsigned char *p) noexcept nogil
    uint64_t pl_get64(const unsigned char *p) noexcept nogil


cdef struct column:
    const unsigned char *at  # any alignment
    uint64_t bytes
