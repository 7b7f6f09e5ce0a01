"""Sleeping on the resolver's sockets; see _waiting.pyx."""

from pipeline.bus._libzmq cimport NativeSocket


cdef class FrameSocket:
    cdef NativeSocket _socket
    cdef bint is_drained  # the last check found no message, so the descriptor reports the next one

    cpdef object receive(self)
    cdef bint has_message(self) except -1


cdef class Openings:
    cdef bytes _path
    cdef int _inotify
    cdef readonly bint is_armed

    cdef bint take(self) noexcept


cdef class TurnWaiter:
    cdef FrameSocket _frames
    cdef NativeSocket _stream
    cdef Openings _openings
    cdef int _epoll, _stream_fd, _questions, _opened
    cdef bint _heeds_questions
    cdef readonly bint may_be_asked, is_asked, has_slept, slept_through, is_interrupted
    cdef public bint is_opened

    cdef int _watch(self, int operation, int fd, bint is_heeded) except -1
    cdef int pause(self, double ms) except -1
    cpdef bint wait(self, double ms) except -1
