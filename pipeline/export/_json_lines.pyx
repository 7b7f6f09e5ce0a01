"""JSON of many values, faster than one encoder call for each process: the same text as `pipeline.export.json.dumps`."""

from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.long cimport PyLong_CheckExact
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_CheckExact
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy


cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL
    bint PyUnicode_IS_ASCII(object text)
    PyObject *PyList_GET_ITEM(object values, Py_ssize_t i)
    long long PyLong_AsLongLongAndOverflow(object number, int *overflow) except? -1


cdef struct writer:
    char *data
    size_t used, room

# A key with its values as text, in front of each a comma and the key.
cdef struct column:
    writer text
    uint32_t *ends  # of each text; the first is that of an empty one in front
    const int32_t *codes  # the number of each row's text; NULL: that of the row
    int32_t *own_codes
    uint32_t texts

cdef bytes _pairs = b"".join([b"%02d" % number for number in range(100)])
cdef const char *DIGIT_PAIRS = PyBytes_AS_STRING(_pairs)


cdef inline int _reserve(writer *to, size_t more) except -1:
    cdef char *grown
    if to.used + more <= to.room:
        return 0
    grown = <char *>realloc(to.data, (to.used + more) * 2 + 4096)
    if grown == NULL:
        raise MemoryError
    to.data, to.room = grown, (to.used + more) * 2 + 4096
    return 0


cdef inline int _add(writer *to, const char *data, size_t n) except -1:
    _reserve(to, n)
    memcpy(to.data + to.used, data, n)
    to.used += n
    return 0


cdef int _add_number(writer *to, long long number) except -1:
    cdef char digits[24]
    cdef int at = 24
    cdef uint64_t left = <uint64_t>number if number >= 0 else 0 - <uint64_t>number
    cdef uint32_t pair
    while left >= 100:
        pair = <uint32_t>(left % 100)
        left //= 100
        at -= 2
        memcpy(digits + at, &DIGIT_PAIRS[2 * pair], 2)
    if left >= 10:
        at -= 2
        memcpy(digits + at, &DIGIT_PAIRS[2 * left], 2)
    else:
        at -= 1
        digits[at] = <char>(48 + left)
    if number < 0:
        at -= 1
        digits[at] = 45
    return _add(to, digits + at, 24 - at)


cdef int _add_value(writer *to, object value, object encode) except -1:
    """Append the JSON of a value. Numbers, ASCII text and lists of it are written here, the rest by `encode`."""
    cdef const char *text
    cdef Py_ssize_t n, i
    cdef int overflow = 0
    cdef long long number
    cdef bytes other
    cdef bint is_later = False
    if value is None:
        return _add(to, b"null", 4)
    if value is True:
        return _add(to, b"true", 4)
    if value is False:
        return _add(to, b"false", 5)
    if PyLong_CheckExact(value):
        number = PyLong_AsLongLongAndOverflow(value, &overflow)
        if overflow == 0:
            return _add_number(to, number)
    elif PyUnicode_CheckExact(value) and PyUnicode_IS_ASCII(value):
        text = PyUnicode_AsUTF8AndSize(value, &n)
        for i in range(n):
            if text[i] < 32 or text[i] > 126 or text[i] == 34 or text[i] == 92:  # control characters, " and \
                break
        else:
            _reserve(to, n + 2)
            to.data[to.used] = 34
            memcpy(to.data + to.used + 1, text, n)
            to.data[to.used + 1 + n] = 34
            to.used += n + 2
            return 0
    elif type(value) is list or type(value) is tuple:
        _add(to, b"[", 1)
        for other_value in value:
            if is_later:
                _add(to, b", ", 2)
            is_later = True
            _add_value(to, other_value, encode)
        return _add(to, b"]", 1)
    other = (<str>encode(value)).encode("ascii")
    return _add(to, PyBytes_AS_STRING(other), PyBytes_GET_SIZE(other))


