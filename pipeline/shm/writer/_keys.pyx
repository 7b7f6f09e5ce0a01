"""The writer's access to the `keys` segment, which maps each (pid, pid namespace) key to a slot of the index.

keys.h describes how readers search, and which store makes a key visible. keyspace.py, which knows the rows, decides
when a slot may be assigned to another key.

A killed writer. A slot's key is stored before its bucket, so a slot with a key but no bucket is a key that no reader
has found yet. If rebuilding the buckets is interrupted, `rebuild_seq` stays odd. A successor always rebuilds the
buckets from the slots' keys; nothing else needs repair.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from pipeline.shm.layout._keyhash cimport (
    pl_key_buckets, pl_key_home, pl_key_names, pl_key_once, pl_key_table, pl_keys_bytes, pl_ns_key,
)
from pipeline.shm.layout._layout cimport (
    pl_fence_release, pl_keys, pl_store_relaxed32, pl_store_relaxed64, pl_store_release32,
)
from pipeline.shm.writer._segment cimport Segment

from collections import deque

import numpy as np


def segment_bytes(uint32_t capacity) -> int:
    """Return the segment's length in bytes for `capacity` slots."""
    return pl_keys_bytes(capacity)


cdef class NamespaceKeys:
    """Keys of one instance's tables; only the writer of the tables changes them.

    Args:
        segment: mapped, `segment_bytes(capacity)` long.
        first: index entry of slot 0; earlier entries are pids of the root pid namespace.
        capacity: number of slots.

    Attributes:
        used: number of slots that have a key.
    """

    def __init__(self, Segment segment not None, uint32_t first, uint32_t capacity):
        self.segment = segment
        self.keys = <pl_keys *>segment.base
        self.names = pl_key_names(self.keys)
        self.table = pl_key_table(self.keys, capacity)
        self.buckets = pl_key_buckets(capacity)
        self.first = first
        self.capacity = capacity
        self._lay_out()
        self.used = np.count_nonzero(self.view())
        self.free = None

    def find(self, uint32_t pid, uint32_t pid_ns) -> int:
        """Return the index entry of a key; 0 if it has none."""
        cdef uint32_t slot = 0
        if pid == 0 or pl_key_once(self.keys, self.capacity, pl_ns_key(pid, pid_ns), &slot) != 1:
            return 0
        return self.first + slot

    def add(self, uint32_t pid, uint32_t pid_ns) -> int:
        """Assign an index entry to a key that has none; return it, or 0 if no slot is free.

        Slots are reused in the order in which they were freed, that is, as late as possible.
        """
        cdef uint32_t slot
        if pid == 0 or not self._free_slots():
            return 0
        slot = self.free.popleft()
        pl_store_relaxed64(&self.names[slot], pl_ns_key(pid, pid_ns))
        self._insert(pl_ns_key(pid, pid_ns), slot)
        self.used += 1
        return self.first + slot

    def key_of(self, uint32_t tgid) -> tuple[int, int]:
        """Return (pid, pid namespace) of an index entry; (0, 0) if it has no key."""
        if tgid < self.first or tgid - self.first >= self.capacity:
            return 0, 0
        cdef uint64_t key = self.names[tgid - self.first]
        return <uint32_t>key, key >> 32

    def remove(self, slots) -> None:
        """Remove the keys of slots (numbered from 0) that no row is found by any more."""
        cdef uint32_t slot
        self._free_slots()
        pl_store_relaxed32(&self.keys.rebuild_seq, self.keys.rebuild_seq | 1)
        # The odd number must be visible before everything that a search could read from here on.
        pl_fence_release()
        for slot in slots:
            if slot < self.capacity and self.names[slot] != 0:
                pl_store_relaxed64(&self.names[slot], 0)
                self.free.append(slot)
                self.used -= 1
        self._lay_out()

    def view(self):
        """Return a live, read-only view of each slot's key. Shape (capacity,), uint64."""
        names = np.frombuffer(self.segment, np.uint64, self.capacity, sizeof(pl_keys))
        names.flags.writeable = False
        return names

    def _free_slots(self):
        # Created on first use: a daemon without external tracers has no keys, and the list would need 2.5 MB.
        if self.free is None:
            self.free = deque(np.flatnonzero(self.view() == 0).tolist())
        return self.free

    cdef void _insert(self, uint64_t key, uint32_t slot) noexcept nogil:
        cdef uint32_t at = pl_key_home(key, self.buckets)
        while self.table[at] != 0:
            at = (at + 1) & (self.buckets - 1)
        # Release: a reader that sees the slot here (acquire) sees its key.
        pl_store_release32(&self.table[at], slot + 1)

    cdef void _lay_out(self) noexcept nogil:
        cdef uint32_t slot
        pl_store_relaxed32(&self.keys.rebuild_seq, self.keys.rebuild_seq | 1)
        pl_fence_release()
        memset(self.table, 0, 4 * <uint64_t>self.buckets)
        for slot in range(self.capacity):
            if self.names[slot] != 0:
                self._insert(self.names[slot], slot)
        # Release: a search that starts with the even number sees only the new layout.
        pl_store_release32(&self.keys.rebuild_seq, (self.keys.rebuild_seq | 1) + 1)
