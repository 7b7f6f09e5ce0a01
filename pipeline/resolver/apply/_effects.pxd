"""What each kind of event does to the tables."""

cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from pipeline.resolver.merge._queues cimport Batch, columns, pending_event
from pipeline.records._records cimport (
    pl_exec_any, pl_exit_any, pl_fork_any, pl_head_any, pl_task_any,
)
from pipeline.resolver.apply._record cimport told_record
from pipeline.resolver.apply._rows cimport Rows
from pipeline.shm.layout._layout cimport (
    PL_ROW_ADOPTED, PL_ROW_ADOPTION_PREDICTED, PL_ROW_BEFORE_CAPTURE, PL_ROW_FOREIGN, PL_ROW_NS_INIT,
    PL_ROW_START_TICKS,
)


cdef enum:
    # Flags that a new image takes over from the one that it replaces: they are about the process.
    PROCESS_FLAGS = (
        PL_ROW_ADOPTED | PL_ROW_ADOPTION_PREDICTED | PL_ROW_NS_INIT | PL_ROW_START_TICKS | PL_ROW_BEFORE_CAPTURE
        | PL_ROW_FOREIGN
    )


cdef class Events(Rows):
    @cython.final
    cdef void apply_batch(self, Batch batch) noexcept nogil
    @cython.final
    cdef void count_event(self, const pl_head_any *head, const char *body) noexcept nogil
    @cython.final
    cdef void prefetch_record(self, const pending_event *item, const columns *all) noexcept nogil
    @cython.final
    cdef void prefetch_slots(self, const pending_event *item, const columns *all) noexcept nogil
    @cython.final
    cdef void prefetch_rows(self, const pending_event *item, const columns *all) noexcept nogil
    # Apply one record, whose fields are set but for what its head says (`cgroup_source`, `is_stat`, the container).
    @cython.final
    cdef void apply_one(self, told_record *record) noexcept nogil

    @cython.final
    cdef void count_added(self, uint8_t source) noexcept nogil

    @cython.final
    cdef void fork(self, const told_record *record) noexcept nogil
    @cython.final
    cdef void fill_fork(self, uint32_t row, const told_record *record, uint32_t newer) noexcept nogil
    @cython.final
    cdef void complete_fork(self, uint32_t row, const told_record *record) noexcept nogil
    @cython.final
    cdef void exec(self, const told_record *record) noexcept nogil
    @cython.final
    cdef void exec_without_fork(self, const told_record *record) noexcept nogil
    @cython.final
    cdef void fill_exec(self, uint32_t row, const told_record *record, uint32_t groups) noexcept nogil
    @cython.final
    cdef uint32_t append_image(self, uint32_t previous, uint32_t newer, const told_record *record) noexcept nogil
    @cython.final
    cdef bint is_exec_bomb(self, uint32_t row, const told_record *record, uint32_t groups) noexcept nogil
    @cython.final
    cdef uint64_t begun(self, uint32_t previous, uint32_t row) noexcept nogil
    @cython.final
    cdef bint begin_earlier(self, uint32_t previous, uint32_t newer, const told_record *record) noexcept nogil
    @cython.final
    cdef void forget_loss(self, uint32_t row) noexcept nogil
    @cython.final
    cdef void start_again(self, uint32_t row, const told_record *record) noexcept nogil
    @cython.final
    cdef uint32_t part_image(self, uint32_t previous, uint32_t newer, uint64_t time) noexcept nogil
    @cython.final
    cdef bint has_lost_exec(self, uint32_t previous, const told_record *record) noexcept nogil
    @cython.final
    cdef void link_image(self, uint32_t row, uint32_t previous, const told_record *record) noexcept nogil
    @cython.final
    cdef uint32_t overwrite(self, uint32_t row, const told_record *record) noexcept nogil
    @cython.final
    cdef void number_images(self, uint32_t head, uint32_t row) noexcept nogil
    @cython.final
    cdef void replace(self, uint32_t previous, uint64_t time) noexcept nogil
    @cython.final
    cdef void exit(self, const told_record *record) noexcept nogil
    @cython.final
    cdef void undo_prediction(self, uint32_t row, const pl_head_any *head) noexcept nogil
    @cython.final
    cdef void tell_adopted(
        self, uint32_t row, uint32_t reaper_tgid, uint64_t reaper_start, uint64_t time
    ) noexcept nogil
    @cython.final
    cdef void tell_if_adopted(self, uint32_t head, uint32_t row, uint32_t adopter, uint64_t time) noexcept nogil
    @cython.final
    cdef void context(self, const told_record *record) noexcept nogil
    @cython.final
    cdef void put_caps(self, uint32_t row, const char *strings) noexcept nogil
    @cython.final
    cdef bint missing_parent(self, uint32_t row, const pl_head_any *head, uint32_t newer) noexcept nogil
    @cython.final
    cdef bint is_news(self, uint32_t row, uint64_t time) noexcept nogil
    @cython.final
    cdef void refresh(self, uint32_t row, const told_record *record) noexcept nogil
    @cython.final
    cdef void close_if_ended(self, uint32_t row) noexcept nogil
    @cython.final
    cdef int compare_inode(self, uint32_t row, uint64_t inode, uint64_t cookie, bint is_stat) noexcept nogil
    @cython.final
    cdef bint is_provisional(self, uint32_t row, uint64_t time) noexcept nogil
