"""Encode applied events for the public stream, at the moment they are applied. Called by apply for every event."""

from libc.stdint cimport uint32_t, uint64_t

from pipeline.shm._writer cimport TableWriter


cdef class Encoder:
    # Bit t: topic t (index in pipeline.shm.layout.TOPICS) has a subscriber; nothing is encoded for the others.
    cdef public uint32_t topics_mask
    # Last sequence number of each topic; counts every event, encoded or not.
    cdef uint64_t topic_seq[16]

    # Number the event and, where the topic is asked for, append its message: the entry in `row` as it is now, its
    # lineage as it is now. `detail` is a row of interest to the kind (the new parent for proc.reparent), 0 for none.
    cdef void event(
        self, TableWriter tables, uint32_t topic, uint32_t kind, uint32_t row, uint64_t time_boot_ns, uint32_t detail
    ) noexcept nogil

    # -- private --
    cdef char *buffer
    cdef uint64_t used, capacity
    cdef uint32_t messages
    cdef bytes _boot_hex
    cdef uint64_t dropped
    cdef object _private
