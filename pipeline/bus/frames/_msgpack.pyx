"""Read msgpack in place: a `Reader` walks through a message without copying it or creating objects.

The msgpack library copies each `bin` field out of the message, but the columns of a frame must be read in place. Types
that frames do not use are skipped.

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


#: More keys than any frame has, but few enough to be read quickly.
cdef enum:
    MAX_KEYS = 64


cdef int _bad(str reason) except -1:
    raise FrameError(reason, reason=reason)


cdef str text(const value *found):
    """Return the string of a value of kind VALUE_TEXT."""
    try:
        return PyUnicode_DecodeUTF8(<const char *>found.at, <Py_ssize_t>found.number, NULL)
    except UnicodeDecodeError:
        _bad("a string is not UTF-8")


@cython.freelist(2)
cdef class Reader:
    """A position in a message. Every length is checked against the remaining bytes before it is used."""

    cdef const unsigned char *take(self, uint64_t n) except NULL:
        """Return the address of the next `n` bytes, and advance past them."""
        if n > self.end - self.at:
            _bad("the message ends in the middle of a value")
        cdef const unsigned char *p = self.data + self.at
        self.at += n
        return p

    cdef int entries(self, uint64_t *count) except -1:
        """Read the header of a map, which must be next, and store its number of entries in `count`."""
        cdef value found
        self.read(&found)
        if found.kind != VALUE_MAP:
            _bad("the message is not a map")
        if found.number > MAX_KEYS:
            _bad(f"a map has {found.number} keys")
        count[0] = found.number
        return 0

    cdef int key(self, value *found) except -1:
        """Read a short string, which must be next."""
        self.read(found)
        if found.kind != VALUE_TEXT:
            _bad("a key is not a short string")
        return 0

    cdef int read(self, value *found) except -1:
        """Read an unsigned integer, a short string, bytes, or the header of a map; skip a value of another type."""
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
            # An empty value at the end of the message gets an address inside its buffer or just past its end.
            found.at = self.take(found.number) if found.number else self.data + self.at
        return 0

    cdef int skip(self, uint64_t values) except -1:
        """Skip complete values, including nested ones, without recursion."""
        cdef uint8_t b
        cdef uint64_t n
        while values:
            values -= 1
            b = self.take(1)[0]
            n = 0
            if b <= 0x7F or b >= 0xE0 or 0xC0 <= b <= 0xC3:  # fixint, nil, (unused), false, true
                if b == 0xC1:
                    _bad("0xc1 is not a valid msgpack type")
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
            # Each value needs at least one byte, so a count larger than the rest is rejected now, without a long loop.
            if values > self.end - self.at:
                _bad("the message ends in the middle of a value")
        return 0

