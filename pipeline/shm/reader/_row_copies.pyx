"""Private copies of many rows with their strings, and lists of values made from them.

`RowCopies` reads each row in one section, together with the strings that are asked for: all of a row is of one moment.
A string that many rows refer to is copied, and later decoded, once. It is recognised by its reference, and is used only
if the same bytes are still there, because a reference can name another string after its row has changed.

values.py has the source of each field of an entry, and columns.py makes arrays. This module does not need numpy, so the
commands that list processes start quickly.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_FromStringAndSize
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.list cimport PyList_New, PyList_SET_ITEM
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset

cimport cython

from pipeline.host._cpid cimport pl_cpid
from pipeline.shm.layout._layout cimport (
    PL_ARENA_UNIT_BYTES, PL_KNOWN_NS, PL_ROW_FOREIGN, PL_ROW_HEAD, PL_ROW_REPLACED, pl_cold, pl_hot, pl_load_relaxed32,
    pl_prefetch,
)
from pipeline.shm.reader._entry cimport (
    ARGS_STRING, CGROUP_STRING, CONTAINER_STRING, ENTRY_STRINGS, ENVS_STRING, EXTRA_STRING, FILE_STRING, NAME_STRING,
    Entry, make_entry, raise_busy, strings_of,
)
from pipeline.shm.reader._processes cimport NO_MEMORY, has_exited, is_listed, listed
from pipeline.shm.reader._texts cimport _decode_few
from pipeline.shm.reader._view cimport (
    PL_READ_ABSENT, PL_READ_BUSY, PL_READ_FOUND, View, pl_arena_span, pl_copy_bytes, pl_lookup_slot_once, pl_number_of,
    pl_read_valid, pl_rest, pl_row_exists, pl_same_bytes, pl_strings,
)


cdef extern from "string.h" nogil:
    size_t strnlen(const char *text, size_t limit)


cdef extern from "bulk.h" nogil:
    enum:
        PL_AHEAD


cdef extern from "stdio.h":
    int snprintf(char *text, size_t size, const char *format, ...)


cdef extern from "Python.h":
    object PyUnicode_FromKindAndData(int kind, const void *data, Py_ssize_t size)
    int PyUnicode_1BYTE_KIND
    object PyUnicode_FromString(const char *text)
    void PyObject_GC_UnTrack(object each)
    bint PyObject_GC_IsTracked(object each)


#: Kinds of strings, as bits: what `RowCopies` reads besides the rows.
FILE, ARGS, ENVS, NAME = 1 << FILE_STRING, 1 << ARGS_STRING, 1 << ENVS_STRING, 1 << NAME_STRING
CGROUP, CONTAINER, EXTRA = 1 << CGROUP_STRING, 1 << CONTAINER_STRING, 1 << EXTRA_STRING
# Where a number is: in the hot part of a row, in the cold part with the costs behind it, or in the codes of strings.
cdef enum:
    _HOT = 0
    _COLD = 1
    _CODE = 2

#: The same for callers of `ints` and `group`. A key of `group` can hold all of them.
HOT, COLD, CODE = _HOT, _COLD, _CODE

# Rows that are read before their strings are. Both parts of the rows stay in the second-level cache meanwhile.
cdef enum:
    _CHUNK = 64

# Before the strings of a list.
cdef enum:
    LIST_HEADER_BYTES = 4

# Result of reading a string, besides its code and NO_MEMORY.
cdef enum:
    _MOVED = -2

# A row that changes during each of this many reads is busy.
cdef enum:
    _TRIES = 1000


cdef inline uint32_t _spread(uint32_t number) noexcept nogil:
    number *= 2654435761u
    return number ^ number >> 15


cdef bint _grow_table(string_table *table) noexcept nogil:
    """Make room for one more string; return False without memory."""
    cdef uint32_t size = (table.mask + 1) * 2 if table.refs != NULL else 256
    cdef uint32_t place, old
    cdef uint32_t *refs
    cdef int32_t *codes
    cdef size_t *ends
    if table.count == table.capacity:
        ends = <size_t *>realloc(table.ends, (table.capacity * 2 + 64) * sizeof(size_t))
        if ends == NULL:
            return False
        table.ends = ends
        table.capacity = table.capacity * 2 + 64
    if table.refs != NULL and <uint32_t>table.count * 2 < table.mask:
        return True
    refs = <uint32_t *>calloc(size, sizeof(uint32_t))
    codes = <int32_t *>malloc(size * sizeof(int32_t))
    if refs == NULL or codes == NULL:
        free(refs)
        free(codes)
        return False
    if table.refs != NULL:
        for old in range(table.mask + 1):
            if table.refs[old] == 0:
                continue
            place = _spread(table.refs[old]) & (size - 1)
            while refs[place] != 0:
                place = (place + 1) & (size - 1)
            refs[place] = table.refs[old]
            codes[place] = table.codes[old]
    free(table.refs)
    free(table.codes)
    table.refs, table.codes, table.mask = refs, codes, size - 1
    return True


cdef int32_t _code_of(
    string_table *table, const pl_strings *arena, uint32_t ref, const pl_hot *row, uint32_t seq
) noexcept nogil:
    """Return the code of the string that an unchanged row refers to; _MOVED if the row has changed."""
    cdef const char *data
    cdef uint32_t n = 0, place
    cdef int32_t code = -1
    cdef size_t begin
    cdef char *grown
    if not pl_arena_span(arena, ref, &data, &n) or not pl_read_valid(row, seq):
        return _MOVED
    if not _grow_table(table):
        return NO_MEMORY
    place = _spread(ref) & table.mask
    while table.refs[place] != 0 and table.refs[place] != ref:
        place = (place + 1) & table.mask
    if table.refs[place] == ref:
        code = table.codes[place]
        begin = table.ends[code - 1] if code > 0 else 0
        if table.ends[code] - begin == n and pl_same_bytes(data, table.data + begin, n):
            return code if pl_read_valid(row, seq) else _MOVED
    if table.used + n > table.room:
        begin = (table.used + n) * 2 + 4096
        grown = <char *>realloc(table.data, begin)
        if grown == NULL:
            return NO_MEMORY
        table.data, table.room = grown, begin
    pl_copy_bytes(table.data + table.used, data, n)
    if not pl_read_valid(row, seq):
        return _MOVED
    code = table.count
    table.count += 1
    table.used += n
    table.ends[code] = table.used
    table.refs[place], table.codes[place] = ref, code
    return code


cdef inline uint32_t _ref_of(int kind, const pl_hot *hot, const pl_cold *cold) noexcept nogil:
    if kind == FILE_STRING:
        return hot.file_ref
    if kind == ARGS_STRING:
        return hot.args_ref
    if kind == EXTRA_STRING:
        return cold.extra_ref
    if kind == ENVS_STRING:
        return cold.envs_ref
    if kind == NAME_STRING:
        return cold.name_ref
    return cold.cgroup_ref if kind == CGROUP_STRING else cold.container_ref


# -- parts of RowCopies._read, inlined ---------------------------------------------------------------------------------

cdef inline void _prefetch_row(
    RowCopies self, const asked *which, Py_ssize_t i, Py_ssize_t n, uint32_t limit
) noexcept nogil:
    """Fetch what the rows behind number `i` of `n` need; index entries of numbers from `limit` on are not read."""
    cdef const uint32_t *slots = which.slots
    cdef const uint32_t *index = self.view.view.index
    cdef uint32_t number = 0
    if slots != NULL and i + 2 * PL_AHEAD < n and slots[i + 2 * PL_AHEAD] < limit:
        pl_prefetch(&index[slots[i + 2 * PL_AHEAD]])
    if i + PL_AHEAD >= n:
        return
    if slots == NULL:
        number = _number_of(which, i + PL_AHEAD)
    elif slots[i + PL_AHEAD] < limit:
        number = pl_load_relaxed32(&index[slots[i + PL_AHEAD]])
    if number < self.view.view.row_capacity:
        pl_prefetch(&self.view.view.hot[number])
        pl_prefetch(<const char *>&self.view.view.hot[number] + 64)
        if self.rests != NULL:
            pl_prefetch(&self.view.view.cold[number])
            pl_prefetch(<const char *>&self.view.view.cold[number] + 64)
            pl_prefetch(<const char *>&self.view.view.cold[number] + 128)


cdef inline int _read_whole(
    RowCopies self, const asked *which, Py_ssize_t i, Py_ssize_t at, bint running
) noexcept nogil:
    """Read the strings of a copied row, which was asked for as number `i`; if the row has changed, copy it again.

    Returns:
        0, PL_READ_BUSY or NO_MEMORY.
    """
    cdef uint32_t attempt = 0
    cdef uint64_t deadline = 0
    cdef int result
    while True:
        result = self._read_strings(at)
        if result != _MOVED:
            return NO_MEMORY if result == NO_MEMORY else 0
        self.failed = _number_of(which, i)
        if not self.view.again(attempt, &deadline):
            return PL_READ_BUSY
        attempt += 1
        result = self._copy(which, i, at)
        if result == PL_READ_BUSY:
            return PL_READ_BUSY
        if result == PL_READ_ABSENT or running and _is_over(which, &self.hots[at]):
            self.absent += result == PL_READ_ABSENT
            self._clear(at, 0 if which.slots == NULL else which.slots[i])


cdef inline void _drop_vanished(RowCopies self) noexcept nogil:
    """Leave out the rows that vanished before their strings were read."""
    cdef Py_ssize_t i, kept = 0
    cdef int kind
    for i in range(self.count):
        if self.hots[i].generation == 0:
            continue
        if kept != i:
            self.hots[kept] = self.hots[i]
            self.rows[kept] = self.rows[i]
            if self.rests != NULL:
                self.rests[kept] = self.rests[i]
            for kind in range(ENTRY_STRINGS):
                if self.codes[kind] != NULL:
                    self.codes[kind][kept] = self.codes[kind][i]
        kept += 1
    self.count = kept


cdef string_list _measured(const char *begin, const char *end) noexcept nogil:
    """Count the strings between two addresses, and their bytes."""
    cdef string_list found
    cdef Py_ssize_t separators = 0
    cdef uint8_t bits = 0
    cdef const char *at = begin
    while at < end:
        separators += at[0] == 0
        bits |= <uint8_t>at[0]
        at += 1
    found.begin, found.end = begin, end
    found.count = separators + (end > begin and (end - 1)[0] != 0)
    found.size = end - begin - separators
    found.is_ascii = not bits & 0x80
    return found


cdef int _measure_lists(const string_table *table, string_list *lists, dict escaped) except -1:
    """Measure every list of a table, and decode those that are not ASCII."""
    cdef size_t begin = 0
    cdef int32_t code
    for code in range(table.count):
        if table.ends[code] - begin < LIST_HEADER_BYTES:
            lists[code].count = -1
        else:
            lists[code] = _measured(table.data + begin + LIST_HEADER_BYTES, table.data + table.ends[code])
            if not lists[code].is_ascii:
                escaped[code] = [
                    (<str>text).encode("utf-8", "backslashreplace")
                    for text in _decode_few(lists[code].begin, lists[code].end)
                ]
                lists[code].size = sum([len(text) for text in escaped[code]])
        begin = table.ends[code]
    return 0


cdef inline void _append_string(flat_strings *made, const char *text, Py_ssize_t n) noexcept nogil:
    memcpy(made.data + made.size, text, n)
    made.size += n
    made.count += 1
    made.ends[made.count] = made.size


cdef inline void _append_list(flat_strings *made, const char *at, const char *end) noexcept nogil:
    cdef Py_ssize_t n
    while at < end:
        n = strnlen(at, end - at)
        _append_string(made, at, n)
        at += n + 1


cdef list _number_keys(const uint32_t *keys, Py_ssize_t n, Py_ssize_t width, int32_t *codes):
    """Number the different ones of `n` keys in the order in which they occur, with a hash table.

    Args:
        keys: `width` elements for each key.
        codes: receives the number of each key.

    Returns:
        The place at which each number occurs first.
    """
    cdef Py_ssize_t i, w, place, size = 64
    cdef int32_t *slots
    cdef Py_ssize_t *first
    cdef uint32_t hash
    cdef int32_t code
    cdef list firsts = []
    while size < 2 * n:
        size *= 2
    slots = <int32_t *>malloc(size * sizeof(int32_t))
    first = <Py_ssize_t *>malloc(max(1, n) * sizeof(Py_ssize_t))
    try:
        if slots == NULL or first == NULL:
            raise MemoryError
        memset(slots, 0xFF, size * sizeof(int32_t))
        for i in range(n):
            hash = 0
            for w in range(width):
                hash = _spread(hash ^ keys[i * width + w]) + <uint32_t>w
            place = hash & (size - 1)
            while True:
                code = slots[place]
                if code < 0:
                    code = <int32_t>len(firsts)
                    slots[place] = code
                    first[code] = i
                    firsts.append(i)
                    break
                if memcmp(&keys[i * width], &keys[first[code] * width], width * sizeof(uint32_t)) == 0:
                    break
                place = (place + 1) & (size - 1)
            codes[i] = code
    finally:
        free(slots)
        free(first)
    return firsts


@cython.final
cdef class RowCopies:
    """Copies of rows. `TableReader.copies` makes them.

    Attributes:
        count: number of rows.
        hot, cold, numbers: the rows as bytes (dtypes HOT and REST; uint32). `cold` is empty if it was not asked for.
        kinds: the kinds of strings that were read.
    """

    def __dealloc__(self):
        cdef int kind
        for kind in range(ENTRY_STRINGS):
            free(self.codes[kind])
            free(self.tables[kind].refs)
            free(self.tables[kind].codes)
            free(self.tables[kind].data)
            free(self.tables[kind].ends)

    def __len__(self):
        return self.count

    @property
    def view(self):
        """The mapping that the rows were read from."""
        return self.view

    # -- reading -----------------------------------------------------------------------------------------------------

    cdef int _copy(self, const asked *which, Py_ssize_t i, Py_ssize_t at) noexcept nogil:
        """Copy the row that was asked for as number i."""
        cdef const listed *process
        cdef int result
        if which.slots != NULL:
            return self._copy_slot(which.slots[i], at)
        if which.links != NULL:
            return self._copy_link(which.links[i], at)
        process = &which.processes[i]
        result = self._copy_link(process.link, at)
        if result == PL_READ_BUSY or result == PL_READ_FOUND and not self.hots[at].flags & PL_ROW_REPLACED:
            return result
        # An exec has replaced this image, which may be freed already; the index names the next one.
        result = self._copy_slot(process.tgid, at)
        if result == PL_READ_BUSY or result == PL_READ_FOUND and is_listed(self.view, process, &self.hots[at]):
            return result
        return self._copy_link(process.link, at)

    cdef int _copy_link(self, uint64_t link, Py_ssize_t at) noexcept nogil:
        """Copy the row of a link."""
        self.rows[at] = <uint32_t>link
        if self.rests == NULL:
            return self.view.follow(link, &self.hots[at])
        if not pl_row_exists(&self.view.view, <uint32_t>link):
            return PL_READ_ABSENT
        return self.view.copy_row(<uint32_t>link, <uint32_t>(link >> 32), &self.hots[at], &self.rests[at])

    cdef int _copy_slot(self, uint32_t slot, Py_ssize_t at) noexcept nogil:
        """Copy the row of an index entry."""
        cdef pl_hot *hot = &self.hots[at]
        cdef pl_rest *rest = &self.rests[at] if self.rests != NULL else NULL
        cdef int result, tries
        for tries in range(_TRIES):
            result = pl_lookup_slot_once(&self.view.view, slot, hot, &self.rows[at])
            if result != PL_READ_FOUND and result != PL_READ_ABSENT:
                self.view.busy_retries += 1
                result = self.view.lookup_slot(slot, hot, &self.rows[at])
            if result != PL_READ_FOUND or self.rests == NULL:
                return result
            result = self.view.copy_row(self.rows[at], hot.generation, hot, rest)
            # A row that was replaced or freed since the look-up: look up the new one. An image that stays replaced is
            # the last known one, see View.gives_up.
            if result == PL_READ_BUSY or result == PL_READ_FOUND and (hot.flags & PL_ROW_HEAD or tries == _TRIES - 1):
                return result
        return PL_READ_BUSY

    cdef int _read_strings(self, Py_ssize_t at) noexcept nogil:
        """Read the strings of a copied row: 0, _MOVED if it has changed, or NO_MEMORY."""
        cdef const pl_hot *hot = &self.hots[at]
        cdef const pl_hot *shared = &self.view.view.hot[self.rows[at]]
        cdef const pl_cold *cold = &self.rests[at].cold if self.rests != NULL else NULL
        cdef const pl_strings *arena
        cdef uint32_t ref
        cdef int32_t code
        cdef int kind
        for kind in range(ENTRY_STRINGS):
            if not self.kinds >> kind & 1:
                continue
            arena = strings_of(&self.view.view, kind)
            ref = _ref_of(kind, hot, cold)
            code = -1
            if ref != 0 and arena.bytes != NULL:
                code = _code_of(&self.tables[kind], arena, ref, shared, hot.row_seq)
                if code < -1:
                    return code
            self.codes[kind][at] = code
        return 0

    cdef void _prefetch_strings(self, Py_ssize_t at) noexcept nogil:
        cdef uint32_t ref = self.hots[at].file_ref
        if self.kinds & <uint32_t>FILE_BIT and ref != 0:
            pl_prefetch(self.view.view.names.bytes + <uint64_t>ref * PL_ARENA_UNIT_BYTES)
        ref = self.hots[at].args_ref
        if self.kinds & <uint32_t>ARGS_BIT and ref != 0 and self.view.view.args.bytes != NULL:
            pl_prefetch(self.view.view.args.bytes + <uint64_t>ref * PL_ARENA_UNIT_BYTES)
            pl_prefetch(self.view.view.args.bytes + <uint64_t>ref * 16 + 64)

    cdef int _read(self, const asked *which, Py_ssize_t n, bint running, bint keeps_absent) noexcept nogil:
        """Read all rows: 0, PL_READ_BUSY or NO_MEMORY."""
        cdef const uint32_t *slots = which.slots
        cdef uint32_t limit = self.view.view.pid_capacity if keeps_absent else self.view.view.slots
        cdef Py_ssize_t begin = 0, end, i, at = 0, first
        cdef Py_ssize_t origins[_CHUNK]
        cdef int result
        while begin < n:
            end = min(n, begin + _CHUNK)
            first = at
            for i in range(begin, end):
                _prefetch_row(self, which, i, n, limit)
                result = PL_READ_ABSENT
                if slots == NULL or slots[i] < limit:
                    result = self._copy(which, i, at)
                if result == PL_READ_BUSY:
                    self.failed = _number_of(which, i)
                    return PL_READ_BUSY
                if result == PL_READ_ABSENT or running and _is_over(which, &self.hots[at]):
                    self.absent += result == PL_READ_ABSENT
                    if not keeps_absent:
                        continue
                    self._clear(at, slots[i])
                origins[at - first] = i
                at += 1
            for i in range(min(at - first, <Py_ssize_t>PL_AHEAD)):
                self._prefetch_strings(first + i)
            for i in range(first, at):
                if i + PL_AHEAD < at:
                    self._prefetch_strings(i + PL_AHEAD)
                result = _read_whole(self, which, origins[i - first], i, running)
                if result != 0:
                    return result
            begin = end
        self.count = at
        if not keeps_absent:
            _drop_vanished(self)
        return 0

    cdef void _clear(self, Py_ssize_t at, uint32_t pid) noexcept nogil:
        """Make a row that says nothing but its pid."""
        memset(&self.hots[at], 0, sizeof(pl_hot))
        self.hots[at].tgid = pid
        self.rows[at] = 0
        if self.rests != NULL:
            memset(&self.rests[at], 0, sizeof(pl_rest))

    # -- entries -----------------------------------------------------------------------------------------------------

    cdef list _strings_of(self, int kind):
        """Return the bytes of each string of a kind."""
        cdef string_table *table = &self.tables[kind]
        cdef list found
        cdef size_t begin = 0
        cdef int32_t code
        if self.strings[kind] is not None:
            return self.strings[kind]
        found = []
        for code in range(table.count):
            found.append(PyBytes_FromStringAndSize(table.data + begin, table.ends[code] - begin))
            begin = table.ends[code]
        self.strings[kind] = found
        return found

    def entry(self, Py_ssize_t at):
        """Return a row as an Entry, which does not need the table for what was read with the row."""
        cdef Entry entry
        cdef bytes string
        cdef int kind
        if at < 0 or at >= self.count:
            raise IndexError(f"there are {self.count} rows")
        entry = make_entry(self.view, self.rows[at])
        entry.hot = self.hots[at]
        if self.rests != NULL:
            entry.rest = <pl_rest *>malloc(sizeof(pl_rest))
            if entry.rest == NULL:
                raise MemoryError
            entry.rest[0] = self.rests[at]
            if entry.hot.flags & PL_ROW_FOREIGN:
                entry.parent_number = pl_number_of(&self.view.view, entry.hot.ppid)
                entry.creator_number = pl_number_of(&self.view.view, entry.rest.cold.creator_tgid)
        for kind in range(ENTRY_STRINGS):
            if self.codes[kind] != NULL and self.codes[kind][at] >= 0:
                string = self._strings_of(kind)[self.codes[kind][at]]
                Py_INCREF(string)
                entry.strings[kind] = <PyObject *>string
                entry.has_strings = True
        return entry

    # -- values ------------------------------------------------------------------------------------------------------

    def ints(
        self, int part, Py_ssize_t offset, Py_ssize_t size, bint signed=False, *, uint32_t known=0, uint32_t flags=0,
        object unknown=None, int64_t added=0,
    ):
        """Return a number of each row.

        Args:
            part, offset, size, signed: where it is, and its type.
            known: bits of HOT.known that must be set, otherwise the value is None.
            flags: likewise of HOT.flags.
            unknown: the number that means None; None: there is none.
            added: added to each.
        """
        cdef const char *at = <const char *>self.hots if part == _HOT else <const char *>self.rests
        cdef Py_ssize_t stride = sizeof(pl_hot) if part == _HOT else sizeof(pl_rest)
        cdef Py_ssize_t i
        cdef bint has_unknown = unknown is not None
        cdef uint64_t value, none = 0
        cdef int64_t number
        cdef list found = PyList_New(self.count)
        cdef object made
        if at == NULL and self.count:
            raise ValueError("the rows were copied without their cold parts; copy them with has_cold")
        if has_unknown:
            none = unknown
        at += offset
        for i in range(self.count):
            if size == 8:
                value = (<const uint64_t *>at)[0]
            elif size == 4:
                value = (<const uint32_t *>at)[0]
            elif size == 2:
                value = (<const uint16_t *>at)[0]
            else:
                value = (<const uint8_t *>at)[0]
            at += stride
            if (
                self.hots[i].known & known != known or self.hots[i].flags & flags != flags
                or has_unknown and value == none
            ):
                made = None
            elif signed or added:
                number = <int64_t>value + added if size == 8 else <int64_t><int32_t>value + added
                made = number
            else:
                made = value
            Py_INCREF(made)
            PyList_SET_ITEM(found, i, made)
        return found

    def bits(self, uint32_t mask, *, uint32_t known=0, bint negative=False):
        """Return for each row whether one of these bits of HOT.flags is set; None without the bits of `known`."""
        cdef list found = PyList_New(self.count)
        cdef object made
        cdef Py_ssize_t i
        for i in range(self.count):
            made = None
            if self.hots[i].known & known == known:
                made = (self.hots[i].flags & mask != 0) != negative
            Py_INCREF(made)
            PyList_SET_ITEM(found, i, made)
        return found

    cdef int _gather_keys(self, object words, uint32_t *keys) except -1:
        """Copy the key of each row: one element for each of `words`, which `group` describes."""
        cdef Py_ssize_t width = len(words), n = self.count, i, w, stride
        cdef const char *at
        cdef uint32_t mask
        cdef int part
        for w in range(width):
            part, offset, mask = words[w]
            if part == _CODE:
                at, stride = <const char *>self.codes[<int>offset], sizeof(int32_t)
            elif part == _HOT:
                at, stride = <const char *>self.hots + <Py_ssize_t>offset, sizeof(pl_hot)
            else:
                at, stride = <const char *>self.rests + <Py_ssize_t>offset, sizeof(pl_rest)
            if (part == _CODE and at == NULL or part == _COLD and self.rests == NULL) and n:
                raise ValueError("the rows were copied without a part of the key; copy them with it")
            for i in range(n):
                keys[i * width + w] = (<const uint32_t *>(at + i * stride))[0] & mask
        return 0

    def group(self, words):
        """Group rows with equal keys.

        Args:
            words: the key, 4 bytes each: (HOT or COLD, offset, mask), or (CODE, number of the kind of string, mask).

        Returns:
            (codes, firsts): the number of each row's group as int32, and the first row of each group.
        """
        cdef Py_ssize_t width = len(words), n = self.count
        cdef uint32_t *keys = <uint32_t *>malloc(max(1, n * width) * sizeof(uint32_t))
        cdef bytearray made = PyByteArray_FromStringAndSize(NULL, n * sizeof(int32_t))
        try:
            if keys == NULL:
                raise MemoryError
            self._gather_keys(words, keys)
            return made, _number_keys(keys, n, width, <int32_t *>PyByteArray_AS_STRING(made))
        finally:
            free(keys)

    def lists(self, int kind, uint32_t known):
        """Return the strings of each row's list as (codes, tuples).

        A code is -1 if the list is unknown or cannot be read, and -2 if it is empty.
        """
        cdef string_table *table = &self.tables[kind]
        cdef bytearray made = PyByteArray_FromStringAndSize(NULL, self.count * sizeof(int32_t))
        cdef int32_t *codes = <int32_t *>PyByteArray_AS_STRING(made)
        cdef list values = PyList_New(table.count)
        cdef bint is_readable = strings_of(&self.view.view, kind).bytes != NULL
        cdef size_t begin = 0
        cdef int32_t code
        cdef Py_ssize_t i
        cdef tuple texts
        for code in range(table.count):
            texts = None
            if table.ends[code] - begin >= LIST_HEADER_BYTES:
                texts = _decode_few(table.data + begin + LIST_HEADER_BYTES, table.data + table.ends[code])
                # Nothing in it can refer back to it, and the collector need not learn this by itself.
                if PyObject_GC_IsTracked(texts):
                    PyObject_GC_UnTrack(texts)
            Py_INCREF(texts)
            PyList_SET_ITEM(values, code, texts)
            begin = table.ends[code]
        for i in range(self.count):
            code = self.codes[kind][i]
            if not self.hots[i].known & known or not is_readable:
                code = -1
            elif code < 0:
                code = -2
            codes[i] = code
        return made, values

    def list_groups(self, int kind, uint32_t known):
        """Return the strings of each row's list as (codes, values): the value of a row is a tuple, None if unknown."""
        cdef bytearray made
        cdef list values
        cdef int32_t *codes
        cdef int32_t count
        cdef Py_ssize_t i
        made, values = self.lists(kind, known)
        codes, count = <int32_t *>PyByteArray_AS_STRING(made), <int32_t>len(values)
        for i in range(self.count):
            if codes[i] < 0:
                codes[i] = count - 1 - codes[i]
        values += [None, ()]
        return made, values

    def flat_lists(self, int kind, uint32_t known):
        """Return the strings of all rows' lists, in the form of Arrow's LargeList of LargeString.

        Each byte that is not UTF-8 is replaced by an escape such as ``\\udcff``.

        Returns:
            (lists, ends, data, known). `lists` has count + 1 int64: where the list of each row begins. `ends` has an
            int64 for each string: where it begins in `data`. Then comes the end of the last one. `data` has the
            strings. `known` has a byte for each row: whether its list is known.
        """
        cdef string_table *table = &self.tables[kind]
        cdef bytearray begins = PyByteArray_FromStringAndSize(NULL, (self.count + 1) * sizeof(int64_t))
        cdef bytearray is_known = PyByteArray_FromStringAndSize(NULL, self.count)
        cdef bytearray ends, data
        cdef dict escaped = {}  # by code: the strings of a list that is not ASCII
        cdef flat_strings made
        cdef string_list *lists = <string_list *>malloc(max(1, table.count) * sizeof(string_list))
        if lists == NULL:
            raise MemoryError
        try:
            _measure_lists(table, lists, escaped)
            made = self._place_lists(
                kind, known, lists, <int64_t *>PyByteArray_AS_STRING(begins), <uint8_t *>PyByteArray_AS_STRING(is_known)
            )
            ends = PyByteArray_FromStringAndSize(NULL, (made.count + 1) * sizeof(int64_t))
            data = PyByteArray_FromStringAndSize(NULL, made.size)
            made.ends, made.data = <int64_t *>PyByteArray_AS_STRING(ends), PyByteArray_AS_STRING(data)
            self._copy_lists(kind, lists, escaped, <const uint8_t *>PyByteArray_AS_STRING(is_known), &made)
        finally:
            free(lists)
        return begins, ends, data, is_known

    cdef flat_strings _place_lists(
        self, int kind, uint32_t known, const string_list *lists, int64_t *begins, uint8_t *is_known
    ) noexcept nogil:
        """Fill where each row's list begins, and whether it is known; return how many strings there are, and bytes."""
        cdef bint is_readable = strings_of(&self.view.view, kind).bytes != NULL
        cdef flat_strings total
        cdef int32_t code
        cdef Py_ssize_t i
        memset(&total, 0, sizeof(total))
        for i in range(self.count):
            code = self.codes[kind][i]
            begins[i] = total.count
            is_known[i] = self.hots[i].known & known != 0 and is_readable and (code < 0 or lists[code].count >= 0)
            if is_known[i] and code >= 0:
                total.count += lists[code].count
                total.size += lists[code].size
        begins[self.count] = total.count
        return total

    cdef int _copy_lists(
        self, int kind, const string_list *lists, dict escaped, const uint8_t *is_known, flat_strings *made
    ) except -1:
        """Copy the strings of each row's list, and note where each of them ends."""
        cdef int32_t code
        cdef Py_ssize_t i
        made.count = made.size = made.ends[0] = 0
        for i in range(self.count):
            code = self.codes[kind][i]
            if not is_known[i] or code < 0:
                continue
            if lists[code].is_ascii:
                _append_list(made, lists[code].begin, lists[code].end)
                continue
            for text in escaped[code]:
                _append_string(made, PyBytes_AS_STRING(text), len(<bytes>text))
        return 0

    def identities(self):
        """Return the entity id of each row; None if its start is unknown."""
        cdef list found = PyList_New(self.count)
        cdef bytes boot = self.view.boot_id.hex().encode()
        cdef char[80] text
        cdef object made
        cdef Py_ssize_t i
        for i in range(self.count):
            if self.hots[i].flags & PL_ROW_FOREIGN:
                made = self.entry(i).entity_id
            elif self.hots[i].start_boot_ns == 0:
                made = None
            else:
                # Not PyUnicode_FromFormat, which knows no %llx before Python 3.12.
                snprintf(
                    text, sizeof(text), "%s-%x-%llx", <const char *>boot, self.hots[i].tgid,
                    <unsigned long long>self.hots[i].start_boot_ns,
                )
                made = PyUnicode_FromString(text)
            Py_INCREF(made)
            PyList_SET_ITEM(found, i, made)
        return found

    def cpids(self, uint64_t tick_ns):
        """Return the CPID of each row, see `pipeline.host.boot.cpid`; None if its start or its number is unknown."""
        cdef list found = PyList_New(self.count)
        cdef const unsigned char *boot = <const unsigned char *>PyBytes_AS_STRING(self.view.boot_id)
        cdef char text[36]
        cdef object made
        cdef Py_ssize_t i
        if self.rests == NULL and self.count:
            raise ValueError("the rows were copied without their cold parts; copy them with has_cold")
        for i in range(self.count):
            made = None
            if self.hots[i].known & PL_KNOWN_NS and self.hots[i].start_boot_ns != 0:
                pl_cpid(
                    text, boot, self.rests[i].cold.pid_ns, self.hots[i].start_boot_ns // tick_ns,
                    self.rests[i].cold.ns_pid,
                )
                made = PyUnicode_FromKindAndData(PyUnicode_1BYTE_KIND, text, sizeof(text))
            Py_INCREF(made)
            PyList_SET_ITEM(found, i, made)
        return found

    def by_code(self, list values, bytearray codes, object below=None, object lowest=None):
        """Return the value of each row by its code; `below` for -1, `lowest` for -2."""
        cdef const int32_t *code = <const int32_t *>PyByteArray_AS_STRING(codes)
        cdef Py_ssize_t n = len(codes) // sizeof(int32_t), i
        cdef list found = PyList_New(n)
        cdef object made
        for i in range(n):
            made = values[code[i]] if code[i] >= 0 else below if code[i] == -1 else lowest
            Py_INCREF(made)
            PyList_SET_ITEM(found, i, made)
        return found

    def argument_lists(self, list values, bytearray codes):
        """Return a new list for each row by its code: None for -1, an empty one for -2."""
        cdef const int32_t *code = <const int32_t *>PyByteArray_AS_STRING(codes)
        cdef Py_ssize_t n = len(codes) // sizeof(int32_t), i
        cdef list found = PyList_New(n)
        cdef object made
        for i in range(n):
            made = None
            if code[i] == -2:
                made = []
            elif code[i] >= 0 and values[code[i]] is not None:
                made = list(<tuple>values[code[i]])
            Py_INCREF(made)
            PyList_SET_ITEM(found, i, made)
        return found


