"""`Subscriber`: the events of this host's processes, each with the lineage at that time.

    for event in Subscriber(topics=["exec"]):
        print(event["pid"], event["argv"], [ancestor["comm"] for ancestor in event["lineage"]])

`pipeline.bus.stream.stream_reader` reads the socket. This module combines the stream with a snapshot of the tables. A
subscriber that joins late proceeds in this order:

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

import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, cast

from pipeline import paths
from pipeline.bus.stream.event import Ancestor, Event
from pipeline.bus.stream.stream_reader import CONNECT_TIMEOUT_S, RECEIVE_HWM_MESSAGES, StreamReader
from pipeline.errors import BusyError, ConfigError, NotRunningError, StaleError, TooOldError
from pipeline.shm.layout.declared import COMMIT_LAYOUT, SLOT_ORDER, SLOT_STREAM

if TYPE_CHECKING:
    import zmq

    from pipeline.shm.reader.table import Entry, ProcessTable

__all__ = ["Ancestor", "Event", "Subscriber"]

#: Minimum time between two lists of processes after gaps: more lists would make a slow subscriber even slower.
RESYNC_INTERVAL_S = 1.0
#: Ancestors in a snapshot event.
SNAPSHOT_LINEAGE = 8
_RETRY_S = 0.05
#: More events than one step of the resolver can make. A list can include events that are applied but not committed.
_OVERLAP_EVENTS = 1 << 20

_WATERMARK = COMMIT_LAYOUT.struct("watermark_boot_ns")
_TOPIC_SEQ = COMMIT_LAYOUT.struct("topic_seq")


class Subscriber:
    """Iterates over the events of an instance, with ``for`` or ``async for``.

    Each event is a dict, as `procline subscribe --json` prints it. Special events have ``seq`` None:

    - ``snapshot``: a live process. It has the fields of an entry, and `left`, the number of snapshot events to come.
    - ``missed``: events were lost (`topic`, `first`, `last`, `count`, `reason`), or a new stream began.
    - ``unwatched``: events are missing, because no daemon watched the host (`unwatched_from_ns`, `unwatched_to_ns`).

    Args:
        name: name of the instance.
        topics: names such as ``proc.exec`` or ``exec``, or families such as ``proc``; none: all of ``proc`` and
            ``sys.loss``.
        snapshot: begin with a ``snapshot`` event for each live process, and repeat them after a gap. Subscribe to fork,
            exec and exit as well to keep the list up to date.
        path: the instance's runtime directory, if it is not the usual one.
        endpoint: a ``tcp://`` address, to subscribe to an instance on another host.
        curve: keys for `endpoint`: (file of the own secret key, file of the publisher's public key).
        timeout: iteration ends if no event arrives for this long, s; None: never.
        follow: if the instance ends, wait for the next one; otherwise iteration ends.
        connect_timeout: how long to wait for an instance that is being (re)started, s.
        receive_hwm: messages (of up to about 64 KiB) that may wait in this process; a storm makes some 900 a second.

    Raises:
        NotRunningError: the instance is not running, or did not answer.
        AccessError: this user may not read the stream.
        ConfigError: unknown topic, or invalid combination of arguments.
        StreamVersionError: the instance uses another major version of the stream. Iteration can also raise this, after
            an upgrade of the instance.
    """

    def __init__(
        self,
        name: str = paths.DEFAULT_INSTANCE,
        topics: Sequence[str] = (),
        *,
        snapshot: bool = False,
        path: Path | None = None,
        endpoint: str | None = None,
        curve: tuple[Path, Path] | None = None,
        timeout: float | None = None,
        follow: bool = True,
        connect_timeout: float = CONNECT_TIMEOUT_S,
        receive_hwm: int = RECEIVE_HWM_MESSAGES,
    ) -> None:
        if isinstance(topics, str):
            topics = (topics,)
        if snapshot and endpoint is not None:
            raise ConfigError(
                "a snapshot is read from the tables of this host: omit either snapshot or endpoint", key="snapshot"
            )
        self.name = name
        self.timeout = timeout
        self._pending: deque[Event] = deque()
        self._table: ProcessTable | None = None
        self._connect_timeout = connect_timeout
        self._wants_snapshot = snapshot
        self._synced_s = 0.0
        self._listed: dict[str, int] = {}
        self._listed_until = 0
        directory = path if path is not None else paths.instance_dir(name)
        self._reader = StreamReader(
            endpoint or paths.endpoint(paths.stream_socket(directory)),
            topics,
            secure=_secure(curve),
            follow=follow,
            connect_timeout=connect_timeout,
            receive_hwm=receive_hwm,
            instance=name,
        )
        if snapshot:
            try:
                deadline = time.monotonic() + connect_timeout
                self._table = _attach(name, directory, deadline)
                self._pending.extend(self._snapshot(deadline))
            except BaseException:
                self.close()
                raise

    # -- reading -------------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Event]:
        pending = self._pending
        while True:
            while pending:
                yield pending.popleft()
            events = self.read(self.timeout)
            if not events:
                return
            pending.extend(events)

    async def __aiter__(self) -> AsyncIterator[Event]:
        pending = self._pending
        while True:
            while pending:
                yield pending.popleft()
            events = await self.read_async(self.timeout)
            if not events:
                return
            pending.extend(events)

    def read(self, timeout: float | None = None) -> list[Event]:
        """Return the events that have arrived; wait for the first one.

        Args:
            timeout: maximum wait, s; None: unlimited.

        Returns:
            The events in the order in which they were applied. The list is empty if the timeout expired, or if the
            instance ended and `follow` is off.
        """
        if self._pending:
            return self._take_pending()
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            events = self._filter(self._reader.read(self._patience(deadline)))
            if events or self._is_over(deadline):
                return events

    async def read_async(self, timeout: float | None = None) -> list[Event]:
        """Do the same as `read`, in the running event loop."""
        if self._pending:
            return self._take_pending()
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            events = self._filter(await self._reader.read_async(self._patience(deadline)))
            if events or self._is_over(deadline):
                return events

    def _take_pending(self) -> list[Event]:
        events = list(self._pending)
        self._pending.clear()
        return events

    def _patience(self, deadline: float | None) -> float | None:
        """How long to wait for messages: until the deadline, or until the processes may be listed again."""
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if self._wants_snapshot and self._reader.tracker.stale:
            resync = max(0.0, self._synced_s + RESYNC_INTERVAL_S - time.monotonic())
            return resync if left is None else min(left, resync)
        return left

    def _is_over(self, deadline: float | None) -> bool:
        return self._reader.is_over or (deadline is not None and time.monotonic() >= deadline)

    def _filter(self, events: list[Event]) -> list[Event]:
        if self._listed and events:
            first = events[0].get("order")  # None: a special event
            if first is not None and first > self._listed_until:
                self._listed = {}
            else:
                events = [event for event in events if not self._is_listed(event)]
        if self._wants_snapshot and self._reader.tracker.stale:
            now = time.monotonic()
            if now >= self._synced_s + RESYNC_INTERVAL_S:
                events += self._resync(now)
        return events

    # -- counters ------------------------------------------------------------------------------------------------------

    @property
    def missed(self) -> int:
        """Number of events that were published but not received."""
        return self._reader.tracker.missed.total()

    @property
    def missed_by_topic(self) -> dict[str, int]:
        """Number of missed events by topic."""
        return dict(self._reader.tracker.missed)

    @property
    def unwatched(self) -> list[tuple[int, int]]:
        """(from, to) of the last periods without a daemon on this host, ns since the Unix epoch, oldest first."""
        return list(self._reader.tracker.unwatched)

    @property
    def repeats(self) -> int:
        """Number of events that were received again after a resolver was replaced, and were dropped."""
        return self._reader.tracker.repeats

    @property
    def refused(self) -> int:
        """Number of messages that could not be read."""
        return self._reader.refused

    @property
    def host(self) -> str:
        """Name of the publishing host."""
        return self._reader.welcome.host

    def fileno(self) -> int:
        """Return a descriptor for select(2) and similar calls.

        It is edge-triggered: call `read` with timeout 0 until it returns no events, then wait.
        """
        return self._reader.fileno()

    # -- the list of processes -----------------------------------------------------------------------------------------

    def _resync(self, now: float) -> list[Event]:
        self._synced_s = now
        try:
            return self._snapshot(now)
        except (StaleError, BusyError, NotRunningError):
            return []  # the instance is starting; the tracker stays stale, so this is retried

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
        commit = bytes(table.commit())
        (watermark_boot_ns,) = _WATERMARK.unpack_from(commit)
        seqs = _TOPIC_SEQ.unpack_from(commit)
        if seqs[SLOT_STREAM] != tracker.stream:
            raise StaleError("the tables and the stream do not have the same epoch yet: try again")
        watermark_ns = watermark_boot_ns + table.view.boot_unix_ns
        events: list[Event] = []
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
            events.append(_snapshot_event(fields, chain, watermark_ns))
            entity_id, images = fields["entity_id"], fields["images"]
            if isinstance(entity_id, str) and isinstance(images, int):
                listed[entity_id] = images
        for left, event in enumerate(reversed(events)):
            event["left"] = left
        tracker.skip_to(seqs)
        tracker.stale = False
        self._listed = listed
        # Compare numbers, not times: a recording may be replayed faster than it was made.
        self._listed_until = _TOPIC_SEQ.unpack_from(bytes(table.commit()))[SLOT_ORDER] + _OVERLAP_EVENTS
        self._synced_s = time.monotonic()
        return events

    def _is_listed(self, event: Event) -> bool:
        """Whether the list already shows the new process of a fork, or the new image of an exec."""
        if event["event"] not in ("fork", "exec") or event["seq"] is None:
            return False
        listed = self._listed.get(event["entity_id"] or "")
        images = event["images"]
        return listed is not None and images is not None and images <= listed

    # -- end -----------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the stream and the tables. Calling it again does nothing."""
        self._reader.close()
        if self._table is not None:
            self._table.close()

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


def _secure(curve: tuple[Path, Path] | None) -> Callable[[zmq.Socket[bytes]], None] | None:
    if curve is None:
        return None
    key, server = curve

    def secure(socket: zmq.Socket[bytes]) -> None:
        from pipeline.bus.auth import secure_client

        secure_client(socket, key=key, server=server)

    return secure


def _snapshot_event(fields: dict[str, object], chain: Sequence[Entry], time_ns: int) -> Event:
    """Return an entry in the form of an event."""
    event = cast("Event", {"event": "snapshot", "seq": None, "order": None, "time_ns": time_ns, **fields})
    event["lineage"] = [
        {
            "pid": ancestor.pid,
            "start_time_ns": ancestor.start_time_ns,
            "comm": ancestor.comm,
            "path": ancestor.path,
            "entity_id": ancestor.entity_id,
        }
        for ancestor in chain[:SNAPSHOT_LINEAGE]
    ]
    event["lineage_truncated"] = len(chain) > SNAPSHOT_LINEAGE
    return event
