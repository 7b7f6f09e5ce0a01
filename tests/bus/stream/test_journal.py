"""The journal's format: what is written is read, and no damage does more than hide blocks."""

from __future__ import annotations

import mmap
import os
import random
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.bus.stream._blocks import block_bytes, crc32, put_block
from pipeline.bus.stream.declared import (
    BLOCK_HEADER_BYTES,
    BLOCK_MAGIC,
    JOURNAL_BLOCK_LAYOUT,
    JOURNAL_FILE_LAYOUT,
    JOURNAL_HEADER_BYTES,
)
from pipeline.bus.stream.journal import (
    NAME,
    Block,
    Geometry,
    JournalBytes,
    JournalFile,
    JournalReader,
    unpack_messages,
)
from pipeline.bus.stream.messages import TOPICS
from pipeline.resolver.stream.journal_writer import JournalWriter
from tests.bus import _inside
from tests.sampling import examples, times

BOOT = bytes(range(16))
GOLDEN = Path(__file__).with_name("golden") / "journal.bin"
ALL = (1 << len(TOPICS)) - 1
#: Bytes that this CPU folds with one instruction; 0: it has no such instruction.
FOLDS = _inside.folds()


@contextmanager
def folding(count: int) -> Iterator[None]:
    """Compute checksums as on a CPU that folds `count` bytes, or as many as this one does."""
    _inside.set_folds(min(count, FOLDS))
    try:
        yield
    finally:
        _inside.set_folds(FOLDS)


class Memory(JournalBytes):
    """The bytes of a journal in memory."""

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)

    def read(self, count: int, offset: int) -> bytes:
        return bytes(self.data[offset : offset + count])


def put_messages(target: bytearray | mmap.mmap, place: int, messages: list[tuple[int, bytes, bytes]]) -> Block | None:
    """Store a block that has no events, and return its header."""
    numbered = [(*message, 0, 0) for message in messages]
    put_block(target, place, numbered, [0] * len(TOPICS), *range(8))
    return Block.parse(target[place : place + BLOCK_HEADER_BYTES])


def pack_messages(messages: list[tuple[int, bytes, bytes]]) -> bytes:
    """Return what is behind the header of a block."""
    data = bytearray(block_bytes(messages))
    header = put_messages(data, 0, messages)
    assert header is not None and header.body_crc == zlib.crc32(data[BLOCK_HEADER_BYTES:])
    return bytes(data[BLOCK_HEADER_BYTES:])


def test_the_fastest_instruction_is_used() -> None:
    """The tests below try the others too; this one shows that the fastest is used."""
    flags = Path("/proc/cpuinfo").read_text().split()
    expected = 0 if "pclmulqdq" not in flags else 64 if "vpclmulqdq" in flags and "avx512f" in flags else 16
    assert expected == FOLDS


@given(st.integers(0, 2000), st.integers(0, 2**32 - 1))
def test_the_checksum_is_that_of_zlib(size: int, value: int) -> None:
    data = random.Random(value).randbytes(size)
    for folds in (0, 16, 64):
        with folding(folds):
            assert crc32(data, value) == zlib.crc32(data, value)


@given(
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 1100), st.integers(0, 2000)), max_size=5),
    st.sampled_from([0, 1, 16, 64]),
)
def test_messages_are_copied_whatever_the_cpu_and_the_place(sizes: list[tuple[int, int, int]], place: int) -> None:
    noise = random.Random(str(sizes))
    messages = [(topic, noise.randbytes(header), noise.randbytes(body)) for topic, header, body in sizes]
    size = block_bytes(messages)
    plain = b""
    for topic, header, body in messages:
        plain += b"".join(part.to_bytes(4, "little") for part in (topic, len(header), len(body))) + header
        plain += bytes(-(BLOCK_HEADER_BYTES + len(plain)) % 64) + body
        plain += bytes(-(BLOCK_HEADER_BYTES + len(plain)) % 64)
    for folds in (0, 16, 64):
        with folding(folds), mmap.mmap(-1, 1 << 16) as room:
            room[:] = b"x" * len(room)
            crc = zlib.crc32(plain)
            header = Block(0, size, crc, len(messages), *range(1, 8), (0,) * len(TOPICS))
            assert put_messages(room, place, messages) == header
            begin = place + BLOCK_HEADER_BYTES
            assert room[:place] == b"x" * place and room[begin : place + size] == plain
            assert room[place + size :] == b"x" * (len(room) - place - size)
    if messages:
        for wrong in (bytearray(size - 1), bytearray(size)):
            with pytest.raises(ValueError, match="room"):
                put_messages(wrong, size - len(wrong) or 1, messages)
        with pytest.raises(ValueError, match="room"):
            put_messages(bytearray(size), -1, messages)


