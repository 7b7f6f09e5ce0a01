"""Rebuild the writer's private memory from the tables of a killed predecessor. Runs once, at start.

A killed process has executed a prefix of its stores, in program order (pl_order in arena.h). So every row is one of:

    row_seq  flags  what it is                                     what is done
    even     set    complete, published                            kept
    even     set    complete, killed before the index named it     freed: its event is read again
    odd      0      free, or allocated and still empty             freed
    odd      set    allocated, never published                     freed
    odd      set    published, killed during a change              newest image of a live process: kept odd, in
                                                                   `torn_rows`; history: ended, flagged ROW_GAP
    any      any    never used (generation 0)                      beyond the frontier

"Published" rows are those that the index names, those that have ended (an image ends only after it was published), and
all rows that they link to. An exec changes two rows and the index. If the writer was killed in between, the index
decides whether the exec is undone or finished:

- The index names an image that is marked replaced: the next image was never published; the mark is removed.
- A live image that the index does not name is the ancestor of the image that it names: it was replaced; set the mark.
- The index does not name a live image, but another process of that pid: the end of the image was not seen; it ends when
  the other process starts (ROW_EXIT_UNSEEN).
- A published row links to a live image, and the index has no entry for its pid: the index then names the image.

Tables that no prefix of stores can leave are damaged, and new ones are made: an index entry that names a row of another
pid or a free one, ancestors that form a ring, a reference to no string. Everything after the start relies on these.

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
    pl_fence_release, pl_hot, pl_store_relaxed32,
    pl_store_release32,
)
from pipeline.shm.writer._writer cimport MARK_EXITED, MARK_LIVE, MARK_USED, TableWriter

import numpy as np


cdef enum:
    LIFE_ROWS = 1 << 14
    KEEP = 1
    UNDECIDED = 2
    FREE = 3


cdef inline void show_life(TableWriter w, uint32_t row) noexcept nogil:
    if row % LIFE_ROWS == 0:
        w.show_life()


cdef inline bint is_indexed(TableWriter w, uint32_t row) noexcept nogil:
    cdef uint32_t tgid = w.hot[row].tgid
    return tgid < w.pid_capacity and w.index[tgid] == row


cdef void keep(TableWriter w, uint32_t row, uint8_t *verdict, uint32_t *stack, uint32_t *depth) noexcept nogil:
    """Keep `row` and push the rows that it links to on the stack of the caller's loop."""
    cdef uint64_t links[4]
    cdef uint32_t target
    cdef int i
    stack[depth[0]] = row
    depth[0] += 1
    verdict[row] = KEEP
    while depth[0] != 0:
        depth[0] -= 1
        row = stack[depth[0]]
        links[0] = w.hot[row].ancestor
        links[1] = w.hot[row].parent
        links[2] = w.hot[row].creator
        links[3] = w.cold[row].previous_owner
        for i in range(4):
            target = w.follow(links[i])
            if target != 0 and verdict[target] == UNDECIDED:
                verdict[target] = KEEP
                stack[depth[0]] = target
                depth[0] += 1


cdef uint32_t frontier(TableWriter w) noexcept nogil:
    """Return the number after the last row that was ever used."""
    cdef uint32_t row = w.rows_allocated
    while row > 1 and w.hot[row - 1].generation == 0:
        row -= 1
    return row


cdef void classify(TableWriter w, uint8_t *verdict, uint32_t *stack) noexcept nogil:
    cdef uint32_t row
    cdef uint32_t depth = 0
    cdef pl_hot *hot
    for row in range(1, w.rows_fresh):
        show_life(w, row)
        hot = &w.hot[row]
        verdict[row] = FREE if hot.row_seq & 1 and hot.flags == 0 else UNDECIDED
    for row in range(1, w.rows_fresh):
        show_life(w, row)
        hot = &w.hot[row]
        if verdict[row] != UNDECIDED:
            continue
        if is_indexed(w, row) or (not hot.row_seq & 1 and hot.exit_boot_ns != 0):
            keep(w, row, verdict, stack, &depth)
    for row in range(1, w.rows_fresh):
        if verdict[row] != KEEP:
            verdict[row] = FREE


cdef uint32_t bad_entry(TableWriter w, const uint8_t *verdict) noexcept nogil:
    """Return an entry of the index that names no row of its pid; 0 if there is none."""
    cdef uint32_t tgid, row
    for tgid in range(w.pid_capacity):
        show_life(w, tgid)
        row = w.index[tgid]
        if row != 0 and (row >= w.rows_fresh or verdict[row] != KEEP or w.hot[row].tgid != tgid):
            return tgid if tgid != 0 else w.pid_capacity
    return 0


