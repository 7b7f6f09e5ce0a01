"""Results of the resolver's threads, by a key that rows contain. See _keyed_cache.pyx."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef enum:
    PL_CACHE_SLOTS = 2048
    PL_CACHE_KEY_BYTES = 104
    PL_CACHE_WANTED = 64
    PL_CACHE_BUCKETS = 1024


# What is known about a key. `value` is NULL: nothing, or not yet.
cdef struct cache_slot:
    const void *value
    uint32_t n  # bytes of the value, if it is a text
    uint32_t user  # counts towards the limit of this user; 0: none
    uint32_t sweep  # number of the last sweep that found a process with this key
    uint16_t key_n
    uint8_t is_used
    uint8_t flag  # for the cache of the kind: the file was asked about again; the names are those of the host
    char key[PL_CACHE_KEY_BYTES]


cdef struct wanted_slot:
    uint32_t slot, process


cdef class KeyedCache:
    cdef cache_slot *slots
    cdef uint32_t used, used_max, sweep, wanted
    cdef wanted_slot asked[PL_CACHE_WANTED]
    cdef uint32_t user_max, charged_max  # slots for one user, and for all users; 0: no limit
    cdef uint32_t charged  # slots counted against a user's limit
    cdef uint16_t by_user[PL_CACHE_BUCKETS]  # the same by user, in buckets of a hash of the user id
    cdef uint64_t refused, seed
    cdef list kept  # the objects that the slots refer to

    cdef bint wants(self) noexcept nogil
    cdef int _clear(self) except -1
    # The slot of a key; NULL: it is not in the cache. It is not noted.
    cdef cache_slot *_found(self, const char *key, uint32_t n) noexcept nogil
    # The slot of a key, which is allocated if necessary; NULL: no room. A known key was admitted before, so that only
    # `used_max` limits it.
    cdef cache_slot *_slot(self, const char *key, uint32_t n, uint32_t user, bint is_known) noexcept nogil
    # The same for the key of a row that is encoded: a new one is noted with a number of its process.
    cdef cache_slot *_noted(self, const char *key, uint32_t n, uint32_t user, uint32_t process) noexcept nogil
    # The slot that a key has, or the free one where it belongs.
    cdef cache_slot *_place(self, const char *key, uint32_t n) noexcept nogil
    cdef bint _is_first(self, cache_slot *slot) noexcept nogil
