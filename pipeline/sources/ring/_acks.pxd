"""The control segment's acknowledgements, as the compiled shard reads them; see _acks.pyx."""

from libc.stdint cimport uint32_t, uint64_t

from pipeline.sources.ring._shared cimport ControlView


cdef struct ack:
    uint64_t applied_pos
    uint64_t wanted_pos
    uint64_t file  # control files opened up to this one: each file starts its count of rewinds again
    uint64_t rewind_seq


cdef class ControlAcks:
    cdef object _path, _clock, _file
    cdef uint64_t _capture_id, _opened
    cdef ControlView _view
    cdef tuple _identity
    cdef double _due
    cdef readonly uint64_t reopened_total

    cdef double _now(self) except -1.0
    cdef int follow(self) except -1
    cdef int check(self, bint is_busy) except -1
    cdef int _check_file(self) except -1
    cdef int _open(self, int fd, object status) except -1
    cdef uint32_t audience(self) noexcept
    cdef uint32_t gather_us(self) noexcept
    cdef bint read(self, uint32_t number, ack *found) noexcept
