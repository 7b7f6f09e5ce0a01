"""Filters that the publisher evaluates: a subscription that names a property of processes besides a topic.

``only|KIND|VALUE|...|TOPIC`` asks for the events of the topics that begin with TOPIC, of processes for which one of the
values holds. Values are bytes without ``|``:

    KIND        a value holds if it
    user        is the number or the name of the user or of the effective user
    container   is the id of the container, or begins it
    cgroup      is a part of the path of the cgroup, or if that path contains a backslash
    path        is a part of the path of the executable or of the script
    name        is a part of one of these, of the name (comm), or of an argument
    arg         is a part of an argument

The publisher answers on the topic ``only|KIND|VALUE|...|TOPIC``, with the whole name of the topic. Messages have the
numbers of the topic, and may contain events that do not match: the encoder omits most of those, not all. `Header.since`
says which numbers had no match. Each welcome and heartbeat lists the filters in use (`Header.only`), so a subscriber
sees whether its own is among them; otherwise it must subscribe to the topic itself.

The number of filters is limited. One filter usually costs the resolver 0.1 us for each event of its topics. All of them
together cost at most some microseconds, about as much as a subscriber to all events. That holds for any values and
texts, because the resolver searches a bounded number of bytes for each event, and passes the event to the filters that
remain.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pipeline.bus.stream.declared import FILTER_VALUES_MAX, SUBSCRIPTION_MAX_BYTES

PREFIX = b"only|"
#: In this order a kind is preferred if several could be used: the one that usually matches fewest processes is first.
KINDS = (b"container", b"cgroup", b"path", b"arg", b"name", b"user")
#: A subscription ends with one of the topics that are about processes.
_TOPIC_BYTES = len(b"|proc.reparent")
#: A value that was shortened to fewer bytes than this would match too much.
_SHORTENED_MIN_BYTES = 4
_SEPARATOR = b"|"


class Filter(NamedTuple):
    """A filter without its topics."""

    kind: bytes
    values: tuple[bytes, ...]

    @property
    def text(self) -> bytes:
        """As it begins a subscription and the topic of a message."""
        return PREFIX + _SEPARATOR.join((self.kind, *self.values))


def make_filter(kind: bytes, values: Sequence[bytes]) -> Filter | None:
    """Return a filter that at least every process passes for which one of the values holds.

    Values are shortened if they are too long, if a part of them is enough.

    Returns:
        None if no filter has these values: there are too many, or they are too long.
    """
    values = tuple(dict.fromkeys(values))
    if not 0 < len(values) <= FILTER_VALUES_MAX or any(not each or _SEPARATOR in each for each in values):
        return None
    room = SUBSCRIPTION_MAX_BYTES - len(PREFIX) - len(kind) - _TOPIC_BYTES - len(values)
    if sum(map(len, values)) > room:
        length = room // len(values)
        if kind == b"user" or length < _SHORTENED_MIN_BYTES:
            return None
        # The end of a path says more than its beginning.
        values = tuple(each[:length] if kind == b"container" else each[-length:] for each in values)
    return Filter(kind, values)


def subscription(asked: Filter, topic_prefix: bytes) -> bytes:
    """Return the subscription to the events of a filter."""
    return asked.text + _SEPARATOR + topic_prefix


def parse_subscription(prefix: bytes) -> tuple[Filter, bytes] | None:
    """Return the filter of a subscription and the prefix of its topics; None: it is malformed."""
    parts = prefix.split(_SEPARATOR)
    if len(prefix) > SUBSCRIPTION_MAX_BYTES or not 4 <= len(parts) <= FILTER_VALUES_MAX + 3 or not all(parts):
        return None
    if parts[0] + _SEPARATOR != PREFIX or parts[1] not in KINDS or not parts[-1].startswith(b"proc."):
        return None
    return Filter(parts[1], tuple(parts[2:-1])), parts[-1]
