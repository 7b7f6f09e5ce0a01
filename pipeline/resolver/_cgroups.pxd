"""Names of cgroups by id, for apply: see _cgroups.pyx."""

from libc.stdint cimport uint32_t, uint64_t

from pipeline.shm._writer cimport TableWriter


cdef struct cgroup_name:
    uint64_t cgroup_id  # 0: free
    uint32_t path_ref
    uint32_t container_ref


cdef class CgroupNames:
    cdef TableWriter tables
    cdef cgroup_name *slots
    cdef uint32_t capacity, used
    cdef uint64_t wanted[64]
    cdef uint32_t wanted_count

    # Between begin and end of `row`: give it path and container of its cgroup, or ask for them.
    cdef void put(self, uint32_t row) noexcept nogil
    cdef cgroup_name *_find(self, uint64_t cgroup_id) noexcept nogil
    cdef _grow(self)
