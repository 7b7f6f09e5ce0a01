"""Which subscribers that want few events want the event of a row. See _row_filters.pyx."""

from libc.stdint cimport uint8_t, uint32_t

from pipeline.resolver.stream._name_cache cimport NameCache
from pipeline.shm.writer._writer cimport TableWriter


cdef enum:
    # generated: FILTER*
    FILTERS_MAX = 16  # filters in use at a time, of all subscribers together
    FILTER_VALUES_MAX = 8  # values of a filter
    # end of the generated part
    # generated: SUBSCRIPTION_*
    SUBSCRIPTION_MAX_BYTES = 64  # length of a subscription, also of one with a filter
    # end of the generated part


cdef struct filter_value:
    const char *text
    uint32_t n
    uint32_t number  # of a user
    uint8_t is_number


cdef struct row_filter:
    uint32_t kind, topics, count
    filter_value values[FILTER_VALUES_MAX]
    char text[SUBSCRIPTION_MAX_BYTES]


cdef class RowFilters:
    # Bit t: a filter wants events of topic t.
    cdef readonly uint32_t topics_mask
    cdef row_filter filters[FILTERS_MAX]

    # Bit i: filter i wants the event of a row. `names` may be None.
    cdef uint32_t matching(self, TableWriter tables, NameCache names, uint32_t topic, uint32_t row) noexcept nogil
    cdef bint _matches_user(
        self, const row_filter *asked, TableWriter tables, NameCache names, uint32_t row
    ) noexcept nogil
