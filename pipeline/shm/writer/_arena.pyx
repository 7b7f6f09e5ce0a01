"""Interned, reference-counted byte strings in one shared segment; one writer, any number of readers.

What is stored and how a record looks: tables.py (ARENA). This module allocates, finds and frees; which row holds which
reference is _writer.pyx's business.

Blocks come in the size classes of arena.h, each with a free list; a class without a free block takes from the frontier,
then splits a larger block, then grows the file, then sweeps (merges free neighbours). Nothing here calls malloc.
Finding goes through buckets in private memory (linear hashing: the table grows by one bucket at a time, so no insertion
waits for a rehash); the chain goes through the records' own headers.

Readers and reuse. A reader takes a reference from a row, copies the bytes, and then validates the row once more. A
reference is released only after its row was opened for change (row_seq odd) or freed (row_seq odd, generation
changed), and both put a release fence between that store and everything after it, the stores that overwrite the bytes
included. So a reader that copied an overwritten byte finds, after its own acquire fence, another row_seq (fence to
fence synchronisation; on aarch64 both are dmb ish). That is why a freed block may be reused at once, last in, first out.

A writer that is killed. All of this but the bytes can be derived again: a successor walks the blocks (a block's size
follows from its length, a length of 0 ends the walk), counts the references that rows hold, frees the rest. The stores
that the walk depends on are therefore kept in order: bytes and header before the reference is handed out, headers
inside a block before the length that makes them reachable.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy

from pipeline.shm.layout._hash cimport pl_hash64
from pipeline.shm.layout._layout cimport pl_arena, pl_store_release64

import os

from pipeline.errors import InvariantError

cdef uint32_t GROWTH_UNITS = (256 << 10) // 16  # least growth of the file
cdef uint32_t GROWTH_MAX_UNITS = (4 << 20) // 16
cdef uint32_t FREE_UNIT = 0xFFFFFFFF  # "length" of a free block that is nothing but its header


cdef inline uint32_t block_units(uint32_t length) noexcept nogil:
    return 1 if length == FREE_UNIT else pl_arena_class_units(pl_arena_class_up(pl_arena_units(length)))


cdef class Arena:
    """See _arena.pxd. Made by TableWriter; `segment` begins with one unused unit, so that no reference is 0.

    Attributes:
        used_bytes: size of all blocks that have holders.
        records: distinct strings that have holders.
        full: strings refused so far because the segment was at its ceiling (or the file system full).
    """

    def __cinit__(self, Segment segment not None):
        cdef uint64_t units = segment.capacity // UNIT
        cdef uint64_t buckets = 64
        if units < 64 or units > 0xFFFFFFFF:
            raise ValueError(f"{segment.name}: an arena holds 1 KiB to 64 GiB, not {segment.capacity} bytes")
        while buckets < units:  # a record takes two units at least, and a bucket is wanted for every half record
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
        # The bytes are complete before the caller stores the reference in a row (which is odd or not yet published).
        pl_order()
        return ref

    cdef uint32_t intern2(self, const char *head, uint32_t head_n, const char *data, uint32_t n) noexcept nogil:
        # One contiguous copy, so that equal bytes have one hash and one record however they were cut.
        if <uint64_t>head_n + n > PL_ARENA_MAX_LENGTH:
            self.full += 1
            self.full_counter[0] += 1
            return 0
        memcpy(self.scratch, head, head_n)
        memcpy(self.scratch + head_n, data, n)
        return self.intern(self.scratch, head_n + n)

    cdef void _unused(self, uint32_t ref) noexcept nogil:
        """Nobody holds the record any more: its bytes are given back."""
        cdef pl_arena *record = <pl_arena *>(self.base + <uint64_t>ref * UNIT)
        cdef uint32_t class_index = pl_arena_class_up(pl_arena_units(record.length))
        self._remove(ref)
        self.used_bytes -= <uint64_t>pl_arena_class_units(class_index) * UNIT
        self.freed_units += pl_arena_class_units(class_index)
        self._give(ref, class_index)

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
        """A block for `n` bytes with its length stored, refcount 0; 0 when there is no room."""
        cdef uint32_t class_index = pl_arena_class_up(pl_arena_units(n))
        cdef uint32_t units = pl_arena_class_units(class_index)
        cdef uint64_t larger
        cdef uint32_t ref
        if self.free_heads[class_index] == 0:
            if self.limit - self.frontier >= units:
                return self._extend_frontier(units, n)
            larger = self.free_classes >> class_index
            if larger == 0:
                if self._extend(units):
                    return self._extend_frontier(units, n)
                # At the ceiling. Free neighbours may be large enough together; look only when much was freed since
                # the last look, for a look costs a walk over everything.
                if self.freed_units < (self.limit >> 6) + units:
                    return 0
                self._sweep(False)
                larger = self.free_classes >> class_index
                if larger == 0:
                    return 0
            ref = self._take(class_index + pl_arena_lowest(larger), n)
        else:
            ref = self._take(class_index, n)
        self.used_bytes += <uint64_t>units * UNIT
        return ref

    cdef uint32_t _extend_frontier(self, uint32_t units, uint32_t n) noexcept nogil:
        cdef uint32_t ref = self.frontier
        cdef pl_arena *record = <pl_arena *>(self.base + <uint64_t>ref * UNIT)
        # Memory beyond the frontier was never written, so its next header reads 0 and ends a successor's walk.
        record.refcount = 0
        record.length = n
        self.frontier = ref + units
        self.used_bytes += <uint64_t>units * UNIT
        return ref

    cdef bint _extend(self, uint32_t units) noexcept nogil:
        """Grow the file so that `units` fit beyond the frontier; False at the ceiling."""
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
        # Release: a reader that finds a reference beyond the old end also finds the new end (it loads the row's
        # sequence word with acquire first, and that was stored after this).
        pl_store_release64(self.allocated_field, wanted * UNIT)
        return True

    cdef uint32_t _take(self, uint32_t class_index, uint32_t n) noexcept nogil:
        """Take a free block of a class and cut it to what `n` bytes need."""
        cdef uint32_t ref = self.free_heads[class_index]
        cdef pl_arena *record = <pl_arena *>(self.base + <uint64_t>ref * UNIT)
        cdef uint32_t units = pl_arena_class_units(class_index)
        cdef uint32_t needed = pl_arena_class_units(pl_arena_class_up(pl_arena_units(n)))
        self.free_heads[class_index] = record.next
        if record.next == 0:
            self.free_classes &= ~(<uint64_t>1 << class_index)
        if needed < units:
            self._give_run(ref + needed, ref + units)
            pl_order()  # the headers of the rest, before the length that makes a walk come upon them
        record.length = n
        return ref

    cdef void _give(self, uint32_t ref, uint32_t class_index) noexcept nogil:
        cdef pl_arena *record = <pl_arena *>(self.base + <uint64_t>ref * UNIT)
        record.next = self.free_heads[class_index]
        self.free_heads[class_index] = ref
        self.free_classes |= <uint64_t>1 << class_index

    cdef void _give_run(self, uint32_t start, uint32_t end) noexcept nogil:
        """Make free blocks of units [start, end), last block first.

        Every header is written before the one from which a walk would reach it, and a header that was there before
        keeps its place or lies inside a new block; so the walk of a successor is right after each store.
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
                # The longest string of the class. A block of one unit holds none, and 0 would end a walk: a mark.
                record.length = FREE_UNIT if class_index == 0 else (pl_arena_class_units(class_index) - 1) * UNIT
                pl_order()
                self._give(position, class_index)

    cdef void _sweep(self, bint rehash) noexcept nogil:
        """Rebuild the free lists, merging neighbours; with `rehash` the buckets and counts as well (take-over)."""
        cdef uint32_t position = 1
        cdef uint32_t run = 0  # begin of the run of free blocks that ends at position
        cdef uint32_t units
        cdef uint32_t i
        cdef pl_arena *record
        for i in range(PL_ARENA_CLASSES):
            self.free_heads[i] = 0
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
                    self._give_run(run, position)
                    run = 0
                if rehash:
                    self.used_bytes += <uint64_t>units * UNIT
                    record.hash = <uint32_t>pl_hash64(<char *>record + UNIT, record.length, self.seed)
                    self._insert(position, record.hash)
            position += units
        if run != 0:
            self._give_run(run, position)

    # -- take-over --------------------------------------------------------------------------------------------------

    cdef bint recount_begin(self) except -1:
        """Walk the blocks that a predecessor left: find the frontier, set all counts to 0, note where blocks begin."""
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
        """Count a row's reference; False when no block begins there."""
        if ref == 0:
            return True
        if ref >= self.frontier or not self.starts[ref >> 3] & (1 << (ref & 7)):
            return False
        (<pl_arena *>(self.base + <uint64_t>ref * UNIT)).refcount += 1
        return True

    cdef void recount_finish(self) noexcept:
        """Free what no row holds; find the rest again."""
        free(self.starts)
        self.starts = NULL
        self._sweep(True)

    # -- for tests, tables.py and single calls --------------------------------------------------------------------

    @property
    def allocated_bytes(self) -> int:
        """Bytes of the file that exist."""
        return self.segment.allocated

    @property
    def frontier_bytes(self) -> int:
        """Bytes that were ever in use; blocks are before it."""
        return <uint64_t>self.frontier * UNIT

    def view(self) -> Segment:
        """The segment's allocated bytes (buffer protocol)."""
        return self.segment

    def py_intern(self, const unsigned char[::1] data) -> int:
        """Return a reference with one more holder; 0 when empty or full."""
        return self.intern(<const char *>&data[0], <uint32_t>data.shape[0]) if data.shape[0] else 0

    def py_intern2(self, bytes head, bytes data) -> int:
        """Return a reference to `head + data` with one more holder; 0 when empty or full."""
        return self.intern2(<const char *>head, <uint32_t>len(head), <const char *>data, <uint32_t>len(data))

    def py_hold(self, uint32_t ref) -> None:
        self._require(ref)
        self.hold(ref)

    def py_release(self, uint32_t ref) -> None:
        self._require(ref)
        self.release(ref)

    def py_bytes(self, uint32_t ref) -> bytes:
        """Copy of what `ref` names."""
        cdef uint32_t n
        cdef const char *data
        self._require(ref)
        data = self.bytes(ref, &n)
        return data[:n]

    def py_refcount(self, uint32_t ref) -> int:
        self._require(ref)
        return (<pl_arena *>(self.base + <uint64_t>ref * UNIT)).refcount if ref else 0

    def py_find(self, bytes data) -> int:
        """Reference of `data` without another holder; 0 when it is not stored."""
        return self._find(
            <uint32_t>pl_hash64(<const char *>data, len(data), self.seed), <const char *>data, <uint32_t>len(data)
        )

    def free_blocks(self) -> dict:
        """References of free blocks, by size in bytes."""
        cdef uint32_t ref
        cdef dict result = {}
        for i in range(PL_ARENA_CLASSES):
            refs = []
            ref = self.free_heads[i]
            while ref != 0:
                refs.append(ref)
                ref = (<pl_arena *>(self.base + <uint64_t>ref * UNIT)).next
            if refs:
                result[pl_arena_class_units(i) * UNIT] = refs
        return result

    def _require(self, uint32_t ref):
        if ref >= self.frontier:
            raise IndexError(f"{self.segment.name}: no reference {ref}")
