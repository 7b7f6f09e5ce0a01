"""`Subscriber`: the events of this host's processes, each with its lineage as it was then.

    for event in Subscriber(topics=["exec"]):
        print(event["pid"], event["argv"], [ancestor["comm"] for ancestor in event["lineage"]])

The socket is `pipeline.bus.stream.stream_reader`'s; here the stream is joined with the tables. **Late joiner**:
subscribe, wait for the welcome, read which numbers the tables have committed (C), list the processes, go on with what
is numbered above C. Nothing can fall between: the welcome is sent between two steps, so what was published before it is
in the tables, and what is published after it reaches us. An event may be in both (applied after C was read and before
its process was listed); a fork or an exec that the list shows already is not told again. After a gap this is done anew.

Imports numpy only with the tables, so only for a snapshot.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from pipeline import paths
from pipeline.bus.stream.messages import Event
from pipeline.bus.stream.stream_reader import CONNECT_TIMEOUT_S, RECEIVE_HWM_MESSAGES, StreamReader
from pipeline.errors import BusyError, ConfigError, NotRunningError, StaleError, TooOldError
from pipeline.shm.layout.declared import COMMIT_LAYOUT, SLOT_ORDER, SLOT_STREAM

if TYPE_CHECKING:
    from pipeline.shm.reader.table import ProcessTable

#: After a gap the processes are listed again, at most this often: a subscriber that is too slow would else be slower.
RESYNC_INTERVAL_S = 1.0
SNAPSHOT_LINEAGE = 8
_RETRY_S = 0.05
#: Events that one step of the resolver may make, and far more: what it has applied and not committed may be listed.
_OVERLAP_EVENTS = 1 << 20

_WATERMARK = COMMIT_LAYOUT.struct("watermark_boot_ns")
_TOPIC_SEQ = COMMIT_LAYOUT.struct("topic_seq")


class Subscriber:
    """Iterates over the events of an instance, sync or async; each is a dict as `procline subscribe --json` prints it.

    Args:
        name: of the instance.
        topics: ``proc.exec``, short ``exec``, or families (``proc``); none: all of ``proc`` and ``sys.loss``.
        snapshot: first give a ``snapshot`` event for each process that lives, and again after a gap. Needs a topic of
            each of fork, exec and exit to be of use.
        path: the instance's runtime directory, where that is not the usual one.
        endpoint: a ``tcp://`` address instead of the instance on this host.
        curve: for `endpoint`: (file of the own secret key, file of the publisher's public key).
        timeout: iteration ends when nothing came for so long, s; None: never.
        follow: go on when the instance ends, and wait for the next; else iteration ends there.
        connect_timeout: how long to wait at first for an instance that is just being (re)started, s.
        receive_hwm: messages (of up to about 64 KiB) that may wait in this process; a storm makes some 900 a second.

    Special events have ``seq`` None: ``snapshot`` (the entry's fields, and `left`, how many are still to come) and
    ``missed`` (`topic`, `first`, `last`, `count`, `reason`: numbers that never came, or a stream that began anew), and
    ``unwatched`` (`unwatched_from_ns`, `unwatched_to_ns`: between two daemons nobody watched, so events are missing).

    Raises:
        NotRunningError: no such instance, or nobody answered.
        AccessError: the caller may not read it.
        ConfigError: unknown topic or wrong combination of arguments.
        StreamVersionError: it speaks another major version of the stream; also from the iteration, after an upgrade.
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
                "a snapshot comes from the tables of this host: leave out snapshot or endpoint", key="snapshot"
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
        """Return all events that have come; wait up to `timeout` s for the first (None: for ever).

        Returns:
            Events in the order in which they were applied; none: time is up, or the instance ended and `follow` is off.
        """
        if self._pending:
            return self._take_pending()
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            events = self._filter(self._reader.read(self._patience(deadline)))
            if events or self._is_over(deadline):
                return events

    async def read_async(self, timeout: float | None = None) -> list[Event]:
        """Do as `read` does, in the running event loop."""
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
        """How long to wait for messages: till the deadline, or till the list may be made again."""
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if self._wants_snapshot and self._reader.tracker.stale:
            resync = max(0.0, self._synced_s + RESYNC_INTERVAL_S - time.monotonic())
            return resync if left is None else min(left, resync)
        return left

    def _is_over(self, deadline: float | None) -> bool:
        return self._reader.is_over or (deadline is not None and time.monotonic() >= deadline)

    def _filter(self, events: list[Event]) -> list[Event]:
        if self._listed and events:
            first = events[0].get("order")  # none: a note about the stream
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
        """Events that were published and never came here."""
        return self._reader.tracker.missed.total()

    @property
    def missed_by_topic(self) -> dict[str, int]:
        """The same by topic."""
        return dict(self._reader.tracker.missed)

    @property
    def unwatched(self) -> list[tuple[int, int]]:
        """(from, to) of the last times in which no daemon watched this host, ns since the Unix epoch, oldest first."""
        return list(self._reader.tracker.unwatched)

    @property
    def repeats(self) -> int:
        """Events that came again after a resolver was replaced, and were dropped."""
        return self._reader.tracker.repeats

    @property
    def refused(self) -> int:
        """Messages that could not be read."""
        return self._reader.refused

    @property
    def host(self) -> str:
        """Name of the publishing host."""
        return self._reader.welcome.host

    def fileno(self) -> int:
        """For select and friends; edge-triggered: read with timeout 0 until nothing comes before waiting on it."""
        return self._reader.fileno()

    # -- the list of processes -----------------------------------------------------------------------------------------

    def _resync(self, now: float) -> list[Event]:
        self._synced_s = now
        try:
            return self._snapshot(now)
        except (StaleError, BusyError, NotRunningError):
            return []  # the instance is on its way; the tracker stays stale, so this is tried again

    def _snapshot(self, deadline: float) -> list[Event]:
        """List the processes. Tried again until `deadline` (monotonic, s) while a resolver is being replaced."""
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
            raise StaleError("the tables and the stream are not of the same epoch yet; try again")
        watermark_ns = watermark_boot_ns + table.view.boot_unix_ns
        events: list[Event] = []
        listed: dict[str, int] = {}
        for entry in table.walk():
            # A process that ended after C was read is listed too: its exit is still to come.
            if entry.exit_time_ns is not None and entry.exit_time_ns < watermark_ns:
                continue
            try:
                fields = entry.to_dict()
                chain = table.ancestors(entry)
            except TooOldError:
                continue
            events.append(_snapshot_event(fields, chain, watermark_ns))
            if fields["entity_id"] is not None:
                listed[fields["entity_id"]] = fields["images"]
        for left, event in enumerate(reversed(events)):
            event["left"] = left
        tracker.skip_to(seqs)
        tracker.stale = False
        self._listed = listed
        # By number, not by time: events may be those of a recording, replayed faster than they were made.
        self._listed_until = _TOPIC_SEQ.unpack_from(bytes(table.commit()))[SLOT_ORDER] + _OVERLAP_EVENTS
        self._synced_s = time.monotonic()
        return events

    def _is_listed(self, event: Event) -> bool:
        """Whether the list shows already what this event tells: that a process exists, or that it runs this image."""
        if event["event"] not in ("fork", "exec") or event["seq"] is None:
            return False
        images = self._listed.get(event["entity_id"])
        return images is not None and event["images"] <= images

    # -- end -----------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Leave the stream and the tables. Calling it again does nothing."""
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
    """Open the tables; an instance that publishes already may still be filling them."""
    # Deferred: most subscribers never look at the tables.
    from pipeline.shm.reader.table import ProcessTable

    while True:
        try:
            return ProcessTable.attach(name, path=directory)
        except NotRunningError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_RETRY_S)


def _secure(curve: tuple[Path, Path] | None) -> Any:
    if curve is None:
        return None
    key, server = curve

    def secure(socket: Any) -> None:
        from pipeline.bus.auth import secure_client

        secure_client(socket, key=key, server=server)

    return secure


def _snapshot_event(fields: dict[str, Any], chain: Sequence[Any], time_ns: int) -> Event:
    """An entry in the form of an event."""
    event: Event = {"event": "snapshot", "seq": None, "order": None, "time_ns": time_ns, **fields}
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