U64 = st.integers(0, 2**64 - 1)
U32 = st.integers(0, 2**32 - 1)


@given(
    st.builds(
        Block, at=U64, size=st.integers(BLOCK_HEADER_BYTES, 2**32 - 1), body_crc=U32, messages=st.integers(0, 4096),
        kept=U32, stream=U64, group=U64, step=U64, writer=U32, epoch=U32, time_ns=st.integers(-(2**63), 2**63 - 1),
        next=st.tuples(*[U64] * len(TOPICS)),
    )
)  # fmt: skip
def test_a_header_is_read_as_it_was_written(block: Block) -> None:
    data = block.pack()
    assert len(data) == BLOCK_HEADER_BYTES and Block.parse(data) == block and Block.parse(data + b"more") == block
    for at in random.Random(block.at).sample(range(len(data)), 8):
        assert Block.parse(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]) is None
        assert Block.parse(data[:at]) is None


def test_headers_have_the_declared_layout() -> None:
    block = Block(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, -11, tuple(range(12, 12 + len(TOPICS))))
    (found,) = np.frombuffer(block.pack(), JOURNAL_BLOCK_LAYOUT.dtype())
    assert {name: found[name].tolist() for name in found.dtype.names} == {
        "magic": BLOCK_MAGIC, "header_crc": zlib.crc32(block.pack()[8:]), "at": 1, "bytes": 2, "body_crc": 3,
        "messages": 4, "kept": 5, "stream": 6, "group": 7, "step": 8, "writer": 9, "epoch": 10, "time_ns": -11,
        "unused": 0, "next": [*block.next],
    }  # fmt: skip
    data = Geometry.of(1 << 22, BOOT).pack()
    (file,) = np.frombuffer(data, JOURNAL_FILE_LAYOUT.dtype(), 1)
    assert len(data) == file["header_bytes"] and file["boot"].tobytes() == BOOT
    assert file["crc"] == zlib.crc32(data[: JOURNAL_FILE_LAYOUT.offset("crc")])


@given(st.lists(st.tuples(st.integers(0, 7), st.binary(max_size=300), st.binary(max_size=300)), max_size=9))
def test_messages_are_read_as_they_were_written(messages: list[tuple[int, bytes, bytes]]) -> None:
    data = pack_messages(messages)
    assert unpack_messages(data, len(messages)) == messages
    assert unpack_messages(data, len(messages) + 1) is None
    for cut in range(0, len(data), 37):
        assert unpack_messages(data[:cut], len(messages)) is None


@given(st.integers(1, 1 << 40))
def test_sizes(journal_bytes: int) -> None:
    made = Geometry.of(journal_bytes, BOOT)
    assert Geometry.parse(made.pack()) == made and made.segment_bytes % 4096 == 0
    assert made.ring_bytes <= max(journal_bytes, 1 << 20)


class Writing:
    """A journal and what was written to it: numbered messages of two topics."""

    def __init__(self, directory: Path, seed: int, journal_bytes: int = 1 << 20) -> None:
        self.directory, self.journal_bytes = directory, journal_bytes
        self.chance = random.Random(seed)
        self.seqs = [0] * len(TOPICS)
        self.group = 0
        self.bodies: dict[tuple[int, int], bytes] = {}
        self.open()

    def open(self) -> None:
        self.writer = JournalWriter(
            self.directory, boot=BOOT, journal_bytes=self.journal_bytes, mode=0o666, keep_ns=10**12
        )  # fmt: skip
        self.writer._next = [seq + 1 for seq in self.seqs]

    def append(self, largest: int = 3000) -> None:
        messages: list[Any] = []
        for topic in self.chance.sample((0, 1), self.chance.randint(1, 2)):
            body = self.chance.randbytes(self.chance.randint(0, largest))
            first, count = self.seqs[topic] + 1, self.chance.randint(1, 5)
            self.seqs[topic] += count
            self.bodies[topic, first] = body
            messages.append((topic, first.to_bytes(8), body, first, count))
        self.group += 1
        self.writer.append(
            messages, stream=7, writer=0, epoch=1, step=self.group, group=self.group, time_ns=self.group, kept=3
        )  # fmt: skip

    def check(self, reader: JournalReader) -> list[tuple[int, int]]:
        """Read to the end; each message is one that was written, and they are in order."""
        found: list[tuple[int, int]] = []
        groups = []
        while (read := reader.read()) is not None:
            groups.append(read[0].group)
            for topic, header, body in read[1]:
                first = int.from_bytes(header)
                assert self.bodies[topic, first] == body
                found.append((topic, first))
        assert groups == sorted(set(groups)) and len(found) == len(set(found))
        return found


