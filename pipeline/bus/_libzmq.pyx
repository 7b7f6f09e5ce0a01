"""Direct calls of libzmq, on sockets that pyzmq creates and closes, and sockets of a source that does without pyzmq.

pyzmq creates an enumeration member for each option that is read and several objects for each message that is received.
On a busy host with cold caches that costs tens of microseconds at each wake-up.

The functions are found with dlsym(3) in the libzmq of pyzmq's extension module. They cannot be linked at build time:
pyzmq's wheel contains its own libzmq, under a name with a hash (``libzmq-2f02442c.so``), and no headers. Linking would
load a second copy, and a socket of one copy is not valid in the other. The names are public and stable
(zmq_getsockopt(3), zmq_msg_recv(3), zmq_send(3)). Only this module depends on that extension module. It is loaded as a
library and not imported, because the import of pyzmq takes a third of the CPU time in which a shard starts.

As with pyzmq, only one thread at a time may use a socket.
"""

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, EINTR
from libc.stdint cimport uintptr_t

import os
from importlib.machinery import PathFinder


cdef extern from "Python.h":
    int PyBuffer_FillInfo(Py_buffer *view, object owner, void *data, Py_ssize_t size, int readonly, int flags) except -1

cdef extern from "dlfcn.h" nogil:
    void *dlopen(const char *path, int flags)
    void *dlsym(void *handle, const char *name)
    int RTLD_LAZY

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
    typedef void *(*pl_zmq_ctx_new)(void);
    typedef void *(*pl_zmq_socket)(void *context, int type);
    typedef int (*pl_zmq_setsockopt)(void *socket, int option, const void *value, size_t bytes);
    typedef int (*pl_zmq_connect)(void *socket, const char *endpoint);
    typedef int (*pl_zmq_end)(void *socket_or_context);
    typedef const char *(*pl_zmq_strerror)(int error);
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
    ctypedef void *(*pl_zmq_ctx_new)() noexcept nogil
    ctypedef void *(*pl_zmq_socket)(void *context, int type) noexcept nogil
    ctypedef int (*pl_zmq_setsockopt)(void *socket, int option, const void *value, size_t bytes) noexcept nogil
    ctypedef int (*pl_zmq_connect)(void *socket, const char *endpoint) noexcept nogil
    ctypedef int (*pl_zmq_end)(void *socket_or_context) noexcept nogil
    ctypedef const char *(*pl_zmq_strerror)(int error) noexcept nogil

cdef enum:
    _PUSH = 8  # ZMQ_PUSH
    _FD = 14  # ZMQ_FD
    _EVENTS = 15  # ZMQ_EVENTS
    _LINGER = 17  # ZMQ_LINGER
    _RECONNECT_IVL = 18  # ZMQ_RECONNECT_IVL
    _RECONNECT_IVL_MAX = 21  # ZMQ_RECONNECT_IVL_MAX
    _SNDHWM = 23  # ZMQ_SNDHWM
    _RCVHWM = 24  # ZMQ_RCVHWM
    _IMMEDIATE = 39  # ZMQ_IMMEDIATE
    _DONTWAIT = 1  # ZMQ_DONTWAIT
    _POLLIN = 1  # ZMQ_POLLIN


def _extension():
    """Return the path of the extension module of pyzmq."""
    package = PathFinder.find_spec("zmq")
    for place in package.submodule_search_locations if package is not None else ():
        found = PathFinder.find_spec("_zmq", [os.path.join(place, "backend", "cython")])
        if found is not None and found.origin and not found.origin.endswith(".py"):
            return found.origin
    raise ImportError("cannot find the extension module of pyzmq: install the pyzmq wheel", name="zmq")


cdef str _path = _extension()
cdef void *_library = dlopen(os.fsencode(_path), RTLD_LAZY)


cdef void *_function(const char *name) except NULL:
    cdef void *found = dlsym(_library, name) if _library != NULL else NULL
    if found == NULL:
        raise ImportError(
            f"cannot find {name.decode()} of libzmq through pyzmq ({_path}): install the pyzmq wheel, or a "
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
cdef pl_zmq_ctx_new zmq_ctx_new = <pl_zmq_ctx_new>_function("zmq_ctx_new")
cdef pl_zmq_socket zmq_socket = <pl_zmq_socket>_function("zmq_socket")
cdef pl_zmq_setsockopt zmq_setsockopt = <pl_zmq_setsockopt>_function("zmq_setsockopt")
cdef pl_zmq_connect zmq_connect = <pl_zmq_connect>_function("zmq_connect")
cdef pl_zmq_end zmq_close = <pl_zmq_end>_function("zmq_close")
cdef pl_zmq_end zmq_ctx_term = <pl_zmq_end>_function("zmq_ctx_term")
cdef pl_zmq_strerror zmq_strerror = <pl_zmq_strerror>_function("zmq_strerror")


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
        socket: a pyzmq socket or a `PushSocket`; it must stay open while this object is used.
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
            from zmq import ZMQError  # deferred: see the module's docstring

            raise ZMQError(error)
        PyErr_CheckSignals()
        return 0


cdef class PushSocket:
    """A connected PUSH socket with a context of its own, for a process that does not import pyzmq.

    It accepts messages only while a peer is connected (IMMEDIATE), and discards unsent messages when it is closed.
    Close it after use, or use it as a context manager.

    Args:
        endpoint: ZeroMQ address.
        hwm_messages: messages that wait on this side.
        reconnect_ms: time between the first attempts to connect again.
        reconnect_max_ms: the same after many attempts.

    Raises:
        OSError: libzmq rejected the call.
    """

    cdef void *context
    cdef void *handle
    cdef int tgid

    def __init__(self, str endpoint not None, *, int hwm_messages, int reconnect_ms, int reconnect_max_ms):
        self.tgid = os.getpid()
        self.context = zmq_ctx_new()
        self.handle = zmq_socket(self.context, _PUSH) if self.context != NULL else NULL
        try:
            if self.handle == NULL:
                self._fail("cannot create a socket")
            self._set(_LINGER, 0)
            self._set(_SNDHWM, hwm_messages)
            self._set(_RCVHWM, 1)
            self._set(_RECONNECT_IVL, reconnect_ms)
            self._set(_RECONNECT_IVL_MAX, reconnect_max_ms)
            self._set(_IMMEDIATE, 1)
            if zmq_connect(self.handle, os.fsencode(endpoint)) != 0:
                self._fail(f"cannot connect to {endpoint}")
        except OSError:
            self.close()
            raise

    @property
    def underlying(self) -> int:
        """Address of the socket, as that of pyzmq's sockets."""
        return <uintptr_t>self.handle

    cdef int _set(self, int option, int value) except -1:
        if zmq_setsockopt(self.handle, option, &value, sizeof(value)) != 0:
            self._fail(f"cannot set option {option}")
        return 0

    cdef int _fail(self, str what) except -1:
        cdef int error = zmq_errno()
        raise OSError(error, f"{what}: {zmq_strerror(error).decode()}")

    def close(self) -> None:
        """Close the socket; it may be called more than once. In a forked child it does nothing."""
        if os.getpid() != self.tgid:
            return
        if self.handle != NULL:
            zmq_close(self.handle)
            self.handle = NULL
        while self.context != NULL:
            if zmq_ctx_term(self.context) == 0 or zmq_errno() != EINTR:
                self.context = NULL
            else:
                PyErr_CheckSignals()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, at):
        self.close()
