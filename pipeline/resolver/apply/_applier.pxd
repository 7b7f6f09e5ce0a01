"""The Applier: events in batches or one at a time, and what /proc says."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from pipeline.resolver.apply._effects cimport Events
from pipeline.records._records cimport pl_exec_any, pl_head_any, pl_task_any


cdef class Applier(Events):
    cdef int insert(
        self, const pl_head_any *head, const pl_task_any *task, const pl_exec_any *body, const char *strings,
        uint8_t source, uint32_t groups, bint ticks, uint32_t flags, uint64_t exec_boot_ns
    ) noexcept nogil
    cdef void count_told(self, uint8_t source) noexcept nogil
    cdef bint is_other_image(
        self, uint32_t row, const pl_task_any *task, const pl_exec_any *body, const char *strings, uint8_t source,
        uint64_t exec_boot_ns
    ) noexcept nogil
    cdef int merge_facts(
        self, uint32_t row, const pl_head_any *head, const pl_task_any *task, const pl_exec_any *body,
        const char *strings, uint8_t source, uint32_t groups, bint ticks, uint32_t flags, uint64_t exec_boot_ns
    ) noexcept nogil
