"""One image of one process, as a reader shows it."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from pipeline.shm._layout cimport pl_cold, pl_file, pl_hot
from pipeline.shm._view cimport View


cdef class Entry:
    cdef View view
    cdef pl_hot hot
    cdef pl_cold *cold  # NULL until a field of it is asked for; of the same moment as `hot`
    cdef uint32_t row_number
    cdef bint elided  # the walk that made this entry could not go on from it
    cdef dict strings  # bytes by arena reference kind, None until one is asked for

    cdef pl_cold *_cold(self) except NULL
    cdef int _reload(self) except -1
    cdef bytes _string(self, int kind)
    cdef bytes _fetch(self, const char *base, const uint64_t *allocated, uint32_t ref, bint *moved)
    cdef const pl_file *_file(self) except? NULL
    cdef object _text(self, int kind)
    cdef object _unix(self, uint64_t boot_ns)
    cdef object _list(self, int kind)
    cdef object _linked_entity_id(self, uint64_t link)


cdef Entry make_entry(View view, uint32_t row)
cdef object raise_busy(View view, object what)
