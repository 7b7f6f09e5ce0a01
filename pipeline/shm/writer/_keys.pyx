"""The writer's side of the `keys` segment: which slot of the index each (pid, pid namespace) has.

What readers do, and which store makes a key visible: keys.h. When a slot may be given to another key is decided in
keyspace.py, which knows the rows.

What a kill leaves. A slot's key is stored before its bucket, so a slot with a key and no bucket is a key that nobody has
found yet. Laying the buckets out anew leaves `rebuild_seq` odd when it is cut short. A successor lays them out from the
slots' keys in any case, and has nothing else to repair.
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
    """Length of the segment for so many slots."""
    return pl_keys_bytes(capacity)


cdef class NamespaceKeys:
    """Keys of one instance's tables; the one writer is the tables'.

    Args:
        segment: mapped, `segment_bytes(capacity)` long.
        first: the index entry of slot 0; those before are pids of the root pid namespace.
        capacity: slots.

    Attributes:
        used: slots that have a key.
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
        """The index entry of a key; 0: it has none."""
        cdef uint32_t slot = 0
        if pid == 0 or pl_key_once(self.keys, self.capacity, pl_ns_key(pid, pid_ns), &slot) != 1:
            return 0
        return self.first + slot

    def add(self, uint32_t pid, uint32_t pid_ns) -> int:
        """The index entry of a key that has none yet gets; 0: every slot has a key.

        Slots come back into use in the order in which they were freed: as late as possible.
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
        """(pid, pid namespace) of an index entry; (0, 0): it has no key."""
        if tgid < self.first or tgid - self.first >= self.capacity:
            return 0, 0
        cdef uint64_t key = self.names[tgid - self.first]
        return <uint32_t>key, key >> 32

    def take_out(self, slots) -> None:
        """Give up the keys of slots (numbers from 0), which no row is found by any more."""
        cdef uint32_t slot
        self._free_slots()
        pl_store_relaxed32(&self.keys.rebuild_seq, self.keys.rebuild_seq | 1)
        # The odd number before everything that a search could meet from here on.
        pl_fence_release()
        for slot in slots:
            if slot < self.capacity and self.names[slot] != 0:
                pl_store_relaxed64(&self.names[slot], 0)
                self.free.append(slot)
                self.used -= 1
        self._lay_out()

    def view(self):
        """Shape (capacity,), uint64: the key of each slot, live, read-only."""
        names = np.frombuffer(self.segment, np.uint64, self.capacity, sizeof(pl_keys))
        names.flags.writeable = False
        return names

    def _free_slots(self):
        # Made when it is first needed: a daemon that no tracer sends to has no keys, and the list would be 2.5 MB.
        if self.free is None:
            self.free = deque(np.flatnonzero(self.view() == 0).tolist())
        return self.free

    cdef void _insert(self, uint64_t key, uint32_t slot) noexcept nogil:
        cdef uint32_t at = pl_key_home(key, self.buckets)
        while self.table[at] != 0:
            at = (at + 1) & (self.buckets - 1)
        # Release: who sees the slot here (acquire) sees its key.
        pl_store_release32(&self.table[at], slot + 1)

    cdef void _lay_out(self) noexcept nogil:
        cdef uint32_t slot
        pl_store_relaxed32(&self.keys.rebuild_seq, self.keys.rebuild_seq | 1)
        pl_fence_release()
        memset(self.table, 0, 4 * <uint64_t>self.buckets)
        for slot in range(self.capacity):
            if self.names[slot] != 0:
                self._insert(self.names[slot], slot)
        # Release: a search that begins with the even number meets the new layout only.
        pl_store_release32(&self.keys.rebuild_seq, (self.keys.rebuild_seq | 1) + 1)
