"""Direct calls of libzmq, on sockets that pyzmq creates and closes.

pyzmq creates an enumeration member for each option that is read and several objects for each message that is received.
On a busy host with cold caches that costs tens of microseconds at each wake-up.

The functions are found with dlsym(3) in the libzmq that pyzmq has already loaded. They cannot be linked at build time:
pyzmq's wheel contains its own libzmq under a name with a hash (``libzmq-2f02442c.so``) and no headers, so linking would
load a second copy, and a socket of one copy is not valid in the other. The names are public and stable
(zmq_getsockopt(3), zmq_msg_recv(3), zmq_send(3)). Only this module depends on pyzmq's private extension module, through
which the library is found.

As with pyzmq, only one thread at a time may use a socket.
"""

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, EINTR
from libc.stdint cimport uintptr_t

import zmq
from zmq.backend.cython import _zmq


cdef extern from "Python.h":
    int PyBuffer_FillInfo(Py_buffer *view, object owner, void *data, Py_ssize_t size, int readonly, int flags) except -1

cdef extern from "dlfcn.h" nogil:
    void *dlopen(const char *path, int flags)
    void *dlsym(void *handle, const char *name)
    int RTLD_LAZY
    int RTLD_NOLOAD

cdef extern from *:
    """
    /* zmq.h: opaque, 64 bytes, with the alignment of a pointer. */
    typedef struct pl_zmq_msg { void *align; unsigned char opaque[64 - sizeof(void *)]; } pl_zmq_msg;
    _Static_assert(sizeof(pl_zmq_msg) == 64, "zmq_msg_t");
    typedef int (*pl_zmq_getsockopt)(void *socket, int option, void *value, size_t *bytes);
    typedef int (*pl_zmq_send)(void *socket, const void *data, size_t bytes, int flags);
    typedef int (*pl_zmq_msg_recv)(pl_zmq_msg *message, void *socket, int flags);
    typedef int (*pl_zmq_msg_call)(pl_zmq_msg *message);
    typedef void *(*pl_zmq_msg_data)(pl_zmq_msg *message);
    typedef size_t (*pl_zmq_msg_size)(const pl_zmq_msg *message);
    typedef int (*pl_zmq_errno)(void);
    """
    ctypedef struct pl_zmq_msg:
        pass
    ctypedef int (*pl_zmq_getsockopt)(void *socket, int option, void *value, size_t *bytes) noexcept nogil
    ctypedef int (*pl_zmq_send)(void *socket, const void *data, size_t bytes, int flags) noexcept nogil
    ctypedef int (*pl_zmq_msg_recv)(pl_zmq_msg *message, void *socket, int flags) noexcept nogil
    ctypedef int (*pl_zmq_msg_call)(pl_zmq_msg *message) noexcept nogil
    ctypedef void *(*pl_zmq_msg_data)(pl_zmq_msg *message) noexcept nogil
    ctypedef size_t (*pl_zmq_msg_size)(const pl_zmq_msg *message) noexcept nogil
    ctypedef int (*pl_zmq_errno)() noexcept nogil

cdef enum:
    _FD = 14  # ZMQ_FD
    _EVENTS = 15  # ZMQ_EVENTS
    _DONTWAIT = 1  # ZMQ_DONTWAIT
    _POLLIN = 1  # ZMQ_POLLIN

assert (_FD, _EVENTS, _DONTWAIT, _POLLIN) == (zmq.FD, zmq.EVENTS, zmq.DONTWAIT, zmq.POLLIN)

cdef void *_library = dlopen(_zmq.__file__.encode(), RTLD_LAZY | RTLD_NOLOAD)


cdef void *_function(const char *name) except NULL:
    cdef void *found = dlsym(_library, name) if _library != NULL else NULL
    if found == NULL:
        raise ImportError(
            f"cannot find {name.decode()} of libzmq through pyzmq ({_zmq.__file__}): install the pyzmq wheel, or a "
            "build of pyzmq that uses a shared libzmq"
        )
    return found


cdef pl_zmq_getsockopt zmq_getsockopt = <pl_zmq_getsockopt>_function("zmq_getsockopt")
cdef pl_zmq_send zmq_send = <pl_zmq_send>_function("zmq_send")
cdef pl_zmq_msg_recv zmq_msg_recv = <pl_zmq_msg_recv>_function("zmq_msg_recv")
cdef pl_zmq_msg_call zmq_msg_init = <pl_zmq_msg_call>_function("zmq_msg_init")
cdef pl_zmq_msg_call zmq_msg_close = <pl_zmq_msg_call>_function("zmq_msg_close")
cdef pl_zmq_msg_data zmq_msg_data = <pl_zmq_msg_data>_function("zmq_msg_data")
cdef pl_zmq_msg_size zmq_msg_size = <pl_zmq_msg_size>_function("zmq_msg_size")
cdef pl_zmq_errno zmq_errno = <pl_zmq_errno>_function("zmq_errno")


@cython.freelist(8)
cdef class Message:
    """A received message in ZeroMQ's own memory, as a read-only buffer."""

    cdef pl_zmq_msg content

    def __cinit__(self):
        zmq_msg_init(&self.content)

    def __dealloc__(self):
        zmq_msg_close(&self.content)

    def __len__(self):
        return zmq_msg_size(&self.content)

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, zmq_msg_data(&self.content), zmq_msg_size(&self.content), 1, flags)


cdef class NativeSocket:
    """Reads options, receives and sends without blocking.

    Args:
        socket: a pyzmq socket; it must stay open while this object is used.
    """

    def __init__(self, socket):
        self.socket, self.handle = socket, <void *><uintptr_t>socket.underlying

    cpdef bint is_readable(self) except -1:
        """Whether a message can be received now."""
        return self._option(_EVENTS) & _POLLIN != 0

    cdef int fd(self) except -1:
        """The file descriptor that becomes readable when the socket's state changes (ZMQ_FD)."""
        return self._option(_FD)

    cdef int _option(self, int option) except -1:
        cdef int value = 0
        cdef size_t size = sizeof(value)
        while zmq_getsockopt(self.handle, option, &value, &size) != 0:
            self._again()
        return value

    cdef object receive(self):
        """The next message, or None if there is none now; `fd` becomes readable when one arrives."""
        cdef Message message = Message.__new__(Message)
        while zmq_msg_recv(&message.content, self.handle, _DONTWAIT) < 0:
            if zmq_errno() == EAGAIN:
                return None
            self._again()
        return message

    cdef int send(self, const char *message, size_t size) except -1:
        """Send a message without blocking; returns False if the queue is full. libzmq copies the bytes."""
        while zmq_send(self.handle, message, size, _DONTWAIT) < 0:
            if zmq_errno() == EAGAIN:
                return False
            self._again()
        return True

    cdef int _again(self) except -1:
        """Handle the error of a failed call: return if a signal interrupted it, so that the caller can repeat it."""
        cdef int error = zmq_errno()
        if error != EINTR:
            raise zmq.ZMQError(error)
        PyErr_CheckSignals()
        return 0
