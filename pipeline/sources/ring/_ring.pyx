"""One ring with its reader's cursor. `_shared` maps the pages, `_drain` reads the records.

The reader has two positions. The cursor is the position up to which it has read. The consumer position, which the
kernel reads, is the position up to which it has released the space. The records between the two have been handed over
but not yet applied: they stay in the ring, and a rewind reads them again.
So: consumer position <= cursor <= producer position.
"""

import os
import stat

from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset

from pipeline import proc_text
from pipeline.errors import UnsupportedError
from pipeline.records.declared import KIND_NAMES

from pipeline.bus.frames._frame_writer cimport packed_counts
from pipeline.records._limits cimport RING_ALIGNMENT
from pipeline.sources.ring._drain cimport STOP_CAUGHT_UP, STOP_CORRUPT, Columns
from pipeline.sources.ring._shared cimport PL_KIND_COUNT, CpuStates, RingMap

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def ring_data_bytes(int fd) -> int:
    """Return the length in bytes of a ring's data area; the ring is a ring buffer map or a file laid out like one.

    Raises:
        UnsupportedError: the descriptor is neither.
    """
    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode):
        return status.st_size - 2 * PAGE_BYTES
    entries = proc_text.fdinfo_value(fd, b"max_entries")
    if not entries:
        raise UnsupportedError(f"descriptor {fd} is no ring buffer", feature="ring", needs="a BPF_MAP_TYPE_RINGBUF map")
    return int(entries)


cdef class Ring:
    """A ring and the one cursor that reads it.

    Attributes:
        number: the ring's number; with eBPF, the number of its CPU.
        cpus: the CPUs that write to it.
        cursor: position of the next record to read.
        stop: why the last `drain` stopped (`_drain.CAUGHT_UP` ...).
        consumer_pos: position before which the space has been released.
        records_total, discarded_total, malformed_total: records read so far; a rewind counts them again.
        corrupt_total: headers that the kernel cannot have written; each time, the ring up to the producer's position
            was skipped.
        refused_total: acknowledged or wanted positions that were ignored because they are impossible.
    """

    def __init__(self, int fd, *, number: int, cpus=(), data_bytes: int | None = None, wake_fd: int | None = None):
        """Map the ring and start at the consumer position.

        Args:
            fd: a ring buffer map, or a file laid out like one (see `handring`). It must stay open if it is also the
                descriptor to wait on.
            number: the ring's number.
            cpus: the CPUs that write to it.
            data_bytes: length of the data area; None to read it from the descriptor.
            wake_fd: the descriptor that becomes readable when the producer wakes a sleeping shard; None for `fd`.

        Raises:
            UnsupportedError: the descriptor is not a ring.
            OSError: the ring cannot be mapped.
        """
        is_file = stat.S_ISREG(os.fstat(fd).st_mode)
        self._map = RingMap(fd, ring_data_bytes(fd) if data_bytes is None else data_bytes, is_file)
        self._wake_fd = fd if wake_fd is None else wake_fd
        self.number = number
        self.cpus = tuple(cpus)
        self._cpus = <int *>malloc(max(1, len(self.cpus)) * sizeof(int))
        if self._cpus == NULL:
            raise MemoryError
        for cpu in self.cpus:
            self._cpus[self._cpu_count] = cpu
            self._cpu_count += 1
        self.data_bytes = self._map.data_bytes
        self.cursor = self.consumer_pos = self._map.consumer_pos()
        self.stop = STOP_CAUGHT_UP
        self.lost = dict.fromkeys(KIND_NAMES[1:], 0)
        self.lost_packed = packed_counts(self.lost)

    def __dealloc__(self):
        free(self._cpus)

    def fileno(self) -> int:
        """Return the descriptor to wait on.

        Wait edge-triggered: the space is released late, so the descriptor is nearly always readable.
        """
        return self._wake_fd

    @property
    def producer_pos(self) -> int:
        """Position after the last reserved record."""
        return self._map.producer_pos()

    cdef bint is_behind(self) except -1:
        """Whether there is a record after the cursor, complete or not."""
        return self._map.producer_pos() > self.cursor

    def drain(self, Columns columns not None, uint64_t max_records) -> int:
        """Read records from the cursor on into `columns`, and overwrite their former content.

        Returns:
            The number of records read, including the discarded and the malformed ones.
        """
        return self.read(columns, max_records)

    cdef int64_t read(self, Columns columns, uint64_t max_records) except -1:
        self.cursor = columns.read(self._map, self.cursor, max_records)
        self.stop = columns.stop
        self.records_total += columns.count
        self.discarded_total += columns.discarded
        self.malformed_total += columns.malformed
        if columns.stop == STOP_CORRUPT:
            self.corrupt_total += 1
        return columns.count + columns.discarded + columns.malformed

    cpdef release(self, uint64_t applied_pos):
        """Release the space of applied records, and no more.

        Records before `applied_pos` need not be read any more, so the cursor moves up to that position if it is behind.
        A position that this ring has not reached belongs to another ring and is ignored.
        """
        if applied_pos <= self.consumer_pos:
            return
        if applied_pos % RING_ALIGNMENT or (
            applied_pos > self.cursor and applied_pos > <uint64_t>self._map.producer_pos()
        ):
            self.refused_total += 1
            return
        self.cursor = max(self.cursor, applied_pos)
        self._map.set_consumer_pos(applied_pos)
        self.consumer_pos = applied_pos

    cpdef bint rewind(self, uint64_t wanted_pos) except -1:
        """Read again from `wanted_pos`, or from the oldest record that is still there.

        Returns:
            Whether the cursor was moved. A position that this ring has not reached is ignored.
        """
        if wanted_pos % RING_ALIGNMENT or (
            wanted_pos > self.cursor and wanted_pos > <uint64_t>self._map.producer_pos()
        ):
            self.refused_total += 1
            return False
        self.cursor = max(wanted_pos, self.consumer_pos)
        return True

    cdef bint has_new_losses(self, CpuStates states) except -1:
        """Read how many records the kernel could not write on this ring's CPUs; returns whether `lost` has changed."""
        cdef uint64_t sums[PL_KIND_COUNT]
        cdef int kind, i
        memset(sums, 0, sizeof(sums))
        for i in range(self._cpu_count):
            states.add_lost(self._cpus[i], sums)
        if memcmp(sums, self._sums, sizeof(sums)) == 0:
            return False
        memcpy(self._sums, sums, sizeof(sums))
        self.lost = {KIND_NAMES[kind]: sums[kind] for kind in range(1, PL_KIND_COUNT)}
        self.lost_packed = packed_counts(self.lost)
        return True

    def close(self) -> None:
        """Unmap the ring; the caller still owns the descriptors."""
        self._map.close()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, at) -> None:
        self.close()
