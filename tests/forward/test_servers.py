"""Servers with TLS, credentials, permissions and leaf nodes, and servers that refuse or know nothing."""

from __future__ import annotations

import asyncio
import json
import os
import re
import select
import shutil
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, NoReturn

import nats
import pytest

from pipeline.forward.batches import gap
from pipeline.forward.connection import Connection, DestinationError, Server
from pipeline.forward.figures import Figures
from pipeline.forward.memory import MemoryQueue
from pipeline.forward.sending import Sender
from tests.forward.credentials import Operator, certificates, user_key
from tests.forward.world import BOOT, LIMIT_S, Command, Message, batch, messages, wait_for
from tests.nats_server import (
    NatsServer,
    hub_and_leaf,
    nats_server,
    require_nats_server,
    source_again,
    source_from_leaf,
)
from tests.ports import free_port
from tests.sampling import chosen

__all__ = ["nats_server"]
MIB = 1 << 20


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Callable[..., Command]]:
    """Make commands, for an instance that does not run."""
    made: list[Command] = []
    with tempfile.TemporaryDirectory(prefix="procline-test-", dir="/dev/shm") as runtime:

        def make(*arguments: str) -> Command:
            made.append(Command(Path(runtime), *arguments, log=tmp_path / f"log-{len(made)}"))
            return made[-1]

        yield make
        for each in made:
            each.kill()


def checked(done: Any) -> str:
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


class Sent:
    """A sender with a queue of its own."""

    def __init__(self, server: NatsServer, **options: Any) -> None:
        self.figures = Figures()
        self.queue = MemoryQueue(64 * MIB, self.figures)
        self.server = Server((server.url,), "PROCLINE", options.pop("host", "host.1"), **options)
        self.sender = Sender(self.server, self.queue, self.figures)

    def begin(self, stream: int = 7, **numbers: int) -> None:
        names = {key.replace("_", "."): value for key, value in numbers.items()}
        self.queue.put(gap(BOOT, stream, "", 0, 0, 0, 9, "begin", names))

    async def drained(self) -> None:
        """Run until all is sent."""
        task = asyncio.create_task(self.sender.run())
        try:
            async with asyncio.timeout(LIMIT_S):
                while not self.queue.is_empty:
                    await asyncio.sleep(0.01)
                    assert not task.done(), task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, LIMIT_S))


async def create(server: NatsServer, **config: Any) -> None:
    client = await nats.connect(server.url)
    fields = {"name": "PROCLINE", "subjects": ["procline.>"], "allow_direct": True, **config}
    await client.jetstream().add_stream(**fields)
    await client.close()


def numbers(found: list[Message], kind: str = "exec") -> list[int]:
    return [event["seq"] for message in found if message.kind == kind for event in message.events]


# -- JetStream --------------------------------------------------------------------------------------------------------


def test_other_borders_after_a_restart_double_nothing(nats_server: NatsServer) -> None:
    async def work() -> None:
        await create(nats_server, duplicate_window=0.1)
        for sizes in ([3, 4, 5], [5, 5, 2, 3], [1, 20]):
            sent = Sent(nats_server)
            first = 1
            for size in sizes:
                sent.queue.put(batch(first, size))
                first += size
            await sent.drained()

    run(work())
    assert numbers(messages(nats_server)) == list(range(1, 22))


def test_numbers_that_nobody_has_become_a_gap(nats_server: NatsServer) -> None:
    async def work() -> None:
        await create(nats_server)
        sent = Sent(nats_server)
        sent.begin(proc_exec=1)
        sent.queue.put(batch(1, 3))
        sent.queue.put(batch(10, 3))
        await sent.drained()

    run(work())
    found = messages(nats_server)
    [record] = [message.events[0] for message in found if message.headers["Procline-Topic"] and message.kind == "gap"]
    assert (record["topic"], record["first"], record["count"], record["reason"]) == ("proc.exec", 4, 6, "not kept")
    assert record["from_ns"] == batch(1, 3).to_ns and record["to_ns"] == batch(10, 3).from_ns
    assert [message.kind for message in found] == ["gap", "exec", "gap", "exec"]


