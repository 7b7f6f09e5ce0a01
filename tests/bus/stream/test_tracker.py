"""Sequence numbers in a subscriber: groups, filters, gaps, lost tails, take-overs, new streams, hostile messages."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.bus.stream._decoder import Decoder
from pipeline.bus.stream.journal import Block, Recorded
from pipeline.bus.stream.messages import (
    TOPIC_BYTES,
    TOPIC_NUMBERS,
    TOPICS,
    Fields,
    Header,
    StreamVersionError,
    pack_events,
    unpack_events,
)
from pipeline.bus.stream.tracker import Tracker
from tests.sampling import examples

FORK, EXEC, EXIT = 0, 1, 2
PROC = 0b00111111


@dataclass
class Sender:
    """The publisher in plain Python: it numbers events, makes groups and sends heartbeats."""

    stream: int = 7
    writer: int = 0
    seqs: dict[int, int] = field(default_factory=dict)
    order: int = 0
    step: int = 0
    group: int = 0
    #: Whether its messages have `next`, which publishers send since 1.8.
    has_next: ClassVar[bool] = True

    def header(self, **fields) -> bytes:
        common = {
            "host": "h", "boot": bytes(16), "epoch": 1, "stream": self.stream, "writer": self.writer,
            "step": self.step, "group": self.group, "rest": 0, "first": 1, "count": 0, "time_ns": 5, "watermark_ns": 0,
        }  # fmt: skip
        return Header(**(common | fields)).pack()

    def publish(self, topics: list[int], names: list[str] | None = None) -> list[tuple[bytes, bytes, bytes]]:
        """One step with one group: an event for each of `topics`, in this order; `names` identify the events."""
        bodies: dict[int, list[Fields]] = {}
        for at, topic in enumerate(topics):
            self.order += 1
            self.seqs[topic] = self.seqs.get(topic, 0) + 1
            name = names[at] if names else f"e{self.order}"
            bodies.setdefault(topic, []).append(
                {"event": "x", "seq": self.seqs[topic], "order": self.order, "entity_id": name, "time_ns": 1}
            )
        messages = []
        present = sorted(bodies)
        following = [self.seqs.get(topic, 0) + 1 for topic in range(len(TOPIC_BYTES))]
        for topic in present:
            following[topic] = bodies[topic][0]["seq"]
        for at, topic in enumerate(present):
            events = bodies[topic]
            rest = sum(1 << later for later in present[at + 1 :])
            following[topic] += len(events)
            header = self.header(first=events[0]["seq"], count=len(events), rest=rest, next=self.said(following))
            messages.append((TOPIC_BYTES[topic], header, pack_events(events)))
        self.step += 1
        self.group += 1
        return messages

    def beat(self, topic: int, **fields) -> tuple[bytes, bytes, bytes]:
        following = [self.seqs.get(each, 0) + 1 for each in range(len(TOPIC_BYTES))]
        return TOPIC_BYTES[topic], self.header(first=following[topic], next=self.said(following), **fields), b""

    def said(self, following: list[int]) -> tuple[int, ...] | None:
        return tuple(following) if self.has_next else None

    def welcome(self) -> Header:
        return Header.parse(self.header(first=0, seqs=tuple(self.seqs.get(topic, 0) for topic in range(8))))

    def successor(self, committed: Sender) -> Sender:
        """The writer that takes over from the committed state."""
        return replace(self, seqs=dict(committed.seqs), order=committed.order, writer=self.writer + 1, step=0, group=0)

    def copy(self) -> Sender:
        return replace(self, seqs=dict(self.seqs))


@pytest.fixture(autouse=True, scope="module", params=[True, False], ids=["", "before 1.8"])
def has_next(request: pytest.FixtureRequest) -> Iterator[bool]:
    Sender.has_next = request.param
    yield request.param
    Sender.has_next = True


def feed(tracker: Tracker, messages) -> list[Fields]:
    events = []
    for message in messages:
        events += tracker.feed(*message)
    return events


def names(events: list[Fields]) -> list[str]:
    return [event["entity_id"] for event in events if event["event"] == "x"]


def gaps(events: list[Fields]) -> list[tuple]:
    return [(e["topic"], e["first"], e["last"], e["reason"]) for e in events if e["event"] == "missed"]


def test_a_group_comes_in_the_order_of_its_events() -> None:
    sender, tracker = Sender(), Tracker(PROC)
    tracker.begin(sender.welcome())
    events = feed(tracker, sender.publish([FORK, EXEC, FORK, EXIT, EXEC, EXIT, FORK]))
    assert [event["order"] for event in events] == [1, 2, 3, 4, 5, 6, 7]
    assert names(events) == [f"e{n}" for n in range(1, 8)]


def test_nothing_is_held_back_for_topics_that_were_not_asked_for() -> None:
    sender, tracker = Sender(), Tracker(1 << FORK | 1 << EXEC)
    tracker.begin(sender.welcome())
    messages = [message for message in sender.publish([EXIT, FORK, EXEC]) if message[0] != TOPIC_BYTES[EXIT]]
    assert names(feed(tracker, messages)) == ["e2", "e3"]


def test_a_filter_makes_no_false_gap() -> None:
    sender, tracker = Sender(), Tracker(1 << EXEC)
    tracker.begin(sender.welcome())
    events = []
    for _ in range(20):
        messages = sender.publish([FORK, EXEC, EXIT, FORK])
        events += feed(tracker, [message for message in messages if message[0] == TOPIC_BYTES[EXEC]])
    assert len(names(events)) == 20 and not gaps(events) and not tracker.missed


def test_a_gap_is_reported_before_the_events_after_it() -> None:
    sender, tracker = Sender(), Tracker(PROC)
    tracker.begin(sender.welcome())
    feed(tracker, sender.publish([FORK, FORK]))
    sender.publish([FORK, FORK, EXEC])
    events = feed(tracker, sender.publish([FORK, EXEC]))
    assert gaps(events) == [("proc.fork", 3, 4, "gap"), ("proc.exec", 1, 1, "gap")]
    assert [event["event"] for event in events] == ["missed", "missed", "x", "x"]
    assert events[0]["count"] == 2 and events[0]["seq"] is None and events[0]["time_ns"] == 5
    assert tracker.missed == {"proc.fork": 2, "proc.exec": 1} and tracker.missed.total() == 3
    assert tracker.stale


def test_the_rest_of_a_group_that_was_lost_holds_nothing_back() -> None:
    sender, tracker = Sender(), Tracker(PROC)
    tracker.begin(sender.welcome())
    first = sender.publish([FORK, EXEC])
    assert feed(tracker, first[:1]) == []
    events = feed(tracker, sender.publish([FORK]))
    assert names(events) == ["e1", "e3"]
    assert feed(tracker, first[:0]) == []
    third = sender.publish([FORK, EXEC])
    assert feed(tracker, third[:1]) == []
    assert names(feed(tracker, [sender.beat(FORK)])) == ["e4"], "a heartbeat ends the wait as well"


def test_a_lost_tail_is_noticed_by_the_heartbeat() -> None:
    sender, tracker = Sender(), Tracker(PROC)
    tracker.begin(sender.welcome())
    feed(tracker, sender.publish([EXIT]))
    sender.publish([EXIT, EXIT])
    assert gaps(feed(tracker, [sender.beat(EXIT)])) == [("proc.exit", 2, 3, "gap")]
    assert feed(tracker, [sender.beat(EXIT), sender.beat(FORK)]) == []


def test_events_up_to_the_welcome_are_dropped() -> None:
    sender, tracker = Sender(), Tracker(PROC)
    early = sender.publish([FORK, FORK])
    tracker.begin(sender.welcome())
    assert feed(tracker, early) == []
    assert names(feed(tracker, sender.publish([FORK]))) == ["e3"]
    assert tracker.repeats == 0 and not tracker.missed


def test_events_in_the_snapshot_are_dropped() -> None:
    sender, tracker = Sender(), Tracker(PROC)
    tracker.begin(sender.welcome())
    assert feed(tracker, sender.publish([FORK, EXEC])[:1]) == []  # the event waits for the rest of its group
    tracker.skip_to([2, 1, 0])
    assert names(feed(tracker, sender.publish([FORK, FORK, EXEC]))) == ["e4", "e5"]
    assert not tracker.missed


def test_events_that_a_successor_repeats_are_dropped() -> None:
    sender, tracker = Sender(), Tracker(PROC)
    tracker.begin(sender.welcome())
    events = feed(tracker, sender.publish([FORK, EXEC], ["a", "b"]))
    committed = sender.copy()
    events += feed(tracker, sender.publish([FORK, EXEC, EXIT], ["c", "d", "e"]))
    after = sender.successor(committed)
    events += feed(tracker, after.publish([FORK, EXEC, EXIT, FORK], ["c", "d", "e", "f"]))
    events += feed(tracker, after.publish([FORK], ["g"]))
    assert names(events) == list("abcdefg")
    assert tracker.repeats == 3 and not tracker.missed and not tracker.stale


def test_renumbered_events_of_a_successor_are_delivered_once() -> None:
    """A ring that had stalled is included again: a new event comes between those that were published before."""
    sender, tracker = Sender(), Tracker(PROC)
    tracker.begin(sender.welcome())
    committed = sender.copy()
    events = feed(tracker, sender.publish([FORK, FORK, FORK], ["a", "b", "c"]))
    after = sender.successor(committed)
    events += feed(tracker, after.publish([FORK, FORK], ["a", "late"]))
    events += feed(tracker, after.publish([FORK, FORK], ["b", "c"]))
    events += feed(tracker, after.publish([FORK], ["d"]))
    assert sorted(names(events)) == ["a", "b", "c", "d", "late"]
    assert not gaps(events)


def test_a_successor_of_a_commit_that_was_made_repeats_nothing() -> None:
    sender, tracker = Sender(), Tracker(PROC)
    tracker.begin(sender.welcome())
    events = feed(tracker, sender.publish([FORK, FORK], ["a", "b"]))
    after = sender.successor(sender)
    for n in range(100):
        events += feed(tracker, after.publish([FORK], [f"n{n}"]))
    assert names(events) == ["a", "b", *(f"n{n}" for n in range(100))]
    assert tracker.repeats == 0


def test_events_published_without_a_connection_are_a_gap() -> None:
    sender, tracker = Sender(), Tracker(PROC)
    tracker.begin(sender.welcome())
    feed(tracker, sender.publish([FORK]))
    after = sender.successor(sender)
    after.publish([FORK, FORK])
    assert gaps(feed(tracker, after.publish([FORK]))) == [("proc.fork", 2, 3, "gap")]


@pytest.mark.parametrize("is_narrow", [False, True])
@settings(deadline=None)
@given(st.randoms(use_true_random=False))
@pytest.mark.slow
def test_over_any_number_of_kills_each_event_comes_once(is_narrow: bool, rng: random.Random) -> None:
    """Also for a tracker that decodes only bodies with a wanted event."""
    sender, tracker = Sender(), Tracker(PROC, (lambda body: b"wanted" not in body) if is_narrow else None)
    tracker.begin(sender.welcome())
    got: list[str] = []
    made: list[str] = []
    pending: list[tuple[int, str]] = []
    for _ in range(rng.randrange(1, 30)):
        fresh = [
            (rng.choice((FORK, EXEC, EXIT)), f"{rng.choice(('e', 'e', 'wanted'))}{len(made) + n}")
            for n in range(rng.randrange(0, 6))
        ]
        made += [name for _, name in fresh]
        step = pending + fresh
        if pending and rng.random() < 0.3:
            rng.shuffle(step)
        committed = sender.copy()
        if step:
            got += names(feed(tracker, sender.publish([t for t, _ in step], [name for _, name in step])))
        if rng.random() < 0.3:  # killed before the commit
            sender = sender.successor(committed)
            pending = step
        else:
            pending = []
        if rng.random() < 0.1:  # killed after the commit
            sender = sender.successor(sender)
    if pending:
        got += names(feed(tracker, sender.publish([t for t, _ in pending], [name for _, name in pending])))
    if is_narrow:
        got, made = ([name for name in each if name.startswith("wanted")] for each in (got, made))
    assert sorted(got) == sorted(made)
    assert not tracker.missed


def test_what_is_not_wanted_is_not_decoded_but_numbered() -> None:
    sender, tracker = Sender(), Tracker(PROC, lambda body: b"wanted" not in body)
    tracker.begin(sender.welcome())
    messages = sender.publish([FORK, EXEC, FORK, EXIT], ["a", "wanted", "b", "c"])
    (topic, header, _), *others = messages
    assert names(feed(tracker, [(topic, header, b"not even msgpack"), *others])) == ["wanted"]
    assert tracker.skipped == 3 and not tracker.missed and not tracker.refused
    sender.publish([FORK, EXEC])
    assert gaps(feed(tracker, sender.publish([FORK, EXEC]))) == [
        ("proc.fork", 3, 3, "gap"), ("proc.exec", 2, 2, "gap"),
    ]  # fmt: skip
    loss = (b"sys.loss", sender.header(first=1, count=1), pack_events([{"event": "loss", "seq": 1, "order": 9}]))
    assert [event["event"] for event in feed(tracker, [loss])] == ["loss"], "it is about no process"


def test_a_new_stream_is_reported_and_followed() -> None:
    sender, tracker = Sender(), Tracker(PROC)
    tracker.begin(sender.welcome())
    feed(tracker, sender.publish([FORK] * 5))
    other = Sender(stream=8)
    other.publish([FORK])
    events = feed(tracker, other.publish([FORK, EXEC]))
    assert gaps(events) == [(None, None, None, "restart")]
    assert names(events) == ["e2", "e3"] and tracker.stale and not tracker.missed
    assert names(feed(tracker, other.publish([FORK]))) == ["e4"]


def test_an_end_on_purpose_is_known_until_something_comes() -> None:
    sender, tracker = Sender(), Tracker(PROC)
    tracker.begin(sender.welcome())
    feed(tracker, [sender.beat(FORK, end=True)])
    assert tracker.ended
    feed(tracker, Sender(stream=9).publish([FORK]))
    assert not tracker.ended


def test_without_welcome_numbers_begin_with_the_first_message() -> None:
    sender, tracker = Sender(), Tracker(PROC)
    sender.publish([FORK] * 10)
    assert names(feed(tracker, sender.publish([FORK]))) == ["e11"]
    assert not tracker.missed


def test_hostile_messages_are_counted_and_change_nothing() -> None:
    sender, tracker = Sender(), Tracker(PROC)
    tracker.begin(sender.welcome())
    before = feed(tracker, sender.publish([FORK], ["a"]))
    rng = random.Random(1)
    good = sender.publish([FORK, FORK], ["b", "c"])
    topic, header, body = good[0]
    for refused, message in enumerate(
        [
            (topic, b"", body), (topic, rng.randbytes(100), body), (topic, header, b""), (topic, header, body[:-1]),
            (topic, header, body + b"\xc0"), (topic, header, rng.randbytes(len(body))), (topic, body, header),
        ],
        1,
    ):  # fmt: skip
        assert tracker.feed(*message) == []
        assert tracker.refused == refused
    for unknown in (b"", b"proc", b"proc.fork2", b"\xff", b"sys.welcome.abc"):
        assert tracker.feed(unknown, header, body) == []
    assert names(before + feed(tracker, good)) == ["a", "b", "c"]
    assert not tracker.missed and not tracker.stale


@pytest.mark.parametrize("kind", [None, 7, ["exec"], "missed", "snapshot", "unwatched"])
def test_a_publisher_cannot_send_an_event_without_a_kind_or_of_a_subscriber(kind: object) -> None:
    sender, tracker = Sender(), Tracker(PROC)
    tracker.begin(sender.welcome())
    ((topic, header, _),) = sender.publish([FORK], ["a"])
    event = {"seq": 1, "order": 1} | ({"event": kind} if kind is not None else {})
    assert tracker.feed(topic, header, pack_events([event])) == [] and tracker.refused == 1


def test_a_successor_that_sends_impossible_identities_is_read() -> None:
    """Identities are compared after a take-over, and a list cannot be in a set."""
    sender, tracker = Sender(), Tracker(PROC)
    tracker.begin(sender.welcome())
    ((topic, header, _),) = sender.publish([FORK], ["a"])
    body = pack_events([{"event": "fork", "seq": 1, "order": 1, "entity_id": ["x"], "time_ns": {"y": []}}])
    assert len(tracker.feed(topic, header, body)) == 1
    header = Header.parse(header)
    again = header._replace(writer=header.writer + 1).pack()
    assert tracker.feed(topic, again, body) == [] and tracker.repeats == 1


def test_another_major_version_ends_it() -> None:
    sender, tracker = Sender(), Tracker(PROC)
    tracker.begin(sender.welcome())
    with pytest.raises(StreamVersionError):
        tracker.feed(*sender.beat(FORK, major=2))


# -- unwatched periods -------------------------------------------------------------------------------------------------


def unwatched(events: list[Fields]) -> list[tuple[int, int]]:
    return [(e["unwatched_from_ns"], e["unwatched_to_ns"]) for e in events if e["event"] == "unwatched"]


def test_each_unwatched_time_is_reported_once() -> None:
    sender = Sender()
    tracker = Tracker(PROC)
    tracker.begin(sender.welcome())
    after = sender.successor(sender)
    now = 10**18
    assert unwatched(feed(tracker, [after.beat(FORK, unwatched=((1, 2),), time_ns=now)])) == [(1, 2)]
    assert tracker.stale and tracker.unwatched == ((1, 2),)
    assert unwatched(feed(tracker, [after.beat(EXEC, unwatched=((1, 2),), time_ns=now)])) == []
    assert unwatched(feed(tracker, after.publish([FORK]))) == [], "messages with events do not contain it"
    assert unwatched(feed(tracker, [after.beat(FORK, unwatched=((1, 2), (5, 9)), time_ns=now)])) == [(5, 9)]


def test_a_known_unwatched_time_is_not_reported_again_if_the_clock_was_set() -> None:
    """The next daemon converts the times of the boot clock again, so they move; two of them move alike."""
    sender = Sender()
    tracker = Tracker(PROC)
    tracker.begin(sender.welcome())
    now = 10**18
    assert unwatched(feed(tracker, [sender.beat(FORK, unwatched=((10, 13), (20, 29)), time_ns=now)])) == [
        (10, 13), (20, 29),
    ]  # fmt: skip
    tracker.stale = False
    assert unwatched(feed(tracker, [sender.beat(FORK, unwatched=((8, 11), (18, 27)), time_ns=now)])) == []
    assert not tracker.stale
    moved = [sender.beat(FORK, unwatched=((108, 111), (118, 127), (140, 145)), time_ns=now)]
    assert unwatched(feed(tracker, moved)) == [(140, 145)] and tracker.stale


def test_a_new_subscriber_learns_of_a_recent_unwatched_time() -> None:
    sender = Sender()
    now = 10**18
    recent, old = (now - 3 * 10**9, now - 10**9), (now - 10**12, now - 9 * 10**11)
    header = Header.parse(sender.header(first=0, seqs=(0,) * 8, unwatched=(old, recent), time_ns=now))
    tracker = Tracker(PROC)
    tracker.begin(header)
    beat = sender.beat(FORK, unwatched=(old, recent), time_ns=now + 1)
    assert unwatched(feed(tracker, [beat, beat])) == [recent]
    assert tracker.unwatched == (old, recent)


def test_an_incomplete_group_is_completed_from_the_journal_in_order() -> None:
    """A resolver was killed while it sent a group; the journal has all of it, and the group before."""
    sender, tracker = Sender(), Tracker(PROC, recovers=True)
    tracker.begin(sender.welcome())
    events = feed(tracker, sender.publish([FORK, EXEC]))
    lost = sender.publish([FORK, EXIT, EXEC])
    torn = sender.publish([EXIT, FORK, EXEC, FORK])
    torn_fork = next(message for message in torn if message[0] == TOPIC_BYTES[FORK])
    assert feed(tracker, [torn_fork]) == [] and tracker.held, "a fork before it is missing"
    for topic, header, body in [*lost, *torn]:
        events += tracker.feed_recorded(TOPIC_BYTES.index(topic), header, body, is_whole=True)
    events += tracker.release()
    assert names(events) == [f"e{n}" for n in range(1, 10)] and not gaps(events)
    assert tracker.recovered == 7 and not tracker.missed and tracker.repeats == 2

    part = sender.publish([FORK, EXEC, FORK])
    assert feed(tracker, part[:1]) == []
    later = sender.successor(sender).publish([EXEC])
    assert feed(tracker, later) == [] and tracker.held
    events = []
    for topic, header, body in part:
        events += tracker.feed_recorded(TOPIC_BYTES.index(topic), header, body, is_whole=True)
    assert names(events + tracker.release()) == ["e10", "e11", "e12", "e13"]


# -- losses and the journal --------------------------------------------------------------------------------------------


@dataclass
class Sent:
    """One turn of a publisher: what it sent, and the blocks of the journal that it appended before."""

    messages: list[tuple[bytes, bytes, bytes]]
    blocks: list[tuple[Block, list[Recorded]]]


def block_of(sender: Sender, messages: list[tuple[bytes, bytes, bytes]], group: int) -> tuple[Block, list[Recorded]]:
    recorded = [Recorded(TOPIC_NUMBERS[topic], header, body) for topic, header, body in messages]
    return Block(0, 0, 0, len(recorded), 0xFF, sender.stream, group, 0, sender.writer, 1, 5, ()), recorded


#: Topics of the events of a group, whether each message has a block of its own, and what comes before the group.
TURNS = st.tuples(
    st.lists(st.integers(0, 7), min_size=1, max_size=8), st.booleans(), st.sampled_from(["", "", "beat", "kill", "new"])
)


def play(turns: list[tuple[list[int], bool, str]], *, with_streams: bool) -> list[Sent]:
    """Publish with a journal, as a publisher does; the last turn is a heartbeat on each topic."""
    sender = Sender()
    played = []
    for topics, is_split, before in turns:
        if before == "beat":
            played.append(Sent([sender.beat(topic) for topic in range(8)], []))
        elif before == "kill":
            sender = sender.successor(sender)
        elif before == "new" and with_streams:
            sender = Sender(stream=sender.stream + 1)
            beats = [sender.beat(topic, unwatched=((0, sender.stream),)) for topic in range(8)]
            played.append(Sent([], [block_of(sender, beats, 0)]))
        group = sender.group
        orders = range(sender.order + 1, sender.order + len(topics) + 1)
        messages = sender.publish(topics, [f"{sender.stream}:{order}" for order in orders])
        parts = [[message] for message in messages] if is_split else [messages]
        played.append(Sent(messages, [block_of(sender, part, group) for part in parts]))
    played.append(Sent([sender.beat(topic) for topic in range(8)], []))
    return played


def deliver(played: list[Sent], is_lost: Callable[[int, int], int], journal: list[Any], mask: int) -> Any:
    """Feed what a connection did not lose, and read the journal as `StreamReader` does; return tracker and events."""
    tracker = Tracker(mask, recovers=True)
    tracker.begin(Sender().welcome())
    events: list[Fields] = []
    for turn, sent in enumerate(played):
        for message in sent.messages:
            if not mask >> TOPIC_NUMBERS[message[0]] & 1 or is_lost(turn, TOPIC_NUMBERS[message[0]]):
                continue
            events += tracker.feed(*message)
            if not tracker.held:
                continue
            streams = [block.stream for block, _ in journal]
            begin = streams.index(tracker.stream) if tracker.stream in streams else 0  # as `JournalReader.seek`
            for block, messages in journal[begin:]:
                before = tracker.before_held(block, messages)
                if before is None:
                    break
                if block.stream != tracker.stream:
                    events += tracker.close_groups()
                for each in before:
                    events += tracker.feed_recorded(*each, is_whole=True)
            events += tracker.release()
    return tracker, events + tracker.flush()


def made(played: list[Sent], mask: int) -> list[tuple[str, int, str]]:
    """(stream and order, number of the group, topic) of each event of the wanted topics, in order."""
    found = []
    for turn, sent in enumerate(played):
        group = []
        for topic, header_bytes, body in sent.messages:
            header = Header.parse(header_bytes)
            if mask >> TOPIC_NUMBERS[topic] & 1:
                for event in unpack_events(Decoder(), body, header.count) if header.count else ():
                    group.append((event["order"], event["entity_id"], turn, topic.decode()))
        found += [(name, turn, topic) for _, name, turn, topic in sorted(group)]
    return found


@settings(deadline=None, max_examples=examples(300))
@given(st.lists(TURNS, min_size=1, max_size=10), st.lists(st.integers(0, 255), max_size=24), st.integers(1, 255))
def test_whatever_is_lost_comes_from_the_journal_in_the_order_of_all_topics(
    has_next: bool, turns: list[Any], lost: list[int], mask: int
) -> None:
    """Any messages are lost, also the first ones of groups, heartbeats, and those of several publishers."""
    played = play(turns, with_streams=True)
    lost = [lost[turn] if turn < len(lost) else 0 for turn in range(len(played) - 1)]
    lost.append(0)  # the heartbeats at the end arrive
    tracker, events = deliver(
        played, lambda turn, topic: lost[turn] >> topic & 1, [block for sent in played for block in sent.blocks], mask
    )
    expected = made(played, mask)
    assert not gaps(events) and not tracker.missed and not tracker.repeats and not tracker.held
    if has_next:
        assert names(events) == [name for name, _, _ in expected]
    else:
        for topic in TOPICS:
            of_topic = {name for name, _, of in expected if of == topic}
            assert [name for name in names(events) if name in of_topic] == [
                name for name, _, of in expected if of == topic
            ]
    assert sorted(names(events)) == sorted(name for name, _, _ in expected)


@settings(deadline=None, max_examples=examples(300))
@given(
    st.lists(TURNS, min_size=1, max_size=10), st.lists(st.integers(0, 255), max_size=24), st.integers(1, 255),
    st.lists(st.booleans(), max_size=24),
)  # fmt: skip
def test_exactly_what_the_journal_no_longer_has_is_missed(
    has_next: bool, turns: list[Any], lost: list[int], mask: int, is_kept: list[bool]
) -> None:
    """Blocks are gone, in the middle too. What is missing is reported before younger groups."""
    played = play(turns, with_streams=False)
    lost = [lost[turn] if turn < len(lost) else 0 for turn in range(len(played) - 1)]
    lost.append(0)  # the heartbeats at the end arrive
    is_kept = [*is_kept, *[False] * len(played)]
    journal = [block for sent, kept in zip(played, is_kept, strict=False) if kept for block in sent.blocks]
    tracker, events = deliver(played, lambda turn, topic: lost[turn] >> topic & 1, journal, mask)
    expected = made(played, mask)
    gone = [each for each in expected if lost[each[1]] >> TOPICS.index(each[2]) & 1 and not is_kept[each[1]]]
    left = [each for each in expected if each not in gone]
    reported = [
        (event["topic"], number)
        for event in events
        if event["event"] == "missed"
        for number in range(event["first"], event["last"] + 1)
    ]
    of_topic = {topic: [each for each in expected if each[2] == topic] for topic in TOPICS}
    assert sorted(of_topic[topic][number - 1] for topic, number in reported) == sorted(gone)
    assert tracker.missed == Counter(topic for _, _, topic in gone) and not tracker.repeats
    assert sorted(names(events)) == sorted(name for name, _, _ in left)
    if has_next:
        assert names(events) == [name for name, _, _ in left]
        turn_of = {name: turn for name, turn, _ in expected}
        newest = 0
        for event in events:
            if event["event"] == "x":
                newest = turn_of[event["entity_id"]]
            else:
                assert newest <= of_topic[event["topic"]][event["first"] - 1][1]
