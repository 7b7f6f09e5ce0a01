"""Begin and end of the entry of a process, and its links: parent, children, adoption.

If its parent is not in the tables, a child waits for it (`wait_for`), and is linked when the parent arrives. Rule 3 in
_rows.pyx says when a parent may be linked at all.
"""

from libc.stdint cimport uint32_t, uint64_t

from pipeline.records._records cimport PL_FLAG_PARTIAL, PL_KIND_EXIT, pl_header_any
from pipeline.resolver.apply._images cimport Images
from pipeline.resolver.apply._rows cimport WAITING_SIZE, ended_process
from pipeline.shm.layout._layout cimport (
    PL_C_EXITS_UNSEEN, PL_C_REPARENTS, PL_C_REPARENTS_CONFIRMED, PL_C_REPARENTS_CORRECTED,
    PL_C_REPARENT_FAILED_DO_EXIT, PL_C_REPARENT_FAILED_KERNEL_PPID, PL_C_REPARENT_SUCCESS_DO_EXIT,
    PL_C_REPARENT_SUCCESS_KERNEL_PPID, PL_KNOWN_CREATOR, PL_KNOWN_START, PL_ROW_ADOPTED, PL_ROW_ADOPTION_PREDICTED,
    PL_ROW_DELETED, PL_ROW_EXIT_UNSEEN, PL_ROW_FOREIGN, PL_ROW_HEAD, PL_ROW_PARENT_MISSING, PL_TOPIC_EXIT,
    PL_TOPIC_REPARENT, pl_hot, pl_prefetch,
)


