"""Write the journal: append what is published, and continue the journal of a predecessor.

The format is in `pipeline.bus.stream.journal`. Each group of messages is appended before it is sent and before the
commit that covers it. A successor therefore finds in the journal what its predecessor published and did not commit. It
continues the numbers behind these events, and does not publish them again when it applies their records again
(`Encoder.adopt`). So an event has one number, whichever process dies.

A topic is kept as long as it has a subscriber, for `keep_ns` after that, and always if a setting names it. The file's
header stores until when, so that a new resolver or daemon keeps the topics of subscribers that are about to return.
"""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.bus.stream._blocks import block_bytes, put_block
from pipeline.bus.stream._decoder import Decoder
from pipeline.bus.stream.declared import BLOCK_ALIGNMENT, JOURNAL_HEADER_BYTES
from pipeline.bus.stream.journal import (
    KEPT,
    KEPT_OFFSET,
    NAME,
    TORN,
    TORN_OFFSET,
    Geometry,
    JournalFile,
    JournalReader,
)
from pipeline.bus.stream.messages import TOPICS, Header, unpack_events
from pipeline.errors import FrameError, UntrustedError

if TYPE_CHECKING:
    from pipeline.resolver.stream._encoder import Encoder

#: A journal takes at most this part of the free memory of its file system. The tables must have room to grow.
_FREE_PART = 4
_U64 = (1 << 64) - 1
_MADV_POPULATE_WRITE = 23


