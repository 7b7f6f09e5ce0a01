"""Decode the body of a message into dicts: a msgpack decoder that is optimised for the shape of events.

An event resembles the event before it: it has the same keys in the same order, and most values are equal too (ids,
namespaces, cgroup, ancestors, everything that is nil). For each place where a map occurs, a decoder therefore keeps the
last map: its keys, its bytes, and the resulting dict. The bytes of a new map are compared with the last ones in runs,
from one difference to the next. The new map is a copy of the last dict, in which only the fields that differ are
replaced. Only immutable values are reused: text, numbers, booleans, nil. Lists and maps are created for each event. If
their bytes are those of the last event again, they are copied from a sample. Ancestors are compared by their distance
from the end of the list, because events share the distant ancestors.

Short ASCII strings come from a cache, so a thousand events of one build share one copy of its path. bench/publish.py
measures the decoder.

Differences from a general unpacker: bin becomes str with surrogate escapes (the stream's form of text that is not
UTF-8), extension types are rejected, and keys must be str. The bytes are not trusted: every length is checked against
the remaining bytes, and nesting against NESTING_MAX. Every event has a number as `seq` and an integer as
`order`; the types of other fields are those that the publisher sent.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.dict cimport PyDict_Copy, PyDict_SetItem
from cpython.float cimport PyFloat_FromDouble
from cpython.list cimport PyList_New, PyList_SET_ITEM
from cpython.long cimport PyLong_AsUnsignedLongLong, PyLong_FromLongLong, PyLong_FromUnsignedLongLong
from cpython.ref cimport Py_INCREF
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stddef cimport ptrdiff_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcmp, memcpy

from pipeline.bus.frames._msgpack cimport (
    PL_MP_ARRAY, PL_MP_BIN, PL_MP_BOOL, PL_MP_CUT, PL_MP_DOUBLE, PL_MP_FLOAT, PL_MP_INT, PL_MP_MAP, PL_MP_NIL,
    PL_MP_STR, PL_MP_UINT, pl_read_value, pl_value,
)

import sys

#: Events that a subscriber makes, so that no publisher may send them.
cdef frozenset special = frozenset({"snapshot", "missed", "unwatched"})


cdef extern from *:
    """
    #ifdef __SSE2__
    #include <emmintrin.h>
    #endif

    /* Good enough for a cache: deliberate collisions only make the cache useless. */
    static inline uint64_t pl_mix(const char *p, uint64_t n)
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

    /* Return how many of the first n bytes are equal. */
    static inline uint64_t pl_same(const char *a, const char *b, uint64_t n)
    {
        uint64_t i = 0, x, y;

    #ifdef __SSE2__
        for (; i + 16 <= n; i += 16) {
            __m128i v = _mm_loadu_si128((const __m128i *)(a + i)), w = _mm_loadu_si128((const __m128i *)(b + i));
            unsigned int differs = (unsigned int)_mm_movemask_epi8(_mm_cmpeq_epi8(v, w)) ^ 0xffff;

            if (differs)
                return i + (unsigned int)__builtin_ctz(differs);
        }
    #endif
        for (; i + 8 <= n; i += 8) {
            memcpy(&x, a + i, 8);
            memcpy(&y, b + i, 8);
            if (x != y)
                break;
        }
        while (i < n && a[i] == b[i])
            i++;
        return i;
    }
    """
    uint64_t pl_same(const char *a, const char *b, uint64_t n) noexcept nogil
    uint64_t pl_mix(const char *p, uint64_t n) noexcept nogil


cdef extern from "Python.h":
    bint PyUnicode_IS_ASCII(object text)
    const unsigned char *PyUnicode_1BYTE_DATA(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)


cdef enum:
    NESTING_MAX = 16
    STRINGS = 4096
    CACHED_STRING_MAX = 96
    # Limits of the memory for shapes, whatever a peer sends: the last event of each number of fields, the maps inside
    # an event by their place, the fields of each, and their bytes.
    EVENT_SHAPES = 128
    EVENT_FIELDS_MAX = 255
    INNER_SHAPES = 1024
    INNER_FIELDS_MAX = 32
    INNER_PLACES = 8  # for a field that is a list: one place for each of its last items; earlier items share one
    KEY_MAX_BYTES = 128
    WIRE_MAX_BYTES = 32768
    NO_PLACE = -1
    NO_FIELDS = 0xFFFFFFFF


cdef struct Field:
    uint32_t length  # of key and value
    uint32_t key_bytes
    bint is_fixed  # the value is immutable, so events with the same bytes can share it


cdef class Shape:
    """The last map at one place: its fields as received, and the dict that was decoded from them."""

    cdef uint32_t n  # NO_FIELDS: no map may be compared with this one
    cdef uint32_t wire_bytes
    cdef const char *wire  # all fields, in the body that is being read or in `kept`
    cdef bint is_lent  # it is in the body
    cdef char *kept
    cdef uint32_t kept_bytes
    cdef tuple keys
    cdef Field *fields
    cdef dict last
    # Copies of lists and maps that came twice in a row, which no event shares; False: none is possible.
    cdef list samples

    def __dealloc__(self):
        free(self.fields)
        free(self.kept)

    cdef void keep_wire(self) noexcept:
        cdef char *larger
        self.is_lent = False
        if self.n == NO_FIELDS:
            return
        if self.kept_bytes < self.wire_bytes:
            larger = <char *>realloc(self.kept, self.wire_bytes)
            if larger == NULL:
                self.n = NO_FIELDS
                return
            self.kept = larger
            self.kept_bytes = self.wire_bytes
        memcpy(self.kept, self.wire, self.wire_bytes)
        self.wire = self.kept


cdef bint is_flat(object value) except -1:
    """Return whether `flat_copy` copies all lists and maps in a list or a map."""
    cdef object item, inner
    for item in ((value,) if type(value) is dict else <list>value):
        if type(item) is list:
            return False
        if type(item) is dict:
            for inner in (<dict>item).values():
                if type(inner) is list or type(inner) is dict:
                    return False
    return True


cdef object flat_copy(object value):
    """Return a copy of a map, or of a list and the maps in it."""
    cdef Py_ssize_t i, n
    cdef list result
    cdef object item
    if type(value) is dict:
        return PyDict_Copy(value)
    n = len(<list>value)
    result = PyList_New(n)
    for i in range(n):
        item = (<list>value)[i]
        if type(item) is dict:
            item = PyDict_Copy(item)
        Py_INCREF(item)
        PyList_SET_ITEM(result, i, item)
    return result


def are_kinds(list events) -> bool:
    """Return whether all events say what they are, and none claims to be one that only subscribers make."""
    cdef dict event
    cdef object kind
    for event in events:
        kind = event.get("event")
        if type(kind) is not str or kind in special:
            return False
    return True


cdef bint is_number(object value):
    """Return whether an event can have this number. Numbers begin at 1, and the one behind it also has 64 bits."""
    cdef uint64_t number
    if type(value) is not int:
        return False
    try:
        number = PyLong_AsUnsignedLongLong(value)
    except OverflowError:
        return False
    return number != 0 and number + 1 != 0


cdef class Decoder:
    """Decodes the bodies of one stream. It keeps the last maps and strings, so use it from one thread at a time."""

    cdef const char *p
    cdef const char *end
    cdef list events
    cdef list inner
    cdef list strings
    cdef list lent  # shapes that point into the body that is being read

    def __init__(self):
        self.lent = []
        self.events = [None] * EVENT_SHAPES
        self.inner = [None] * INNER_SHAPES
        self.strings = [None] * STRINGS

    def decode(self, body, Py_ssize_t count) -> list:
        """Return the events of a body.

        Args:
            body: the bytes of `count` msgpack maps, one after the other.
            count: number of events.

        Raises:
            ValueError: the body is not `count` maps, or an event has no number from 1 to 2^64 - 2 as `seq`, or no
                integer `order`.
        """
        cdef Py_buffer view
        cdef Py_ssize_t i
        cdef list events
        cdef dict event
        PyObject_GetBuffer(body, &view, PyBUF_SIMPLE)
        try:
            if not 0 <= count <= view.len:
                raise ValueError("the body is shorter than its count of events")
            self.p = <const char *>view.buf
            self.end = self.p + view.len
            events = []
            for i in range(count):
                event = self._event()
                if not is_number(event.get("seq")) or type(event.get("order")) is not int:
                    raise ValueError("an event has no number in range as 'seq', or no integer 'order'")
                events.append(event)
            if self.p != self.end:
                raise ValueError("there are bytes after the last event")
            return events
        finally:
            self._take_back()
            self.p = self.end = NULL
            PyBuffer_Release(&view)

    cdef dict _event(self):
        cdef pl_value found
        self._read_value(&found)
        if found.kind != PL_MP_MAP:
            raise ValueError("an event is not a map")
        return self._map(found.number, 0, NO_PLACE)

    # -- values --------------------------------------------------------------------------------------------------------

    cdef inline int _read_value(self, pl_value *found) except -1:
        """Read a value, but not the items of an array or a map."""
        cdef const char *end = pl_read_value(self.p, self.end, found)
        if end == NULL:
            if found.kind == PL_MP_CUT:
                raise ValueError("the body is truncated")
            raise ValueError("0xc1 is not a valid msgpack type")
        self.p = end
        return 0

    cdef inline int _need(self, uint64_t n) except -1:
        if <uint64_t>(self.end - self.p) < n:
            raise ValueError("the body is truncated")
        return 0

    cdef object _value(self, int depth, int place):
        """Read a value. `place` is the index at which a map, or the maps of a list, are remembered; NO_PLACE: not."""
        cdef pl_value found
        cdef uint32_t bits
        cdef double number
        cdef float single
        self._read_value(&found)
        if found.kind == PL_MP_UINT:
            return PyLong_FromUnsignedLongLong(found.number)
        if found.kind == PL_MP_STR:
            return self._str(&found)
        if found.kind == PL_MP_NIL:
            return None
        if found.kind == PL_MP_BOOL:
            return found.number != 0
        if found.kind == PL_MP_MAP:
            return self._map(found.number, depth, place)
        if found.kind == PL_MP_ARRAY:
            return self._array(found.number, depth, place)
        if found.kind == PL_MP_INT:
            return PyLong_FromLongLong(<int64_t>found.number)
        if found.kind == PL_MP_BIN:
            return PyUnicode_DecodeUTF8(found.at, <Py_ssize_t>found.number, b"surrogateescape")
        if found.kind == PL_MP_DOUBLE:
            memcpy(&number, &found.number, 8)
            return PyFloat_FromDouble(number)
        if found.kind == PL_MP_FLOAT:
            bits = <uint32_t>found.number
            memcpy(&single, &bits, 4)
            return PyFloat_FromDouble(single)
        raise ValueError("a msgpack extension type is not used in this stream")

    cdef object _str(self, const pl_value *found):
        cdef uint64_t n = found.number
        cdef uint32_t slot
        cdef object known
        if n > CACHED_STRING_MAX or n == 0:
            return PyUnicode_DecodeUTF8(found.at, <Py_ssize_t>n, NULL)
        slot = pl_mix(found.at, n) & (STRINGS - 1)
        known = self.strings[slot]
        if (
            known is not None and <uint64_t>PyUnicode_GET_LENGTH(known) == n
            and not memcmp(PyUnicode_1BYTE_DATA(known), found.at, n)
        ):
            return known
        known = PyUnicode_DecodeUTF8(found.at, <Py_ssize_t>n, NULL)
        if PyUnicode_IS_ASCII(known):
            self.strings[slot] = known
        return known

    cdef list _array(self, uint64_t n, int depth, int place):
        cdef uint64_t i
        cdef bint is_placed = depth == 1 and place >= 0
        cdef list result
        cdef object item
        if depth == NESTING_MAX:
            raise ValueError("nested too deeply")
        self._need(n)  # each item has at least one byte
        result = PyList_New(<Py_ssize_t>n)
        for i in range(n):
            # If an item fails, the remaining slots are NULL, which the list's deallocation supports.
            item = self._value(
                depth + 1, place + <int>min(n - 1 - i, <uint64_t>INNER_PLACES - 1) if is_placed else NO_PLACE
            )
            Py_INCREF(item)
            PyList_SET_ITEM(result, i, item)
        return result

    cdef dict _map(self, uint64_t n, int depth, int place):
        cdef Shape shape
        cdef Field *field
        cdef const char *start = self.p
        cdef const char *old
        cdef uint32_t i
        cdef uint64_t same  # bytes from here on that are equal to those of the last map
        if depth == NESTING_MAX:
            raise ValueError("nested too deeply")
        self._need(2 * n)
        if depth == 0:
            shape = <Shape>self.events[n & (EVENT_SHAPES - 1)]
        elif place >= 0:
            shape = <Shape>self.inner[place]
        else:
            shape = None
        if shape is None or shape.n != n:
            return self._new_map(n, depth, place)
        shape.n = NO_FIELDS  # until the map is read, because its fields and its dict are of two maps meanwhile
        old = shape.wire
        same = pl_same(old, self.p, min(shape.wire_bytes, <uint64_t>(self.end - self.p)))
        for i in range(n):
            field = &shape.fields[i]
            if field.length <= same:
                same -= field.length
                if field.is_fixed:
                    self.p += field.length
                else:
                    PyDict_SetItem(shape.last, shape.keys[i], self._again(shape, i, depth))
                old += field.length
                continue
            if same < field.key_bytes:
                self.p = start
                return self._new_map(n, depth, place)
            old += field.length
            PyDict_SetItem(shape.last, shape.keys[i], self._field(shape, i, depth))
            same = <uint64_t>(shape.wire + shape.wire_bytes - old)
            same = pl_same(old, self.p, min(same, <uint64_t>(self.end - self.p)))
        self._lend(shape, start, <uint32_t>n)
        # The copy shares no list and no map with an earlier event: such fields are created each time.
        return <dict>PyDict_Copy(shape.last)

    cdef object _field(self, Shape shape, uint32_t i, int depth):
        """Read field number i behind its key, and note its length and whether the value is immutable."""
        cdef Field *field = &shape.fields[i]
        cdef const char *start = self.p
        cdef object value
        self.p += field.key_bytes
        value = self._value(depth + 1, (i * INNER_PLACES) & (INNER_SHAPES - 1) if depth == 0 else NO_PLACE)
        field.length = <uint32_t>min(self.p - start, <ptrdiff_t>WIRE_MAX_BYTES + 1)
        field.is_fixed = type(value) is not list and type(value) is not dict
        if shape.samples is not None:
            shape.samples[i] = None
        return value

    cdef object _again(self, Shape shape, uint32_t i, int depth):
        """Read a list or a map with the same bytes as the last one. From the second repetition on, copy it instead."""
        cdef Field *field = &shape.fields[i]
        cdef object value, sample
        if shape.samples is None:
            shape.samples = [None] * len(shape.keys)
        sample = shape.samples[i]
        if sample is None or sample is False:
            value = self._field(shape, i, depth)
            shape.samples[i] = False if sample is False or not is_flat(value) else flat_copy(value)
            return value
        self.p += field.length
        return flat_copy(sample)

    cdef dict _new_map(self, uint64_t n, int depth, int place):
        """Read a map with other keys than the last map at its place, and remember the new one."""
        cdef dict result = {}
        cdef const char *begin = self.p
        cdef const char *start
        cdef pl_value name
        cdef uint32_t i
        cdef Shape shape = None
        cdef bint is_kept
        if 0 < n <= <uint64_t>(EVENT_FIELDS_MAX if depth == 0 else INNER_FIELDS_MAX) and (depth == 0 or place >= 0):
            shape = Shape.__new__(Shape)
            shape.n = NO_FIELDS
            shape.fields = <Field *>calloc(n, sizeof(Field))
            if shape.fields == NULL:
                raise MemoryError
        is_kept = shape is not None
        for i in range(n):
            start = self.p
            self._read_value(&name)
            if name.kind != PL_MP_STR:
                raise ValueError("a key is not a string")
            key = sys.intern(self._str(&name))
            is_kept = is_kept and self.p - start <= KEY_MAX_BYTES
            if is_kept:
                shape.fields[i].key_bytes = <uint32_t>(self.p - start)
                self.p = start
                result[key] = self._field(shape, i, depth)
            else:
                result[key] = self._value(depth + 1, NO_PLACE)
        if is_kept and <uint64_t>len(result) == n:
            shape.keys = tuple(result)
            shape.last = PyDict_Copy(result)
            self._lend(shape, begin, <uint32_t>n)
            if depth == 0:
                self.events[n & (EVENT_SHAPES - 1)] = shape
            else:
                self.inner[place] = shape
        return result

    cdef int _lend(self, Shape shape, const char *start, uint32_t n) except -1:
        """Let the fields of a shape be those from `start` on, in the body that is being read."""
        if self.p - start > WIRE_MAX_BYTES:
            return 0
        shape.n = n
        shape.wire = start
        shape.wire_bytes = <uint32_t>(self.p - start)
        if not shape.is_lent:
            shape.is_lent = True
            self.lent.append(shape)
        return 0

    cdef void _take_back(self) noexcept:
        """Let shapes copy what they point to in the body, because the body is given back to the caller."""
        cdef Shape shape
        for shape in self.lent:
            shape.keep_wire()
        self.lent.clear()
