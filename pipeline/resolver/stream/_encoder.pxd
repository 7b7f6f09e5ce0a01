"""Encode applied events for the public stream while they are applied. The applier calls this for every event."""

from libc.stdint cimport uint32_t, uint64_t

from pipeline.resolver.stream._container_cache cimport ContainerCache
from pipeline.resolver.stream._file_cache cimport FileCache
from pipeline.resolver.stream._name_cache cimport NameCache, name_table
from pipeline.resolver.stream._row_filters cimport RowFilters
from pipeline.shm.layout._layout cimport PL_SEQ_COUNT, pl_cold, pl_hot
from pipeline.shm.writer._writer cimport TableWriter


# The message of one topic in the open group.
cdef struct open_part:
    char *data
    uint64_t used, capacity
    uint64_t first
    uint32_t count
    uint32_t filters  # that one of its events has passed, as a mask


# A message of a closed group.
cdef struct closed_part:
    char *data
    uint64_t used, capacity
    uint64_t first
    uint32_t topic, count, rest, filters


cdef enum:
    CPIDS = 1 << 10  # places for cpids that were computed before


# A cpid that was computed before; most processes have two or three events.
cdef struct made_cpid:
    uint64_t start_boot_ns
    uint32_t tgid, pid_ns, ns_pid
    char text[36]


cdef class Encoder:
    # Bit t: topic t (index in pipeline.shm.layout.layout.TOPICS) has a subscriber. Other topics are not encoded.
    cdef public uint32_t topics_mask
    # Topics that the journal keeps; they are encoded too.
    cdef public uint32_t kept_mask
    # Events of topics without such a subscriber are encoded only if they pass one of these.
    cdef readonly RowFilters filters
    # The user and group names for each process; None: no names.
    cdef public NameCache names
    # What the runtimes' files say about containers; None: nothing is shown.
    cdef public ContainerCache containers
    # The packages and the hashes of executables; None: nothing is shown.
    cdef public FileCache packages
    cdef public FileCache hashes
    # Last sequence number of each topic; counts every event, encoded or not. Slots after the topics: see _encoder.pyx.
    cdef uint64_t topic_seq[PL_SEQ_COUNT]

    # Number the event and, if its topic has a subscriber, append its message: the entry in `row` and its lineage as
    # they are now. `detail` is what only this kind of event has. proc.reparent: the row of the new parent. proc.cred,
    # and a change of session: the boot time in ns after which it happened, if a comparison found it. 0: none.
    cdef void event(
        self, TableWriter tables, uint32_t topic, uint32_t kind, uint32_t row, uint64_t time_boot_ns, uint64_t detail
    ) noexcept nogil

    # The SEQ_COUNT numbers that a commit stores.
    cdef const uint64_t *numbers(self) noexcept nogil
    cdef bint has_messages(self) noexcept nogil

    # -- private --
    cdef open_part parts[PL_SEQ_COUNT]
    cdef closed_part *closed
    cdef uint32_t closed_count, closed_capacity
    cdef uint64_t held_bytes, message_bytes, limit_bytes
    # By topic, the last event that passed a filter, and the last one to encode because many pass.
    cdef uint64_t passed_seq[PL_SEQ_COUNT]
    cdef uint64_t keep_until_seq[PL_SEQ_COUNT]
    cdef uint32_t lineage_depth
    cdef uint32_t envs_form
    cdef uint32_t file_form  # 1: all events have a file
    cdef char boot_hex[32]
    cdef unsigned char boot_raw[16]
    cdef uint64_t tick_ns
    cdef made_cpid cpids[CPIDS]
    cdef readonly uint64_t dropped
    cdef readonly uint32_t former_mask
    # Events of the predecessor that are in the journal: hashes of their identities, sorted, and whether each was met.
    cdef uint64_t *known
    cdef unsigned char *known_met
    cdef uint32_t known_count
    cdef readonly uint32_t known_left
    cdef uint64_t known_until_order
    # Numbers that commits store instead, until the predecessor's records are applied again; and for which topics.
    cdef uint64_t floor_seq[PL_SEQ_COUNT]
    cdef uint64_t stored_seq[PL_SEQ_COUNT]
    cdef uint32_t floor_mask

    # Buffers of sent messages, reused because their memory is warm: new pages cost more than the encoding.
    cdef char *spare[64]
    cdef uint64_t spare_capacity[64]
    cdef uint32_t spare_count
    cdef unsigned char spare_lock

    cdef void _give_back(self, char *data, uint64_t capacity) noexcept nogil
    cdef bint _is_known(
        self, TableWriter tables, uint32_t topic, uint32_t kind, uint32_t row, uint64_t time_boot_ns
    ) noexcept nogil
    cdef open_part *_part(self, uint32_t topic, uint64_t seq) noexcept nogil
    cdef void _encode(
        self, TableWriter tables, uint32_t topic, uint32_t kind, uint32_t row, uint64_t time_boot_ns, uint64_t detail
    ) noexcept nogil
    cdef bint _is_near(self, uint32_t topic, bint is_passed) noexcept nogil
    cdef char *_room(self, open_part *part, char *end, uint64_t need) noexcept nogil
    cdef void _close_group(self) noexcept nogil
    cdef char *_lineage(self, TableWriter tables, open_part *part, char *p, uint32_t own) noexcept nogil
    cdef char *_ancestor(self, TableWriter tables, open_part *part, char *p, uint32_t row) noexcept nogil
    cdef void _note(self, TableWriter tables, uint32_t kind, uint32_t row) noexcept nogil
    cdef bint wants(self) noexcept nogil
    cdef const name_table *_names_of(self, TableWriter tables, uint32_t row) noexcept nogil
    cdef char *_put_names(
        self, char *p, const name_table *names, const pl_hot *hot, const pl_cold *cold
    ) noexcept nogil
    cdef char *_cpid(self, char *p, const pl_hot *hot, const pl_cold *cold) noexcept nogil
    cdef char *_identity(self, char *p, TableWriter tables, uint64_t link) noexcept nogil
    cdef char *_put_identity(self, char *p, TableWriter tables, uint32_t row) noexcept nogil
    cdef char *_entity(self, char *p, TableWriter tables, uint32_t row) noexcept nogil
