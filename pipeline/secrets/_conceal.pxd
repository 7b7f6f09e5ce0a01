"""The sieve for frames, and the digest of strings, which apply computes for records without secrets (_conceal.pyx)."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from pipeline.bus.frames._frame cimport Frame


cdef class Literals:
    cdef uint8_t *pairs  # 65,536 bits: some literal begins so
    cdef uint16_t *firsts  # number of the first literal of a pair; they are sorted, so the others follow
    cdef uint8_t lower[256]
    cdef list groups
    cdef char *text  # all literals, lower case
    cdef uint32_t *begins
    cdef uint32_t *lengths
    cdef uint8_t *is_word
    cdef uint32_t count
    cdef bint always

    cdef bint in_text(self, const uint8_t *text, uint64_t n) noexcept nogil
    cdef inline bint _begins(self, const uint8_t *text, uint64_t n, uint32_t i) noexcept nogil


cdef class Sieve:
    cdef Literals literals
    cdef object hide

    cpdef Frame frame(self, Frame frame)


# Digest of arguments and environment before anything is hidden, never 0. NULL: absent, which differs from empty.
cdef uint64_t pl_digest(const char *args, uint32_t args_bytes, const char *envs, uint32_t envs_bytes) noexcept nogil
