"""`procline fleet ingest`: receive messages from JetStream, commit them in batches, and acknowledge them after that.

A batch ends by its age, its size, or its number of messages. So memory and the number of open messages are bounded. The
server holds what waits, and a slow or stopped ingester delays nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import UnsupportedError
from pipeline.fleet.messages import SUBJECT_PREFIX
from pipeline.fleet.store import Store

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.js import JetStreamContext

#: A batch ends when one of these is reached.
BATCH_MESSAGES, BATCH_EVENTS, BATCH_BYTES = 4096, 100_000, 64 << 20
#: Messages of one request. A message has at most 1 MiB, unless the server's `max_payload` was raised.
_FETCH = 64
_FETCH_S = 0.25
#: The server delivers a message again if it was not acknowledged within this time.
_ACK_WAIT_S = 60
_RETRY_S = 1.0
_LAGS = 100_000
_PENDING_BYTES = 512 << 20


@dataclass(slots=True)
class NatsStream:
    """The stream of a NATS server that messages come from.

    Attributes:
        url: address of the server; several are separated by commas.
        stream: name of the stream.
        credentials: credentials file of NATS.
        ca: file with the certificates that sign the server's one; None: those of the system.
    """

    url: str
    stream: str = "PROCLINE"
    credentials: Path | None = None
    ca: Path | None = None


@dataclass(slots=True)
class Progress:
    """The figures that the ingester reports while it runs.

    Attributes:
        waiting: messages in the stream that were not delivered yet; None: unknown.
        lags_s: of the latest messages, the time from the server's storing to the commit.
        state: what it is doing, for people.
    """

    waiting: int | None = None
    lags_s: deque[float] = field(default_factory=lambda: deque(maxlen=_LAGS))
    state: str = "connecting"


class Ingester:
    """Moves messages from JetStream into a store until it is stopped.

    Args:
        store: the open store.
        nats_stream: where the messages come from.
        commit_s: age at which a batch is committed.
        once: end when no message waits.
        report: called with a line whenever the connection changes.
        tick: called often, to show progress.
    """

    def __init__(
        self, store: Store, nats_stream: NatsStream, *, commit_s: float = 5.0, once: bool = False,
        report: Callable[[str], None] = lambda line: None, tick: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self.store = store
        self.nats_stream = nats_stream
        self.commit_s = commit_s
        self.once = once
        self.progress = Progress()
        self._report = report
        self._tick = tick
        self._open: list[Msg] = []
        self._begun_s = 0.0
        self._said = ""
        self._is_over = False
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """End after a last commit."""
        self._stop.set()

    async def run(self) -> None:
        """Work until `stop` is called, or with `once` until no message waits.

        Raises:
            UnsupportedError: the server cannot be reached or used (only with `once`, or if it rejects the client).
            WriteError: the store cannot be written.
        """
        client = await self._connected()
        if client is None:
            return
        try:
            subscription = await self._subscribed(client)
            while subscription is not None and not self._stop.is_set():
                got = await self._fetched(subscription)
                self._tick()
                if self._is_due() or (self.once and not got):
                    await self._commit()
                if self.once and not got and await self._is_empty(client, subscription):
                    break
                if not got:
                    await self._tidy()
            await self._commit()
        finally:
            self._is_over = True
            with contextlib.suppress(Exception):  # the server may be gone: it then delivers again what was stored
                await asyncio.wait_for(client.flush(), 5)
                await asyncio.wait_for(client.close(), 5)

    async def _connected(self) -> Client | None:
        """Connect; without `once`, wait for a server that is away. Returns None if the work is stopped meanwhile."""
        connecting = asyncio.ensure_future(self._connect())
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({connecting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            return connecting.result() if connecting.done() else None
        finally:
            stopping.cancel()
            connecting.cancel()

    async def _connect(self) -> Client:
        import nats
        from nats.errors import Error

        from pipeline.forward.connection import credentials_options

        nats_stream = self.nats_stream
        options: dict[str, Any] = {"max_reconnect_attempts": -1}
        if self.once:
            options = {"max_reconnect_attempts": 1, "allow_reconnect": False}
        if nats_stream.credentials is not None:
            options |= credentials_options(nats_stream.credentials, "--credentials")

        async def failed(error: Exception) -> None:
            if not self.once:
                self._say(f"NATS: {error or type(error).__name__}")

        async def gone() -> None:
            self._say("the server is gone; waiting for it")

        async def back() -> None:
            self._say("the server is back")

        try:
            if nats_stream.ca is not None:
                import ssl

                options["tls"] = ssl.create_default_context(cafile=str(nats_stream.ca))
            client = await nats.connect(
                nats_stream.url.split(","), name="procline fleet ingest", connect_timeout=5,
                reconnect_time_wait=_RETRY_S, error_cb=failed, disconnected_cb=gone, reconnected_cb=back, **options,
            )  # fmt: skip
        except ImportError as error:
            raise UnsupportedError(
                f"the package {error.name} is not installed", hint="pip install 'procline[fleet]'"
            ) from None
        except (TimeoutError, Error, OSError, ValueError) as error:
            reason = f"cannot connect to {_shown(nats_stream.url)}: {error or type(error).__name__}"
            raise UnsupportedError(reason, hint="check the address and the credentials") from None
        self.progress.state = "connected"
        return client

    def _say(self, line: str) -> None:
        """Report a line, unless it is the last one again. Nothing when the work is over."""
        if line != self._said and not self._stop.is_set() and not self._is_over:
            self._said = line
            self._report(line)

    async def _subscribed(self, client: Client) -> JetStreamContext.PullSubscription | None:
        from nats.errors import Error
        from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
        from nats.js.errors import NotFoundError

        stream = client.jetstream(timeout=10)
        config = ConsumerConfig(
            description="procline fleet ingest", ack_policy=AckPolicy.EXPLICIT, deliver_policy=DeliverPolicy.ALL,
            ack_wait=_ACK_WAIT_S, max_ack_pending=2 * BATCH_MESSAGES,
        )  # fmt: skip
        while not self._stop.is_set():
            try:
                return await stream.pull_subscribe(
                    f"{SUBJECT_PREFIX}.*.*", durable=f"fleet-{self.store.id}", stream=self.nats_stream.stream,
                    config=config, pending_msgs_limit=2 * BATCH_MESSAGES, pending_bytes_limit=_PENDING_BYTES,
                )  # fmt: skip
            except NotFoundError:
                reason = f"the server has no stream {self.nats_stream.stream}"
                if self.once:
                    raise UnsupportedError(
                        reason, hint="create it once with `procline forward --to ADDRESS --create-stream`"
                    ) from None
            except (TimeoutError, Error) as error:
                reason = f"JetStream does not answer: {error or type(error).__name__}"
                if self.once:
                    raise UnsupportedError(reason) from None
            self._say(f"{reason}; waiting for it")
            await self._pause()
        return None

    async def _fetched(self, subscription: JetStreamContext.PullSubscription) -> int:
        """Take messages; returns their number."""
        from nats.errors import Error

        try:
            messages = await subscription.fetch(_FETCH, timeout=_FETCH_S)
        except TimeoutError:
            return 0
        except Error:
            await self._pause()  # the connection is being made again
            return 0
        if not self._open:
            self._begun_s = time.monotonic()
        for message in messages:
            self.store.add(message.subject, message.headers, message.data)
            self._open.append(message)
        if messages:
            self.progress.waiting = messages[-1].metadata.num_pending
        return len(messages)

    def _is_due(self) -> bool:
        messages, events, size = self.store.pending
        if not messages:
            return False
        is_full = messages >= BATCH_MESSAGES or events >= BATCH_EVENTS or size >= BATCH_BYTES
        return is_full or time.monotonic() - self._begun_s >= self.commit_s

    async def _commit(self) -> None:
        if not self._open:
            return
        self.progress.state = "writing"
        # In a thread, so that the client answers the server's pings.
        await asyncio.to_thread(self.store.commit)
        now_s = time.time()
        for message in self._open:
            self.progress.lags_s.append(now_s - message.metadata.timestamp.timestamp())
            with contextlib.suppress(Exception):  # not acknowledged: it comes again, and is recognised
                await message.ack()
        self._open = []
        self.progress.state = "reading"
        await self._tidy()

    async def _tidy(self) -> None:
        await asyncio.to_thread(self.store.tidy)

    async def _is_empty(self, client: Client, subscription: JetStreamContext.PullSubscription) -> bool:
        """Whether all messages of the stream were delivered and acknowledged."""
        from nats.errors import Error

        try:
            await client.flush()
            info = await subscription.consumer_info()
        except (TimeoutError, Error) as error:
            raise UnsupportedError(
                f"the server no longer answers: {error or type(error).__name__}",
                hint="start this command again when the server is reachable; it continues where it was",
            ) from None
        self.progress.waiting = info.num_pending
        return not info.num_pending and not info.num_ack_pending

    async def _pause(self) -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._stop.wait(), _RETRY_S)


def _shown(url: str) -> str:
    """Return an address without its password."""
    return re.sub(r"//[^@/,]*@", "//", url)


def run(ingester: Ingester) -> None:
    """Run an ingester until it ends, or until SIGTERM or SIGINT."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ingester.stop)
        await ingester.run()

    asyncio.run(main())
