"""Sleeping of the resolver's duty cycle: until a frame, a subscription or a question arrives, or the time is over.

A ZeroMQ socket's descriptor reports only that something happened to the socket. ZMQ_EVENTS says whether there is a
message. It must be read until it says that there is none; only then can the descriptor be waited for again
(zmq_getsockopt(3)). zmq.Poller does the same for every socket at every call, and costs several times as much.

The module is compiled because it runs at every wake-up, with cold caches: see _turn.pyx.
"""

import contextlib
import os
from pathlib import Path

import zmq
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EINTR, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from posix.time cimport nanosleep, timespec
from posix.unistd cimport close, read

from pipeline.host._epoll cimport (
    EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLLIN, epoll_create1, epoll_ctl, epoll_event, pl_epoll_wait,
)
from pipeline.bus._libzmq cimport NativeSocket
from pipeline.records._clock cimport pl_now_boot_ns


cdef extern from "sys/inotify.h" nogil:
    struct inotify_event:
        uint32_t mask, len
    int inotify_init1(int flags)
    int inotify_add_watch(int fd, const char *path, uint32_t mask)
    int IN_CLOEXEC, IN_NONBLOCK, IN_IGNORED, IN_OPEN
    uint32_t IN_ONESHOT

#: Maximum time by which the kernel may lengthen a sleep of this process.
_TIMER_SLACK_NS = 5_000

cdef enum:
    WATCHED = 4  # number of descriptors
    _EVENTS_BYTES = 1024

#: Shorter sleeps are the rest of the merge's slack. A frame does not end them: its turn would find the same events that
#: may not be applied yet, and sleep again.
cdef double _SLEEP_BELOW_MS = 1.0

#: Shorter sleeps are spent spinning: a timer and the wake-up by it take longer, and as much CPU time. The rest of the
#: merge's slack is this short when a single event arrives on an idle host.
cdef double _SPIN_BELOW_MS = 0.03


cdef class FrameSocket:
    """Receives frames from the PULL socket without waiting."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._socket = NativeSocket(socket)

    cdef bint has_message(self) except -1:
        """Whether there is a message."""
        cdef bint is_there = self._socket.is_readable()
        self.is_drained = not is_there
        return is_there

    cpdef object receive(self):
        """Return the next message as a buffer in ZeroMQ's memory, or None if there is none now."""
        message = self._socket.receive()
        self.is_drained = message is None
        return message


cdef class Openings:
    """Notices that a file is opened: once, until `arm` is called again.

    So a user who opens the file again and again cannot wake the resolver more often than `arm` is called.

    Args:
        path: of the file.

    Attributes:
        is_armed: the next opening is noticed.

    Raises:
        OSError: the kernel has no inotify instance left for this user.
    """

    def __cinit__(self):
        self._inotify = -1

    def __init__(self, path not None) -> None:
        self._path = os.fsencode(path)
        self._inotify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK)
        if self._inotify < 0:
            raise OSError(errno, os.strerror(errno))

    def fileno(self) -> int:
        """Return a descriptor that is readable after an opening."""
        return self._inotify

    def arm(self) -> bool:
        """Notice the next opening; returns `is_armed`, which stays False if the kernel has no watch left."""
        if not self.is_armed:
            self.is_armed = inotify_add_watch(self._inotify, self._path, IN_OPEN | IN_ONESHOT) >= 0
        return self.is_armed

    cdef bint take(self) noexcept:
        """Whether the file has been opened since `arm`."""
        cdef char[_EVENTS_BYTES] events
        cdef const inotify_event *event
        cdef ssize_t got, at
        cdef bint is_opened = False
        while True:
            got = read(self._inotify, events, _EVENTS_BYTES)
            if got <= 0:
                break
            at = 0
            while at + <ssize_t>sizeof(inotify_event) <= got:
                event = <const inotify_event *>(events + at)
                is_opened |= (event.mask & IN_OPEN) != 0
                if event.mask & IN_IGNORED:  # the kernel has removed the watch: after an opening, or with the file
                    self.is_armed = False
                at += sizeof(inotify_event) + event.len
        return is_opened

    def close(self) -> None:
        """Close the descriptor; may be called twice."""
        if self._inotify >= 0:
            close(self._inotify)
            self._inotify = -1

    def __dealloc__(self):
        if self._inotify >= 0:
            close(self._inotify)


