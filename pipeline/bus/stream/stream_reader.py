"""Read the public stream from its socket: connect, wait for the welcome, hand over events in order.

`StreamReader` knows sockets and waiting; numbers, gaps and repeats are `tracker`'s, the wire is in `stream`. What joins
the stream with the tables (a snapshot first, another one after a gap) is `pipeline.client.subscriber`, because the bus
does not know the tables. Imports neither numpy nor anything of the daemon.
"""

from __future__ import annotations

import os
import socket as unix
import stat
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import zmq

from pipeline import paths, trust
from pipeline.bus.stream.messages import (
    MESSAGE_MAX_BYTES,
    WELCOME_PREFIX,
    Event,
    Header,
    prefix_mask,
    subscription_prefixes,
)
from pipeline.bus.stream.tracker import Tracker
from pipeline.errors import AccessError, FrameError, NotRunningError

#: Messages that may wait in this process before the publisher begins to keep, and then to drop, what is ours.
RECEIVE_HWM_MESSAGES = 8192
#: Enough for the supervisor to replace a resolver that was killed a moment ago.
CONNECT_TIMEOUT_S = 5.0
#: A welcome that has not come by then is asked for again: it may have met a full queue.
_ASK_AGAIN_S = 0.25

#: ZeroMQ counts in 32 bits of milliseconds, and a wait may be for ever.
_POLL_MAX_S = 86_400.0
#: One read stops receiving at this many events, or a group more: an event takes some 7 KB as a dict, and memory that is
#: used again at once is warm. A whole group is some hundred events in a storm; with twice as many, reading them takes a
#: sixth longer (bench/publish.py).
_BATCH_EVENTS = 32
#: A killed publisher is found again within this time; short, as what it sends meanwhile is missed.
_RECONNECT_MS = 10
_RECONNECT_MAX_MS = 200
#: A peer across the network that vanished without a word is given up after so long.
_TCP_HEARTBEAT_MS = 5000
_PROBE_PAUSE_S = 0.05


