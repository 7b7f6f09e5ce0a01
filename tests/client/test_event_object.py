"""Events with attributes have the fields of the dicts, and type checkers know all of them."""

from __future__ import annotations

import copy
import pickle
from datetime import UTC, datetime, timedelta
from typing import Any, get_args, get_type_hints

import pytest

from pipeline.bus.stream import event_dict as types
from pipeline.client.event_object import Ancestor, EventObject

PARENT = {"pid": 1, "start_time_ns": 5, "comm": "in\x1b[it", "path": None, "entity_id": "x"}
EXEC: dict[str, Any] = {"event": "exec", "pid": 7, "argv": ["a"], "lineage": [PARENT, PARENT], "uid": None}
#: Attributes that are computed from the fields.
COMPUTED = {
    "time", "start_time", "fork_time", "exec_time", "exit_time", "created_at", "duration", "exit_status", "exit_signal",
}  # fmt: skip


def test_type_checkers_know_every_field_of_every_event() -> None:
    known = set(get_type_hints(EventObject)) - {"_fields"} - COMPUTED
    assert known == {name for each in get_args(types.Event) for name in get_type_hints(each)}
    assert set(get_type_hints(Ancestor)) - {"_fields", "start_time"} == set(get_type_hints(types.Ancestor))


def test_fields_are_attributes() -> None:
    event = EventObject(EXEC)
    assert (event.event, event.pid, event.argv, event.uid) == ("exec", 7, ["a"], None)
    assert [each.comm for each in event.lineage] == [PARENT["comm"]] * 2
    assert event.as_dict() is EXEC
    moved = EventObject({"event": "reparent", "pid": 7, "new_parent": PARENT, "lineage": None})
    assert moved.new_parent is not None and moved.new_parent.pid == 1 and moved.lineage == []
    assert EventObject({"event": "reparent", "new_parent": None}).new_parent is None


def test_times_have_two_forms() -> None:
    fields = {
        "event": "exit",
        "time_ns": 10**9 + 1999,
        "start_time_ns": 10**9,
        "exit_time_ns": 10**9 + 2001,
        "lineage": [PARENT],
    }
    event = EventObject(fields)
    assert event.time == datetime(1970, 1, 1, 0, 0, 1, 1, UTC) and event.time > event.start_time
    assert event.duration == timedelta(microseconds=2) and event.lineage[0].start_time == datetime(
        1970, 1, 1, tzinfo=UTC
    )
    assert (
        EventObject(fields | {"exit_time_ns": None}).duration
        is None
        is EventObject(fields | {"exit_time_ns": None}).exit_time
    )
    with pytest.raises(AttributeError, match="did you mean 'argv'"):
        _ = EventObject(EXEC).cmdline  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("status", "cause", "number", "expected"),
    [(768, "exited", 3, (3, None)), (0, "exited", 0, (0, None)), (9, "signaled", 9, (None, 9)),
     (139, "coredumped", 11, (None, 11)), (None, None, None, (None, None))],
)  # fmt: skip
def test_the_end_has_the_two_parts_that_an_entry_has(
    status: int | None, cause: str | None, number: int | None, expected: tuple[int | None, int | None]
) -> None:
    event = EventObject({"event": "exit", "exit_code": status, "exit_cause": cause, "exit_cause_code": number})
    assert (event.exit_status, event.exit_signal) == expected
    assert {"exit_status", "exit_signal"} <= set(dir(event))
    with pytest.raises(AttributeError, match="has no field 'exit_status'"):
        _ = EventObject({"event": "loss"}).exit_status
    with pytest.raises(AttributeError, match="did you mean 'exit_status'"):
        _ = event.returncode  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["cpu_user_ns", "no_such", "__missing__", "_x"])
def test_a_field_that_is_not_there_is_an_attribute_error(name: str) -> None:
    with pytest.raises(AttributeError, match=name):
        getattr(EventObject(EXEC), name)
    assert not hasattr(Ancestor(PARENT), name)


def test_objects_are_compared_copied_and_pickled_like_dicts() -> None:
    event = EventObject(EXEC)
    assert event == EventObject(dict(EXEC)) != EventObject({**EXEC, "pid": 8})
    assert event != EXEC
    assert copy.deepcopy(event) == pickle.loads(pickle.dumps(event)) == event
    with pytest.raises(TypeError):
        hash(event)
    assert {"pid", "argv", "as_dict"} <= set(dir(event))


def test_a_repr_shows_no_control_characters() -> None:
    assert repr(EventObject(EXEC)) == "<EventObject exec of 7>"
    assert repr(EventObject({"event": "missed"})) == "<EventObject missed>"
    assert repr(EventObject(EXEC).lineage[0]) == "<Ancestor 1 'in\\x1b[it'>"