cdef enum:
    FILE_BIT = 1 << FILE_STRING
    ARGS_BIT = 1 << ARGS_STRING
    COLD_BITS = (1 << ENVS_STRING) | (1 << NAME_STRING) | (1 << CGROUP_STRING) | (1 << CONTAINER_STRING) | (
        1 << EXTRA_STRING)


cdef inline bint _is_over(const asked *which, const pl_hot *hot) noexcept nogil:
    """Return whether an image that was asked for, or otherwise its process, has ended."""
    return hot.exit_boot_ns != 0 if which.links != NULL else has_exited(hot)


cdef inline uint32_t _number_of(const asked *which, Py_ssize_t i) noexcept nogil:
    """Return the index entry that was asked for as number i; without one, the row."""
    if which.slots != NULL:
        return which.slots[i]
    return <uint32_t>which.links[i] if which.links != NULL else <uint32_t>which.processes[i].link


cdef RowCopies read_rows(
    View view, object slots, object links, object processes, uint32_t kinds, bint has_cold, bint running,
    bint keeps_absent,
):
    """Read rows.

    Args:
        slots: entries of the index, as a buffer of uint32; None: `links`.
        links: of images, as a buffer of uint64; None: `processes`.
        processes: as `all_processes` returned them, a buffer of `listed`.
        kinds: of strings.
        has_cold: whether the cold parts are read; they are also read if a kind of string needs them.
        running: leave out what has ended.
        keeps_absent: keep a row for each of `slots`, which are pids: one that is not in the table has generation 0.
    """
    cdef RowCopies rows = RowCopies.__new__(RowCopies)
    cdef Py_buffer source
    cdef asked which
    cdef Py_ssize_t n, size = 4 if slots is not None else (8 if links is not None else <Py_ssize_t>sizeof(listed))
    cdef int kind, result
    rows.view = view
    rows.kinds = kinds
    rows.strings = [None] * ENTRY_STRINGS
    has_cold = has_cold or kinds & COLD_BITS != 0
    PyObject_GetBuffer(
        slots if slots is not None else links if links is not None else processes, &source, PyBUF_SIMPLE
    )
    try:
        n = source.len // size
        which.slots = <const uint32_t *>source.buf if slots is not None else NULL
        which.links = <const uint64_t *>source.buf if slots is None and links is not None else NULL
        which.processes = <const listed *>source.buf
        rows.hot = PyByteArray_FromStringAndSize(NULL, n * sizeof(pl_hot))
        rows.hots = <pl_hot *>PyByteArray_AS_STRING(rows.hot)
        rows.numbers = PyByteArray_FromStringAndSize(NULL, n * sizeof(uint32_t))
        rows.rows = <uint32_t *>PyByteArray_AS_STRING(rows.numbers)
        rows.cold = PyByteArray_FromStringAndSize(NULL, n * sizeof(pl_rest) if has_cold else 0)
        if has_cold:
            rows.rests = <pl_rest *>PyByteArray_AS_STRING(rows.cold)
        for kind in range(ENTRY_STRINGS):
            if kinds >> kind & 1:
                rows.codes[kind] = <int32_t *>malloc(max(1, n) * sizeof(int32_t))
                if rows.codes[kind] == NULL:
                    raise MemoryError
        with nogil:
            result = rows._read(&which, n, running, keeps_absent)
    finally:
        PyBuffer_Release(&source)
    if result == NO_MEMORY:
        raise MemoryError
    if result == PL_READ_BUSY:
        raise_busy(view, f"{'row' if slots is None else 'index entry'} {rows.failed}")
    return rows
