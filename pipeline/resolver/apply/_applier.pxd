"""The Applier: events in batches or one at a time, and the facts of /proc."""

cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from pipeline.records._records cimport pl_exec_any, pl_header_any, pl_task_any
from pipeline.resolver.apply._effects cimport Events
from pipeline.resolver.apply._record cimport parsed_record


cdef class Applier(Events):
    cdef int fill_record(
        self, parsed_record *record, const pl_header_any *header, const pl_task_any *task, const pl_exec_any *body,
        const char *strings, uint64_t string_bytes, int source, uint64_t digest,
    ) except -1
    cdef int insert(
        self, const parsed_record *record, bint ticks, uint32_t flags, uint64_t exec_boot_ns
    ) noexcept nogil
    cdef void count_made(self, uint8_t source) noexcept nogil
    cdef bint is_other_image(self, uint32_t row, const parsed_record *record, uint64_t exec_boot_ns) noexcept nogil
    cdef int merge_facts(
        self, uint32_t row, const parsed_record *record, bint ticks, uint64_t exec_boot_ns
    ) noexcept nogil
    @cython.final
    cdef uint32_t add_lost_exec(self, uint32_t row, const parsed_record *record) noexcept nogil
    @cython.final
    cdef int merge_task(self, uint32_t row, const parsed_record *record, bint younger) noexcept nogil
    cdef void fetch_pid(self, uint32_t tgid) noexcept nogil
    cdef void fetch_head(self, uint32_t tgid) noexcept nogil
    cdef uint32_t childless_missing(
        self, uint32_t tgid, uint64_t start, uint64_t time_boot_ns, const uint8_t *absent
    ) noexcept nogil
    cdef void end_missing(self, uint32_t row, uint64_t time_boot_ns, bint seen) noexcept nogil
