"""Begin and end of entries, and the links between parents and children. See _lineage.pyx."""

cimport cython
from libc.stdint cimport uint32_t, uint64_t

from pipeline.records._records cimport pl_header_any
from pipeline.resolver.apply._images cimport Images


cdef class Lineage(Images):
    # -- entries ----------------------------------------------------------------------------------------------------
    @cython.final
    cdef uint32_t open_entry(self, const pl_header_any *header, uint64_t displaced_at, uint32_t *newer) noexcept nogil
    @cython.final
    cdef void insert_entry(self, uint32_t row, uint32_t newer) noexcept nogil
    @cython.final
    cdef void link_parent(self, uint32_t row, uint32_t parent, uint64_t time) noexcept nogil
    @cython.final
    cdef void link_waiting(self, uint32_t row, uint64_t time) noexcept nogil
    @cython.final
    cdef void link_child(self, uint32_t child, uint32_t row, uint64_t time) noexcept nogil
    @cython.final
    cdef void wait_for(self, uint32_t tgid, uint32_t parent_tgid, uint64_t parent_start, bint predicted) noexcept nogil
    cdef inline void wait_no_more(self, uint32_t tgid) noexcept nogil:
        if self.pids[tgid].waits_for:
            self.stop_waiting(tgid)
    @cython.final
    cdef void stop_waiting(self, uint32_t tgid) noexcept nogil
    @cython.final
    cdef void displace(self, uint32_t row, uint64_t time) noexcept nogil
    @cython.final
    cdef void forget_children(self, uint32_t tgid, uint64_t start) noexcept nogil
    @cython.final
    cdef void finish(self, uint32_t row, uint64_t time, uint32_t flags) noexcept nogil

    # -- lineage ----------------------------------------------------------------------------------------------------
    @cython.final
    cdef void move(self, uint32_t row, uint32_t parent, uint64_t time, uint32_t kind, bint predicted) noexcept nogil
    @cython.final
    cdef void follow_kernel(self, uint32_t row, const pl_header_any *header, uint32_t kind) noexcept nogil
    @cython.final
    cdef bint is_child_of(self, uint32_t child, uint32_t parent) noexcept nogil
    @cython.final
    cdef uint32_t reaper(self, uint32_t tgid, uint64_t start) noexcept nogil
    # Move the children of an ended process to the reaper. Without a reaper, they wait for their next record.
    cdef inline void leave_children(
        self, uint32_t row, uint32_t reaper_tgid, uint64_t reaper_start, uint64_t time
    ) noexcept nogil:
        if self.tables.first_child(self.hot[row].tgid):
            self.move_children(row, reaper_tgid, reaper_start, time)
    @cython.final
    cdef void move_children(
        self, uint32_t row, uint32_t reaper_tgid, uint64_t reaper_start, uint64_t time
    ) noexcept nogil
