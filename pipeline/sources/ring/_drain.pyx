"""Drain a mapped ring into the columns of a frame. Mapping is in `_shared`, waiting in `_pacing`, encoding in the bus.

A record in a ring is an 8-byte header (u32 length with two flag bits, u32 page offset) and `length` bytes, padded to a
multiple of 8. While BUSY is set, the record is still being written. DISCARD means that the producer discarded it.
Positions count the bytes since the ring was created. They do not wrap; the offset in the data area is
position & (size - 1).

The content of a record is described in `pipeline.records.declared`. A record that is too long or too short for its kind
is counted and left out. Otherwise one bad record would make the reader of a frame reject the good records around it.

Source: kernel/bpf/ringbuf.c.
"""

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, memset

import mmap

from pipeline.bus.frames._column cimport column
from pipeline.records._limits cimport RING_ALIGNMENT, RING_BUSY_BIT, RING_DISCARD_BIT, RING_HEADER_BYTES
from pipeline.records._records cimport (
    PL_FLAG_HEAD_ONLY, PL_KIND_COUNT, PL_KIND_EXEC, PL_KIND_EXIT, PL_KIND_FORK, pl_adds_up, pl_exec_any, pl_exit_any,
    pl_fork_any, pl_header_any, pl_task_any,
)
from pipeline.sources.ring._shared cimport RingMap, pls_acquire32, pls_acquire64


#: `Columns.stop` if everything up to the producer's position was read.
CAUGHT_UP = STOP_CAUGHT_UP


cdef inline uint64_t fixed_bytes(uint32_t kind) noexcept nogil:
    """Return the length of a record of this kind without its strings."""
    cdef uint64_t body = 0
    if kind == PL_KIND_FORK:
        body = sizeof(pl_fork_any)
    elif kind == PL_KIND_EXEC:
        body = sizeof(pl_exec_any)
    elif kind == PL_KIND_EXIT:
        body = sizeof(pl_exit_any)
    return sizeof(pl_header_any) + sizeof(pl_task_any) + body


