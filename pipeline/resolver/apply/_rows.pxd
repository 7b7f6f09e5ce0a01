"""The state of the Applier, and processes in the tables: finding them, and remembering what is to be done for them.

Short functions that each event needs have their bodies here: a call into another module takes longer than their work.
"""

cimport cython
from libc.stdint cimport int32_t, uint16_t, uint32_t, uint64_t

from pipeline.records._records cimport pl_cost_any, pl_header_any
from pipeline.resolver.apply._cgroups cimport CgroupNames
from pipeline.resolver.apply._followups cimport FollowUps
from pipeline.resolver.stream._encoder cimport Encoder
from pipeline.shm.layout._layout cimport PL_ROW_START_TICKS, pl_cold, pl_hot
from pipeline.shm.writer._writer cimport STATUS_DIGEST, STATUS_TTY_GIVEN, TableWriter, row_state


cdef enum:
    # Exits that wait for their forks. Pids are given in order, so an exit is displaced only if this many more processes
    # begin before its fork arrives. Slots that were never used cost nothing.
    UNKNOWN_SIZE = 65536
    # Several processes can have the same pid one after another, and their exits can all arrive before their forks. So
    # many exits are kept for a pid; the next one displaces the oldest.
    UNKNOWN_OWNERS = 4
    # Links of rows that inherit from `extra` once more is known; of more, the rest is dropped and counted.
    HEIRS_SIZE = 1024
    # Processes that wait for a parent; of more, the rest is linked by a later record.
    WAITING_SIZE = 1024


cdef struct pid_state:
    uint64_t facts_at  # time of the newest facts in the head
    uint64_t parent_start  # start of the parent that the kernel named last; 0: unknown
    uint64_t ended_start  # start of the last owner with an applied exit; its rows may have been evicted
    uint32_t waits_for  # that parent, while it is not in the tables and ppid names another process; 0: none
    uint32_t awaited  # children that wait for this pid
    uint16_t is_predicted  # an exit named the awaited parent, no record of the process did
    uint16_t has_lost_tty  # with its session, as far as the resolver knows: a comparison may still find that
    # How long before its exec time the first image began, if that is an exec without a fork and was started again.
    uint32_t began_before_ns


cdef struct ended_process:
    uint64_t start
    uint64_t time
    uint64_t reaper_start
    uint32_t tgid
    uint32_t reaper_tgid
    int32_t exit_code
    uint32_t has_code
    uint32_t cost_known  # KNOWN_COST and KNOWN_IO
    pl_cost_any cost


cdef struct identity:
    uint64_t start
    uint32_t tgid
    uint32_t pad


cdef class Rows:
    cdef readonly TableWriter tables
    cdef readonly Encoder encoder
    cdef readonly CgroupNames cgroups
    cdef readonly FollowUps followups
    cdef readonly uint32_t kthreadd
    cdef pl_hot *hot
    cdef pl_cold *cold
    cdef uint64_t *counters
    cdef bint encodes
    cdef uint64_t tick_ns
    cdef pid_state *pids  # by pid
    cdef ended_process *ended  # recent exits, by hash of the identity
    cdef ended_process *unknown  # exits of processes that were not in the tables, by pid
    # Bit tgid % 64 of each of these. There are few, and the mask saves each fork a read of cold memory.
    cdef uint64_t unknown_mask
    cdef identity *wanted
    cdef uint32_t *waiting  # pids that wait for a parent, in no order
    cdef uint32_t waiting_count
    cdef uint32_t wanted_count
    cdef readonly uint64_t wanted_dropped
    cdef uint64_t *heirs  # links of rows that inherit from `extra` once more is known
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

    @cython.final
    cdef uint32_t find_owner(self, uint32_t row, uint64_t start, bint ticks) noexcept nogil
    @cython.final
    cdef uint32_t owner_at(self, uint32_t tgid, uint64_t time) noexcept nogil
    cdef uint32_t root(self, uint32_t row) noexcept nogil
    @cython.final
    cdef uint32_t earlier_image(self, uint32_t row, uint64_t time) noexcept nogil
    @cython.final
    cdef bint can_descend_in_tick(self, uint32_t child, uint32_t parent) noexcept nogil

    # -- remembering ------------------------------------------------------------------------------------------------
    # The element of a process in `ended`: there is one for each hash, so younger ones displace older ones.
    cdef inline ended_process *ended_at(self, uint32_t tgid, uint64_t start) noexcept nogil:
        cdef uint64_t mixed = (start ^ <uint64_t>tgid << 32) * <uint64_t>0x9E3779B97F4A7C15
        return &self.ended[mixed >> 54]
    # The first of the elements of a pid's owners in `unknown`. While a ring is passed over, thousands of exits can
    # arrive before their forks; by hash, the first hundred would already displace some.
    cdef inline ended_process *unknown_owners(self, uint32_t tgid) noexcept nogil:
        return &self.unknown[tgid % UNKNOWN_SIZE * UNKNOWN_OWNERS]
    # The first facts about a process that is now the owner of its pid.
    cdef inline void begin_pid(self, const pl_header_any *header) noexcept nogil:
        cdef pid_state *pid = &self.pids[header.tgid]
        pid.facts_at = header.time_boot_ns
        pid.parent_start = header.parent_start_boot_ns
        pid.began_before_ns = 0
        pid.has_lost_tty = 0
    # Whether the exit of a process was applied. The tables may have no row of it any more. With `ticks`, a process that
    # began in the same tick as the last one that has ended is taken for that one.
    cdef inline bint has_ended(self, uint32_t tgid, uint64_t start, bint ticks) noexcept nogil:
        cdef uint64_t ended = self.pids[tgid].ended_start
        return start <= ended or (ticks and start // self.tick_ns == ended // self.tick_ns)
    @cython.final
    cdef ended_process *unknown_exit(self, uint32_t tgid, uint64_t start) noexcept nogil
    @cython.final
    cdef void want(self, uint32_t tgid, uint64_t start) noexcept nogil
    # Note whether the terminal was read from descriptor 0 (terminals.py) instead of being named by the kernel.
    cdef inline void note_tty(self, uint32_t row, bint is_given) noexcept nogil:
        cdef row_state *state = &self.tables.rows[row]
        if is_given:
            state.status |= STATUS_TTY_GIVEN
        else:
            state.status &= ~STATUS_TTY_GIVEN
    cdef inline void keep_digest(self, uint32_t row, uint64_t digest) noexcept nogil:
        cdef row_state *state = &self.tables.rows[row]
        if digest:
            self.tables.digests[row] = digest
            state.status |= STATUS_DIGEST
        else:
            state.status &= ~STATUS_DIGEST

    # The event is applied: note what it leaves to be done, and number and encode it for the stream.
    cdef inline void emit(
        self, uint32_t topic, uint32_t kind, uint32_t row, uint64_t time, uint64_t detail
    ) noexcept nogil:
        if row == 0:
            return
        self.followups.note(topic, kind, row, time, detail)
        if self.encodes:
            self.encoder.event(self.tables, topic, kind, row, time, detail)