def test_messages_beyond_the_servers_limit_are_divided(tmp_path: Path, missing: Callable[[str], NoReturn]) -> None:
    require_nats_server(missing)

    async def work(server: NatsServer) -> None:
        await create(server)
        sent = Sent(server)
        sent.begin(proc_exec=1)
        sent.queue.put(batch(1, 8, fill=4000))
        sent.queue.put(batch(9, 1, fill=40_000))
        sent.queue.put(batch(10, 1))
        await sent.drained()
        assert sent.figures.counts["events"] == 9 and sent.figures.counts["gap_events"] == 1

    with NatsServer(tmp_path, config="max_payload: 16000") as server:
        run(work(server))
        found = messages(server)
    assert numbers(found) == [*range(1, 9), 10]
    [record] = [message.events[0] for message in found if message.headers["Procline-Topic"] and message.kind == "gap"]
    assert (record["first"], record["count"], record["reason"]) == (9, 1, "larger than a message of the server")


def test_a_purged_stream_within_the_duplicate_window_does_not_stop_the_sender(nats_server: NatsServer) -> None:
    async def work() -> None:
        await create(nats_server)
        first = Sent(nats_server)
        first.queue.put(batch(1, 3))
        await first.drained()
        client = await nats.connect(nats_server.url)
        await client.jetstream().purge_stream("PROCLINE")
        await client.close()
        second = Sent(nats_server)
        second.queue.put(batch(1, 3))
        second.queue.put(batch(4, 3))
        await second.drained()

    run(work())
    assert numbers(messages(nats_server)) == [4, 5, 6]


@pytest.mark.expensive
@pytest.mark.slow
def test_two_forwarders_of_one_host_store_each_event_once(nats_server: NatsServer) -> None:
    """For example while an operator starts a second one by mistake."""

    async def work() -> None:
        await create(nats_server, duplicate_window=0.1)
        both = [Sent(nats_server), Sent(nats_server)]
        for sent, size in zip(both, (3, 5), strict=True):
            for first in range(1, 3000, size):
                sent.queue.put(batch(first, size))
        await asyncio.gather(*(sent.drained() for sent in both))
        assert all(sent.figures.counts["messages"] for sent in both)

    run(work())
    found = numbers(messages(nats_server))
    assert found == list(range(1, len(found) + 1)) and len(found) >= 2999


def test_a_message_that_arrives_late_changes_nothing(nats_server: NatsServer) -> None:
    """It can wait in a network, or in a cluster that elects a leader, while the forwarder uses another server."""

    async def work() -> None:
        await create(nats_server, duplicate_window=0.1)
        sent = Sent(nats_server)
        async with Connection(sent.server, nats_server.url, print) as connection:
            late = (await connection.stored()).headers(batch(1, 5), host="host.1", form="native")
            for first in (1, 4, 7):
                sent.queue.put(batch(first, 3))
            await sent.drained()
            await asyncio.sleep(0.2)
            with pytest.raises(DestinationError, match="another message"):
                await connection.publish(batch(1, 5), late)

    run(work())
    assert numbers(messages(nats_server)) == list(range(1, 10))


