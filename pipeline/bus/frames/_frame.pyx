"""One frame, read in place. `declared` has its keys, `encode` describes the format; `frame` is the Python interface.

`decode` reads the msgpack map in one pass, then checks the columns in one pass, and creates objects only when they are
read. The resolver receives a few hundred frames a second; with objects, one frame cost more than fifty of its events.

Source: records.h for the columns.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport UINT32_MAX, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

import numpy as np

from pipeline.bus.frames._msgpack cimport (
    PL_MP_ARRAY, PL_MP_BIN, PL_MP_INVALID, PL_MP_MAP, PL_MP_STR, PL_MP_UINT, pl_read_value, pl_skip, pl_value,
)
from pipeline.records import dtypes
from pipeline.records._limits cimport RING_ALIGNMENT, RING_HEADER_BYTES
from pipeline.records._records cimport (
    pl_adds_up,
    PL_FLAG_HEAD_ONLY,
    PL_KIND_COUNT,
    PL_KIND_EXEC,
    PL_KIND_EXIT,
    PL_KIND_FORK,
    pl_exec_any,
    pl_exit_any,
    pl_fork_any,
    pl_header_any,
    pl_task_any,
)
from pipeline.bus.frames._column cimport column, pl_get16
from pipeline.bus.frames.declared import FRAME_VERSION
from pipeline.bus.frames.encode import FRAME_MAX_BYTES
from pipeline.errors import FrameError


# C copies of the constants: a look-up of a Python name touches a dozen cache lines for each message.
cdef uint64_t _MAX_BYTES = FRAME_MAX_BYTES, _VERSION = FRAME_VERSION


cdef int _bad(str reason) except -1:
    raise FrameError(reason, reason=reason)


# generated: frame-keys
#: In the order in which their errors are reported.
cdef enum:
    KEY_V
    KEY_BOOT
    KEY_SRC
    KEY_RING
    KEY_SEQ
    KEY_FROM
    KEY_TO
    KEY_N
    KEY_LOST
    KEY_BAD
    KEY_WM
    KEY_CAP
    KEY_HEAD
    KEY_TASK
    KEY_FORK
    KEY_EXEC
    KEY_EXIT
    KEY_BLOB
    KEY_TASK_OF
    KEY_NS_PID
    KEY_COUNT

cdef const char **_KEYS = [
    "v", "boot", "src", "ring", "seq", "from", "to", "n", "lost", "bad", "wm", "cap", "head", "task", "fork",
    "exec", "exit", "blob", "task_of", "ns_pid",
]
cdef uint8_t *_LENGTHS = [
    1, 4, 3, 4, 3, 4, 2, 1, 4, 3, 2, 3, 4, 4, 4, 4, 4, 4, 7, 6,
]
cdef uint8_t *_KINDS = [
    PL_MP_UINT, PL_MP_BIN, PL_MP_STR, PL_MP_UINT, PL_MP_UINT, PL_MP_UINT, PL_MP_UINT, PL_MP_UINT, PL_MP_MAP,
    PL_MP_UINT, PL_MP_UINT, PL_MP_UINT, PL_MP_BIN, PL_MP_BIN, PL_MP_BIN, PL_MP_BIN, PL_MP_BIN, PL_MP_BIN, PL_MP_BIN,
    PL_MP_BIN,
]
cdef uint32_t _OPTIONAL = 1 << KEY_BAD | 1 << KEY_WM | 1 << KEY_CAP | 1 << KEY_TASK_OF | 1 << KEY_NS_PID
# end of the generated part


#: More keys than any frame has, but few enough to be read quickly.
cdef enum:
    MAX_KEYS = 64
    MAX_SHORT = 255  # bytes of a key or a name


cdef struct cursor:
    const char *at
    const char *end


cdef str text(const pl_value *found):
    """Return the string of a value of kind PL_MP_STR."""
    try:
        return PyUnicode_DecodeUTF8(found.at, <Py_ssize_t>found.number, NULL)
    except UnicodeDecodeError:
        _bad("a string is not UTF-8")


cdef int _moved(cursor *c, const char *end, uint32_t kind) except -1:
    """Continue to the end of a value; `kind` is the reason if there is none."""
    if end == NULL:
        _bad(
            "0xc1 is not a valid msgpack type" if kind == PL_MP_INVALID
            else "the message ends in the middle of a value"
        )
    c.at = end
    return 0


cdef int _skip(cursor *c, uint64_t values) except -1:
    """Skip complete values, including nested ones."""
    cdef pl_value last
    cdef const char *end = pl_skip(c.at, c.end, values, &last)
    return _moved(c, end, last.kind)


cdef int _read_value(cursor *c, pl_value *found) except -1:
    """Read the next value; of a map only the header. An array is skipped: frames have none."""
    cdef const char *end = pl_read_value(c.at, c.end, found)
    _moved(c, end, found.kind)
    if found.kind == PL_MP_ARRAY:
        _skip(c, found.number)
    elif found.kind == PL_MP_MAP and found.number > <uint64_t>(c.end - c.at):
        _bad("the message ends in the middle of a value")
    return 0


cdef int _take_key(cursor *c, pl_value *found) except -1:
    """Read a short string, which must be next."""
    _read_value(c, found)
    if found.kind != PL_MP_STR or found.number > MAX_SHORT:
        _bad("a key is not a short string")
    return 0


cdef inline int _key_of(const pl_value *name) noexcept nogil:
    cdef int key
    for key in range(KEY_COUNT):
        if name.number == _LENGTHS[key] and memcmp(name.at, _KEYS[key], _LENGTHS[key]) == 0:
            return key
    return KEY_COUNT


cdef enum:
    OWNED_HEADER
    OWNED_TASK
    OWNED_FORK
    OWNED_EXEC
    OWNED_EXIT
    OWNED_BLOB
    OWNED_DIGESTS
    OWNED_NONE  # never replaced, always in the message


@cython.freelist(8)
cdef class Frame:
    """One decoded frame. Its columns are read-only views that keep the message alive (but see `task`).

    A column can begin at any address. numpy supports that; C and Cython code that reads a column through a pointer must
    declare packed structs or copy a record first (`pipeline/records/_records.pxd`).

    Attributes:
        source: "ebpf", "proc-connector", "replay" or a tracer's name.
        ring: number of the ring.
        frame_seq: frames that the sender sent before this one.
        from_pos: first byte of the ring range that the frame covers.
        to_pos: the byte after the last one of that range.
        count: number of records.
        lost: records that the kernel could not write for this ring, by kind name, since the capture began.
        malformed: malformed records that the sender left out since it started.
        capture_id: identifies the rings; 0: the frame does not say it.
    """

    def __dealloc__(self):
        if self.is_held:
            PyBuffer_Release(&self.buffer)

    def __repr__(self):
        return (
            f"<Frame {self.source} ring {self.ring} seq {self.frame_seq} [{self.from_pos}, {self.to_pos})"
            f" {self.count} records>"
        )

    @property
    def boot_id(self) -> bytes:
        """16 bytes: id of the boot in which the records were made."""
        return self.boot[:16]

    @property
    def watermark_boot_ns(self):
        """No older record follows in this ring; None if the sender sent no watermark."""
        return self.watermark if self.has_watermark else None

    @property
    def header(self):
        """Shape (count,), dtype `dtypes.HEADER`."""
        return np.frombuffer(self.view(OWNED_HEADER, &self.headers), dtypes.HEADER)

    @property
    def task(self):
        """Shape (count,), dtype `dtypes.TASK`: a view, or a copy if the frame stores only the distinct TASKs."""
        tasks = np.frombuffer(self.view(OWNED_TASK, &self.tasks), dtypes.TASK)
        if self.task_of.bytes:
            tasks = tasks[np.frombuffer(self.view(OWNED_NONE, &self.task_of), np.uint16)]
            tasks["ns_pid"] = np.frombuffer(self.view(OWNED_NONE, &self.ns_pids), np.uint32)
            tasks.flags.writeable = False
        return tasks

    @property
    def fork(self):
        """Bodies of the fork records that have one, in order, dtype `dtypes.FORK`."""
        return np.frombuffer(self.view(OWNED_FORK, &self.forks), dtypes.FORK)

    @property
    def exec(self):
        """Bodies of the exec records that have one, in order, dtype `dtypes.EXEC`."""
        return np.frombuffer(self.view(OWNED_EXEC, &self.execs), dtypes.EXEC)

    @property
    def digests(self):
        """Shape (exec bodies,), uint64: see `replaced`; empty if nothing was concealed."""
        return np.frombuffer(self.view(OWNED_DIGESTS, &self.digests), np.uint64)

    @property
    def exit(self):
        """Bodies of the exit records that have one, in order, dtype `dtypes.EXIT`."""
        return np.frombuffer(self.view(OWNED_EXIT, &self.exits), dtypes.EXIT)

    @property
    def blob(self):
        """The strings of all records, one after the other."""
        return self.view(OWNED_BLOB, &self.strings)

    @property
    def exec_count(self) -> int:
        """Number of exec records that have a body."""
        return self.execs.bytes // sizeof(pl_exec_any)

    cdef int hold(self, object message) except -1:
        PyObject_GetBuffer(message, &self.buffer, PyBUF_SIMPLE)
        self.is_held = True
        self.message = message
        return 0

    cdef object view(self, uint32_t number, const column *where):
        cdef object owner = None if self.owners is None else self.owners.get(number)
        cdef const unsigned char *begin
        if where.bytes == 0:
            return memoryview(b"")
        if owner is None:
            owner = self.message
            begin = <const unsigned char *>self.buffer.buf
        else:
            begin = owner
        cdef uint64_t first = <uint64_t>(where.at - begin)
        return memoryview(owner).toreadonly().cast("B")[first : first + where.bytes]

    cdef Frame copy(self):
        cdef Frame part = Frame.__new__(Frame)
        part.hold(self.message)
        part.ring, part.count, part.source, part.lost = self.ring, self.count, self.source, self.lost
        part.frame_seq, part.from_pos, part.to_pos = self.frame_seq, self.from_pos, self.to_pos
        part.malformed, part.watermark, part.has_watermark = self.malformed, self.watermark, self.has_watermark
        part.boot, part.capture_id, part.owners = self.boot, self.capture_id, self.owners
        part.headers, part.tasks, part.strings = self.headers, self.tasks, self.strings
        part.task_of, part.ns_pids = self.task_of, self.ns_pids
        part.forks, part.execs, part.exits, part.digests = self.forks, self.execs, self.exits, self.digests
        return part

    def replaced(
        self, bytes header not None, bytes exec_ not None, bytes blob not None, bytes digests not None
    ) -> Frame:
        """Return the frame with other strings. The new columns must be complete and consistent with all others.

        Args:
            header: HEADER of each record.
            exec_: the exec bodies.
            blob: the strings of all records.
            digests: for each exec body a uint64, the digest of its original strings (_conceal.pyx); 0: they are
                unchanged. The digests are for the code that applies the frame and are never sent.

        Raises:
            ValueError: `header`, `exec_` or `digests` has another length than the column that it replaces.
        """
        cdef Frame part = self.copy()
        if (
            len(header) != <Py_ssize_t>self.headers.bytes or len(exec_) != <Py_ssize_t>self.execs.bytes
            or len(digests) != 8 * <Py_ssize_t>self.exec_count
        ):
            raise ValueError("a new column has another length than the column that it replaces")
        part.owners = {
            **(self.owners or {}), OWNED_HEADER: header, OWNED_EXEC: exec_, OWNED_BLOB: blob, OWNED_DIGESTS: digests,
        }
        part.headers.at, part.execs.at = header, exec_
        part.strings.at, part.strings.bytes = blob, len(blob)
        part.digests.at, part.digests.bytes = digests, len(digests)
        return part

    def since(self, uint64_t position) -> Frame:
        """Return the part of the frame from ring position `position` on: the frame itself, or one with narrower views.

        A receiver uses this to drop the records that it has already seen. The result can be empty.
        """
        cdef Frame part
        cdef pl_header_any header
        cdef uint32_t skipped = 0
        if position <= self.from_pos:
            return self
        part = self.copy()
        while skipped < self.count:
            memcpy(&header, self.headers.at + skipped * sizeof(header), sizeof(header))
            if header.ring_pos >= position:
                break
            skipped += 1
            _advance(&part.headers, sizeof(pl_header_any))
            if self.task_of.bytes:
                _advance(&part.task_of, 2)
                _advance(&part.ns_pids, 4)
            else:
                _advance(&part.tasks, sizeof(pl_task_any))
            _advance(&part.strings, header.var_bytes)
            if not header.flags & PL_FLAG_HEAD_ONLY:
                if header.kind == PL_KIND_FORK:
                    _advance(&part.forks, sizeof(pl_fork_any))
                elif header.kind == PL_KIND_EXEC:
                    _advance(&part.execs, sizeof(pl_exec_any))
                    if self.digests.bytes:
                        _advance(&part.digests, 8)
                elif header.kind == PL_KIND_EXIT:
                    _advance(&part.exits, sizeof(pl_exit_any))
        part.count -= skipped
        if part.count == 0:
            part.tasks.bytes = 0
        part.from_pos = min(position, self.to_pos)
        return part


cdef inline void _advance(column *where, uint64_t bytes) noexcept nogil:
    where.at += bytes
    where.bytes -= bytes


def decode(message) -> Frame:
    """Decode a message that contains one frame.

    Raises:
        FrameError: wrong version or shape, or inconsistent columns. No part of the message may be used.
    """
    frames = decode_all(message)
    if len(frames) != 1:
        _bad("bytes follow the map")
    return frames[0]


cpdef list decode_all(object message):
    """Decode a message that contains one or more frames, one map after the other. Raises the errors of `decode`."""
    cdef cursor c
    cdef Py_buffer buffer
    cdef list frames = []
    PyObject_GetBuffer(message, &buffer, PyBUF_SIMPLE)
    try:
        if <uint64_t>buffer.len > _MAX_BYTES:
            _bad(f"the message has {buffer.len} bytes, more than the limit of {FRAME_MAX_BYTES}")
        c.at = <const char *>buffer.buf
        c.end = c.at + buffer.len
        while True:
            frames.append(_read(&c, message))
            if c.at == c.end:
                return frames
    finally:
        PyBuffer_Release(&buffer)


# The values of a map by key, and sets of keys as bits.
cdef struct fields:
    pl_value[KEY_COUNT + 1] values
    uint32_t seen
    uint32_t wrong  # these have another type than the key demands


cdef Frame _read(cursor *c, object message):
    """Read the frame at the position of `c`."""
    cdef Frame frame = Frame.__new__(Frame)
    cdef fields found
    frame.lost = _read_map(c, &found)
    _check_keys(&found)
    _check_values(&found, frame.lost)
    frame.hold(message)
    _fill(frame, &found)
    _check(frame, found.values[KEY_N].number)
    return frame


# -- parts of _read, inlined -------------------------------------------------------------------------------------------

cdef inline dict _read_map(cursor *c, fields *found):
    """Read the map at the position of `c`; return the losses, None if they are no counts."""
    cdef pl_value name
    cdef pl_value *value
    cdef dict lost = None
    cdef uint64_t left
    cdef int key
    found.seen = found.wrong = 0
    _read_value(c, &name)
    if name.kind != PL_MP_MAP:
        _bad("the message is not a map")
    left = name.number
    if left > MAX_KEYS:
        _bad(f"a map has {left} keys")
    while left:
        left -= 1
        _take_key(c, &name)
        key = _key_of(&name)
        if key < KEY_COUNT and found.seen >> key & 1:
            _bad(f"the key {text(&name)!r} occurs twice")
        if key == KEY_COUNT:
            _skip(c, 1)
            continue
        found.seen |= 1 << key
        value = &found.values[key]
        _read_value(c, value)
        if value.kind != _KINDS[key] or (key == KEY_SRC and value.number > MAX_SHORT):
            found.wrong |= 1 << key
        if value.kind == PL_MP_MAP:
            if key == KEY_LOST:
                lost = _lost_of(c, value.number)
            else:
                _skip(c, 2 * value.number)
    return lost


cdef inline int _check_keys(const fields *found) except -1:
    """Check the version first, then that every key is present and has the right type."""
    cdef int key
    if found.wrong & 1 or not found.seen & 1 or found.values[KEY_V].number != _VERSION:
        shown = "none" if found.wrong & 1 or not found.seen & 1 else found.values[KEY_V].number
        _bad(f"it has version {shown}, but this is version {FRAME_VERSION}: both sides must run the same release")
    for key in range(KEY_COUNT):
        if found.wrong >> key & 1:
            _bad(f"{_KEYS[key].decode()!r} has the wrong type")
        if not (found.seen | _OPTIONAL) >> key & 1:
            _bad(f"{_KEYS[key].decode()!r} is missing")
    return 0


cdef inline int _check_values(const fields *found, dict lost) except -1:
    """Check the values that are about the frame as a whole; `_check` compares the columns."""
    if found.values[KEY_BOOT].number != 16:
        _bad(f"'boot' has {found.values[KEY_BOOT].number} bytes, not 16")
    if found.values[KEY_RING].number > UINT32_MAX:
        _bad(f"ring {found.values[KEY_RING].number} is out of range")
    if found.values[KEY_FROM].number > found.values[KEY_TO].number:
        _bad(f"the range [{found.values[KEY_FROM].number}, {found.values[KEY_TO].number}) ends before it begins")
    if lost is None:
        _bad("'lost' contains a value that is not a count")
    if (found.seen >> KEY_TASK_OF ^ found.seen >> KEY_NS_PID) & 1:
        _bad("only one of 'task_of' and 'ns_pid' is present; they must occur together")
    return 0


cdef inline int _fill(Frame frame, const fields *found) except -1:
    """Store the values of checked keys in the frame."""
    frame.from_pos, frame.to_pos = found.values[KEY_FROM].number, found.values[KEY_TO].number
    frame.boot = <const unsigned char *>found.values[KEY_BOOT].at
    frame.source = _source_of(&found.values[KEY_SRC])
    frame.ring, frame.frame_seq = <uint32_t>found.values[KEY_RING].number, found.values[KEY_SEQ].number
    if found.seen >> KEY_BAD & 1:
        frame.malformed = found.values[KEY_BAD].number
    if found.seen >> KEY_WM & 1:
        frame.has_watermark, frame.watermark = True, found.values[KEY_WM].number
    if found.seen >> KEY_CAP & 1:
        frame.capture_id = found.values[KEY_CAP].number
    _set(&frame.headers, &found.values[KEY_HEAD])
    _set(&frame.tasks, &found.values[KEY_TASK])
    _set(&frame.forks, &found.values[KEY_FORK])
    _set(&frame.execs, &found.values[KEY_EXEC])
    _set(&frame.exits, &found.values[KEY_EXIT])
    _set(&frame.strings, &found.values[KEY_BLOB])
    if found.seen >> KEY_TASK_OF & 1:
        _set(&frame.task_of, &found.values[KEY_TASK_OF])
        _set(&frame.ns_pids, &found.values[KEY_NS_PID])
    return 0


cdef inline void _set(column *where, const pl_value *found) noexcept nogil:
    where.at, where.bytes = <const unsigned char *>found.at, found.number


# Source and losses of the last frame. The next frame nearly always has the same bytes, and then the objects are reused.
# This is safe because callers replace a map of counts and never change it.
cdef bytes _source_bytes = b""
cdef str _source = ""
cdef bytes _lost_bytes = b""
cdef dict _lost = {}


cdef str _source_of(const pl_value *found):
    global _source_bytes, _source
    if <uint64_t>len(_source_bytes) != found.number or memcmp(<const char *>_source_bytes, found.at, found.number) != 0:
        _source = text(found)
        _source_bytes = found.at[: found.number]
    return _source


cdef dict _lost_of(cursor *c, uint64_t entries):
    """Read the entries of a map of counts; as `_counts`, but reuses the last map if the bytes are the same."""
    global _lost_bytes, _lost
    cdef const char *begin = c.at
    cdef Py_ssize_t n = len(_lost_bytes)
    if n and n <= c.end - begin and memcmp(<const char *>_lost_bytes, begin, n) == 0:
        if entries == <uint64_t>len(_lost):
            c.at += n
            return _lost
    found = _counts(c, entries)
    if found is not None and <uint64_t>len(found) == entries:
        _lost = found
        _lost_bytes = begin[: c.at - begin]
    return found


cdef dict _counts(cursor *c, uint64_t left):
    """Read the entries of a map of counts; returns None if a value is not a count."""
    cdef dict found = {}
    cdef pl_value name, count
    cdef bint good = True
    if left > MAX_KEYS:
        _bad(f"a map has {left} keys")
    while left:
        left -= 1
        _take_key(c, &name)
        _read_value(c, &count)
        if count.kind == PL_MP_MAP:
            _skip(c, 2 * count.number)
        if count.kind == PL_MP_UINT:
            found[text(&name)] = count.number
        else:
            good = False
    return found if good else None


cdef inline uint64_t _body_bytes(uint8_t kind) noexcept nogil:
    if kind == PL_KIND_FORK:
        return sizeof(pl_fork_any)
    if kind == PL_KIND_EXEC:
        return sizeof(pl_exec_any)
    if kind == PL_KIND_EXIT:
        return sizeof(pl_exit_any)
    return 0


cdef enum:
    OK
    WRONG_KIND
    WRONG_TASK
    WRONG_LENGTH
    WRONG_POSITION
    MISSING_BODY
    MISSING_STRINGS
    WRONG_STRINGS


_REASONS = {
    WRONG_KIND: "its kind is unknown",
    WRONG_TASK: "its TASK is not in 'task'",
    WRONG_LENGTH: "its length does not match its kind and strings",
    WRONG_POSITION: "it is outside the frame's range or overlaps the record before it",
    MISSING_BODY: "there are fewer bodies than records of this kind",
    MISSING_STRINGS: "the records' strings are longer than the blob",
    WRONG_STRINGS: "the lengths of its strings do not add up",
}


cdef struct walked:
    # How much the records up to one of them use of the range, of the strings, and of the body columns.
    uint64_t position
    uint64_t strings
    uint64_t forks
    uint64_t execs
    uint64_t exits


cdef int _check(Frame frame, uint64_t count) except -1:
    """Check that the columns are consistent, so that the code that walks them need not check a length again.

    1. Either `header` and `task` have `count` entries, or `header`, `task_of` and `ns_pid` do and every index in
       `task_of` is in `task`. Each body column has one body for each record of its kind that has a body.
    2. The kind of each record exists, and its length follows from its kind, flags and `var_bytes`.
    3. The records are in the frame's range, in order, without overlap, at multiples of 8.
    4. The `var_bytes` of all records add up to the length of `blob`.
    5. The four strings of an exec record add up to its `var_bytes` (or less, with FLAG_CONTAINER), and `root_offset` is
       within the path.
    """
    cdef walked used
    cdef uint64_t i = 0, tasks = frame.tasks.bytes // sizeof(pl_task_any)
    cdef int wrong = OK
    _check_lengths(frame, count)
    frame.count = <uint32_t>count
    used.position, used.strings, used.forks, used.execs, used.exits = frame.from_pos, 0, 0, 0, 0
    with nogil:
        while i < count:
            wrong = _fault_of(frame, i, tasks, &used)
            if wrong != OK:
                break
            i += 1
    if wrong != OK:
        _bad(f"record {i} of {count}: {_REASONS[wrong]}")
    if used.forks != frame.forks.bytes or used.execs != frame.execs.bytes or used.exits != frame.exits.bytes:
        _bad("there are more bodies than records of their kind")
    if used.strings != frame.strings.bytes:
        _bad("the blob is longer than the records' strings")
    return 0


cdef int _check_lengths(Frame frame, uint64_t count) except -1:
    """Check the lengths of the columns that have an entry for each record."""
    if count > UINT32_MAX or frame.headers.bytes != count * sizeof(pl_header_any):
        _bad("'head' does not have 'n' entries")
    if frame.task_of.bytes:
        if frame.task_of.bytes != count * 2 or frame.ns_pids.bytes != count * 4:
            _bad("'task_of' or 'ns_pid' does not have 'n' entries")
        if frame.tasks.bytes % sizeof(pl_task_any):
            _bad("'task' does not have whole entries")
    elif frame.tasks.bytes != count * sizeof(pl_task_any) or frame.ns_pids.bytes:
        _bad("'task' does not have 'n' entries")
    return 0


cdef inline int _fault_of(Frame frame, uint64_t number, uint64_t tasks, walked *used) noexcept nogil:
    """Return what is wrong with the record of this number, or OK; add what it uses to `used`."""
    cdef const pl_header_any *h = &(<const pl_header_any *>frame.headers.at)[number]
    cdef uint64_t span, body = 0
    if h.kind == 0 or h.kind >= PL_KIND_COUNT:
        return WRONG_KIND
    if frame.task_of.bytes and pl_get16(frame.task_of.at + 2 * number) >= tasks:
        return WRONG_TASK
    if h.flags & PL_FLAG_HEAD_ONLY:
        if h.record_bytes != sizeof(pl_header_any) or h.var_bytes != 0:
            return WRONG_LENGTH
    else:
        body = _body_bytes(h.kind)
        if <uint64_t>h.record_bytes != sizeof(pl_header_any) + sizeof(pl_task_any) + body + h.var_bytes:
            return WRONG_LENGTH
    span = RING_HEADER_BYTES + (<uint64_t>h.record_bytes + RING_ALIGNMENT - 1) // RING_ALIGNMENT * RING_ALIGNMENT
    if (
        h.ring_pos < used.position or h.ring_pos % RING_ALIGNMENT
        or h.ring_pos > frame.to_pos or frame.to_pos - h.ring_pos < span
    ):
        return WRONG_POSITION
    used.position = h.ring_pos + span
    used.strings += h.var_bytes
    if used.strings > frame.strings.bytes or used.strings > UINT32_MAX:
        return MISSING_STRINGS
    return _body_fault(frame, h, body, used) if body else OK


cdef inline int _body_fault(Frame frame, const pl_header_any *h, uint64_t body, walked *used) noexcept nogil:
    """Return what is wrong with the body of the next record, which has `body` bytes, or OK."""
    cdef const pl_exec_any *e
    if h.kind == PL_KIND_FORK:
        used.forks += body
        return MISSING_BODY if used.forks > frame.forks.bytes else OK
    if h.kind == PL_KIND_EXIT:
        used.exits += body
        return MISSING_BODY if used.exits > frame.exits.bytes else OK
    if frame.execs.bytes - used.execs < body:
        return MISSING_BODY
    e = <const pl_exec_any *>(frame.execs.at + used.execs)
    used.execs += body
    if (
        not pl_adds_up(h.flags, h.var_bytes, <uint64_t>e.path_bytes + e.name_bytes + e.args_bytes + e.envs_bytes)
        or e.root_offset > e.path_bytes
    ):
        return WRONG_STRINGS
    return OK
