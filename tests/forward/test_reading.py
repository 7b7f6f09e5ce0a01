"""Tests of what the reader passes on when the stream changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from pipeline.bus.stream.position import StreamPosition
from pipeline.client.subscriber import Subscriber
from pipeline.forward.batches import KINDS
from pipeline.forward.feeding import Feed
from pipeline.forward.figures import Figures
from pipeline.forward.lines import Lines
from pipeline.forward.memory import MemoryQueue
from pipeline.forward.reading import Consumer, Reader
from pipeline.forward.stored import Stored, Subject
from tests.forward.world import BOOT

NS = 10**9


class Standing:
    """A subscriber that stands in a stream."""

    def __init__(self, stream: int) -> None:
        self.position = StreamPosition(stream, {})


def event(seq: int) -> dict[str, Any]:
    return {"event": "exec", "seq": seq, "order": seq, "time_ns": NS + seq, "pid": 1}


def unwatched(begin: int) -> dict[str, Any]:
    return {
        "event": "unwatched", "seq": None, "unwatched_from_ns": begin, "unwatched_to_ns": begin + 5,
        "time_ns": begin + 6,
    }  # fmt: skip


def read_over_a_change(consumer: Consumer, figures: Figures) -> None:
    """Let a reader in stream 11 read what a subscriber returns if the journal has all of it, and stream 22 follows."""
    reader = Reader("x", ("proc.exec",), consumer, figures)
    reader._stream = 11
    consumer.resume(BOOT, 11)
    for stream, events in ((11, [unwatched(NS), event(501)]), (22, [unwatched(2 * NS), event(1), event(2)])):
        for each in events:
            reader._pass_on(each, BOOT, cast("Subscriber", Standing(stream)))  # type: ignore[arg-type]


def test_a_stream_that_follows_without_a_gap_is_sent_with_its_own_numbers() -> None:
    figures = Figures()
    queue = MemoryQueue(1 << 20, figures)
    feed = Feed(queue, events_max=100, wait_s=0, is_compressed=False)
    read_over_a_change(feed, figures)
    feed.close()
    stored = Stored({kind: Subject() for kind in KINDS})
    stored.subjects["exec"] = Subject(9, 11, 501, NS)
    stored.stream = 11
    sent: list[tuple[str, int, int, int]] = []
    while (entry := queue.take()) is not None:
        missing = stored.missing_part(entry.batch, queue.streams)
        if missing is not None:
            stored.accept(missing, 10 + len(sent))
            sent.append((missing.kind, missing.stream, missing.first, missing.count))
    assert sent == [("gap", 11, NS, 0), ("exec", 11, 501, 1), ("gap", 11, 2 * NS, 0), ("exec", 22, 1, 2)]
    assert stored.next_by_topic() == {"proc.exec": 3}


def test_the_position_of_a_file_is_in_the_stream_that_follows(tmp_path: Path) -> None:
    figures = Figures()
    path = tmp_path / "e.jsonl"
    lines = Lines(path, file_max_bytes=1 << 20, files_max=1, figures=figures, is_ending=lambda: False)
    read_over_a_change(lines, figures)
    lines.close()
    assert [json.loads(line)["event"] for line in path.read_text().splitlines()] == [
        "unwatched", "exec", "unwatched", "exec", "exec",
    ]  # fmt: skip
    position = StreamPosition.from_dict(json.loads((tmp_path / "e.jsonl.position").read_text()))
    assert (position.stream, dict(position.next)) == (22, {"proc.exec": 3})
