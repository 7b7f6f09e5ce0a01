"""CRC-32 as `zlib.crc32` computes it, several times as fast where the CPU multiplies without carry."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint8_t, uint32_t


cdef extern from "crc32.h":
    void pl_crc32_prepare() noexcept nogil
    int pl_crc32_folds() noexcept nogil
    uint32_t pl_crc32_copy(uint8_t *to, uint32_t value, const void *data, size_t n, int folds) noexcept nogil
    uint32_t pl_crc32(uint32_t value, const void *data, size_t n, int folds) noexcept nogil

pl_crc32_prepare()
cdef int _FOLDS = pl_crc32_folds()


def crc32(data, uint32_t value=0, *, bint by_table=False) -> int:
    """Return the checksum of a bytes-like object.

    Args:
        data: a bytes-like object.
        value: checksum of what comes before it.
        by_table: compute it as on a CPU without the instruction; for tests.
    """
    cdef Py_buffer buffer
    cdef uint32_t found
    PyObject_GetBuffer(data, &buffer, PyBUF_SIMPLE)
    with nogil:
        found = pl_crc32(value, buffer.buf, <size_t>buffer.len, _FOLDS and not by_table)
    PyBuffer_Release(&buffer)
    return found


def copy_crc32(target, Py_ssize_t at, data, uint32_t value=0, *, bint by_table=False) -> int:
    """Copy a bytes-like object to `at` in a writable one, and return its checksum, as `crc32` does.

    Raises:
        ValueError: there is no room.
    """
    cdef Py_buffer source, room
    cdef uint32_t found
    PyObject_GetBuffer(data, &source, PyBUF_SIMPLE)
    try:
        PyObject_GetBuffer(target, &room, PyBUF_WRITABLE)
        try:
            if at < 0 or source.len > room.len or at > room.len - source.len:
                raise ValueError("no room for the copy")
            with nogil:
                found = pl_crc32_copy(
                    <uint8_t *>room.buf + at, value, source.buf, <size_t>source.len, _FOLDS and not by_table
                )
        finally:
            PyBuffer_Release(&room)
    finally:
        PyBuffer_Release(&source)
    return found
