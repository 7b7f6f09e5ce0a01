"""Facts about executables, encoded for the stream. See _file_cache.pyx."""

from libc.stdint cimport uint32_t

from pipeline.resolver.stream._keyed_cache cimport KeyedCache
from pipeline.shm.layout._layout cimport pl_cold, pl_hot


cdef class FileCache(KeyedCache):
    # Only processes of this mount namespace that are in no container are noted; 0: all are.
    cdef public uint32_t mnt_ns

    # What is known about the executable of a row, as msgpack of n bytes; NULL: nothing. `file` is the row's FILE
    # record, NULL for none.
    cdef const char *of(
        self, const pl_hot *hot, const pl_cold *cold, uint32_t row, const char *file, uint32_t *n
    ) noexcept nogil
    cdef bint _is_asked_about(self, const pl_hot *hot, const pl_cold *cold) noexcept nogil
