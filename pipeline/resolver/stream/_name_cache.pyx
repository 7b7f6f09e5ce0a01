"""Names of users and groups for the stream: encoded once for each id, and found without the GIL.

A name is derived from an id and a set of names: the host's, or those of a container, which has users of its own. If a
user other than root created the container, the host's names apply. Rows therefore contain no names. `NameCache.of`
finds the set of names by a row's container id, mount namespace and user namespace; `put` writes the name. An unknown
name is written as nil and noted. `pipeline.resolver.upkeep.names` then requests it and adds the result to the cache.
Only the resolver's thread uses a cache.
"""

from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy

from pipeline.bus.frames._msgpack cimport pl_nil, pl_text
from pipeline.resolver.stream._keyed_cache cimport PL_CACHE_SLOTS
from pipeline.shm.layout._layout cimport PL_KNOWN_CREDS, PL_KNOWN_NS, PL_ROW_FOREIGN, pl_cold, pl_file, pl_hot
from pipeline.shm.writer._writer cimport STATUS_LIVE, TableWriter

USER = PL_USER
GROUP = PL_GROUP

#: Maximum number of containers in a cache. No names are shown for further containers.
VIEWS_MAX = PL_CACHE_SLOTS // 2
#: Limit for one user. All users other than root together leave a quarter of VIEWS_MAX to root.
VIEWS_PER_USER = PL_VIEWS_PER_USER


cdef inline uint32_t _mixed(uint32_t number) noexcept nogil:
    number *= <uint32_t>0x9E3779B1
    return number ^ number >> 15


cdef inline name_slot *_found(const name_table *names, uint32_t kind, uint32_t number) noexcept nogil:
    """Return the slot of an id, or the free slot where it belongs."""
    cdef uint32_t at = _mixed(number + kind) & names.mask
    while names.slots[at].kind != 0 and (names.slots[at].number != number or names.slots[at].kind != kind):
        at = (at + 1) & names.mask
    return &names.slots[at]


cdef class Names:
    """The names of one root directory.

    Args:
        users, groups: names by id, as in the kernel's credentials (in the initial user namespace).
    """

    def __cinit__(self, users=None, groups=None):
        self.table.slots = NULL
        self.table.text = NULL
        self.table.used = self.table.text_used = self.table.text_capacity = 0
        self.table.mask = 63
        self.table.slots = <name_slot *>calloc(64, sizeof(name_slot))
        if self.table.slots == NULL:
            raise MemoryError
        for kind, names in ((PL_USER, users or {}), (PL_GROUP, groups or {})):
            for number, name in names.items():
                self.add(kind, number, name)

    def __dealloc__(self):
        free(self.table.slots)
        free(self.table.text)

    def __len__(self):
        return self.table.used

    @property
    def nbytes(self):
        """Memory of the names, in bytes."""
        return (self.table.mask + 1) * sizeof(name_slot) + self.table.text_capacity

    def add(self, kind: int, number: int, name: str) -> None:
        """Add a name; "" means that the id is known to have no name."""
        if kind != PL_USER and kind != PL_GROUP:
            raise ValueError(f"a name is USER or GROUP, not {kind}")
        self._put(kind, number, name.encode("utf-8", "surrogateescape")[:PL_NAME_BYTES])

    cdef int _put(self, uint32_t kind, uint32_t number, bytes name) except -1:
        cdef uint32_t n = <uint32_t>len(name)
        cdef name_slot *slot
        cdef char *end
        self._grow()
        slot = _found(&self.table, kind, number)
        if slot.kind == 0:
            self.table.used += 1
        slot.kind, slot.number, slot.at = <uint8_t>kind, number, self.table.text_used
        end = self.table.text + self.table.text_used
        end = pl_text(end, <char *>name, n) if n else pl_nil(end)
        slot.n = <uint16_t>(end - self.table.text - self.table.text_used)
        self.table.text_used += slot.n
        return 0

    cdef int _grow(self) except -1:
        """Make room for one more name."""
        cdef name_table old = self.table
        cdef uint32_t i
        cdef char *text
        if old.text_used + PL_NAME_BYTES + 8 > old.text_capacity:
            text = <char *>realloc(old.text, 2 * old.text_capacity + 4096)
            if text == NULL:
                raise MemoryError
            self.table.text = text
            self.table.text_capacity = 2 * old.text_capacity + 4096
        if 2 * old.used < old.mask:
            return 0
        self.table.slots = <name_slot *>calloc(2 * (old.mask + 1), sizeof(name_slot))
        if self.table.slots == NULL:
            self.table.slots = old.slots
            raise MemoryError
        self.table.mask = 2 * old.mask + 1
        for i in range(old.mask + 1):
            if old.slots[i].kind != 0:
                _found(&self.table, old.slots[i].kind, old.slots[i].number)[0] = old.slots[i]
        free(old.slots)
        return 0


