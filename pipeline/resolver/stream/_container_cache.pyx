"""What the runtimes' files say about containers, encoded once for each container, and found without the GIL.

Rows contain the id of a container and nothing else about it. `ContainerCache.of` finds its details by that id, if the
path of the cgroup shows that a runtime of root's made the container (`pipeline.host._container_paths`). A container
that is not in the cache is noted. `pipeline.resolver.upkeep.containers` then reads the files and fills the cache. Only
the resolver's thread uses a cache.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy

from pipeline.host._container_paths cimport PL_CONTAINER_ID_BYTES, pl_is_roots_container
from pipeline.shm.layout._layout cimport pl_cgroup, pl_cold
from pipeline.shm.writer._writer cimport MARK_LIVE, TableWriter

cdef enum:
    # Of these, some are left for containers that are noted while as many as CONTAINERS_MAX are known. Further
    # containers are refused until the next `set_all`.
    SLOTS_USED_MAX = PL_CONTAINER_SLOTS * 3 // 4

#: Maximum number of containers to pass to a cache.
CONTAINERS_MAX = PL_CONTAINER_SLOTS // 2


cdef class ContainerCache:
    """Finds the details of containers by their ids."""

    def __cinit__(self):
        self.kept = []
        self.slots = <container_slot *>calloc(PL_CONTAINER_SLOTS, sizeof(container_slot))
        if self.slots == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.slots)

    def set_all(self, details) -> None:
        """Replace the content: details by container id, each a msgpack map, or None if nothing is known.

        Noted containers that are not among the new ones are discarded.
        """
        cdef uint32_t i
        cdef container_slot *slot
        cdef bytes container, text
        for i in range(<uint32_t>PL_CONTAINER_SLOTS):
            self.slots[i].is_used = 0
        self.used = self.wanted = 0
        self.kept = list(details.values())
        for name, text in details.items():
            container = name.encode("ascii")
            if len(container) != PL_CONTAINER_ID_BYTES:
                raise ValueError(f"no id of a container: {name!r}")
            slot = self._slot(PyBytes_AS_STRING(container))
            if slot != NULL and text is not None:
                slot.text = PyBytes_AS_STRING(text)
                slot.n = <uint32_t>PyBytes_GET_SIZE(text)

    @property
    def is_wanting(self) -> bool:
        """Whether `take_wanted` would return anything."""
        return self.wants()

    cdef bint wants(self) noexcept nogil:
        return self.wanted != 0

    def take_wanted(self) -> list[str]:
        """Return and clear the ids of noted containers."""
        cdef uint32_t i
        ids = [self.slots[self.asked[i]].id[:PL_CONTAINER_ID_BYTES].decode("ascii") for i in range(self.wanted)]
        self.wanted = 0
        return ids

    def take_refused(self) -> int:
        """Return how many times there was no room for a container since the last call."""
        cdef uint64_t refused = self.refused
        self.refused = 0
        return refused

    def living(self, TableWriter tables not None) -> list[str]:
        """Return the ids of the containers of the living processes of a table, known ones too."""
        cdef list ids = []
        cdef uint32_t row, n = 0, cgroup_n = 0
        cdef const pl_cold *cold
        cdef const char *container
        cdef const char *cgroup
        cdef container_slot *slot
        self.sweep += 1
        for row in range(1, tables.rows_fresh):
            if not tables.rows[row].marks & MARK_LIVE:
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
            slot = self._slot(container)
            if slot != NULL and slot.sweep != self.sweep:
                slot.sweep = self.sweep
                ids.append(slot.id[:PL_CONTAINER_ID_BYTES].decode("ascii"))
        return ids

    cdef const char *of(
        self, const char *container, uint32_t container_n, const char *cgroup, uint32_t cgroup_n, uint32_t *n
    ) noexcept nogil:
        cdef uint32_t used = self.used
        cdef container_slot *slot
        n[0] = 0
        if container == NULL or cgroup == NULL or not pl_is_roots_container(cgroup, cgroup_n, container, container_n):
            return NULL
        slot = self._slot(container)
        if slot == NULL:
            return NULL
        if self.used != used and self.wanted < PL_WANTED_CONTAINERS:
            self.asked[self.wanted] = <uint32_t>(slot - self.slots)
            self.wanted += 1
        n[0] = slot.n
        return slot.text

    cdef container_slot *_slot(self, const char *container) noexcept nogil:
        """Return the slot of a container, and allocate it if necessary; NULL: no room."""
        cdef uint32_t at, part
        cdef container_slot *slot
        memcpy(&at, container, sizeof(at))
        memcpy(&part, container + 8, sizeof(part))
        at = (at ^ part << 7) * <uint32_t>0x9E3779B1
        at ^= at >> 15
        while True:
            at &= PL_CONTAINER_SLOTS - 1
            slot = &self.slots[at]
            if not slot.is_used:
                break
            if memcmp(slot.id, container, PL_CONTAINER_ID_BYTES) == 0:
                return slot
            at += 1
        if self.used >= SLOTS_USED_MAX:
            self.refused += 1
            return NULL
        self.used += 1
        memcpy(slot.id, container, PL_CONTAINER_ID_BYTES)
        slot.text = NULL
        slot.n = 0
        slot.sweep = 0
        slot.is_used = 1
        return slot
