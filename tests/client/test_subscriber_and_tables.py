"""Stream and tables together: a late subscriber gets every process and each change once, and a new list after a gap."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import Subscriber, paths
from pipeline.bus.stream.messages import TOPICS
from pipeline.client import subscriber as client_subscriber
from pipeline.errors import ConfigError, NotRunningError, StaleError
from pipeline.export.json import dumps
from pipeline.resolver.stream import publisher as stream_publisher
from pipeline.resolver.stream._encoder import FIELDS
from pipeline.shm.layout import layout
from pipeline.shm.layout.entry_fields import FIELDS as DECLARED
from pipeline.shm.reader.table import FIELDS as ENTRY_FIELDS
from tests.client.arrivals import up_to, up_to_number
from tests.sampling import times
from tests.stream_host import Host, MiniResolver, now_boot_ns
from tests.waiting import until

#: What only exits have.
COST = tuple(field.name for field in DECLARED if field.shown == "exit")


@pytest.fixture
def host(directory: Path) -> Iterator[Host]:
    made = Host(MiniResolver(directory))
    yield made
    made.stop()
    made.resolver.close()


def subscribe(directory: Path, *topics: str, **options: Any) -> Subscriber:
    return Subscriber("test", topics, path=directory, **options)


class Follower:
    """A consumer that maintains the set of live processes and checks that each event is consistent with it."""

    def __init__(self) -> None:
        self.live: dict[str, int] = {}
        self.listing: dict[str, int] | None = None
        self.lists = 0
        self.seen: set[tuple[str, int]] = set()
        self.order = 0
        self.is_unsure = False
        self.count: dict[str, int] = {}

    def take(self, events: list[dict[str, Any]]) -> None:
        for event in events:
            kind = event["event"]
            self.count[kind] = self.count.get(kind, 0) + 1
            if kind == "missed":
                self.is_unsure = True
                continue
            entity = event["entity_id"]
            if kind == "snapshot":
                self.listing = self.listing if self.listing is not None else {}
                self.listing[entity] = event["images"]
                if event["left"] == 0:
                    self.live, self.listing, self.is_unsure = self.listing, None, False
                    self.lists += 1
                continue
            assert self.listing is None, "no event may interrupt a list"
            assert event["order"] > self.order, "events must be in order and not repeated"
            self.order = event["order"]
            if kind == "fork":
                assert self.is_unsure or entity not in self.live, f"{entity} was already reported"
                self.live[entity] = event["images"]
            elif kind == "exec":
                assert self.is_unsure or event["images"] == self.live[entity] + 1, "an image is missing or repeated"
                self.live[entity] = event["images"]
            elif kind == "exit":
                assert self.is_unsure or entity in self.live, f"{entity} ended but was never reported"
                self.live.pop(entity, None)

    def pids(self) -> dict[int, int]:
        return {int(entity.split("-")[1], 16): images for entity, images in self.live.items()}


def follow_until(
    subscriber: Subscriber,
    follower: Follower,
    order: int,
    seconds: float = 60.0,
    meanwhile: Callable[[], object] = lambda: None,
) -> None:
    deadline = time.monotonic() + seconds
    while (follower.order < order or follower.is_unsure) and time.monotonic() < deadline:
        follower.take(subscriber.read(0.2))
        meanwhile()


@pytest.mark.expensive
@pytest.mark.slow
def test_a_late_joiner_under_load_knows_every_process_and_hears_of_each_change_once(host: Host) -> None:
    host.step(500)
    host.run()
    for _ in range(times(8, 2)):
        host.is_over = False
        with subscribe(host.resolver.directory, snapshot=True) as subscriber:
            follower = Follower()
            deadline = time.monotonic() + 0.3
            while time.monotonic() < deadline:
                follower.take(subscriber.read(0.05))
            with host.lock:  # stop the host, and let the follower catch up
                wanted, order = dict(host.live), host.resolver.encoder.order
                follow_until(subscriber, follower, order)
                assert follower.pids() == wanted | {1: 1} or follower.pids() == wanted
            assert follower.lists == 1 and subscriber.missed == 0 and subscriber.repeats == 0
            assert follower.count["fork"] > 0


def test_the_list_alone_is_the_table(host: Host) -> None:
    host.step(300)
    host.run()
    host.stop()
    host.is_over = False
    threading.Thread(target=keep_polling, args=(host, 5.0), daemon=True).start()
    with subscribe(host.resolver.directory, snapshot=True) as subscriber:
        listed = [event for event in iter_for(subscriber, 0.3) if event["event"] == "snapshot"]
        assert {event["pid"]: event["images"] for event in listed if event["pid"] != 1} == host.live
        assert [event["left"] for event in listed] == list(range(len(listed)))[::-1]
        for event in listed:
            assert event["seq"] is None and event["order"] is None
            assert set(FIELDS) | set(ENTRY_FIELDS) <= set(event)
            assert all(ancestor["pid"] for ancestor in event["lineage"])
            assert event["lineage_complete"] is False, "nothing reported pid 1 to this table"
    host.is_over = True


def keep_polling(host: Host, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not host.is_over:
        with host.lock:
            host.resolver.do_work()
        time.sleep(0.005)


def iter_for(subscriber: Subscriber, seconds: float) -> list[dict[str, Any]]:
    """The events of an iteration that ends when no event arrives for `seconds`."""
    subscriber.idle_timeout = seconds
    return list(subscriber)


class Polling:
    """The resolver's housekeeping in a thread, while the test makes the events."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def __enter__(self) -> Host:
        self.host.is_over = False  # not in the thread, which can begin after the end of the block
        self.thread = threading.Thread(target=keep_polling, args=(self.host, 60.0))
        self.thread.start()
        return self.host

    def __exit__(self, *exc_info: object) -> None:
        self.host.is_over = True
        self.thread.join()


