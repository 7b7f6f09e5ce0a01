"""Limits of the memory that a subscriber on this host can make the publisher use; other subscribers notice nothing."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import zmq

from pipeline.bus._relay import Relay
from pipeline.bus.sockets import Bus, SocketError
from pipeline.bus.stream.declared import SUBSCRIPTION_MAX_BYTES
from pipeline.errors import ConfigError, WriterExistsError
from tests import zmtp
from tests.bus.publishers import bind_publisher
from tests.nobody import NOBODY
from tests.waiting import until
from tests.written import constant

CLIENTS_OWN, CLIENTS_OF_USER, CLIENTS_OF_OTHERS, SUBSCRIPTIONS, FRAMES_AT_ONCE = (
    constant("pipeline/bus/_relay.pyx", name)
    for name in ("OWN_MAX", "USER_MAX", "OTHERS_MAX", "SUBSCRIPTIONS_MAX", "FRAMES_BURST")
)
FILTERS_OF_CLIENT, FILTERS_OF_USER, STALLED_OF_USER, STALLED_OF_OTHERS = (
    constant("pipeline/bus/_relay.pyx", name)
    for name in ("FILTERS_OF_CLIENT", "FILTERS_OF_USER", "USER_STALLED_MAX", "OTHERS_STALLED_MAX")
)
#: More than one client may send: it earns new frames every second, so a slow test must send more than the limit alone.
MANY_FRAMES = 4 * FRAMES_AT_ONCE
#: A client may read too slowly for this long: ten times as long as one that reads needs on an idle machine.
HASTY_MS = 400
is_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to connect as another user")


class Stream:
    """A relay in front of an XPUB socket, as the resolver has them."""

    def __init__(self, directory: Path, **limits: int) -> None:
        self.path = directory / "stream.ipc"
        self.relay = Relay(self.path, directory / "inner.ipc", mode=0o666, **limits)
        self.bus = Bus()
        self.xpub = bind_publisher(self.bus, directory / "inner.ipc", mode=0o600)
        self.xpub.setsockopt(zmq.XPUB_VERBOSE, 1)

    def told(self, wait_ms: int = 60_000) -> bytes | None:
        """Return the next subscription that the publisher receives: 1 or 0, then a prefix."""
        return self.xpub.recv() if self.xpub.poll(wait_ms) else None

    def close(self) -> None:
        self.bus.close()
        self.relay.close()


@pytest.fixture
def directory() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="procline-test-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def stream(directory: Path) -> Iterator[Stream]:
    made = Stream(directory)
    yield made
    made.close()


@pytest.fixture
def hasty(directory: Path) -> Iterator[Stream]:
    """A relay that closes stalled clients after less than a tenth of the product's time."""
    made = Stream(directory, stall_ms=HASTY_MS, check_ms=20, give_back_ms=50)
    yield made
    made.close()


def _subscriber(peers: zmq.Context, stream: Stream, *topics: bytes) -> zmq.Socket:
    made = peers.socket(zmq.SUB)
    made.setsockopt(zmq.RECONNECT_IVL, 10)
    for topic in topics:
        made.subscribe(topic)
    made.connect(f"ipc://{stream.path}")
    return made


def test_a_subscriber_of_zeromq_subscribes_receives_and_unsubscribes(stream: Stream, peers: zmq.Context) -> None:
    socket = _subscriber(peers, stream, b"a", b"long")
    assert {stream.told(), stream.told()} == {b"\x01a", b"\x01long"}
    for size in (1, 300, 70_000, 3_000_000):
        stream.xpub.send_multipart([b"a", b"x" * size])
        assert socket.poll(60_000)
        assert socket.recv_multipart() == [b"a", b"x" * size]
    socket.unsubscribe(b"a")
    assert stream.told() == b"\x00a"
    socket.close()
    assert stream.told() == b"\x00long"
    assert (stream.relay.refused, stream.relay.rejected) == (0, 0)


