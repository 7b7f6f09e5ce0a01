"""The environment of tests of the forwarder: a host that publishes, the command, and what a server has stored."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import nats
import nats.js.errors
import pytest
import zstandard

from pipeline.bus.stream.messages import TOPICS
from pipeline.client.subscriber import Subscriber
from pipeline.forward.batches import Batch
from tests.nats_server import NatsServer
from tests.stream_host import Host, MiniResolver
from tests.waiting import until

NAME = "test"
#: Events that the host may be ahead of the server while it is paced; the journal holds about three times as many.
_AHEAD_MAX = 40_000
#: Made once for each host, and then repeated: millions of events are made in minutes.
_LAP_EVENTS = 5000
#: A busy machine can take long for everything.
LIMIT_S = 120.0
BOOT = "00112233445566778899aabbccddeeff"


def wait_for(condition: Callable[[], object], what: str, limit_s: float = LIMIT_S, *, pause_s: float = 0.05) -> None:
    """Wait until a condition holds, as `until` does, for as long as servers need."""
    until(condition, what, limit_s, pause_s)


def batch(first: int, count: int, *, topic: str = "proc.exec", stream: int = 7, fill: int = 0) -> Batch:
    """Return a batch of small events."""
    events = [
        {"event": "exec", "seq": seq, "time_ns": 1000 + seq, "fill": "x" * fill} for seq in range(first, first + count)
    ]
    kind = topic.partition(".")[2]
    return Batch(
        kind, BOOT, stream, topic, first, count, 1000 + first, 1000 + first + count - 1, "", msgpack.packb(events)
    )


class Made(NamedTuple):
    """An event that was made. Millions of whole events would not fit into memory."""

    time_ns: int
    digest: bytes


def digest(event: Mapping[str, Any]) -> bytes:
    """Return a digest of the content of an event. Bytes count like the text that the subscriber makes of them."""
    packed = msgpack.packb(event, use_bin_type=False, unicode_errors="surrogateescape")
    return hashlib.blake2b(packed, digest_size=12).digest()


class Published:
    """A host whose processes fork, exec and exit, and everything that it has published."""

    def __init__(self, runtime: Path) -> None:
        self.runtime = runtime
        self.directory = runtime / NAME
        self._begin()

    def _begin(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.resolver = MiniResolver(self.directory, send_hwm=1 << 20, journal_bytes=256 << 20)
        self.host = Host(self.resolver)
        self.host.step_events, self.host.pause_s = 0, 0.01
        self.host.rolls = (0.35, 0.65)  # the number of processes does not grow
        self.host.repeat(_LAP_EVENTS)
        self.host.run()
        self.events: dict[str, dict[int, Made]] = defaultdict(dict)
        self._witness = Subscriber(NAME, path=self.directory, receive_hwm=1 << 20)
        self._is_over = False
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._is_over:
            for event in self._witness.read(0.05):
                assert event["seq"] is not None, event
                self.events[event["event"]][event["seq"]] = Made(event["time_ns"], digest(event))

    @property
    def count(self) -> int:
        """Events that were made."""
        return sum(self.host.made.values())

    def go(self, events: int, *, step: int = 20, pause_s: float = 0.002) -> None:
        """Let the processes make about this many events."""
        target = self.count + events
        self.begin(step=step, pause_s=pause_s)
        wait_for(lambda: self.count >= target, "events")
        self.host.step_events = 0

    def begin(self, *, step: int = 20, pause_s: float = 0.002) -> None:
        """Let the processes make events until `settle`."""
        self.host.step_events, self.host.pause_s = step, pause_s

    def pace(self, reached: int, *, step: int) -> None:
        """Make events only while those behind `reached`, and those that the witness lacks, are few.

        Otherwise a host of which nothing else takes time would be further ahead than its journal reaches.
        """
        is_far = self.count - min(reached, sum(map(len, self.events.values()))) > _AHEAD_MAX
        self.host.step_events = 0 if is_far else step

    def settle(self) -> None:
        """Stop making events, and wait until the witness has them all."""
        self.host.step_events, self.host.pause_s = 0, 0.01
        with self.host.lock:
            pass
        wait_for(lambda: sum(map(len, self.events.values())) == self.count, "all events at the witness")

    def restart(self) -> None:
        """End the instance and begin another one, with a new stream."""
        self._end()
        self._begin()

    def _end(self) -> None:
        self.host.stop()
        self._is_over = True
        self._thread.join()
        self._witness.close()
        self.resolver.close()

    def close(self) -> None:
        """End the host."""
        self._end()


@contextlib.contextmanager
def published(directory: Path) -> Iterator[Published]:
    """A host that does nothing yet."""
    host = Published(directory)
    try:
        yield host
    finally:
        host.close()


@pytest.fixture
def host() -> Iterator[Published]:
    """A host whose events a test makes."""
    with (
        tempfile.TemporaryDirectory(prefix="procline-test-", dir="/dev/shm") as directory,
        published(Path(directory)) as made,
    ):
        yield made


class Command:
    """`procline forward` as a process."""

    def __init__(self, runtime: Path, *arguments: str, log: Path, **options: Any) -> None:
        self._environment = dict(os.environ, PROCLINE_RUNTIME_DIR=str(runtime))
        self._arguments = [
            sys.executable, "-m", "pipeline.cli.main", "forward", "--name", NAME, "--host", "host.1", *arguments,
        ]  # fmt: skip
        self._log = log
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def add(self, *arguments: str) -> None:
        """Add arguments for the next start."""
        self._arguments += arguments

    @property
    def log(self) -> str:
        """Everything that it has logged."""
        return self._log.read_text()

    def run(self, *more: str) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        return subprocess.run(
            [*self._arguments, *more], env=self._environment, capture_output=True, text=True, timeout=LIMIT_S
        )

    def start(self, stderr: int | None = None, environment: Mapping[str, str] | None = None) -> None:
        """Start it, with standard error in the log unless another one is given."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._arguments, env=self._environment | dict(environment or {}), stdin=subprocess.DEVNULL,
                stderr=log if stderr is None else stderr, **{"stdout": subprocess.DEVNULL, **self._options},
            )  # fmt: skip

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The running process."""
        assert self._process is not None
        return self._process

    def kill(self) -> None:
        """End it with SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(LIMIT_S)
            self._process = None

    def stop(self) -> int:
        """End it with SIGTERM; return its exit code."""
        process, self._process = self.process, None
        process.terminate()
        return process.wait(LIMIT_S)

    def __enter__(self) -> Command:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.kill()


