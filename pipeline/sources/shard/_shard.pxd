"""The duty cycle of a shard; what it does is in _shard.pyx."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from pipeline.bus.frames._frame_writer cimport FrameEncoder
from pipeline.bus._push cimport FramePush
from pipeline.sources.ring._acks cimport ControlAcks, ack
from pipeline.sources.ring._drain cimport Columns
from pipeline.sources.ring._ring cimport Ring
from pipeline.sources.ring._shared cimport CpuStates


cdef struct part:
    Py_ssize_t ring  # index in the list of rings
    uint64_t from_pos


cdef class Shard:
    cdef readonly list rings
    cdef object _acks, _send
    cdef FramePush _push  # the same object as _send, if it can send without calling Python
    cdef ControlAcks _control  # the same object as _acks, if it can be read without calling Python
    cdef CpuStates _cpus
    cdef FrameEncoder _encoder
    cdef Columns _columns
    cdef uint64_t _max_bytes
    # The frames in the encoder: for each frame its ring and its first position. All of them leave as one message.
    cdef part *_parts
    cdef Py_ssize_t _part_count, _part_room
    cdef uint64_t _part_bytes
    cdef bint _is_waiting, _is_attesting
    cdef Py_ssize_t _first
    cdef readonly uint64_t frames_total, blocked_total, rewinds_total

    cdef int64_t cycle(self, int64_t budget) except -1
    cdef int64_t _work(self, int64_t budget) except -1
    cdef bint is_blocking(self) noexcept
    cdef bint has_caught_up(self) noexcept
    cdef bint has_applied(self) noexcept
    cdef bint has_unread(self) except -1
    cdef uint32_t audience(self) noexcept
    cdef uint32_t gather_us(self) noexcept
    cdef bint has_seen_faults(self) noexcept
    cpdef bint may_sleep(self) except -1
    cdef bint _read_ack(self, Ring ring, ack *answer) except -1
    cdef int _acknowledge(self, Ring ring) except -1
    cdef int _note(self, Py_ssize_t place, uint64_t from_pos) except -1
    cdef int _discard_message(self) except -1
    cdef int64_t _attest(self, int64_t max_records) except -1
    cdef int64_t _gather(self, Py_ssize_t place, int64_t max_records) except -1
    cpdef bint _has_news(self, Ring ring) except -1
    cpdef int64_t _watermark(self, Ring ring, uint64_t clock_ns) except? -2
    cdef bint _hand_over(self) except -1
    cdef bint _flush(self) except -1
    cdef void _empty(self) noexcept
    cpdef wake_up(self)