cdef inline uint32_t _key_of(
    view_key *key, uint32_t mnt_ns, uint32_t user_ns, const char *container, uint32_t n
) noexcept nogil:
    """Fill in the key of a view; returns its bytes, or 0 if the container's id is too long."""
    if n > PL_CONTAINER_BYTES:
        return 0
    key.mnt_ns, key.user_ns = mnt_ns, user_ns
    if n != 0:
        memcpy(key.container, container, n)
    return 8 + n


cdef inline tuple _view_of(const cache_slot *slot):
    """Return (container id, mnt_ns, user_ns) of a slot."""
    cdef const view_key *key = <const view_key *>slot.key
    return key.container[: slot.key_n - 8], key.mnt_ns, key.user_ns


#: Stands for the host's names in `NameCache.set_views`.
HOST_NAMES = Names()


cdef class NameCache(KeyedCache):
    """Finds the set of names that applies to a process, and the names in it.

    Args:
        host: the host's names.
        host_mnt_ns, host_user_ns: namespaces in which they apply; 0: not known, so any namespace.
    """

    def __cinit__(self, Names host not None, uint32_t host_mnt_ns, uint32_t host_user_ns):
        self.host = host
        self.host_mnt_ns, self.host_user_ns = host_mnt_ns, host_user_ns
        self.user_max, self.charged_max = PL_VIEWS_PER_USER, PL_CACHE_SLOTS // 2 // 4 * 3

    def set_host(self, Names host not None) -> None:
        """Replace the host's names."""
        self.host = host

    def set_views(self, views) -> None:
        """Replace all views: (container id, mnt_ns, user_ns) -> (Names, user that is charged for them, 0 for none).

        HOST_NAMES stands for the names that are the host's at the time of a look-up.
        Noted views that are not among the new ones are discarded.
        """
        cdef cache_slot *slot
        cdef view_key key
        cdef uint32_t n
        cdef bytes container
        self._clear()
        self.kept = [names for names, _ in views.values()]
        for (container, mnt_ns, user_ns), (names, user) in views.items():
            n = _key_of(&key, mnt_ns, user_ns, container, <uint32_t>len(container))
            slot = self._slot(<const char *>&key, n, user, True) if n else NULL
            if slot != NULL:
                slot.flag = names is HOST_NAMES
                slot.value = NULL if slot.flag else &(<Names?>names).table

    cdef bint wants(self) noexcept nogil:
        return self.wanted != 0 or self.wanted_ids != 0

    def take_wanted(self):
        """Return and clear what is noted: [(container id, mnt_ns, user_ns, a pid of it)] and [(kind, host's id)]."""
        cdef uint32_t i
        views, ids = [], []
        for i in range(self.wanted):
            views.append((*_view_of(&self.slots[self.asked[i].slot]), self.asked[i].process))
        for i in range(self.wanted_ids):
            ids.append((self.ids_asked[i].kind, self.ids_asked[i].number))
        self.wanted = self.wanted_ids = 0
        return views, ids

    def living(self, TableWriter tables not None):
        """Return the views and ids of the living processes of a table, including those with known names.

        Returns:
            A tuple of three: [(container id, mnt_ns, user_ns, a pid of it)] of each view except the host's; the host's
            ids without a known name, {(kind, id)}; and the ids from views for which the host's names apply, as
            {user that they are charged to: {(kind, id)}}.
        """
        cdef list views = []
        cdef set ids = set()
        cdef dict strangers = {}
        cdef uint32_t row, n
        cdef const pl_hot *hot
        cdef const pl_cold *cold
        cdef const char *container
        cdef cache_slot *slot
        cdef view_key key
        self.sweep += 1
        for row in range(1, tables.rows_fresh):
            # Check the flag in the index, where four rows share a cache line: in a storm, nearly all rows have ended.
            if not tables.rows[row].status & STATUS_LIVE:
                continue
            hot = &tables.hot[row]
            if not hot.known & PL_KNOWN_NS or not hot.known & PL_KNOWN_CREDS:
                continue
            cold = &tables.cold[row]
            n = 0
            container = tables.names.bytes(cold.container_ref, &n) if cold.container_ref != 0 else NULL
            if self._is_host(hot, cold, container):
                self._unnamed_of(ids, tables, row)
                continue
            n = _key_of(&key, cold.mnt_ns, cold.user_ns, container, n)
            slot = self._slot(<const char *>&key, n, hot.uid, False) if n else NULL
            if slot == NULL:
                continue
            if slot.flag:
                self._unnamed_of(strangers.setdefault(slot.user, set()), tables, row)
            if self._is_first(slot):
                views.append((*_view_of(slot), hot.tgid))
        return views, ids, strangers

    cdef int _unnamed_of(self, set ids, TableWriter tables, uint32_t row) except -1:
        """Add the ids of a row for which the host has no name."""
        cdef const pl_hot *hot = &tables.hot[row]
        cdef const pl_cold *cold = &tables.cold[row]
        cdef const pl_file *file = NULL
        cdef uint32_t n = 0
        self._unnamed(ids, PL_USER, hot.uid)
        self._unnamed(ids, PL_USER, cold.euid)
        self._unnamed(ids, PL_GROUP, hot.gid)
        self._unnamed(ids, PL_GROUP, cold.egid)
        if hot.file_ref != 0:
            file = <const pl_file *>tables.names.bytes(hot.file_ref, &n)
        if file != NULL and n >= sizeof(pl_file) and file.file_inode != 0:
            self._unnamed(ids, PL_USER, file.file_uid)
            self._unnamed(ids, PL_GROUP, file.file_gid)
        return 0

    cdef int _unnamed(self, set ids, uint32_t kind, uint32_t number) except -1:
        """Add an id of the host if it has no name.

        An id that is known to have none (nil, a single byte) is added too, because it may get a name later.
        """
        cdef const name_slot *slot = _found(&self.host.table, kind, number)
        if slot.kind == 0 or slot.n <= 1:
            ids.add((kind, number))
        return 0

    cdef bint _is_host(self, const pl_hot *hot, const pl_cold *cold, const char *container) noexcept nogil:
        return (
            container == NULL and (self.host_mnt_ns == 0 or cold.mnt_ns == self.host_mnt_ns)
            and (
                self.host_user_ns == 0 or cold.user_ns == self.host_user_ns
                # The user namespace is not known, but the ids are the host's (shared_namespaces.py). This does not hold
                # for processes that a tracer reported.
                or (cold.user_ns == 0 and hot.flags & PL_ROW_FOREIGN == 0)
            )
        )

    cdef const name_table *of(
        self, const pl_hot *hot, const pl_cold *cold, const char *container, uint32_t n
    ) noexcept nogil:
        cdef view_key key
        cdef cache_slot *slot
        self.is_noting = False
        if (hot.known & PL_KNOWN_NS) == 0:
            return NULL
        if self._is_host(hot, cold, container):
            self.is_noting = True
            return &self.host.table
        n = _key_of(&key, cold.mnt_ns, cold.user_ns, container, n)
        slot = self._noted(<const char *>&key, n, hot.uid, hot.tgid) if n else NULL
        if slot == NULL:
            return NULL
        # Nothing is noted here: a user can have thousands of ids in its namespaces. The sweep requests a few at a time.
        if slot.flag:
            return &self.host.table
        return <const name_table *>slot.value

    cdef char *put(self, char *p, const name_table *names, uint32_t kind, uint32_t number) noexcept nogil:
        cdef name_slot *slot
        cdef uint32_t i
        if names == NULL:
            return pl_nil(p)
        slot = _found(names, kind, number)
        if slot.kind != 0:
            memcpy(p, names.text + slot.at, slot.n)
            return p + slot.n
        if self.is_noting and self.wanted_ids < PL_WANTED:
            for i in range(self.wanted_ids):
                if self.ids_asked[i].number == number and self.ids_asked[i].kind == kind:
                    return pl_nil(p)
            self.ids_asked[self.wanted_ids].kind = kind
            self.ids_asked[self.wanted_ids].number = number
            self.wanted_ids += 1
        return pl_nil(p)
