"""The processes of a table, and which of them descend from one."""

from libc.stdint cimport uint32_t, uint64_t

from pipeline.shm.layout._layout cimport pl_hot
from pipeline.shm.reader._view cimport View


# Which link leads upwards; the first three are those of a row.
cdef enum:
    BY_ANCESTOR = 0
    BY_CREATOR = 1
    BY_PARENT = 2
    BY_ORIGIN = 3  # the creator; the parent if the creator is not retained
    BY_ANY = 4  # the creator and the parent


# Images that ran in a period, on the boot clock.
cdef struct period:
    uint64_t ended_after
    uint64_t began_before, began_after  # start of the process


cdef inline uint64_t link_of(const pl_hot *hot, int which) noexcept nogil:
    return hot.ancestor if which == BY_ANCESTOR else (hot.creator if which == BY_CREATOR else hot.parent)


cdef int which_of(object by, bint has_ancestors) except -1
cdef bint is_used(const pl_hot *row) noexcept nogil
cdef bint ran(const pl_hot *row, const period *wanted) noexcept nogil
cdef int next_image(View view, uint32_t *row, uint32_t end, const period *wanted, pl_hot *to) noexcept nogil
cdef tuple processes_of(View view, const pl_hot *root, int by, bint exited)
