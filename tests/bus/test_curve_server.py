"""The stream over TCP: revoked keys lose their connections, refused clients are counted, and each client is limited."""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from pipeline.bus import curve_server
from pipeline.bus.auth import generate_keys, secure_client
from pipeline.bus.curve_server import CurveServer
from pipeline.bus.sockets import Bus
from tests.waiting import until

CLIENTS = ("one", "two")


class Stream:
    """An XPUB socket on TCP that a CurveServer guards, as the resolver has it."""

    def __init__(self, directory: Path, *, is_late: bool = False) -> None:
        self.directory = directory
        self.bus = Bus()
        generate_keys(directory, "server")
        for name in (*CLIENTS, "stranger"):
            public, _ = generate_keys(directory / "keys", name)
            if name in CLIENTS:
                self.allow(public)
        self.server = CurveServer(self.bus.context, key=directory / "server.key_secret", clients=directory / "allowed")
        self.xpub = self.bus.socket(zmq.XPUB, send_hwm=1000, receive_hwm=1000)
        self.server.secure(self.xpub)
        self.xpub.setsockopt(zmq.XPUB_VERBOSE, 1)
        self.xpub.setsockopt(zmq.MAXMSGSIZE, 4096)
        self.xpub.bind("tcp://127.0.0.1:0")
        self.endpoint = self.xpub.getsockopt_string(zmq.LAST_ENDPOINT)
        if not is_late:
            self.server.watch(self.xpub)

    @property
    def port(self) -> int:
        return int(self.endpoint.rpartition(":")[2])

    def allow(self, public: Path) -> None:
        allowed = self.directory / "allowed"
        allowed.mkdir(exist_ok=True)
        (allowed / public.name).write_bytes(public.read_bytes())

    def revoke(self, name: str) -> None:
        (self.directory / "allowed" / f"{name}.key").unlink()

    def client(self, peers: zmq.Context, name: str, kind: int = zmq.SUB, topic: bytes = b"a") -> zmq.Socket:
        made = peers.socket(kind)
        made.setsockopt(zmq.RECONNECT_IVL, 10)
        secure_client(made, key=self.directory / "keys" / f"{name}.key_secret", server=self.directory / "server.key")
        if kind == zmq.SUB:
            made.subscribe(topic)
        made.connect(self.endpoint)
        return made

    def told(self, wait_ms: int = 60_000) -> bytes | None:
        """Return the next subscription, after the server has seen it."""
        if not self.xpub.poll(wait_ms):
            return None
        frame = self.xpub.recv(copy=False)
        self.server.note(frame)
        return bytes(frame.bytes)

    def until(self, condition: Callable[[], object]) -> None:
        until(condition, meanwhile=lambda: self.told(0))

    def close(self) -> None:
        self.xpub.disable_monitor()
        self.xpub.close()
        self.server.close()
        self.bus.close()


@pytest.fixture
def stream(tmp_path: Path) -> Iterator[Stream]:
    made = Stream(tmp_path)
    yield made
    made.close()


_numbers = itertools.count()
#: A message reaches a client that is connected within a few milliseconds.
CUT_OFF_MS = 100


def _receives(stream: Stream, client: zmq.Socket, wait_ms: int = 3000) -> bool:
    """Whether a client receives what is published now; what was published before may still be on its way to it."""
    message = b"a %d" % next(_numbers)
    stream.xpub.send(message)
    while client.poll(wait_ms):
        if client.recv() == message:
            return True
    return False


def test_a_revoked_key_loses_its_connection_and_others_keep_theirs(stream: Stream, peers: zmq.Context) -> None:
    one, two = stream.client(peers, "one"), stream.client(peers, "two")
    assert [stream.told(), stream.told()] == [b"\x01a", b"\x01a"]
    assert _receives(stream, one) and _receives(stream, two)
    stream.revoke("one")
    stream.until(lambda: stream.server.revoked)
    assert stream.server.revoked == 1
    assert not _receives(stream, one, CUT_OFF_MS)
    assert _receives(stream, two)
    # It connects again, and is refused.
    stream.until(lambda: stream.server.refused)
    assert stream.server.last_refused == (stream.directory / "keys/one.key").read_text().split('"')[1]
    # Allowed again, a new client can connect without a restart of the server. ZeroMQ gives up after a refusal.
    stream.allow(stream.directory / "keys" / "one.key")
    again = stream.client(peers, "one")
    stream.until(lambda: _receives(stream, again, 50))


def test_a_key_that_is_replaced_in_its_file_is_revoked(stream: Stream, peers: zmq.Context) -> None:
    one = stream.client(peers, "one")
    assert stream.told() == b"\x01a" and _receives(stream, one)
    (stream.directory / "allowed/one.key").write_bytes((stream.directory / "keys/stranger.key").read_bytes())
    stream.until(lambda: stream.server.revoked)
    stranger = stream.client(peers, "stranger")
    stream.until(lambda: _receives(stream, stranger, 50))
    assert not _receives(stream, one, CUT_OFF_MS)


