"""Processes in the tables: finding them by identity, their facts, their beginning and end, their lineage.

What an event means is in _effects.pyx; how rows, arenas and the pid index are kept is in shm/writer/_writer.pyx.

Terms: a process is a chain of images, linked by `ancestor`, of which the newest is its head and the oldest its root. The
root's `ancestor` is an image of the parent. A process is named by (tgid, start_boot_ns), never by tgid alone: every
look-up here compares both.

Rules that hold for every function:

1. A row that readers can reach changes between `begin` and `end` only.
2. `new_row` may evict exited rows, so rows are looked up after it, or are heads of live processes.
3. A parent is linked only when its identity is the one that the kernel named, and never when it began after its child.
4. Each function may be repeated after a crash at any point of it, and then completes what it began.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memchr, memcmp, memcpy, memset

from pipeline.resolver.apply._cgroups cimport CgroupNames
from pipeline.resolver.apply._followups cimport FollowUps, TOPIC_EXIT, TOPIC_REPARENT
from pipeline.resolver.stream._encoder cimport Encoder
from pipeline.records._records cimport (
    PL_EXEC_ARGS_TRUNCATED,
    PL_EXEC_ARGS_UNREADABLE,
    PL_EXEC_DELETED,
    PL_EXEC_DETACHED,
    PL_EXEC_ESCAPED,
    PL_EXEC_MEMFD,
    PL_EXEC_NAME_TRUNCATED,
    PL_EXEC_NO_ROOT,
    PL_EXEC_PATH_TRUNCATED,
    PL_EXEC_SCRIPT,
    PL_EXEC_THROUGH_SYMLINK,
    PL_EXEC_UPPER_LAYER,
    PL_FLAG_PARTIAL,
    PL_KIND_EXIT,
    pl_exec_any,
    pl_head_any,
    pl_task_any,
)
from pipeline.records._limits cimport CHAIN_LIMIT
from pipeline.resolver.apply._groups cimport TASK_KNOWN, pl_blocks_differ, pl_copy_blocks, pl_put_blocks
from pipeline.resolver.apply._record cimport args_of, envs_of, exec_text, tells_args, tells_envs, told_record
from pipeline.resolver.stream._skip cimport pl_skip
from pipeline.shm.writer._arena cimport Arena
from pipeline.shm.layout._layout cimport (
    PL_CGROUP_SOURCE_INHERITED,
    PL_CGROUP_SOURCE_PROCFS,
    PL_C_EXITS_UNSEEN,
    PL_C_REPARENT_FAILED_DO_EXIT,
    PL_C_REPARENT_FAILED_KERNEL_PPID,
    PL_C_REPARENT_SUCCESS_DO_EXIT,
    PL_C_REPARENT_SUCCESS_KERNEL_PPID,
    PL_C_REPARENTS,
    PL_C_REPARENTS_CONFIRMED,
    PL_C_REPARENTS_CORRECTED,
    PL_KNOWN_ARGS,
    PL_KNOWN_AUID,
    PL_KNOWN_CAPS,
    PL_KNOWN_CGROUP,
    PL_KNOWN_COMM,
    PL_KNOWN_CREATOR,
    PL_KNOWN_CREDS,
    PL_KNOWN_ENVS,
    PL_KNOWN_EXEC_TIME,
    PL_KNOWN_FILE,
    PL_KNOWN_NS,
    PL_KNOWN_SID,
    PL_KNOWN_START,
    PL_KNOWN_TTY,
    PL_MOUNT_DETACHED,
    PL_MOUNT_ORIGIN_EVENT,
    PL_MOUNT_ORIGIN_PROCFS,
    PL_MOUNT_RESOLVED,
    PL_MOUNT_SOURCE_ID,
    PL_MOUNT_SOURCE_SNAPSHOT,
    PL_MOUNT_VISIBLE,
    PL_ROW_ADOPTED,
    PL_ROW_ADOPTION_PREDICTED,
    PL_ROW_ARGS_TRUNCATED,
    PL_ROW_DELETED,
    PL_ROW_ELIDED,
    PL_ROW_ENVS_TRUNCATED,
    PL_ROW_EXIT_UNSEEN,
    PL_ROW_FOREIGN,
    PL_ROW_HEAD,
    PL_ROW_IS_EXEC,
    PL_ROW_KTHREAD,
    PL_ROW_NS_INIT,
    PL_ROW_PARENT_MISSING,
    PL_ROW_REPLACED,
    PL_ROW_SCRIPT,
    PL_ROW_START_TICKS,
    PL_ROW_STAT_INODE,
    PL_ROW_THROUGH_SYMLINK,
    pl_cold,
    pl_file,
    pl_hot,
    pl_prefetch,
)
from pipeline.shm.writer._writer cimport MARK_DIGEST, MARK_TTY_GIVEN, TableWriter, row_state

include "states.pxi"


cdef enum:
    #: Earlier owners of one pid that a look-up follows.
    OWNERS_LIMIT = 1024
    ENDED_SIZE = 1024
    UNKNOWN_SIZE = 1024
    WANTED_SIZE = 1024
    HEIRS_SIZE = 1024
    WAITING_SIZE = 1024
    PF_KTHREAD = 0x200000
    #: What an exec record's flags say about the file alone.
    FILE_FLAGS = (
        PL_EXEC_DELETED | PL_EXEC_MEMFD | PL_EXEC_PATH_TRUNCATED | PL_EXEC_DETACHED | PL_EXEC_ESCAPED | PL_EXEC_NO_ROOT
        | PL_EXEC_UPPER_LAYER
    )
    #: With one of these, path and invoked name do not show whether a symbolic link was followed.
    NO_LINK_FLAGS = (
        PL_EXEC_SCRIPT | PL_EXEC_DELETED | PL_EXEC_MEMFD | PL_EXEC_PATH_TRUNCATED | PL_EXEC_DETACHED | PL_EXEC_ESCAPED
        | PL_EXEC_NO_ROOT | PL_EXEC_NAME_TRUNCATED
    )
    IMAGE_FLAGS = (
        PL_ROW_ARGS_TRUNCATED | PL_ROW_ENVS_TRUNCATED | PL_ROW_SCRIPT | PL_ROW_THROUGH_SYMLINK | PL_ROW_STAT_INODE
    )
    #: ... of these, what belongs to the name that was invoked.
    NAME_FLAGS = PL_ROW_SCRIPT | PL_ROW_THROUGH_SYMLINK
    #: Bytes of scratch memory in front of a map that is put together: the longest header.
    MAP_HEADER = 3
    IMAGE_KNOWN = PL_KNOWN_FILE | PL_KNOWN_ARGS | PL_KNOWN_ENVS | PL_KNOWN_EXEC_TIME


cdef inline uint32_t name_length(const pl_exec_any *body, const char *name) noexcept nogil:
    """Bytes of what was invoked, which a NUL and the working directory may follow."""
    cdef const char *nul = <const char *>memchr(name, 0, body.name_bytes)
    return body.name_bytes if nul == NULL else <uint32_t>(nul - name)


cdef bint is_through_symlink(const pl_exec_any *body, const char *path, const char *name) noexcept nogil:
    """Whether a symbolic link was followed from what was invoked to the executable.

    A relative name does not tell, nor one that is not in its shortest form, nor a descriptor's.
    """
    cdef uint32_t at, dots, n = name_length(body, name)
    if body.exec_flags & NO_LINK_FLAGS or n == 0 or name[0] != b"/" or body.path_bytes <= body.root_offset:
        return False
    if n == body.path_bytes - body.root_offset and memcmp(name, path + body.root_offset, n) == 0:
        return False
    if n > 8 and (memcmp(name, b"/dev/fd/", 8) == 0 or memcmp(name, b"/proc/", 6) == 0):
        return False
    for at in range(n):
        if name[at] == b"/":
            dots = at + 1
            while dots < n and dots < at + 3 and name[dots] == b".":
                dots += 1
            if dots == n or name[dots] == b"/":
                return False
    return True


cdef inline bint is_absent(Arena arena, uint32_t ref, bint is_cut) noexcept nogil:
    """Whether nothing is known of arguments or an environment: of what is not captured there may be the length alone."""
    cdef uint32_t n = 0
    if ref == 0:
        return True
    arena.bytes(ref, &n)
    return is_cut and n <= 4


cdef enum:
    EXTRA_PARTS = 4

cdef struct extra_part:
    uint32_t key  # EXTRA_*
    const char *begin  # of the key ...
    const char *end  # ... and behind its value


cdef inline uint32_t map_header(const char *extra) noexcept nogil:
    return 3 if <uint8_t>extra[0] == 0xDE else 1


cdef inline uint32_t map_values(const char *extra) noexcept nogil:
    if <uint8_t>extra[0] == 0xDE:
        return <uint32_t><uint8_t>extra[1] << 8 | <uint8_t>extra[2]
    return <uint8_t>extra[0] & 0x0F


cdef uint32_t extra_parts(const char *extra, uint32_t n, extra_part *parts) noexcept nogil:
    """The keys of an `extra` that are inherited, with their values: they stand first (entry_extra.py)."""
    cdef const char *end = extra + n
    cdef const char *at
    cdef uint32_t count = 0, key, length
    if n < 6:
        return 0
    at = extra + map_header(extra)
    while count < EXTRA_PARTS:
        if end - at > 4 and memcmp(at, b"\xa3ssh", 4) == 0:
            key, length = EXTRA_SSH, 4
        elif end - at > 16 and memcmp(at, b"\xaftracer_metadata", 16) == 0:
            key, length = EXTRA_TRACER, 16
        elif end - at > 10 and memcmp(at, b"\xa9container", 10) == 0:
            key, length = EXTRA_CONTAINER, 10
        elif end - at > 7 and memcmp(at, b"\xa6cgroup", 7) == 0:
            key, length = EXTRA_CGROUP, 7
        else:
            break
        parts[count].key = key
        parts[count].begin = at
        at = pl_skip(at + length, end)
        if at == NULL:
            break
        parts[count].end = at
        count += 1
    return count


cdef class Rows:
    """Base of the Applier: the one that changes the tables of an instance.

    Args:
        tables: the writer's tables, held by this process.
        encoder: numbers and encodes events, or None.
    """

    def __cinit__(self, TableWriter tables not None, Encoder encoder=None, **options):
        self.tables = tables
        # Mapped at their ceilings, so that these stay where they are while the tables grow.
        self.hot = tables.hot
        self.cold = tables.cold
        self.counters = tables.counters
        self.cgroups = CgroupNames(tables)
        self.followups = FollowUps(tables)
        self.encoder = encoder
        self.encodes = encoder is not None
        self.tick_ns = 1000000000 // max(tables.control.user_hz, 1)
        # Zero pages that are never touched cost nothing, so the length of the pid index is no matter here.
        self.slots = <pid_slot *>calloc(tables.pid_capacity, sizeof(pid_slot))
        self.ended = <ended_process *>calloc(ENDED_SIZE, sizeof(ended_process))
        self.unknown = <ended_process *>calloc(UNKNOWN_SIZE, sizeof(ended_process))
        self.wanted = <identity *>calloc(WANTED_SIZE, sizeof(identity))
        self.heirs = <uint64_t *>calloc(HEIRS_SIZE, sizeof(uint64_t))
        self.waiting = <uint32_t *>calloc(WAITING_SIZE, sizeof(uint32_t))
        if (
            self.slots == NULL or self.ended == NULL or self.unknown == NULL or self.wanted == NULL
            or self.heirs == NULL
            or self.waiting == NULL
        ):
            raise MemoryError

    def __dealloc__(self):
        free(self.slots)
        free(self.ended)
        free(self.unknown)
        free(self.wanted)
        free(self.heirs)
        free(self.waiting)

    @property
    def has_heirs(self):
        """Whether `take_heirs` would return any."""
        return self.heirs_count != 0

    def take_heirs(self):
        """Return links of rows that had something in `extra` of their own before it was known what they inherit.

        All others were given it at once. They are forgotten then. At most 1024 are kept; `heirs_dropped` counts the rest.
        """
        cdef uint32_t i
        found = [self.heirs[i] for i in range(self.heirs_count)]
        self.heirs_count = 0
        return found

    def take_wanted(self):
        """Return [(tgid, start_boot_ns)] of processes that `/proc` could tell more about, and forget them.

        A parent that nobody knows, a process whose records were lost in part, a child whose parent ended without a
        known successor. start_boot_ns is 0 where it is unknown. At most 1024 are kept; `wanted_dropped` counts the rest.
        """
        cdef uint32_t i
        found = [(self.wanted[i].tgid, self.wanted[i].start) for i in range(self.wanted_count)]
        self.wanted_count = 0
        return found

    # -- the same from Python (calls of one method at a time) ----------------------------------------------------------

    def py_root(self, uint32_t row) -> int:
        """The oldest image of the process that `row` is an image of."""
        self.tables._require_row(row)
        return self.root(row)

    def py_image_at(self, uint32_t row, int64_t time_boot_ns) -> int:
        """The image that ran then, given the head; the oldest, if none did."""
        self.tables._require_row(row)
        return self.image_at(row, <uint64_t>max(time_boot_ns, <int64_t>0))

    def py_find(self, uint32_t tgid, uint64_t start_boot_ns) -> int:
        """The head of a process, also of one that owned its pid earlier; 0 when it is not in the tables."""
        return self.find(tgid, start_boot_ns, False)

    def py_digest(self, uint32_t row) -> int:
        """A digest of what the image was started with before anything was hidden in it; 0 when it is not known."""
        self.tables._require_row(row)
        return self.tables.digests[row] if self.tables.rows[row].marks & MARK_DIGEST else 0

    def py_forget_digest(self, uint32_t row) -> None:
        """The image has other arguments or another environment."""
        self.tables._require_row(row)
        self.keep_digest(row, 0)

    def py_is_awaited(self, uint32_t tgid) -> bool:
        """Whether a process waits for one with this index entry to be its parent (`wait_for`)."""
        return tgid < self.tables.pid_capacity and self.slots[tgid].awaited != 0

    def py_is_child_of(self, uint32_t child, uint32_t parent) -> bool:
        """Whether the process with head `child`, which is in the child list of the pid, has this very parent."""
        self.tables._require_row(child)
        self.tables._require_row(parent)
        return self.is_child_of(child, parent)

    def py_move(self, uint32_t row, uint32_t parent, uint64_t time_boot_ns) -> bool:
        """Put the process with head `row` under the process with head `parent`; False if that one is younger."""
        self.tables._require_row(row)
        self.tables._require_row(parent)
        if row == parent or not self.can_descend(row, parent):
            return False
        with nogil:
            self.move(row, parent, time_boot_ns, 0, False)
        return True

    # -- finding -------------------------------------------------------------------------------------------------------

    cdef uint32_t find_owner(self, uint32_t row, uint64_t start, bint ticks) noexcept nogil:
        """`find` among the owners of a pid from `row` on, which are linked from young to old."""
        cdef uint32_t n, near = 0
        for n in range(OWNERS_LIMIT):
            if row == 0 or self.hot[row].start_boot_ns == start:
                return row if row else near
            if self.same_start(row, start, ticks):
                # To the tick: two of them may have had the pid within one, so an exact one goes before.
                if near == 0:
                    near = row
            elif self.hot[row].start_boot_ns < start:
                return near
            row = self.tables.follow(self.cold[row].previous_owner)
        return near

    cdef uint32_t root(self, uint32_t row) noexcept nogil:
        cdef uint32_t previous, n
        for n in range(CHAIN_LIMIT):
            if self.hot[row].images == 1:
                return row
            previous = self.previous_image(row)
            if previous == 0:
                return row
            row = previous
        return row

    cdef uint32_t earlier_image(self, uint32_t row, uint64_t time) noexcept nogil:
        """`image_at`, where the head began to run later than `time`."""
        cdef uint32_t previous, n
        cdef const pl_hot *hot
        for n in range(CHAIN_LIMIT):
            hot = &self.hot[row]
            if not hot.flags & PL_ROW_IS_EXEC or hot.exec_boot_ns <= time:
                return row
            previous = self.previous_image(row)
            if previous == 0:
                return row
            # An image that was started again and again runs from the end of the one before, unless others lay between.
            if self.hot[previous].flags & PL_ROW_REPLACED and self.hot[previous].exit_boot_ns <= time:
                return previous if hot.flags & PL_ROW_ELIDED else row
            row = previous
        return row

    cdef bint can_descend_in_tick(self, uint32_t child, uint32_t parent) noexcept nogil:
        """`can_descend`, where the parent did not begin before the child, by their times as they are."""
        cdef uint64_t begin = self.hot[child].start_boot_ns, other = self.hot[parent].start_boot_ns
        cdef uint32_t row = parent, n
        if self.hot[child].flags & PL_ROW_START_TICKS:
            begin += self.tick_ns - 1
        if other > begin:
            return False
        # Within one tick: the times do not tell. Nobody is an ancestor of itself.
        for n in range(CHAIN_LIMIT):
            if self.hot[row].tgid == self.hot[child].tgid and self.same_start(
                row, self.hot[child].start_boot_ns, False
            ):
                return False
            row = self.tables.follow(self.hot[row].ancestor)
            if row == 0:
                return True
        return False

    # -- facts ---------------------------------------------------------------------------------------------------------

    cdef uint32_t told(self, uint8_t flags, const pl_task_any *task) noexcept nogil:
        """Which groups of fields (KNOWN_*) a TASK tells."""
        cdef uint32_t groups = TASK_KNOWN | known_states(task)
        if flags & PL_FLAG_PARTIAL:
            # Zero is unknown there, unless the record says which groups it tells (root's ids are zero).
            groups = task.told & TASK_KNOWN
            if groups:
                return groups | known_states(task)
            if task.uid or task.gid or task.euid or task.egid or task.fsuid or task.fsgid:
                groups |= PL_KNOWN_CREDS
            if task.cap_effective or task.cap_permitted:
                groups |= PL_KNOWN_CAPS
            if task.auid or task.audit_session:
                groups |= PL_KNOWN_AUID
            if task.sid or task.pgid:
                groups |= PL_KNOWN_SID
            if task.pid_ns:
                groups |= PL_KNOWN_NS
            if task.cgroup_id:
                groups |= PL_KNOWN_CGROUP
            if task.comm[0]:
                groups |= PL_KNOWN_COMM
            if task.tty[0]:
                groups |= PL_KNOWN_TTY
            return groups | known_states(task)
        # A task that ends may have left these already; no task is without them before.
        if task.cgroup_id == 0:
            groups &= ~PL_KNOWN_CGROUP
        if task.pid_ns == 0:
            groups &= ~PL_KNOWN_NS
        return groups

    cdef void put_task(self, uint32_t row, const told_record *record, uint32_t groups) noexcept nogil:
        """Store `groups` of the record's TASK, and its container."""
        cdef const pl_task_any *task = record.task
        cdef pl_hot *hot = &self.hot[row]
        cdef pl_cold *cold = &self.cold[row]
        cdef uint32_t ref, dropped
        if groups & PL_KNOWN_CREDS:
            hot.uid = task.uid
            hot.gid = task.gid
        pl_put_blocks(cold, task, groups)
        if groups & PL_KNOWN_NS and task.ns_pid == 1:
            hot.flags |= PL_ROW_NS_INIT
        if groups & PL_KNOWN_CGROUP:
            if self.is_elsewhere(row, task):
                # Path and container belong to the cgroups that were left.
                dropped = EXTRA_CONTAINER
                if task.cgroup_id and hot.cgroup_id != task.cgroup_id:
                    self.tables.set_cgroup_ref(row, 0)
                    hot.cgroup_id = task.cgroup_id
                    hot.cgroup_source = record.cgroup_source
                    dropped |= EXTRA_CGROUP
                self.tables.set_container_ref(row, 0)
                if cold.extra_ref:
                    self.drop_extra(row, dropped)
                if task.cgroups_v1:
                    self.cgroups.sets[hot.tgid] = task.cgroups_v1
                self.cgroups.put(row)
            if hot.cgroup_source == PL_CGROUP_SOURCE_INHERITED and (task.cgroup_id or task.cgroups_v1):
                hot.cgroup_source = record.cgroup_source
        if groups & PL_KNOWN_COMM:
            memcpy(hot.comm, task.comm, sizeof(hot.comm))
        if groups & PL_KNOWN_TTY and not self.keeps_tty(row, task):
            self.mark_tty(row, False)
            memcpy(cold.tty, task.tty, sizeof(cold.tty))
        if groups & STATES_KNOWN:
            hot.flags = put_states(hot.flags, task, groups)
        if record.container_bytes:
            ref = self.tables.names.intern(record.container, record.container_bytes)
            if ref and ref != cold.container_ref and cold.extra_ref:
                self.drop_extra(row, EXTRA_CONTAINER)
            if ref:  # else the arena is full: a process stays in its container
                self.tables.set_container_ref(row, ref)
        if cold.cookie == 0:
            cold.cookie = task.cookie  # that of an exec's image is its own, and others name it only where an exec was lost
        if task.task_flags & PF_KTHREAD:
            hot.flags |= PL_ROW_KTHREAD
        hot.known |= groups

    cdef bint is_elsewhere(self, uint32_t row, const pl_task_any *task) noexcept nogil:
        """Whether the process is in other cgroups than before, as far as the record says; 0 is unknown."""
        return (task.cgroup_id != 0 and task.cgroup_id != self.hot[row].cgroup_id) or (
            task.cgroups_v1 != 0 and task.cgroups_v1 != self.cgroups.sets[self.hot[row].tgid]
        )

    cdef void mark_tty(self, uint32_t row, bint is_given) noexcept nogil:
        """Note whether the terminal is the one of descriptor 0 (terminals.py) instead of one that the kernel named."""
        cdef row_state *state = &self.tables.rows[row]
        if is_given:
            state.marks |= MARK_TTY_GIVEN
        else:
            state.marks &= ~MARK_TTY_GIVEN

    cdef bint keeps_tty(self, uint32_t row, const pl_task_any *task) noexcept nogil:
        """Whether the row's terminal is its descriptor's, of which a record that names none says nothing."""
        return task.tty[0] == 0 and self.tables.rows[row].marks & MARK_TTY_GIVEN

    cdef bint differs(self, uint32_t row, const pl_task_any *task, uint32_t groups) noexcept nogil:
        """Whether `put_task` would change anything that a reader can see."""
        cdef const pl_hot *hot = &self.hot[row]
        cdef const pl_cold *cold = &self.cold[row]
        if groups & ~hot.known:
            return True
        if groups & PL_KNOWN_CREDS and (hot.uid != task.uid or hot.gid != task.gid):
            return True
        if pl_blocks_differ(cold, task, groups):
            return True
        if groups & PL_KNOWN_CGROUP and (
            self.is_elsewhere(row, task)
            or (hot.cgroup_source == PL_CGROUP_SOURCE_INHERITED and (task.cgroup_id or task.cgroups_v1))
        ):
            return True
        if groups & PL_KNOWN_COMM and memcmp(hot.comm, task.comm, sizeof(hot.comm)) != 0:
            return True
        if groups & STATES_KNOWN and put_states(hot.flags, task, groups) != hot.flags:
            return True
        return groups & PL_KNOWN_TTY and memcmp(cold.tty, task.tty, sizeof(cold.tty)) != 0 and not self.keeps_tty(row, task)

    cdef void copy_groups(self, uint32_t row, uint32_t source, uint32_t groups) noexcept nogil:
        """Take groups of TASK facts over from another row, as far as they are known there."""
        cdef pl_hot *hot = &self.hot[row]
        cdef pl_cold *cold = &self.cold[row]
        cdef const pl_hot *from_hot = &self.hot[source]
        cdef const pl_cold *from_cold = &self.cold[source]
        groups &= from_hot.known
        if groups & PL_KNOWN_CREDS:
            hot.uid = from_hot.uid
            hot.gid = from_hot.gid
        pl_copy_blocks(cold, from_cold, groups)
        if groups & PL_KNOWN_CGROUP:
            hot.cgroup_id = from_hot.cgroup_id
            hot.cgroup_source = PL_CGROUP_SOURCE_INHERITED  # nobody said so of this one
        if groups & PL_KNOWN_COMM:
            memcpy(hot.comm, from_hot.comm, sizeof(hot.comm))
        if groups & PL_KNOWN_TTY:
            memcpy(cold.tty, from_cold.tty, sizeof(cold.tty))
        if groups & STATES_KNOWN:
            hot.flags = copied_states(hot.flags, from_hot.flags, groups)
        hot.known |= groups

    cdef uint32_t copy_row(self, uint32_t source) noexcept nogil:
        """A new row that is as `source`; 0: the table is full."""
        cdef uint32_t row = self.tables.copy_row(source)
        if row and self.tables.rows[source].marks & MARK_DIGEST:
            self.keep_digest(row, self.tables.digests[source])
        if row and self.tables.rows[source].marks & MARK_TTY_GIVEN:
            self.mark_tty(row, True)
        return row

    cdef void copy_image(self, uint32_t row, uint32_t source) noexcept nogil:
        """What a forked process shares with the image that forked it; arena records are held once more."""
        cdef pl_hot *hot = &self.hot[row]
        cdef pl_cold *cold = &self.cold[row]
        cdef const pl_hot *from_hot = &self.hot[source]
        cdef const pl_cold *from_cold = &self.cold[source]
        hot.exec_boot_ns = from_hot.exec_boot_ns
        hot.inode = from_hot.inode
        hot.flags |= from_hot.flags & IMAGE_FLAGS
        hot.known |= from_hot.known & IMAGE_KNOWN
        cold.argc = from_cold.argc
        cold.envc = from_cold.envc
        cold.cookie = from_cold.cookie
        cold.user_session = from_cold.user_session
        self.tables.names.hold(from_hot.file_ref)
        self.tables.set_file_ref(row, from_hot.file_ref)
        self.tables.names.hold(from_cold.name_ref)
        self.tables.set_name_ref(row, from_cold.name_ref)
        self.tables.args.hold(from_hot.args_ref)
        self.tables.set_args_ref(row, from_hot.args_ref)
        self.tables.envs.hold(from_cold.envs_ref)
        self.tables.set_envs_ref(row, from_cold.envs_ref)
        if self.tables.rows[source].marks & MARK_DIGEST:
            self.keep_digest(row, self.tables.digests[source])

    cdef void keep_digest(self, uint32_t row, uint64_t digest) noexcept nogil:
        cdef row_state *state = &self.tables.rows[row]
        if digest:
            self.tables.digests[row] = digest
            state.marks |= MARK_DIGEST
        else:
            state.marks &= ~MARK_DIGEST

    cdef bint same_image(self, uint32_t row, uint32_t other) noexcept nogil:
        """Whether two images are of the same file, arguments, environment and credentials (specification 1.4 to 1.6).

        Where it is not known what was hidden in arguments and environment, what is there decides.
        """
        cdef const pl_hot *a = &self.hot[row]
        cdef const pl_hot *b = &self.hot[other]
        cdef const pl_cold *cold = &self.cold[row]
        cdef const pl_cold *other_cold = &self.cold[other]
        cdef const pl_file *file
        cdef const pl_file *other_file
        cdef pl_file none
        cdef uint32_t n = 0
        # The saved ids lie between these and play no part.
        if (
            a.inode != b.inode or a.uid != b.uid or a.gid != b.gid
            or cold.euid != other_cold.euid or cold.egid != other_cold.egid
            or cold.fsuid != other_cold.fsuid or cold.fsgid != other_cold.fsgid
            or cold.cap_effective != other_cold.cap_effective or cold.cap_permitted != other_cold.cap_permitted
        ):
            return False
        if a.file_ref != b.file_ref:
            memset(&none, 0, sizeof(none))
            file = other_file = &none
            if a.file_ref:
                file = <const pl_file *>self.tables.names.bytes(a.file_ref, &n)
            if b.file_ref:
                other_file = <const pl_file *>self.tables.names.bytes(b.file_ref, &n)
            if (
                file.mount_id != other_file.mount_id or file.mtime_ns != other_file.mtime_ns
                or file.file_uid != other_file.file_uid or file.file_gid != other_file.file_gid
                or file.mode != other_file.mode
            ):
                return False
        if self.tables.rows[row].marks & self.tables.rows[other].marks & MARK_DIGEST:
            return self.tables.digests[row] == self.tables.digests[other]
        return (
            a.args_ref == b.args_ref
            or (is_absent(self.tables.args, a.args_ref, a.flags & PL_ROW_ARGS_TRUNCATED)
                and is_absent(self.tables.args, b.args_ref, b.flags & PL_ROW_ARGS_TRUNCATED))
        ) and (
            cold.envs_ref == other_cold.envs_ref
            or (is_absent(self.tables.envs, cold.envs_ref, a.flags & PL_ROW_ENVS_TRUNCATED)
                and is_absent(self.tables.envs, other_cold.envs_ref, b.flags & PL_ROW_ENVS_TRUNCATED))
        )

    cdef bint is_same_again(self, uint32_t row, const told_record *record, uint32_t groups) noexcept nogil:
        """Whether an exec started what the image is already: `same_image` for an image and a record.

        Args:
            groups: KNOWN_* groups of the record's TASK that are compared.
        """
        cdef const pl_task_any *task = record.task
        cdef const pl_exec_any *body = record.body.exec
        cdef const char *strings = record.strings
        cdef const pl_hot *hot = &self.hot[row]
        cdef const pl_cold *cold = &self.cold[row]
        cdef const pl_file *file
        cdef pl_file none
        cdef uint32_t n = 0
        if body.inode == 0 or hot.inode != body.inode or record.digest == 0:
            return False
        if self.tables.rows[row].marks & MARK_DIGEST:
            if self.tables.digests[row] != record.digest:
                return False
        else:
            strings += body.path_bytes + body.name_bytes
            if not self.holds(
                self.tables.args, hot.args_ref, strings, body.args_bytes, not tells_args(body)
            ) or not self.holds(
                self.tables.envs, cold.envs_ref, strings + body.args_bytes, body.envs_bytes,
                not tells_envs(body),
            ):
                return False
        if groups & PL_KNOWN_CREDS and (
            hot.uid != task.uid or hot.gid != task.gid or cold.euid != task.euid or cold.egid != task.egid
            or cold.fsuid != task.fsuid or cold.fsgid != task.fsgid
        ):
            return False
        if groups & PL_KNOWN_CAPS and (
            cold.cap_effective != task.cap_effective or cold.cap_permitted != task.cap_permitted
        ):
            return False
        memset(&none, 0, sizeof(none))
        file = <const pl_file *>self.tables.names.bytes(hot.file_ref, &n) if hot.file_ref else &none
        return (
            file.mount_id == body.mount_id and file.mtime_ns == body.mtime_ns and file.file_uid == body.file_uid
            and file.file_gid == body.file_gid and file.mode == body.mode
        )

    cdef bint holds(self, Arena arena, uint32_t ref, const char *text, uint32_t n, bint is_absent) noexcept nogil:
        """Whether the strings of a row are those of a record; absent is not the same as none."""
        cdef uint32_t held = 0
        cdef const char *bytes
        if ref == 0:
            return n == 0 and is_absent
        bytes = arena.bytes(ref, &held)
        return not (n == 0 and is_absent) and held == 4 + <uint64_t>n and memcmp(bytes + 4, text, n) == 0

    cdef void clear_image(self, uint32_t row) noexcept nogil:
        """The image is unknown."""
        cdef pl_hot *hot = &self.hot[row]
        cdef pl_cold *cold = &self.cold[row]
        hot.exec_boot_ns = 0
        hot.inode = 0
        hot.flags &= ~IMAGE_FLAGS
        hot.known &= ~IMAGE_KNOWN
        cold.argc = 0
        cold.envc = 0
        self.tables.set_file_ref(row, 0)
        self.tables.set_name_ref(row, 0)
        self.tables.set_args_ref(row, 0)
        self.tables.set_envs_ref(row, 0)
        self.keep_digest(row, 0)

    cdef void put_image(self, uint32_t row, const told_record *record, bint is_new) noexcept nogil:
        """Store what an exec record says about the image. The caller has checked that the strings are there.

        Args:
            is_new: the row holds another image, or none. An arena may be full: then a new image never shows what
                belongs to the image before. Its file is unknown, and its arguments and its environment are unknown and
                marked as truncated. Of the same image, the row keeps the value that it has. Each string that was not
                stored is counted in `arena_full`.
        """
        cdef const pl_exec_any *body = record.body.exec
        cdef const char *strings = record.strings
        cdef pl_hot *hot = &self.hot[row]
        cdef pl_cold *cold = &self.cold[row]
        cdef uint32_t ref, flags = hot.flags & IMAGE_FLAGS, known = hot.known & IMAGE_KNOWN
        cdef exec_text args, envs
        hot.inode = body.inode
        hot.flags &= ~IMAGE_FLAGS
        hot.known &= ~IMAGE_KNOWN
        if record.is_stat and body.inode:
            hot.flags |= PL_ROW_STAT_INODE
        if body.path_bytes or body.inode:
            ref = self.file_of(record)
            if ref or is_new:
                self.tables.set_file_ref(row, ref)
            if hot.file_ref:
                hot.known |= PL_KNOWN_FILE
        else:
            self.tables.set_file_ref(row, 0)
        self.put_name(row, body, strings, is_new, flags)
        cold.argc = <uint16_t>min(body.argc, <uint32_t>0xFFFF)
        cold.envc = <uint16_t>min(body.envc, <uint32_t>0xFFFF)
        args, envs = args_of(body, strings), envs_of(body, strings)
        self.put_text(row, &args, self.tables.args, &hot.args_ref, is_new, flags, known)
        self.put_text(row, &envs, self.tables.envs, &cold.envs_ref, is_new, flags, known)
        self.keep_digest(row, record.digest)

    cdef bint complete_image(self, uint32_t row, const told_record *record) noexcept nogil:
        """Store what is unknown of an image and `/proc` shows; returns whether that was anything.

        What is known stays, whatever `/proc` shows now: a process can write over its arguments and its environment.
        Arguments that an event told and that had no room in the arena stay unknown, for the same reason.
        """
        cdef pl_hot *hot = &self.hot[row]
        cdef pl_cold *cold = &self.cold[row]
        cdef const pl_exec_any *body = record.body.exec
        cdef const char *strings = record.strings
        cdef exec_text args = args_of(body, strings), envs = envs_of(body, strings)
        cdef uint32_t ref = 0, before = hot.known
        cdef bint has_args, has_envs, has_file = before & PL_KNOWN_FILE
        if not has_file and (body.path_bytes or body.inode):
            ref = self.file_of(record)
        has_args = not before & PL_KNOWN_ARGS and not hot.flags & PL_ROW_ARGS_TRUNCATED and (
            args.n or (ref and args.is_told)
        )
        has_envs = not before & PL_KNOWN_ENVS and not hot.flags & PL_ROW_ENVS_TRUNCATED and (
            envs.n or (ref and envs.is_told)
        )
        if not ref and not has_args and not has_envs:
            return False
        self.tables.begin(row)
        if ref:
            self.tables.set_file_ref(row, ref)
            hot.known |= PL_KNOWN_FILE
            if hot.inode == 0:
                hot.inode = body.inode
                if record.is_stat and body.inode:
                    hot.flags |= PL_ROW_STAT_INODE
            if cold.name_ref == 0:
                self.put_name(row, body, strings, True, 0)
        if has_args:
            cold.argc = <uint16_t>min(body.argc, <uint32_t>0xFFFF)
            self.put_text(row, &args, self.tables.args, &hot.args_ref, True, 0, 0)
            if hot.args_ref == 0:
                hot.flags &= ~PL_ROW_ARGS_TRUNCATED  # no room now, perhaps at the next look
        if has_envs:
            cold.envc = <uint16_t>min(body.envc, <uint32_t>0xFFFF)
            self.put_text(row, &envs, self.tables.envs, &cold.envs_ref, True, 0, 0)
            if cold.envs_ref == 0:
                hot.flags &= ~PL_ROW_ENVS_TRUNCATED
        if not before & (PL_KNOWN_ARGS | PL_KNOWN_ENVS):
            self.keep_digest(row, record.digest)
        elif hot.known & ~before & (PL_KNOWN_ARGS | PL_KNOWN_ENVS):
            self.keep_digest(row, 0)  # it was of what was told before
        self.tables.end(row)
        return hot.known & ~before != 0

    cdef void put_name(
        self, uint32_t row, const pl_exec_any *body, const char *strings, bint is_new, uint32_t flags
    ) noexcept nogil:
        """Between begin and end: what was invoked.

        Args:
            is_new: as in `put_image`.
            flags: IMAGE_FLAGS of the image that the row has.
        """
        cdef pl_hot *hot = &self.hot[row]
        cdef uint32_t ref = self.tables.names.intern(strings + body.path_bytes, body.name_bytes)
        if ref == 0 and body.name_bytes and self.cold[row].name_ref and not is_new:
            hot.flags |= flags & NAME_FLAGS
            return
        self.tables.set_name_ref(row, ref)
        # The exec program compares by itself and knows a script's interpreter; other sources give names only.
        if body.exec_flags & PL_EXEC_THROUGH_SYMLINK or is_through_symlink(body, strings, strings + body.path_bytes):
            hot.flags |= PL_ROW_THROUGH_SYMLINK
        if body.exec_flags & PL_EXEC_SCRIPT:
            hot.flags |= PL_ROW_SCRIPT

    cdef void put_text(
        self, uint32_t row, const exec_text *told, Arena arena, uint32_t *place, bint is_new, uint32_t flags,
        uint32_t known
    ) noexcept nogil:
        """Between begin and end: arguments or the environment.

        Args:
            arena, place: where it is stored, and the row's reference to it.
            is_new, flags: as in `put_name`.
            known: IMAGE_KNOWN of the image that the row has.
        """
        cdef pl_hot *hot = &self.hot[row]
        cdef uint32_t ref
        if not told.is_told:
            self.tables.set_ref(arena, place, 0)
            return
        ref = arena.intern2(<const char *>&told.full, 4, told.text, told.n)
        if ref == 0 and place[0] and not is_new:
            hot.known |= known & told.known
            hot.flags |= flags & told.truncated
            return
        self.tables.set_ref(arena, place, ref)
        if ref:
            hot.known |= told.known
        if ref == 0 or told.is_cut:
            hot.flags |= told.truncated

    cdef uint32_t file_of(self, const told_record *record) noexcept nogil:
        """Return a FILE record with its path, held for the caller; 0: the arena is full."""
        cdef const pl_exec_any *body = record.body.exec
        cdef pl_file file
        memset(&file, 0, sizeof(file))
        file.file_inode = body.inode
        file.mtime_ns = body.mtime_ns
        file.ctime_ns = body.ctime_ns
        file.device = body.device
        file.mount_id = body.mount_id
        file.file_uid = body.file_uid
        file.file_gid = body.file_gid
        file.nlink = body.nlink
        file.mode = body.mode
        file.file_flags = body.exec_flags & FILE_FLAGS
        file.fs_magic = body.fs_magic
        file.root_offset = body.root_offset
        file.mount_end = body.mount_end
        self.put_mount(&file, record)
        return self.tables.names.intern2(<const char *>&file, sizeof(file), record.strings, body.path_bytes)

    cdef void put_mount(self, pl_file *file, const told_record *record) noexcept nogil:
        """Store what the walk of the path says about the mount of the file; the mounts were as at that time."""
        cdef const pl_exec_any *body = record.body.exec
        cdef uint32_t flags = body.exec_flags
        if record.cgroup_source == PL_CGROUP_SOURCE_PROCFS:
            if body.mount_id == 0 and not flags & PL_EXEC_MEMFD:
                return
            file.mount_source = PL_MOUNT_SOURCE_SNAPSHOT
            file.mount_origin = PL_MOUNT_ORIGIN_PROCFS
        elif body.mount_end or flags & (PL_EXEC_MEMFD | PL_EXEC_ESCAPED | PL_EXEC_PATH_TRUNCATED):
            file.mount_source = PL_MOUNT_SOURCE_ID
            file.mount_origin = PL_MOUNT_ORIGIN_EVENT
        else:
            return  # nobody walked it: a recording of before, or a source that has its paths from elsewhere
        if flags & PL_EXEC_MEMFD:
            file.mount_flags = PL_MOUNT_RESOLVED | PL_MOUNT_DETACHED
        elif body.mount_end:
            # A walk that met the root of the task on its way.
            file.mount_flags = PL_MOUNT_RESOLVED
            if flags & PL_EXEC_DETACHED:
                file.mount_flags |= PL_MOUNT_DETACHED
            elif not flags & PL_EXEC_NO_ROOT:
                file.mount_flags |= PL_MOUNT_VISIBLE

    cdef void exact_start(self, uint32_t row, uint64_t start) noexcept nogil:
        """A record told the start in ns of a process known to the tick only: correct all of its images."""
        cdef uint32_t previous, n
        for n in range(CHAIN_LIMIT):
            previous = self.previous_image(row)
            self.tables.begin(row)
            self.hot[row].start_boot_ns = start
            self.hot[row].flags &= ~PL_ROW_START_TICKS
            self.hot[row].known |= PL_KNOWN_START
            self.tables.end(row)
            if previous == 0:
                return
            row = previous

    # -- entries -------------------------------------------------------------------------------------------------------

    cdef uint32_t open_entry(self, const pl_head_any *head, uint64_t displaced_at, uint32_t *newer) noexcept nogil:
        """A first row for a process that is not in the tables, not yet visible: identity and earlier owner of the pid.

        A process that has the pid and began earlier has ended unseen, at `displaced_at` at the latest. One that began
        later owned the pid after this one; then this one is entered as history.

        Args:
            newer: set to the process that owned the pid after this one; 0: none did.

        Returns:
            The row, to be given to `publish_entry`; 0 when the table is full.
        """
        cdef uint32_t row = self.tables.new_row(), other, older
        cdef pl_hot *hot
        if row == 0:
            return 0
        # The row that the next process gets: free rows are cold.
        other = self.tables.free_head
        if other:
            pl_prefetch(&self.hot[other])
            pl_prefetch(<const char *>&self.hot[other] + 64)
            pl_prefetch(&self.cold[other])
            pl_prefetch(<const char *>&self.cold[other] + 64)
            pl_prefetch(<const char *>&self.cold[other] + 128)
        hot = &self.hot[row]
        hot.tgid = head.tgid
        hot.start_boot_ns = head.start_boot_ns
        hot.flags = PL_ROW_HEAD if head.tgid < self.tables.root_pids else PL_ROW_HEAD | PL_ROW_FOREIGN
        hot.known = PL_KNOWN_START
        hot.images = 1
        self.cold[row].tid = head.tid
        newer[0] = 0
        older = self.tables.head(head.tgid)
        while older and self.hot[older].start_boot_ns > head.start_boot_ns:
            newer[0] = older
            older = self.tables.follow(self.cold[older].previous_owner)
        if newer[0]:
            hot.exit_boot_ns = self.hot[newer[0]].start_boot_ns
            hot.flags |= PL_ROW_DELETED | PL_ROW_EXIT_UNSEEN
        elif older:
            self.displace(older, displaced_at)
        if older:
            self.tables.set_previous_owner(row, older)
        if newer[0] == 0:
            self.forget_children(head.tgid, head.start_boot_ns)
            self.cgroups.sets[head.tgid] = 0
        return row

    cdef void publish_entry(self, uint32_t row, uint32_t newer) noexcept nogil:
        """Let readers find a row of `open_entry`, which has set `newer`."""
        cdef uint32_t tgid = self.hot[row].tgid, ppid = self.hot[row].ppid
        self.tables.end(row)
        if newer:
            self.tables.begin(newer)
            self.tables.set_previous_owner(newer, row)
            self.tables.end(newer)
            self.tables.retire(row)
            self.counters[PL_C_EXITS_UNSEEN] += 1
            return
        self.tables.set_head(tgid, row)
        if ppid and ppid < self.tables.pid_capacity:
            self.tables.adopt(tgid, ppid)

    cdef void link_parent(self, uint32_t row, uint32_t parent, uint64_t time) noexcept nogil:
        """Between begin and end of a root: link the parent as it was at `time`."""
        self.tables.set_ancestor(row, self.image_at(parent, time))
        self.tables.set_parent(row, parent)
        self.hot[row].flags &= ~PL_ROW_PARENT_MISSING

    cdef void link_waiting(self, uint32_t row, uint64_t time) noexcept nogil:
        """Link children that named this process as their parent before it was in the tables."""
        cdef uint32_t tgid = self.hot[row].tgid, child, following, i
        if tgid >= self.tables.pid_capacity:
            return
        child = self.tables.first_child(tgid)
        while child:
            following = self.tables.next_sibling(child)
            self.link_child(child, row, time)
            child = following
        i = 0
        while self.slots[tgid].awaited and i < self.waiting_count:
            child = self.waiting[i]
            if self.slots[child].waits_for == tgid:
                self.link_child(child, row, time)
            if i < self.waiting_count and self.waiting[i] == child:
                i += 1

    cdef void link_child(self, uint32_t child, uint32_t row, uint64_t time) noexcept nogil:
        cdef uint32_t tgid = self.hot[row].tgid, head = self.tables.head(child), known, root
        cdef uint64_t expected = self.slots[child].parent_start
        if head == 0 or self.hot[head].exit_boot_ns:
            self.wait_no_more(child)
            return
        known = self.tables.follow(self.hot[head].parent)
        if known and self.hot[known].tgid == tgid and self.same_start(known, self.hot[row].start_boot_ns, False):
            return
        if expected and not self.same_start(row, expected, False) or not self.can_descend(head, row):
            return
        if self.hot[head].ppid != tgid:
            self.move(head, row, time, 0, False)
            return
        root = self.root(head)
        self.tables.begin(root)
        self.tables.set_ancestor(root, self.image_at(row, self.hot[head].start_boot_ns))
        self.hot[root].flags &= ~PL_ROW_PARENT_MISSING
        self.tables.end(root)
        self.tables.begin(head)
        self.tables.set_parent(head, row)
        if (
            self.cold[head].creator_tgid == tgid
            and not self.hot[head].flags & PL_ROW_ADOPTED
            and self.tables.follow(self.hot[head].creator) == 0
        ):
            self.tables.set_creator(head, self.image_at(row, self.hot[head].start_boot_ns))
        self.tables.end(head)

    cdef void wait_for(self, uint32_t tgid, uint32_t parent_tgid, uint64_t parent_start) noexcept nogil:
        """The kernel named a parent that is not in the tables: `link_waiting` will know when it comes."""
        self.slots[tgid].parent_start = parent_start
        if parent_tgid == self.slots[tgid].waits_for or parent_tgid >= self.tables.pid_capacity:
            return
        self.wait_no_more(tgid)
        if self.waiting_count == WAITING_SIZE:
            return  # its next record will tell again
        self.waiting[self.waiting_count] = tgid
        self.waiting_count += 1
        self.slots[tgid].waits_for = parent_tgid
        self.slots[parent_tgid].awaited += 1

    cdef void wait_no_more(self, uint32_t tgid) noexcept nogil:
        cdef uint32_t i
        if self.slots[tgid].waits_for == 0:
            return
        self.slots[self.slots[tgid].waits_for].awaited -= 1
        self.slots[tgid].waits_for = 0
        for i in range(self.waiting_count):
            if self.waiting[i] == tgid:
                self.waiting_count -= 1
                self.waiting[i] = self.waiting[self.waiting_count]
                return

    cdef void displace(self, uint32_t row, uint64_t time) noexcept nogil:
        """The pid has another owner now. If the end of this one was not seen, it lies before `time`."""
        if self.hot[row].exit_boot_ns == 0:
            self.counters[PL_C_EXITS_UNSEEN] += 1
            self.finish(row, time, PL_ROW_EXIT_UNSEEN)
            self.emit(TOPIC_EXIT, PL_KIND_EXIT, row, time, 0)

    cdef void forget_children(self, uint32_t tgid, uint64_t start) noexcept nogil:
        """A process that begins at `start` takes the pid: older processes in its list had another parent.

        Their parent has ended, and nobody said who adopted them. Their lineage at fork stays.
        """
        cdef uint32_t child, following, head
        child = self.tables.first_child(tgid)
        while child:
            following = self.tables.next_sibling(child)
            head = self.tables.head(child)
            if head == 0 or self.hot[head].start_boot_ns < start:
                self.tables.orphan(child)
                if head and self.hot[head].exit_boot_ns == 0:
                    if self.hot[head].ppid == tgid:
                        self.tables.begin(head)
                        self.hot[head].ppid = 0
                        self.tables.set_parent(head, 0)
                        self.tables.end(head)
                    self.want(child, self.hot[head].start_boot_ns)
            child = following

    cdef void finish(self, uint32_t row, uint64_t time, uint32_t flags) noexcept nogil:
        """The process has ended; its head stays as history."""
        cdef uint32_t tgid = self.hot[row].tgid
        self.tables.begin(row)
        # Times of different CPUs may differ by less than the clock's step: never an end before the beginning.
        self.hot[row].exit_boot_ns = max(time, self.hot[row].start_boot_ns)
        self.hot[row].flags |= PL_ROW_DELETED | flags
        self.tables.end(row)
        self.tables.retire(row)
        if self.tables.head(tgid) == row:
            self.tables.orphan(tgid)
            self.wait_no_more(tgid)

    # -- lineage -------------------------------------------------------------------------------------------------------

    cdef void move(self, uint32_t row, uint32_t parent, uint64_t time, uint32_t kind, bint predicted) noexcept nogil:
        """The process with head `row` has the parent with head `parent` now. Its root moves, so its images stay.

        Root and head say who that is; an image between them says who it was when it ended.
        """
        cdef uint32_t root = self.root(row), creator
        cdef pl_hot *hot = &self.hot[row]
        cdef bint is_creator
        if root != row:
            self.tables.begin(root)
            self.tables.set_ancestor(root, parent)
            self.hot[root].ppid = self.hot[parent].tgid
            self.tables.set_parent(root, parent)
            self.hot[root].flags &= ~PL_ROW_PARENT_MISSING
            self.tables.end(root)
        self.tables.begin(row)
        if root == row:
            self.tables.set_ancestor(row, parent)
            hot.flags &= ~PL_ROW_PARENT_MISSING
        hot.ppid = self.hot[parent].tgid
        self.tables.set_parent(row, parent)
        creator = self.tables.follow(hot.creator)
        is_creator = hot.known & PL_KNOWN_CREATOR and (
            creator == 0
            or self.hot[creator].start_boot_ns == self.hot[parent].start_boot_ns
        ) and self.cold[row].creator_tgid == hot.ppid
        hot.flags &= ~(PL_ROW_ADOPTED | PL_ROW_ADOPTION_PREDICTED)
        if not is_creator:
            hot.flags |= PL_ROW_ADOPTED
        if predicted:
            hot.flags |= PL_ROW_ADOPTION_PREDICTED
        self.tables.end(row)
        if self.tables.head(hot.tgid) == row and hot.exit_boot_ns == 0:
            # What is kept by pid is of who has it now, and only the living are children.
            self.tables.adopt(hot.tgid, hot.ppid)
            self.wait_no_more(hot.tgid)
            self.slots[hot.tgid].parent_start = self.hot[parent].start_boot_ns
        self.counters[PL_C_REPARENTS] += 1
        if kind == PL_KIND_EXIT and predicted:
            self.counters[PL_C_REPARENT_SUCCESS_DO_EXIT] += 1
        elif kind:
            self.counters[PL_C_REPARENT_SUCCESS_KERNEL_PPID] += 1
        self.emit(TOPIC_REPARENT, kind, row, time, parent)

    cdef void follow_kernel(self, uint32_t row, const pl_head_any *head, uint32_t kind) noexcept nogil:
        """A record says who the parent is now: confirm what the tables say, or correct it."""
        cdef pl_hot *hot = &self.hot[row]
        cdef uint32_t known, parent
        cdef bint was_predicted = hot.flags & PL_ROW_ADOPTION_PREDICTED
        cdef bint ticks = head.flags & PL_FLAG_PARTIAL
        if head.ppid == 0 or head.ppid >= self.tables.pid_capacity:
            return
        known = self.tables.follow(hot.parent)
        if (
            hot.ppid == head.ppid
            and known
            and self.hot[known].tgid == head.ppid
            and (head.parent_start_boot_ns == 0 or self.same_start(known, head.parent_start_boot_ns, ticks))
        ):
            if was_predicted:
                self.tables.begin(row)
                hot.flags &= ~PL_ROW_ADOPTION_PREDICTED
                self.tables.end(row)
                self.counters[PL_C_REPARENTS_CONFIRMED] += 1
            return
        if head.parent_start_boot_ns:
            parent = self.find(head.ppid, head.parent_start_boot_ns, ticks)
        else:
            parent = self.tables.head(head.ppid)
        if parent and self.hot[parent].exit_boot_ns:
            # An exit is stamped before the kernel moves the children: what was predicted then is still to come. Or the
            # record is older than that exit, and applied again or late.
            return
        if parent and known == 0 and hot.ppid == head.ppid and self.can_descend(row, parent):
            # The same parent: it has come to the tables since, or the image that was linked had to go at the ceiling.
            self.slots[hot.tgid].parent_start = head.parent_start_boot_ns
            self.link_child(hot.tgid, parent, head.time_boot_ns)
            return
        if parent and self.can_descend(row, parent):
            if was_predicted:
                self.counters[PL_C_REPARENTS_CORRECTED] += 1
            self.move(row, parent, head.time_boot_ns, kind, False)
            return
        # Not in the tables (yet): nothing is relinked, a wrong parent would be worse (specification R21).
        if self.tables.head(hot.tgid) != row:
            return
        if self.slots[hot.tgid].parent_start != head.parent_start_boot_ns or hot.ppid != head.ppid:
            self.want(head.ppid, head.parent_start_boot_ns)
        if hot.ppid != head.ppid:
            if kind:
                self.counters[PL_C_REPARENT_FAILED_KERNEL_PPID] += 1
            self.wait_for(hot.tgid, head.ppid, head.parent_start_boot_ns)

    cdef bint is_child_of(self, uint32_t child, uint32_t parent) noexcept nogil:
        """Whether the process with head `child`, which is in the child list of the pid, has this very parent."""
        cdef uint32_t known = self.tables.follow(self.hot[child].parent)
        cdef uint64_t expected
        if known:
            return self.hot[known].start_boot_ns == self.hot[parent].start_boot_ns
        expected = self.slots[self.hot[child].tgid].parent_start
        return expected != 0 and self.same_start(parent, expected, False)

    cdef uint32_t reaper(self, uint32_t tgid, uint64_t start) noexcept nogil:
        """The process that adopts, given the one that a record named: that one may have ended before."""
        cdef uint32_t row, n
        cdef ended_process *ended
        for n in range(16):
            row = self.find(tgid, start, False)
            if row == 0 or self.hot[row].exit_boot_ns == 0:
                return row
            ended = self.ended_slot(self.ended, tgid, start)
            if ended.tgid != tgid or ended.start != start or ended.reaper_tgid == 0:
                return 0
            tgid = ended.reaper_tgid
            start = ended.reaper_start
        return 0

    cdef void leave_children(
        self, uint32_t row, uint32_t reaper_tgid, uint64_t reaper_start, uint64_t time
    ) noexcept nogil:
        """The owner of a pid has ended: its children go to the reaper. Without one they wait for their next record."""
        cdef uint32_t tgid = self.hot[row].tgid, child, following, head, adopter = 0
        child = self.tables.first_child(tgid)
        if child == 0:
            return
        if reaper_tgid:
            adopter = self.reaper(reaper_tgid, reaper_start)
            if adopter == 0:
                self.want(reaper_tgid, reaper_start)
        while child:
            following = self.tables.next_sibling(child)
            head = self.tables.head(child)
            if head == 0 or self.hot[head].exit_boot_ns:
                self.tables.orphan(child)
            elif not self.is_child_of(head, row):
                # Of a process that is not in the tables yet, or of one that has had the pid since.
                if self.slots[child].parent_start == 0:
                    self.want(child, self.hot[head].start_boot_ns)
            elif adopter and adopter != row and self.can_descend(head, adopter):
                self.move(head, adopter, time, PL_KIND_EXIT, True)
            elif reaper_tgid and adopter == 0:
                self.counters[PL_C_REPARENT_FAILED_DO_EXIT] += 1
                self.wait_for(child, reaper_tgid, reaper_start)
            else:
                self.want(child, self.hot[head].start_boot_ns)
            child = following

    # -- remembering ---------------------------------------------------------------------------------------------------

    cdef void want(self, uint32_t tgid, uint64_t start) noexcept nogil:
        cdef uint32_t i
        if tgid == 0 or tgid >= self.tables.root_pids:
            return  # /proc shows no process by its number in another namespace
        # The same one is asked for several times in a row by its children.
        for i in range(min(self.wanted_count, <uint32_t>8)):
            if self.wanted[self.wanted_count - 1 - i].tgid == tgid:
                return
        if self.wanted_count == WANTED_SIZE:
            self.wanted_dropped += 1
            return
        self.wanted[self.wanted_count].tgid = tgid
        self.wanted[self.wanted_count].start = start
        self.wanted_count += 1

    cdef void forget_told(self, uint32_t row, uint32_t ref, uint32_t places) noexcept nogil:
        """Between begin and end of a new image in a row that holds an earlier one: what was told of that, beside its
        records, is not of this; but for what an exec leaves of `ref`, its `extra` (0: none).

        Call it when the row has the new image's cgroup and container. `places`: see `same_places`.
        """
        self.cold[row].cap_attempted = 0
        self.cold[row].cap_used = 0
        self.tables.args.hold(ref)  # it may be the row's own
        self.tables.set_extra_ref(row, 0)
        self.inherit_extra(row, ref, EXTRA_SSH | places)
        self.tables.args.release(ref)

    cdef uint32_t same_places(self, uint32_t row, uint64_t cgroup_id, uint32_t container_ref) noexcept nogil:
        """Which of EXTRA_CONTAINER and EXTRA_CGROUP are about where the process of `row` is, too.

        Args:
            cgroup_id, container_ref: of the row that they are told of. One arena reference is one container id.
        """
        return (EXTRA_CONTAINER if container_ref and self.cold[row].container_ref == container_ref else 0) | (
            EXTRA_CGROUP if cgroup_id and self.hot[row].cgroup_id == cgroup_id else 0
        )

    cdef void inherit_extra(self, uint32_t row, uint32_t ref, uint32_t keys) noexcept nogil:
        """Between begin and end of `row`: what the image that forked or was replaced leaves it of `ref`, its `extra`.

        Args:
            keys: EXTRA_* that are inherited.
        """
        cdef uint32_t n = 0
        cdef const char *picked
        if ref == 0 or self.find_extra(ref, keys) == 0:
            return
        if self.cold[row].extra_ref:
            self.inherit_later(row)  # a row that /proc filled before its fork was told
            return
        picked = self.pick_extra(ref, keys, False, &n)
        if picked == NULL:
            self.tables.args.hold(ref)
            self.tables.set_extra_ref(row, ref)
        else:
            self.tables.set_extra_ref(row, self.tables.args.intern(picked, n))

    cdef void drop_extra(self, uint32_t row, uint32_t keys) noexcept nogil:
        """Between begin and end of `row`: EXTRA_* keys of its own `extra` are about where its process was before."""
        cdef uint32_t ref = self.cold[row].extra_ref, n = 0
        cdef const char *picked
        if self.find_extra(ref, keys) == 0:
            return
        picked = self.pick_extra(ref, ~keys, True, &n)
        ref = self.tables.args.intern(picked, n)
        if ref == 0 and n:
            # The arena is full. The row gives its own block back first, which is as large at least.
            self.tables.set_extra_ref(row, 0)
            ref = self.tables.args.intern(picked, n)
        self.tables.set_extra_ref(row, ref)

    cdef uint32_t find_extra(self, uint32_t ref, uint32_t keys) noexcept nogil:
        """Which of EXTRA_* keys an `extra` has."""
        cdef extra_part parts[EXTRA_PARTS]
        cdef uint32_t n = 0, i, found = 0
        cdef const char *extra = self.tables.args.bytes(ref, &n)
        cdef uint32_t count = extra_parts(extra, n, parts)
        for i in range(count):
            found |= parts[i].key
        return found & keys

    cdef const char *pick_extra(self, uint32_t ref, uint32_t keys, bint has_rest, uint32_t *n) noexcept nogil:
        """Put the part of an `extra` with the EXTRA_* `keys` together, in the arena's scratch memory.

        Args:
            has_rest: with what is never inherited.
            n: set to its length; 0: nothing is left.

        Returns:
            The part, until the next string is interned; NULL: it is the whole map.
        """
        cdef extra_part parts[EXTRA_PARTS]
        cdef uint32_t length = 0, i
        cdef const char *extra = self.tables.args.bytes(ref, &length)
        cdef uint32_t count = extra_parts(extra, length, parts), total = map_values(extra), left = total
        cdef const char *rest = parts[count - 1].end if count else extra + map_header(extra)
        cdef char *begin = self.tables.args.scratch + MAP_HEADER
        cdef char *out = begin
        for i in range(count):
            if parts[i].key & keys:
                memcpy(out, parts[i].begin, parts[i].end - parts[i].begin)
                out += parts[i].end - parts[i].begin
            else:
                left -= 1
        if has_rest:
            memcpy(out, rest, extra + length - rest)
            out += extra + length - rest
        else:
            left -= total - count
        n[0] = 0
        if left == total:
            return NULL
        if left == 0:
            return begin
        if left <= 15:
            begin -= 1
            begin[0] = <char>(0x80 | left)
        else:
            begin -= 3
            begin[0] = <char>0xDE
            begin[1] = <char>(left >> 8)
            begin[2] = <char>(left & 0xFF)
        n[0] = <uint32_t>(out - begin)
        return begin

    cdef void inherit_later(self, uint32_t row) noexcept nogil:
        if self.heirs_count == HEIRS_SIZE:
            self.heirs_dropped += 1
            return
        self.heirs[self.heirs_count] = self.tables.link(row)
        self.heirs_count += 1
