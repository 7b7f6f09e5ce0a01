"""Work that an applied event leaves for the resolver's Python parts. See _followups.pyx."""

cimport cython
from libc.stdint cimport uint32_t, uint64_t

from pipeline.records._limits cimport TTY_BYTES
from pipeline.records._records cimport PL_KIND_EXEC, PL_KIND_EXIT, PL_KIND_FORK, PL_KIND_SID
from pipeline.shm.layout._layout cimport PL_ROW_SCRIPT, PL_TOPIC_CONTEXT, PL_TOPIC_EXIT
from pipeline.shm.writer._writer cimport TableWriter


cdef enum:
    # At most this many are noted in one batch; the rest is not noted.
    NOTED_LEADERS = 1024
    NOTED_TTYLESS = 1024
    NOTED_SCRIPTS = 256
    #: A row is fetched this many live processes before it is read.
    LEADERS_AHEAD = 12


# What became of the terminal of a session leader: `tty` is the terminal that it got, or empty if it has none any more.
cdef struct noted_leader:
    uint64_t time_boot_ns
    uint64_t changed_after_boot_ns  # if it is not exact; 0: unknown
    uint32_t sid
    bint is_exact  # it happened at `time_boot_ns`, not before
    char tty[TTY_BYTES]


cdef class FollowUps:
    cdef TableWriter tables
    cdef uint64_t *counters
    cdef object _on_login
    cdef bint notes_logins
    cdef public bint notes_leaders, notes_ttyless, notes_scripts
    cdef uint32_t logins_count, leaders_count, ttyless_count, scripts_count, scripts_dropped
    cdef noted_leader leaders[NOTED_LEADERS]
    cdef uint32_t ttyless[NOTED_TTYLESS]
    cdef uint32_t scripts[NOTED_SCRIPTS]

    # Note what an event about the process in `row` leaves to be done; `detail` is that of the event. Inline, because
    # most callers pass constants for `topic` and `kind`: nothing remains of this for a fork.
    cdef inline void note(
        self, uint32_t topic, uint32_t kind, uint32_t row, uint64_t time_boot_ns, uint64_t detail
    ) noexcept nogil:
        if kind == PL_KIND_EXEC:
            if self.notes_logins:
                self.note_login(row)
            if self.notes_scripts and self.tables.hot[row].flags & PL_ROW_SCRIPT:
                if self.scripts_count < NOTED_SCRIPTS:
                    self.scripts[self.scripts_count] = row
                    self.scripts_count += 1
                else:
                    self.scripts_dropped += 1
        elif self.notes_leaders and (topic == PL_TOPIC_EXIT or (kind == PL_KIND_SID and topic == PL_TOPIC_CONTEXT)):
            self.note_leader(row, time_boot_ns, detail, topic == PL_TOPIC_EXIT)
        if (
            kind != PL_KIND_FORK and kind != PL_KIND_EXIT and self.notes_ttyless
            and self.tables.cold[row].tty[0] == 0 and self.ttyless_count < NOTED_TTYLESS
        ):
            self.ttyless[self.ttyless_count] = row
            self.ttyless_count += 1

    # Whether one of the `take_` methods would return something.
    cdef inline bint is_any(self) noexcept nogil:
        return self.logins_count or self.leaders_count or self.ttyless_count or self.scripts_count

    @cython.final
    cdef void note_leader(
        self, uint32_t row, uint64_t time_boot_ns, uint64_t changed_after_boot_ns, bint has_ended
    ) noexcept nogil
    @cython.final
    cdef bint is_holder(self, uint32_t row) noexcept nogil
    @cython.final
    cdef void note_login(self, uint32_t row) noexcept nogil
    @cython.final
    cdef bint may_be_roots(self, uint32_t row) noexcept nogil
