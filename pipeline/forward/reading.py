"""`Reader`: the stream of an instance, from where the destination ends, to a consumer of events and gaps."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Protocol

from pipeline import log
from pipeline.bus.stream.event_dict import Event
from pipeline.bus.stream.position import StreamPosition
from pipeline.client.subscriber import SUSPEND_EVENTS, Subscriber
from pipeline.errors import NotRunningError, ProclineError
from pipeline.forward.figures import Figures

#: Lists of processes after gaps. A list is long, and gaps come together.
SNAPSHOT_INTERVAL_S = 10.0
_RETRY_S = 1.0
#: Messages of the stream, of up to 64 KiB each, that may wait in this process: a second of a storm. What does not fit
#: is read from the daemon's journal later.
_WAITING_MESSAGES = 1024
_SNAPSHOT_WAIT_S = 30.0
#: How long a read waits when no event has arrived.
_READ_S = 0.25
#: Maximum time in which received events are read at the end, because in a storm more arrive all the time.
_END_LIMIT_S = 2.0
#: If no event arrives for this time, no instance publishes.
_SILENCE_S = 15.0


class Consumer(Protocol):
    """Takes what the reader reads."""

    def begin(self, boot: str, stream: int, from_ns: int, reason: str, numbers: Mapping[str, int]) -> None:
        """A stream begins: events before it that were not consumed are missing.

        Args:
            boot: boot id, 32 hex digits.
            stream: id of the stream.
            from_ns: time of the last event before it, ns since the Unix epoch; 0: unknown.
            reason: why it begins.
            numbers: by topic, the first number; 1 where it is missing.
        """

    def resume(self, boot: str, stream: int) -> None:
        """The stream continues where the consumer ended."""

    def event(self, event: Mapping[str, Any]) -> None:
        """An event of a topic."""

    def missed(self, topic: str, first: int, count: int, from_ns: int, to_ns: int, reason: str) -> None:
        """Events are missing."""

    def unwatched(self, from_ns: int, to_ns: int) -> None:
        """No daemon watched the host."""

    def snapshot(self, event: Mapping[str, Any], number: int) -> None:
        """A live process; `number` grows."""

    def left_s(self) -> float | None:
        """How long until `tick` has something to do; None: nothing."""

    def tick(self) -> None:
        """Do what is due. Called after each read."""


class Reader:
    """Reads until `end` is called or `run` is cancelled.

    Args:
        name: the instance.
        topics: topics that are read.
        consumer: gets the events.
        figures: counters.
    """

    def __init__(
        self,
        name: str,
        topics: tuple[str, ...],
        consumer: Consumer,
        figures: Figures,
    ) -> None:
        self._name = name
        self._topics = topics
        self._consumer = consumer
        self._figures = figures
        self._log = log.get_logger("reader")
        self._stream = 0
        self._last_ns = 0
        self._snapshot_s = -SNAPSHOT_INTERVAL_S
        self._wants_snapshot = False
        self._ends_s: float | None = None

    def end(self) -> None:
        """Let `run` end when it has read what has arrived."""
        self._ends_s = time.monotonic() + _END_LIMIT_S

    async def run(self, position: StreamPosition | None, last_ns: int) -> None:
        """Read.

        Args:
            position: where the destination ends; None: it holds nothing of this host.
            last_ns: time of its last event, ns since the Unix epoch; 0: unknown.
        """
        self._last_ns = last_ns
        subscriber = await self._subscribe(position)
        listing: asyncio.Task[None] | None = None
        try:
            boot = subscriber.boot_id
            self._stream = subscriber.position.stream
            if position is None:
                self._begin(boot, 0, "begin", subscriber.position.next)
            else:
                self._consumer.resume(boot, self._stream)
            read_s = time.monotonic()
            while True:
                wait_s = self._consumer.left_s()
                is_ending = self._ends_s is not None
                wait_s = 0 if is_ending else _READ_S if wait_s is None else min(wait_s, _READ_S)
                events = await subscriber.read_async(wait_s)
                now_s = time.monotonic()
                if self._ends_s is not None and is_ending and (not events or now_s > self._ends_s):
                    return
                read_s = now_s if events else read_s
                # Statistics arrive each second or two.
                self._figures.is_reading = now_s < read_s + _SILENCE_S
                for event in events:
                    self._pass_on(event, boot, subscriber)
                self._consumer.tick()
                if listing is not None and listing.done():
                    listing = None
                if self._wants_snapshot and listing is None and now_s >= self._snapshot_s + SNAPSHOT_INTERVAL_S:
                    self._wants_snapshot, self._snapshot_s = False, now_s
                    listing = asyncio.create_task(self._list())
        finally:
            self._figures.is_reading = False
            if listing is not None:
                listing.cancel()
            subscriber.close()

    async def _subscribe(self, position: StreamPosition | None) -> Subscriber:
        """Subscribe, as soon as there is an instance."""
        logged = ""
        while True:
            making = asyncio.create_task(
                asyncio.to_thread(
                    Subscriber,
                    self._name,
                    self._topics,
                    resume=position,
                    connect_timeout=_RETRY_S,
                    receive_hwm=_WAITING_MESSAGES,
                )
            )
            try:
                return await asyncio.shield(making)
            except NotRunningError as error:
                if str(error) != logged:
                    logged = str(error)
                    self._log.warning("waiting for the instance", reason=logged)
            except asyncio.CancelledError:
                making.add_done_callback(_close_subscriber)
                raise
            await asyncio.sleep(_RETRY_S)

    def _pass_on(self, event: Event, boot: str, subscriber: Subscriber) -> None:
        """Pass on one event, or what the subscriber reports."""
        if event["event"] == "missed":
            self._wants_snapshot = True
            from_ns = event["from_ns"] or self._last_ns
            topic, first, count = event["topic"], event["first"], event["count"]
            if topic is None or first is None or count is None:
                self._stream = subscriber.position.stream
                self._begin(boot, from_ns, event["reason"], {})
            else:
                self._consumer.missed(topic, first, count, from_ns, event["time_ns"], event["reason"])
        elif event["event"] == "unwatched":
            self._wants_snapshot = True
            self._consumer.unwatched(event["unwatched_from_ns"], event["unwatched_to_ns"])
            stream = subscriber.position.stream
            if stream != self._stream:
                # The journal had all of the former stream, so nothing else is missing. The numbers begin again at 1.
                self._stream = stream
                self._consumer.resume(boot, stream)
        elif event["event"] != "snapshot":
            self._last_ns = event["time_ns"]
            self._consumer.event(event)

    def _begin(self, boot: str, from_ns: int, reason: str, numbers: Mapping[str, int]) -> None:
        self._wants_snapshot = True
        self._consumer.begin(boot, self._stream, from_ns, reason, numbers)

    async def _list(self) -> None:
        """Pass on the live processes. A subscriber of its own lists them: this one must not leave out any event."""
        try:
            events = await asyncio.to_thread(self._list_now)
        except (ProclineError, OSError) as error:
            self._log.warning("cannot list the live processes; trying again", reason=str(error))
            self._wants_snapshot = True
            return
        self._figures.counts["snapshots"] += 1
        for place, event in enumerate(events):
            self._consumer.snapshot(event, event["time_ns"] + place)
            if place % SUSPEND_EVENTS == 0:
                await asyncio.sleep(0)

    def _list_now(self) -> list[Event]:
        with Subscriber(self._name, ("sys.loss",), snapshot=True, connect_timeout=_SNAPSHOT_WAIT_S) as subscriber:
            return [event for event in subscriber.read(0) if event["event"] == "snapshot"]


def _close_subscriber(making: asyncio.Task[Subscriber]) -> None:
    if not making.cancelled() and making.exception() is None:
        making.result().close()
