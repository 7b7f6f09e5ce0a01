"""Reading up to what a test has published last, instead of until nothing has arrived for a time."""

from __future__ import annotations

from typing import Any

from pipeline import Subscriber
from tests.waiting import until


def up_to(subscriber: Subscriber, order: int) -> list[Any]:
    """Return the events up to the one with this order, which the subscriber selects."""
    events: list[Any] = []
    for event in subscriber:
        events.append(event)
        if event.get("order") == order:
            break
    assert events and events[-1].get("order") == order, "the last event has not arrived"
    return events


def up_to_number(subscriber: Subscriber, topic: int, number: int) -> list[Any]:
    """Return the selected events up to a number of a topic. The event with that number need not be selected."""
    events: list[Any] = []
    last = subscriber._reader.tracker.last
    until(lambda: last[topic] == number, meanwhile=lambda: events.extend(subscriber.read(0.01)))
    return events