def step(host: Host, count: int) -> None:
    with host.lock:
        host.step(count)


def test_iteration_yields_json_dicts_and_ends_at_the_timeout(host: Host) -> None:
    with Polling(host), subscribe(host.resolver.directory, idle_timeout=0.2) as subscriber:
        step(host, 50)
        events = up_to(subscriber, 50)
        assert len(events) == 50
        assert [event["order"] for event in events] == list(range(1, 51))
        for event in events:
            assert tuple(event) == FIELDS + (COST if event["event"] == "exit" else ())
            assert dumps(event)
        assert any("caf\udce9" in (event["path"] or "") for event in events)
        step(host, 5)
        first = next(iter(subscriber))
        rest = list(subscriber)
        assert [first["order"], *[event["order"] for event in rest]] == list(range(51, 56))


def test_iteration_in_an_event_loop(host: Host) -> None:
    async def run() -> list[int]:
        async with subscribe(host.resolver.directory, idle_timeout=0.3) as subscriber:
            threading.Timer(0.1, step, (host, 30)).start()
            return [event["order"] async for event in subscriber]

    with Polling(host):
        assert asyncio.run(run()) == list(range(1, 31))


def test_topics_are_all_that_comes(host: Host) -> None:
    with Polling(host), subscribe(host.resolver.directory, "exec") as subscriber:
        step(host, 200)
        events = up_to_number(subscriber, TOPICS.index("proc.exec"), host.made["exec"])
        assert {event["event"] for event in events} == {"exec"}
    with Polling(host), Subscriber("test", "exit", path=host.resolver.directory) as subscriber:
        step(host, 200)
        events = up_to_number(subscriber, TOPICS.index("proc.exit"), host.made["exit"])
        assert {event["event"] for event in events} == {"exit"}