@pytest.mark.parametrize("seed", range(4))
def test_a_ring_holds_the_newest_blocks_over_laps_and_writers(directory: Path, seed: int) -> None:
    made = Writing(directory, seed)
    for lap in range(4):
        for _ in range(250):
            made.append()
        with JournalFile_(directory) as reader:
            reader.seek(7, [1] * len(TOPICS), ALL)
            found = made.check(reader)
            assert found == list(made.bodies)[-len(found) :]
            # It holds at least what fits into all segments but one, less what is lost at their ends.
            assert sum(len(made.bodies[key]) for key in found) > (
                0 if lap == 0 else made.writer.geometry.ring_bytes // 2
            )
            for topic, first in made.chance.sample(found, times(20, 5)):
                following = [1 << 60] * len(TOPICS)
                following[topic] = first
                reader.seek(7, following, 1 << topic)
                assert reader.is_whole
                left = made.check(reader)
                assert (topic, first) in left
        made.writer.close()
        made.open()
    made.writer.close()


class JournalFile_(JournalReader):
    """A reader of the journal in a directory, as a context manager."""

    def __init__(self, directory: Path) -> None:
        super().__init__(JournalFile(directory / NAME))

    def __enter__(self) -> JournalFile_:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def test_a_reader_that_the_writer_overtakes_continues_with_the_oldest_block(directory: Path) -> None:
    made = Writing(directory, 9)
    for _ in range(100):
        made.append()
    with JournalFile_(directory) as reader:
        reader.seek(7, [1] * len(TOPICS), ALL)
        assert reader.is_whole
        for _ in range(5):
            assert reader.read() is not None
        assert reader.is_whole
        for _ in range(2000):
            made.append()
        assert made.check(reader) and not reader.is_whole
        assert reader.read() is None
        made.append()
        assert reader.read() is not None, "the end is not final"
    made.writer.close()


def test_a_torn_block_is_overwritten_by_the_successor(directory: Path) -> None:
    made = Writing(directory, 3)
    for _ in range(50):
        made.append()
    with JournalFile_(directory) as reader:
        reader.seek(7, [1] * len(TOPICS), ALL)
        *_, last = reader.blocks()
    os.pwrite(made.writer._fd, b"\xff" * 3, JOURNAL_HEADER_BYTES + last.at + last.size - 3)
    made.writer.close()
    with JournalFile_(directory) as reader:
        reader.seek(7, [1] * len(TOPICS), ALL)
        before = made.check(reader)
    made.open()
    assert made.writer._at == last.at
    made.append()
    with JournalFile_(directory) as reader:
        reader.seek(7, [1] * len(TOPICS), ALL)
        assert made.check(reader)[: len(before)] == before and reader.is_whole
    made.writer.close()


class Counted(JournalBytes):
    """A journal and the number of reads."""

    def __init__(self, directory: Path) -> None:
        self.file, self.reads = JournalFile(directory / NAME), 0

    def read(self, count: int, offset: int) -> bytes:
        self.reads += 1
        return self.file.read(count, offset)

    def close(self) -> None:
        self.file.close()


def test_a_search_reads_one_segment_at_most(directory: Path) -> None:
    made = Writing(directory, 4)
    for _ in range(40):
        made.append()

    def beat(stream: int) -> None:
        made.writer.append(
            [(0, b"", b"", 1, 0)], stream=stream, writer=0, epoch=1, step=1, group=1, time_ns=1, kept=3
        )  # fmt: skip

    beat(8)  # a stream that is in the middle of a segment only
    for _ in range(3000):
        beat(9)
    counted = Counted(directory)
    reader = JournalReader(counted)
    for stream, is_there in ((8, True), (9, True), (99, False)):
        counted.reads = 0
        reader.seek(stream, [1] * len(TOPICS), 1)
        found = reader.read()
        assert found is not None and (found[0].stream == stream) == is_there == reader.is_whole
        assert reader.at == found[0].end
        assert counted.reads < 2600, "there are more blocks than that"
    assert found is not None and found[0].at == 0
    reader.close()
    made.writer.close()


