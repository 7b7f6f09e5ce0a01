"""Interned, reference-counted byte strings in one shared segment; one writer, any number of readers.

shm/layout/declared.py (ARENA) describes the stored records. This module allocates, finds and frees them. _writer.pyx
knows which row holds which reference.

Blocks have the size classes of arena.h, each with a free list. If a class has no free block, the arena takes one from
the frontier, then splits a larger block, then grows the file, then sweeps (merges free neighbours). Nothing here calls
malloc. Look-ups use hash buckets in private memory. The table uses linear hashing: it grows by one bucket at a time, so
no insertion waits for a rehash. The chains run through the records' own headers.

Readers and reuse. A reader reads a reference from a row, copies the bytes, and then validates the row again. The writer
releases a reference only after it opened the row for change (row_seq odd) or freed it (odd, and generation changed).
Both put a release fence between that store and all later stores, including those that overwrite the bytes. So a reader
that copied an overwritten byte sees a different row_seq after its own acquire fence (fence-to-fence synchronisation; on
aarch64 both are dmb ish). For this reason a freed block can be reused immediately, last in, first out.

A killed writer. Everything except the bytes can be reconstructed: a successor walks the blocks, counts the references
that rows hold, and frees the rest. A block's length determines its size, and a length of 0 ends the walk. The
stores that the walk depends on are therefore ordered: bytes and header before the reference is returned, and headers
inside a block before the length that makes them reachable.
"""

cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy

from pipeline.shm.layout._hash cimport pl_hash64
from pipeline.shm.layout._layout cimport PL_ARENA_FREE_UNIT, pl_arena, pl_store_release64

import os

from pipeline.errors import InvariantError

cdef uint32_t GROWTH_UNITS = (256 << 10) // 16  # minimum growth of the file
cdef uint32_t GROWTH_MAX_UNITS = (4 << 20) // 16
cdef uint32_t FREE_UNIT = PL_ARENA_FREE_UNIT


cdef inline uint32_t block_units(uint32_t length) noexcept nogil:
    return 1 if length == FREE_UNIT else pl_arena_class_units(pl_arena_class_up(pl_arena_units(length)))


