"""Descendants are followed by events, however deep they are, in bounded memory."""

from __future__ import annotations

from typing import Any

from pipeline.select.following import Following

NOW_NS = 10**18


def entry(pid: int, parent: int | None, **changes: Any) -> Any:
    return {
        "pid": pid,
        "entity_id": f"e{pid}",
        "parent_entity_id": parent and f"e{parent}",
        "exit_time_ns": None,
    } | changes


def event(kind: str, pid: int, parent: int | None = None, **changes: Any) -> Any:
    return {"event": kind, **entry(pid, parent, **changes)}


TABLE = [entry(1, None), entry(10, 1), entry(11, 10), entry(12, 11), entry(20, 1)]


def test_the_table_names_the_descendants_at_the_start() -> None:
    following = Following([10])
    assert following.start(TABLE, NOW_NS) == []
    assert [pid for pid in (1, 10, 11, 12, 20) if following.follows(event("exec", pid))] == [10, 11, 12]


def test_a_birth_adds_and_an_end_removes() -> None:
    following = Following([10])
    following.start(TABLE, NOW_NS)
    assert following.follows(event("fork", 13, 12)) and following.follows(event("exec", 13, 12))
    assert not following.follows(event("fork", 21, 20))
    count = len(following)
    assert following.follows(event("exit", 13, 12)) and len(following) == count - 1
    # Another process with the same pid has another identity.
    assert not following.follows(event("exec", 13, 1, entity_id="again"))


def test_an_adopted_process_is_still_a_descendant_and_so_are_its_children() -> None:
    following = Following([10])
    following.start(TABLE, NOW_NS)
    assert following.follows(event("exit", 11, 10))
    assert following.follows(event("reparent", 12, 1))
    assert following.follows(event("fork", 14, 1, creator_entity_id="e12"))


def test_a_missed_birth_is_seen_by_the_lineage_of_a_later_event() -> None:
    following = Following([10])
    following.start(TABLE, NOW_NS)
    assert following.follows(
        event("exec", 16, 15, lineage=[{"pid": 15, "entity_id": "e15"}, {"pid": 12, "entity_id": "e12"}])
    )
    assert following.follows(event("fork", 17, 16))


def test_exited_processes_of_the_table_count_only_while_events_of_them_can_arrive() -> None:
    table = [
        *TABLE,
        entry(30, 10, exit_time_ns=NOW_NS - 1),
        entry(31, 30),
        entry(32, 10, exit_time_ns=1),
        entry(33, 32),
    ]
    following = Following([10])
    following.start(table, NOW_NS)
    assert [pid for pid in (30, 31, 32, 33) if following.follows(event("exec", pid))] == [30, 31, 33]


def test_after_a_gap_what_ended_unseen_is_forgotten() -> None:
    following = Following([10])
    following.start(TABLE, NOW_NS)
    following.follows(event("fork", 13, 12))
    # 12 has been evicted, 13 has ended long ago, 18 is new.
    following.start([entry(1, None), entry(11, 10), entry(13, 12, exit_time_ns=1), entry(18, 11)], NOW_NS)
    assert len(following) == 2
    assert following.follows(event("exec", 11)) and following.follows(event("exec", 18))


def test_memory_is_bounded_and_the_loss_is_known() -> None:
    following = Following([10], limit=4)
    following.start(TABLE, NOW_NS)
    assert not following.is_full
    for pid in range(100, 110):
        following.follows(event("fork", pid, pid - 1 if pid > 100 else 12))
    assert following.is_full and len(following) == 4


def test_pids_without_a_process_are_reported_once() -> None:
    following = Following([10, 77])
    assert following.start(TABLE, NOW_NS) == [77]
    assert following.start(TABLE, NOW_NS) == []
