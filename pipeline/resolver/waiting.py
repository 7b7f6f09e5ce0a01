"""How the resolver's duty cycle sleeps: until a frame, a subscription or a question comes, or the time is over.

A ZeroMQ socket's descriptor says only that something happened to the socket; whether there is a message is in
ZMQ_EVENTS, which is cheap to read and must be read after each wake-up (zmq_getsockopt(3)). zmq.Poller does the same for
every socket at every call and costs several times as much.
"""

from __future__ import annotations

import contextlib
import select
import time
from pathlib import Path

import zmq

_TIMER_SLACK_NS = 5_000
#: Shorter sleeps than epoll can count.
_SLEEP_BELOW_MS = 1.0
# Plain numbers, and pyzmq's lower half: with its enumerations a look costs twice as much.
_EVENTS, _POLLIN, _FD = int(zmq.EVENTS), int(zmq.POLLIN), int(zmq.FD)


def _number(socket: zmq.Socket[bytes], option: int) -> int:
    value = zmq.backend.Socket.get(socket, option)
    assert isinstance(value, int)
    return value


class FrameSocket:
    """Frames from the PULL socket, without waiting."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._socket = socket

    @property
    def has_message(self) -> bool:
        """Whether `receive` would return one."""
        return bool(_number(self._socket, _EVENTS) & _POLLIN)

    def receive(self) -> memoryview | None:
        """The next message where ZeroMQ has put it, None if there is none now. The view keeps it alive."""
        return self._socket.recv(zmq.NOBLOCK, copy=False).buffer if self.has_message else None


class Waiter:
    """Waits on the sockets of the resolver.

    Args:
        frames: where frames come from.
        pull: its socket.
        stream: the XPUB socket; subscriptions come in there.

    Attributes:
        may_be_asked: a question may be there; unless the last sleep saw that none was.
        slept_through: nothing ended the last sleep.
    """

    def __init__(self, frames: FrameSocket, pull: zmq.Socket[bytes], stream: zmq.Socket[bytes]) -> None:
        self._frames = frames
        self._stream = stream
        # Sleeps for the merge's slack are a fraction of a millisecond; the kernel may make any sleep 50 us longer
        # (proc_pid_timerslack_ns(5)). Where it may not be said, events are that much later.
        with contextlib.suppress(OSError):
            Path("/proc/self/timerslack_ns").write_text(str(_TIMER_SLACK_NS))
        self._epoll = select.epoll()
        self._epoll.register(_number(pull, _FD), select.EPOLLIN)
        self._stream_fd = _number(stream, _FD)
        self._epoll.register(self._stream_fd, select.EPOLLIN)
        self._questions = -1
        self._heeds_questions = True
        self.may_be_asked = True
        self.slept_through = False

    def listen(self, fd: int) -> None:
        """Wake up when `fd`, where questions of readers come in, is readable."""
        self._questions = fd
        self._epoll.register(fd, select.EPOLLIN)

    def heed_questions(self, may_take: bool) -> None:
        """A flood of questions beyond what is answered must not keep the resolver awake."""
        if self._questions >= 0 and may_take != self._heeds_questions:
            self._heeds_questions = may_take
            self._epoll.modify(self._questions, select.EPOLLIN if may_take else 0)

    def wait(self, ms: float) -> bool:
        """Sleep until a message is there, or what a subscriber or a reader wants, at most `ms`.

        Returns:
            Whether the stream's socket is to be looked at.
        """
        self.may_be_asked, self.slept_through = True, False
        if self._frames.has_message:
            return False
        if ms < _SLEEP_BELOW_MS:
            time.sleep(ms / 1000)
            return False
        ready = [fd for fd, _ in self._epoll.poll(ms / 1000)]
        self.may_be_asked, self.slept_through = self._questions in ready, not ready
        return self._stream_fd in ready and bool(_number(self._stream, _EVENTS) & _POLLIN)

    def close(self) -> None:
        """Close what was opened; the sockets stay the caller's."""
        self._epoll.close()