@pytest.mark.expensive
def test_a_server_that_stops_answering_is_left(nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.forward.connection._ANSWER_LIMIT_S", 0.5)

    async def work() -> None:
        await create(nats_server)
        sent = Sent(nats_server)
        for first in range(1, 100):
            sent.queue.put(batch(first, 1))
        task = asyncio.create_task(sent.drained())
        while sent.figures.counts["messages"] < 10:
            await asyncio.sleep(0.001)
        nats_server.pause()
        try:
            while sent.figures.is_connected:
                await asyncio.sleep(0.01)
        finally:
            nats_server.resume()
        await task

    run(work())
    assert numbers(messages(nats_server)) == list(range(1, 100))


# -- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.expensive
@pytest.mark.slow
def test_check_and_create_stream(nats_server: NatsServer, command: Callable[..., Command]) -> None:
    forward = command("--to", nats_server.url)
    done = forward.run("--check")
    assert done.returncode == 3 and "has no stream PROCLINE: create it once with" in done.stderr
    assert checked(forward.run("--create-stream")) == "stream PROCLINE: created\n"
    assert checked(forward.run("--create-stream")) == "stream PROCLINE: it exists already\n"
    assert "stream PROCLINE, host host.1: no message yet" in checked(forward.run("--check"))
    away = f"nats://127.0.0.1:{free_port()}"
    done = command("--to", away).run("--check")
    assert done.returncode == 3 and "Connection refused" in done.stderr and "Traceback" not in done.stderr
    done = command("--to", f"{nats_server.url},{away}").run("--check", "--json")
    here, refused = json.loads(done.stdout)
    assert done.returncode == 3 and done.stderr == ""
    assert here == {
        "address": nats_server.url, "stream": "PROCLINE", "host": "host.1", "last_message": None, "error": None
    }  # fmt: skip
    assert refused["address"] == away and "Connection refused" in refused["error"]
    done = forward.run("--json")
    assert done.returncode == 2 and "--json is for --check" in done.stderr


@pytest.mark.expensive
def test_a_check_that_takes_long_shows_that_it_connects(
    nats_server: NatsServer, command: Callable[..., Command]
) -> None:
    """The server accepts the connection and answers nothing."""
    nats_server.pause()
    leader, follower = os.openpty()
    checking = command("--to", nats_server.url, "--check")
    checking.start(stderr=follower, environment={"TERM": "xterm"})
    os.close(follower)
    drawn = b""
    try:
        deadline = time.monotonic() + LIMIT_S
        while b"connecting: nats://127.0.0.1" not in drawn:
            assert time.monotonic() < deadline, drawn
            if select.select([leader], [], [], 0.5)[0]:
                drawn += os.read(leader, 4096)
    finally:
        nats_server.resume()
        checking.kill()
        os.close(leader)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "text"),
    chosen([
        ((), "no destination"),
        (("--to", "http://x"), "forward.to"),
        (("--to", "nats://"), "forward.to"),
        (("--to", "nats://a,nats://b:99999"), "not an address of a NATS server"),
        (("--to", "nats://a", "--credentials", "/nowhere"), "cannot read /nowhere: No such file"),
        (("--to", "nats://a", "--tls-ca", "/nowhere"), "cannot use /nowhere: No such file"),
        (("--to", "nats://user:secret@b/path"), "nats://***@b/path"),
        (("--to", "jsonl:/nowhere/file"), "cannot write /nowhere/file"),
        (("--to", "jsonl", "--check"), "are for NATS"),
        (("--to", "nats://a", "--host", "two words"), "forward.host"),
    ], 2),
)  # fmt: skip
def test_wrong_settings_are_explained(command: Callable[..., Command], arguments: tuple[str, ...], text: str) -> None:
    done = command(*arguments).run()
    assert done.returncode == 2 and text in done.stderr and "Traceback" not in done.stderr
    assert "secret" not in done.stderr


# -- TLS and credentials ----------------------------------------------------------------------------------------------


@pytest.fixture
def tls_server(tmp_path: Path, missing: Callable[[str], NoReturn]) -> Iterator[NatsServer]:
    require_nats_server(missing)
    if shutil.which("openssl") is None:
        missing("openssl is not installed")
    certificates(tmp_path)
    files = f'cert_file: "{tmp_path}/server.pem", key_file: "{tmp_path}/server.key", ca_file: "{tmp_path}/ca.pem"'
    with NatsServer(tmp_path, config=f"tls {{ {files}, verify: true }}") as server:
        yield server


@pytest.mark.expensive
@pytest.mark.slow
def test_tls_with_certificates_of_both_sides(
    tls_server: NatsServer, tmp_path: Path, command: Callable[..., Command]
) -> None:
    own = ("--set", f"forward.tls_cert={tmp_path}/client.pem", "--set", f"forward.tls_key={tmp_path}/client.key")
    address = tls_server.url.replace("nats://", "tls://")
    assert "created" in checked(
        command("--to", address, "--tls-ca", str(tmp_path / "ca.pem"), *own).run("--create-stream")
    )
    # Without the authority, the server is not believed; without a certificate, the server does not believe.
    unknown = command("--to", address, *own).run("--check")
    assert unknown.returncode == 3 and "certificate is not valid" in unknown.stderr
    nameless = command("--to", address, "--tls-ca", str(tmp_path / "ca.pem")).run("--check")
    assert nameless.returncode == 3
    (tmp_path / "bad.pem").write_text("nothing")
    bad = command("--to", address, "--tls-ca", str(tmp_path / "bad.pem")).run("--check")
    assert bad.returncode == 2 and "forward.tls_ca: cannot use" in bad.stderr