@dataclass
class Message:
    """One stored message."""

    subject: str
    headers: dict[str, str]
    data: bytes

    @property
    def events(self) -> list[dict[str, Any]]:
        """The maps in the message."""
        data = self.data
        if self.headers.get("Content-Encoding") == "zstd":
            data = zstandard.ZstdDecompressor().decompress(data, max_output_size=64 << 20)
        found: list[dict[str, Any]] = msgpack.unpackb(data, unicode_errors="surrogateescape")
        return found

    @property
    def kind(self) -> str:
        return self.subject.rpartition(".")[2]

    @property
    def first(self) -> int:
        return int(self.headers["Procline-First"])

    @property
    def count(self) -> int:
        return int(self.headers["Procline-Count"])


async def _messages(url: str, stream: str, **options: Any) -> list[Message]:
    client = await nats.connect(url, **options)
    try:
        jetstream = client.jetstream(timeout=30)
        state = (await jetstream.stream_info(stream)).state
        found: list[Message] = []
        if not state.messages:
            return found
        subscription = await jetstream.subscribe("procline.>", stream=stream, ordered_consumer=True)
        while len(found) < state.messages:
            message = await subscription.next_msg(timeout=30)
            found.append(Message(message.subject, dict(message.headers or {}), message.data))
        return found
    finally:
        await client.close()


