"""Results of the resolver's threads for the stream, by a key that rows contain: found without the GIL.

Rows contain the key alone: the id of a container, the identity of a file, the namespaces of a process. A key that is
not in the cache is noted. A part of `pipeline.resolver.upkeep` then requests what belongs to it, and replaces the
content of the cache. Only the resolver's thread uses a cache.

Bounds: a fixed number of slots. Keys that a user can make are charged to that user, so that one user cannot use all
slots, and all users except root together leave some for root.
"""

import os

from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset


cdef class KeyedCache:
    """An open hash table with a fixed number of slots; the base of the encoder's caches."""

    def __cinit__(self, *_):
        self.kept = []
        self.seed = int.from_bytes(os.urandom(8), "little")
        self.used_max = PL_CACHE_SLOTS // 2
        self.slots = <cache_slot *>calloc(PL_CACHE_SLOTS, sizeof(cache_slot))
        if self.slots == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.slots)

    @property
    def is_wanting(self) -> bool:
        """Whether `take_wanted` would return anything."""
        return self.wants()

    cdef bint wants(self) noexcept nogil:
        return self.wanted != 0

    def take_refused(self) -> int:
        """Return how many times there was no room for a key since the last call."""
        cdef uint64_t refused = self.refused
        self.refused = 0
        return refused

    cdef int _clear(self) except -1:
        """Empty the cache; noted keys are discarded."""
        cdef uint32_t i
        for i in range(<uint32_t>PL_CACHE_SLOTS):
            self.slots[i].is_used = 0
        self.used = self.wanted = self.charged = 0
        memset(self.by_user, 0, sizeof(self.by_user))
        self.kept = []
        return 0

    cdef bint _is_first(self, cache_slot *slot) noexcept nogil:
        """Return whether this sweep has not seen the slot yet, and mark it as seen."""
        if slot.sweep == self.sweep:
            return False
        slot.sweep = self.sweep
        return True

    cdef cache_slot *_noted(self, const char *key, uint32_t n, uint32_t user, uint32_t process) noexcept nogil:
        cdef uint32_t used = self.used
        cdef cache_slot *slot = self._slot(key, n, user, False)
        if slot != NULL and self.used != used and self.wanted < PL_CACHE_WANTED:
            self.asked[self.wanted].slot = <uint32_t>(slot - self.slots)
            self.asked[self.wanted].process = process
            self.wanted += 1
        return slot

    cdef cache_slot *_found(self, const char *key, uint32_t n) noexcept nogil:
        cdef cache_slot *slot = self._place(key, n) if n <= PL_CACHE_KEY_BYTES else NULL
        return slot if slot != NULL and slot.is_used else NULL

    cdef cache_slot *_place(self, const char *key, uint32_t n) noexcept nogil:
        cdef uint64_t hashed = self.seed ^ n, part
        cdef uint32_t at, done = 0
        cdef cache_slot *slot
        while done < n:
            part = 0
            memcpy(&part, key + done, min(n - done, <uint32_t>8))
            hashed = (hashed ^ part) * <uint64_t>0x9E3779B97F4A7C15
            hashed ^= hashed >> 29
            done += 8
        at = <uint32_t>(hashed >> 20)
        while True:
            at &= PL_CACHE_SLOTS - 1
            slot = &self.slots[at]
            if not slot.is_used or (slot.key_n == n and memcmp(slot.key, key, n) == 0):
                return slot
            at += 1

    cdef cache_slot *_slot(self, const char *key, uint32_t n, uint32_t user, bint is_known) noexcept nogil:
        cdef uint16_t *charged = &self.by_user[(user * <uint32_t>0x9E3779B1) >> 22]
        cdef cache_slot *slot
        if n > PL_CACHE_KEY_BYTES:
            return NULL
        slot = self._place(key, n)
        if slot.is_used:
            return slot
        if self.used >= self.used_max or (
            user != 0 and not is_known and self.user_max != 0
            and (charged[0] >= self.user_max or self.charged >= self.charged_max)
        ):
            self.refused += 1
            return NULL
        self.used += 1
        if user != 0:
            charged[0] += 1
            self.charged += 1
        memcpy(slot.key, key, n)
        slot.key_n = <uint16_t>n
        slot.user = user
        slot.value = NULL
        slot.n = 0
        slot.flag = 0
        slot.sweep = 0
        slot.is_used = 1
        return slot
