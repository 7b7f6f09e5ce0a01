"""Path and container of each cgroup id that processes are in, so that apply can write them into a row at once.

An event carries the id of the cgroup, not its path. Looking a path up takes a walk of the cgroup file system, which is
not for the hot path: an id that is new is asked for (`take_wanted`), the resolver's loop finds the path, and `name`
writes it into every row of that cgroup and remembers it for those that follow. Finding is in containers.py.

A cgroup id names one cgroup for ever (kernfs counts a generation in its upper half), and a cgroup cannot be renamed.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from pipeline.shm._layout cimport pl_hot
from pipeline.shm._writer cimport TableWriter

cdef enum:
    FIRST_CAPACITY = 1024
    WANTED_MAX = 64


cdef class CgroupNames:
    """Names by id; holds one reference of each string in the names arena. One thread's: the writer's.

    Args:
        tables: whose arena holds the names.
    """

    def __cinit__(self, TableWriter tables not None):
        self.tables = tables
        self.capacity = FIRST_CAPACITY
        self.slots = <cgroup_name *>calloc(self.capacity, sizeof(cgroup_name))
        if self.slots == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.slots)

    def __len__(self):
        return self.used

    cdef cgroup_name *_find(self, uint64_t cgroup_id) noexcept nogil:
        """The slot of the id, or the free one where it belongs."""
        cdef uint32_t at = <uint32_t>((cgroup_id * <uint64_t>0x9E3779B97F4A7C15) >> 32) & (self.capacity - 1)
        while self.slots[at].cgroup_id != 0 and self.slots[at].cgroup_id != cgroup_id:
            at = (at + 1) & (self.capacity - 1)
        return &self.slots[at]

    cdef void put(self, uint32_t row) noexcept nogil:
        cdef uint64_t cgroup_id = self.tables.hot[row].cgroup_id
        cdef cgroup_name *found
        cdef uint32_t i
        if cgroup_id == 0:
            return
        found = self._find(cgroup_id)
        if found.cgroup_id != 0:
            self.tables.names.hold(found.path_ref)
            self.tables.set_cgroup_ref(row, found.path_ref)
            self.tables.names.hold(found.container_ref)
            self.tables.set_container_ref(row, found.container_ref)
            return
        for i in range(self.wanted_count):
            if self.wanted[i] == cgroup_id:
                return
        # More at a time than can be kept: the rows stay without a name until another process of theirs comes by.
        if self.wanted_count < WANTED_MAX:
            self.wanted[self.wanted_count] = cgroup_id
            self.wanted_count += 1

    def take_wanted(self) -> list[int]:
        """Return the ids that rows have and nobody named, and forget them."""
        wanted = [self.wanted[i] for i in range(self.wanted_count)]
        self.wanted_count = 0
        return wanted

    def name(self, uint64_t cgroup_id, bytes path not None, bytes container=b"") -> int:
        """Name a cgroup, and write the name into the rows that have its id; returns how many.

        Args:
            cgroup_id: not 0.
            path: below the root of the hierarchy.
            container: container id; empty: none.
        """
        cdef cgroup_name *slot
        cdef pl_hot *hot = self.tables.hot
        cdef uint32_t row, rows = 0
        if cgroup_id == 0:
            raise ValueError("0 is no cgroup id")
        if 2 * (self.used + 1) > self.capacity:
            self._grow()
        slot = self._find(cgroup_id)
        if slot.cgroup_id == 0:
            slot.path_ref = self.tables.names.intern(path, <uint32_t>len(path))
            slot.container_ref = self.tables.names.intern(container, <uint32_t>len(container))
            slot.cgroup_id = cgroup_id
            self.used += 1
        for row in range(1, self.tables.rows_fresh):
            if hot[row].cgroup_id == cgroup_id and hot[row].flags and self.tables.cold[row].cgroup_ref == 0:
                self.tables.begin(row)
                self.put(row)
                self.tables.end(row)
                rows += 1
        return rows

    def forget(self) -> None:
        """Let go of every name; rows keep theirs. (The invariants of the arena count the rows' references alone.)"""
        cdef uint32_t i
        for i in range(self.capacity):
            self.tables.names.release(self.slots[i].path_ref)
            self.tables.names.release(self.slots[i].container_ref)
            self.slots[i] = cgroup_name(0, 0, 0)
        self.used = 0

    cdef _grow(self):
        cdef cgroup_name *old = self.slots
        cdef uint32_t i, count = self.capacity
        self.slots = <cgroup_name *>calloc(2 * count, sizeof(cgroup_name))
        if self.slots == NULL:
            self.slots = old
            raise MemoryError
        self.capacity = 2 * count
        for i in range(count):
            if old[i].cgroup_id != 0:
                self._find(old[i].cgroup_id)[0] = old[i]
        free(old)
