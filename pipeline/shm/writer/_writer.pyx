"""The single writer of an instance's tables: rows, links between them, pid slots, retention and eviction.

Related modules: shm/layout/declared.py defines the layouts, _arena.pyx stores strings, _control.pyx writes commits and
positions, and _takeover.pyx rebuilds the writer's state from existing tables. This module does not decide when a row is
created or changed, or what it contains. resolver/apply/_applier.pyx and the resolver's single calls decide that and use
the nogil methods of _writer.pxd. The `py_*` methods do the same for Python.

Rows. A row that was never used has generation 0. A free row, and a row that is being written, has an odd row_seq. The
writer fills a row while its row_seq is odd, ends it, and only then stores its number in the index (release store), so a
reader never sees a half-written new row. Freeing a row has a fixed order: clear the index entry, make row_seq odd, set
flags to 0, add 1 to the generation, release what the row owns. Readers and a successor can recognise the state after
each step (see `_free`).

References. `refs` counts the ancestor, parent and creator links to a row. previous_owner links are not counted: they
would keep every past owner of a frequently reused pid. Such a link becomes invalid when the target's generation
changes, and readers then report "too old". Rows of ended images (by exit, or by exec of the next image) wait in
the retention queue in the order in which they ended. When a row reaches the front and its retention is over, it is
freed if nothing refers to it; otherwise it moves to the ancestor list. When its last reference is dropped, it goes to
the front of the queue. Freeing a row drops its links, which may move other rows to the front of the queue. This cascade
is a loop over the queue, not a recursion, and the budget of `evict` limits it.

At the ceiling (law 7), rows are evicted from the front of the queue regardless of retention. This frees the oldest rows
that nothing refers to. A family of ended processes is freed leaf by leaf; the rows that are still referred to are
ancestors of live processes. Only when the queue is empty are rows evicted from the front of the ancestor list, oldest
first. Links to such a row become invalid by generation, and readers report that the lineage was elided there. Newest
images of live processes are in neither list.

Lineages. Each event needs to know whether the chain of its process leads to pid 1 without a gap. `lineages` keeps the
answer for ancestors, so that an event reads the word of one ancestor instead of the whole chain. A word counts the
images that decide the answer, because a chain of more than LINEAGE_CHECKED images has none. A word is valid in the
epoch in which it was stored. Within an epoch, all ancestors that a valid word was derived from have valid words too.
`end` therefore compares the row's word with the changed row, and begins a new epoch if they differ; so does `_free` for
a row that is still referred to. After that, the next event of each process walks up to the nearest valid word, at most
LINEAGE_CHECKED images, and stores the words of those. If it needs all of them, the words say "at least this
many images", which suffices for the rows below.
"""

cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from pipeline.shm.writer._arena cimport Arena, pl_order
from pipeline.shm.writer._control cimport ControlWriter
from pipeline.shm.layout._hash cimport pl_row_check
from pipeline.shm.layout._layout cimport (
    PL_C_ARENA_FULL, PL_C_ELIDED, PL_C_EVICTIONS, PL_C_TABLE_FULL, PL_KNOWN_COST, PL_KNOWN_IO, PL_ROW_ELIDED,
    PL_ROW_HEAD, PL_ROW_IS_EXEC, PL_ROW_REPLACED, PL_STATE_FILLING, PL_STATE_STOPPED, pl_cold, pl_commit, pl_costs,
    pl_fence_release, pl_hot, pl_row_clear, pl_store_relaxed32, pl_store_release32, pl_store_release64, pl_prefetch,
)
from pipeline.records._limits cimport LINEAGE_CHECKED
from pipeline.shm.writer._segment cimport Segment

import os

import numpy as np

from pipeline.errors import InvariantError
from pipeline.shm.layout import layout
from pipeline.shm.writer import declared, segments

ROW_STATE = np.dtype(declared.ROW_STATE_LAYOUT.dtype())
FAMILY = np.dtype(declared.FAMILY_LAYOUT.dtype())


cdef enum:
    # A row is fetched EVICT_AHEAD rows before it is freed, and its arguments EVICT_AHEAD_ARGS rows before, because
    # freeing a row takes less time than fetching it.
    EVICT_AHEAD = 12
    EVICT_AHEAD_ARGS = 6
    # A row is fetched this many rows before its `extra` is read.
    EXTRA_AHEAD = 24
    # Rows that are mapped in one call before they are used for the first time: 200 KB.
    POPULATED_ROWS = 512