cdef uint32_t in_ring(TableWriter w, const uint8_t *verdict, uint32_t *walks) noexcept nogil:
    """Return a row that is its own ancestor; 0 if there is none. `walks` has a 0 for each row."""
    cdef uint32_t row, at
    for row in range(1, w.rows_fresh):
        show_life(w, row)
        at = row if verdict[row] == KEEP else 0
        while at != 0 and walks[at] == 0:
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
    w.rows[row].marks = 0
    w.rows[row].next = w.free_head
    w.free_head = row


cdef bint settle(TableWriter w, uint32_t row) noexcept nogil:
    """Finish or undo an interrupted change of a kept row; return True when the row stays torn."""
    cdef pl_hot *hot = &w.hot[row]
    cdef pl_hot *top
    cdef bint torn = (hot.row_seq & 1) != 0
    cdef bint repaired = torn
    cdef uint32_t top_row = w.head(hot.tgid)
    w.begin(row)
    if top_row == 0 and hot.exit_boot_ns == 0 and hot.tgid < w.pid_capacity:
        # A published row links to it, and no other process has its pid: only the store into the index is missing.
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
    """Count the references that a kept row holds; remove invalid ones."""
    cdef pl_hot *hot = &w.hot[row]
    cdef pl_cold *cold = &w.cold[row]
    cdef bint ok
    w.rows[row].marks = MARK_USED
    w.rows_used += 1
    w.rows[row].chain = min(hot.images, <uint32_t>w.chain_max)
    w._count_link(hot.ancestor)
    w._count_link(hot.parent)
    w._count_link(hot.creator)
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
            w.rows[row].marks |= MARK_LIVE
            w.heads_live += 1
            w.adopt(hot.tgid, hot.ppid)
    elif hot.flags & PL_ROW_HEAD:
        w.rows[row].marks |= MARK_EXITED
        w.heads_exited += 1


def rebuild(TableWriter w not None) -> None:
    """Fill `w`'s private state from its mapped tables; set `w.torn_rows`.

    Raises:
        InvariantError: the tables cannot be a prefix of a writer's stores; new tables must be created.
    """
    cdef uint8_t *verdict
    cdef uint32_t *stack
    cdef uint32_t row, entry, ring
    cdef list torn = []
    from pipeline.errors import InvariantError

    w.rows_fresh = frontier(w)
    for arena in (w.names, w.args, w.envs):
        (<Arena>arena).recount_begin()
        w.show_life()
    verdict = <uint8_t *>calloc(w.rows_fresh, 1)
    stack = <uint32_t *>calloc(w.rows_fresh, sizeof(uint32_t))
    try:
        if verdict == NULL or stack == NULL:
            raise MemoryError
        with nogil:
            classify(w, verdict, stack)
            entry = bad_entry(w, verdict)
            memset(stack, 0, w.rows_fresh * sizeof(uint32_t))
            ring = in_ring(w, verdict, stack) if entry == 0 else 0
        if entry != 0:
            entry %= w.pid_capacity
            raise InvariantError(f"pid {entry}: the index names no row of it", rule="index")
        if ring != 0:
            raise InvariantError(f"row {ring}: its ancestors form a ring", rule="chains", row=ring)
        with nogil:
            for row in range(w.rows_fresh - 1, 0, -1):
                show_life(w, row)
                if verdict[row] == FREE:
                    free_row(w, row)
        for row in range(1, w.rows_fresh):
            show_life(w, row)
            if verdict[row] == KEEP and needs_settling(w, row) and settle(w, row):
                torn.append(row)
        with nogil:
            for row in range(1, w.rows_fresh):
                show_life(w, row)
                if verdict[row] == KEEP:
                    own(w, row)
            for row in range(1, w.rows_fresh):
                show_life(w, row)
                if verdict[row] == KEEP:
                    account(w, row)
    finally:
        free(verdict)
        free(stack)
    if w.bad_row != 0:
        raise InvariantError(f"row {w.bad_row} refers to a string that does not exist", rule="arena-refs", row=w.bad_row)
    for arena in (w.names, w.args, w.envs):
        (<Arena>arena).recount_finish()
        w.show_life()
    enqueue_ended(w)
    w.show_life()
    w.torn_rows = torn


cdef void enqueue_all(TableWriter w, const int64_t[::1] order, const uint32_t[::1] rows) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(order.shape[0]):
        w._enqueue(rows[order[i]])


cdef enqueue_ended(TableWriter w):
    """Queue all images that have ended, in the order in which they ended."""
    hot = w.hot_view()[: w.rows_fresh]
    marks = w.private_view("marks")
    ended = np.flatnonzero((hot["exit_boot_ns"] != 0) & (marks & MARK_USED != 0)).astype(np.uint32)
    order = np.argsort(hot["exit_boot_ns"][ended], kind="stable").astype(np.int64)
    enqueue_all(w, order, ended)
