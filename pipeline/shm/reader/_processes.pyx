"""List the processes of a table, each once, and those that descend from one.

The index has only the latest process of each pid. On a busy host a pid is used again within minutes, long before its
former process is evicted, so this module reads the rows instead, each once. Rows with the same pid and start are images
of one process.

A process that calls exec gets a new row, which may be one that was read already. If its old row is freed before it is
read, no row of the process is found. While a process lives, its entry of the index names its newest image, so the index
is read after the rows. It has an entry for each possible pid: up to 16 MB. If that is much for the number of rows, the
state of all rows is noted first, and the index is read only if a row was freed before it was read.
"""

from cpython.bytearray cimport PyByteArray_FromStringAndSize
from libc.stdint cimport UINT64_MAX, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, qsort, realloc
from libc.string cimport memset

from pipeline.shm.layout._layout cimport (
    PL_ROW_IS_EXEC, PL_ROW_REPLACED, pl_fence_acquire, pl_hot, pl_load_relaxed32, pl_load_relaxed64,
)
from pipeline.shm.reader._entry cimport is_same_process, raise_busy
from pipeline.shm.reader._view cimport (
    PL_READ_ABSENT, PL_READ_BUSY, PL_READ_FOUND, View, pl_copy_hot, pl_read_begin, pl_read_valid, pl_rows_end,
)

cdef enum:
    _DIGITS = 4096
    # With more entries of the index for each row, it is read only if that is necessary: to read 32 entries takes as
    # long as to note and compare a row.
    _ENTRIES_A_ROW = 32

# How much earlier than its ancestor a process can seem to begin. Starts from /proc are known to a tick; this is more.
cdef uint64_t _SLACK_NS = 1_000_000_000


# What is kept of an image.
cdef struct image:
    uint64_t start, end
    uint64_t creator, parent, ancestor  # links
    uint32_t tgid, flags, row, generation
    uint32_t number  # of the images of its process
    uint32_t process  # place of the image that stands for the process


# All images that were read, and indices of them. A place is a position in `images`.
cdef struct gathering:
    image *images
    uint32_t count, room
    uint32_t *at  # by row: place + 1, or 0
    uint32_t rows
    uint32_t failed  # the row or index entry that stayed half-written
    uint32_t *known  # by pid and start, open addressing: place + 1, or 0
    uint32_t mask
    uint32_t *newest  # by the place that stands for a process: place of its newest image
    uint8_t *is_found  # likewise: whether the process is wanted
    uint8_t *has_creator  # likewise: whether its creator is here
    # Edges down, as a list for each process: place of the child, and the number of the next edge + 1.
    uint32_t *first
    uint32_t *child
    uint32_t *next
    uint32_t edges


cdef int which_of(object by, bint has_ancestor, bint has_origin) except -1:
    """Return the number of a kind of link."""
    if by == "ancestor" and has_ancestor:
        return BY_ANCESTOR
    if by == "creator":
        return BY_CREATOR
    if by == "parent":
        return BY_PARENT
    if by == "origin" and has_origin:
        return BY_ORIGIN
    kinds = ("'ancestor', " if has_ancestor else "") + ("'origin', " if has_origin else "") + "'creator' or 'parent'"
    raise ValueError(f"by is {by!r}, not {kinds}")


cdef bint ran(const pl_hot *row, const period *wanted) noexcept nogil:
    """Return whether a row in any state is in use, and its image ran in a period; see `TableReader.images`.

    A start that is not known is in every period. Reads single words, which are in one cache line.
    """
    cdef uint64_t ended, began
    if not is_used(row):
        return False
    ended = pl_load_relaxed64(&row.exit_boot_ns)
    began = pl_load_relaxed64(&row.start_boot_ns)
    return (
        (ended == 0 or ended > wanted.ended_after) and began <= wanted.began_before
        and (began == 0 or began >= wanted.began_after)
    )


cdef int next_image(View view, uint32_t *row, uint32_t end, const period *wanted, pl_hot *to) noexcept nogil:
    """Copy the next image of a period, from row[0] on, and set row[0] to its row.

    A row that is being written is never left out: its writer may be waiting for a CPU.

    Returns:
        PL_READ_FOUND; PL_READ_ABSENT if there is none before `end`; PL_READ_BUSY if row[0] stayed half-written.
    """
    cdef const pl_hot *hot = view.view.hot
    cdef uint32_t attempt
    cdef uint64_t deadline
    while row[0] < end:
        attempt, deadline = 0, 0
        while ran(&hot[row[0]], wanted):
            if pl_copy_hot(&hot[row[0]], to):
                if to.tgid != 0 and ran(to, wanted):
                    return PL_READ_FOUND
                break
            if not view.again(attempt, &deadline):
                return PL_READ_BUSY
            attempt += 1
        row[0] += 1
    return PL_READ_ABSENT


