"""The public stream on the wire: topics, header, body. Order, gaps and repeats are `tracker`'s, sockets `subscriber`'s.

A message has three frames. The first is the topic (``proc.exec``), so that ZeroMQ filters on it. The second is the
header, one msgpack map. The third is the body: `count` msgpack maps, one after the other, one for each event.

HEADER; keys that a reader does not know are ignored, optional ones are left out where they say nothing:

    key           type    unit       meaning
    major         uint    -          a reader refuses another one than its own
    minor         uint    -          fields were added; nothing was taken away or changed its type
    host          str     -          name of the publishing host
    boot          bin 16  -          its kernel boot id
    epoch         uint    -          epoch of the tables that the events were applied to
    stream        uint    -          names the space of sequence numbers: another value, and they began anew
    writer        uint    -          take-overs so far: a new writer may repeat what the last one did not commit
    step          uint    -          one step is published before the one before it is committed, never two
    group         uint    -          messages of one group belong together, see below
    rest          uint    topic mask topics of which a message of this group is still to come
    first         uint    -          sequence number of the first event; with count 0: the number that is next
    count         uint    events     in the body; 0 is a heartbeat
    time_ns       int     ns (unix)  when it was sent
    watermark_ns  int     ns (unix)  events before it have been published; 0 unknown
    seqs          array   -          optional: last number of each topic, by position in `TOPICS`; in a welcome
    end           bool    -          optional: the publisher ends on purpose, nothing follows from it
    unwatched     array   ns (unix)  optional, since 1.1, in heartbeats and welcomes: [from, to] of each of the last
                                     times in which no daemon watched this host, oldest first

Sequence numbers count the events of a topic from 1, whether anybody listens or not. A heartbeat comes on every topic
that has a subscriber, so a lost tail is noticed and a filter makes no false gap.

**Groups.** To send one message for each event costs more than to make the event, and forks, execs and exits alternate.
So a group holds up to one message of each topic, and `order`, a field of every event, says how they interleave: it
counts the events of all topics. A reader sorts a group by it; ``rest`` tells when its group is complete.

**Text** is msgpack str where it is UTF-8, and bin where the kernel's bytes are not. There is no other use of bin in a
body, and no extension type.

**Welcome.** A subscription reaches the publisher some time after it was made. A reader subscribes to what it wants and
then to ``sys.welcome.`` and a word of its own; the publisher answers on exactly that topic, with `seqs`. Subscriptions
of one peer are handled in order, so from then on every event above these numbers comes.

Source of the conditions: zmq_setsockopt(3) of libzmq 4.3.5; RFC 29/PUBSUB of ZeroMQ.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import msgpack

from pipeline.bus.stream._decoder import Decoder
from pipeline.errors import ConfigError, FrameError

MAJOR = 1
MINOR = 1

#: Topics by number: the positions in `seqs` and in a topic mask.
TOPICS = (
    "proc.fork", "proc.exec", "proc.exit", "proc.cred", "proc.context", "proc.reparent", "sys.loss", "sys.stats",
)  # fmt: skip
TOPIC_BYTES = tuple(topic.encode() for topic in TOPICS)
TOPIC_NUMBERS = {topic: number for number, topic in enumerate(TOPIC_BYTES)}
#: What a subscriber gets that names no topic: all but the statistics, which come whether something happens or not.
DEFAULT_TOPICS = ("proc.", "sys.loss")

WELCOME_PREFIX = b"sys.welcome."
WELCOME_WORD_MAX_BYTES = 32

#: More than any message of this version: a body is closed at 64 KiB, and the longest event adds a few hundred more.
MESSAGE_MAX_BYTES = 16 << 20

Event = dict[str, Any]

_U32 = (1 << 32) - 1
_U64 = (1 << 64) - 1
_NUMBERS = {
    "minor": _U32, "epoch": _U32, "stream": _U64, "writer": _U32, "step": _U64, "group": _U64, "rest": _U32,
    "first": _U64, "count": _U32,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Message:
    """What an encoder hands to the publisher: one body, and what its header has to say of it."""

    topic: int  #: position in `TOPICS`
    first: int
    count: int
    body: Any  #: bytes-like
    rest: int  #: 0 ends a group


class StreamVersionError(FrameError):
    """The publisher speaks another major version; upgrade the older side. `found` is what it speaks."""

    def __init__(self, message: str, *, found: int) -> None:
        super().__init__(message, reason="stream version")
        self.found = found


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The second frame of a message; the table is in this module's docstring."""

    host: str
    boot: bytes
    epoch: int
    stream: int
    writer: int
    step: int
    group: int
    rest: int
    first: int
    count: int
    time_ns: int
    watermark_ns: int
    seqs: tuple[int, ...] | None = None
    end: bool = False
    unwatched: tuple[tuple[int, int], ...] = ()
    major: int = MAJOR
    minor: int = MINOR

    def pack(self) -> bytes:
        """Return the header as it is sent."""
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
        return msgpack.packb(fields)

    @classmethod
    def parse(cls, data: bytes) -> Header:
        """Read and check a header.

        Raises:
            StreamVersionError: another major version than this module's.
            FrameError: it is no header.
        """
        fields = _unpack(data)
        if type(fields) is not dict:
            _refuse("the header is not a map")
        major = fields.get("major")
        if type(major) is not int:
            _refuse("the header has no major version")
        if major != MAJOR:
            older = "this subscriber" if major > MAJOR else "the instance"
            raise StreamVersionError(
                f"the instance publishes version {major} of the stream and this subscriber reads version {MAJOR}: "
                f"upgrade procline on the side of {older}",
                found=major,
            )
        known: dict[str, Any] = {"major": MAJOR}
        for key, largest in _NUMBERS.items():
            value = fields.get(key)
            if type(value) is not int or not 0 <= value <= largest:
                _refuse(f"{key} of the header is missing or not a number in range")
            known[key] = value
        for key in ("time_ns", "watermark_ns"):
            known[key] = fields.get(key)
            if type(known[key]) is not int:
                _refuse(f"{key} of the header is missing or not a number")
        host, boot, seqs = fields.get("host"), fields.get("boot"), fields.get("seqs")
        if type(host) is not str or type(boot) is not bytes or len(boot) != 16:
            _refuse("host or boot id of the header is missing or malformed")
        if seqs is not None and (
            type(seqs) is not list or any(type(seq) is not int or not 0 <= seq <= _U64 for seq in seqs)
        ):
            _refuse("seqs of the header is not a list of numbers")
        unwatched = fields.get("unwatched", [])
        if type(unwatched) is not list or any(
            type(hole) is not list or [type(time_ns) for time_ns in hole] != [int, int] for hole in unwatched
        ):
            _refuse("unwatched of the header is not a list of pairs of times")
        return cls(
            host=host,
            boot=boot,
            seqs=None if seqs is None else tuple(seqs),
            end=fields.get("end") is True,
            unwatched=tuple((begin, end) for begin, end in unwatched),
            **known,
        )


