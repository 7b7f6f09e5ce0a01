"""Hosts that are simulated, with the daemon's own tables, applier and encoder, and their messages as forwarded.

A test lets things happen (`host.story`), and compares the store's answers with what happened. Messages have the form
that docs/fleet.md describes.
"""

from __future__ import annotations

import itertools
import shutil
import struct
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import msgpack
import zstandard

from pipeline.forward.batches import token
from pipeline.resolver.apply._applier import Applier
from pipeline.resolver.stream._encoder import Encoder
from pipeline.shm.layout.declared import STREAM_VERSION, TOPICS
from tests.resolver.story import Event, Process, Story, enter_init, make_tables

NS = 10**9


class Sent(NamedTuple):
    """A message for JetStream."""

    subject: str
    headers: dict[str, str]
    data: bytes


class SimulatedHost:
    """One host with its process 1, whose executable is /usr/lib/systemd/systemd.

    Args:
        name: of the host.
        number: makes the boot id.
        boot_unix_ns: when it started.
    """

    def __init__(self, name: str, number: int, boot_unix_ns: int, **sizes: object) -> None:
        self.name = name
        self.boot = bytes([number % 256, number // 256]) + bytes(range(2, 16))
        self.boot_unix_ns = boot_unix_ns
        self.directory = Path(tempfile.mkdtemp(prefix="procline-test-", dir="/dev/shm"))
        self.tables = make_tables(self.directory / "tables", boot_id=self.boot, boot_unix_ns=boot_unix_ns, **sizes)
        self.encoder = Encoder(self.boot)
        self.encoder.topics_mask = 0xFF
        self.applier = Applier(self.tables, self.encoder)
        self.story = Story()
        self.story.begin(1, inode=1, comm=b"systemd")
        enter_init(self.tables, self.applier, self.story)
        self.pids = itertools.count(100)
        self.do(self.story.exec(1, b"/usr/lib/systemd/systemd"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.tables.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def do(self, *happened: Event) -> None:
        """Apply events."""
        for event in happened:
            event.apply(self.applier)

    def run(self, parent: int, path: bytes, *, args: Sequence[bytes] = ()) -> int:
        """Start a program below a process; returns its pid."""
        pid = next(self.pids)
        self.do(self.story.fork(parent, pid), self.story.exec(pid, path, args=args))
        return pid

    def end(self, pid: int, code: int = 0) -> None:
        self.do(self.story.exit(pid, code))

    def unix_ns(self, boot_ns: int) -> int:
        return self.boot_unix_ns + boot_ns

    def forked(self) -> list[Process]:
        """Every process that was forked."""
        return self.story.everyone

    def sent(self, *, is_compressed: bool = True) -> list[Sent]:
        """Return the messages of all events since the last call."""
        found = []
        for message in self.encoder.take():
            body = struct.pack(">BI", 0xDD, message.count) + bytes(message.body)
            topic = TOPICS[message.topic]
            found.append(
                self.message(topic.partition(".")[2], topic, message.first, message.count, body, is_compressed)
            )
        return found

    def gap(self, topic: str, first: int | None, count: int | None, from_ns: int | None, to_ns: int | None) -> Sent:
        """Return the record of events that the forwarder missed."""
        record = {"topic": topic, "first": first, "count": count, "from_ns": from_ns, "to_ns": to_ns, "reason": "gap"}
        return self.message("gap", topic, first or 0, count or 0, msgpack.packb([record]), False)

    def maps(self, topic: str, first: int, maps: list[dict[str, Any]]) -> Sent:
        """Return a message with any events."""
        return self.message(topic.partition(".")[2], topic, first, len(maps), msgpack.packb(maps), False)

    def message(self, kind: str, topic: str, first: int, count: int, body: bytes, is_compressed: bool) -> Sent:
        headers = {
            "Nats-Msg-Id": f"{self.boot.hex()}-{self.encoder.stream}-{topic}-{kind}-{first}-{count}",
            "Procline-Host": self.name, "Procline-Boot": self.boot.hex(), "Procline-Stream": str(self.encoder.stream),
            "Procline-Topic": topic, "Procline-First": str(first), "Procline-Count": str(count),
            "Procline-Version": "{}.{}".format(*STREAM_VERSION),
        }  # fmt: skip
        if is_compressed:
            headers["Content-Encoding"] = "zstd"
            body = zstandard.ZstdCompressor().compress(body)
        return Sent(f"procline.{token(self.name)}.{kind}", headers, body)


def split(messages: Sequence[Sent], events: int) -> Iterator[Sent]:
    """Yield the messages of events in smaller ones, of at most this many events."""
    for subject, headers, data in messages:
        body = zstandard.ZstdDecompressor().decompress(data) if "Content-Encoding" in headers else data
        maps = msgpack.unpackb(body, raw=True)
        first = int(headers["Procline-First"])
        for at in range(0, len(maps), events):
            part = maps[at : at + events]
            facts = {"Procline-First": str(first + at), "Procline-Count": str(len(part))}
            kept = {key: value for key, value in headers.items() if key != "Content-Encoding"} | facts
            kept["Nats-Msg-Id"] += f"-{at}"
            # `raw` keeps the bytes of text and bin apart no longer; `use_bin_type=False` writes all of them as text.
            yield Sent(subject, kept, msgpack.packb(part, use_bin_type=False))
