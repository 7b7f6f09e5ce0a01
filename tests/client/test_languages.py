"""Subscribers in other languages understand every message: those of the golden files, gaps, repeats and new streams.

`Tracker`, which `Subscriber` uses, gets the same messages, and the programs must print what it returns.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import zmq

from pipeline.bus.stream.messages import (
    MAJOR,
    MINOR,
    TOPIC_BYTES,
    TOPICS,
    WELCOME_PREFIX,
    Header,
    pack_events,
)
from pipeline.bus.stream.tracker import Tracker
from tests.client import languages
from tests.sampling import chosen

GOLDEN = languages.ROOT / "tests" / "bus" / "stream" / "golden" / f"{MAJOR}.{MINOR}.json"
#: More than 2^53, as the daemon's are, so a double cannot hold it.
STREAM = 0xFEDCBA9876543211
NOW_NS = 1_700_000_000_123_456_789
ALL = (1 << len(TOPICS)) - 1
SYNTHETIC = {"proc.fork": "fork", "proc.exec": "exec", "proc.exit": "exit", "sys.loss": "loss"}

Message = tuple[bytes, bytes, bytes]


def header(**fields: Any) -> bytes:
    common: dict[str, Any] = {
        "host": "here", "boot": bytes(range(16)), "epoch": 1, "stream": STREAM, "writer": 0, "step": 0, "group": 0,
        "rest": 0, "first": 1, "count": 0, "time_ns": NOW_NS, "watermark_ns": NOW_NS,
    }  # fmt: skip
    return Header(**(common | fields)).pack()


def message(topic: str, first: int, orders: list[int], **fields: Any) -> Message:
    """A message with small events; `order` also makes their identity."""
    events = [
        {
            "event": SYNTHETIC[topic], "seq": first + at, "order": order, "time_ns": NOW_NS + order,
            "entity_id": None if topic == "sys.loss" else f"boot-{order:x}-1", "comm": "\U0001f600\udcff\x1b\x7f\"\\",
        }
        for at, order in enumerate(orders)
    ]  # fmt: skip
    return topic.encode(), header(first=first, count=len(events), **fields), pack_events(events)


def heartbeat(topic: str, first: int, **fields: Any) -> Message:
    return topic.encode(), header(first=first, **fields), b""


def golden() -> list[Message]:
    """The messages with events, as numbers of `STREAM`."""
    found = []
    for each in json.loads(GOLDEN.read_text()):
        if each["count"]:
            numbers = {name: each[name] for name in ("first", "count", "rest")}
            found.append((each["topic"].encode(), header(**numbers), bytes.fromhex(each["body"])))
    return found


STORIES: dict[str, list[Message]] = {
    "every topic": golden(),
    "a group is sorted": [
        message("proc.fork", 1, [1, 4, 6], rest=0b110),
        message("proc.exec", 1, [2, 5], rest=0b100),
        message("proc.exit", 1, [3, 7]),
        message("proc.fork", 4, [8], group=1),
    ],
    "a group that stays incomplete": [
        message("proc.fork", 1, [1, 3], rest=0b10),
        message("proc.fork", 3, [4], group=1),
    ],
    "gaps, also at the end": [
        message("proc.fork", 3, [5, 6]),
        message("sys.loss", 2, [7], group=1),
        heartbeat("proc.fork", 9, group=2),
        heartbeat("proc.exit", 1, group=2),
        heartbeat("proc.fork", 9, group=2),
        message("proc.fork", 9, [8], group=2),
    ],
    "a take-over repeats the last step": [
        message("proc.fork", 1, [1, 2], step=1),
        message("proc.fork", 3, [3, 4], step=2, group=1, rest=0b10),
        message("proc.exec", 1, [5], step=2, group=1),
        heartbeat("proc.fork", 5, step=3, group=2),
        # With the same numbers in part, and in two steps; order 9 is an event of a ring that had stalled.
        heartbeat("proc.fork", 3, step=0, writer=1),
        message("proc.fork", 3, [9, 3], step=0, writer=1, rest=0b10),
        message("proc.exec", 1, [5, 10], step=0, writer=1),
        message("proc.fork", 5, [4, 11], step=1, writer=1, group=1),
    ],
    "two take-overs in a row": [
        message("proc.fork", 1, [1, 2], step=1),
        message("proc.fork", 3, [3], step=2, group=1, rest=0b10),
        message("proc.exec", 1, [4], step=2, group=1),
        # The next writer is replaced as well, before it commits the step that it repeats.
        message("proc.fork", 3, [3], step=0, writer=1, rest=0b10),
        message("proc.exec", 1, [4], step=0, writer=1),
        message("proc.fork", 3, [3], step=0, writer=2, rest=0b10),
        message("proc.exec", 1, [4, 5], step=0, writer=2),
    ],
    "unwatched": [
        heartbeat("proc.fork", 1),
        heartbeat("proc.fork", 1, unwatched=((NOW_NS, NOW_NS + 5),)),
        heartbeat("proc.fork", 1, unwatched=((NOW_NS, NOW_NS + 5),)),
        heartbeat(
            "proc.fork", 1, unwatched=((NOW_NS, NOW_NS + 5), (NOW_NS + 6, NOW_NS + 8), (NOW_NS + 9, NOW_NS + 12))
        ),
        # The clock was set.
        heartbeat("proc.fork", 1, unwatched=((NOW_NS + 90, NOW_NS + 92), (NOW_NS + 93, NOW_NS + 96))),
    ],
    "a new stream": [
        message("proc.fork", 1, [1, 2]),
        heartbeat("proc.fork", 3, group=1, end=True),
        message("proc.fork", 4, [4], stream=STREAM + 2, epoch=2),
        message("proc.exec", 1, [5], stream=STREAM + 2, epoch=2, group=1),
        message("proc.exec", 3, [6], stream=STREAM + 2, epoch=2, group=2),
    ],
}


def expected(messages: list[Message]) -> list[dict[str, Any]]:
    tracker = Tracker(ALL)
    tracker.begin(Header.parse(header(first=0, seqs=(0,) * len(TOPICS))))
    return [languages.plain(event) for each in messages for event in tracker.feed(*each)]


class Publisher:
    """An XPUB socket that answers subscribers as the daemon does, and then sends what a test says."""

    def __init__(self, path: Path) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.XPUB)
        self._socket.setsockopt(zmq.SNDHWM, 0)
        self._socket.setsockopt(zmq.XPUB_VERBOSE, 1)  # the subscriptions of the last program may not be gone yet
        self.endpoint = f"ipc://{path}"
        self._socket.bind(self.endpoint)

    def welcome(self, before: Sequence[Message] = ()) -> None:
        """Wait for the subscriptions; send events before the welcome, which must not be shown, and the welcome."""
        wanted = set(TOPIC_BYTES)
        deadline = time.monotonic() + 60
        while True:
            assert self._socket.poll(max(0, int((deadline - time.monotonic()) * 1000))), f"no subscription to {wanted}"
            asked = self._socket.recv()
            if asked[:1] == b"\x01":
                wanted.discard(asked[1:])
            if asked.startswith(b"\x01" + WELCOME_PREFIX):
                break
        assert not wanted, "these come before the question"
        assert len(asked) <= 1 + len(WELCOME_PREFIX) + 32
        self.send([*before, message("proc.fork", 1, [1])])
        self.send([(asked[1:], header(first=0, seqs=(0,) * len(TOPICS)), b"")])

    def send(self, messages: Sequence[Message]) -> None:
        for each in messages:
            self._socket.send_multipart(each)

    def close(self) -> None:
        self._context.destroy(linger=0)


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with tempfile.TemporaryDirectory(prefix="procline-test-") as directory:
        made = Publisher(Path(directory) / "stream.ipc")
        yield made
        made.close()


@pytest.mark.parametrize("story", STORIES)
def test_the_stories_tell_what_they_are_named_after(story: str) -> None:
    """Otherwise programs that print nothing would pass."""
    kinds = [event["event"] for event in expected(STORIES[story])]
    assert len(kinds) >= (9 if story == "every topic" else 3)
    assert ("missed" in kinds) == (story in {"gaps, also at the end", "a new stream"})


@pytest.mark.slow
@pytest.mark.parametrize("language", languages.LANGUAGES)
def test_every_message_is_understood(language: str, publisher: Publisher) -> None:
    languages.need(language)
    for number, (story, messages) in enumerate(chosen(STORIES.items(), 2)):
        with languages.running(language, publisher.endpoint) as program:
            publisher.welcome()
            publisher.send(messages)
            # A mark that ends the last group, whatever it was.
            mark = message("sys.loss", 1, [1 << 60], stream=number + 1, group=99)
            publisher.send([mark])
            program.wait_for(lambda lines: lines and lines[-1].get("order") == 1 << 60)
            program.stop()
        *lines, _ = program.lines
        assert lines.pop() == {"event": "missed", "topic": None, "reason": "restart"}
        shown = [languages.plain(line) for line in lines]
        assert shown == expected(messages), story


@pytest.mark.slow
@pytest.mark.parametrize("language", languages.LANGUAGES)
def test_topics_and_keys_that_nobody_expects(language: str, publisher: Publisher) -> None:
    languages.need(language)
    labels = {"event": "fork", "seq": 2, "order": 2, "time_ns": 2, "labels": {"__proto__": "x", "a": "b"}}
    plain = [{"event": "fork", "seq": number, "order": number, "time_ns": number} for number in (1, 3, 4)]
    first, third, fourth = plain
    with languages.running(language, publisher.endpoint) as program:
        publisher.welcome(before=[(b"proc.forkbomb", header(first=0, seqs=(7,) * len(TOPICS)), b"")])
        publisher.send([(b"proc.fork", header(first=1, count=3), pack_events([first, labels, third]))])
        publisher.send([(b"proc.forkbomb", header(first=9, count=1, group=1), pack_events([first]))])
        publisher.send([(b"proc.fork", header(first=4, count=1, group=2), pack_events([fourth]))])
        program.wait_for(lambda lines: fourth in lines)
        program.stop()
    # The decoder for Node refuses the key. What is missing is printed before the events of the group.
    missed = {"event": "missed", "topic": "proc.fork", "first": 2, "last": 3}
    known = [missed, first] if language == "node" else [first, labels, third]
    assert program.lines == [*known, fourth]


@pytest.mark.parametrize("path", sorted(languages.EXAMPLES.iterdir()), ids=lambda path: path.name)
def test_they_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 100
