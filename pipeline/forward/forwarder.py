"""`Forwarder`: reads, stores and sends, until a signal ends it.

Only what sends to NATS imports its client, which takes as long as the rest of this package together.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from pipeline import log
from pipeline.bus.stream.messages import TOPICS
from pipeline.bus.stream.position import StreamPosition
from pipeline.config.schema import Forward, split_address
from pipeline.errors import ConfigError
from pipeline.forward.feeding import Feed
from pipeline.forward.figures import Figures, FiguresCollector
from pipeline.forward.lines import Lines
from pipeline.forward.memory import MemoryQueue, Queue
from pipeline.forward.reading import Reader
from pipeline.forward.spool import Spool
from pipeline.host.credentials import credential
from pipeline.host.notify import notify, watchdog_interval_s
from pipeline.screen.progress import Show, silent

if TYPE_CHECKING:
    from pipeline.forward.connection import Server
    from pipeline.forward.sending import Sender

#: How often the status is shown to systemd.
_STATUS_S = 5.0
#: How often it is checked whether the queue is empty.
_EMPTY_S = 0.05
#: How long the reader has to end.
_END_S = 5.0
#: How long a new spool waits for the server, which may know where an earlier forwarder ended.
_NEW_SPOOL_S = 5.0
_LINES = "jsonl"
#: Files of systemd's credentials, which replace settings that are not given.
_CREDENTIALS = {"credentials": "creds", "tls_ca": "ca", "tls_cert": "cert", "tls_key": "key"}


def is_lines(settings: Forward) -> bool:
    """Whether the destination is JSON lines."""
    return settings.to.partition(":")[0] == _LINES


def server_of(settings: Forward) -> Server:
    """Return how to reach the server.

    Raises:
        ConfigError: there is no destination, or a file cannot be used.
    """
    if not settings.to:
        raise ConfigError(
            "no destination: set forward.to, or use --to nats://HOST:PORT, --to jsonl or --to jsonl:FILE",
            key="forward.to", value="",
        )  # fmt: skip
    from pipeline.forward.connection import Server

    found: dict[str, Path | None] = {}
    for key, suffix in _CREDENTIALS.items():
        text = getattr(settings, key)
        found[key] = Path(text) if text else credential(f"procline-forward.{suffix}")
    server = Server(tuple(settings.to.split(",")), settings.stream, host_of(settings), **found)
    server.check()
    return server


def host_of(settings: Forward) -> str:
    """Return the name of this host in messages."""
    return settings.host or socket.gethostname()


@dataclass(frozen=True)
class Checked:
    """The result of the check of an address.

    Attributes:
        address: without a password.
        stream, host: names.
        last_message: number of the last message of this host in the stream; None: it has none, or see `error`.
        error: why the address cannot be used; None: it can.
    """

    address: str
    stream: str
    host: str
    last_message: int | None = None
    error: str | None = None

    def __str__(self) -> str:
        what = f"last message {self.last_message}" if self.last_message else "no message yet"
        return f"{self.address}: stream {self.stream}, host {self.host}: {what}"


async def check(server: Server, progress: Show = silent) -> list[Checked]:
    """Connect to each address and look for the stream.

    Args:
        server: what to check.
        progress: called before each address.
    """
    from pipeline.forward.connection import Connection, DestinationError, shown

    found = []
    for address in server.addresses:
        progress(shown(address))
        known, error = 0, None
        try:
            async with Connection(server, address, lambda text: None) as connection:
                stored = await connection.stored()
                known = max(subject.sequence for subject in stored.subjects.values())
        except DestinationError as failure:
            error = str(failure)
        found.append(Checked(shown(address), server.stream, server.host_name, known or None, error))
    return found


async def create_stream(server: Server, settings: Forward) -> bool:
    """Create the stream; return whether it did not exist.

    Raises:
        DestinationError: the server cannot be reached, or rejected the stream.
    """
    from pipeline.forward.connection import Connection

    async with Connection(server, server.addresses[0], lambda text: None) as connection:
        return await connection.create_stream(
            max_bytes=settings.stream_max_bytes, max_age_s=settings.stream_max_age_h * 3600,
            replicas=settings.stream_replicas,
        )  # fmt: skip


class Forwarder:
    """One run of `procline forward`.

    Args:
        settings: what to do.
        name: the instance.
    """

    def __init__(self, settings: Forward, name: str) -> None:
        self._settings = settings
        self._name = name
        self.figures = Figures()
        self._log = log.get_logger("forward")
        self._is_ending = False

    async def run(self) -> None:
        """Forward until SIGTERM or SIGINT.

        Raises:
            ConfigError: a setting cannot be used.
            AccessError: this user may not read the stream.
        """
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()

        def end(number: int, frame: FrameType | None) -> None:
            self._is_ending = True
            loop.call_soon_threadsafe(ended.set)

        with _signals(end), contextlib.ExitStack() as stack:
            self._serve_metrics(stack)
            work = asyncio.create_task(self._lines(ended) if is_lines(self._settings) else self._messages(ended))
            beat = asyncio.create_task(self._beat())
            notify("READY=1")
            try:
                await work
            finally:
                notify("STOPPING=1")
                beat.cancel()
            counts = self.figures.counts
            self._log.info(
                "stopped forwarding", events=counts["events"], gaps=counts["gaps"], dropped=counts["dropped"]
            )

    def _topics(self) -> tuple[str, ...]:
        return self._settings.topics or TOPICS

    def _convert(self) -> Callable[[Mapping[str, Any]], Mapping[str, Any]] | None:
        form = self._settings.format
        if form == "native":
            return None
        from pipeline.formats.convert import convert_event

        return functools.partial(convert_event, form=form, host=host_of(self._settings))

    async def _lines(self, ended: asyncio.Event) -> None:
        settings, path = self._settings, self._settings.to.partition(":")[2]
        lines = Lines(
            Path(path) if path else None, file_max_bytes=settings.jsonl_bytes, files_max=settings.jsonl_files,
            figures=self.figures, is_ending=lambda: self._is_ending, convert=self._convert(),
        )  # fmt: skip
        self.figures.is_connected = True
        try:
            position = lines.position()
            reader = Reader(self._name, self._topics(), lines, self.figures)
            await _until(ended, reader, reader.run(position, 0 if position is None else position.time_ns or 0))
        finally:
            lines.close()

    async def _messages(self, ended: asyncio.Event) -> None:
        from pipeline.forward.sending import Sender

        settings = self._settings
        server = server_of(settings)
        with contextlib.ExitStack() as stack:
            queue: Queue
            if settings.spool:
                spool = Spool(Path(settings.spool), settings.spool_bytes, self.figures)
                stack.callback(spool.close)
                queue = spool
            else:
                spool, queue = None, MemoryQueue(settings.buffer_bytes, self.figures)
            sender = Sender(server, queue, self.figures, settings.format)
            sending = asyncio.create_task(sender.run())
            try:
                feed = Feed(
                    queue, events_max=settings.batch_events, wait_s=settings.batch_ms / 1000,
                    is_compressed=settings.compress, convert=self._convert(),
                )  # fmt: skip
                reader = Reader(self._name, self._topics(), feed, self.figures)
                await _until(ended, reader, self._read(reader, sender, spool), sending)
                feed.close()
                await self._drain(queue, sending)
            finally:
                sending.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await sending

    async def _read(self, reader: Reader, sender: Sender, spool: Spool | None) -> None:
        """Read from where the spool ends, or else the server."""
        position, last_ns = None if spool is None else spool.position, 0
        if position is None:
            # The server knows where an earlier forwarder ended. Until it answers, the daemon's journal keeps events.
            waiting = asyncio.shield(sender.first_stored)
            if spool is None:
                stored = await waiting
            else:
                # A spool keeps more than the journal, but the first batches of a new one need the server's numbers.
                with contextlib.suppress(TimeoutError):
                    stored = await asyncio.wait_for(waiting, _NEW_SPOOL_S)
            if sender.first_stored.done() and stored.stream is not None:
                position, last_ns = StreamPosition(stored.stream, stored.next_by_topic()), stored.to_ns
        if position is not None:
            # If the server has no event of a topic, all events of this topic are missing.
            numbers = {topic: position.next.get(topic, 1) for topic in TOPICS}
            position = StreamPosition(position.stream, numbers, last_ns or None)
        await reader.run(position, last_ns)

    async def _drain(self, queue: Queue, sending: asyncio.Task[Any]) -> None:
        """Wait until all is sent, as long as the settings allow."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.drain_s
        while not queue.is_empty and not sending.done() and loop.time() < deadline:
            if not self.figures.is_connected and self._settings.spool:
                break  # the next forwarder has the spool
            await asyncio.sleep(_EMPTY_S)

    async def _beat(self) -> None:
        """Show the status to systemd."""
        interval_s = min(_STATUS_S, watchdog_interval_s() or _STATUS_S)
        while True:
            notify("WATCHDOG=1", f"STATUS={self.figures.status()}")
            await asyncio.sleep(interval_s)

    def _serve_metrics(self, stack: contextlib.ExitStack) -> None:
        address = self._settings.metrics_listen
        if not address:
            return
        from pipeline.export.prometheus import MetricsServer

        try:
            server = MetricsServer(*split_address(address), FiguresCollector(self.figures))
        except OSError as error:
            raise ConfigError(
                f"forward.metrics_listen: cannot listen on {address}: {error.strerror or error}; use an address of "
                "this host and a free port",
                key="forward.metrics_listen", value=address,
            ) from None  # fmt: skip
        stack.callback(server.close)
        self._log.info("serving metrics", address="http://{}:{}/metrics".format(*server.address))


async def _until(
    ended: asyncio.Event, reader: Reader, work: Coroutine[Any, Any, None], *others: asyncio.Task[Any]
) -> None:
    """Run a coroutine until the event is set, and then to its end. Errors, also of the other tasks, are raised."""
    task, ending = asyncio.create_task(work), asyncio.create_task(ended.wait())
    try:
        await asyncio.wait({task, ending, *others}, return_when=asyncio.FIRST_COMPLETED)
        reader.end()
        await asyncio.wait({task, *others}, timeout=_END_S, return_when=asyncio.FIRST_COMPLETED)
        for each in (task, *others):
            if each.done():
                each.result()
    finally:
        for each in (task, ending):
            each.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await each


@contextlib.contextmanager
def _signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Call a function at SIGTERM and SIGINT."""
    previous = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)
