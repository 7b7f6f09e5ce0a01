"""A mapped ring and shared words, as the compiled drain uses them."""

from libc.stdint cimport uint32_t, uint64_t

from pipeline.bpf._cpus cimport PL_KIND_COUNT, pl_cpu
from pipeline.shm.layout._layout cimport pl_control


cdef extern from *:
    """
    #include <stdint.h>
    /* GCC and clang builtins follow the C11 model: on aarch64 an acquire load is ldar and a release store stlr. */
    static inline uint32_t pls_acquire32(const void *p)
    {
        return __atomic_load_n((const uint32_t *)p, __ATOMIC_ACQUIRE);
    }
    static inline uint64_t pls_acquire64(const void *p)
    {
        return __atomic_load_n((const uint64_t *)p, __ATOMIC_ACQUIRE);
    }
    static inline void pls_release32(void *p, uint32_t v) { __atomic_store_n((uint32_t *)p, v, __ATOMIC_RELEASE); }
    static inline void pls_release64(void *p, uint64_t v) { __atomic_store_n((uint64_t *)p, v, __ATOMIC_RELEASE); }
    static inline void pls_fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
    """
    uint32_t pls_acquire32(const void *p) nogil
    uint64_t pls_acquire64(const void *p) nogil
    void pls_release32(void *p, uint32_t v) nogil
    void pls_release64(void *p, uint64_t v) nogil
    void pls_fence() nogil


cdef class RingMap:
    cdef unsigned char *consumer  # the consumer's page, the only writable one
    cdef unsigned char *producer  # the producer's page, followed by the data, which is mapped twice
    cdef const unsigned char *data
    cdef size_t page_bytes, producer_bytes
    cdef readonly uint64_t data_bytes
    cdef uint64_t mask

    cdef int _place(self, int fd, unsigned char *where, size_t length, size_t offset) except -1
    cdef int _check(self) except -1
    cpdef uint64_t producer_pos(self) except? 0
    cpdef uint64_t consumer_pos(self) except? 0
    cpdef int set_consumer_pos(self, uint64_t position) except -1


cdef class HeldBuffer:
    cdef Py_buffer view
    cdef bint held

    cdef int hold(self, object buffer, bint writable) except -1
    cdef int require_aligned(self) except -1


cdef class ControlView(HeldBuffer):
    cdef const pl_control *control
    cdef const char *acks
    cdef readonly uint32_t ring_count

    cdef bint has_successor(self) noexcept
    cdef uint32_t audience(self) noexcept
    cdef uint32_t gather_us(self) noexcept
    cdef void read(
        self, uint32_t ring, uint64_t *applied_pos, uint64_t *wanted_pos, uint64_t *rewind_seq
    ) noexcept nogil


cdef class CpuStates(HeldBuffer):
    cdef pl_cpu *cpus
    cdef readonly int count

    cdef pl_cpu *_cpu(self, int cpu) except NULL
    cdef int add_lost(self, int cpu, uint64_t *sums) except -1
    cpdef int set_sleeping(self, int ring, bint sleeping) except -1