# -- whether a row was freed -------------------------------------------------------------------------------------------


cdef bint note_rows(View view, noting *noted) noexcept nogil:
    """Begin to read all rows; return False without memory. Read each row, then call `compare_row` for it."""
    cdef const pl_hot *hot = view.view.hot
    cdef uint32_t row
    noted.states, noted.rows = NULL, pl_rows_end(&view.view)
    noted.reads_index = view.view.slots // _ENTRIES_A_ROW <= noted.rows
    if noted.reads_index:
        return True
    noted.states = <uint64_t *>malloc((noted.rows + 1) * sizeof(uint64_t))
    if noted.states == NULL:
        return False
    for row in range(1, noted.rows):
        noted.states[row] = pl_load_relaxed64(<const uint64_t *>&hot[row])
    # The caller reads the rows after this.
    pl_fence_acquire()
    # At this moment, a process that lives has a newest image. Its row was noted, unless there are new rows.
    noted.reads_index = pl_rows_end(&view.view) != noted.rows
    return True


# -- which images are of one process -----------------------------------------------------------------------------------


cdef inline uint32_t _spread(uint32_t tgid, uint64_t start) noexcept nogil:
    cdef uint64_t number = start + tgid * <uint64_t>0x9E3779B97F4A7C15
    number ^= number >> 29
    number *= <uint64_t>0xBF58476D1CE4E5B9
    return <uint32_t>(number ^ number >> 32)


cdef uint32_t *_known_at(gathering *all, uint32_t tgid, uint64_t start) noexcept nogil:
    """Return where the images of a process are noted, or would be."""
    cdef uint32_t at = _spread(tgid, start) & all.mask
    while all.known[at] != 0:
        if all.images[all.known[at] - 1].tgid == tgid and all.images[all.known[at] - 1].start == start:
            break
        at = (at + 1) & all.mask
    return &all.known[at]


cdef uint32_t _process_of(gathering *all, uint32_t place) noexcept nogil:
    """Return the place that stands for the process of an image."""
    while all.images[place].process != place:
        all.images[place].process = all.images[all.images[place].process].process
        place = all.images[place].process
    return place


cdef uint32_t _place_of(View view, gathering *all, uint64_t link) noexcept nogil:
    """Return the place + 1 of the process that a link names, or 0.

    An image that began in a row that had been read already is followed now; another image of its process is here.
    """
    cdef uint32_t row = <uint32_t>link, place
    cdef pl_hot hot
    if link == 0:
        return 0
    if row < all.rows and all.at[row] != 0 and all.images[all.at[row] - 1].generation == <uint32_t>(link >> 32):
        return _process_of(all, all.at[row] - 1) + 1
    if view.follow(link, &hot) != PL_READ_FOUND:
        return 0
    place = _known_at(all, hot.tgid, hot.start_boot_ns)[0]
    return _process_of(all, place - 1) + 1 if place != 0 else 0


cdef int _add(gathering *all, uint32_t row, const pl_hot *hot) noexcept nogil:
    """Keep an image: 0 or NO_MEMORY."""
    cdef uint32_t room
    cdef image *grown
    cdef image *each
    if all.count == all.room:
        room = all.room * 2 + 256
        grown = <image *>realloc(all.images, room * sizeof(image))
        if grown == NULL:
            return NO_MEMORY
        all.images, all.room = grown, room
    each = &all.images[all.count]
    each.start, each.end = hot.start_boot_ns, hot.exit_boot_ns
    each.creator, each.parent, each.ancestor = hot.creator, hot.parent, hot.ancestor
    each.tgid, each.flags, each.row, each.generation = hot.tgid, hot.flags, row, hot.generation
    each.number, each.process = hot.images, all.count
    all.count += 1
    if row < all.rows:
        all.at[row] = all.count
    return 0


