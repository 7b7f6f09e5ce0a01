"""Private copies of many rows with their strings."""

from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from pipeline.shm.layout._layout cimport pl_hot
from pipeline.shm.reader._entry cimport ENTRY_STRINGS
from pipeline.shm.reader._processes cimport listed
from pipeline.shm.reader._view cimport View, pl_rest


cdef struct string_table:
    uint32_t *refs  # open addressing; 0: free
    int32_t *codes
    uint32_t mask
    char *data  # the strings, one after the other
    size_t used, room
    size_t *ends  # of each string in `data`
    int32_t count, capacity


# A list of strings with a NUL between them, as `RowCopies.flat_lists` copies it.
cdef struct string_list:
    const char *begin
    const char *end
    Py_ssize_t count  # of strings; -1: the list cannot be read
    Py_ssize_t size  # of the strings without the NULs, bytes
    bint is_ascii


# Strings of many lists, one behind the other.
cdef struct flat_strings:
    char *data
    int64_t *ends
    Py_ssize_t count
    Py_ssize_t size


# Which rows are read, one of these.
cdef struct asked:
    const uint32_t *slots  # entries of the index
    const uint64_t *links  # to images
    const listed *processes  # `slots` and `links` are NULL


cdef class RowCopies:
    cdef View view
    cdef readonly Py_ssize_t count
    cdef readonly bytearray hot, cold, numbers
    cdef readonly uint32_t kinds
    cdef pl_hot *hots
    cdef pl_rest *rests
    cdef uint32_t *rows
    cdef int32_t *codes[ENTRY_STRINGS]
    cdef string_table tables[ENTRY_STRINGS]
    cdef list strings  # by kind: None, or the bytes of each string
    cdef uint32_t failed  # slot or row of a row that stayed busy
    cdef Py_ssize_t absent  # how many of those that were asked for are not in the table

    cdef int _copy(self, const asked *which, Py_ssize_t i, Py_ssize_t at) noexcept nogil
    cdef int _copy_link(self, uint64_t link, Py_ssize_t at) noexcept nogil
    cdef int _copy_slot(self, uint32_t slot, Py_ssize_t at) noexcept nogil
    cdef int _read_strings(self, Py_ssize_t at) noexcept nogil
    cdef void _prefetch_strings(self, Py_ssize_t at) noexcept nogil
    cdef int _read(self, const asked *which, Py_ssize_t n, bint running, bint keeps_absent) noexcept nogil
    cdef void _clear(self, Py_ssize_t at, uint32_t pid) noexcept nogil
    cdef list _strings_of(self, int kind)
    cdef int _gather_keys(self, object words, uint32_t *keys) except -1
    cdef flat_strings _place_lists(
        self, int kind, uint32_t known, const string_list *lists, int64_t *begins, uint8_t *is_known
    ) noexcept nogil
    cdef int _copy_lists(
        self, int kind, const string_list *lists, dict escaped, const uint8_t *is_known, flat_strings *made
    ) except -1


cdef RowCopies read_rows(
    View view, object slots, object links, object processes, uint32_t kinds, bint has_cold, bint running,
    bint keeps_absent,
)