cdef class Columns:
    """Buffers for the records of one frame, reused for the next frame.

    Args:
        max_bytes: the frame is full when its rows and strings reach this many bytes. One record always fits.

    Attributes:
        count: records in the columns.
        var_bytes: bytes of strings.
        discarded: records in this frame's range that the producer discarded.
        malformed: records in this frame's range that were left out.
        stop: why the last `drain` stopped.
    """

    def __cinit__(self, uint64_t max_bytes):
        if not 0 < max_bytes <= <uint64_t>1 << 30:
            raise ValueError(f"a frame of {max_bytes} bytes")
        self.max_bytes = max_bytes
        # Every row has at least a HEADER and a TASK.
        self.max_records = max_bytes // (sizeof(pl_header_any) + sizeof(pl_task_any)) + 1
        # Longer than any record: path, name, arguments and environment are limited to 4, 4, 32 and 32 KiB.
        self.max_var = max_bytes if max_bytes > 128 << 10 else 128 << 10
        self.header_view, self.headers = self._room(self.max_records * sizeof(pl_header_any)), self._last()
        self.task_view, self.tasks = self._room(self.max_records * sizeof(pl_task_any)), self._last()
        self.fork_view, self.forks = self._room(self.max_records * sizeof(pl_fork_any)), self._last()
        self.exec_view, self.execs = self._room(self.max_records * sizeof(pl_exec_any)), self._last()
        self.exit_view, self.exits = self._room(self.max_records * sizeof(pl_exit_any)), self._last()
        self.blob_view, self.blobs = self._room(self.max_var), self._last()

    cdef object _room(self, uint64_t length):
        # Anonymous memory instead of a bytearray: the kernel allocates no page for memory that is never touched.
        view = memoryview(mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        PyObject_GetBuffer(view, &self.held[self.held_count], PyBUF_WRITABLE)
        self.held_count += 1
        return view

    cdef char *_last(self):
        return <char *>self.held[self.held_count - 1].buf

    def __dealloc__(self):
        cdef int i
        for i in range(self.held_count):
            PyBuffer_Release(&self.held[i])

    cdef void parts(self, column *columns) noexcept nogil:
        """Store the columns in `columns`, in the order of a frame's keys."""
        columns[0].at, columns[0].bytes = <unsigned char *>self.headers, self.count * sizeof(pl_header_any)
        columns[1].at, columns[1].bytes = <unsigned char *>self.tasks, self.count * sizeof(pl_task_any)
        columns[2].at, columns[2].bytes = <unsigned char *>self.forks, self.fork_count * sizeof(pl_fork_any)
        columns[3].at, columns[3].bytes = <unsigned char *>self.execs, self.exec_count * sizeof(pl_exec_any)
        columns[4].at, columns[4].bytes = <unsigned char *>self.exits, self.exit_count * sizeof(pl_exit_any)
        columns[5].at, columns[5].bytes = <unsigned char *>self.blobs, self.var_bytes

    def views(self) -> dict:
        """Return the columns by their names in a frame; the next `drain` overwrites them."""
        return {
            "header": self.header_view[: self.count * sizeof(pl_header_any)],
            "task": self.task_view[: self.count * sizeof(pl_task_any)],
            "fork": self.fork_view[: self.fork_count * sizeof(pl_fork_any)],
            "exec": self.exec_view[: self.exec_count * sizeof(pl_exec_any)],
            "exit": self.exit_view[: self.exit_count * sizeof(pl_exit_any)],
            "blob": self.blob_view[: self.var_bytes],
        }

    def drain(self, RingMap ring, uint64_t cursor, uint64_t max_records) -> int:
        """Overwrite the columns with the records from `cursor` on.

        Args:
            ring: an open ring.
            cursor: the position of a record.
            max_records: stop after this many records, including discarded and malformed ones; at least 1.

        Returns:
            The position after the last record that was read; `stop` contains the reason for stopping there.
        """
        return self.read(ring, cursor, max_records)

    cdef uint64_t read(self, RingMap ring, uint64_t cursor, uint64_t max_records) except? 0:
        ring._check()
        return self._drain(ring, cursor, max_records)

    cdef uint64_t _drain(self, RingMap ring, uint64_t cursor, uint64_t max_records) noexcept nogil:
        # Acquire: pairs with the release store of the CPU that reserves. After this load, every ring header before
        # the position is visible, including its busy bit.
        cdef uint64_t producer_pos = pls_acquire64(ring.producer)
        cdef uint64_t seen = 0, used = 0, row, span
        cdef uint32_t ring_header, size
        cdef const unsigned char *record
        self.count = self.var_bytes = self.discarded = self.malformed = 0
        self.fork_count = self.exec_count = self.exit_count = 0
        self.stop = STOP_CAUGHT_UP
        if cursor < producer_pos and producer_pos - cursor > ring.data_bytes:
            # A ring never holds more than its size: without this check, the same bytes would be read again and again.
            self.malformed += 1
            self.stop = STOP_CORRUPT
            return producer_pos
        while cursor < producer_pos:
            if seen >= max_records:
                self.stop = STOP_FULL
                break
            record = ring.data + (cursor & ring.mask)
            # Acquire: pairs with the exchange that clears the busy bit at submit, so the whole record is visible.
            ring_header = pls_acquire32(record)
            if ring_header & <uint32_t>RING_BUSY_BIT:
                self.stop = STOP_BUSY
                break
            size = ring_header & ~(<uint32_t>RING_BUSY_BIT | <uint32_t>RING_DISCARD_BIT)
            span = RING_HEADER_BYTES + (<uint64_t>size + RING_ALIGNMENT - 1) // RING_ALIGNMENT * RING_ALIGNMENT
            if span > ring.data_bytes or span > producer_pos - cursor:
                # The position of the next record is unknown, so nothing after this record can be read.
                self.malformed += 1
                self.stop = STOP_CORRUPT
                return producer_pos
            if ring_header & <uint32_t>RING_DISCARD_BIT:
                self.discarded += 1
            else:
                row = self._append(record + RING_HEADER_BYTES, size, cursor, self.max_bytes - min(used, self.max_bytes))
                if row == 0:
                    self.stop = STOP_FULL
                    break
                used += row - 1
            seen += 1
            cursor += span
        return cursor

    cdef uint64_t _append(
        self, const unsigned char *record, uint32_t size, uint64_t position, uint64_t room
    ) noexcept nogil:
        """Append a record. Returns its bytes plus 1 (1 for a malformed record), or 0 if the columns have no room."""
        cdef pl_header_any *header = <pl_header_any *>(self.headers + self.count * sizeof(pl_header_any))
        cdef uint64_t fixed
        if self.count >= self.max_records:
            return 0
        if size < sizeof(pl_header_any):
            return self._leave_out()
        # The copy is checked, not the ring: the shared bytes may still change, but the frame contains what was checked.
        memcpy(header, record, sizeof(pl_header_any))
        if header.kind == 0 or header.kind >= PL_KIND_COUNT or header.record_bytes > size:
            return self._leave_out()
        # The older set of BPF programs reserves constant sizes, so room may be left behind a record.
        size = header.record_bytes
        header.ring_pos = position
        if header.flags & PL_FLAG_HEAD_ONLY:
            return self._append_header(header, room)
        fixed = fixed_bytes(header.kind)
        if fixed + header.var_bytes != size or header.var_bytes > self.max_var:
            return self._leave_out()
        if header.var_bytes > self.max_var - self.var_bytes or (self.count and room < size):
            return 0
        if not self._append_body(header, record + sizeof(pl_header_any) + sizeof(pl_task_any)):
            return self._leave_out()
        memcpy(self.tasks + self.count * sizeof(pl_task_any), record + sizeof(pl_header_any), sizeof(pl_task_any))
        memcpy(self.blobs + self.var_bytes, record + fixed, header.var_bytes)
        self.var_bytes += header.var_bytes
        self.count += 1
        return <uint64_t>size + 1

    cdef inline uint64_t _leave_out(self) noexcept nogil:
        """Count a malformed record; return what `_append` returns for it."""
        self.malformed += 1
        return 1

    cdef inline uint64_t _append_header(self, pl_header_any *header, uint64_t room) noexcept nogil:
        """Append a record that was reduced to its header, which its column has already; returns what `_append` does."""
        if header.record_bytes != sizeof(pl_header_any):
            return self._leave_out()
        if self.count and room < sizeof(pl_header_any) + sizeof(pl_task_any):
            return 0
        # Without the strings themselves, their length is meaningless.
        header.var_bytes = 0
        memset(self.tasks + self.count * sizeof(pl_task_any), 0, sizeof(pl_task_any))
        self.count += 1
        return sizeof(pl_header_any) + sizeof(pl_task_any) + 1

    cdef inline bint _append_body(self, const pl_header_any *header, const unsigned char *body) noexcept nogil:
        """Append the section that the kind of the record has; False: its lengths contradict the header."""
        cdef pl_exec_any *exec_
        if header.kind == PL_KIND_FORK:
            memcpy(self.forks + self.fork_count * sizeof(pl_fork_any), body, sizeof(pl_fork_any))
            self.fork_count += 1
        elif header.kind == PL_KIND_EXIT:
            memcpy(self.exits + self.exit_count * sizeof(pl_exit_any), body, sizeof(pl_exit_any))
            self.exit_count += 1
        elif header.kind == PL_KIND_EXEC:
            exec_ = <pl_exec_any *>(self.execs + self.exec_count * sizeof(pl_exec_any))
            memcpy(exec_, body, sizeof(pl_exec_any))
            if (
                not pl_adds_up(
                    header.flags, header.var_bytes,
                    <uint64_t>exec_.path_bytes + exec_.name_bytes + exec_.args_bytes + exec_.envs_bytes,
                )
                or exec_.root_offset > exec_.path_bytes
            ):
                return False
            self.exec_count += 1
        return True
