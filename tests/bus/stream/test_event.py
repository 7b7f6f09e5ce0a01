"""The static type of an event has the fields of every kind of event."""

from __future__ import annotations

from pipeline.bus.stream.event import Ancestor, Event
from pipeline.bus.stream.messages import missed_event, unwatched_event
from pipeline.resolver.stream._encoder import FIELDS
from pipeline.shm.reader.table import FIELDS as ENTRY_FIELDS


def test_the_type_has_exactly_the_fields_of_all_events() -> None:
    special = {
        *missed_event(topic=None, first=None, last=None, time_ns=0, reason=""),
        *unwatched_event(from_ns=0, to_ns=0, time_ns=0),
    }
    others = {"new_parent", "context", "lost", "new", "left"}
    assert set(Event.__annotations__) == {*FIELDS, *ENTRY_FIELDS, *special, *others}
    assert tuple(Event.__annotations__)[: len(FIELDS)] == FIELDS


def test_an_ancestor_has_the_fields_of_a_lineage() -> None:
    assert tuple(Ancestor.__annotations__) == ("pid", "start_time_ns", "comm", "path", "entity_id")
