"""A subscriber whose events the publisher selects gets what it would select itself, whatever happens."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zmq

from pipeline import Selection, Subscriber
from pipeline.bus.stream.declared import FILTERS_MAX
from tests.client.polled_host import PolledHost
from tests.stream_host import MiniResolver, now_boot_ns
from tests.waiting import until

LONG_S = 60.0
HEARTBEAT_NS = 20_000_000
MAKE = Selection(paths=["make"])
TOPICS = ("fork", "exec", "exit")


class Instance(PolledHost):
    """A host of fake processes. Its resolver can be replaced."""

    def __init__(self) -> None:
        super().__init__(heartbeat_ns=HEARTBEAT_NS)

    def replace(self, prepare: Callable[[MiniResolver], None] = lambda _: None, *, kill: bool = True) -> None:
        """End the resolver, by a kill or in order, and start the next one."""
        with self.host.lock:
            self.host.resolver.close(kill=kill)
            self.host.resolver = MiniResolver(self.directory, heartbeat_ns=HEARTBEAT_NS)
            prepare(self.host.resolver)

    def subscribed(self) -> int:
        """The topics about processes that somebody wants."""
        return self.host.resolver.encoder.subscribed_mask & 0b111

    def subscribe(self, **options: Any) -> Subscriber:
        return Subscriber("test", TOPICS, path=self.directory, connect_timeout=LONG_S, **options)


@pytest.fixture
def instance() -> Iterator[Instance]:
    made = Instance()
    yield made
    made.close()


def is_narrow(subscriber: Subscriber) -> bool:
    return subscriber._reader.is_narrow


def drain(subscriber: Subscriber, instance: Instance) -> list[Any]:
    """Read until messages or heartbeats cover all that was published."""
    with instance.host.lock:
        ends = instance.host.resolver.encoder.settled()[:3]
    return read_up_to(subscriber, ends)


def read_up_to(subscriber: Subscriber, ends: list[int], pump: Callable[[], object] = lambda: None) -> list[Any]:
    events: list[Any] = []
    deadline = time.monotonic() + LONG_S
    while any((last or 0) < end for last, end in zip(subscriber._reader.tracker.last, ends, strict=False)):
        assert time.monotonic() < deadline, "the subscriber does not learn how far the stream is"
        pump()
        events += subscriber.read(timeout=0.05)
    return events


def key(event: Any) -> tuple[Any, ...]:
    return event["event"], event["entity_id"], event["time_ns"], event["path"]


def wanted(events: list[Any]) -> list[tuple[Any, ...]]:
    return [key(each) for each in events if each["event"] not in {"missed", "unwatched"} and MAKE.matches(each)]


def gaps(events: list[Any]) -> list[Any]:
    return [each for each in events if each["event"] == "missed"]


def test_the_same_events_arrive_as_by_comparing_all(instance: Instance) -> None:
    with instance.subscribe() as everything, instance.subscribe(select=MAKE) as narrow:
        found: list[Any] = []
        expected: list[Any] = []
        for _ in range(20):
            instance.step(25)
            found += drain(narrow, instance)
            expected += drain(everything, instance)
        assert is_narrow(narrow) and not narrow.missed
        assert [key(each) for each in found] == wanted(expected) != []


def test_nothing_is_encoded_that_nobody_wants(instance: Instance) -> None:
    with instance.subscribe(select=Selection(paths=["/nonesuch"])) as narrow:
        instance.step(500)
        assert drain(narrow, instance) == [] and is_narrow(narrow)
        assert instance.host.resolver.publisher.published == 0
        assert narrow.missed == 0


def test_a_subscriber_of_the_topic_gets_its_messages_once(instance: Instance) -> None:
    """The filter's messages have other topics, so an old subscriber does not see them."""
    with instance.subscribe() as everything, instance.subscribe(select=MAKE) as narrow:
        instance.step(300)
        events = drain(everything, instance)
        assert len(events) == 300 and everything.repeats == 0 and everything.refused == 0
        assert len(drain(narrow, instance)) == len(wanted(events))


