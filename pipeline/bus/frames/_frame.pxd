"""What compiled readers need of a frame: where its columns lie. Everything else is in _frame.pyx."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from pipeline.bus.frames._column cimport column


cdef class Frame:
    cdef readonly uint32_t ring
    cdef readonly uint64_t frame_seq, from_pos, to_pos, malformed
    cdef readonly uint32_t count
    cdef readonly str source
    cdef readonly dict lost
    cdef uint64_t watermark
    cdef bint has_watermark
    cdef const unsigned char *boot
    cdef column heads, tasks, forks, execs, exits, strings
    cdef column task_of, ns_pids  # empty where `tasks` has one TASK for each record
    cdef column digests  # u8 for each of `execs`, of its strings before something was hidden, 0: nothing was; or empty
    cdef object message  # what the columns lie in
    cdef Py_buffer buffer
    cdef bint is_held
    cdef object owners  # of columns that are not in the message: column number -> bytes

    cdef int hold(self, object message) except -1
    cdef object view(self, uint32_t number, const column *where)
    cdef Frame copy(self)


cpdef list decode_all(object message)
