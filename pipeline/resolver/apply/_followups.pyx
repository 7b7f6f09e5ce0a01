"""Note what applied events leave to be done by Python: ssh logins, session leaders, processes without a terminal.

Apply calls `FollowUps.note` for every event, whether or not the event has a subscriber, once the tables hold what the
event says. The parts that do the work (`pipeline.resolver.upkeep`) set which events are noted, and take the notes when
the batch has been applied. Notes are kept in fixed arrays, so that noting needs neither the GIL nor memory. Only
a login calls Python at once, because processes that are forked later in the same batch inherit its session number.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from pipeline.shm.layout._layout cimport (
    PL_C_SESSIONS_REFUSED, PL_C_SESSIONS_UNREAD, PL_KNOWN_CREDS, PL_ROW_CHANGE_SAMPLED, PL_ROW_EXIT_UNSEEN,
    PL_ROW_FOREIGN, pl_cold, pl_hot, pl_prefetch,
)
from pipeline.shm.writer._writer cimport STATUS_TTY_GIVEN, TableWriter


cdef class FollowUps:
    """Work that applied events leave to be done; a part of the Applier. One thread uses it: the resolver's.

    Args:
        tables: the tables that the Applier changes.

    Attributes:
        notes_leaders: note session leaders that changed their terminal or ended with one.
        notes_ttyless: note processes without a terminal when they execute a program or change.
        notes_scripts: note processes when they execute a script.
    """

    def __cinit__(self, TableWriter tables not None):
        self.tables = tables
        self.counters = tables.counters

    def watch_logins(self, called) -> None:
        """Set what is called with the row of an exec below sshd and the row of its parent, while the exec is applied.

        Args:
            called: returns whether more has to be done once the batch is applied; None: nothing is called.
        """
        self._on_login = called
        self.notes_logins = called is not None

    def add(self, topic: int, kind: int, row: int, time_boot_ns: int) -> None:
        """Note an event that apply did not see: the entry was made from /proc by a single call."""
        self.tables._require_row(row)
        self.note(topic, kind, row, time_boot_ns, 0)

    def take_logins(self) -> int:
        """Return for how many execs below sshd since the last call more has to be done."""
        cdef uint32_t count = self.logins_count
        self.logins_count = 0
        return count

    def take_leaders(self) -> list[tuple[int, int, int | None, bytes]]:
        """Return the first 1024 leaders that were noted since the last call.

        Returns:
            (session id, time of the event in boot ns, time after which it happened, terminal). The second time is None
            if the first one is exact, and 0 if it is unknown. The terminal is the one that the leader got; it is empty
            if the leader has none any more, or ended with one.
        """
        cdef uint32_t i
        found = [
            (
                self.leaders[i].sid, self.leaders[i].time_boot_ns,
                None if self.leaders[i].is_exact else self.leaders[i].changed_after_boot_ns,
                self.leaders[i].tty[:TTY_BYTES].rstrip(b"\0"),
            )
            for i in range(self.leaders_count)
        ]
        self.leaders_count = 0
        return found

    def live_leaders(self) -> list[int]:
        """Return the rows of the live session leaders of this host that have a terminal. One pass over the rows."""
        cdef uint32_t i
        cdef const uint32_t[::1] rows = self.tables.live_heads()
        cdef const pl_hot *hot = self.tables.hot
        cdef const pl_cold *cold = self.tables.cold
        cdef list found = []
        with nogil:
            for i in range(rows.shape[0]):
                if i + LEADERS_AHEAD < rows.shape[0]:
                    pl_prefetch(&hot[rows[i + LEADERS_AHEAD]])
                    pl_prefetch(&cold[rows[i + LEADERS_AHEAD]].sid)
                if cold[rows[i]].sid == hot[rows[i]].tgid and self.is_holder(rows[i]):
                    with gil:
                        found.append(rows[i])
        return found

    cdef bint is_holder(self, uint32_t row) noexcept nogil:
        cdef const pl_hot *hot = &self.tables.hot[row]
        return self.tables.cold[row].tty[0] != 0 and hot.exit_boot_ns == 0 and not hot.flags & PL_ROW_FOREIGN

    def take_ttyless(self) -> list[int]:
        """Return the first 1024 rows without a terminal that were noted since the last call."""
        cdef uint32_t i
        rows = [self.ttyless[i] for i in range(self.ttyless_count)]
        self.ttyless_count = 0
        return rows

    def take_scripts(self) -> tuple[list[int], int]:
        """Return the first 256 rows that executed a script since the last call, and how many others did."""
        cdef uint32_t i, dropped = self.scripts_dropped
        rows = [self.scripts[i] for i in range(self.scripts_count)]
        self.scripts_count = self.scripts_dropped = 0
        return rows, dropped

    cdef void note_login(self, uint32_t row) noexcept nogil:
        """Report a row that may begin an ssh session: the parent's name is sshd's, and its own is not.

        Any process can choose that name, so the parent is checked here first: only one that root started passes.
        The GIL is acquired for real logins only.
        """
        cdef const pl_hot *hot = self.tables.hot
        cdef uint32_t parent = self.tables.follow(hot[row].parent) if hot[row].parent else 0
        if (
            parent == 0 or memcmp(hot[parent].comm, b"sshd", 4) != 0 or memcmp(hot[row].comm, b"sshd", 4) == 0
        ):
            return
        if not self.may_be_roots(parent):
            self.counters[PL_C_SESSIONS_REFUSED] += 1
            return
        with gil:
            try:
                self.logins_count += <bint>self._on_login(row, parent)
            except Exception:
                self.counters[PL_C_SESSIONS_UNREAD] += 1

    cdef bint may_be_roots(self, uint32_t row) noexcept nogil:
        """Whether a process is root's, or was forked by one of root's with the same image, as far as is known."""
        cdef const pl_hot *hot = &self.tables.hot[row]
        cdef uint32_t above
        if not hot.known & PL_KNOWN_CREDS or (hot.uid == 0 and self.tables.cold[row].euid == 0):
            return True
        above = self.tables.follow(hot.creator) if hot.creator else 0
        if above == 0:
            above = self.tables.follow(hot.parent) if hot.parent else 0
        return above != 0 and self.tables.hot[above].inode == hot.inode and (
            not self.tables.hot[above].known & PL_KNOWN_CREDS
            or (self.tables.hot[above].uid == 0 and self.tables.cold[above].euid == 0)
        )

    cdef void note_leader(
        self, uint32_t row, uint64_t time_boot_ns, uint64_t changed_after_boot_ns, bint has_ended
    ) noexcept nogil:
        """Note a leader if its session lost its terminal, or got one that may have belonged to another session."""
        cdef const pl_hot *hot = &self.tables.hot[row]
        cdef const pl_cold *cold = &self.tables.cold[row]
        cdef noted_leader *noted
        if (
            cold.sid != hot.tgid or hot.flags & PL_ROW_FOREIGN or self.leaders_count == NOTED_LEADERS
            or (has_ended and cold.tty[0] == 0) or self.tables.rows[row].status & STATUS_TTY_GIVEN
        ):
            return
        noted = &self.leaders[self.leaders_count]
        noted.sid = cold.sid
        noted.time_boot_ns = time_boot_ns
        noted.changed_after_boot_ns = changed_after_boot_ns
        noted.is_exact = hot.flags & (PL_ROW_EXIT_UNSEEN if has_ended else PL_ROW_CHANGE_SAMPLED) == 0
        if has_ended:
            memset(noted.tty, 0, sizeof(noted.tty))
        else:
            memcpy(noted.tty, cold.tty, sizeof(noted.tty))
        self.leaders_count += 1
