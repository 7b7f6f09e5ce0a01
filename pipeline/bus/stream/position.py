"""`StreamPosition`: where a subscriber stands in the stream, so that another one can continue from there.

A program stores `position.as_dict()` together with its results and passes `StreamPosition.from_dict` of it as
``Subscriber(resume=...)`` after a restart.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NoReturn

from pipeline.bus.stream.messages import TOPICS

#: Version of the form of `as_dict`.
_VERSION = 1
_U64 = (1 << 64) - 1


class StreamPosition:
    """The number of the next event of each topic.

    Attributes:
        stream: id of the space of numbers, as in the headers of messages. Another id has other numbers.
        next: by topic, such as ``proc.exec``, the number of the event that comes next.
        time_ns: when the publisher sent the last message before the position, ns since the Unix epoch; None: unknown.
            It is not compared.

    Raises:
        ValueError: a field is impossible; the message says which one.

    Example:
        >>> with Subscriber(topics=["exec"]) as subscriber:
        ...     events = subscriber.read(timeout=5)
        ...     position = subscriber.position
        >>> position.topics
        ('proc.exec',)
        >>> position == StreamPosition.from_dict(position.as_dict())
        True
        >>> Subscriber(topics=["exec"], resume=position).close()
    """

    # Not a dataclass: every subscriber imports this module, and dataclasses make a noticeable part of that.
    __slots__ = ("next", "stream", "time_ns")
    __match_args__ = ("stream", "next", "time_ns")

    stream: int
    next: Mapping[str, int]
    time_ns: int | None

    def __init__(self, stream: int, next: Mapping[str, int], time_ns: int | None = None) -> None:
        if type(stream) is not int or not 0 <= stream <= _U64:
            raise ValueError("a position of the stream: `stream` is not a number of 64 bits")
        if not isinstance(next, Mapping):
            raise ValueError("a position of the stream: `next` is not a map of topics")
        for topic, number in next.items():
            if topic not in TOPICS:
                raise ValueError(f"a position of the stream: `next` has {topic!r}, which is no topic of this version")
            if type(number) is not int or not 1 <= number <= _U64:
                raise ValueError(f"a position of the stream: the number of {topic} is not from 1 to 2^64 - 1")
        if time_ns is not None and (type(time_ns) is not int or not 0 <= time_ns <= _U64):
            raise ValueError("a position of the stream: `time_ns` is not a time")
        object.__setattr__(self, "stream", stream)
        object.__setattr__(self, "next", MappingProxyType(dict(next)))
        object.__setattr__(self, "time_ns", time_ns)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a position of the stream cannot be changed: {name}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a position of the stream cannot be changed: {name}")

    def __repr__(self) -> str:
        return f"StreamPosition(stream={self.stream!r}, next={self.next!r}, time_ns={self.time_ns!r})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, StreamPosition):
            return NotImplemented
        return (self.stream, self.next) == (other.stream, other.next)

    def __hash__(self) -> int:
        return hash((self.stream, frozenset(self.next.items())))

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics that have a number, in the order of their numbers on the wire."""
        return tuple(topic for topic in TOPICS if topic in self.next)

    def as_dict(self) -> dict[str, object]:
        """Return the position as a dict that JSON and msgpack can store."""
        return {"version": _VERSION, "stream": self.stream, "next": dict(self.next), "time_ns": self.time_ns}

    @classmethod
    def from_dict(cls, fields: Mapping[str, object]) -> StreamPosition:
        """Return the position that `as_dict` stored.

        Raises:
            ValueError: the fields are no position of this version; the message says why.
        """
        if not isinstance(fields, Mapping):
            raise ValueError("a position of the stream: not a map")
        if fields.get("version") != _VERSION:
            raise ValueError(f"a position of the stream: `version` is {fields.get('version')!r}, expected {_VERSION}")
        return cls(fields.get("stream"), fields.get("next"), fields.get("time_ns"))  # type: ignore[arg-type]

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.stream, dict(self.next), self.time_ns)
