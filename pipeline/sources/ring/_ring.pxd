"""A ring and its cursor, as the compiled shard uses them."""

from libc.stdint cimport int64_t, uint64_t

from pipeline.sources.ring._drain cimport Columns
from pipeline.sources.ring._shared cimport PL_KIND_COUNT, CpuStates, RingMap


cdef class Ring:
    cdef RingMap _map
    cdef int _wake_fd
    cdef uint64_t _sums[PL_KIND_COUNT]  # the counts in `lost`, by kind
    cdef readonly dict lost  # by name
    cdef bytes lost_packed
    cdef readonly int number, stop
    cdef readonly tuple cpus
    cdef int *_cpus  # the CPUs that write to the ring
    cdef int _cpu_count
    cdef readonly uint64_t data_bytes, cursor, consumer_pos
    cdef bint is_acknowledged  # the resolver has acknowledged the ring; the fields below hold its last rewind_id
    cdef uint64_t ack_file, ack_seq
    cdef readonly uint64_t records_total, discarded_total, malformed_total, corrupt_total, refused_total

    cdef bint is_behind(self) except -1
    cdef int64_t read(self, Columns columns, uint64_t max_records) except -1
    cpdef release(self, uint64_t applied_pos)
    cpdef bint rewind(self, uint64_t wanted_pos) except -1
    cdef bint has_new_losses(self, CpuStates states) except -1
