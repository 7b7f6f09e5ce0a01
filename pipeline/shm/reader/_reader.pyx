"""Look up processes in the shared tables: one, many, ancestors, children, all, and as of a past time.

reader.h implements the row protocol, _view.pyx maps the segments and retries busy rows, and _entry.pyx defines an
entry. The public class is ProcessTable in table.py, which adds names and statistics. A look-up takes no lock, writes
nothing to shared memory and never waits for the writer longer than 50 ms.

Results. A hit is the image that the table contained at the time of the read. None ("no such process") is returned only
while the table is complete and its writer is alive and not behind. Otherwise StaleError is raised (the answer is
unknown), or BehindError (the writer has not caught up yet). A row that stays half-written raises BusyError, or
StaleError if its writer is gone.
"""

from cpython.buffer cimport PyBUF_ND, PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_FromStringAndSize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.weakref cimport PyWeakref_NewRef
from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

import math
import os
import time

from pipeline import proc_text
from pipeline.errors import BehindError, ClosedError, LayoutError, NotRunningError, StaleError, TooOldError
from pipeline.records._clock cimport pl_now_boot_ns, pl_now_coarse_ns
from pipeline.records._limits cimport CHAIN_MAX as _CHAIN_MAX
from pipeline.shm.reader._entry cimport Entry, is_same_process, make_entry, raise_busy
from pipeline.shm.layout._layout cimport (
    PL_ROW_ELIDED, PL_ROW_FOREIGN, PL_ROW_GAP, PL_ROW_HEAD, PL_ROW_IS_EXEC, PL_ROW_REPLACED, PL_STATE_READY, pl_cold,
    pl_commit, pl_control, pl_fence_acquire, pl_hot, pl_load_acquire32, pl_load_acquire64, pl_load_relaxed32,
    pl_load_relaxed64, pl_prefetch,
)
from pipeline.shm.reader._processes cimport (
    BY_ANCESTOR, BY_ANY, BY_ORIGIN, all_processes, compare_row, descendants_of, has_exited, is_listed, is_used, link_of,
    listed, next_image, note_rows, noting, period, ran, which_of,
)
from pipeline.shm.reader._row_copies cimport RowCopies, read_rows
from pipeline.shm.reader._view cimport (
    PL_READ_ABSENT, PL_READ_BUSY, PL_READ_FOUND, View, pl_copy_row, pl_copy_words, pl_follow_once, pl_lookup_once,
    pl_lookup_slot_once, pl_rows_end, pl_sleep_ns, pl_kept, pl_kept_hop, pl_rest, pl_view,
)
from pipeline.shm.reader._view import STALE_AFTER_NS
from pipeline.shm.reader.arguments import UINT64_MAX, kind_of, number_of, numbers_in, unix_ns_of


cdef extern from *:
    """
    #if PY_VERSION_HEX < 0x030C0000
    /* As in Python 3.12 and later: an int of at most one digit. Its size has the sign. */
    static inline int PyUnstable_Long_IsCompact(const PyLongObject *value) {
        return Py_SIZE(value) >= -1 && Py_SIZE(value) <= 1;
    }

    static inline Py_ssize_t PyUnstable_Long_CompactValue(const PyLongObject *value) {
        return Py_SIZE(value) * (Py_ssize_t)value->ob_digit[0];
    }
    #endif

    /* Store an int of ordinary size; return 0 for anything else, also for True. */
    static inline int pl_small_int(PyObject *value, uint32_t *number) {
        if (!PyLong_CheckExact(value) || !PyUnstable_Long_IsCompact((PyLongObject *)value)) {
            return 0;
        }
        Py_ssize_t found = PyUnstable_Long_CompactValue((PyLongObject *)value);
        *number = (uint32_t)found;
        return found >= 0 && (size_t)found <= UINT32_MAX;
    }
    """
    bint pl_small_int(object value, uint32_t *number) noexcept


cdef extern from "fcntl.h" nogil:
    struct flock:
        short l_type
        short l_whence
        long l_start
        long l_len
        int l_pid
    int fcntl(int fd, int command, flock *lock)
    int F_OFD_SETLK
    int F_OFD_GETLK
    int F_RDLCK
    int F_WRLCK
    int F_UNLCK


cdef extern from "bulk.h" nogil:
    enum:
        PL_AHEAD

    struct pl_tables:
        const uint32_t *index
        const pl_hot *hot
        uint32_t capacity, rows

    struct pl_projection:
        Py_ssize_t size, found, start, start_boot, image, end
        int64_t boot_unix_ns

    struct pl_walk:
        uint64_t link, first
        uint32_t former, steps, length

    struct pl_memo:
        pass

    enum:
        PL_KEPT_CHAINS
        PL_LANES_ROWS

    pl_tables pl_tables_of(const pl_view *view)
    int pl_lookup_in(const pl_tables *tables, uint32_t pid, pl_hot *to)
    bint pl_kept_begin(pl_kept *kept, const pl_view *view, uint32_t rows, Py_ssize_t n, bint for_hops)
    bint pl_kept_valid(pl_kept *kept)
    void pl_kept_end(pl_kept *kept)
    uint32_t pl_head_of(const pl_tables *tables, uint32_t pid)
    Py_ssize_t pl_project_heads(
        const pl_tables *tables, pl_kept *kept, const uint32_t *pids, Py_ssize_t n, const pl_projection *plan,
        char *out, bint prefetches,
    )
    void pl_project(
        const pl_projection *plan, char *out, bint found, uint64_t ids, uint64_t start, uint64_t image, uint64_t end
    )
    bint pl_head_link(
        const pl_tables *tables, uint32_t number, uint32_t pid, Py_ssize_t offset, uint64_t *link, uint32_t *generation
    )
    bint pl_hop(const pl_tables *tables, uint64_t link, Py_ssize_t offset, uint32_t *tgid, uint64_t *next)
    void pl_walk_on(
        pl_walk *walk, uint32_t tgid, uint64_t next, uint32_t *to, uint32_t depth, uint32_t steps_max
    )
    void pl_walk_end(const pl_walk *walk, pl_memo *memo, uint32_t *out, uint32_t depth, uint64_t place)
    Py_ssize_t pl_walk_run(
        const pl_tables *tables, pl_memo *memo, const uint32_t *pids, Py_ssize_t i, Py_ssize_t n, Py_ssize_t offset,
        uint32_t *out, uint32_t depth, uint8_t *found, pl_walk *stuck, uint32_t steps_max,
    )
    uint32_t pl_walk_kept(
        const pl_tables *tables, pl_kept_hop *hops, pl_memo *memo, const uint32_t *pids, Py_ssize_t n, Py_ssize_t left,
        Py_ssize_t place, uint32_t *out, uint32_t depth, uint8_t *found, uint32_t steps_max,
    )
    void pl_memo_clear(pl_memo *memo)
    bint pl_memo_copy(
        const pl_memo *memo, uint64_t link, uint32_t pid, uint32_t *out, size_t depth, uint64_t place
    )


#: Longest chain that a walk follows.
CHAIN_MAX = _CHAIN_MAX
#: Size of a process in what `TableReader._processes` returns.
PROCESS_BYTES = sizeof(listed)

#: A table with an older watermark is behind: a process that is missing in it may still exist.
cdef uint64_t _BEHIND_AFTER_NS = 2_000_000_000

# Limit of count_readers, regardless of the locks that other users hold.
_COUNT_CALLS = 4096
_COUNT_S = 0.1

# Interval at which a reader with continuous hits checks whether its table is still the instance's.
cdef uint64_t _CHECK_NS = 250_000_000

# Chains that are walked together, so that as many cache misses overlap. Their rows (16 KB for chains of 8) stay in L1.
cdef enum:
    _ABREAST = 16

# Chains that are counted before memory for the rows of many is allocated.
cdef enum:
    _SAMPLE = 64

# generated: reader-states
_STATES = ("down", "filling", "ready", "stopped", "superseded")
# end of the generated part


cdef str _state_name(uint32_t state):
    """A damaged control segment can have any number, and indices are not checked here."""
    return _STATES[state] if state < <uint32_t>len(_STATES) else f"in the unknown state {state}"


cdef object _numpy = None
cdef object _numpy_array = None
cdef object _numpy_frombuffer = None
cdef object _numpy_uint32 = None
cdef object _numpy_int64 = None
cdef object _numpy_bool = None
cdef object _hot_dtype = None
cdef object _ancestor_pids_type = None
cdef object _new_tuple = tuple.__new__


cdef int _import_numpy() except -1:
    """Import what only reads in bulk need, and keep it."""
    global _numpy, _numpy_array, _numpy_frombuffer, _numpy_uint32, _numpy_int64, _numpy_bool, _hot_dtype
    global _ancestor_pids_type
    if _numpy is None:
        import numpy
        from pipeline.shm.layout.layout import HOT
        from pipeline.shm.reader.results import AncestorPids
        _hot_dtype, _ancestor_pids_type = HOT, AncestorPids
        _numpy_array, _numpy_frombuffer = numpy.ndarray, numpy.frombuffer
        _numpy_uint32 = numpy.dtype(numpy.uint32)
        _numpy_int64 = numpy.dtype(numpy.int64)
        _numpy_bool = numpy.dtype(bool)
        _numpy = numpy
    return 0


cdef inline uint64_t _next_link(const pl_hot *hot, int which) noexcept nogil:
    """Return a link upwards. For BY_ORIGIN it is that of the parent if the row names no creator."""
    if which == BY_ORIGIN:
        return hot.creator if hot.creator != 0 else hot.parent
    return link_of(hot, which)


cdef Py_ssize_t _lookup_many(
    View view, const uint32_t *pids, Py_ssize_t n, pl_hot *out, Py_ssize_t *absent
) noexcept nogil:
    """Fill out[0:n]; return the position of a row that stayed busy, or n."""
    cdef pl_tables tables = pl_tables_of(&view.view)
    cdef uint32_t row = 0
    cdef uint32_t number, pid  # a pid is loaded once: another thread of the caller can write to the array
    cdef Py_ssize_t i
    cdef int result
    for i in range(min(n, 2 * PL_AHEAD)):
        pid = pl_load_relaxed32(&pids[i])
        if pid < tables.capacity:
            pl_prefetch(&tables.index[pid])
    for i in range(min(n, PL_AHEAD)):
        pid = pl_load_relaxed32(&pids[i])
        if pid < tables.capacity:
            number = pl_load_relaxed32(&tables.index[pid])
            if number <= tables.rows:
                pl_prefetch(&tables.hot[number])
                pl_prefetch(<const char *>&tables.hot[number] + 64)
    for i in range(n):
        if i + 2 * PL_AHEAD < n:
            pid = pl_load_relaxed32(&pids[i + 2 * PL_AHEAD])
            if pid < tables.capacity:
                pl_prefetch(&tables.index[pid])
        if i + PL_AHEAD < n:
            pid = pl_load_relaxed32(&pids[i + PL_AHEAD])
            if pid < tables.capacity:
                number = pl_load_relaxed32(&tables.index[pid])
                if number <= tables.rows:
                    pl_prefetch(&tables.hot[number])
                    pl_prefetch(<const char *>&tables.hot[number] + 64)
        pid = pl_load_relaxed32(&pids[i])
        result = pl_lookup_in(&tables, pid, &out[i])
        if result == PL_READ_FOUND:
            continue
        if result != PL_READ_ABSENT:
            view.busy_retries += 1
            result = view.lookup(pid, &out[i], &row)
        if result == PL_READ_ABSENT:
            memset(&out[i], 0, sizeof(pl_hot))
            absent[0] += 1
        elif result != PL_READ_FOUND:
            return i
    return n


#: Fields that `TableReader.resolve_many` can copy by themselves: all are in the first cache line of a row.
PROJECTED = ("ppid", "start_time_ns", "exec_time_ns", "exit_time_ns", "start_boot_ns")

