"""The merger for the resolver's turn; what it does is in _merger.pyx."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from pipeline.bus.frames._frame cimport Frame
from pipeline.resolver.merge._queues cimport Batch, RingQueues
from pipeline.resolver.merge._watermark cimport RingWatermarks
from pipeline.shm.writer._control cimport ControlWriter


cdef class Merger:
    cdef readonly uint32_t ring_count
    cdef readonly object received_pos, applied_pos, ring_watermark, stalled
    cdef readonly uint64_t watermark
    cdef uint64_t stall_ns, hold_ns, slack_ns, max_pending
    cdef readonly bint timed_by_sender
    cdef RingWatermarks _watermarks
    cdef RingQueues _queues
    cdef uint64_t[::1] _received, _applied, _marks, _seen, _limits, _spoke_ns, _malformed
    cdef uint8_t[::1] _speaking
    cdef uint64_t _limit, _now
    cdef bint _is_complete
    cdef dict _rewind_asked
    cdef list _rewinds
    # Counted since the last `take_counters`; `_reported_`: totals of others that it has returned.
    cdef uint64_t malformed, frames_gap, frames_duplicate, _reported_stalls, _reported_late, _reported_replayed

    cpdef add(self, Frame frame)
    cpdef Batch take(self, uint32_t max_events)
    cpdef done(self, Batch batch)
    cdef uint64_t observe(self, uint64_t now_boot_ns, const uint64_t *producer_pos) noexcept nogil
    cdef int commit_to(self, ControlWriter tables, const uint64_t *topic_seq) except -1
    cdef bint lags(self) noexcept nogil
    cdef uint64_t due(self) noexcept nogil

    # -- private --
    cdef uint64_t _advance_by_sender(self, uint64_t now) noexcept nogil
    cdef void _applied_until(self, uint64_t frontier, const uint64_t *limits) noexcept nogil
    cdef bint _has_news(self) noexcept nogil
