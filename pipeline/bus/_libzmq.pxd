"""Direct calls of libzmq for the code that runs at each wake-up; see _libzmq.pyx."""


cdef class NativeSocket:
    cdef object socket  # the pyzmq socket, which owns the handle
    cdef void *handle

    cpdef bint is_readable(self) except -1
    cdef int fd(self) except -1
    cdef object receive(self)
    cdef int send(self, const char *message, size_t size) except -1

    cdef int _option(self, int option) except -1
    cdef int _again(self) except -1