cdef class Lineage(Images):
    """Begin and end of entries, and the links between parents and children."""

    def py_is_child_of(self, uint32_t child, uint32_t parent) -> bool:
        """Whether the process with head `child`, which is in the child list of the pid, has exactly this parent."""
        self.tables._require_row(child)
        self.tables._require_row(parent)
        return self.is_child_of(child, parent)

    def py_move(self, uint32_t row, uint32_t parent, uint64_t time_boot_ns) -> bool:
        """Make the process with head `parent` the parent of that with head `row`; False if the parent is younger."""
        self.tables._require_row(row)
        self.tables._require_row(parent)
        if row == parent or not self.can_descend(row, parent):
            return False
        with nogil:
            self.move(row, parent, time_boot_ns, 0, False)
        return True

    # -- entries -------------------------------------------------------------------------------------------------------

    cdef uint32_t open_entry(self, const pl_header_any *header, uint64_t displaced_at, uint32_t *newer) noexcept nogil:
        """Make a first row for a process that is not in the tables. The row is not visible yet.

        If an older process has the pid, its exit was lost; it has ended at `displaced_at` at the latest. If a younger
        process has the pid, the new one is entered as history.

        Args:
            displaced_at: boot ns.
            newer: set to the process that owned the pid after the new one; 0: none did.

        Returns:
            The row, for `insert_entry`; 0: the table is full.
        """
        cdef uint32_t row = self.tables.new_row(), other, older
        cdef pl_hot *hot
        if row == 0:
            return 0
        # Fetch the row that the next process will get: free rows are cold.
        other = self.tables.first_free
        if other:
            pl_prefetch(&self.hot[other])
            pl_prefetch(<const char *>&self.hot[other] + 64)
            pl_prefetch(&self.cold[other])
            pl_prefetch(<const char *>&self.cold[other] + 64)
            pl_prefetch(<const char *>&self.cold[other] + 128)
        hot = &self.hot[row]
        hot.tgid = header.tgid
        hot.start_boot_ns = header.start_boot_ns
        hot.flags = PL_ROW_HEAD if header.tgid < self.tables.root_pids else PL_ROW_HEAD | PL_ROW_FOREIGN
        hot.known = PL_KNOWN_START
        hot.images = 1
        self.cold[row].tid = header.tid
        newer[0] = 0
        older = self.tables.head(header.tgid)
        while older and self.hot[older].start_boot_ns > header.start_boot_ns:
            newer[0] = older
            older = self.tables.follow(self.cold[older].previous_owner)
        if newer[0]:
            hot.exit_boot_ns = self.hot[newer[0]].start_boot_ns
            hot.flags |= PL_ROW_DELETED | PL_ROW_EXIT_UNSEEN
        elif older and self.hot[older].exit_boot_ns == 0:
            self.displace(older, displaced_at)
        if older:
            self.tables.set_previous_owner(row, older)
        if newer[0] == 0:
            if self.tables.first_child(header.tgid):
                self.forget_children(header.tgid, header.start_boot_ns)
            self.cgroups.sets[header.tgid] = 0
        return row

    cdef void insert_entry(self, uint32_t row, uint32_t newer) noexcept nogil:
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
        """Between begin and end of a root: link the parent's image of `time`."""
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
        while self.pids[tgid].awaited and i < self.waiting_count:
            child = self.waiting[i]
            if self.pids[child].waits_for == tgid:
                self.link_child(child, row, time)
            if i < self.waiting_count and self.waiting[i] == child:
                i += 1

    cdef void link_child(self, uint32_t child, uint32_t row, uint64_t time) noexcept nogil:
        cdef uint32_t tgid = self.hot[row].tgid, head = self.tables.head(child), known, root
        cdef uint64_t expected = self.pids[child].parent_start
        if head == 0 or self.hot[head].exit_boot_ns:
            self.wait_no_more(child)
            return
        known = self.tables.follow(self.hot[head].parent)
        if known and self.hot[known].tgid == tgid and self.same_start(known, self.hot[row].start_boot_ns, False):
            return
        if expected and not self.same_start(row, expected, False) or not self.can_descend(head, row):
            return
        if self.hot[head].ppid != tgid:
            self.move(
                head, row, time, 0, self.pids[child].waits_for == tgid and self.pids[child].is_predicted != 0
            )
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

    cdef void wait_for(
        self, uint32_t tgid, uint32_t parent_tgid, uint64_t parent_start, bint predicted
    ) noexcept nogil:
        """Remember that the kernel named a parent that is not in the tables; `link_waiting` links it later."""
        self.pids[tgid].parent_start = parent_start
        self.pids[tgid].is_predicted = predicted
        if parent_tgid == self.pids[tgid].waits_for or parent_tgid >= self.tables.pid_capacity:
            return
        self.wait_no_more(tgid)
        if self.waiting_count == WAITING_SIZE:
            return  # the next record of the process names the parent again
        self.waiting[self.waiting_count] = tgid
        self.waiting_count += 1
        self.pids[tgid].waits_for = parent_tgid
        self.pids[parent_tgid].awaited += 1

    cdef void stop_waiting(self, uint32_t tgid) noexcept nogil:
        cdef uint32_t i
        self.pids[self.pids[tgid].waits_for].awaited -= 1
        self.pids[tgid].waits_for = 0
        for i in range(self.waiting_count):
            if self.waiting[i] == tgid:
                self.waiting_count -= 1
                self.waiting[i] = self.waiting[self.waiting_count]
                return

    cdef void displace(self, uint32_t row, uint64_t time) noexcept nogil:
        """End the former owner of a pid that has another owner. Its exit was lost; it ended before `time`."""
        self.counters[PL_C_EXITS_UNSEEN] += 1
        self.finish(row, time, PL_ROW_EXIT_UNSEEN)
        self.emit(PL_TOPIC_EXIT, PL_KIND_EXIT, row, time, 0)

    cdef void forget_children(self, uint32_t tgid, uint64_t start) noexcept nogil:
        """Remove older processes from the child list of a pid that gets a new owner at `start`.

        Their parent has ended, and their new parent was not reported. Their lineage at fork stays.
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
        """End a process; its head stays as history."""
        cdef uint32_t tgid = self.hot[row].tgid
        self.tables.begin(row)
        # Clocks of different CPUs may differ by less than a step; an end is never before the start.
        self.hot[row].exit_boot_ns = max(time, self.hot[row].start_boot_ns)
        self.hot[row].flags |= PL_ROW_DELETED | flags
        self.tables.end(row)
        self.tables.retire(row)
        if self.tables.head(tgid) == row:
            self.tables.orphan(tgid)
            self.wait_no_more(tgid)

    # -- lineage -------------------------------------------------------------------------------------------------------

    cdef void move(self, uint32_t row, uint32_t parent, uint64_t time, uint32_t kind, bint predicted) noexcept nogil:
        """Make the process with head `parent` the parent of that with head `row`. The root moves, so the images stay.

        Root and head name the parent; an image between them names the parent at the time of its end.
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
            # Child lists are kept by pid: they hold the current owners of pids, and live processes only.
            self.tables.adopt(hot.tgid, hot.ppid)
            self.wait_no_more(hot.tgid)
            self.pids[hot.tgid].parent_start = self.hot[parent].start_boot_ns
        self.counters[PL_C_REPARENTS] += 1
        if kind == PL_KIND_EXIT and predicted:
            self.counters[PL_C_REPARENT_SUCCESS_DO_EXIT] += 1
        elif kind:
            self.counters[PL_C_REPARENT_SUCCESS_KERNEL_PPID] += 1
        self.emit(PL_TOPIC_REPARENT, kind, row, time, parent)

    cdef void follow_kernel(self, uint32_t row, const pl_header_any *header, uint32_t kind) noexcept nogil:
        """Confirm or correct the parent in the tables with the parent that a record names."""
        cdef pl_hot *hot = &self.hot[row]
        cdef uint32_t known, parent
        cdef bint was_predicted = hot.flags & PL_ROW_ADOPTION_PREDICTED
        cdef bint ticks = header.flags & PL_FLAG_PARTIAL
        if header.ppid == 0 or header.ppid >= self.tables.pid_capacity:
            return
        known = self.tables.follow(hot.parent)
        if (
            hot.ppid == header.ppid
            and known
            and self.hot[known].tgid == header.ppid
            and (header.parent_start_boot_ns == 0 or self.same_start(known, header.parent_start_boot_ns, ticks))
        ):
            if was_predicted:
                self.tables.begin(row)
                hot.flags &= ~PL_ROW_ADOPTION_PREDICTED
                self.tables.end(row)
                self.counters[PL_C_REPARENTS_CONFIRMED] += 1
            return
        if header.parent_start_boot_ns:
            parent = self.find(header.ppid, header.parent_start_boot_ns, ticks)
        else:
            parent = self.tables.head(header.ppid)
        if parent and self.hot[parent].exit_boot_ns:
            # An exit is stamped before the kernel moves the children, so the predicted move is still to come. Or the
            # record is older than that exit, and is late or repeated.
            return
        if parent and known == 0 and hot.ppid == header.ppid and self.can_descend(row, parent):
            # The parent is the same: it has been entered since, or the linked image was evicted at the ceiling.
            self.pids[hot.tgid].parent_start = header.parent_start_boot_ns
            self.link_child(hot.tgid, parent, header.time_boot_ns)
            return
        if parent and self.can_descend(row, parent):
            if was_predicted:
                self.counters[PL_C_REPARENTS_CORRECTED] += 1
            self.move(row, parent, header.time_boot_ns, kind, False)
            return
        # The parent is not in the tables: nothing is relinked, as a wrong parent would be worse (specification R21).
        if self.tables.head(hot.tgid) != row:
            return
        if self.pids[hot.tgid].parent_start != header.parent_start_boot_ns or hot.ppid != header.ppid:
            self.want(header.ppid, header.parent_start_boot_ns)
        if hot.ppid != header.ppid:
            if kind:
                self.counters[PL_C_REPARENT_FAILED_KERNEL_PPID] += 1
            self.wait_for(hot.tgid, header.ppid, header.parent_start_boot_ns, False)

    cdef bint is_child_of(self, uint32_t child, uint32_t parent) noexcept nogil:
        """Whether the process with head `child`, which is in the child list of the pid, has exactly this parent."""
        cdef uint32_t known = self.tables.follow(self.hot[child].parent)
        cdef uint64_t expected
        if known:
            return self.hot[known].start_boot_ns == self.hot[parent].start_boot_ns
        expected = self.pids[self.hot[child].tgid].parent_start
        return expected != 0 and self.same_start(parent, expected, False)

    cdef uint32_t reaper(self, uint32_t tgid, uint64_t start) noexcept nogil:
        """Return the process that adopts; the reaper that a record named may have ended before."""
        cdef uint32_t row, n
        cdef ended_process *ended
        for n in range(16):
            row = self.find(tgid, start, False)
            if row == 0 or self.hot[row].exit_boot_ns == 0:
                return row
            ended = self.ended_at(tgid, start)
            if ended.tgid != tgid or ended.start != start or ended.reaper_tgid == 0:
                return 0
            tgid = ended.reaper_tgid
            start = ended.reaper_start
        return 0

    cdef void move_children(
        self, uint32_t row, uint32_t reaper_tgid, uint64_t reaper_start, uint64_t time
    ) noexcept nogil:
        """`leave_children` of a process that has some."""
        cdef uint32_t child = self.tables.first_child(self.hot[row].tgid), following, head, adopter = 0
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
                # Its parent is not in the tables yet, or is a later owner of the pid.
                if self.pids[child].parent_start == 0:
                    self.want(child, self.hot[head].start_boot_ns)
            elif adopter and adopter != row and self.can_descend(head, adopter):
                self.move(head, adopter, time, PL_KIND_EXIT, True)
            elif reaper_tgid and adopter == 0:
                self.counters[PL_C_REPARENT_FAILED_DO_EXIT] += 1
                self.wait_for(child, reaper_tgid, reaper_start, True)
            else:
                self.want(child, self.hot[head].start_boot_ns)
            child = following
