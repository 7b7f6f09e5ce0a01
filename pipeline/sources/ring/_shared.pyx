"""Shared memory of a shard: a ring's pages, the CPUs' states, the resolver's acknowledgements, and single words.

A BPF ring buffer is mapped in the layout of kernel/bpf/ringbuf.c: the consumer's page, which the reader writes; the
producer's page; and the data, mapped twice in a row so that no record is ever split. The kernel maps the producer's
page and the data read-only for every process. For tests and recordings, an ordinary file with the same three parts
(data once) is mapped in the same layout; see `handring`. Draining is in `_drain`.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.errno cimport errno
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcmp, memset
from posix.mman cimport (
    MAP_ANONYMOUS, MAP_FAILED, MAP_FIXED, MAP_PRIVATE, MAP_SHARED, PROT_NONE, PROT_READ, PROT_WRITE, mmap, munmap,
)
from posix.unistd cimport _SC_PAGESIZE, sysconf

import os

from pipeline.bpf._cpus cimport pl_add_lost
from pipeline.shm.layout._layout cimport (
    PL_LAYOUT_VERSION,
    PL_MAGIC,
    PL_STATE_SUPERSEDED,
    pl_control,
    pl_load_acquire32,
    pl_load_acquire64,
    pl_load_relaxed32,
    pl_ring_ack,
)


cdef class RingMap:
    """The mapping of one ring. The process that holds it is the ring's only consumer.

    Args:
        fd: a BPF_MAP_TYPE_RINGBUF map, or a file laid out like one. It is not needed afterwards.
        data_bytes: length of the data area, a power of two and a multiple of the page size.
        is_file: the descriptor is an ordinary file, so its data area must be mapped twice.

    Raises:
        ValueError: a ring cannot have this length.
        OSError: the descriptor cannot be mapped.
    """

    def __cinit__(self, int fd, uint64_t data_bytes, bint is_file):
        cdef void *at
        self.page_bytes = sysconf(_SC_PAGESIZE)
        if data_bytes < self.page_bytes or data_bytes & (data_bytes - 1) or data_bytes > <uint64_t>1 << 40:
            raise ValueError(f"a ring has a power of two of bytes, at least a page ({self.page_bytes}), not {data_bytes}")
        self.data_bytes = data_bytes
        self.mask = data_bytes - 1
        self.producer_bytes = self.page_bytes + 2 * data_bytes
        at = mmap(NULL, self.page_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
        if at == MAP_FAILED:
            raise OSError(errno, f"cannot map the consumer page of a ring: {os.strerror(errno)}")
        self.consumer = <unsigned char *>at
        if not is_file:
            at = mmap(NULL, self.producer_bytes, PROT_READ, MAP_SHARED, fd, self.page_bytes)
            if at == MAP_FAILED:
                raise OSError(errno, f"cannot map the data of a ring: {os.strerror(errno)}")
        else:
            at = mmap(NULL, self.producer_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
            if at == MAP_FAILED:
                raise OSError(errno, f"cannot map the data of a ring: {os.strerror(errno)}")
        self.producer = <unsigned char *>at
        self.data = self.producer + self.page_bytes
        if is_file:
            self._place(fd, self.producer, self.page_bytes + data_bytes, self.page_bytes)
            self._place(fd, self.producer + self.page_bytes + data_bytes, data_bytes, 2 * self.page_bytes)

    cdef int _place(self, int fd, unsigned char *where, size_t length, size_t offset) except -1:
        if mmap(where, length, PROT_READ, MAP_SHARED | MAP_FIXED, fd, offset) == MAP_FAILED:
            raise OSError(errno, f"cannot map the data of a ring: {os.strerror(errno)}")
        return 0

    cpdef uint64_t producer_pos(self) except? 0:
        """Return the position after the last reserved record."""
        self._check()
        return pls_acquire64(self.producer)

    cpdef uint64_t consumer_pos(self) except? 0:
        """Return the position before which the kernel may write new records."""
        self._check()
        return pls_acquire64(self.consumer)

    cpdef int set_consumer_pos(self, uint64_t position) except -1:
        """Allow the kernel to overwrite everything before `position`."""
        self._check()
        # Release: all reads of the released space are complete before the kernel can write there. The kernel loads this
        # word with acquire when it reserves. On aarch64 this is stlr paired with the kernel's ldar.
        pls_release64(self.consumer, position)
        return 0

    cdef int _check(self) except -1:
        if self.consumer == NULL or self.producer == NULL:
            raise ValueError("the ring is closed")
        return 0

    def close(self) -> None:
        """Unmap the ring; may be called twice."""
        if self.consumer != NULL:
            munmap(self.consumer, self.page_bytes)
            self.consumer = NULL
        if self.producer != NULL:
            munmap(self.producer, self.producer_bytes)
            self.producer = NULL

    def __dealloc__(self):
        self.close()


cdef class HeldBuffer:
    """A buffer that is held until `release`."""

    def __dealloc__(self):
        self.release()

    def release(self) -> None:
        """Release the buffer; may be called twice. Call nothing else afterwards."""
        if self.held:
            PyBuffer_Release(&self.view)
            self.held = False

    cdef int hold(self, object buffer, bint writable) except -1:
        PyObject_GetBuffer(buffer, &self.view, PyBUF_SIMPLE | (PyBUF_WRITABLE if writable else 0))
        self.held = True
        return 0

    cdef int require_aligned(self) except -1:
        if <uint64_t>self.view.buf & 7:
            raise ValueError("the buffer does not begin at a multiple of 8")
        return 0


cdef class Words(HeldBuffer):
    """Aligned words in a buffer that several processes map, such as `mmap.mmap`.

    Args:
        buffer: the mapped buffer; it is held, and cannot be closed, until `release`.
        writable: the buffer may be written.
    """

    cdef bint writable

    def __cinit__(self, buffer, bint writable=False):
        self.hold(buffer, writable)
        self.writable = writable
        self.require_aligned()

    cdef char *_at(self, uint64_t offset, uint64_t size, bint write) except NULL:
        if not self.held or offset % size or offset + size > <uint64_t>self.view.len:
            raise IndexError(f"no word of {size} bytes at {offset}")
        if write and not self.writable:
            raise TypeError("the words are read-only")
        return <char *>self.view.buf + offset

    def load64(self, uint64_t offset) -> int:
        """Return the u64 at `offset` (acquire)."""
        return pls_acquire64(self._at(offset, 8, False))

    def store32(self, uint64_t offset, uint32_t value) -> None:
        """Set the u32 at `offset` (release)."""
        pls_release32(self._at(offset, 4, True), value)

    def store64(self, uint64_t offset, uint64_t value) -> None:
        """Set the u64 at `offset` (release)."""
        pls_release64(self._at(offset, 8, True), value)


cdef class ControlView(HeldBuffer):
    """The control segment, read-only: the positions that the resolver has applied, and those it wants read again.

    Args:
        buffer: the mapped file, held until `release`.
    """

    def __cinit__(self, buffer):
        self.hold(buffer, False)
        if <uint64_t>self.view.len < sizeof(pl_control):
            raise ValueError("the control file is too short")
        self.control = <const pl_control *>self.view.buf
        # The writer stores the version last: once it is visible, so is every field that does not change later.
        if pl_load_acquire32(&self.control.layout_version) != PL_LAYOUT_VERSION:
            raise ValueError("the control file is not ready, or of another version")
        if memcmp(self.control.magic, PL_MAGIC, 8) != 0:
            raise ValueError("the file is no control file")
        self.ring_count = self.control.ring_count
        if (
            self.control.ring_offset & 7
            or <uint64_t>self.control.ring_offset + <uint64_t>self.ring_count * sizeof(pl_ring_ack)
            > <uint64_t>self.view.len
        ):
            raise ValueError("the control file is shorter than its ring section")
        self.acks = <const char *>self.view.buf + self.control.ring_offset

    @property
    def capture_id(self) -> int:
        """Id of the capture to which the positions belong."""
        return self.control.capture_id

    cdef bint has_successor(self) noexcept:
        """Whether another control file has replaced this one."""
        return pl_load_relaxed32(&self.control.state) == PL_STATE_SUPERSEDED

    cdef uint32_t audience(self) noexcept:
        """Return which programs wait for events, AUDIENCE_*."""
        return pl_load_relaxed32(&self.control.audience)

    cdef uint32_t gather_us(self) noexcept:
        """Return for how long events may gather with readers; 0: not measured."""
        return pl_load_relaxed32(&self.control.gather_us)

    def ring(self, uint32_t ring) -> tuple:
        """Return (applied_pos, wanted_pos, rewind_seq) of a ring.

        Raises:
            IndexError: there is no such ring.
        """
        cdef uint64_t applied_pos, wanted_pos, rewind_seq
        if not self.held or ring >= self.ring_count:
            raise IndexError(f"no ring {ring}")
        self.read(ring, &applied_pos, &wanted_pos, &rewind_seq)
        return applied_pos, wanted_pos, rewind_seq

    cdef void read(
        self, uint32_t ring, uint64_t *applied_pos, uint64_t *wanted_pos, uint64_t *rewind_seq
    ) noexcept nogil:
        """Read the values of a ring that exists; otherwise like `ring`."""
        cdef const pl_ring_ack *ack = <const pl_ring_ack *>(self.acks + ring * sizeof(pl_ring_ack))
        # The writer stores wanted_pos and then, with release, rewind_seq. A reader of the new rewind_seq therefore also
        # reads the new wanted_pos.
        rewind_seq[0] = pl_load_acquire64(&ack.rewind_seq)
        wanted_pos[0] = pl_load_acquire64(&ack.wanted_pos)
        applied_pos[0] = pl_load_acquire64(&ack.applied_pos)


cdef class CpuStates(HeldBuffer):
    """The map `pl_shared`: counters of each CPU's programs, and whether the shard of its ring sleeps.

    Args:
        buffer: the mapped map, or any buffer of the same form; writable. Held until `release`.
    """

    def __cinit__(self, buffer):
        self.hold(buffer, True)
        self.require_aligned()
        self.cpus = <pl_cpu *>self.view.buf
        self.count = <int>(self.view.len // sizeof(pl_cpu))

    cdef pl_cpu *_cpu(self, int cpu) except NULL:
        if not self.held or not 0 <= cpu < self.count:
            raise IndexError(f"no CPU {cpu}")
        return &self.cpus[cpu]

    def ring(self, int cpu) -> int:
        """Return the number of the ring that a CPU writes to."""
        return pls_acquire32(&self._cpu(cpu).ring)

    def lost(self, cpus) -> tuple:
        """Return how many records could not be written on these CPUs so far, one number for each kind."""
        cdef uint64_t sums[PL_KIND_COUNT]
        cdef int kind
        memset(sums, 0, sizeof(sums))
        for cpu in cpus:
            self.add_lost(cpu, sums)
        return tuple([sums[kind] for kind in range(PL_KIND_COUNT)])

    cdef int add_lost(self, int cpu, uint64_t *sums) except -1:
        """Add to `sums`, by kind, how many records could not be written on a CPU so far."""
        pl_add_lost(self._cpu(cpu), sums)
        return 0

    cpdef int set_sleeping(self, int ring, bint sleeping) except -1:
        """Set whether the next record in a ring must wake its shard.

        The word belongs to the CPU that has the ring's number. Before a shard sleeps, it sets the word, executes a
        fence, and checks for records once more. A CPU makes its record visible (the reservation), executes an atomic
        that is a full barrier, and then reads whether the shard sleeps. At least one of the two therefore sees what the
        other stored: the shard sees the record, or the CPU sees the sleeping shard. The CPU that wakes the shard clears
        the word itself, so that later records do not wake the shard again.
        """
        pls_release32(&self._cpu(ring).sleeping, sleeping)
        if sleeping:
            pls_fence()
        return 0