class StreamReader:
    """One subscription to one instance's stream.

    Args:
        endpoint: ``ipc://PATH`` or ``tcp://HOST:PORT``.
        topics: names or families of topics, see `stream.subscription_prefixes`; none: the default ones.
        secure: called with the socket before it connects, for CURVE (`auth.secure_client`).
        follow: wait for the next publisher when this one ends on purpose; else reading is over then.
        connect_timeout: how long to wait for the welcome, s.
        receive_hwm: messages that may wait in this process.
        instance: what errors call the instance.

    Attributes:
        tracker: counters of gaps, repeats and refused messages.
        welcome: the header of the welcome: host, boot id, epoch, and `seqs`, the numbers that the subscription began
            after.

    Raises:
        ConfigError: unknown topic, or a path too long for a socket.
        NotRunningError: nobody publishes there, or nobody answered in time.
        AccessError: the socket's mode keeps the caller out.
        UntrustedError: another user could have made the socket.
        StreamVersionError: the publisher speaks another major version.
    """

    def __init__(
        self,
        endpoint: str,
        topics: Sequence[str] = (),
        *,
        secure: Callable[[zmq.Socket[bytes]], None] | None = None,
        follow: bool = True,
        connect_timeout: float = CONNECT_TIMEOUT_S,
        receive_hwm: int = RECEIVE_HWM_MESSAGES,
        instance: str = paths.DEFAULT_INSTANCE,
    ) -> None:
        prefixes = subscription_prefixes(topics)
        mask = 0
        for prefix in prefixes:
            mask |= prefix_mask(prefix)
        self.tracker = Tracker(mask)
        self._endpoint = endpoint
        self._instance = instance
        self._follow = follow
        self._malformed = 0
        deadline = time.monotonic() + connect_timeout
        if endpoint.startswith("ipc://"):
            _wait_for_listener(Path(endpoint.removeprefix("ipc://")), deadline, instance)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(1)
        self._socket = self._context.socket(zmq.SUB)
        try:
            self._prepare(receive_hwm)
            if secure is not None:
                secure(self._socket)
            self._socket.connect(endpoint)
            self.welcome = self._join(prefixes, deadline)
        except BaseException:
            self.close()
            raise
        self.tracker.begin(self.welcome)

    def _prepare(self, receive_hwm: int) -> None:
        for option, value in (
            (zmq.LINGER, 0),
            (zmq.RCVHWM, receive_hwm),
            (zmq.MAXMSGSIZE, MESSAGE_MAX_BYTES),
            (zmq.RECONNECT_IVL, _RECONNECT_MS),
            (zmq.RECONNECT_IVL_MAX, _RECONNECT_MAX_MS),
        ):
            self._socket.setsockopt(option, value)
        if not self._endpoint.startswith("ipc://"):
            self._socket.setsockopt(zmq.HEARTBEAT_IVL, _TCP_HEARTBEAT_MS)
            self._socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 3 * _TCP_HEARTBEAT_MS)

    def _join(self, prefixes: Sequence[bytes], deadline: float) -> Header:
        """Subscribe, and wait until the publisher says that it knows."""
        for prefix in prefixes:
            self._socket.subscribe(prefix)
        words: set[bytes] = set()
        try:
            while True:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise NotRunningError(
                        f"instance {self._instance!r} does not answer at {self._endpoint}: is it running, and is its "
                        "resolver up? See `procline stat`",
                        instance=self._instance,
                    )
                # After the prefixes: the publisher handles the subscriptions of a peer in the order in which they were
                # made. Asked again after a while: the prefixes hold by then, and an answer that meets a full queue is
                # dropped like any other message. The first answer that comes is as good as another.
                word = WELCOME_PREFIX + os.urandom(8).hex().encode()
                self._socket.subscribe(word)
                words.add(word)
                header = self._await_welcome(words, min(deadline, time.monotonic() + _ASK_AGAIN_S))
                if header is not None:
                    return header
        finally:
            for word in words:
                self._socket.unsubscribe(word)

    def _await_welcome(self, words: set[bytes], deadline: float) -> Header | None:
        """Read until an answer to one of `words` comes; None when `deadline` is over."""
        while (left := deadline - time.monotonic()) > 0:
            if not self._socket.poll(max(1, int(left * 1000))):
                break
            frames = self._socket.recv_multipart()
            # Events that come earlier are at or below the numbers of the welcome.
            if len(frames) < 2 or frames[0] not in words:
                continue
            header = Header.parse(frames[1])
            if header.seqs is None:
                raise FrameError(
                    "the welcome of the stream has no numbers", peer=self._endpoint, reason="welcome without seqs"
                )
            return header
        return None

    # -- reading -------------------------------------------------------------------------------------------------------

    @property
    def refused(self) -> int:
        """Messages that could not be read."""
        return self.tracker.refused + self._malformed

    @property
    def is_over(self) -> bool:
        """The publisher ended on purpose, and no other one is waited for."""
        return self.tracker.ended and not self._follow

    def fileno(self) -> int:
        """ZeroMQ's descriptor: edge-triggered, so call `read(0)` until it gives nothing before waiting on it."""
        return int(self._socket.getsockopt(zmq.FD))

    def read(self, timeout: float | None = None) -> list[Event]:
        """Return the events that have come, in order; wait for the first of them.

        Args:
            timeout: longest wait, s; None: for ever, 0: not at all.

        Returns:
            Events; empty when the time is up, or reading `is_over`.

        Raises:
            StreamVersionError: the publisher was replaced by one of another major version.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            events = self._receive()
            if events or self.is_over:
                return events
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return []
            self._socket.poll(None if left is None else int(min(left, _POLL_MAX_S) * 1000) + 1)

    async def read_async(self, timeout: float | None = None) -> list[Event]:
        """Do as `read` does, in the running event loop."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            events = self._receive()
            if events or self.is_over:
                return events
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return []
            await self._readable(left)

    async def _readable(self, timeout: float | None) -> None:
        import asyncio  # who awaits has it; for the others it is a third of the start

        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        descriptor = self.fileno()
        loop.add_reader(descriptor, ready.set)
        try:
            # The descriptor tells of changes only, so ask once more now that it is being watched.
            if int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
                return
            await asyncio.wait_for(ready.wait(), timeout)
        except TimeoutError:
            return
        finally:
            loop.remove_reader(descriptor)

    def _receive(self) -> list[Event]:
        """Take what has arrived, without waiting."""
        events: list[Event] = []
        feed = self.tracker.feed
        receive = self._socket.recv_multipart
        while len(events) < _BATCH_EVENTS:
            try:
                frames = receive(zmq.NOBLOCK)
            except zmq.Again:
                break
            if len(frames) == 3:
                events += feed(frames[0], frames[1], frames[2])
            else:
                self._malformed += 1
        return events

    # -- end -----------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Leave the stream. Calling it again does nothing."""
        self._socket.close(linger=0)
        self._context.term()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _wait_for_listener(path: Path, deadline: float, instance: str) -> None:
    """Tell at once what ZeroMQ would never say: that there is no such socket, or that we may not use it."""
    paths.endpoint(path)
    while True:
        reason = _why_not(path)
        trust.check_socket(path)  # behind it: what could be connected to exists
        if reason is None:
            return
        if not path.parent.is_dir() or time.monotonic() >= deadline:
            raise NotRunningError(
                f"no instance {instance!r} is running ({path}: {reason}): start it with "
                f"`procline run --name {instance}`",
                instance=instance,
            )
        time.sleep(_PROBE_PAUSE_S)


def _why_not(path: Path) -> str | None:
    """Why nobody can be reached at the Unix socket `path`; None if somebody can."""
    with unix.socket(unix.AF_UNIX, unix.SOCK_STREAM | unix.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(os.fspath(path))
        except BlockingIOError:  # its backlog is full, so it lives
            return None
        except PermissionError:
            mode = stat.S_IMODE(path.stat().st_mode) if os.access(path.parent, os.X_OK) else None
            raise AccessError(
                f"you may not read the stream at {path}"
                + (f" (mode {mode:04o})" if mode is not None else "")
                + ": run as a member of its group or as root, or change access.stream_mode",
                path=str(path),
            ) from None
        except FileNotFoundError:
            return "there is no such socket"
        except OSError as error:
            return "nobody listens" if isinstance(error, ConnectionRefusedError) else str(error.strerror)
    return None