cdef enum:
    _PLANS_MAX = 64
    # The rows of a smaller table stay in the second-level cache. Prefetching them would only cost.
    _SMALL_ROWS = 4096

cdef dict _plans = {}

def _plan_of(tuple fields):
    """Return the dtype of the result for some fields, and a `pl_projection` as bytes."""
    cdef pl_projection plan
    memset(&plan, 0, sizeof(plan))
    names, formats, places, at = ["pid"], ["<u4"], [0], 8
    chosen = list(dict.fromkeys(fields))
    for name in chosen:
        if name not in PROJECTED:
            from pipeline.shm.layout.near_names import suggestion

            there_are = f"there are {', '.join(PROJECTED)}; `columns` has all"
            raise ValueError(
                f"resolve_many cannot copy {name!r} by itself{suggestion(str(name), PROJECTED, otherwise=there_are)}"
            )
        names.append(name)
        if name == "ppid":  # beside the pid
            formats.append("<u4")
            places.append(4)
            continue
        formats.append("<u8" if name == "start_boot_ns" else "<i8")
        places.append(at)
        if name == "start_time_ns":
            plan.start = at
        elif name == "start_boot_ns":
            plan.start_boot = at
        elif name == "exec_time_ns":
            plan.image = at
        else:
            plan.end = at
        at += 8
    plan.found, plan.size = at, at + 8
    dtype = _numpy.dtype({
        "names": [*names, "found"], "formats": [*formats, "?"], "offsets": [*places, at], "itemsize": plan.size,
    })
    return dtype[["pid", "found", *chosen]], PyBytes_FromStringAndSize(<const char *>&plan, sizeof(plan))


cdef inline uint32_t _number(str name, object value) except? 0xFFFFFFFF:
    """Return an argument as `number_of` does."""
    cdef uint32_t number = 0
    return number if pl_small_int(value, &number) else number_of(name, value)


cdef int _which(object by) except -1:
    """Return the number of a kind of link that a row has."""
    if by == "origin":
        raise ValueError("by is 'origin', which only `ancestors` and `descendants` follow")
    return which_of(by, True, False)


#: The default of `wait_ms`. Comparing the object takes less time than reading its number.
cdef object _ZERO = 0


cdef inline bint _may_read(TableReader reader, View view) noexcept:
    """Whether the view is still the one to read from, without a further check."""
    return (
        view is not None and pl_load_relaxed32(&view.view.control.state) <= PL_STATE_READY
        and pl_now_coarse_ns() < reader._check_at
    )


cdef object _as_pids(object pids):
    """Return pids as a contiguous array of uint32. Nothing is rounded, and nothing wraps."""
    _import_numpy()
    if type(pids) is _numpy_array:
        if pids.ndim == 1 and pids.flags.c_contiguous:
            if pids.dtype == _numpy_uint32:
                return pids
            if pids.dtype == _numpy_int64:
                return _pids_of_wide(pids, pids)
    elif isinstance(pids, (list, tuple)):
        return _pids_of_list(pids)
    array = _numpy.asarray(pids)
    if array.ndim == 0:  # numpy takes a set or an iterator for one object
        raise TypeError(f"pids must be a list or an array of pids, not {kind_of(pids)}")
    if array.ndim != 1:
        raise ValueError(f"pids has {array.ndim} dimensions, not 1")
    if array.dtype.kind not in "iu":
        if isinstance(pids, range):
            return _numpy.empty(0, _numpy_uint32)  # numpy knows no type for it if it is empty
        raise TypeError(f"pids must be integers, not {array.dtype}")
    if array.dtype.kind == "u" and array.dtype.itemsize <= 4:
        return _numpy.ascontiguousarray(array, _numpy_uint32)
    return _pids_of_wide(_numpy.ascontiguousarray(array, _numpy_int64), array)


cdef object _pids_of_list(object pids):
    cdef Py_ssize_t i = 0
    cdef bytearray numbers = PyByteArray_FromStringAndSize(NULL, len(pids) * 4)
    cdef uint32_t *to = <uint32_t *>PyByteArray_AS_STRING(numbers)
    cdef Py_ssize_t n = len(pids)
    for pid in pids:
        if i == n:
            raise ValueError("pids changed while they were read")
        if not pl_small_int(pid, &to[i]):
            if isinstance(pid, (list, tuple, _numpy_array)) and _numpy.ndim(pid):
                raise ValueError(f"pids has {_numpy.ndim(pids)} dimensions, not 1")
            to[i] = number_of("a pid of pids", pid)
        i += 1
    if i < n:
        raise ValueError("pids changed while they were read")
    return _numpy.frombuffer(numbers, _numpy_uint32) if n else _numpy.empty(0, _numpy_uint32)


cdef object _pids_of_wide(object wide, object original):
    """Return a contiguous array of int64 as uint32; a uint64 that is too large for int64 is negative in it."""
    cdef Py_buffer source
    cdef Py_ssize_t i, n
    cdef const int64_t *numbers
    cdef bytearray narrow
    cdef uint32_t *to
    cdef uint64_t excess = 0
    PyObject_GetBuffer(wide, &source, PyBUF_SIMPLE)
    try:
        n = source.len // 8
        numbers = <const int64_t *>source.buf
        narrow = PyByteArray_FromStringAndSize(NULL, n * 4)
        to = <uint32_t *>PyByteArray_AS_STRING(narrow)
        for i in range(n):
            to[i] = <uint32_t>numbers[i]
            excess |= <uint64_t>numbers[i] >> 32
        if excess:
            for i in range(n):
                number_of(f"pids[{i}]", int(original[i]))
    finally:
        PyBuffer_Release(&source)
    return _numpy.frombuffer(narrow, _numpy_uint32) if n else _numpy.empty(0, _numpy_uint32)


def pids_of(pids):
    """Return pids as a contiguous array of uint32.

    Raises:
        TypeError: they are not integers.
        ValueError: one is negative or larger than 32 bits, or there are several dimensions.
    """
    return _as_pids(pids)


cdef object _take_pids(object pids, Py_buffer *source):
    """Return pids as `_as_pids` does, and take the buffer of the result, which the caller releases."""
    _import_numpy()
    if type(pids) is not _numpy_array or pids.dtype is not _numpy_uint32:
        pids = _as_pids(pids)
    try:
        PyObject_GetBuffer(pids, source, PyBUF_ND)
    except (BufferError, ValueError):  # has gaps
        pids = _numpy.ascontiguousarray(pids)
        PyObject_GetBuffer(pids, source, PyBUF_ND)
    if source.ndim != 1:
        dimensions = source.ndim
        PyBuffer_Release(source)
        raise ValueError(f"pids has {dimensions} dimensions, not 1")
    return pids


cdef Py_ssize_t _project_many(
    View view, const uint32_t *pids, Py_ssize_t n, const pl_projection *plan, char *out, Py_ssize_t *absent
) noexcept nogil:
    """Fill out[0:n]; return the position of a row that stayed busy, or n."""
    cdef pl_tables tables = pl_tables_of(&view.view)
    cdef pl_kept *kept = NULL
    # The times of images and ends are not kept.
    if plan.image == 0 and plan.end == 0 and pl_kept_begin(&view.kept, &view.view, tables.rows, n, False):
        kept = &view.kept
    cdef Py_ssize_t done = _project_rest(view, &tables, kept, pids, n, plan, out, absent)
    if kept != NULL:
        pl_kept_end(kept)
    return done


cdef Py_ssize_t _project_rest(
    View view, const pl_tables *tables, pl_kept *kept, const uint32_t *pids, Py_ssize_t n, const pl_projection *plan,
    char *out, Py_ssize_t *absent
) noexcept nogil:
    """Do the same with the kept words, or without them if there are none."""
    cdef Py_ssize_t i = 0
    cdef uint32_t row = 0
    cdef int result
    cdef pl_hot hot
    while True:
        i += pl_project_heads(tables, kept, pids + i, n - i, plan, out + i * plan.size, tables.rows >= _SMALL_ROWS)
        if i == n:
            return n
        result = view.lookup(pids[i], &hot, &row)
        if result == PL_READ_FOUND:
            pl_project(
                plan, out + i * plan.size, True, pids[i] | <uint64_t>hot.ppid << 32, hot.start_boot_ns,
                hot.exec_boot_ns, hot.exit_boot_ns,
            )
        elif result == PL_READ_ABSENT:
            pl_project(plan, out + i * plan.size, False, pids[i], 0, 0, 0)
            absent[0] += 1
        else:
            return i
        i += 1


cdef int _walk_on(View view, pl_walk *walk, int which, uint32_t *to, uint32_t depth) noexcept nogil:
    """Make the next step of a walk with patience; return PL_READ_BUSY if the row stayed busy."""
    cdef pl_hot hot
    cdef int result = view.follow(walk.link, &hot)
    if result == PL_READ_FOUND:
        pl_walk_on(walk, hot.tgid, link_of(&hot, which), to, depth, _CHAIN_MAX)
    else:
        walk.link = 0
    return result


cdef int _walk_from(View view, uint32_t pid, int which, uint8_t *found, pl_walk *walk) noexcept nogil:
    """Begin the walk of a pid with patience; return a PL_READ_* constant."""
    cdef pl_hot hot
    cdef uint32_t row = 0
    cdef int result = view.lookup(pid, &hot, &row)
    memset(walk, 0, sizeof(walk[0]))
    walk.former = pid
    if result == PL_READ_FOUND:
        walk.link = link_of(&hot, which)
    found[0] = result == PL_READ_FOUND
    return result


cdef Py_ssize_t _ancestor_pids(
    View view, const uint32_t *pids, Py_ssize_t n, uint32_t depth, int which, uint32_t *out, uint8_t *found,
    Py_ssize_t *absent
) noexcept nogil:
    """Fill out[0:n, 0:depth]; return the position of a chain with a row that stayed busy, or n."""
    cdef pl_tables tables = pl_tables_of(&view.view)
    cdef pl_memo memo
    cdef Py_ssize_t i = 0
    pl_memo_clear(&memo)
    # Links to parents and creators are not kept, and neither is a row that the first-level cache holds anyway.
    if (
        which == BY_ANCESTOR and _SMALL_ROWS <= tables.rows < PL_LANES_ROWS
        and pl_kept_begin(&view.kept, &view.view, tables.rows, n, True)
    ):
        i = _ancestor_pids_kept(view, &tables, &memo, pids, n, which, out, depth, found, absent)
        pl_kept_end(&view.kept)
        if i < 0:
            return ~i
    if tables.rows >= _SMALL_ROWS:
        return _ancestor_pids_abreast(view, &tables, &memo, pids, i, n, which, out, depth, found, absent)
    return _ancestor_pids_each(view, &tables, &memo, pids, i, n, which, out, depth, found, absent)


cdef Py_ssize_t _ancestor_pids_kept(
    View view, const pl_tables *tables, pl_memo *memo, const uint32_t *pids, Py_ssize_t n, int which, uint32_t *out,
    uint32_t depth, uint8_t *found, Py_ssize_t *absent
) noexcept nogil:
    """Walk the chains with the kept words of rows; return for how many pids, or ~i if a row of chain i stayed busy."""
    cdef Py_ssize_t i = 0, at, done, count
    cdef uint32_t undone
    while i < n and view.kept.lasts:
        count = min(n - i, <Py_ssize_t>PL_KEPT_CHAINS)
        undone = pl_walk_kept(
            tables, view.kept.hops, memo, pids + i, count, n - i, i, out, depth, found + i, _CHAIN_MAX
        )
        if not pl_kept_valid(&view.kept):
            pl_memo_clear(memo)  # it can have chains of this group
            done = _ancestor_pids_abreast(view, tables, memo, pids, i, i + count, which, out, depth, found, absent)
            if done < i + count:
                return ~done
            undone = 0
        for at in range(count if undone else 0):
            if undone >> at & 1:
                done = _ancestor_pids_each(
                    view, tables, memo, pids, i + at, i + at + 1, which, out, depth, found, absent
                )
                if done == i + at:
                    return ~done
        i += count
    return i


