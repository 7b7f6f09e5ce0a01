"""Batches: a message carries consecutive events of one topic, or the record of a gap."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgpack
import zstandard

from pipeline.bus.stream.messages import TOPICS, wire

#: Topics by the name of their events; the other names are those of `proc.context`.
_TOPIC_OF = {topic.partition(".")[2]: topic for topic in TOPICS if topic != "proc.context"}
_CONTEXT = "proc.context"

GAP = "gap"
SNAPSHOT = "snapshot"
#: Last parts of subjects.
KINDS = (*(topic.partition(".")[2] for topic in TOPICS), GAP, SNAPSHOT)

ZSTD = "zstd"
#: Larger gains cost much more CPU time.
_ZSTD_LEVEL = 3
#: Events before compression. A server accepts 1 MiB by default, and an event has up to some 100 KiB.
BATCH_MAX_BYTES = 512 << 10
#: More than any batch has; for data that was read from a disk or from a server.
_DATA_MAX_BYTES = 64 << 20


def token(text: str) -> str:
    """Return a name as one part of a subject: other characters than letters, digits, ``_`` and ``-`` become ``_``."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", text)


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive events of one topic, or one gap.

    Attributes:
        kind: last part of the subject, one of `KINDS`.
        boot: boot id, 32 hex digits.
        stream: id of the space of numbers.
        topic: topic of the numbers; empty: every topic.
        first: number of the first event. A snapshot has no numbers: there it is a time in ns plus the place in the
            list. For a gap of every topic see `gap`.
        count: events in `data`; in a gap those that are missing, 0: unknown.
        from_ns: time of the first event, or begin of the gap, ns since the Unix epoch; 0: unknown.
        to_ns: time of the last event, or end of the gap; 0: unknown.
        encoding: `ZSTD`, or empty.
        data: a msgpack array of maps.
    """

    kind: str
    boot: str
    stream: int
    topic: str
    first: int
    count: int
    from_ns: int
    to_ns: int
    encoding: str
    data: bytes

    @property
    def next(self) -> int:
        """The number behind the last one."""
        return self.first + self.count

    @property
    def size(self) -> int:
        """Bytes in memory, about."""
        return len(self.data) + 400

    def pack(self) -> bytes:
        """Return the batch as bytes."""
        packed: bytes = msgpack.packb(dataclasses.astuple(self))
        return packed

    @classmethod
    def unpack(cls, data: bytes) -> Batch:
        """Return the batch that `pack` packed.

        Raises:
            ValueError: it is not a batch.
        """
        fields = msgpack.unpackb(data)
        types = (str, str, int, str, int, int, int, int, str, bytes)
        if type(fields) is not list or tuple(map(type, fields)) != types or fields[0] not in KINDS:
            raise ValueError("not a batch")
        return cls(*fields)

    @property
    def begins(self) -> dict[str, int] | None:
        """Where the numbers of a stream begin, if this is the record of its begin: by topic, 1 where it is missing."""
        if self.topic or self.first:
            return None
        numbers: dict[str, int] = self.events()[0].get("next") or {}
        return numbers

    def events(self) -> list[dict[str, Any]]:
        """Return the maps in `data`."""
        events: list[dict[str, Any]] = msgpack.unpackb(self.plain(), unicode_errors="surrogateescape")
        return events

    def plain(self) -> bytes:
        """Return `data` without compression."""
        if self.encoding != ZSTD:
            return self.data
        return zstandard.ZstdDecompressor().decompress(self.data, max_output_size=_DATA_MAX_BYTES)

    def after(self, number: int) -> Batch:
        """Return the part from `number` on, which is in the batch."""
        return self._part(number - self.first, self.count)

    def halves(self) -> tuple[Batch, Batch]:
        """Return two batches with the same events."""
        middle = self.count // 2
        return self._part(0, middle), self._part(middle, self.count)

    def _part(self, begin: int, end: int) -> Batch:
        if self.kind == GAP:
            return gap(
                self.boot, self.stream, self.topic, self.first + begin, end - begin, self.from_ns, self.to_ns,
                self.events()[0]["reason"],
            )  # fmt: skip
        # The maps are copied as they are, because a second encoder could write them in another way.
        plain = self.plain()
        unpacker = msgpack.Unpacker(max_buffer_size=len(plain))
        unpacker.feed(plain)
        unpacker.read_array_header()
        at = [unpacker.tell()]
        for _ in range(self.count):
            unpacker.skip()
            at.append(unpacker.tell())
        data = _array(end - begin, plain[at[begin] : at[end]])
        encoding = ""
        if self.encoding:
            data, encoding = compressed(data)
        return dataclasses.replace(self, first=self.first + begin, count=end - begin, encoding=encoding, data=data)


def gap(
    boot: str,
    stream: int,
    topic: str,
    first: int,
    count: int,
    from_ns: int,
    to_ns: int,
    reason: str,
    begins: Mapping[str, int] | None = None,
) -> Batch:
    """Return the record of a gap.

    Args:
        boot: see `Batch`.
        stream: see `Batch`.
        topic: see `Batch`.
        first: the first missing number. A gap of every topic has 0 if a stream begins behind it, otherwise its begin.
        count: how many events are missing; 0: unknown.
        from_ns: the last time before the gap, ns since the Unix epoch; 0: unknown.
        to_ns: the first time behind the gap; 0: unknown.
        reason: why the events are missing; docs/forward.md has the reasons.
        begins: by topic, the first number of the stream that is forwarded; 1 where it is missing.
    """
    fields: dict[str, object] = {
        "topic": topic or None,
        "first": first if count else None,
        "count": count or None,
        "from_ns": from_ns or None,
        "to_ns": to_ns or None,
        "reason": reason,
    }
    if begins:
        fields["next"] = dict(begins)
    return Batch(GAP, boot, stream, topic, first, count, from_ns, to_ns, "", msgpack.packb([fields]))


def _array(count: int, maps: bytes) -> bytes:
    header: bytes = msgpack.Packer().pack_array_header(count)
    return header + maps


def compressed(data: bytes) -> tuple[bytes, str]:
    """Return the data and its encoding: compressed, if that is shorter."""
    small = zstandard.ZstdCompressor(_ZSTD_LEVEL).compress(data)
    return (small, ZSTD) if len(small) < len(data) else (data, "")


def topic_of(event: Mapping[str, Any]) -> str:
    """Return the topic that an event arrived on."""
    return _TOPIC_OF.get(event["event"], _CONTEXT)


class _Open:
    """Events of one topic that do not make a batch yet."""

    __slots__ = ("bytes", "first", "from_ns", "maps", "since_s", "to_ns")

    def __init__(self, first: int, since_s: float) -> None:
        self.first = first
        self.since_s = since_s
        self.maps: list[bytes] = []
        self.bytes = 0
        self.from_ns = self.to_ns = 0


class Batcher:
    """Makes batches of events. A batch ends at a number of events or bytes, after a time, or at a missing number."""

    def __init__(
        self,
        put: Callable[[Batch], object],
        *,
        events_max: int,
        wait_s: float,
        is_compressed: bool,
        convert: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
    ) -> None:
        """Begin without events.

        Args:
            put: called with each batch.
            events_max: events in a batch.
            wait_s: how long an event waits for others.
            is_compressed: whether batches are compressed.
            convert: returns the fields that are sent for an event; None: its own.
        """
        self._put = put
        self._events_max = events_max
        self._wait_s = wait_s
        self._is_compressed = is_compressed
        self._convert = convert
        self._pack = msgpack.Packer().pack
        self._open: dict[tuple[str, str], _Open] = {}
        self.boot = ""
        self.stream = 0

    def add(self, event: Mapping[str, Any], now_s: float) -> None:
        """Add an event of a topic, which has a number."""
        topic = topic_of(event)
        self._add(topic.partition(".")[2], topic, event["seq"], event, now_s)

    def add_snapshot(self, event: Mapping[str, Any], number: int, now_s: float) -> None:
        """Add an event about a live process."""
        self._add(SNAPSHOT, SNAPSHOT, number, event, now_s)

    def _add(self, kind: str, topic: str, number: int, event: Mapping[str, Any], now_s: float) -> None:
        fields = event if self._convert is None else self._convert(event)
        try:
            data = self._pack(fields)
        except UnicodeEncodeError:  # text that is not UTF-8
            self._pack = msgpack.Packer().pack
            data = self._pack(wire(fields))
        waiting = self._open.get((kind, topic))
        if waiting is not None and (
            number != waiting.first + len(waiting.maps) or waiting.bytes + len(data) > BATCH_MAX_BYTES
        ):
            self._close(kind, topic)
            waiting = None
        if waiting is None:
            waiting = self._open[kind, topic] = _Open(number, now_s)
            waiting.from_ns = event["time_ns"]
        waiting.to_ns = event["time_ns"]
        waiting.maps.append(data)
        waiting.bytes += len(data)
        if len(waiting.maps) >= self._events_max:
            self._close(kind, topic)

    def left_s(self, now_s: float) -> float | None:
        """Return how long the oldest event may still wait; None: there is none."""
        since = min((waiting.since_s for waiting in self._open.values()), default=None)
        return None if since is None else max(0.0, since + self._wait_s - now_s)

    def close_old(self, now_s: float) -> None:
        """Make batches of what has waited long enough."""
        for (kind, topic), waiting in list(self._open.items()):
            if waiting.since_s + self._wait_s <= now_s:
                self._close(kind, topic)

    def close_all(self) -> None:
        """Make batches of all events."""
        for kind, topic in list(self._open):
            self._close(kind, topic)

    def _close(self, kind: str, topic: str) -> None:
        waiting = self._open.pop((kind, topic))
        count = len(waiting.maps)
        data, encoding = _array(count, b"".join(waiting.maps)), ""
        if self._is_compressed:
            data, encoding = compressed(data)
        self._put(
            Batch(
                kind, self.boot, self.stream, topic, waiting.first, count, waiting.from_ns, waiting.to_ns, encoding,
                data,
            )
        )  # fmt: skip
