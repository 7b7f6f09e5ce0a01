"""The reader on real sockets, with a publisher that the test controls: joining, waiting, restarts, rejections."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.bus.sockets import Bus
from pipeline.bus.stream import stream_reader
from pipeline.bus.stream.messages import WELCOME_PREFIX, Header, StreamVersionError
from pipeline.bus.stream.stream_reader import StreamReader
from pipeline.errors import AccessError, ClosedError, ConfigError, FrameError, NotRunningError
from pipeline.resolver.stream import publisher
from pipeline.resolver.stream._encoder import Encoder
from pipeline.resolver.stream.publisher import Publisher
from tests.bus.publishers import bind_publisher
from tests.sampling import times

BOOT = bytes(range(16))
FORK, EXEC, EXIT = 0, 1, 2


class Instance:
    """A publisher that polls in its own thread and sends events on request."""

    def __init__(self, path: Path, *, encoder: Encoder | None = None, **options: int) -> None:
        self.path = path
        self.encoder = encoder or Encoder(BOOT)
        self.bus = Bus()
        self.publisher = Publisher(
            self.encoder, self.bus, path, boot=BOOT, boot_unix_ns=0, epoch=1, host="here", **options
        )
        self.lock = threading.Lock()
        self.is_over = False
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        while not self.is_over:
            with self.lock:
                self.publisher.do_work(time.clock_gettime_ns(time.CLOCK_BOOTTIME))
            time.sleep(0.002)

    def send(self, *topics: int, **fields) -> None:
        with self.lock:
            for topic in topics:
                self.encoder.put(topic, {"event": "e", "time_ns": 1, **fields})
            self.publisher.send(self.encoder.take())

    def raw(self, *frames: bytes) -> None:
        with self.lock:
            self.publisher.socket.send_multipart(frames)

    def stop(self, *, kill: bool = False) -> None:
        """Stop on purpose, or as if killed: without a final message."""
        self.is_over = True
        self.thread.join()
        if not kill:
            self.publisher.close()
        self.bus.close(linger_ms=0 if kill else 500)


@pytest.fixture
def path() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="procline-test-"))
    yield directory / "stream.ipc"
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def instance(path: Path) -> Iterator[Instance]:
    made = Instance(path)
    yield made
    if not made.is_over:
        made.stop()


def reader(path: Path, *topics: str, **options) -> StreamReader:
    return StreamReader(f"ipc://{path}", topics, **options)


def orders(events) -> list[int]:
    return [event["order"] for event in events if event["event"] != "missed"]


def read_until(made: StreamReader, count: int, seconds: float = 60.0) -> list:
    events: list = []
    deadline = time.monotonic() + seconds
    while len(events) < count and time.monotonic() < deadline:
        events += made.read(0.1)
    return events


def test_events_come_in_the_order_in_which_they_were_applied(instance: Instance) -> None:
    with reader(instance.path) as made:
        instance.send(FORK, EXEC, FORK, EXIT)
        instance.send(EXIT, FORK)
        assert orders(read_until(made, 6)) == [1, 2, 3, 4, 5, 6]
        assert made.welcome.host == "here" and made.welcome.seqs == (0,) * 8


def test_everything_after_the_welcome_comes(instance: Instance) -> None:
    """While events are published, a reader joins and misses no event above the welcome's numbers."""
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            instance.send(FORK, EXEC, EXIT)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        for _ in range(times(10, 4)):
            with reader(instance.path, "exec") as made:
                events = read_until(made, 3)
                assert [event["seq"] for event in events] == [
                    made.welcome.seqs[EXEC] + 1 + n for n in range(len(events))
                ]
                assert len(events) >= 3 and not made.tracker.missed
    finally:
        stop.set()
        thread.join()


def test_waiting_ends_when_the_time_is_up(instance: Instance) -> None:
    with reader(instance.path) as made:
        begin = time.monotonic()
        assert made.read(0.2) == []
        assert 0.15 < time.monotonic() - begin < 20
        assert made.read(0) == []


def test_a_read_waits_for_later_events(instance: Instance) -> None:
    with reader(instance.path) as made:
        timer = threading.Timer(0.2, instance.send, (FORK,))
        timer.start()
        assert orders(made.read(60)) == [1]
        timer.join()


def test_reading_in_an_event_loop(instance: Instance) -> None:
    async def run() -> None:
        with reader(instance.path) as made:
            ticks = 0

            async def tick() -> None:
                nonlocal ticks
                while True:
                    await asyncio.sleep(0.01)
                    ticks += 1

            other = asyncio.create_task(tick())
            assert await made.read_async(0.1) == []
            threading.Timer(0.2, instance.send, (FORK, EXEC)).start()
            assert orders(await made.read_async(5)) == [1, 2]
            for n in range(50):
                instance.send(FORK)
                assert orders(await made.read_async(5)) == [3 + n]
            assert ticks > 10, "other tasks could run"
            task = asyncio.create_task(made.read_async())
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            other.cancel()
            instance.send(EXIT)
            assert orders(await made.read_async(5)) == [53]

    asyncio.run(run())