@cython.final
cdef class TableWriter(ControlWriter):
    """The single writer of an instance's tables.

    `_opening.open_tables` creates it. It holds `writer.lock` until `close`. The nogil methods are in _writer.pxd; they
    do not check their arguments: every row number must come from new_row, head or follow. Do not call them after
    `close`.

    Attributes:
        names, args, envs: the arenas.
        keys: maps (pid, pid namespace) keys to entries of the index.
        root_pids: number of index entries before the keys' entries; these are pids of the root pid namespace.
        is_takeover: True if the tables were taken over from a predecessor.
        fresh_reason: why the tables are new ones; empty after a take-over.
        was_complete: True if the tables contained all live processes before, in this capture. A predecessor that was
            killed during its start had not completed them.
        has_successor: set it to True if another writer is expected to continue with the tables after `close`.
        ends_when_dropped: set it to True if dropping the last reference is as good as `close`. Otherwise only the lock
            is released, as at a kill, and a successor continues.
        torn_rows: rows that the predecessor was changing when it was killed. They are the newest images of live
            processes and their row_seq is still odd. The owner of the writer must correct their fields (without
            `begin`) and call `end`.
        rows_used, heads_live, heads_exited, evicted_total: counts.
        lineage_epoch: epoch of the valid words of ``private_view("lineages")``; words of other epochs mean nothing.
        retention_ns: minimum time for which an ended image is kept while the table is below its ceiling.
        chain_max: maximum number of linked images of one process.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory(dir="/dev/shm") as directory, create_tables(path=directory) as tables:
        ...     print(tables.heads_live, tables.rows_used)
        0 0
    """

    cdef void attach(self) noexcept:
        cdef list private = self.private_segments
        self.hot = <pl_hot *>self.hot_segment.base
        self.cold = <pl_cold *>self.cold_segment.base
        self.costs = <pl_costs *>self.costs_segment.base
        self.index = <uint32_t *>self.index_segment.base
        self.state_segment = private[0]
        self.rows = <row_state *>self.state_segment.base
        self.kin = <family *>(<Segment>private[1]).base
        self.digests = <uint64_t *>(<Segment>private[2]).base
        self.lineages = <uint32_t *>(<Segment>private[3]).base
        self.costs_allocated = <uint8_t *>(<Segment>private[4]).base
        self.lineage_epoch = LINEAGE_EPOCH
        self.names.attach(&self.control.names_allocated_bytes, &self.counters[PL_C_ARENA_FULL])
        self.args.attach(&self.control.args_allocated_bytes, &self.counters[PL_C_ARENA_FULL])
        self.envs.attach(&self.control.envs_allocated_bytes, &self.counters[PL_C_ARENA_FULL])
        self.rows_allocated = self.control.rows_allocated
        self.rows_fresh = 1

    def growth_refused(self):
        """Return the number of rejected growth requests and the names of the tables that now wait to retry."""
        arenas = [(<Arena>arena).segment for arena in (self.names, self.args, self.envs)]
        segments = [self.hot_segment, self.cold_segment, self.costs_segment, *arenas]
        return (
            sum([(<Segment>segment).refused for segment in segments]),
            [(<Segment>segment).name for segment in segments if (<Segment>segment).waits],
        )

    def close(self, remove=False) -> None:
        """Set the state to STOPPED and close all files; with `remove`, also unlink them. Views stay valid.

        With `has_successor` the state is FILLING, as it will be during the take-over: readers still get the entries
        that the tables have, and "stale" for others.
        """
        if self.control == NULL:
            return
        self.set_state(PL_STATE_FILLING if self.has_successor else PL_STATE_STOPPED)
        if remove:
            segments.remove(self.directory_path)
        for segment in (
            self.hot_segment, self.cold_segment, self.costs_segment, self.index_segment, self.keys.segment,
            self.control_segment,
        ):
            (<Segment>segment).close_file()
        for arena in (self.names, self.args, self.envs):
            (<Arena>arena).segment.close_file()
        self.control = NULL
        self.hot = NULL
        self.cold = NULL
        self.costs = NULL
        self.index = NULL
        os.close(self.lock_fd)
        self.lock_fd = -1

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()

    def __del__(self):
        if self.ends_when_dropped:
            self.close()

    # -- rows -------------------------------------------------------------------------------------------------------

    cdef uint32_t new_row(self) noexcept nogil:
        cdef uint32_t row = self.first_free
        if row != 0:
            self.first_free = self.rows[row].next
        else:
            row = self._fresh_row()
            if row == 0:
                if not self._make_room():
                    self.counters[PL_C_TABLE_FULL] += 1
                    return 0
                row = self.first_free
                self.first_free = self.rows[row].next
        # row_seq has been odd since the row was freed (or since _fresh_row), so a reader that still holds the number
        # of the row sees that it is being written.
        pl_row_clear(&self.hot[row], &self.cold[row])
        self.rows[row].next = 0
        self.rows[row].refs = 0
        self.rows[row].chain = 1
        self.rows[row].status = STATUS_USED
        self.rows_used += 1
        # Prefetch the row that will be used next; it is no longer in the cache.
        self.fetch(self.first_free)
        return row

    cdef uint32_t _fresh_row(self) noexcept nogil:
        """Return a row that was never used; 0 at the ceiling or when tmpfs is full."""
        cdef uint32_t row = self.rows_fresh
        if row >= self.rows_allocated and not self._grow_rows():
            return 0
        if row >= self.rows_populated:
            self._populate_rows()
        self.rows_fresh = row + 1
        # row_seq must be odd before the generation makes the row exist for readers.
        pl_store_relaxed32(&self.hot[row].row_seq, 1)
        pl_fence_release()
        self.hot[row].generation = 1
        return row

    cdef bint _grow_rows(self) noexcept nogil:
        cdef uint64_t rows = <uint64_t>self.rows_allocated + self.control.chunk_rows
        if self.rows_allocated >= self.row_capacity:
            return False
        rows = min(rows, <uint64_t>self.row_capacity)
        if not self.cold_segment.grow(rows * sizeof(pl_cold)) or not self.hot_segment.grow(rows * sizeof(pl_hot)):
            return False
        self.rows_allocated = <uint32_t>rows
        # Release: the new rows are allocated before a reader can load the new number (acquire) and read them.
        pl_store_release32(&self.control.rows_allocated, <uint32_t>rows)
        return True

    cdef void _populate_rows(self) noexcept nogil:
        """Map the memory of the next rows. All at once, the memory of a whole step of growth might never be used."""
        cdef uint64_t begin = self.rows_fresh
        cdef uint64_t end = min(begin + POPULATED_ROWS, <uint64_t>self.rows_allocated)
        self.cold_segment.populate(begin * sizeof(pl_cold), end * sizeof(pl_cold))
        self.hot_segment.populate(begin * sizeof(pl_hot), end * sizeof(pl_hot))
        self.state_segment.populate(begin * sizeof(row_state), end * sizeof(row_state))
        self.rows_populated = <uint32_t>end

    cdef bint _allocate_costs(self, uint32_t part) noexcept nogil:
        """Allocate the costs of the rows from `part` * COSTS_ROWS on; return False when tmpfs is full.

        Most images never have costs: they live, or an exec has replaced them. So memory is allocated where a process
        has ended. It is not freed again. A successor allocates the same parts again, which changes nothing.
        """
        cdef uint64_t begin = <uint64_t>part * COSTS_ROWS * sizeof(pl_costs)
        cdef uint64_t length = min(COSTS_ROWS * sizeof(pl_costs), self.costs_segment.capacity - begin)
        if not self.costs_segment.allocate(begin, length):
            return False
        self.costs_allocated[part] = 1
        return True

    cdef uint32_t copy_row(self, uint32_t source) noexcept nogil:
        cdef uint32_t row
        cdef uint64_t link = self.link(source)
        cdef pl_hot *hot
        cdef pl_cold *cold
        # new_row may evict rows; keep it from evicting the row that is copied.
        self.rows[source].refs += 1
        self.pinned = source
        row = self.new_row()
        self.pinned = 0
        if row != 0:
            hot = &self.hot[row]
            cold = &self.cold[row]
            memcpy(<char *>hot + 8, <char *>&self.hot[source] + 8, sizeof(pl_hot) - 8)
            cold[0] = self.cold[source]
            hot.known &= ~(PL_KNOWN_COST | PL_KNOWN_IO)  # what a process has used is in its newest image only
            self._count_link(hot.ancestor)
            self._count_link(hot.parent)
            self._count_link(hot.creator)
            self.names.hold(hot.file_ref)
            self.args.hold(hot.args_ref)
            self.envs.hold(cold.envs_ref)
            self.names.hold(cold.name_ref)
            self.names.hold(cold.cgroup_ref)
            self.names.hold(cold.container_ref)
            self.args.hold(cold.extra_ref)
        self._drop(link)
        return row

    cdef void _count_link(self, uint64_t link) noexcept nogil:
        cdef uint32_t target = self.follow(link)
        if target != 0:
            self.rows[target].refs += 1

    cdef void _sign(self, uint32_t row) noexcept nogil:
        self.hot[row].check = pl_row_check(&self.hot[row], &self.cold[row], &self.costs[row])

    cdef void discard(self, uint32_t row) noexcept nogil:
        self._free(row)

    cdef void _free(self, uint32_t row) noexcept nogil:
        """Free a row.

        What readers see after each step, and what remains if the writer is killed there:

        1. Horizon raised, index cleared: readers find no row, and the horizon shows that history is missing. A kill
           leaves an ended image that is reachable only through links, as after a reuse of its pid.
        2. row_seq odd: a reader that already has the row's number sees that it is being written.
        3. flags 0: a successor treats an odd row without flags as free, whatever its other fields contain.
        4. generation + 1: every link to the row is invalid. (A successor adds 1 to the generation of all free rows, so
           no link stays valid after a kill between 3 and 4.)
        5. Fence: steps 2 and 4 become visible before the stores that reuse what the row owned (see _arena.pyx).
        """
        cdef pl_hot *hot = &self.hot[row]
        cdef uint8_t status = self.rows[row].status
        cdef uint32_t generation
        if self.rows[row].refs != 0:
            self._forget_lineages()
        if status & (STATUS_QUEUED | STATUS_PARKED):
            self._unlist(row)
        if status & STATUS_EXITED:
            self.heads_exited -= 1
            if hot.exit_boot_ns > self.control.horizon_boot_ns:
                pl_store_release64(&self.control.horizon_boot_ns, hot.exit_boot_ns)
        if status & STATUS_LIVE:
            self.heads_live -= 1
        if hot.tgid < self.pid_capacity and self.index[hot.tgid] == row:
            # Release, after the horizon: a reader that finds no row reads the horizon next.
            pl_store_release32(&self.index[hot.tgid], 0)
        self.begin(row)
        hot.flags = 0
        pl_order()
        generation = hot.generation + 1
        if generation == 0:  # 0 means "never used"
            generation = 1
        pl_store_relaxed32(&hot.generation, generation)
        pl_fence_release()
        self.rows[row].status = 0
        self.rows[row].refs = 0
        self.rows_used -= 1
        self.rows[row].next = self.first_free
        self.first_free = row
        self._release_refs(row)
        self._drop(hot.ancestor)
        self._drop(hot.parent)
        self._drop(hot.creator)

    cdef void _release_refs(self, uint32_t row) noexcept nogil:
        cdef pl_hot *hot = &self.hot[row]
        cdef pl_cold *cold = &self.cold[row]
        self.names.release(hot.file_ref)
        self.args.release(hot.args_ref)
        self.envs.release(cold.envs_ref)
        self.names.release(cold.name_ref)
        self.names.release(cold.cgroup_ref)
        self.names.release(cold.container_ref)
        self.args.release(cold.extra_ref)

    # -- links ------------------------------------------------------------------------------------------------------

    cdef void _unlinked(self, uint32_t row) noexcept nogil:
        """Requeue a row that has no links to it any more, so that it can be freed when its retention is over."""
        cdef uint8_t status = self.rows[row].status
        if status & STATUS_PARKED:
            self._unlist(row)
            self._requeue(row)
        elif not status & STATUS_QUEUED and self.hot[row].flags & PL_ROW_REPLACED:
            self._requeue(row)

    # -- lineages ---------------------------------------------------------------------------------------------------

    cdef uint32_t _walk_lineage(self, uint32_t row) noexcept nogil:
        """Read the chain of a row up to a decision, a sufficient word or LINEAGE_CHECKED images.

        The words of all ancestors that were read are stored, but not that of the row: most rows have no descendants.
        Nor is that of an image that an exec replaced, if it is the only one that was read.
        """
        cdef uint32_t below[LINEAGE_CHECKED]
        cdef uint32_t count = 0, facts
        if self.hot[row].flags & PL_ROW_IS_EXEC:
            facts = self._lineage_facts(self.follow(self.hot[row].ancestor))
            if facts & LINEAGE_DECIDED:
                return self._facts_below(row, facts)
        while True:
            facts = self._lineage_facts(row)
            if facts & LINEAGE_DECIDED or (facts & LINEAGE_IMAGES) + count > LINEAGE_CHECKED:
                break
            below[count] = row
            count += 1
            row = self.follow(self.hot[row].ancestor)
        if count != 0:
            self._keep_lineage(row, facts)
        while count != 0:
            count -= 1
            facts = self._facts_below(below[count], facts)
            if count != 0:
                self._keep_lineage(below[count], facts)
        return facts

    cdef void _keep_lineage(self, uint32_t row, uint32_t facts) noexcept nogil:
        self.lineages[row] = self.lineage_epoch | facts
        self.rows[row].status |= STATUS_LINEAGE

    cdef void _check_lineage(self, uint32_t row) noexcept nogil:
        """Begin a new epoch if a changed row contradicts its word."""
        cdef uint32_t known = self.lineages[row], facts
        if (known ^ self.lineage_epoch) >= LINEAGE_EPOCH:
            return
        known &= LINEAGE_FACTS
        facts = self._lineage_facts(row)
        if facts == known:
            return
        if (
            not known & LINEAGE_DECIDED
            and (facts ^ known) & LINEAGE_INIT == 0
            and (facts & LINEAGE_IMAGES) >= (known & LINEAGE_IMAGES)
        ):
            return  # the rows below rely on a lower bound, which still holds
        self._forget_lineages()

    cdef void _forget_lineages(self) noexcept nogil:
        self.lineage_epoch += LINEAGE_EPOCH
        if self.lineage_epoch == 0:
            memset(self.lineages, 0, self.rows_fresh * sizeof(uint32_t))
            self.lineage_epoch = LINEAGE_EPOCH

    # -- pid slots --------------------------------------------------------------------------------------------------

    cdef void set_head(self, uint32_t tgid, uint32_t row) noexcept nogil:
        cdef uint32_t old
        if tgid >= self.pid_capacity:
            return
        old = self.index[tgid]
        # Release: the row was ended before this store, so a reader that loads its number with acquire (or through an
        # address dependency followed by its acquire load of row_seq) sees the complete row. On aarch64: stlr paired
        # with ldar.
        pl_store_release32(&self.index[tgid], row)
        if row != 0 and not self.rows[row].status & STATUS_LIVE and self.hot[row].exit_boot_ns == 0:
            self.rows[row].status |= STATUS_LIVE
            self.heads_live += 1
        if old == 0 or old == row:
            return
        if self.rows[old].status & STATUS_LIVE:
            self.rows[old].status &= ~STATUS_LIVE
            self.heads_live -= 1
        if row != 0 and self.hot[row].ancestor == self.link(old):
            # An exec: the replaced image ends here.
            if not self.rows[old].status & (STATUS_QUEUED | STATUS_PARKED):
                self._enqueue(old)
            self.cap_images(row)

    cdef void adopt(self, uint32_t child_tgid, uint32_t parent_tgid) noexcept nogil:
        cdef uint32_t first
        if child_tgid >= self.pid_capacity or parent_tgid >= self.pid_capacity or child_tgid == 0:
            return
        if self.kin[child_tgid].parent == parent_tgid:
            return
        self.orphan(child_tgid)
        if parent_tgid == 0 or parent_tgid == child_tgid:
            return
        first = self.kin[parent_tgid].first_child
        self.kin[child_tgid].next_child = first
        self.kin[child_tgid].prev_child = 0
        if first != 0:
            self.kin[first].prev_child = child_tgid
        self.kin[parent_tgid].first_child = child_tgid
        self.kin[child_tgid].parent = parent_tgid

    cdef void orphan(self, uint32_t child_tgid) noexcept nogil:
        cdef uint32_t parent
        cdef uint32_t before
        cdef uint32_t after
        if child_tgid >= self.pid_capacity:
            return
        parent = self.kin[child_tgid].parent
        if parent == 0:
            return
        before = self.kin[child_tgid].prev_child
        after = self.kin[child_tgid].next_child
        if before != 0:
            self.kin[before].next_child = after
        else:
            self.kin[parent].first_child = after
        if after != 0:
            self.kin[after].prev_child = before
        self.kin[child_tgid].next_child = 0
        self.kin[child_tgid].prev_child = 0
        self.kin[child_tgid].parent = 0

    # -- end of an image --------------------------------------------------------------------------------------------

    cdef void retire(self, uint32_t row) noexcept nogil:
        cdef uint8_t status = self.rows[row].status
        if not status & STATUS_USED:
            return
        if status & STATUS_LIVE:
            self.heads_live -= 1
            self.rows[row].status &= ~STATUS_LIVE
        if self.hot[row].flags & PL_ROW_HEAD and not status & STATUS_EXITED:
            self.heads_exited += 1
            self.rows[row].status |= STATUS_EXITED
        if not status & (STATUS_QUEUED | STATUS_PARKED):
            self._enqueue(row)

    cdef uint32_t evict(self, uint64_t now_boot_ns, uint32_t budget) noexcept nogil:
        cdef uint32_t freed = 0
        cdef uint64_t steps = 4 * <uint64_t>budget
        cdef uint32_t row, far = self.queue_first, near = self.queue_first
        cdef int ahead = 0, near_ahead = 0
        while self.queue_first != 0 and freed < budget and steps != 0:
            steps -= 1
            row = self.queue_first
            if self.hot[row].exit_boot_ns + self.retention_ns > now_boot_ns:
                break
            while ahead < EVICT_AHEAD and far != 0:
                far = self.rows[far].next
                self.fetch(far)
                ahead += 1
            while near_ahead < EVICT_AHEAD_ARGS and near != 0:
                near = self.rows[near].next
                self.args.fetch(self.hot[near].args_ref)
                if self.hot[near].flags & PL_ROW_IS_EXEC:
                    self.fetch(<uint32_t>self.hot[near].ancestor)  # freed next, if only this row links to it
                near_ahead += 1
            ahead -= 1
            near_ahead -= 1
            if self.rows[row].refs != 0:
                self._unlist(row)
                self._park(row)
            else:
                self._evict_row(row)
                freed += 1
        return freed

    cdef bint _make_room(self) noexcept nogil:
        """Free one row at the ceiling (law 7); return False when only newest images of live processes are left."""
        cdef uint32_t row = self.queue_first
        while row != 0:
            if self.rows[row].refs == 0:
                self._evict_row(row)
                return True
            self._unlist(row)
            self._park(row)
            row = self.queue_first
        row = self.ancestors_first
        if row != 0 and row == self.pinned:
            row = self.rows[row].next
        if row == 0:
            return False
        self.counters[PL_C_ELIDED] += 1
        self._evict_row(row)
        return True

    cdef void _evict_row(self, uint32_t row) noexcept nogil:
        self.counters[PL_C_EVICTIONS] += 1
        self.evicted_total += 1
        self._free(row)

    cdef void cap_images(self, uint32_t row) noexcept nogil:
        cdef uint32_t before = self.follow(self.hot[row].ancestor)
        cdef uint32_t images = 1
        if before != 0 and self.hot[before].tgid == self.hot[row].tgid:
            images += self.rows[before].chain
        if images > self.chain_max:
            images = self._elide(row)
        self.rows[row].chain = <uint16_t>min(images, <uint32_t>0xFFFF)

    cdef uint32_t _elide(self, uint32_t row) noexcept nogil:
        """Keep the first image and the newest 7/8 of chain_max images; return how many are linked now.

        Images are elided an eighth at a time, so that a process that calls exec continuously walks its chain only once
        every chain_max / 8 calls.
        """
        cdef uint32_t tgid = self.hot[row].tgid
        cdef uint32_t keep = self.chain_max - self.chain_max // 8 - 1
        cdef uint32_t survivor = row
        cdef uint32_t first
        cdef uint32_t before
        cdef uint32_t count = 1
        cdef uint32_t elided = 0
        before = self.follow(self.hot[survivor].ancestor)
        while count < keep and before != 0 and self.hot[before].tgid == tgid:
            survivor = before
            count += 1
            before = self.follow(self.hot[survivor].ancestor)
        if before == 0 or self.hot[before].tgid != tgid:
            return count
        first = before
        before = self.follow(self.hot[first].ancestor)
        while before != 0 and self.hot[before].tgid == tgid:
            first = before
            elided += 1
            before = self.follow(self.hot[first].ancestor)
        if elided != 0:
            # `survivor` is inserted: chain_max is at least 4, so `survivor` is not the row that is being created.
            self.begin(survivor)
            self.hot[survivor].flags |= PL_ROW_ELIDED
            self.set_ancestor(survivor, first)
            self.end(survivor)
            self.counters[PL_C_ELIDED] += elided
        return count + 1

    # -- lists ------------------------------------------------------------------------------------------------------

    cdef void _enqueue(self, uint32_t row) noexcept nogil:
        self.rows[row].prev = self.queue_last
        self.rows[row].next = 0
        if self.queue_last != 0:
            self.rows[self.queue_last].next = row
        else:
            self.queue_first = row
        self.queue_last = row
        self.rows[row].status |= STATUS_QUEUED

    cdef void _requeue(self, uint32_t row) noexcept nogil:
        """Put a row back at the front of the queue; it ended before every row that is in the queue."""
        self.rows[row].prev = 0
        self.rows[row].next = self.queue_first
        if self.queue_first != 0:
            self.rows[self.queue_first].prev = row
        else:
            self.queue_last = row
        self.queue_first = row
        self.rows[row].status |= STATUS_QUEUED

    cdef void _park(self, uint32_t row) noexcept nogil:
        self.rows[row].prev = self.ancestors_last
        self.rows[row].next = 0
        if self.ancestors_last != 0:
            self.rows[self.ancestors_last].next = row
        else:
            self.ancestors_first = row
        self.ancestors_last = row
        self.rows[row].status |= STATUS_PARKED

    cdef void _unlist(self, uint32_t row) noexcept nogil:
        cdef uint32_t before = self.rows[row].prev
        cdef uint32_t after = self.rows[row].next
        cdef bint queued = (self.rows[row].status & STATUS_QUEUED) != 0
        if before != 0:
            self.rows[before].next = after
        elif queued:
            self.queue_first = after
        else:
            self.ancestors_first = after
        if after != 0:
            self.rows[after].prev = before
        elif queued:
            self.queue_last = before
        else:
            self.ancestors_last = before
        self.rows[row].status &= ~(STATUS_QUEUED | STATUS_PARKED)

    cdef void gauges(self, pl_commit *slot) noexcept nogil:
        slot.heads_live = self.heads_live
        slot.heads_exited = self.heads_exited
        slot.rows_used = self.rows_used
        slot.names_used_bytes = self.names.used_bytes
        slot.args_used_bytes = self.args.used_bytes
        slot.envs_used_bytes = self.envs.used_bytes

    # -- the same for Python: single calls -----------------------------------------------------------------------------

    def py_begin(self, uint32_t row) -> None:
        """Open an inserted row for change."""
        self._require_row(row)
        self.begin(row)

    def py_end(self, uint32_t row) -> None:
        """Complete the row, or its change."""
        self._require_row(row)
        self.end(row)

    def py_link(self, uint32_t row) -> int:
        """Return the link that names the row."""
        self._require_row(row)
        return self.link(row)

    def py_follow(self, uint64_t link) -> int:
        """Return the row of a link; 0 for no link or a reused row."""
        self._require_open()
        return self.follow(link)

    def py_set_link(self, str field, uint32_t row, uint32_t target) -> None:
        """Set `field` ("ancestor", "parent", "creator", "previous_owner") of an open row; target 0 removes the link."""
        self._require_row(row)
        if target != 0:
            self._require_row(target)
        if field == "ancestor":
            self.set_ancestor(row, target)
        elif field == "parent":
            self.set_parent(row, target)
        elif field == "creator":
            self.set_creator(row, target)
        elif field == "previous_owner":
            self.set_previous_owner(row, target)
        else:
            raise KeyError(field)

    def py_set_ref(self, str field, uint32_t row, uint32_t ref) -> None:
        """Set an arena reference of an open row; the reference's hold passes to the row.

        Args:
            field: "file", "args", "envs", "name", "cgroup", "container" or "extra".
            row: a row that is open for change.
            ref: the new reference; the old one is released.
        """
        self._require_row(row)
        if field == "file":
            self.set_file_ref(row, ref)
        elif field == "args":
            self.set_args_ref(row, ref)
        elif field == "envs":
            self.set_envs_ref(row, ref)
        elif field == "name":
            self.set_name_ref(row, ref)
        elif field == "cgroup":
            self.set_cgroup_ref(row, ref)
        elif field == "container":
            self.set_container_ref(row, ref)
        elif field == "extra":
            self.set_extra_ref(row, ref)
        else:
            raise KeyError(field)

    def py_note_tty_given(self, uint32_t row) -> None:
        """Note that the kernel did not report the row's terminal; a record without a terminal does not clear it."""
        self._require_row(row)
        self.rows[row].status |= STATUS_TTY_GIVEN

    def py_is_tty_given(self, uint32_t row) -> bool:
        """Return whether `py_note_tty_given` was called for the row."""
        self._require_row(row)
        return self.rows[row].status & STATUS_TTY_GIVEN != 0

    def py_intern_names(self, data) -> int:
        """Intern `data` in the names arena; return a reference with one more holder."""
        return self.names.py_intern(data)

    def py_intern_args(self, data) -> int:
        """Intern `data` in the args arena; return a reference with one more holder."""
        return self.args.py_intern(data)

    def py_intern_envs(self, data) -> int:
        """Intern `data` in the envs arena; return a reference with one more holder."""
        return self.envs.py_intern(data)

    def py_head(self, uint32_t tgid) -> int:
        """Return the newest image of the pid's latest owner; 0 for none."""
        self._require_open()
        return self.head(tgid)

    def forget_head(self, uint32_t tgid) -> None:
        """Remove an exited process from the index before its retention is over; links to its images stay valid."""
        self._require_open()
        cdef uint32_t row = self.head(tgid)
        if row == 0 or self.hot[row].exit_boot_ns == 0:
            return
        if self.hot[row].exit_boot_ns > self.control.horizon_boot_ns:
            pl_store_release64(&self.control.horizon_boot_ns, self.hot[row].exit_boot_ns)
        # Release, after the horizon, as in _free.
        pl_store_release32(&self.index[tgid], 0)

    def py_adopt(self, uint32_t child_tgid, uint32_t parent_tgid) -> None:
        """Move a live child to the child list of another parent."""
        self._require_open()
        self.adopt(child_tgid, parent_tgid)

    def py_orphan(self, uint32_t child_tgid) -> None:
        """Remove a child from its parent's child list."""
        self._require_open()
        self.orphan(child_tgid)

    def py_children(self, uint32_t tgid) -> list:
        """Return the tgids of the live children, newest first."""
        self._require_open()
        cdef list result = []
        cdef uint32_t child = self.first_child(tgid)
        while child != 0:
            result.append(child)
            child = self.next_sibling(child)
        return result

    def py_retire(self, uint32_t row) -> None:
        """Record that the image has ended, and queue it for retention."""
        self._require_row(row)
        self.retire(row)

    def evict_exited(self, uint64_t now_boot_ns, uint32_t budget) -> int:
        """Free at most `budget` unreferenced rows that are past retention; return how many were freed."""
        self._require_open()
        with nogil:
            budget = self.evict(now_boot_ns, budget)
        return budget

    def hot_view(self):
        """Return a live, writable view. Shape (rows_allocated,), dtype HOT.

        Call it again after growth for a longer view.
        """
        self._require_open()
        return np.frombuffer(self.hot_segment, layout.HOT, self.rows_allocated)

    def cold_view(self):
        """Return a live, writable view. Shape (rows_allocated,), dtype COLD."""
        self._require_open()
        return np.frombuffer(self.cold_segment, layout.COLD, self.rows_allocated)

    def costs_view(self):
        """Return a live, writable view. Shape (row_capacity,), dtype COSTS.

        Access only rows with KNOWN_COST: an access to another one allocates memory for it.
        """
        self._require_open()
        return np.frombuffer(self.costs_segment, layout.COSTS, self.row_capacity)

    def index_view(self):
        """Return a live, writable view. Shape (pids and slots of keys,), uint32."""
        self._require_open()
        return np.frombuffer(self.index_segment, np.uint32, self.pid_capacity)

    def private_view(self, str name):
        """Return one field of the writer's private state as a live, writable view.

        Args:
            name: refs, next, prev, chain or status (`ROW_STATE`, indexed by row); lineages (uint32, indexed by row);
                first_child, next_child, prev_child or parent (`FAMILY`, indexed by tgid).
        """
        self._require_open()
        if name == "lineages":
            return np.frombuffer(self.private_segments[3], np.uint32, self.rows_fresh)
        if name in ROW_STATE.names:
            return np.frombuffer(self.private_segments[0], ROW_STATE, self.rows_fresh)[name]
        return np.frombuffer(self.private_segments[1], FAMILY, self.pid_capacity)[name]

    def listed_rows(self, str name) -> list:
        """Return the rows of a private list ("free", "queue" or "ancestors"), first to last."""
        self._require_open()
        cdef list result = []
        cdef uint32_t row = {
            "free": self.first_free, "queue": self.queue_first, "ancestors": self.ancestors_first,
        }[name]
        while row != 0:
            result.append(row)
            if len(result) > self.rows_fresh:
                raise InvariantError(f"the {name} list is a ring", rule="lists", row=row)
            row = self.rows[row].next
        return result

    def live_heads(self):
        """Return the newest images of the live processes. Rows, ascending, uint32.

        They are found by their status. Those of all rows fit into a few megabytes, other than the rows, or the index
        with the largest kernel.pid_max.
        """
        cdef uint32_t row, count = 0
        cdef uint32_t[::1] found
        self._require_open()
        rows = np.empty(self.heads_live, np.uint32)
        found = rows
        with nogil:
            for row in range(1, self.rows_fresh):
                if self.rows[row].status & STATUS_LIVE and count < self.heads_live:
                    found[count] = row
                    count += 1
        return rows[:count]

    def heads_with_extra(self):
        """Return the newest images of processes, also of ended ones, that have an `extra`. Rows, ascending."""
        cdef uint32_t row, ahead, rows = self.rows_fresh
        cdef list found = []
        self._require_open()
        with nogil:
            for row in range(1, rows):
                ahead = min(row + EXTRA_AHEAD, rows - 1)
                if self.rows[ahead].status & (STATUS_LIVE | STATUS_EXITED):
                    pl_prefetch(&self.cold[ahead].extra_ref)
                if self.rows[row].status & (STATUS_LIVE | STATUS_EXITED) and self.cold[row].extra_ref != 0:
                    with gil:
                        found.append(row)
        return found

    @property
    def rows_frontier(self) -> int:
        """First row number that was never used."""
        return self.rows_fresh

    def _require_row(self, uint32_t row):
        self._require_open()
        if row == 0 or row >= self.rows_fresh:
            raise IndexError(f"no row {row}")


def row_check(hot, cold, costs) -> int:
    """Return the value of `check` for a row with these contents (tables made with checked=True).

    Args:
        hot, cold, costs: 128, 192 and 64 bytes (or records of dtype HOT, COLD and COSTS).
    """
    cdef bytes hot_bytes = bytes(hot)
    cdef bytes cold_bytes = bytes(cold)
    cdef bytes costs_bytes = bytes(costs)
    if (len(hot_bytes), len(cold_bytes), len(costs_bytes)) != (sizeof(pl_hot), sizeof(pl_cold), sizeof(pl_costs)):
        raise ValueError("a hot row has 128 bytes, a cold row 192, and costs have 64")
    return pl_row_check(
        <pl_hot *><char *>hot_bytes, <pl_cold *><char *>cold_bytes, <pl_costs *><char *>costs_bytes
    )