cdef int _gather(View view, gathering *all, const period *wanted) noexcept nogil:
    """Read the images of a period: 0, PL_READ_BUSY (`failed` is the row or index entry then) or NO_MEMORY."""
    cdef uint32_t row = 1, checked = 1
    cdef noting noted
    cdef pl_hot hot
    cdef int result
    if not note_rows(view, &noted):
        return NO_MEMORY
    all.rows = noted.rows
    all.at = <uint32_t *>calloc(all.rows + 1, sizeof(uint32_t))
    result = NO_MEMORY if all.at == NULL else 0
    while result == 0:
        result = next_image(view, &row, all.rows, wanted, &hot)
        while checked < all.rows and checked <= row:
            compare_row(view, &noted, checked)
            checked += 1
        if result == PL_READ_ABSENT:
            result = 0
            break
        if result == PL_READ_BUSY:
            all.failed = row
        elif result == PL_READ_FOUND:
            result = _add(all, row, &hot)
            row += 1
    free(noted.states)
    return _gather_heads(view, all, wanted) if result == 0 and noted.reads_index else result


cdef int _gather_heads(View view, gathering *all, const period *wanted) noexcept nogil:
    """Read the newest image of each process that the index names, if it was not read yet; results as of `_gather`."""
    cdef uint32_t slot, row
    cdef pl_hot hot
    cdef int result
    for slot in range(1, view.view.slots):
        row = pl_load_relaxed32(&view.view.index[slot])
        # If the row has another image of the process by now, that is found like one that was replaced after the list.
        if row == 0 or row < all.rows and all.at[row] != 0 and all.images[all.at[row] - 1].tgid == slot:
            continue
        result = view.lookup_slot(slot, &hot, &row)
        if result == PL_READ_BUSY:
            all.failed = slot
            return PL_READ_BUSY
        if result == PL_READ_FOUND and ran(&hot, wanted):
            if _add(all, row, &hot) != 0:
                return NO_MEMORY
    return 0


cdef int _group(gathering *all) noexcept nogil:
    """Find the process of each image: 0 or NO_MEMORY."""
    cdef uint32_t size = 256, place, other, row, replaced, differs
    cdef uint32_t *known
    cdef image *each
    cdef image *former
    while size < 2 * all.count:
        size *= 2
    all.mask = size - 1
    all.known = <uint32_t *>calloc(size, sizeof(uint32_t))
    all.newest = <uint32_t *>calloc(all.count + 1, sizeof(uint32_t))
    all.is_found = <uint8_t *>calloc(all.count + 1, 1)
    if all.known == NULL or all.newest == NULL or all.is_found == NULL:
        return NO_MEMORY
    for place in range(all.count):
        each = &all.images[place]
        known = _known_at(all, each.tgid, each.start)
        if known[0] == 0:
            known[0] = place + 1
        each.process = known[0] - 1
    # The start of an earlier image can be known to a tick only, so that it seems to be of another process.
    for place in range(all.count):
        each = &all.images[place]
        row = <uint32_t>each.ancestor
        if not each.flags & PL_ROW_IS_EXEC or row == 0 or row >= all.rows or all.at[row] == 0:
            continue
        former = &all.images[all.at[row] - 1]
        if (
            former.generation == <uint32_t>(each.ancestor >> 32) and former.tgid == each.tgid
            and former.start != each.start
        ):
            other = _process_of(all, all.at[row] - 1)
            all.images[other].process = _process_of(all, place)
    for place in range(all.count):
        all.newest[place] = place
    for place in range(all.count):
        other = _process_of(all, place)
        each, former = &all.images[place], &all.images[all.newest[other]]
        # While a process calls exec, none or two of its images are the newest.
        replaced, differs = each.flags & PL_ROW_REPLACED, each.flags & PL_ROW_REPLACED ^ former.flags & PL_ROW_REPLACED
        if not replaced if differs else each.number >= former.number:
            all.newest[other] = place
    return 0


cdef bint _is_same(View view, const image *one, const image *other) noexcept nogil:
    """Return what `is_same_process` returns for the rows."""
    cdef pl_hot left, right
    left.tgid, left.start_boot_ns, left.flags = one.tgid, one.start, one.flags
    right.tgid, right.start_boot_ns, right.flags = other.tgid, other.start, other.flags
    return is_same_process(view, &left, &right)


# -- descendants of a process ------------------------------------------------------------------------------------------


cdef inline void _add_edge(gathering *all, uint32_t above, uint32_t below) noexcept nogil:
    """Note that the process `below` comes from another; `above` is a place + 1, 0 for none."""
    if above == 0 or above - 1 == below:
        return
    all.child[all.edges], all.next[all.edges] = below, all.first[above - 1]
    all.edges += 1
    all.first[above - 1] = all.edges


