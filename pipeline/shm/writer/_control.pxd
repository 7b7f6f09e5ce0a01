"""The writer's access to the control segment: state, ring positions, commits."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from pipeline.shm.layout._layout cimport PL_COUNTER_CAPACITY, pl_commit, pl_commit_ring, pl_control, pl_ring_ack
from pipeline.shm.writer._segment cimport Segment


cdef class ControlWriter:
    cdef pl_control *control
    cdef readonly bint is_read
    cdef uint64_t *counters  # the writer's own running counters; copied into a commit slot by `commit`

    cdef void show_gathering(self, uint32_t gather_us) noexcept nogil
    cdef void show_life(self) noexcept nogil

    # -- private state (see _control.pyx) ---------------------------------------------------------------------------
    cdef Segment control_segment
    cdef pl_ring_ack *acks
    cdef uint32_t *changes  # the ring of changed rows
    cdef uint64_t own_counters[PL_COUNTER_CAPACITY]
    cdef int lock_fd
    cdef object directory_path

    cdef void map_control(self, Segment segment) noexcept
    cdef pl_commit *slot(self, unsigned int index) noexcept nogil
    cdef pl_commit_ring *slot_rings(self, unsigned int index) noexcept nogil
    cdef void gauges(self, pl_commit *slot) noexcept nogil
    cdef void _commit(
        self, uint64_t watermark, const uint64_t *pos, const uint64_t *ring_watermark, const uint64_t *topics,
        uint32_t topic_count,
    ) noexcept nogil
    cdef void _acknowledge(self, const uint64_t *received_pos, const uint8_t *stalled) noexcept nogil
