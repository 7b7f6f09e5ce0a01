"""Operations on processes in the tables that several kinds of events share. All nogil, none can raise.

What is short and needed for each event has its body here: a call into another module takes longer than what it does.
"""

cimport cython
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from pipeline.resolver.apply._cgroups cimport CgroupNames
from pipeline.resolver.apply._followups cimport FollowUps
from pipeline.resolver.stream._encoder cimport Encoder
from pipeline.records._records cimport (
    pl_exec_any,
    pl_head_any,
    pl_task_any,
)
from pipeline.resolver.apply._record cimport exec_text, told_record
from pipeline.shm.writer._arena cimport Arena
from pipeline.shm.layout._layout cimport PL_ROW_START_TICKS, pl_cold, pl_file, pl_hot
from pipeline.shm.writer._writer cimport TableWriter


cdef enum:
    # What an image has in `extra` that its forks or its next image inherit (entry_extra.py).
    EXTRA_SSH = 1
    EXTRA_TRACER = 2
    EXTRA_CONTAINER = 4
    EXTRA_CGROUP = 8

cdef struct pid_slot:
    uint64_t facts_at  # time of the newest facts that the head holds
    uint64_t parent_start  # start of the process that the kernel last named as its parent; 0 unknown
    uint32_t waits_for  # that parent, while it is not in the tables and ppid says another one; 0 none
    uint32_t awaited  # children that wait for this pid so
    uint64_t unused


cdef struct ended_process:
    uint64_t start
    uint64_t time
    uint64_t reaper_start
    uint32_t tgid
    uint32_t reaper_tgid
    int32_t exit_code
    uint32_t has_code


cdef struct identity:
    uint64_t start
    uint32_t tgid
    uint32_t pad


