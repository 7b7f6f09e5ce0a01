"""Targets that a publisher can send something to: headers, messages, journals, and a whole `Subscriber`."""

from __future__ import annotations

import json
import struct
import types
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import zmq

from pipeline.bus.stream import stream_reader
from pipeline.bus.stream.declared import BLOCK_HEADER_BYTES, BLOCK_MAGIC, JOURNAL_HEADER_BYTES
from pipeline.bus.stream.journal import JournalBytes, JournalReader
from pipeline.bus.stream.messages import MAJOR, MINOR, WELCOME_PREFIX, Header, StreamVersionError
from pipeline.bus.stream.position import StreamPosition
from pipeline.bus.stream.tracker import Tracker
from pipeline.client.subscriber import Subscriber
from pipeline.errors import FrameError
from pipeline.select.selection import Selection
from pipeline.shm.layout.declared import TOPICS

ROOT = Path(__file__).parents[2]


def _golden(minor: int = 0) -> list[tuple[bytes, bytes, bytes]]:
    found = json.loads((ROOT / f"tests/bus/stream/golden/{MAJOR}.{minor}.json").read_text())
    return [(each["topic"].encode(), bytes.fromhex(each["header"]), bytes.fromhex(each["body"])) for each in found]


def headers() -> list[bytes]:
    return [header for _, header, _ in _golden()]


def check_header(data: bytes) -> bool:
    """A header of the stream is rejected, or comes back if it is packed again."""
    try:
        header = Header.parse(data)
    except FrameError:
        return False
    assert Header.parse(header.pack()) == header
    return True


_TOPICS = [topic.encode() for topic in TOPICS]
_SIZES = struct.Struct("<BHH")


def streams() -> list[bytes]:
    """Return messages one after another: number of the topic, sizes of header and body, and these two."""
    packed = []
    for topic, header, body in _golden():
        number = _TOPICS.index(topic) if topic in _TOPICS else 255
        packed.append(_SIZES.pack(number, len(header), len(body)) + header + body)
    return [*packed, b"".join(packed)]