cdef int _fill(column *to, bytes name, object values, Py_ssize_t count, object encode) except -1:
    """Make the texts of a column."""
    cdef const char *key = PyBytes_AS_STRING(name)
    cdef Py_ssize_t key_bytes = PyBytes_GET_SIZE(name), n, i
    cdef list found
    cdef PyObject *each
    if type(values) is tuple:
        if len(<bytearray>(<tuple>values)[0]) < count * <Py_ssize_t>sizeof(int32_t):
            raise ValueError(f"fewer codes than {count} rows")
        to.codes = <const int32_t *>PyByteArray_AS_STRING(<bytearray>(<tuple>values)[0])
        found = (<tuple>values)[1]
    else:
        found = values
        if len(found) < count:
            raise ValueError(f"{len(found)} values for {count} rows")
        # A column of flags has three texts.
        to.own_codes = <int32_t *>malloc(max(1, count) * sizeof(int32_t))
        if to.own_codes == NULL:
            raise MemoryError
        for i in range(count):
            each = PyList_GET_ITEM(found, i)
            if each == <PyObject *>False:
                to.own_codes[i] = 0
            elif each == <PyObject *>None:
                to.own_codes[i] = 1
            elif each == <PyObject *>True:
                to.own_codes[i] = 2
            else:
                break
        else:
            to.codes, found = to.own_codes, [False, None, True]
    n = len(found)
    to.ends = <uint32_t *>malloc((n + 1) * sizeof(uint32_t))
    if to.ends == NULL:
        raise MemoryError
    to.ends[0] = 0
    to.texts = <uint32_t>n
    for i in range(n):
        _add(&to.text, key, key_bytes)
        _add_value(&to.text, found[i], encode)
        if to.text.used > 0xFFFFFFFF:
            raise OverflowError("the values of a field have more than 4 GiB")
        to.ends[i + 1] = <uint32_t>to.text.used
    return 0


def lines(names, columns, Py_ssize_t count, encode, str separator="\n"):
    """Return JSON objects as one text: one for each row.

    Args:
        names: the keys.
        columns: for each key the values: a list with one for each row, or (codes, values) with an int32 for each row.
        count: number of rows.
        encode: returns the JSON of a value, as ASCII text.
        separator: ASCII text between the objects.

    Returns:
        bytes, all of them ASCII.
    """
    cdef Py_ssize_t width = len(names), number = 0, row
    cdef bytes between = separator.encode("ascii"), made
    cdef Py_ssize_t between_bytes = len(between), size
    cdef column *each
    cdef column *all_columns = <column *>calloc(max(1, width), sizeof(column))
    cdef uint32_t code, begin, n
    cdef char *to
    if all_columns == NULL:
        raise MemoryError
    try:
        size = count * (2 if width == 0 else 1) + max(0, count - 1) * between_bytes
        for name, values in zip(names, columns, strict=True):
            each = &all_columns[number]
            _fill(each, ((", " if number else "{") + encode(name) + ": ").encode("ascii"), values, count, encode)
            for row in range(count):
                code = each.codes[row] if each.codes != NULL else <uint32_t>row
                if code >= each.texts:
                    raise ValueError(f"there is no value {code}, which row {row} has")
                size += each.ends[code + 1] - each.ends[code]
            number += 1
        made = PyBytes_FromStringAndSize(NULL, size)
        to = PyBytes_AS_STRING(made)
        for row in range(count):
            if row:
                memcpy(to, PyBytes_AS_STRING(between), between_bytes)
                to += between_bytes
            if width == 0:
                to[0] = 123  # {
                to += 1
            for number in range(width):
                each = &all_columns[number]
                code = each.codes[row] if each.codes != NULL else <uint32_t>row
                begin = each.ends[code]
                n = each.ends[code + 1] - begin
                memcpy(to, each.text.data + begin, n)
                to += n
            to[0] = 125  # }
            to += 1
        return made
    finally:
        for number in range(width):
            free(all_columns[number].text.data)
            free(all_columns[number].ends)
            free(all_columns[number].own_codes)
        free(all_columns)
