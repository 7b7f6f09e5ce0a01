"""What the runtimes' files say about containers, encoded for the stream. See _container_cache.pyx."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from pipeline.shm.writer._writer cimport TableWriter


cdef enum:
    PL_CONTAINER_SLOTS = 2048
    PL_WANTED_CONTAINERS = 64


# What is known about a container. `text` is a msgpack map; NULL: nothing, or not yet.
cdef struct container_slot:
    const char *text
    uint32_t n
    uint32_t sweep  # number of the last sweep that found a process in this container
    uint8_t is_used
    char id[64]


cdef class ContainerCache:
    cdef container_slot *slots
    cdef uint32_t used, sweep, wanted
    cdef uint32_t asked[PL_WANTED_CONTAINERS]
    cdef uint64_t refused
    cdef list kept  # the bytes that the slots refer to

    cdef bint wants(self) noexcept nogil
    # The details of the container of a row, as a msgpack map of n bytes; NULL: none are known.
    # `container` is the id, `cgroup` the path of the cgroup without its record; NULL for none.
    cdef const char *of(
        self, const char *container, uint32_t container_n, const char *cgroup, uint32_t cgroup_n, uint32_t *n
    ) noexcept nogil
    cdef container_slot *_slot(self, const char *container) noexcept nogil
