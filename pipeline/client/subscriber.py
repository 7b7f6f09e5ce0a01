"""`Subscriber`: the events of this host's processes, each with the lineage at that time.

    with Subscriber(topics=["exec"], on_gap=print) as subscriber:
        for event in subscriber:
            print(event["pid"], event["argv"], [ancestor["comm"] for ancestor in event["lineage"]])

`pipeline.bus.stream.stream_reader` reads the socket, and `event_filter` selects events. This module combines the stream
with a snapshot of the tables. A subscriber that joins late proceeds in this order:

1. Subscribe, and wait for the welcome.
2. Read the last committed sequence numbers (C) from the tables.
3. List the processes in the tables.
4. Continue with the events that have numbers above C.

No event is missed. The welcome is sent between two steps, so all events published before it are in the tables, and all
later ones reach the subscriber. An event can be in both, if it was applied after C was read and before its process was
listed; a fork or an exec that the list already shows is therefore dropped. After a gap, steps 2 to 4 are repeated.

numpy is imported only for a snapshot, together with the tables.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Generic, Self, TypedDict, TypeVar, Unpack, cast, overload

from pipeline import paths
from pipeline.bus.stream.messages import TOPICS, covers, subscription_prefixes
from pipeline.bus.stream.position import StreamPosition
from pipeline.bus.stream.stream_reader import CONNECT_TIMEOUT_S, RECEIVE_HWM_MESSAGES, StreamReader
from pipeline.errors import (
    BusyError,
    ClosedError,
    ConfigError,
    InUseError,
    NoProcessError,
    NotRunningError,
    ProclineError,
    StaleError,
    TooOldError,
)
from pipeline.shm.layout.declared import COMMIT_LAYOUT, SLOT_ORDER, SLOT_STREAM

if TYPE_CHECKING:
    import struct

    import zmq

    from pipeline.bus.stream.event_dict import Event, GapEvent, LossEvent, ProcessEvent, ProcessTopic, SnapshotEvent
    from pipeline.bus.stream.journal import JournalReader
    from pipeline.client.event_filter import EventFilter
    from pipeline.select.selection import Selection
    from pipeline.shm.layout.entry_types import EntryFields
    from pipeline.shm.reader.table import Entry, ProcessTable

__all__ = ["Subscriber"]

#: Minimum time between two lists of processes after gaps: more lists would make a slow subscriber even slower.
RESYNC_INTERVAL_S = 1.0
#: Ancestors in a snapshot event.
SNAPSHOT_LINEAGE = 8
_RETRY_S = 0.05
#: More events than one step of the resolver can make. A list can include events that are applied but not committed.
_OVERLAP_EVENTS = 1 << 20
#: After this many events, iteration in an event loop lets other tasks run.
SUSPEND_EVENTS = 64

if TYPE_CHECKING:
    from typing_extensions import TypeVar as _TypeVar

    #: What iteration yields; Python before 3.13 has no defaults for type variables.
    Yielded = _TypeVar("Yielded", bound=Event, default=Event, covariant=True)
else:
    Yielded = TypeVar("Yielded", bound="Event", covariant=True)


class _Options(TypedDict, total=False):
    """Further arguments of `Subscriber`, for its overloads."""

    select: Selection | None
    snapshot: bool
    on_loss: Callable[[LossEvent], object] | None
    path: Path | None
    endpoint: str | None
    curve: tuple[Path, Path] | None
    timeout: float | None
    idle_timeout: float | None
    follow: bool
    connect_timeout: float
    receive_hwm: int
    resume: StreamPosition | None


#: The events of these topics have their name; all others of processes are of proc.context.
_TOPIC_NUMBERS = {topic.partition(".")[2]: number for number, topic in enumerate(TOPICS)}
_CONTEXT = _TOPIC_NUMBERS["context"]


@cache  # at the first use: most subscribers never read the tables
def _commit_struct() -> struct.Struct:
    """The watermark, then the number of each slot."""
    return COMMIT_LAYOUT.struct("watermark_boot_ns", "topic_seq")


class Subscriber(Generic[Yielded]):
    """The events of an instance, for ``for`` and ``async for``, and as a context manager.

    Each event is a dict, as `procline subscribe --json` prints it. ``event["event"]`` says what it is, and
    there is a type for each, such as `pipeline.ExecEvent`. Special events have ``seq`` None:

    - ``snapshot``: a live process. It has the fields of an entry, and `left`, the number of snapshot events to come.
    - ``missed``: events were lost (`topic`, `first`, `last`, `count`, `reason`), or a new stream began.
    - ``unwatched``: events are missing, because no daemon watched the host (`unwatched_from_ns`, `unwatched_to_ns`).

    `missed` and `unwatched` arrive whatever the topics are. Compare ``event["event"]``, or pass `on_gap`.

    **Callbacks** are called in the reading thread, after all events before the gap were returned and before later ones.
    An exception that a callback raises ends the read or the iteration. The event of the callback does not come again;
    everything else is kept, so reading can continue.

    **Threads.** One thread or task at a time may read. A second one gets an `InUseError`; make a subscriber for each.
    It may be handed over between two reads. `close` may be called anywhere at any time, also by a signal handler: it
    ends a read that waits with a `ClosedError`. A child process needs its own subscriber.

    **asyncio.** ``async for`` and `read_async` wait in the event loop, without a thread. They can be cancelled without
    a loss. The constructor waits for the instance; in a program that must not block, call
    ``await asyncio.to_thread(Subscriber, ...)``.

    **Back-pressure.** A slow subscriber delays nobody. When `receive_hwm` messages wait here and `stream.hwm_messages`
    in the publisher, further messages are dropped, and a gap reports them.

    Args:
        name: name of the instance; None: ``PROCLINE_INSTANCE`` of the environment, otherwise ``default``.
        topics: names such as ``proc.exec`` or ``exec``, or families such as ``proc``; none: all of ``proc`` and
            ``sys.loss``.
        select: which processes the events are about; None: all. Events about no process are not affected.
        snapshot: begin with a ``snapshot`` event for each live process, and repeat them after a gap. Subscribe to fork,
            exec and exit as well to keep the list up to date.
        on_gap: called with each ``missed`` and ``unwatched`` event, which iteration then does not yield.
        on_loss: called with each ``loss`` event, which iteration then does not yield; it adds the topic ``sys.loss``.
        path: the directory of the instance, such as ``/run/procline/default``, if it is not the usual one.
        endpoint: a ``tcp://`` address, to subscribe to an instance on another host.
        curve: keys for `endpoint`: (file of the own secret key, file of the publisher's public key).
        timeout: iteration ends this long after it began, s; None: never.
        idle_timeout: iteration ends if no event arrives for this long, s; None: never.
        follow: if the instance ends, wait for the next one; otherwise iteration ends.
        connect_timeout: how long to wait for an instance that is being (re)started, s.
        receive_hwm: messages (of up to about 64 KiB) that may wait in this process; a storm makes some 900 a second.
        resume: `position` of an earlier subscriber: continue after it. Topics that it lacks begin with new
            events. With `snapshot`, processes are listed only after a gap.

    Raises:
        NotRunningError: the instance is not running, or did not answer. The message names the instances that do run.
        AccessError: this user may not read the stream.
        ConfigError: unknown topic, or invalid combination of arguments.
        NoProcessError: no process has a pid of ``select.under``.
        StreamVersionError: the instance uses another major version of the stream. Iteration can also raise this, after
            an upgrade of the instance.
        FrameError: the server at `endpoint` is not an instance of Procline.

    Example:
        >>> with Subscriber(topics=["exec"], on_gap=print, timeout=5) as subscriber:
        ...     for event in subscriber:
        ...         print(event["pid"], event["argv"], [ancestor["comm"] for ancestor in event["lineage"]])
        ...         break
        3000 ['backup'] ['sh', 'systemd', 'init']
    """

    @overload
    def __init__(
        self: Subscriber[ProcessEvent],
        name: str | None = ...,
        *,
        topics: Sequence[ProcessTopic],
        on_gap: Callable[[GapEvent], object],
        **options: Unpack[_Options],
    ) -> None: ...

    @overload
    def __init__(
        self: Subscriber[Event],
        name: str | None = ...,
        topics: Sequence[str] = ...,
        *,
        on_gap: Callable[[GapEvent], object] | None = ...,
        **options: Unpack[_Options],
    ) -> None: ...

    def __init__(
        self,
        name: str | None = None,
        topics: Sequence[str] = (),
        *,
        select: Selection | None = None,
        snapshot: bool = False,
        on_gap: Callable[[GapEvent], object] | None = None,
        on_loss: Callable[[LossEvent], object] | None = None,
        path: Path | None = None,
        endpoint: str | None = None,
        curve: tuple[Path, Path] | None = None,
        timeout: float | None = None,
        idle_timeout: float | None = None,
        follow: bool = True,
        connect_timeout: float = CONNECT_TIMEOUT_S,
        receive_hwm: int = RECEIVE_HWM_MESSAGES,
        resume: StreamPosition | None = None,
    ) -> None:
        topics = (topics,) if isinstance(topics, str) else tuple(topics)
        if name is None:
            # Only a name that this host knows: a directory or another host has its own.
            name = paths.chosen_instance() if path is None and endpoint is None else paths.DEFAULT_INSTANCE
        self.name = name
        self.timeout = timeout
        self.idle_timeout = idle_timeout
        self._callbacks = _callbacks_by_event(on_gap, on_loss)
        if on_loss is not None and not covers(topics, "sys.loss"):
            topics = (*topics, "sys.loss")
        self._wanted = _filter_of(select, topics)
        if self._wanted is not None:
            topics = self._wanted.topics
        needs_table = snapshot or (self._wanted is not None and self._wanted.needs_table)
        if needs_table and endpoint is not None:
            raise _needs_tables("snapshot" if snapshot else "select")
        #: Events that were read and not returned yet, and those behind a gap that `on_gap` does not know yet.
        self._ready: deque[Yielded] = deque()
        self._held: deque[Event] = deque()
        self._table: ProcessTable | None = None
        #: Why the tables could not be read after a gap. It is raised when the events before it have been returned.
        self._failure: Exception | None = None
        self._connect_timeout = connect_timeout
        self._wants_snapshot = snapshot
        self._synced_s = 0.0
        self._listed: dict[str, int] = {}
        self._dropped = 0
        self._listed_until = 0
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._is_closed = False
        directory = path if path is not None else paths.instance_dir(name)
        self._reader = self._connect(
            directory,
            topics,
            endpoint,
            names_others=path is None and endpoint is None,
            secure=_secure(curve),
            follow=follow,
            receive_hwm=receive_hwm,
            resume=resume,
        )
        #: Position when the caller had all events that were read before the last ones, and behind the last ones.
        self._given = self._reached = self._reader.tracker.position
        if needs_table:
            try:
                self._read_tables(directory, is_new=resume is None)
            except BaseException:
                self.close()
                raise

    def _connect(
        self,
        directory: Path,
        topics: Sequence[str],
        endpoint: str | None,
        *,
        names_others: bool,
        secure: Callable[[zmq.Socket[bytes]], None] | None,
        follow: bool,
        receive_hwm: int,
        resume: StreamPosition | None,
    ) -> StreamReader:
        """Subscribe at `endpoint` or in `directory`; with `names_others` an error names the instances that do run."""
        try:
            return StreamReader(
                endpoint or paths.endpoint(paths.stream_socket(directory)),
                topics,
                secure=secure,
                follow=follow,
                connect_timeout=self._connect_timeout,
                receive_hwm=receive_hwm,
                instance=self.name,
                skips=None if self._wanted is None else self._wanted.skips,
                only=None if self._wanted is None else self._wanted.only,
                resume=resume,
                journal=None if endpoint is not None else lambda: _journal_of(directory),
            )
        except NotRunningError as error:
            if not names_others:
                raise
            from pipeline.host.instances import name_others

            raise name_others(_for_a_topic(error)) from None

    def __repr__(self) -> str:
        return f"<Subscriber {self.name!r}{' closed' if self._is_closed else ''}>"

    # -- reading -------------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Yielded]:
        ready = self._ready
        pop = ready.popleft
        deadline = None if self.timeout is None else time.monotonic() + self.timeout
        while deadline is None or time.monotonic() < deadline:
            try:
                event = pop()
            except IndexError:
                events = self.read(self._iteration_wait(deadline))
                if not events:
                    return
                ready.extend(events)
                continue
            yield event

    async def __aiter__(self) -> AsyncIterator[Yielded]:
        import asyncio  # deferred: see StreamReader.read_async

        ready = self._ready
        pop = ready.popleft
        deadline = None if self.timeout is None else time.monotonic() + self.timeout
        since_suspended = 0
        while deadline is None or time.monotonic() < deadline:
            if since_suspended >= SUSPEND_EVENTS:  # a snapshot can be long
                since_suspended = 0
                await asyncio.sleep(0)
            try:
                event = pop()
            except IndexError:
                since_suspended = 0
                events = await self.read_async(self._iteration_wait(deadline))
                if not events:
                    return
                ready.extend(events)
                continue
            since_suspended += 1
            yield event

    def _iteration_wait(self, deadline: float | None) -> float | None:
        """How long iteration may wait for the next event."""
        if deadline is None:
            return self.idle_timeout
        left = max(0.0, deadline - time.monotonic())
        return left if self.idle_timeout is None else min(left, self.idle_timeout)

    def read(self, timeout: float | None = None, *, limit: int | None = None) -> list[Yielded]:
        """Return the events that have arrived; wait for the first one.

        Args:
            timeout: maximum wait, s; None: unlimited; 0: do not wait; none are returned only if no message is queued.
            limit: return at most this many; the next read returns the others. None: all.

        Returns:
            The events in the order in which they were applied. The list is empty if the timeout expired, or if the
            instance ended and `follow` is off.

        Raises:
            ClosedError: the subscriber is closed, or was closed while this waited.
            InUseError: another thread or task reads at the moment.
            LayoutError, AccessError: after a gap, the tables could not be read for a new list or for ``select.under``,
                for example because the instance was upgraded. All events before the gap have been returned, and reading
                can continue: a list is tried again every second, descendants at the next gap.

        Example:
            >>> with Subscriber(topics=["exec"]) as subscriber:
            ...     events = subscriber.read(timeout=5)
            >>> events[0]["event"], events[0]["pid"]
            ('exec', 3000)
        """
        self._begin()
        try:
            if self._ready:
                return self._take_ready(limit)
            deadline = None if timeout is None else time.monotonic() + timeout
            events = self._deliver(())
            while not events:
                self._raise_failure()
                arrived = self._arrived(self._reader.read(self._patience(deadline)))
                events = self._deliver(arrived)
                if not arrived and self._is_over(timeout, deadline):
                    self._raise_failure()
                    break
            if limit is not None and len(events) > limit:
                self._ready.extend(events)
                return self._take_ready(limit)
            return events
        finally:
            self._end()

    async def read_async(self, timeout: float | None = None) -> list[Yielded]:
        """Do the same as `read`, in the running event loop. No event is lost if it is cancelled.

        Example:
            >>> import asyncio
            >>> async def first():
            ...     async with Subscriber(topics=["exec"]) as subscriber:
            ...         return (await subscriber.read_async(timeout=5))[0]
            >>> asyncio.run(first())["pid"]
            3000
        """
        self._begin()
        try:
            if self._ready:
                return self._take_ready()
            deadline = None if timeout is None else time.monotonic() + timeout
            events = self._deliver(())
            while not events:
                self._raise_failure()
                arrived = self._arrived(await self._reader.read_async(self._patience(deadline)))
                events = self._deliver(arrived)
                if not arrived and self._is_over(timeout, deadline):
                    self._raise_failure()
                    break
            return events
        finally:
            self._end()

    def _arrived(self, events: list[Event]) -> list[Event]:
        """Return the wanted ones of the events that were just read, and a list of processes after a gap."""
        if not self._held:
            self._given = self._reached
        arrived = self._select(self._sync(events))
        self._reached = self._reader.tracker.position
        return arrived

    def _begin(self) -> None:
        """Enter a call that uses the socket or the tables."""
        if self._is_closed:
            raise ClosedError(f"the subscriber of {self.name!r} is closed: make another one to read on")
        if os.getpid() != self._pid:
            raise InUseError(f"this subscriber belongs to process {self._pid}: make another one in each child process")
        if not self._lock.acquire(blocking=False):
            raise InUseError(
                f"another thread or task reads from this subscriber of {self.name!r} (or a callback, in this thread): "
                "make a subscriber for each"
            )

    def _end(self) -> None:
        self._lock.release()
        if self._is_closed:  # by another thread, a callback or a signal handler, while this one was reading
            self._release()

    def _take_ready(self, limit: int | None = None) -> list[Yielded]:
        count = len(self._ready) if limit is None else min(limit, len(self._ready))
        return [self._ready.popleft() for _ in range(count)]

    def _deliver(self, arrived: Sequence[Event]) -> list[Yielded]:
        """Call the callbacks at the front of the events; return the events up to the next one, and hold back others."""
        if not self._callbacks:
            return cast("list[Yielded]", arrived)
        held = self._held
        held.extend(arrived)
        ready: list[Event] = []
        while held:
            callback = self._callbacks.get(held[0]["event"])
            if callback is None:
                ready.append(held.popleft())
            elif ready:
                break
            else:
                callback(held.popleft())
        return cast("list[Yielded]", ready)

    def _patience(self, deadline: float | None) -> float | None:
        """How long to wait for messages: until the deadline, or until the processes may be listed again."""
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if self._wants_snapshot and self._reader.tracker.stale:
            resync = max(0.0, self._synced_s + RESYNC_INTERVAL_S - time.monotonic())
            return resync if left is None else min(left, resync)
        return left

    def _is_over(self, timeout: float | None, deadline: float | None) -> bool:
        if self._reader.is_over:
            return True
        if timeout is None or deadline is None or time.monotonic() < deadline:
            return False
        # The descriptor signals nothing while messages are queued, so a read that must not wait continues to their end.
        return timeout > 0 or self._reader.is_drained

    def _sync(self, events: list[Event]) -> list[Event]:
        """Drop the events that the last list of processes shows already, and add a new list after a gap."""
        if self._listed and events:
            first = events[0].get("order")
            if isinstance(first, int) and first > self._listed_until:  # otherwise a special event
                self._listed = {}
            else:
                arrived = len(events)
                events = [event for event in events if not self._is_listed(event)]
                self._dropped += arrived - len(events)
        # Not before everything that the journal has was read: the list replaces all events up to now.
        if self._wants_snapshot and self._reader.tracker.stale and not self._reader.tracker.held:
            now = time.monotonic()
            if now >= self._synced_s + RESYNC_INTERVAL_S:
                # A gap is reported at the end of its group, which may not have arrived. This list includes what is
                # missing, and no other list follows, so the gap must be reported before it.
                events += cast("list[Event]", self._reader.tracker.take_notes())
                events += self._resync(now)
        return events

    # -- selecting -----------------------------------------------------------------------------------------------------

    def _select(self, events: list[Event]) -> list[Event]:
        return events if self._wanted is None else self._wanted.of(events, self._follow_again)

    def _follow_descendants(self, deadline: float) -> None:
        """Read the descendants of `under`; retry until `deadline` (monotonic, s) while a resolver is being replaced."""
        wanted = self._wanted
        if wanted is None or not wanted.needs_table:
            return
        while True:
            try:
                missing = wanted.start(self._identities(), self._now_ns())
                break
            except (StaleError, BusyError):
                if time.monotonic() >= deadline:
                    raise
                time.sleep(_RETRY_S)
        if missing:
            raise NoProcessError(
                f"instance {self.name!r} knows no process {', '.join(map(str, missing))}: it has never existed, or "
                "ended so long ago that it is no longer retained",
                pids=tuple(missing),
            )

    def _follow_again(self) -> None:
        # Without the tables, what is known stays valid, and the next gap tries again.
        assert self._wanted is not None
        try:
            self._wanted.start(self._identities(), self._now_ns())
        except (StaleError, BusyError, NotRunningError):
            pass
        except (ProclineError, OSError) as error:
            self._failure = error

    def _now_ns(self) -> int:
        assert self._table is not None
        return self._table.view.now_unix_ns()

    def _identities(self) -> list[EntryFields]:
        from pipeline.select.following import FIELDS

        assert self._table is not None
        return cast("list[EntryFields]", self._table.batch(FIELDS).dicts())

    # -- position ------------------------------------------------------------------------------------------------------

    @property
    def position(self) -> StreamPosition:
        """The position behind the last event that the caller was given. Store it to `resume` from there.

        Events that `read` has returned, that iteration has yielded and that a callback got are given.

        Example:
            >>> with Subscriber(topics=["exec"]) as subscriber:
            ...     events = subscriber.read(timeout=5)
            ...     subscriber.position.next["proc.exec"] == events[-1]["seq"] + 1
            True
        """
        stream, following, time_ns = self._reached
        pending = [*self._held, *self._ready]
        if any(event["seq"] is None and event.get("topic") is None for event in pending):
            # These stand before others, and a list of processes or a restart cannot be resumed in the middle.
            stream, following, time_ns = self._given
            return self._position_at(stream, following, time_ns)
        following = list(following)
        for event in pending:
            if event["event"] == "missed":
                number, seq = TOPICS.index(cast("str", event["topic"])), event["first"]
            else:
                number, seq = _TOPIC_NUMBERS.get(event["event"], _CONTEXT), event["seq"]
            if isinstance(seq, int):
                following[number] = min(following[number], seq)
        return self._position_at(stream, following, time_ns if not pending else self._given[2])

    def _position_at(self, stream: int, following: Sequence[int], time_ns: int | None) -> StreamPosition:
        mask = self._reader.tracker.mask
        numbers = {topic: following[number] for number, topic in enumerate(TOPICS) if mask >> number & 1}
        return StreamPosition(stream, numbers, time_ns)

    # -- counters ------------------------------------------------------------------------------------------------------

    @property
    def missed(self) -> int:
        """Number of events that were published but not received.

        Example:
            >>> with Subscriber() as subscriber:
            ...     subscriber.missed
            0
        """
        return self._reader.tracker.missed.total()

    @property
    def missed_by_topic(self) -> dict[str, int]:
        """Number of missed events by topic.

        Example:
            >>> with Subscriber() as subscriber:
            ...     subscriber.missed_by_topic
            {}
        """
        return dict(self._reader.tracker.missed)

    @property
    def unwatched(self) -> list[tuple[int, int]]:
        """(from, to) of the last periods without a daemon on this host, ns since the Unix epoch, oldest first.

        Example:
            >>> with Subscriber() as subscriber:
            ...     subscriber.unwatched
            []
        """
        return list(self._reader.tracker.unwatched)

    @property
    def repeats(self) -> int:
        """Number of events that were received again after a resolver was replaced, and were dropped.

        Example:
            >>> with Subscriber() as subscriber:
            ...     subscriber.repeats
            0
        """
        return self._reader.tracker.repeats

    @property
    def listed(self) -> int:
        """Number of events that were dropped because the last list of processes shows what they report.

        Their numbers are missing without a ``missed`` event: directly after a ``snapshot``.

        Example:
            >>> with Subscriber(snapshot=True) as subscriber:
            ...     subscriber.listed
            0
        """
        return self._dropped + self._reader.tracker.listed

    @property
    def recovered(self) -> int:
        """Number of events that were read from the journal, because the stream had lost them or before this began.

        Example:
            >>> with Subscriber() as subscriber:
            ...     subscriber.recovered
            0
        """
        return self._reader.tracker.recovered

    @property
    def refused(self) -> int:
        """Number of messages that could not be read, and of events with impossible fields.

        Example:
            >>> with Subscriber() as subscriber:
            ...     subscriber.refused
            0
        """
        malformed = self._wanted.malformed if self._wanted is not None else 0
        return self._reader.refused + malformed

    @property
    def is_incomplete(self) -> bool:
        """Whether ``select.under`` has more descendants than are kept, so that events of some of them are left out.

        Example:
            >>> with Subscriber(select=Selection(under=[901])) as subscriber:
            ...     subscriber.is_incomplete
            False
        """
        return self._wanted is not None and self._wanted.is_incomplete

    @property
    def closed(self) -> bool:
        """Whether `close` was called.

        Example:
            >>> with Subscriber() as subscriber:
            ...     pass
            >>> subscriber.closed
            True
        """
        return self._is_closed

    @property
    def host(self) -> str:
        """Name of the publishing host.

        Example:
            >>> import socket
            >>> with Subscriber() as subscriber:
            ...     subscriber.host == socket.gethostname()
            True
        """
        return self._reader.welcome.host

    @property
    def boot_id(self) -> str:
        """Boot id of the publishing host, as 32 hexadecimal digits.

        Example:
            >>> with Subscriber(topics=["exec"]) as subscriber:
            ...     subscriber.read(timeout=5)[0]["entity_id"].startswith(subscriber.boot_id)
            True
        """
        return self._reader.welcome.boot.hex()

    def fileno(self) -> int:
        """Return a descriptor for select(2) and similar calls.

        It is edge-triggered: call `read` with timeout 0 until it returns no events, then wait.

        Example:
            >>> from select import select
            >>> with Subscriber(topics=["exec"]) as subscriber:
            ...     while not (events := subscriber.read(timeout=0)):
            ...         readable, _, _ = select([subscriber], [], [], 1)
            >>> events[0]["pid"]
            3000
        """
        self._begin()
        try:
            return self._reader.fileno()
        finally:
            self._end()

    # -- the list of processes -----------------------------------------------------------------------------------------

    def _read_tables(self, directory: Path, *, is_new: bool) -> None:
        """Open the tables; read the descendants of `under`, and the first list of processes unless reading resumes."""
        deadline = time.monotonic() + self._connect_timeout
        self._table = _attach(self.name, directory, deadline)
        self._follow_descendants(deadline)
        if self._wants_snapshot and is_new:
            self._ready.extend(self._deliver(self._select(self._snapshot(deadline))))

    def _resync(self, now: float) -> list[Event]:
        self._synced_s = now
        try:
            return self._snapshot(now)
        except (StaleError, BusyError, NotRunningError):
            return []  # the instance is starting; the tracker stays stale, so this is retried
        except (ProclineError, OSError) as error:
            self._failure = error
            return []

    def _raise_failure(self) -> None:
        """Raise what made the tables unreadable, once."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _snapshot(self, deadline: float) -> list[Event]:
        """List the processes; retry until `deadline` (monotonic, s) while a resolver is being replaced."""
        while True:
            try:
                return self._list()
            except (StaleError, BusyError):
                if time.monotonic() >= deadline:
                    raise
                time.sleep(_RETRY_S)

    def _list(self) -> list[Event]:
        table = self._table
        assert table is not None
        tracker = self._reader.tracker
        watermark_boot_ns, *seqs = _commit_struct().unpack_from(table.commit())
        if seqs[SLOT_STREAM] != tracker.stream:
            raise StaleError("the tables and the stream do not have the same epoch yet: try again")
        watermark_ns = watermark_boot_ns + table.view.boot_unix_ns
        events: list[SnapshotEvent] = []
        listed: dict[str, int] = {}
        for entry in table.walk():
            # A process that ended after C was read is listed too, because its exit event follows.
            if entry.exit_time_ns is not None and entry.exit_time_ns < watermark_ns:
                continue
            try:
                fields = entry.to_dict()
                chain = table.ancestors(entry)
            except TooOldError:
                continue
            events.append(_snapshot_event(fields, [entry, *chain], watermark_ns))
            entity_id, images = fields["entity_id"], fields["images"]
            if isinstance(entity_id, str) and isinstance(images, int):
                listed[entity_id] = images
        for left, event in enumerate(reversed(events)):
            event["left"] = left
        tracker.skip_to(seqs)
        tracker.stale = False
        self._listed = listed
        # Compare numbers, not times: a recording may be replayed faster than it was made.
        _, *seqs = _commit_struct().unpack_from(table.commit())
        self._listed_until = seqs[SLOT_ORDER] + _OVERLAP_EVENTS
        self._synced_s = time.monotonic()
        return list(events)

    def _is_listed(self, event: Event) -> bool:
        """Whether the list already shows the new process of a fork, or the new image of an exec."""
        if event["event"] != "fork" and event["event"] != "exec":
            return False
        entity_id, images = event.get("entity_id"), event.get("images")  # a publisher can send anything
        if not isinstance(entity_id, str) or not isinstance(images, int):
            return False
        listed = self._listed.get(entity_id)
        return listed is not None and images <= listed

    # -- end -----------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the stream and the tables. Calling it again does nothing.

        Any thread, callback and signal handler may call this: a read that waits ends with a ClosedError.

        Example:
            >>> subscriber = Subscriber()
            >>> subscriber.close()
            >>> subscriber.read()
            Traceback (most recent call last):
            pipeline.errors.ClosedError: the subscriber of 'default' is closed: make another one to read on
        """
        self._is_closed = True
        self._reader.interrupt()
        self._release()

    def _release(self) -> None:
        """Close everything, unless a read is under way: it will do this at its end."""
        if self._lock.acquire(blocking=False):
            try:
                self._reader.close()
                if self._table is not None:
                    self._table.close()
            finally:
                self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()


def _callbacks_by_event(
    on_gap: Callable[[GapEvent], object] | None, on_loss: Callable[[LossEvent], object] | None
) -> dict[str, Callable[[Event], object]]:
    """Return the callbacks by the name of the event that they get."""
    callbacks: dict[str, Callable[[Event], object]] = {}
    if on_gap is not None:
        found = cast("Callable[[Event], object]", on_gap)
        callbacks = {"missed": found, "unwatched": found}
    if on_loss is not None:
        callbacks["loss"] = cast("Callable[[Event], object]", on_loss)
    return callbacks


def _needs_tables(key: str) -> ConfigError:
    """Return the error of an argument that needs the tables, which a subscriber to another host does not have."""
    what = "a snapshot is" if key == "snapshot" else "descendants (under) are"
    return ConfigError(f"{what} read from the tables of this host: omit either {key} or endpoint", key=key)


def _attach(name: str, directory: Path, deadline: float) -> ProcessTable:
    """Open the tables; retry until `deadline`, because an instance can publish while it still fills its tables."""
    # Deferred: most subscribers never read the tables.
    from pipeline.shm.reader.table import ProcessTable

    while True:
        try:
            return ProcessTable.attach(name, path=directory)
        except NotRunningError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_RETRY_S)


def _for_a_topic(error: NotRunningError) -> NotRunningError:
    """Return an error that also says where topics belong, if the name of the instance is that of a topic."""
    name = error.instance
    try:
        subscription_prefixes([name])
    except ConfigError:
        return error
    return type(error)(f"{error}; to read events of this topic, write topics=[{name!r}]", instance=name)


def _journal_of(directory: Path) -> JournalReader | None:
    """Open the journal; None: there is none that this user may read."""
    # Deferred: a subscriber that misses nothing does not read it.
    from pipeline.bus.stream.journal import JournalReader, open_journal

    journal = open_journal(directory)
    if journal is not None or paths.stream_inner_socket(directory).exists():
        return journal
    # Only the sockets of the instance are visible here, as in a container into which they were mounted.
    from pipeline.bus.requests import JournalRequests

    return JournalReader(JournalRequests(paths.requests_socket(directory)))


def _filter_of(select: Selection | None, topics: tuple[str, ...]) -> EventFilter | None:
    if not select:
        return None
    # Deferred: most subscribers select nothing.
    from pipeline.client.event_filter import EventFilter

    return EventFilter(select, topics)


def _secure(curve: tuple[Path, Path] | None) -> Callable[[zmq.Socket[bytes]], None] | None:
    if curve is None:
        return None
    key, server = curve

    def secure(socket: zmq.Socket[bytes]) -> None:
        from pipeline.bus.auth import secure_client

        secure_client(socket, key=key, server=server)

    return secure


def _snapshot_event(fields: dict[str, object], chain: Sequence[Entry], time_ns: int) -> SnapshotEvent:
    """Return the first entry of a chain, which has these fields, in the form of an event."""
    from pipeline.shm.reader.lineage import is_complete

    event: dict[str, object] = {"event": "snapshot", "seq": None, "order": None, "time_ns": time_ns, **fields}
    event["lineage"] = [
        {
            "pid": ancestor.pid,
            "start_time_ns": ancestor.start_time_ns,
            "comm": ancestor.comm,
            "path": ancestor.path,
            "entity_id": ancestor.entity_id,
        }
        for ancestor in chain[1 : SNAPSHOT_LINEAGE + 1]
    ]
    event["lineage_truncated"] = len(chain) > SNAPSHOT_LINEAGE + 1
    event["lineage_complete"] = None if fields["is_kworker"] else is_complete(chain)
    return cast("SnapshotEvent", event)
