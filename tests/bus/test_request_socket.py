"""Requests of readers: the message format, and a socket that no client can fill, block or monopolise."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.bus import requests
from pipeline.bus.requests import Answer, Asker, RequestSocket
from pipeline.errors import AccessError, ConfigError, FrameError, NotRunningError, StaleError
from tests.nobody import NOBODY, held_by_nobody, run_by_nobody


@pytest.fixture
def path() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="procline-test-", dir="/dev/shm"))
    directory.chmod(0o755)
    yield directory / "requests.ipc"
    shutil.rmtree(directory)


def connect(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    client.settimeout(60)
    client.connect(str(path))
    return client


def exchange(path: Path, pid: int, timeout_ms: int) -> Answer:
    with Asker(path) as asker:
        return asker.exchange(pid, timeout_ms)


def taken(server: RequestSocket, budget: int = 64, seconds: float = 60.0) -> list[tuple[int, bytes]]:
    """Receive requests until none is left."""
    found: list[tuple[int, bytes]] = []
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        new = server.receive(budget)
        if found and not new:
            break
        found += new
    return found


@given(st.integers(1, requests.PID_MAX), st.booleans())
def test_a_question_arrives_as_it_was_asked(pid: int, fresh: bool) -> None:
    assert requests.decode_request(requests.encode_request(pid, fresh=fresh)) == requests.Request(pid, fresh)


@given(
    st.builds(
        Answer, pid=st.integers(0, requests.PID_MAX), found=st.booleans(), how=st.sampled_from(("", "procfs")),
        reason=st.sampled_from(("", *requests.REASONS)), row=st.integers(0, 2**32 - 1),
        generation=st.integers(0, 2**32 - 1), start_ns=st.integers(0, 2**64 - 1),
    )
)  # fmt: skip
def test_an_answer_arrives_unchanged(answer: Answer) -> None:
    packed = requests.encode_answer(answer)
    assert len(packed) <= requests.ANSWER_MAX_BYTES
    assert requests.decode_answer(packed) == answer


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_a_frame_error_and_nothing_worse(data: bytes) -> None:
    for decode in (requests.decode_request, requests.decode_answer):
        with pytest.raises(FrameError):
            decode(data)


@pytest.mark.parametrize(
    "message",
    [
        {"v": 2, "pid": 1}, {"pid": 1}, {"v": 1}, {"v": 1, "pid": "1"}, {"v": 1, "pid": True}, {"v": 1, "pid": 0},
        {"v": 1, "pid": -1}, {"v": 1, "pid": 1.0}, {"v": 1, "pid": requests.PID_MAX + 1}, [1, 1], 1, None,
        {"v": 1, "pid": 1, "more": "x" * requests.REQUEST_MAX_BYTES},
    ],
)  # fmt: skip
def test_an_invalid_question_is_refused(message: object) -> None:
    with pytest.raises(FrameError):
        requests.decode_request(msgpack.packb(message))


def test_unknown_keys_are_ignored() -> None:
    assert requests.decode_request(msgpack.packb({"v": 1, "pid": 7, "why": "curious", "fresh": 1})) == (7, False)


def test_a_question_is_answered(path: Path) -> None:
    with RequestSocket(path) as server:
        got: list[Answer] = []
        client = threading.Thread(target=lambda: got.append(exchange(path, 7, 5000)))
        client.start()
        [(client_id, data)] = taken(server)
        assert requests.decode_request(data).pid == 7
        assert server.answer(client_id, requests.encode_answer(Answer(7, True, "cache", "", 3, 1, 99)))
        client.join()
        assert got == [Answer(7, True, "cache", "", 3, 1, 99)]
        server.receive(8)
        assert server.clients == 0


@contextlib.contextmanager
def answering(path: Path) -> Iterator[RequestSocket]:
    """A resolver that answers every question."""
    ended = threading.Event()
    with RequestSocket(path) as server:

        def answer() -> None:
            while not ended.is_set():
                for client, data in server.receive(64):
                    server.answer(client, requests.encode_answer(Answer(requests.decode_request(data).pid, True)))
                time.sleep(0.001)

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield server
        finally:
            ended.set()
            thread.join()


def test_a_connection_is_kept_between_questions_and_made_again_if_it_is_lost(path: Path) -> None:
    with Asker(path) as asker:
        for resolver in range(2):  # the second one replaces the first
            with answering(path) as server:
                for pid in range(1, 6):
                    assert asker.exchange(pid, 5000).pid == pid
                assert server.accepted == server.clients == 1
                if resolver:
                    server._drop(1)  # as if it made room for others
                    assert asker.exchange(7, 5000).pid == 7
                    assert (server.accepted, server.clients) == (2, 1)
                    asker.close()
                    assert asker.exchange(7, 5000).pid == 7 and server.accepted == 3


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_threads_and_forked_children_have_connections_of_their_own(path: Path) -> None:
    with Asker(path) as asker, answering(path) as server:
        asker.exchange(1, 5000)
        got: list[bool] = []

        def ask(first: int) -> None:
            got.append(all(asker.exchange(pid, 5000).pid == pid for pid in range(first, first + 50)))

        threads = [threading.Thread(target=ask, args=(first,)) for first in (100, 200, 300)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert got == [True] * 3
        accepted = server.accepted
        child = os.fork()
        if not child:
            os._exit(0 if asker.exchange(9, 5000).pid == 9 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert server.accepted == accepted + 1
        assert asker.exchange(10, 5000).pid == 10 and server.accepted == accepted + 1


def test_a_late_answer_is_not_taken_for_that_to_the_next_question(path: Path) -> None:
    with RequestSocket(path) as server, Asker(path) as asker:
        with pytest.raises(StaleError):
            asker.exchange(7, 30)
        late = taken(server)
        for client, _ in late:
            server.answer(client, requests.encode_answer(Answer(7, True)))
        got: list[Answer] = []
        client_thread = threading.Thread(target=lambda: got.append(asker.exchange(8, 5000)))
        client_thread.start()
        [(client, data)] = taken(server, seconds=5)
        server.answer(client, requests.encode_answer(Answer(requests.decode_request(data).pid, True)))
        client_thread.join()
        assert got == [Answer(8, True)]


def test_a_connection_that_waits_for_nothing_is_closed_first_and_not_counted(path: Path) -> None:
    with RequestSocket(path) as server:
        kept = []
        for _ in range(requests.CLIENTS_OWN):
            client = connect(path)
            client.send(requests.encode_request(7))
            kept.append(client)
        for number, _ in taken(server):
            server.answer(number, requests.encode_answer(Answer(7, True)))
        kept.append(connect(path))
        server.receive(64)
        assert server.clients == requests.CLIENTS_OWN and server.dropped == 0
        kept[5].send(requests.encode_request(8))  # waits for its answer
        for client in kept:
            client.close()


def test_the_first_question_is_received_with_its_connection(path: Path) -> None:
    with RequestSocket(path) as server, connect(path) as client:
        client.send(b"hello")
        assert [data for _, data in server.receive(64)] == [b"hello"]


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_the_file_has_exactly_the_mode_asked_for_and_is_gone_afterwards(path: Path, mode: int) -> None:
    with RequestSocket(path, mode=mode):
        assert stat.S_IMODE(path.stat().st_mode) == mode
    assert not path.exists()


def test_the_file_of_a_killed_predecessor_is_replaced_and_a_successors_is_left(path: Path) -> None:
    first = RequestSocket(path)
    with RequestSocket(path) as second:
        first.close()
        with connect(path) as client:
            client.send(b"x")
            assert taken(second)[0][1] == b"x"


def test_something_that_is_no_socket_is_left_alone(path: Path) -> None:
    path.write_text("mine")
    with pytest.raises(OSError):
        RequestSocket(path)
    assert path.read_text() == "mine"


def test_a_path_that_is_too_long_is_a_clear_error(path: Path) -> None:
    with pytest.raises(ConfigError, match="bytes long"):
        RequestSocket(path.with_name("x" * 100))


def test_no_listener_no_answer_and_no_permission_are_three_errors(path: Path) -> None:
    with pytest.raises(NotRunningError):
        exchange(path, 1, 100)
    with RequestSocket(path) as killed:
        for listener in killed._listeners:
            listener.socket.close()
        with pytest.raises(StaleError, match=r"no answer after 1[0-9][0-9] ms: the resolver is gone"):
            exchange(path, 1, 100)
    server = RequestSocket(path, mode=0o600)
    with pytest.raises(StaleError, match=r"no answer after 1[0-9][0-9] ms: .* did not answer"):
        exchange(path, 1, 100)

    def is_refused() -> None:
        with pytest.raises(AccessError):
            exchange(path, 1, 100)

    if os.geteuid() == 0:
        run_by_nobody(is_refused)
    server.close()


def test_one_turn_receives_one_question_of_each_client_within_its_budget(path: Path) -> None:
    with RequestSocket(path) as server:
        noisy, calm = connect(path), connect(path)
        for _ in range(50):
            noisy.send(b"noise")
        calm.send(b"calm")
        server.receive(1)  # accepts the connections
        first = server.receive(2)
        assert sorted(data for _, data in first) == [b"calm", b"noise"]
        assert len(server.receive(1)) == 1
        noisy.close()
        calm.close()


def test_a_client_that_does_not_fetch_its_answers_is_dropped(path: Path) -> None:
    with RequestSocket(path) as server, connect(path) as client:
        client.send(b"x")
        [(client_id, _)] = taken(server)
        sent = 0
        while server.answer(client_id, bytes(requests.ANSWER_MAX_BYTES)):
            sent += 1
            assert sent < 10_000
        assert server.clients == 0
        assert not server.answer(client_id, b"x")


def test_a_client_that_is_gone_is_forgotten(path: Path) -> None:
    with RequestSocket(path) as server:
        with connect(path) as client:
            client.send(b"x")
            [(client_id, _)] = taken(server)
        assert not server.answer(client_id, b"x") or not taken(server, seconds=0.1)
        assert server.clients == 0


def test_a_late_answer_does_not_reach_the_next_client_with_the_same_descriptor(path: Path) -> None:
    with RequestSocket(path) as server:
        with connect(path) as first:
            first.send(b"first")
            [(gone, _)] = taken(server)
        while server.clients:
            server.receive(8)
        with connect(path) as second:
            second.send(b"second")
            [(client_id, _)] = taken(server)
            assert not server.answer(gone, b"for the first")
            assert server.answer(client_id, b"for the second")
            assert second.recv(100) == b"for the second"


def test_connections_are_bounded_and_the_longest_silent_one_is_closed(path: Path) -> None:
    with RequestSocket(path) as server:
        clients = []
        for number in range(requests.CLIENTS_MAX + 20):
            clients.append(connect(path))
            while server.receive(64):
                pass
            assert server.clients <= requests.CLIENTS_MAX
            if number == 0:
                clients[0].send(b"first")
                assert taken(server)[0][1] == b"first"
        clients[-1].send(b"last")
        assert taken(server)[0][1] == b"last"
        assert clients[0].recv(10) == b""  # the connection was dropped
        for client in clients:
            client.close()


def test_the_connections_of_one_user_leave_room_for_others(path: Path) -> None:
    def flood() -> list[socket.socket]:
        return [connect(path) for _ in range(60)]  # those beyond the limit stay in the backlog

    with RequestSocket(path) as server, connect(path) as ours:
        server.receive(1)
        with held_by_nobody(flood):
            for _ in range(50):
                server.receive(64)
            assert server.clients == requests.CLIENTS_PER_UID + 1
            ours.send(b"still here")
            assert taken(server)[0][1] == b"still here"


def test_a_question_is_asked_again_while_there_is_time(path: Path) -> None:
    """The resolver is gone; then its successor closes the connection, is busy, and finally answers."""
    with RequestSocket(path) as killed:
        for listener in killed._listeners:
            listener.socket.close()
        got: list[Answer] = []
        client = threading.Thread(target=lambda: got.append(exchange(path, 7, 5000)))
        client.start()
        time.sleep(0.02)
        with RequestSocket(path) as server:
            [(client_id, _)] = taken(server)
            server._drop(client_id)
            [(client_id, _)] = taken(server)
            server.answer(client_id, requests.encode_answer(Answer(7, reason=requests.BUSY)))
            [(client_id, _)] = taken(server)
            server.answer(client_id, requests.encode_answer(Answer(7, True, "cache", "", 3, 1, 99)))
            client.join()
    assert got == [Answer(7, True, "cache", "", 3, 1, 99)]


def test_a_full_queue_is_waited_for(path: Path) -> None:
    """A connection that the kernel cannot accept at once waits in the queue instead of failing."""
    with RequestSocket(path) as server:
        held = []
        with pytest.raises(BlockingIOError):
            for _ in range(10_000):
                client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
                held.append(client)
                client.connect(str(path.with_name(requests.OWN_SOCKET)))
        began = time.monotonic()
        with pytest.raises(StaleError, match=r"no answer after [0-9]{3,} ms: too many other clients are waiting"):
            exchange(path, 7, 200)
        assert 0.2 <= time.monotonic() - began < 20
        for client in held:
            client.close()
        assert server.clients == 0


def test_a_flood_at_the_public_socket_does_not_block_root(path: Path) -> None:
    def flood() -> list[socket.socket]:
        held = []
        with contextlib.suppress(BlockingIOError):
            while True:
                client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
                client.connect(str(path))
                client.send(b"nobody")
                held.append(client)
        return held

    with RequestSocket(path) as server, held_by_nobody(flood):
        for _ in range(20):
            with connect(path.with_name(requests.OWN_SOCKET)) as ours:
                ours.send(b"root")
                questions = server.receive(4) + server.receive(4)  # the first may only accept
                [client_id] = [client for client, data in questions if data == b"root"]
                assert server.user_of(client_id) == requests.OWN
        assert server.dropped > 0
        assert sum(client.user == NOBODY for client in server._clients.values()) == requests.CLIENTS_PER_UID


def test_the_socket_of_root_is_closed_to_others(path: Path) -> None:
    with RequestSocket(path, mode=0o666):
        assert stat.S_IMODE(path.with_name(requests.OWN_SOCKET).stat().st_mode) == 0o600
    assert not path.with_name(requests.OWN_SOCKET).exists()


def test_too_long_a_question_is_seen_as_too_long(path: Path) -> None:
    with RequestSocket(path) as server, connect(path) as client:
        client.send(bytes(10_000))
        [(_, data)] = taken(server)
        with pytest.raises(FrameError):
            requests.decode_request(data)
