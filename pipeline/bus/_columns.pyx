"""Read a frame's msgpack map in place, and check its columns in one pass.

The msgpack library copies each `bin` field out of the message; here it becomes a slice of it. Only what a frame may hold
is turned into objects; all other msgpack types are stepped over. What a frame's keys mean is in `encode`, what is done
with the result in `frames`.

Source: the MessagePack specification (formats by first byte); records.h for the columns.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from pipeline.errors import FrameError


cdef extern from *:
    """
    #include <linux/types.h>
    #include "records.h"
    static inline uint16_t pl_be16(const unsigned char *p) { uint16_t v; __builtin_memcpy(&v, p, 2); return __builtin_bswap16(v); }
    static inline uint32_t pl_be32(const unsigned char *p) { uint32_t v; __builtin_memcpy(&v, p, 4); return __builtin_bswap32(v); }
    static inline uint64_t pl_be64(const unsigned char *p) { uint64_t v; __builtin_memcpy(&v, p, 8); return __builtin_bswap64(v); }
    #if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    #error "records and frames are little-endian and read in place"
    #endif
    """
    uint16_t pl_be16(const unsigned char *p) nogil
    uint32_t pl_be32(const unsigned char *p) nogil
    uint64_t pl_be64(const unsigned char *p) nogil

    struct pl_head:
        uint8_t kind
        uint8_t flags
        uint32_t record_bytes
        uint32_t var_bytes
        uint64_t ring_pos

    struct pl_task:
        pass

    struct pl_fork:
        pass

    struct pl_exec:
        uint32_t path_bytes
        uint32_t root_offset
        uint32_t name_bytes
        uint32_t args_bytes
        uint32_t envs_bytes

    struct pl_exit:
        pass

    enum:
        PL_KIND_FORK
        PL_KIND_EXEC
        PL_KIND_EXIT
        PL_KIND_COUNT
        PL_FLAG_HEAD_ONLY


#: More keys than a frame will ever have, fewer than would take noticeable time to read.
cdef enum:
    MAX_KEYS = 64


class Skipped:
    """Stands for a value of a type that no key of a frame has."""


SKIPPED = Skipped()


cdef int _bad(str reason) except -1:
    raise FrameError(reason, reason=reason)


cdef class _Reader:
    """A position in a message. Every length is checked against what is left before it is believed."""

    cdef const unsigned char *data
    cdef uint64_t at, end
    cdef object view

    cdef const unsigned char *take(self, uint64_t n) except NULL:
        if n > self.end - self.at:
            _bad("the message ends in the middle of a value")
        cdef const unsigned char *p = self.data + self.at
        self.at += n
        return p

    cdef object text(self, uint64_t n):
        if n > 256:
            _bad("a string is longer than any name in a frame")
        # An empty string at the very end still has an address inside the message's buffer or just behind it.
        cdef const unsigned char *p = self.data + self.at if n == 0 else self.take(n)
        try:
            return PyUnicode_DecodeUTF8(<const char *>p, <Py_ssize_t>n, NULL)
        except UnicodeDecodeError:
            _bad("a string is not UTF-8")

    cdef object slice(self, uint64_t n):
        if n > self.end - self.at:
            _bad("the message ends in the middle of a value")
        cdef uint64_t start = self.at
        self.at += n
        return self.view[start:self.at]

    cdef int skip(self, uint64_t values) except -1:
        """Step over complete values, nested ones included, without recursion."""
        cdef uint8_t b
        cdef uint64_t n
        while values:
            values -= 1
            b = self.take(1)[0]
            n = 0
            if b <= 0x7F or b >= 0xE0 or 0xC0 <= b <= 0xC3:  # fixint, nil, (unused), false, true
                if b == 0xC1:
                    _bad("0xc1 begins no msgpack value")
            elif b <= 0x8F:
                values += 2 * (b & 0x0F)
            elif b <= 0x9F:
                values += b & 0x0F
            elif b <= 0xBF:
                n = b & 0x1F
            elif b == 0xC4 or b == 0xD9:
                n = self.take(1)[0]
            elif b == 0xC5 or b == 0xDA:
                n = pl_be16(self.take(2))
            elif b == 0xC6 or b == 0xDB:
                n = pl_be32(self.take(4))
            elif b == 0xC7:
                n = <uint64_t>self.take(1)[0] + 1
            elif b == 0xC8:
                n = <uint64_t>pl_be16(self.take(2)) + 1
            elif b == 0xC9:
                n = <uint64_t>pl_be32(self.take(4)) + 1
            elif b == 0xCA or b == 0xCE or b == 0xD2:
                n = 4
            elif b == 0xCB or b == 0xCF or b == 0xD3:
                n = 8
            elif b == 0xCC or b == 0xD0:
                n = 1
            elif b == 0xCD or b == 0xD1:
                n = 2
            elif b <= 0xD8:  # fixext 1, 2, 4, 8, 16: a type byte and the data
                n = 1 + (<uint64_t>1 << (b - 0xD4))
            elif b == 0xDC:
                values += pl_be16(self.take(2))
            elif b == 0xDD:
                values += pl_be32(self.take(4))
            elif b == 0xDE:
                values += 2 * <uint64_t>pl_be16(self.take(2))
            else:  # 0xDF
                values += 2 * <uint64_t>pl_be32(self.take(4))
            if n:
                self.take(n)
            # Each value takes at least a byte: what claims more than is left is refused now, not after a long loop.
            if values > self.end - self.at:
                _bad("the message ends in the middle of a value")
        return 0

    cdef object value(self, bint nested):
        cdef uint8_t b = self.take(1)[0]
        if b <= 0x7F:
            return b
        if 0xA0 <= b <= 0xBF:
            return self.text(b & 0x1F)
        if b == 0xCC:
            return self.take(1)[0]
        if b == 0xCD:
            return pl_be16(self.take(2))
        if b == 0xCE:
            return pl_be32(self.take(4))
        if b == 0xCF:
            return pl_be64(self.take(8))
        if b == 0xC4:
            return self.slice(self.take(1)[0])
        if b == 0xC5:
            return self.slice(pl_be16(self.take(2)))
        if b == 0xC6:
            return self.slice(pl_be32(self.take(4)))
        if b == 0xD9:
            return self.text(self.take(1)[0])
        if not nested and (0x80 <= b <= 0x8F or b == 0xDE):
            return self.entries(b & 0x0F if b != 0xDE else pl_be16(self.take(2)), True)
        self.at -= 1
        self.skip(1)
        return SKIPPED

    cdef dict entries(self, uint64_t n, bint nested):
        cdef dict found = {}
        cdef uint8_t b
        if n > MAX_KEYS:
            _bad(f"a map has {n} keys")
        for _ in range(n):
            b = self.take(1)[0]
            if 0xA0 <= b <= 0xBF:
                key = self.text(b & 0x1F)
            elif b == 0xD9:
                key = self.text(self.take(1)[0])
            else:
                _bad("a key is not a short string")
            if key in found:
                _bad(f"the key {key!r} occurs twice")
            found[key] = self.value(nested)
        return found


def scan(message) -> dict:
    """Return the entries of a msgpack map: integers, strings, one level of maps, and `bin` values as slices.

    Args:
        message: a contiguous buffer. The slices keep it alive.

    Returns:
        key to int, str, dict, memoryview, or SKIPPED for what no frame holds (negative and floating-point numbers,
        arrays, extension types, maps within maps).

    Raises:
        FrameError: the bytes are not one msgpack map with at most 64 different short strings as keys.
    """
    cdef Py_buffer buffer
    cdef _Reader reader = _Reader()
    cdef uint8_t b
    cdef uint64_t n = 0
    PyObject_GetBuffer(message, &buffer, PyBUF_SIMPLE)
    try:
        reader.view = memoryview(message).cast("B")
        reader.data = <const unsigned char *>buffer.buf
        reader.at = 0
        reader.end = <uint64_t>buffer.len
        b = reader.take(1)[0]
        if 0x80 <= b <= 0x8F:
            n = b & 0x0F
        elif b == 0xDE:
            n = pl_be16(reader.take(2))
        elif b == 0xDF:
            n = pl_be32(reader.take(4))
        else:
            _bad("the message is not a map")
        entries = reader.entries(n, False)
        if reader.at != reader.end:
            _bad("bytes follow the map")
        return entries
    finally:
        PyBuffer_Release(&buffer)


cdef uint64_t _body_bytes(uint8_t kind) noexcept nogil:
    if kind == PL_KIND_FORK:
        return sizeof(pl_fork)
    if kind == PL_KIND_EXEC:
        return sizeof(pl_exec)
    if kind == PL_KIND_EXIT:
        return sizeof(pl_exit)
    return 0


cdef enum:
    OK
    WRONG_KIND
    WRONG_LENGTH
    WRONG_POSITION
    MISSING_BODY
    MISSING_STRINGS
    WRONG_STRINGS


_REASONS = {
    WRONG_KIND: "no such kind of record",
    WRONG_LENGTH: "the record's length does not follow from its kind and strings",
    WRONG_POSITION: "the record lies outside the frame's range or before its predecessor's end",
    MISSING_BODY: "there are fewer bodies than records of the kind",
    MISSING_STRINGS: "the records' strings are longer than the blob",
    WRONG_STRINGS: "an exec record's strings do not add up",
}


def check(
    uint64_t count,
    const unsigned char[::1] head,
    const unsigned char[::1] task,
    const unsigned char[::1] fork,
    const unsigned char[::1] exec_,
    const unsigned char[::1] exit_,
    const unsigned char[::1] blob,
    uint64_t from_pos,
    uint64_t to_pos,
) -> None:
    """Check that the columns of a frame agree, so that whoever walks them need not look at a length again.

    1. `head` and `task` have `count` entries; each body column has one for each record of its kind with a body.
    2. A record's kind exists, and its length is what kind, flags and `var_bytes` make it.
    3. Records lie in the frame's range, in order, without overlap, at multiples of 8.
    4. `var_bytes` of all records add up to the length of `blob`.
    5. The four strings of an exec record add up to its `var_bytes`; `root_offset` lies within the path.

    Raises:
        FrameError: one of these does not hold.
    """
    cdef pl_head h
    cdef pl_exec e
    cdef uint64_t i = 0, span, body, next_pos = from_pos, var = 0
    cdef uint64_t fork_at = 0, exec_at = 0, exit_at = 0
    cdef uint64_t fork_end = fork.shape[0], exec_end = exec_.shape[0], exit_end = exit_.shape[0]
    cdef uint64_t blob_end = blob.shape[0]
    cdef int wrong = OK
    if count > <uint64_t>head.shape[0] or <uint64_t>head.shape[0] != count * sizeof(pl_head):
        _bad("'head' does not have 'n' entries")
    if <uint64_t>task.shape[0] != count * sizeof(pl_task):
        _bad("'task' does not have 'n' entries")
    with nogil:
        while i < count:
            # Copies: a column may begin at any address of the message.
            memcpy(&h, &head[i * sizeof(pl_head)], sizeof(pl_head))
            if h.kind == 0 or h.kind >= PL_KIND_COUNT:
                wrong = WRONG_KIND
                break
            if h.flags & PL_FLAG_HEAD_ONLY:
                body = 0
                if h.record_bytes != sizeof(pl_head) or h.var_bytes != 0:
                    wrong = WRONG_LENGTH
                    break
            else:
                body = _body_bytes(h.kind)
                if <uint64_t>h.record_bytes != sizeof(pl_head) + sizeof(pl_task) + body + h.var_bytes:
                    wrong = WRONG_LENGTH
                    break
            span = 8 + ((<uint64_t>h.record_bytes + 7) & ~<uint64_t>7)
            if h.ring_pos < next_pos or h.ring_pos & 7 or h.ring_pos > to_pos or to_pos - h.ring_pos < span:
                wrong = WRONG_POSITION
                break
            next_pos = h.ring_pos + span
            var += h.var_bytes
            if var > blob_end:
                wrong = MISSING_STRINGS
                break
            if body:
                if h.kind == PL_KIND_FORK:
                    fork_at += body
                    if fork_at > fork_end:
                        wrong = MISSING_BODY
                        break
                elif h.kind == PL_KIND_EXIT:
                    exit_at += body
                    if exit_at > exit_end:
                        wrong = MISSING_BODY
                        break
                else:
                    if exec_end - exec_at < body:
                        wrong = MISSING_BODY
                        break
                    memcpy(&e, &exec_[exec_at], sizeof(pl_exec))
                    exec_at += body
                    if (
                        <uint64_t>e.path_bytes + e.name_bytes + e.args_bytes + e.envs_bytes != h.var_bytes
                        or e.root_offset > e.path_bytes
                    ):
                        wrong = WRONG_STRINGS
                        break
            i += 1
    if wrong != OK:
        _bad(f"record {i} of {count}: {_REASONS[wrong]}")
    if fork_at != fork_end or exec_at != exec_end or exit_at != exit_end:
        _bad("there are more bodies than records of their kind")
    if var != blob_end:
        _bad("the blob is longer than the records' strings")
