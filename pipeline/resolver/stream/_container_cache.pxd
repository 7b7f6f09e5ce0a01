"""Details of containers from the runtimes' files, encoded for the stream. See _container_cache.pyx."""

from libc.stdint cimport uint32_t

from pipeline.resolver.stream._keyed_cache cimport KeyedCache


cdef class ContainerCache(KeyedCache):
    # The details of the container of a row, as a msgpack map of n bytes; NULL: none are known.
    # `container` is the id, `cgroup` the path of the cgroup without its record; NULL for none.
    cdef const char *of(
        self, const char *container, uint32_t container_n, const char *cgroup, uint32_t cgroup_n, uint32_t *n
    ) noexcept nogil
