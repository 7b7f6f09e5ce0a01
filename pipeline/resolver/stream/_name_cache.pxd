"""Encoded names of users and groups for the stream. See _name_cache.pyx."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from pipeline.resolver.stream._keyed_cache cimport KeyedCache, cache_slot
from pipeline.shm.layout._layout cimport pl_cold, pl_hot
from pipeline.shm.writer._writer cimport TableWriter


cdef enum:
    PL_USER = 1
    PL_GROUP = 2
    PL_NAME_BYTES = 256  # an encoded name has at most this many bytes, plus 3
    PL_CONTAINER_BYTES = 96
    PL_VIEWS_PER_USER = 128
    PL_WANTED = 64


cdef struct name_slot:
    uint32_t number, at
    uint16_t n
    uint8_t kind  # 0: free


# The names of one root directory by the host's ids: an open hash table, and the msgpack strings that it refers to.
cdef struct name_table:
    name_slot *slots
    char *text
    uint32_t mask, used, text_used, text_capacity


# What decides which names apply to a process: the key of the cache, without the unused rest.
cdef struct view_key:
    uint32_t mnt_ns, user_ns
    char container[PL_CONTAINER_BYTES]


cdef struct wanted_id:
    uint32_t kind, number


cdef class Names:
    cdef name_table table

    cdef int _put(self, uint32_t kind, uint32_t number, bytes name) except -1
    cdef int _grow(self) except -1


# The value of a slot is a name_table; NULL until the names have been read, and if the host's names apply. Then the flag
# is set.
cdef class NameCache(KeyedCache):
    cdef readonly Names host
    cdef readonly uint32_t host_mnt_ns, host_user_ns
    cdef uint32_t wanted_ids
    cdef wanted_id ids_asked[PL_WANTED]
    cdef bint is_noting  # `put` notes ids without a name: the last row of `of` uses the host's names

    cdef bint wants(self) noexcept nogil
    # The names that apply to a row; NULL: not known. `container` is the row's container id, NULL for none.
    cdef const name_table *of(
        self, const pl_hot *hot, const pl_cold *cold, const char *container, uint32_t n
    ) noexcept nogil
    # Write a name, or nil.
    cdef char *put(self, char *p, const name_table *names, uint32_t kind, uint32_t number) noexcept nogil
    cdef int _unnamed(self, set ids, uint32_t kind, uint32_t number) except -1
    cdef int _unnamed_of(self, set ids, TableWriter tables, uint32_t row) except -1
    cdef bint _is_host(self, const pl_hot *hot, const pl_cold *cold, const char *container) noexcept nogil
