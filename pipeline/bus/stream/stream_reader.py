"""Read the public stream from its socket: connect, wait for the welcome, return events in order.

`StreamReader` handles sockets and waiting. `tracker` handles numbers, gaps and repeats; `messages` describes the
format. `pipeline.client.subscriber` combines the stream with snapshots of the tables, because the bus does not depend
on the tables. This module imports neither numpy nor code of the daemon.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, cast

import zmq

from pipeline import paths, trust
from pipeline.bus.stream.messages import (
    MESSAGE_MAX_BYTES,
    WELCOME_PREFIX,
    Fields,
    Header,
    prefix_mask,
    subscription_prefixes,
)
from pipeline.bus.stream.position import StreamPosition
from pipeline.bus.stream.tracker import Tracker
from pipeline.errors import AccessError, ClosedError, FrameError, NotRunningError
from pipeline.records.limits import RECONNECT_MAX_MS, RECONNECT_MS

if TYPE_CHECKING:
    import asyncio

    from pipeline.bus.stream.event_dict import Event
    from pipeline.bus.stream.journal import Block, JournalReader, Recorded
    from pipeline.bus.stream.narrowing import Filter

#: Messages that may wait in this process. Beyond this the publisher queues messages for us, and then drops them.
RECEIVE_HWM_MESSAGES = 8192
#: Long enough for the supervisor to replace a resolver that was just killed.
CONNECT_TIMEOUT_S = 5.0
#: The welcome is requested again after this time, because an answer is dropped if a queue is full.
_ASK_AGAIN_S = 0.25

#: ZeroMQ has 32 bits for milliseconds, but a wait can be unlimited.
_POLL_MAX_S = 86_400.0
#: One read stops receiving at this many events or up to one group more. An event takes about 7 KB as a dict, and memory
#: that is reused at once stays in the CPU caches. In a storm a group has about a hundred events. With twice as many
#: events a read, reading an event takes a sixth longer (bench/publish.py).
_BATCH_EVENTS = 32
#: Messages in one turn, also if none of their events is wanted.
_BATCH_MESSAGES = 256
#: Interval of heartbeats over TCP; a peer that does not answer three of them counts as gone.
_TCP_HEARTBEAT_MS = 5000
_PROBE_PAUSE_S = 0.05
#: If this many heartbeats in a row do not list a filter, the publisher does not evaluate it. After a restart, one can
#: be sent before the publisher has the subscription.
_IGNORED_HEARTBEATS = 2
#: Its heartbeats show whether the filter is in use.
_HEARTBEATS = b"sys.loss"


class StreamReader:
    """One subscription to the stream of one instance.

    Args:
        endpoint: ``ipc://PATH`` or ``tcp://HOST:PORT``.
        topics: names or families of topics, see `messages.subscription_prefixes`; none: the default topics.
        secure: called with the socket before it connects, for CURVE (`auth.secure_client`).
        follow: if the publisher stops on purpose, wait for the next one; otherwise reading ends then.
        connect_timeout: how long to wait for the welcome, s.
        receive_hwm: messages that may wait in this process.
        instance: name of the instance in errors.
        skips: whether no event of a message about processes is wanted, see `Tracker`.
        only: a filter for the events about processes, which the publisher is asked to evaluate. It may pass events that
            do not match, or all: older publishers do not know filters, and their number is limited.
        resume: begin behind this position; None: with the events after the welcome.
        journal: opens the journal, in which what is missing is read again; None: there is none.

    Attributes:
        tracker: counters of gaps, repeats and rejected messages.
        welcome: the header of the welcome: host, boot id, epoch, and `seqs`, the numbers after which the subscription
            began.
        is_drained: whether the last read left no message in the queue. It also returns no events if none of those in
            its messages is wanted or complete.
        is_narrow: whether the publisher evaluates the filter.

    Raises:
        ConfigError: unknown topic, or the path is too long for a socket.
        NotRunningError: no publisher listens there, or it did not answer in time.
        AccessError: the socket's mode does not admit the caller.
        UntrustedError: another user could have created the socket file.
        StreamVersionError: the publisher uses another major version of the stream.
        FrameError: what answers is no publisher of Procline.
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
        skips: Callable[[bytes], bool] | None = None,
        only: Filter | None = None,
        resume: StreamPosition | None = None,
        journal: Callable[[], JournalReader | None] | None = None,
    ) -> None:
        self._prefixes = subscription_prefixes(topics)
        self._narrow_prefixes = _narrowed(self._prefixes, only)
        self.is_narrow = bool(self._narrow_prefixes)
        self.tracker = Tracker(
            prefix_mask(*self._prefixes),
            skips,
            only.text if only is not None else b"",
            is_narrow=self.is_narrow,
            recovers=True,
        )
        self._recovery = _Recovery(self.tracker, journal)
        self._endpoint = endpoint
        self._instance = instance
        self._follow = follow
        self._malformed = 0
        self.is_drained = False
        self._is_interrupted = False
        self._readable_future: tuple[asyncio.AbstractEventLoop, asyncio.Future[None]] | None = None
        # Reentrant, because a signal handler may call `interrupt` while `interrupt` or `close` runs.
        self._wake_lock = threading.RLock()
        self._wake_fd = -1
        self._made_by = os.getpid()
        deadline = time.monotonic() + connect_timeout
        if endpoint.startswith("ipc://"):
            _wait_for_listener(Path(endpoint.removeprefix("ipc://")), deadline, instance)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(1)
        self._socket = self._context.socket(zmq.SUB)
        try:
            self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            # ZeroMQ's sockets are closed with the object that owns them, so the descriptor must be too.
            self._close_wake_fd = weakref.finalize(self, os.close, self._wake_fd)
            self._prepare(receive_hwm)
            if secure is not None:
                secure(self._socket)
            self.welcome = self._connect(only, deadline)
        except BaseException:
            self.close()
            raise
        if resume is None:
            self.tracker.begin(self.welcome)
        else:
            self.tracker.resume(self.welcome, resume)

    def _connect(self, only: Filter | None, deadline: float) -> Header:
        """Connect and subscribe, without the filter if the publisher does not evaluate it; return its welcome."""
        self._socket.connect(self._endpoint)
        self._subscribe()
        welcome = self._join(deadline)
        if only is not None and self.is_narrow and only.text not in welcome.only:
            self._widen()
            welcome = self._join(deadline)
        return welcome

    def _prepare(self, receive_hwm: int) -> None:
        for option, value in (
            (zmq.LINGER, 0),
            (zmq.RCVHWM, receive_hwm),
            (zmq.MAXMSGSIZE, MESSAGE_MAX_BYTES),
            (zmq.RECONNECT_IVL, RECONNECT_MS),
            (zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS),
        ):
            self._socket.setsockopt(option, value)
        if not self._endpoint.startswith("ipc://"):
            self._socket.setsockopt(zmq.HEARTBEAT_IVL, _TCP_HEARTBEAT_MS)
            self._socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 3 * _TCP_HEARTBEAT_MS)

    def _subscribe(self) -> None:
        if not self.is_narrow:
            for prefix in self._prefixes:
                self._socket.subscribe(prefix)
            return
        for prefix in self._narrow_prefixes:
            self._socket.subscribe(prefix)
        for prefix in {*self._prefixes, _HEARTBEATS}:
            if not prefix.startswith(b"proc."):
                self._socket.subscribe(prefix)

    def _widen(self) -> None:
        """Subscribe to all events, because the publisher does not evaluate the filter. What it sent has numbers."""
        self.is_narrow = self.tracker.is_narrow = False
        for prefix in self._prefixes:
            if prefix.startswith(b"proc."):
                self._socket.subscribe(prefix)
        for prefix in self._narrow_prefixes:
            self._socket.unsubscribe(prefix)

    def _join(self, deadline: float) -> Header:
        """Wait until the publisher confirms the subscriptions with a welcome."""
        words: set[bytes] = set()
        try:
            while True:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise NotRunningError(
                        f"instance {self._instance!r} does not answer at {self._endpoint}: check with `procline stat` "
                        "that it and its resolver are running",
                        instance=self._instance,
                    )
                # This comes after the prefixes, because the publisher handles the subscriptions of a peer in order. It
                # is repeated after a while, because an answer is dropped like any other message if a queue is full. The
                # first answer to any of the words is sufficient.
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
        """Read until an answer to one of `words` arrives; returns None after `deadline`."""
        while (left := deadline - time.monotonic()) > 0:
            if not self._socket.poll(max(1, int(left * 1000))):
                break
            frames = self._socket.recv_multipart()
            # Events that arrive before the welcome have numbers up to those of the welcome.
            if len(frames) < 2 or frames[0] not in words:
                continue
            header = Header.parse(frames[1])
            if header.seqs is None:
                raise FrameError(
                    "the welcome of the stream has no sequence numbers: the publisher is not a procline instance",
                    peer=self._endpoint,
                    reason="welcome without seqs",
                )
            return header
        return None

    # -- reading -------------------------------------------------------------------------------------------------------

    @property
    def refused(self) -> int:
        """Number of messages that could not be read."""
        return self.tracker.refused + self._malformed

    @property
    def is_over(self) -> bool:
        """True if the publisher stopped on purpose and `follow` is off."""
        return self.tracker.ended and not self._follow

    def fileno(self) -> int:
        """Return ZeroMQ's descriptor. It is edge-triggered: call `read(0)` until the reader `is_drained`, then wait."""
        return int(self._socket.getsockopt(zmq.FD))

    def read(self, timeout: float | None = None) -> list[Event]:
        """Return the events that have arrived, in order; wait for the first one.

        Args:
            timeout: maximum wait, s; None: unlimited; 0: do not wait.

        Returns:
            The events; none if the timeout expired or reading `is_over`.

        Raises:
            StreamVersionError: the publisher was replaced by one with another major version of the stream.
            ClosedError: the reader is closed, or was interrupted.
        """
        events: list[Event] = []
        for left in self._waits(events, timeout):
            wait_ms = -1 if left is None else 0 if left == 0.0 else int(min(left, _POLL_MAX_S) * 1000) + 1
            zmq.zmq_poll([(self._socket, zmq.POLLIN), (self._wake_fd, zmq.POLLIN)], wait_ms)
        return events

    async def read_async(self, timeout: float | None = None) -> list[Event]:
        """Do the same as `read`, in the running event loop.

        It always suspends, so that other tasks run during a storm too. No event is lost if it is cancelled.
        """
        import asyncio  # deferred: it is a third of the start-up time of programs that do not use it

        await asyncio.sleep(0)
        events: list[Event] = []
        for left in self._waits(events, timeout):
            await self._readable(left)
        return events

    def _waits(self, events: list[Event], timeout: float | None) -> Iterator[float | None]:
        """Receive into `events`; yield the seconds that are left before each wait (None: unlimited)."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            if self._is_interrupted:
                raise ClosedError("this subscription is closed: make another one to read on")
            events += self._receive()
            if events or self.is_over:
                return
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return
            yield 0.0 if self.tracker.held else left

    async def _readable(self, timeout: float | None) -> None:
        """Wait until the socket's state changes, `interrupt` is called, or the time is up."""
        import asyncio

        loop = asyncio.get_running_loop()
        readable: asyncio.Future[None] = loop.create_future()
        descriptor = self.fileno()
        loop.add_reader(descriptor, _finish, readable)
        timer = None if timeout is None else loop.call_later(timeout, _finish, readable)
        self._readable_future = loop, readable
        try:
            # The descriptor only signals changes, so check the state once more now that it is watched.
            if not self._is_interrupted and not int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
                await readable
        finally:
            self._readable_future = None
            if timer is not None:
                timer.cancel()
            loop.remove_reader(descriptor)

    def _receive(self) -> list[Event]:
        """Return the events that have arrived, without waiting."""
        events: list[Event] = []
        feed = cast("Callable[[bytes, bytes, bytes], list[Event]]", self.tracker.feed)
        receive = self._socket.recv_multipart
        self.is_drained = False
        for _ in range(_BATCH_MESSAGES):
            if self.tracker.held:
                # A list of events never spans two streams, so that a position can be between any two of them.
                if events:
                    break
                events += self._recovery.read()
                continue
            if len(events) >= _BATCH_EVENTS:
                break
            try:
                frames = receive(zmq.NOBLOCK)
            except zmq.Again:
                self.is_drained = True
                break
            if len(frames) == 3:
                events += feed(frames[0], frames[1], frames[2])
            else:
                self._malformed += 1
        if self.is_narrow and self.tracker.ignored >= _IGNORED_HEARTBEATS:
            self._widen()
        return events

    # -- end -----------------------------------------------------------------------------------------------------------

    def interrupt(self) -> None:
        """Let reading, also a read that waits, end with a ClosedError. Any thread and signal handler may call this."""
        self._is_interrupted = True
        with self._wake_lock:
            # A forked child has the same event counter, which would wake the parent again and again.
            if self._wake_fd >= 0 and os.getpid() == self._made_by:
                os.eventfd_write(self._wake_fd, 1)
        waiting = self._readable_future
        if waiting is not None:
            loop, readable = waiting
            with contextlib.suppress(RuntimeError):  # the loop has ended, and the waiting task with it
                loop.call_soon_threadsafe(_finish, readable)

    def close(self) -> None:
        """Close the subscription, which must not be read at the moment. Calling it again does nothing."""
        self._is_interrupted = True
        with self._wake_lock:
            is_open, self._wake_fd = self._wake_fd >= 0, -1
            if is_open:
                self._close_wake_fd()
        self._recovery.close()
        self._socket.close(linger=0)
        self._context.term()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class _Recovery:
    """Reads from the journal what a subscriber is missing, up to the message that its tracker holds back.

    Args:
        tracker: receives what is read.
        open_journal: opens the journal; None: there is none.
    """

    def __init__(self, tracker: Tracker, open_journal: Callable[[], JournalReader | None] | None) -> None:
        self._tracker = tracker
        self._open_journal = open_journal
        self._journal: JournalReader | None = None
        #: A block that was read, and belongs behind events that were not returned yet.
        self._block: tuple[Block, list[Recorded]] | None = None
        self._is_done = False
        #: Where recovery began, and the topics that all blocks of the journal since then kept.
        self._since_stream = 0
        self._since_ns: int | None = None
        self._kept = -1

    def read(self) -> list[Event]:
        """Return some of what is missing; at the end of the journal, process the message that waits for it."""
        if self._journal is None and not self._is_done and self._open_journal is not None:
            self._begin(self._open_journal)
        events: list[Fields] = []
        is_at_end = self._journal is None or self._feed_blocks(self._journal, events)
        if is_at_end and not events:
            self._is_done = False
            events = self._tracker.release()
        return cast("list[Event]", events)

    def close(self) -> None:
        """Close the journal, if it is open."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def _begin(self, open_journal: Callable[[], JournalReader | None]) -> None:
        # Opened each time, because another daemon may have made another file.
        self._journal = open_journal()
        if self._journal is not None:
            stream, following, self._since_ns = self._tracker.position
            self._journal.seek(stream, following, self._tracker.mask)
            self._since_stream, self._kept = stream, -1

    def _feed_blocks(self, journal: JournalReader, events: list[Fields]) -> bool:
        """Read blocks into `events` until there are enough; returns whether nothing is missing any more."""
        tracker = self._tracker
        for _ in range(_BATCH_MESSAGES):
            read = self._block or journal.read()
            self._block = None
            before = tracker.before_held(*read) if read is not None else None
            if read is None or before is None:
                self.close()
                self._is_done = True
                return True
            block, messages = read
            if block.stream != self._since_stream or self._since_ns is None or block.time_ns >= self._since_ns:
                # The last events of a stream may be missing without a trace if their topic is not kept. When it is kept
                # again, its next message shows how many are missing.
                self._kept = block.kept & (self._kept | sum({1 << message.topic for message in messages}))
            is_whole = journal.is_whole and not tracker.mask & ~self._kept
            if block.stream != tracker.stream:
                events += tracker.close_groups()
                if events:
                    self._block = read
                    return False
            for topic, header, body in before:
                events += tracker.feed_recorded(topic, header, body, is_whole=is_whole)
            if len(events) >= _BATCH_EVENTS:
                return False
        return False


def _narrowed(prefixes: Iterable[bytes], only: Filter | None) -> list[bytes]:
    """Return the subscriptions by which the publisher evaluates a filter, for those of `prefixes` about processes."""
    if only is None:
        return []
    from pipeline.bus.stream.narrowing import subscription  # deferred: most subscribers have no filter

    return [subscription(only, prefix) for prefix in prefixes if prefix.startswith(b"proc.")]


def _finish(readable: asyncio.Future[None]) -> None:
    if not readable.done():
        readable.set_result(None)


def _wait_for_listener(path: Path, deadline: float, instance: str) -> None:
    """Raise an error if the socket does not exist or is not accessible, which ZeroMQ does not report."""
    paths.endpoint(path)
    while True:
        reason = _why_not(path)
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
    """Return why no process can be reached at the Unix socket `path`; None if one can, and the path is trusted.

    Raises:
        AccessError: the caller may not connect.
        UntrustedError: another user could have created the socket.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            trust.check_socket(path)
            probe.connect(os.fspath(path))
        except BlockingIOError:  # the backlog is full, so a process listens
            return None
        except PermissionError:
            mode = stat.S_IMODE(path.stat().st_mode) if os.access(path.parent, os.X_OK) else None
            raise AccessError(
                f"you do not have permission to read the stream at {path}"
                + (f" (mode {mode:04o})" if mode is not None else "")
                + ": run as root or as a member of its group, or change access.stream_mode",
                path=str(path),
            ) from None
        except (FileNotFoundError, NotADirectoryError):
            return "the socket does not exist"
        except OSError as error:
            return "no process listens" if isinstance(error, ConnectionRefusedError) else str(error.strerror)
    return None
