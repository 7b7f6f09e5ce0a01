"""Apply events to the tables, in batches or one at a time. See _effects.pyx."""

cimport cython
from libc.stdint cimport uint32_t, uint64_t

from pipeline.records._records cimport pl_header_any
from pipeline.resolver.apply._execs cimport Execs
from pipeline.resolver.apply._record cimport parsed_record
from pipeline.resolver.merge._queues cimport Batch


cdef class Events(Execs):
    @cython.final
    cdef void apply_batch(self, Batch batch) noexcept nogil
    # Apply one record. This sets the fields that follow from its header: `cgroup_source`, `is_stat` and the container.
    @cython.final
    cdef void apply_one(self, parsed_record *record) noexcept nogil
    @cython.final
    cdef void apply_orphan(self, parsed_record *record) noexcept nogil
    @cython.final
    cdef void learn_cgroup(self, const parsed_record *record) noexcept nogil

    @cython.final
    cdef void fork(self, const parsed_record *record) noexcept nogil
    @cython.final
    cdef void fill_fork(self, uint32_t row, const parsed_record *record, uint32_t newer) noexcept nogil
    @cython.final
    cdef void complete_fork(self, uint32_t row, const parsed_record *record) noexcept nogil
    @cython.final
    cdef void exit(self, const parsed_record *record) noexcept nogil
    @cython.final
    cdef void exit_unknown(self, const parsed_record *record, bint has_reaper) noexcept nogil
    @cython.final
    cdef void fill_exit(self, uint32_t row, const parsed_record *record, bint is_owner) noexcept nogil
    @cython.final
    cdef void undo_prediction(self, uint32_t row, const pl_header_any *header) noexcept nogil
    @cython.final
    cdef void emit_adopted_again(
        self, uint32_t row, uint32_t reaper_tgid, uint64_t reaper_start, uint64_t time
    ) noexcept nogil
    @cython.final
    cdef void emit_if_adopted(self, uint32_t head, uint32_t row, uint32_t adopter, uint64_t time) noexcept nogil
    @cython.final
    cdef void change(self, const parsed_record *record) noexcept nogil
    @cython.final
    cdef uint32_t enter_changed(self, const parsed_record *record) noexcept nogil
    @cython.final
    cdef void forget_changed(self, uint32_t row, const pl_header_any *header) noexcept nogil
    @cython.final
    cdef bint is_known(self, uint32_t row, const parsed_record *record) noexcept nogil
    cdef void emit_change(self, const parsed_record *record, uint32_t row) noexcept nogil
    cdef void mark_sampled(self, uint32_t row, const parsed_record *record) noexcept nogil
    cdef void put_caps(self, uint32_t row, const char *strings) noexcept nogil
