"""A position in a msgpack message; see _msgpack.pyx."""

from libc.stdint cimport uint8_t, uint64_t


cdef enum value_kind:
    VALUE_OTHER  # skipped
    VALUE_UINT
    VALUE_TEXT
    VALUE_BIN
    VALUE_MAP


cdef struct value:
    value_kind kind
    uint64_t number  # the integer; the number of entries of a map; the length of text or bytes
    const unsigned char *at  # text and bytes


cdef class Reader:
    cdef const unsigned char *data
    cdef uint64_t at, end

    cdef const unsigned char *take(self, uint64_t n) except NULL
    cdef int read(self, value *found) except -1
    cdef int key(self, value *found) except -1
    cdef int entries(self, uint64_t *count) except -1
    cdef int skip(self, uint64_t values) except -1


cdef str text(const value *found)
