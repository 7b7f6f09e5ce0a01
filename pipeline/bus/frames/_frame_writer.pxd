"""The frame encoder, for compiled senders; see _frame_writer.pyx."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from pipeline.bus.frames._column cimport column


cpdef bytes packed_counts(dict lost)


cdef class FrameEncoder:
    cdef bytes boot_id, source
    cdef uint64_t capture_id
    cdef dict lost  # ring -> (map of counts of the last added frame, the same packed)
    cdef char *data  # the message
    cdef uint64_t used, room
    cdef uint32_t *firsts  # for each distinct TASK of the frame: the first record that has it
    cdef uint16_t *task_of  # for each record: index of its TASK among the distinct ones
    cdef uint64_t records_room

    cdef int put(
        self, uint64_t ring, uint64_t seq, uint64_t from_pos, uint64_t to_pos, uint64_t count, bytes lost,
        const column *columns, uint64_t malformed, bint has_watermark, uint64_t watermark_boot_ns,
    ) except -1

    # -- private --
    cdef int _make_room(self, uint64_t need) except -1
    cdef uint32_t _distinct(self, const column *tasks, uint64_t count) except? 0xFFFFFFFF
    cdef char *_put_tasks(self, char *p, const column *tasks, uint64_t count, uint32_t distinct) noexcept nogil
