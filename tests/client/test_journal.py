"""The journal supplies what a subscriber missed, in order and without a double; what it lacks is one gap a topic."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest

from pipeline import Selection, StreamPosition, Subscriber, paths
from pipeline.bus.requests import (
    JournalRequests,
    RequestSocket,
    decode_journal_request,
    encode_journal_request,
    is_journal_request,
)
from pipeline.bus.stream.declared import JOURNAL_HEADER_BYTES
from pipeline.bus.stream.journal import KEPT, KEPT_OFFSET, NAME, JournalFile, JournalReader
from pipeline.bus.stream.messages import TOPICS
from pipeline.errors import FrameError
from pipeline.resolver.daemon.answering import Answering
from pipeline.resolver.stream.journal_writer import JournalWriter
from tests.sampling import times
from tests.stream_host import Host, MiniResolver, now_boot_ns
from tests.waiting import until

LONG_S = 60.0
JOURNAL_BYTES = 32 << 20


@pytest.fixture
def host(directory: Path) -> Iterator[Host]:
    made = Host(MiniResolver(directory, journal_bytes=JOURNAL_BYTES))
    yield made
    made.resolver.close()


def subscribe(host: Host, *topics: str, **options: Any) -> Subscriber:
    """Subscribe while the publisher answers."""
    made: list[Subscriber] = []
    host.is_over = False
    host.step_events = 0
    host.run()
    try:
        made.append(
            Subscriber("test", topics or ("proc",), path=host.resolver.directory, connect_timeout=LONG_S, **options)
        )
    finally:
        host.stop()
    return made[0]


def read_to(subscriber: Subscriber, host: Host, order: int | None = None) -> list[Any]:
    """Read until the last event that was made has arrived; a heartbeat shows a lost tail."""
    wanted = host.resolver.encoder.order if order is None else order
    events: list[Any] = []
    deadline = time.monotonic() + LONG_S
    newest = -1
    while newest < wanted:
        assert time.monotonic() < deadline, (len(events), wanted)
        host.resolver.publisher._beaten_ns = 0
        host.resolver.publisher.do_work(now_boot_ns())
        found = subscriber.read(timeout=0.05)
        newest = max([newest, *(event.get("order") or 0 for event in found)])
        events += found
    return events


def orders(events: list[Any]) -> list[int]:
    return [event["order"] for event in events if event.get("order") is not None]


@pytest.mark.slow
def test_a_subscriber_that_was_too_slow_reads_from_the_journal_what_it_missed(directory: Path) -> None:
    host = Host(MiniResolver(directory, journal_bytes=JOURNAL_BYTES, send_hwm=16))
    subscriber = subscribe(host, receive_hwm=1)
    with subscriber:
        begin = host.resolver.encoder.order
        for _ in range(times(400, 200)):
            host.step(10)
        assert host.resolver.publisher.unsent > 0
        events = read_to(subscriber, host)
        assert orders(events) == list(range(begin + 1, host.resolver.encoder.order + 1))
        assert subscriber.missed == 0 and subscriber.repeats == 0 and subscriber.recovered > 0
        # It receives live events again when ZeroMQ has noticed that its queue has room.
        deadline = time.monotonic() + LONG_S
        while True:
            recovered = subscriber.recovered
            begin = host.resolver.encoder.order
            host.step(20)
            assert orders(read_to(subscriber, host)) == list(range(begin + 1, begin + 21))
            if subscriber.recovered == recovered:
                break
            assert time.monotonic() < deadline
    host.resolver.close()


@pytest.mark.parametrize("topics", [("proc",), ("proc", "sys"), ("fork", "exit"), ("exec",)])
def test_whichever_messages_are_lost_the_events_come_in_order(host: Host, topics: tuple[str, ...]) -> None:
    """First and last messages of groups, whole groups, heartbeats, and what a killed resolver could not send."""
    chance = random.Random(len(topics))
    families = {"proc": {"fork", "exec", "exit"}, "sys": {"loss"}}
    names = {name for topic in topics for name in families.get(topic, {topic})}
    with subscribe(host, *topics) as subscriber:
        feed = subscriber._reader.tracker.feed
        is_lossy = True

        def lose(topic: bytes, header: bytes, body: bytes) -> list[Any]:
            return [] if is_lossy and chance.random() < 0.4 else feed(topic, header, body)

        subscriber._reader.tracker.feed = lose  # type: ignore[method-assign]
        events: list[Any] = []
        for step in range(times(150, 60)):
            host.step(chance.randrange(1, 12))
            host.resolver.publisher.loss({"exec": step + 1}, now_boot_ns())
            host.resolver.publisher._beaten_ns = 0 if step % 7 == 0 else now_boot_ns()
            host.resolver.publisher.do_work(now_boot_ns())
            if step % 5 == 0:
                events += subscriber.read(timeout=0.02)
            if step % 50 == 49:
                host.resolver.close(kill=True)
                host.resolver = MiniResolver(host.resolver.directory, journal_bytes=JOURNAL_BYTES)
        is_lossy = False
        seqs = host.resolver.encoder.settled()
        deadline = time.monotonic() + LONG_S
        wanted = sum(seqs[number] for number, topic in enumerate(TOPICS) if topic.partition(".")[2] in names)
        while len(events) < wanted:
            assert time.monotonic() < deadline, (len(events), wanted)
            host.resolver.publisher._beaten_ns = 0
            host.resolver.publisher.do_work(now_boot_ns())
            events += subscriber.read(timeout=0.05)
        assert orders(events) == sorted(orders(events)) and len(events) == len({*orders(events)}) == wanted
        assert {event["event"] for event in events} == names
        assert subscriber.missed == 0 and subscriber.repeats == 0 and subscriber.recovered > 0


def test_a_filter_of_the_publisher_loses_nothing_and_recovers_in_order(host: Host) -> None:
    """The publisher does not send most events. The journal has all of them, because another subscriber gets them.

    Only a message about no process does not show what was lost of the filter's topics.
    """
    make = Selection(paths=["make"])
    chance = random.Random(3)
    losses = 0
    for share in (0.0, 0.4):
        with (
            subscribe(host, "proc", "sys") as everything,
            subscribe(host, "proc", "sys", select=make) as narrow,
        ):
            feed = narrow._reader.tracker.feed

            def lose(topic: bytes, header: bytes, body: bytes, share: float = share, feed: Any = feed) -> list[Any]:
                return [] if chance.random() < share else feed(topic, header, body)

            narrow._reader.tracker.feed = lose  # type: ignore[method-assign]
            expected: list[Any] = []
            found: list[Any] = []
            for step in range(times(100, 40)):
                losses += 1
                host.resolver.publisher.loss({"exec": losses}, now_boot_ns())
                host.step(chance.randrange(1, 12))
                host.resolver.publisher._beaten_ns = 0 if step % 7 == 0 else now_boot_ns()
                host.resolver.publisher.do_work(now_boot_ns())
                found += narrow.read(timeout=0)
            narrow._reader.tracker.feed = feed  # type: ignore[method-assign]
            expected += read_to(everything, host)
            wanted = [event for event in expected if event["event"] == "loss" or make.matches(event)]
            deadline = time.monotonic() + LONG_S
            while len(found) < len(wanted):
                assert time.monotonic() < deadline, (len(found), len(wanted))
                host.resolver.publisher._beaten_ns = 0
                host.resolver.publisher.do_work(now_boot_ns())
                found += narrow.read(timeout=0.05)
            assert wanted and narrow._reader.is_narrow
            if not share:
                assert orders(found) == orders(wanted)
            for is_loss in (False, True):
                of_kind, wanted_of_kind = (
                    [event for event in events if (event["event"] == "loss") == is_loss] for events in (found, wanted)
                )
                assert orders(of_kind) == orders(wanted_of_kind) != []
            assert narrow.missed == 0 and narrow.repeats == 0 and (narrow.recovered > 0) == (share > 0)


@pytest.mark.parametrize("taken", [1, 7, 33])
def test_a_subscriber_returns_with_its_position(host: Host, taken: int) -> None:
    events: list[Any] = []
    with subscribe(host) as first:
        host.step(60)
        for event in first:
            events.append(event)
            if len(events) == taken:
                break
        position = StreamPosition.from_dict(first.position.as_dict())
    for _ in range(20):
        host.step(30)  # no subscriber is connected, but the topics are kept
    with subscribe(host, resume=position) as second:
        host.step(30)
        events += read_to(second, host)
        assert second.missed == 0 and second.repeats == 0
    assert orders(events) == list(range(1, host.resolver.encoder.order + 1))


def test_topics_and_numbers_of_one_topic(host: Host) -> None:
    with subscribe(host, "exec") as first:
        host.step(50)
        events = first.read(timeout=LONG_S)
        position = first.position
        assert position.topics == ("proc.exec",)
    host.step(50)  # proc.exec is kept, the others are not
    with subscribe(host, "exec", "fork", resume=position) as second:
        host.step(50)
        events += read_to(second, host)
        seqs = [event["seq"] for event in events if event["event"] == "exec"]
        assert seqs == list(range(1, host.made["exec"] + 1)) and second.missed == 0


def test_a_killed_resolver_costs_a_subscriber_nothing(directory: Path) -> None:
    """Events that were published and neither received nor committed keep their numbers, and are not repeated."""
    host = Host(MiniResolver(directory, journal_bytes=JOURNAL_BYTES))
    subscriber = subscribe(host)
    events: list[Any] = []
    chance = random.Random(5)
    with subscriber:
        for round_ in range(times(8, 4)):
            host.step(60)
            before = len(host.story.events)
            host.step(40, commit=False)
            if round_ % 2:
                events += read_to(subscriber, host)
            host.resolver.close(kill=True)
            host.resolver = MiniResolver(directory, journal_bytes=JOURNAL_BYTES)
            again = host.story.events[before:]
            assert host.resolver.adopted == len(again)
            host.resolver.apply(again[: chance.randrange(len(again))], commit=False)
            host.resolver.close(kill=True)
            # The second successor finds no new event: they were in the journal.
            host.resolver = MiniResolver(directory, journal_bytes=JOURNAL_BYTES)
            assert host.resolver.adopted == len(again)
            host.resolver.apply(again)
            assert host.resolver.encoder.known_left == 0
            host.resolver.encoder.end_adoption()
            host.resolver.commit()
            host.step(30)
        events += read_to(subscriber, host)
        assert orders(events) == list(range(1, host.resolver.encoder.order + 1))
        assert len(events) == sum(host.made.values())
        assert subscriber.missed == 0 and subscriber.repeats == 0
    host.resolver.close()


@pytest.mark.parametrize("is_quiet", [False, True])
def test_a_new_daemon_continues_the_journal_and_says_when_nobody_watched(directory: Path, is_quiet: bool) -> None:
    """Also if it has published nothing yet when the subscriber returns."""
    host = Host(MiniResolver(directory, journal_bytes=JOURNAL_BYTES))
    with subscribe(host) as first:
        host.step(50)
        events: list[Any] = list(read_to(first, host))
        position = first.position
    host.step(40)
    old = host.resolver.encoder.order
    host.resolver.close()
    now = now_boot_ns()
    host = Host(MiniResolver(directory, journal_bytes=JOURNAL_BYTES, unwatched=[(now - 10**9, now)]), seed=2)
    if not is_quiet:
        host.step(30)  # before the subscriber is back
    gaps: list[Any] = []
    with subscribe(host, resume=position, on_gap=gaps.append) as second:
        while len(orders(events)) < old:
            events += second.read(timeout=LONG_S)
        middle = second.position
        assert middle.stream == position.stream or second.position.next["proc.fork"] == 1
        host.step(30)
        events += read_to(second, host)
        assert second.missed == 0 and second.repeats == 0
    assert orders(events) == [*range(1, old + 1), *range(1, host.resolver.encoder.order + 1)]
    assert [gap["event"] for gap in gaps] == ["unwatched"] and gaps[0]["unwatched_to_ns"] - gaps[0][
        "unwatched_from_ns"
    ] == 10**9
    host.resolver.close()


@pytest.mark.parametrize("is_kept_again", [False, True])
def test_what_was_not_kept_at_the_end_of_a_stream_is_missed(directory: Path, is_kept_again: bool) -> None:
    """Its numbers make no gap, because no later one of this stream arrives."""
    host = Host(MiniResolver(directory, journal_bytes=JOURNAL_BYTES))
    with subscribe(host, "exec") as first:
        host.step(50)
        read_to(first, host, host.resolver.encoder.order - 10)
        position = first.position
    journal, publisher = host.resolver.journal, host.resolver.publisher
    while host.resolver.encoder.topics_mask:
        publisher.do_work(now_boot_ns())
    until = [now_boot_ns() + 10**12] * len(TOPICS)
    journal._until = [until[0], *[0] * (len(TOPICS) - 1)]
    os.pwrite(journal._fd, KEPT.pack(*journal._until), KEPT_OFFSET)
    publisher._note_kept(now_boot_ns())
    assert host.resolver.encoder.kept_mask == 1, "proc.fork"
    before = host.made["exec"]
    host.step(40)
    lost = host.made["exec"] - before
    if is_kept_again:
        journal._until = until
        publisher._note_kept(now_boot_ns())
        os.pwrite(journal._fd, KEPT.pack(*until), KEPT_OFFSET)
    host.resolver.close()
    now = now_boot_ns()
    host = Host(MiniResolver(directory, journal_bytes=JOURNAL_BYTES, unwatched=[(now - 10**9, now)]), seed=2)
    host.step(30)  # before the subscriber is back
    early = host.made["exec"]
    gaps: list[Any] = []
    with subscribe(host, "exec", resume=position, on_gap=gaps.append) as second:
        host.step(30)
        read_to(second, host, 50)
        assert second.missed == (lost if is_kept_again else early)
    reasons = [gap.get("reason") or gap["event"] for gap in gaps]
    assert reasons == (["gap", "unwatched"] if is_kept_again else ["restart", "unwatched", "gap"])
    host.resolver.close()


@pytest.mark.parametrize("is_last", [False, True])
def test_events_that_could_not_be_appended_before_a_daemon_ended_are_missed(directory: Path, is_last: bool) -> None:
    """No later number of their stream shows them, so the file says that they are missing."""
    host = Host(MiniResolver(directory, journal_bytes=JOURNAL_BYTES))
    with subscribe(host) as first:
        host.step(50)
        read_to(first, host)
        position = first.position
    journal = host.resolver.journal
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal, "_has_room", lambda place: False)
        host.step(40)
    assert journal.failed == 40
    if not is_last:
        host.step(40)
    host.resolver.close()
    now = now_boot_ns()
    host = Host(MiniResolver(directory, journal_bytes=JOURNAL_BYTES, unwatched=[(now - 10**9, now)]), seed=2)
    gaps: list[Any] = []
    with subscribe(host, resume=position, on_gap=gaps.append) as second:
        host.step(30)
        while second.position.stream == position.stream:
            assert second.read(timeout=LONG_S)
    reasons = {gap.get("reason") or gap["event"] for gap in gaps}
    assert reasons == ({"restart", "unwatched"} if is_last else {"gap", "unwatched"})
    assert is_last or sum(gap.get("count", 0) for gap in gaps) == 40
    host.resolver.close()


@pytest.mark.expensive
@pytest.mark.slow
def test_what_the_journal_no_longer_holds_is_one_gap_and_then_a_snapshot(directory: Path) -> None:
    host = Host(MiniResolver(directory, journal_bytes=1 << 20))
    with subscribe(host) as first:
        host.step(50)
        read_to(first, host)
        position = first.position
    for _ in range(times(200, 120)):
        host.step(40)
    with subscribe(host, resume=position, snapshot=True) as second:
        host.step(10)
        events = read_to(second, host)
        deadline = time.monotonic() + LONG_S
        while not any(event["event"] == "snapshot" for event in events):
            assert time.monotonic() < deadline
            events += second.read(timeout=0.1)
    gaps = [event for event in events if event["event"] == "missed"]
    assert 1 <= len(gaps) <= 3 and len({gap["topic"] for gap in gaps}) == len(gaps)
    for gap in gaps:
        name = gap["topic"].partition(".")[2]
        seqs = [event["seq"] for event in events if event["event"] == name]
        assert gap["first"] == position.next[gap["topic"]] and seqs == list(range(gap["last"] + 1, host.made[name] + 1))
        assert gap["from_ns"] == position.time_ns and gap["to_ns"] > gap["from_ns"]
    kinds = [event["event"] for event in events]
    assert kinds.index("snapshot") > max(at for at, kind in enumerate(kinds) if kind == "missed")
    host.resolver.close()


@pytest.mark.parametrize("damage", ["cut", "noise", "zeros", "empty", "gone", "another", "directory", "fifo"])
def test_a_damaged_journal_harms_nobody(directory: Path, damage: str) -> None:
    """Each event arrives once or is in a gap, live events arrive, and a successor continues or begins a new file."""
    host = Host(MiniResolver(directory, journal_bytes=4 << 20))
    with subscribe(host) as first:
        host.step(50)
        read_to(first, host)
        position = first.position
    for _ in range(times(40, 15)):
        host.step(40)
    file = directory / paths.STREAM_DIR / NAME
    chance = random.Random(damage)
    used = JOURNAL_HEADER_BYTES + host.resolver.journal._at
    if damage == "cut":
        os.truncate(file, used // 2)
    elif damage in {"noise", "zeros"}:
        with file.open("r+b") as opened:
            for _ in range(40):
                opened.seek(chance.randrange(used))
                opened.write(bytes(64) if damage == "zeros" else chance.randbytes(64))
    elif damage == "empty":
        os.truncate(file, 0)
    else:
        file.unlink()
        if damage == "another":
            file.write_bytes(chance.randbytes(1 << 16))
        elif damage == "directory":
            file.mkdir()
        elif damage == "fifo":
            os.mkfifo(file)
    with subscribe(host, resume=position) as second:
        host.step(10)
        events = read_to(second, host)
        last = host.resolver.encoder.order
        found = orders(events)
        assert found[-10:] == list(range(last - 9, last + 1)) and len(set(found)) == len(found)
        missed = sum(event["count"] for event in events if event["event"] == "missed")
        assert missed == second.missed and len(found) + missed == last - 50
    if damage == "directory":
        with pytest.raises(OSError, match="irectory"):
            JournalWriter(file.parent, boot=bytes(16), journal_bytes=1 << 20, mode=0o660)
        file.rmdir()
    host.resolver.close(kill=True)
    host.resolver = MiniResolver(directory, journal_bytes=4 << 20)
    host.step(10)
    host.resolver.close()


def test_a_journal_of_another_boot_or_size_is_replaced(directory: Path) -> None:
    host = Host(MiniResolver(directory, journal_bytes=4 << 20))
    inode = (directory / paths.STREAM_DIR / NAME).stat().st_ino
    host.resolver.close(kill=True)
    host.resolver = MiniResolver(directory, journal_bytes=8 << 20)
    assert (directory / paths.STREAM_DIR / NAME).stat().st_ino != inode
    host.resolver.close()


def test_a_client_that_sees_only_the_sockets_asks_for_the_journal(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same events come through the socket for questions."""
    directory = host.resolver.directory
    with subscribe(host) as first:
        host.step(50)
        read_to(first, host)
        position = first.position
    for _ in range(60):
        host.step(40)
    (directory / paths.REQUESTS_DIR).mkdir()
    with RequestSocket(paths.requests_socket(directory), mode=0o666) as channel:
        answers = Answering(channel, None, host.resolver.tables, lambda: 0, journal=host.resolver.journal)  # type: ignore[arg-type]
        is_over = threading.Event()

        def answer() -> None:
            while not is_over.wait(0.001):
                answers.do_work(now_boot_ns())

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            asked = JournalReader(JournalRequests(paths.requests_socket(directory), timeout_s=LONG_S))
            read = JournalReader(JournalFile(directory / paths.STREAM_DIR / NAME))
            assert asked.geometry == read.geometry is not None
            following = [position.next.get(topic, 1) for topic in TOPICS]
            for reader in (asked, read):
                reader.seek(position.stream, following, 0b111111)
            assert asked.at == read.at and asked.is_whole
            count = 0
            while (block := read.read()) is not None:
                assert asked.read() == block
                count += len(block[1])
            assert count > 100 and asked.read() is None
            asked.close()
            read.close()
            assert host.resolver.tables.counter("journal_reads") > 60
            # A user that may not read the stream gets nothing.
            monkeypatch.setattr(channel, "may_read", lambda client, status: False)
            refused = JournalReader(JournalRequests(paths.requests_socket(directory)))
            assert refused.geometry is None and host.resolver.tables.counter("journal_refused") == 1
            refused.close()
        finally:
            is_over.set()
            thread.join()


