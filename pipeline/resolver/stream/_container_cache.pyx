"""Details of containers from the runtimes' files, encoded once for each container, and found without the GIL.

Rows contain the id of a container and nothing else about it. `ContainerCache.of` finds its details by that id, if the
path of the cgroup shows that a runtime of root's made the container (`pipeline.software._container_paths`). A container
that is not in the cache is noted. `pipeline.resolver.upkeep.containers` then reads the files and fills the cache. Only
the resolver's thread uses a cache.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from pipeline.software._container_paths cimport PL_CONTAINER_ID_BYTES, pl_is_roots_container
from pipeline.resolver.stream._keyed_cache cimport PL_CACHE_SLOTS, cache_slot
from pipeline.shm.layout._layout cimport pl_cgroup, pl_cold
from pipeline.shm.writer._writer cimport STATUS_LIVE, TableWriter

#: Maximum number of containers to pass to a cache.
CONTAINERS_MAX = PL_CACHE_SLOTS // 2


cdef class ContainerCache(KeyedCache):
    """Finds the details of containers by their ids."""

    def __cinit__(self):
        # Some are left for containers that are noted while as many as CONTAINERS_MAX are known. Further containers are
        # refused until the next `set_all`.
        self.used_max = PL_CACHE_SLOTS * 3 // 4

    def set_all(self, details) -> None:
        """Replace the content: details by container id, each a msgpack map, or None if nothing is known.

        Noted containers that are not among the new ones are discarded.
        """
        cdef cache_slot *slot
        cdef bytes container, text
        self._clear()
        self.kept = list(details.values())
        for name, text in details.items():
            container = name.encode("ascii")
            if len(container) != PL_CONTAINER_ID_BYTES:
                raise ValueError(f"no id of a container: {name!r}")
            slot = self._slot(PyBytes_AS_STRING(container), PL_CONTAINER_ID_BYTES, 0, True)
            if slot != NULL and text is not None:
                slot.value = PyBytes_AS_STRING(text)
                slot.n = <uint32_t>PyBytes_GET_SIZE(text)

    def take_wanted(self) -> list[str]:
        """Return and clear the ids of noted containers."""
        cdef uint32_t i
        ids = [self.slots[self.asked[i].slot].key[:PL_CONTAINER_ID_BYTES].decode("ascii") for i in range(self.wanted)]
        self.wanted = 0
        return ids

    def living(self, TableWriter tables not None) -> list[str]:
        """Return the ids of the containers of the living processes of a table, known ones too."""
        cdef list ids = []
        cdef uint32_t row, n = 0, cgroup_n = 0
        cdef const pl_cold *cold
        cdef const char *container
        cdef const char *cgroup
        cdef cache_slot *slot
        self.sweep += 1
        for row in range(1, tables.rows_fresh):
            if not tables.rows[row].status & STATUS_LIVE:
                continue
            cold = &tables.cold[row]
            if cold.container_ref == 0 or cold.cgroup_ref == 0:
                continue
            container = tables.names.bytes(cold.container_ref, &n)
            cgroup = tables.names.bytes(cold.cgroup_ref, &cgroup_n)
            if container == NULL or cgroup == NULL or cgroup_n < sizeof(pl_cgroup):
                continue
            if not pl_is_roots_container(
                cgroup + sizeof(pl_cgroup), cgroup_n - <uint32_t>sizeof(pl_cgroup), container, n
            ):
                continue
            slot = self._slot(container, PL_CONTAINER_ID_BYTES, 0, False)
            if slot != NULL and self._is_first(slot):
                ids.append(slot.key[:PL_CONTAINER_ID_BYTES].decode("ascii"))
        return ids

    cdef const char *of(
        self, const char *container, uint32_t container_n, const char *cgroup, uint32_t cgroup_n, uint32_t *n
    ) noexcept nogil:
        cdef cache_slot *slot
        n[0] = 0
        if container == NULL or cgroup == NULL or not pl_is_roots_container(cgroup, cgroup_n, container, container_n):
            return NULL
        slot = self._noted(container, PL_CONTAINER_ID_BYTES, 0, 0)
        if slot == NULL:
            return NULL
        n[0] = slot.n
        return <const char *>slot.value