cdef Py_ssize_t _ancestor_pids_each(
    View view, const pl_tables *tables, pl_memo *memo, const uint32_t *pids, Py_ssize_t i, Py_ssize_t n, int which,
    uint32_t *out, uint32_t depth, uint8_t *found, Py_ssize_t *absent
) noexcept nogil:
    """Walk chains one after another, from number `i` on; see `_ancestor_pids`."""
    cdef pl_walk walk
    cdef Py_ssize_t offset = _link_offset(which)
    cdef int result
    while True:
        i = pl_walk_run(tables, memo, pids, i, n, offset, out, depth, found, &walk, _CHAIN_MAX)
        if i == n:
            return n
        if walk.link == 0:
            result = _walk_from(view, pids[i], which, &found[i], &walk)
            if result == PL_READ_BUSY:
                return i
            absent[0] += result == PL_READ_ABSENT
        while walk.link != 0:
            if _walk_on(view, &walk, which, &out[i * depth], depth) == PL_READ_BUSY:
                return i
        pl_walk_end(&walk, memo, out, depth, i)
        i += 1


cdef inline Py_ssize_t _link_offset(int which) noexcept nogil:
    cdef pl_hot hot
    return <const char *>_link_word(&hot, which) - <const char *>&hot


cdef Py_ssize_t _ancestor_pids_abreast(
    View view, const pl_tables *given, pl_memo *memo, const uint32_t *pids, Py_ssize_t begin, Py_ssize_t n, int which,
    uint32_t *out, uint32_t depth, uint8_t *found, Py_ssize_t *absent
) noexcept nogil:
    """Walk several chains together, a step each in turn, so that their cache misses overlap; see `_ancestor_pids`."""
    cdef Py_ssize_t offset = _link_offset(which)
    cdef pl_tables tables = given[0]  # a copy that no store can change, so it stays in registers
    cdef pl_walk walks[_ABREAST]
    cdef Py_ssize_t walking[_ABREAST]  # numbers of the walks that have not ended
    cdef pl_walk *walk
    cdef uint64_t next = 0
    cdef uint32_t tgid = 0, pid, generation = 0
    cdef Py_ssize_t count, left, i, at
    cdef int result
    while begin < n:
        count, left = min(n - begin, <Py_ssize_t>_ABREAST), 0
        for i in range(begin + count, min(n, begin + 2 * count)):
            pid = pl_load_relaxed32(&pids[i])
            if pid < tables.capacity:
                pl_prefetch(&view.view.index[pid])
        for i in range(begin, begin + count):
            pl_prefetch(&view.view.hot[pl_head_of(&tables, pl_load_relaxed32(&pids[i]))])
        for at in range(count):
            i, walk = begin + at, &walks[at]
            memset(walk, 0, sizeof(walk[0]))
            pid = pl_load_relaxed32(&pids[i])
            walk.former = pid
            found[i] = 1
            if not pl_head_link(&tables, pl_head_of(&tables, pid), pid, offset, &walk.link, &generation):
                result = _walk_from(view, pid, which, &found[i], walk)
                if result == PL_READ_BUSY:
                    return i
                absent[0] += result == PL_READ_ABSENT
            if walk.link != 0:
                if <uint32_t>walk.link <= tables.rows:
                    pl_prefetch(&view.view.hot[<uint32_t>walk.link])
                walking[left] = at
                left += 1
            else:
                pl_walk_end(walk, memo, out, depth, i)
        while left > 0:
            count, left = left, 0
            for at in walking[:count]:
                i, walk = begin + at, &walks[at]
                if walk.length == 0 and pl_memo_copy(memo, walk.link, pids[i], out, depth, i):
                    continue
                if pl_hop(&tables, walk.link, offset, &tgid, &next):
                    pl_walk_on(walk, tgid, next, out + i * depth, depth, _CHAIN_MAX)
                elif _walk_on(view, walk, which, out + i * depth, depth) == PL_READ_BUSY:
                    return i
                if walk.link == 0:
                    pl_walk_end(walk, memo, out, depth, i)
                    continue
                if <uint32_t>walk.link <= tables.rows:
                    pl_prefetch(&view.view.hot[<uint32_t>walk.link])
                walking[left] = at
                left += 1
        begin += min(n - begin, <Py_ssize_t>_ABREAST)
    return n


cdef Py_ssize_t _chain(View view, uint64_t link, int which, pl_hot *out) noexcept nogil:
    """Follow links into out[0:_CHAIN_MAX]; return the number of rows, or -1 if one stayed busy.

    Brent's method detects a cycle, which is possible in a table that is being repaired. The mark moves to the current
    link at each power of two, and the walk ends when a link returns to the mark.
    """
    cdef Py_ssize_t n = 0
    cdef Py_ssize_t move_at = 1
    cdef uint64_t mark = 0
    cdef int result
    while link != 0 and link != mark and n < _CHAIN_MAX:
        if n == move_at:
            mark = link
            move_at *= 2
        result = pl_follow_once(&view.view, link, &out[n])
        if result == PL_READ_BUSY:
            view.busy_retries += 1
            result = view.follow(link, &out[n])
        if result == PL_READ_ABSENT:
            break
        if result != PL_READ_FOUND:
            return -1
        link = link_of(&out[n], which)
        n += 1
    return n


cdef uint64_t *_mark(View view, uint32_t ppid, bint any_parent, uint32_t *words) noexcept nogil:
    """Return a bitmap of the tgids of all rows, or of the rows with that ppid; NULL without memory.

    Reads single words of rows in any state: the bits only select pids to look up in the index. A live process has a row
    with its tgid at every moment, and an exec keeps the old row, also without a retention, because the new one links to
    it. So a process that lives during the whole scan is marked even if its rows change, unless it executes so many
    programs meanwhile that its older images are elided (`tables.chain_max`). For all processes this holds even then,
    because the index is read; see _processes.pyx.
    """
    cdef uint32_t capacity = view.view.slots
    cdef const pl_hot *hot = view.view.hot
    cdef uint32_t row, tgid
    cdef noting noted
    cdef uint64_t *bits
    words[0] = (capacity + 63) // 64
    bits = <uint64_t *>calloc(words[0], 8)
    if bits == NULL:
        return NULL
    if not any_parent:
        for row in range(1, pl_rows_end(&view.view)):
            tgid = pl_load_relaxed32(&hot[row].tgid)
            if tgid != 0 and tgid < capacity and pl_load_relaxed32(&hot[row].ppid) == ppid:
                bits[tgid >> 6] |= <uint64_t>1 << (tgid & 63)
        return bits
    if not note_rows(view, &noted):
        free(bits)
        return NULL
    if noted.states != NULL:
        for row in range(1, noted.rows):
            tgid = pl_load_relaxed32(&hot[row].tgid)
            if tgid != 0 and tgid < capacity:
                bits[tgid >> 6] |= <uint64_t>1 << (tgid & 63)
            compare_row(view, &noted, row)
        free(noted.states)
    if noted.reads_index:
        for tgid in range(1, capacity):
            if pl_load_relaxed32(&view.view.index[tgid]) != 0:
                bits[tgid >> 6] |= <uint64_t>1 << (tgid & 63)
    return bits