cdef int _descend(View view, gathering *all, const pl_hot *root, int by) noexcept nogil:
    """Mark the processes that descend from one: 0 or NO_MEMORY."""
    cdef uint32_t place, above, edge, roots, count = 0, at = 0
    cdef uint32_t *waiting
    cdef image target
    cdef image *each
    all.first = <uint32_t *>calloc(all.count + 1, sizeof(uint32_t))
    all.child = <uint32_t *>calloc(2 * all.count + 1, sizeof(uint32_t))
    all.next = <uint32_t *>calloc(2 * all.count + 1, sizeof(uint32_t))
    all.has_creator = <uint8_t *>calloc(all.count + 1, 1)
    waiting = <uint32_t *>calloc(all.count + 1, sizeof(uint32_t))
    if all.first == NULL or all.child == NULL or all.next == NULL or all.has_creator == NULL or waiting == NULL:
        free(waiting)
        return NO_MEMORY
    if by != BY_PARENT:
        for place in range(all.count):
            above = _place_of(view, all, all.images[place].creator)
            if above != 0:
                all.has_creator[_process_of(all, place)] = True
                _add_edge(all, above, _process_of(all, place))
    if by != BY_CREATOR:
        for place in range(all.count):
            # Only the newest image has the parent of now.
            if all.images[place].process == place and not (by == BY_ORIGIN and all.has_creator[place]):
                _add_edge(all, _place_of(view, all, all.images[all.newest[place]].parent), place)
    target.tgid, target.start, target.flags = root.tgid, root.start_boot_ns, root.flags
    for place in range(all.count):
        each = &all.images[place]
        if each.tgid == target.tgid and _is_same(view, each, &target) and not all.is_found[_process_of(all, place)]:
            all.is_found[_process_of(all, place)] = True
            waiting[count] = _process_of(all, place)
            count += 1
    roots = count
    while at < count:
        edge = all.first[waiting[at]]
        at += 1
        while edge != 0:
            place = all.child[edge - 1]
            edge = all.next[edge - 1]
            if not all.is_found[place]:
                all.is_found[place] = True
                waiting[count] = place
                count += 1
    for at in range(roots):
        all.is_found[waiting[at]] = False
    free(waiting)
    return 0


# -- lists -------------------------------------------------------------------------------------------------------------


cdef int _in_order(const void *one, const void *other) noexcept nogil:
    cdef const listed *left = <const listed *>one
    cdef const listed *right = <const listed *>other
    if left.tgid != right.tgid:
        return -1 if left.tgid < right.tgid else 1
    if left.start != right.start:
        return -1 if left.start < right.start else 1
    return (left.loaded > right.loaded) - (left.loaded < right.loaded)


cdef int _sort(listed **processes, uint32_t count) noexcept nogil:
    """Sort by pid and start: 0 or NO_MEMORY. By digits of the pid, because many processes differ in nothing else."""
    cdef uint32_t ends[_DIGITS]
    cdef listed *source = processes[0]
    cdef listed *target
    cdef uint32_t i, digit, number, begin = 0
    cdef int shift
    if count > 64:
        target = <listed *>malloc(count * sizeof(listed))
        if target == NULL:
            return NO_MEMORY
        for shift in range(0, 24, 12):
            memset(ends, 0, sizeof(ends))
            for i in range(count):
                ends[source[i].tgid >> shift & (_DIGITS - 1)] += 1
            number = 0
            for digit in range(_DIGITS):
                number, ends[digit] = number + ends[digit], number
            for i in range(count):
                digit = source[i].tgid >> shift & (_DIGITS - 1)
                target[ends[digit]] = source[i]
                ends[digit] += 1
            source, target = target, source
        free(target)
        processes[0] = source
        for i in range(1, count + 1):
            if i == count or source[i].tgid != source[begin].tgid:
                if i - begin > 1:
                    qsort(&source[begin], i - begin, sizeof(listed), _in_order)
                begin = i
    else:
        qsort(source, count, sizeof(listed), _in_order)
    return 0


# The newest images of all processes.
cdef struct heads:
    listed *found
    uint32_t count, room
    uint32_t *entries  # by row: the index entry of what was read, or 0
    uint32_t *replaced  # index entries of images that were replaced
    uint32_t replacements
    uint32_t rows
    uint32_t failed


