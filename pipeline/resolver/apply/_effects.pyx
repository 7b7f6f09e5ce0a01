"""Apply each kind of event to the tables: one implementation for batches, single calls and facts from /proc.

Follows specification 3.3.3, 3.3.4, 3.3.7, 3.3.11 and 5. It differs in the structure of 9.2 (the root of a process moves
when its parent changes, so images are never lost) and in the identity (tgid with start time). An exec is in _execs.pyx,
links between processes are in _lineage.pyx, and the order of events is decided in `pipeline.resolver.merge`.

    fork     makes a row for the process: a copy of the image that forked it, with the record's facts about the child
    exec     makes a row for the image, with the image that it replaces as its ancestor, unless the two are the same
    exit     ends the process; its children move to the reaper that the record predicts
    cred, comm, cgroup, sid   change the head, if anything differs
    caps     the same; the capabilities that were used are added to the image of that time
    any      names the current parent of the process, which confirms or corrects the tables

Events are keyed by identity and time. So an event that is applied again changes nothing, and a late event does not undo
what younger ones did. A fork that finds its process in the tables (from /proc, or from a younger record that came
first) completes it. A record of an unknown process enters the process, marked; only an exit does not.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from pipeline.bus.frames._column cimport pl_get16, pl_get32, pl_get64
from pipeline.records._limits cimport CHAIN_LIMIT, TTY_BYTES
from pipeline.records._records cimport (
    PL_EXEC_ARGS_TRUNCATED, PL_EXEC_ARGS_UNREADABLE, PL_EXEC_ENVS_TRUNCATED, PL_EXEC_ENVS_UNREADABLE,
    PL_EXIT_NO_REAPER, PL_EXIT_NS_DIES, PL_FLAG_CGROUP_MADE, PL_FLAG_HEAD_ONLY, PL_FLAG_KEYED, PL_FLAG_PARTIAL,
    PL_FLAG_SAMPLED, PL_KIND_CAPS, PL_KIND_CGROUP, PL_KIND_COMM, PL_KIND_COUNT, PL_KIND_CRED, PL_KIND_EXEC,
    PL_KIND_EXIT, PL_KIND_FORK, PL_KIND_SID, pl_caps_any, pl_cost_any, pl_exec_any, pl_exit_any, pl_fork_any,
    pl_header_any, pl_sampled_any, pl_task_any,
)
from pipeline.resolver.apply._execs cimport END_FLAGS, Execs, INODE_OTHER, INODE_UNCLEAR
from pipeline.resolver.apply._extra cimport EXTRA_SSH, EXTRA_TRACER, add_sender
from pipeline.resolver.apply._images cimport SAMPLED_GROUPS
from pipeline.resolver.apply._record cimport (
    cost_groups, cost_of, find_container, knows_args, knows_envs, parsed_record, sampled_of, sender_of, strings_bytes,
)
from pipeline.resolver.apply._rows cimport UNKNOWN_OWNERS, ended_process
from pipeline.resolver.merge._queues cimport Batch, columns, pending_event
from pipeline.secrets._conceal cimport pl_digest
from pipeline.shm.layout._layout cimport (
    PL_CGROUP_SOURCE_EVENT, PL_CGROUP_SOURCE_PROCFS, PL_CGROUP_SOURCE_UNKNOWN, PL_C_ARGS_SIZE, PL_C_ARGS_TRUNCATED,
    PL_C_BROKEN_LINEAGE, PL_C_ENVS_SIZE, PL_C_ENVS_TRUNCATED, PL_C_EVENTS_CAPS, PL_C_EXIT_UNKNOWN, PL_C_HEAD_ONLY,
    PL_C_INODE_ERROR_FORK_PARENT_MISSING, PL_C_MALFORMED, PL_C_PARENT_MISSING, PL_C_PATH_ERROR,
    PL_C_REPARENTS_CORRECTED, PL_KNOWN_AUID, PL_KNOWN_CAPS, PL_KNOWN_CGROUP, PL_KNOWN_COMM, PL_KNOWN_CREATOR,
    PL_KNOWN_CREDS, PL_KNOWN_FORK_TIME, PL_KNOWN_NS, PL_KNOWN_SID, PL_KNOWN_TTY, PL_ROW_ADOPTED,
    PL_ROW_ADOPTION_PREDICTED, PL_ROW_BEFORE_CAPTURE, PL_ROW_CHANGE_SAMPLED, PL_ROW_DELETED, PL_ROW_EXIT_KNOWN,
    PL_ROW_EXIT_UNSEEN, PL_ROW_FOREIGN, PL_ROW_GAP, PL_ROW_HEAD, PL_ROW_HEAD_ONLY, PL_ROW_KTHREAD,
    PL_ROW_PARENT_MISSING, PL_ROW_START_TICKS, PL_ROW_STAT_INODE, PL_SOURCE_EVENT, PL_SOURCE_MAP, PL_SOURCE_PROCFS,
    PL_TOPIC_CONTEXT, PL_TOPIC_CRED, PL_TOPIC_EXIT, PL_TOPIC_FORK, PL_TOPIC_REPARENT, pl_cold, pl_hot, pl_prefetch,
    pl_prefetch_write,
)
from pipeline.shm.writer._writer cimport STATUS_TTY_GIVEN


cdef enum:
    #: Most exits between two commits: twice the batch of the duty cycle.
    RETOLD_LIMIT = 16384
    #: An event's record, its pids' states and its rows are fetched into the cache this many events ahead. Without that,
    #: apply waits for memory most of the time (bench/ingest_replay.py).
    AHEAD_RECORD = 16
    AHEAD_INDEX = 8
    AHEAD_ROWS = 4
    #: Bytes of an event's strings that are fetched at most: the arguments and the environment of most programs.
    AHEAD_STRINGS = 4096


cdef uint64_t digest_of(const pl_exec_any *body, const char *strings) noexcept nogil:
    """Digest of the arguments and the environment in a record that hides nothing; 0: they could not be read.

    conceal.py computes it for records that hide something. Strings of which the capture keeps nothing are absent.
    """
    cdef const char *args = strings + body.path_bytes + body.name_bytes
    cdef const char *envs = args + body.args_bytes
    if body.exec_flags & (PL_EXEC_ARGS_UNREADABLE | PL_EXEC_ENVS_UNREADABLE):
        return 0
    return pl_digest(
        args if knows_args(body) else NULL, body.args_bytes, envs if knows_envs(body) else NULL, body.envs_bytes
    )


# -- parts of apply_batch and apply_one, inlined -----------------------------------------------------------------------

cdef inline void count_event(Events self, const pl_header_any *header, const char *body) noexcept nogil:
    """Add an event of a batch to the counters that describe what arrives (specification 6).

    Single calls of the Python API do not come here; they count by `Stats`, where specification 6 says so. `body` is
    NULL for a record that is reduced to its header: such a record counts only in BROKEN_LINEAGE.
    """
    cdef const pl_exec_any *exec_body
    cdef uint16_t flags
    cdef uint32_t row
    if header.flags & PL_FLAG_CGROUP_MADE:
        return  # it is about no process
    row = self.find(header.tgid, header.start_boot_ns, header.flags & PL_FLAG_PARTIAL)
    # Events of kernel threads are not events of the specification (2.5, step 5).
    if row and not self.hot[row].flags & PL_ROW_KTHREAD and self.tables.lineage(row) == 0:
        self.counters[PL_C_BROKEN_LINEAGE] += 1
    if header.kind != PL_KIND_EXEC or body == NULL:
        return
    exec_body = <const pl_exec_any *>body
    flags = exec_body.exec_flags
    if knows_args(exec_body):
        self.counters[PL_C_ARGS_SIZE] += exec_body.argc
        self.counters[PL_C_ARGS_TRUNCATED] += (flags & PL_EXEC_ARGS_TRUNCATED) != 0
    if knows_envs(exec_body):
        self.counters[PL_C_ENVS_SIZE] += exec_body.envc
        self.counters[PL_C_ENVS_TRUNCATED] += (flags & PL_EXEC_ENVS_TRUNCATED) != 0
    if exec_body.path_bytes == 0:
        self.counters[PL_C_PATH_ERROR] += 1


# Parts of the same kind are one behind the other in a frame, and begin anywhere in a cache line. So the last byte of
# each 64 is named here: the line with the first one came with the part before.
cdef inline void prefetch_record(const pending_event *item, const columns *all) noexcept nogil:
    cdef const columns *col = &all[item.frame]
    cdef const char *task = col.task + item.event * sizeof(pl_task_any)
    pl_prefetch(col.header + (item.event + 1) * sizeof(pl_header_any) - 1)
    if col.task_of == NULL:  # else they are few and near
        pl_prefetch(task + 63)
        pl_prefetch(task + 127)
        pl_prefetch(task + sizeof(pl_task_any) - 1)
    pl_prefetch(col.exit + (item.body + 1) * sizeof(pl_exit_any) - 1)
    pl_prefetch(col.fork + (item.body + 1) * sizeof(pl_fork_any) - 1)


cdef inline void prefetch_pids(Events self, const pending_event *item, const columns *all) noexcept nogil:
    cdef const pl_header_any *header = &(<const pl_header_any *>all[item.frame].header)[item.event]
    cdef const char *strings = all[item.frame].blob + item.var
    cdef uint32_t at, n = min(header.var_bytes, <uint32_t>AHEAD_STRINGS)
    if header.tgid < self.tables.pid_capacity:
        pl_prefetch_write(&self.tables.index[header.tgid])
        pl_prefetch(&self.pids[header.tgid])
        pl_prefetch(&self.tables.kin[header.tgid])
        pl_prefetch(&self.cgroups.sets[header.tgid])
    if header.ppid < self.tables.pid_capacity:
        pl_prefetch(&self.tables.index[header.ppid])
        pl_prefetch(&self.tables.kin[header.ppid])
        if header.kind == PL_KIND_FORK:
            pl_prefetch(&self.cgroups.sets[header.ppid])
    if n:
        for at in range(63, n, 64):
            pl_prefetch(strings + at)
        pl_prefetch(strings + n - 1)


cdef inline void prefetch_rows(Events self, const pending_event *item, const columns *all) noexcept nogil:
    cdef const pl_header_any *header = &(<const pl_header_any *>all[item.frame].header)[item.event]
    cdef uint32_t row = self.tables.head(header.tgid)
    if row:
        self.tables.fetch(row)
        if header.kind == PL_KIND_EXIT:
            pl_prefetch_write(&self.tables.costs[row])
    row = self.tables.head(header.ppid)
    if row:
        self.tables.fetch_parent(row, header.ppid, header.kind == PL_KIND_FORK)


cdef inline void set_source(parsed_record *record) noexcept nogil:
    """Set the fields of a record that follow from its flags and its source."""
    cdef uint32_t flags = record.header.flags
    record.container_bytes = 0
    record.is_stat = (flags & PL_FLAG_PARTIAL) != 0
    record.cgroup_source = PL_CGROUP_SOURCE_EVENT
    if flags & PL_FLAG_KEYED:
        find_container(record)
    # Sources without BPF, except tracers, read /proc when they learn of an event. Entries of the kernel's maps do not
    # say where their cgroup was read.
    if flags & (PL_FLAG_PARTIAL | PL_FLAG_KEYED) == PL_FLAG_PARTIAL or record.source >= PL_SOURCE_PROCFS:
        record.cgroup_source = PL_CGROUP_SOURCE_PROCFS
    elif record.source == PL_SOURCE_MAP:
        record.cgroup_source = PL_CGROUP_SOURCE_UNKNOWN


cdef inline bint is_cut_short(const parsed_record *record) noexcept nogil:
    """Whether an exec record has fewer bytes of strings than it says."""
    return record.body.exec != NULL and strings_bytes(record.body.exec) > record.header.var_bytes


cdef inline bint is_sampled_change(const pl_header_any *header) noexcept nogil:
    """Whether a comparison found the change of credentials or session that a record is about."""
    return (header.flags & PL_FLAG_SAMPLED) != 0 and (header.kind == PL_KIND_CRED or header.kind == PL_KIND_SID)


cdef inline void remember_end(ended_process *ended, const parsed_record *record, bint has_reaper) noexcept nogil:
    """Store the facts of an exit record, without what the process has used."""
    cdef const pl_header_any *header = record.header
    cdef const pl_exit_any *body = record.body.exit
    ended.tgid = header.tgid
    ended.start = header.start_boot_ns
    ended.time = header.time_boot_ns
    ended.reaper_tgid = body.reaper_tgid if has_reaper else 0
    ended.reaper_start = body.reaper_start_boot_ns if has_reaper else 0
    ended.has_code = body != NULL
    ended.exit_code = body.exit_code if body != NULL else 0
    ended.cost_known = 0


# -- parts of fill_fork, inlined ---------------------------------------------------------------------------------------

cdef inline uint32_t put_creator(Events self, uint32_t row, const parsed_record *record) noexcept nogil:
    """Store the creator of a new process as far as the record names it; return the creator's row, or 0."""
    cdef const pl_header_any *header = record.header
    cdef const pl_fork_any *body = record.body.fork
    cdef pl_hot *hot = &self.hot[row]
    cdef bint ticks = header.flags & PL_FLAG_PARTIAL
    if body != NULL and body.creator_tgid:
        self.cold[row].creator_tgid = body.creator_tgid
        self.cold[row].fork_flags = body.clone_flags
        hot.known |= PL_KNOWN_CREATOR
        if body.creator_tgid != header.ppid or body.creator_start_boot_ns != header.parent_start_boot_ns:
            hot.flags |= PL_ROW_ADOPTED
        return self.find(body.creator_tgid, body.creator_start_boot_ns, ticks)
    # Sources without eBPF report only the parent, which is the creator except with CLONE_PARENT.
    return self.tables.follow(hot.parent) if ticks else 0