def _numbered_in(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield the messages of an input of `stream`; sizes that are too large mean what is left."""
    at = 0
    while len(data) - at >= _SIZES.size:
        number, header_bytes, body_bytes = _SIZES.unpack_from(data, at)
        begin = at + _SIZES.size
        body = begin + header_bytes
        yield number, data[begin:body], data[body : body + body_bytes]
        at = body + body_bytes


def _topic(number: int) -> bytes:
    return _TOPICS[number] if number < len(_TOPICS) else b"sys.other"


def messages_in(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Yield the messages of an input of `stream`."""
    for number, header, body in _numbered_in(data):
        yield _topic(number), header, body


def check_stream(data: bytes) -> bool:
    """A publisher can send anything: messages are rejected and counted, or become events."""
    tracker = Tracker((1 << len(TOPICS)) - 1)
    accepted = False
    for message in messages_in(data):
        try:
            events = tracker.feed(*message)
        except FrameError as error:  # another major version; anything else is counted in `refused`
            assert type(error).__name__ == "StreamVersionError"
            continue
        for event in events:
            assert event["seq"] is None or type(event["seq"]) is int
        accepted = accepted or bool(events)
    tracker.flush()
    assert all(count > 0 for count in tracker.missed.values())
    return accepted


def journals() -> list[bytes]:
    """Return journals behind a byte that says which checksums are made right: bit 0 that of the file, bit 1 blocks'."""
    whole = (ROOT / "tests/bus/stream/golden/journal.bin").read_bytes()
    body = whole[JOURNAL_HEADER_BYTES:]
    short = bytes([3]) + whole
    return [short, bytes([0]) + whole, short + body, short + bytes(3000) + body]


class _Bytes(JournalBytes):
    def __init__(self, data: bytes | bytearray) -> None:
        self._data = data

    def read(self, count: int, offset: int) -> bytes:
        return bytes(self._data[offset : offset + count])


def with_checksums(fixed: int, data: bytes) -> bytearray:
    """Return a journal with right checksums, as the bits of `fixed` say."""
    journal = bytearray(data)
    if fixed & 1 and len(journal) >= 44:
        journal[40:44] = zlib.crc32(journal[:40]).to_bytes(4, "little")
    if fixed & 2:
        for at in range(JOURNAL_HEADER_BYTES, len(journal) - BLOCK_HEADER_BYTES + 1, 64):
            if journal[at : at + 4] == BLOCK_MAGIC.to_bytes(4, "little"):
                size = int.from_bytes(journal[at + 16 : at + 20], "little")
                body = journal[at + BLOCK_HEADER_BYTES : at + min(size, len(journal))]
                journal[at + 20 : at + 24] = zlib.crc32(body).to_bytes(4, "little")
                header = journal[at + 8 : at + BLOCK_HEADER_BYTES]
                journal[at + 4 : at + 8] = zlib.crc32(header).to_bytes(4, "little")
    return journal


def check_journal(data: bytes) -> bool:
    """A journal that a subscriber reads: blocks are skipped, or their messages are decoded like those of the stream."""
    journal = with_checksums(data[0] if data else 0, data[1:])
    reader = JournalReader(_Bytes(journal))
    assert all(kept >= 0 for kept in reader.read_kept())
    accepted = False
    tracker = Tracker((1 << len(TOPICS)) - 1)
    for stream in (0, 7):
        reader.seek(stream, [1] * len(TOPICS), 3)
        for number, _ in enumerate(reader.blocks()):
            assert number <= len(journal) // 64, "the same blocks again and again"
        reader.seek(stream, [1] * len(TOPICS), 3)
        for _ in range(len(journal) // 64 + 2):
            found = reader.read()
            if found is None:
                break
            accepted = True
            for topic, header, body in found[1]:
                try:
                    tracker.feed(_TOPICS[topic] if topic < len(_TOPICS) else b"sys.other", header, body)
                except FrameError as error:
                    assert type(error).__name__ == "StreamVersionError"
        else:
            raise AssertionError("the journal has no end")
    return accepted


# -- a subscriber ------------------------------------------------------------------------------------------------------

#: The first byte of an input: what the subscriber is asked for, and whether a valid welcome comes first.
_IS_FILTERED, _RESUMES, _HAS_CALLBACKS, _HAS_FEW_TOPICS, _ENDS, _HAS_JOURNAL, _FIXES, _IS_WELCOMED = (
    1 << bit for bit in range(8)
)
_OPTIONS = struct.Struct("<BH")
#: Numbers of messages: the answer to the word that the subscriber asked with, and messages of other numbers of frames.
_WELCOME, _TWO_FRAMES, _FOUR_FRAMES = 250, 251, 252
#: From this number on, a message has the topic of the subscriber's filter.
_FILTERED = 100
_SELECTION = Selection(names=["sh", "golden*"])


#: With it, the directory of an instance is not looked for.
_NO_DIRECTORY = Path("/nonexistent")


class _SilentError(Exception):
    """The publisher has sent everything, and the subscriber waits."""


class _Socket:
    """A socket of ZeroMQ at which messages have arrived; the number of a topic stands for what the subscriber asked."""

    def __init__(self, messages: Sequence[tuple[int, bytes, bytes]]) -> None:
        self._messages = deque(messages)
        self._word = b""
        self._filter = b""

    def setsockopt(self, option: int, value: int) -> None:
        pass

    def connect(self, endpoint: str) -> None:
        pass

    def subscribe(self, prefix: bytes) -> None:
        if prefix.startswith(WELCOME_PREFIX):
            self._word = prefix
        elif prefix.startswith(b"only|"):
            self._filter = prefix.rpartition(b"|")[0] + b"|"

    def unsubscribe(self, prefix: bytes) -> None:
        pass

    def poll(self, timeout_ms: int) -> bool:
        if not self._messages:
            raise _SilentError
        return True

    def recv_multipart(self, flags: int = 0) -> list[bytes]:
        if not self._messages:
            raise zmq.Again
        number, header, body = self._messages.popleft()
        if number == _WELCOME:
            return [self._word, header, body]
        if number == _TWO_FRAMES:
            return [_TOPICS[0], header]
        if number == _FOUR_FRAMES:
            return [_TOPICS[0], header, body, b""]
        if number >= _FILTERED:
            return [self._filter + _topic(number - _FILTERED), header, body]
        return [_topic(number), header, body]

    def close(self, linger: int) -> None:
        pass


class _Context:
    def __init__(self, socket: _Socket) -> None:
        self._socket = socket

    def socket(self, kind: int) -> _Socket:
        return self._socket

    def term(self) -> None:
        pass


@contextmanager
def _connected(socket: _Socket) -> Iterator[None]:
    """Let subscribers that are made meanwhile have this socket."""
    real = stream_reader.zmq
    fake = types.SimpleNamespace(**_zmq_names(), Context=lambda threads: _Context(socket))
    stream_reader.zmq = fake  # type: ignore[assignment]
    try:
        yield
    finally:
        stream_reader.zmq = real


@cache
def _zmq_names() -> dict[str, Any]:
    """Return what a reader uses of the module besides contexts. It must not wait: `zmq_poll` is not among them."""
    names = ("LINGER", "RCVHWM", "MAXMSGSIZE", "RECONNECT_IVL", "RECONNECT_IVL_MAX", "HEARTBEAT_IVL", "SUB", "NOBLOCK")
    return {name: getattr(zmq, name) for name in (*names, "HEARTBEAT_TIMEOUT", "POLLIN", "Again")}


@cache
def _welcome() -> Header:
    return Header.parse(next(header for topic, header, _ in _golden(MINOR) if topic.startswith(WELCOME_PREFIX)))


@cache
def _valid_welcome() -> bytes:
    """Return a welcome after which the first event of each topic has the number 1."""
    return _welcome()._replace(seqs=(0,) * len(TOPICS)).pack()


@cache
def _position() -> StreamPosition:
    """Return a position from which the journal, and then the messages, continue."""
    return StreamPosition(_welcome().stream, dict.fromkeys(TOPICS, 1), 1)


def publications() -> list[bytes]:
    """Return what a publisher sends: options, the size of a journal, the journal, and messages as in `stream`."""
    numbered = []
    for topic, header, body in _golden(MINOR):
        filtered = topic.startswith(b"only|")
        name = topic.rpartition(b"|")[2]
        number = _TOPICS.index(name) if name in _TOPICS else _WELCOME if name.startswith(WELCOME_PREFIX) else 255
        numbered.append(_SIZES.pack(number + _FILTERED * filtered, len(header), len(body)) + header + body)
    everything = b"".join(numbered)
    # Each message as the only one of its group.
    events = []
    for topic, header, body in _golden(MINOR)[1:7]:
        alone = Header.parse(header)._replace(rest=0, next=None).pack()
        events.append(_SIZES.pack(_TOPICS.index(topic), len(alone), len(body)) + alone + body)
    journal = (ROOT / "tests/bus/stream/golden/journal.bin").read_bytes()
    made = []
    for options in (0, _IS_FILTERED, _HAS_CALLBACKS, _HAS_FEW_TOPICS, _ENDS):
        made.append(_OPTIONS.pack(options, 0) + everything)
        made += [_OPTIONS.pack(options | _IS_WELCOMED, 0) + each for each in events]
    for options in (_RESUMES, _RESUMES | _HAS_CALLBACKS, _RESUMES | _FIXES):
        made += [_OPTIONS.pack(options | _HAS_JOURNAL | _IS_WELCOMED, len(journal)) + journal + events[0]]
        made += [_OPTIONS.pack(options | _IS_WELCOMED, 0) + events[1]]
    return made


def check_subscriber(data: bytes) -> bool:
    """A publisher sends anything to a `Subscriber`, which a program reads to the end: events, or errors of its own."""
    options, journal_bytes = _OPTIONS.unpack_from(data.ljust(_OPTIONS.size, b"\0"))
    rest = data[_OPTIONS.size :]
    journal = b""
    if options & _HAS_JOURNAL:
        journal, rest = rest[:journal_bytes], rest[journal_bytes:]
    messages = list(_numbered_in(rest))
    if options & _IS_WELCOMED:
        messages.insert(0, (_WELCOME, _valid_welcome(), b""))
    gaps: list[Any] = []
    callback = gaps.append if options & _HAS_CALLBACKS else None
    with _connected(_Socket(messages)):
        try:
            subscriber = Subscriber(
                topics=("exec", "exit") if options & _HAS_FEW_TOPICS else (),
                select=_SELECTION if options & _IS_FILTERED else None,
                on_gap=callback,
                on_loss=callback,
                path=_NO_DIRECTORY,
                endpoint="tcp://192.0.2.1:1",
                follow=not options & _ENDS,
                resume=_position() if options & _RESUMES else None,
            )
        except (_SilentError, FrameError):
            return False
        with subscriber:
            if journal:
                read = with_checksums(3, journal) if options & _FIXES else journal
                subscriber._reader._recovery._open_journal = lambda: JournalReader(_Bytes(read))
            return _read_to_the_end(subscriber, len(messages) + len(journal) // 64)


def _read_to_the_end(subscriber: Subscriber, most: int) -> bool:
    accepted = False
    # A read returns events of one message at least, and there is one for each gap besides.
    for _ in range(16 * most + 64):
        try:
            events = subscriber.read(0, limit=50)
        except StreamVersionError:
            continue
        for event in events:
            assert type(event) is dict and type(event["event"]) is str
            assert event["seq"] is None or type(event["seq"]) is int
        position = subscriber.position
        assert StreamPosition.from_dict(position.as_dict()) == position
        if not events:
            break
        accepted = True
    else:
        raise AssertionError("the subscription has no end")
    assert subscriber.missed >= 0 and subscriber.refused >= 0 and subscriber.repeats >= 0
    assert all(count > 0 for count in subscriber.missed_by_topic.values())
    return accepted
