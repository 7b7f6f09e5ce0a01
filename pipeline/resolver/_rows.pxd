"""Operations on processes in the tables that several kinds of events share. All nogil, none can raise."""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from pipeline.resolver._cgroups cimport CgroupNames
from pipeline.resolver._encode cimport Encoder
from pipeline._records cimport pl_exec_any, pl_head_any, pl_task_any
from pipeline.shm._layout cimport pl_cold, pl_hot, pl_file
from pipeline.shm._writer cimport TableWriter


cdef enum:
    # Positions in pipeline.shm.layout.TOPICS.
    TOPIC_FORK = 0
    TOPIC_EXEC = 1
    TOPIC_EXIT = 2
    TOPIC_CRED = 3
    TOPIC_CONTEXT = 4
    TOPIC_REPARENT = 5


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
    cdef pl_hot *hot
    cdef pl_cold *cold
    cdef uint64_t *counters
    cdef bint encodes
    cdef uint64_t tick_ns
    cdef pid_slot *slots
    cdef ended_process *ended  # lately, by hash of the identity
    cdef ended_process *unknown  # of these no row was there
    cdef identity *wanted
    cdef uint32_t *waiting  # pids that wait for a parent, in no order
    cdef uint32_t waiting_count
    cdef uint32_t wanted_count
    cdef readonly uint64_t wanted_dropped
    cdef uint64_t *heirs  # links of new rows whose origin has something in `extra`
    cdef uint32_t heirs_count
    cdef readonly uint64_t heirs_dropped
    cdef const char *container  # container id that the record being applied tells, or NULL ...
    cdef uint32_t container_bytes  # ... 0
    cdef uint8_t told_by  # CGROUP_SOURCE_* of what the record being applied tells
    cdef uint32_t newer  # set by open_entry: the process that owned the pid after the one being entered, 0 none

    # -- finding ----------------------------------------------------------------------------------------------------
    cdef bint same_start(self, uint32_t row, uint64_t start, bint ticks) noexcept nogil
    cdef uint32_t find(self, uint32_t tgid, uint64_t start, bint ticks) noexcept nogil
    cdef uint32_t previous_image(self, uint32_t row) noexcept nogil
    cdef uint32_t root(self, uint32_t row) noexcept nogil
    cdef uint32_t image_at(self, uint32_t row, uint64_t time) noexcept nogil
    cdef bint can_descend(self, uint32_t child, uint32_t parent) noexcept nogil

    # -- facts ------------------------------------------------------------------------------------------------------
    cdef uint32_t told(self, uint8_t flags, const pl_task_any *task) noexcept nogil
    cdef void put_task(self, uint32_t row, const pl_task_any *task, uint32_t groups) noexcept nogil
    cdef bint is_elsewhere(self, uint32_t row, const pl_task_any *task) noexcept nogil
    cdef bint differs(self, uint32_t row, const pl_task_any *task, uint32_t groups) noexcept nogil
    cdef void copy_groups(self, uint32_t row, uint32_t source, uint32_t groups) noexcept nogil
    cdef void copy_image(self, uint32_t row, uint32_t source) noexcept nogil
    cdef void clear_image(self, uint32_t row) noexcept nogil
    cdef void put_mount(self, pl_file *file, const pl_exec_any *body) noexcept nogil
    cdef void put_image(self, uint32_t row, const pl_exec_any *body, const char *strings) noexcept nogil
    cdef void exact_start(self, uint32_t row, uint64_t start) noexcept nogil

    # -- entries ----------------------------------------------------------------------------------------------------
    cdef uint32_t open_entry(self, const pl_head_any *head, uint64_t displaced_at) noexcept nogil
    cdef void publish_entry(self, uint32_t row) noexcept nogil
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
    cdef ended_process *ended_slot(self, ended_process *table, uint32_t tgid, uint64_t start) noexcept nogil
    cdef void want(self, uint32_t tgid, uint64_t start) noexcept nogil
    cdef void inherit_extra(self, uint32_t row, uint32_t image, bint is_fork) noexcept nogil
    cdef void inherit_later(self, uint32_t row) noexcept nogil
    cdef void emit(self, uint32_t topic, uint32_t kind, uint32_t row, uint64_t time, uint32_t detail) noexcept nogil