cdef inline uint32_t inherit_groups(
    Events self, uint32_t row, uint32_t image, const parsed_record *record
) noexcept nogil:
    """Copy the groups of facts that the record lacks from the creator's image; return which were copied."""
    cdef uint32_t inherited = ~record.groups & self.hot[image].known if record.task != NULL else 0
    if record.header.flags & PL_FLAG_PARTIAL and inherited & PL_KNOWN_NS:
        # In the outermost pid namespace the child has one number, which is known; a child in another namespace would
        # have been reported. In an inner namespace its number there is unknown.
        if self.cold[image].ns_pid == self.hot[image].tgid:
            self.cold[row].ns_pid = record.header.tgid
        else:
            inherited &= ~PL_KNOWN_NS
    self.copy_groups(row, image, inherited)
    return inherited


cdef inline void inherit_executable(
    Events self, uint32_t row, uint32_t image, const parsed_record *record
) noexcept nogil:
    """Check whether the creator's image, which was copied, has the executable that the record names.

    If it has another one, the creator's exec was lost; both processes are then read from /proc.
    """
    cdef const pl_header_any *header = record.header
    cdef pl_hot *hot = &self.hot[row]
    cdef uint64_t inode = record.task.exe_inode if record.task != NULL else 0
    cdef int found
    if inode == 0 or inode == self.hot[image].inode:
        return
    found = self.compare_inode(image, inode, record.task.cookie, record.is_stat)
    if found == INODE_OTHER and self.is_provisional(image, header.time_boot_ns):
        found = INODE_UNCLEAR  # the creator's image comes from /proc and is younger than this fork
    if found == INODE_OTHER:
        # The copy keeps the facts of the image before (specification R10), its cookie too, so forks of this process do
        # not match either.
        hot.flags |= PL_ROW_PARENT_MISSING | PL_ROW_GAP
        self.counters[PL_C_PARENT_MISSING] += 1
        self.counters[PL_C_INODE_ERROR_FORK_PARENT_MISSING] += 1
        self.want(header.tgid, header.start_boot_ns)
        self.want(self.hot[image].tgid, self.hot[image].start_boot_ns)
        return
    if found == INODE_UNCLEAR and self.hot[image].inode:
        # The creator's path and arguments may belong to another executable than the child's.
        self.clear_image(row)
        self.cold[row].cookie = 0
        hot.flags |= PL_ROW_GAP
        self.want(header.tgid, header.start_boot_ns)
    hot.inode = inode
    hot.flags &= ~PL_ROW_STAT_INODE


