"""The producer of a ring in a file that does what BPF programs do with a ring of the kernel."""

from __future__ import annotations

from pipeline.records.limits import RING_BUSY_BIT, RING_DISCARD_BIT
from pipeline.sources.ring.handring import RingWriter


class KernelWriter(RingWriter):
    """Call `reserve` and then `commit` or `discard`; or `write`, after which a record was never busy."""

    def reserve(self, length: int) -> int | None:
        """Reserve room for a record of `length` bytes; the record is busy until it is committed or discarded.

        Returns:
            Its position; None if the ring is full.
        """
        end = self._room(length)
        if end is None:
            return None
        position = self.producer_pos
        # Store the busy header before the position that makes the reader read it.
        self._words.store32(self._offset(position), length | RING_BUSY_BIT)
        self._advance(end)
        return position

    def commit(self, position: int, record: bytes) -> None:
        """Fill the record that was reserved at `position`, and end its reservation."""
        self._fill(position, record)
        # Release: a reader that sees the header without the busy bit sees the whole record.
        self._words.store32(self._offset(position), len(record))

    def discard(self, position: int, record: bytes) -> None:
        """Do the same, but have readers skip the record."""
        self._fill(position, record)
        self._words.store32(self._offset(position), len(record) | RING_DISCARD_BIT)

    def write_discarded(self, record: bytes) -> int | None:
        """Write a whole record that readers skip; return its position, or None if the ring is full."""
        position = self.reserve(len(record))
        if position is not None:
            self.discard(position, record)
        return position
