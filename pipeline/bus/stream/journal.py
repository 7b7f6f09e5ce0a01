"""The journal: the last messages of the stream in a file, so that a subscriber can read again what it missed.

The resolver appends each group of messages before it sends them and before the commit that covers them. The file is a
ring of segments of equal size. Readers use pread(2) only, so a file that somebody cuts short cannot end them with
SIGBUS. `pipeline.bus.stream.declared` has the layouts of the file's header, of blocks and of messages in them;
docs/wire-schema.md describes how to read the file in any language.

A block begins at a multiple of BLOCK_ALIGNMENT and never crosses the end of a segment; the first one begins the
segment. A message is the lengths of its header and its body, then both as they are sent. A body begins at the next
multiple of BLOCK_ALIGNMENT from the beginning of its block, and so does what comes after it; zeros fill the gaps.

A reader needs no lock. A block that the writer overwrites while it is read has a wrong `at` or a wrong checksum. The
newest block is the last one of the segment whose first block has the highest `at`.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline import paths, trust
from pipeline.bus.stream._blocks import crc32, pack_header, parse_header
from pipeline.bus.stream.declared import (
    BLOCK_ALIGNMENT,
    BLOCK_HEADER_BYTES,
    JOURNAL_FILE_LAYOUT,
    JOURNAL_HEADER_BYTES,
    JOURNAL_MAGIC,
    JOURNAL_MESSAGE_LAYOUT,
    JOURNAL_VERSION,
)
from pipeline.bus.stream.messages import TOPICS
from pipeline.errors import UntrustedError

NAME = "journal"
#: Limits of what a header may claim, so that a damaged file costs a bounded amount of work.
SEGMENTS_MAX = 1024
SEGMENT_MAX_BYTES = 1 << 30
SEGMENT_MIN_BYTES = 1 << 16
#: A segment has a multiple of these.
_STEP_BYTES = 4096
MESSAGES_MAX = 4096

KEPT_OFFSET = JOURNAL_FILE_LAYOUT.offset("kept_until")
TORN_OFFSET = JOURNAL_FILE_LAYOUT.offset("torn")
KEPT = struct.Struct("<" + JOURNAL_FILE_LAYOUT.fields["kept_until"].format)
TORN = struct.Struct("<" + JOURNAL_FILE_LAYOUT.fields["torn"].format)
#: The header of the file without its checksum, which follows.
_FILE_HEADER = JOURNAL_FILE_LAYOUT.struct("magic", "version", "header_bytes", "segment_bytes", "segments", "boot")
_CRC = struct.Struct("<" + JOURNAL_FILE_LAYOUT.fields["crc"].format)
_MESSAGE = JOURNAL_MESSAGE_LAYOUT.struct(*JOURNAL_MESSAGE_LAYOUT.fields)
#: Blocks that one call of `JournalReader.read` skips at most, so that a caller stays responsive.
_SKIPPED_PER_READ = 256


class Recorded(NamedTuple):
    """One message as it was sent: number of its topic, header, body."""

    topic: int
    header: bytes
    body: bytes


class Geometry(NamedTuple):
    """Sizes of a journal, and the boot that it belongs to."""

    segment_bytes: int
    segments: int
    boot: bytes

    @classmethod
    def of(cls, journal_bytes: int, boot: bytes) -> Geometry:
        """Return the sizes for a journal of about this many bytes; each segment must hold a large message."""
        segment = max(1 << 18, min(journal_bytes // 64, SEGMENT_MAX_BYTES)) // _STEP_BYTES * _STEP_BYTES
        return cls(segment, max(4, min(journal_bytes // segment, SEGMENTS_MAX)), boot)

    @property
    def ring_bytes(self) -> int:
        """Size of the file without its header."""
        return self.segment_bytes * self.segments

    def pack(self) -> bytes:
        """Return the header of a new file."""
        fixed = _FILE_HEADER.pack(
            JOURNAL_MAGIC, JOURNAL_VERSION, JOURNAL_HEADER_BYTES, self.segment_bytes, self.segments, self.boot
        )  # fmt: skip
        return (fixed + _CRC.pack(crc32(fixed))).ljust(JOURNAL_HEADER_BYTES, b"\0")

    @classmethod
    def parse(cls, data: bytes) -> Geometry | None:
        """Read the header of a file; None: it is not one of this version, or damaged."""
        if len(data) < _FILE_HEADER.size + _CRC.size:
            return None
        magic, version, header_bytes, segment_bytes, segments, boot = _FILE_HEADER.unpack_from(data)
        if (magic, version, header_bytes) != (JOURNAL_MAGIC, JOURNAL_VERSION, JOURNAL_HEADER_BYTES):
            return None
        if _CRC.unpack_from(data, _FILE_HEADER.size)[0] != crc32(data[: _FILE_HEADER.size]):
            return None
        if not SEGMENT_MIN_BYTES <= segment_bytes <= SEGMENT_MAX_BYTES or segment_bytes % BLOCK_ALIGNMENT:
            return None
        return cls(segment_bytes, segments, boot) if 1 <= segments <= SEGMENTS_MAX else None


class Block(NamedTuple):
    """The header of a block, as JOURNAL_BLOCK_LAYOUT declares it; `size` is its `bytes`."""

    at: int
    size: int
    body_crc: int
    messages: int
    kept: int
    stream: int
    group: int
    step: int
    writer: int
    epoch: int
    time_ns: int
    next: tuple[int, ...]

    @property
    def end(self) -> int:
        """Where the next block begins, if the segment has room for it."""
        return -(-(self.at + self.size) // BLOCK_ALIGNMENT) * BLOCK_ALIGNMENT

    def pack(self) -> bytes:
        """Return the header."""
        return pack_header(self)

    @classmethod
    def parse(cls, data: bytes) -> Block | None:
        """Read a header; None: there is none, or it is damaged."""
        fields = parse_header(data)
        if fields is None:
            return None
        block = cls(*fields)
        return block if block.size >= BLOCK_HEADER_BYTES and block.messages <= MESSAGES_MAX else None


def unpack_messages(data: bytes, count: int) -> list[Recorded] | None:
    """Read what is behind a block's header; None: it is malformed."""
    messages = []
    at = 0
    for _ in range(count):
        if at + _MESSAGE.size > len(data):
            return None
        topic, header_bytes, body_bytes = _MESSAGE.unpack_from(data, at)
        begin = at + _MESSAGE.size
        body = begin + header_bytes
        body += -(BLOCK_HEADER_BYTES + body) % BLOCK_ALIGNMENT
        at = body + body_bytes + -body_bytes % BLOCK_ALIGNMENT
        if at > len(data):
            return None
        messages.append(Recorded(topic, data[begin : begin + header_bytes], data[body : body + body_bytes]))
    return messages