def test_a_client_that_answers_heartbeats_stays(stream: Stream, peers: zmq.Context) -> None:
    made = peers.socket(zmq.SUB)
    made.setsockopt(zmq.HEARTBEAT_IVL, 20)
    made.setsockopt(zmq.HEARTBEAT_TIMEOUT, 1000)
    made.subscribe(b"a")
    made.connect(f"ipc://{stream.path}")
    assert stream.told() == b"\x01a"
    time.sleep(0.3)
    stream.xpub.send(b"a")
    assert made.poll(60_000)
    assert stream.relay.clients == 1 and stream.relay.rejected == 0


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (zmtp.frame(b"\x01proc.", zmtp.MORE), "a part of a message with several"),
        (zmtp.frame(b"anything", zmtp.MORE), "the same, of no subscription"),
        (zmtp.frame(b"\x01" + b"x" * (SUBSCRIPTION_MAX_BYTES + 1)), "a long subscription"),
        (zmtp.command(b"SUBSCRIBE", b"x" * (SUBSCRIPTION_MAX_BYTES + 1)), "the same as a command"),
        (zmtp.frame(b"x" * 2000), "a long message"),
        (bytes([zmtp.LONG]) + struct.pack(">Q", 1 << 63), "the beginning of a message of 2^63 bytes"),
        (bytes([zmtp.LONG]) + struct.pack(">Q", (1 << 64) - 5), "of 2^64 - 5 bytes"),
        (b"\x80\x01x", "reserved flags"),
        (zmtp.command(b"READY"), "a second handshake"),
        (zmtp.command(b"ERROR", b"\x01x"), "an unknown command"),
        (zmtp.command(b"PING", b"\x00"), "a heartbeat that is cut off"),
        (zmtp.frame(b"", zmtp.COMMAND), "a command without a name"),
        (zmtp.frame(b"\xffPING", zmtp.COMMAND), "a name that is longer than its command"),
        (b"".join(zmtp.subscription(b"%d" % i) for i in range(SUBSCRIPTIONS + 1)), "many subscriptions"),
        (zmtp.subscription(b"a") * MANY_FRAMES, "many messages"),
        (zmtp.frame(b"\x02") * MANY_FRAMES, "many messages that are no subscriptions"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_client_that_breaks_a_limit_loses_its_connection(stream: Stream, sent: bytes, why: str) -> None:
    with zmtp.subscriber(stream.path) as client:
        until(lambda: stream.relay.clients == 1)
        with suppress(ConnectionError):
            client.sendall(sent)
        assert zmtp.is_closed(client), why
    until(lambda: stream.relay.clients == 0)
    assert stream.relay.rejected == 1


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "another protocol"),
        (b"\xff" + bytes(8) + b"\x7f\x01", "an old version of ZMTP"),
        (zmtp.GREETING.replace(b"NULL\0", b"PLAIN") + zmtp.READY, "another mechanism"),
        (zmtp.GREETING + zmtp.subscription(b"a"), "a subscription before the handshake"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_client_without_a_handshake_is_rejected(stream: Stream, sent: bytes, why: str) -> None:
    with zmtp.connect(stream.path) as client:
        with suppress(ConnectionError):
            client.sendall(sent)
        assert zmtp.is_closed(client), why
    assert stream.relay.rejected == 1
    assert stream.told(50) is None


def test_a_client_that_sends_nothing_is_closed(directory: Path) -> None:
    stream = Stream(directory, handshake_ms=100, check_ms=20)
    with zmtp.connect(stream.path, timeout=20) as silent, zmtp.connect(stream.path, timeout=20) as slow:
        with suppress(ConnectionError):  # on a busy machine, its time may be over already
            slow.sendall(zmtp.GREETING)
        assert zmtp.is_closed(silent) and zmtp.is_closed(slow)
    assert stream.relay.rejected == 2
    stream.close()


def test_messages_that_are_cut_anywhere_are_the_same_messages(stream: Stream) -> None:
    """The relay reads a stream of bytes, and every part of it can arrive separately."""
    with zmtp.connect(stream.path) as client:
        for byte in zmtp.GREETING + zmtp.READY:
            client.sendall(bytes([byte]))
        zmtp.await_ready(client)
        for byte in zmtp.subscription(b"proc.exec") + zmtp.command(b"SUBSCRIBE", b"sys."):
            client.sendall(bytes([byte]))
        told = {stream.told(), stream.told()}
    assert told == {b"\x01proc.exec", b"\x01sys."}


def test_a_message_that_is_not_a_subscription_is_dropped(stream: Stream) -> None:
    with zmtp.subscriber(stream.path) as client:
        client.sendall(zmtp.frame(b"\x02to the publisher") + zmtp.frame(b"") + zmtp.subscription(b"a"))
        assert stream.told() == b"\x01a"


def test_cancelling_makes_room_for_other_subscriptions(stream: Stream) -> None:
    with zmtp.subscriber(stream.path) as client:
        for i in range(SUBSCRIPTIONS):
            client.sendall(zmtp.subscription(b"%d" % i))
        client.sendall(zmtp.command(b"CANCEL", b"0") + zmtp.frame(b"\x00" + b"1") + zmtp.frame(b"\x00unknown"))
        client.sendall(zmtp.subscription(b"x") + zmtp.subscription(b"y") + zmtp.subscription(b"2"))
        for _ in range(SUBSCRIPTIONS + 5):
            told = stream.told()
        assert told == b"\x012"
        client.sendall(zmtp.subscription(b"z"))
        assert zmtp.is_closed(client)


def test_subscriptions_with_a_filter_are_limited_and_others_are_not(stream: Stream, peers: zmq.Context) -> None:
    """One more is dropped, and the connection stays: its subscriber sees that the filter is not in use."""
    filters = [b"only|user|%d|proc." % number for number in range(FILTERS_OF_CLIENT + 1)]
    socket = _subscriber(peers, stream)
    for each in (*filters, b"last"):
        socket.subscribe(each)
    assert [stream.told() for _ in filters] == [b"\x01" + each for each in (*filters[:-1], b"last")]
    socket.unsubscribe(filters[0])
    socket.unsubscribe(filters[-1])
    socket.subscribe(b"only|user|99|proc.")
    assert [stream.told(), stream.told()] == [b"\x00" + filters[0], b"\x01only|user|99|proc."]
    assert stream.relay.rejected == 0


FILTERING = """
import socket, sys, time
made = []
for number in range(int(sys.argv[2])):
    made.append(socket.socket(socket.AF_UNIX))
    made[-1].connect(sys.argv[1])
    made[-1].sendall(bytes.fromhex(sys.argv[3]))
    answer = b""
    while b"READY" not in answer:  # libzmq closes a connection with messages before that
        answer += made[-1].recv(4096)
    for each in range(8):
        body = b"\\x01only|user|%d|proc." % (number * 8 + each)
        made[-1].sendall(bytes([0, len(body)]) + body)
print(flush=True)
sys.stdin.read()
"""


@is_root
def test_one_user_can_use_only_some_of_the_filters(stream: Stream, peers: zmq.Context) -> None:
    with subprocess.Popen(
        ["/usr/bin/python3", "-I", "-c", FILTERING, stream.path, "4", (zmtp.GREETING + zmtp.READY).hex()],
        user=NOBODY, group=NOBODY, extra_groups=[], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/",
    ) as greedy:  # fmt: skip
        assert greedy.stdout is not None and greedy.stdout.readline()
        told = [stream.told() for _ in range(FILTERS_OF_USER)]
        assert all(each is not None and each.startswith(b"\x01only|") for each in told)
        socket = _subscriber(peers, stream, b"only|user|99|proc.")
        assert stream.told() == b"\x01only|user|99|proc.", "nothing else of the greedy user was passed on"
        socket.close()
        assert stream.told() == b"\x00only|user|99|proc."
        greedy.communicate("")
    assert stream.relay.rejected == 0


def test_an_endless_message_costs_no_memory(stream: Stream, peers: zmq.Context) -> None:
    healthy = _subscriber(peers, stream, b"a")
    assert stream.told() == b"\x01a"
    before = _rss_bytes()
    sent = 0
    for _ in range(20):
        with zmtp.subscriber(stream.path) as client:
            try:
                for _ in range(1000):
                    client.sendall(zmtp.frame(b"x" * 1000, zmtp.MORE))
                    sent += 1000
            except ConnectionError:
                pass
    assert _rss_bytes() - before < 4 << 20
    assert stream.relay.rejected == 20
    stream.xpub.send(b"a")
    assert healthy.poll(60_000)


def _rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


#: Opens connections as another user, and sends its part of the handshake on each. Waits until each is accepted by the
#: publisher or closed, then prints how many are open.
MANY = """
import socket, sys
path, count, hello = sys.argv[1], int(sys.argv[2]), bytes.fromhex(sys.argv[3])
held = []
for _ in range(count):
    made = socket.socket(socket.AF_UNIX)
    try:
        made.connect(path)
        made.sendall(hello)
    except OSError:
        pass
    held.append(made)
for made in held:
    answer = b""
    try:
        while b"XPUB" not in answer and (data := made.recv(65536)):
            answer += data
    except OSError:
        pass
alive = 0
for made in held:
    made.setblocking(False)
    try:
        while (data := made.recv(65536)):
            pass
    except BlockingIOError:
        alive += 1
    except OSError:
        pass
print(alive, flush=True)
sys.stdin.read()
"""


def _many(stream: Stream, user: int, count: int) -> subprocess.Popen[str]:
    hello = zmtp.GREETING + zmtp.READY
    return subprocess.Popen(
        # Other users may not be able to reach the interpreter of this environment.
        ["/usr/bin/python3", "-I", "-c", MANY, stream.path, str(count), hello.hex()],
        user=user, group=user, extra_groups=[], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/",
    )  # fmt: skip


def _alive(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())


@is_root
def test_connections_of_one_user_are_limited_and_others_can_connect(stream: Stream, peers: zmq.Context) -> None:
    with _many(stream, NOBODY, 500) as flood:
        assert _alive(flood) == CLIENTS_OF_USER
        assert stream.relay.clients == CLIENTS_OF_USER
        assert stream.relay.refused == 500 - CLIENTS_OF_USER
        with _many(stream, NOBODY - 1, 1) as other:
            assert _alive(other) == 1
            other.communicate("")
        root = _subscriber(peers, stream, b"root")
        while (told := stream.told()) != b"\x01root":
            assert told is not None
        stream.xpub.send(b"root")
        assert root.poll(60_000)
        flood.communicate("")


@is_root
def test_a_user_with_few_connections_gets_a_place_from_one_with_many(stream: Stream) -> None:
    users = CLIENTS_OF_OTHERS // CLIENTS_OF_USER
    floods = [_many(stream, NOBODY - i, CLIENTS_OF_USER) for i in range(users)]
    try:
        assert [_alive(flood) for flood in floods] == [CLIENTS_OF_USER] * users
        assert stream.relay.clients == CLIENTS_OF_OTHERS
        with _many(stream, NOBODY - 100, 2) as late:
            assert _alive(late) == 2
            assert stream.relay.clients == CLIENTS_OF_OTHERS
            assert stream.relay.refused == 2
            late.communicate("")
    finally:
        for flood in floods:
            flood.communicate("")


@is_root
def test_places_of_root_and_the_daemons_user_are_limited_too(stream: Stream) -> None:
    held = [zmtp.subscriber(stream.path, b"a") for _ in range(CLIENTS_OWN)]
    until(lambda: stream.relay.clients == CLIENTS_OWN)
    with zmtp.connect(stream.path) as excess:
        assert zmtp.is_closed(excess)
    assert stream.relay.refused == 1
    for client in held:
        client.close()
    until(lambda: stream.relay.clients == 0)


def _frozen(stream: Stream, uid: int, count: int, topic: bytes = b"a") -> list[socket.socket]:
    """Return subscribers of a user that will not read, and wait until the publisher knows them.

    The kernel notes the effective user at connect(2). The relay's thread, which has the same, connects to libzmq later.
    """
    os.seteuid(uid)
    try:
        made = [zmtp.connect(stream.path) for _ in range(count)]
    finally:
        os.seteuid(0)
    for each in made:
        each.sendall(zmtp.GREETING + zmtp.READY)
        zmtp.await_ready(each)
        each.sendall(zmtp.subscription(topic))
        assert stream.told() == b"\x01" + topic
    return made


@is_root
def test_few_stalled_connections_of_one_user_stay_and_the_memory_of_others_is_returned(
    hasty: Stream, peers: zmq.Context
) -> None:
    """Each connects later than the one before it, so that libzmq has another megabyte for each."""
    healthy = _subscriber(peers, hasty, b"a")
    assert hasty.told() == b"\x01a"
    frozen: list[socket.socket] = []
    grown = 0
    began = time.monotonic()
    for number in range(STALLED_OF_USER + 3):
        frozen += _frozen(hasty, NOBODY, 1)
        for _ in range(100):
            hasty.xpub.send_multipart([b"a", bytes([number]) * 60_000])
        for _ in range(100):
            assert healthy.poll(60_000)
            healthy.recv_multipart()
        grown = max(grown, _rss_bytes())  # on a busy machine, some of them may be closed already
    until(lambda: hasty.relay.rejected == 3)
    assert time.monotonic() - began > HASTY_MS / 1000, "they had too little time to read"
    until(lambda: hasty.relay.clients == 1 + STALLED_OF_USER)
    for each in frozen:
        each.setblocking(False)
    until(lambda: sum(map(zmtp.is_closed, frozen)) == 3)

    # What libzmq frees when its owner calls it goes back to the kernel, a little later.
    def is_returned() -> bool:
        while hasty.told(0) is not None:
            pass
        return _rss_bytes() < grown - (6 << 20)

    until(is_returned)
    hasty.xpub.send(b"a")
    assert healthy.poll(60_000)
    for each in frozen:
        each.close()


@is_root
def test_stalled_connections_of_all_users_are_limited_too(hasty: Stream) -> None:
    users = [NOBODY - number for number in range(STALLED_OF_OTHERS + 2)]
    frozen = [_frozen(hasty, user, 1) for user in users]
    for _ in range(100):
        hasty.xpub.send_multipart([b"a", b"x" * 60_000])
    until(lambda: hasty.relay.rejected == 2)
    until(lambda: hasty.relay.clients == STALLED_OF_OTHERS)
    assert len(frozen) == len(users)


@is_root
def test_stalled_connections_of_root_stay(hasty: Stream) -> None:
    frozen = [zmtp.subscriber(hasty.path, b"a") for _ in range(STALLED_OF_OTHERS + 2)]
    for _ in frozen:
        assert hasty.told() == b"\x01a"
    for _ in range(100):
        hasty.xpub.send_multipart([b"a", b"x" * 60_000])
    # Those of another user stall later, and one of them is closed: until then, the others had more time than they may.
    others = _frozen(hasty, NOBODY, STALLED_OF_USER + 1, b"b")
    for _ in range(100):
        hasty.xpub.send_multipart([b"b", b"x" * 60_000])
    until(lambda: hasty.relay.rejected > 0)
    until(lambda: hasty.relay.clients < len(frozen) + len(others))
    assert (hasty.relay.clients, hasty.relay.rejected) == (len(frozen) + STALLED_OF_USER, 1)


@is_root
def test_a_trickle_of_reads_is_still_a_stall_and_a_client_that_catches_up_is_none(hasty: Stream) -> None:
    *trickling, reading = _frozen(hasty, NOBODY, STALLED_OF_USER + 2)
    for each in trickling:
        each.setblocking(False)  # where the publisher is slow, there may be nothing to read yet
    read_s = 0.0

    def trickle() -> None:
        nonlocal read_s
        if time.monotonic() - read_s < HASTY_MS / 1000 / 20:
            return
        for each in trickling:
            with suppress(OSError):
                each.recv(100_000)
        read_s = time.monotonic()

    for _ in range(300):
        hasty.xpub.send_multipart([b"a", b"x" * 60_000])
        trickle()
    left = 300 * 60_000
    while left > 0:
        read = len(reading.recv(1 << 20))
        assert read, "it was closed before it could catch up"
        left -= read
        trickle()
    until(lambda: hasty.relay.rejected > 0, meanwhile=trickle)
    hasty.xpub.send_multipart([b"a", b"last"])
    received = b""
    while not received.endswith(b"last"):
        received += reading.recv(1 << 20)
    assert hasty.relay.rejected == 1
    for each in (*trickling, reading):
        each.close()


def test_a_client_that_does_not_read_delays_no_other(stream: Stream, peers: zmq.Context) -> None:
    with zmtp.subscriber(stream.path, b"a") as frozen:
        assert stream.told() == b"\x01a"
        healthy = _subscriber(peers, stream, b"a")
        assert stream.told() == b"\x01a"
        for number in range(300):
            stream.xpub.send_multipart([b"a", b"%d" % number, b"x" * 60_000])
            assert healthy.poll(60_000)
            assert healthy.recv_multipart()[1] == b"%d" % number
        # It gets everything that its queues held as soon as it reads.
        received = 0
        while received < 300 * 60_000:
            received += len(frozen.recv(1 << 20))


def test_the_last_messages_are_delivered_at_the_end(directory: Path, peers: zmq.Context) -> None:
    stream = Stream(directory)
    reader = _subscriber(peers, stream, b"a")
    assert stream.told() == b"\x01a"
    for _ in range(50):
        stream.xpub.send_multipart([b"a", b"x" * 10_000])
    stream.bus.close(linger_ms=1000)
    stream.relay.close()
    assert not stream.path.exists()
    for _ in range(50):
        assert reader.poll(60_000)
        reader.recv_multipart()


def test_a_stop_does_not_wait_for_a_client_that_never_reads(directory: Path) -> None:
    stream = Stream(directory)
    with zmtp.subscriber(stream.path, b"a") as frozen:
        assert stream.told() == b"\x01a"
        for _ in range(100):
            stream.xpub.send_multipart([b"a", b"x" * 60_000])
        stream.bus.close(linger_ms=100)
        began = time.monotonic()
        stream.relay.close(linger_s=0.2)
        assert time.monotonic() - began < 5
        assert frozen.recv(1)


def test_the_socket_replaces_a_dead_one_and_never_a_live_one(directory: Path) -> None:
    path, inner = directory / "stream.ipc", directory / "inner.ipc"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with Relay(path, inner, mode=0o660) as relay:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        with pytest.raises(WriterExistsError, match="listens"):
            Relay(path, inner, mode=0o660)
        until(lambda: relay.clients == 0)  # to see that it listens, the second had connected for a moment
    path.write_text("a file")
    with pytest.raises(SocketError, match="not a socket"):
        Relay(path, inner, mode=0o660)
    with pytest.raises(SocketError, match="does not exist"):
        Relay(directory / "none" / "stream.ipc", inner, mode=0o660)
    with pytest.raises(ConfigError, match="at most 107"):
        Relay(directory / ("x" * 100), inner, mode=0o660)


def test_a_client_that_connects_before_the_publisher_is_there_connects_again(
    directory: Path, peers: zmq.Context
) -> None:
    with Bus() as bus, Relay(directory / "stream.ipc", directory / "inner.ipc", mode=0o600):
        early = peers.socket(zmq.SUB)
        early.setsockopt(zmq.RECONNECT_IVL, 10)
        early.subscribe(b"a")
        early.connect(f"ipc://{directory / 'stream.ipc'}")
        time.sleep(0.1)
        xpub = bind_publisher(bus, directory / "inner.ipc", mode=0o600)
        deadline = time.monotonic() + 60
        while not xpub.poll(10):
            assert time.monotonic() < deadline
            early.poll(0)  # a SUB socket repeats its subscriptions when its owner calls it
        assert xpub.recv() == b"\x01a"
        early.close()


def test_signals_reach_the_main_thread(directory: Path) -> None:
    """A signal that the relay's thread took would not end a system call in which the main thread sleeps."""
    code = """
import os, signal, sys, time
from pathlib import Path
from pipeline.bus._relay import Relay
directory = Path(sys.argv[1])
with Relay(directory / "s", directory / "i", mode=0o600):
    signal.signal(signal.SIGALRM, lambda *_: sys.exit(7))
    for thread in os.listdir("/proc/self/task"):
        if int(thread) != os.getpid():
            status = Path(f"/proc/self/task/{thread}/status").read_text()
            blocked = int(status.split("SigBlk:")[1].split()[0], 16)
            assert blocked >> (signal.SIGALRM - 1) & 1, status
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    time.sleep(60)
"""
    done = subprocess.run([sys.executable, "-c", code, str(directory)], timeout=30)
    assert done.returncode == 7
