"""The facts of a row about a process and its image. See _images.pyx."""

cimport cython
from libc.stdint cimport uint32_t, uint64_t, uint8_t

from pipeline.records._records cimport PL_FLAG_PARTIAL, pl_exec_any, pl_task_any
from pipeline.resolver.apply._groups cimport TASK_KNOWN
from pipeline.resolver.apply._record cimport exec_text, parsed_record
from pipeline.resolver.apply._rows cimport Rows
from pipeline.shm.layout._layout cimport (
    PL_KNOWN_AUID, PL_KNOWN_CAPS, PL_KNOWN_CGROUP, PL_KNOWN_CREDS, PL_KNOWN_NS, PL_KNOWN_SID, PL_KNOWN_TTY, pl_cold,
    pl_file, pl_hot,
)
from pipeline.shm.writer._arena cimport Arena


include "states.pxi"


cdef enum:
    # What the kernel's comparison of live processes covers.
    SAMPLED_GROUPS = PL_KNOWN_CREDS | PL_KNOWN_CAPS | PL_KNOWN_AUID | PL_KNOWN_NS | PL_KNOWN_SID | PL_KNOWN_TTY


cdef class Images(Rows):
    # -- facts ------------------------------------------------------------------------------------------------------
    # Which groups of fields (KNOWN_*) of a TASK hold a value.
    cdef inline uint32_t groups_of(self, uint8_t flags, const pl_task_any *task) noexcept nogil:
        cdef uint32_t groups = TASK_KNOWN
        if flags & PL_FLAG_PARTIAL:
            groups = self.groups_of_partial(task)
        else:
            # A task that ends may have left its cgroup and its pid namespace; before that, each task has both.
            if task.cgroup_id == 0:
                groups &= ~PL_KNOWN_CGROUP
            if task.pid_ns == 0:
                groups &= ~PL_KNOWN_NS
        return groups | known_states(task)
    @cython.final
    cdef uint32_t groups_of_partial(self, const pl_task_any *task) noexcept nogil
    @cython.final
    cdef void put_task(self, uint32_t row, const parsed_record *record, uint32_t groups) noexcept nogil
    @cython.final
    cdef bint is_elsewhere(self, uint32_t row, const pl_task_any *task) noexcept nogil
    @cython.final
    cdef bint keeps_tty(self, uint32_t row, const pl_task_any *task) noexcept nogil
    @cython.final
    cdef bint differs(self, uint32_t row, const parsed_record *record, uint32_t groups) noexcept nogil
    @cython.final
    cdef void copy_groups(self, uint32_t row, uint32_t source, uint32_t groups) noexcept nogil
    @cython.final
    cdef uint32_t copy_row(self, uint32_t source) noexcept nogil
    @cython.final
    cdef void copy_image(self, uint32_t row, uint32_t source) noexcept nogil
    @cython.final
    cdef bint same_image(self, uint32_t row, uint32_t other) noexcept nogil
    @cython.final
    cdef bint is_same_again(self, uint32_t row, const parsed_record *record, uint32_t groups) noexcept nogil
    @cython.final
    cdef bint holds(self, Arena arena, uint32_t ref, const char *text, uint32_t n, bint is_absent) noexcept nogil
    @cython.final
    cdef void clear_image(self, uint32_t row) noexcept nogil
    @cython.final
    cdef void put_image(self, uint32_t row, const parsed_record *record, bint is_new) noexcept nogil
    @cython.final
    cdef bint complete_image(self, uint32_t row, const parsed_record *record) noexcept nogil
    @cython.final
    cdef void put_name(
        self, uint32_t row, const pl_exec_any *body, const char *strings, bint is_new, uint32_t flags
    ) noexcept nogil
    @cython.final
    cdef void put_text(
        self, uint32_t row, const exec_text *strings, Arena arena, uint32_t *place, bint is_new, uint32_t flags,
        uint32_t known
    ) noexcept nogil
    @cython.final
    cdef uint32_t file_of(self, const parsed_record *record) noexcept nogil
    @cython.final
    cdef void put_mount(self, pl_file *file, const parsed_record *record) noexcept nogil
    @cython.final
    cdef void exact_start(self, uint32_t row, uint64_t start) noexcept nogil

    # -- extra ------------------------------------------------------------------------------------------------------
    @cython.final
    cdef uint32_t same_places(self, uint32_t row, const pl_hot *hot, const pl_cold *cold) noexcept nogil
    @cython.final
    cdef void inherit_extra(self, uint32_t row, uint32_t ref, uint32_t keys) noexcept nogil
    @cython.final
    cdef void drop_extra(self, uint32_t row, uint32_t keys) noexcept nogil
    @cython.final
    cdef void reset_extra(self, uint32_t row, uint32_t ref, uint32_t places) noexcept nogil
    @cython.final
    cdef void put_change(self, uint32_t row, const parsed_record *record) noexcept nogil
    @cython.final
    cdef void drop_change(self, uint32_t row) noexcept nogil
    @cython.final
    cdef void inherit_later(self, uint32_t row) noexcept nogil