cdef int _keep(heads *all, uint32_t row, const pl_hot *hot) noexcept nogil:
    """Keep an image: 0 or NO_MEMORY."""
    cdef uint32_t room
    cdef listed *grown
    cdef listed *each
    if all.count == all.room:
        room = all.room * 2 + 256
        grown = <listed *>realloc(all.found, room * sizeof(listed))
        if grown == NULL:
            return NO_MEMORY
        all.found, all.room = grown, room
    each = &all.found[all.count]
    all.count += 1
    each.start, each.loaded, each.tgid, each.flags = hot.start_boot_ns, hot.exec_boot_ns, hot.tgid, hot.flags
    each.link = row | <uint64_t>hot.generation << 32
    return 0


cdef int _read_few(View view, uint32_t row, pl_hot *to) noexcept nogil:
    """Read what `_keep` needs of a row: PL_READ_FOUND, PL_READ_ABSENT if it is not in use, or PL_READ_BUSY."""
    cdef const pl_hot *hot = &view.view.hot[row]
    cdef uint32_t seq = pl_read_begin(hot)
    cdef period ever
    if not seq & 1:
        to.generation, to.tgid = pl_load_relaxed32(&hot.generation), pl_load_relaxed32(&hot.tgid)
        to.start_boot_ns, to.exec_boot_ns = pl_load_relaxed64(&hot.start_boot_ns), pl_load_relaxed64(&hot.exec_boot_ns)
        to.flags = pl_load_relaxed32(&hot.flags)
        if pl_read_valid(hot, seq):
            return PL_READ_FOUND if to.generation != 0 and to.tgid != 0 else PL_READ_ABSENT
    elif not is_used(hot):
        return PL_READ_ABSENT
    ever.ended_after, ever.began_before, ever.began_after = 0, UINT64_MAX, 0
    return next_image(view, &row, row + 1, &ever, to)


cdef int _add_head(View view, heads *all, uint32_t slot) noexcept nogil:
    """Keep the newest image of an index entry, unless it was read: 0, PL_READ_BUSY or NO_MEMORY."""
    cdef uint32_t row = pl_load_relaxed32(&view.view.index[slot])
    cdef pl_hot hot
    cdef int result
    # If the row has another image of the process by now, that is found like one that was replaced after the list.
    if row == 0 or row < all.rows and all.entries[row] == slot:
        return 0
    result = view.lookup_slot(slot, &hot, &row)
    if result == PL_READ_BUSY:
        all.failed = slot
        return PL_READ_BUSY
    return _keep(all, row, &hot) if result == PL_READ_FOUND else 0


cdef int _read_heads(View view, heads *all) noexcept nogil:
    """Read the newest image of each process: 0, PL_READ_BUSY (`failed` is the row or index entry) or NO_MEMORY."""
    cdef noting noted
    cdef uint32_t row, i
    cdef pl_hot hot
    cdef int result = 0
    if not note_rows(view, &noted):
        return NO_MEMORY
    all.rows = noted.rows
    all.entries = <uint32_t *>calloc(all.rows + 1, sizeof(uint32_t))
    all.replaced = <uint32_t *>malloc((all.rows + 1) * sizeof(uint32_t))
    # Memory that is not used costs nothing, and to move what is there costs much.
    all.room = all.rows + 256
    all.found = <listed *>malloc(all.room * sizeof(listed))
    if all.entries == NULL or all.replaced == NULL or all.found == NULL:
        result = NO_MEMORY
    row = 1
    while result == 0 and row < all.rows:
        result = _read_few(view, row, &hot)
        compare_row(view, &noted, row)
        if result == PL_READ_FOUND:
            if hot.flags & PL_ROW_REPLACED:
                all.replaced[all.replacements] = hot.tgid
                all.replacements += 1
                result = 0
            else:
                all.entries[row] = hot.tgid
                result = _keep(all, row, &hot)
        elif result == PL_READ_ABSENT:
            result = 0
        else:
            all.failed = row
        row += 1
    free(noted.states)
    if noted.reads_index:
        row = 1
        while result == 0 and row < view.view.slots:
            result = _add_head(view, all, row)
            row += 1
    else:
        # The image that an exec has just begun may be in a row that had been read already.
        for i in range(all.replacements):
            if result == 0 and all.replaced[i] < view.view.slots:
                result = _add_head(view, all, all.replaced[i])
    return result


cdef uint32_t _each_once(View view, listed *processes, uint32_t count) noexcept nogil:
    """Leave out images that a later one of the same process follows; return how many are left."""
    cdef uint32_t i, kept = 0
    cdef pl_hot later
    for i in range(count):
        later.tgid, later.start_boot_ns, later.flags = processes[i].tgid, processes[i].start, processes[i].flags
        if kept != 0 and processes[kept - 1].tgid == later.tgid and is_listed(view, &processes[kept - 1], &later):
            kept -= 1
        processes[kept] = processes[i]
        kept += 1
    return kept


