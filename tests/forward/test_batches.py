"""Events become batches with consecutive numbers, and a batch can be divided without changing its events."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from pipeline.forward.batches import BATCH_MAX_BYTES, Batch, Batcher, gap, token
from tests.forward.world import BOOT, batch


def event(seq: int, kind: str = "exec", **fields: Any) -> dict[str, Any]:
    return {"event": kind, "seq": seq, "time_ns": 10 * seq, **fields}


class Made:
    def __init__(self, **options: Any) -> None:
        self.batches: list[Batch] = []
        defaults: dict[str, Any] = {"events_max": 4, "wait_s": 0.1, "is_compressed": False}
        self.batcher = Batcher(self.batches.append, **{**defaults, **options})
        self.batcher.boot, self.batcher.stream = BOOT, 7


def test_a_batch_has_consecutive_events_of_one_topic() -> None:
    made = Made()
    for seq in (1, 2, 5, 6):
        made.batcher.add(event(seq), 0.0)
        made.batcher.add(event(seq, "comm"), 0.0)  # of proc.context
    made.batcher.close_all()
    assert [(each.kind, each.topic, each.first, each.count) for each in made.batches] == [
        ("exec", "proc.exec", 1, 2), ("context", "proc.context", 1, 2),
        ("exec", "proc.exec", 5, 2), ("context", "proc.context", 5, 2),
    ]  # fmt: skip
    assert made.batches[0].events() == [event(1), event(2)]
    assert (made.batches[0].from_ns, made.batches[0].to_ns) == (10, 20)


def test_a_batch_ends_at_its_limits() -> None:
    made = Made(wait_s=0.1)
    for seq in range(1, 6):
        made.batcher.add(event(seq), 5.0)
    assert [each.count for each in made.batches] == [4]
    assert made.batcher.left_s(5.04) == pytest.approx(0.06)
    made.batcher.close_old(5.05)
    assert len(made.batches) == 1
    made.batcher.close_old(5.1)
    assert [each.first for each in made.batches] == [1, 5] and made.batcher.left_s(5.1) is None
    large = "x" * (BATCH_MAX_BYTES // 2)
    for seq in (6, 7, 8):
        made.batcher.add(event(seq, fill=large), 6.0)
    made.batcher.close_all()
    assert [each.count for each in made.batches[2:]] == [1, 1, 1]


def test_text_that_is_not_utf_8_is_sent_as_on_the_stream() -> None:
    made = Made()
    made.batcher.add(event(1, argv=["caf\udce9"]), 0.0)
    made.batcher.add(event(2, argv=["plain"]), 0.0)
    made.batcher.close_all()
    [found] = made.batches
    assert [each["argv"] for each in msgpack.unpackb(found.data)] == [[b"caf\xe9"], ["plain"]]


@pytest.mark.parametrize("is_compressed", [False, True])
def test_parts_of_a_batch_have_the_same_bytes_of_each_event(is_compressed: bool) -> None:
    made = Made(events_max=10, is_compressed=is_compressed)
    for seq in range(11, 21):
        made.batcher.add(event(seq, fill="abc" * 50), 0.0)
    [whole] = made.batches
    assert (whole.encoding == "zstd") is is_compressed
    rest = whole.after(14)
    assert (rest.first, rest.count, rest.next) == (14, 7, 21) and rest.events() == whole.events()[3:]
    first, second = whole.halves()
    assert [*first.events(), *second.events()] == whole.events() and second.first == first.next == 16
    assert whole.plain().endswith(rest.plain()[1:])


def test_a_gap_has_one_map_and_can_be_cut() -> None:
    found = gap(BOOT, 7, "proc.exec", 5, 10, 100, 200, "spool full")
    assert found.kind == "gap" and found.events() == [
        {"topic": "proc.exec", "first": 5, "count": 10, "from_ns": 100, "to_ns": 200, "reason": "spool full"}
    ]
    assert found.after(8).events()[0]["first"] == 8 and found.after(8).count == 7
    begin = gap(BOOT, 7, "", 0, 0, 0, 200, "begin", {"proc.exec": 3})
    assert begin.begins == {"proc.exec": 3} and begin.events()[0]["topic"] is None
    assert gap(BOOT, 7, "", 100, 0, 100, 200, "unwatched").begins is None


def test_a_batch_survives_the_way_through_a_file() -> None:
    found = batch(3, 2)
    assert Batch.unpack(found.pack()) == found
    for bad in (msgpack.packb([]), msgpack.packb(["none", *msgpack.unpackb(found.pack())[1:]]), b"\x93\x01\x02\x03"):
        with pytest.raises(ValueError, match="not a batch"):
            Batch.unpack(bad)


def test_a_host_name_is_one_part_of_a_subject() -> None:
    assert token("web-1.example.org") == "web-1_example_org"
    assert token("a.>*é b") == "a____ b".replace(" ", "_")