@pytest.mark.expensive
@pytest.mark.slow
def test_after_a_gap_the_processes_are_listed_again(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_subscriber, "RESYNC_INTERVAL_S", 0.2)
    host = Host(MiniResolver(directory, send_hwm=2, heartbeat_ns=100_000_000))
    host.step_events = 150
    try:
        host.step(300)
        host.run()
        with subscribe(directory, snapshot=True, receive_hwm=1) as subscriber:
            follower = Follower()
            follower.take(subscriber.read(1))
            for _ in range(times(3, 1)):
                missed = subscriber.missed
                deadline = time.monotonic() + 60
                while subscriber.missed == missed and time.monotonic() < deadline:
                    time.sleep(0.1)  # too slow, so its queues overflow
                    follower.take(subscriber.read(0.1))
            assert subscriber.missed > 0 and sum(subscriber.missed_by_topic.values()) == subscriber.missed
            # No more events: the next heartbeat reveals a lost tail, and then a list follows.
            host.step_events = 0
            quiet = 0
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline and (quiet < times(15, 8) or follower.is_unsure):
                events = subscriber.read(0.03)
                quiet = 0 if events else quiet + 1
                follower.take(events)
            assert follower.lists >= 2 and follower.count["missed"] > 0 and not follower.is_unsure
            pids = follower.pids()
            pids.pop(1, None)
            assert pids == host.live
    finally:
        host.stop()
        host.resolver.close()


