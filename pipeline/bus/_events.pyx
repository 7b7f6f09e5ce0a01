"""Make dicts of the events in a message's body: msgpack for what the stream has, compiled for its shape.

Events repeat themselves: the same 70 keys in the same order, the same paths, names and identities. So the keys of a map
are compared with those of the last map of that size, which becomes one copy of a ready dict of Nones and a store for
each value that is not nil; and short ASCII strings come from a cache, so that a thousand events of one build hold one
copy of its path. That takes a third of the time and of the memory of the general unpacker, which is what a subscriber
in Python is bound by. Measured by bench/publish.py.

What differs from a general unpacker: bin becomes str with surrogate escapes (the stream's form of text that is not
UTF-8), extension types are refused, keys have to be str. Bytes are not trusted: every length is checked against what is
left, nesting against NESTING_MAX.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.dict cimport PyDict_Copy, PyDict_SetItem
from cpython.float cimport PyFloat_FromDouble
from cpython.list cimport PyList_New, PyList_SET_ITEM
from cpython.long cimport PyLong_FromLong, PyLong_FromLongLong, PyLong_FromUnsignedLongLong
from cpython.ref cimport Py_INCREF, PyObject
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy

import sys


cdef extern from *:
    """
    static inline uint16_t pl_get_be16(const unsigned char *p) { uint16_t v; memcpy(&v, p, 2); return __builtin_bswap16(v); }
    static inline uint32_t pl_get_be32(const unsigned char *p) { uint32_t v; memcpy(&v, p, 4); return __builtin_bswap32(v); }
    static inline uint64_t pl_get_be64(const unsigned char *p) { uint64_t v; memcpy(&v, p, 8); return __builtin_bswap64(v); }

    /* Spreads well enough for a cache; who makes it collide costs himself the cache, no more. */
    static inline uint64_t pl_mix(const unsigned char *p, uint32_t n)
    {
        uint64_t h = n * 0x9e3779b97f4a7c15ull, w;

        for (; n >= 8; p += 8, n -= 8) {
            memcpy(&w, p, 8);
            h = (h ^ w) * 0xff51afd7ed558ccdull;
            h ^= h >> 32;
        }
        w = 0;
        memcpy(&w, p, n);
        h = (h ^ w) * 0xff51afd7ed558ccdull;
        return h ^ h >> 29;
    }
    """
    uint16_t pl_get_be16(const unsigned char *p) noexcept nogil
    uint32_t pl_get_be32(const unsigned char *p) noexcept nogil
    uint64_t pl_get_be64(const unsigned char *p) noexcept nogil
    uint64_t pl_mix(const unsigned char *p, uint32_t n) noexcept nogil


cdef extern from "Python.h":
    bint PyUnicode_IS_ASCII(object text)
    const unsigned char *PyUnicode_1BYTE_DATA(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)


cdef enum:
    NESTING_MAX = 16
    SHAPES = 128
    STRINGS = 4096
    CACHED_STRING_MAX = 96


cdef class Shape:
    """The keys of a map, as they are on the wire and as a dict that is ready but for its values."""

    cdef uint32_t n
    cdef tuple keys
    cdef bytes wire
    cdef uint32_t *ends  # of each key, in `wire`
    cdef dict ready

    def __dealloc__(self):
        free(self.ends)


cdef class Decoder:
    """Reads the bodies of one stream; remembers shapes and strings. Not for several threads at once."""

    cdef const unsigned char *p
    cdef const unsigned char *end
    cdef list shapes
    cdef list strings

    def __init__(self):
        self.shapes = [None] * SHAPES
        self.strings = [None] * STRINGS

    def decode(self, body, Py_ssize_t count) -> list:
        """Return the `count` events that `body` (bytes-like) consists of.

        Raises:
            ValueError: it consists of something else, or an event has no `seq` and `order`.
        """
        cdef Py_buffer view
        cdef Py_ssize_t i
        cdef list events
        cdef dict event
        PyObject_GetBuffer(body, &view, PyBUF_SIMPLE)
        try:
            if not 0 <= count <= view.len:
                raise ValueError("the body is shorter than its count of events")
            self.p = <const unsigned char *>view.buf
            self.end = self.p + view.len
            events = []
            for i in range(count):
                event = self._event()
                if type(event.get("seq")) is not int or type(event.get("order")) is not int:
                    raise ValueError("an event has no numbers")
                events.append(event)
            if self.p != self.end:
                raise ValueError("bytes after the last event")
            return events
        finally:
            self.p = self.end = NULL
            PyBuffer_Release(&view)

    cdef dict _event(self):
        cdef uint32_t n
        cdef unsigned char first
        self._need(1)
        first = self.p[0]
        self.p += 1
        if first & 0xF0 == 0x80:
            n = first & 0x0F
        elif first == 0xDE:
            n = self._u16()
        elif first == 0xDF:
            n = self._u32()
        else:
            raise ValueError("an event is not a map")
        return self._map(n, 0)

    # -- lengths -------------------------------------------------------------------------------------------------------

    cdef inline int _need(self, uint64_t n) except -1:
        if <uint64_t>(self.end - self.p) < n:
            raise ValueError("the body is cut")
        return 0

    cdef inline uint32_t _u8(self) except? 0xFFFFFFFF:
        self._need(1)
        self.p += 1
        return (self.p - 1)[0]

    cdef inline uint32_t _u16(self) except? 0xFFFFFFFF:
        self._need(2)
        self.p += 2
        return pl_get_be16(self.p - 2)

    cdef inline uint32_t _u32(self) except? 0xFFFFFFFF:
        self._need(4)
        self.p += 4
        return pl_get_be32(self.p - 4)

    # -- values --------------------------------------------------------------------------------------------------------

    cdef object _value(self, int depth):
        cdef unsigned char first
        cdef uint64_t bits
        cdef uint32_t bits32
        cdef double number
        cdef float single
        self._need(1)
        first = self.p[0]
        self.p += 1
        if first < 0x80:
            return PyLong_FromLong(first)
        if first >= 0xE0:
            return PyLong_FromLong(<int8_t>first)
        if first & 0xE0 == 0xA0:
            return self._str(first & 0x1F)
        if first & 0xF0 == 0x80:
            return self._map(first & 0x0F, depth)
        if first & 0xF0 == 0x90:
            return self._array(first & 0x0F, depth)
        if first == 0xC0:
            return None
        if first == 0xC2:
            return False
        if first == 0xC3:
            return True
        if first == 0xCF or first == 0xD3 or first == 0xCB:
            self._need(8)
            bits = pl_get_be64(self.p)
            self.p += 8
            if first == 0xCF:
                return PyLong_FromUnsignedLongLong(bits)
            if first == 0xD3:
                return PyLong_FromLongLong(<int64_t>bits)
            memcpy(&number, &bits, 8)
            return PyFloat_FromDouble(number)
        if first == 0xCE:
            return PyLong_FromUnsignedLongLong(self._u32())
        if first == 0xCD:
            return PyLong_FromLong(self._u16())
        if first == 0xCC:
            return PyLong_FromLong(self._u8())
        if first == 0xD9:
            return self._str(self._u8())
        if first == 0xDA:
            return self._str(self._u16())
        if first == 0xDB:
            return self._str(self._u32())
        if first == 0xC4:
            return self._bin(self._u8())
        if first == 0xC5:
            return self._bin(self._u16())
        if first == 0xC6:
            return self._bin(self._u32())
        if first == 0xDC:
            return self._array(self._u16(), depth)
        if first == 0xDD:
            return self._array(self._u32(), depth)
        if first == 0xDE:
            return self._map(self._u16(), depth)
        if first == 0xDF:
            return self._map(self._u32(), depth)
        if first == 0xD0:
            return PyLong_FromLong(<int8_t>self._u8())
        if first == 0xD1:
            return PyLong_FromLong(<int16_t>self._u16())
        if first == 0xD2:
            return PyLong_FromLong(<int32_t>self._u32())
        if first == 0xCA:
            bits32 = self._u32()
            memcpy(&single, &bits32, 4)
            return PyFloat_FromDouble(single)
        raise ValueError(f"the type {first:#x} is not of this stream")

    cdef object _str(self, uint32_t n):
        cdef const unsigned char *data
        cdef uint32_t slot
        cdef object known
        self._need(n)
        data = self.p
        self.p += n
        if n > CACHED_STRING_MAX or n == 0:
            return PyUnicode_DecodeUTF8(<const char *>data, n, NULL)
        slot = pl_mix(data, n) & (STRINGS - 1)
        known = self.strings[slot]
        if known is not None and PyUnicode_GET_LENGTH(known) == n and not memcmp(PyUnicode_1BYTE_DATA(known), data, n):
            return known
        known = PyUnicode_DecodeUTF8(<const char *>data, n, NULL)
        if PyUnicode_IS_ASCII(known):
            self.strings[slot] = known
        return known

    cdef object _bin(self, uint32_t n):
        self._need(n)
        self.p += n
        return PyUnicode_DecodeUTF8(<const char *>self.p - n, n, b"surrogateescape")

    cdef list _array(self, uint32_t n, int depth):
        cdef uint32_t i
        cdef list result
        cdef object item
        if depth == NESTING_MAX:
            raise ValueError("nested too deeply")
        self._need(n)  # each item has a byte at least
        result = PyList_New(n)
        for i in range(n):
            # Slots that are not filled yet are NULL, which the list's deallocation allows for.
            item = self._value(depth + 1)
            Py_INCREF(item)
            PyList_SET_ITEM(result, i, item)
        return result

    cdef dict _map(self, uint32_t n, int depth):
        cdef Shape shape
        cdef dict result
        cdef const unsigned char *wire
        cdef const unsigned char *start = self.p
        cdef uint32_t i, at = 0, length
        cdef object value
        if depth == NESTING_MAX:
            raise ValueError("nested too deeply")
        self._need(2 * <uint64_t>n)
        shape = <Shape>self.shapes[n & (SHAPES - 1)]
        if shape is None or shape.n != n:
            return self._new_map(n, depth)
        wire = <const unsigned char *><const char *>shape.wire
        result = <dict>PyDict_Copy(shape.ready)
        for i in range(n):
            length = shape.ends[i] - at
            if self.end - self.p < <Py_ssize_t>length or memcmp(self.p, wire + at, length):
                self.p = start
                return self._new_map(n, depth)
            self.p += length
            at += length
            if self.p < self.end and self.p[0] == 0xC0:
                self.p += 1
                continue
            value = self._value(depth + 1)
            PyDict_SetItem(result, shape.keys[i], value)
        return result

    cdef dict _new_map(self, uint32_t n, int depth):
        """Read a map of another shape than the last one of its size, and remember its shape."""
        cdef dict result = {}
        cdef list keys = []
        cdef list wires = []
        cdef const unsigned char *start
        cdef unsigned char first
        cdef uint32_t i, at = 0
        cdef Shape shape
        for i in range(n):
            start = self.p
            self._need(1)
            first = self.p[0]
            if first & 0xE0 != 0xA0 and not 0xD9 <= first <= 0xDB:
                raise ValueError("a key is not a string")
            key = sys.intern(self._value(depth + 1))
            keys.append(key)
            wires.append((<const char *>start)[: self.p - start])
            result[key] = self._value(depth + 1)
        if len(result) == n and 0 < n < 256:
            shape = Shape.__new__(Shape)
            shape.ends = <uint32_t *>malloc(n * sizeof(uint32_t))
            if shape.ends == NULL:
                raise MemoryError
            for i in range(n):
                at += len(<bytes>wires[i])
                shape.ends[i] = at
            shape.n = n
            shape.keys = tuple(keys)
            shape.wire = b"".join(wires)
            shape.ready = dict.fromkeys(keys)
            self.shapes[n & (SHAPES - 1)] = shape
        return result
