"""Track the sequence numbers of the stream: put groups in order, report gaps, drop repeats. This module has no sockets.

`Tracker.feed` accepts messages as they arrive and returns events in the order in which they were applied. A reader in
any language must handle these cases:

gap         first > last + 1, or the number of another topic in `next` is above that topic's last + 1: the subscriber
            was slow, or the connection was lost. Reported as a "missed" event. Publishers before 1.8 do not send
            `next`, so the loss of another topic's message is often noticed later. A group that ends before a message
            that `rest` announced shows a loss too, but not its numbers.
take-over   The header has another `writer`: a resolver was killed between publishing and committing, and its successor
            applied the same records again. It usually makes the same events with the same numbers. But a ring that had
            stalled before may be included now, which shifts the numbers a little. Repeats are therefore recognised by
            their contents, by comparing them with the messages of the last step. Nothing older can be repeated, because
            a step is published only when the one before it is committed. Events outside this window are recognised by
            their numbers.
new stream  The header has another `stream`: the tables were rebuilt, and the numbers begin again at 1.
resume      The reader returns with a position: it continues from the numbers there, in the stream of that position.
unwatched   The header lists a new period: a daemon ended, and no daemon watched until the next one began. Reported as
            an "unwatched" event. At a welcome this is reported only if the period ended recently: a subscriber that was
            restarted together with the daemon needs it, but one that first starts an hour later does not.

If `recovers` is set, a message that shows a gap or a new stream is not processed but `held`. Its owner feeds what is
missing from the journal with `feed_recorded`, and then calls `release`, which processes the message. `before_held`
selects the messages of the journal that come before it. As `next` shows a loss at the first message after it, the
events come in the order in which they were applied, whichever messages were lost.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING

from pipeline.bus.stream._decoder import Decoder, are_kinds
from pipeline.bus.stream.messages import (
    TOPIC_NUMBERS,
    TOPICS,
    Fields,
    Header,
    StreamVersionError,
    missed_event,
    unpack_events,
    unwatched_event,
)
from pipeline.bus.stream.position import StreamPosition
from pipeline.errors import FrameError

if TYPE_CHECKING:
    from pipeline.bus.stream.journal import Block, Recorded

_ORDER = itemgetter("order")
_PROCESSES = frozenset(number for topic, number in TOPIC_NUMBERS.items() if topic.startswith(b"proc."))
_PROCESS_MASK = sum(1 << number for number in _PROCESSES)
_PLAIN = frozenset({str, int, type(None)})

#: Bytes of bodies kept to recognise repeats; a step rarely has more than a few MB. Older repeats are found by number.
REPEAT_WINDOW_BYTES = 32 << 20
#: After this many further events of a topic no repeat is expected: the remaining records were committed.
REPEAT_WINDOW_EVENTS = 1 << 16
#: A welcome reports an unwatched period if it ended at most this long ago, in ns.
UNWATCHED_RECENT_NS = 60_000_000_000


class Tracker:
    """Tracks the numbers of the topics in `mask`.

    Args:
        mask: the topics, as bits.
        skips: whether no event of a body is wanted. Such a body of a topic about processes is numbered, but not
            decoded. It must decide by text that events contain, so that it skips a repeat of an event as well.
        only: the filter that the publisher evaluates, as its topics begin; empty: none.
        is_narrow: whether it evaluates the filter for the topics in `mask`.
        recovers: hold messages that show a gap or a new stream, instead of processing them.

    Attributes:
        missed: events that were published but not received, by topic name.
        repeats: events that were received again after a take-over and dropped.
        listed: events that were received and dropped because a snapshot contains them (`skip_to`).
        refused: messages that could not be read.
        skipped: events that were not decoded, because `skips` returned true.
        stale: set at a gap, a new stream and an unwatched period: state derived from the events is incomplete. The
            owner of the tracker clears it.
        ended: the last message said that the publisher stops on purpose.
        stream: id of the current sequence number space; None before the first message.
        unwatched: (from, to) of the last periods in which no daemon watched, ns (unix).
        last: by topic, the last number received; None before the first.
        ignored: heartbeats since the last one that listed the filter.
        is_narrow: as the argument, until the publisher turns out not to evaluate the filter.
        recovered: events that the journal had and the stream had lost.
    """

    def __init__(
        self,
        mask: int,
        skips: Callable[[bytes], bool] | None = None,
        only: bytes = b"",
        *,
        is_narrow: bool = False,
        recovers: bool = False,
    ) -> None:
        self.mask = mask
        self.ignored = 0
        self._only = only
        self.is_narrow = is_narrow
        self._topics = TOPIC_NUMBERS | (
            {only + b"|" + topic: number for topic, number in TOPIC_NUMBERS.items()} if only else {}
        )
        self._skips = skips
        self.missed: Counter[str] = Counter()
        self.repeats = 0
        self.listed = 0
        self.refused = 0
        self.skipped = 0
        self.stale = False
        self.ended = False
        self.stream: int | None = None
        self.writer = 0
        self.unwatched: tuple[tuple[int, int], ...] = ()
        self.last: list[int | None] = [None] * len(TOPICS)
        self._decoder = Decoder()
        self._recovers = recovers
        self.recovered = 0
        self._held: deque[_Held] = deque()
        self._aside: list[tuple[int, list[Fields]]] = []
        self._aside_group: tuple[int, int, int] | None = None
        self._times_ns: list[int | None] = [None] * len(TOPICS)
        self._floor = [0] * len(TOPICS)
        self._group: tuple[int, int, int] | None = None
        self._open: list[tuple[int, list[Fields]]] = []
        #: Topics of which the open group has a message that has not arrived yet, as a mask.
        self._rest = 0
        #: `next` of the last message that showed no loss. Another one with the same numbers shows none either.
        self._seen: tuple[int, ...] = ()
        self._notes: list[Fields] = []
        self._step = -1
        self._window: deque[tuple[int, Header, bytes]] = deque()
        self._window_bytes = 0
        self._repeatable: dict[int, _Repeatable] = {}

    def begin(self, header: Header) -> None:
        """Start at a welcome: all events up to its `seqs` count as seen."""
        self._reset(header)
        self.skip_to(header.seqs or ())
        self._report_unwatched(header, header.time_ns - UNWATCHED_RECENT_NS)
        self._times_ns = [header.time_ns] * len(TOPICS)

    def resume(self, header: Header, position: StreamPosition) -> None:
        """Start behind a position; `header` is the welcome. What was missed until the welcome is held."""
        seqs = (*(header.seqs or ()), *[0] * len(TOPICS))
        self._reset(header)
        self.stream = position.stream
        for number, topic in enumerate(TOPICS):
            following = position.next.get(topic)
            if following is not None:
                # A number from far ahead would make everything that comes look like a repeat.
                is_possible = header.stream != position.stream or following <= seqs[number] + REPEAT_WINDOW_EVENTS
                self.last[number] = following - 1 if is_possible else seqs[number]
            elif header.stream == position.stream:
                self.last[number] = seqs[number]
        since_ns = position.time_ns if position.time_ns is not None else header.time_ns - UNWATCHED_RECENT_NS
        self.unwatched = tuple(hole for hole in header.unwatched if hole[1] <= since_ns)
        self._times_ns = [position.time_ns] * len(TOPICS)
        for number in range(len(TOPICS)):
            if self.mask >> number & 1:
                self._held.append(_Held(number, header._replace(first=seqs[number] + 1, seqs=None), b""))

    @property
    def held(self) -> bool:
        """Whether a message waits for `release`."""
        return bool(self._held)

    @property
    def position(self) -> tuple[int, list[int], int | None]:
        """(stream, by topic the number that comes next, time of the last message) behind the events returned so far."""
        following = [1 if last is None else last + 1 for last in self.last]
        for number, run in (*self._open, *self._aside):
            if run:
                following[number] = min(following[number], run[0]["seq"])
        for note in self._notes:
            if note.get("topic") is not None:
                number = TOPICS.index(note["topic"])
                following[number] = min(following[number], note["first"])
        return self.stream or 0, following, max((time_ns for time_ns in self._times_ns if time_ns), default=None)

    def skip_to(self, seqs: Sequence[int]) -> None:
        """Count all events up to these numbers (by topic) as seen, because a snapshot contains them."""
        for number, seq in enumerate(seqs[: len(TOPICS)]):
            self.last[number] = max(self.last[number] or 0, seq)
            self._floor[number] = max(self._floor[number], seq)
        before = sum(len(events) for _, events in self._open)
        self._open = [
            (number, [event for event in events if event["seq"] > self._floor[number]]) for number, events in self._open
        ]
        self.listed += before - sum(len(events) for _, events in self._open)

    def feed(self, topic: bytes, header_bytes: bytes, body: bytes) -> list[Fields]:
        """Process one message.

        Args:
            topic: first frame of the message.
            header_bytes: second frame.
            body: third frame.

        Returns:
            The events that are ready, in order: often those of a whole group, or none yet.

        Raises:
            StreamVersionError: the publisher uses another major version of the stream.
        """
        number = self._topics.get(topic)
        if number is None:
            return []  # a topic of a later minor version, or a late answer to a welcome
        try:
            header = Header.parse(header_bytes)
        except StreamVersionError:
            raise
        except FrameError:
            self.refused += 1
            return []
        if self._only and not header.count:
            self.ignored = 0 if self._only in header.only else self.ignored + 1
        if self._only and not self.mask >> number & 1:
            return []  # subscribed to only for its heartbeats
        events = self._wanted(number, header, body)
        if events is None:
            return []
        if not self._recovers:
            return self._begin_group(header) + self._accept(number, header, events, body)
        if self._shows_gap(number, header):
            # The journal may have what is missing in the open group, and what comes before it.
            self._aside, self._aside_group, self._open = self._open, self._group, []
            self._held.append(_Held(number, header, body, events))
            return []
        return self._begin_group(header) + self._accept(number, header, events, body, is_gapless=True)

    def feed_recorded(self, number: int, header_bytes: bytes, body: bytes, *, is_whole: bool) -> list[Fields]:
        """Process one message from the journal, while a message is held.

        Args:
            number: of its topic.
            header_bytes: its header.
            body: its body.
            is_whole: the journal was read without a gap up to this message.

        Returns:
            The events that are ready and were not received before.
        """
        if not self.mask >> number & 1:
            return []
        try:
            header = Header.parse(header_bytes)
        except FrameError:  # the journal is older than an upgrade, or damaged
            self.refused += 1
            return []
        last = self.last[number] if header.stream == self.stream else None
        if last is not None and header.first + header.count - 1 <= last and header.unwatched in ((), self.unwatched):
            return []
        events = self._wanted(number, header, body)
        if events is None:
            return []
        if last is not None and header.first <= last:
            events = [event for event in events if event["seq"] > last]
        self.recovered += len(events)
        ready: list[Fields] = []
        if self._aside and self._is_behind_aside(header):
            ready = self._take_aside()
        ready += self._begin_group(header)
        return ready + self._accept(number, header, events, body, is_whole=is_whole)

    def _is_behind_aside(self, header: Header) -> bool:
        """Whether a message is of the group that was open when a message was held, or of a later one."""
        group = self._aside_group
        return group is None or header.stream != group[0] or (header.writer, header.group) >= group[1:]

    def _take_aside(self) -> list[Fields]:
        """Return the events of the open group, and continue the one that was open when a message was held."""
        ready = self.flush()
        self._open, self._aside, self._group = self._aside, [], self._aside_group
        return ready

    def close_groups(self) -> list[Fields]:
        """Return the events of all open groups: a stream ends, or the journal."""
        return self.flush() + (self._take_aside() + self.flush() if self._aside else [])

    def _begin_group(self, header: Header) -> list[Fields]:
        """Return the events of the group before, if the message begins another one."""
        group = (header.stream, header.writer, header.group)
        ready = self.flush() if group != self._group else []
        self._group = group
        return ready

    def before_held(self, block: Block, messages: Sequence[Recorded]) -> Sequence[Recorded] | None:
        """Return the messages of a block of the journal that were sent before the first held message.

        Returns:
            None if there are none, and none in later blocks either.
        """
        held = self._held[0].header
        if block.stream != held.stream:
            # Behind a block of the held message's stream there are only later streams.
            return messages if held.stream != self.stream else None
        if (block.writer, block.group) < (held.writer, held.group):
            return messages
        if block.stream != self.stream and not any(message.body for message in messages):
            # The heartbeats with which a stream begins have the group of its first events, and come before them.
            return messages
        if not held.count or (block.writer, block.group) != (held.writer, held.group):
            return None  # a heartbeat has the group that begins next
        following = held.rest | 1 << self._held[0].number
        return [each for each in messages if not (each.body and following >> each.topic & 1)] or None

    def _shows_gap(self, number: int, header: Header) -> bool:
        last = self.last[number]
        if (
            header.stream != self.stream
            or (last is not None and _covered_from(header) > last + 1)
            or (self._rest and self._lacks_rest(number, header))
        ):
            return True
        following = header.next
        if following is None:
            return False
        seen = self._seen
        if following[:number] != seen[:number] or following[number + 1 :] != seen[number + 1 :]:
            if self._lost_before(number, header):
                return True
            if self.is_narrow:
                return False  # the numbers of the filter's messages are not those of others
        self._seen = following
        return False

    def _lacks_rest(self, number: int, header: Header) -> bool:
        """Whether a message was to come before this one: by `rest` of the message before, it belonged to its group."""
        if (header.stream, header.writer, header.group) != self._group:
            return True
        return self._rest & ~(header.rest | 1 << number) != 0

    def _lost_before(self, number: int, header: Header) -> list[int]:
        """Return the other topics of which an event is missing that was sent before a message."""
        found = [
            topic
            for topic, (last, following) in enumerate(zip(self.last, header.next or (), strict=False))
            if last is not None and following > last + 1
        ]
        if not found:
            return found
        mask = self.mask & ~(1 << number | self._unsaid(header))
        return [topic for topic in found if mask >> topic & 1]

    def release(self) -> list[Fields]:
        """Process the held messages; what is still missing before them is missed."""
        ready = self._take_aside() if self._aside else []
        while self._held:
            held = self._held.popleft()
            ready += self._begin_group(held.header)
            ready += self._accept(held.number, held.header, held.events, held.body)
        return ready

    def _accept(
        self,
        number: int,
        header: Header,
        events: list[Fields],
        body: bytes,
        *,
        is_whole: bool = False,
        is_gapless: bool = False,
    ) -> list[Fields]:
        ready: list[Fields] = []
        if header.stream != self.stream:
            # If the journal had the whole former stream, only the time without a daemon is missing.
            self._begin_stream(header, is_quiet=is_whole and bool(self._news(header)))
        elif header.writer != self.writer:
            self._take_over(header)
        if header.unwatched and header.unwatched != self.unwatched:
            self.stale |= self._report_unwatched(header)
        self.ended = header.end
        self._number(number, header, events)
        if header.next is not None and not is_gapless:
            for topic in self._lost_before(number, header):
                self._miss(topic, (self.last[topic] or 0) + 1, header.next[topic] - 1, header.time_ns)
                self.last[topic] = header.next[topic] - 1
        self._times_ns[number] = header.time_ns
        if header.count:
            self._keep(number, header, body)
        rest = header.rest & self.mask
        self._rest = rest and rest & ~self._unsaid(header)
        if not rest:
            ready += self.flush()
        return ready

    def _unsaid(self, header: Header) -> int:
        """Return the topics that a message does not cover, because this subscriber gets only some of their events."""
        return _PROCESS_MASK if self.is_narrow and header.since is None else 0

    def _wanted(self, number: int, header: Header, body: bytes) -> list[Fields] | None:
        """Return the events of a body, none if it is skipped; None: it is malformed, and counted."""
        if not header.count:
            return []
        if self._skips is not None and number in _PROCESSES and self._skips(body):
            self.skipped += header.count
            return []
        events = self._decoded(header, body)
        if events is None:
            self.refused += 1
        return events

    def _decoded(self, header: Header, body: bytes) -> list[Fields] | None:
        """Return the events of a body; None: it is malformed."""
        try:
            events = unpack_events(self._decoder, body, header.count)
        except FrameError:
            return None
        return events if are_kinds(events) else None

    def flush(self) -> list[Fields]:
        """Return the events of an incomplete group. Its other messages will not arrive."""
        events = self.take_notes()
        if len(self._open) == 1:
            events += self._open[0][1]
        elif self._open:
            # Each run is sorted, so this sort only merges them.
            merged = [event for _, run in self._open for event in run]
            merged.sort(key=_ORDER)
            events += merged
        self._open.clear()
        return events

    def take_notes(self) -> list[Fields]:
        """Return the "missed" and "unwatched" events that wait for the end of their group, and forget them.

        The owner calls this before it clears `stale`. Otherwise a gap would be reported after what repairs it.
        """
        notes, self._notes = self._notes, []
        return notes

    def _number(self, number: int, header: Header, events: list[Fields]) -> None:
        last = self.last[number]
        first = header.first
        covered = _covered_from(header)
        if last is None:  # the first message of a topic without a number from a welcome
            last = max(covered - 1, 0)
        if covered > last + 1:
            self._miss(number, last + 1, covered - 1, header.time_ns)
        if events and (first <= last or number in self._repeatable):
            events = self._new_ones(number, last, events)
        self.last[number] = max(last, first + header.count - 1)
        if events:
            self._open.append((number, events))

    def _new_ones(self, number: int, last: int, events: list[Fields]) -> list[Fields]:
        floor = self._floor[number]
        repeatable = self._repeatable.get(number)
        fresh = []
        for event in events:
            seq = event["seq"]
            if seq <= floor:
                self.listed += 1
                continue
            if repeatable is None:
                is_repeat = seq <= last
            elif _identity(event) in repeatable.identities:
                repeatable.identities.discard(_identity(event))
                is_repeat = True
            else:
                # With a filter, the numbers of the events in between are not known.
                is_repeat = seq <= last and seq not in repeatable.seqs and not self._only
            if is_repeat:
                self.repeats += 1
            else:
                fresh.append(event)
        if repeatable is not None:
            at = events[-1]["seq"]
            # All repeats have arrived, or the remaining records were committed and are not repeated.
            if at >= repeatable.last and (not repeatable.identities or at > repeatable.last + REPEAT_WINDOW_EVENTS):
                del self._repeatable[number]
        return fresh

    def _miss(self, number: int, first: int, last: int, time_ns: int) -> None:
        topic = TOPICS[number]
        self.missed[topic] += last - first + 1
        self.stale = True
        self._notes.append(
            missed_event(
                topic=topic, first=first, last=last, time_ns=time_ns, reason="gap", from_ns=self._times_ns[number]
            )
        )

    def _report_unwatched(self, header: Header, since_ns: int = 0) -> bool:
        """Queue an event for each new unwatched period that ended after `since_ns`; return whether there is one.

        Periods are known by their lengths. If the clock was set, the next daemon shows the same periods moved.
        """
        new = [hole for hole in self._news(header) if hole[1] > since_ns]
        self.unwatched = header.unwatched
        self._notes += [unwatched_event(from_ns=begin, to_ns=end, time_ns=header.time_ns) for begin, end in new]
        return bool(new)

    def _news(self, header: Header) -> list[tuple[int, int]]:
        known = {end - begin for begin, end in self.unwatched}
        return [(begin, end) for begin, end in header.unwatched if end - begin not in known]

    def _begin_stream(self, header: Header, *, is_quiet: bool) -> None:
        is_first = self.stream is None
        from_ns = max((time_ns for time_ns in self._times_ns if time_ns), default=None)
        self._reset(header)
        if is_quiet:
            self.stale = True
        elif not is_first:
            self.stale = True
            self._notes.append(
                missed_event(
                    topic=None, first=None, last=None, time_ns=header.time_ns, reason="restart", from_ns=from_ns
                )
            )

    def _reset(self, header: Header) -> None:
        self.stream = header.stream
        self.writer = header.writer
        self.ended = False
        self.last = [None] * len(TOPICS)
        self._floor = [0] * len(TOPICS)
        self._repeatable = {}
        self._rest = 0
        self._seen = ()
        self._forget()

    def _take_over(self, header: Header) -> None:
        self.writer = header.writer
        self._repeatable = {}
        for number, old, body in self._window:
            known = self._repeatable.setdefault(number, _Repeatable(self.last[number] or 0))
            for event in self._decoded(old, body) or ():  # a body that was skipped can be malformed
                known.seqs.add(event["seq"])
                known.identities.add(_identity(event))
        self._forget()

    def _keep(self, number: int, header: Header, body: bytes) -> None:
        if header.step != self._step:
            self._forget()
            self._step = header.step
        self._window.append((number, header, body))
        self._window_bytes += len(body)
        while self._window_bytes > REPEAT_WINDOW_BYTES:
            self._window_bytes -= len(self._window.popleft()[2])

    def _forget(self) -> None:
        self._window.clear()
        self._window_bytes = 0
        self._step = -1


class _Held:
    """A message that waits until what is missing before it has been read from the journal."""

    __slots__ = ("body", "events", "header", "number")

    def __init__(self, number: int, header: Header, body: bytes, events: list[Fields] | None = None) -> None:
        self.number, self.header, self.body, self.events = number, header, body, events or []


class _Repeatable:
    """Events of one topic in the previous writer's last step, and the last number received from it."""

    __slots__ = ("identities", "last", "seqs")

    def __init__(self, last: int) -> None:
        self.last = last
        self.seqs: set[int] = set()
        self.identities: set[tuple[object, ...]] = set()


def _covered_from(header: Header) -> int:
    """Return the first number that a message covers."""
    return header.first if header.since is None else header.since


def _identity(event: Fields) -> tuple[object, ...]:
    found = event["event"], event.get("entity_id"), event.get("time_ns")
    # A publisher may send lists and maps in any field, and these cannot be in a set.
    return found if type(found[1]) in _PLAIN and type(found[2]) in _PLAIN else (repr(found),)