def test_no_word_is_sent_to_a_server_without_tls_if_it_is_wanted(
    nats_server: NatsServer, command: Callable[..., Command]
) -> None:
    """Somebody in between could claim that the server has none."""
    seen: list[bytes] = []

    async def work() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b'INFO {"server_id":"x","version":"2.10.0","headers":true,"max_payload":1048576}\r\n')
            seen.append(await reader.read(1000))
            writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as fake:
            port = fake.sockets[0].getsockname()[1]
            server = Server((f"tls://user:word@127.0.0.1:{port}",), "PROCLINE", "h")
            with pytest.raises(DestinationError, match="offers no TLS"):
                async with Connection(server, server.addresses[0], print):
                    pass

    run(work())
    assert seen == [b""]


@pytest.mark.expensive
@pytest.mark.slow
def test_credentials_files_and_the_permissions_that_a_host_needs(
    tmp_path: Path, missing: Callable[[str], NoReturn], command: Callable[..., Command]
) -> None:
    require_nats_server(missing)
    operator = Operator()
    with NatsServer(tmp_path, config=operator.config) as server:
        admin = operator.credentials(tmp_path / "admin.creds")
        checked(command("--to", server.url, "--credentials", str(admin)).run("--create-stream"))
        # What docs/forward.md recommends.
        host = operator.credentials(
            tmp_path / "host.creds",
            publish=["procline.host_1.*", "$JS.API.DIRECT.GET.PROCLINE.procline.host_1.*"],
            subscribe=["_INBOX.procline.host_1.>"],
        )

        async def work() -> None:
            sent = Sent(server, credentials=host)
            sent.begin(proc_exec=1)
            sent.queue.put(batch(1, 3))
            await sent.drained()

        run(work())
        assert "last message 2" in checked(command("--to", server.url, "--credentials", str(host)).run("--check"))
        # Another host's subjects are refused.
        other = command("--to", server.url, "--credentials", str(host), "--host", "host.2")
        done = other.run("--check")
        assert done.returncode == 3 and "ermissions" in done.stderr
        stranger = Operator().credentials(tmp_path / "stranger.creds")
        done = command("--to", server.url, "--credentials", str(stranger)).run("--check")
        # The server says "Authorization Violation" and closes. Its reset may overtake that.
        said = r"uthorization|credentials that it refuses|may have rejected the credentials"
        assert done.returncode == 3 and re.search(said, done.stderr), done.stderr
        (tmp_path / "bad.creds").write_text("nothing")
        done = command("--to", server.url, "--credentials", str(tmp_path / "bad.creds")).run("--check")
        assert done.returncode == 2 and "neither a JWT with its key (.creds) nor a key" in done.stderr
        assert numbers(messages(server, user_credentials=str(admin))) == [1, 2, 3]


@pytest.mark.expensive
@pytest.mark.slow
def test_a_key_alone_and_the_directory_of_systemds_credentials(
    tmp_path: Path, missing: Callable[[str], NoReturn], command: Callable[..., Command], monkeypatch: pytest.MonkeyPatch
) -> None:
    require_nats_server(missing)
    key = user_key()
    directory = tmp_path / "credentials"
    directory.mkdir()
    (directory / "procline-forward.creds").write_bytes(key.seed + b"\n")
    with NatsServer(tmp_path, config=f"authorization {{ users: [ {{ nkey: {key.public} }} ] }}") as server:
        assert command("--to", server.url).run("--create-stream").returncode == 3
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(directory))
        assert "created" in checked(command("--to", server.url).run("--create-stream"))


# -- leaf nodes -------------------------------------------------------------------------------------------------------


@pytest.mark.expensive
@pytest.mark.slow
def test_a_leaf_node_keeps_the_messages_while_the_hub_is_away(
    tmp_path: Path, missing: Callable[[str], NoReturn]
) -> None:
    """tests/fleet/test_hub_away.py also waits until the hub asks the leaf by itself."""
    require_nats_server(missing)
    hub, edge = hub_and_leaf(tmp_path)

    async def forward(first: int, end: int) -> None:
        sent = Sent(edge)
        for number in range(first, end, 5):
            sent.queue.put(batch(number, 5))
        await sent.drained()

    with hub, edge:
        run(create(edge))
        run(source_from_leaf(hub))
        run(forward(1, 101))
        wait_for(lambda: numbers(messages(hub)) == list(range(1, 101)), "the events at the hub")
        hub.kill()
        run(forward(101, 201))
        hub.start()
        run(source_again(hub))
        wait_for(lambda: numbers(messages(hub)) == list(range(1, 201)), "the events at the hub")
        assert {message.headers["Procline-Host"] for message in messages(hub)} == {"host.1"}
