"""The events of a batch, and the columns of frames to which they refer. See _queues.pyx."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from pipeline.bus.frames._frame cimport Frame


cdef struct pending_event:
    uint64_t time
    uint64_t seq  # ring_seq
    uint32_t frame  # its number
    uint32_t event  # position in the frame
    uint32_t body  # position in the body column of its kind; unused where it has none
    uint32_t var  # offset of its strings in the blob


cdef struct columns:
    const char *header
    const char *task
    const unsigned char *task_of  # number of each record's TASK, 2 bytes; NULL: each has its own
    const unsigned char *ns_pid  # pid in its innermost namespace, 4 bytes; NULL: it is in the TASK
    const char *fork
    const char *exec
    const char *exit
    const char *blob
    const unsigned char *digests  # of each EXEC's strings before something was hidden, 8 bytes; NULL: nothing was


cdef class Batch


cdef class RingQueues:
    cdef columns *columns  # by number of the frame
    cdef readonly list frames  # by number; None where a number is free
    cdef readonly uint32_t ring_count
    cdef readonly uint64_t pending  # events that no batch has taken yet
    cdef readonly uint64_t frontier  # events that come with an earlier time are late
    cdef readonly uint64_t late_total
    cdef readonly uint64_t replayed_total
    cdef void *rings
    cdef void *states
    cdef uint32_t frame_capacity, free_number
    cdef void *heap  # of the rings that have events, while a batch is made
    cdef bint outstanding

    cpdef int64_t add(self, Frame frame, uint64_t from_pos) except -1
    cpdef void raise_frontier(self, uint64_t time_boot_ns) noexcept
    cpdef Batch take(self, uint64_t limit_boot_ns, uint32_t max_events, bint complete=*)
    cpdef done(self, Batch batch)
    cdef uint64_t applied(self, uint32_t ring) noexcept nogil
    cdef int _grow_frames(self) except -1
    cdef void _release(self, uint32_t number)
    cdef void _settle(self, uint32_t ring)
    cdef int _make_room(self, void *queue, uint32_t count) except -1
    cdef uint64_t oldest(self) noexcept nogil
    cdef uint32_t _merge(self, uint64_t limit, pending_event *out, uint32_t room) noexcept nogil


cdef class Batch:
    cdef readonly RingQueues queues
    cdef pending_event *items
    cdef readonly uint32_t count
    cdef readonly uint64_t frontier
