"""Draining rings, as the compiled shard uses it."""

cimport cython
from libc.stdint cimport uint32_t, uint64_t

from pipeline.bus.frames._column cimport column
from pipeline.records._records cimport pl_header_any
from pipeline.sources.ring._shared cimport RingMap


cdef enum:
    #: Why `Columns.drain` stopped.
    STOP_CAUGHT_UP  # everything up to the producer's position is read
    STOP_BUSY  # the next record is still being written
    STOP_FULL  # the columns are full, or `max_records` records were read
    STOP_CORRUPT  # the kernel cannot have written this header; drain skipped to the producer's position


cdef class Columns:
    cdef object header_view, task_view, fork_view, exec_view, exit_view, blob_view
    cdef Py_buffer held[6]
    cdef int held_count
    cdef char *headers
    cdef char *tasks
    cdef char *forks
    cdef char *execs
    cdef char *exits
    cdef char *blobs
    cdef uint64_t max_bytes, max_records, max_var
    cdef readonly uint64_t count, var_bytes, discarded, malformed
    cdef uint64_t fork_count, exec_count, exit_count
    cdef readonly int stop

    cdef uint64_t read(self, RingMap ring, uint64_t cursor, uint64_t max_records) except? 0
    cdef void parts(self, column *columns) noexcept nogil

    # -- private --
    cdef object _room(self, uint64_t length)
    cdef char *_last(self)
    cdef uint64_t _drain(self, RingMap ring, uint64_t cursor, uint64_t max_records) noexcept nogil
    cdef uint64_t _append(
        self, const unsigned char *record, uint32_t size, uint64_t position, uint64_t room
    ) noexcept nogil
    @cython.final
    cdef uint64_t _leave_out(self) noexcept nogil
    @cython.final
    cdef uint64_t _append_header(self, pl_header_any *header, uint64_t room) noexcept nogil
    @cython.final
    cdef bint _append_body(self, const pl_header_any *header, const unsigned char *body) noexcept nogil
