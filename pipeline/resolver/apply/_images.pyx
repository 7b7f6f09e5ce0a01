"""The facts of a row about a process: those of its TASK, its image, and what it inherits of `extra`.

Finding rows is in _rows.pyx, linking them in _lineage.pyx. Functions that say "between begin and end" change a row that
readers can reach; see rule 1 in _rows.pyx.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy, memset

from pipeline.records._limits cimport CHAIN_LIMIT, PF_KTHREAD
from pipeline.records._records cimport (
    PL_EXEC_DELETED, PL_EXEC_DETACHED, PL_EXEC_ESCAPED, PL_EXEC_MEMFD, PL_EXEC_NAME_TRUNCATED, PL_EXEC_NO_ROOT,
    PL_EXEC_PATH_TRUNCATED, PL_EXEC_SCRIPT, PL_EXEC_THROUGH_SYMLINK, PL_EXEC_UPPER_LAYER, PL_FLAG_PARTIAL, pl_exec_any,
    pl_sampled_any, pl_task_any,
)
from pipeline.resolver.apply._extra cimport (
    EXTRA_CGROUP, EXTRA_CHANGE, EXTRA_CONTAINER, EXTRA_NAMES, EXTRA_SSH, add_change, find_extra, pick_extra,
)
from pipeline.resolver.apply._groups cimport TASK_KNOWN, pl_blocks_differ, pl_copy_blocks, pl_put_blocks
from pipeline.resolver.apply._record cimport (
    args_of, envs_of, exec_text, knows_args, knows_envs, parsed_record, sampled_of,
)
from pipeline.resolver.apply._images cimport SAMPLED_GROUPS, STATES_KNOWN, copied_states, put_states
from pipeline.resolver.apply._rows cimport HEIRS_SIZE, Rows
from pipeline.shm.layout._layout cimport (
    PL_CGROUP_SOURCE_INHERITED, PL_CGROUP_SOURCE_PROCFS, PL_KNOWN_ARGS, PL_KNOWN_AUID, PL_KNOWN_CAPS, PL_KNOWN_CGROUP,
    PL_KNOWN_COMM, PL_KNOWN_COST, PL_KNOWN_CREDS, PL_KNOWN_ENVS, PL_KNOWN_EXEC_TIME, PL_KNOWN_FILE, PL_KNOWN_IO,
    PL_KNOWN_NS, PL_KNOWN_SID, PL_KNOWN_START, PL_KNOWN_TTY, PL_MOUNT_DETACHED, PL_MOUNT_ORIGIN_EVENT,
    PL_MOUNT_ORIGIN_PROCFS, PL_MOUNT_RESOLVED, PL_MOUNT_SOURCE_ID, PL_MOUNT_SOURCE_SNAPSHOT, PL_MOUNT_VISIBLE,
    PL_ROW_ARGS_TRUNCATED, PL_ROW_CHANGE_SAMPLED, PL_ROW_ENVS_TRUNCATED, PL_ROW_KTHREAD, PL_ROW_NS_INIT, PL_ROW_SCRIPT,
    PL_ROW_START_TICKS, PL_ROW_STAT_INODE, PL_ROW_THROUGH_SYMLINK, pl_cold, pl_file, pl_hot,
)
from pipeline.shm.writer._arena cimport Arena
from pipeline.shm.writer._writer cimport STATUS_DIGEST, STATUS_TTY_GIVEN


cdef enum:
    #: Flags of an exec record that are about the file alone.
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
    IMAGE_KNOWN = PL_KNOWN_FILE | PL_KNOWN_ARGS | PL_KNOWN_ENVS | PL_KNOWN_EXEC_TIME


cdef inline uint32_t name_length(const pl_exec_any *body, const char *name) noexcept nogil:
    """Return the length of the invoked name; a NUL and the working directory may follow it."""
    cdef const char *nul = <const char *>memchr(name, 0, body.name_bytes)
    return body.name_bytes if nul == NULL else <uint32_t>(nul - name)


cdef bint is_through_symlink(const pl_exec_any *body, const char *path, const char *name) noexcept nogil:
    """Whether the invoked name led to the executable through a symbolic link.

    A relative name does not show that, nor does a name that is not in its shortest form, nor that of a descriptor.
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
    """Whether arguments or an environment are unknown. If they are not captured, only their length may be stored."""
    cdef uint32_t n = 0
    if ref == 0:
        return True
    arena.bytes(ref, &n)
    return is_cut and n <= 4


