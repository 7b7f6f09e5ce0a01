"""Read msgpack in place: a `Reader` steps through a message, and nothing is copied or made an object unasked.

The msgpack library copies each `bin` field out of the message; a frame's columns are to be read where they lie. Types
that no frame holds are stepped over.

Source: the MessagePack specification (formats by first byte).
"""

cimport cython
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from pipeline.errors import FrameError


cdef extern from *:
    """
    #include <stdint.h>
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


#: More keys than a frame will ever have, fewer than would take noticeable time to read.
cdef enum:
    MAX_KEYS = 64


cdef int _bad(str reason) except -1:
    raise FrameError(reason, reason=reason)


cdef str text(const value *found):
    """The string that a value of kind VALUE_TEXT is."""
    try:
        return PyUnicode_DecodeUTF8(<const char *>found.at, <Py_ssize_t>found.number, NULL)
    except UnicodeDecodeError:
        _bad("a string is not UTF-8")


@cython.freelist(2)
cdef class Reader:
    """A position in a message. Every length is checked against what is left before it is believed."""

    cdef const unsigned char *take(self, uint64_t n) except NULL:
        """Return where the next `n` bytes are, and step over them."""
        if n > self.end - self.at:
            _bad("the message ends in the middle of a value")
        cdef const unsigned char *p = self.data + self.at
        self.at += n
        return p

    cdef int entries(self, uint64_t *count) except -1:
        """Read the beginning of a map, which must come now: how many entries it has."""
        cdef value found
        self.read(&found)
        if found.kind != VALUE_MAP:
            _bad("the message is not a map")
        if found.number > MAX_KEYS:
            _bad(f"a map has {found.number} keys")
        count[0] = found.number
        return 0

    cdef int key(self, value *found) except -1:
        """Read a short string, which must come now."""
        self.read(found)
        if found.kind != VALUE_TEXT:
            _bad("a key is not a short string")
        return 0

    cdef int read(self, value *found) except -1:
        """Read a value that is an unsigned integer, a short string, bytes, or the beginning of a map; step over others."""
        cdef uint8_t b = self.take(1)[0]
        found.kind = VALUE_UINT
        found.at = NULL
        if b <= 0x7F:
            found.number = b
        elif b == 0xCC:
            found.number = self.take(1)[0]
        elif b == 0xCD:
            found.number = pl_be16(self.take(2))
        elif b == 0xCE:
            found.number = pl_be32(self.take(4))
        elif b == 0xCF:
            found.number = pl_be64(self.take(8))
        elif 0xA0 <= b <= 0xBF or b == 0xD9:
            found.kind = VALUE_TEXT
            found.number = b & 0x1F if b != 0xD9 else self.take(1)[0]
        elif 0xC4 <= b <= 0xC6:
            found.kind = VALUE_BIN
            if b == 0xC4:
                found.number = self.take(1)[0]
            elif b == 0xC5:
                found.number = pl_be16(self.take(2))
            else:
                found.number = pl_be32(self.take(4))
        elif 0x80 <= b <= 0x8F or b == 0xDE or b == 0xDF:
            found.kind = VALUE_MAP
            if b == 0xDE:
                found.number = pl_be16(self.take(2))
            elif b == 0xDF:
                found.number = pl_be32(self.take(4))
            else:
                found.number = b & 0x0F
            if found.number > self.end - self.at:
                _bad("the message ends in the middle of a value")
        else:
            found.kind = VALUE_OTHER
            self.at -= 1
            self.skip(1)
        if found.kind == VALUE_TEXT or found.kind == VALUE_BIN:
            # Nothing at the very end still has an address inside the message's buffer or just behind it.
            found.at = self.take(found.number) if found.number else self.data + self.at
        return 0

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

