"""Functions that records of several kinds share, and those that apply an exec. See _execs.pyx."""

cimport cython
from libc.stdint cimport uint32_t, uint64_t, uint8_t

from pipeline.records._records cimport pl_header_any
from pipeline.resolver.apply._lineage cimport Lineage
from pipeline.resolver.apply._record cimport parsed_record
from pipeline.shm.layout._layout cimport (
    PL_C_ADDED_EVENT, PL_C_ADDED_KERNEL_MAPS, PL_C_ADDED_PROCFS, PL_ROW_ADOPTED, PL_ROW_ADOPTION_PREDICTED,
    PL_ROW_BEFORE_CAPTURE, PL_ROW_DELETED, PL_ROW_EXIT_KNOWN, PL_ROW_EXIT_UNSEEN, PL_ROW_FOREIGN, PL_ROW_NS_INIT,
    PL_ROW_START_TICKS, PL_SOURCE_MAP, PL_SOURCE_PROCFS,
)


cdef enum:
    # Flags that a new image takes over from the one that it replaces: they are about the process.
    PROCESS_FLAGS = (
        PL_ROW_ADOPTED | PL_ROW_ADOPTION_PREDICTED | PL_ROW_NS_INIT | PL_ROW_START_TICKS | PL_ROW_BEFORE_CAPTURE
        | PL_ROW_FOREIGN
    )
    # The facts of a head about the end of its process.
    END_FLAGS = PL_ROW_DELETED | PL_ROW_EXIT_UNSEEN | PL_ROW_EXIT_KNOWN

cdef enum:
    # What `compare_inode` returns.
    INODE_SAME = 0
    INODE_OTHER = 1
    INODE_UNCLEAR = 2


cdef class Execs(Lineage):
    cdef inline void count_added(self, uint8_t source) noexcept nogil:
        if source == PL_SOURCE_MAP:
            self.counters[PL_C_ADDED_KERNEL_MAPS] += 1
        elif source == PL_SOURCE_PROCFS:
            self.counters[PL_C_ADDED_PROCFS] += 1
        else:
            self.counters[PL_C_ADDED_EVENT] += 1
    @cython.final
    cdef bint missing_parent(self, uint32_t row, const pl_header_any *header, uint32_t newer) noexcept nogil
    @cython.final
    cdef int compare_inode(self, uint32_t row, uint64_t inode, uint64_t cookie, bint is_stat) noexcept nogil
    @cython.final
    cdef bint is_provisional(self, uint32_t row, uint64_t time) noexcept nogil
    @cython.final
    cdef bint is_news(self, uint32_t row, uint64_t time) noexcept nogil
    @cython.final
    cdef bint refresh(self, uint32_t row, const parsed_record *record, bint is_found) noexcept nogil
    @cython.final
    cdef void complete_mapped(self, uint32_t row, const parsed_record *record) noexcept nogil
    # End a process if its exit was applied before its fork.
    cdef inline void close_if_ended(self, uint32_t row) noexcept nogil:
        cdef uint32_t tgid = self.hot[row].tgid
        if self.unknown_mask >> (tgid & 63) & 1 or self.has_ended(tgid, self.hot[row].start_boot_ns, False):
            self.close_ended(row)
    @cython.final
    cdef void close_ended(self, uint32_t row) noexcept nogil

    @cython.final
    cdef void exec(self, const parsed_record *record) noexcept nogil
    @cython.final
    cdef bint has_lost_exec(self, uint32_t previous, const parsed_record *record) noexcept nogil
    @cython.final
    cdef void link_image(self, uint32_t row, uint32_t previous, const parsed_record *record) noexcept nogil
    @cython.final
    cdef bint is_exec_bomb(self, uint32_t row, const parsed_record *record, uint32_t groups) noexcept nogil
    @cython.final
    cdef bint is_first_exec(self, uint32_t row) noexcept nogil
    @cython.final
    cdef uint64_t begun(self, uint32_t previous, uint32_t row) noexcept nogil
    @cython.final
    cdef bint begin_earlier(self, uint32_t previous, uint32_t newer, const parsed_record *record) noexcept nogil
    @cython.final
    cdef void forget_loss(self, uint32_t row) noexcept nogil
    @cython.final
    cdef void start_again(self, uint32_t row, const parsed_record *record) noexcept nogil
    @cython.final
    cdef uint32_t part_image(self, uint32_t previous, uint32_t newer, uint64_t time) noexcept nogil
    @cython.final
    cdef void replace(self, uint32_t previous, uint64_t time) noexcept nogil
    @cython.final
    cdef void fill_exec(self, uint32_t row, const parsed_record *record, uint32_t groups) noexcept nogil
    @cython.final
    cdef uint32_t append_image(self, uint32_t previous, uint32_t newer, const parsed_record *record) noexcept nogil
    @cython.final
    cdef uint32_t overwrite(self, uint32_t row, const parsed_record *record) noexcept nogil
    @cython.final
    cdef void number_images(self, uint32_t head, uint32_t row) noexcept nogil
    @cython.final
    cdef void exec_without_fork(self, const parsed_record *record) noexcept nogil
