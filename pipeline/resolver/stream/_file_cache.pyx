"""Facts about executables (their package, their hash), encoded once for each file, for the stream.

A file is identified by inode, device, mtime and ctime, as the kernel reported them with the exec: a file that was
changed is another one. `pipeline.shm.names.executable_facts` has the same key for readers. `FileCache.of` finds what is
known; a file that is not in the cache is noted, and `pipeline.resolver.upkeep.live_executables` reads it.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint64_t

from pipeline.resolver.stream._keyed_cache cimport PL_CACHE_SLOTS, PL_CACHE_WANTED, cache_slot
from pipeline.shm.layout._layout cimport PL_KNOWN_FILE, PL_KNOWN_NS, pl_cold, pl_file, pl_hot
from pipeline.shm.writer._writer cimport STATUS_LIVE, TableWriter

#: Maximum number of files to pass to a cache, and how many of them one user other than root can have.
FILES_MAX = PL_CACHE_SLOTS // 2
FILES_PER_USER = FILES_MAX // 4


cdef struct file_key:
    uint64_t inode, mtime_ns, ctime_ns, device


cdef inline bint _has_key(file_key *key, const char *data) noexcept nogil:
    """Fill in the key of a FILE record; False: the file was not reported completely."""
    cdef const pl_file *file = <const pl_file *>data
    if data == NULL or file.file_inode == 0 or file.ctime_ns == 0:
        return False
    key.inode, key.mtime_ns, key.ctime_ns, key.device = file.file_inode, file.mtime_ns, file.ctime_ns, file.device
    return True


cdef class FileCache(KeyedCache):
    """Finds what is known about executables."""

    def __cinit__(self):
        self.used_max = PL_CACHE_SLOTS * 3 // 4
        self.user_max, self.charged_max = PL_CACHE_SLOTS // 4, PL_CACHE_SLOTS // 2 // 4 * 3

    def set_all(self, known) -> None:
        """Replace the content: by (inode, mtime_ns, ctime_ns, device), msgpack or None, and the user to charge.

        Noted files that are not among the new ones are discarded.
        """
        cdef cache_slot *slot
        cdef file_key key
        cdef bytes text
        self._clear()
        self.kept = [text for text, _ in known.values()]
        for (key.inode, key.mtime_ns, key.ctime_ns, key.device), (text, user) in known.items():
            slot = self._slot(<const char *>&key, sizeof(key), user, True)
            if slot != NULL and text is not None:
                slot.value = PyBytes_AS_STRING(text)
                slot.n = <uint32_t>PyBytes_GET_SIZE(text)

    def take_wanted(self):
        """Return and clear the noted files: (key, row of a process)."""
        cdef uint32_t i
        found = [(_key_of(&self.slots[self.asked[i].slot]), self.asked[i].process) for i in range(self.wanted)]
        self.wanted = 0
        return found

    def living(self, TableWriter tables not None):
        """Return (key, row of a process) of each executable of a living process."""
        cdef list found = []
        cdef uint32_t row, n = 0
        cdef const pl_hot *hot
        cdef const char *data
        cdef file_key key
        cdef cache_slot *slot
        self.sweep += 1
        for row in range(<uint32_t>PL_CACHE_SLOTS):
            self.slots[row].flag = 0
        for row in range(1, tables.rows_fresh):
            if not tables.rows[row].status & STATUS_LIVE:
                continue
            hot = &tables.hot[row]
            if hot.file_ref == 0 or not hot.known & PL_KNOWN_FILE or not self._is_asked_about(hot, &tables.cold[row]):
                continue
            data = tables.names.bytes(hot.file_ref, &n)
            if n < sizeof(pl_file) or not _has_key(&key, data):
                continue
            slot = self._slot(<const char *>&key, sizeof(key), hot.uid, False)
            if slot != NULL and self._is_first(slot):
                found.append((_key_of(slot), row))
        return found

    cdef bint _is_asked_about(self, const pl_hot *hot, const pl_cold *cold) noexcept nogil:
        """Return whether a process may be used to read its executable."""
        return self.mnt_ns == 0 or (
            cold.container_ref == 0 and (hot.known & PL_KNOWN_NS == 0 or cold.mnt_ns == self.mnt_ns)
        )

    cdef const char *of(
        self, const pl_hot *hot, const pl_cold *cold, uint32_t row, const char *file, uint32_t *n
    ) noexcept nogil:
        cdef uint32_t used = self.used
        cdef file_key key
        cdef cache_slot *slot
        n[0] = 0
        if not _has_key(&key, file):
            return NULL
        if self._is_asked_about(hot, cold):
            slot = self._noted(<const char *>&key, sizeof(key), hot.uid, row)
            # The process that it was noted for may have ended too early. Another one helps, once between two sweeps.
            if slot != NULL and slot.value == NULL and not slot.flag and self.wanted < PL_CACHE_WANTED:
                slot.flag = 1
                if self.used == used:
                    self.asked[self.wanted].slot = <uint32_t>(slot - self.slots)
                    self.asked[self.wanted].process = row
                    self.wanted += 1
        else:
            slot = self._found(<const char *>&key, sizeof(key))
        if slot == NULL:
            return NULL
        n[0] = slot.n
        return <const char *>slot.value


cdef inline tuple _key_of(const cache_slot *slot):
    cdef const file_key *key = <const file_key *>slot.key
    return key.inode, key.mtime_ns, key.ctime_ns, key.device
