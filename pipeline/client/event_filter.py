"""Which events of the stream are about selected processes. `Subscriber` and `procline subscribe` use this."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, cast

from pipeline.bus.stream.messages import covers
from pipeline.bus.stream.narrowing import Filter, make_filter
from pipeline.errors import ConfigError
from pipeline.select.following import TOPICS, Following

if TYPE_CHECKING:
    from pipeline.bus.stream.event_dict import Event
    from pipeline.select.selection import Selection
    from pipeline.shm.layout.entry_types import EntryFields


class EventFilter:
    """Selects events by a selection of processes and by topics.

    Events that are about no process always pass, because they report what is missing.

    Args:
        selection: what a process must match.
        topics: the topics that the subscriber asked for, as arguments of `messages.subscription_prefixes`.

    Attributes:
        topics: the topics to subscribe to. `under` adds forks, execs and exits to those that were asked for.
        malformed: events that could not be compared, because a field has an impossible type. They are left out.

    Raises:
        ConfigError: `is_failed` is set, but the topics have no ``proc.exit``.
    """

    def __init__(self, selection: Selection, topics: tuple[str, ...]) -> None:
        if selection.is_failed:
            # Nothing else shows that a process has failed.
            if not topics:
                topics = ("proc.exit", "sys.loss")
            elif not covers(topics, "proc.exit"):
                raise ConfigError(
                    "--failed needs the topic exit, because only the end of a process says that it has failed: add "
                    "exit, or use no topic",
                    key="topics",
                    value=topics,
                )
        self._selection = selection
        self._following = Following(selection.under) if selection.under else None
        self._unasked: set[str] = set()
        #: Descendants are found by the events of their ancestors, which can contain any text.
        self._required = () if self._following is not None else selection.required_texts()
        self.malformed = 0
        if self._following is not None and topics:
            added = [each for each in TOPICS if not covers(topics, each)]
            self._unasked = {each.partition(".")[2] for each in added}
            topics = (*topics, *added)
        self.topics = topics

    @property
    def needs_table(self) -> bool:
        """Whether the descendants have to be read from the tables, see `start`."""
        return self._following is not None

    @property
    def skips(self) -> Callable[[bytes], bool] | None:
        """Decides by the bytes of a message that it has no wanted event; None: only decoded events can be compared."""
        return self._lacks_texts if self._required else None

    @property
    def only(self) -> Filter | None:
        """A filter for the publisher, which every wanted event about a process passes; None: there is none."""
        if self._following is not None:  # it needs the births and ends of other processes
            return None
        made = (make_filter(kind, values) for kind, values in self._selection.publisher_filters())
        return next((each for each in made if each is not None), None)

    def _lacks_texts(self, body: bytes) -> bool:
        return any(all(text not in body for text in alternatives) for alternatives in self._required)

    @property
    def is_incomplete(self) -> bool:
        """Whether there are more descendants than are kept, so that events of some of them are left out."""
        return self._following is not None and self._following.is_full

    def start(self, entries: Iterable[EntryFields], now_ns: int) -> list[int]:
        """Read the descendants from tables that were read after the stream was opened; call it again after a gap.

        Args:
            entries: all processes, exited ones too, with the fields that `pipeline.select.following.FIELDS` names.
            now_ns: the present time, ns since the Unix epoch.

        Returns:
            The pids of `under` that no process has.
        """
        return self._following.start(entries, now_ns) if self._following is not None else []

    def of(self, events: Iterable[Event], on_gap: Callable[[], None]) -> list[Event]:
        """Return the events that are asked for, in their order.

        Args:
            events: that have arrived.
            on_gap: called at each gap before later events are compared; it calls `start` if it can.
        """
        found = []
        for event in events:
            kind = event["event"]
            if self._following is not None and kind in {"missed", "unwatched"}:
                on_gap()
            # A publisher can send any type in any field.
            try:
                is_wanted = event.get("pid") is None or self._takes(event, kind)
            except (TypeError, AttributeError, ValueError, LookupError):
                self.malformed += 1
                continue
            if is_wanted:
                found.append(event)
        return found

    def _takes(self, event: Event, kind: str) -> bool:
        if self._following is not None and not self._following.follows(event):
            return False
        return kind not in self._unasked and self._selection.matches(cast("EntryFields", event))
