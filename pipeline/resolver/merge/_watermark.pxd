"""State of the rings' watermarks; see _watermark.pyx."""

from libc.stdint cimport uint8_t, uint64_t


cdef class RingWatermarks:
    cdef readonly object seen, stalled
    cdef readonly uint64_t stalls
    cdef readonly bint complete
    cdef uint64_t[::1] received, applied, seen_view, moved_pos, moved_ns, behind_ns, times
    cdef uint64_t[:, ::1] samples
    cdef uint8_t[::1] stalled_view, still, given_up, behind
    cdef uint64_t stall_ns, hold_ns, slack_ns
    cdef int rings, sample_count

    cdef void begin(self, uint64_t now) noexcept nogil
    cdef uint64_t observe(self, uint64_t now, const uint64_t *producer, bint is_crowded) noexcept nogil
    cdef void applied_until(self, uint64_t frontier, const uint64_t *limits, uint64_t *watermarks) noexcept nogil
    cdef bint is_behind(self) noexcept nogil
    cdef void _note(self, uint64_t now, const uint64_t *producer) noexcept nogil
    cdef void _see(self, int r, uint64_t time) noexcept nogil
    cdef void _move_sample(self, int to, int source) noexcept nogil
    cdef uint64_t _pass_over(self, uint64_t now, bint is_crowded) noexcept nogil