@pytest.mark.parametrize(
    "content", ['curve\n    public-key: "x"\n', 'curve\n    public-key = "' + "\xff" * 40 + '"\n', None],
    ids=["no sign", "no characters of a key", "a link to nothing"],
)  # fmt: skip
def test_a_file_that_cannot_be_used_concerns_no_other_key(
    stream: Stream, peers: zmq.Context, content: str | None
) -> None:
    one = stream.client(peers, "one")
    assert stream.told() == b"\x01a" and _receives(stream, one)
    file = stream.directory / "allowed" / "bad.key"
    if content is None:
        file.symlink_to(stream.directory / "nothing")
    else:
        file.write_text(content, encoding="latin-1")
    two = stream.client(peers, "two")
    assert stream.told() == b"\x01a" and _receives(stream, two) and _receives(stream, one)
    stream.revoke("one")  # and the watch still works
    stream.until(lambda: stream.server.revoked)
    assert not _receives(stream, one, CUT_OFF_MS) and _receives(stream, two)


def test_a_client_that_connects_before_the_watch_is_watched_too(tmp_path: Path, peers: zmq.Context) -> None:
    made = Stream(tmp_path, is_late=True)
    try:
        one = made.client(peers, "one")
        assert made.told() == b"\x01a"
        made.server.watch(made.xpub)
        made.until(lambda: made.server.clients)
        made.revoke("one")
        made.until(lambda: made.server.revoked)
        assert not _receives(made, one, CUT_OFF_MS)
    finally:
        made.close()


def test_a_client_is_distinguished_from_the_end_of_a_connection(stream: Stream, peers: zmq.Context) -> None:
    """Only the end of a connection shows that no client wants a topic: one can cancel what it never subscribed to."""
    client = stream.client(peers, "one", zmq.XSUB)
    client.send(b"\x01b")
    assert stream.xpub.poll(60_000)
    assert stream.server.note(stream.xpub.recv(copy=False))
    client.close(linger=0)
    assert stream.xpub.poll(60_000)
    frame = stream.xpub.recv(copy=False)
    assert frame.bytes == b"\x00b" and not stream.server.note(frame)


def test_the_loss_of_the_list_revokes_all_keys(stream: Stream, peers: zmq.Context) -> None:
    one = stream.client(peers, "one")
    assert stream.told() == b"\x01a" and _receives(stream, one)
    (stream.directory / "allowed").rename(stream.directory / "away")
    stream.until(lambda: stream.server.revoked)


def test_refused_clients_are_counted(stream: Stream, peers: zmq.Context) -> None:
    stranger = stream.client(peers, "stranger")
    plain = peers.socket(zmq.SUB)
    plain.subscribe(b"")
    plain.connect(stream.endpoint)
    stream.until(lambda: stream.server.refused >= 2)
    assert stream.server.last_refused == (stream.directory / "keys/stranger.key").read_text().split('"')[1]
    assert not _receives(stream, stranger, CUT_OFF_MS)


def test_an_allowed_client_that_sends_too_much_loses_its_connection(stream: Stream, peers: zmq.Context) -> None:
    """Messages are encrypted, so only their number of bytes is known. It is limited, whatever they contain."""
    healthy = stream.client(peers, "two")
    assert stream.told() == b"\x01a"
    hostile = stream.client(peers, "one", zmq.XSUB)
    hostile.send(b"\x01b")
    assert stream.told() == b"\x01b"
    deadline = time.monotonic() + 60
    while not stream.server.rejected:
        hostile.send(b"\x02" + b"x" * 2000)
        stream.told(0)
        assert time.monotonic() < deadline
    assert _receives(stream, healthy)


def test_connections_without_a_handshake_are_limited(stream: Stream, peers: zmq.Context) -> None:
    healthy = stream.client(peers, "two")
    assert stream.told() == b"\x01a"
    stream.until(lambda: stream.server.clients == 1)
    held = [socket.create_connection(("127.0.0.1", stream.port)) for _ in range(curve_server.NEWCOMERS_MAX + 40)]
    # A connection is counted before it is ended.
    stream.until(lambda: stream.server.crowded >= 40 and stream.server.clients <= curve_server.NEWCOMERS_MAX + 1)
    # The oldest connections were closed, and a client with a key can still connect.
    late = stream.client(peers, "one")
    stream.until(lambda: _receives(stream, late, 50))
    assert _receives(stream, healthy)
    for each in held:
        each.close()


def test_subscribed_connections_are_limited(
    stream: Stream, peers: zmq.Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curve_server, "CLIENTS_MAX", 3)
    first = [stream.client(peers, "one") for _ in range(3)]
    stream.until(lambda: stream.server.clients == 3)
    time.sleep(4 * curve_server.CHECK_S)
    late = stream.client(peers, "two")
    stream.until(lambda: stream.server.crowded)
    assert all(_receives(stream, each) for each in first)
    late.close()


def test_a_client_that_never_subscribes_is_closed(
    stream: Stream, peers: zmq.Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curve_server, "NEWCOMER_S", 0.2)
    client = stream.client(peers, "one", zmq.XSUB)
    stream.until(lambda: stream.server.crowded)
    client.close()


def test_a_client_that_only_answers_heartbeats_stays(stream: Stream, peers: zmq.Context) -> None:
    """The bytes that a client may send cover its answers to heartbeats."""
    one = stream.client(peers, "one")
    assert stream.told() == b"\x01a"
    stream.until(lambda: stream.server.clients == 1)
    (connection,) = stream.server._connections.values()
    assert 100 < stream.server._received(connection) < curve_server.BYTES_AT_ONCE / 10
    assert _receives(stream, one)
