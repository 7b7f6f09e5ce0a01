"""The subscribers that want only some events of a topic: their filters, and what each filter was sent.

`pipeline.bus.stream.narrowing` describes the subscriptions. The publisher sends the messages.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from pipeline.bus.stream.declared import FILTERS_MAX
from pipeline.bus.stream.messages import TOPICS, Message, prefix_mask
from pipeline.bus.stream.narrowing import Filter, parse_subscription


class RowFilters(Protocol):
    """The part of `pipeline.resolver.stream._row_filters.RowFilters` that is used here."""

    @property
    def topics_mask(self) -> int:
        """The topics of all filters."""
        ...

    def set(self, number: int, kind: bytes = b"", values: Sequence[bytes] = (), topics: int = 0) -> None:
        """Replace a filter; with topics 0 it is removed."""
        ...


class _ActiveFilter:
    __slots__ = ("asked", "mask", "masks", "since", "torn")

    def __init__(self, asked: Filter) -> None:
        self.asked = asked
        #: The topics by subscription.
        self.masks: dict[bytes, int] = {}
        #: By topic, the number after the last one that a message has covered.
        self.since = [0] * len(TOPICS)
        #: The topics in use: those of `masks` when `apply` was called last.
        self.mask = 0
        #: The topics of which events were dropped since the last message.
        self.torn = 0

    def cover(self, topic: int, first: int, following: int, is_torn: bool) -> int:
        """Return the `since` of a message that begins with `first`; the next one covers from `following` on."""
        since = first if is_torn or self.torn >> topic & 1 else self.since[topic]
        self.torn &= ~(1 << topic)
        self.since[topic] = following
        return since


class Narrowed:
    """The filters in use, at most `FILTERS_MAX`. Further ones are ignored, and their subscribers notice.

    Args:
        filters: evaluates them.
    """

    def __init__(self, filters: RowFilters) -> None:
        self._filters = filters
        self._active: list[_ActiveFilter | None] = [None] * FILTERS_MAX
        #: The filters in use, for headers.
        self.texts: tuple[bytes, ...] = ()
        self.is_changed = False

    def subscribe(self, prefix: bytes) -> None:
        """Note a subscription that begins like that of a filter. `apply` puts it to use."""
        parsed = parse_subscription(prefix)
        mask = prefix_mask(parsed[1]) if parsed is not None else 0
        if parsed is None or not mask:
            return
        active = next((each for each in self._active if each is not None and each.asked == parsed[0]), None)
        if active is None:
            if None not in self._active:
                return
            active = _ActiveFilter(parsed[0])
            self._active[self._active.index(None)] = active
        active.masks[prefix] = mask
        self.is_changed = True

    def unsubscribe(self, prefix: bytes) -> None:
        """Note that the last subscriber with this subscription has gone."""
        for number, active in enumerate(self._active):
            if active is not None and active.masks.pop(prefix, None) is not None:
                self.is_changed = True
                if not active.masks:
                    self._active[number] = None

    def apply(self, settled: Sequence[int]) -> None:
        """Use what was noted. No encoded event may be waiting.

        Args:
            settled: by topic, the number of the last event.
        """
        self.is_changed = False
        for number, active in enumerate(self._active):
            if active is None:
                self._filters.set(number)
                continue
            mask = 0
            for asked in active.masks.values():
                mask |= asked
            for topic in _topics(mask & ~active.mask):
                active.since[topic] = settled[topic] + 1
            active.mask = mask
            self._filters.set(number, active.asked.kind, active.asked.values, mask)
        self.texts = tuple(active.asked.text for active in self._active if active is not None)

    def select(
        self, group: Sequence[Message], is_torn: bool
    ) -> Iterator[tuple[bytes, Message, int, int, Sequence[int]]]:
        """Yield what to send of a group of messages to the subscribers of each filter.

        Args:
            group: all messages of a group.
            is_torn: events were dropped, so numbers before a message may be of events that have passed a filter.

        Yields:
            The filter as it begins the topic, the message, and its `rest`, `since` and `next` in regard of the filter's
            topics. The last is a list that changes with the next message.
        """
        for number, active in enumerate(self._active):
            if active is None or not active.mask:
                continue
            chosen = [each for each in group if each.filters >> number & 1 and active.mask >> each.topic & 1]
            rest = sum(1 << each.topic for each in chosen)
            for message in chosen:
                rest &= ~(1 << message.topic)
                following = message.first + message.count
                since = active.cover(message.topic, message.first, following, is_torn)
                yield active.asked.text, message, rest, since, active.since

    def tear(self) -> None:
        """Note that events were dropped which may have passed a filter: the next message reports a gap."""
        for active in self._active:
            if active is not None:
                active.torn = active.mask

    def beat(self, following: Sequence[int], is_torn: bool) -> Iterator[tuple[bytes, int, int, int, Sequence[int]]]:
        """Yield what to send as the heartbeats of each filter.

        Args:
            following: by topic, the number of the next event.
            is_torn: as for `select`.

        Yields:
            The filter as it begins the topic, the topic, its next number, and `since` and `next` as from `select`.
        """
        for active in self._active:
            if active is None:
                continue
            for topic in _topics(active.mask):
                first = following[topic]
                yield active.asked.text, topic, first, active.cover(topic, first, first, is_torn), active.since


def _topics(mask: int) -> Iterator[int]:
    return (topic for topic in range(len(TOPICS)) if mask >> topic & 1)
