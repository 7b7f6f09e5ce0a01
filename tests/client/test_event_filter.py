"""The filter of `Subscriber` and of `procline subscribe`."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.bus.stream.messages import pack_events
from pipeline.client.event_filter import EventFilter
from pipeline.errors import ConfigError
from pipeline.select.selection import Selection


def entry(pid: int, parent: int) -> dict[str, Any]:
    return {"pid": pid, "entity_id": f"e{pid}", "parent_entity_id": f"e{parent}", "exit_time_ns": None}


def event(kind: str, pid: int, parent: int = 1, **changes: Any) -> Any:
    return {"event": kind, "seq": 1, "order": 1, **entry(pid, parent), **changes}


MISSED: Any = {"event": "missed", "seq": None, "count": 1}
LOSS: Any = {"event": "loss", "seq": 1, "order": 1, "new": {}}


def never() -> None:
    pytest.fail("nothing was missed")


def test_events_about_no_process_pass_always() -> None:
    wanted = EventFilter(Selection(users=["alice"]), ())
    events = [MISSED, LOSS, event("exec", 5, user="bob", uid=2), event("exec", 6, user="alice", uid=1)]
    assert wanted.of(events, never) == [MISSED, LOSS, events[3]]


def test_descendants_are_followed_with_topics_that_were_not_asked_for() -> None:
    wanted = EventFilter(Selection(under=[10]), ("exec",))
    assert wanted.topics == ("exec", "proc.fork", "proc.exit")
    assert wanted.start([entry(10, 1), entry(11, 10)], 0) == []
    events = [event("fork", 12, 11), event("exec", 12, 11), event("exec", 13, 1), event("exit", 12, 11)]
    assert wanted.of(events, never) == [events[1]]


def test_the_descendants_are_read_before_the_events_after_a_gap_are_compared() -> None:
    wanted = EventFilter(Selection(under=[10]), ())
    assert wanted.start([entry(10, 1)], 0) == []

    def again() -> None:
        wanted.start([entry(10, 1), entry(60, 10)], 0)

    assert wanted.of([event("exec", 61, 60)], never) == []
    assert [each["event"] for each in wanted.of([MISSED, event("exec", 61, 60)], again)] == ["missed", "exec"]


def test_unknown_pids_are_named() -> None:
    assert EventFilter(Selection(under=[10, 99]), ()).start([entry(10, 1)], 0) == [99]


def test_failures_need_the_topic_of_ends() -> None:
    assert EventFilter(Selection(is_failed=True), ()).topics == ("proc.exit", "sys.loss")
    assert EventFilter(Selection(is_failed=True), ("proc",)).topics == ("proc",)
    with pytest.raises(ConfigError, match="needs the topic exit"):
        EventFilter(Selection(is_failed=True), ("exec",))


@pytest.mark.parametrize(
    "fields",
    [
        {"entity_id": []}, {"entity_id": {}, "lineage": 5}, {"uid": [], "euid": {}}, {"user": []}, {"path": 7},
        {"argv": {"a": 1}}, {"cgroup": 3}, {"lineage": [3], "entity_id": "e77", "parent_entity_id": None},
        {"pid": "x", "path": {}},
    ],
)  # fmt: skip
def test_impossible_fields_are_counted_and_change_nothing(fields: dict[str, Any]) -> None:
    for selection in (
        Selection(under=[10]),
        Selection(users=["a"], paths=["x"]),
        Selection(names=["x"]),
        Selection(units=["u"], paths=["x"]),
    ):
        wanted = EventFilter(selection, ())
        wanted.start([entry(10, 1)], 0)
        found = wanted.of([event("exec", 77, 10) | fields, LOSS], never)
        assert found[-1] == LOSS and wanted.malformed <= 1


@pytest.mark.parametrize(
    ("selection", "texts"),
    [
        (Selection(paths=["curl"]), ((b"curl",),)),
        (Selection(paths=["/usr/*/x?yz", "bash"], containers=["c0ffee"]), ((b"/usr/", b"bash"), (b"c0ffee",))),
        (Selection(args=["[ab]long", "x"]), ()),
        (Selection(paths=["*"], args=["--yes"]), ((b"--yes",),)),
        (Selection(paths=["gr\u00fc\udcff"]), ((b"gr\xc3\xbc\xff",),)),
        (Selection(paths=["\ud800"]), ()),
        (Selection(users=["root"], units=["ssh"], is_failed=True), ()),
        (Selection(paths=["curl"], under=[1]), ()),
    ],
)
def test_texts_that_a_wanted_event_contains(selection: Selection, texts: tuple[tuple[bytes, ...], ...]) -> None:
    wanted = EventFilter(selection, ())
    assert wanted._required == texts
    if not texts:
        assert wanted.skips is None


TEXT = st.text("ab/[]*?!-\udcff\u00fc", max_size=5)


@settings(deadline=None)
@given(st.lists(TEXT, max_size=2), st.lists(TEXT, max_size=2), TEXT, TEXT, st.lists(TEXT, max_size=3), TEXT)
def test_no_wanted_event_is_skipped(
    paths: list[str], args: list[str], path: str, script: str, argv: list[str], container: str
) -> None:
    """Whatever the patterns are: an event that matches is in no message that is skipped."""
    containers = ["c0ff"] if container else []
    found = event("exec", 5, path=path, script_path=script, argv=argv, container_id=f"c0ffee{container}")
    for pattern in (paths, [*paths, path], [path[:2] + "*"], [f"*{path[1:]}"]):
        wanted = EventFilter(Selection(paths=pattern, args=args, containers=containers), ())
        if wanted.of([found], never) and wanted.skips is not None:
            assert not wanted.skips(pack_events([event("fork", 4), found]))