def test_a_file_with_another_mode_or_group_is_not_continued(directory: Path) -> None:
    """Processes that could read it then would read on."""

    def make(**options: Any) -> tuple[int, int, int]:
        settings = {"mode": 0o660, "group": -1} | options
        writer = JournalWriter(directory, boot=BOOT, journal_bytes=1 << 20, **settings)
        writer.append([(0, b"", b"x", 1, 1)], stream=7, writer=0, epoch=1, step=1, group=1, time_ns=1, kept=1)
        writer.close()
        with JournalFile_(directory) as reader:
            assert reader.read() is not None
        found = (directory / NAME).stat()
        return found.st_ino, found.st_mode & 0o777, found.st_gid

    first = make()
    assert first[1:] == (0o640, os.getegid()) and make() == first, "it is continued"
    private = make(mode=0o600)
    assert private[0] != first[0] and private[1] == 0o600
    if os.geteuid() == 0:
        shared = make(group=12345)
        assert shared[0] != private[0] and shared[1:] == (0o640, 12345) and make(group=12345) == shared
        again = make()
        assert again[0] != shared[0] and again[1:] == first[1:]


def test_a_message_without_room_is_counted(directory: Path) -> None:
    made = Writing(directory, 3)
    made.writer.append(
        [(0, b"", bytes(1 << 18), 1, 3)], stream=7, writer=0, epoch=1, step=1, group=1, time_ns=1, kept=1
    )  # fmt: skip
    assert made.writer.failed == 3 and made.writer.events == 0
    made.writer.append(
        [(0, b"", bytes(1 << 17), 1, 3), (1, b"", bytes(1 << 17), 1, 4)],
        stream=7, writer=0, epoch=1, step=1, group=1, time_ns=1, kept=1,
    )  # fmt: skip
    assert made.writer.failed == 3 and made.writer.events == 7, "a group is divided"
    with JournalFile_(directory) as reader:
        # Nothing is certain about what is before the first one.
        assert [read[0].kept for read in (reader.read(), reader.read()) if read is not None] == [0, 1]
    made.writer.close()


@settings(max_examples=examples(60), deadline=None)
@given(st.data())
def test_any_damage_only_hides_blocks(data: st.DataObject) -> None:
    """A reader ends, raises nothing and returns only what was written, in order."""
    with tempfile.TemporaryDirectory(prefix="procline-test-", dir="/dev/shm") as directory:
        made = Writing(Path(directory), data.draw(st.integers(0, 3)))
        for _ in range(data.draw(st.sampled_from([0, 1, 40, 900]))):
            made.append()
        made.writer.close()
        memory = Memory((Path(directory) / NAME).read_bytes())
        used = JOURNAL_HEADER_BYTES + min(made.writer._at, made.writer.geometry.ring_bytes)
        for _ in range(data.draw(st.integers(1, 12))):
            at = data.draw(st.integers(0, used - 1))
            kind = data.draw(st.sampled_from(["flip", "noise", "copy", "zeros"]))
            if kind == "flip":
                memory.data[at] ^= 1 << data.draw(st.integers(0, 7))
            elif kind == "noise":
                memory.data[at : at + 100] = data.draw(st.binary(min_size=100, max_size=100))
            elif kind == "copy":
                memory.data[at : at + 4096] = memory.data[:4096]
            else:
                memory.data[at : at + 300] = bytes(300)
        if data.draw(st.booleans()):
            del memory.data[data.draw(st.integers(0, used)) :]
        reader = JournalReader(memory)
        reader.seek(7, [data.draw(st.integers(1, 2000))] * len(TOPICS), ALL)
        made.check(reader)


@given(st.binary(max_size=4096))
def test_noise_is_no_journal(data: bytes) -> None:
    reader = JournalReader(Memory(data))
    assert reader.geometry is None and reader.read() is None and reader.firsts() == []
    reader.seek(1, [1] * len(TOPICS), ALL)
    assert reader.read() is None


def golden() -> bytes:
    """Make the first bytes of the golden file: a header and two blocks."""
    geometry = Geometry(1 << 16, 4, BOOT)
    body = pack_messages([(1, b"\x80", b"\x81\xa3seq\x01"), (2, b"\x80", b"")])
    blocks = b""
    for at, group in ((0, 1), (320, 2)):
        block = Block(
            at=at, size=BLOCK_HEADER_BYTES + len(body), body_crc=crc32(body), messages=2, kept=6, stream=7, group=group,
            step=3, writer=1, epoch=1, time_ns=5, next=(1,) * len(TOPICS),
        )  # fmt: skip
        blocks += (block.pack() + body).ljust(320, b"\0")
    return geometry.pack() + blocks


def test_the_golden_file_is_written_and_read() -> None:
    """Journals of an earlier release are read by the next one; a change here is a new VERSION."""
    assert golden() == GOLDEN.read_bytes()
    reader = JournalReader(Memory(GOLDEN.read_bytes()))
    assert [[message.topic for message in read[1]] for read in iter(reader.read, None)] == [[1, 2], [1, 2]]