def test_a_filter_makes_no_gap_and_a_heartbeat_shows_a_lost_tail(path: Path) -> None:
    instance = Instance(path, heartbeat_ns=50_000_000)
    with reader(path, "proc.exit") as made:
        instance.send(FORK, EXIT, EXEC, EXIT)
        assert [event["seq"] for event in read_until(made, 2)] == [1, 2]
        with instance.lock:  # an event that gets a number but is never sent
            instance.encoder.put(EXIT, {"event": "e"})
            instance.encoder.take()
        (event,) = read_until(made, 1)
        assert (event["event"], event["topic"], event["first"], event["last"]) == ("missed", "proc.exit", 3, 3)
        assert made.tracker.missed == {"proc.exit": 1}
    instance.stop()


def test_a_successor_continues_the_stream_without_gap_or_repeat(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "_REJOIN_NS", 10**12)  # not the subject here
    first = Instance(path)
    with reader(path) as made:
        first.send(FORK, EXEC, entity_id="a")
        assert orders(read_until(made, 2)) == [1, 2]
        committed = first.encoder.sequences()
        first.send(FORK, entity_id="uncommitted")
        assert len(read_until(made, 1)) == 1
        first.stop(kill=True)
        encoder = Encoder(BOOT)
        encoder.restore(committed)
        second = Instance(path, encoder=encoder, takeovers=1)
        try:
            deadline = time.monotonic() + 60
            while second.publisher.is_awaiting(time.clock_gettime_ns(time.CLOCK_BOOTTIME)):
                made.read(0.01)
                assert time.monotonic() < deadline
            assert second.encoder.topics_mask == first.encoder.topics_mask
            second.send(FORK, entity_id="uncommitted")
            second.send(EXIT, entity_id="new")
            events = read_until(made, 1)
            assert [event["entity_id"] for event in events] == ["new"]
            assert made.tracker.repeats == 1 and not made.tracker.missed and not made.tracker.stale
        finally:
            second.stop()


def test_a_restarted_instance_is_followed_and_reported(path: Path) -> None:
    first = Instance(path)
    with reader(path) as made:
        first.send(*[FORK] * 10)
        read_until(made, 10)
        first.stop()
        second = Instance(path)
        try:
            deadline = time.monotonic() + 60
            while not second.encoder.topics_mask and time.monotonic() < deadline:
                made.read(0.01)
            second.send(FORK)
            missed, event = read_until(made, 2)
            assert (missed["event"], missed["reason"], missed["topic"]) == ("missed", "restart", None)
            assert (event["event"], event["seq"]) == ("e", 1)
        finally:
            second.stop()


def test_reading_is_over_when_the_instance_ends_on_purpose(path: Path) -> None:
    instance = Instance(path)
    with reader(path, follow=False) as made, reader(path) as follower:
        instance.send(FORK)
        instance.stop()
        assert orders(made.read(60)) == [1]
        begin = time.monotonic()
        assert made.read(60) == []
        assert made.is_over and time.monotonic() - begin < 20
        assert orders(follower.read(60)) == [1]
        assert follower.read(0.2) == [] and not follower.is_over


def test_junk_on_the_wire_is_counted_and_passed_over(instance: Instance) -> None:
    with reader(instance.path) as made:
        instance.raw(b"proc.fork", b"junk", b"junk")
        instance.raw(b"proc.fork")
        instance.raw(b"proc.fork", b"1", b"2", b"3")
        instance.raw(b"proc.unknown", b"\xff", b"")
        instance.send(FORK)
        assert orders(read_until(made, 1)) == [1]
        assert made.refused == 3 and not made.tracker.missed


def header(**fields) -> bytes:
    common = {
        "host": "h", "boot": bytes(16), "epoch": 1, "stream": 9, "writer": 0, "step": 0, "group": 0, "rest": 0,
        "first": 1, "count": 0, "time_ns": 5, "watermark_ns": 0,
    }  # fmt: skip
    return Header(**(common | fields)).pack()


def test_a_publisher_of_a_new_major_version_is_refused_while_reading(instance: Instance) -> None:
    with reader(instance.path) as made:
        instance.raw(b"proc.fork", header(major=2), b"")
        with pytest.raises(StreamVersionError, match="upgrade procline"):
            read_until(made, 1)


def answer(path: Path, reply) -> tuple[threading.Thread, threading.Event]:
    """A hand-made publisher that answers a request for a welcome with `reply(topic)`."""
    stop = threading.Event()
    bound = threading.Event()

    def run() -> None:
        with Bus() as bus:
            socket = bind_publisher(bus, path)
            bound.set()
            while not stop.is_set():
                if socket.poll(20):
                    message = socket.recv()
                    if message[1:].startswith(WELCOME_PREFIX) and message[0] and (frames := reply(message[1:])):
                        socket.send_multipart(frames)

    thread = threading.Thread(target=run)
    thread.start()
    bound.wait()
    return thread, stop


