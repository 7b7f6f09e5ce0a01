"""`Sender`: batches of a queue to JetStream, each once, in the order of their numbers.

A lane sends the batches of one topic, one at a time. Each message names the last message of its subject
(`Nats-Expected-Last-Subject-Sequence`), and the server rejects it if there is another one. So a message that arrives
late, or that another forwarder of the same host sends, changes nothing. The sender then asks the server what it holds.

Gaps of a topic are in its lane. A gap of every topic (a new stream, a time without a daemon) is sent alone: all batches
before it are stored already, and all others wait. So the stream of the newest message says what is stored of all
others.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from typing import NoReturn

from pipeline import log
from pipeline.forward.batches import GAP, SNAPSHOT, Batch, gap
from pipeline.forward.connection import (
    ConflictError,
    Connection,
    DestinationError,
    RefusedError,
    Server,
)
from pipeline.forward.figures import Figures
from pipeline.forward.memory import Queue, Queued
from pipeline.forward.stored import Stored

#: Batches that wait in a lane. They are small, and a lane is seldom empty then.
_LANE_BATCHES = 4
#: Pauses between attempts to connect, and to send a message that the server rejected.
_PAUSE_S = 0.1
_PAUSE_MAX_S = 5.0
#: After as many rejections of a message the connection is closed, because another server may accept it.
_REFUSALS_MAX = 20
#: How often the last messages are read again before a conflict counts as a rejection.
_CONFLICTS_MAX = 100
#: A replica of the stream has what its leader has confirmed after this time.
_CATCH_UP_S = 0.5


class Sender:
    """Sends the batches of a queue until it is cancelled.

    Args:
        server: the destination.
        queue: the batches.
        figures: counters.
        form: names of the fields in the batches, for the header.
    """

    def __init__(self, server: Server, queue: Queue, figures: Figures, form: str = "native") -> None:
        self._server = server
        self._queue = queue
        self._figures = figures
        self._form = form
        self._log = log.get_logger("forward")
        self._addresses = itertools.cycle(server.addresses)
        #: What the server held when the first connection was made.
        self.first_stored: asyncio.Future[Stored] = asyncio.get_running_loop().create_future()

    async def run(self) -> NoReturn:
        """Connect, send, and connect again, for ever."""
        pause_s = _PAUSE_S
        logged = ""
        while True:
            address = next(self._addresses)
            try:
                async with Connection(self._server, address, self._warn) as connection:
                    connected = _Connected(connection, self._server, self._queue, self._figures, self._form)
                    await connected.begin()
                    self._log.info("connected", server=connection.address)
                    logged, pause_s = "", _PAUSE_S
                    self._figures.is_connected = True
                    if not self.first_stored.done():
                        self.first_stored.set_result(connected.stored)
                    await connected.run()
            except DestinationError as error:
                if self._figures.is_connected:
                    self._figures.counts["reconnects"] += 1
                if str(error) != logged:
                    logged = str(error)
                    self._log.warning("not connected to the server; trying again", reason=logged)
            finally:
                self._figures.is_connected = False
                self._queue.rewind()
            # At the same time, many hosts lose the same server.
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.5))
            pause_s = min(_PAUSE_MAX_S, pause_s * 2)

    def _warn(self, text: str) -> None:
        self._log.warning("the server reports an error; check its log and the permissions of this host", reason=text)


class _Connected:
    """Sends the batches of a queue over one connection."""

    def __init__(self, connection: Connection, server: Server, queue: Queue, figures: Figures, form: str) -> None:
        self._connection = connection
        self._server = server
        self._queue = queue
        self._figures = figures
        self._form = form
        self._lanes: dict[str, asyncio.Queue[Queued]] = {}
        self._gap_lock = asyncio.Lock()
        self._log = log.get_logger("forward")
        self.stored: Stored

    async def begin(self) -> None:
        """Ask the server what it holds."""
        self.stored = await self._connection.stored()

    async def run(self) -> NoReturn:
        """Send until the connection is lost.

        Raises:
            DestinationError: it is lost, or the server rejects messages again and again.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._watch())
                tasks.create_task(self._feed(tasks))
        except BaseExceptionGroup as group:
            for error in group.exceptions:
                if not isinstance(error, DestinationError):
                    raise error from None
            raise group.exceptions[0] from None
        raise AssertionError

    async def _watch(self) -> NoReturn:
        await self._connection.closed.wait()
        raise DestinationError(f"the connection to {self._connection.address} is lost")

    async def _feed(self, tasks: asyncio.TaskGroup) -> NoReturn:
        """Distribute the batches to the lanes."""
        stream = self.stored.stream
        while True:
            self._queue.arrived.clear()
            queued = self._queue.take()
            if queued is None:
                await self._queue.arrived.wait()
                continue
            batch = queued.batch
            if not batch.topic or batch.stream != stream:
                stream = batch.stream
                for lane in self._lanes.values():
                    await lane.join()
            if not batch.topic:
                await self._send(queued)
                continue
            if batch.topic not in self._lanes:
                self._lanes[batch.topic] = asyncio.Queue(_LANE_BATCHES)
                tasks.create_task(self._serve(self._lanes[batch.topic]))
            await self._lanes[batch.topic].put(queued)

    async def _serve(self, lane: asyncio.Queue[Queued]) -> NoReturn:
        while True:
            queued = await lane.get()
            await self._send(queued)
            lane.task_done()

    async def _send(self, queued: Queued) -> None:
        """Send a batch, unless the server has it."""
        await self._deliver(queued.batch)
        self._figures.confirmed_ns = max(self._figures.confirmed_ns, queued.batch.to_ns)
        self._queue.done(queued)

    async def _deliver(self, batch: Batch) -> None:
        """Store what the server lacks of a batch."""
        refusals = conflicts = 0
        is_hole_known = False
        while True:
            # From here to the publishing in `_store`, nothing may wait: what is stored changes at any time.
            missing = self._missing(batch)
            if missing is None:
                return
            batch = missing
            hole = self._hole(batch)
            if hole is not None and not is_hole_known:
                # A server of a cluster may not have the last messages yet that another one has confirmed.
                is_hole_known = True
                await asyncio.sleep(_CATCH_UP_S)
                await self._ask()
                continue
            if hole is not None:
                self._log.warning(
                    "events are missing, because they were neither stored nor kept; storing a gap in their place",
                    topic=hole.topic, first=hole.first, count=hole.count,
                )  # fmt: skip
                await self._deliver(hole)
                continue
            if len(batch.data) > self._connection.message_max_bytes:
                await self._deliver_parts(batch)
                return
            try:
                if await self._store(batch):
                    return
                continue
            except ConflictError:
                conflicts += 1
                await self._after_conflict(conflicts)
            except RefusedError as error:
                refusals += 1
                if refusals >= _REFUSALS_MAX:
                    raise
                if refusals == 1:
                    self._log.warning("the server rejected a message", reason=str(error))
                await asyncio.sleep(min(_PAUSE_MAX_S, _PAUSE_S * 2**refusals) * random.uniform(0.5, 1.5))
            self._figures.counts["retries"] += 1
            await self._ask()

    def _missing(self, batch: Batch) -> Batch | None:
        """Return the part of a batch that the server lacks; None: it has all."""
        missing = self.stored.missing_part(batch, self._queue.streams)
        if batch.kind != GAP:
            self._figures.counts["repeated"] += batch.count - (0 if missing is None else missing.count)
        return missing

    async def _after_conflict(self, conflicts: int) -> None:
        name = self._server.host_name
        if conflicts >= _CONFLICTS_MAX:
            raise DestinationError(
                f"another forwarder keeps storing messages for host {name}: set a different --host for each"
            )
        if self.stored.stream not in self._queue.streams and self._figures.counts["messages"]:
            self._log.warning(
                "another forwarder stores messages for this host: set a different --host for each", host=name
            )
        if conflicts > 1:
            await asyncio.sleep(random.uniform(0, 0.05 * conflicts))

    async def _store(self, batch: Batch) -> bool:
        """Store a batch; return False if meanwhile a part of it was stored."""
        if batch.kind != GAP:
            return await self._publish(batch)
        async with self._gap_lock:  # the lanes share the subject
            return self._missing(batch) is batch and await self._publish(batch)

    async def _publish(self, batch: Batch) -> bool:
        headers = self.stored.headers(batch, host=self._server.host_name, form=self._form)
        if batch.kind == GAP and not batch.topic and not batch.from_ns and self.stored.to_ns:
            # Where forwarding begins again, the server knows when it ended.
            batch = gap_since(batch, self.stored.to_ns)
        sequence, is_known = await self._connection.publish(batch, headers)
        if is_known:
            await self._ask()
            if self._missing(batch) is not batch:
                return False
            # Its messages were removed, while it still knows their ids.
            sequence = self.stored.subjects[batch.kind].sequence
        self.stored.accept(batch, sequence)
        counts = self._figures.counts
        if not is_known:
            counts["messages"] += 1
            counts["bytes"] += len(batch.data)
        if batch.kind == GAP:
            counts["gaps"] += 1
            counts["gap_events"] += batch.count
        else:
            counts["events"] += batch.count
        return True

    async def _ask(self) -> None:
        """Ask the server again what it holds. Meanwhile other lanes may have stored more."""
        before = self.stored.copy()
        answer = await self._connection.stored()
        self.stored = answer.newer(before, self.stored)

    def _hole(self, batch: Batch) -> Batch | None:
        """Return a gap for numbers that are neither stored nor in the queue, before a batch."""
        if not batch.topic or batch.kind == SNAPSHOT or batch.stream != self.stored.stream:
            return None
        following = self.stored.next(batch.topic.partition(".")[2], batch.topic)
        if following is None or following >= batch.first:
            return None
        return gap(
            batch.boot, batch.stream, batch.topic, following, batch.first - following, self.stored.to_ns,
            batch.from_ns, "not kept",
        )  # fmt: skip

    async def _deliver_parts(self, batch: Batch) -> None:
        if batch.count > 1:
            for half in batch.halves():
                await self._deliver(half)
            return
        if batch.kind == SNAPSHOT:
            return
        await self._deliver(
            gap(
                batch.boot, batch.stream, batch.topic, batch.first, 1, batch.from_ns, batch.to_ns,
                "larger than a message of the server",
            )
        )  # fmt: skip


def gap_since(batch: Batch, from_ns: int) -> Batch:
    """Return a gap with another begin."""
    fields = batch.events()[0]
    return gap(
        batch.boot, batch.stream, batch.topic, batch.first, batch.count, from_ns, batch.to_ns, fields["reason"],
        fields.get("next"),
    )  # fmt: skip