cdef inline void inherit_cgroup(
    Events self, uint32_t row, uint32_t image, const parsed_record *record, uint32_t inherited
) noexcept nogil:
    """Copy the cgroup path from the creator's image, and the container, if both are in the same cgroups."""
    cdef const pl_task_any *task = record.task
    cdef uint64_t others
    if not inherited & PL_KNOWN_CGROUP:
        if task.cgroup_id == 0 or task.cgroup_id != self.hot[image].cgroup_id:
            return
        self.hot[row].cgroup_source = record.cgroup_source
    self.hot[row].cgroup_id = self.hot[image].cgroup_id
    self.tables.names.hold(self.cold[image].cgroup_ref)
    self.tables.set_cgroup_ref(row, self.cold[image].cgroup_ref)
    others = self.cgroups.sets[self.hot[image].tgid]
    if task.cgroups_v1 == 0 or task.cgroups_v1 == others:
        self.cgroups.sets[record.header.tgid] = others
        self.tables.names.hold(self.cold[image].container_ref)
        self.tables.set_container_ref(row, self.cold[image].container_ref)


cdef inline void inherit_tty(Events self, uint32_t row, uint32_t image, const parsed_record *record) noexcept nogil:
    """Copy a terminal that was found by descriptors, which a fork copies, unless the record names one."""
    if self.tables.rows[image].status & STATUS_TTY_GIVEN and not (
        record.groups & PL_KNOWN_TTY and record.task.tty[0]
    ):
        memcpy(self.cold[row].tty, self.cold[image].tty, TTY_BYTES)
        self.note_tty(row, True)


