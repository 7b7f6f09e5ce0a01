"""Which subscribers that want few events want the event of a row. See _row_filters.pyx."""

from libc.stdint cimport uint8_t, uint32_t

from pipeline.resolver.stream._name_cache cimport NameCache
from pipeline.shm.writer._writer cimport TableWriter


cdef enum:
    PL_FILTERS = 16
    PL_FILTER_VALUES = 8
    PL_FILTER_BYTES = 64


cdef struct filter_value:
    const char *text
    uint32_t n
    uint32_t number  # of a user
    uint8_t is_number


cdef struct row_filter:
    uint32_t kind, topics, count
    filter_value values[PL_FILTER_VALUES]
    char text[PL_FILTER_BYTES]


cdef class RowFilters:
    # Bit t: a filter wants events of topic t.
    cdef readonly uint32_t topics_mask
    cdef row_filter filters[PL_FILTERS]

    # Bit i: filter i wants the event of a row. `names` may be None.
    cdef uint32_t matching(self, TableWriter tables, NameCache names, uint32_t topic, uint32_t row) noexcept nogil
    cdef bint _matches_user(
        self, const row_filter *asked, TableWriter tables, NameCache names, uint32_t row
    ) noexcept nogil