@pytest.mark.parametrize(
    ("reply", "error", "words"),
    [
        (lambda topic: (topic, header(major=2), b""), StreamVersionError, "version 2"),
        (lambda topic: (topic, header(), b""), FrameError, "no sequence numbers"),
        (lambda topic: (topic, b"hello", b""), FrameError, "rejected"),
        (lambda topic: None, NotRunningError, "does not answer"),
        (lambda topic: (b"proc.fork", header(), b""), NotRunningError, "does not answer"),
    ],
    ids=["new major", "no numbers", "junk", "silence", "other topics only"],
)
def test_a_peer_with_another_protocol_is_an_error(path: Path, reply, error, words: str) -> None:
    thread, stop = answer(path, reply)
    try:
        with pytest.raises(error, match=words):
            reader(path, connect_timeout=0.1 if error is NotRunningError else 20)
    finally:
        stop.set()
        thread.join()


def test_a_welcome_that_met_a_full_queue_is_asked_for_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full queue drops the welcome like any event, so the reader must request it again."""
    monkeypatch.setattr(stream_reader, "_ASK_AGAIN_S", 0.05)
    asked: list[bytes] = []

    def third(topic: bytes):
        asked.append(topic)
        return (topic, header(seqs=(0,) * 8), b"") if len(asked) >= 3 else None

    thread, stop = answer(path, third)
    try:
        with reader(path, connect_timeout=20) as made:
            assert made.welcome.seqs == (0,) * 8
            assert len(set(asked)) == len(asked) >= 3
    finally:
        stop.set()
        thread.join()


def test_no_instance_is_a_clear_error_at_once() -> None:
    begin = time.monotonic()
    with pytest.raises(NotRunningError, match=r"no instance 'web' is running.*procline run") as caught:
        reader(Path("/nonexistent/stream/stream.ipc"), instance="web")
    assert caught.value.instance == "web" and time.monotonic() - begin < 4


def test_a_reader_waits_a_moment_for_a_listener(path: Path) -> None:
    """The resolver may be restarting."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with pytest.raises(NotRunningError, match="no process listens"):
        reader(path, connect_timeout=0.1)
    found: list[Instance] = []
    timer = threading.Timer(0.15, lambda: found.append(Instance(path)))
    timer.start()
    with reader(path, connect_timeout=10):
        pass
    timer.join()
    found[0].stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to act as another user")
def test_without_permission_the_error_names_the_file_and_the_remedy(instance: Instance) -> None:
    instance.path.chmod(0o600)
    program = (
        "import os, sys; from pipeline.bus.stream.stream_reader import StreamReader\n"
        "from pipeline.errors import AccessError\n"
        "os.setgroups([]); os.setresgid(*[65534] * 3); os.setresuid(*[65534] * 3)\n"
        "try: StreamReader('ipc://' + sys.argv[1])\n"
        "except AccessError as error: print(error.path, '|', error)\n"
    )
    instance.path.parent.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", program, str(instance.path)], capture_output=True, text=True, timeout=30, check=True
    )
    path, _, words = done.stdout.partition("|")
    assert path.strip() == str(instance.path)
    assert "0600" in words and "stream_mode" in words
    assert issubclass(AccessError, Exception)


def test_a_path_that_is_too_long_and_an_unknown_topic_are_errors_of_the_user(path: Path) -> None:
    with pytest.raises(ConfigError, match="bytes long"):
        reader(path.parent / ("x" * 120))
    with pytest.raises(ConfigError, match="no topic"):
        reader(path, "nonsense")


def test_close_can_be_called_twice_and_releases_everything(instance: Instance) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        made = reader(instance.path)
        made.close()
        made.close()
    with pytest.raises(NotRunningError):
        reader(instance.path.parent / "nobody.ipc", connect_timeout=0)
    time.sleep(0.1)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 2
    with pytest.raises(ClosedError):
        made.read(0)


def test_a_forgotten_reader_leaves_no_descriptor(instance: Instance) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        reader(instance.path)
    gc.collect()
    deadline = time.monotonic() + 60
    while len(list(Path("/proc/self/fd").iterdir())) > before + 5 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 5


def test_a_reader_loads_nothing_of_the_daemon() -> None:
    program = (
        "import sys, pipeline.client.subscriber, pipeline.bus.stream.stream_reader\n"
        "heavy = {'numpy', 'msgspec', 'pythonjsonlogger', 'pylibbpf', 're2', 'llvmlite'} & set(sys.modules)\n"
        "daemon = ('pipeline.resolver', 'pipeline.bpf', 'pipeline.config')\n"
        "own = {m for m in sys.modules if m.startswith(daemon)}\n"
        "print(sorted(heavy | own))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "[]"
