"""One image of one process, as a reader shows it."""

from cpython.object cimport PyObject
from libc.stdint cimport uint32_t, uint64_t

from pipeline.shm.layout._layout cimport pl_cold, pl_costs, pl_hot
from pipeline.shm.reader._view cimport View, pl_rest, pl_strings, pl_view


cdef enum:
    FILE_STRING
    ARGS_STRING
    ENVS_STRING
    NAME_STRING
    CGROUP_STRING
    CONTAINER_STRING
    EXTRA_STRING
    ENTRY_STRINGS


cdef class Entry:
    cdef View view
    cdef pl_hot hot
    cdef pl_rest *rest  # NULL until one of its fields is read; of the same moment as `hot`
    cdef uint32_t row_number
    cdef uint32_t parent_number, creator_number  # for a foreign row, read with `rest`: pids in its namespace
    cdef bint elided  # the walk that created this entry could not continue from it
    cdef bint is_loaded  # all data is here; the table is not read any more
    cdef bint has_strings  # at least one of `strings` is not NULL
    cdef PyObject *strings[ENTRY_STRINGS]  # bytes by kind of reference, owned; NULL until read

    cdef int check_attached(self) except -1
    cdef object _table(self)
    cdef Entry _relative(self, uint64_t link)
    cdef dict _values(self, object names)
    cdef dict _facts_outside(self)
    cdef str _ending(self)
    cdef str _origin(self)
    cdef void _forget(self) noexcept
    cdef pl_cold *_cold(self) except NULL
    cdef pl_costs *_costs(self) except NULL
    cdef int _reload(self) except -1
    cdef uint32_t _ref(self, int kind) except? 0
    cdef bytes _string(self, int kind)
    cdef bytes _fetch(self, const pl_strings *arena, uint32_t ref, bint *moved)
    cdef bytes _file(self)
    cdef object _found_of_file(self, str what)
    cdef bytes _cgroup(self)
    cdef object _text(self, int kind)
    cdef object _name(self)
    cdef object _directory(self, int number)
    cdef object _unix(self, uint64_t boot_ns)
    cdef object _list(self, int kind)
    cdef object _linked_entity_id(self, uint64_t link)


cdef inline const pl_strings *strings_of(const pl_view *view, int kind) noexcept nogil:
    """Return the segment that has strings of a kind."""
    if kind == ARGS_STRING or kind == EXTRA_STRING:
        return &view.args
    return &view.envs if kind == ENVS_STRING else &view.names


cdef bint is_same_process(View view, const pl_hot *one, const pl_hot *other) noexcept nogil
cdef Entry make_entry(View view, uint32_t row)
cdef object raise_busy(View view, object what)