def messages(server: NatsServer, stream: str = "PROCLINE", **options: Any) -> list[Message]:
    """Return all messages of a stream, oldest first."""
    return asyncio.run(_messages(server.url, stream, **options))


async def _last(url: str, kinds: Iterable[str]) -> dict[str, int]:
    client = await nats.connect(url)
    try:
        jetstream = client.jetstream(timeout=30)
        found = {}
        for kind in kinds:
            with contextlib.suppress(nats.js.errors.NotFoundError):
                message = await jetstream.get_last_msg("PROCLINE", f"procline.host_1.{kind}")
                headers = message.headers or {}
                found[kind] = int(headers["Procline-First"]) + int(headers["Procline-Count"]) - 1
        return found
    finally:
        await client.close()


def last(server: NatsServer, kinds: Iterable[str]) -> dict[str, int]:
    """Return the last number of each subject."""
    return asyncio.run(_last(server.url, kinds))


async def _configure(url: str, duplicate_window_s: float) -> None:
    client = await nats.connect(url)
    try:
        jetstream = client.jetstream(timeout=30)
        config = (await jetstream.stream_info("PROCLINE")).config
        config.duplicate_window = duplicate_window_s
        await jetstream.update_stream(config)
    finally:
        await client.close()


def configure(server: NatsServer, *, duplicate_window_s: float) -> None:
    """Change the stream."""
    asyncio.run(_configure(server.url, duplicate_window_s))


def scrape(address: str) -> dict[str, float]:
    """Return the metrics of a forwarder."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=LIMIT_S) as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, _, value in (line.partition(" ") for line in lines if line[0] != "#")}


def topic_of(kind: str) -> str:
    return next(topic for topic in TOPICS if topic.endswith(f".{kind}"))


def covered(found: list[Message], topic: str) -> dict[int, str]:
    """Return where each number of a topic is: ``event`` or ``gap``. A number that is there twice fails the test."""
    numbers: dict[int, str] = {}
    for message in found:
        if message.headers["Procline-Topic"] != topic:
            continue
        for number in range(message.first, message.first + message.count):
            assert number not in numbers, f"{topic} {number} is stored twice: {numbers[number]}, {message.kind}"
            numbers[number] = "gap" if message.kind == "gap" else "event"
    return numbers


def check_stored(found: list[Message], host: Published, *, after: dict[str, int]) -> int:
    """Check numbers, order and content of all stored events; return how many are in gaps.

    Args:
        found: all messages.
        host: the host, settled.
        after: by topic, the last number before forwarding began.
    """
    missing = 0
    for kind, made in host.events.items():
        topic = topic_of(kind)
        numbers = covered(found, topic)
        begin = after.get(topic, 0)
        assert sorted(numbers) == list(range(begin + 1, max(made) + 1)), f"{topic}: numbers are missing"
        missing += sum(where == "gap" for where in numbers.values())
        last = begin
        for message in found:
            if message.kind != kind:
                continue
            assert message.subject == f"procline.host_1.{kind}" and message.headers["Procline-Host"] == "host.1"
            assert message.first > last, f"{topic}: out of order"
            last = message.first + message.count - 1
            events = message.events
            assert [event["seq"] for event in events] == list(range(message.first, last + 1))
            for event in events:
                assert digest(event) == made[event["seq"]].digest
    return missing


def begin(host: Published, command: Command, server: NatsServer) -> dict[str, int]:
    """Start forwarding; return the last number of each topic before."""
    command.start()
    wait_for(lambda: messages(server), "the record of the begin")
    [found] = [message for message in messages(server) if message.kind == "gap"]
    assert found.events[0]["reason"] == "begin"
    return {topic: number - 1 for topic, number in found.events[0]["next"].items()}


def all_stored(host: Published, server: NatsServer) -> Callable[[], bool]:
    """Return whether the last event of each topic is stored. If it is in a gap, another one must follow."""
    return lambda: last(server, host.events) == {kind: max(made) for kind, made in host.events.items()}