@pytest.mark.skipif(os.geteuid() != 0, reason="changes its user")
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644])
def test_who_may_ask_for_the_journal(host: Host, mode: int) -> None:
    """Root may; others as the mode of the file says, by the groups that they had when they connected."""
    directory = host.resolver.directory
    directory.chmod(0o755)
    (directory / paths.REQUESTS_DIR).mkdir()
    path = paths.requests_socket(directory)
    os.fchown(host.resolver.journal._fd, -1, 4711)
    os.fchmod(host.resolver.journal._fd, mode)
    status = host.resolver.journal.status()
    with RequestSocket(path, mode=0o666) as channel:
        connections, children = [], []
        for user, group in ((0, 0), (65534, 4711), (65534, 4712)):
            ask = f"""if True:
                import socket
                connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                connection.connect({os.fspath(path)!r})
                connection.send({encode_journal_request(0, 1)!r})
                connection.recv(1)
            """
            children.append(
                subprocess.Popen([sys.executable, "-c", ask], user=user, group=65534, extra_groups=[group], cwd="/")
            )
            asked = until(lambda: channel.receive(1))
            connections.append(asked[0][0])
        assert [channel.may_read(client, status) for client in connections] == [
            True, mode & 0o044 != 0, mode & 0o004 != 0
        ]  # fmt: skip
    for child in children:
        child.wait()


@pytest.mark.parametrize(
    "packet",
    [
        {"v": 1, "journal": -1, "bytes": 1}, {"v": 1, "journal": 0}, {"v": 1, "journal": 0, "bytes": 1 << 20},
        {"v": 1, "journal": 1 << 63, "bytes": 1}, {"v": 2, "journal": 0, "bytes": 1},
        {"v": 1, "journal": "0", "bytes": 1},
    ],
)  # fmt: skip
def test_a_malformed_request_for_the_journal_is_rejected(packet: dict[str, Any]) -> None:
    data = msgpack.packb(packet)
    assert is_journal_request(data)
    with pytest.raises(FrameError):
        decode_journal_request(data)
