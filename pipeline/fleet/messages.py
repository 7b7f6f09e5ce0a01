"""A message of `procline forward` as it arrives from JetStream: its headers, checked, and its events."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgpack
import msgspec

from pipeline.errors import FrameError
from pipeline.fleet.schema import Row
from pipeline.forward.batches import GAP, KINDS, SNAPSHOT, token

SUBJECT_PREFIX = "procline"
#: Kinds whose events are stored in files. The other ones only change what is known about the host.
EVENT_KINDS = frozenset(KINDS) - {"loss", "stats", GAP}
#: The largest number of events in a message, and of bytes after decompression. A decoded byte can take 150 bytes of
#: memory, for example an empty map. `procline forward` sends at most 512 KiB and one event.
EVENTS_MAX = 65_536
BYTES_MAX = 4 << 20
#: Times of events, ns since the Unix epoch, end in 2116. So differences and sums of two fit an integer of 64 bits.
TIME_MAX_NS = 1 << 62
_HOST_MAX_CHARACTERS = 255
_HOST = re.compile(r"[A-Za-z0-9_-]{1,255}")
_BOOT = re.compile(r"[0-9a-f]{32}")
_U64 = (1 << 64) - 1
_I64 = (1 << 63) - 1

_rows = msgspec.msgpack.Decoder(list[Row])  # type: ignore[valid-type]


@dataclass(frozen=True, slots=True)
class Envelope:
    """The facts in the subject and the headers of a message.

    Attributes:
        host: the host's name in the subject, which the server's permissions protect.
        name: the host's name as it calls itself.
        kind: one of those of `pipeline.forward.batches`.
        boot: boot id, 32 hex digits.
        stream: id of the stream.
        topic: topic of the stream, such as ``proc.exec``.
        first: number of the first event.
        count: number of events.
        version: version of the stream, such as ``1.5``.
        is_compressed: whether the data are a zstd frame.
    """

    host: str
    name: str
    kind: str
    boot: str
    stream: int
    topic: str
    first: int
    count: int
    version: str
    is_compressed: bool


def envelope_of(subject: str, headers: Mapping[str, str] | None) -> Envelope:
    """Read the subject and the headers of a message.

    Raises:
        FrameError: they are not those of `procline forward`.
    """
    parts = subject.split(".")
    if len(parts) != 3 or parts[0] != SUBJECT_PREFIX or not _HOST.fullmatch(parts[1]):
        raise _error(f"the subject is not {SUBJECT_PREFIX}.HOST.KIND")
    _, host, kind = parts
    if kind not in KINDS:
        raise _error("the kind is unknown")
    found = headers or {}
    boot, name = found.get("Procline-Boot", ""), found.get("Procline-Host", "")
    if not _BOOT.fullmatch(boot):
        raise _error("Procline-Boot is not a boot id")
    if len(name) > _HOST_MAX_CHARACTERS or token(name) != host:
        raise _error("Procline-Host is not the host of the subject")
    topic, version = found.get("Procline-Topic", "")[:64], found.get("Procline-Version", "")[:16]
    if not (topic.isascii() and version.isascii() and _is_text(name)):
        raise _error("a header is not text")
    encoding = found.get("Content-Encoding", "")
    if encoding not in {"", "zstd"}:
        raise _error("Content-Encoding is unknown")
    count = _number(found, "Procline-Count", _I64)
    if kind != GAP and not 0 < count <= EVENTS_MAX:
        raise _error(f"Procline-Count is {count}, not a number from 1 to {EVENTS_MAX}")
    first = _number(found, "Procline-First", _I64)
    if first + count > _I64:
        raise _error(f"Procline-First is {first}: the last event would have a number of more than 63 bits")
    if found.get("Procline-Format", "native") != "native":
        raise _error("the events have names of another schema")
    return Envelope(
        host=host, name=name, kind=kind, boot=boot, stream=_number(found, "Procline-Stream", _U64),
        topic=topic, first=first, count=count, version=version, is_compressed=encoding == "zstd",
    )  # fmt: skip


def rows_of(envelope: Envelope, data: bytes) -> list[Any]:
    """Return the events of a message as `Row` objects.

    Raises:
        FrameError: the data are malformed, or not the events that the headers promise.
    """
    body = _plain(envelope, data)
    if _length(body) != envelope.count:
        raise _error("the number of events is not Procline-Count")
    try:
        rows: list[Any] = _rows.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        rows = _hostile(body)  # text that is not UTF-8, as a rule
    number = envelope.first
    for row in rows:
        # A snapshot has no numbers of its own: those of its message are only there to recognise a repetition.
        if envelope.kind != SNAPSHOT and row.seq != number:
            raise _error("the numbers of the events are not consecutive")
        if row.event is None or row.time_ns is None or not 0 <= row.time_ns <= TIME_MAX_NS:
            raise _error("an event lacks its name, or has no time from 1970 to 2116")
        row.host, row.topic, row.boot, row.stream = envelope.host, envelope.kind, envelope.boot, envelope.stream
        row.seq = number
        number += 1
    return rows


def maps_of(envelope: Envelope, data: bytes) -> list[dict[str, Any]]:
    """Return the events of a message of the kinds `loss`, `stats` and `gap`.

    Raises:
        FrameError: the data are malformed.
    """
    body = _plain(envelope, data)
    # The count of a gap is the number of missing events.
    if _length(body) != (1 if envelope.kind == GAP else envelope.count):
        raise _error("the number of maps is not Procline-Count")
    maps = _unpack(body)
    if type(maps) is not list or not all(type(each) is dict for each in maps):
        raise _error("the data are not an array of maps")
    return maps


def _error(reason: str) -> FrameError:
    return FrameError(f"message rejected: {reason}", peer="JetStream", reason=reason)


def _number(headers: Mapping[str, str], key: str, largest: int) -> int:
    text = headers.get(key, "")
    if not (text.isascii() and text.isdigit() and len(text) <= 20) or int(text) > largest:
        raise _error(f"{key} is not a number from 0 to {largest}")
    return int(text)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _plain(envelope: Envelope, data: bytes) -> bytes:
    if not envelope.is_compressed:
        if len(data) > BYTES_MAX:
            raise _error("the data are too long")
        return data
    import zstandard  # deferred: messages may be sent without compression

    try:
        size = zstandard.frame_content_size(data)
        if not 0 <= size <= BYTES_MAX:
            raise _error("the zstd frame does not say its size, or is too large")
        return zstandard.ZstdDecompressor(max_window_size=1 << 27).decompress(data)
    except zstandard.ZstdError:
        raise _error("the data are not a zstd frame") from None


def _length(body: bytes) -> int:
    """Return the length of the array, before anything of it is decoded."""
    unpacker = msgpack.Unpacker(max_buffer_size=16)
    unpacker.feed(body[:5])
    try:
        length: int = unpacker.read_array_header()
    except (ValueError, msgpack.UnpackException):
        raise _error("the data are not an array") from None
    return length


def _unpack(body: bytes) -> Any:
    try:
        return msgpack.unpackb(body, raw=False, strict_map_key=False, unicode_errors="backslashreplace")
    except (ValueError, TypeError, RecursionError, OverflowError, msgpack.UnpackException):
        raise _error("the data are not msgpack") from None


def _hostile(body: bytes) -> list[Any]:
    r"""Decode events with text that is not UTF-8: such bytes become ``\xNN``."""
    try:
        return msgspec.convert(_text(_unpack(body)), list[Row])  # type: ignore[valid-type]
    except msgspec.MsgspecError as error:
        raise _error(f"an event has a field of another type: {error}") from None  # which one, and its types
    except RecursionError:
        raise _error("an event is nested too deeply") from None


def _text(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(_text(key)): _text(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_text(item) for item in value]
    return value
