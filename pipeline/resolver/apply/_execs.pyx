"""Chains of images: what an exec does, in whatever order records arrive. Follows specification 3.3.4.

An exec makes a row for the new image. Its ancestor is the image that it replaces. An exec that starts exactly what the
image already runs (an exec bomb) makes no row. A late exec is put between the images before and after it, or divides
one image into the two that it really was.

The functions that records of several kinds share come first.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from pipeline.records._limits cimport CHAIN_LIMIT, COMM_BYTES
from pipeline.records._records cimport (
    PL_FLAG_KEYED, PL_FLAG_PARTIAL, PL_KIND_EXEC, PL_KIND_EXIT, pl_exec_any, pl_header_any, pl_task_any,
)
from pipeline.resolver.apply._lineage cimport Lineage
from pipeline.resolver.apply._record cimport parsed_record
from pipeline.resolver.apply._rows cimport UNKNOWN_OWNERS, ended_process
from pipeline.shm.layout._layout cimport (
    PL_CGROUP_SOURCE_UNKNOWN, PL_C_ELIDED, PL_C_EXEC_BOMB, PL_C_EXEC_UNKNOWN, PL_C_EXEC_WITHOUT_FORK,
    PL_C_INODE_ERROR_EXEC_PARENT_MISSING, PL_C_PARENT_MISSING, PL_KNOWN_CAPS, PL_KNOWN_CGROUP, PL_KNOWN_COMM,
    PL_KNOWN_CREDS, PL_KNOWN_EXEC_TIME, PL_KNOWN_NS, PL_KNOWN_SID, PL_ROW_BEFORE_CAPTURE, PL_ROW_CHANGE_SAMPLED,
    PL_ROW_ELIDED, PL_ROW_EXIT_KNOWN, PL_ROW_EXIT_UNSEEN, PL_ROW_GAP, PL_ROW_HEAD, PL_ROW_HEAD_ONLY, PL_ROW_IS_EXEC,
    PL_ROW_IS_EXEC_EXEC, PL_ROW_PARENT_MISSING, PL_ROW_REPLACED, PL_ROW_START_TICKS, PL_ROW_STAT_INODE,
    PL_SOURCE_MAP, PL_SOURCE_PROCFS, PL_SOURCE_SNAPSHOT, PL_TOPIC_EXEC, PL_TOPIC_EXIT, pl_cold, pl_hot,
)


# -- parts of exec -----------------------------------------------------------------------------------------------------

cdef void confirm_image(Execs self, uint32_t row, uint32_t previous, const parsed_record *record) noexcept nogil:
    """Fill in an image that /proc showed before this record arrived.

    It was read after the exec, and showed its image, or that of a later exec; then a record follows.
    """
    cdef const pl_header_any *header = record.header
    self.tables.begin(row)
    self.drop_change(row)
    self.hot[row].flags = (self.hot[row].flags & (PROCESS_FLAGS | END_FLAGS)) | PL_ROW_HEAD
    self.fill_exec(row, record, record.groups)
    self.link_image(row, previous, record)
    self.tables.end(row)
    self.pids[header.tgid].facts_at = header.time_boot_ns
    self.replace(previous, header.time_boot_ns)
    if header.ppid and self.hot[row].exit_boot_ns == 0:
        self.follow_kernel(row, header, PL_KIND_EXEC)
    self.emit(PL_TOPIC_EXEC, PL_KIND_EXEC, row, header.time_boot_ns, 0)


cdef void forget_image(Execs self, uint32_t row, const parsed_record *record) noexcept nogil:
    """Make the first image of a process, which /proc showed after this exec, the one before it.

    Only the facts of this record are known of that image.
    """
    cdef const pl_exec_any *body = record.body.exec
    cdef pl_hot *hot = &self.hot[row]
    self.tables.begin(row)
    self.clear_image(row)
    hot.inode = body.prev_inode if body != NULL else 0
    hot.known &= ~PL_KNOWN_COMM
    memset(hot.comm, 0, COMM_BYTES)
    hot.flags &= ~(PL_ROW_IS_EXEC | PL_ROW_IS_EXEC_EXEC)
    self.tables.end(row)
    self.pids[record.header.tgid].facts_at = record.header.time_boot_ns


cdef void complete_applied(Execs self, uint32_t head, uint32_t row, const parsed_record *record) noexcept nogil:
    """Complete the image of an exec that was applied before.

    If the writer was killed right then and the image is the head, the image before it has not been replaced yet.
    """
    cdef uint64_t time = record.header.time_boot_ns
    cdef uint32_t before = self.previous_image(head) if row == head else 0
    if before and not self.hot[before].flags & PL_ROW_REPLACED:
        self.replace(before, time)
    self.complete_mapped(row, record)
    self.emit(PL_TOPIC_EXEC, PL_KIND_EXEC, row, time, 0)


# -- parts of append_image, inlined ------------------------------------------------------------------------------------

cdef inline uint32_t started_again(
    Execs self, uint32_t previous, uint32_t newer, uint64_t until, const parsed_record *record
) noexcept nogil:
    """If the record is of an exec bomb, count it at the image that it started again; return that image's row, or 0.

    `until` is when `newer` began to run.
    """
    cdef uint64_t time = record.header.time_boot_ns
    # If the record is late or repeated, the credentials may have changed since: they are not compared. After a
    # take-over the time of the facts is not known, but what is older than an image is repeated.
    cdef uint32_t groups = record.groups if newer == 0 and time >= self.pids[record.header.tgid].facts_at else 0
    if (
        previous and (newer == 0 or time < until)
        and self.is_exec_bomb(previous, record, groups) and not self.has_lost_exec(previous, record)
    ):
        self.start_again(previous, record)
        return previous
    if (
        newer and self.is_exec_bomb(newer, record, groups)
        and (until <= time or self.begin_earlier(previous, newer, record))
    ):
        self.start_again(newer, record)
        return newer
    return 0


cdef inline void fill_appended(
    Execs self, uint32_t row, uint32_t previous, uint32_t model, const parsed_record *record, bint is_head,
    uint64_t until
) noexcept nogil:
    """Between begin and end of an appended image, which is a copy of `model`: store the record's facts and link it.

    A head keeps what is known about the end of its process; every other image ends at `until`. After the exit, `row` is
    `model` itself, see append_image.
    """
    cdef const pl_header_any *header = record.header
    cdef pl_hot *hot = &self.hot[row]
    cdef uint32_t flags = self.hot[model].flags
    cdef uint32_t groups = record.groups
    if is_head and row != model and header.time_boot_ns < self.pids[header.tgid].facts_at:
        # Younger records have set the facts of the process, except its name, which comes from the program.
        groups &= ~hot.known | PL_KNOWN_COMM
    hot.flags = flags & PROCESS_FLAGS
    if is_head:
        hot.flags |= PL_ROW_HEAD | (flags & END_FLAGS)
    else:
        hot.flags |= PL_ROW_REPLACED
        hot.exit_boot_ns = until
    self.fill_exec(row, record, groups)
    if previous:
        self.reset_extra(
            row, self.cold[previous].extra_ref,
            self.same_places(row, &self.hot[previous], &self.cold[previous]),
        )
        self.link_image(row, previous, record)
        return
    self.reset_extra(row, 0, 0)
    # Older than the oldest known image: it takes the place of that image below the parent.
    hot.flags |= PL_ROW_PARENT_MISSING | PL_ROW_GAP
    hot.images = 1
    if self.is_first_exec(row):
        self.pids[header.tgid].began_before_ns = 0


cdef inline void make_head(Execs self, uint32_t row, uint32_t previous, const parsed_record *record) noexcept nogil:
    """Make a visible image the head of its process, in the place of `previous`."""
    cdef const pl_header_any *header = record.header
    if self.tables.head(header.tgid) == previous:
        self.tables.set_head(header.tgid, row)
        # Even a late exec of a live process is younger than the last image.
        self.pids[header.tgid].facts_at = max(self.pids[header.tgid].facts_at, header.time_boot_ns)
    self.replace(previous, header.time_boot_ns)
    if header.ppid and self.hot[row].exit_boot_ns == 0:
        self.follow_kernel(row, header, PL_KIND_EXEC)


cdef inline void put_between(
    Execs self, uint32_t row, uint32_t previous, uint32_t newer, const parsed_record *record
) noexcept nogil:
    """Put a visible image into the chain before `newer`, and after `previous` if there is one."""
    cdef const pl_header_any *header = record.header
    self.replace(previous, header.time_boot_ns)
    self.tables.begin(newer)
    self.tables.set_ancestor(newer, row)
    self.hot[newer].flags |= PL_ROW_IS_EXEC_EXEC
    if self.cold[newer].exec_inode == self.hot[row].inode:
        self.forget_loss(newer)  # this is the exec that was missing
    self.tables.end(newer)
    self.tables.retire(row)
    self.number_images(self.find(header.tgid, header.start_boot_ns, header.flags & PL_FLAG_PARTIAL), row)


cdef class Execs(Lineage):
    """Functions that records of several kinds share, and those that apply an exec."""

    # -- for records of several kinds ----------------------------------------------------------------------------------

    cdef bint missing_parent(self, uint32_t row, const pl_header_any *header, uint32_t newer) noexcept nogil:
        """Link the parent that the record names to a row that is not visible yet; return whether it is missing."""
        cdef uint32_t parent = 0
        cdef pl_hot *hot = &self.hot[row]
        hot.ppid = header.ppid
        if header.ppid == 0:
            return False
        if header.parent_start_boot_ns:
            parent = self.find(header.ppid, header.parent_start_boot_ns, header.flags & PL_FLAG_PARTIAL)
        else:
            parent = self.tables.head(header.ppid)
        if parent and parent != row and self.can_descend(row, parent):
            self.link_parent(row, parent, header.time_boot_ns)
            if self.hot[parent].exit_boot_ns and not newer:
                # The parent ended before this process was known, so its new parent was not reported.
                self.want(header.tgid, header.start_boot_ns)
            return False
        if header.ppid == self.kthreadd:
            return False  # a helper that the kernel started; kernel threads are not in the tables
        hot.flags |= PL_ROW_PARENT_MISSING
        self.counters[PL_C_PARENT_MISSING] += 1
        self.want(header.ppid, header.parent_start_boot_ns)
        return True

    cdef int compare_inode(self, uint32_t row, uint64_t inode, uint64_t cookie, bint is_stat) noexcept nogil:
        """Compare the image in a row with the executable and the cookie that a record names.

        An inode from stat() may have another number inside the kernel (overlayfs). Then the cookie decides, which the
        BPF programs change at each exec.

        Returns:
            INODE_SAME, INODE_OTHER (an exec was lost), or INODE_UNCLEAR.
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
        """Whether the row holds facts that /proc showed after `time`: events will lead to them."""
        cdef const pl_hot *hot = &self.hot[row]
        return (
            (hot.source == PL_SOURCE_SNAPSHOT or hot.source == PL_SOURCE_PROCFS)
            and not hot.known & PL_KNOWN_EXEC_TIME
            and self.pids[hot.tgid].facts_at > time
            and self.tables.head(hot.tgid) == row
        )

    cdef bint is_news(self, uint32_t row, uint64_t time) noexcept nogil:
        """Whether a record of `time` is at least as young as the facts in the head of its process."""
        cdef const pl_hot *hot = &self.hot[row]
        if self.tables.head(hot.tgid) != row or time < self.pids[hot.tgid].facts_at:
            return False
        # After a take-over the time of the facts is unknown; the last exec or exit that was applied is a lower bound.
        if hot.flags & PL_ROW_IS_EXEC and hot.known & PL_KNOWN_EXEC_TIME and time < hot.exec_boot_ns:
            return False
        return hot.exit_boot_ns == 0 or hot.flags & PL_ROW_EXIT_UNSEEN or time >= hot.exit_boot_ns

    cdef bint refresh(self, uint32_t row, const parsed_record *record, bint is_found) noexcept nogil:
        """Update the head of a process from a record; nothing is written if nothing differs.

        Args:
            is_found: a comparison found the change. It is marked in the same step, so that no reader sees the change
                without the mark, and before its facts are stored: a successor of a killed writer gets the record again,
                finds its facts in the row, and would take the change for one that was known (`is_known`).

        Returns:
            Whether the change was marked.
        """
        cdef const pl_header_any *header = record.header
        cdef const pl_task_any *task = record.task
        cdef pl_hot *hot = &self.hot[row]
        cdef bint is_marked = False
        if not self.is_news(row, header.time_boot_ns):
            return False
        self.pids[header.tgid].facts_at = header.time_boot_ns
        if task != NULL and (self.differs(row, record, record.groups) or self.cold[row].tid != header.tid):
            self.tables.begin(row)
            if is_found:
                hot.flags |= PL_ROW_CHANGE_SAMPLED
            self.put_task(row, record, record.groups)
            self.cold[row].tid = header.tid
            if is_found:
                self.put_change(row, record)  # `put_task` may drop the limits of the change before
                is_marked = True
            self.tables.end(row)
        if hot.exit_boot_ns == 0:
            self.follow_kernel(row, header, header.kind)
        return is_marked

    cdef void complete_mapped(self, uint32_t row, const parsed_record *record) noexcept nogil:
        """Add the facts of a fork or an exec to its image, if the kernel's maps reported that first: they lack some."""
        cdef const pl_header_any *header = record.header
        cdef const pl_task_any *task = record.task
        cdef pl_hot *hot = &self.hot[row]
        cdef uint32_t missing
        if hot.source != PL_SOURCE_MAP or record.source == PL_SOURCE_MAP or task == NULL:
            return
        missing = ~hot.known
        if self.cold[row].ns_pid == 0:
            missing |= PL_KNOWN_NS
        if self.cold[row].pgid == 0:
            missing |= PL_KNOWN_SID
        if hot.cgroup_source == PL_CGROUP_SOURCE_UNKNOWN and hot.cgroup_id == task.cgroup_id and (
            self.is_news(row, header.time_boot_ns)
        ):
            missing |= PL_KNOWN_CGROUP
        missing &= record.groups
        if missing:
            self.tables.begin(row)
            self.put_task(row, record, missing)
            if missing & PL_KNOWN_CGROUP:
                hot.cgroup_source = record.cgroup_source
            self.tables.end(row)
        if header.kind == PL_KIND_EXEC and record.body.exec != NULL:
            self.complete_image(row, record)

    cdef void close_ended(self, uint32_t row) noexcept nogil:
        """`close_if_ended` of a process that has perhaps ended."""
        cdef pl_hot *hot = &self.hot[row]
        cdef ended_process *owners = self.unknown_owners(hot.tgid)
        cdef ended_process *ended = NULL
        cdef uint32_t n
        for n in range(UNKNOWN_OWNERS):
            # A process that /proc showed is known to the tick of its start only.
            if owners[n].tgid == hot.tgid and self.same_start(row, owners[n].start, False):
                ended = &owners[n]
                break
        if ended == NULL:
            if hot.exit_boot_ns == 0 and self.has_ended(hot.tgid, hot.start_boot_ns, False):
                # Its exit was applied to a row that was evicted, and this record is late.
                self.finish(row, self.pids[hot.tgid].facts_at, PL_ROW_EXIT_UNSEEN)
            return
        ended.tgid = 0
        if hot.flags & PL_ROW_START_TICKS and ended.start % self.tick_ns:
            self.exact_start(row, ended.start)
        if hot.exit_boot_ns and not hot.flags & PL_ROW_EXIT_UNSEEN:
            return
        self.tables.begin(row)
        hot.flags &= ~PL_ROW_EXIT_UNSEEN
        if ended.has_code:
            self.cold[row].exit_code = ended.exit_code
            hot.flags |= PL_ROW_EXIT_KNOWN
        if ended.cost_known:
            self.tables.set_costs(row, &ended.cost, ended.cost_known)
        self.tables.end(row)
        self.finish(row, ended.time, 0)
        if self.tables.head(hot.tgid) == row:
            self.leave_children(row, ended.reaper_tgid, ended.reaper_start, ended.time)
        self.emit(PL_TOPIC_EXIT, PL_KIND_EXIT, row, ended.time, 0)

    # -- exec ----------------------------------------------------------------------------------------------------------

    cdef void exec(self, const parsed_record *record) noexcept nogil:
        cdef const pl_header_any *header = record.header
        cdef bint ticks = header.flags & PL_FLAG_PARTIAL
        cdef uint32_t row = self.find(header.tgid, header.start_boot_ns, ticks), previous, newer = 0, n
        cdef const pl_hot *hot
        if row == 0 and header.start_boot_ns == 0 and not header.flags & PL_FLAG_KEYED:
            row = self.owner_at(header.tgid, header.time_boot_ns)
            if row == 0:
                self.counters[PL_C_EXEC_UNKNOWN] += 1
                return
        elif row == 0:
            self.exec_without_fork(record)
            return
        if self.hot[row].flags & PL_ROW_START_TICKS and not ticks:
            self.exact_start(row, header.start_boot_ns)
        if self.is_provisional(row, header.time_boot_ns):
            previous = self.previous_image(row)
            if previous:
                confirm_image(self, row, previous, record)
                return
            forget_image(self, row, record)
        previous = row
        for n in range(CHAIN_LIMIT):
            hot = &self.hot[previous]
            if not hot.known & PL_KNOWN_EXEC_TIME:
                break
            if hot.exec_boot_ns == header.time_boot_ns:  # without ROW_IS_EXEC, which a tracer's entry may lack
                complete_applied(self, row, previous, record)
                return
            if not hot.flags & PL_ROW_IS_EXEC or hot.exec_boot_ns < header.time_boot_ns:
                break
            newer = previous
            previous = self.previous_image(previous)
            if previous == 0:
                break
        row = self.append_image(previous, newer, record)
        self.emit(PL_TOPIC_EXEC, PL_KIND_EXEC, row, header.time_boot_ns, 0)

    cdef bint has_lost_exec(self, uint32_t previous, const parsed_record *record) noexcept nogil:
        """Whether the exec replaced another image than `previous`: an exec between the two was lost."""
        cdef const pl_exec_any *body = record.body.exec
        if body == NULL or body.prev_inode == 0 or body.prev_inode == self.hot[previous].inode:
            return False
        # The kernel's map names the replaced image by its cookie; the inode in the map may also be from stat().
        if body.prev_cookie and body.prev_cookie == self.cold[previous].cookie:
            return False
        return self.compare_inode(previous, body.prev_inode, body.prev_cookie, record.is_stat) == INODE_OTHER

    cdef void link_image(self, uint32_t row, uint32_t previous, const parsed_record *record) noexcept nogil:
        """Between begin and end of an image: link it as the one after `previous`."""
        if self.hot[previous].flags & PL_ROW_IS_EXEC:
            self.hot[row].flags |= PL_ROW_IS_EXEC_EXEC
        if self.has_lost_exec(previous, record):
            self.hot[row].flags |= PL_ROW_PARENT_MISSING | PL_ROW_GAP
            self.counters[PL_C_PARENT_MISSING] += 1
            self.counters[PL_C_INODE_ERROR_EXEC_PARENT_MISSING] += 1
        self.tables.set_ancestor(row, previous)
        self.hot[row].images = <uint16_t>min(<uint32_t>self.hot[previous].images + 1, <uint32_t>0xFFFF)

    cdef bint is_exec_bomb(self, uint32_t row, const parsed_record *record, uint32_t groups) noexcept nogil:
        """Whether an exec started what the image is already (specification 3.3.4)."""
        # Sources without eBPF read /proc after the exec and may see the image of a later one. For tracers, each exec
        # makes an image (specification 4).
        return (
            record.body.exec != NULL and not record.header.flags & (PL_FLAG_PARTIAL | PL_FLAG_KEYED)
            and self.is_same_again(row, record, groups)
        )

    cdef uint64_t begun(self, uint32_t previous, uint32_t row) noexcept nogil:
        """When an image began to run; that is before its exec time if it was started again."""
        cdef uint64_t time = self.hot[row].exec_boot_ns
        if self.hot[row].flags & PL_ROW_ELIDED:
            return time  # other images ran in between
        if previous:
            return min(time, self.hot[previous].exit_boot_ns) if self.hot[previous].flags & PL_ROW_REPLACED else time
        # The first image runs from the fork on; if the fork is missing, the image before is unknown.
        if not self.hot[row].flags & PL_ROW_GAP:
            return self.hot[row].start_boot_ns
        return time - self.pids[self.hot[row].tgid].began_before_ns if self.is_first_exec(row) else time

    cdef bint is_first_exec(self, uint32_t row) noexcept nogil:
        """Whether an image without one before it is an exec of the pid's owner, and its fork is missing."""
        cdef const pl_hot *hot = &self.hot[row]
        return (
            hot.flags & PL_ROW_GAP and hot.flags & PL_ROW_IS_EXEC and hot.known & PL_KNOWN_EXEC_TIME
            and self.hot[self.tables.head(hot.tgid)].start_boot_ns == hot.start_boot_ns
        )

    cdef bint begin_earlier(self, uint32_t previous, uint32_t newer, const parsed_record *record) noexcept nogil:
        """Let `newer` begin at a late exec that started the same image; False: another image ran in between."""
        cdef const pl_header_any *header = record.header
        cdef const pl_exec_any *body = record.body.exec
        cdef uint64_t replaced = self.cold[newer].exec_inode
        if replaced and replaced != body.inode:
            return False
        # This comes first, so that a repetition after a kill finds that the image was running by then.
        self.replace(previous, header.time_boot_ns)
        self.tables.begin(newer)
        self.cold[newer].exec_inode = body.prev_inode
        if previous and not self.has_lost_exec(previous, record):
            self.forget_loss(newer)
        self.tables.end(newer)
        return True

    cdef void forget_loss(self, uint32_t row) noexcept nogil:
        """Between begin and end of an image: clear the marks of a lost exec, which has arrived after all."""
        cdef pl_hot *hot = &self.hot[row]
        if hot.flags & PL_ROW_PARENT_MISSING:
            hot.flags &= ~(PL_ROW_PARENT_MISSING | PL_ROW_GAP)
            if hot.flags & PL_ROW_HEAD_ONLY:
                hot.flags |= PL_ROW_GAP

    cdef void start_again(self, uint32_t row, const parsed_record *record) noexcept nogil:
        """Apply an exec bomb: make no new image, and set a later exec time of the existing one (specification 3.3.4).

        The image still runs from the end of the image before; look-ups for a past time depend on that.
        """
        cdef const pl_header_any *header = record.header
        cdef const pl_task_any *task = record.task
        cdef pl_hot *hot = &self.hot[row]
        cdef bint is_head = self.tables.head(header.tgid) == row and hot.exit_boot_ns == 0
        cdef bint is_news = is_head and self.is_news(row, header.time_boot_ns)
        cdef uint64_t began
        self.counters[PL_C_EXEC_BOMB] += 1
        if self.is_first_exec(row) and self.previous_image(row) == 0:
            began = min(self.begun(0, row), header.time_boot_ns)
            self.pids[header.tgid].began_before_ns = <uint32_t>min(
                max(hot.exec_boot_ns, header.time_boot_ns) - began, <uint64_t>0xFFFFFFFF
            )
        self.tables.begin(row)
        if is_news:
            # Facts that are not compared may have changed: names, path, terminal, cgroup, cookie and descriptors.
            self.note_tty(row, False)
            self.put_task(row, record, record.groups)
            self.put_image(row, record, False)
            self.cold[row].tid = header.tid
        if task.cookie and header.time_boot_ns >= hot.exec_boot_ns:
            self.cold[row].cookie = task.cookie
        hot.exec_boot_ns = max(hot.exec_boot_ns, header.time_boot_ns)
        hot.known |= PL_KNOWN_EXEC_TIME
        hot.flags |= PL_ROW_IS_EXEC
        self.tables.end(row)
        if is_news:
            self.pids[header.tgid].facts_at = header.time_boot_ns
        if is_head and header.ppid:
            self.follow_kernel(row, header, PL_KIND_EXEC)

    cdef uint32_t part_image(self, uint32_t previous, uint32_t newer, uint64_t time) noexcept nogil:
        """Divide `newer` at `time`: a late exec shows that it was two images, because another image ran in between.

        Returns:
            The first of the two parts, which ended at `time`; 0: the table is full.
        """
        # Read first: the copy may evict the row of `previous`.
        cdef uint64_t began = self.hot[previous].exit_boot_ns if previous else self.begun(0, newer)
        cdef uint32_t row = self.copy_row(newer)
        cdef pl_hot *hot = &self.hot[row]
        if row == 0:
            return 0
        hot.flags &= ~(PL_ROW_HEAD | END_FLAGS)
        hot.flags |= PL_ROW_REPLACED
        if previous:
            hot.exec_boot_ns = began
        elif self.is_first_exec(newer):
            hot.exec_boot_ns = began
            self.pids[hot.tgid].began_before_ns = 0
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
        self.cold[newer].exec_inode = 0  # it named the image that the first part replaced
        self.tables.set_ancestor(newer, row)
        self.tables.end(newer)
        return row

    cdef void replace(self, uint32_t previous, uint64_t time) noexcept nogil:
        """Mark an image as replaced by the exec at `time`."""
        if previous == 0 or (self.hot[previous].flags & PL_ROW_REPLACED and self.hot[previous].exit_boot_ns == time):
            return
        self.tables.begin(previous)
        self.hot[previous].exit_boot_ns = time
        self.hot[previous].flags = (self.hot[previous].flags | PL_ROW_REPLACED) & ~PL_ROW_HEAD
        self.tables.end(previous)

    cdef void fill_exec(self, uint32_t row, const parsed_record *record, uint32_t groups) noexcept nogil:
        """Between begin and end of an image: store the record's facts."""
        cdef const pl_header_any *header = record.header
        cdef const pl_exec_any *body = record.body.exec
        cdef pl_hot *hot = &self.hot[row]
        cdef pl_cold *cold = &self.cold[row]
        hot.source = record.source
        cold.tid = header.tid
        if body == NULL:
            # Only the exec itself is known. Session, namespaces, cgroup and terminal stay; the rest may have changed.
            self.clear_image(row)
            hot.known &= ~(PL_KNOWN_CREDS | PL_KNOWN_CAPS | PL_KNOWN_COMM)
            hot.flags |= PL_ROW_HEAD_ONLY | PL_ROW_GAP
            cold.exec_inode = 0
            cold.cookie = 0
            self.want(header.tgid, header.start_boot_ns)
        else:
            # The process may have other descriptors now: its terminal is read again.
            self.note_tty(row, False)
            self.put_task(row, record, groups)
            self.put_image(row, record, True)
            cold.exec_inode = body.prev_inode
            cold.cookie = record.task.cookie
        hot.exec_boot_ns = header.time_boot_ns
        hot.known |= PL_KNOWN_EXEC_TIME
        hot.flags |= PL_ROW_IS_EXEC

    cdef uint32_t append_image(self, uint32_t previous, uint32_t newer, const parsed_record *record) noexcept nogil:
        """Enter an image after `previous` and before `newer`, one of which may be 0.

        Returns:
            The row of the image, or of the image that an exec bomb started again; 0: the table is full.
        """
        cdef const pl_header_any *header = record.header
        cdef uint64_t until = self.begun(previous, newer) if newer else 0  # when `newer` began to run
        cdef bint is_head = newer == 0, ended
        cdef uint32_t model, row = started_again(self, previous, newer, until, record)
        if row:
            return row
        if newer and until <= header.time_boot_ns:
            if until < header.time_boot_ns:
                previous = self.part_image(previous, newer, header.time_boot_ns)
                if previous == 0:
                    return 0
            # else a predecessor, which was killed then, has parted the image or ended the one before already
            until = self.hot[newer].exec_boot_ns
        model = previous if previous else newer
        ended = is_head and self.hot[model].exit_boot_ns != 0
        row = self.copy_row(model)
        if row == 0:
            return self.overwrite(model, record) if is_head else 0
        if ended:
            # The record arrived after the exit. Rows keep their places in the pid index and in the retention queue. So
            # the new row gets the contents of the image before, and the head's row gets the image of this record.
            self.tables.end(row)
            previous = row
            row = model
            self.replace(previous, header.time_boot_ns)
            self.tables.begin(row)
        fill_appended(self, row, previous, model, record, is_head, until)
        self.tables.end(row)
        self.count_added(record.source)
        if ended:
            self.tables.retire(previous)
        elif is_head:
            make_head(self, row, previous, record)
        else:
            put_between(self, row, previous, newer, record)
        return row

    cdef uint32_t overwrite(self, uint32_t row, const parsed_record *record) noexcept nogil:
        """Overwrite the head, as the table is full: the process is right then, and its history is lost."""
        cdef const pl_header_any *header = record.header
        cdef pl_hot *hot = &self.hot[row]
        cdef uint32_t flags = hot.flags, container = self.cold[row].container_ref, extra = self.cold[row].extra_ref
        cdef pl_hot before = hot[0]
        cdef pl_cold cold_before = self.cold[row]
        # Hold the strings, so that the references below stay valid.
        self.tables.names.hold(container)
        self.tables.args.hold(extra)
        self.tables.begin(row)
        hot.flags = PL_ROW_ELIDED | (flags & (
            PROCESS_FLAGS | END_FLAGS | PL_ROW_HEAD | PL_ROW_PARENT_MISSING | PL_ROW_GAP
        ))
        if flags & PL_ROW_IS_EXEC:
            hot.flags |= PL_ROW_IS_EXEC_EXEC
        self.fill_exec(row, record, record.groups)
        self.reset_extra(row, extra, self.same_places(row, &before, &cold_before))
        self.tables.end(row)
        self.tables.names.release(container)
        self.tables.args.release(extra)
        self.counters[PL_C_ELIDED] += 1
        if self.tables.head(header.tgid) == row and hot.exit_boot_ns == 0:
            self.pids[header.tgid].facts_at = max(self.pids[header.tgid].facts_at, header.time_boot_ns)
            if header.ppid:
                self.follow_kernel(row, header, PL_KIND_EXEC)
        return row

    cdef void number_images(self, uint32_t head, uint32_t row) noexcept nogil:
        """Number the images after `row`, up to the head, again; `row` has its number, which counts from the oldest."""
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

    cdef void exec_without_fork(self, const parsed_record *record) noexcept nogil:
        cdef const pl_header_any *header = record.header
        cdef uint32_t newer = 0, row = self.open_entry(header, header.start_boot_ns, &newer), parent
        cdef pl_hot *hot
        if row == 0:
            return
        hot = &self.hot[row]
        self.missing_parent(row, header, newer)
        self.fill_exec(row, record, record.groups)
        if header.flags & PL_FLAG_KEYED and header.time_boot_ns == header.start_boot_ns:
            # A tracer found the process when the tracer began; that corresponds to the snapshot of other sources.
            parent = self.tables.follow(hot.parent)
            hot.source = PL_SOURCE_SNAPSHOT
            hot.flags |= PL_ROW_BEFORE_CAPTURE
            # No difference from the parent means that there was no exec since the fork (specification 3.3.9).
            if parent == 0 or self.same_image(row, parent):
                hot.flags &= ~PL_ROW_IS_EXEC
        else:
            # The image before is missing, even if the parent is known.
            self.counters[PL_C_EXEC_WITHOUT_FORK] += 1
            hot.flags |= PL_ROW_PARENT_MISSING | PL_ROW_GAP
        if header.flags & PL_FLAG_PARTIAL and header.start_boot_ns % self.tick_ns == 0:
            hot.flags |= PL_ROW_START_TICKS
        self.insert_entry(row, newer)
        self.count_added(record.source)
        if not newer:
            self.begin_pid(header)
            if self.tables.first_child(header.tgid) or self.pids[header.tgid].awaited:
                self.link_waiting(row, header.time_boot_ns)
        self.emit(PL_TOPIC_EXEC, PL_KIND_EXEC, row, header.time_boot_ns, 0)
        self.close_if_ended(row)
