"""`Spool`: batches that wait for the destination, in files of a directory.

Each file is a segment, of the layout in `declared`: records behind prefixes. The first record of a segment is the
position in the stream at its beginning, the others are batches. So the spool contains where to continue reading, even
if all of its batches are done.

Batches are written before they are sent, and a segment is removed when the destination has all of it. The files are not
synced: they survive a kill of the forwarder, and after a loss of power the last seconds can be missing. A record with
a wrong length or sum ends its segment. At the limit, the oldest segment that is not being sent is replaced by one with
gaps, which are short.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import stat
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgpack

from pipeline import log
from pipeline.bus.stream.position import StreamPosition
from pipeline.errors import ConfigError
from pipeline.forward.batches import GAP, SNAPSHOT, Batch, gap
from pipeline.forward.declared import SPOOL_MAGIC, SPOOL_PREFIX_LAYOUT
from pipeline.forward.figures import Figures
from pipeline.forward.memory import Queued
from pipeline.host.rate_limiter import RateLimiter

FULL = "spool full"
_PREFIX = SPOOL_PREFIX_LAYOUT.struct("record_bytes", "crc")
_RECORD_MAX_BYTES = 64 << 20
_SUFFIX = ".spool"
_SEGMENT_MAX_BYTES = 4 << 20
#: The limit divided by the size of a segment.
_SEGMENTS = 16
#: A full disk is reported at most this often.
_WARN_NS = 60_000_000_000

_Key = tuple[str, int, str]


class _Segment:
    """One file."""

    def __init__(self, number: int, path: Path) -> None:
        self.number = number
        self.path = path
        self.bytes = 0
        self.entries = self.taken = self.done = 0
        #: The gap that takes the place of the batches of each topic, if the segment is dropped.
        self.ranges: dict[_Key, Batch] = {}
        #: Gaps of every topic, which are never dropped.
        self.kept: list[Batch] = []
        self.is_gaps = True

    def add(self, batch: Batch, size: int) -> None:
        """Count a batch that was written."""
        self.bytes += size
        self.entries += 1
        self.is_gaps &= batch.kind == GAP
        self.cover(batch)

    def cover(self, batch: Batch) -> None:
        """Add a batch to the gaps that would take its place."""
        if batch.kind == SNAPSHOT:
            return
        if not batch.topic:
            self.kept.append(batch)
            return
        key = batch.boot, batch.stream, batch.topic
        known = self.ranges.get(key)
        first, from_ns = (batch.first, batch.from_ns) if known is None else (known.first, known.from_ns)
        self.ranges[key] = gap(*key, first, batch.next - first, from_ns, batch.to_ns, FULL)


class Spool:
    """A queue in `directory`, of at most `max_bytes`.

    Attributes:
        boot: boot id of the last batch; empty: the spool is new.
        position: what comes behind the last batch; None: the spool is new.

    Raises:
        ConfigError: the directory cannot be used: it belongs to another user or forwarder, or is no directory.
        OSError: a file cannot be read.
    """

    def __init__(self, directory: Path, max_bytes: int, figures: Figures) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._segment_bytes = min(_SEGMENT_MAX_BYTES, max_bytes // _SEGMENTS)
        self._figures = figures
        self._log = log.get_logger("spool")
        self._segments: dict[int, _Segment] = {}
        self.arrived = asyncio.Event()
        self.streams: list[int] = []
        self.boot = ""
        self._stream: int | None = None
        self._next: dict[str, int] = {}
        self._done_to: dict[_Key, int] = {}
        self._reading: tuple[int, int] | None = None  # descriptor and number of the segment that is read
        self._at = (0, 0)  # segment and offset of the next record
        self._warnings: RateLimiter[None] = RateLimiter(1, _WARN_NS)
        self._lock = _locked(directory)
        self._writing = -1
        try:
            for path in sorted(directory.glob(f"*{_SUFFIX}")):
                self._scan(path)
            self._begin(max(self._segments, default=0) + 1)
        except BaseException:
            self.close()
            raise
        self.rewind()
        self._show()

    @property
    def position(self) -> StreamPosition | None:
        """The position behind the last batch; None: there is no stream yet."""
        return None if self._stream is None else StreamPosition(self._stream, self._next)

    # -- writing -------------------------------------------------------------------------------------------------------

    def put(self, batch: Batch) -> None:
        """Append a batch."""
        record = _record(batch.pack())
        active = self._segments[self._active]
        if active.entries and active.bytes + len(record) > self._segment_bytes:
            try:
                self._begin(self._active + 1)
            except OSError as error:  # the disk is full: continue with the current segment, if it has room
                self._warn(error.strerror)
            active = self._segments[self._active]
        self._note(batch)
        while self.size_bytes + len(record) > self._max_bytes and self._drop():
            pass
        while not self._write(active, record):
            if not self._drop():
                # The sender finds the hole in the numbers, and makes a gap of it.
                self._figures.counts["dropped"] += batch.count if batch.kind not in (GAP, SNAPSHOT) else 0
                return
        active.add(batch, len(record))
        self._show()
        self.arrived.set()

    def _write(self, active: _Segment, record: bytes) -> bool:
        """Append a record to the active segment; return False, and leave it as it was, if the disk is full."""
        try:
            written = os.write(self._writing, record)
            error = None if written == len(record) else "the disk is full"
        except OSError as failure:
            error = failure.strerror
        if error is None:
            return True
        self._warn(error)
        os.ftruncate(self._writing, active.bytes)
        return False

    def _warn(self, reason: str | None) -> None:
        if self._warnings.allow(None):
            self._log.warning("cannot write to the spool", directory=str(self._directory), reason=reason)

    def _begin(self, number: int) -> None:
        """Begin a segment, into which `put` writes from now on."""
        before = self._segments.get(number - 1)
        segment = _Segment(number, self._path(number))
        header = self._header()
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(segment.path, flags, 0o600)
        try:
            if os.write(descriptor, header) < len(header):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            os.close(descriptor)
            segment.path.unlink()
            raise
        if self._writing >= 0:
            os.close(self._writing)
        self._writing = descriptor
        segment.bytes = len(header)
        self._segments[number] = segment
        self._active = number
        if before is not None:
            self._remove_if_done(before)

    def _header(self) -> bytes:
        position = self.position
        return SPOOL_MAGIC + _record(
            msgpack.packb([self.boot, None if position is None else position.as_dict(), self.streams[-64:]])
        )

    def _note(self, batch: Batch) -> None:
        """Move the position behind a batch."""
        self.boot = batch.boot
        if batch.stream != self._stream:
            self._stream, self._next = batch.stream, {}
        if batch.stream not in self.streams:
            self.streams.append(batch.stream)
        begins = batch.begins
        if begins is not None:
            self._next = dict(begins)
        elif batch.topic and batch.kind != SNAPSHOT:
            self._next[batch.topic] = batch.next

    def _drop(self) -> bool:
        """Replace the oldest segment of which nothing is being sent by gaps; return False if there is none."""
        before: _Segment | None = None
        for segment in self._segments.values():
            if segment.number == self._active:
                return False
            is_idle = segment.taken == segment.done
            if is_idle and not segment.is_gaps:
                break
            before = segment if is_idle and segment.is_gaps else None
        else:
            return False
        gaps = _Segment(segment.number, segment.path)
        into = gaps if before is None else before
        for key, missing in segment.ranges.items():
            self._figures.counts["dropped"] += missing.next - max(missing.first, self._done_to.get(key, 0))
        for batch in [*segment.kept, *segment.ranges.values()]:
            into.cover(batch)
        content = self._header_of(segment if before is None else before)
        into.entries = into.taken = into.done = 0
        # Those of every topic first, and none of a stream before one of an earlier stream.
        gaps_in_order = [*into.kept, *into.ranges.values()]
        for batch in sorted(gaps_in_order, key=lambda batch: self.streams.index(batch.stream)):
            content += _record(batch.pack())
            into.entries += 1
        into.bytes = len(content)
        draft = into.path.with_suffix(".new")
        try:
            draft.write_bytes(content)
            draft.replace(into.path)
            self._segments[into.number] = into
        except OSError:
            # The disk is full. Without the record, the sender finds the hole in the numbers.
            draft.unlink(missing_ok=True)
            self._segments.pop(into.number)
            into.path.unlink(missing_ok=True)
        if before is not None:
            segment.path.unlink()
            del self._segments[segment.number]
        if self._at[0] in (into.number, segment.number):
            self._at = (into.number, 0)
            self._close_reading()
        return True

    def _header_of(self, segment: _Segment) -> bytes:
        with segment.path.open("rb") as file:
            start = file.read(len(SPOOL_MAGIC) + _PREFIX.size)
            length, _ = _PREFIX.unpack_from(start, len(SPOOL_MAGIC))
            return start + file.read(length)

    # -- reading -------------------------------------------------------------------------------------------------------

    def take(self) -> Queued | None:
        """Return the next batch."""
        while True:
            number, offset = self._at
            segment = self._segments.get(number)
            if segment is None:
                following = next((other for other in self._segments if other > number), None)
                if following is None:
                    return None
                self._at = (following, 0)
                continue
            if offset == 0:
                try:
                    offset = len(self._header_of(segment))
                except (OSError, struct.error):
                    self._damaged(segment, offset)
                    continue
            if offset < segment.bytes:
                try:
                    content = self._read(segment, offset)
                except OSError:
                    content = None
                batch = None if content is None else _batch(content)
                if content is None or batch is None:
                    self._damaged(segment, offset)
                    continue
                self._at = (number, offset + _PREFIX.size + len(content))
                segment.taken += 1
                return Queued(number, batch)
            self._at = (number, offset)
            if number == self._active:
                return None
            self._at = (number + 1, 0)
            self._remove_if_done(segment)

    def _read(self, segment: _Segment, offset: int) -> bytes | None:
        """Return the content of a record; None: it is damaged."""
        if self._reading is None or self._reading[1] != segment.number:
            self._close_reading()
            self._reading = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), segment.number
        header = os.pread(self._reading[0], _PREFIX.size, offset)
        if len(header) < _PREFIX.size:
            return None
        length, crc = _PREFIX.unpack(header)
        if length > segment.bytes - offset:
            return None
        content = os.pread(self._reading[0], length, offset + _PREFIX.size)
        return content if len(content) == length and zlib.crc32(content) == crc else None

    def done(self, queued: Queued) -> None:
        """Count a batch of a segment as done, and remove the segment if all are."""
        batch, segment = queued.batch, self._segments.get(queued.place)
        if batch.topic and batch.kind != SNAPSHOT:
            self._done_to[batch.boot, batch.stream, batch.topic] = batch.next
        if segment is not None:
            segment.done += 1
            self._remove_if_done(segment)
        self._show()

    def _remove_if_done(self, segment: _Segment) -> None:
        if segment.number != self._active and segment.done >= segment.entries:
            segment.path.unlink(missing_ok=True)
            self._segments.pop(segment.number, None)
            # Only those of the last stream are needed, and one of the stream before it.
            if len(self._done_to) > 256:
                self._done_to.clear()

    def rewind(self) -> None:
        """Begin again with the oldest segment. What the destination has of it is recognised there."""
        for segment in self._segments.values():
            segment.taken = segment.done = 0
        self._at = (next(iter(self._segments)), 0)

    @property
    def is_empty(self) -> bool:
        """Whether all batches are done."""
        return all(segment.done >= segment.entries for segment in self._segments.values())

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(segment.bytes for segment in self._segments.values())

    # -- files ---------------------------------------------------------------------------------------------------------

    def _path(self, number: int) -> Path:
        return self._directory / f"{number:012d}{_SUFFIX}"

    def _scan(self, path: Path) -> None:
        """Read a segment of a former process, and cut it where it is damaged."""
        try:
            number = int(path.name.removesuffix(_SUFFIX))
        except ValueError:
            return
        data = path.read_bytes()
        if data[: len(SPOOL_MAGIC)] != SPOOL_MAGIC and data[: len(SPOOL_MAGIC)] != SPOOL_MAGIC[: len(data)]:
            raise ConfigError(
                f"{path} is not a segment of a spool of this version: remove it, or choose another directory",
                key="forward.spool", value=str(self._directory),
            )  # fmt: skip
        segment = _Segment(number, path)
        for offset, content in _records(data):
            end = offset + _PREFIX.size + len(content)
            if offset == len(SPOOL_MAGIC):
                if not self._adopt(content):
                    break
                segment.bytes = end
                continue
            batch = _batch(content)
            if batch is None:
                break
            segment.add(batch, end - offset)
            self._note(batch)
        if segment.bytes < len(data):
            self._figures.counts["damaged"] += 1
            self._log.warning("cut a damaged segment of the spool", file=str(path), bytes=len(data) - segment.bytes)
            os.truncate(path, segment.bytes)
        if segment.bytes and segment.entries:
            self._segments[number] = segment
        else:
            path.unlink()

    def _adopt(self, content: bytes) -> bool:
        """Take over the position at the beginning of a segment; return False if it is none."""
        try:
            boot, position, streams = msgpack.unpackb(content)
            if position is not None:
                found = StreamPosition.from_dict(position)
                self._stream, self._next = found.stream, dict(found.next)
            self.boot = str(boot)
        except (ValueError, TypeError, msgpack.UnpackException):
            return False
        self.streams += [stream for stream in streams if stream not in self.streams]
        return True

    def _damaged(self, segment: _Segment, offset: int) -> None:
        """Continue behind a segment that cannot be read from `offset` on."""
        self._figures.counts["damaged"] += 1
        self._log.warning("a segment of the spool is damaged", file=str(segment.path), offset=offset)
        segment.entries = segment.taken
        if segment.number == self._active:
            self._begin(self._active + 1)
        self._at = (segment.number + 1, 0)
        self._remove_if_done(segment)

    def _show(self) -> None:
        figures = self._figures
        figures.waiting_segments, figures.is_drained = len(self._segments), self.is_empty
        figures.waiting_bytes = 0 if figures.is_drained else self.size_bytes

    def _close_reading(self) -> None:
        if self._reading is not None:
            os.close(self._reading[0])
            self._reading = None

    def close(self) -> None:
        """Sync and close the files. Calling it again does nothing."""
        self._close_reading()
        if self._writing >= 0:
            with contextlib.suppress(OSError):
                os.fsync(self._writing)
            os.close(self._writing)
            self._writing = -1
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _locked(directory: Path) -> int:
    """Make the directory, and return a descriptor that keeps other forwarders out of it."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _unusable(directory, f"cannot be opened ({error.strerror})") from None
    try:
        found = os.fstat(descriptor)
        if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise _unusable(
                directory, "other users could change: it must belong to the forwarder's user, with mode 0700"
            )
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise _unusable(directory, "is in use: each forwarder needs its own") from None
    except ConfigError:
        os.close(descriptor)
        raise
    return descriptor


def _unusable(directory: Path, why: str) -> ConfigError:
    return ConfigError(f"the spool {directory} {why}", key="forward.spool", value=str(directory))


def _record(content: bytes) -> bytes:
    return _PREFIX.pack(len(content), zlib.crc32(content)) + content


def _records(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield offset and content of each whole record, up to the first damaged one."""
    offset = len(SPOOL_MAGIC)
    while len(data) - offset >= _PREFIX.size:
        length, crc = _PREFIX.unpack_from(data, offset)
        content = data[offset + _PREFIX.size : offset + _PREFIX.size + length]
        if length > _RECORD_MAX_BYTES or len(content) < length or zlib.crc32(content) != crc:
            return
        yield offset, content
        offset += _PREFIX.size + length


def _batch(content: bytes) -> Batch | None:
    try:
        return Batch.unpack(content)
    except (ValueError, TypeError, msgpack.UnpackException):
        return None