class JournalBytes:
    """The bytes of a journal. `JournalFile` reads them from a file of this host."""

    def read(self, count: int, offset: int) -> bytes:
        """Return `count` bytes of the file; fewer at its end, or if it cannot be read."""
        raise NotImplementedError

    def close(self) -> None:
        """Release what is open."""


class JournalFile(JournalBytes):
    """The file of an instance on this host.

    Raises:
        UntrustedError: another user could have written it.
        OSError: there is none, or this user may not read it.
    """

    def __init__(self, path: Path) -> None:
        self._fd = trust.open_file(path)

    def read(self, count: int, offset: int) -> bytes:
        """Return `count` bytes of the file."""
        try:
            return os.pread(self._fd, count, offset)
        except OSError:
            return b""

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


class JournalReader:
    """Reads a journal from a place in it to its end, while the resolver writes on.

    Args:
        data: the bytes of the journal.

    Attributes:
        geometry: sizes; None: the file is not a journal, and there is nothing to read.
        at: position of the next block.
        is_whole: nothing was skipped since `seek` found its place: blocks were neither overwritten nor damaged.
        kept: topics that the last block read kept, as a mask.
    """

    def __init__(self, data: JournalBytes) -> None:
        self._data = data
        self.geometry = Geometry.parse(data.read(JOURNAL_HEADER_BYTES, 0))
        self.at = 0
        self.is_whole = False
        self.kept = 0

    def close(self) -> None:
        """Close what the bytes are read from."""
        self._data.close()

    def read_kept(self) -> tuple[int, ...]:
        """Return until when the events of each topic are kept, boot ns."""
        data = self._data.read(KEPT.size, KEPT_OFFSET)
        return KEPT.unpack(data) if len(data) == KEPT.size else (0,) * len(TOPICS)

    def read_torn(self) -> bool:
        """Return whether events that belong to `at` could not be appended."""
        return self._data.read(TORN.size, TORN_OFFSET) == TORN.pack(self.at + 1)

    # -- places --------------------------------------------------------------------------------------------------------

    def firsts(self) -> list[Block]:
        """Return the first block of each segment that has one, the oldest first."""
        found = []
        if self.geometry is not None:
            for number in range(self.geometry.segments):
                block = self._block_at(number * self.geometry.segment_bytes)
                if block is not None:
                    found.append(block)
        return sorted(found, key=lambda block: block.at)

    def seek(self, stream: int, following: Sequence[int], mask: int) -> None:
        """Go to a block at or before the first event that is wanted; to the oldest if there is none.

        Args:
            stream: id of the stream.
            following: by topic, number of the event that is wanted next.
            mask: topics that are wanted.
        """
        firsts = self.firsts()
        self.at = firsts[0].at if firsts else 0
        self.is_whole = False
        for block in reversed(firsts):
            if block.stream == stream and _is_before(block, following, mask):
                self.at, self.is_whole = block.at, True
                return
        # The first blocks of the segments do not show the place: the stream may begin in the middle of the segment
        # before, or be in none. If a segment and the one after it begin with the same stream, it contains no other.
        oldest = self.at
        streams = [block.stream for block in firsts]
        if stream in streams:
            begin = streams.index(stream)
            searched = range(max(begin - 1, 0), begin + 1)
        else:
            searched = range(len(firsts))
        for number in searched:
            if streams[number] != stream and streams[number + 1 : number + 2] == streams[number : number + 1]:
                continue
            self.at = firsts[number].at
            end = self._segment_end(self.at)
            for block in self.blocks():
                if block.at >= end:
                    break
                if block.stream == stream:
                    self.at, self.is_whole = block.at, _is_before(block, following, mask)
                    return
        self.at, self.is_whole = oldest, False

    def blocks(self) -> Iterator[Block]:
        """Go through the headers of the blocks from `at` on."""
        while (block := self._next_block()) is not None:
            self.at = block.end
            yield block

    # -- reading -------------------------------------------------------------------------------------------------------

    def read(self) -> tuple[Block, list[Recorded]] | None:
        """Return the next block and its messages; None: this is the end."""
        for _ in range(_SKIPPED_PER_READ):
            block = self._next_block()
            if block is None:
                return None
            assert self.geometry is not None
            count = block.size - BLOCK_HEADER_BYTES
            data = self._data.read(count, self._offset(block.at + BLOCK_HEADER_BYTES))
            if len(data) == count and crc32(data) == block.body_crc:
                messages = unpack_messages(data, block.messages)
                if messages is not None:
                    self.at, self.kept = block.end, block.kept
                    return block, messages
            # Overwritten while it was read, torn by the death of its writer, or damaged.
            again = self._block_at(block.at % self.geometry.ring_bytes)
            if again is not None and again.at == block.at:
                if self._block_behind(block) is None:
                    return None  # torn, and the last one: its successor overwrites it
                self.at = block.end
            self.is_whole = False
        return None

    def _block_behind(self, block: Block) -> Block | None:
        before, self.at = self.at, block.end
        try:
            return self._next_block()
        finally:
            self.at = before

    def _next_block(self) -> Block | None:
        """Return the header of the block at `at`, or of the next one that there is; None: this is the end."""
        geometry = self.geometry
        if geometry is None:
            return None
        begin = self.at - self.at % geometry.segment_bytes
        following = begin + geometry.segment_bytes
        found: Block | None = None
        is_next = False
        for is_second in (False, True):
            # A second time, because the writer may have filled this segment and begun the next one in between.
            if self.at % geometry.segment_bytes + BLOCK_HEADER_BYTES <= geometry.segment_bytes:
                block = self._block_at(self.at % geometry.ring_bytes)
                if block is not None and block.at == self.at:
                    return block
            if is_second:
                break
            found = self._block_at(following % geometry.ring_bytes)
            is_next = found is not None and found.at == following and self._is_current(begin)
            if not is_next:
                # The end, or a lap of the writer, or a damaged segment: then the oldest that is left comes next.
                found = next((block for block in self.firsts() if block.at > self.at), None)
                if found is None:
                    return None
        assert found is not None
        self.at = found.at
        self.is_whole &= is_next
        return found

    def _is_current(self, begin: int) -> bool:
        """Whether the segment that begins at this position has not been overwritten."""
        assert self.geometry is not None
        first = self._block_at(begin % self.geometry.ring_bytes)
        return first is not None and first.at == begin

    def _block_at(self, place: int) -> Block | None:
        """Return the header of the block at a place in the ring, if it is possible there."""
        geometry = self.geometry
        assert geometry is not None
        block = Block.parse(self._data.read(BLOCK_HEADER_BYTES, JOURNAL_HEADER_BYTES + place))
        if block is None or block.at % geometry.ring_bytes != place or block.at >= 1 << 62:
            return None
        return block if place % geometry.segment_bytes + block.size <= geometry.segment_bytes else None

    def _segment_end(self, at: int) -> int:
        assert self.geometry is not None
        return at - at % self.geometry.segment_bytes + self.geometry.segment_bytes

    def _offset(self, at: int) -> int:
        assert self.geometry is not None
        return JOURNAL_HEADER_BYTES + at % self.geometry.ring_bytes


def open_journal(directory: Path) -> JournalReader | None:
    """Open the journal of an instance; None: it has none that this user may read."""
    try:
        return JournalReader(JournalFile(directory / paths.STREAM_DIR / NAME))
    except (OSError, UntrustedError):
        return None


def _is_before(block: Block, following: Sequence[int], mask: int) -> bool:
    return all(block.next[number] <= following[number] for number in range(len(TOPICS)) if mask >> number & 1)