cdef class Rows:
    cdef readonly TableWriter tables
    cdef readonly Encoder encoder
    cdef readonly CgroupNames cgroups
    cdef readonly FollowUps followups
    cdef pl_hot *hot
    cdef pl_cold *cold
    cdef uint64_t *counters
    cdef bint encodes
    cdef uint64_t tick_ns
    cdef pid_slot *slots
    cdef ended_process *ended  # lately, by hash of the identity
    cdef ended_process *unknown  # of these no row was there
    # Bit tgid % 64 of each that was put there: there are few, and each fork would look into cold memory.
    cdef uint64_t unknown_mask
    cdef identity *wanted
    cdef uint32_t *waiting  # pids that wait for a parent, in no order
    cdef uint32_t waiting_count
    cdef uint32_t wanted_count
    cdef readonly uint64_t wanted_dropped
    cdef uint64_t *heirs  # links of new rows whose origin has something in `extra`
    cdef uint32_t heirs_count
    cdef readonly uint64_t heirs_dropped

    # -- finding ----------------------------------------------------------------------------------------------------
    # Whether the row's process began at `start`; to the tick where one of the two comes from /proc.
    cdef inline bint same_start(self, uint32_t row, uint64_t start, bint ticks) noexcept nogil:
        cdef const pl_hot *hot = &self.hot[row]
        if hot.start_boot_ns == start:
            return True
        if not ticks and not hot.flags & PL_ROW_START_TICKS:
            return False
        return hot.start_boot_ns // self.tick_ns == start // self.tick_ns

    # The head of a process, also of one that owned its pid earlier; 0 when it is not in the tables.
    cdef inline uint32_t find(self, uint32_t tgid, uint64_t start, bint ticks) noexcept nogil:
        cdef uint32_t row = self.tables.head(tgid) if tgid else 0
        if row == 0 or self.hot[row].start_boot_ns == start:
            return row
        return self.find_owner(row, start, ticks)

    # The image that this one replaced, 0 when it is the root.
    cdef inline uint32_t previous_image(self, uint32_t row) noexcept nogil:
        cdef uint32_t previous = self.tables.follow(self.hot[row].ancestor)
        if (
            previous
            and self.hot[previous].tgid == self.hot[row].tgid
            and self.hot[previous].start_boot_ns == self.hot[row].start_boot_ns
        ):
            return previous
        return 0

    # The image that ran at `time`, given the head.
    cdef inline uint32_t image_at(self, uint32_t row, uint64_t time) noexcept nogil:
        return row if self.hot[row].exec_boot_ns <= time else self.earlier_image(row, time)

    # Whether `parent` began before `child` did. Rules out loops, and parents that only share a pid.
    cdef inline bint can_descend(self, uint32_t child, uint32_t parent) noexcept nogil:
        return (
            self.hot[parent].start_boot_ns < self.hot[child].start_boot_ns or self.can_descend_in_tick(child, parent)
        )

    cdef uint32_t find_owner(self, uint32_t row, uint64_t start, bint ticks) noexcept nogil
    cdef uint32_t earlier_image(self, uint32_t row, uint64_t time) noexcept nogil
    cdef bint can_descend_in_tick(self, uint32_t child, uint32_t parent) noexcept nogil
    cdef uint32_t root(self, uint32_t row) noexcept nogil

    # -- facts ------------------------------------------------------------------------------------------------------
    cdef uint32_t told(self, uint8_t flags, const pl_task_any *task) noexcept nogil
    cdef void put_task(self, uint32_t row, const told_record *record, uint32_t groups) noexcept nogil
    cdef bint is_elsewhere(self, uint32_t row, const pl_task_any *task) noexcept nogil
    cdef void mark_tty(self, uint32_t row, bint is_given) noexcept nogil
    cdef bint keeps_tty(self, uint32_t row, const pl_task_any *task) noexcept nogil
    cdef bint differs(self, uint32_t row, const pl_task_any *task, uint32_t groups) noexcept nogil
    cdef void copy_groups(self, uint32_t row, uint32_t source, uint32_t groups) noexcept nogil
    cdef uint32_t copy_row(self, uint32_t source) noexcept nogil
    cdef void copy_image(self, uint32_t row, uint32_t source) noexcept nogil
    cdef void clear_image(self, uint32_t row) noexcept nogil
    cdef void put_mount(self, pl_file *file, const told_record *record) noexcept nogil
    cdef void keep_digest(self, uint32_t row, uint64_t digest) noexcept nogil
    cdef bint same_image(self, uint32_t row, uint32_t other) noexcept nogil
    cdef bint is_same_again(self, uint32_t row, const told_record *record, uint32_t groups) noexcept nogil
    cdef bint holds(self, Arena arena, uint32_t ref, const char *text, uint32_t n, bint is_absent) noexcept nogil
    cdef void put_image(self, uint32_t row, const told_record *record, bint is_new) noexcept nogil
    cdef bint complete_image(self, uint32_t row, const told_record *record) noexcept nogil
    @cython.final
    cdef void put_name(
        self, uint32_t row, const pl_exec_any *body, const char *strings, bint is_new, uint32_t flags
    ) noexcept nogil
    @cython.final
    cdef void put_text(
        self, uint32_t row, const exec_text *told, Arena arena, uint32_t *place, bint is_new, uint32_t flags,
        uint32_t known
    ) noexcept nogil
    @cython.final
    cdef uint32_t file_of(self, const told_record *record) noexcept nogil
    cdef void exact_start(self, uint32_t row, uint64_t start) noexcept nogil

    # -- entries ----------------------------------------------------------------------------------------------------
    cdef uint32_t open_entry(self, const pl_head_any *head, uint64_t displaced_at, uint32_t *newer) noexcept nogil
    cdef void publish_entry(self, uint32_t row, uint32_t newer) noexcept nogil
    cdef void link_parent(self, uint32_t row, uint32_t parent, uint64_t time) noexcept nogil
    cdef void link_waiting(self, uint32_t row, uint64_t time) noexcept nogil
    cdef void link_child(self, uint32_t child, uint32_t row, uint64_t time) noexcept nogil
    cdef void wait_for(self, uint32_t tgid, uint32_t parent_tgid, uint64_t parent_start) noexcept nogil
    cdef void wait_no_more(self, uint32_t tgid) noexcept nogil
    cdef void displace(self, uint32_t row, uint64_t time) noexcept nogil
    cdef void forget_children(self, uint32_t tgid, uint64_t start) noexcept nogil
    cdef void finish(self, uint32_t row, uint64_t time, uint32_t flags) noexcept nogil

    # -- lineage ----------------------------------------------------------------------------------------------------
    cdef void move(self, uint32_t row, uint32_t parent, uint64_t time, uint32_t kind, bint predicted) noexcept nogil
    cdef void follow_kernel(self, uint32_t row, const pl_head_any *head, uint32_t kind) noexcept nogil
    cdef bint is_child_of(self, uint32_t child, uint32_t parent) noexcept nogil
    cdef uint32_t reaper(self, uint32_t tgid, uint64_t start) noexcept nogil
    cdef void leave_children(
        self, uint32_t row, uint32_t reaper_tgid, uint64_t reaper_start, uint64_t time
    ) noexcept nogil

    # -- remembering ------------------------------------------------------------------------------------------------
    # Where a process is remembered if it is: one place each, so younger ones push older ones out.
    cdef inline ended_process *ended_slot(self, ended_process *table, uint32_t tgid, uint64_t start) noexcept nogil:
        cdef uint64_t mixed = (start ^ <uint64_t>tgid << 32) * <uint64_t>0x9E3779B97F4A7C15
        return &table[mixed >> 54]

    cdef void want(self, uint32_t tgid, uint64_t start) noexcept nogil
    cdef uint32_t same_places(self, uint32_t row, uint64_t cgroup_id, uint32_t container_ref) noexcept nogil
    cdef void inherit_extra(self, uint32_t row, uint32_t ref, uint32_t keys) noexcept nogil
    cdef void drop_extra(self, uint32_t row, uint32_t keys) noexcept nogil
    cdef uint32_t find_extra(self, uint32_t ref, uint32_t keys) noexcept nogil
    cdef const char *pick_extra(self, uint32_t ref, uint32_t keys, bint has_rest, uint32_t *n) noexcept nogil
    cdef void forget_told(self, uint32_t row, uint32_t ref, uint32_t places) noexcept nogil
    cdef void inherit_later(self, uint32_t row) noexcept nogil
    # The event is applied: note what it leaves to be done, and number and encode it for the stream.
    cdef inline void emit(
        self, uint32_t topic, uint32_t kind, uint32_t row, uint64_t time, uint32_t detail
    ) noexcept nogil:
        if row == 0:
            return
        self.followups.note(topic, kind, row, time)
        if self.encodes:
            self.encoder.event(self.tables, topic, kind, row, time, detail)
