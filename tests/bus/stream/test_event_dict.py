"""The static types of events have the fields of the events."""

from __future__ import annotations

from typing import get_args, get_type_hints

import pytest

from pipeline.bus.stream.event_dict import Ancestor, Event, ExecEvent, ExitEvent, GapEvent, ProcessEvent, SnapshotEvent
from pipeline.bus.stream.messages import missed_event, unwatched_event
from pipeline.resolver.stream._encoder import FIELDS
from pipeline.shm.layout.entry_fields import FIELDS as DECLARED
from pipeline.shm.reader.table import FIELDS as ENTRY_FIELDS

COST = {field.name for field in DECLARED if field.shown == "exit"}
#: What only some kinds have.
EXTRA = {"ExitEvent": COST, "ReparentEvent": {"new_parent"}, "CredEvent": {"changed_after_ns"}}


@pytest.mark.parametrize("kind", [each for each in get_args(ProcessEvent) if each is not SnapshotEvent])
def test_each_kind_has_exactly_the_fields_that_are_sent(kind: type) -> None:
    assert kind.__required_keys__ == {*FIELDS, *EXTRA.get(kind.__name__, ())}  # type: ignore[attr-defined]


def test_a_snapshot_has_the_fields_of_entries_and_of_events() -> None:
    assert SnapshotEvent.__required_keys__ == {*FIELDS, *ENTRY_FIELDS, "left"}


def test_gaps_have_the_fields_that_the_tracker_makes() -> None:
    missed, unwatched = get_args(GapEvent)
    assert missed.__required_keys__ == set(missed_event(topic=None, first=None, last=None, time_ns=0, reason=""))
    assert unwatched.__required_keys__ == set(unwatched_event(from_ns=0, to_ns=0, time_ns=0))


def test_the_kinds_of_all_types_are_apart() -> None:
    """So a comparison of ``event["event"]`` decides which type an event has."""
    kinds = [kind for each in get_args(Event) for kind in get_args(get_type_hints(each)["event"])]
    assert len(kinds) == len(set(kinds))
    assert {"fork", "exec", "exit", "missed", "unwatched", "snapshot"} <= set(kinds)


def test_the_order_of_the_declaration_is_kept() -> None:
    named = [name for name in ExecEvent.__annotations__ if name in FIELDS]
    assert [name for name in named if name not in {"event", "seq", "order"}] == [
        name for name in FIELDS if name not in {"event", "seq", "order"}
    ]
    assert set(ExitEvent.__annotations__) > COST


def test_an_ancestor_has_the_fields_of_a_lineage() -> None:
    assert tuple(Ancestor.__annotations__) == ("pid", "start_time_ns", "comm", "path", "entity_id")
