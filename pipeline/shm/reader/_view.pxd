"""One epoch of an instance's segments, mapped for reading, and the read protocol of reader.h."""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint32_t, uint64_t

from pipeline.shm.layout._layout cimport pl_cold, pl_control, pl_costs, pl_hot, pl_keys


cdef extern from "reader.h" nogil:
    struct pl_strings:
        const char *bytes
        const uint64_t *allocated
        uint64_t mapped

    struct pl_view:
        const pl_control *control
        const uint32_t *index
        const pl_hot *hot
        const pl_cold *cold
        const pl_costs *costs
        pl_strings names
        pl_strings args
        pl_strings envs
        uint32_t pid_capacity
        uint32_t row_capacity
        uint32_t slots
        uint32_t key_capacity
        const pl_keys *keys

    struct pl_rest:
        pl_cold cold
        pl_costs costs

    enum:
        PL_READ_FOUND
        PL_READ_ABSENT
        PL_READ_BUSY
        PL_READ_OLD_HEAD

    void pl_copy_words(void *to, const void *source, size_t words)
    void pl_copy_bytes(char *to, const char *source, size_t n)
    bint pl_same_bytes(const char *shared, const char *data, size_t n)
    uint32_t pl_read_begin(const pl_hot *row)
    bint pl_read_valid(const pl_hot *row, uint32_t seq)
    bint pl_copy_hot(const pl_hot *row, pl_hot *to)
    bint pl_copy_row(const pl_view *view, uint32_t row, pl_hot *hot, pl_rest *rest)
    uint32_t pl_rows_end(const pl_view *view)
    bint pl_row_exists(const pl_view *view, uint32_t row)
    int pl_lookup_once(const pl_view *view, uint32_t tgid, pl_hot *to, uint32_t *row)
    int pl_lookup_slot_once(const pl_view *view, uint32_t slot, pl_hot *to, uint32_t *row)
    int pl_lookup_key_once(
        const pl_view *view, uint32_t pid, uint32_t pid_ns, pl_hot *to, pl_rest *rest, uint32_t *row
    )
    uint32_t pl_number_of(const pl_view *view, uint32_t slot)
    int pl_follow_once(const pl_view *view, uint64_t link, pl_hot *to)
    bint pl_arena_span(const pl_strings *arena, uint32_t ref, const char **data, uint32_t *length)
    void pl_pause()
    void pl_sleep_ns(long ns)


# How long a row that is being written is read again; see _view.pyx. The fuzzer does not wait for rows that no writer
# ends.
cdef uint32_t SPINS, YIELDS
cdef uint64_t PATIENCE_NS


cdef extern from "bulk.h" nogil:
    # Words of rows that a reader keeps for questions about many pids.
    struct pl_kept_hop:
        pass

    struct pl_kept:
        pl_kept_hop *hops
        const pl_control *control
        const uint32_t *changes
        uint64_t position, answered
        bint keeps, lasts

    void pl_kept_free(pl_kept *kept)


cdef extern from "sigbus.h" nogil:
    struct pl_guard:
        pass


cdef class View:
    cdef pl_view view
    cdef readonly str directory, instance
    cdef readonly bytes boot_id
    cdef object is_of_this_boot
    # Checked when the segment was mapped; it is not read again, because damage can follow.
    cdef uint64_t commit_offset
    cdef uint64_t commit_bytes
    cdef readonly uint32_t epoch
    cdef uint64_t serial  # unique among the Views of this process, from 1
    cdef readonly uint64_t busy_retries  # reads that were restarted because a write overlapped them
    # The TableReader that opened it: a weak reference to it, its class, and its argument. The last one is the table
    # that took its place after it was dropped without being closed.
    cdef object table, table_type, next_table
    cdef uint64_t max_age_ms
    cdef dict facts  # what an entry without a table knows from outside its row; None: the segments are mapped
    cdef int control_fd
    cdef uint64_t control_inode, control_device  # no other epoch of any instance of this boot has both
    cdef bint same_pid_ns
    cdef void *maps[9]
    cdef size_t lengths[9]
    cdef pl_guard *guard
    cdef pl_kept kept

    cdef bint writer_is_fresh(self) noexcept nogil
    # Reads that retry a busy row for up to 50 ms; they return PL_READ_FOUND, PL_READ_ABSENT or PL_READ_BUSY.
    cdef int lookup(self, uint32_t tgid, pl_hot *to, uint32_t *row) noexcept nogil
    cdef int lookup_slot(self, uint32_t slot, pl_hot *to, uint32_t *row) noexcept nogil
    # The same for a process that is known by its number in a pid namespace.
    cdef int lookup_key(
        self, uint32_t pid, uint32_t pid_ns, pl_hot *to, pl_rest *rest, uint32_t *row
    ) noexcept nogil
    cdef int follow(self, uint64_t link, pl_hot *to) noexcept nogil
    cdef int copy_row(self, uint32_t row, uint32_t generation, pl_hot *hot, pl_rest *rest) noexcept nogil
    # Wait briefly after a read found a busy row; return whether to retry (`attempt` counts from 0).
    cdef bint again(self, uint32_t attempt, uint64_t *deadline_ns) noexcept nogil
    cdef bint gives_up(self, int *result, uint32_t *attempt, uint64_t *deadline_ns) noexcept nogil

    # Raise LayoutError if a file was truncated below its mapping; all segments read as zeros since then.
    cdef int check_whole(self) except -1

    cdef bint _open(self) except -1
    cdef bint _map_all(self, object place) except -1
    cdef bint _map_control(self, object place) except -1
    cdef int _check_header(self, size_t size) except -1
    cdef int _find_parts(self, size_t size) except -1
    cdef int _check_abandoned(self) except -1
    cdef int _map_tables(self, object place) except -1
    cdef void _unmap(self) noexcept
    cdef const void *_map(self, int number, int fd, size_t length) except NULL
    cdef const void *_segment(
        self, object place, str name, uint64_t capacity, uint64_t allocated, bint optional
    ) except? NULL
    cdef int _map_strings(
        self, object place, str name, pl_strings *to, uint64_t capacity, const uint64_t *allocated, bint optional
    ) except -1
    cdef int64_t _age_ns(self, const pl_control *control) noexcept


cdef View detached_view(
    bytes boot_id, uint32_t epoch, tuple control_file, int64_t boot_unix_ns, bint has_args, bint has_envs, dict facts
)
