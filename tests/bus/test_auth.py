"""CURVE over TCP: only clients with a known key can read, and secret keys stay secret."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from zmq.utils.monitor import recv_monitor_message

from pipeline.bus.auth import generate_keys, load_key_pair, load_public_key, secure_client
from pipeline.bus.curve_server import CurveServer
from pipeline.bus.sockets import Bus
from pipeline.errors import ConfigError

#: A client that is let in subscribes within a few milliseconds.
REFUSED_MS = 150


@pytest.fixture
def bus() -> Iterator[Bus]:
    with Bus() as made:
        yield made


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """server.key, known/friend.key, other/stranger.key, each with its secret."""
    generate_keys(tmp_path, "server")
    generate_keys(tmp_path / "known", "friend")
    generate_keys(tmp_path / "other", "stranger")
    return tmp_path


@pytest.fixture
def server(bus: Bus, keys: Path) -> Iterator[CurveServer]:
    with CurveServer(bus.context, key=keys / "server.key_secret", clients=keys / "known") as made:
        yield made


def _publisher(bus: Bus, server: CurveServer) -> tuple[zmq.Socket[bytes], str]:
    publisher = bus.socket(zmq.XPUB, send_hwm=10, receive_hwm=10)
    server.secure(publisher)
    return publisher, f"tcp://127.0.0.1:{publisher.bind_to_random_port('tcp://127.0.0.1')}"


def _subscriber(bus: Bus, endpoint: str, *, key: Path | None, server: Path | None = None) -> zmq.Socket[bytes]:
    subscriber = bus.socket(zmq.SUB, send_hwm=10, receive_hwm=10)
    if key is not None and server is not None:
        secure_client(subscriber, key=key, server=server)
    subscriber.subscribe(b"")
    subscriber.connect(endpoint)
    return subscriber


def _reads(publisher: zmq.Socket[bytes], subscriber: zmq.Socket[bytes], *, wait_ms: int) -> bool:
    is_subscribed = bool(publisher.poll(wait_ms))
    if is_subscribed:
        publisher.recv()
    publisher.send(b"event")
    # A later subscription would not get this event, so there is nothing to wait for without one.
    return bool(subscriber.poll(wait_ms if is_subscribed else 20))


def test_known_key_reads(bus: Bus, keys: Path, server: CurveServer) -> None:
    publisher, endpoint = _publisher(bus, server)
    friend = _subscriber(bus, endpoint, key=keys / "known/friend.key_secret", server=keys / "server.key")
    assert _reads(publisher, friend, wait_ms=5000)


def test_unknown_key_is_refused_in_the_handshake(bus: Bus, keys: Path, server: CurveServer) -> None:
    publisher, endpoint = _publisher(bus, server)
    stranger = bus.socket(zmq.SUB, send_hwm=10, receive_hwm=10)
    monitor = stranger.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
    secure_client(stranger, key=keys / "other/stranger.key_secret", server=keys / "server.key")
    stranger.subscribe(b"")
    stranger.connect(endpoint)
    assert monitor.poll(60_000) and recv_monitor_message(monitor)["value"] == 400
    assert not _reads(publisher, stranger, wait_ms=REFUSED_MS)
    stranger.disable_monitor()


def test_plain_client_reads_nothing(bus: Bus, keys: Path, server: CurveServer) -> None:
    publisher, endpoint = _publisher(bus, server)
    assert not _reads(publisher, _subscriber(bus, endpoint, key=None), wait_ms=REFUSED_MS)


def test_client_does_not_talk_to_another_server(bus: Bus, keys: Path, server: CurveServer) -> None:
    publisher, endpoint = _publisher(bus, server)
    friend = _subscriber(bus, endpoint, key=keys / "known/friend.key_secret", server=keys / "other/stranger.key")
    assert not _reads(publisher, friend, wait_ms=REFUSED_MS)


def test_a_stopped_authenticator_admits_no_client(bus: Bus, keys: Path, server: CurveServer) -> None:
    publisher, endpoint = _publisher(bus, server)
    server.close()
    friend = _subscriber(bus, endpoint, key=keys / "known/friend.key_secret", server=keys / "server.key")
    assert not _reads(publisher, friend, wait_ms=REFUSED_MS)


def test_a_new_key_is_let_in_without_a_restart(bus: Bus, keys: Path, server: CurveServer) -> None:
    publisher, endpoint = _publisher(bus, server)
    generate_keys(keys / "late", "newcomer")
    (keys / "late/newcomer.key").rename(keys / "known/newcomer.key")
    newcomer = _subscriber(bus, endpoint, key=keys / "late/newcomer.key_secret", server=keys / "server.key")
    assert _reads(publisher, newcomer, wait_ms=5000)


def test_a_directory_named_like_the_wildcard_admits_no_client(
    bus: Bus, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (keys / "*").mkdir()
    monkeypatch.chdir(keys)
    with CurveServer(bus.context, key=keys / "server.key_secret", clients=Path("*")) as server:
        publisher, endpoint = _publisher(bus, server)
        stranger = _subscriber(bus, endpoint, key=keys / "other/stranger.key_secret", server=keys / "server.key")
        assert not _reads(publisher, stranger, wait_ms=REFUSED_MS)


def test_secret_key_file_is_closed_to_others_under_any_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        public, secret = generate_keys(tmp_path / "keys", "mine")
        assert os.umask(0) == 0
    finally:
        os.umask(before)
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert stat.S_IMODE(public.stat().st_mode) == 0o644
    assert stat.S_IMODE(secret.parent.stat().st_mode) == 0o700
    assert load_public_key(public) == load_key_pair(secret)[0]


def test_key_pair_is_not_overwritten(keys: Path) -> None:
    held = (keys / "server.key_secret").read_bytes()
    with pytest.raises(ConfigError, match="exists"):
        generate_keys(keys, "server")
    assert (keys / "server.key_secret").read_bytes() == held


@pytest.mark.parametrize("name", ["", "../escape", ".hidden"])
def test_name_that_is_no_file_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot name"):
        generate_keys(tmp_path, name)


def test_secret_key_that_others_can_read_is_refused(keys: Path) -> None:
    (keys / "server.key_secret").chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_key_pair(keys / "server.key_secret")


def test_unusable_key_files_are_named(bus: Bus, keys: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_public_key(keys / "none.key")
    with pytest.raises(ConfigError, match="no secret key"):
        load_key_pair(keys / "server.key")
    (keys / "empty.key").write_text("nothing\n")
    with pytest.raises(ConfigError, match="contains no CURVE key"):
        load_public_key(keys / "empty.key")
    (keys / "short.key").write_text('curve\n    public-key = "abc"\n')
    with pytest.raises(ConfigError, match="contains no CURVE key"):
        load_public_key(keys / "short.key")
    (keys / "bytes.key").write_bytes(b'curve\n    public-key = "' + b"\xff" * 40 + b'"\n')
    (keys / "colon.key").write_text('curve\n    public-key: "x"\n')
    for name in ("bytes", "colon"):
        with pytest.raises(ConfigError, match="contains no CURVE key"):
            load_public_key(keys / f"{name}.key")
    with pytest.raises(ConfigError, match="is not a directory"):
        CurveServer(bus.context, key=keys / "server.key_secret", clients=keys / "none")


def test_a_broken_key_admits_no_client_and_leaves_the_others_in_force(
    bus: Bus, keys: Path, server: CurveServer
) -> None:
    (keys / "known/broken.key").write_text("nothing\n")
    publisher, endpoint = _publisher(bus, server)
    friend = _subscriber(bus, endpoint, key=keys / "known/friend.key_secret", server=keys / "server.key")
    assert _reads(publisher, friend, wait_ms=5000)


def test_without_the_list_no_client_is_let_in(bus: Bus, keys: Path, server: CurveServer) -> None:
    (keys / "known").rename(keys / "away")
    publisher, endpoint = _publisher(bus, server)
    friend = _subscriber(bus, endpoint, key=keys / "away/friend.key_secret", server=keys / "server.key")
    assert not _reads(publisher, friend, wait_ms=REFUSED_MS)


def test_a_secret_is_never_open_to_others_not_even_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call that creates the file or changes its mode is checked, because a moment is too short to be observed."""
    modes: list[int] = []
    opened, changed = os.open, os.fchmod

    def open_noted(path: Path, flags: int, mode: int = 0o777) -> int:
        made = opened(path, flags, mode)
        if str(path).endswith("key_secret"):
            modes.append(stat.S_IMODE(os.fstat(made).st_mode))
        return made

    def fchmod_noted(descriptor: int, mode: int) -> None:
        changed(descriptor, mode)
        if Path(f"/proc/self/fd/{descriptor}").readlink().name.endswith("key_secret"):
            modes.append(stat.S_IMODE(os.fstat(descriptor).st_mode))

    monkeypatch.setattr(os, "open", open_noted)
    monkeypatch.setattr(os, "fchmod", fchmod_noted)
    before = os.umask(0)
    try:
        generate_keys(tmp_path, "mine")
    finally:
        os.umask(before)
    assert len(modes) >= 2 and set(modes) == {0o600}


def test_a_planted_file_or_link_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("")
    (tmp_path / "mine.key_secret").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="exists"):
        generate_keys(tmp_path, "mine")
    assert (tmp_path / "elsewhere").read_text() == ""
    assert not (tmp_path / "mine.key").exists()