cdef class TurnWaiter:
    """Sleeps on the resolver's sockets between two turns.

    Args:
        frames: receives frames.
        stream: the XPUB socket, which receives subscriptions.
        questions_fd: readable when a reader has sent a question; -1: there is no such socket.
        openings: notices that the tables are opened; None: openings are not reported.

    Attributes:
        may_be_asked: a question may be waiting; False if the last sleep found none.
        is_asked: the last sleep found a question.
        has_slept: the last call slept, because no message was waiting.
        slept_through: the last sleep lasted to its end.
        is_interrupted: a signal ended the last sleep, and its handler has run.
        is_opened: the tables have been opened; the caller sets it to False again.
    """

    def __cinit__(self):
        self._epoll = -1

    def __init__(
        self, FrameSocket frames not None, stream: zmq.Socket[bytes], int questions_fd=-1, Openings openings=None
    ) -> None:
        self._frames = frames
        self._stream = NativeSocket(stream)
        # Sleeps for the merge's slack last a fraction of a millisecond, and the kernel may lengthen any sleep by 50 us
        # (proc_pid_timerslack_ns(5)). Without permission to change that, events arrive later by that time.
        with contextlib.suppress(OSError):
            Path("/proc/self/timerslack_ns").write_text(str(_TIMER_SLACK_NS))
        self._epoll = epoll_create1(EPOLL_CLOEXEC)
        if self._epoll < 0:
            raise OSError(errno, "cannot create an epoll instance to wait on the sockets")
        self._stream_fd = self._stream.fd()
        self._watch(EPOLL_CTL_ADD, frames._socket.fd(), True)
        self._watch(EPOLL_CTL_ADD, self._stream_fd, True)
        self._questions = questions_fd
        if questions_fd >= 0:
            self._watch(EPOLL_CTL_ADD, questions_fd, True)
        self._openings = openings
        self._opened = -1 if openings is None else openings._inotify
        if self._opened >= 0:
            self._watch(EPOLL_CTL_ADD, self._opened, True)
        self._heeds_questions = self.may_be_asked = True
        self.is_asked = False

    cdef int _watch(self, int operation, int fd, bint is_heeded) except -1:
        cdef epoll_event event
        event.events = EPOLLIN if is_heeded else 0
        event.data.fd = fd
        if epoll_ctl(self._epoll, operation, fd, &event) != 0:
            raise OSError(errno, f"cannot wait on descriptor {fd}")
        return 0

    def heed_questions(self, bint may_accept) -> None:
        """Set whether questions end a sleep. If they did in a flood of questions, the resolver could not sleep."""
        if self._questions >= 0 and may_accept != self._heeds_questions:
            self._heeds_questions = may_accept
            self._watch(EPOLL_CTL_MOD, self._questions, may_accept)

    cdef int pause(self, double ms) except -1:
        """Sleep; only a signal ends it early."""
        cdef timespec pause
        cdef uint64_t due = pl_now_boot_ns() + <uint64_t>(ms * 1e6)
        pause.tv_sec, pause.tv_nsec = 0, <long>(ms * 1e6)
        with nogil:
            if ms < _SPIN_BELOW_MS:
                while pl_now_boot_ns() < due:
                    pass
            elif nanosleep(&pause, NULL) != 0:
                self.is_interrupted = True
        PyErr_CheckSignals()
        return 0

    cpdef bint wait(self, double ms) except -1:
        """Sleep until a frame, a subscription, a question or a signal arrives; at most `ms`.

        Returns:
            Whether the stream's socket has something to read.
        """
        cdef epoll_event ready[WATCHED]
        cdef int count, i, error = 0
        cdef bint is_wanted = False
        self.may_be_asked, self.is_asked, self.slept_through, self.has_slept = True, False, False, False
        self.is_interrupted = False
        if not self._frames.is_drained and self._frames.has_message():
            return False
        self.has_slept = True
        if ms < _SLEEP_BELOW_MS:
            self.pause(ms)
            return False
        with nogil:
            count = pl_epoll_wait(self._epoll, ready, WATCHED, <int64_t>(ms * 1e6))
            if count < 0:
                error = errno
        if count < 0:
            if error != EINTR:
                raise OSError(error, "cannot wait on the sockets")
            self.is_interrupted = True
            PyErr_CheckSignals()
            return False
        self.may_be_asked, self.slept_through = False, count == 0
        for i in range(count):
            if ready[i].data.fd == self._questions:
                self.may_be_asked = self.is_asked = True
            elif ready[i].data.fd == self._stream_fd:
                is_wanted = True
            elif ready[i].data.fd == self._opened:
                self.is_opened |= self._openings.take()
            else:
                self._frames.is_drained = False  # the descriptor stays readable until the socket is checked
        return is_wanted and self._stream.is_readable()

    def close(self) -> None:
        """Close the epoll instance; the sockets stay open."""
        if self._epoll >= 0:
            close(self._epoll)
            self._epoll = -1

    def __dealloc__(self):
        if self._epoll >= 0:
            close(self._epoll)