class JournalWriter:
    """The journal of an instance, which this process alone writes.

    Args:
        directory: of the stream's sockets.
        boot: the kernel's boot id, 16 bytes.
        journal_bytes: size of the file.
        mode: of the stream's socket. Those who may connect to it may read the journal.
        group: of the file; -1 is the process's group.
        topics: mask of the topics that are always kept.
        keep_ns: how long a topic is kept after its last subscriber.

    Attributes:
        events: appended so far by this process.
        bytes: likewise.
        failed: events that could not be appended; they are sent, but cannot be read again.

    Raises:
        OSError: the file cannot be made.
    """

    def __init__(
        self,
        directory: Path,
        *,
        boot: bytes,
        journal_bytes: int,
        mode: int,
        group: int = -1,
        topics: int = 0,
        keep_ns: int = 0,
    ) -> None:
        self.events = 0
        self.bytes = 0
        self.failed = 0
        self._topics = topics
        self._keep_ns = keep_ns
        self._path = directory / NAME
        self._until = [0] * len(TOPICS)
        self._at = 0
        self._last: tuple[int, int] | None = None
        self._next = [1] * len(TOPICS)
        self._fd = -1
        self._map = _unmapped()
        #: Segments whose memory is reserved, as a mask.
        self._ready = 0
        #: Events before the next block are not in the journal. The file says so too, for a successor.
        self._is_torn = False
        self.geometry = Geometry.of(journal_bytes, boot)
        if not self._adopt_file(_readers_mode(mode), group):
            self._make_file()
        try:
            self._map_file()
            # The group first: until then, the mode admits nobody.
            if group != -1:
                os.fchown(self._fd, -1, group)
            os.fchmod(self._fd, _readers_mode(mode))
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Close the file; it stays."""
        self._map.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _map_file(self) -> None:
        size = JOURNAL_HEADER_BYTES + self.geometry.ring_bytes
        self._map.close()
        self._map = mmap.mmap(self._fd, size)
        self._ready = 0

    def _has_room(self, place: int) -> bool:
        """Reserve the memory of the segment at a place in the file; False: there is none, or the file was cut short.

        Storing into a page without memory would end this process with SIGBUS.
        """
        if os.lseek(self._fd, 0, os.SEEK_END) != JOURNAL_HEADER_BYTES + self.geometry.ring_bytes:
            return False
        segment = (place - JOURNAL_HEADER_BYTES) // self.geometry.segment_bytes
        if not self._ready >> segment & 1:
            begin = JOURNAL_HEADER_BYTES + segment * self.geometry.segment_bytes
            try:
                os.posix_fallocate(self._fd, begin, self.geometry.segment_bytes)
            except OSError:
                return False
            # One call instead of one page fault for each page. Linux before 5.14 does not have it.
            with suppress(OSError):
                self._map.madvise(_MADV_POPULATE_WRITE, begin, self.geometry.segment_bytes)
            self._ready |= 1 << segment
        return True

    # -- the file ------------------------------------------------------------------------------------------------------

    def _adopt_file(self, mode: int, group: int) -> bool:
        """Continue an existing file behind its last whole block; False: there is none that can be continued.

        A file with another mode or group is not continued: processes that could open it then would read on.
        """
        try:
            reader = JournalReader(JournalFile(self._path))
        except (OSError, UntrustedError):
            return False
        try:
            found = reader.geometry
            if found is None or found.boot != self.geometry.boot or not self._fits(found):
                return False
            self._fd = os.open(self._path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            status = os.fstat(self._fd)
            if (
                status.st_size != JOURNAL_HEADER_BYTES + found.ring_bytes
                or stat.S_IMODE(status.st_mode) != mode
                or status.st_gid != self._group_of_files(group)
            ):
                os.close(self._fd)
                self._fd = -1
                return False
            firsts = reader.firsts()
            if firsts:
                reader.at = firsts[-1].at
                while (read := reader.read()) is not None:
                    block = read[0]
                    self._last, self._next = (block.stream, block.time_ns), list(block.next)
                self._at = reader.at
                self._is_torn = reader.read_torn()
            kept = reader.read_kept()
        finally:
            reader.close()
        self.geometry = found
        self._until = list(kept)
        return True

    def _group_of_files(self, group: int) -> int:
        """Return the group of a new file; `group` is that of the settings."""
        if group != -1:
            return group
        directory = self._path.parent.stat()
        return directory.st_gid if directory.st_mode & stat.S_ISGID else os.getegid()

    def _fits(self, found: Geometry) -> bool:
        """Whether the size of a file is that of the settings, or the smaller one that the file system had room for."""
        wanted = self.geometry
        return found == wanted or (
            found.ring_bytes < wanted.ring_bytes and self._limited().ring_bytes <= found.ring_bytes
        )

    def _limited(self) -> Geometry:
        free = os.statvfs(self._path.parent)
        return Geometry.of(
            min(self.geometry.ring_bytes, free.f_bavail * free.f_frsize // _FREE_PART), self.geometry.boot
        )

    def _make_file(self) -> None:
        self.geometry = self._limited()
        made = self._path.with_name(f".{NAME}")
        with suppress(FileNotFoundError):
            made.unlink()
        self._fd = os.open(made, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            header = self.geometry.pack()
            os.pwrite(self._fd, header, 0)
            os.ftruncate(self._fd, JOURNAL_HEADER_BYTES + self.geometry.ring_bytes)
            made.rename(self._path)
        except OSError:
            self.close()
            raise

    def status(self) -> os.stat_result:
        """Return the status of the file."""
        return os.fstat(self._fd)

    def read(self, count: int, offset: int) -> bytes:
        """Return a part of the file; fewer bytes at its end."""
        try:
            return os.pread(self._fd, count, offset)
        except OSError:
            return b""

    # -- what is kept --------------------------------------------------------------------------------------------------

    def kept(self, now_boot_ns: int) -> int:
        """Return the mask of the topics that are kept now."""
        mask = self._topics
        for number, until_ns in enumerate(self._until):
            if now_boot_ns < until_ns <= now_boot_ns + self._keep_ns:
                mask |= 1 << number
        return mask

    def note(self, subscribed_mask: int, now_boot_ns: int) -> None:
        """Keep the topics that have a subscriber now."""
        if not subscribed_mask:
            return
        for number in range(len(TOPICS)):
            if subscribed_mask >> number & 1:
                self._until[number] = now_boot_ns + self._keep_ns
        with suppress(OSError):
            os.pwrite(self._fd, KEPT.pack(*self._until), KEPT_OFFSET)

    # -- the predecessor -----------------------------------------------------------------------------------------------

    @property
    def last(self) -> tuple[int, int] | None:
        """(stream, time in ns) of the last block when the journal was adopted or since; None: it is empty."""
        return self._last

    def adopt(self, encoder: Encoder, boot_unix_ns: int) -> int:
        """Let `encoder` continue behind the events that a predecessor published and did not commit.

        Returns:
            The number of these events.
        """
        committed = [int(seq) for seq in encoder.sequences()[: len(TOPICS)]]
        self._next = [seq + 1 for seq in committed]
        if self._last is None or self._last[0] != encoder.stream:
            return 0
        numbers, order = list(committed), encoder.order
        identities: list[tuple[str, str, int]] = []
        decoder = Decoder()
        reader = JournalReader(JournalFile(self._path))
        try:
            reader.seek(encoder.stream, self._next, (1 << len(TOPICS)) - 1)
            while (read := reader.read()) is not None:
                block, messages = read
                if block.stream != encoder.stream:
                    continue
                for topic, header, body in messages:
                    for event in _uncommitted(decoder, topic, header, body, committed):
                        numbers[topic] = max(numbers[topic], event["seq"])
                        order = max(order, event["order"])
                        identities.append(_identity(event, boot_unix_ns))
        finally:
            reader.close()
        if identities:
            encoder.adopt(numbers, order, identities)
            self._next = [seq + 1 for seq in numbers]
        return len(identities)

    # -- appending -----------------------------------------------------------------------------------------------------

    def append(
        self,
        messages: Sequence[tuple[int, bytes, Any, int, int]],
        *,
        stream: int,
        writer: int,
        epoch: int,
        step: int,
        group: int,
        time_ns: int,
        kept: int,
    ) -> None:
        """Append the messages of a group, each as (topic, header, body, first, count)."""
        size = block_bytes(messages)
        segment = self.geometry.segment_bytes
        if size > segment:
            if len(messages) == 1:
                self._tear(messages)
            for message in messages if len(messages) > 1 else ():
                self.append(
                    [message], stream=stream, writer=writer, epoch=epoch, step=step, group=group, time_ns=time_ns,
                    kept=kept,
                )  # fmt: skip
            return
        at = self._at
        if at % segment + size > segment:
            at += segment - at % segment
        place = JOURNAL_HEADER_BYTES + at % self.geometry.ring_bytes
        if not self._has_room(place):
            self._tear(messages)
            return
        kept = 0 if self._is_torn else kept
        self.events += put_block(
            self._map, place, messages, self._next, at, kept, stream, group, step, writer, epoch, time_ns
        )
        self._at = -(-(at + size) // BLOCK_ALIGNMENT) * BLOCK_ALIGNMENT
        self._last, self._is_torn = (stream, time_ns), False
        self.bytes += size

    def _tear(self, messages: Sequence[tuple[int, bytes, Any, int, int]]) -> None:
        """Note that events could not be appended, for readers of the next block, whichever process writes it."""
        for topic, _, _, first, count in messages:
            self._next[topic] = first
            self.failed += count
        self._is_torn = True
        with suppress(OSError):
            os.pwrite(self._fd, TORN.pack(self._at + 1), TORN_OFFSET)


def _unmapped() -> mmap.mmap:
    return mmap.mmap(-1, mmap.PAGESIZE)


def _readers_mode(socket_mode: int) -> int:
    """Return the mode with which those who may connect to a socket of `socket_mode` may read, and nobody may write."""
    return 0o600 | (socket_mode & 0o022) << 1


def _uncommitted(
    decoder: Decoder, topic: int, header: bytes, body: bytes, committed: Sequence[int]
) -> list[dict[str, Any]]:
    try:
        parsed = Header.parse(header)
        if topic >= len(TOPICS) or parsed.first + parsed.count - 1 <= committed[topic]:
            return []
        events = unpack_events(decoder, body, parsed.count)
    except FrameError:  # by another version, or damaged and with a right checksum
        return []
    return [event for event in events if event["seq"] > committed[topic]]


def _identity(event: dict[str, Any], boot_unix_ns: int) -> tuple[str, str, int]:
    entity, time_ns = event.get("entity_id"), event.get("time_ns")
    boot_ns = time_ns - boot_unix_ns if isinstance(time_ns, int) else 0
    return str(event.get("event")), entity if isinstance(entity, str) else "", boot_ns & _U64
