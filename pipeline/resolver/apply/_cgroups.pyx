"""Path and container of each cgroup id, so that apply can write them into a row at once.

An event carries ids, not paths: the id of the process's version 2 cgroup, and one id for all of its version 1 cgroups
(a set, `pipeline.records.cgroup_sets`). Names come from records of moves and of new cgroups (`learn`, which calls
`on_record`). An id without a name is noted (`take_wanted`); cgroups.py finds its path, and `name` writes it into every
row of that cgroup and keeps it for later rows.

The container is that of the version 2 path; if that path belongs to no container, it is that of the set. A cgroup id
always names the same cgroup (kernfs counts a generation in its upper half), and a version 2 cgroup cannot be renamed.
"""

import itertools
from collections.abc import Collection, Sequence

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from pipeline.records._records cimport PL_CGROUPS_V1_ROOTS, pl_task_any
from pipeline.shm.layout._layout cimport PL_ROW_HEAD, pl_cgroup, pl_hot
from pipeline.shm.writer._writer cimport LIFE_ROWS, TableWriter

cdef enum:
    FIRST_CAPACITY = 1024
    WANTED_MAX = 64
    #: Names that are kept. At the limit all are forgotten, because most of these cgroups do not exist any more; names
    #: that are still needed are read again.
    LIMIT = 65536


cdef inline uint32_t hash_of(uint64_t cgroup_id) noexcept nogil:
    return <uint32_t>((cgroup_id * <uint64_t>0x9E3779B97F4A7C15) >> 32)


cdef inline uint32_t place_of(const unnamed_cgroup *table, uint32_t size, uint64_t cgroup_id) noexcept nogil:
    """Return the place of an id, or the free place for it."""
    cdef uint32_t at = hash_of(cgroup_id) & (size - 1)
    while table[at].cgroup_id != 0 and table[at].cgroup_id != cgroup_id:
        at = (at + 1) & (size - 1)
    return at