cdef uint32_t _last(object slots, object processes) except? 0xFFFFFFFF:
    """Return the last index entry of a buffer of uint32 or, without one, of `listed`; 0 if it is empty."""
    cdef Py_buffer source
    cdef uint32_t last = 0
    cdef Py_ssize_t size = sizeof(listed) if slots is None else 4
    PyObject_GetBuffer(processes if slots is None else slots, &source, PyBUF_SIMPLE)
    if source.len >= size:
        if slots is None:
            last = (<const listed *>source.buf)[source.len // size - 1].tgid
        else:
            last = (<const uint32_t *>source.buf)[source.len // size - 1]
    PyBuffer_Release(&source)
    return last


cdef bytearray _marked(View view):
    """Return the entries of the index that `_mark` finds for all rows, ascending, as bytes of uint32."""
    cdef uint32_t words = 0, word
    cdef uint64_t bits
    cdef Py_ssize_t n = 0
    cdef uint64_t *marks
    cdef uint32_t *to
    cdef bytearray slots
    with nogil:
        marks = _mark(view, 0, True, &words)
    if marks == NULL:
        raise MemoryError
    try:
        view.check_whole()
        for word in range(words):
            n += _count_bits(marks[word])
        slots = PyByteArray_FromStringAndSize(NULL, n * 4)
        to = <uint32_t *>PyByteArray_AS_STRING(slots)
        for word in range(words):
            bits = marks[word]
            while bits != 0:
                to[0] = word * 64 + _lowest(bits)
                to += 1
                bits &= bits - 1
    finally:
        free(marks)
    return slots


cdef int _scan(View view, uint32_t pid, uint32_t pid_ns, pl_hot *to, uint32_t *row) noexcept nogil:
    """Find one of the daemon's own processes by its number in an inner pid namespace.

    Prefers live processes to ended ones, and among these the one that ended last.

    Returns:
        PL_READ_FOUND, PL_READ_ABSENT, or PL_READ_BUSY if a row that may be the process stayed busy.
    """
    cdef uint32_t rows = pl_rows_end(&view.view)
    cdef const pl_cold *cold = view.view.cold
    cdef pl_hot hot
    cdef pl_rest copy
    cdef uint32_t number, attempt
    cdef uint64_t deadline = 0
    cdef int result = PL_READ_ABSENT
    for number in range(1, rows):
        if pl_load_relaxed32(&cold[number].ns_pid) != pid or pl_load_relaxed32(&cold[number].pid_ns) != pid_ns:
            continue
        attempt = 0
        while not pl_copy_row(&view.view, number, &hot, &copy):
            if not is_used(&view.view.hot[number]):
                hot.flags = 0
                break
            if not view.again(attempt, &deadline):
                return PL_READ_BUSY
            attempt += 1
        if (
            copy.cold.ns_pid != pid or copy.cold.pid_ns != pid_ns or not hot.flags & PL_ROW_HEAD
            or hot.flags & PL_ROW_FOREIGN
        ):
            continue
        if (
            result == PL_READ_ABSENT or hot.exit_boot_ns == 0
            or to.exit_boot_ns != 0 and hot.exit_boot_ns > to.exit_boot_ns
        ):
            to[0] = hot
            row[0] = number
            result = PL_READ_FOUND
            if hot.exit_boot_ns == 0:
                break
    return result


cdef bint _is_final(int result, const pl_hot *hot, bint passed, uint64_t called, uint32_t wait_ms) noexcept nogil:
    """Return whether a caller that waits for an owner of a pid can stop.

    It can if the table is as recent as the call (`passed`), the time is up, or the owner is alive.
    """
    if passed or pl_now_boot_ns() - called > <uint64_t>wait_ms * 1_000_000:
        return True
    return result != PL_READ_ABSENT and (result != PL_READ_FOUND or hot.exit_boot_ns == 0)


cdef tuple _images_of(View view, const period *wanted):
    """Copy the images that ran in a period; return numbers and rows, see `TableReader.images`."""
    cdef uint32_t allocated = pl_rows_end(&view.view), row, capacity
    cdef Py_ssize_t n = 0
    cdef const pl_hot *hot = view.view.hot
    with nogil:
        for row in range(1, allocated):
            n += ran(&hot[row], wanted)
    # Room for images that begin while this runs; the memory is not touched until then.
    capacity = <uint32_t>(n + n // 8 + 1024)
    rows = numbers = None
    n, row = 0, 1
    while row < allocated:
        rows, former = _numpy.empty(capacity, _hot_dtype), rows
        numbers, former_numbers = _numpy.empty(capacity, _numpy.uint32), numbers
        if n:
            rows[:n], numbers[:n] = former, former_numbers
        if _fill_images(view, wanted, rows, numbers, capacity, allocated, &row, &n) == PL_READ_BUSY:
            raise_busy(view, f"row {row}")
        # So many began meanwhile that the room does not suffice: that of all rows always does.
        capacity = allocated
    view.check_whole()
    if rows is None:
        return _numpy.empty(0, _numpy.uint32), _numpy.empty(0, _hot_dtype)
    return numbers[:n], rows[:n]


cdef int _fill_images(
    View view, const period *wanted, object rows, object numbers, uint32_t capacity, uint32_t allocated, uint32_t *row,
    Py_ssize_t *n
) except -1:
    """Copy images, from row[0] on, into arrays that have n[0] already, until these are full or all rows were read.

    Returns:
        PL_READ_BUSY if row[0] stayed half-written.
    """
    cdef Py_buffer target, places
    cdef pl_hot *to
    cdef uint32_t *numbers_to
    cdef int result = PL_READ_FOUND
    PyObject_GetBuffer(rows.view(_numpy.uint8), &target, PyBUF_SIMPLE | PyBUF_WRITABLE)
    try:
        PyObject_GetBuffer(numbers, &places, PyBUF_SIMPLE | PyBUF_WRITABLE)
        try:
            to = <pl_hot *>target.buf
            numbers_to = <uint32_t *>places.buf
            with nogil:
                while n[0] < capacity:
                    result = next_image(view, row, allocated, wanted, &to[n[0]])
                    if result != PL_READ_FOUND:
                        break
                    numbers_to[n[0]] = row[0]
                    n[0] += 1
                    row[0] += 1
        finally:
            PyBuffer_Release(&places)
    finally:
        PyBuffer_Release(&target)
    return result


cdef class TableReader:
    """A reader's access to one instance; follows it from epoch to epoch. Use ProcessTable.

    Several threads may use it. After fork(2) the child may continue to use it.

    Args:
        directory: the instance's runtime directory.
        instance: its name, for messages.
        max_age_ms: how long after the writer's last heartbeat hits are still returned (a restarted writer needs one to
            two seconds); after that StaleError is raised, or BehindError if the writer is alive.

    Raises:
        NotRunningError, AccessError, UntrustedError, LayoutError: see View.
    """

    cdef object __weakref__
    cdef View _view
    cdef str _directory, _instance
    cdef object _asker  # made by the first question
    cdef uint64_t _max_age_ns
    cdef uint64_t _check_at  # on the coarse clock; 0: check immediately

    def __init__(self, directory, str instance="default", *, max_age_ms=10_000):
        self._max_age_ns = <uint64_t>_number("max_age_ms", max_age_ms) * 1_000_000
        self._directory = os.fspath(directory)
        self._instance = instance
        self._open()

    def close(self):
        """Release the segments. Entries stay usable; they keep mapped what they need."""
        if self._view is not None:
            self._lock(self._view, F_UNLCK)
        self._view = None
        if self._asker is not None:
            self._asker.close()

    @property
    def directory(self):
        """The runtime directory of the instance.

        Example:
            >>> from pathlib import Path
            >>> Path(table.directory, "control").exists()
            True
        """
        return self._directory

    @property
    def instance(self):
        """Name of the instance.

        Example:
            >>> table.instance
            'default'
        """
        return self._instance

    @property
    def closed(self):
        """Whether `close` was called.

        Example:
            >>> with ProcessTable.attach() as table:
            ...     pass
            >>> table.closed
            True
        """
        return self._view is None

    @property
    def view(self):
        """The epoch that is being read (mapping, writer's state).

        Example:
            >>> table.view.age_ns < 10 * 10**9
            True
        """
        return self._current()

    @property
    def busy_retries(self):
        """Number of reads of this epoch that were restarted because a write overlapped them.

        Example:
            >>> table.busy_retries >= 0
            True
        """
        return self._current().busy_retries

    # -- epochs ------------------------------------------------------------------------------------------------------

    def _open(self):
        cdef View view = View(self._directory, self._instance)
        # A reference would be a cycle, and keep a dropped table mapped.
        view.table, view.table_type = PyWeakref_NewRef(self, None), type(self)
        view.max_age_ms = self._max_age_ns // 1_000_000
        self._lock(view, F_RDLCK)
        self._view = view
        # A table that is already old must be checked against max_age_ms before a hit is returned.
        self._check_at = 0 if view.age_ns > STALE_AFTER_NS else pl_now_coarse_ns() + _CHECK_NS

    cdef View _current(self):
        """Return the view to read from. A hit costs one shared word and a clock read of 3 ns here."""
        cdef View view = self._view
        if view is None:
            raise ClosedError("this ProcessTable is closed: open another one with ProcessTable.attach()")
        if not _may_read(self, view):
            self._check()
            view = self._view
        return view

    cdef View _latest(self):
        """Return the view to read from, regardless of the age of the table."""
        if self._view is None:
            raise ClosedError("this ProcessTable is closed: open another one with ProcessTable.attach()")
        self._check(True)
        return self._view

    def status(self):
        """Return the instance's status, regardless of the age of its table: (view, commit or None, behind_ns).

        `commit` is the result of the method `commit`, None before the first one. `behind_ns` is how far the table is
        behind the present; it is 0 unless it exceeds what an idle instance can have.

        Raises:
            NotRunningError, StaleError: the instance has been stopped, or is being replaced.

        Example:
            >>> view, commit, behind_ns = table.status()
            >>> behind_ns < 10 * 10**9
            True
        """
        cdef View view = self._latest()
        cdef uint64_t age = view.age_ns
        try:
            commit = self._commit_of(view)
        except StaleError:
            commit = None
        return view, commit, max(age if age > <uint64_t>STALE_AFTER_NS else 0, _behind_ns(view))

    def _check(self, bint any_age=False):
        """Follow the instance if another epoch has begun.

        Args:
            any_age: accept a table of any age.

        Raises:
            NotRunningError: the instance is gone.
            LayoutError: a file was truncated, and still is.
            StaleError: the instance is being replaced or has been stopped, or its writer was silent for max_age_ms.
            BehindError: the writer was silent for max_age_ms, but is alive.
        """
        cdef View view = self._view
        cdef uint64_t age = view.age_ns
        cdef uint32_t state = view.state
        try:
            view.check_whole()
        except LayoutError as cut:
            try:
                self._open()  # another instance, or this one's file is complete again
            except NotRunningError:
                if view.is_replaced():
                    raise
                raise cut
            return
        if state > PL_STATE_READY or age > <uint64_t>STALE_AFTER_NS:
            if view.is_replaced():
                try:
                    self._open()
                    return
                except NotRunningError as error:
                    if not os.path.exists(os.path.join(self._directory, "control")):
                        raise
                    raise StaleError(str(error)) from error
            if state > PL_STATE_READY:
                raise StaleError(f"instance {self._instance!r} is {_state_name(state)}; try again when it runs again")
            if age > self._max_age_ns and not any_age:
                if view.writer_lives() is not False:
                    raise BehindError(
                        f"instance {self._instance!r} is running, behind by {age / 1e9:.1f} s; try again when it has "
                        f"caught up (`procline stat` shows its lag)",
                        behind_ns=age,
                    )
                raise StaleError(
                    f"the writer of instance {self._instance!r} has been silent for {age / 1e9:.1f} s and is gone; "
                    f"try again when it has been restarted"
                )
        self._check_at = pl_now_coarse_ns() + _CHECK_NS

    cdef bint _may_say_absent(self, View view, object what) except -1:
        """Return whether "absent" is a valid answer; False if another epoch must be read.

        Raises StaleError or BehindError if the table cannot answer.
        """
        cdef uint64_t behind
        if view.writer_is_fresh():
            behind = _behind_ns(view)
            if behind == 0:
                return True
        else:
            self._check()
            if self._view is not view:
                return False
            behind = view.age_ns if view.state == PL_STATE_READY and view.writer_lives() is not False else 0
        if behind:
            raise BehindError(
                f"{what} is not in the table of instance {self._instance!r}, which is running, behind by "
                f"{behind / 1e9:.1f} s: it may exist all the same; try again",
                behind_ns=behind,
            )
        raise StaleError(
            f"{what} is not in the table of instance {self._instance!r}, which is {_state_name(view.state)} and was "
            f"last written {view.age_ns / 1e9:.1f} s ago: it may exist all the same; try again"
        )

    # -- readers' locks ----------------------------------------------------------------------------------------------
    # Each reader holds a shared lock on one byte of `control`, at an offset made of its pid and pid namespace. So
    # readers can be counted without writes, and a killed reader is not counted any more. The lock belongs to the open
    # file (OFD), so it is independent of other locks of the process. No process waits for these locks.

    cdef int _lock(self, View view, int kind) except -1:
        cdef flock lock
        memset(&lock, 0, sizeof(lock))
        lock.l_type = kind
        lock.l_start = (proc_text.own_pid_ns() & 0x3FFFFFFF) << 32 | os.getpid()
        lock.l_len = 1
        fcntl(view.control_fd, F_OFD_SETLK, &lock)  # without the lock, a reader works but is not counted
        return 0

    def count_readers(self):
        """Count the processes that have this instance's tables open through a TableReader, including this one.

        Any user can hold locks on `control`, so the count takes at most 0.1 s and requests each lock once. A lock
        longer than a byte does not belong to a reader, and hides those below it.

        Returns:
            (count, whether it is complete); an incomplete count is a lower limit.

        Raises:
            NotRunningError: the instance's directory has been removed.

        Example:
            >>> count, is_complete = table.count_readers()
            >>> count >= 1
            True
        """
        cdef flock lock
        cdef int64_t start, end
        cdef View view = self._latest()
        with view._open_directory() as place:
            # Use another open file, because the locks of this one do not conflict with its own requests.
            fd = view._open_segment(place, "control", False)
        count = calls = 0
        is_complete = True
        deadline = time.monotonic() + _COUNT_S
        ranges = [(0, (1 << 63) - 1)]
        try:
            # F_OFD_GETLK returns one lock of the range that conflicts with a write lock: count it, then query the
            # ranges on both sides of it.
            while ranges:
                start, end = ranges.pop()
                if end <= start:
                    continue
                calls += 1
                if calls > _COUNT_CALLS or time.monotonic() > deadline:
                    is_complete = False
                    break
                memset(&lock, 0, sizeof(lock))
                lock.l_type = F_WRLCK
                lock.l_start = start
                lock.l_len = end - start
                if fcntl(fd, F_OFD_GETLK, &lock) != 0 or lock.l_type == F_UNLCK:
                    continue
                if lock.l_len == 1:
                    count += 1
                else:
                    is_complete = False
                ranges.append((start, lock.l_start))
                if lock.l_len != 0:  # otherwise it extends to the end of the file
                    ranges.append((lock.l_start + lock.l_len, end))
        finally:
            os.close(fd)
        return count, is_complete

    # -- one process -------------------------------------------------------------------------------------------------

    def resolve(self, pid, at=None, *, pid_ns=None, wait_ms=0, bint fresh=False):
        """Look up one process.

        Args:
            pid: tgid in the daemon's pid namespace.
            at: a datetime with a time zone, or ns since the Unix epoch; selects the image that the pid's owner had at
                that time.
            pid_ns: inode of the pid namespace of `pid`. Processes that an external tracer reported are found by a hash.
                For the daemon's own processes all rows are searched (some ms), because their number in an inner
                namespace is a column without an index.
            wait_ms: if no live process has the pid, wait up to this long until the table contains everything that
                happened before this call: the pid may have a new owner.
            fresh: return the process as it is now. The tables may be `capture.freshness_ms` behind, so the resolver is
                asked to apply everything that happened before this call, and to search for the process if it is
                unknown. This is a question to another process: a millisecond instead of a tenth of a microsecond.

        Returns:
            Entry, also of an exited process that is retained (exit_time_ns is then set); None if there is no such
            process.

        Raises:
            StaleError: the process is not in the table, but the table is incomplete or its writer is gone.
            BusyError: its row stayed half-written for 50 ms.
            TooOldError: `at` is before the retained history.
            NotRunningError: the instance has been stopped.
            AccessError: with `fresh`, this user may not ask the resolver.
            TypeError: an argument has another type; True is not a pid.
            ValueError: a number is negative or has more than 32 bits, a datetime has no time zone, `at` is given with
                a `pid_ns` that no tracer reported, or `fresh` with either.

        Example:
            >>> with ProcessTable.attach() as table:
            ...     init = table.resolve(1)
            ...     print(init.pid, init.ppid)
            1 0
        """
        cdef uint32_t number = 0, wait = 0
        cdef View view
        cdef Entry entry
        cdef int result
        if not pl_small_int(pid, &number):
            number = number_of("pid", pid)
        if wait_ms is not _ZERO and not pl_small_int(wait_ms, &wait):
            wait = number_of("wait_ms", wait_ms)
        if fresh:
            if at is not None or pid_ns is not None:
                raise ValueError("fresh is for the present state of a pid of this host: leave out at and pid_ns")
            self._ask(number, None)
        if at is not None or pid_ns is not None:
            return self._resolve_otherwise(number, at, pid_ns, wait)
        view = self._view
        if not _may_read(self, view):
            view = self._current()
        entry = make_entry(view, 0)
        result = pl_lookup_once(&view.view, number, &entry.hot, &entry.row_number)
        if result == PL_READ_FOUND and (wait == 0 or entry.hot.exit_boot_ns == 0):
            return entry
        if result != PL_READ_FOUND and result != PL_READ_ABSENT:
            view.busy_retries += 1
        return self._resolve_slowly(number, wait)

    def _ask(self, uint32_t pid, timeout_ms):
        """Let the resolver apply everything that happened before this call, and search for a pid if it is unknown.

        Args:
            pid: in the daemon's pid namespace.
            timeout_ms: how long to wait for the answer; None: the default.
        """
        if self._view is None:
            self._current()  # raises
        if self._asker is None:
            # Deferred: most readers never ask.
            from pathlib import Path

            from pipeline import paths
            from pipeline.bus.requests import Asker

            self._asker = Asker(paths.requests_socket(Path(self._directory)))
        if timeout_ms is None:
            self._asker.ask(pid, fresh=True)
        else:
            self._asker.ask(pid, timeout_ms, fresh=True)

    cdef Entry _resolve_slowly(self, uint32_t pid, uint32_t wait_ms):
        """Handle a miss or a busy row: retry, wait if requested, and verify the state before returning None."""
        cdef uint64_t called = pl_now_boot_ns()
        cdef View view
        cdef Entry entry
        cdef int result
        cdef bint passed
        while True:
            view = self._current()
            entry = make_entry(view, 0)
            with nogil:
                while True:
                    # Before the look-up: once the watermark has passed the call, a missing process will not appear.
                    passed = wait_ms == 0 or _watermark(view) >= called
                    result = view.lookup(pid, &entry.hot, &entry.row_number)
                    if _is_final(result, &entry.hot, passed, called, wait_ms):
                        break
                    pl_sleep_ns(300_000)
            if result == PL_READ_FOUND:
                return entry
            if result != PL_READ_ABSENT:
                raise_busy(view, f"pid {pid}")
            if pid >= view.view.pid_capacity:
                self._check_pid_range(view, pid)
            if self._may_say_absent(view, f"pid {pid}"):
                return None

    def _check_pid_range(self, View view, pid):
        from pipeline.host.boot import pid_max
        if pid < pid_max():
            raise StaleError(
                f"pid {pid} is beyond the index of instance {self._instance!r} ({view.view.pid_capacity} pids), "
                f"because kernel.pid_max was raised after its start: restart the instance"
            )

    # -- by the pid of another namespace ------------------------------------------------------------------------------

    def _resolve_otherwise(self, uint32_t pid, at, pid_ns, uint32_t wait_ms):
        cdef View view = self._current()
        cdef Entry entry
        if at is not None:
            at = unix_ns_of("at", at)
        if pid_ns is not None:
            pid_ns = _number("pid_ns", pid_ns)
        if pid_ns is None or pid_ns == view.view.control.pid_ns:
            if pid >= view.view.pid_capacity or at is None:
                return self._resolve_slowly(pid, wait_ms)
            return self._resolve_at(pid, at)
        if at is None:
            return self._resolve_in(pid, pid_ns, wait_ms)
        entry = self._resolve_in(pid, pid_ns, 0)
        if entry is None:
            return None
        if not entry.hot.flags & PL_ROW_FOREIGN:
            raise ValueError("a past time in a pid namespace: only for processes that a tracer reported")
        return self._resolve_at(entry.hot.tgid, at)

    def _resolve_in(self, uint32_t pid, uint32_t pid_ns, uint32_t wait_ms):
        """Look up by key; if no live process has it, search all rows."""
        cdef uint64_t called = pl_now_boot_ns()
        cdef View view
        cdef Entry entry, other
        cdef pl_rest rest
        cdef int result, scanned
        cdef bint passed
        while True:
            view = self._current()
            entry = make_entry(view, 0)
            other = make_entry(view, 0)
            with nogil:
                while True:
                    passed = wait_ms == 0 or _watermark(view) >= called
                    result = view.lookup_key(pid, pid_ns, &entry.hot, &rest, &entry.row_number)
                    if result == PL_READ_ABSENT or result == PL_READ_FOUND and entry.hot.exit_boot_ns != 0:
                        scanned = _scan(view, pid, pid_ns, &other.hot, &other.row_number)
                        if scanned == PL_READ_BUSY:
                            result = PL_READ_BUSY
                        elif scanned == PL_READ_FOUND and (
                            result == PL_READ_ABSENT or other.hot.exit_boot_ns == 0
                        ):
                            entry.hot = other.hot
                            entry.row_number = other.row_number
                            result = PL_READ_FOUND
                    if _is_final(result, &entry.hot, passed, called, wait_ms):
                        break
                    pl_sleep_ns(300_000)
            if result == PL_READ_FOUND:
                return entry
            if result != PL_READ_ABSENT:
                raise_busy(view, f"pid {pid} of namespace {pid_ns}")
            if self._may_say_absent(view, f"pid {pid} of namespace {pid_ns}"):
                return None

    # -- as of a past time -------------------------------------------------------------------------------------------

    cdef Entry _follow(self, View view, uint64_t link):
        """Return the image that a link names, with its cold part; None if it is not retained."""
        cdef Entry entry = make_entry(view, <uint32_t>link)
        cdef int result
        with nogil:
            result = view.follow(link, &entry.hot)
        if result == PL_READ_ABSENT:
            view.check_whole()
            return None
        if result != PL_READ_FOUND:
            raise_busy(view, f"row {<uint32_t>link}")
        return entry

    cdef uint64_t _previous_owner(self, View view, Entry head):
        """Return a link to the last image of the pid's previous process. Any image of a process may contain it."""
        cdef Entry image = head
        cdef Entry earlier
        for _ in range(_CHAIN_MAX):
            if image._cold().previous_owner != 0 or image.hot.ancestor == 0:
                break
            earlier = self._follow(view, image.hot.ancestor)
            if earlier is None or not is_same_process(view, &earlier.hot, &head.hot):
                break
            image = earlier
        return image._cold().previous_owner

    def _resolve_at(self, uint32_t pid, at):
        cdef View view
        cdef Entry owner, image, earlier
        cdef int64_t time
        while True:
            view = self._current()
            since_boot = at - <int64_t>view.view.control.boot_unix_ns
            if since_boot < 0:
                raise TooOldError(
                    f"{_moment(at)} was before this boot",
                    horizon_unix_ns=view.view.control.boot_unix_ns,
                )
            time = min(since_boot, INT64_MAX)  # it is longer only in a damaged table
            owner = make_entry(view, 0)
            with nogil:
                result = view.lookup_slot(pid, &owner.hot, &owner.row_number)
            if result == PL_READ_ABSENT:
                owner = None
                if not self._may_say_absent(view, f"pid {pid}"):
                    continue
            elif result != PL_READ_FOUND:
                raise_busy(view, f"pid {pid}")
            break
        # Go back through the pid's owners to the one that had started by then.
        for _ in range(_CHAIN_MAX):
            if owner is None or <int64_t>owner.hot.start_boot_ns <= time:
                break
            owner = self._follow(view, self._previous_owner(view, owner))
        if owner is None or <int64_t>owner.hot.start_boot_ns > time:
            # No retained process had the pid then. Processes that are not retained had ended by the horizon.
            self._check_horizon(view, pid, at, time)
            return None
        if not owner.hot.flags & PL_ROW_REPLACED and 0 < <int64_t>owner.hot.exit_boot_ns <= time:
            # The time is between two owners, or after the last one. If the row of an owner in between was evicted,
            # that owner had also ended by the horizon.
            self._check_horizon(view, pid, at, time)
            return None
        # Go back through its images to the one that ran then. The first image runs from the start.
        image = owner
        for _ in range(_CHAIN_MAX):
            if not image.hot.flags & PL_ROW_IS_EXEC or <int64_t>image.hot.exec_boot_ns <= time:
                return image
            earlier = self._follow(view, image.hot.ancestor) if image.hot.ancestor else None
            if earlier is None or not is_same_process(view, &earlier.hot, &owner.hot):
                if image.hot.images == 1 and not image.hot.flags & (PL_ROW_GAP | PL_ROW_ELIDED):
                    return image  # the image of the fork, which was restarted since then
                break
            if earlier.hot.flags & PL_ROW_REPLACED and <int64_t>earlier.hot.exit_boot_ns <= time:
                if image.hot.flags & PL_ROW_ELIDED:
                    break  # an image between the two ran then
                # An image that is restarted repeatedly runs from the end of the previous one (specification 3.3.4).
                return image
            image = earlier
        raise TooOldError(
            f"pid {pid} had started by {_moment(at)}, but which image it ran then is not retained",
            horizon_unix_ns=<int64_t>image.hot.exec_boot_ns + view.view.control.boot_unix_ns,
        )

    cdef int _check_horizon(self, View view, uint32_t pid, object at, int64_t time) except -1:
        """Raise TooOldError unless every process that was alive at `time` is retained."""
        cdef const pl_control *control = view.view.control
        view.check_whole()
        cdef uint64_t horizon = pl_load_acquire64(&control.horizon_boot_ns)
        # Processes that ended before the first table of this epoch was complete were never in it. The table of a
        # successor has its predecessor's history, so its own start is no limit.
        from pathlib import Path  # only for this answer, as json, which `retention` imports

        from pipeline.host import retention

        # A recording has the past, whenever its table was complete.
        is_recording = retention.read(Path(self._directory)) == math.inf
        if not is_recording and (control.takeovers == 0 or horizon == 0):
            horizon = max(horizon, pl_load_relaxed64(&control.ready_boot_ns))
        if time < <int64_t>horizon:
            since = _moment(<int64_t>horizon + control.boot_unix_ns)
            if is_recording:
                why = f"is not known: the recording, or what fits of it, may lack processes that ended before {since}"
            elif horizon <= pl_load_relaxed64(&control.ready_boot_ns):
                why = f"is not known: the capture began at {since}"
            else:
                why = f"is not known any more: processes that ended before {since} are not kept"
            raise TooOldError(
                f"which process had pid {pid} at {_moment(at)} {why}",
                horizon_unix_ns=<int64_t>horizon + control.boot_unix_ns,
            )
        return 0

    # -- relatives ---------------------------------------------------------------------------------------------------

    cdef Entry _start(self, object process, object pid_ns):
        """Return an entry unchanged; look up a pid."""
        if isinstance(process, Entry):
            if (<Entry>process).view.facts is not None:
                (<Entry>process).check_attached()  # raises the error
            return <Entry>process
        cdef uint32_t number = 0
        cdef View view
        cdef Entry entry
        if pid_ns is None and pl_small_int(process, &number):
            view = self._current()
            entry = make_entry(view, 0)
            if pl_lookup_once(&view.view, number, &entry.hot, &entry.row_number) == PL_READ_FOUND:
                return entry
        return self.resolve(process, pid_ns=pid_ns)

    def ancestors(self, process, *, str by="ancestor", pid_ns=None, limit=_CHAIN_MAX):
        """Return the chain that led to a process, nearest first, without the process itself.

        Args:
            process: a pid, or an Entry (for the chain of that image).
            by: "ancestor": earlier images of the process, then the image of its parent, and so on. "parent": the
                parents of now; if a parent has ended, that is the process which adopted its children, often pid 1.
                "creator": the image that forked it, the image that forked that one, and so on, up to a process that is
                older than the daemon. "origin": the creator, or the parent where the creator is not known: it finds
                what started a process that runs in the background, and continues above the start of the daemon.
            pid_ns: for a pid, as in `resolve`.
            limit: maximum number of entries to read, if less than CHAIN_MAX.

        Returns:
            Entries, up to CHAIN_MAX. Empty if the process does not exist. If the chain could not be followed to its
            end, is_elided is set in the last entry (or in the entry that was passed in).

        Raises:
            ValueError: `by` is unknown. Other exceptions as in `resolve`.

        Example:
            >>> [(ancestor.pid, ancestor.comm) for ancestor in table.ancestors(8675)]
            [(8675, 'sh'), (8674, 'sh'), (8674, 'sshd'), (901, 'sshd'), (901, 'systemd'), (1, 'systemd'), (1, 'init')]
            >>> [ancestor.pid for ancestor in table.ancestors(3000, by="parent")]
            [1]
            >>> [ancestor.pid for ancestor in table.ancestors(3000, by="origin")]
            [3001, 1]
        """
        # This question is so frequent that the call of a function counts.
        cdef int which = BY_ANCESTOR if by == "ancestor" else which_of(by, True, True)
        cdef uint32_t longest = _number("limit", limit)
        cdef Entry entry = self._start(process, pid_ns)
        cdef Entry last
        cdef View view
        cdef uint64_t link
        cdef uint64_t mark = 0
        cdef Py_ssize_t n = 0
        cdef Py_ssize_t move_at = 1
        cdef int result
        cdef list chain = []
        if entry is None:
            return chain
        view = entry.view
        last = entry
        link = _next_link(&entry.hot, which)
        while link != 0 and (n < longest or longest >= _CHAIN_MAX):
            if n == _CHAIN_MAX or link == mark:
                last.elided = True
                break
            if n == move_at:  # Brent's method, see _chain
                mark = link
                move_at *= 2
            entry = make_entry(view, <uint32_t>link)
            result = pl_follow_once(&view.view, link, &entry.hot)
            if result == PL_READ_BUSY:
                view.busy_retries += 1
                with nogil:
                    result = view.follow(link, &entry.hot)
            if result == PL_READ_ABSENT:
                view.check_whole()
                if which == BY_ORIGIN and link == last.hot.creator and last.hot.parent not in (0, link):
                    link = last.hot.parent  # the creator is not retained
                    continue
                last.elided = True
                break
            if result != PL_READ_FOUND:
                raise_busy(view, f"row {<uint32_t>link}")
            chain.append(entry)
            link = _next_link(&entry.hot, which)
            last = entry
            n += 1
        return chain

    def children(self, process, *, pid_ns=None):
        """Return the live processes that have `process` as their current parent, by pid.

        `process` is a pid (of the namespace `pid_ns`) or an Entry. An Entry means that process, even if its pid has
        another owner now; a pid means its current owner. An ended process has no children: they have been reported
        with another parent by then, or their next record will name it.

        Example:
            >>> [child.pid for child in table.children(1)]
            [901, 2000, 3000]
        """
        cdef Entry owner, entry
        cdef uint32_t pid
        cdef list result
        while True:
            owner = self._start(process, pid_ns)
            if owner is None and pid_ns is not None:
                return []
            pid = process if owner is None else owner.hot.tgid
            if owner is not None and owner.hot.exit_boot_ns and not owner.hot.flags & PL_ROW_REPLACED:
                if isinstance(process, Entry) or pid_ns is not None:
                    return []
                owner = None  # the current owner of the pid is not in the table
            result = []
            view = self._current()
            for entry in self._all(view, pid, False):
                # An image that is just being replaced has an end, and its process has not.
                if entry.hot.ppid == pid and not has_exited(&entry.hot) and self._is_child(view, entry, owner):
                    result.append(entry)
            if self._may_say_absent(view, f"a child of pid {pid}"):
                return result

    cdef bint _is_child(self, View view, Entry entry, Entry owner) except -1:
        """Return whether an entry with the ppid of `owner` is its child; owner None is a process not in the table."""
        cdef pl_hot parent
        cdef int result
        if entry.hot.parent == 0:
            return owner is None
        with nogil:
            result = view.follow(entry.hot.parent, &parent)
        if result == PL_READ_ABSENT:
            return True  # the linked image was evicted; a new owner of the pid would have changed the ppid
        if result != PL_READ_FOUND:
            raise_busy(view, f"row {<uint32_t>entry.hot.parent}")
        return owner is not None and is_same_process(view, &parent, &owner.hot)

    def walk(self, *, bint exited=True):
        """Iterate over all processes in the table, each once, as its newest image: by pid, then by start.

        A process that lives during the whole walk is returned exactly once. If a pid was used again, its earlier
        processes are returned too, as long as they are retained.

        Args:
            exited: include exited processes that are retained.

        Example:
            >>> [entry.pid for entry in table.walk(exited=False)]
            [1, 901, 2000, 2001, 3000, 8674]
            >>> [entry.pid for entry in table.walk() if entry.exit_signal]
            [2002]
        """
        cdef Entry entry
        view = self._current()
        # Check before the first entry, so that an error is raised before the caller has printed half of a list.
        while not self._may_say_absent(view, "a process"):
            view = self._current()
        if exited:
            yield from self._listed(view, all_processes(view))
            return
        for entry in self._all(view, 0, True):
            if not has_exited(&entry.hot):
                yield entry

    def _listed(self, View view, bytearray processes):
        """Yield the newest image of each of some processes, as `all_processes` returned them."""
        cdef const listed *process = <const listed *>PyByteArray_AS_STRING(processes)
        cdef Py_ssize_t n = len(processes) // sizeof(listed), i
        cdef Entry entry, newer
        cdef int result
        for i in range(n):
            entry = self._follow(view, process[i].link)
            if entry is None or entry.hot.flags & PL_ROW_REPLACED:
                # An exec has replaced this image, which may be freed already; the index names the next one.
                newer = make_entry(view, 0)
                with nogil:
                    result = view.lookup_slot(process[i].tgid, &newer.hot, &newer.row_number)
                if result == PL_READ_BUSY:
                    raise_busy(view, f"index entry {process[i].tgid}")
                if result == PL_READ_FOUND and is_listed(view, &process[i], &newer.hot):
                    entry = newer
            if entry is not None:
                yield entry
        view.check_whole()

    def _descendants(self, Entry root not None, by, bint exited):
        """Return what `Entry.descendants` returns."""
        cdef int which = which_of(by, False, True)
        cdef View view = self._current()
        cdef Entry target = self.newest(root)
        while not self._may_say_absent(view, "a process"):
            view = self._current()
        if target is None:
            target = root
        processes, _ = descendants_of(view, &target.hot, which, exited)
        return [entry for entry in self._listed(view, processes) if exited or not has_exited(&(<Entry>entry).hot)]

    def _tree(self, Entry root not None):
        """Return the processes that descend from one by parent or creator, and a link to one of them that runs, or 0.

        The processes are bytes, which differ if others descend from it or one has a new image.
        """
        cdef View view = self._current()
        while not self._may_say_absent(view, "a process"):
            view = self._current()
        processes, alive = descendants_of(view, &root.hot, BY_ANY, True)
        return bytes(processes), alive

    def _all(self, View view, uint32_t ppid, bint any_parent):
        """Yield the newest image of each pid that is in some row."""
        cdef uint32_t words = 0
        cdef uint32_t word
        cdef uint64_t bits
        cdef uint32_t pid
        cdef Entry entry
        cdef int result
        cdef uint64_t *marks
        with nogil:
            marks = _mark(view, ppid, any_parent, &words)
        if marks == NULL:
            raise MemoryError
        try:
            for word in range(words):
                bits = marks[word]
                while bits != 0:
                    pid = word * 64 + _lowest(bits)
                    bits &= bits - 1
                    entry = make_entry(view, 0)
                    result = pl_lookup_slot_once(&view.view, pid, &entry.hot, &entry.row_number)
                    if result != PL_READ_FOUND and result != PL_READ_ABSENT:
                        view.busy_retries += 1
                        with nogil:
                            result = view.lookup_slot(pid, &entry.hot, &entry.row_number)
                    if result == PL_READ_FOUND:
                        yield entry
                    elif result != PL_READ_ABSENT:
                        raise_busy(view, f"index entry {pid}")
            view.check_whole()
        finally:
            free(marks)

    # -- in bulk -----------------------------------------------------------------------------------------------------

    def resolve_many(self, pids, out=None, *, fields=None):
        """Look up several processes at once.

        Args:
            pids: a list or an array with one dimension; tgids in the daemon's pid namespace.
            out: a former result without `fields`, of the same length; filled and returned, to reuse memory.
            fields: any of ``ppid``, ``start_time_ns``, ``exec_time_ns``, ``exit_time_ns`` and ``start_boot_ns``; only
                these are copied. They are in one cache line of a row, so this takes less time, most of all in a large
                table. `columns` has all other fields.

        Returns:
            With `fields`: a structured array of shape (n,), with ``pid`` (the number that was asked for), ``found``,
            and the fields. ``found`` says that the pid is in the table, also if its process has ended. The fields of a
            missing process are 0, and so is a time that is unknown. Where ``found`` is true, 0 in ``exit_time_ns``
            means that the process has not ended.
            Without `fields`: whole rows of the table, as private copies. `images` describes their columns. A missing
            process has ``generation`` 0.

        Example:
            >>> found = table.resolve_many([901, 4711], fields=("ppid", "start_time_ns"))
            >>> print(found["found"], found["ppid"])
            [ True False] [1 0]

        Raises:
            StaleError: a process is not in the table, but the table is incomplete or its writer is gone.
            BusyError: a row stayed half-written for 50 ms.
            TypeError: pids are not a list or an array of integers (floats and bools are not), or `out` is no array.
            ValueError: a pid is negative or has more than 32 bits, `out` does not fit, or a name is not one of the
                fields above; the message suggests the right one.
        """
        cdef Py_buffer source, target
        cdef Py_ssize_t n, done
        cdef Py_ssize_t absent = 0
        cdef View view
        if fields is not None:
            if out is not None:
                raise ValueError("out is for whole rows: use either out or fields")
            return self._project(pids, fields)
        pids = _take_pids(pids, &source)
        try:
            n = source.shape[0]
            if out is None:
                out = _numpy.empty(n, _hot_dtype)
            elif not isinstance(out, _numpy_array):
                raise TypeError(f"out must be an array of dtype HOT, not {type(out).__name__}")
            elif not out.flags.c_contiguous or not out.flags.writeable:
                raise ValueError("out must be contiguous and writable")
            elif out.dtype != _hot_dtype or out.shape != (n,):
                raise ValueError(f"out must be of dtype HOT and shape ({n},)")
            if n == 0:
                return out
            while True:
                view = self._current()
                absent = 0
                PyObject_GetBuffer(out.view(_numpy.uint8), &target, PyBUF_SIMPLE | PyBUF_WRITABLE)
                try:
                    with nogil:
                        done = _lookup_many(view, <const uint32_t *>source.buf, n, <pl_hot *>target.buf, &absent)
                finally:
                    PyBuffer_Release(&target)
                if done < n:
                    raise_busy(view, f"pid {pids[done]}")
                if absent == 0 or self._may_say_absent(view, f"one of {n} pids"):
                    return out
        finally:
            PyBuffer_Release(&source)

    cdef object _project(self, object pids, object fields):
        """Return some fields of the rows of pids."""
        cdef pl_projection plan
        cdef Py_buffer source
        cdef Py_ssize_t n, done, absent
        cdef View view
        cdef bytearray out
        if isinstance(fields, str):
            raise TypeError(f"fields is a list of names: write [{fields!r}]")
        cdef tuple known
        cdef char *to
        pids = _take_pids(pids, &source)
        try:
            n = source.shape[0]
            key = fields if type(fields) is tuple else tuple(fields)
            known = _plans.get(key)
            if known is None:
                known = _plan_of(key)
                if len(_plans) < _PLANS_MAX:
                    _plans[key] = known
            if n == 0:
                return _numpy.empty(0, known[0])
            plan = (<const pl_projection *>PyBytes_AS_STRING(<bytes>known[1]))[0]
            out = PyByteArray_FromStringAndSize(NULL, n * plan.size)
            to = PyByteArray_AS_STRING(out)
            while True:
                view = self._current()
                plan.boot_unix_ns = view.view.control.boot_unix_ns
                absent = 0
                with nogil:
                    done = _project_many(view, <const uint32_t *>source.buf, n, &plan, to, &absent)
                if done < n:
                    raise_busy(view, f"pid {pids[done]}")
                if absent == 0 or self._may_say_absent(view, f"one of {n} pids"):
                    return _numpy_frombuffer(out, known[0])
        finally:
            PyBuffer_Release(&source)

    def ancestor_pids_many(self, pids, depth=16, *, str by="ancestor"):
        """Return the pids of the ancestors of several processes, without anything else of their rows.

        Args:
            pids: as in `resolve_many`.
            depth: how many ancestors of each, 1 to 512; 16 by default.
            by: "ancestor" (the default), "parent" or "creator", as in `ancestors`. Earlier images of a process have its
                pid, so they do not count.

        Returns:
            A named tuple with three arrays. ``pid`` has the numbers that were asked for. ``found`` says that the pid is
            in the table, also if its process has ended. ``ancestors``, shape (n, depth), uint32, has the pids of the
            ancestors, nearest first, and 0 behind the last one. If the last column is not 0, `depth` may have cut the
            chain. A chain that ends before pid 1 is incomplete: ``is_elided`` of the last entry of `ancestors` says so.

        Raises:
            StaleError, BusyError, TypeError: as in `resolve_many`.
            ValueError: as in `resolve_many`, and if `by` is unknown or `depth` out of range.

        Example:
            >>> found = table.ancestor_pids_many([8675, 2001], depth=3)
            >>> found.ancestors.tolist()
            [[8674, 901, 1], [2000, 1, 0]]
        """
        cdef Py_ssize_t steps = _number("depth", depth)
        cdef int which = _which(by)
        cdef Py_buffer source
        cdef Py_ssize_t n, done, absent
        cdef bytearray out, found
        cdef View view
        if not 0 < steps <= _CHAIN_MAX:
            number_of("depth", depth, _CHAIN_MAX, low=1)
        cdef uint32_t *to
        cdef uint8_t *mask
        pids = _take_pids(pids, &source)
        try:
            n = source.shape[0]
            if n == 0:
                return _ancestor_pids_type(pids, _numpy.empty(0, bool), _numpy.empty((0, steps), _numpy_uint32))
            out = PyByteArray_FromStringAndSize(NULL, n * steps * sizeof(uint32_t))
            found = PyByteArray_FromStringAndSize(NULL, n)
            to = <uint32_t *>PyByteArray_AS_STRING(out)
            mask = <uint8_t *>PyByteArray_AS_STRING(found)
            while True:
                view = self._current()
                absent = 0
                with nogil:
                    done = _ancestor_pids(
                        view, <const uint32_t *>source.buf, n, <uint32_t>steps, which, to, mask, &absent
                    )
                if done < n:
                    raise_busy(view, f"pid {pids[done]} or an ancestor")
                view.check_whole()  # otherwise a chain could end where zeros began
                if absent == 0 or self._may_say_absent(view, f"one of {n} pids"):
                    # The constructor of the named tuple is a function of Python.
                    return _new_tuple(_ancestor_pids_type, (
                        pids, _numpy_frombuffer(found, _numpy_bool), _numpy_array((n, steps), _numpy_uint32, out)
                    ))
        finally:
            PyBuffer_Release(&source)

    def rows(self, *, bint exited=True):
        """Return the newest image of every process with a pid in the daemon's namespace, by pid, then by start.

        Processes that are known only by their number in another namespace are in `walk`.

        Returns:
            Shape (n,), dtype HOT.

        Example:
            >>> rows = table.rows(exited=False)
            >>> rows["tgid"].tolist()
            [1, 901, 2000, 2001, 3000, 8674]
        """
        cdef View view = self._current()
        _import_numpy()
        copies = self.copies(running=not exited)
        rows = _numpy.frombuffer(copies.hot, _hot_dtype)[: len(copies)]
        return rows[: _numpy.searchsorted(rows["tgid"], view.view.pid_capacity)]

    def images(
        self, *, ended_after=None, began_after=None, began_before=None,
        ended_after_boot_ns=0, began_before_boot_ns=UINT64_MAX,
    ):
        """Return the images that ran in a period: those of live and of exited processes, earlier images among them.

        A process has an image for its fork and one for each exec. Only the newest of them lacks the flag
        ROW_REPLACED, so ``rows["flags"] & ROW_REPLACED == 0`` selects one row for each process. Every row is read once,
        one after the other, so a process that calls exec meanwhile may have its earlier image in the result and not
        the new one. `walk` and `batch` do not have this limit.

        Args:
            ended_after: leave out images that had ended by then: a datetime with a time zone, or ns since the Unix
                epoch.
            began_after, began_before: leave out images of processes that started earlier, or later; likewise.
            ended_after_boot_ns, began_before_boot_ns: the same as ns on the boot clock.

        Returns:
            Numbers and rows: the number of each row, ascending, uint32; the rows, dtype HOT, private copies. A link to
            an image is ``number | generation << 32``, and `batch` takes an array of links. These columns of the rows
            are of use outside of Procline:

            - ``tgid``, ``ppid``: pid, and pid of the parent;
            - ``start_boot_ns``: start of the process; ``exec_boot_ns``: when this image was loaded;
            - ``exit_boot_ns``: end of the process, or, with ROW_REPLACED, the exec that ended this image; 0: it has
              not ended;
            - ``comm``, ``uid``, ``gid``, ``cgroup_id``, ``inode``, ``flags`` (ROW_*), and ``images``: the number of the
              image in its process, from 1.

            Times are ns on the boot clock; add `boot_unix_ns` for Unix times. The numbers are unsigned: convert them to
            int64 before you subtract, and leave out 0 first.

        Raises:
            StaleError: the table is incomplete, or its writer is gone.
            BusyError: a row stayed half-written for 50 ms.
            TypeError, ValueError: a time has another type or no time zone, or is out of range.

        Example:
            >>> numbers, rows = table.images()
            >>> int((rows["tgid"] == 8675).sum())  # of sh, and of date
            2
            >>> has_ended = (rows["flags"] & ROW_REPLACED == 0) & (rows["exit_boot_ns"] != 0)
            >>> rows["tgid"][has_ended].tolist()
            [2002, 3001, 8675]
            >>> lived = rows["exit_boot_ns"].astype("int64") - rows["start_boot_ns"].astype("int64")
            >>> int(lived[has_ended].max())
            2000000000
        """
        cdef period wanted
        cdef View view = self._current()
        _import_numpy()
        while not self._may_say_absent(view, "an image"):
            view = self._current()
        wanted.ended_after = max(
            number_of("ended_after_boot_ns", ended_after_boot_ns, UINT64_MAX),
            self._boot_ns(view, "ended_after", ended_after),
        )
        wanted.began_after = self._boot_ns(view, "began_after", began_after)
        wanted.began_before = number_of("began_before_boot_ns", began_before_boot_ns, UINT64_MAX)
        if began_before is not None:
            wanted.began_before = min(wanted.began_before, self._boot_ns(view, "began_before", began_before))
        return _images_of(view, &wanted)

    cdef uint64_t _boot_ns(self, View view, str name, object time) except? 0xFFFFFFFFFFFFFFFF:
        """Return a time of an argument on the boot clock: 0 for None, and for a time before this boot."""
        if time is None:
            return 0
        return max(0, unix_ns_of(name, time) - view.view.control.boot_unix_ns)

    def slots(self):
        """Return the entries of the index that a row names, ascending, as bytes of uint32.

        They are those of the latest process of each pid.

        Raises:
            StaleError: the table is incomplete, or its writer is gone.

        Example:
            >>> import numpy as np
            >>> np.frombuffer(table.slots(), np.uint32)[:3].tolist()
            [1, 901, 2000]
        """
        cdef View view = self._current()
        while not self._may_say_absent(view, "a process"):
            view = self._current()
        return _marked(view)

    def _processes(self):
        """Return all processes in the order of `walk`, PROCESS_BYTES for each: `copies` takes a part of it."""
        cdef View view = self._current()
        while not self._may_say_absent(view, "a process"):
            view = self._current()
        return all_processes(view)

    def copies(
        self, *, pids=None, links=None, slots=None, processes=None, kinds=0, bint cold=False, bint running=False
    ):
        """Copy many rows with their strings, each of one moment; `columns` makes arrays of them.

        Args:
            pids: a buffer of uint32; the result has a row for each, with generation 0 if it is not in the table.
            links: a buffer of uint64, of images as in `image`; those that are not retained are left out.
            slots: a buffer of uint32, a part of what `slots` returned.
            processes: likewise, of what `_processes` returned. Without any of these four, the newest image of every
                process is copied, in the order of `walk`.
            kinds: of strings, FILE and so on of _row_copies.pyx.
            cold: whether the cold parts are copied.
            running: leave out what has ended.

        Returns:
            RowCopies.

        Raises:
            StaleError: the table is incomplete, or its writer is gone.
            BusyError: a row stayed half-written for 50 ms.
            TypeError, ValueError: a buffer has other elements, or is not contiguous.

        Example:
            >>> rows = table.copies(running=True)
            >>> [rows.entry(place).pid for place in range(len(rows))]
            [1, 901, 2000, 2001, 3000, 8674]
        """
        cdef uint32_t strings = _number("kinds", kinds)
        cdef View view
        cdef RowCopies rows
        pids = None if pids is None else numbers_in("pids", pids, 4)
        slots = None if slots is None else numbers_in("slots", slots, 4)
        links = None if links is None else numbers_in("links", links, 8)
        while True:
            view = self._current()
            if pids is None and not self._may_say_absent(view, "a process"):
                continue
            chosen, listing = slots if pids is None else pids, processes
            if chosen is None and links is None and listing is None:
                if running:
                    chosen = _marked(view)
                else:
                    listing = all_processes(view)
            # Foreign processes have their numbers in the cold part.
            cold = cold or view.view.key_capacity != 0 and pids is None and links is None and (
                _last(chosen, listing) >= view.view.pid_capacity
            )
            rows = read_rows(view, chosen, links, listing, strings, cold, running, pids is not None)
            view.check_whole()
            if pids is None or rows.absent == 0 or self._may_say_absent(view, f"one of {len(rows)} pids"):
                return rows

    def image(self, link):
        """Return the image with a link, ``number | generation << 32``; None if it is not retained any more.

        Raises:
            BusyError: its row stayed half-written for 50 ms.

        Example:
            >>> numbers, rows = table.images()
            >>> link = int(numbers[0]) | int(rows["generation"][0]) << 32
            >>> table.image(link).pid
            1
        """
        return self._follow(self._current(), number_of("link", link, UINT64_MAX))

    def newest(self, Entry entry not None):
        """Return the newest image of the process of an entry, even if its pid has another owner by now.

        Args:
            entry: any image of the process.

        Returns:
            Entry; None if the process has ended and is not retained any more, or is not one of this table's boot.

        Raises:
            StaleError, BusyError: as in `resolve`.

        Example:
            >>> with ProcessTable.attach() as table:
            ...     init = table.resolve(1)
            ...     print(table.newest(init).pid)
            1
        """
        cdef View view
        cdef Entry owner
        cdef int result
        while True:
            view = self._current()
            if entry.view is not view and entry.view.boot_id != view.boot_id:
                return None
            owner = make_entry(view, 0)
            with nogil:
                result = view.lookup_slot(entry.hot.tgid, &owner.hot, &owner.row_number)
            if result == PL_READ_FOUND:
                break
            if result != PL_READ_ABSENT:
                raise_busy(view, f"pid {entry.hot.tgid}")
            if self._may_say_absent(view, f"pid {entry.hot.tgid}"):
                return None
        for _ in range(_CHAIN_MAX):
            if owner is None or is_same_process(view, &owner.hot, &entry.hot):
                return owner
            if owner.hot.start_boot_ns < entry.hot.start_boot_ns:
                return None
            try:
                owner = self._follow(view, self._previous_owner(view, owner))
            except TooOldError:
                return None  # a later owner has just been evicted, and earlier ones before it
        return None

    def ancestor_rows(self, pid, *, str by="ancestor"):
        """Return `ancestors` as an array, nearest first. Shape (n,), dtype HOT.

        Example:
            >>> table.ancestor_rows(2001, by="parent")["tgid"].tolist()
            [2000, 1]
        """
        rows, _ = self.ancestors_many([pid], by=by)
        return rows

    def ancestors_many(self, pids, *, str by="ancestor"):
        """Return the chains of several processes at once.

        Args:
            pids: as in `resolve_many`.
            by: as in `ancestors`.

        Returns:
            Rows and offsets: the chain of pids[i] is rows[offsets[i]:offsets[i + 1]], dtype HOT, nearest first; offsets
            has shape (n + 1,), int64. A missing process has an empty chain.

        Example:
            >>> rows, offsets = table.ancestors_many([2001, 901], by="parent")
            >>> rows["tgid"].tolist(), offsets.tolist()
            ([2000, 1, 1], [0, 2, 3])
        """
        cdef int which = _which(by)
        cdef Py_buffer source, ends, target
        cdef Py_ssize_t n, done, room
        cdef Py_ssize_t absent = 0
        cdef View view
        pids = _as_pids(pids)
        n = pids.shape[0]
        offsets = _numpy.zeros(n + 1, _numpy.int64)
        room = 0
        result = None
        while True:
            view = self._current()
            absent = done = 0
            PyObject_GetBuffer(pids, &source, PyBUF_SIMPLE)
            PyObject_GetBuffer(offsets, &ends, PyBUF_SIMPLE | PyBUF_WRITABLE)
            try:
                while done < n:
                    # Room for the estimated total length and one more chain; repeated if the chains are longer.
                    with nogil:
                        room = (<int64_t *>ends.buf)[done] + _CHAIN_MAX + _guess_rows(
                            view, <const uint32_t *>source.buf + done, n - done, which
                        )
                    former, result = result, _numpy.empty(room, _hot_dtype)
                    if done:
                        result[: offsets[done]] = former[: offsets[done]]
                    PyObject_GetBuffer(result.view(_numpy.uint8), &target, PyBUF_SIMPLE | PyBUF_WRITABLE)
                    try:
                        with nogil:
                            done = _chains(
                                view, <const uint32_t *>source.buf, done, n, which, <pl_hot *>target.buf, room,
                                <int64_t *>ends.buf, &absent,
                            )
                    finally:
                        PyBuffer_Release(&target)
                    if done < 0:
                        raise_busy(view, f"pid {pids[-1 - done]} or an ancestor")
            finally:
                PyBuffer_Release(&source)
                PyBuffer_Release(&ends)
            view.check_whole()  # otherwise a chain could end where zeros began
            if absent == 0 or self._may_say_absent(view, f"one of {n} pids"):
                return (_numpy.empty(0, _hot_dtype) if result is None else result[: offsets[n]]), offsets

    # -- the control segment -----------------------------------------------------------------------------------------

    def commit(self):
        """Return the valid commit slot as bytes: COMMIT and COMMIT_RING[ring_count] of shm/layout/declared.py.

        Raises:
            StaleError: no commit yet.

        Example:
            >>> from pipeline.shm.layout import layout
            >>> import numpy as np
            >>> int(np.frombuffer(table.commit(), layout.COMMIT, 1)["heads_live"][0])
            6
        """
        return self._commit_of(self._current())

    cdef bytes _commit_of(self, View view):
        cdef const pl_control *control = view.view.control
        cdef const char *slot
        cdef uint64_t number
        cdef uint32_t index
        cdef uint32_t attempt
        cdef bytes copy = PyBytes_FromStringAndSize(NULL, view.commit_bytes)
        for attempt in range(1000):
            index = pl_load_acquire32(&control.commit_index)
            slot = <const char *>control + view.commit_offset + (index & 1) * view.commit_bytes
            number = pl_load_acquire64(&(<const pl_commit *>slot).number)
            pl_copy_words(PyBytes_AS_STRING(copy), slot, view.commit_bytes // 8)
            pl_fence_acquire()
            # The writer sets the number to 0 before it fills a slot again. If this process was delayed, the slot may be
            # two commits old by now, but it is consistent.
            if number != 0 and pl_load_relaxed64(&(<const pl_commit *>slot).number) == number:
                return copy
            if attempt > 10:
                pl_sleep_ns(50_000)
        view.check_whole()
        raise StaleError(f"instance {self._instance!r} has not committed anything yet; try again")

    @property
    def watermark_boot_ns(self):
        """Boot-clock time in ns before which all events are in the table; 0 if there are none yet.

        Example:
            >>> entry.exit_time_ns <= table.boot_unix_ns + table.watermark_boot_ns
            True
        """
        return _watermark(self._current())


cdef extern from *:
    """
    static inline uint32_t pl_lowest(uint64_t bits) { return (uint32_t)__builtin_ctzll(bits); }
    """
    uint32_t _lowest "pl_lowest"(uint64_t bits) noexcept nogil
    int _count_bits "__builtin_popcountll"(uint64_t bits) noexcept nogil


def _moment(int64_t unix_ns):
    """Return a point in time as local time with the offset of its zone; the nanoseconds if that is impossible."""
    from datetime import datetime
    try:
        return datetime.fromtimestamp(unix_ns // 1_000_000_000).astimezone().isoformat(" ", "seconds")
    except (ValueError, OverflowError, OSError):
        return f"{unix_ns} ns since the Unix epoch"


cdef uint64_t _behind_ns(View view) noexcept nogil:
    """Return how far a table is behind although its writer is alive; 0 if the delay is normal.

    A recording contains the past: before its end, its watermark never passes the moment when its table was ready.
    """
    cdef uint64_t ready = pl_load_relaxed64(&view.view.control.ready_boot_ns)
    cdef uint64_t watermark = _watermark(view)
    cdef uint64_t now = pl_now_boot_ns()
    if ready == 0 or watermark < ready or watermark + _BEHIND_AFTER_NS > now:
        return 0
    return now - watermark


cdef uint64_t _watermark(View view) noexcept nogil:
    cdef const pl_control *control = view.view.control
    cdef const pl_commit *slot
    cdef uint64_t number, watermark
    cdef int attempt
    for attempt in range(100):
        slot = <const pl_commit *>(<const char *>control + view.commit_offset
                                   + (pl_load_acquire32(&control.commit_index) & 1) * view.commit_bytes)
        number = pl_load_acquire64(&slot.number)
        watermark = pl_load_relaxed64(&slot.watermark_boot_ns)
        pl_fence_acquire()
        if number != 0 and pl_load_relaxed64(&slot.number) == number:
            return watermark
    return 0


cdef Py_ssize_t _guess_rows(View view, const uint32_t *pids, Py_ssize_t n, int which) noexcept nogil:
    """Return the total number of rows in the chains of these pids.

    Counted exactly for few pids, otherwise estimated as an eighth more than in a sample of _SAMPLE pids spread over
    all.
    """
    cdef uint32_t sample[_ABREAST]
    cdef Py_ssize_t i = 0, j, taken, asked = min(n, <Py_ssize_t>_SAMPLE), count = 0
    while i < asked:
        taken = min(asked - i, <Py_ssize_t>_ABREAST)
        for j in range(taken):
            sample[j] = pids[(i + j) * n // asked]
        count += _fetch_chains(view, sample, taken, which)
        i += taken
    return count if n == asked else (count + count // 8) * n // asked


cdef Py_ssize_t _fetch_chains(View view, const uint32_t *pids, Py_ssize_t n, int which) noexcept nogil:
    """Prefetch the chains of n <= _ABREAST pids, all of them step by step; return the number of their rows.

    The next row of one chain is known only after the row before it has arrived; by walking several chains together,
    their cache misses overlap. The values read here may be torn and only serve as hints for prefetching.
    """
    cdef const pl_view *v = &view.view
    cdef uint32_t rows = pl_rows_end(v)
    cdef uint32_t at[_ABREAST]
    cdef uint32_t row, step, pid
    cdef Py_ssize_t i, walking, count = 0
    for i in range(n):
        pid = pl_load_relaxed32(&pids[i])
        row = pl_load_relaxed32(&v.index[pid]) if pid < v.pid_capacity else 0
        at[i] = row if row < rows else 0
        pl_prefetch(&v.hot[at[i]])
        pl_prefetch(<const char *>&v.hot[at[i]] + 64)
    for step in range(<uint32_t>_CHAIN_MAX):
        walking = 0
        for i in range(n):
            if at[i] == 0:
                continue
            row = <uint32_t>pl_load_relaxed64(_link_word(&v.hot[at[i]], which))
            at[i] = row if row < rows else 0
            if at[i] != 0:
                walking += 1
                pl_prefetch(&v.hot[at[i]])
                pl_prefetch(<const char *>&v.hot[at[i]] + 64)
        if walking == 0:
            break
        count += walking
    return count


cdef inline const uint64_t *_link_word(const pl_hot *hot, int which) noexcept nogil:
    return &hot.ancestor if which == 0 else (&hot.creator if which == 1 else &hot.parent)


cdef Py_ssize_t _chains(
    View view, const uint32_t *pids, Py_ssize_t begin, Py_ssize_t n, int which, pl_hot *rows, Py_ssize_t room,
    int64_t *offsets, Py_ssize_t *absent
) noexcept nogil:
    """Walk the chains from pids[begin] on; return how many are done.

    The result is less than n if `room` rows are not enough for the next chain, or -1 - the position of a pid with a row
    that stayed busy.
    """
    cdef pl_hot head
    cdef uint32_t row
    cdef Py_ssize_t i
    cdef Py_ssize_t length
    cdef Py_ssize_t used = offsets[begin]
    cdef int result
    for i in range(begin, n):
        if room - used < _CHAIN_MAX:
            return i
        if (i - begin) % _ABREAST == 0 and n - i > 1:
            _fetch_chains(view, &pids[i], min(n - i, _ABREAST), which)
        result = view.lookup(pids[i], &head, &row)
        if result == PL_READ_ABSENT:
            absent[0] += 1
        elif result != PL_READ_FOUND:
            return -1 - i
        else:
            length = _chain(view, link_of(&head, which), which, rows + used)
            if length < 0:
                return -1 - i
            used += length
        offsets[i + 1] = used
    return n
