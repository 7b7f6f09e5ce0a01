"""Rebuild the writer's private memory from the tables of a killed predecessor. Runs once, at start.

A killed process has executed a prefix of its stores, in program order (pl_order in arena.h). So every row is one of:

    row_seq  flags  what it is                                     what is done
    even     set    complete, inserted                             kept
    even     set    complete, killed before the index named it     freed: its event is read again
    odd      0      free, or allocated and still empty             freed
    odd      set    allocated, never inserted                      freed
    odd      set    inserted, killed during a change               newest image of a live process: kept odd, in
                                                                   `torn_rows`; history: ended, flagged ROW_GAP
    any      any    never used (generation 0)                      beyond the frontier

"Inserted" rows are those that the index names, those that have ended (an image ends only after it was inserted), and
all rows that they link to. An exec changes two rows and the index. If the writer was killed in between, the index
decides whether the exec is undone or finished:

- The index names an image that is marked replaced: the next image was never inserted; the mark is removed.
- A live image that the index does not name is the ancestor of the image that it names: it was replaced; set the mark.
- The index does not name a live image, but another process of that pid: the end of the image was not seen; it ends when
  the other process starts (ROW_EXIT_UNSEEN).
- An inserted row links to a live image, and the index has no entry for its pid: the index then names the image.

If no prefix of stores can have left the tables as they are, they are damaged, and new ones are made. Examples are an
index entry that names a free row or a row of another pid, ancestors that form a ring, and a reference to no string.
Everything after the start relies on the absence of these.

All changes of rows that readers can see use begin/end, as elsewhere.

The heartbeat continues meanwhile (`show_life`, every LIFE_ROWS rows), so that the supervisor can distinguish a slow
take-over from one that hangs.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from pipeline.shm.writer._arena cimport Arena
from pipeline.shm.layout._layout cimport (
    PL_C_TAKEOVER_ROWS_REPAIRED, PL_ROW_DELETED, PL_ROW_EXIT_UNSEEN, PL_ROW_GAP, PL_ROW_HEAD, PL_ROW_REPLACED, pl_cold,
    pl_fence_release, pl_hot, pl_prefetch, pl_prefetch_write, pl_store_relaxed32, pl_store_release32,
)
from pipeline.shm.writer._writer cimport LIFE_ROWS, STATUS_EXITED, STATUS_LIVE, STATUS_USED, TableWriter, row_state

import numpy as np


cdef enum:
    # A row is fetched into the cache AHEAD rows before it is read, and its arguments AHEAD_ARGS rows before. The
    # processor fetches the next lines by itself, but not those of the next page.
    AHEAD = 32
    AHEAD_ARGS = 12
    # Verdicts about rows. A row without one is freed.
    KEEP = 1
    SUSPECT = 2  # kept too, but its ancestor is not older: it may be one of a ring


cdef extern from "<unistd.h>" nogil:
    int64_t lseek(int fd, int64_t offset, int whence)
    int SEEK_DATA
    int SEEK_HOLE


cdef inline void show_life(TableWriter w, uint32_t row) noexcept nogil:
    if row % LIFE_ROWS == 0:
        w.show_life()


cdef inline bint is_indexed(TableWriter w, uint32_t row) noexcept nogil:
    cdef uint32_t tgid = w.hot[row].tgid
    return tgid < w.pid_capacity and w.index[tgid] == row


cdef inline bint was_allocated(const pl_hot *hot) noexcept nogil:
    """Whether a row was more than free, or allocated and still empty."""
    return not (hot.row_seq & 1 and hot.flags == 0)


cdef inline bint is_older(const pl_hot *ancestor, const pl_hot *hot) noexcept nogil:
    """Whether an image is from before another one, by the start of its process and by its exec."""
    if ancestor.start_boot_ns != hot.start_boot_ns:
        return ancestor.start_boot_ns < hot.start_boot_ns
    return ancestor.exec_boot_ns < hot.exec_boot_ns


cdef uint32_t keep(TableWriter w, uint32_t row, uint8_t *verdict, uint32_t *stack) noexcept nogil:
    """Keep `row` and all rows to which links lead from it, and count these links; return how many are suspect."""
    cdef uint64_t links[4]
    cdef uint32_t target, depth = 1, suspects = 0
    cdef const pl_hot *hot
    cdef int i
    stack[0] = row
    verdict[row] = KEEP
    while depth != 0:
        depth -= 1
        row = stack[depth]
        hot = &w.hot[row]
        links[0] = hot.ancestor
        links[1] = hot.parent
        links[2] = hot.creator
        links[3] = w.cold[row].previous_owner
        for i in range(4):
            target = w.follow(links[i])
            # The predecessor may have been killed before it changed the generation of a row that it freed.
            if target == 0 or not was_allocated(&w.hot[target]):
                continue
            if verdict[target] == 0:
                verdict[target] = KEEP
                stack[depth] = target
                depth += 1
            if i < 3:  # the last one does not keep its target
                w.rows[target].refs += 1
            if i == 0 and not is_older(&w.hot[target], hot):
                verdict[row] = SUSPECT
                suspects += 1
    return suspects


cdef uint32_t frontier(TableWriter w) noexcept nogil:
    """Return the number after the last row that was ever used."""
    cdef uint32_t row = w.rows_allocated
    while row > 1 and w.hot[row - 1].generation == 0:
        row -= 1
    return row


cdef inline void fetch_links(TableWriter w, uint32_t row) noexcept nogil:
    """Fetch what `classify` and `keep` read of a row, and its count of links."""
    pl_prefetch(&w.hot[row])
    pl_prefetch(&w.hot[row].flags)
    pl_prefetch(&w.cold[row].previous_owner)
    pl_prefetch_write(&w.rows[row])


cdef inline void fetch_strings(TableWriter w, uint32_t row) noexcept nogil:
    """Fetch what `own` and `account` read and change of a row."""
    pl_prefetch(&w.hot[row])
    pl_prefetch(&w.hot[row].flags)
    pl_prefetch(&w.cold[row].envs_ref)
    pl_prefetch_write(&w.rows[row])


cdef uint32_t classify(TableWriter w, uint8_t *verdict, uint32_t *stack, uint32_t *indexed) noexcept nogil:
    """Store the verdict about each row, and how many kept rows the index names; return how many rows are suspect."""
    cdef uint32_t row, suspects = 0
    cdef const pl_hot *hot
    cdef bint is_named
    for row in range(1, w.rows_fresh):
        show_life(w, row)
        fetch_links(w, min(row + AHEAD, w.rows_fresh - 1))
        hot = &w.hot[row]
        is_named = is_indexed(w, row)
        if not (is_named or (not hot.row_seq & 1 and hot.exit_boot_ns != 0)) or not was_allocated(hot):
            continue
        indexed[0] += is_named
        if verdict[row] == 0:
            suspects += keep(w, row, verdict, stack)
    return suspects


cdef uint32_t entries(TableWriter w) noexcept nogil:
    """Return how many entries the index has.

    With the largest kernel.pid_max the index has 16 MB, and most of its pages were never written. tmpfs reports these
    as a hole, so they are neither allocated nor read here.
    """
    cdef uint32_t count = 0
    cdef int64_t at = 0, end, size = <int64_t>w.pid_capacity * sizeof(uint32_t)
    while True:
        at = lseek(w.index_segment.fd, at, SEEK_DATA)
        if at < 0 or at >= size:
            return count
        end = lseek(w.index_segment.fd, at, SEEK_HOLE)
        end = size if end < 0 else min(end, size)
        count += nonzero(w, <uint32_t>(at // sizeof(uint32_t)), <uint32_t>(end // sizeof(uint32_t)))
        at = end


cdef uint32_t nonzero(TableWriter w, uint32_t begin, uint32_t end) noexcept nogil:
    cdef uint32_t tgid, count = 0
    for tgid in range(begin, end):
        show_life(w, tgid)
        count += w.index[tgid] != 0
    return count


cdef uint32_t bad_entry(TableWriter w, const uint8_t *verdict) noexcept nogil:
    """Return an entry of the index that names no row of its pid; 0 if there is none."""
    cdef uint32_t tgid, row
    for tgid in range(w.pid_capacity):
        show_life(w, tgid)
        row = w.index[tgid]
        if row != 0 and (row >= w.rows_fresh or verdict[row] == 0 or w.hot[row].tgid != tgid):
            return tgid if tgid != 0 else w.pid_capacity
    return 0


cdef uint32_t in_ring(TableWriter w, const uint8_t *verdict, uint32_t *walks) noexcept nogil:
    """Return a row that is its own ancestor; 0 if there is none. `walks` has a 0 for each row.

    In a ring, at least one row has an ancestor that is not older, so no other row needs a walk.
    """
    cdef uint32_t row, at
    for row in range(1, w.rows_fresh):
        show_life(w, row)
        at = row if verdict[row] == SUSPECT else 0
        while at != 0 and verdict[at] != 0 and walks[at] == 0:
            walks[at] = row
            at = w.follow(w.hot[at].ancestor)
        if at != 0 and walks[at] == row:
            return at
    return 0


cdef void free_row(TableWriter w, uint32_t row) noexcept nogil:
    """Free a row as TableWriter._free does, but without releasing references: they are recounted afterwards."""
    cdef pl_hot *hot = &w.hot[row]
    cdef uint32_t generation = hot.generation + 1
    w.begin(row)
    hot.flags = 0
    # Also for rows that were already free: the predecessor may have been killed before it changed the generation.
    pl_store_relaxed32(&hot.generation, generation if generation != 0 else 1)
    pl_fence_release()
    w.rows[row].status = 0
    w.rows[row].next = w.first_free
    w.first_free = row


cdef bint settle(TableWriter w, uint32_t row) noexcept nogil:
    """Finish or undo an interrupted change of a kept row; return True when the row stays torn."""
    cdef pl_hot *hot = &w.hot[row]
    cdef pl_hot *top
    cdef bint torn = (hot.row_seq & 1) != 0
    cdef bint repaired = torn
    cdef uint32_t top_row = w.head(hot.tgid)
    w.begin(row)
    if top_row == 0 and hot.exit_boot_ns == 0 and hot.tgid < w.pid_capacity:
        # An inserted row links to it, and no other process has its pid: only the store into the index is missing.
        pl_store_release32(&w.index[hot.tgid], row)
        top_row = row
        repaired = True
    if top_row == row:
        if hot.flags & PL_ROW_REPLACED:
            hot.flags = (hot.flags & ~<uint32_t>PL_ROW_REPLACED) | PL_ROW_HEAD
            hot.exit_boot_ns = 0
            repaired = True
        elif hot.exit_boot_ns != 0 and not hot.flags & PL_ROW_HEAD:
            hot.flags |= PL_ROW_HEAD
            repaired = True
    elif hot.exit_boot_ns == 0 or (not hot.flags & PL_ROW_REPLACED and top_row != 0 and
                                   w.hot[top_row].ancestor == w.link(row)):
        repaired = True
        top = &w.hot[top_row]
        if top_row != 0 and top.ancestor == w.link(row):
            hot.flags = (hot.flags & ~<uint32_t>PL_ROW_HEAD) | PL_ROW_REPLACED
            if hot.exit_boot_ns == 0:
                hot.exit_boot_ns = top.exec_boot_ns if top.exec_boot_ns != 0 else top.start_boot_ns
        else:
            hot.flags |= PL_ROW_DELETED | PL_ROW_EXIT_UNSEEN
            hot.exit_boot_ns = top.start_boot_ns if top_row != 0 else w.control.heartbeat_boot_ns
        if hot.exit_boot_ns == 0:
            hot.exit_boot_ns = 1
    if torn:
        if hot.exit_boot_ns == 0:
            w.counters[PL_C_TAKEOVER_ROWS_REPAIRED] += 1
            return True
        hot.flags |= PL_ROW_GAP
    if repaired:
        w.counters[PL_C_TAKEOVER_ROWS_REPAIRED] += 1
    w.end(row)
    return False


cdef bint needs_settling(TableWriter w, uint32_t row) noexcept nogil:
    cdef pl_hot *hot = &w.hot[row]
    cdef uint32_t top
    if hot.row_seq & 1:
        return True
    if is_indexed(w, row):
        return not hot.flags & PL_ROW_HEAD
    if hot.exit_boot_ns == 0:
        return True
    top = w.head(hot.tgid)
    return not hot.flags & PL_ROW_REPLACED and top != 0 and w.hot[top].ancestor == w.link(row)


cdef void own(TableWriter w, uint32_t row) noexcept nogil:
    """Count a kept row and the strings that it holds; `keep` has counted its links."""
    cdef pl_hot *hot = &w.hot[row]
    cdef pl_cold *cold = &w.cold[row]
    cdef bint ok
    w.rows[row].status = STATUS_USED
    w.rows_used += 1
    w.rows[row].chain = min(hot.images, <uint32_t>w.chain_max)
    ok = w.names.recount_hold(hot.file_ref) and w.names.recount_hold(cold.name_ref)
    ok = ok and w.names.recount_hold(cold.cgroup_ref) and w.names.recount_hold(cold.container_ref)
    ok = ok and w.args.recount_hold(hot.args_ref) and w.args.recount_hold(cold.extra_ref)
    ok = ok and w.envs.recount_hold(cold.envs_ref)
    if not ok:
        w.bad_row = row


cdef void account(TableWriter w, uint32_t row) noexcept nogil:
    """Add a kept row to the counts and child lists."""
    cdef pl_hot *hot = &w.hot[row]
    if hot.exit_boot_ns == 0:
        if is_indexed(w, row):
            w.rows[row].status |= STATUS_LIVE
            w.heads_live += 1
            w.adopt(hot.tgid, hot.ppid)
    elif hot.flags & PL_ROW_HEAD:
        w.rows[row].status |= STATUS_EXITED
        w.heads_exited += 1


def rebuild(TableWriter w not None) -> None:
    """Fill `w`'s private state from its mapped tables; set `w.torn_rows`.

    Raises:
        InvariantError: the tables cannot be a prefix of a writer's stores; new tables must be created.
    """
    cdef uint8_t *verdict
    cdef uint32_t *stack
    cdef Ended ended
    from pipeline.errors import InvariantError

    w.rows_fresh = frontier(w)
    # All of this is read below, and `rows` is written.
    w.hot_segment.populate_read(w.rows_fresh * sizeof(pl_hot))
    w.cold_segment.populate_read(w.rows_fresh * sizeof(pl_cold))
    w.state_segment.populate(0, w.rows_fresh * sizeof(row_state))
    w.show_life()
    for arena in (w.names, w.args, w.envs):
        (<Arena>arena).recount_begin()
        w.show_life()
    ended = Ended(w.rows_fresh)
    verdict = <uint8_t *>calloc(w.rows_fresh, 1)
    stack = <uint32_t *>calloc(w.rows_fresh, sizeof(uint32_t))
    try:
        if verdict == NULL or stack == NULL:
            raise MemoryError
        judge(w, verdict, stack)
        w.torn_rows = restore(w, verdict, ended)
    finally:
        free(verdict)
        free(stack)
    if w.bad_row != 0:
        raise InvariantError(
            f"row {w.bad_row} refers to a string that does not exist", rule="arena-refs", row=w.bad_row
        )
    for arena in (w.names, w.args, w.envs):
        (<Arena>arena).recount_finish()
        w.show_life()
    ended.enqueue(w)
    w.show_life()


cdef int judge(TableWriter w, uint8_t *verdict, uint32_t *stack) except -1:
    """Fill the verdict about each row, and check index and ancestors; `stack` is scratch memory, all 0.

    Raises:
        InvariantError: an index entry names no row of its pid, or ancestors form a ring.
    """
    cdef uint32_t suspects, indexed = 0, entry = 0, ring = 0
    from pipeline.errors import InvariantError

    with nogil:
        suspects = classify(w, verdict, stack, &indexed)
        # A kept row is named by one entry at most, that of its pid. So another entry is one too many.
        if entries(w) != indexed:
            entry = bad_entry(w, verdict)
        if entry == 0 and suspects != 0:
            memset(stack, 0, w.rows_fresh * sizeof(uint32_t))
            ring = in_ring(w, verdict, stack)
    if entry != 0:
        entry %= w.pid_capacity
        raise InvariantError(f"pid {entry}: the index names no row of it", rule="index")
    if ring != 0:
        raise InvariantError(f"row {ring}: its ancestors form a ring", rule="chains", row=ring)
    return 0


cdef list restore(TableWriter w, const uint8_t *verdict, Ended ended):
    """Free the rows without a verdict, and fill the private state of the others; return the torn ones."""
    cdef uint32_t row
    cdef list torn = []
    with nogil:
        for row in range(w.rows_fresh - 1, 0, -1):
            show_life(w, row)
            if verdict[row] == 0:
                free_row(w, row)
        for row in range(1, w.rows_fresh):
            show_life(w, row)
            fetch_strings(w, min(row + AHEAD, w.rows_fresh - 1))
            w.args.fetch(w.hot[min(row + AHEAD_ARGS, w.rows_fresh - 1)].args_ref)
            if verdict[row] == 0:
                continue
            if needs_settling(w, row) and settle(w, row):
                with gil:
                    torn.append(row)
            own(w, row)
            account(w, row)
            ended.add(row, w.hot[row].exit_boot_ns)
    return torn


cdef class Ended:
    """The images that have ended, to be queued in the order in which they ended."""

    cdef object rows, times
    cdef uint32_t *row
    cdef uint64_t *time
    cdef uint32_t count
    cdef bint is_sorted

    def __cinit__(self, uint32_t most):
        cdef uint32_t[::1] rows
        cdef uint64_t[::1] times
        self.rows, self.times = np.empty(most, np.uint32), np.empty(most, np.uint64)
        rows, times = self.rows, self.times
        self.row, self.time = &rows[0], &times[0]
        self.is_sorted = True

    cdef inline void add(self, uint32_t row, uint64_t exit_boot_ns) noexcept nogil:
        if exit_boot_ns == 0:
            return
        if self.count != 0 and self.time[self.count - 1] > exit_boot_ns:
            self.is_sorted = False
        self.row[self.count], self.time[self.count] = row, exit_boot_ns
        self.count += 1

    cdef enqueue(self, TableWriter w):
        cdef uint32_t[::1] order
        cdef uint32_t i
        if not self.is_sorted:
            self.rows = self.rows[np.argsort(self.times[: self.count], kind="stable")]
        order = self.rows
        with nogil:
            for i in range(self.count):
                w._enqueue(order[i])
