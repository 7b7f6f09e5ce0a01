"""From a real server into a store: every event once, also if the ingester or the server is killed."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import duckdb
import nats
import pytest

from pipeline.errors import ConfigError
from pipeline.fleet import parquet
from pipeline.fleet.catalogue import Catalogue
from tests.fleet.jetstream import INGEST, STREAM, deliver_again_after, ingest, ingesting, publish
from tests.fleet.traffic import NS, SimulatedHost, split
from tests.forward.credentials import user_key
from tests.nats_server import NatsServer, require_nats_server
from tests.nats_server import nats_server as nats_server
from tests.ports import free_port
from tests.waiting import until

#: Each test starts a server and the command.
pytestmark = [pytest.mark.expensive, pytest.mark.slow]

LIMIT_S = 120.0


@pytest.fixture
def host() -> Iterator[SimulatedHost]:
    with SimulatedHost("web-1", 1, time.time_ns() - 3600 * NS) as made:
        yield made


def numbers(store: Path) -> list[tuple[str, str, int]]:
    """Host, topic and number of every stored event."""
    try:
        catalogue = Catalogue.open(store)
    except ConfigError:  # it is being created
        return []
    source = parquet.read_sql(store, parquet.EVENTS, catalogue.files())
    catalogue.close()
    return duckdb.sql(f"SELECT host, topic, seq FROM {source} ORDER BY ALL").fetchall()


def expected(host: SimulatedHost) -> list[tuple[str, str, int]]:
    counts = dict(zip(("fork", "exec", "exit"), host.encoder.sequences().tolist(), strict=False))
    return sorted(("web-1", topic, number) for topic, count in counts.items() for number in range(1, count + 1))


def work(host: SimulatedHost, count: int) -> None:
    for _ in range(count):
        host.end(host.run(1, b"/usr/bin/true"))


def test_once_takes_all_that_waits_and_says_what_it_did(
    tmp_path: Path, nats_server: NatsServer, host: SimulatedHost
) -> None:
    work(host, 50)
    messages = list(split(host.sent(), 20))
    publish(nats_server.url, messages)
    done = ingest(nats_server.url, tmp_path / "store", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert (told["messages"], told["events"], told["refused"]) == (len(messages), len(expected(host)), 0)
    assert numbers(tmp_path / "store") == expected(host)
    again = ingest(nats_server.url, tmp_path / "store")
    assert again.returncode == 0 and again.stdout.startswith("0 events of 0 messages in 0 batches")
    work(host, 1)
    publish(nats_server.url, host.sent())
    assert ingest(nats_server.url, tmp_path / "store").stdout.startswith("3 events")
    other = ingest(nats_server.url, tmp_path / "other")
    assert other.returncode == 0 and numbers(tmp_path / "other") == expected(host), "each store gets everything"


def test_a_stopped_ingester_stores_what_it_has(tmp_path: Path, nats_server: NatsServer, host: SimulatedHost) -> None:
    work(host, 5)
    publish(nats_server.url, host.sent())

    async def delivered() -> int:
        client = await nats.connect(nats_server.url)
        found = await client.jetstream().consumers_info(STREAM)
        await client.close()
        return found[0].num_ack_pending if found else 0

    with ingesting(nats_server.url, tmp_path / "store", "--commit-seconds", "30") as process:
        until(lambda: asyncio.run(delivered()) > 0, limit_s=LIMIT_S)
        assert numbers(tmp_path / "store") == []
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, err) == (0, "") and f"{len(expected(host))} events" in out
    assert numbers(tmp_path / "store") == expected(host)


def test_every_event_is_stored_once_although_ingester_and_server_are_killed(
    tmp_path: Path, nats_server: NatsServer, host: SimulatedHost
) -> None:
    store = tmp_path / "store"
    chance = random.Random(7)
    for turn in range(6):
        work(host, 30)
        messages = list(split(host.sent(), 5))
        # A forwarder that was killed sends some again, with other borders.
        publish(nats_server.url, messages + list(split(messages[-3:], 2)))
        before = len(numbers(store))
        with ingesting(nats_server.url, store, "--commit-seconds", "0.1"):
            if turn == 3:
                nats_server.kill()
                nats_server.start()
            if turn % 2:
                until(lambda least=before: len(numbers(store)) > least, limit_s=LIMIT_S)  # type: ignore[misc]
            time.sleep(chance.random() / 2)
    deadline = time.monotonic() + LIMIT_S
    while numbers(store) != expected(host):
        # What a killed ingester had not acknowledged comes again after `ack_wait`, or to a store that is new.
        assert time.monotonic() < deadline
        deliver_again_after(1, nats_server.url)
        assert ingest(nats_server.url, store).returncode == 0
    assert numbers(store) == expected(host)


def test_a_server_that_comes_later_is_waited_for(tmp_path: Path, host: SimulatedHost, nats_server: NatsServer) -> None:
    nats_server.stop()
    with ingesting(nats_server.url, tmp_path / "store", "--commit-seconds", "0.1") as process:
        assert process.stderr is not None and "Connect call failed" in process.stderr.readline()
        nats_server.start()
        work(host, 2)
        publish(nats_server.url, host.sent())
        until(lambda: numbers(tmp_path / "store") == expected(host), limit_s=LIMIT_S)
        process.terminate()
        _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0
    assert all(line.startswith("procline: ") for line in err.splitlines())


def test_an_ingester_that_waits_for_a_server_can_be_stopped(tmp_path: Path) -> None:
    with ingesting(f"nats://127.0.0.1:{free_port()}", tmp_path / "store") as process:
        assert process.stderr is not None and "Connect call failed" in process.stderr.readline()
        process.terminate()
        assert process.wait(LIMIT_S) == 0


def test_once_fails_without_server_or_stream(tmp_path: Path, nats_server: NatsServer) -> None:
    def failed(url: str) -> str:
        done = ingest(url, tmp_path / "store")
        assert done.returncode == 2 and done.stdout == "" and len(done.stderr.splitlines()) == 1, done
        return done.stderr

    assert "cannot connect" in failed(f"nats://127.0.0.1:{free_port()}")
    assert "cannot connect" in failed("nonsense://")
    assert "secret" not in failed(f"nats://me:secret@127.0.0.1:{free_port()}")
    assert "no stream PROCLINE" in failed(nats_server.url)


def test_a_second_ingester_is_rejected(tmp_path: Path, nats_server: NatsServer) -> None:
    with ingesting(nats_server.url, tmp_path / "store") as first:
        until(lambda: (tmp_path / "store" / "tmp" / "spool.ndjson").exists(), limit_s=LIMIT_S)
        with ingesting(nats_server.url, tmp_path / "store") as second:
            _, err = second.communicate(timeout=LIMIT_S)
        assert second.returncode == 2 and "another `procline fleet ingest`" in err
        first.terminate()
        assert first.wait(LIMIT_S) == 0


def test_malformed_messages_are_rejected_and_leave_the_stream(
    tmp_path: Path, nats_server: NatsServer, host: SimulatedHost
) -> None:
    work(host, 2)
    sent = host.sent()
    bad = [each._replace(data=b"nonsense") for each in sent] + [sent[0]._replace(headers={"X": "y"})]
    good = [each._replace(headers=each.headers | {"Nats-Msg-Id": f"{n}"}) for n, each in enumerate(sent)]
    publish(nats_server.url, [*bad, *good])
    done = ingest(nats_server.url, tmp_path / "store", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["refused"] == len(bad)
    assert numbers(tmp_path / "store") == expected(host)


def test_credentials_that_are_wrong_are_one_line(tmp_path: Path, nats_server: NatsServer) -> None:
    (tmp_path / "creds").write_text("nonsense")
    done = ingest(nats_server.url, tmp_path / "store", "--credentials", str(tmp_path / "creds"))
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done
    assert "Traceback" not in done.stderr


def test_as_a_service_it_is_configured_by_the_environment_and_reports_its_state(
    host: SimulatedHost, tmp_path: Path, missing: Callable[[str], NoReturn]
) -> None:
    """As systemd runs procline-fleet-ingest.service: address and store in the environment, secrets in a directory."""
    require_nats_server(missing)
    key = user_key()
    secrets, store = tmp_path / "secrets", tmp_path / "store"
    secrets.mkdir()
    config = f"authorization {{ users: [ {{ nkey: {key.public} }}, {{ user: host, password: x }} ] }}"
    with (
        NatsServer(tmp_path, config=config) as server,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
    ):
        work(host, 20)
        publish(server.url.replace("//", "//host:x@"), host.sent())
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(LIMIT_S)
        environment = dict(
            os.environ, PROCLINE_FLEET_FROM=server.url, PROCLINE_FLEET_STORE=str(store),
            CREDENTIALS_DIRECTORY=str(secrets), NOTIFY_SOCKET=str(tmp_path / "notify"),
        )  # fmt: skip
        (secrets / "procline-fleet-ingest.creds").write_bytes(key.seed + b"\n")
        process = subprocess.Popen([*INGEST, "--commit-seconds", "0.2"], env=environment, stdout=subprocess.DEVNULL)
        try:
            assert manager.recv(4096).startswith(b"READY=1")
            while f"STATUS={len(expected(host))} events stored".encode() not in manager.recv(4096):
                assert process.poll() is None
            assert numbers(store) == expected(host)
            process.terminate()
            assert process.wait(LIMIT_S) == 0
        finally:
            process.kill()
            process.wait()
        while manager.recv(4096) != b"STOPPING=1":
            pass