def test_a_subscriber_selects_by_itself_if_too_many_filters_are_in_use(instance: Instance) -> None:
    context = zmq.Context()
    socket = context.socket(zmq.SUB)
    for number in range(FILTERS_MAX):
        socket.subscribe(b"only|user|%d|proc.exec" % (5000 + number))
    socket.connect(f"ipc://{instance.directory}/stream/stream.ipc")
    try:
        until(lambda: instance.subscribed() == 0b10)
        until(lambda: len(instance.host.resolver.publisher._narrowed.texts) == FILTERS_MAX)
        with instance.subscribe(select=MAKE) as late, instance.subscribe() as everything:
            assert not is_narrow(late)
            instance.step(300)
            found = [key(each) for each in drain(late, instance)]
            assert found == wanted(drain(everything, instance)) != []
    finally:
        context.destroy(linger=0)


def test_filters_end_with_their_subscribers(instance: Instance) -> None:
    for _ in range(3):
        with instance.subscribe(select=MAKE):
            assert instance.subscribed() == 0b111
        until(lambda: instance.subscribed() == 0)
    assert instance.host.resolver.publisher._narrowed.texts == ()


def test_a_successor_repeats_nothing_and_loses_nothing(instance: Instance) -> None:
    with instance.subscribe(select=MAKE) as narrow, instance.subscribe() as everything:
        instance.step(200)
        found, expected = drain(narrow, instance), drain(everything, instance)
        for _ in range(3):
            instance.replace()
            publisher = instance.host.resolver.publisher
            # ZeroMQ subscribes again when the subscriber reads.
            while publisher.encoder.topics_mask & 0b111 != 0b111 or publisher._narrowed.texts == ():
                found += narrow.read(timeout=0.02)
                expected += everything.read(timeout=0.02)
            instance.step(200)
            found += drain(narrow, instance)
            expected += drain(everything, instance)
        assert is_narrow(narrow) and not gaps(found) and not gaps(expected)
        assert [key(each) for each in found] == wanted(expected)


def test_events_that_a_successor_applies_again_arrive_once(instance: Instance) -> None:
    """The predecessors were killed between publishing and committing."""
    host = instance.host
    with instance.subscribe(select=MAKE) as narrow:
        found: list[Any] = []
        for _ in range(3):
            instance.step(60)
            found += drain(narrow, instance)
            with host.lock:  # so that nothing is committed
                before = len(host.story.events)
                host.step(60, commit=False)
                publisher = host.resolver.publisher
                found += read_up_to(
                    narrow, host.resolver.encoder.settled()[:3], lambda made=publisher: made.do_work(now_boot_ns())
                )
                host.resolver.close(kill=True)
                host.resolver = MiniResolver(instance.directory, heartbeat_ns=HEARTBEAT_NS)
            while instance.subscribed() != 0b111:
                found += narrow.read(timeout=0.02)
            with host.lock:
                host.resolver.apply(host.story.events[before:])
            instance.step(30)
            found += drain(narrow, instance)
        assert is_narrow(narrow) and not gaps(found) and narrow.repeats > 0
        made = sum(path == b"/usr/bin/make" for each in host.story.everyone for path in each.paths)
        assert sum(each["event"] == "exec" for each in found) == made > 0
        assert len({key(each) for each in found}) == len(found)


def test_a_publisher_that_ignores_the_filter_after_a_restart_is_noticed(instance: Instance) -> None:
    """It may be of an older version, which lists no filters in its heartbeats."""

    def forget(resolver: MiniResolver) -> None:
        resolver.publisher._narrowed.subscribe = lambda prefix: None  # type: ignore[method-assign]

    with instance.subscribe(select=MAKE) as narrow:
        instance.step(100)
        drain(narrow, instance)
        instance.replace(forget)
        events: list[Any] = []
        until(lambda: events.extend(narrow.read(timeout=0.05)) or not is_narrow(narrow))
        until(lambda: instance.host.resolver.encoder.topics_mask & 0b111 == 0b111)
        with instance.subscribe() as everything:
            instance.step(200)
            events += drain(narrow, instance)
            assert wanted(events) == wanted(drain(everything, instance)) != []