def _refuse(reason: str) -> NoReturn:
    raise FrameError(f"a message of the stream was refused: {reason}", peer="stream", reason=reason)


def _unpack(data: bytes) -> Any:
    # Lengths inside are limited by the length of `data` (msgpack's default), nesting by the unpacker's own stack.
    try:
        return msgpack.unpackb(data, raw=False, strict_map_key=True)
    except (ValueError, TypeError, RecursionError, OverflowError, msgpack.UnpackException) as error:
        _refuse(f"not msgpack ({error or type(error).__name__})")


def pack_events(events: Iterable[Event]) -> bytes:
    """Return a body; strings with surrogate escapes become bin. For what is rare: apply's events are compiled."""
    return b"".join(msgpack.packb(wire(event)) for event in events)


def unpack_events(decoder: Decoder, body: bytes, count: int) -> list[Event]:
    """Read a body of `count` events; what is not UTF-8 has surrogate escapes.

    Raises:
        FrameError: it does not hold `count` events with their fields `seq` and `order`.
    """
    try:
        return decoder.decode(body, count)
    except ValueError as error:
        _refuse(f"the body: {error}")


def wire(value: Any) -> Any:
    """Return a value with the stream's form of text: where that is not UTF-8 it is bin, and in keys it is escaped."""
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


def prefix_mask(prefix: bytes) -> int:
    """Return the mask of the topics that a subscription to `prefix` asks for."""
    return sum(1 << number for number, topic in enumerate(TOPIC_BYTES) if topic.startswith(prefix))


def subscription_prefixes(topics: Sequence[str]) -> list[bytes]:
    """Turn what a user names into subscriptions: ``proc.exec``, ``exec``, ``proc``, ``proc.``; nothing: the default.

    Raises:
        ConfigError: no topic has that name.
    """
    prefixes: list[bytes] = []
    for name in topics or DEFAULT_TOPICS:
        matches = [topic for topic in TOPICS if name in (topic, topic.partition(".")[2])]
        if not matches:
            family = name.rstrip(".") + "."
            matches = [family] if any(topic.startswith(family) for topic in TOPICS) else []
        if not matches:
            raise ConfigError(
                f"no topic {name!r}: there are {', '.join(TOPICS)}, and proc and sys for all of theirs",
                key="topics",
                value=name,
            )
        prefixes.append(matches[0].encode())
    return prefixes


def unwatched_event(*, from_ns: int, to_ns: int, time_ns: int) -> Event:
    """Return what a subscriber gets for a time in which no daemon watched: nobody knows what happened in it.

    Args:
        from_ns, to_ns: the time, ns (unix).
        time_ns: when it was noticed, as the publisher's message says, ns (unix).
    """
    return {
        "event": "unwatched",
        "unwatched_from_ns": from_ns,
        "unwatched_to_ns": to_ns,
        "seq": None,
        "time_ns": time_ns,
    }


def missed_event(*, topic: str | None, first: int | None, last: int | None, time_ns: int, reason: str) -> Event:
    """Return what a subscriber gets in place of events that it lost.

    Args:
        topic: where; None is every topic, when the stream began anew and nobody knows how many there were.
        first, last: the numbers that are missing.
        time_ns: when it was noticed, as the publisher's message says, ns (unix).
        reason: ``"gap"`` or ``"restart"``.
    """
    return {
        "event": "missed",
        "topic": topic,
        "first": first,
        "last": last,
        "count": None if first is None or last is None else last - first + 1,
        "reason": reason,
        "seq": None,
        "time_ns": time_ns,
    }