cdef class CgroupNames:
    """Names by id; holds one reference of each string in the names arena. Only the writer's thread uses it.

    Args:
        tables: their arena holds the names.

    Attributes:
        on_record: called with (strings, cgroups_v1, made_boot_ns) of a CGROUP record that has an unknown name, or the
            time at which a cgroup was made (else 0); None: not called.
    """

    def __cinit__(self, TableWriter tables not None):
        self.tables = tables
        self.capacity = FIRST_CAPACITY
        self.slots = <cgroup_name *>calloc(self.capacity, sizeof(cgroup_name))
        # Zero pages that are never touched cost nothing.
        self.sets = <uint64_t *>calloc(tables.pid_capacity, sizeof(uint64_t))
        if self.slots == NULL or self.sets == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.slots)
        free(self.sets)

    def __len__(self):
        return self.used

    cdef cgroup_name *_find(self, uint64_t cgroup_id) noexcept nogil:
        """Return the slot of the id, or the free slot for it."""
        cdef uint32_t at = hash_of(cgroup_id) & (self.capacity - 1)
        while self.slots[at].cgroup_id != 0 and self.slots[at].cgroup_id != cgroup_id:
            at = (at + 1) & (self.capacity - 1)
        return &self.slots[at]

    cdef void put(self, uint32_t row) noexcept nogil:
        cdef uint64_t cgroup_id = self.tables.hot[row].cgroup_id
        cdef uint32_t tgid = self.tables.hot[row].tgid, container = 0
        cdef uint64_t others = self.sets[tgid]
        cdef cgroup_name *found
        if cgroup_id != 0:
            found = self._find(cgroup_id)
            if found.cgroup_id != 0:
                self.tables.names.hold(found.path_ref)
                self.tables.set_cgroup_ref(row, found.path_ref)
                container = found.container_ref
            else:
                self._want(cgroup_id, tgid)
        if container == 0 and others > PL_CGROUPS_V1_ROOTS:
            found = self._find(others)
            if found.cgroup_id != 0:
                container = found.container_ref
            else:
                self._want(others, tgid)
        if container != 0:
            self.tables.names.hold(container)
            self.tables.set_container_ref(row, container)

    cdef void _want(self, uint64_t cgroup_id, uint32_t tgid) noexcept nogil:
        cdef uint32_t i
        for i in range(self.wanted_count):
            if self.wanted[i].cgroup_id == cgroup_id:
                return
        # If too many are noted at once, their rows stay without a name until another process of the cgroup appears.
        if self.wanted_count < WANTED_MAX:
            self.wanted[self.wanted_count].cgroup_id = cgroup_id
            self.wanted[self.wanted_count].tgid = tgid
            self.wanted_count += 1

    cdef void learn(
        self, const char *strings, uint32_t length, const pl_task_any *task, uint64_t made_boot_ns
    ) noexcept nogil:
        if made_boot_ns == 0 and self._find(task.cgroup_id).cgroup_id != 0 and (
            task.cgroups_v1 <= PL_CGROUPS_V1_ROOTS or self._find(task.cgroups_v1).cgroup_id != 0
        ):
            return  # most records are moves between known cgroups
        with gil:
            if self.on_record is not None:
                self.on_record(strings[:length], 0 if made_boot_ns else task.cgroups_v1, made_boot_ns)

    def take_wanted(self) -> list[tuple[int, int]]:
        """Return the ids of rows without a name, each with a process that had the id, and forget them."""
        wanted = [(self.wanted[i].cgroup_id, self.wanted[i].tgid) for i in range(self.wanted_count)]
        self.wanted_count = 0
        return wanted

    def members_of(self, sets: Collection[int]) -> dict[int, int]:
        """Return, for each of some sets of cgroups, the pid of a live process that is in it according to the rows.

        One pass over the rows. A set without such a process is left out, and so are sets after the first 64.
        """
        cdef uint64_t wanted[WANTED_MAX]
        cdef uint32_t tgids[WANTED_MAX]
        cdef uint64_t others
        cdef uint32_t row, i, count = 0, missing
        cdef pl_hot *hot = self.tables.hot
        for number in itertools.islice(sets, WANTED_MAX):
            wanted[count] = number
            tgids[count] = 0
            count += 1
        missing = count
        for row in range(1, self.tables.rows_fresh):
            if missing == 0:
                break
            if (hot[row].flags & PL_ROW_HEAD) == 0 or hot[row].exit_boot_ns != 0:
                continue
            others = self.sets[hot[row].tgid]
            if others <= PL_CGROUPS_V1_ROOTS:
                continue
            for i in range(count):
                if wanted[i] == others and tgids[i] == 0:
                    tgids[i] = hot[row].tgid
                    missing -= 1
        return {wanted[i]: tgids[i] for i in range(count) if tgids[i] != 0}

    cdef bint _times_of(self, uint64_t cgroup_id, pl_cgroup *times) noexcept nogil:
        """Find in the rows when a cgroup and its container were made; the name itself may have been forgotten."""
        cdef uint32_t row, n = 0
        cdef const char *record
        for row in range(1, self.tables.rows_fresh):
            if self.tables.hot[row].cgroup_id != cgroup_id or self.tables.hot[row].flags == 0:
                continue
            if self.tables.cold[row].cgroup_ref == 0:
                continue
            record = self.tables.names.bytes(self.tables.cold[row].cgroup_ref, &n)
            if n >= sizeof(pl_cgroup):
                times[0] = (<const pl_cgroup *>record)[0]
                return True
        return False

    def name(
        self, uint64_t cgroup_id, bytes path not None, bytes container=b"", *, bint is_new=False,
        uint64_t made_boot_ns=0, uint64_t container_made_boot_ns=0,
    ) -> int:
        """Name a cgroup, and write the name into the rows with its id; return how many.

        Args:
            cgroup_id: not 0. It may be a set of cgroups, which has a container but no path.
            path: below the root of the hierarchy.
            container: container id; empty: none.
            is_new: no row can have the id yet.
            made_boot_ns: when the cgroup was made; 0: unknown, or as rows say.
            container_made_boot_ns: the same for its container.
        """
        cdef cgroup_name *slot
        cdef pl_hot *hot = self.tables.hot
        cdef uint32_t row, rows = 0, stale = 0, ref
        cdef bint is_set = (cgroup_id >> 63) != 0, is_meant
        cdef pl_cgroup times
        if cgroup_id == 0:
            raise ValueError("0 is no cgroup id")
        times.cgroup_made_boot_ns = made_boot_ns
        times.container_made_boot_ns = container_made_boot_ns
        slot = self._find(cgroup_id)
        if slot.cgroup_id == 0:
            if path and not is_new and made_boot_ns == 0:
                self._times_of(cgroup_id, &times)
            if not self._keep(cgroup_id, path, container, &times):
                return 0
        elif made_boot_ns != 0 and slot.path_ref != 0:
            # The name was read before the record of the new cgroup was applied.
            ref = self.tables.names.intern2(
                <const char *>&times, sizeof(times), <const char *>path, <uint32_t>len(path)
            )
            if ref:  # else the arena is full, and the name stays without the times
                stale = slot.path_ref
                slot.path_ref = ref
                is_new = False
        else:
            # Each reading of /proc names the cgroup of each process again. Rows that were written before the first name
            # have it since then, and later rows from the start, so a pass over full tables would find nothing.
            return 0
        for row in range(1, 1 if is_new else self.tables.rows_fresh):
            if is_set:
                is_meant = (
                    (hot[row].flags & PL_ROW_HEAD) != 0 and hot[row].exit_boot_ns == 0
                    and self.sets[hot[row].tgid] == cgroup_id and self.tables.cold[row].container_ref == 0
                )
            else:
                is_meant = (
                    hot[row].cgroup_id == cgroup_id and hot[row].flags != 0
                    and (self.tables.cold[row].cgroup_ref == 0 or self.tables.cold[row].cgroup_ref == stale)
                )
            if is_meant:
                self.tables.begin(row)
                self.put(row)
                self.tables.end(row)
                rows += 1
        self.tables.names.release(stale)
        return rows

    def name_all(self, names: Sequence[tuple[int, bytes, bytes, int]]) -> int:
        """Name many cgroups, as `name` does with each, in one pass over the rows instead of one or two for each.

        Args:
            names: of each cgroup: cgroup_id, path, container, container_made_boot_ns; see `name`.

        Returns:
            How many rows were written.
        """
        cdef uint32_t at, size = 16
        cdef uint64_t cgroup_id
        cdef bint has_sets = False
        cdef unnamed_cgroup *found
        if any([name[0] == 0 for name in names]):
            raise ValueError("0 is no cgroup id")
        unknown = [name for name in names if self._find(name[0]).cgroup_id == 0]
        if not unknown:
            return 0
        while size < 2 * len(unknown):
            size *= 2
        found = <unnamed_cgroup *>calloc(size, sizeof(unnamed_cgroup))
        if found == NULL:
            raise MemoryError
        try:
            for cgroup_id, _, _, container_made in unknown:
                at = place_of(found, size, cgroup_id)
                found[at].cgroup_id = cgroup_id
                found[at].times.container_made_boot_ns = container_made
                has_sets |= cgroup_id >> 63
            nameless = self._nameless_rows(found, size, has_sets)
            return self._keep_and_write(unknown, nameless, found, size)
        finally:
            free(found)

    cdef list _nameless_rows(self, unnamed_cgroup *found, uint32_t size, bint has_sets):
        """Return the rows that lack the name of a cgroup in `found`."""
        cdef const pl_hot *hot = self.tables.hot
        cdef uint32_t row, at = 0, rows = self.tables.rows_fresh
        cdef uint64_t last = 0
        cdef list nameless = []
        with nogil:
            for row in range(1, rows):
                if row % LIFE_ROWS == 0:
                    self.tables.show_life()
                if hot[row].flags == 0:
                    continue
                if hot[row].cgroup_id != last:  # most rows have the cgroup of the row before
                    last = hot[row].cgroup_id
                    at = place_of(found, size, last)
                if self._lacks_path(row, &found[at]) or has_sets and self._lacks_container(row, found, size):
                    with gil:
                        nameless.append(row)
        return nameless

    cdef inline bint _lacks_path(self, uint32_t row, unnamed_cgroup *cgroup) noexcept nogil:
        """Whether a row lacks the path of its cgroup. A row that has it also has the cgroup's times: note them."""
        cdef const char *record
        cdef uint32_t n = 0
        if self.tables.hot[row].cgroup_id == 0 or cgroup.cgroup_id == 0:
            return False
        if self.tables.cold[row].cgroup_ref == 0:
            return True
        if not cgroup.has_times:
            record = self.tables.names.bytes(self.tables.cold[row].cgroup_ref, &n)
            if n >= sizeof(pl_cgroup):
                cgroup.times = (<const pl_cgroup *>record)[0]
                cgroup.has_times = True
        return False

    cdef inline bint _lacks_container(self, uint32_t row, const unnamed_cgroup *found, uint32_t size) noexcept nogil:
        """Whether the row of a live process lacks the container that a set in `found` may name."""
        cdef const pl_hot *hot = &self.tables.hot[row]
        cdef uint64_t others
        if not hot.flags & PL_ROW_HEAD or hot.exit_boot_ns != 0:
            return False
        others = self.sets[hot.tgid]
        return (
            others > PL_CGROUPS_V1_ROOTS
            and found[place_of(found, size, others)].cgroup_id != 0
            and self.tables.cold[row].container_ref == 0
        )

    cdef uint32_t _keep_and_write(
        self, list unknown, list nameless, const unnamed_cgroup *found, uint32_t size
    ) except? 0xFFFFFFFF:
        """Keep the names, and write them into the rows that lack them; return how many rows were written."""
        cdef uint32_t row, written = 0
        cdef uint64_t cgroup_id
        cdef bint is_set
        # Cgroups of version 2 first. A set is kept by pid, so it may be that of a later owner of a pid: processes that
        # have ended get their names before the sets have any.
        for is_set in (False, True):
            for cgroup_id, path, container, _ in unknown:
                if cgroup_id >> 63 == is_set and self._find(cgroup_id).cgroup_id == 0:
                    self._keep(cgroup_id, path, container, &found[place_of(found, size, cgroup_id)].times)
            for row in nameless:
                if (self.tables.hot[row].exit_boot_ns == 0) == is_set:
                    written += self._rename(row)
        return written

    cdef bint _rename(self, uint32_t row) noexcept nogil:
        """Write the names of a row's cgroups, if one of them has a name."""
        cdef uint64_t others = self.sets[self.tables.hot[row].tgid] if self.tables.hot[row].exit_boot_ns == 0 else 0
        if self._find(self.tables.hot[row].cgroup_id).cgroup_id == 0 and self._find(others).cgroup_id == 0:
            return False
        self.tables.begin(row)
        self.put(row)
        self.tables.end(row)
        return True

    cdef bint _keep(self, uint64_t cgroup_id, bytes path, bytes container, const pl_cgroup *times) except -1:
        """Keep the name of a cgroup that has none. False: the arena is full, so the cgroup will be noted again."""
        cdef cgroup_name *slot
        cdef uint32_t ref = 0, container_ref
        if self.used >= LIMIT:
            self.forget()
        if 2 * (self.used + 1) > self.capacity:
            self._grow()
        if path:
            ref = self.tables.names.intern2(
                <const char *>times, sizeof(times[0]), <const char *>path, <uint32_t>len(path)
            )
        container_ref = self.tables.names.intern(container, <uint32_t>len(container))
        if (path and ref == 0) or (container and container_ref == 0):
            self.tables.names.release(ref)
            self.tables.names.release(container_ref)
            return False
        slot = self._find(cgroup_id)
        slot.path_ref = ref
        slot.container_ref = container_ref
        slot.cgroup_id = cgroup_id
        self.used += 1
        return True

    def forget(self) -> None:
        """Release every name; rows keep theirs. (The arena's invariants count only the references of rows.)"""
        cdef uint32_t i
        for i in range(self.capacity):
            self.tables.names.release(self.slots[i].path_ref)
            self.tables.names.release(self.slots[i].container_ref)
            self.slots[i] = cgroup_name(0, 0, 0)
        self.used = 0

    cdef _grow(self):
        cdef cgroup_name *old = self.slots
        cdef uint32_t i, count = self.capacity
        self.slots = <cgroup_name *>calloc(2 * count, sizeof(cgroup_name))
        if self.slots == NULL:
            self.slots = old
            raise MemoryError
        self.capacity = 2 * count
        for i in range(count):
            if old[i].cgroup_id != 0:
                self._find(old[i].cgroup_id)[0] = old[i]
        free(old)
