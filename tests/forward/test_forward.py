"""`procline forward` against a real nats-server: what is stored, whatever is killed."""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.bus.stream.messages import MAJOR, MINOR
from tests.forward.world import (
    LIMIT_S,
    Command,
    Message,
    Published,
    all_stored,
    begin,
    check_stored,
    configure,
    host,
    last,
    messages,
    scrape,
    wait_for,
)
from tests.nats_server import NatsServer, nats_server
from tests.ports import free_port
from tests.sampling import examples

__all__ = ["host", "nats_server"]
pytestmark = [pytest.mark.expensive, pytest.mark.slow]

#: Events while server and forwarder are killed. The whole: PROCLINE_FORWARD_EVENTS=2000000, and --timeout 7200.
EVENTS = int(os.environ.get("PROCLINE_FORWARD_EVENTS", "0")) or examples(20_000)
#: Events that the host makes at once. On a busy machine each step waits for its turn, so millions need large ones.
_STEP = max(40, EVENTS // 5000)


@pytest.fixture
def command(tmp_path: Path, host: Published, nats_server: NatsServer) -> Iterator[Command]:
    forward = Command(host.runtime, "--to", nats_server.url, log=tmp_path / "log")
    assert forward.run("--create-stream").returncode == 0
    try:
        yield forward
    finally:
        forward.kill()


def test_each_event_is_stored_once_in_order(host: Published, command: Command, nats_server: NatsServer) -> None:
    after = begin(host, command, nats_server)
    host.go(3000)
    host.settle()
    wait_for(all_stored(host, nats_server), "all events at the server")
    assert command.stop() == 0
    found = messages(nats_server)
    assert check_stored(found, host, after=after) == 0
    listed = [event for message in found if message.kind == "snapshot" for event in message.events]
    assert {event["event"] for event in listed} == {"snapshot"} and listed[-1]["left"] == 0
    headers = next(message for message in found if message.kind == "exec").headers
    assert headers["Procline-Version"] == f"{MAJOR}.{MINOR}" and len(headers["Procline-Boot"]) == 32
    assert headers["Content-Encoding"] == "zstd"


def kill_all(
    host: Published, command: Command, server: NatsServer, *, events: int, servers: int, forwarders: int, seed: int
) -> dict[str, int]:
    """Make events, and kill the server and the forwarder at random moments; return what was there before."""
    after = begin(host, command, server)
    chance = random.Random(seed)
    victims = ["server"] * servers + ["forwarder"] * forwarders
    chance.shuffle(victims)
    begun = host.count
    host.begin(step=_STEP, pause_s=0.004)

    def has_made(target: float) -> bool:
        host.pace(sum(last(server, host.events).values()), step=_STEP)
        return host.count >= target

    for place, victim in enumerate(victims, 1):
        target = begun + events * (place - chance.random() / 2) / (len(victims) + 1)
        wait_for(lambda target=target: has_made(target), "events", events / 100 + LIMIT_S, pause_s=0.2)
        if victim == "server":
            server.kill()
            time.sleep(chance.random() / 2)
            server.start()
        else:
            command.kill()
            time.sleep(chance.random() / 5)
            command.start()
    wait_for(lambda: has_made(begun + events), "events", events / 100 + LIMIT_S, pause_s=0.2)
    host.settle()
    return after


@pytest.mark.parametrize("spool", [False, True], ids=["memory", "spool"])
def test_kills_of_server_and_forwarder_neither_lose_nor_double_an_event(
    host: Published, command: Command, nats_server: NatsServer, tmp_path: Path, spool: bool
) -> None:
    """Events that a killed forwarder had not read, or had only in memory, are in the daemon's journal."""
    if spool:
        command.add("--spool", str(tmp_path / "spool"))
    began_s = time.monotonic()
    after = kill_all(host, command, nats_server, events=EVENTS, servers=3, forwarders=2, seed=19)
    made_s = time.monotonic()
    wait_for(all_stored(host, nats_server), "all events at the server", EVENTS / 1000 + LIMIT_S, pause_s=0.5)
    stored_s = time.monotonic()
    assert command.stop() == 0, command.log
    assert check_stored(messages(nats_server), host, after=after) == 0
    print(
        f"{host.count} events in {made_s - began_s:.0f} s, stored {stored_s - made_s:.0f} s later, "
        f"compared in {time.monotonic() - stored_s:.0f} s"
    )


def test_the_duplicate_window_of_the_server_does_not_matter(
    host: Published, command: Command, nats_server: NatsServer
) -> None:
    """A forwarder that begins again long after another one knows what is stored from the last messages alone."""
    configure(nats_server, duplicate_window_s=0.1)
    after = begin(host, command, nats_server)
    host.go(1000)
    host.settle()
    wait_for(all_stored(host, nats_server), "all events at the server")
    command.kill()
    time.sleep(0.3)
    command.start()
    wait_for(lambda: command.log.count("connected") == 2, "the connection")
    host.go(1000, step=7)
    host.settle()
    wait_for(all_stored(host, nats_server), "all events at the server")
    assert check_stored(messages(nats_server), host, after=after) == 0


def test_messages_wait_in_memory_while_the_server_is_away(
    host: Published, command: Command, nats_server: NatsServer
) -> None:
    after = begin(host, command, nats_server)
    nats_server.kill()
    host.go(3000)
    host.settle()
    nats_server.start()
    wait_for(all_stored(host, nats_server), "all events at the server")
    assert check_stored(messages(nats_server), host, after=after) == 0


@pytest.mark.parametrize("spool", [False, True], ids=["memory", "spool"])
def test_beyond_the_limit_the_oldest_events_become_a_gap(
    host: Published, command: Command, nats_server: NatsServer, tmp_path: Path, spool: bool
) -> None:
    # Without compression, 1 MiB has some 500 events.
    command.add("--set", "forward.compress=false", "--set", "forward.batch_ms=5")
    if spool:
        command.add("--spool", str(tmp_path / "spool"), "--set", f"forward.spool_bytes={1 << 20}")
    else:
        command.add("--set", f"forward.buffer_bytes={1 << 20}")
    metrics = f"127.0.0.1:{free_port()}"
    command.add("--set", f"forward.metrics_listen={metrics}")
    after = begin(host, command, nats_server)
    nats_server.kill()
    host.go(3000)
    host.settle()
    wait_for(lambda: scrape(metrics)["procline_forward_dropped_total"] > 500, "drops")
    wait_for(lambda: scrape(metrics)["procline_forward_connected"] == 0, "the connection to be lost")
    if spool:
        wait_for(lambda: spool_bytes(tmp_path / "spool") <= 1 << 20, "the limit of the spool")
    nats_server.start()
    wait_for(all_stored(host, nats_server), "all events at the server")
    wait_for(lambda: scrape(metrics)["procline_forward_lag_seconds"] == 0, "nothing waits")
    found = messages(nats_server)
    missing = check_stored(found, host, after=after)
    figures = scrape(metrics)
    assert missing == figures["procline_forward_dropped_total"] == figures["procline_forward_gap_events_total"]
    gaps = [message.events[0] for message in found if message.kind == "gap" and message.headers["Procline-Topic"]]
    assert {gap["reason"] for gap in gaps} == {"spool full" if spool else "buffer full"}
    for gap in gaps:
        made = host.events[gap["topic"].partition(".")[2]]
        assert gap["from_ns"] <= made[gap["first"]].time_ns
        assert gap["to_ns"] == made[gap["first"] + gap["count"] - 1].time_ns


def spool_bytes(directory: Path) -> int:
    total = 0
    for file in directory.iterdir():
        with contextlib.suppress(FileNotFoundError):  # replaced meanwhile
            total += file.stat().st_size
    return total


def test_a_spool_outlives_the_forwarder_while_the_server_is_away(
    host: Published, command: Command, nats_server: NatsServer, tmp_path: Path
) -> None:
    command.add("--spool", str(tmp_path / "spool"))
    after = begin(host, command, nats_server)
    nats_server.kill()
    host.go(2000)
    host.settle()
    assert command.stop() == 0
    nats_server.start()
    command.start()
    wait_for(all_stored(host, nats_server), "all events at the server")
    assert check_stored(messages(nats_server), host, after=after) == 0


def test_a_new_stream_of_the_host_begins_with_a_record_of_its_own(
    host: Published, command: Command, nats_server: NatsServer
) -> None:
    begin(host, command, nats_server)
    host.go(500)
    host.settle()
    wait_for(all_stored(host, nats_server), "all events at the server")
    host.restart()
    wait_for(lambda: [each for each in messages(nats_server) if each.kind == "gap"][1:], "the record of the restart")
    host.go(500)
    host.settle()
    wait_for(all_stored(host, nats_server), "all events at the server")
    found = messages(nats_server)
    record = [message for message in found if message.kind == "gap"][1]
    assert record.events[0]["reason"] == "restart" and record.events[0]["topic"] is None
    assert record.events[0]["from_ns"] and record.events[0]["to_ns"]
    streams = [message.headers["Procline-Stream"] for message in found if message.kind != "snapshot"]
    border = streams.index(record.headers["Procline-Stream"])
    assert len(set(streams)) == 2 and len(set(streams[:border])) == len(set(streams[border:])) == 1
    # The next list comes ten seconds after the last one.
    wait_for(lambda: "snapshot" in kinds_after(nats_server, record), "a list of the processes", pause_s=0.5)


def kinds_after(server: NatsServer, record: Message) -> set[str]:
    """Return the kinds of the messages behind one."""
    found = messages(server)
    return {message.kind for message in found[found.index(record) :]}
