"""Processes in the tables: finding them by identity, and what is remembered of them beside the tables.

The Applier is one object. Its functions share its state and call each other several times an event. It is a chain of
classes, as a call of a base class costs one indirection and a call of another object two. Each class has one subject,
and uses only itself and the classes before it:

    Rows       state; finding a process; remembering (_rows.pyx)
    Images     the facts of a row about a process and its image (_images.pyx)
    Lineage    begin and end of an entry, parents and children (_lineage.pyx)
    Execs      chains of images; what records of several kinds have in common (_execs.pyx)
    Events     batches, and what fork, exit and changes do (_effects.pyx)
    Applier    methods for Python, and facts from /proc (_applier.pyx)

How rows, arenas and the pid index are kept is in shm/writer/_writer.pyx.

Terms: a process is a chain of images, linked by `ancestor`. The newest image is its head, the oldest its root. The
root's `ancestor` is an image of the parent. A process is named by (tgid, start_boot_ns), never by tgid alone: every
look-up compares both.

Rules for every function of the chain:

1. A row that readers can reach changes between `begin` and `end` only.
2. `new_row` may evict exited rows, so rows are looked up after it, or are heads of live processes.
3. A parent is linked only if its identity is the one that the kernel named, and never if it began after its child.
4. Each function may be repeated after a crash at any point of it, and then completes what it began.
5. Functions that events need run without the GIL and cannot raise.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from pipeline.records._limits cimport CHAIN_LIMIT, KTHREADD
from pipeline.resolver.apply._cgroups cimport CgroupNames
from pipeline.resolver.apply._followups cimport FollowUps
from pipeline.resolver.apply._rows cimport ended_process, identity, pid_state
from pipeline.resolver.stream._encoder cimport Encoder
from pipeline.shm.layout._layout cimport PL_ROW_ELIDED, PL_ROW_IS_EXEC, PL_ROW_REPLACED, PL_ROW_START_TICKS, pl_hot
from pipeline.shm.writer._writer cimport STATUS_DIGEST, TableWriter


cdef enum:
    #: Earlier owners of one pid that a look-up follows.
    OWNERS_LIMIT = 1024
    ENDED_SIZE = 1024
    WANTED_SIZE = 1024


cdef class Rows:
    """State of the Applier. The classes above it are Images, Lineage, Execs, Events and Applier.

    Args:
        tables: the writer's tables, held by this process.
        encoder: numbers and encodes events, or None.
        kthreadd: see Applier.
    """

    def __cinit__(self, TableWriter tables not None, Encoder encoder=None, uint32_t kthreadd=KTHREADD, **options):
        self.tables = tables
        # Mapped at their ceilings, so that these stay where they are while the tables grow.
        self.hot = tables.hot
        self.cold = tables.cold
        self.counters = tables.counters
        self.cgroups = CgroupNames(tables)
        self.followups = FollowUps(tables)
        self.encoder = encoder
        self.encodes = encoder is not None
        self.kthreadd = kthreadd
        self.tick_ns = 1000000000 // max(tables.control.user_hz, 1)
        # Zero pages that are never touched cost nothing, however long the pid index is.
        self.pids = <pid_state *>calloc(tables.pid_capacity, sizeof(pid_state))
        self.ended = <ended_process *>calloc(ENDED_SIZE, sizeof(ended_process))
        self.unknown = <ended_process *>calloc(UNKNOWN_SIZE * UNKNOWN_OWNERS, sizeof(ended_process))
        self.wanted = <identity *>calloc(WANTED_SIZE, sizeof(identity))
        self.heirs = <uint64_t *>calloc(HEIRS_SIZE, sizeof(uint64_t))
        self.waiting = <uint32_t *>calloc(WAITING_SIZE, sizeof(uint32_t))
        if (
            self.pids == NULL or self.ended == NULL or self.unknown == NULL or self.wanted == NULL
            or self.heirs == NULL
            or self.waiting == NULL
        ):
            raise MemoryError

    def __dealloc__(self):
        free(self.pids)
        free(self.ended)
        free(self.unknown)
        free(self.wanted)
        free(self.heirs)
        free(self.waiting)

    @property
    def has_wanted(self):
        """Whether `take_wanted` would return any."""
        return self.wanted_count != 0

    def take_wanted(self):
        """Return and forget [(tgid, start_boot_ns)] of processes of which facts are missing that `/proc` may show.

        These are unknown parents, processes with lost records, and children with an unknown new parent. start_boot_ns
        is 0 if it is unknown. At most 1024 are kept; `wanted_dropped` counts the rest.
        """
        cdef uint32_t i
        found = [(self.wanted[i].tgid, self.wanted[i].start) for i in range(self.wanted_count)]
        self.wanted_count = 0
        return found

    # -- the same from Python (calls of one method at a time) ----------------------------------------------------------

    def py_root(self, uint32_t row) -> int:
        """Return the oldest image of the process of which `row` is an image."""
        self.tables._require_row(row)
        return self.root(row)

    def py_image_at(self, uint32_t row, int64_t time_boot_ns) -> int:
        """Return the image that ran at a time, given the head; the oldest, if none ran."""
        self.tables._require_row(row)
        return self.image_at(row, <uint64_t>max(time_boot_ns, <int64_t>0))

    def py_find(self, uint32_t tgid, uint64_t start_boot_ns) -> int:
        """Return the head of a process, which may be an earlier owner of its pid; 0: it is not in the tables."""
        return self.find(tgid, start_boot_ns, False)

    def py_digest(self, uint32_t row) -> int:
        """Return the digest of the image's strings before anything was hidden in them; 0: it is not known."""
        self.tables._require_row(row)
        return self.tables.digests[row] if self.tables.rows[row].status & STATUS_DIGEST else 0

    def py_forget_digest(self, uint32_t row) -> None:
        """Forget the digest, as the image has got other arguments or another environment."""
        self.tables._require_row(row)
        self.keep_digest(row, 0)

    def py_is_awaited(self, uint32_t tgid) -> bool:
        """Whether a process waits for the owner of this index entry, which is its parent (`wait_for`)."""
        return tgid < self.tables.pid_capacity and self.pids[tgid].awaited != 0

    def note_tty_lost(self, uint32_t tgid, bint has_lost_tty) -> None:
        """Note whether the resolver has published by itself that a process lost its terminal with its session.

        A comparison may find that later; then there is no second event.
        """
        if tgid < self.tables.pid_capacity:
            self.pids[tgid].has_lost_tty = has_lost_tty

    # -- finding -------------------------------------------------------------------------------------------------------

    cdef uint32_t find_owner(self, uint32_t row, uint64_t start, bint ticks) noexcept nogil:
        """`find` among the owners of a pid from `row` on, which are linked from young to old."""
        cdef uint32_t n, near = 0
        for n in range(OWNERS_LIMIT):
            if row == 0 or self.hot[row].start_boot_ns == start:
                return row if row else near
            if self.same_start(row, start, ticks):
                # Equal to the tick only. Two owners may have had the pid within one tick, so prefer an exact match.
                if near == 0:
                    near = row
            elif self.hot[row].start_boot_ns < start:
                return near
            row = self.tables.follow(self.cold[row].previous_owner)
        return near

    cdef uint32_t owner_at(self, uint32_t tgid, uint64_t time) noexcept nogil:
        """Return the last owner of a pid if it lived at `time`; 0: none.

        For records without a start. Their source began after the process, and the process ended before it was read.
        """
        cdef uint32_t row = self.tables.head(tgid)
        cdef const pl_hot *hot = &self.hot[row]
        return 0 if hot.start_boot_ns > time or (hot.exit_boot_ns and hot.exit_boot_ns < time) else row

    cdef ended_process *unknown_exit(self, uint32_t tgid, uint64_t start) noexcept nogil:
        """Return the exit of a process that was applied before its fork; NULL: there was none, or it was displaced."""
        cdef ended_process *owners = self.unknown_owners(tgid)
        cdef uint32_t n
        for n in range(UNKNOWN_OWNERS):
            if owners[n].tgid == tgid and owners[n].start == start:
                return &owners[n]
        return NULL

    cdef uint32_t root(self, uint32_t row) noexcept nogil:
        cdef uint32_t previous, n
        for n in range(CHAIN_LIMIT):
            if self.hot[row].images == 1:
                return row
            previous = self.previous_image(row)
            if previous == 0:
                return row
            row = previous
        return row

    cdef uint32_t earlier_image(self, uint32_t row, uint64_t time) noexcept nogil:
        """`image_at` for a head that began to run later than `time`."""
        cdef uint32_t previous, n
        cdef const pl_hot *hot
        for n in range(CHAIN_LIMIT):
            hot = &self.hot[row]
            if not hot.flags & PL_ROW_IS_EXEC or hot.exec_boot_ns <= time:
                return row
            previous = self.previous_image(row)
            if previous == 0:
                return row
            # An image that was started repeatedly runs from the end of the image before, unless others ran in between.
            if self.hot[previous].flags & PL_ROW_REPLACED and self.hot[previous].exit_boot_ns <= time:
                return previous if hot.flags & PL_ROW_ELIDED else row
            row = previous
        return row

    cdef bint can_descend_in_tick(self, uint32_t child, uint32_t parent) noexcept nogil:
        """`can_descend` for a parent with a time that is not before that of the child."""
        cdef uint64_t begin = self.hot[child].start_boot_ns, other = self.hot[parent].start_boot_ns
        cdef uint32_t row = parent, n
        if self.hot[child].flags & PL_ROW_START_TICKS:
            begin += self.tick_ns - 1
        if other > begin:
            return False
        # Within one tick the times do not decide; but no process is its own ancestor.
        for n in range(CHAIN_LIMIT):
            if self.hot[row].tgid == self.hot[child].tgid and self.same_start(
                row, self.hot[child].start_boot_ns, False
            ):
                return False
            row = self.tables.follow(self.hot[row].ancestor)
            if row == 0:
                return True
        return False

    # -- remembering ---------------------------------------------------------------------------------------------------

    cdef void want(self, uint32_t tgid, uint64_t start) noexcept nogil:
        cdef uint32_t i
        if tgid == 0 or tgid >= self.tables.root_pids:
            return  # /proc does not show processes by their numbers in another namespace
        # The children of a process ask for it several times in a row.
        for i in range(min(self.wanted_count, <uint32_t>8)):
            if self.wanted[self.wanted_count - 1 - i].tgid == tgid:
                return
        if self.wanted_count == WANTED_SIZE:
            self.wanted_dropped += 1
            return
        self.wanted[self.wanted_count].tgid = tgid
        self.wanted[self.wanted_count].start = start
        self.wanted_count += 1
