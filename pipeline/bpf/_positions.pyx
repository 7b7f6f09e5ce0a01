"""Read the producer positions of all rings together with the time for which they are valid.

This is the resolver's half of the watermark: read the boot clock, then the positions. A record at or after a ring's
position was reserved after the clock was read. Its timestamp, which is read behind a full barrier after the
reservation, is therefore not older (docs/architecture.md, "Merge"). _drain.pyx drains the rings.
"""

from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free
from posix.mman cimport MAP_FAILED, MAP_SHARED, PROT_READ, mmap, munmap
from posix.unistd cimport _SC_PAGESIZE, sysconf

from pipeline.records._clock cimport pl_now_boot_ns


cdef extern from *:
    """
    #include <stdint.h>
    static inline uint64_t pl_position(const void *p) { return __atomic_load_n((const uint64_t *)p, __ATOMIC_ACQUIRE); }
    static inline void pl_full_fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
    """
    uint64_t pl_position(const void *p) nogil
    void pl_full_fence() nogil


cdef class ProducerPositions:
    """Read-only mappings of the rings' producer pages.

    Args:
        fds: ring number -> descriptor of its BPF_MAP_TYPE_RINGBUF map (or of a file with the same layout).
        ring_count: length of the position array; rings without a descriptor stay at 0.

    Raises:
        OSError: a descriptor cannot be mapped.
    """

    def __cinit__(self, dict fds, int ring_count):
        cdef int ring
        cdef void *at
        if ring_count <= 0:
            raise ValueError(f"ring_count is {ring_count}, expected at least 1")
        self.ring_count = ring_count
        self.page_bytes = sysconf(_SC_PAGESIZE)
        self.pages = <uint64_t **>calloc(ring_count, sizeof(uint64_t *))
        if self.pages == NULL:
            raise MemoryError
        for number, fd in fds.items():
            ring = number
            if not 0 <= ring < ring_count:
                raise ValueError(f"ring {ring} is outside 0..{ring_count - 1}")
            # kernel/bpf/ringbuf.c: page 0 is the consumer page, page 1 the producer page.
            at = mmap(NULL, self.page_bytes, PROT_READ, MAP_SHARED, fd, self.page_bytes)
            if at == MAP_FAILED:
                raise OSError(f"cannot map the producer page of ring {ring} (descriptor {fd})")
            self.pages[ring] = <uint64_t *>at

    def sample(self, uint64_t[::1] positions):
        """Fill `positions` (shape (ring_count,), bytes); return the boot-clock time in ns for which they are valid."""
        if positions.shape[0] < self.ring_count:
            raise ValueError("positions is shorter than ring_count")
        return self.read(&positions[0])

    cdef uint64_t read(self, uint64_t *positions) noexcept nogil:
        """Do the same as `sample`, into an array of ring_count numbers."""
        cdef uint64_t now = pl_now_boot_ns()
        cdef int ring
        # Orders the loads after the clock; pairs with the barrier between reservation and timestamp in the BPF
        # programs.
        pl_full_fence()
        for ring in range(self.ring_count):
            positions[ring] = pl_position(self.pages[ring]) if self.pages[ring] != NULL else 0
        return now

    def close(self):
        """Unmap; idempotent."""
        cdef int ring
        for ring in range(self.ring_count):
            if self.pages[ring] != NULL:
                munmap(self.pages[ring], self.page_bytes)
                self.pages[ring] = NULL

    def __dealloc__(self):
        if self.pages != NULL:
            self.close()
            free(self.pages)