cdef class Events(Execs):
    """Applies events to the tables."""

    cdef void apply_batch(self, Batch batch) noexcept nogil:
        cdef uint32_t i, count = batch.count
        cdef const pending_event *items = batch.items
        cdef const columns *all = batch.queues.columns
        cdef const pending_event *item
        cdef const columns *col
        cdef const pl_header_any *header
        cdef parsed_record record
        memset(&record, 0, sizeof(record))
        for i in range(count):
            if i + AHEAD_RECORD < count:
                prefetch_record(&items[i + AHEAD_RECORD], all)
            if i + AHEAD_INDEX < count:
                prefetch_pids(self, &items[i + AHEAD_INDEX], all)
            if i + AHEAD_ROWS < count:
                prefetch_rows(self, &items[i + AHEAD_ROWS], all)
            item = &items[i]
            col = &all[item.frame]
            header = &(<const pl_header_any *>col.header)[item.event]
            record.header = header
            record.task = NULL
            record.body.bytes = NULL
            record.strings = col.blob + item.var
            record.groups = 0
            record.source = PL_SOURCE_EVENT
            if not header.flags & PL_FLAG_HEAD_ONLY:
                if col.task_of == NULL:
                    record.task = &(<const pl_task_any *>col.task)[item.event]
                    record.ns_pid = record.task.ns_pid
                else:
                    record.task = &(<const pl_task_any *>col.task)[pl_get16(col.task_of + 2 * <uint64_t>item.event)]
                    record.ns_pid = pl_get32(col.ns_pid + 4 * <uint64_t>item.event)
                record.groups = self.groups_of(header.flags, record.task)
                if header.kind == PL_KIND_FORK:
                    record.body.fork = &(<const pl_fork_any *>col.fork)[item.body]
                elif header.kind == PL_KIND_EXIT:
                    record.body.exit = &(<const pl_exit_any *>col.exit)[item.body]
                elif header.kind == PL_KIND_EXEC:
                    record.body.exec = &(<const pl_exec_any *>col.exec)[item.body]
                    record.digest = 0 if col.digests == NULL else pl_get64(col.digests + 8 * <uint64_t>item.body)
            self.apply_one(&record)
            count_event(self, header, record.body.bytes)

    cdef void apply_one(self, parsed_record *record) noexcept nogil:
        cdef const pl_header_any *header = record.header
        set_source(record)
        if (
            header.tgid == 0 or header.kind == 0 or header.kind >= PL_KIND_COUNT
            or header.tgid >= (self.tables.pid_capacity if header.flags & PL_FLAG_KEYED else self.tables.root_pids)
        ):
            self.counters[PL_C_MALFORMED] += 1
            return
        if header.ppid >= self.tables.root_pids and not header.flags & PL_FLAG_KEYED:
            self.apply_orphan(record)
            return
        if header.kind == PL_KIND_CGROUP:
            self.learn_cgroup(record)
        if header.flags & PL_FLAG_CGROUP_MADE:
            return  # it is about no process
        if record.task == NULL:
            self.counters[PL_C_HEAD_ONLY] += 1
        if header.kind == PL_KIND_FORK:
            self.fork(record)
        elif header.kind == PL_KIND_EXIT:
            self.exit(record)
        elif header.kind != PL_KIND_EXEC:
            self.change(record)
        elif is_cut_short(record):
            self.counters[PL_C_MALFORMED] += 1
            return
        else:
            if record.body.exec != NULL and record.digest == 0:
                record.digest = digest_of(record.body.exec, record.strings)
            self.exec(record)
        self.counters[PL_C_EVENTS_CAPS if header.kind == PL_KIND_CAPS else header.kind] += 1

    cdef void apply_orphan(self, parsed_record *record) noexcept nogil:
        """Apply a record without its parent: the index has no room for that pid.

        Its place in the index belongs to a process of a tracer.
        """
        cdef const pl_header_any *header = record.header
        cdef pl_header_any orphan = header[0]
        orphan.ppid = 0
        orphan.parent_start_boot_ns = 0
        record.header = &orphan
        self.apply_one(record)
        record.header = header

    cdef void learn_cgroup(self, const parsed_record *record) noexcept nogil:
        """Note the name of a cgroup. It comes before the event, which is published with it."""
        cdef const pl_header_any *header = record.header
        if record.task != NULL and record.strings != NULL and header.var_bytes and not header.flags & PL_FLAG_KEYED:
            self.cgroups.learn(
                record.strings, header.var_bytes, record.task,
                header.time_boot_ns if header.flags & PL_FLAG_CGROUP_MADE else 0,
            )

    # -- fork ----------------------------------------------------------------------------------------------------------

    cdef void fork(self, const parsed_record *record) noexcept nogil:
        cdef const pl_header_any *header = record.header
        cdef uint32_t row = self.find(header.tgid, header.start_boot_ns, header.flags & PL_FLAG_PARTIAL), newer = 0
        if (
            row and header.flags & PL_FLAG_PARTIAL and self.hot[row].start_boot_ns != header.start_boot_ns
            and self.hot[row].exit_boot_ns and self.hot[row].exit_boot_ns < header.start_boot_ns
        ):
            row = 0  # another process that owned the pid earlier in the same tick
        if row:
            self.complete_fork(row, record)
            return
        row = self.open_entry(header, header.time_boot_ns, &newer)
        if row == 0:
            return
        self.fill_fork(row, record, newer)
        self.insert_entry(row, newer)
        self.count_added(record.source)
        if not newer:
            self.begin_pid(header)
            if record.task == NULL:
                self.want(header.tgid, header.start_boot_ns)
            if self.tables.first_child(header.tgid) or self.pids[header.tgid].awaited:
                self.link_waiting(row, header.time_boot_ns)
        self.emit(PL_TOPIC_FORK, PL_KIND_FORK, row, header.time_boot_ns, 0)
        self.close_if_ended(row)

    cdef void fill_fork(self, uint32_t row, const parsed_record *record, uint32_t newer) noexcept nogil:
        """Between begin and end of a process's first image: store its state right after the fork."""
        cdef const pl_header_any *header = record.header
        cdef const pl_task_any *task = record.task
        cdef const pl_fork_any *body = record.body.fork
        cdef pl_hot *hot = &self.hot[row]
        cdef pl_cold *cold = &self.cold[row]
        cdef bint ticks = header.flags & PL_FLAG_PARTIAL
        cdef uint32_t creator, image = 0, inherited = 0
        cdef uint64_t inode = task.exe_inode if task != NULL else 0
        hot.source = record.source
        cold.fork_boot_ns = header.time_boot_ns
        cold.tid = header.tid
        cold.exec_inode = inode
        hot.known |= PL_KNOWN_FORK_TIME
        if ticks and header.start_boot_ns % self.tick_ns == 0:
            hot.flags |= PL_ROW_START_TICKS
        self.missing_parent(row, header, newer)
        creator = put_creator(self, row, record)
        if creator and creator != row:
            image = self.image_at(creator, header.time_boot_ns)
            if hot.known & PL_KNOWN_CREATOR:
                self.tables.set_creator(row, image)
            self.copy_image(row, image)
            inherited = inherit_groups(self, row, image, record)
            inherit_executable(self, row, image, record)
        elif inode:
            hot.inode = inode
        elif ticks and not record.groups:
            # The record has no facts, and there is no parent to inherit them from.
            self.want(header.tgid, header.start_boot_ns)
        if body != NULL and body.creator_tgid == 0 and not ticks:
            # The creator is outside of the recorded pid namespace. Its image, which the child has, is not recorded.
            self.want(header.tgid, header.start_boot_ns)
        if task == NULL:
            hot.flags |= PL_ROW_HEAD_ONLY | PL_ROW_GAP
            if image:
                self.inherit_extra(row, self.cold[image].extra_ref, EXTRA_SSH | EXTRA_TRACER)
            return
        if image:
            inherit_cgroup(self, row, image, record, inherited)
            inherit_tty(self, row, image, record)
        self.put_task(row, record, record.groups)
        if image and self.cold[image].extra_ref:
            self.inherit_extra(
                row, self.cold[image].extra_ref,
                EXTRA_SSH | EXTRA_TRACER
                | self.same_places(row, &self.hot[image], &self.cold[image]),
            )

    cdef void complete_fork(self, uint32_t row, const parsed_record *record) noexcept nogil:
        """Complete a process that is in the tables: /proc or another record was faster, or this record is repeated."""
        cdef const pl_header_any *header = record.header
        cdef const pl_fork_any *body = record.body.fork
        cdef uint32_t root = self.root(row), parent, creator, image, previous, n
        cdef bint ticks = header.flags & PL_FLAG_PARTIAL
        cdef pl_hot *hot
        if self.hot[row].flags & PL_ROW_START_TICKS and not (ticks and header.start_boot_ns % self.tick_ns == 0):
            self.exact_start(row, header.start_boot_ns)
        hot = &self.hot[root]
        if root == row and not hot.known & PL_KNOWN_FORK_TIME and self.is_provisional(row, header.time_boot_ns):
            # The facts from /proc are younger than this event. Return to the state at the fork; the following events
            # lead to those facts again.
            self.tables.begin(row)
            self.drop_change(row)
            hot.flags = PL_ROW_HEAD | (hot.flags & (PL_ROW_START_TICKS | PL_ROW_FOREIGN | END_FLAGS))
            if body != NULL and self.find(body.creator_tgid, body.creator_start_boot_ns, ticks):
                self.clear_image(row)
            self.fill_fork(row, record, 0)
            self.tables.end(row)
            self.begin_pid(header)
            if header.ppid and hot.exit_boot_ns == 0:
                self.tables.adopt(header.tgid, header.ppid)
        elif not hot.known & PL_KNOWN_FORK_TIME:
            parent = 0
            if self.tables.follow(hot.ancestor) == 0 and header.ppid:
                parent = self.find(header.ppid, header.parent_start_boot_ns, ticks)
                if parent and not self.can_descend(root, parent):
                    parent = 0
            creator = 0
            if body != NULL and body.creator_tgid:
                creator = self.find(body.creator_tgid, body.creator_start_boot_ns, ticks)
            # Creator and fork time belong to the process, so all of its images get them.
            for n in range(CHAIN_LIMIT):
                previous = self.previous_image(row)
                hot = &self.hot[row]
                self.tables.begin(row)
                if body != NULL and body.creator_tgid:
                    self.cold[row].creator_tgid = body.creator_tgid
                    self.cold[row].fork_flags = body.clone_flags
                    hot.known |= PL_KNOWN_CREATOR
                    if creator:
                        self.tables.set_creator(row, self.image_at(creator, header.time_boot_ns))
                self.cold[row].fork_boot_ns = header.time_boot_ns
                hot.known |= PL_KNOWN_FORK_TIME
                hot.flags &= ~PL_ROW_BEFORE_CAPTURE
                if parent and row == root:
                    self.tables.set_ancestor(row, self.image_at(parent, header.time_boot_ns))
                    hot.flags &= ~PL_ROW_PARENT_MISSING
                if parent and self.tables.follow(hot.parent) == 0 and (hot.ppid == 0 or hot.ppid == header.ppid):
                    hot.ppid = header.ppid
                    self.tables.set_parent(row, parent)
                self.tables.end(row)
                if previous == 0:
                    break
                row = previous
        else:
            self.complete_mapped(root, record)
        self.emit(PL_TOPIC_FORK, PL_KIND_FORK, root, header.time_boot_ns, 0)

    # -- exit ----------------------------------------------------------------------------------------------------------

    cdef void exit(self, const parsed_record *record) noexcept nogil:
        cdef const pl_header_any *header = record.header
        cdef const pl_exit_any *body = record.body.exit
        cdef bint ticks = header.flags & PL_FLAG_PARTIAL
        cdef uint32_t row = self.find(header.tgid, header.start_boot_ns, ticks), reaper_tgid = 0
        cdef uint64_t reaper_start = 0
        cdef pl_hot *hot
        cdef bint is_owner, was_unseen, again
        cdef bint has_reaper = body != NULL and not body.exit_flags & (PL_EXIT_NS_DIES | PL_EXIT_NO_REAPER)
        if row == 0 and ticks and header.start_boot_ns == 0:
            row = self.owner_at(header.tgid, header.time_boot_ns)
            if row == 0:
                self.counters[PL_C_EXIT_UNKNOWN] += 1
                return
        if row == 0:
            self.exit_unknown(record, has_reaper)
            return
        remember_end(self.ended_at(header.tgid, header.start_boot_ns), record, has_reaper)
        # The row, or the record, may know the start to the tick only.
        self.pids[header.tgid].ended_start = max(
            self.pids[header.tgid].ended_start, self.hot[row].start_boot_ns, header.start_boot_ns
        )
        if has_reaper:
            reaper_tgid = body.reaper_tgid
            reaper_start = body.reaper_start_boot_ns
        hot = &self.hot[row]
        is_owner = self.tables.head(header.tgid) == row
        was_unseen = hot.exit_boot_ns != 0 and hot.flags & PL_ROW_EXIT_UNSEEN
        again = not was_unseen and hot.exit_boot_ns == header.time_boot_ns
        if hot.exit_boot_ns == 0 or was_unseen:
            if hot.flags & PL_ROW_START_TICKS and not ticks:
                self.exact_start(row, header.start_boot_ns)
            if is_owner and not was_unseen:
                if header.time_boot_ns >= self.pids[header.tgid].facts_at:
                    self.follow_kernel(row, header, PL_KIND_EXIT)
                if hot.flags & PL_ROW_ADOPTION_PREDICTED:
                    self.undo_prediction(row, header)
            self.tables.begin(row)
            self.fill_exit(row, record, is_owner)
            self.tables.end(row)
            if not was_unseen:
                self.tables.retire(row)
        if is_owner:
            self.tables.orphan(header.tgid)
            self.wait_no_more(header.tgid)
            self.leave_children(row, reaper_tgid, reaper_start, header.time_boot_ns)
        if again and self.encodes and reaper_tgid:
            self.emit_adopted_again(row, reaper_tgid, reaper_start, header.time_boot_ns)
        self.emit(PL_TOPIC_EXIT, PL_KIND_EXIT, row, header.time_boot_ns, 0)

    cdef void exit_unknown(self, const parsed_record *record, bint has_reaper) noexcept nogil:
        """Remember the exit of a process that is not in the tables; its fork may still arrive. No entry is made."""
        cdef const pl_header_any *header = record.header
        cdef const pl_cost_any *cost = cost_of(record)
        cdef ended_process *owners = self.unknown_owners(header.tgid)
        cdef ended_process *ended = self.unknown_exit(header.tgid, header.start_boot_ns)
        cdef uint32_t n
        if ended == NULL:
            ended = owners
            for n in range(UNKNOWN_OWNERS):
                if owners[n].tgid == 0:
                    ended = &owners[n]
                    break
                if owners[n].time < ended.time:
                    ended = &owners[n]
        remember_end(ended, record, has_reaper)
        if cost != NULL:
            ended.cost_known = cost_groups(record.body.exit)
            ended.cost = cost[0]
        self.unknown_mask |= <uint64_t>1 << (header.tgid & 63)
        self.counters[PL_C_EXIT_UNKNOWN] += 1

    cdef void fill_exit(self, uint32_t row, const parsed_record *record, bint is_owner) noexcept nogil:
        """Between begin and end of a head: store the end of its process."""
        cdef const pl_header_any *header = record.header
        cdef pl_hot *hot = &self.hot[row]
        cdef pl_cold *cold = &self.cold[row]
        cdef const pl_exit_any *body = record.body.exit
        cdef const pl_cost_any *cost
        cdef uint32_t ref
        if record.task != NULL and header.time_boot_ns >= self.pids[header.tgid].facts_at or not is_owner:
            if record.task != NULL:
                self.put_task(row, record, record.groups)
            cold.tid = header.tid
        if body != NULL:
            cold.exit_code = body.exit_code
            hot.flags |= PL_ROW_EXIT_KNOWN
        cost = cost_of(record)
        if cost != NULL:
            self.tables.set_costs(row, cost, cost_groups(body))
            if sender_of(record) != NULL:
                ref = add_sender(
                    self.tables.args, cold.extra_ref, sender_of(record), self.tables.control.boot_unix_ns
                )
                if ref:
                    self.tables.set_extra_ref(row, ref)
        hot.exit_boot_ns = max(header.time_boot_ns, hot.start_boot_ns)
        hot.flags = (hot.flags | PL_ROW_DELETED) & ~PL_ROW_EXIT_UNSEEN

    cdef void undo_prediction(self, uint32_t row, const pl_header_any *header) noexcept nogil:
        """Undo an adoption: the parent's exit was applied first, but the process ended before its parent."""
        cdef uint32_t parent
        if header.ppid == self.hot[row].ppid:
            return
        parent = self.find(header.ppid, header.parent_start_boot_ns, header.flags & PL_FLAG_PARTIAL)
        if parent and self.hot[parent].exit_boot_ns > header.time_boot_ns and self.can_descend(row, parent):
            self.counters[PL_C_REPARENTS_CORRECTED] += 1
            self.move(row, parent, header.time_boot_ns, PL_KIND_EXIT, False)

    cdef void emit_adopted_again(
        self, uint32_t row, uint32_t reaper_tgid, uint64_t reaper_start, uint64_t time
    ) noexcept nogil:
        """Emit the reparent events of an exit again: a predecessor applied the exit and did not commit it."""
        cdef uint32_t adopter = self.reaper(reaper_tgid, reaper_start), child, ended, n
        if adopter == 0:
            return
        child = self.tables.first_child(self.hot[adopter].tgid)
        while child:
            self.emit_if_adopted(self.tables.head(child), row, adopter, time)
            child = self.tables.next_sibling(child)
        # Children that have ended since then: the retention queue has the youngest end last.
        ended = self.tables.queue_last
        for n in range(RETOLD_LIMIT):
            if ended == 0 or self.hot[ended].exit_boot_ns < time:
                return
            if self.hot[ended].flags & PL_ROW_HEAD:
                self.emit_if_adopted(ended, row, adopter, time)
            ended = self.tables.rows[ended].prev

    cdef void emit_if_adopted(self, uint32_t head, uint32_t row, uint32_t adopter, uint64_t time) noexcept nogil:
        cdef uint32_t creator = self.tables.follow(self.hot[head].creator) if head else 0
        if (
            creator and self.hot[head].flags & PL_ROW_ADOPTED and self.hot[head].ppid == self.hot[adopter].tgid
            and self.hot[creator].tgid == self.hot[row].tgid
            and self.hot[creator].start_boot_ns == self.hot[row].start_boot_ns
        ):
            self.emit(PL_TOPIC_REPARENT, PL_KIND_EXIT, head, time, adopter)

    # -- cred, comm, cgroup, sid, caps ---------------------------------------------------------------------------------

    cdef void change(self, const parsed_record *record) noexcept nogil:
        """Apply a change of a process: of its credentials, name, cgroup or session, or capabilities that it used."""
        cdef const pl_header_any *header = record.header
        cdef const pl_task_any *task = record.task
        cdef uint32_t row = self.find(header.tgid, header.start_boot_ns, header.flags & PL_FLAG_PARTIAL)
        cdef bint can_be_found = header.kind == PL_KIND_CRED or header.kind == PL_KIND_SID, is_marked = False
        if row and header.flags & PL_FLAG_SAMPLED and task != NULL and self.is_known(row, record):
            return
        if row == 0:
            row = self.enter_changed(record)
            if row == 0:
                return
        else:
            if self.hot[row].flags & PL_ROW_START_TICKS and not header.flags & PL_FLAG_PARTIAL:
                self.exact_start(row, header.start_boot_ns)
            if task == NULL and header.kind != PL_KIND_CAPS and self.is_news(row, header.time_boot_ns):
                # The change is unknown, because the record was too large for its ring.
                self.forget_changed(row, header)
            is_marked = self.refresh(row, record, is_sampled_change(header))
        if can_be_found and not is_marked:
            self.mark_sampled(row, record)
        if (
            header.kind == PL_KIND_CAPS and task != NULL and record.strings != NULL
            and header.var_bytes >= sizeof(pl_caps_any)
        ):
            self.put_caps(self.image_at(row, header.time_boot_ns), record.strings)
        self.emit_change(record, row)

    cdef void emit_change(self, const parsed_record *record, uint32_t row) noexcept nogil:
        cdef const pl_header_any *header = record.header
        cdef const pl_sampled_any *sampled = sampled_of(record)
        self.emit(
            PL_TOPIC_CRED if header.kind == PL_KIND_CRED else PL_TOPIC_CONTEXT, header.kind, row, header.time_boot_ns,
            sampled.changed_after_boot_ns if sampled != NULL else 0,
        )

    cdef uint32_t enter_changed(self, const parsed_record *record) noexcept nogil:
        """Enter a process that only this change shows; return its row, or 0 if it has ended or there is no room."""
        cdef const pl_header_any *header = record.header
        cdef const pl_task_any *task = record.task
        cdef uint32_t row = self.tables.head(header.tgid), newer = 0
        cdef pl_hot *hot
        if (
            self.unknown_exit(header.tgid, header.start_boot_ns) != NULL
            or self.has_ended(header.tgid, header.start_boot_ns, header.flags & PL_FLAG_PARTIAL)
            or (row and self.hot[row].start_boot_ns > header.start_boot_ns)
        ):
            # The process has ended, and it was never entered, or it was evicted: there is no use in entering it now.
            return 0
        row = self.open_entry(header, header.start_boot_ns, &newer)
        if row == 0:
            return 0
        hot = &self.hot[row]
        hot.source = record.source
        hot.flags |= PL_ROW_GAP
        self.missing_parent(row, header, newer)
        if task != NULL:
            self.put_task(row, record, record.groups)
            hot.inode = task.exe_inode
            self.cold[row].exec_inode = task.exe_inode
        else:
            hot.flags |= PL_ROW_HEAD_ONLY
        if header.flags & PL_FLAG_PARTIAL and header.start_boot_ns % self.tick_ns == 0:
            hot.flags |= PL_ROW_START_TICKS
        if is_sampled_change(header):
            hot.flags |= PL_ROW_CHANGE_SAMPLED  # before a kill can leave the facts in the table, as in `refresh`
        self.insert_entry(row, newer)
        self.count_added(record.source)
        self.begin_pid(header)
        self.want(header.tgid, header.start_boot_ns)
        if self.tables.first_child(header.tgid) or self.pids[header.tgid].awaited:
            self.link_waiting(row, header.time_boot_ns)
        return row

    cdef void forget_changed(self, uint32_t row, const pl_header_any *header) noexcept nogil:
        """Mark as unknown what a change without its facts may have changed."""
        cdef pl_hot *hot = &self.hot[row]
        cdef uint32_t unknown = PL_KNOWN_SID | PL_KNOWN_TTY | PL_KNOWN_NS
        if header.kind == PL_KIND_CRED:
            unknown = PL_KNOWN_CREDS | PL_KNOWN_CAPS | PL_KNOWN_AUID | PL_KNOWN_NS
        elif header.kind == PL_KIND_COMM:
            unknown = PL_KNOWN_COMM
        elif header.kind == PL_KIND_CGROUP:
            unknown = PL_KNOWN_CGROUP
        self.tables.begin(row)
        hot.known &= ~unknown
        hot.flags |= PL_ROW_GAP
        self.tables.end(row)
        self.want(header.tgid, header.start_boot_ns)

    cdef bint is_known(self, uint32_t row, const parsed_record *record) noexcept nogil:
        """Whether the row already has what a comparison in the kernel found, so that there is no event.

        The kernel compares with its own last record of the process. The resolver may know more: that the session has
        lost its terminal, for example, or that the process has ended. A record that a predecessor applied and did not
        commit is published again; the mark shows that it may be one, unless this resolver has just published that the
        session lost the terminal. A source without eBPF compares with what it read before. What /proc showed the
        resolver since then was not published, so its record is.
        """
        cdef const pl_hot *hot = &self.hot[row]
        cdef uint64_t time = record.header.time_boot_ns
        cdef bint was_published = False
        if hot.exit_boot_ns and not hot.flags & PL_ROW_EXIT_UNSEEN and time >= hot.exit_boot_ns:
            return True
        if self.pids[hot.tgid].has_lost_tty and record.groups & PL_KNOWN_TTY:
            self.pids[hot.tgid].has_lost_tty = 0
            was_published = record.task.tty[0] == 0
        if not was_published and (hot.flags & PL_ROW_CHANGE_SAMPLED or record.header.flags & PL_FLAG_PARTIAL):
            return False
        return self.is_news(row, time) and not self.differs(row, record, record.groups & SAMPLED_GROUPS)

    cdef void mark_sampled(self, uint32_t row, const parsed_record *record) noexcept nogil:
        """Note how and when the last change of the process was seen, unless younger facts are in the row."""
        cdef const pl_header_any *header = record.header
        cdef pl_hot *hot = &self.hot[row]
        cdef bint is_sampled = is_sampled_change(header)
        if not is_sampled and not hot.flags & PL_ROW_CHANGE_SAMPLED:
            return
        if not self.is_news(row, header.time_boot_ns):
            return
        self.tables.begin(row)
        if is_sampled:
            self.put_change(row, record)
        else:
            self.drop_change(row)  # before the mark: a kill in between leaves no limits without it
            hot.flags &= ~PL_ROW_CHANGE_SAMPLED
        self.tables.end(row)

    cdef void put_caps(self, uint32_t row, const char *strings) noexcept nogil:
        """Add the capabilities that an image used (specification 2.1, CapabilitiesUsage); none is ever removed."""
        cdef pl_cold *cold = &self.cold[row]
        cdef pl_caps_any caps
        memcpy(&caps, strings, sizeof(caps))
        if not (caps.caps_attempted & ~cold.cap_attempted or caps.caps_used & ~cold.cap_used):
            return
        self.tables.begin(row)
        cold.cap_attempted |= caps.caps_attempted
        cold.cap_used |= caps.caps_used
        self.tables.end(row)