cdef bytearray all_processes(View view):
    """Return the processes of a table by pid and start, each once, as bytes of `listed`, with its newest image.

    A process whose last image is not retained is not among them.

    Raises:
        BusyError, StaleError: a row stayed half-written.
    """
    cdef heads all
    cdef int result
    memset(&all, 0, sizeof(all))
    try:
        with nogil:
            result = _read_heads(view, &all)
            if result == 0:
                result = _sort(&all.found, all.count)
            if result == 0:
                all.count = _each_once(view, all.found, all.count)
        if result == PL_READ_BUSY:
            raise_busy(view, f"row or index entry {all.failed}")
        if result != 0:
            raise MemoryError
        view.check_whole()
        return PyByteArray_FromStringAndSize(<char *>all.found, all.count * sizeof(listed))
    finally:
        free(all.found)
        free(all.entries)
        free(all.replaced)


cdef int _list(
    View view, gathering *all, bint exited, listed *to, uint32_t *count, uint64_t *alive
) noexcept nogil:
    """Return the wanted processes: 0, or PL_READ_BUSY (`failed` is the index entry then).

    `alive` becomes a link to one that runs, or 0.
    """
    cdef uint32_t place, row
    cdef uint64_t link
    cdef bint has_ended
    cdef int result
    cdef image last
    cdef image *newest
    cdef pl_hot hot
    for place in range(all.count):
        if all.images[place].process != place or not all.is_found[place]:
            continue
        newest = &all.images[all.newest[place]]
        link, has_ended = newest.row | <uint64_t>newest.generation << 32, newest.end != 0
        if newest.flags & PL_ROW_REPLACED:
            # An exec ended this image just now; or the images after it were evicted, but not this one, because a
            # process that runs descends from it.
            result = view.lookup_slot(newest.tgid, &hot, &row)
            if result == PL_READ_BUSY:
                all.failed = newest.tgid
                return PL_READ_BUSY
            if result != PL_READ_FOUND:
                continue
            last.tgid, last.start, last.flags = hot.tgid, hot.start_boot_ns, hot.flags
            if not _is_same(view, newest, &last):
                continue
            link, has_ended = row | <uint64_t>hot.generation << 32, has_exited(&hot)
        if not has_ended and alive[0] == 0:
            alive[0] = link
        if has_ended and not exited:
            continue
        to[count[0]].tgid, to[count[0]].flags = newest.tgid, newest.flags
        to[count[0]].start, to[count[0]].link = newest.start, link
        count[0] += 1
    return 0


cdef tuple descendants_of(View view, const pl_hot *root, int by, bint exited):
    """Return the processes that descend from one, as `all_processes` does: each once, without that one.

    Args:
        root: an image of the process.
        by: BY_*, how they descend.
        exited: also those that have ended.

    Returns:
        (processes, alive): the processes; a link to one of them that runs, or 0.

    Raises:
        BusyError, StaleError: a row stayed half-written.
    """
    cdef gathering all
    cdef period wanted
    cdef listed *found = NULL
    cdef uint32_t count = 0
    cdef uint64_t alive = 0
    cdef int result
    memset(&all, 0, sizeof(all))
    # A descendant began later, so the search costs as much as what has begun since.
    wanted.ended_after, wanted.began_before = 0, UINT64_MAX
    wanted.began_after = root.start_boot_ns - _SLACK_NS if root.start_boot_ns > _SLACK_NS else 0
    try:
        with nogil:
            result = _gather(view, &all, &wanted)
            if result == 0:
                result = _group(&all)
            if result == 0:
                result = _descend(view, &all, root, by)
            if result == 0:
                found = <listed *>calloc(all.count + 1, sizeof(listed))
                result = NO_MEMORY if found == NULL else _list(view, &all, exited, found, &count, &alive)
            if result == 0:
                result = _sort(&found, count)
        if result == PL_READ_BUSY:
            raise_busy(view, f"row or index entry {all.failed}")
        if result != 0:
            raise MemoryError
        view.check_whole()
        return PyByteArray_FromStringAndSize(<char *>found, count * sizeof(listed)), alive
    finally:
        free(all.images)
        free(all.at)
        free(all.known)
        free(all.newest)
        free(all.is_found)
        free(all.has_creator)
        free(all.first)
        free(all.child)
        free(all.next)
        free(found)
