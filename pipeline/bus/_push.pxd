"""Sends messages to the resolver without blocking; see _push.pyx."""

from pipeline.bus._libzmq cimport NativeSocket


cdef class FramePush:
    cdef NativeSocket _socket

    cdef bint offer(self, const char *message, size_t size) except -1
