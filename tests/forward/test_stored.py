"""The last messages of a server say what it lacks."""

from __future__ import annotations

import json

import pytest

from pipeline.forward.batches import KINDS, Batch, gap
from pipeline.forward.stored import Stored, Subject
from tests.forward.world import BOOT, batch


def subject(sequence: int, first: int, count: int, *, stream: int = 7, **gaps: int) -> Subject:
    headers = {
        "Procline-Stream": str(stream), "Procline-First": str(first), "Procline-Count": str(count), "Procline-To": "50",
    }  # fmt: skip
    if gaps:
        headers["Procline-Next"] = json.dumps({key.replace("_", "."): value for key, value in gaps.items()})
    return Subject.of(sequence, headers)


def stored(**subjects: Subject) -> Stored:
    return Stored({kind: subjects.get(kind, Subject()) for kind in KINDS})


def begin(stream: int, **numbers: int) -> Batch:
    names = {key.replace("_", "."): value for key, value in numbers.items()}
    return gap(BOOT, stream, "", 0, 0, 0, 9, "begin", names)


def test_an_empty_server_lacks_everything() -> None:
    found = stored()
    assert found.stream is None and found.next_by_topic() == {}
    assert found.missing_part(batch(5, 3), [7]) == batch(5, 3)


@pytest.mark.parametrize(
    ("first", "count", "rest"), [(1, 10, None), (5, 6, None), (5, 8, (11, 2)), (11, 4, (11, 4)), (20, 4, (20, 4))]
)
def test_what_is_stored_is_not_sent_again_whatever_the_borders(
    first: int, count: int, rest: tuple[int, int] | None
) -> None:
    found = stored(exec=subject(3, 8, 3)).missing_part(batch(first, count), [7])
    assert (None if found is None else (found.first, found.count)) == rest


def test_a_gap_counts_as_stored_for_its_topic_alone() -> None:
    found = stored(exec=subject(3, 8, 3), gap=subject(4, 11, 5, proc_exec=16))
    assert found.next("exec", "proc.exec") == 16 and found.next_by_topic() == {"proc.exec": 16}
    assert found.missing_part(batch(11, 5), [7]) is None
    assert found.missing_part(batch(11, 5, topic="proc.fork"), [7]) is not None
    again = gap(BOOT, 7, "proc.exec", 11, 9, 0, 0, "gap")
    rest = found.missing_part(again, [7])
    assert rest is not None and (rest.first, rest.count, rest.events()[0]["first"]) == (16, 4, 16)


def test_the_stream_of_the_newest_message_decides() -> None:
    found = stored(exec=subject(3, 8, 3), fork=subject(9, 1, 2, stream=8))
    assert found.stream == 8 and found.next("exec", "proc.exec") is None
    assert found.missing_part(batch(11, 5), [7, 8]) is None, "an older stream is done"
    assert found.missing_part(batch(1, 5, stream=8), [7, 8]) == batch(1, 5, stream=8)
    assert found.missing_part(batch(1, 5, stream=9), [9]) == batch(1, 5, stream=9)


def test_the_record_of_a_begin_says_where_all_topics_begin() -> None:
    found = stored()
    record = begin(7, proc_exec=40, proc_fork=1)
    assert found.missing_part(record, [7]) == record
    found.accept(record, 1)
    assert found.missing_part(record, [7]) is None
    assert found.next_by_topic() == {"proc.exec": 40, "proc.fork": 1}
    found.accept(batch(40, 2), 2)
    assert found.next("exec", "proc.exec") == 42 and found.to_ns == batch(40, 2).to_ns
    restart = gap(BOOT, 8, "", 0, 0, 5, 6, "restart")
    assert found.missing_part(restart, [7, 8]) == restart
    found.accept(restart, 3)
    assert found.stream == 8 and found.next_by_topic() == {}


def test_a_time_without_a_daemon_is_stored_once() -> None:
    found = stored()
    found.accept(begin(7), 1)
    hole = gap(BOOT, 7, "", 100, 0, 100, 200, "unwatched")
    assert found.missing_part(hole, [7]) == hole
    found.accept(hole, 2)
    found.accept(gap(BOOT, 7, "proc.exec", 1, 2, 0, 0, "gap"), 3)
    assert found.missing_part(hole, [7]) is None
    later = gap(BOOT, 7, "", 300, 0, 300, 400, "unwatched")
    assert found.missing_part(later, [7]) == later


def test_an_answer_does_not_undo_what_was_stored_meanwhile() -> None:
    now = stored(exec=subject(3, 8, 3), fork=subject(2, 1, 1))
    before = now.copy()
    now.accept(batch(11, 2), 5)
    answer = stored(exec=subject(3, 8, 3), fork=subject(4, 2, 6))
    merged = answer.newer(before, now)
    assert merged.next("exec", "proc.exec") == 13 and merged.next("fork", "proc.fork") == 8


def test_foreign_messages_are_no_state() -> None:
    for headers in ({}, {"Procline-Stream": "x"}, {"Procline-Stream": "7", "Procline-First": "1"}):
        found = Subject.of(12, headers)
        assert found.sequence == 12 and found.stream is None
    bad = {"Procline-Stream": "7", "Procline-First": "1", "Procline-Count": "1", "Procline-Next": "[1]"}
    assert Subject.of(3, bad).stream is None
    assert stored(exec=Subject(12)).stream is None


def test_headers_name_the_last_message_of_the_subject() -> None:
    found = stored(exec=subject(3, 8, 3), gap=subject(4, 1, 1, proc_fork=2))
    headers = found.headers(batch(11, 2), host="web 1", form="native")
    assert headers["Nats-Expected-Last-Subject-Sequence"] == "3" and headers["Procline-Host"] == "web 1"
    assert headers["Nats-Msg-Id"] == f"{BOOT}-7-exec-proc.exec-11" and "Procline-Format" not in headers
    missing = gap(BOOT, 7, "proc.exec", 11, 9, 0, 0, "gap")
    headers = found.headers(missing, host="h", form="ecs")
    assert json.loads(headers["Procline-Next"]) == {"proc.fork": 2, "proc.exec": 20}
    assert headers["Procline-Format"] == "ecs" and headers["Nats-Expected-Last-Subject-Sequence"] == "4"
