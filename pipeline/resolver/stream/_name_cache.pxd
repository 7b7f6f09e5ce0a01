"""Encoded names of users and groups for the stream. See _name_cache.pyx."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from pipeline.shm.layout._layout cimport pl_cold, pl_hot
from pipeline.shm.writer._writer cimport TableWriter


cdef enum:
    PL_USER = 1
    PL_GROUP = 2
    PL_NAME_BYTES = 256  # an encoded name has at most this many bytes, plus 3
    PL_CONTAINER_BYTES = 96
    PL_VIEW_SLOTS = 2048
    PL_VIEWS_PER_USER = 128
    PL_USER_BUCKETS = 1024
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


# The names that apply to a process. `names` is NULL until they have been read, and if the host's names apply.
cdef struct view_slot:
    const name_table *names
    uint32_t mnt_ns, user_ns
    uint32_t user  # counts towards the limit of this user; 0: none
    uint32_t sweep  # number of the last sweep that found a process with this view
    uint16_t container_n
    uint8_t is_used, is_hosts
    char container[PL_CONTAINER_BYTES]


cdef struct wanted_view:
    uint32_t slot, tgid


cdef struct wanted_id:
    uint32_t kind, number


cdef class Names:
    cdef name_table table

    cdef int _put(self, uint32_t kind, uint32_t number, bytes name) except -1
    cdef int _grow(self) except -1


cdef class NameCache:
    cdef readonly Names host
    cdef readonly uint32_t host_mnt_ns, host_user_ns
    cdef uint32_t wanted_views, wanted_ids
    cdef wanted_view views_asked[PL_WANTED]
    cdef wanted_id ids_asked[PL_WANTED]
    cdef view_slot *views
    cdef uint32_t views_used, sweep
    cdef uint32_t views_charged  # views counted against a user's limit
    cdef uint16_t by_user[PL_USER_BUCKETS]  # the same by user, in buckets of a hash of the user id
    cdef uint64_t refused
    cdef list kept  # the Names that the slots refer to
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
    cdef view_slot *_slot(
        self, uint32_t mnt_ns, uint32_t user_ns, const char *container, uint32_t n, uint32_t user, bint is_known
    ) noexcept nogil