cdef class Images(Rows):
    """The facts of a row about a process and its image."""

    @property
    def has_heirs(self):
        """Whether `take_heirs` would return any."""
        return self.heirs_count != 0

    def take_heirs(self):
        """Return links of rows that had an `extra` before it was known what they inherit, and forget them.

        All other rows inherit at once. At most 1024 links are kept; `heirs_dropped` counts the rest.
        """
        cdef uint32_t i
        found = [self.heirs[i] for i in range(self.heirs_count)]
        self.heirs_count = 0
        return found

    # -- facts ---------------------------------------------------------------------------------------------------------

    cdef uint32_t groups_of_partial(self, const pl_task_any *task) noexcept nogil:
        """`groups_of` for a source that does not know everything."""
        # Zero means unknown there, unless the record names its groups (root's ids are zero).
        cdef uint32_t groups = task.known & TASK_KNOWN
        if groups:
            return groups
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
        return groups

    cdef void put_task(self, uint32_t row, const parsed_record *record, uint32_t groups) noexcept nogil:
        """Store `groups` of the record's TASK, and its container."""
        cdef const pl_task_any *task = record.task
        cdef pl_hot *hot = &self.hot[row]
        cdef pl_cold *cold = &self.cold[row]
        cdef uint32_t ref, dropped
        if hot.flags & PL_ROW_CHANGE_SAMPLED and self.differs(row, record, groups & hot.known & SAMPLED_GROUPS):
            self.drop_extra(row, EXTRA_CHANGE)  # of the change before
        if groups & PL_KNOWN_CREDS:
            if cold.extra_ref and (
                hot.uid != task.uid or hot.gid != task.gid or cold.euid != task.euid or cold.egid != task.egid
                or cold.fsuid != task.fsuid or cold.fsgid != task.fsgid
            ):
                self.drop_extra(row, EXTRA_NAMES)  # of the former ids
            hot.uid = task.uid
            hot.gid = task.gid
        pl_put_blocks(cold, task, record.ns_pid, groups)
        if groups & PL_KNOWN_NS and record.ns_pid == 1:
            hot.flags |= PL_ROW_NS_INIT
        if groups & PL_KNOWN_CGROUP:
            if self.is_elsewhere(row, task):
                # Path and container belong to the former cgroups.
                dropped = EXTRA_CONTAINER | EXTRA_NAMES
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
            self.note_tty(row, False)
            memcpy(cold.tty, task.tty, sizeof(cold.tty))
        if groups & STATES_KNOWN:
            hot.flags = put_states(hot.flags, task, groups)
        if record.container_bytes:
            ref = self.tables.names.intern(record.container, record.container_bytes)
            if ref and ref != cold.container_ref and cold.extra_ref:
                self.drop_extra(row, EXTRA_CONTAINER | EXTRA_NAMES)
            if ref:  # else the arena is full: the process keeps its container
                self.tables.set_container_ref(row, ref)
        if cold.cookie == 0:
            cold.cookie = task.cookie  # an image of an exec has its own; another record names it if the exec was lost
        if task.task_flags & PF_KTHREAD:
            hot.flags |= PL_ROW_KTHREAD
        hot.known |= groups

    cdef inline bint is_elsewhere(self, uint32_t row, const pl_task_any *task) noexcept nogil:
        """Whether the record shows that the process is in other cgroups than before; 0 is unknown."""
        return (task.cgroup_id != 0 and task.cgroup_id != self.hot[row].cgroup_id) or (
            task.cgroups_v1 != 0 and task.cgroups_v1 != self.cgroups.sets[self.hot[row].tgid]
        )

    cdef inline bint keeps_tty(self, uint32_t row, const pl_task_any *task) noexcept nogil:
        """Whether the row keeps its terminal: it was read from descriptor 0, and the record names none."""
        return task.tty[0] == 0 and self.tables.rows[row].status & STATUS_TTY_GIVEN

    cdef bint differs(self, uint32_t row, const parsed_record *record, uint32_t groups) noexcept nogil:
        """Whether `put_task` would change anything that a reader can see."""
        cdef const pl_task_any *task = record.task
        cdef const pl_hot *hot = &self.hot[row]
        cdef const pl_cold *cold = &self.cold[row]
        if groups & ~hot.known:
            return True
        if groups & PL_KNOWN_CREDS and (hot.uid != task.uid or hot.gid != task.gid):
            return True
        if pl_blocks_differ(cold, task, record.ns_pid, groups):
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
        return (
            groups & PL_KNOWN_TTY and memcmp(cold.tty, task.tty, sizeof(cold.tty)) != 0
            and not self.keeps_tty(row, task)
        )

    cdef void copy_groups(self, uint32_t row, uint32_t source, uint32_t groups) noexcept nogil:
        """Copy the groups of TASK facts that are known in another row."""
        cdef pl_hot *hot = &self.hot[row]
        cdef pl_cold *cold = &self.cold[row]
        cdef const pl_hot *from_hot = &self.hot[source]
        cdef const pl_cold *from_cold = &self.cold[source]
        groups &= from_hot.known & ~<uint32_t>(PL_KNOWN_COST | PL_KNOWN_IO)  # what another process has used
        if groups & PL_KNOWN_CREDS:
            hot.uid = from_hot.uid
            hot.gid = from_hot.gid
        pl_copy_blocks(cold, from_cold, groups)
        if groups & PL_KNOWN_CGROUP:
            hot.cgroup_id = from_hot.cgroup_id
            hot.cgroup_source = PL_CGROUP_SOURCE_INHERITED  # no record named the cgroup of this process
        if groups & PL_KNOWN_COMM:
            memcpy(hot.comm, from_hot.comm, sizeof(hot.comm))
        if groups & PL_KNOWN_TTY:
            memcpy(cold.tty, from_cold.tty, sizeof(cold.tty))
        if groups & STATES_KNOWN:
            hot.flags = copied_states(hot.flags, from_hot.flags, groups)
        hot.known |= groups

    cdef uint32_t copy_row(self, uint32_t source) noexcept nogil:
        """Return a new row that is a copy of `source`; 0: the table is full."""
        cdef uint32_t row = self.tables.copy_row(source)
        if row and self.tables.rows[source].status & STATUS_DIGEST:
            self.keep_digest(row, self.tables.digests[source])
        if row and self.tables.rows[source].status & STATUS_TTY_GIVEN:
            self.note_tty(row, True)
        return row

    cdef void copy_image(self, uint32_t row, uint32_t source) noexcept nogil:
        """Copy what a forked process shares with the image that forked it; arena records are held once more."""
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
        if self.tables.rows[source].status & STATUS_DIGEST:
            self.keep_digest(row, self.tables.digests[source])

    cdef bint same_image(self, uint32_t row, uint32_t other) noexcept nogil:
        """Whether two images are of the same file, arguments, environment and credentials (specification 1.4 to 1.6).

        If it is not known what was hidden in arguments and environment, the stored strings are compared.
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
        if self.tables.rows[row].status & self.tables.rows[other].status & STATUS_DIGEST:
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

    cdef bint is_same_again(self, uint32_t row, const parsed_record *record, uint32_t groups) noexcept nogil:
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
        if self.tables.rows[row].status & STATUS_DIGEST:
            if self.tables.digests[row] != record.digest:
                return False
        else:
            strings += body.path_bytes + body.name_bytes
            if not self.holds(
                self.tables.args, hot.args_ref, strings, body.args_bytes, not knows_args(body)
            ) or not self.holds(
                self.tables.envs, cold.envs_ref, strings + body.args_bytes, body.envs_bytes,
                not knows_envs(body),
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
        """Whether a row and a record have the same strings; absent strings differ from empty ones."""
        cdef uint32_t held = 0
        cdef const char *bytes
        if ref == 0:
            return n == 0 and is_absent
        bytes = arena.bytes(ref, &held)
        return not (n == 0 and is_absent) and held == 4 + <uint64_t>n and memcmp(bytes + 4, text, n) == 0

    cdef void clear_image(self, uint32_t row) noexcept nogil:
        """Make the image unknown."""
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

    cdef void put_image(self, uint32_t row, const parsed_record *record, bint is_new) noexcept nogil:
        """Store the facts of an exec record about the image. The caller has checked that the strings are there.

        Args:
            is_new: the row holds another image, or none. If an arena is full, a new image never shows strings of the
                image before: its file is unknown, and its arguments and environment are unknown and marked as
                truncated. If the image is the same, the row keeps its strings. Each string that was not stored is
                counted in `arena_full`.
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

    cdef bint complete_image(self, uint32_t row, const parsed_record *record) noexcept nogil:
        """Store unknown facts of an image that `/proc` shows; return whether there were any.

        Known facts stay, because a process can overwrite its arguments and its environment in `/proc`. For the same
        reason, arguments of an event that did not fit into the arena stay unknown.
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
            args.n or (ref and args.is_known)
        )
        has_envs = not before & PL_KNOWN_ENVS and not hot.flags & PL_ROW_ENVS_TRUNCATED and (
            envs.n or (ref and envs.is_known)
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
                hot.flags &= ~PL_ROW_ARGS_TRUNCATED  # the arena is full; the next reading may succeed
        if has_envs:
            cold.envc = <uint16_t>min(body.envc, <uint32_t>0xFFFF)
            self.put_text(row, &envs, self.tables.envs, &cold.envs_ref, True, 0, 0)
            if cold.envs_ref == 0:
                hot.flags &= ~PL_ROW_ENVS_TRUNCATED
        if not before & (PL_KNOWN_ARGS | PL_KNOWN_ENVS):
            self.keep_digest(row, record.digest)
        elif hot.known & ~before & (PL_KNOWN_ARGS | PL_KNOWN_ENVS):
            self.keep_digest(row, 0)  # it belonged to the strings that were known before
        self.tables.end(row)
        return hot.known & ~before != 0

    cdef void put_name(
        self, uint32_t row, const pl_exec_any *body, const char *strings, bint is_new, uint32_t flags
    ) noexcept nogil:
        """Between begin and end: store the invoked name.

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
        # The exec program compares the two itself, and knows a script's interpreter; other sources report only names.
        if body.exec_flags & PL_EXEC_THROUGH_SYMLINK or is_through_symlink(body, strings, strings + body.path_bytes):
            hot.flags |= PL_ROW_THROUGH_SYMLINK
        if body.exec_flags & PL_EXEC_SCRIPT:
            hot.flags |= PL_ROW_SCRIPT

    cdef void put_text(
        self, uint32_t row, const exec_text *strings, Arena arena, uint32_t *place, bint is_new, uint32_t flags,
        uint32_t known
    ) noexcept nogil:
        """Between begin and end: store arguments or the environment.

        Args:
            arena, place: the arena of the strings, and the row's reference to them.
            is_new, flags: as in `put_name`.
            known: IMAGE_KNOWN of the image that the row has.
        """
        cdef pl_hot *hot = &self.hot[row]
        cdef uint32_t ref
        if not strings.is_known:
            self.tables.set_ref(arena, place, 0)
            return
        ref = arena.intern2(<const char *>&strings.full, 4, strings.text, strings.n)
        if ref == 0 and place[0] and not is_new:
            hot.known |= known & strings.known
            hot.flags |= flags & strings.truncated
            return
        self.tables.set_ref(arena, place, ref)
        if ref:
            hot.known |= strings.known
        if ref == 0 or strings.is_cut:
            hot.flags |= strings.truncated

    cdef uint32_t file_of(self, const parsed_record *record) noexcept nogil:
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

    cdef void put_mount(self, pl_file *file, const parsed_record *record) noexcept nogil:
        """Store what the walk of the path found about the mount of the file; the mounts were as at that time."""
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
            return  # no path was walked: an old recording, or a source that gets its paths elsewhere
        if flags & PL_EXEC_MEMFD:
            file.mount_flags = PL_MOUNT_RESOLVED | PL_MOUNT_DETACHED
        elif body.mount_end:
            # The walk passed the root directory of the task.
            file.mount_flags = PL_MOUNT_RESOLVED
            if flags & PL_EXEC_DETACHED:
                file.mount_flags |= PL_MOUNT_DETACHED
            elif not flags & PL_EXEC_NO_ROOT:
                file.mount_flags |= PL_MOUNT_VISIBLE

    cdef void exact_start(self, uint32_t row, uint64_t start) noexcept nogil:
        """Correct the start of a process, which was known to the tick only, in all of its images."""
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

    # -- extra ---------------------------------------------------------------------------------------------------------

    cdef void reset_extra(self, uint32_t row, uint32_t ref, uint32_t places) noexcept nogil:
        """Between begin and end of a new image in a row that holds an earlier one: drop what callers added to it.

        Call it when the row has the new image's cgroup and container.

        Args:
            ref: `extra` of the earlier image, of which an exec inherits a part; 0: none.
            places: keys that are inherited besides; see `same_places`.
        """
        self.cold[row].cap_attempted = 0
        self.cold[row].cap_used = 0
        self.tables.args.hold(ref)  # it may be the row's own
        self.tables.set_extra_ref(row, 0)
        self.inherit_extra(row, ref, EXTRA_SSH | places)
        self.tables.args.release(ref)

    cdef uint32_t same_places(self, uint32_t row, const pl_hot *hot, const pl_cold *cold) noexcept nogil:
        """Which of EXTRA_CONTAINER, EXTRA_CGROUP and EXTRA_NAMES hold for the process of `row`.

        They hold because it is in the same place, and its ids stand for the same users.

        Args:
            hot, cold: the row that has the `extra`. Equal arena references are equal container ids.
        """
        cdef uint32_t keys = 0
        if hot.cgroup_id and self.hot[row].cgroup_id == hot.cgroup_id:
            keys = EXTRA_CGROUP
        if self.cold[row].container_ref != cold.container_ref:
            return keys
        if cold.container_ref:
            keys |= EXTRA_CONTAINER
        if (
            self.hot[row].known & hot.known & PL_KNOWN_CREDS
            and self.hot[row].uid == hot.uid and self.hot[row].gid == hot.gid
            and self.cold[row].euid == cold.euid and self.cold[row].egid == cold.egid
            and self.cold[row].fsuid == cold.fsuid and self.cold[row].fsgid == cold.fsgid
        ):
            keys |= EXTRA_NAMES
        return keys

    cdef void inherit_extra(self, uint32_t row, uint32_t ref, uint32_t keys) noexcept nogil:
        """Between begin and end of `row`: inherit a part of an `extra`.

        Args:
            ref: `extra` of the image that forked or was replaced; 0: none.
            keys: EXTRA_* that are inherited.
        """
        cdef uint32_t n = 0
        cdef const char *picked
        if ref == 0 or find_extra(self.tables.args, ref, keys) == 0:
            return
        if self.cold[row].extra_ref:
            self.inherit_later(row)  # /proc filled the row before its fork arrived
            return
        picked = pick_extra(self.tables.args, ref, keys, False, &n)
        if picked == NULL:
            self.tables.args.hold(ref)
            self.tables.set_extra_ref(row, ref)
        else:
            self.tables.set_extra_ref(row, self.tables.args.intern(picked, n))

    cdef void drop_extra(self, uint32_t row, uint32_t keys) noexcept nogil:
        """Between begin and end of `row`: drop EXTRA_* keys, which described the process before a change."""
        cdef uint32_t ref = self.cold[row].extra_ref, n = 0
        cdef const char *picked
        if find_extra(self.tables.args, ref, keys) == 0:
            return
        picked = pick_extra(self.tables.args, ref, ~keys, True, &n)
        ref = self.tables.args.intern(picked, n)
        if ref == 0 and n:
            # The arena is full. Release the row's own block first, which is at least as large.
            self.tables.set_extra_ref(row, 0)
            ref = self.tables.args.intern(picked, n)
        self.tables.set_extra_ref(row, ref)

    cdef void put_change(self, uint32_t row, const parsed_record *record) noexcept nogil:
        """Between begin and end of `row`: mark a change that a comparison found, and store when it happened.

        The mark comes first, so that a kill in between leaves no limits without it.
        """
        cdef const pl_sampled_any *sampled = sampled_of(record)
        cdef uint32_t ref
        self.hot[row].flags |= PL_ROW_CHANGE_SAMPLED
        if sampled == NULL and record.header.flags & PL_FLAG_PARTIAL:
            self.drop_extra(row, EXTRA_CHANGE)  # it has the limits of the change before; this one has none
            return
        ref = add_change(
            self.tables.args, self.cold[row].extra_ref, sampled.changed_after_boot_ns if sampled != NULL else 0,
            record.header.time_boot_ns, self.tables.control.boot_unix_ns,
        )
        if ref:
            self.tables.set_extra_ref(row, ref)
        else:
            self.drop_extra(row, EXTRA_CHANGE)  # there is no room; it has the limits of the change before

    cdef void drop_change(self, uint32_t row) noexcept nogil:
        """Between begin and end of `row`: drop the limits of a sampled change; the mark goes after them."""
        if self.hot[row].flags & PL_ROW_CHANGE_SAMPLED:
            self.drop_extra(row, EXTRA_CHANGE)

    cdef void inherit_later(self, uint32_t row) noexcept nogil:
        if self.heirs_count == HEIRS_SIZE:
            self.heirs_dropped += 1
            return
        self.heirs[self.heirs_count] = self.tables.link(row)
        self.heirs_count += 1
