"""Operations on an arena for apply and the resolver. Every cdef method is nogil and cannot raise."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from pipeline.shm.layout._layout cimport PL_ARENA_UNIT_BYTES as UNIT, pl_arena, pl_prefetch_write
from pipeline.shm.writer._segment cimport Segment


cdef extern from "arena.h" nogil:
    enum:
        PL_ARENA_CLASSES
        PL_ARENA_MAX_UNITS
        PL_ARENA_MAX_LENGTH
    uint32_t pl_arena_units(uint32_t length)
    uint32_t pl_arena_class_units(uint32_t class_index)
    uint32_t pl_arena_class_up(uint32_t units)
    uint32_t pl_arena_class_down(uint32_t units)
    uint32_t pl_arena_lowest(uint64_t mask)
    void pl_order()


cdef class Arena:
    """Interned, reference-counted byte strings in one segment. A reference is an offset in units of UNIT bytes."""

    # Return a reference with one more holder; 0 for n == 0 or when the segment is at its ceiling (counted in `full`).
    cdef uint32_t intern(self, const char *data, uint32_t n) noexcept nogil
    # Intern the concatenation of two pieces (a FILE record and its path, or a length and the bytes).
    cdef uint32_t intern2(self, const char *header, uint32_t header_n, const char *data, uint32_t n) noexcept nogil

    cdef inline void hold(self, uint32_t ref) noexcept nogil:
        if ref != 0:
            (<pl_arena *>(self.base + <uint64_t>ref * UNIT)).refcount += 1

    cdef inline void release(self, uint32_t ref) noexcept nogil:
        cdef pl_arena *record
        if ref == 0:
            return
        record = <pl_arena *>(self.base + <uint64_t>ref * UNIT)
        record.refcount -= 1
        if record.refcount == 0:
            self._unused(ref)

    # Load a record into the cache, because its number of holders will change soon.
    cdef inline void fetch(self, uint32_t ref) noexcept nogil:
        pl_prefetch_write(self.base + <uint64_t>ref * UNIT)

    cdef inline const char *bytes(self, uint32_t ref, uint32_t *n) noexcept nogil:
        cdef pl_arena *record
        if ref == 0:
            n[0] = 0
            return self.base
        record = <pl_arena *>(self.base + <uint64_t>ref * UNIT)
        n[0] = record.length
        return <const char *>record + UNIT

    # -- private state (see _arena.pyx) -----------------------------------------------------------------------------
    cdef Segment segment, bucket_memory, scratch_memory
    cdef char *base
    cdef uint64_t *allocated_field  # CONTROL.<name>_allocated_bytes; release store after growth
    cdef uint64_t *full_counter  # COUNTERS "arena_full", shared by the arenas
    cdef readonly uint64_t used_bytes, full
    cdef uint64_t seed
    cdef uint32_t *buckets
    cdef uint32_t bucket_mask, bucket_split, bucket_limit
    cdef readonly uint32_t records
    cdef uint32_t free_lists[64]
    cdef uint64_t free_classes  # bit c: free_lists[c] is not 0
    cdef uint32_t frontier, limit, ceiling  # units: first never used, end of the allocated part, capacity
    cdef uint64_t freed_units  # freed since the last sweep
    cdef char *scratch
    cdef uint8_t *starts  # take-over only: one bit for each unit at which a block begins
    cdef uint64_t held  # take-over only: records with a holder

    cdef void attach(self, uint64_t *allocated_field, uint64_t *full_counter) noexcept
    cdef void _unused(self, uint32_t ref) noexcept nogil
    cdef uint32_t _find(self, uint32_t hash_value, const char *data, uint32_t n) noexcept nogil
    cdef uint32_t _allocate(self, uint32_t n) noexcept nogil
    cdef bint _extend(self, uint32_t units) noexcept nogil
    cdef uint32_t _extend_frontier(self, uint32_t units, uint32_t n) noexcept nogil
    cdef uint32_t _pop_free(self, uint32_t class_index, uint32_t n) noexcept nogil
    cdef void _push_free(self, uint32_t ref, uint32_t class_index) noexcept nogil
    cdef void _free_run(self, uint32_t start, uint32_t end) noexcept nogil
    cdef void _insert(self, uint32_t ref, uint32_t hash_value) noexcept nogil
    cdef void _remove(self, uint32_t ref) noexcept nogil
    cdef void _sweep(self, bint rehash) noexcept nogil
    cdef bint recount_begin(self) except -1
    cdef bint recount_hold(self, uint32_t ref) noexcept nogil
    cdef void recount_finish(self) noexcept
    cdef void _make_buckets(self, uint64_t records) noexcept nogil
