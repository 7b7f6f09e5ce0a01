"""The processes of a table, and which of them descend from one."""

from libc.stdint cimport uint32_t, uint64_t

from pipeline.shm.layout._layout cimport PL_ROW_REPLACED, pl_fence_acquire, pl_hot, pl_load_relaxed32
from pipeline.shm.reader._entry cimport is_same_process
from pipeline.shm.reader._view cimport View


# Result of a function that reads processes or strings: there is no memory for them.
cdef enum:
    NO_MEMORY = -3


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


# A process of the result: pid (or index entry), start and flags of an image, and a link to its newest one.
cdef struct listed:
    uint64_t start, link
    uint64_t loaded  # when the image was loaded, on the boot clock
    uint32_t tgid, flags


# What all rows were before they were read.
cdef struct noting:
    uint64_t *states  # by row: sequence word and generation; NULL: they were not noted
    uint32_t rows
    bint reads_index  # whether the index must be read too, because a row may have been freed before it was read


cdef inline bint is_listed(View view, const listed *process, const pl_hot *hot) noexcept nogil:
    """Return whether a row is an image of a process."""
    cdef pl_hot former
    former.tgid, former.start_boot_ns, former.flags = process.tgid, process.start, process.flags
    return is_same_process(view, &former, hot)


cdef inline bint has_exited(const pl_hot *head) noexcept nogil:
    """Return whether a process has ended, by the image that the index names: if replaced, an exec is under way."""
    return head.exit_boot_ns != 0 and not head.flags & PL_ROW_REPLACED


cdef inline bint is_used(const pl_hot *row) noexcept nogil:
    """Return whether a row in any state is in use. Reads single words, which are in one cache line."""
    if pl_load_relaxed32(&row.generation) == 0:
        return False  # never used
    # A free row is odd too, but a row that is being written has flags.
    return not pl_load_relaxed32(&row.row_seq) & 1 or pl_load_relaxed32(&row.flags) != 0


cdef inline void compare_row(View view, noting *noted, uint32_t number) noexcept nogil:
    """Find out whether an image in a row was freed since `note_rows`; call it after the row was read.

    To free a row changes the sequence word, then the flags, then the generation. An image that was inserted since has
    the generation that the free row had, or 1 if the row was never used before.
    """
    cdef const pl_hot *row = &view.view.hot[number]
    if noted.states == NULL:
        return
    pl_fence_acquire()
    if is_used(row):
        noted.reads_index |= (
            pl_load_relaxed32(&row.generation) != max(<uint32_t>1, <uint32_t>(noted.states[number] >> 32))
        )
    else:
        noted.reads_index |= pl_load_relaxed32(&row.row_seq) != <uint32_t>noted.states[number]


cdef inline uint64_t link_of(const pl_hot *hot, int which) noexcept nogil:
    return hot.ancestor if which == BY_ANCESTOR else (hot.creator if which == BY_CREATOR else hot.parent)


cdef int which_of(object by, bint has_ancestor, bint has_origin) except -1
cdef bint ran(const pl_hot *row, const period *wanted) noexcept nogil
cdef int next_image(View view, uint32_t *row, uint32_t end, const period *wanted, pl_hot *to) noexcept nogil
cdef bint note_rows(View view, noting *noted) noexcept nogil
cdef bytearray all_processes(View view)
cdef tuple descendants_of(View view, const pl_hot *root, int by, bint exited)
