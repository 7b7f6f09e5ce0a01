"""What each kind of event does to the tables. One implementation for batches, for single calls and for /proc facts.

Follows specification 3.3.3, 3.3.4, 3.3.7, 3.3.11 and 5; what differs from it is the structure of 9.2 (the root of a process
moves when its parent changes, so images are never lost) and the identity (tgid with start time). Finding, linking and
ending processes is in _rows.pyx; deciding the order of events in _queues.pyx and merge.py; the methods for Python, and facts
from /proc, in _applier.pyx.

    fork     a row for the process, a copy of the image that forked it, with what the record tells of the child itself
    exec     a row for the image, whose ancestor is the image that it replaces; none where that is the same once more
    exit     the end of the process; its children go to the reaper that the record predicts
    cred, comm, cgroup, sid   the head changes, if anything differs
    caps     the same, and what the image of that time was asked for is added to it
    any      names the process's parent now, which confirms or corrects what the tables say

Events are keyed by identity and time, so an event that is applied again changes nothing, and one that comes late does not
undo what younger ones did. A fork that finds its process in the tables (from /proc, or because a younger record came
first) completes it. A record of a process that nobody knows enters it, marked, except an exit.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from pipeline.bus.frames._column cimport pl_get16, pl_get32, pl_get64
from pipeline.secrets._conceal cimport pl_digest
from pipeline.resolver.merge._queues cimport Batch, columns, pending_event
from pipeline.records._records cimport (
    PL_EXEC_ARGS_TRUNCATED,
    PL_EXEC_ARGS_UNREADABLE,
    PL_EXEC_ENVS_TRUNCATED,
    PL_EXEC_ENVS_UNREADABLE,
    PL_EXIT_NO_REAPER,
    PL_EXIT_NS_DIES,
    PL_FLAG_CONTAINER,
    PL_FLAG_CGROUP_MADE,
    PL_FLAG_HEAD_ONLY,
    PL_FLAG_KEYED,
    PL_FLAG_PARTIAL,
    PL_KIND_CAPS,
    PL_KIND_CGROUP,
    PL_KIND_COMM,
    PL_KIND_COUNT,
    PL_KIND_CRED,
    PL_KIND_EXEC,
    PL_KIND_EXIT,
    PL_KIND_FORK,
    pl_caps_any,
    pl_exec_any,
    pl_exit_any,
    pl_fork_any,
    pl_head_any,
    pl_task_any,
)
from pipeline.records._limits cimport CHAIN_LIMIT
from pipeline.resolver.apply._followups cimport (
    TOPIC_CONTEXT, TOPIC_CRED, TOPIC_EXEC, TOPIC_EXIT, TOPIC_FORK, TOPIC_REPARENT,
)
from pipeline.resolver.apply._record cimport find_container, strings_bytes, tells_args, tells_envs, told_record
from pipeline.resolver.apply._rows cimport (
    EXTRA_SSH,
    EXTRA_TRACER,
    Rows,
    ended_process,
)
from pipeline.shm.layout._layout cimport (
    PL_CGROUP_SOURCE_EVENT,
    PL_CGROUP_SOURCE_PROCFS,
    PL_CGROUP_SOURCE_UNKNOWN,
    PL_C_ADDED_EVENT,
    PL_C_ADDED_KERNEL_MAPS,
    PL_C_ADDED_PROCFS,
    PL_C_ARGS_SIZE,
    PL_C_ARGS_TRUNCATED,
    PL_C_BROKEN_LINEAGE,
    PL_C_ELIDED,
    PL_C_ENVS_SIZE,
    PL_C_ENVS_TRUNCATED,
    PL_C_EVENTS_CAPS,
    PL_C_EXEC_BOMB,
    PL_C_EXEC_WITHOUT_FORK,
    PL_C_EXIT_UNKNOWN,
    PL_C_HEAD_ONLY,
    PL_C_INODE_ERROR_EXEC_PARENT_MISSING,
    PL_C_INODE_ERROR_FORK_PARENT_MISSING,
    PL_C_MALFORMED,
    PL_C_PARENT_MISSING,
    PL_C_PATH_ERROR,
    PL_C_REPARENTS_CORRECTED,
    PL_KNOWN_AUID,
    PL_KNOWN_CAPS,
    PL_KNOWN_CGROUP,
    PL_KNOWN_COMM,
    PL_KNOWN_CREATOR,
    PL_KNOWN_CREDS,
    PL_KNOWN_EXEC_TIME,
    PL_KNOWN_FORK_TIME,
    PL_KNOWN_NS,
    PL_KNOWN_SID,
    PL_KNOWN_TTY,
    PL_ROW_ADOPTED,
    PL_ROW_ADOPTION_PREDICTED,
    PL_ROW_BEFORE_CAPTURE,
    PL_ROW_DELETED,
    PL_ROW_ELIDED,
    PL_ROW_EXIT_KNOWN,
    PL_ROW_EXIT_UNSEEN,
    PL_ROW_FOREIGN,
    PL_ROW_GAP,
    PL_ROW_HEAD,
    PL_ROW_HEAD_ONLY,
    PL_ROW_IS_EXEC,
    PL_ROW_IS_EXEC_EXEC,
    PL_ROW_PARENT_MISSING,
    PL_ROW_REPLACED,
    PL_ROW_START_TICKS,
    PL_ROW_STAT_INODE,
    PL_SOURCE_EVENT,
    PL_SOURCE_MAP,
    PL_SOURCE_PROCFS,
    PL_SOURCE_SNAPSHOT,
    pl_cold,
    pl_hot,
    pl_prefetch,
    pl_prefetch_write,
)
from pipeline.shm.writer._writer cimport MARK_TTY_GIVEN


cdef enum:
    INODE_SAME = 0
    INODE_OTHER = 1
    INODE_UNCLEAR = 2
    #: Ends between two commits, at most: twice the loop's batch.
    RETOLD_LIMIT = 16384
    KTHREADD = 2
    #: How many events before its turn an event's record, its pid slots, and its rows are fetched into the cache. What
    #: apply waits for otherwise is memory (bench/ingest_replay.py).
    AHEAD_RECORD = 16
    AHEAD_INDEX = 8
    AHEAD_ROWS = 4


cdef uint64_t digest_of(const pl_exec_any *body, const char *strings) noexcept nogil:
    """Of what a record tells that hides nothing, as conceal.py's of what hides something; 0 where it could not be read.
    What the capture keeps nothing of is absent."""
    cdef const char *args = strings + body.path_bytes + body.name_bytes
    cdef const char *envs = args + body.args_bytes
    if body.exec_flags & (PL_EXEC_ARGS_UNREADABLE | PL_EXEC_ENVS_UNREADABLE):
        return 0
    return pl_digest(
        args if tells_args(body) else NULL, body.args_bytes, envs if tells_envs(body) else NULL, body.envs_bytes
    )


cdef class Events(Rows):
    """Base of the Applier: what events do. All of it without the GIL, none of it can raise."""

    cdef void apply_batch(self, Batch batch) noexcept nogil:
        cdef uint32_t i, count = batch.count
        cdef const pending_event *item
        cdef const columns *col
        cdef const pl_head_any *head
        cdef pl_task_any own
        cdef told_record record
        memset(&record, 0, sizeof(record))
        for i in range(count):
            if i + AHEAD_RECORD < count:
                self.prefetch_record(&batch.items[i + AHEAD_RECORD], batch.queues.columns)
            if i + AHEAD_INDEX < count:
                self.prefetch_slots(&batch.items[i + AHEAD_INDEX], batch.queues.columns)
            if i + AHEAD_ROWS < count:
                self.prefetch_rows(&batch.items[i + AHEAD_ROWS], batch.queues.columns)
            item = &batch.items[i]
            col = &batch.queues.columns[item.slot]
            head = &(<const pl_head_any *>col.head)[item.event]
            record.head = head
            record.task = NULL
            record.body.bytes = NULL
            record.strings = col.blob + item.var
            record.groups = 0
            record.source = PL_SOURCE_EVENT
            if not head.flags & PL_FLAG_HEAD_ONLY:
                if col.task_of == NULL:
                    record.task = &(<const pl_task_any *>col.task)[item.event]
                else:
                    own = (<const pl_task_any *>col.task)[pl_get16(col.task_of + 2 * <uint64_t>item.event)]
                    own.ns_pid = pl_get32(col.ns_pid + 4 * <uint64_t>item.event)
                    record.task = &own
                record.groups = self.told(head.flags, record.task)
                if head.kind == PL_KIND_FORK:
                    record.body.fork = &(<const pl_fork_any *>col.fork)[item.body]
                elif head.kind == PL_KIND_EXIT:
                    record.body.exit = &(<const pl_exit_any *>col.exit)[item.body]
                elif head.kind == PL_KIND_EXEC:
                    record.body.exec = &(<const pl_exec_any *>col.exec)[item.body]
                    record.digest = 0 if col.digests == NULL else pl_get64(col.digests + 8 * <uint64_t>item.body)
            self.apply_one(&record)
            self.count_event(head, record.body.bytes)

    cdef void count_event(self, const pl_head_any *head, const char *body) noexcept nogil:
        """What specification 6 counts of events and single calls count in Python (stats.py)."""
        cdef const pl_exec_any *exec_body
        cdef uint16_t flags
        cdef uint32_t row
        if head.flags & PL_FLAG_CGROUP_MADE:
            return  # it is about no process
        row = self.find(head.tgid, head.start_boot_ns, head.flags & PL_FLAG_PARTIAL)
        if row and self.hot[row].flags & PL_ROW_PARENT_MISSING:
            # Of the process at which the lineage is broken; not of those below it, whose chains nobody walks here.
            self.counters[PL_C_BROKEN_LINEAGE] += 1
        if head.kind != PL_KIND_EXEC or body == NULL:
            return
        exec_body = <const pl_exec_any *>body
        flags = exec_body.exec_flags
        if tells_args(exec_body):
            self.counters[PL_C_ARGS_SIZE] += exec_body.argc
            self.counters[PL_C_ARGS_TRUNCATED] += (flags & PL_EXEC_ARGS_TRUNCATED) != 0
        if tells_envs(exec_body):
            self.counters[PL_C_ENVS_SIZE] += exec_body.envc
            self.counters[PL_C_ENVS_TRUNCATED] += (flags & PL_EXEC_ENVS_TRUNCATED) != 0
        if exec_body.path_bytes == 0:
            self.counters[PL_C_PATH_ERROR] += 1

    cdef void prefetch_record(self, const pending_event *item, const columns *all) noexcept nogil:
        cdef const columns *col = &all[item.slot]
        cdef const char *task = col.task + item.event * sizeof(pl_task_any)
        pl_prefetch(col.head + item.event * sizeof(pl_head_any))
        if col.task_of == NULL:  # else they are few and near
            pl_prefetch(task)
            pl_prefetch(task + 64)
            pl_prefetch(task + 128)
        pl_prefetch(col.exit + item.body * sizeof(pl_exit_any))
        pl_prefetch(col.fork + item.body * sizeof(pl_fork_any))

    cdef void prefetch_slots(self, const pending_event *item, const columns *all) noexcept nogil:
        cdef const pl_head_any *head = &(<const pl_head_any *>all[item.slot].head)[item.event]
        if head.tgid < self.tables.pid_capacity:
            pl_prefetch_write(&self.tables.index[head.tgid])
            pl_prefetch(&self.slots[head.tgid])
            pl_prefetch(&self.tables.kin[head.tgid])
            pl_prefetch(&self.cgroups.sets[head.tgid])
        if head.ppid < self.tables.pid_capacity:
            pl_prefetch(&self.tables.index[head.ppid])

    cdef void prefetch_rows(self, const pending_event *item, const columns *all) noexcept nogil:
        cdef const pl_head_any *head = &(<const pl_head_any *>all[item.slot].head)[item.event]
        cdef uint32_t row = self.tables.head(head.tgid)
        if row:
            self.tables.fetch(row)
        row = self.tables.head(head.ppid)
        if row:
            pl_prefetch(&self.hot[row])
            pl_prefetch(<const char *>&self.hot[row] + 64)

    cdef void apply_one(self, told_record *record) noexcept nogil:
        cdef const pl_head_any *head = record.head
        cdef const pl_exec_any *exec_body
        cdef pl_head_any orphan
        # Sources without BPF, except tracers, read /proc when they learn of an event. Entries of the kernel's maps do
        # not say where their cgroup was read.
        record.is_stat = (head.flags & PL_FLAG_PARTIAL) != 0
        if head.flags & (PL_FLAG_PARTIAL | PL_FLAG_KEYED) == PL_FLAG_PARTIAL or record.source >= PL_SOURCE_PROCFS:
            record.cgroup_source = PL_CGROUP_SOURCE_PROCFS
        elif record.source == PL_SOURCE_MAP:
            record.cgroup_source = PL_CGROUP_SOURCE_UNKNOWN
        else:
            record.cgroup_source = PL_CGROUP_SOURCE_EVENT
        record.container_bytes = 0
        if head.flags & PL_FLAG_KEYED:
            find_container(record)
        if (
            head.tgid == 0 or head.kind == 0 or head.kind >= PL_KIND_COUNT
            or head.tgid >= (self.tables.pid_capacity if head.flags & PL_FLAG_KEYED else self.tables.root_pids)
        ):
            self.counters[PL_C_MALFORMED] += 1
            return
        if head.ppid >= self.tables.root_pids and not head.flags & PL_FLAG_KEYED:
            # The index has no room for this pid; its place there belongs to a process of a tracer.
            orphan = head[0]
            orphan.ppid = 0
            orphan.parent_start_boot_ns = 0
            head = record.head = &orphan
        if (
            head.kind == PL_KIND_CGROUP and record.task != NULL and record.strings != NULL and head.var_bytes
            and not head.flags & PL_FLAG_KEYED
        ):
            # The name comes before the event, which is published with it.
            self.cgroups.hear(
                record.strings, head.var_bytes, record.task,
                head.time_boot_ns if head.flags & PL_FLAG_CGROUP_MADE else 0,
            )
        if head.flags & PL_FLAG_CGROUP_MADE:
            return  # it is about no process
        if record.task == NULL:
            self.counters[PL_C_HEAD_ONLY] += 1
        if head.kind == PL_KIND_FORK:
            self.fork(record)
        elif head.kind == PL_KIND_EXIT:
            self.exit(record)
        elif head.kind == PL_KIND_EXEC:
            exec_body = record.body.exec
            if exec_body != NULL and strings_bytes(exec_body) > head.var_bytes:
                self.counters[PL_C_MALFORMED] += 1
                return
            if exec_body != NULL and record.digest == 0:
                record.digest = digest_of(exec_body, record.strings)
            self.exec(record)
        else:
            self.context(record)
        self.counters[PL_C_EVENTS_CAPS if head.kind == PL_KIND_CAPS else head.kind] += 1

    # -- shared --------------------------------------------------------------------------------------------------------

    cdef void count_added(self, uint8_t source) noexcept nogil:
        if source == PL_SOURCE_MAP:
            self.counters[PL_C_ADDED_KERNEL_MAPS] += 1
        elif source == PL_SOURCE_PROCFS:
            self.counters[PL_C_ADDED_PROCFS] += 1
        else:
            self.counters[PL_C_ADDED_EVENT] += 1

    cdef bint missing_parent(self, uint32_t row, const pl_head_any *head, uint32_t newer) noexcept nogil:
        """Link the parent that the record names to a row that is not visible yet; returns whether it is missing."""
        cdef uint32_t parent = 0
        cdef pl_hot *hot = &self.hot[row]
        hot.ppid = head.ppid
        if head.ppid == 0:
            return False
        if head.parent_start_boot_ns:
            parent = self.find(head.ppid, head.parent_start_boot_ns, head.flags & PL_FLAG_PARTIAL)
        else:
            parent = self.tables.head(head.ppid)
        if parent and parent != row and self.can_descend(row, parent):
            self.link_parent(row, parent, head.time_boot_ns)
            if self.hot[parent].exit_boot_ns and not newer:
                # It ended before this was known: nobody told who adopted.
                self.want(head.tgid, head.start_boot_ns)
            return False
        if head.ppid == KTHREADD:
            return False  # a helper that the kernel started; kernel threads are not in the tables
        hot.flags |= PL_ROW_PARENT_MISSING
        self.counters[PL_C_PARENT_MISSING] += 1
        self.want(head.ppid, head.parent_start_boot_ns)
        return True

    cdef int compare_inode(self, uint32_t row, uint64_t inode, uint64_t cookie, bint is_stat) noexcept nogil:
        """Compare the image in a row with the executable and the cookie that a record of the kernel's tells of it.

        An inode that came from stat() may have another number inside the kernel (overlayfs). There the cookie decides,
        which the kernel's programs change at each exec.

        Returns:
            INODE_SAME; INODE_OTHER: there was an exec that nobody told of; INODE_UNCLEAR.
        """
        cdef uint64_t known = self.hot[row].inode
        if inode == known or inode == 0:
            return INODE_SAME
        if known == 0:
            return INODE_UNCLEAR
        if ((self.hot[row].flags & PL_ROW_STAT_INODE) != 0) == is_stat:
            return INODE_OTHER
        if cookie == 0 or self.cold[row].cookie == 0:
            return INODE_UNCLEAR
        return INODE_SAME if cookie == self.cold[row].cookie else INODE_OTHER

    cdef bint is_provisional(self, uint32_t row, uint64_t time) noexcept nogil:
        """Whether the row holds what /proc said after `time`, so that events are still to bring it there."""
        cdef const pl_hot *hot = &self.hot[row]
        return (
            (hot.source == PL_SOURCE_SNAPSHOT or hot.source == PL_SOURCE_PROCFS)
            and not hot.known & PL_KNOWN_EXEC_TIME
            and self.slots[hot.tgid].facts_at > time
            and self.tables.head(hot.tgid) == row
        )

    cdef bint is_news(self, uint32_t row, uint64_t time) noexcept nogil:
        """Whether a record of `time` is not older than what the head of a process already says."""
        cdef const pl_hot *hot = &self.hot[row]
        if self.tables.head(hot.tgid) != row or time < self.slots[hot.tgid].facts_at:
            return False
        # A successor does not know when the facts are from, but an exec or exit that its predecessor applied last says so.
        if hot.flags & PL_ROW_IS_EXEC and hot.known & PL_KNOWN_EXEC_TIME and time < hot.exec_boot_ns:
            return False
        return hot.exit_boot_ns == 0 or hot.flags & PL_ROW_EXIT_UNSEEN or time >= hot.exit_boot_ns

    cdef void refresh(self, uint32_t row, const told_record *record) noexcept nogil:
        """Bring the head of a process up to date with a record about it; nothing is written if nothing differs."""
        cdef const pl_head_any *head = record.head
        cdef const pl_task_any *task = record.task
        cdef pl_hot *hot = &self.hot[row]
        if not self.is_news(row, head.time_boot_ns):
            return
        self.slots[head.tgid].facts_at = head.time_boot_ns
        if task != NULL and (self.differs(row, task, record.groups) or self.cold[row].tid != head.tid):
            self.tables.begin(row)
            self.put_task(row, record, record.groups)
            self.cold[row].tid = head.tid
            self.tables.end(row)
        if hot.exit_boot_ns == 0:
            self.follow_kernel(row, head, head.kind)

    cdef void close_if_ended(self, uint32_t row) noexcept nogil:
        """The end of the process was seen before its beginning: it does not live."""
        cdef pl_hot *hot = &self.hot[row]
        cdef ended_process *ended
        if not self.unknown_mask >> (hot.tgid & 63) & 1:
            return
        ended = self.ended_slot(self.unknown, hot.tgid, hot.start_boot_ns)
        if ended.tgid != hot.tgid or ended.start != hot.start_boot_ns:
            return
        ended.tgid = 0
        if hot.exit_boot_ns and not hot.flags & PL_ROW_EXIT_UNSEEN:
            return
        self.tables.begin(row)
        hot.flags &= ~PL_ROW_EXIT_UNSEEN
        if ended.has_code:
            self.cold[row].exit_code = ended.exit_code
            hot.flags |= PL_ROW_EXIT_KNOWN
        self.tables.end(row)
        self.finish(row, ended.time, 0)
        if self.tables.head(hot.tgid) == row:
            self.leave_children(row, ended.reaper_tgid, ended.reaper_start, ended.time)
        self.emit(TOPIC_EXIT, PL_KIND_EXIT, row, ended.time, 0)

    # -- fork ----------------------------------------------------------------------------------------------------------

    cdef void fork(self, const told_record *record) noexcept nogil:
        cdef const pl_head_any *head = record.head
        cdef uint32_t row = self.find(head.tgid, head.start_boot_ns, head.flags & PL_FLAG_PARTIAL), newer = 0
        if (
            row and head.flags & PL_FLAG_PARTIAL and self.hot[row].start_boot_ns != head.start_boot_ns
            and self.hot[row].exit_boot_ns and self.hot[row].exit_boot_ns < head.start_boot_ns
        ):
            row = 0  # it had the pid earlier in the same tick
        if row:
            self.complete_fork(row, record)
            return
        row = self.open_entry(head, head.time_boot_ns, &newer)
        if row == 0:
            return
        self.fill_fork(row, record, newer)
        self.publish_entry(row, newer)
        self.count_added(record.source)
        if not newer:
            self.slots[head.tgid].facts_at = head.time_boot_ns
            self.slots[head.tgid].parent_start = head.parent_start_boot_ns
            if record.task == NULL:
                self.want(head.tgid, head.start_boot_ns)
            if self.tables.first_child(head.tgid) or self.slots[head.tgid].awaited:
                self.link_waiting(row, head.time_boot_ns)
        self.emit(TOPIC_FORK, PL_KIND_FORK, row, head.time_boot_ns, 0)
        self.close_if_ended(row)

    cdef void fill_fork(self, uint32_t row, const told_record *record, uint32_t newer) noexcept nogil:
        """Between begin and end of a process's first image: what it is right after the fork."""
        cdef const pl_head_any *head = record.head
        cdef const pl_task_any *task = record.task
        cdef const pl_fork_any *body = record.body.fork
        cdef pl_hot *hot = &self.hot[row]
        cdef pl_cold *cold = &self.cold[row]
        cdef bint ticks = head.flags & PL_FLAG_PARTIAL
        cdef uint32_t creator = 0, image = 0, inherited = 0
        cdef uint64_t kernel = task.exe_inode if task != NULL else 0, others
        cdef int found
        hot.source = record.source
        cold.fork_boot_ns = head.time_boot_ns
        cold.tid = head.tid
        cold.exec_inode = kernel
        hot.known |= PL_KNOWN_FORK_TIME
        if ticks and head.start_boot_ns % self.tick_ns == 0:
            hot.flags |= PL_ROW_START_TICKS
        self.missing_parent(row, head, newer)
        if body != NULL and body.creator_tgid:
            cold.creator_tgid = body.creator_tgid
            cold.fork_flags = body.clone_flags
            hot.known |= PL_KNOWN_CREATOR
            if body.creator_tgid != head.ppid or body.creator_start_boot_ns != head.parent_start_boot_ns:
                hot.flags |= PL_ROW_ADOPTED
            creator = self.find(body.creator_tgid, body.creator_start_boot_ns, ticks)
        elif ticks:
            # Sources without eBPF tell the parent alone, which is the creator but for CLONE_PARENT.
            creator = self.tables.follow(hot.parent)
        if creator and creator != row:
            image = self.image_at(creator, head.time_boot_ns)
            if hot.known & PL_KNOWN_CREATOR:
                self.tables.set_creator(row, image)
            self.copy_image(row, image)
            inherited = ~record.groups & self.hot[image].known if task != NULL else 0
            if ticks and inherited & PL_KNOWN_NS:
                # The parent is in the outermost pid namespace, and a child elsewhere would have been told: it has one
                # number only. In an inner one it has another that nobody knows.
                if self.cold[image].ns_pid == self.hot[image].tgid:
                    cold.ns_pid = head.tgid
                else:
                    inherited &= ~PL_KNOWN_NS
            self.copy_groups(row, image, inherited)
            if kernel and kernel != self.hot[image].inode:
                found = self.compare_inode(image, kernel, task.cookie, record.is_stat)
                if found == INODE_OTHER and self.is_provisional(image, head.time_boot_ns):
                    found = INODE_UNCLEAR  # what /proc said of the creator is younger than this fork
                if found == INODE_OTHER:
                    # Its exec was lost: what the copy says of the image is what it was before (specification R10), its
                    # cookie too, so that forks of this one do not fit either.
                    hot.flags |= PL_ROW_PARENT_MISSING | PL_ROW_GAP
                    self.counters[PL_C_PARENT_MISSING] += 1
                    self.counters[PL_C_INODE_ERROR_FORK_PARENT_MISSING] += 1
                    self.want(head.tgid, head.start_boot_ns)
                    self.want(self.hot[image].tgid, self.hot[image].start_boot_ns)
                else:
                    if found == INODE_UNCLEAR and self.hot[image].inode:
                        # This path and these arguments may be of another executable than the child runs.
                        self.clear_image(row)
                        cold.cookie = 0
                        hot.flags |= PL_ROW_GAP
                        self.want(head.tgid, head.start_boot_ns)
                    hot.inode = kernel
                    hot.flags &= ~PL_ROW_STAT_INODE
        elif kernel:
            hot.inode = kernel
        elif ticks and not record.groups:
            # Nothing is told of it, and there is no parent to take it from.
            self.want(head.tgid, head.start_boot_ns)
        if task == NULL:
            hot.flags |= PL_ROW_HEAD_ONLY | PL_ROW_GAP
            if image:
                self.inherit_extra(row, self.cold[image].extra_ref, EXTRA_SSH | EXTRA_TRACER)
            return
        if image and (
            inherited & PL_KNOWN_CGROUP or (task.cgroup_id and task.cgroup_id == self.hot[image].cgroup_id)
        ):
            # The same cgroups have the same path and container; others have not.
            hot.cgroup_id = self.hot[image].cgroup_id
            if not inherited & PL_KNOWN_CGROUP:
                hot.cgroup_source = record.cgroup_source
            self.tables.names.hold(self.cold[image].cgroup_ref)
            self.tables.set_cgroup_ref(row, self.cold[image].cgroup_ref)
            others = self.cgroups.sets[self.hot[image].tgid]
            if task.cgroups_v1 == 0 or task.cgroups_v1 == others:
                self.cgroups.sets[head.tgid] = others
                self.tables.names.hold(self.cold[image].container_ref)
                self.tables.set_container_ref(row, self.cold[image].container_ref)
        if image and self.tables.rows[image].marks & MARK_TTY_GIVEN and not (record.groups & PL_KNOWN_TTY and task.tty[0]):
            # A fork has the descriptors of who forked it.
            memcpy(cold.tty, self.cold[image].tty, 16)
            self.mark_tty(row, True)
        self.put_task(row, record, record.groups)
        if image and self.cold[image].extra_ref:
            self.inherit_extra(
                row, self.cold[image].extra_ref,
                EXTRA_SSH | EXTRA_TRACER
                | self.same_places(row, self.hot[image].cgroup_id, self.cold[image].container_ref),
            )

    cdef void complete_fork(self, uint32_t row, const told_record *record) noexcept nogil:
        """The process is in the tables: from /proc, from a record that came before this one, or applied already."""
        cdef const pl_head_any *head = record.head
        cdef const pl_fork_any *body = record.body.fork
        cdef uint32_t root = self.root(row), parent, creator, image, previous, n
        cdef bint ticks = head.flags & PL_FLAG_PARTIAL
        cdef pl_hot *hot
        if self.hot[row].flags & PL_ROW_START_TICKS and not (ticks and head.start_boot_ns % self.tick_ns == 0):
            self.exact_start(row, head.start_boot_ns)
        hot = &self.hot[root]
        if root == row and not hot.known & PL_KNOWN_FORK_TIME and self.is_provisional(row, head.time_boot_ns):
            # What /proc said is younger than this event: back to the fork, the events that follow lead there again.
            self.tables.begin(row)
            hot.flags = PL_ROW_HEAD | (hot.flags & (PL_ROW_START_TICKS | PL_ROW_FOREIGN))
            if body != NULL and self.find(body.creator_tgid, body.creator_start_boot_ns, ticks):
                self.clear_image(row)
            self.fill_fork(row, record, 0)
            self.tables.end(row)
            self.slots[head.tgid].facts_at = head.time_boot_ns
            self.slots[head.tgid].parent_start = head.parent_start_boot_ns
            if head.ppid:
                self.tables.adopt(head.tgid, head.ppid)
        elif not hot.known & PL_KNOWN_FORK_TIME:
            parent = 0
            if self.tables.follow(hot.ancestor) == 0 and head.ppid:
                parent = self.find(head.ppid, head.parent_start_boot_ns, ticks)
                if parent and not self.can_descend(root, parent):
                    parent = 0
            creator = 0
            if body != NULL and body.creator_tgid:
                creator = self.find(body.creator_tgid, body.creator_start_boot_ns, ticks)
            # Creator and fork time are those of the process: all of its images say them.
            for n in range(CHAIN_LIMIT):
                previous = self.previous_image(row)
                hot = &self.hot[row]
                self.tables.begin(row)
                if body != NULL and body.creator_tgid:
                    self.cold[row].creator_tgid = body.creator_tgid
                    self.cold[row].fork_flags = body.clone_flags
                    hot.known |= PL_KNOWN_CREATOR
                    if creator:
                        self.tables.set_creator(row, self.image_at(creator, head.time_boot_ns))
                self.cold[row].fork_boot_ns = head.time_boot_ns
                hot.known |= PL_KNOWN_FORK_TIME
                hot.flags &= ~PL_ROW_BEFORE_CAPTURE
                if parent and row == root:
                    self.tables.set_ancestor(row, self.image_at(parent, head.time_boot_ns))
                    hot.flags &= ~PL_ROW_PARENT_MISSING
                if parent and self.tables.follow(hot.parent) == 0 and (hot.ppid == 0 or hot.ppid == head.ppid):
                    hot.ppid = head.ppid
                    self.tables.set_parent(row, parent)
                self.tables.end(row)
                if previous == 0:
                    break
                row = previous
        self.emit(TOPIC_FORK, PL_KIND_FORK, root, head.time_boot_ns, 0)

    # -- exec ----------------------------------------------------------------------------------------------------------

    cdef void exec(self, const told_record *record) noexcept nogil:
        cdef const pl_head_any *head = record.head
        cdef const pl_exec_any *body = record.body.exec
        cdef bint ticks = head.flags & PL_FLAG_PARTIAL
        cdef uint32_t row = self.find(head.tgid, head.start_boot_ns, ticks), previous, before, newer = 0, n
        cdef uint64_t kernel
        cdef pl_hot *hot
        if row == 0:
            self.exec_without_fork(record)
            return
        if self.hot[row].flags & PL_ROW_START_TICKS and not ticks:
            self.exact_start(row, head.start_boot_ns)
        if self.is_provisional(row, head.time_boot_ns):
            previous = self.previous_image(row)
            if previous:
                # /proc was read after this exec, and showed that there had been one: it is this, or a later one, which
                # will be told.
                self.tables.begin(row)
                self.hot[row].flags = (self.hot[row].flags & PROCESS_FLAGS) | PL_ROW_HEAD
                self.fill_exec(row, record, record.groups)
                self.link_image(row, previous, record)
                self.tables.end(row)
                self.slots[head.tgid].facts_at = head.time_boot_ns
                self.replace(previous, head.time_boot_ns)
                if head.ppid:
                    self.follow_kernel(row, head, PL_KIND_EXEC)
                self.emit(TOPIC_EXEC, PL_KIND_EXEC, row, head.time_boot_ns, 0)
                return
            # The same, of a process that began before. The image before is unknown but for what this record says of it.
            kernel = body.prev_inode if body != NULL else 0
            hot = &self.hot[row]
            self.tables.begin(row)
            self.clear_image(row)
            hot.inode = kernel
            hot.known &= ~PL_KNOWN_COMM
            memset(hot.comm, 0, 16)
            hot.flags &= ~(PL_ROW_IS_EXEC | PL_ROW_IS_EXEC_EXEC)
            self.tables.end(row)
            self.slots[head.tgid].facts_at = head.time_boot_ns
        previous = row
        for n in range(CHAIN_LIMIT):
            hot = &self.hot[previous]
            if not hot.known & PL_KNOWN_EXEC_TIME:
                break
            if hot.exec_boot_ns == head.time_boot_ns:  # not of IS_EXEC alone: what a tracer found need not have it
                # Applied already. If the writer died right then, the image before was not told yet.
                before = self.previous_image(row) if previous == row else 0
                if before and not self.hot[before].flags & PL_ROW_REPLACED:
                    self.replace(before, head.time_boot_ns)
                self.emit(TOPIC_EXEC, PL_KIND_EXEC, previous, head.time_boot_ns, 0)
                return
            if not hot.flags & PL_ROW_IS_EXEC or hot.exec_boot_ns < head.time_boot_ns:
                break
            newer = previous
            previous = self.previous_image(previous)
            if previous == 0:
                break
        row = self.append_image(previous, newer, record)
        self.emit(TOPIC_EXEC, PL_KIND_EXEC, row, head.time_boot_ns, 0)

    cdef bint has_lost_exec(self, uint32_t previous, const told_record *record) noexcept nogil:
        """Whether the kernel replaced another image than the one that is here: an exec between them was lost."""
        cdef const pl_exec_any *body = record.body.exec
        if body == NULL or body.prev_inode == 0 or body.prev_inode == self.hot[previous].inode:
            return False
        # The kernel's map names the image before by its cookie; its inode there may be from stat(), too.
        if body.prev_cookie and body.prev_cookie == self.cold[previous].cookie:
            return False
        return self.compare_inode(previous, body.prev_inode, body.prev_cookie, record.is_stat) == INODE_OTHER

    cdef void link_image(self, uint32_t row, uint32_t previous, const told_record *record) noexcept nogil:
        """Between begin and end of an image: it is the one after `previous`."""
        if self.hot[previous].flags & PL_ROW_IS_EXEC:
            self.hot[row].flags |= PL_ROW_IS_EXEC_EXEC
        if self.has_lost_exec(previous, record):
            self.hot[row].flags |= PL_ROW_PARENT_MISSING | PL_ROW_GAP
            self.counters[PL_C_PARENT_MISSING] += 1
            self.counters[PL_C_INODE_ERROR_EXEC_PARENT_MISSING] += 1
        self.tables.set_ancestor(row, previous)
        self.hot[row].images = <uint16_t>min(<uint32_t>self.hot[previous].images + 1, <uint32_t>0xFFFF)

    cdef bint is_exec_bomb(self, uint32_t row, const told_record *record, uint32_t groups) noexcept nogil:
        """Whether an exec started what the image is already (specification 3.3.4)."""
        # Others than the kernel's programs look at /proc after the exec, and may see what a later one started; tracers
        # make an image of each (specification 4).
        return (
            record.body.exec != NULL and not record.head.flags & (PL_FLAG_PARTIAL | PL_FLAG_KEYED)
            and self.is_same_again(row, record, groups)
        )

    cdef uint64_t begun(self, uint32_t previous, uint32_t row) noexcept nogil:
        """When an image began to run: before its exec time, if it was started again since."""
        cdef uint64_t time = self.hot[row].exec_boot_ns
        if self.hot[row].flags & PL_ROW_ELIDED:
            return time  # others ran between the two
        if previous:
            return min(time, self.hot[previous].exit_boot_ns) if self.hot[previous].flags & PL_ROW_REPLACED else time
        # That of a fork was not made by an exec; of one without a fork nobody knows the image before.
        return time if self.hot[row].flags & PL_ROW_GAP else self.hot[row].start_boot_ns

    cdef bint begin_earlier(self, uint32_t previous, uint32_t newer, const told_record *record) noexcept nogil:
        """A late exec started what `newer` is before that began, as far as is known; False: another one lay between."""
        cdef const pl_head_any *head = record.head
        cdef const pl_exec_any *body = record.body.exec
        cdef uint64_t replaced = self.cold[newer].exec_inode
        if replaced and replaced != body.inode:
            return False
        # First: with it, whoever repeats this after a kill finds that the image ran by then.
        self.replace(previous, head.time_boot_ns)
        self.tables.begin(newer)
        self.cold[newer].exec_inode = body.prev_inode
        if previous and not self.has_lost_exec(previous, record):
            self.forget_loss(newer)
        self.tables.end(newer)
        return True

    cdef void forget_loss(self, uint32_t row) noexcept nogil:
        """Between begin and end of an image: what lay between it and the one before is known after all."""
        cdef pl_hot *hot = &self.hot[row]
        if hot.flags & PL_ROW_PARENT_MISSING:
            hot.flags &= ~(PL_ROW_PARENT_MISSING | PL_ROW_GAP)
            if hot.flags & PL_ROW_HEAD_ONLY:
                hot.flags |= PL_ROW_GAP

    cdef void start_again(self, uint32_t row, const told_record *record) noexcept nogil:
        """An exec bomb: no new image, the one that is there has a later exec time (specification 3.3.4).

        It runs from the end of the image before all the same, which is what look-ups as of a past time go by.
        """
        cdef const pl_head_any *head = record.head
        cdef const pl_task_any *task = record.task
        cdef pl_hot *hot = &self.hot[row]
        cdef bint is_head = self.tables.head(head.tgid) == row and hot.exit_boot_ns == 0
        cdef bint is_news = is_head and self.is_news(row, head.time_boot_ns)
        self.counters[PL_C_EXEC_BOMB] += 1
        self.tables.begin(row)
        if is_news:
            # What is not compared may have changed: names, path, terminal, cgroup, cookie; and descriptors.
            self.mark_tty(row, False)
            self.put_task(row, record, record.groups)
            self.put_image(row, record, False)
            self.cold[row].tid = head.tid
        if task.cookie and head.time_boot_ns >= hot.exec_boot_ns:
            self.cold[row].cookie = task.cookie
        hot.exec_boot_ns = max(hot.exec_boot_ns, head.time_boot_ns)
        hot.known |= PL_KNOWN_EXEC_TIME
        hot.flags |= PL_ROW_IS_EXEC
        self.tables.end(row)
        if is_news:
            self.slots[head.tgid].facts_at = head.time_boot_ns
        if is_head and head.ppid:
            self.follow_kernel(row, head, PL_KIND_EXEC)

    cdef uint32_t part_image(self, uint32_t previous, uint32_t newer, uint64_t time) noexcept nogil:
        """A late exec at `time` started something else between two starts of `newer`, which were taken for one image.

        Returns:
            The first of the two images, which ended then; 0: the table is full.
        """
        cdef uint64_t began = self.hot[previous].exit_boot_ns  # to make room, the copy may take its row
        cdef uint32_t row = self.copy_row(newer)
        cdef pl_hot *hot = &self.hot[row]
        if row == 0:
            return 0
        hot.flags &= ~(PL_ROW_HEAD | PL_ROW_DELETED | PL_ROW_EXIT_UNSEEN | PL_ROW_EXIT_KNOWN)
        hot.flags |= PL_ROW_REPLACED
        if previous:
            hot.exec_boot_ns = began
        else:  # that of the fork
            hot.exec_boot_ns = 0
            hot.known &= ~PL_KNOWN_EXEC_TIME
            hot.flags &= ~PL_ROW_IS_EXEC
        hot.exit_boot_ns = time
        self.cold[row].exit_code = 0
        self.tables.end(row)
        self.tables.retire(row)
        self.tables.begin(newer)
        self.forget_loss(newer)
        self.cold[newer].exec_inode = 0  # what it replaced first was the other part's to replace
        self.tables.set_ancestor(newer, row)
        self.tables.end(newer)
        return row

    cdef void replace(self, uint32_t previous, uint64_t time) noexcept nogil:
        """The image was replaced by the exec at `time`."""
        if previous == 0 or (self.hot[previous].flags & PL_ROW_REPLACED and self.hot[previous].exit_boot_ns == time):
            return
        self.tables.begin(previous)
        self.hot[previous].exit_boot_ns = time
        self.hot[previous].flags = (self.hot[previous].flags | PL_ROW_REPLACED) & ~PL_ROW_HEAD
        self.tables.end(previous)

    cdef void fill_exec(self, uint32_t row, const told_record *record, uint32_t groups) noexcept nogil:
        """Between begin and end of an image: what the record says of it."""
        cdef const pl_head_any *head = record.head
        cdef const pl_exec_any *body = record.body.exec
        cdef pl_hot *hot = &self.hot[row]
        cdef pl_cold *cold = &self.cold[row]
        hot.source = record.source
        cold.tid = head.tid
        if body == NULL:
            # Only that there was an exec. It keeps session, namespaces, cgroup and terminal; the rest may have changed.
            self.clear_image(row)
            hot.known &= ~(PL_KNOWN_CREDS | PL_KNOWN_CAPS | PL_KNOWN_COMM)
            hot.flags |= PL_ROW_HEAD_ONLY | PL_ROW_GAP
            cold.exec_inode = 0
            cold.cookie = 0
            self.want(head.tgid, head.start_boot_ns)
        else:
            # Its descriptors may be others by now: the terminal is looked for again.
            self.mark_tty(row, False)
            self.put_task(row, record, groups)
            self.put_image(row, record, True)
            cold.exec_inode = body.prev_inode
            cold.cookie = record.task.cookie
        hot.exec_boot_ns = head.time_boot_ns
        hot.known |= PL_KNOWN_EXEC_TIME
        hot.flags |= PL_ROW_IS_EXEC

    cdef uint32_t append_image(self, uint32_t previous, uint32_t newer, const told_record *record) noexcept nogil:
        """Enter an image after `previous` and before `newer`, one of which may be 0.

        Returns:
            Its row, that of the one which was started again by an exec bomb, or 0: the table is full.
        """
        cdef const pl_head_any *head = record.head
        cdef uint32_t model, row
        cdef bint is_head = newer == 0, ended
        cdef pl_hot *hot
        cdef uint32_t flags
        cdef uint64_t until = 0  # when `newer` began to run
        # Of one that is told late, or again, the credentials may have changed since: they are not compared.
        cdef uint32_t groups = record.groups
        cdef uint32_t compared = groups if head.time_boot_ns >= self.slots[head.tgid].facts_at else 0
        if newer:
            until = self.begun(previous, newer)
        if (
            previous and (newer == 0 or head.time_boot_ns < until)
            and self.is_exec_bomb(previous, record, compared) and not self.has_lost_exec(previous, record)
        ):
            self.start_again(previous, record)
            return previous
        if newer:
            if self.is_exec_bomb(newer, record, compared):
                if until <= head.time_boot_ns or self.begin_earlier(previous, newer, record):
                    self.start_again(newer, record)
                    return newer
            elif until <= head.time_boot_ns:
                if until < head.time_boot_ns:
                    previous = self.part_image(previous, newer, head.time_boot_ns)
                    if previous == 0:
                        return 0
                # else it was parted there already, or the one before was ended, by a predecessor that got no further
                until = self.hot[newer].exec_boot_ns
        model = previous if previous else newer
        flags = self.hot[model].flags
        ended = is_head and self.hot[model].exit_boot_ns != 0
        row = self.copy_row(model)
        if row == 0:
            return self.overwrite(model, record) if is_head else 0
        if ended:
            # It came after the process's end. Rows keep their place in pid index and retention queue, so the new row
            # takes what the image before was, and the head's row the image that this record is about.
            self.tables.end(row)
            previous = row
            row = model
            self.replace(previous, head.time_boot_ns)
            self.tables.begin(row)
        hot = &self.hot[row]
        if is_head and not ended and head.time_boot_ns < self.slots[head.tgid].facts_at:
            # Younger records have told since what the process is, but for its name, which is the program's.
            groups &= ~hot.known | PL_KNOWN_COMM
        hot.flags = flags & PROCESS_FLAGS
        if is_head:
            hot.flags |= PL_ROW_HEAD | (flags & (PL_ROW_DELETED | PL_ROW_EXIT_UNSEEN | PL_ROW_EXIT_KNOWN))
        else:
            hot.flags |= PL_ROW_REPLACED
            hot.exit_boot_ns = until
        self.fill_exec(row, record, groups)
        if previous:
            self.forget_told(
                row, self.cold[previous].extra_ref,
                self.same_places(row, self.hot[previous].cgroup_id, self.cold[previous].container_ref),
            )
        else:
            self.forget_told(row, 0, 0)
        if previous:
            self.link_image(row, previous, record)
        else:
            # Older than the oldest image that is known: it takes that one's place before the parent.
            hot.flags |= PL_ROW_PARENT_MISSING | PL_ROW_GAP
            hot.images = 1
        self.tables.end(row)
        self.count_added(record.source)
        if ended:
            self.tables.retire(previous)
            return row
        if is_head:
            if self.tables.head(head.tgid) == previous:
                self.tables.set_head(head.tgid, row)
                # A late one of a process that lives is younger than its last image all the same.
                self.slots[head.tgid].facts_at = max(self.slots[head.tgid].facts_at, head.time_boot_ns)
            self.replace(previous, head.time_boot_ns)
            if head.ppid and self.hot[row].exit_boot_ns == 0:
                self.follow_kernel(row, head, PL_KIND_EXEC)
            return row
        self.replace(previous, head.time_boot_ns)
        self.tables.begin(newer)
        self.tables.set_ancestor(newer, row)
        self.hot[newer].flags |= PL_ROW_IS_EXEC_EXEC
        if self.cold[newer].exec_inode == hot.inode:
            self.forget_loss(newer)  # this was the exec before it that was missing
        self.tables.end(newer)
        self.tables.retire(row)
        self.number_images(self.find(head.tgid, head.start_boot_ns, head.flags & PL_FLAG_PARTIAL), row)
        return row

    cdef uint32_t overwrite(self, uint32_t row, const told_record *record) noexcept nogil:
        """The table is full: the head becomes the new image, so the process stays true, and its history does not."""
        cdef const pl_head_any *head = record.head
        cdef pl_hot *hot = &self.hot[row]
        cdef uint32_t flags = hot.flags, container = self.cold[row].container_ref, extra = self.cold[row].extra_ref
        cdef uint64_t cgroup_id = hot.cgroup_id
        # So that the references below are of what they were.
        self.tables.names.hold(container)
        self.tables.args.hold(extra)
        self.tables.begin(row)
        hot.flags = PL_ROW_ELIDED | (flags & (
            PROCESS_FLAGS | PL_ROW_HEAD | PL_ROW_DELETED | PL_ROW_EXIT_UNSEEN | PL_ROW_EXIT_KNOWN
            | PL_ROW_PARENT_MISSING | PL_ROW_GAP
        ))
        if flags & PL_ROW_IS_EXEC:
            hot.flags |= PL_ROW_IS_EXEC_EXEC
        self.fill_exec(row, record, record.groups)
        self.forget_told(row, extra, self.same_places(row, cgroup_id, container))
        self.tables.end(row)
        self.tables.names.release(container)
        self.tables.args.release(extra)
        self.counters[PL_C_ELIDED] += 1
        if self.tables.head(head.tgid) == row and hot.exit_boot_ns == 0:
            self.slots[head.tgid].facts_at = max(self.slots[head.tgid].facts_at, head.time_boot_ns)
            if head.ppid:
                self.follow_kernel(row, head, PL_KIND_EXEC)
        return row

    cdef void number_images(self, uint32_t head, uint32_t row) noexcept nogil:
        """Number the images from `row`, which has its number, up to the head anew: they count from the oldest."""
        cdef uint32_t image = head, count = 0, n
        while image and image != row and count < CHAIN_LIMIT:
            count += 1
            image = self.previous_image(image)
        image = head
        for n in range(count):
            self.tables.begin(image)
            self.hot[image].images = <uint16_t>min(<uint32_t>self.hot[row].images + count - n, <uint32_t>0xFFFF)
            self.tables.end(image)
            image = self.previous_image(image)

    cdef void exec_without_fork(self, const told_record *record) noexcept nogil:
        cdef const pl_head_any *head = record.head
        cdef uint32_t newer = 0, row = self.open_entry(head, head.start_boot_ns, &newer), parent
        cdef pl_hot *hot
        if row == 0:
            return
        hot = &self.hot[row]
        self.missing_parent(row, head, newer)
        self.fill_exec(row, record, record.groups)
        if head.flags & PL_FLAG_KEYED and head.time_boot_ns == head.start_boot_ns:
            # A tracer found it when it began: what /proc is to other sources.
            parent = self.tables.follow(hot.parent)
            hot.source = PL_SOURCE_SNAPSHOT
            hot.flags |= PL_ROW_BEFORE_CAPTURE
            # It shows no difference from its parent: no exec since its fork (specification 3.3.9).
            if parent == 0 or self.same_image(row, parent):
                hot.flags &= ~PL_ROW_IS_EXEC
        else:
            # The image before is missing, whether the parent is known or not.
            self.counters[PL_C_EXEC_WITHOUT_FORK] += 1
            hot.flags |= PL_ROW_PARENT_MISSING | PL_ROW_GAP
        if head.flags & PL_FLAG_PARTIAL and head.start_boot_ns % self.tick_ns == 0:
            hot.flags |= PL_ROW_START_TICKS
        self.publish_entry(row, newer)
        self.count_added(record.source)
        if not newer:
            self.slots[head.tgid].facts_at = head.time_boot_ns
            self.slots[head.tgid].parent_start = head.parent_start_boot_ns
            if self.tables.first_child(head.tgid) or self.slots[head.tgid].awaited:
                self.link_waiting(row, head.time_boot_ns)
        self.emit(TOPIC_EXEC, PL_KIND_EXEC, row, head.time_boot_ns, 0)
        self.close_if_ended(row)

    # -- exit ----------------------------------------------------------------------------------------------------------

    cdef void exit(self, const told_record *record) noexcept nogil:
        cdef const pl_head_any *head = record.head
        cdef const pl_task_any *task = record.task
        cdef const pl_exit_any *body = record.body.exit
        cdef bint ticks = head.flags & PL_FLAG_PARTIAL
        cdef uint32_t row = self.find(head.tgid, head.start_boot_ns, ticks), reaper_tgid = 0
        cdef uint64_t reaper_start = 0
        cdef pl_hot *hot
        cdef ended_process *ended
        cdef bint is_owner, was_unseen, again
        if row == 0 and ticks and head.start_boot_ns == 0:
            # A source without eBPF that came after the process began: it can only be the one that has the pid.
            row = self.tables.head(head.tgid)
            if row and (self.hot[row].exit_boot_ns or self.hot[row].start_boot_ns > head.time_boot_ns):
                row = 0
            if row == 0:
                self.counters[PL_C_EXIT_UNKNOWN] += 1
                return
        if body != NULL and not body.exit_flags & (PL_EXIT_NS_DIES | PL_EXIT_NO_REAPER):
            reaper_tgid = body.reaper_tgid
            reaper_start = body.reaper_start_boot_ns
        ended = self.ended_slot(self.unknown if row == 0 else self.ended, head.tgid, head.start_boot_ns)
        ended.tgid = head.tgid
        ended.start = head.start_boot_ns
        ended.time = head.time_boot_ns
        ended.reaper_tgid = reaper_tgid
        ended.reaper_start = reaper_start
        ended.has_code = body != NULL
        ended.exit_code = body.exit_code if body != NULL else 0
        if row == 0:
            # Nothing is made of it, but its fork, should it still come, finds that the process has ended.
            self.unknown_mask |= <uint64_t>1 << (head.tgid & 63)
            self.counters[PL_C_EXIT_UNKNOWN] += 1
            return
        hot = &self.hot[row]
        is_owner = self.tables.head(head.tgid) == row
        was_unseen = hot.exit_boot_ns != 0 and hot.flags & PL_ROW_EXIT_UNSEEN
        again = not was_unseen and hot.exit_boot_ns == head.time_boot_ns
        if hot.exit_boot_ns == 0 or was_unseen:
            if hot.flags & PL_ROW_START_TICKS and not ticks:
                self.exact_start(row, head.start_boot_ns)
            if is_owner and not was_unseen:
                if head.time_boot_ns >= self.slots[head.tgid].facts_at:
                    self.follow_kernel(row, head, PL_KIND_EXIT)
                self.undo_prediction(row, head)
            self.tables.begin(row)
            if task != NULL and head.time_boot_ns >= self.slots[head.tgid].facts_at or not is_owner:
                if task != NULL:
                    self.put_task(row, record, record.groups)
                self.cold[row].tid = head.tid
            if body != NULL:
                self.cold[row].exit_code = body.exit_code
                hot.flags |= PL_ROW_EXIT_KNOWN
            hot.exit_boot_ns = max(head.time_boot_ns, hot.start_boot_ns)
            hot.flags = (hot.flags | PL_ROW_DELETED) & ~PL_ROW_EXIT_UNSEEN
            self.tables.end(row)
            if not was_unseen:
                self.tables.retire(row)
        if is_owner:
            self.tables.orphan(head.tgid)
            self.wait_no_more(head.tgid)
            self.leave_children(row, reaper_tgid, reaper_start, head.time_boot_ns)
        if again and self.encodes and reaper_tgid:
            self.tell_adopted(row, reaper_tgid, reaper_start, head.time_boot_ns)
        self.emit(TOPIC_EXIT, PL_KIND_EXIT, row, head.time_boot_ns, 0)

    cdef void undo_prediction(self, uint32_t row, const pl_head_any *head) noexcept nogil:
        """The process ended before its parent did, but the parent's end came first: nobody adopted it."""
        cdef uint32_t parent
        if not self.hot[row].flags & PL_ROW_ADOPTION_PREDICTED or head.ppid == self.hot[row].ppid:
            return
        parent = self.find(head.ppid, head.parent_start_boot_ns, head.flags & PL_FLAG_PARTIAL)
        if parent and self.hot[parent].exit_boot_ns > head.time_boot_ns and self.can_descend(row, parent):
            self.counters[PL_C_REPARENTS_CORRECTED] += 1
            self.move(row, parent, head.time_boot_ns, PL_KIND_EXIT, False)

    cdef void tell_adopted(
        self, uint32_t row, uint32_t reaper_tgid, uint64_t reaper_start, uint64_t time
    ) noexcept nogil:
        """A predecessor applied this exit and did not commit it: number what it said of the children once more."""
        cdef uint32_t adopter = self.reaper(reaper_tgid, reaper_start), child, ended, n
        if adopter == 0:
            return
        child = self.tables.first_child(self.hot[adopter].tgid)
        while child:
            self.tell_if_adopted(self.tables.head(child), row, adopter, time)
            child = self.tables.next_sibling(child)
        # Of those that have ended since then, the retention queue has the youngest end last.
        ended = self.tables.queue_last
        for n in range(RETOLD_LIMIT):
            if ended == 0 or self.hot[ended].exit_boot_ns < time:
                return
            if self.hot[ended].flags & PL_ROW_HEAD:
                self.tell_if_adopted(ended, row, adopter, time)
            ended = self.tables.rows[ended].prev

    cdef void tell_if_adopted(self, uint32_t head, uint32_t row, uint32_t adopter, uint64_t time) noexcept nogil:
        cdef uint32_t creator = self.tables.follow(self.hot[head].creator) if head else 0
        if (
            creator and self.hot[head].flags & PL_ROW_ADOPTED and self.hot[head].ppid == self.hot[adopter].tgid
            and self.hot[creator].tgid == self.hot[row].tgid
            and self.hot[creator].start_boot_ns == self.hot[row].start_boot_ns
        ):
            self.emit(TOPIC_REPARENT, PL_KIND_EXIT, head, time, adopter)

    # -- cred, comm, cgroup, sid, caps ---------------------------------------------------------------------------------

    cdef void context(self, const told_record *record) noexcept nogil:
        cdef const pl_head_any *head = record.head
        cdef const pl_task_any *task = record.task
        cdef uint32_t row = self.find(head.tgid, head.start_boot_ns, head.flags & PL_FLAG_PARTIAL), unknown = 0, newer = 0
        cdef pl_hot *hot
        cdef ended_process *ended
        if row == 0:
            ended = self.ended_slot(self.unknown, head.tgid, head.start_boot_ns)
            row = self.tables.head(head.tgid)
            if (ended.tgid == head.tgid and ended.start == head.start_boot_ns) or (
                row and self.hot[row].start_boot_ns > head.start_boot_ns
            ):
                # It has ended since. Who never saw it begin need not know it now.
                return
            row = self.open_entry(head, head.start_boot_ns, &newer)
            if row == 0:
                return
            hot = &self.hot[row]
            hot.source = record.source
            hot.flags |= PL_ROW_GAP
            self.missing_parent(row, head, newer)
            if task != NULL:
                self.put_task(row, record, record.groups)
                hot.inode = task.exe_inode
                self.cold[row].exec_inode = task.exe_inode
            else:
                hot.flags |= PL_ROW_HEAD_ONLY
            if head.flags & PL_FLAG_PARTIAL and head.start_boot_ns % self.tick_ns == 0:
                hot.flags |= PL_ROW_START_TICKS
            self.publish_entry(row, newer)
            self.count_added(record.source)
            self.slots[head.tgid].facts_at = head.time_boot_ns
            self.slots[head.tgid].parent_start = head.parent_start_boot_ns
            self.want(head.tgid, head.start_boot_ns)
            if self.tables.first_child(head.tgid) or self.slots[head.tgid].awaited:
                self.link_waiting(row, head.time_boot_ns)
        else:
            if self.hot[row].flags & PL_ROW_START_TICKS and not head.flags & PL_FLAG_PARTIAL:
                self.exact_start(row, head.start_boot_ns)
            if task == NULL and head.kind != PL_KIND_CAPS and self.is_news(row, head.time_boot_ns):
                # Something changed, and the record that said what was too large for its ring.
                hot = &self.hot[row]
                if head.kind == PL_KIND_CRED:
                    unknown = PL_KNOWN_CREDS | PL_KNOWN_CAPS | PL_KNOWN_AUID | PL_KNOWN_NS
                elif head.kind == PL_KIND_COMM:
                    unknown = PL_KNOWN_COMM
                elif head.kind == PL_KIND_CGROUP:
                    unknown = PL_KNOWN_CGROUP
                else:
                    unknown = PL_KNOWN_SID | PL_KNOWN_TTY | PL_KNOWN_NS
                self.tables.begin(row)
                hot.known &= ~unknown
                hot.flags |= PL_ROW_GAP
                self.tables.end(row)
                self.want(head.tgid, head.start_boot_ns)
            self.refresh(row, record)
        if (
            head.kind == PL_KIND_CAPS and task != NULL and record.strings != NULL
            and head.var_bytes >= sizeof(pl_caps_any)
        ):
            self.put_caps(self.image_at(row, head.time_boot_ns), record.strings)
        self.emit(TOPIC_CRED if head.kind == PL_KIND_CRED else TOPIC_CONTEXT, head.kind, row, head.time_boot_ns, 0)

    cdef void put_caps(self, uint32_t row, const char *strings) noexcept nogil:
        """Add what an image was asked for (specification 2.1, CapabilitiesUsage); nothing is ever taken from it."""
        cdef pl_cold *cold = &self.cold[row]
        cdef pl_caps_any caps
        memcpy(&caps, strings, sizeof(caps))
        if not (caps.caps_attempted & ~cold.cap_attempted or caps.caps_used & ~cold.cap_used):
            return
        self.tables.begin(row)
        cold.cap_attempted |= caps.caps_attempted
        cold.cap_used |= caps.caps_used
        self.tables.end(row)