def test_a_gap_is_reported_before_the_list_that_repairs_it(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first message of a group shows the gap. The others arrive after the processes were listed again."""
    monkeypatch.setattr(client_subscriber, "RESYNC_INTERVAL_S", 0.0)
    host.step(30)
    with Polling(host):
        subscriber = subscribe(host.resolver.directory, snapshot=True)
    follower = Follower()

    def read() -> None:
        host.resolver.tables.heartbeat(now_boot_ns())  # no list is made of tables that seem to be behind
        follower.take(subscriber.read(0.2))

    with subscriber:
        read()
        publisher, send = host.resolver.publisher, host.resolver.publisher._send
        sent: list[tuple[bytes, bytes, bytes, int]] = []
        with monkeypatch.context() as patch:
            patch.setattr(
                publisher, "_send", lambda *message: sent.append((*message[:2], bytes(message[2]), message[3]))
            )
            step(host, 30)
            lost = len(sent)
            step(host, 30)
        first, *others = sent[lost:]
        assert lost and others
        send(*first)
        until(lambda: follower.lists == 2, meanwhile=read)
        assert follower.count.get("missed", 0) > 0 and subscriber.missed > 0
        for message in others:
            send(*message)
        step(host, 30)
        follow_until(subscriber, follower, host.resolver.encoder.order, meanwhile=host.resolver.do_work)
        assert not follower.is_unsure and follower.lists == 2
        pids = follower.pids()
        pids.pop(1, None)
        assert pids == host.live


def test_over_a_resolver_that_is_killed_each_event_comes_once(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # On a busy machine a subscriber can take longer to reconnect. How long a successor waits is not the subject here.
    monkeypatch.setattr(stream_publisher, "_REJOIN_NS", 10**12)
    host = Host(MiniResolver(directory))
    host.step(200)
    follower = Follower()
    with Polling(host):
        subscriber = subscribe(directory, snapshot=True)
    with subscriber:
        follower.take(subscriber.read(1))

        def follow(meanwhile: Callable[[], object] = lambda: None) -> None:
            order = host.resolver.encoder.order
            follow_until(subscriber, follower, order, meanwhile=meanwhile)
            unsent = host.resolver.publisher.unsent
            assert follower.order >= order, (follower.order, order, unsent, subscriber.repeats)

        for _ in range(4):
            step(host, 60)
            follow(host.resolver.do_work)  # as a daemon does, which sends heartbeats and commits
            # The resolver dies after it has published the next step but not committed it; the events are applied again.
            before = len(host.story.events)
            step_uncommitted(host, 40)
            follow()
            host.resolver.close(kill=True)
            host.resolver = MiniResolver(directory)
            deadline = time.monotonic() + 60
            while host.resolver.publisher.is_awaiting(time.clock_gettime_ns(time.CLOCK_BOOTTIME)):
                host.resolver.do_work()
                follower.take(subscriber.read(0.01))
                assert time.monotonic() < deadline
            host.resolver.apply(host.story.events[before:])
            step(host, 30)
            follow(host.resolver.do_work)
        assert subscriber.missed == 0 and subscriber.repeats > 0
        assert follower.lists == 1
        pids = follower.pids()
        pids.pop(1, None)
        assert pids == host.live
    host.resolver.close()


def step_uncommitted(host: Host, count: int) -> None:
    with host.lock:
        host.step(count, commit=False)


@pytest.mark.expensive
@pytest.mark.slow
def test_the_processes_of_a_restarted_instance_are_listed_again(directory: Path) -> None:
    host = Host(MiniResolver(directory))
    host.step(100)
    with Polling(host):
        subscriber = subscribe(directory, snapshot=True)
    follower = Follower()
    with subscriber:
        follower.take(subscriber.read(1))
        host.resolver.close()
        host = Host(MiniResolver(directory), seed=2)
        with Polling(host):
            deadline = time.monotonic() + 60
            while (follower.lists < 2 or follower.is_unsure) and time.monotonic() < deadline:
                step(host, 3)
                follower.order = 0
                follower.take(subscriber.read(0.2))
            with host.lock:
                order = host.resolver.encoder.order
            follow_until(subscriber, follower, order, 2.0)
            pids = follower.pids()
            pids.pop(1, None)
            assert pids == host.live
            assert follower.count["missed"] == 1
    host.resolver.close()


def test_iteration_ends_with_the_instance_unless_it_follows(directory: Path) -> None:
    host = Host(MiniResolver(directory))
    with Polling(host):
        subscriber = subscribe(directory, follow=False)
        step(host, 10)
    with subscriber:
        host.resolver.close()
        assert len(list(subscriber)) == 10


def test_an_instance_that_is_still_filling_its_tables_is_waited_for(host: Host) -> None:
    host.step(50)
    host.resolver.tables.set_state(layout.STATE_FILLING)
    timer = threading.Timer(0.1, host.resolver.tables.set_state, (layout.STATE_READY,))
    timer.start()
    with Polling(host), subscribe(host.resolver.directory, snapshot=True) as subscriber:
        assert {event["pid"] for event in subscriber.read(1)} - {1} == set(host.live)
    timer.join()
    host.resolver.tables.set_state(layout.STATE_FILLING)
    with Polling(host), pytest.raises((NotRunningError, StaleError)):
        subscribe(host.resolver.directory, snapshot=True, connect_timeout=0.1)


def test_the_environment_names_the_instance(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(paths.RUNTIME_DIR_VARIABLE, str(directory))
    monkeypatch.setenv(paths.INSTANCE_VARIABLE, "web")
    (directory / "web").mkdir()
    host = Host(MiniResolver(directory / "web"))
    try:
        with Polling(host):
            with Subscriber() as subscriber:
                assert subscriber.name == "web"
            with Subscriber(path=directory / "web") as subscriber:
                assert subscriber.name == "default", "a directory that the caller chose is not that of the variable"
        with pytest.raises(NotRunningError, match=r"'nobody' is running.*; running: web$") as caught:
            Subscriber("nobody")
        assert "topics" not in str(caught.value)
        with pytest.raises(NotRunningError, match=r"write topics=\['proc.exec'\]; running: web$"):
            Subscriber("proc.exec")
        assert caught.value.running == ("web",) and caught.value.instance == "nobody"
        with pytest.raises(NotRunningError) as caught:
            Subscriber("nobody", path=directory / "nobody")
        assert caught.value.running == ()
        monkeypatch.setenv(paths.INSTANCE_VARIABLE, "not/a/name")
        with pytest.raises(ConfigError):
            Subscriber()
    finally:
        host.stop()
        host.resolver.close()


def test_not_running_and_wrong_arguments_are_clear_errors(directory: Path) -> None:
    begin = time.monotonic()
    with pytest.raises(NotRunningError, match=r"procline run"):
        Subscriber("nobody", path=directory / "nobody")
    assert time.monotonic() - begin < 1
    with pytest.raises(ConfigError, match="tables of this host"):
        Subscriber(endpoint="tcp://127.0.0.1:1", snapshot=True)
    with pytest.raises(ConfigError, match="no topic"):
        Subscriber("nobody", ["proc.nonsense"], path=directory)
    with pytest.raises(ConfigError):
        Subscriber("../x")
