"""One ring with its reader's cursor. The pages are mapped by `_shared`, records are read by `_drain`.

The reader has two positions. The cursor is how far it has read; the consumer position, which the kernel knows, is how
far it has given space back. Between them lie records that were handed on but that nobody has applied yet: they stay in
the ring, and a rewind reads them again. So: consumer position <= cursor <= producer position.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from types import TracebackType
from typing import Self

from pipeline.errors import UnsupportedError
from pipeline.sources._drain import CAUGHT_UP, CORRUPT, Columns
from pipeline.sources._shared import RingMap

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def ring_data_bytes(fd: int) -> int:
    """Return the length of the data area behind a descriptor: a ring buffer map, or a file laid out like one.

    Raises:
        UnsupportedError: it is neither.
    """
    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode):
        return status.st_size - 2 * PAGE_BYTES
    with Path(f"/proc/self/fdinfo/{fd}").open() as info:
        for line in info:
            name, _, value = line.partition(":")
            if name == "max_entries":
                return int(value)
    raise UnsupportedError(f"descriptor {fd} is no ring buffer", feature="ring", needs="a BPF_MAP_TYPE_RINGBUF map")


class Ring:
    """A ring and the one cursor that reads it.

    Attributes:
        number: of the ring; for eBPF the CPU.
        cpus: the CPUs that write to it.
        cursor: position of the next record to read.
        stop: why the last `drain` stopped (`_drain.CAUGHT_UP` ...).
        records_total, discarded_total, malformed_total: what was read so far; a rewind counts again.
        corrupt_total: headers that no kernel wrote; what followed up to the producer's position was given up.
        refused_total: acknowledged or wanted positions that cannot be, and were not followed.
    """

    def __init__(
        self,
        fd: int,
        *,
        number: int,
        cpus: tuple[int, ...] = (),
        data_bytes: int | None = None,
        wake_fd: int | None = None,
    ) -> None:
        """Map the ring, and begin where its last consumer released.

        Args:
            fd: a ring buffer map, or a file laid out like one (see `handring`). It must stay open if it is also the
                descriptor to wait on.
            number, cpus: see the class.
            data_bytes: length of the data area; None to ask the descriptor.
            wake_fd: what becomes readable when a sleeper is woken; None for `fd` itself.

        Raises:
            UnsupportedError: the descriptor is no ring.
            OSError: it cannot be mapped.
        """
        is_file = stat.S_ISREG(os.fstat(fd).st_mode)
        self._map = RingMap(fd, ring_data_bytes(fd) if data_bytes is None else data_bytes, is_file)
        self._wake_fd = fd if wake_fd is None else wake_fd
        self.number = number
        self.cpus = cpus
        self.data_bytes = self._map.data_bytes
        self.cursor = self._released = self._map.consumer_pos()
        self.stop = CAUGHT_UP
        self.records_total = 0
        self.discarded_total = 0
        self.malformed_total = 0
        self.corrupt_total = 0
        self.refused_total = 0

    def fileno(self) -> int:
        """Return the descriptor to wait on. Wait edge-triggered: released space lags, so it is nearly always ready."""
        return self._wake_fd

    @property
    def producer_pos(self) -> int:
        """Position behind the last record that was reserved."""
        return self._map.producer_pos()

    @property
    def consumer_pos(self) -> int:
        """Position before which space was given back."""
        return self._released

    @property
    def has_more(self) -> bool:
        """Whether there is a record behind the cursor, finished or not."""
        return self._map.producer_pos() > self.cursor

    def drain(self, columns: Columns, max_records: int) -> int:
        """Read records from the cursor on into `columns`, whose former content is overwritten.

        Returns:
            Records read: those in the columns, the discarded and the malformed.
        """
        self.cursor = columns.drain(self._map, self.cursor, max_records)
        self.stop = columns.stop
        self.records_total += columns.count
        self.discarded_total += columns.discarded
        self.malformed_total += columns.malformed
        if columns.stop == CORRUPT:
            self.corrupt_total += 1
        return columns.count + columns.discarded + columns.malformed

    def release(self, applied_pos: int) -> None:
        """Give back the space of what was applied, and no more.

        What lies before `applied_pos` need not be read any more, so the cursor follows it if it is behind. A position
        that this ring has not reached is not followed: it belongs to another ring.
        """
        if applied_pos <= self._released:
            return
        if applied_pos & 7 or (applied_pos > self.cursor and applied_pos > self._map.producer_pos()):
            self.refused_total += 1
            return
        self.cursor = max(self.cursor, applied_pos)
        self._map.set_consumer_pos(applied_pos)
        self._released = applied_pos

    def rewind(self, wanted_pos: int) -> bool:
        """Read again from `wanted_pos`, or from the oldest record that is still there.

        Returns:
            Whether the cursor was moved; a position that this ring has not reached is not followed.
        """
        if wanted_pos & 7 or (wanted_pos > self.cursor and wanted_pos > self._map.producer_pos()):
            self.refused_total += 1
            return False
        self.cursor = max(wanted_pos, self._released)
        return True

    def close(self) -> None:
        """Unmap; the descriptors stay the caller's."""
        self._map.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
