"""What apply and the resolver may do with the tables. One writer; every cdef method here is nogil and cannot raise."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from pipeline.shm._layout cimport pl_cold, pl_control, pl_hot


cdef class Arena:
    """Interned, reference-counted byte strings in one segment. A reference is an offset in units of 16 bytes."""

    # Return a reference with one more holder; 0 for n == 0 or when the segment is at its ceiling (counted in `full`).
    cdef uint32_t intern(self, const char *data, uint32_t n) noexcept nogil
    # The same for the concatenation of two pieces (a FILE record and its path, a length and the bytes).
    cdef uint32_t intern2(self, const char *head, uint32_t head_n, const char *data, uint32_t n) noexcept nogil
    cdef void hold(self, uint32_t ref) noexcept nogil
    cdef void release(self, uint32_t ref) noexcept nogil
    cdef const char *bytes(self, uint32_t ref, uint32_t *n) noexcept nogil

    cdef char *base
    cdef uint64_t capacity, allocated, used
    cdef uint64_t full
    cdef uint64_t *allocated_field  # CONTROL.<name>_allocated_bytes, stored with release after growth
    cdef int fd
    cdef uint32_t *buckets
    cdef uint32_t bucket_mask, records
    cdef uint32_t free_heads[64]
    cdef uint64_t frontier


cdef class TableWriter:
    """The one writer of an instance's tables (held by `writer.lock`)."""

    cdef readonly Arena names, args, envs
    cdef pl_control *control
    cdef pl_hot *hot
    cdef pl_cold *cold
    cdef uint32_t *index
    cdef uint64_t *counters  # the writer's own running counters; copied into a commit slot by `commit`
    cdef uint32_t pid_capacity

    # -- rows ------------------------------------------------------------------------------------------------------
    # A row with row_seq odd, all fields but row_seq and generation zero; 0 when the ceiling is reached and nothing may
    # be evicted (counted). May evict, so references to rows that are not linked from the index may die here.
    cdef uint32_t new_row(self) noexcept nogil
    # A new row with every field copied from `source` (links, references held once more, flags), row_seq odd.
    cdef uint32_t copy_row(self, uint32_t source) noexcept nogil
    cdef void begin(self, uint32_t row) noexcept nogil  # open a published row for change
    cdef void end(self, uint32_t row) noexcept nogil  # make the row (or its change) visible; checksum where `checked`
    cdef void discard(self, uint32_t row) noexcept nogil  # give back a row that was never published
    cdef uint64_t link(self, uint32_t row) noexcept nogil
    cdef uint32_t follow(self, uint64_t link) noexcept nogil  # its row, 0 when none or reused

    # -- fields that own something; call between begin/end (or before the first end) --------------------------------
    cdef void set_ancestor(self, uint32_t row, uint32_t target) noexcept nogil
    cdef void set_parent(self, uint32_t row, uint32_t target) noexcept nogil
    cdef void set_creator(self, uint32_t row, uint32_t target) noexcept nogil
    cdef void set_previous_owner(self, uint32_t row, uint32_t target) noexcept nogil
    # Replace an arena reference of the row by `ref`, whose hold passes to the row (the old one is released).
    cdef void set_file_ref(self, uint32_t row, uint32_t ref) noexcept nogil
    cdef void set_args_ref(self, uint32_t row, uint32_t ref) noexcept nogil
    cdef void set_envs_ref(self, uint32_t row, uint32_t ref) noexcept nogil
    cdef void set_name_ref(self, uint32_t row, uint32_t ref) noexcept nogil
    cdef void set_cgroup_ref(self, uint32_t row, uint32_t ref) noexcept nogil
    cdef void set_container_ref(self, uint32_t row, uint32_t ref) noexcept nogil
    cdef void set_extra_ref(self, uint32_t row, uint32_t ref) noexcept nogil

    # -- pid slots --------------------------------------------------------------------------------------------------
    cdef uint32_t head(self, uint32_t tgid) noexcept nogil  # newest image of the pid's latest owner, 0 none
    cdef void set_head(self, uint32_t tgid, uint32_t row) noexcept nogil  # index store (release); the row must be ended
    # Children of a live process, by pid slot: an intrusive list private to the writer; an exec does not touch it.
    cdef void adopt(self, uint32_t child_tgid, uint32_t parent_tgid) noexcept nogil  # leaves its old list first
    cdef void orphan(self, uint32_t child_tgid) noexcept nogil
    cdef uint32_t first_child(self, uint32_t tgid) noexcept nogil
    cdef uint32_t next_sibling(self, uint32_t tgid) noexcept nogil

    # -- end of a process -------------------------------------------------------------------------------------------
    # The image (head or replaced) has ended: counted as exited and queued for retention. Call once for a head when its
    # process ends, outside begin/end, after exit_boot_ns was stored.
    cdef void retire(self, uint32_t row) noexcept nogil
    # Free what is past retention and that nothing refers to; at most `budget` rows. Returns rows freed.
    cdef uint32_t evict(self, uint64_t now_boot_ns, uint32_t budget) noexcept nogil

    # -- private state (see _writer.pyx) ----------------------------------------------------------------------------
    cdef uint32_t *refs  # links to each row, by row
    cdef uint32_t *child_first
    cdef uint32_t *child_next
    cdef uint32_t *child_prev
    cdef uint32_t *child_parent
    cdef uint32_t free_head, rows_fresh, rows_used, live, exited
    cdef uint32_t *queue_next
    cdef uint32_t queue_first, queue_last
    cdef uint32_t ancestor_first, ancestor_last
    cdef uint64_t retention_ns
    cdef uint64_t evicted_total
    cdef int lock_fd, control_fd, hot_fd, cold_fd, index_fd
    cdef uint64_t control_bytes
    cdef dict _private
    cdef object _directory
    cdef bint checked