@cython.final
cdef class Arena:
    """Interned byte strings of one segment; see _arena.pxd.

    TableWriter creates it. `segment` begins with one unused unit, so that no reference is 0.

    Attributes:
        used_bytes: total size of the blocks that have holders.
        records: number of distinct strings that have holders.
        full: number of strings rejected because the segment was at its ceiling or the file system was full.
    """

    def __cinit__(self, Segment segment not None):
        cdef uint64_t units = segment.capacity // UNIT
        cdef uint64_t buckets = 64
        if units < 64 or units > 0xFFFFFFFF:
            raise ValueError(f"{segment.name}: an arena holds 1 KiB to 64 GiB, not {segment.capacity} bytes")
        while buckets < units:  # a record has at least two units, and there are two buckets for each record
            buckets *= 2
        self.segment = segment
        self.base = segment.base
        self.bucket_memory = Segment(f"{segment.name} buckets", -1, buckets * 4, 0)
        self.buckets = <uint32_t *>self.bucket_memory.base
        self.bucket_limit = <uint32_t>(buckets >> 1)
        self.bucket_mask = 63
        self.scratch_memory = Segment(f"{segment.name} scratch", -1, PL_ARENA_MAX_LENGTH, 0)
        self.scratch = self.scratch_memory.base
        self.seed = int.from_bytes(os.urandom(8), "little")
        self.frontier = 1
        self.limit = <uint32_t>(segment.allocated // UNIT)
        self.ceiling = <uint32_t>units

    def __dealloc__(self):
        free(self.starts)

    cdef void attach(self, uint64_t *allocated_field, uint64_t *full_counter) noexcept:
        self.allocated_field = allocated_field
        self.full_counter = full_counter

    # -- interning --------------------------------------------------------------------------------------------------

    cdef uint32_t intern(self, const char *data, uint32_t n) noexcept nogil:
        cdef uint32_t hash_value
        cdef uint32_t ref
        cdef pl_arena *record
        if n == 0:
            return 0
        if n > PL_ARENA_MAX_LENGTH:
            self.full += 1
            self.full_counter[0] += 1
            return 0
        hash_value = <uint32_t>pl_hash64(data, n, self.seed)
        ref = self._find(hash_value, data, n)
        if ref != 0:
            (<pl_arena *>(self.base + <uint64_t>ref * UNIT)).refcount += 1
            return ref
        ref = self._allocate(n)
        if ref == 0:
            self.full += 1
            self.full_counter[0] += 1
            return 0
        record = <pl_arena *>(self.base + <uint64_t>ref * UNIT)
        record.refcount = 1
        record.hash = hash_value
        memcpy(<char *>record + UNIT, data, n)
        self._insert(ref, hash_value)
        # The bytes are complete before the caller stores the reference in a row (which is odd or not inserted yet).
        pl_order()
        return ref

    cdef uint32_t intern2(self, const char *header, uint32_t header_n, const char *data, uint32_t n) noexcept nogil:
        # Copy both parts into one buffer, so that equal bytes have one hash and one record however they were split.
        if <uint64_t>header_n + n > PL_ARENA_MAX_LENGTH:
            self.full += 1
            self.full_counter[0] += 1
            return 0
        memcpy(self.scratch, header, header_n)
        memcpy(self.scratch + header_n, data, n)
        return self.intern(self.scratch, header_n + n)

    cdef void _unused(self, uint32_t ref) noexcept nogil:
        """Free the bytes of a record that has no holders any more."""
        cdef pl_arena *record = <pl_arena *>(self.base + <uint64_t>ref * UNIT)
        cdef uint32_t class_index = pl_arena_class_up(pl_arena_units(record.length))
        self._remove(ref)
        self.used_bytes -= <uint64_t>pl_arena_class_units(class_index) * UNIT
        self.freed_units += pl_arena_class_units(class_index)
        self._push_free(ref, class_index)

    # -- finding ----------------------------------------------------------------------------------------------------

    cdef uint32_t _find(self, uint32_t hash_value, const char *data, uint32_t n) noexcept nogil:
        cdef uint32_t bucket = hash_value & self.bucket_mask
        cdef uint32_t ref
        cdef pl_arena *record
        if bucket < self.bucket_split:
            bucket = hash_value & (2 * self.bucket_mask + 1)
        ref = self.buckets[bucket]
        while ref != 0:
            record = <pl_arena *>(self.base + <uint64_t>ref * UNIT)
            if record.hash == hash_value and record.length == n and memcmp(<char *>record + UNIT, data, n) == 0:
                return ref
            ref = record.next
        return 0

    cdef void _insert(self, uint32_t ref, uint32_t hash_value) noexcept nogil:
        cdef uint32_t bucket
        cdef uint32_t high
        cdef uint32_t moved
        cdef uint32_t following
        cdef uint32_t stay
        cdef uint32_t go
        cdef pl_arena *record
        self.records += 1
        # Linear hashing: split the next bucket until there are two buckets for each record.
        while self.bucket_mask + 1 + self.bucket_split < 2 * self.records and self.bucket_mask < self.bucket_limit:
            high = self.bucket_mask + 1
            moved = self.buckets[self.bucket_split]
            stay = 0
            go = 0
            while moved != 0:
                record = <pl_arena *>(self.base + <uint64_t>moved * UNIT)
                following = record.next
                if record.hash & high:
                    record.next = go
                    go = moved
                else:
                    record.next = stay
                    stay = moved
                moved = following
            self.buckets[self.bucket_split] = stay
            self.buckets[self.bucket_split + high] = go
            self.bucket_split += 1
            if self.bucket_split == high:
                self.bucket_mask = 2 * self.bucket_mask + 1
                self.bucket_split = 0
        bucket = hash_value & self.bucket_mask
        if bucket < self.bucket_split:
            bucket = hash_value & (2 * self.bucket_mask + 1)
        (<pl_arena *>(self.base + <uint64_t>ref * UNIT)).next = self.buckets[bucket]
        self.buckets[bucket] = ref

    cdef void _remove(self, uint32_t ref) noexcept nogil:
        cdef pl_arena *record = <pl_arena *>(self.base + <uint64_t>ref * UNIT)
        cdef uint32_t bucket = record.hash & self.bucket_mask
        cdef uint32_t *place
        if bucket < self.bucket_split:
            bucket = record.hash & (2 * self.bucket_mask + 1)
        place = &self.buckets[bucket]
        while place[0] != 0:
            if place[0] == ref:
                place[0] = record.next
                self.records -= 1
                return
            place = &(<pl_arena *>(self.base + <uint64_t>place[0] * UNIT)).next

    # -- allocating -------------------------------------------------------------------------------------------------

    cdef uint32_t _allocate(self, uint32_t n) noexcept nogil:
        """Return a block for `n` bytes with its length stored and refcount 0; 0 when there is no room."""
        cdef uint32_t class_index = pl_arena_class_up(pl_arena_units(n))
        cdef uint32_t units = pl_arena_class_units(class_index)
        cdef uint64_t larger
        cdef uint32_t ref
        if self.free_lists[class_index] == 0:
            if self.limit - self.frontier >= units:
                return self._extend_frontier(units, n)
            larger = self.free_classes >> class_index
            if larger == 0:
                if self._extend(units):
                    return self._extend_frontier(units, n)
                # At the ceiling. Merged free neighbours may be large enough. A sweep walks all blocks, so sweep only
                # if enough was freed since the last one.
                if self.freed_units < (self.limit >> 6) + units:
                    return 0
                self._sweep(False)
                larger = self.free_classes >> class_index
                if larger == 0:
                    return 0
            ref = self._pop_free(class_index + pl_arena_lowest(larger), n)
        else:
            ref = self._pop_free(class_index, n)
        self.used_bytes += <uint64_t>units * UNIT
        return ref

    cdef uint32_t _extend_frontier(self, uint32_t units, uint32_t n) noexcept nogil:
        cdef uint32_t ref = self.frontier
        cdef pl_arena *record = <pl_arena *>(self.base + <uint64_t>ref * UNIT)
        # Memory beyond the frontier was never written: the next header reads 0 and ends a successor's walk.
        record.refcount = 0
        record.length = n
        self.frontier = ref + units
        self.used_bytes += <uint64_t>units * UNIT
        return ref

    cdef bint _extend(self, uint32_t units) noexcept nogil:
        """Grow the file so that `units` fit beyond the frontier; return False at the ceiling."""
        cdef uint64_t need = <uint64_t>self.frontier + units
        cdef uint64_t step = self.limit >> 3
        cdef uint64_t wanted
        if need > self.ceiling:
            return False
        step = min(max(step, <uint64_t>GROWTH_UNITS), <uint64_t>GROWTH_MAX_UNITS)
        wanted = min(max(need, self.limit + step), <uint64_t>self.ceiling)
        if not self.segment.grow(wanted * UNIT):
            return False
        self.limit = <uint32_t>wanted
        # Release: a reader that finds a reference beyond the old end also finds the new end, because it first loads
        # the row's row_seq with acquire, and that is stored after this.
        pl_store_release64(self.allocated_field, wanted * UNIT)
        return True

    cdef uint32_t _pop_free(self, uint32_t class_index, uint32_t n) noexcept nogil:
        """Remove a free block from its class and split it to the size that `n` bytes need."""
        cdef uint32_t ref = self.free_lists[class_index]
        cdef pl_arena *record = <pl_arena *>(self.base + <uint64_t>ref * UNIT)
        cdef uint32_t units = pl_arena_class_units(class_index)
        cdef uint32_t needed = pl_arena_class_units(pl_arena_class_up(pl_arena_units(n)))
        self.free_lists[class_index] = record.next
        if record.next == 0:
            self.free_classes &= ~(<uint64_t>1 << class_index)
        if needed < units:
            self._free_run(ref + needed, ref + units)
            pl_order()  # the headers of the rest, before the length that lets a walk reach them
        record.length = n
        return ref

    cdef void _push_free(self, uint32_t ref, uint32_t class_index) noexcept nogil:
        cdef pl_arena *record = <pl_arena *>(self.base + <uint64_t>ref * UNIT)
        record.next = self.free_lists[class_index]
        self.free_lists[class_index] = ref
        self.free_classes |= <uint64_t>1 << class_index

    cdef void _free_run(self, uint32_t start, uint32_t end) noexcept nogil:
        """Turn the units [start, end) into free blocks, last block first.

        Every header is written before the header from which a walk would reach it. An earlier header keeps its place or
        lies inside a new block. A successor's walk is therefore correct after each store.
        """
        cdef uint32_t sizes[64]
        cdef uint32_t counts[64]
        cdef uint32_t kinds = 0
        cdef uint32_t left = end - start
        cdef uint32_t position = end
        cdef uint32_t class_index
        cdef uint32_t i
        cdef pl_arena *record
        while left != 0:
            class_index = pl_arena_class_down(left)
            if kinds != 0 and sizes[kinds - 1] == class_index:
                counts[kinds - 1] += 1
            else:
                sizes[kinds] = class_index
                counts[kinds] = 1
                kinds += 1
            left -= pl_arena_class_units(class_index)
        while kinds != 0:
            kinds -= 1
            class_index = sizes[kinds]
            for i in range(counts[kinds]):
                position -= pl_arena_class_units(class_index)
                record = <pl_arena *>(self.base + <uint64_t>position * UNIT)
                record.refcount = 0
                pl_order()
                # Store the longest string length of the class. A block of one unit has room for no string, and 0 would
                # end a walk, so it stores a marker.
                record.length = FREE_UNIT if class_index == 0 else (pl_arena_class_units(class_index) - 1) * UNIT
                pl_order()
                self._push_free(position, class_index)

    cdef void _sweep(self, bint rehash) noexcept nogil:
        """Rebuild the free lists and merge neighbours; with `rehash` (take-over), also the buckets and counts."""
        cdef uint32_t position = 1
        cdef uint32_t run = 0  # start of the run of free blocks that ends at position
        cdef uint32_t units
        cdef uint32_t i
        cdef pl_arena *record
        for i in range(PL_ARENA_CLASSES):
            self.free_lists[i] = 0
        self.free_classes = 0
        self.freed_units = 0
        while position < self.frontier:
            record = <pl_arena *>(self.base + <uint64_t>position * UNIT)
            units = block_units(record.length)
            if record.refcount == 0:
                if run == 0:
                    run = position
            else:
                if run != 0:
                    self._free_run(run, position)
                    run = 0
                if rehash:
                    self.used_bytes += <uint64_t>units * UNIT
                    record.hash = <uint32_t>pl_hash64(<char *>record + UNIT, record.length, self.seed)
                    self._insert(position, record.hash)
            position += units
        if run != 0:
            self._free_run(run, position)

    # -- take-over --------------------------------------------------------------------------------------------------

    cdef bint recount_begin(self) except -1:
        """Walk a predecessor's blocks: find the frontier, set all counts to 0, and record where blocks begin."""
        cdef uint64_t position = 1
        cdef pl_arena *record
        self.starts = <uint8_t *>calloc(self.limit // 8 + 1, 1)
        if self.starts == NULL:
            raise MemoryError
        while position < self.limit:
            record = <pl_arena *>(self.base + position * UNIT)
            if record.length == 0:
                break
            if record.length != FREE_UNIT:
                if record.length > PL_ARENA_MAX_LENGTH:
                    raise InvariantError(f"{self.segment.name}: no block begins at unit {position}", rule="arena-walk")
                self.starts[position >> 3] |= 1 << (position & 7)
            record.refcount = 0
            position += block_units(record.length)
        if position > self.limit:
            raise InvariantError(f"{self.segment.name}: the last block ends beyond the segment", rule="arena-walk")
        self.frontier = <uint32_t>position
        return True

    cdef bint recount_hold(self, uint32_t ref) noexcept nogil:
        """Count a row's reference; return False when no block begins there."""
        cdef pl_arena *record
        if ref == 0:
            return True
        if ref >= self.frontier or not self.starts[ref >> 3] & (1 << (ref & 7)):
            return False
        record = <pl_arena *>(self.base + <uint64_t>ref * UNIT)
        self.held += record.refcount == 0
        record.refcount += 1
        return True

    cdef void recount_finish(self) noexcept:
        """Free the records that no row holds; put the others into the buckets."""
        free(self.starts)
        self.starts = NULL
        self._make_buckets(self.held)
        self._sweep(True)

    cdef void _make_buckets(self, uint64_t records) noexcept nogil:
        """Make the empty buckets that `_insert` would make from 64 for `records` records, so that none is moved."""
        cdef uint64_t buckets = max(<uint64_t>64, min(2 * records, 2 * <uint64_t>self.bucket_limit))
        while 2 * (<uint64_t>self.bucket_mask + 1) <= buckets:
            self.bucket_mask = 2 * self.bucket_mask + 1
        self.bucket_split = <uint32_t>(buckets - self.bucket_mask - 1)

    # -- for Python: single calls, and what pipeline/shm/check reads ------------------------------------------------

    @property
    def frontier_bytes(self) -> int:
        """Bytes that were ever in use; all blocks end before this offset."""
        return <uint64_t>self.frontier * UNIT

    def view(self) -> Segment:
        """Return the segment's allocated bytes (buffer protocol)."""
        return self.segment

    def py_intern(self, const unsigned char[::1] data) -> int:
        """Intern `data`; return a reference with one more holder, 0 when `data` is empty or the arena is full."""
        return self.intern(<const char *>&data[0], <uint32_t>data.shape[0]) if data.shape[0] else 0

    def py_bytes(self, uint32_t ref) -> bytes:
        """Return a copy of the string that `ref` refers to."""
        cdef uint32_t n
        cdef const char *data
        self._require(ref)
        data = self.bytes(ref, &n)
        return data[:n]

    def free_blocks(self) -> dict:
        """Return the references of the free blocks, by size in bytes."""
        cdef uint32_t ref
        cdef dict result = {}
        for i in range(PL_ARENA_CLASSES):
            refs = []
            ref = self.free_lists[i]
            while ref != 0:
                refs.append(ref)
                ref = (<pl_arena *>(self.base + <uint64_t>ref * UNIT)).next
            if refs:
                result[pl_arena_class_units(i) * UNIT] = refs
        return result

    def _require(self, uint32_t ref):
        if ref >= self.frontier:
            raise IndexError(f"{self.segment.name}: no reference {ref}")
