"""Names of cgroups by id, for apply: see _cgroups.pyx."""

cimport cython
from libc.stdint cimport uint32_t, uint64_t

from pipeline.records._records cimport pl_task_any
from pipeline.shm.layout._layout cimport pl_cgroup
from pipeline.shm.writer._writer cimport TableWriter


cdef struct cgroup_name:
    uint64_t cgroup_id  # 0: free; the top bit says that it is a set (pipeline.records.cgroup_sets)
    uint32_t path_ref
    uint32_t container_ref


cdef struct wanted_name:
    uint64_t cgroup_id
    uint32_t tgid


# A cgroup to be named, in a table by hash; 0 is no id.
cdef struct unnamed_cgroup:
    uint64_t cgroup_id
    pl_cgroup times
    bint has_times


cdef class CgroupNames:
    cdef TableWriter tables
    cdef public object on_record
    cdef cgroup_name *slots
    cdef uint32_t capacity, used
    cdef wanted_name wanted[64]
    cdef uint32_t wanted_count
    # By tgid: TASK.cgroups_v1 of the owner of the pid, from its last record; 0: not known.
    cdef uint64_t *sets

    # Between begin and end of `row`: store path and container of its cgroups, or note that they are missing.
    cdef void put(self, uint32_t row) noexcept nogil
    # Learn names from a CGROUP record before it is applied.
    # `made_boot_ns`: when the cgroup was made; 0: the record is about a move.
    cdef void learn(
        self, const char *strings, uint32_t length, const pl_task_any *task, uint64_t made_boot_ns
    ) noexcept nogil
    cdef bint _times_of(self, uint64_t cgroup_id, pl_cgroup *times) noexcept nogil
    cdef cgroup_name *_find(self, uint64_t cgroup_id) noexcept nogil
    cdef void _want(self, uint64_t cgroup_id, uint32_t tgid) noexcept nogil
    cdef list _nameless_rows(self, unnamed_cgroup *found, uint32_t size, bint has_sets)
    @cython.final
    cdef bint _lacks_path(self, uint32_t row, unnamed_cgroup *cgroup) noexcept nogil
    @cython.final
    cdef bint _lacks_container(self, uint32_t row, const unnamed_cgroup *found, uint32_t size) noexcept nogil
    cdef uint32_t _keep_and_write(
        self, list unknown, list nameless, const unnamed_cgroup *found, uint32_t size
    ) except? 0xFFFFFFFF
    cdef bint _rename(self, uint32_t row) noexcept nogil
    cdef bint _keep(self, uint64_t cgroup_id, bytes path, bytes container, const pl_cgroup *times) except -1
    cdef _grow(self)
