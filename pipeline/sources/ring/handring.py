"""A ring in a memory file with the layout of a BPF ring buffer, and its producer.

    offset            size        part
    0                 page        consumer position (u64), written by the reader
    page              page        producer position (u64), written by the producer
    2 * page          data_bytes  records, as `_drain` describes them

The proc connector, the tracer source, tests and benches fill such a ring. It has exactly one producer: unlike in the
kernel, there is no lock between producers. `_ring.Ring` reads it like a ring of the kernel.
"""

from __future__ import annotations

import mmap
import os
from types import TracebackType
from typing import Self

from pipeline.bus.frames.encode import record_span
from pipeline.records.limits import RING_HEADER_BYTES
from pipeline.sources.ring._ring import PAGE_BYTES, ring_data_bytes
from pipeline.sources.ring._shared import Words


def make_ring_file(data_bytes: int, *, position: int = 0) -> int:
    """Return a new memfd with an empty ring.

    Args:
        data_bytes: a power of two, at least a page.
        position: initial value of both positions; a multiple of 8.
    """
    fd = os.memfd_create("procline-ring", os.MFD_CLOEXEC)
    os.ftruncate(fd, 2 * PAGE_BYTES + data_bytes)
    os.pwrite(fd, position.to_bytes(8, "little"), 0)
    os.pwrite(fd, position.to_bytes(8, "little"), PAGE_BYTES)
    return fd


class RingWriter:
    """The producer of a ring in a file."""

    def __init__(self, fd: int) -> None:
        """Map the file and continue at its producer position."""
        self.data_bytes = ring_data_bytes(fd)
        self._file = mmap.mmap(fd, 2 * PAGE_BYTES + self.data_bytes)
        self._words = Words(self._file, writable=True)
        self._mask = self.data_bytes - 1
        self.producer_pos = self._words.load64(PAGE_BYTES)

    @property
    def consumer_pos(self) -> int:
        """Position before which the reader has released the space."""
        return self._words.load64(0)

    def _offset(self, position: int) -> int:
        return 2 * PAGE_BYTES + (position & self._mask)

    def _room(self, length: int) -> int | None:
        """Return the position after the next record of `length` bytes; None if the ring is full."""
        end = self.producer_pos + record_span(length)
        return None if end - self.consumer_pos > self.data_bytes else end

    def write(self, record: bytes) -> int | None:
        """Write a whole record; return its position, or None if the ring is full.

        The record is never busy: if the producer is killed here, no reader waits forever for an unfinished record.
        """
        end = self._room(len(record))
        if end is None:
            return None
        position = self.producer_pos
        self._fill(position, record)
        # Release: a reader that sees the header sees the whole record.
        self._words.store32(self._offset(position), len(record))
        self._advance(end)
        return position

    def _fill(self, position: int, record: bytes) -> None:
        """Store a record without its header."""
        start = self._offset(position + RING_HEADER_BYTES)
        first = min(len(record), 2 * PAGE_BYTES + self.data_bytes - start)
        self._file[start : start + first] = record[:first]
        if first < len(record):
            self._file[2 * PAGE_BYTES : 2 * PAGE_BYTES + len(record) - first] = record[first:]

    def _advance(self, end: int) -> None:
        # Release: a reader that sees the position sees every record before it.
        self.producer_pos = end
        self._words.store64(PAGE_BYTES, end)

    def close(self) -> None:
        """Unmap the file; the caller still owns the descriptor."""
        self._words.release()
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
