"""Operations on the tables for apply and the resolver. One writer; every cdef method is nogil and cannot raise.

Short methods that run for each event have their bodies here, because a call into another module would cost more than
the methods themselves.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from pipeline.shm.writer._arena cimport Arena, pl_order
from pipeline.shm.writer._control cimport ControlWriter
from pipeline.shm.writer._keys cimport NamespaceKeys
from pipeline.records._limits cimport LINEAGE_CHECKED
from pipeline.shm.layout._layout cimport (
    PL_ROW_FOREIGN, PL_ROW_IS_EXEC, PL_ROW_PARENT_MISSING, pl_cold, pl_costs, pl_hot, pl_link, pl_prefetch,
    pl_prefetch_write, pl_row_begin, pl_row_end, pl_row_note,
)
from pipeline.shm.writer._segment cimport Segment


cdef enum:
    # generated: STATUS_*
    STATUS_USED = 1 << 0  # handed out by new_row and not freed
    STATUS_LIVE = 1 << 1  # newest image of a live process, and in the index: counted in heads_live
    STATUS_EXITED = 1 << 2  # newest image of a process that has ended: counted in heads_exited
    STATUS_QUEUED = 1 << 3  # in the retention queue
    STATUS_PARKED = 1 << 4  # past the queue but referred to: in the ancestor list
    STATUS_DIGEST = 1 << 5  # `digests` has an entry for it
    STATUS_TTY_GIVEN = 1 << 6  # the terminal is from a descriptor, not from the kernel (contexts.tty_fallback)
    STATUS_LINEAGE = 1 << 7  # `lineages` has a word for it, which may be of an earlier epoch
    # end of the generated part


cdef enum:
    # generated: LINEAGE_*
    LINEAGE_IMAGES = (1 << 9) - 1  # images that decide it, with the row itself; at most LINEAGE_CHECKED + 1
    LINEAGE_DECIDED = 1 << 9  # exactly LINEAGE_IMAGES images decide it; otherwise at least these
    LINEAGE_COMPLETE = 1 << 10  # the chain leads to pid 1 without a gap
    LINEAGE_INIT = 1 << 11  # the row itself is an image of pid 1
    LINEAGE_FACTS = (1 << 12) - 1  # all of these
    LINEAGE_EPOCH = 1 << 12  # unit of the bits above, which contain the epoch of the word
    # end of the generated part


cdef enum:
    COSTS_ROWS = 64  # memory for costs is allocated for this many rows at a time, which is one page
    LIFE_ROWS = 1 << 14  # a heartbeat after this many rows, where all are read


# generated: struct-row_state
#: The writer's private state of a row. It is on one cache line, because an event uses all of it.
cdef struct row_state:
    uint32_t refs  # ancestor, parent and creator links to the row
    uint32_t next  # in the free list, the retention queue or the ancestor list; a row is in at most one
    uint32_t prev  # in the same
    uint16_t chain  # images of this process up to this one that are still linked
    uint8_t status  # STATUS_*
    uint8_t pad  # 0
# end of the generated part


# generated: struct-family
#: The writer's private state of a pid.
cdef struct family:
    uint32_t first_child  # index entry of a child
    uint32_t next_child  # index entries of its siblings
    uint32_t prev_child  # likewise
    uint32_t parent  # index entry of the parent
# end of the generated part


# ControlWriter declares `control` (pl_control *) and `counters` (uint64_t *); _arena.pxd declares Arena.
cdef class TableWriter(ControlWriter):
    """The single writer of an instance's tables (holds `writer.lock`)."""

    cdef object __weakref__
    cdef readonly Arena names, args, envs
    cdef pl_hot *hot
    cdef pl_cold *cold
    cdef pl_costs *costs  # of a row only after set_costs: the memory of others may not exist
    cdef uint32_t *index
    cdef uint32_t pid_capacity  # entries of the index: pids, then slots of keys
    cdef readonly uint32_t root_pids  # how many of them are pids of the root pid namespace
    cdef readonly NamespaceKeys keys

    # -- rows ------------------------------------------------------------------------------------------------------
    # Return a row with odd row_seq. Its fields except row_seq and generation are 0. Return 0 (counted) if the ceiling
    # is reached and nothing may be evicted. May evict ended images, even one that is still in the index, but never the
    # newest image of a live process. A set_* method below makes no link if its target was evicted or is the row itself.
    cdef uint32_t new_row(self) noexcept nogil
    # Return a new row with odd row_seq and every field copied from `source`; links and references gain a holder.
    cdef uint32_t copy_row(self, uint32_t source) noexcept nogil
    # Prefetch a row that will be written soon.
    cdef inline void fetch(self, uint32_t row) noexcept nogil:
        pl_prefetch_write(&self.rows[row])
        pl_prefetch_write(&self.hot[row])
        pl_prefetch_write(<const char *>&self.hot[row] + 64)
        pl_prefetch_write(&self.cold[row])
        pl_prefetch_write(<const char *>&self.cold[row] + 64)
        pl_prefetch_write(<const char *>&self.cold[row] + 128)

    # Prefetch what an event reads or changes of its parent, which is in the index with `row`. A fork copies the image.
    cdef inline void fetch_parent(self, uint32_t row, uint32_t tgid, bint is_copied) noexcept nogil:
        pl_prefetch(&self.hot[row])
        pl_prefetch(<const char *>&self.hot[row] + 64)
        pl_prefetch(&self.rows[row])
        pl_prefetch(&self.lineages[row])
        if is_copied:
            pl_prefetch(&self.cold[row])
            pl_prefetch(<const char *>&self.cold[row] + 64)
            pl_prefetch(<const char *>&self.cold[row] + 128)
            pl_prefetch(&self.kin[self.kin[tgid].first_child])  # its sibling after this event

    # Open an inserted row for change, or to free it.
    cdef inline void begin(self, uint32_t row) noexcept nogil:
        pl_row_begin(&self.hot[row])
        pl_row_note(self.control, self.changes, row)

    # Make the row (or its change) visible; checksum where `checked`.
    cdef inline void end(self, uint32_t row) noexcept nogil:
        if self.rows[row].status & STATUS_LINEAGE:
            self._check_lineage(row)
        if self.checked:
            self._sign(row)
        pl_row_end(&self.hot[row])

    cdef void discard(self, uint32_t row) noexcept nogil  # free a row that was never inserted

    cdef inline uint64_t link(self, uint32_t row) noexcept nogil:
        return pl_link(row, self.hot[row].generation) if row != 0 else 0

    # Return the row of a link; 0 for no link or a reused row.
    cdef inline uint32_t follow(self, uint64_t link) noexcept nogil:
        cdef uint32_t row = <uint32_t>link
        if row == 0 or row >= self.rows_fresh or self.hot[row].generation != <uint32_t>(link >> 32):
            return 0
        return row

    # Whether the chain of a row leads to pid 1 without a gap, by the rules of pipeline/shm/reader/lineage.py: 1 yes,
    # 0 no; -1: unknown, because more than LINEAGE_CHECKED images would have to be read. See _writer.pyx, "Lineages".
    cdef inline int lineage(self, uint32_t row) noexcept nogil:
        cdef uint32_t facts = self._lineage_facts(row)
        if not facts & LINEAGE_DECIDED and (facts & LINEAGE_IMAGES) <= LINEAGE_CHECKED:
            facts = self._walk_lineage(row)
        if not facts & LINEAGE_DECIDED:
            return -1
        return (facts & LINEAGE_COMPLETE) != 0

    # Return the facts of a row's chain as they follow from the row and from the word of its ancestor.
    cdef inline uint32_t _lineage_facts(self, uint32_t row) noexcept nogil:
        cdef const pl_hot *hot = &self.hot[row]
        cdef uint32_t ancestor, known
        cdef bint is_init = self._is_init(row)
        cdef uint32_t own = LINEAGE_INIT if is_init else 0
        if hot.flags & PL_ROW_PARENT_MISSING:
            return own | LINEAGE_DECIDED | 1
        ancestor = self.follow(hot.ancestor)
        if ancestor == 0:
            return own | LINEAGE_DECIDED | 1 | (LINEAGE_COMPLETE if is_init else 0)
        known = self.lineages[ancestor]
        if not self.rows[ancestor].status & STATUS_LINEAGE or (known ^ self.lineage_epoch) >= LINEAGE_EPOCH:
            return own | 2
        return self._facts_below(row, known)

    # Return the facts of the chain of a row that does not decide it; `known` are those of its ancestor.
    cdef inline uint32_t _facts_below(self, uint32_t row, uint32_t known) noexcept nogil:
        cdef const pl_hot *hot = &self.hot[row]
        cdef bint is_init = self._is_init(row)
        cdef uint32_t own = LINEAGE_INIT if is_init else 0
        if is_init and not (hot.flags & PL_ROW_IS_EXEC and known & LINEAGE_INIT):
            return own | LINEAGE_DECIDED | 2  # pid 1 has another process as its ancestor
        if (known & LINEAGE_IMAGES) >= LINEAGE_CHECKED:
            return own | (LINEAGE_CHECKED + 1)
        return own | ((known & (LINEAGE_IMAGES | LINEAGE_DECIDED | LINEAGE_COMPLETE)) + 1)

    # Whether a row is an image of pid 1, on its host.
    cdef inline bint _is_init(self, uint32_t row) noexcept nogil:
        return (self.cold[row].ns_pid if self.hot[row].flags & PL_ROW_FOREIGN else self.hot[row].tgid) == 1

    # -- fields that own something; call between begin/end (or before the first end) --------------------------------
    cdef inline void set_ancestor(self, uint32_t row, uint32_t target) noexcept nogil:
        self._set_link(&self.hot[row].ancestor, row, target)

    cdef inline void set_parent(self, uint32_t row, uint32_t target) noexcept nogil:
        self._set_link(&self.hot[row].parent, row, target)

    cdef inline void set_creator(self, uint32_t row, uint32_t target) noexcept nogil:
        self._set_link(&self.hot[row].creator, row, target)

    # This link does not keep its target.
    cdef inline void set_previous_owner(self, uint32_t row, uint32_t target) noexcept nogil:
        if target == row or not self.rows[target].status & STATUS_USED:
            target = 0
        self.cold[row].previous_owner = self.link(target)

    cdef inline void _set_link(self, uint64_t *field, uint32_t row, uint32_t target) noexcept nogil:
        cdef uint64_t old = field[0]
        # A caller may keep an ended row's number across a new_row call that evicts or reuses it: make no link then.
        if target == row or not self.rows[target].status & STATUS_USED:
            target = 0
        if target != 0:
            self.rows[target].refs += 1
        field[0] = self.link(target)
        if old != 0:
            self._drop(old)

    # Remove one reference from the row that `link` names, if the link is still valid.
    cdef inline void _drop(self, uint64_t link) noexcept nogil:
        cdef uint32_t row = self.follow(link)
        if row == 0:
            return
        if self.rows[row].refs > 1:
            self.rows[row].refs -= 1
            return
        self.rows[row].refs = 0
        self._unlinked(row)

    # Replace an arena reference of the row by `ref`. The hold of `ref` passes to the row; the old one is released.
    cdef inline void set_file_ref(self, uint32_t row, uint32_t ref) noexcept nogil:
        self.set_ref(self.names, &self.hot[row].file_ref, ref)

    cdef inline void set_args_ref(self, uint32_t row, uint32_t ref) noexcept nogil:
        self.set_ref(self.args, &self.hot[row].args_ref, ref)

    cdef inline void set_envs_ref(self, uint32_t row, uint32_t ref) noexcept nogil:
        self.set_ref(self.envs, &self.cold[row].envs_ref, ref)

    cdef inline void set_name_ref(self, uint32_t row, uint32_t ref) noexcept nogil:
        self.set_ref(self.names, &self.cold[row].name_ref, ref)

    cdef inline void set_cgroup_ref(self, uint32_t row, uint32_t ref) noexcept nogil:
        self.set_ref(self.names, &self.cold[row].cgroup_ref, ref)

    cdef inline void set_container_ref(self, uint32_t row, uint32_t ref) noexcept nogil:
        self.set_ref(self.names, &self.cold[row].container_ref, ref)

    cdef inline void set_extra_ref(self, uint32_t row, uint32_t ref) noexcept nogil:
        self.set_ref(self.args, &self.cold[row].extra_ref, ref)

    # Store what the process has used, and that it is known; it stays unknown if there is no memory for it.
    cdef inline void set_costs(self, uint32_t row, const void *costs, uint32_t known) noexcept nogil:
        if self.costs_allocated[row // COSTS_ROWS] or self._allocate_costs(row // COSTS_ROWS):
            memcpy(&self.costs[row], costs, sizeof(pl_costs))
            self.hot[row].known |= known

    cdef inline void set_ref(self, Arena arena, uint32_t *field, uint32_t ref) noexcept nogil:
        cdef uint32_t old = field[0]
        # Store the new reference before releasing the old one, so that a kill leaves no reference to freed bytes.
        field[0] = ref
        pl_order()
        arena.release(old)

    # -- pid slots --------------------------------------------------------------------------------------------------
    # Return the newest image of the pid's latest owner; 0 for none.
    cdef inline uint32_t head(self, uint32_t tgid) noexcept nogil:
        return self.index[tgid] if tgid < self.pid_capacity else 0

    cdef void set_head(self, uint32_t tgid, uint32_t row) noexcept nogil  # index store (release); the row must be ended
    # Children of a live process, by pid slot: an intrusive list, private to the writer. An exec does not change it.
    cdef void adopt(self, uint32_t child_tgid, uint32_t parent_tgid) noexcept nogil  # leaves its old list first
    cdef void orphan(self, uint32_t child_tgid) noexcept nogil

    cdef inline uint32_t first_child(self, uint32_t tgid) noexcept nogil:
        return self.kin[tgid].first_child if tgid < self.pid_capacity else 0

    cdef inline uint32_t next_sibling(self, uint32_t tgid) noexcept nogil:
        return self.kin[tgid].next_child if tgid < self.pid_capacity else 0

    # -- end of a process -------------------------------------------------------------------------------------------
    # Record that an image (head or replaced) has ended: queue it for retention, and count a head as exited. Call it for
    # a head when its process ends, outside begin/end, after storing exit_boot_ns. set_head calls it for a replaced
    # image. A second call does nothing.
    cdef void retire(self, uint32_t row) noexcept nogil
    # Free at most `budget` rows that are past retention and unreferenced; return how many were freed.
    cdef uint32_t evict(self, uint64_t now_boot_ns, uint32_t budget) noexcept nogil

    # Limit a process's chain to chain_max images. Beyond that, the oldest replaced images except the first are elided,
    # and the image that lost its ancestor is flagged ROW_ELIDED. set_head does this at each exec; it is cheap in the
    # common case.
    cdef void cap_images(self, uint32_t row) noexcept nogil

    # -- private state (see _writer.pyx) ----------------------------------------------------------------------------
    cdef Segment hot_segment, cold_segment, costs_segment, index_segment, state_segment
    cdef list private_segments
    cdef row_state *rows  # by row
    cdef family *kin  # by tgid
    cdef uint64_t *digests  # by row, for the applier: hashes of arguments and environment before redaction
    cdef uint32_t *lineages  # by row: LINEAGE_*
    cdef uint8_t *costs_allocated  # by row // COSTS_ROWS: whether this writer has allocated the costs of these rows
    cdef readonly uint32_t lineage_epoch  # a multiple of LINEAGE_EPOCH; words of other epochs are invalid
    cdef uint32_t row_capacity, rows_allocated, rows_fresh
    cdef uint32_t rows_populated  # rows that were never used and are below this number are mapped
    cdef uint32_t first_free, pinned
    cdef uint32_t queue_first, queue_last, ancestors_first, ancestors_last
    cdef readonly uint32_t rows_used, heads_live, heads_exited
    cdef readonly uint64_t evicted_total
    cdef readonly uint64_t retention_ns
    cdef readonly uint32_t chain_max
    cdef bint checked
    cdef uint32_t bad_row  # take-over only: a row with a reference that is invalid
    cdef readonly bint is_takeover, was_complete
    cdef public bint has_successor, ends_when_dropped
    cdef readonly list torn_rows
    cdef readonly str fresh_reason  # why no tables were taken over; empty after a take-over

    cdef void attach(self) noexcept
    cdef uint32_t _fresh_row(self) noexcept nogil
    cdef bint _grow_rows(self) noexcept nogil
    cdef void _populate_rows(self) noexcept nogil
    cdef bint _allocate_costs(self, uint32_t part) noexcept nogil
    cdef bint _make_room(self) noexcept nogil
    cdef void _free(self, uint32_t row) noexcept nogil
    cdef void _release_refs(self, uint32_t row) noexcept nogil
    cdef void _count_link(self, uint64_t link) noexcept nogil
    cdef void _evict_row(self, uint32_t row) noexcept nogil
    cdef void _unlinked(self, uint32_t row) noexcept nogil
    cdef void _sign(self, uint32_t row) noexcept nogil
    cdef uint32_t _walk_lineage(self, uint32_t row) noexcept nogil
    cdef void _keep_lineage(self, uint32_t row, uint32_t facts) noexcept nogil
    cdef void _check_lineage(self, uint32_t row) noexcept nogil
    cdef void _forget_lineages(self) noexcept nogil
    cdef void _enqueue(self, uint32_t row) noexcept nogil
    cdef void _requeue(self, uint32_t row) noexcept nogil
    cdef void _park(self, uint32_t row) noexcept nogil
    cdef void _unlist(self, uint32_t row) noexcept nogil
    cdef uint32_t _elide(self, uint32_t row) noexcept nogil
