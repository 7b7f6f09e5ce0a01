"""The columns of a frame, for compiled readers; see _frame.pyx."""

from libc.stdint cimport uint32_t, uint64_t

from pipeline.bus.frames._column cimport column


cdef class Frame:
    cdef readonly uint32_t ring
    cdef readonly uint64_t frame_seq, from_pos, to_pos, malformed, capture_id
    cdef readonly uint32_t count
    cdef readonly str source
    cdef readonly dict lost
    cdef uint64_t watermark
    cdef bint has_watermark
    cdef const unsigned char *boot
    cdef column headers, tasks, forks, execs, exits, strings
    cdef column task_of, ns_pids  # empty if `tasks` has one TASK for each record
    # A u64 for each of `execs`: digest of its strings before a part was concealed; 0: nothing was concealed. Or empty.
    cdef column digests
    cdef object message  # the buffer that contains the columns
    cdef Py_buffer buffer
    cdef bint is_held
    cdef object owners  # column number -> bytes, for columns that are not in the message

    cdef int hold(self, object message) except -1
    cdef object view(self, uint32_t number, const column *where)
    cdef Frame copy(self)


cpdef list decode_all(object message)
