"""Message format of the public stream: topics, header, body.

`tracker` handles order, gaps and repeats; `stream_reader` handles the socket. A message has three frames:

1. the topic (``proc.exec``), by which ZeroMQ filters
2. the header, one msgpack map
3. the body, `count` msgpack maps, one for each event, one after the other

The keys of the header are declared in `pipeline.bus.stream.declared`; docs/wire-schema.md has them as a table. A reader
ignores unknown keys. A sender omits optional keys that have no information.

Sequence numbers count the events of a topic from 1, with or without subscribers. Heartbeats are sent on every topic
that has a subscriber. A reader therefore notices if the last events were lost, and a filter causes no false gap.

**Groups.** Sending one message for each event would cost more than making the event, and forks, execs and exits
alternate. A group therefore contains at most one message of each topic. The field `order` of every event counts the
events of all topics, so a reader sorts the events of a group by it. ``rest`` shows when a group is complete, and
``next`` shows at the first message after a loss what was lost, also of other topics.

**Filters.** A subscriber that wants few events can let the publisher select them: `pipeline.bus.stream.narrowing`.

**Text** is msgpack str if it is UTF-8, otherwise bin. A body uses bin for nothing else and has no extension types.

**Welcome.** A subscription takes effect only when it reaches the publisher. A reader therefore subscribes to its topics
and then to ``sys.welcome.`` followed by a random word. The publisher answers on exactly that topic, with `seqs`. It
handles the subscriptions of a peer in order, so the reader receives every event with a higher number than these.

Source of the conditions: zmq_setsockopt(3) of libzmq 4.3.5; RFC 29/PUBSUB of ZeroMQ.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, NoReturn

import msgpack

from pipeline.bus.stream._decoder import Decoder
from pipeline.bus.stream.declared import HEADER_KEYS
from pipeline.errors import ConfigError, FrameError
from pipeline.shm.layout.declared import STREAM_VERSION
from pipeline.shm.layout.declared import TOPICS as TOPICS

MAJOR, MINOR = STREAM_VERSION

#: Topics as they are sent, and their numbers in `seqs` and in a topic mask.
TOPIC_BYTES = tuple(topic.encode() for topic in TOPICS)
TOPIC_NUMBERS = {topic: number for number, topic in enumerate(TOPIC_BYTES)}
#: Topics of a subscriber that names none: all except the statistics, which are sent even if nothing happens.
DEFAULT_TOPICS = ("proc.", "sys.loss")

WELCOME_PREFIX = b"sys.welcome."
WELCOME_WORD_MAX_BYTES = 32

#: Larger than any message of this version: a body ends after 64 KiB plus at most one event of a few hundred KiB.
MESSAGE_MAX_BYTES = 16 << 20

#: An event as the codec handles it; `pipeline.bus.stream.event_dict.Event` is its type for subscribers.
Fields = dict[str, Any]

_U64 = (1 << 64) - 1
#: The largest value of each number that every header has.
_NUMBERS = {key.name: (1 << key.bits) - 1 for key in HEADER_KEYS if key.bits}


class Message:
    """One body for the publisher, and the fields of its header that the encoder knows.

    Args:
        topic: position in `TOPICS`.
        first: number of the first event.
        count: of the events.
        body: bytes-like.
        rest: topic mask; 0: this is the last message of its group.
        filters: mask of the filters that one of the events has passed.
    """

    __slots__ = ("body", "count", "filters", "first", "rest", "topic")

    def __init__(self, topic: int, first: int, count: int, body: Any, rest: int, filters: int = 0) -> None:
        self.topic, self.first, self.count, self.body = topic, first, count, body
        self.rest, self.filters = rest, filters


class StreamVersionError(FrameError):
    """The publisher uses another major version of the stream, ``found``. Upgrade the older side."""

    def __init__(self, message: str, *, found: int) -> None:
        super().__init__(message, reason="stream version")
        self.found = found


class Header(NamedTuple):
    """The second frame of a message; `pipeline.bus.stream.declared` has its keys."""

    host: str
    boot: bytes
    epoch: int
    stream: int
    writer: int
    step: int
    group: int
    rest: int
    first: int
    count: int  # type: ignore[assignment]  # hides the method of tuples
    time_ns: int
    watermark_ns: int
    seqs: tuple[int, ...] | None = None
    end: bool = False
    unwatched: tuple[tuple[int, int], ...] = ()
    since: int | None = None
    only: tuple[bytes, ...] = ()
    next: tuple[int, ...] | None = None
    major: int = MAJOR
    minor: int = MINOR

    def pack(self) -> bytes:
        """Return the header as msgpack."""
        fields: dict[str, Any] = {
            "major": self.major,
            "minor": self.minor,
            "host": self.host,
            "boot": self.boot,
            "epoch": self.epoch,
            "stream": self.stream,
            "writer": self.writer,
            "step": self.step,
            "group": self.group,
            "rest": self.rest,
            "first": self.first,
            "count": self.count,
            "time_ns": self.time_ns,
            "watermark_ns": self.watermark_ns,
        }
        if self.seqs is not None:
            fields["seqs"] = self.seqs
        if self.end:
            fields["end"] = True
        if self.unwatched:
            fields["unwatched"] = self.unwatched
        if self.since is not None:
            fields["since"] = self.since
        if self.only:
            fields["only"] = self.only
        if self.next is not None:
            fields["next"] = self.next
        return msgpack.packb(fields)

    @classmethod
    def parse(cls, data: bytes) -> Header:
        """Read and check a header.

        Raises:
            StreamVersionError: the header has another major version than this module.
            FrameError: the bytes are not a valid header.
        """
        fields = _unpack(data)
        if type(fields) is not dict:
            _refuse("the header is not a map")
        _check_major(fields.get("major"))
        known = _numbers(fields)
        host, boot, seqs = fields.get("host"), fields.get("boot"), fields.get("seqs")
        if type(host) is not str or type(boot) is not bytes or len(boot) != 16:
            _refuse("host or boot id of the header is missing or malformed")
        if seqs is not None and (
            type(seqs) is not list or any(type(seq) is not int or not 0 <= seq < _U64 for seq in seqs)
        ):
            _refuse("seqs of the header is not a list of numbers")
        unwatched = fields.get("unwatched", [])
        if type(unwatched) is not list or any(
            type(hole) is not list or [type(time_ns) for time_ns in hole] != [int, int] for hole in unwatched
        ):
            _refuse("unwatched of the header is not a list of pairs of times")
        since, only = fields.get("since"), fields.get("only", [])
        if since is not None and (type(since) is not int or not 0 <= since <= known["first"]):
            _refuse("since of the header is not a number up to that of the first event")
        if type(only) is not list or any(type(text) is not bytes for text in only):
            _refuse("only of the header is not a list of filters")
        following = fields.get("next")
        if following is not None and (
            type(following) is not list
            or [*map(type, following)].count(int) != len(following)
            or not 0 <= min(following, default=0) <= max(following, default=0) <= _U64
        ):
            _refuse("next of the header is not a list of numbers")
        return cls(
            host=host,
            boot=boot,
            seqs=None if seqs is None else tuple(seqs),
            end=fields.get("end") is True,
            unwatched=tuple((begin, end) for begin, end in unwatched),
            since=since,
            only=tuple(only),
            next=None if following is None else tuple(following),
            **known,
        )


def _check_major(major: object) -> None:
    if type(major) is not int:
        _refuse("the header has no major version")
    if major != MAJOR:
        older = "this subscriber" if major > MAJOR else "the instance"
        raise StreamVersionError(
            f"the instance publishes version {major} of the stream, but this subscriber reads version {MAJOR}: "
            f"upgrade procline for {older}",
            found=major,
        )


def _numbers(fields: Fields) -> dict[str, Any]:
    """Return the numbers that every header has, if all of them are in range."""
    known: dict[str, Any] = {"major": MAJOR}
    for key, largest in _NUMBERS.items():
        value = fields.get(key)
        if type(value) is not int or not 0 <= value <= largest:
            _refuse(f"{key} of the header is missing or not a number in range")
        known[key] = value
    # Numbers begin at 1, and the number behind the last event also has 64 bits.
    if known["count"] and not 1 <= known["first"] <= _U64 - known["count"]:
        _refuse("the numbers of the events are out of range")
    for key in ("time_ns", "watermark_ns"):
        known[key] = fields.get(key)
        if type(known[key]) is not int:
            _refuse(f"{key} of the header is missing or not a number")
    return known


def _refuse(reason: str) -> NoReturn:
    raise FrameError(f"message of the stream rejected: {reason}", peer="stream", reason=reason)


def _unpack(data: bytes) -> Any:
    # msgpack limits inner lengths to the length of `data`, and nesting to its own stack.
    try:
        return msgpack.unpackb(data, raw=False, strict_map_key=True)
    except (ValueError, TypeError, RecursionError, OverflowError, msgpack.UnpackException) as error:
        _refuse(f"not msgpack ({error or type(error).__name__})")


def pack_events(events: Iterable[Fields]) -> bytes:
    """Return a body with these events; strings with surrogate escapes become bin.

    Use this for rare events only. `pipeline.resolver.stream._encoder` encodes the events of processes.
    """
    return b"".join(msgpack.packb(wire(event)) for event in events)


def unpack_events(decoder: Decoder, body: bytes, count: int) -> list[Fields]:
    """Decode a body of `count` events; text that is not UTF-8 gets surrogate escapes.

    Raises:
        FrameError: the body is not `count` events with the fields `seq` and `order`.
    """
    try:
        return decoder.decode(body, count)
    except ValueError as error:
        _refuse(f"the body: {error}")


def wire(value: Any) -> Any:
    """Convert text in a value to the stream's form: bytes if it is not UTF-8, and backslash escapes in keys."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return value.encode("utf-8", "surrogateescape")
    if isinstance(value, dict):
        return {key.encode("utf-8", "backslashreplace").decode(): wire(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [wire(item) for item in value]
    return value


def prefix_mask(*prefixes: bytes) -> int:
    """Return the mask of the topics that match a subscription to one of `prefixes`."""
    return sum(1 << number for number, topic in enumerate(TOPIC_BYTES) if topic.startswith(prefixes))


def subscription_prefixes(topics: Sequence[str]) -> list[bytes]:
    """Return the ZeroMQ subscriptions for the topics that a user names.

    Args:
        topics: names such as ``proc.exec`` or ``exec``, or families such as ``proc`` or ``proc.``; none:
            `DEFAULT_TOPICS`.

    Raises:
        ConfigError: a name matches no topic.
    """
    prefixes: list[bytes] = []
    for name in topics or DEFAULT_TOPICS:
        matches = [topic for topic in TOPICS if name in (topic, topic.partition(".")[2])]
        if not matches:
            family = name.rstrip(".") + "."
            matches = [family] if any(topic.startswith(family) for topic in TOPICS) else []
        if not matches:
            from pipeline.spelling import did_you_mean  # deferred: only this error needs it

            meant = did_you_mean(name, [*TOPICS, *(topic.partition(".")[2] for topic in TOPICS)])
            guess = f"{meant} Otherwise " if meant else ""
            raise ConfigError(
                f"no topic {name!r}: {guess}use one of {', '.join(TOPICS)}, or a family (proc, sys)",
                key="topics",
                value=name,
            )
        prefixes.append(matches[0].encode())
    return prefixes


def covers(topics: Sequence[str], topic: str) -> bool:
    """Whether a subscriber that names `topics` gets a topic."""
    return any(topic.encode().startswith(prefix) for prefix in subscription_prefixes(topics))


def unwatched_event(*, from_ns: int, to_ns: int, time_ns: int) -> Fields:
    """Return the event for a period in which no daemon watched the host, so that events are missing.

    Args:
        from_ns: begin of the period, ns (unix).
        to_ns: end of the period, ns (unix).
        time_ns: time of the publisher's message that reported it, ns (unix).
    """
    return {
        "event": "unwatched",
        "unwatched_from_ns": from_ns,
        "unwatched_to_ns": to_ns,
        "seq": None,
        "time_ns": time_ns,
    }


def missed_event(
    *, topic: str | None, first: int | None, last: int | None, time_ns: int, reason: str, from_ns: int | None = None
) -> Fields:
    """Return the event that replaces lost events.

    Args:
        topic: topic of the lost events; None: every topic, because a new stream began.
        first: first missing number; None: unknown.
        last: last missing number; None: unknown.
        time_ns: time of the publisher's message that showed the loss, ns (unix).
        reason: ``"gap"`` or ``"restart"``.
        from_ns: time of the publisher's last message before the loss, ns (unix); None: unknown.
    """
    return {
        "event": "missed",
        "topic": topic,
        "first": first,
        "last": last,
        "count": None if first is None or last is None else last - first + 1,
        "reason": reason,
        "from_ns": from_ns,
        "to_ns": time_ns,
        "seq": None,
        "time_ns": time_ns,
    }
