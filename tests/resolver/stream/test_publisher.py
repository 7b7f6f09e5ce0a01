"""The publisher on real sockets: subscriptions, welcomes, heartbeats, slow and hostile peers, take-over, CURVE."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zmq

from pipeline.bus.auth import generate_keys, secure_client
from pipeline.bus.curve_server import CurveServer
from pipeline.bus.sockets import Bus, SocketError
from pipeline.bus.stream.messages import WELCOME_PREFIX, Decoder, Header, unpack_events
from pipeline.errors import WriterExistsError
from pipeline.host.boot import now_boot_ns
from pipeline.resolver.stream._encoder import Encoder
from pipeline.resolver.stream.journal_writer import JournalWriter
from pipeline.resolver.stream.publisher import SUBSCRIPTIONS_PER_CALL, Publisher
from tests.resolver.stream_rows import BOOT, BOOT_UNIX_NS, Row, tables
from tests.waiting import WAIT_S, until

FORK, EXEC, EXIT, LOSS = 0, 1, 2, 6


class Instance:
    """A publisher with tables and an encoder behind it, stepped by the test."""

    def __init__(self, writer, directory: Path, encoder: Encoder | None = None, **options) -> None:
        self.writer = writer
        self.row = Row(writer, tgid=42, start_boot_ns=10**9, known=0x7FFF, comm=b"x")
        self.path = directory / "stream.ipc"
        self.encoder = encoder or Encoder(BOOT)
        self.bus = Bus()
        self.publisher = self.make(**options)

    def make(self, **options) -> Publisher:
        settings = {"boot": BOOT, "boot_unix_ns": BOOT_UNIX_NS, "epoch": 5, "takeovers": 1, "host": "here"} | options
        return Publisher(self.encoder, self.bus, self.path, **settings)

    def succeed(self, committed: np.ndarray, takeovers: int) -> None:
        """Become a successor that continues with these numbers; the former one must be closed."""
        self.encoder = Encoder(BOOT)
        self.encoder.restore(committed)
        self.bus = Bus()
        self.publisher = self.make(takeovers=takeovers)

    def events(self, count: int, topic: int = FORK) -> None:
        for _ in range(count):
            self.encoder.add(self.writer, topic, topic + 1, self.row.number, 10**9)
        self.publisher.send(self.encoder.take())

    def until(self, condition, limit_s: float = WAIT_S) -> None:
        until(condition, limit_s=limit_s, pause_s=0.001, meanwhile=lambda: self.publisher.do_work(0))

    def close(self) -> None:
        self.publisher.close()
        self.bus.close()


@pytest.fixture
def directory() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="procline-test-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def instance(directory: Path) -> Iterator[Instance]:
    with tables() as writer:
        made = Instance(writer, directory)
        yield made
        made.close()


@pytest.fixture
def peers() -> Iterator[zmq.Context]:
    """A ZeroMQ context for the peers; its sockets discard everything when they are closed."""
    context = zmq.Context()
    yield context
    context.destroy(linger=0)


def subscriber(peers: zmq.Context, instance: Instance, *topics: bytes, hwm: int = 10_000) -> zmq.Socket:
    socket = peers.socket(zmq.SUB)
    socket.setsockopt(zmq.RCVHWM, hwm)
    socket.setsockopt(zmq.RECONNECT_IVL, 10)
    for topic in topics:
        socket.subscribe(topic)
    socket.connect(f"ipc://{instance.path}")
    return socket


def receive(socket: zmq.Socket, timeout_ms: int = 2000) -> tuple[bytes, Header, bytes] | None:
    if not socket.poll(timeout_ms):
        return None
    topic, header, body = socket.recv_multipart()
    return topic, Header.parse(header), body


def test_subscriptions_select_the_encoded_topics(instance: Instance, peers: zmq.Context) -> None:
    mask = lambda: instance.encoder.topics_mask  # noqa: E731
    one = subscriber(peers, instance, b"proc.exec")
    instance.until(lambda: mask() == 0b10)
    two = subscriber(peers, instance, b"proc.", b"proc.exec")
    instance.until(lambda: mask() == 0b111111)
    three = subscriber(peers, instance, b"")
    instance.until(lambda: mask() == 0xFF)
    three.unsubscribe(b"")
    instance.until(lambda: mask() == 0b111111)
    two.close()
    instance.until(lambda: mask() == 0b10)
    one.close()
    instance.until(lambda: mask() == 0)
    instance.events(10)
    assert instance.publisher.published == 0 and instance.encoder.sequences()[0] == 10


def test_a_message_names_its_host_and_instance(instance: Instance, peers: zmq.Context) -> None:
    socket = subscriber(peers, instance, b"proc.exec")
    instance.until(lambda: instance.encoder.topics_mask)
    instance.publisher.watermark_boot_ns = 5
    instance.events(3, EXEC)
    topic, header, body = receive(socket)
    assert (topic, header.host, header.boot, header.epoch, header.writer) == (b"proc.exec", "here", BOOT, 5, 1)
    assert (header.first, header.count, header.rest, header.stream) == (1, 3, 0, instance.encoder.stream)
    assert header.watermark_ns == BOOT_UNIX_NS + 5
    assert abs(header.time_ns - BOOT_UNIX_NS - now_boot_ns()) < 5 * 10**9
    assert [event["pid"] for event in unpack_events(Decoder(), body, 3)] == [42, 42, 42]


def test_groups_and_steps_are_counted(instance: Instance, peers: zmq.Context) -> None:
    socket = subscriber(peers, instance, b"")
    instance.until(lambda: instance.encoder.topics_mask)
    for topic in (FORK, EXEC, FORK):
        instance.encoder.add(instance.writer, topic, topic + 1, instance.row.number, 1)
    instance.publisher.send(instance.encoder.take())
    instance.publisher.send([])  # nothing was sent, so this counts as no step
    instance.events(1)
    headers = [receive(socket)[1] for _ in range(3)]
    assert [header.group for header in headers] == [headers[0].group, headers[0].group, headers[0].group + 1]
    assert [header.rest for header in headers] == [0b10, 0, 0]
    assert [header.next[:3] for header in headers] == [(3, 1, 1), (3, 2, 1), (4, 2, 1)]
    assert [header.step - headers[0].step for header in headers] == [0, 0, 1]


def test_the_welcome_answers_the_new_subscriber_with_the_current_numbers(
    instance: Instance, peers: zmq.Context
) -> None:
    other = subscriber(peers, instance, b"proc.")
    instance.until(lambda: instance.encoder.topics_mask)
    instance.events(7)
    instance.events(2, EXIT)
    for _ in range(3):  # encoded, not sent yet: their numbers must not be below the welcome's
        instance.encoder.add(instance.writer, FORK, 1, instance.row.number, 1)
    word = WELCOME_PREFIX + b"a" * 16
    socket = subscriber(peers, instance, b"proc.fork", word)
    instance.until(lambda: socket.poll(0))
    topic, header, body = receive(socket)
    while topic != word:  # the three pending events may come first
        topic, header, body = receive(socket)
    assert (topic, body, header.count) == (word, b"", 0)
    assert header.seqs == (10, 0, 2, 0, 0, 0, 0, 0)
    instance.events(1)
    topic, header, _ = receive(socket)
    assert (topic, header.first) == (b"proc.fork", 11)
    seen = []
    while message := receive(other, 100):
        seen.append(message[0])
    assert word not in seen


def test_each_topic_with_a_subscriber_beats(instance: Instance, peers: zmq.Context) -> None:
    socket = subscriber(peers, instance, b"proc.exec", b"sys.loss")
    instance.until(lambda: instance.encoder.topics_mask)
    instance.events(4, EXEC)
    assert receive(socket)[1].count == 4
    instance.publisher.do_work(10**9)
    beats = [receive(socket) for _ in range(2)]
    assert [(topic, header.first, header.count) for topic, header, _ in beats] == [
        (b"proc.exec", 5, 0), (b"sys.loss", 1, 0),
    ]  # fmt: skip
    assert all(header.next == (1, 5, 1, 1, 1, 1, 1, 1) for _, header, _ in beats)
    instance.publisher.do_work(10**9 + 1)
    assert receive(socket, 50) is None
    instance.publisher.do_work(2 * 10**9)
    assert receive(socket) is not None


def test_welcomes_and_heartbeats_have_unwatched_times_and_events_do_not(directory: Path, peers: zmq.Context) -> None:
    with tables() as writer:
        instance = Instance(writer, directory, unwatched=[(7, 9)])
        try:
            socket = subscriber(peers, instance, b"proc.exec", WELCOME_PREFIX + b"x")
            instance.until(lambda: socket.poll(0))
            holes = ((BOOT_UNIX_NS + 7, BOOT_UNIX_NS + 9),)
            assert receive(socket)[1].unwatched == holes
            instance.events(1, EXEC)
            assert receive(socket)[1].unwatched == ()
            instance.publisher.do_work(10**9)
            assert receive(socket)[1].unwatched == holes
        finally:
            instance.close()


def test_events_encoded_outside_a_batch_are_sent_by_the_next_do_work(instance: Instance, peers: zmq.Context) -> None:
    socket = subscriber(peers, instance, b"proc.")
    instance.until(lambda: instance.encoder.topics_mask)
    instance.encoder.add(instance.writer, EXIT, 3, instance.row.number, 1)
    assert instance.publisher.do_work(0) == 1
    assert receive(socket)[0] == b"proc.exit"


def test_a_slow_subscriber_loses_only_its_own_messages(directory: Path, peers: zmq.Context) -> None:
    with tables() as writer:
        instance = Instance(writer, directory, send_hwm=16)
        slow = subscriber(peers, instance, b"proc.", hwm=1)
        quick = subscriber(peers, instance, b"proc.", hwm=100_000)
        word = WELCOME_PREFIX + b"quick"
        quick.subscribe(word)
        instance.until(lambda: quick.poll(0) and quick.recv_multipart()[0] == word)
        time.sleep(0.2)  # wait until both subscriptions are known
        instance.publisher.do_work(0)
        got, total = 0, 0
        begin = time.monotonic()
        for _ in range(300):
            instance.events(200)
            total += 200
            while got < total and (message := receive(quick)):
                got += message[1].count
        elapsed = time.monotonic() - begin
        assert got == total, "the quick one has all"
        assert instance.publisher.unsent > 0
        assert elapsed < 20, "and no subscriber waited"
        first = receive(slow)[1]
        received, last = first.count, first.first + first.count - 1
        while message := receive(slow, 200):
            received += message[1].count
            last = message[1].first + message[1].count - 1
        assert received < total
        # It learns how many events there were when it listens again.
        instance.publisher.do_work(10**9)
        while message := receive(slow, 500):
            if message[0] == b"proc.fork":
                last = message[1].first
                break
        assert last == total + 1
        instance.close()


def test_losses_and_statistics_are_events(instance: Instance, peers: zmq.Context) -> None:
    assert not instance.publisher.wants_stats
    assert not instance.publisher.stats({"x": 1}, 7)
    socket = subscriber(peers, instance, b"sys.")
    instance.until(lambda: instance.encoder.topics_mask == 0b11000000)
    publisher = instance.publisher
    assert publisher.loss({"exec": 3, "fork": 0}, 7) is True
    assert publisher.loss({"exec": 3, "fork": 0}, 8) is False
    assert publisher.loss({"exec": 4, "fork": 2}, 9) is True
    assert publisher.stats({"entries": {"live": 2}}, 10) is True
    publisher.do_work(0)
    received = [receive(socket) for _ in range(2)]
    losses = unpack_events(Decoder(), received[0][2], received[0][1].count)
    stats = unpack_events(Decoder(), received[1][2], 1)
    assert [(each["event"], each["new"], each["seq"], each["time_ns"]) for each in losses] == [
        ("loss", {"exec": 3}, 1, BOOT_UNIX_NS + 7), ("loss", {"exec": 1, "fork": 2}, 2, BOOT_UNIX_NS + 9),
    ]  # fmt: skip
    assert losses[1]["lost"] == {"exec": 4, "fork": 2}
    assert (stats[0]["event"], stats[0]["entries"], stats[0]["seq"]) == ("stats", {"live": 2}, 1)


def test_a_journal_that_was_cut_short_is_not_written_to(directory: Path) -> None:
    """Storing behind the end of a file ends the process."""
    journal = JournalWriter(directory, boot=BOOT, journal_bytes=1 << 20, mode=0o660, topics=1 << 7)
    (file,) = directory.iterdir()

    def append() -> None:
        journal.append([(2, b"header", b"body", 1, 1)], stream=1, writer=1, epoch=1, step=1, group=1, time_ns=1, kept=0)

    append()
    assert (journal.events, journal.failed) == (1, 0)
    os.truncate(file, 4096)
    append()
    assert (journal.events, journal.failed) == (1, 1)
    journal.close()


def test_statistics_that_only_the_journal_keeps_are_kept_and_not_counted_as_published(
    directory: Path, peers: zmq.Context
) -> None:
    with tables() as writer:
        journal = JournalWriter(directory, boot=BOOT, journal_bytes=1 << 20, mode=0o660, topics=1 << 7)
        instance = Instance(writer, directory, journal=journal)
        publisher = instance.publisher
        assert publisher.wants_stats and publisher.stats({"x": 1}, 10)
        publisher.do_work(0)
        assert journal.events == 1 and publisher.published == 0
        _socket = subscriber(peers, instance, b"sys.stats")
        instance.until(lambda: instance.encoder.topics_mask == 1 << 7)
        assert publisher.stats({"x": 2}, 11)
        publisher.do_work(0)
        assert journal.events == 2 and publisher.published == 1
        instance.close()


def test_the_end_of_the_stream_is_published(instance: Instance, peers: zmq.Context) -> None:
    socket = subscriber(peers, instance, b"proc.exec")
    instance.until(lambda: instance.encoder.topics_mask)
    instance.encoder.add(instance.writer, EXEC, 2, instance.row.number, 1)
    instance.publisher.close()
    instance.publisher.close()
    assert receive(socket)[1].count == 1
    header = receive(socket)[1]
    assert header.end and header.first == 2


def test_upstream_messages_that_are_no_subscriptions_are_ignored(instance: Instance, peers: zmq.Context) -> None:
    socket = peers.socket(zmq.XSUB)
    socket.connect(f"ipc://{instance.path}")
    for junk in (
        b"",
        b"\x02",
        b"hello",
        b"\x01" + b"x" * 3000,
        b"\x01" + WELCOME_PREFIX + b"y" * 1000,
        b"\x00proc.exec",
    ):
        socket.send(junk)
    socket.send(b"\x01proc.exec")
    instance.until(lambda: instance.encoder.topics_mask == 0b10)
    assert len(instance.publisher._prefixes) == 1, "what asks for no topic is not remembered"
    # The relay passes a burst of one connection on, so more than a call's worth needs several of them.
    done: list[int] = []
    for attempt in range(20):
        crowd = [peers.socket(zmq.XSUB) for _ in range(3)]
        for number, member in enumerate(crowd):
            member.connect(f"ipc://{instance.path}")
            for n in range(240):
                member.send(b"\x01" + WELCOME_PREFIX + f"{attempt}.{number}.{n}".encode())
        time.sleep(0.1 * (attempt + 1))
        done += [instance.publisher.do_work(0) for _ in range(20)]
        for member in crowd:
            member.close(0)
        if max(done) >= SUBSCRIPTIONS_PER_CALL:
            break
    assert max(done) == SUBSCRIPTIONS_PER_CALL, "one call is bounded, and more than that was waiting"


def test_a_peer_that_sends_too_much_loses_its_connection_only(instance: Instance, peers: zmq.Context) -> None:
    bad = peers.socket(zmq.XSUB)
    bad.connect(f"ipc://{instance.path}")
    good = subscriber(peers, instance, b"proc.exec")
    instance.until(lambda: instance.encoder.topics_mask == 0b10)
    bad.send(b"\x01proc.fork")
    instance.until(lambda: instance.encoder.topics_mask == 0b11)
    bad.send(b"\x02" + bytes(1_000_000))
    instance.until(lambda: instance.encoder.topics_mask == 0b10)
    instance.events(1, EXEC)
    assert receive(good)[1].count == 1


def test_a_subscription_of_a_megabyte_does_not_end_the_publisher(instance: Instance, peers: zmq.Context) -> None:
    """Recursion would crash the process that destroys such a tree of subscriptions. The peer has such a tree too."""
    good = subscriber(peers, instance, b"proc.exec")
    instance.until(lambda: instance.encoder.topics_mask == 0b10)
    program = (
        "import os, sys, time, zmq; socket = zmq.Context().socket(zmq.XSUB); socket.connect(sys.argv[1]);"
        "socket.send(b'\\x01' + b'x' * 1_000_000); time.sleep(0.5); os._exit(7)"
    )
    peer = subprocess.Popen([sys.executable, "-c", program, f"ipc://{instance.path}"])
    instance.until(lambda: peer.poll() is not None, 20)
    assert peer.returncode == 7
    instance.events(1, EXEC)
    assert receive(good)[1].count == 1
    assert instance.publisher._prefixes == {b"proc.exec": 0b10}


def test_a_successor_waits_for_the_subscribers_that_there_were(directory: Path, peers: zmq.Context) -> None:
    with tables() as writer:
        instance = Instance(writer, directory)
        assert not instance.publisher.is_awaiting(now_boot_ns())
        socket = subscriber(peers, instance, b"proc.exec", b"proc.exit")
        instance.until(lambda: instance.encoder.topics_mask == 0b110)
        committed = instance.encoder.sequences()
        instance.bus.close()
        instance.succeed(committed, takeovers=2)
        assert instance.publisher.is_awaiting(now_boot_ns())
        # A SUB socket repeats its subscriptions when its owner reads from it, which a reader does all the time.
        instance.until(lambda: socket.poll(0) or not instance.publisher.is_awaiting(now_boot_ns()))
        assert instance.encoder.topics_mask == 0b110
        socket.close()
        instance.close()
        # No peer comes back: the wait ends.
        instance.succeed(committed, takeovers=3)
        begin = now_boot_ns()
        instance.until(lambda: not instance.publisher.is_awaiting(now_boot_ns()))
        assert 0.2e9 < now_boot_ns() - begin < 2e9
        instance.close()


def test_a_successor_without_cpu_time_does_not_count_that_as_waiting(directory: Path, peers: zmq.Context) -> None:
    with tables() as writer:
        instance = Instance(writer, directory)
        socket = subscriber(peers, instance, b"proc.exec")
        instance.until(lambda: instance.encoder.topics_mask == 0b10)
        committed = instance.encoder.sequences()
        instance.bus.close()
        instance.succeed(committed, takeovers=2)
        now = now_boot_ns() + 10**10  # the rest of its start took that long
        assert instance.publisher.is_awaiting(now)
        assert instance.publisher.is_awaiting(now + 10**10)  # and then it got no CPU
        # A SUB socket repeats its subscriptions when its owner reads from it.
        instance.until(lambda: not socket.poll(0) and instance.encoder.topics_mask == 0b10)
        assert instance.publisher.is_awaiting(now + 2 * 10**10)
        assert not instance.publisher.is_awaiting(now + 3 * 10**10), "all are there"
        socket.close()
        instance.close()


def test_the_socket_has_the_mode_that_was_asked_for(directory: Path) -> None:
    before = os.umask(0o027)
    try:
        for mode in (0o600, 0o660, 0o666):
            with tables() as writer:
                instance = Instance(writer, directory, mode=mode)
                assert stat.S_IMODE(instance.path.stat().st_mode) == mode
                with pytest.raises(WriterExistsError):
                    Publisher(Encoder(BOOT), instance.bus, instance.path, boot=BOOT, boot_unix_ns=0, epoch=1)
                instance.close()
                assert not instance.path.exists()
    finally:
        os.umask(before)


def test_over_tcp_only_known_keys_are_let_in_and_ipc_stays_as_it_is(directory: Path, peers: zmq.Context) -> None:
    server_keys, clients = directory / "server", directory / "clients"
    _, server_secret = generate_keys(server_keys, "server")
    public, client_secret = generate_keys(directory / "one", "one")
    _, stranger_secret = generate_keys(directory / "two", "two")
    clients.mkdir()
    shutil.copy(public, clients)
    with tables() as writer, Bus() as bus, CurveServer(bus.context, key=server_secret, clients=clients) as curve:
        instance = Instance(writer, directory)
        instance.close()
        instance.bus = bus
        with pytest.raises(ValueError, match="CURVE"):
            instance.make(tcp="tcp://127.0.0.1:0")
        instance.publisher = instance.make(tcp="tcp://127.0.0.1:0", curve=curve)
        address = instance.publisher.tcp_endpoint
        known, stranger, plain = (peers.socket(zmq.SUB) for _ in range(3))
        secure_client(known, key=client_secret, server=server_keys / "server.key")
        secure_client(stranger, key=stranger_secret, server=server_keys / "server.key")
        for socket, topic in ((known, b"proc.fork"), (stranger, b"proc.exec"), (plain, b"proc.exit")):
            socket.subscribe(topic)
            socket.connect(address)
        local = subscriber(peers, instance, b"proc.cred")
        instance.until(lambda: instance.encoder.topics_mask == 0b1001)
        time.sleep(0.3)
        instance.publisher.do_work(0)
        assert instance.encoder.topics_mask == 0b1001, "neither the unknown key nor the unencrypted client was admitted"
        instance.events(2)
        instance.events(1, 3)
        assert receive(known)[1].count == 2
        assert receive(local)[1].count == 1
        with pytest.raises(SocketError, match="cannot bind"):
            Publisher(
                Encoder(BOOT), bus, directory / "other.ipc", boot=BOOT, boot_unix_ns=0, epoch=1, tcp=address,
                curve=curve,
            )  # fmt: skip
        instance.publisher.close()


def test_events_that_were_dropped_are_a_gap_for_subscribers_with_filters(directory: Path, peers: zmq.Context) -> None:
    """Otherwise `since` would say that none of them has passed."""
    with tables() as writer:
        instance = Instance(writer, directory, encoder=Encoder(BOOT, limit_bytes=8192))
        try:
            socket = subscriber(peers, instance, b"only|name|x|proc.fork")
            instance.until(lambda: instance.encoder.subscribed_mask)
            instance.events(2)
            instance.events(30)
            instance.events(1)
            assert 20 < instance.encoder.dropped < 30
            expected, missed = 1, 0
            while expected < 34:
                received = receive(socket)
                assert received is not None
                topic, header, _ = received
                assert topic == b"only|name|x|proc.fork" and header.since is not None
                missed += header.since - expected
                expected = header.first + header.count
            assert missed == instance.encoder.dropped
        finally:
            instance.close()


def test_messages_for_a_filter_say_what_is_still_to_come_of_a_group(instance: Instance, peers: zmq.Context) -> None:
    socket = subscriber(peers, instance, b"only|name|x|proc.fork", b"only|name|x|proc.exit")
    instance.until(lambda: instance.encoder.subscribed_mask == 0b101)
    for topic in (FORK, EXEC, EXIT):
        instance.encoder.add(instance.writer, topic, topic + 1, instance.row.number, 10**9)
    instance.publisher.send(instance.encoder.take())
    fork, exited = receive(socket), receive(socket)
    assert fork is not None and exited is not None
    assert (fork[0], fork[1].rest, exited[0], exited[1].rest) == (
        b"only|name|x|proc.fork", 1 << EXIT, b"only|name|x|proc.exit", 0,
    )  # fmt: skip
    assert fork[1].group == exited[1].group and fork[1].only == ()
    instance.publisher.do_work(now_boot_ns())
    beat = receive(socket)
    assert beat is not None and beat[1].count == 0 and beat[1].only == (b"only|name|x",)


def test_messages_for_a_filter_say_what_was_sent_of_its_topics(instance: Instance, peers: zmq.Context) -> None:
    socket = subscriber(peers, instance, b"only|name|x|proc.fork", b"only|name|x|proc.exit", b"sys.loss")
    instance.until(lambda: instance.encoder.subscribed_mask == 0b1000101)
    for topic in (FORK, EXEC, EXIT, FORK):
        instance.encoder.add(instance.writer, topic, topic + 1, instance.row.number, 10**9)
    instance.publisher.loss({"exec": 1}, 1)
    instance.publisher.send(instance.encoder.take())
    found = [receive(socket) for _ in range(3)]
    assert [(topic, header.rest, header.next) for topic, header, _ in found] == [
        # Those of the filter come first, because the others do not say whether more of the filter is to come.
        (b"only|name|x|proc.fork", 1 << EXIT | 1 << LOSS, (3, 0, 1, 0, 0, 0, 1, 1)),
        (b"only|name|x|proc.exit", 1 << LOSS, (3, 0, 2, 0, 0, 0, 1, 1)),
        (b"sys.loss", 0, (3, 1, 2, 1, 1, 1, 2, 1)),
    ]
    instance.publisher.do_work(now_boot_ns())
    beats = [receive(socket) for _ in range(3)]
    assert [(topic, header.next) for topic, header, _ in beats] == [
        (b"sys.loss", (3, 2, 2, 1, 1, 1, 2, 1)),
        (b"only|name|x|proc.fork", (3, 0, 2, 0, 0, 0, 2, 1)),
        (b"only|name|x|proc.exit", (3, 0, 2, 0, 0, 0, 2, 1)),
    ]
