"""The Applier: applies events, in batches or one at a time, and facts from /proc to the tables.

The classes below it are described in _rows.pyx. Facts from /proc have the form of records (`insert_from_proc`), with
the time at which they were read. They are younger than the events that were under way then. When the fork of a process
that was entered from /proc arrives, the process returns to its state at the fork. The events that follow bring it
forward again, so the tables end as if /proc had never been read. Follows specification 3.3.6, 3.3.7 and 3.3.9; /proc is
read by survey.py and proc_reader.py.

Methods for Python: the duty cycle, the snapshot, repairs and single calls (times are boot ns):

    apply(batch) -> int                                          events applied; the batch of a Merger
    apply_records(header, task, body, strings) -> int            one record; the row of its process, 0 if it has none
    insert_from_proc(header, task, ...) -> int                   SAME, ADDED, COMPLETED or CHANGED, for one live process
    insert_survey(headers, tasks, execs, ...) -> results         the same with many processes
    close_missing(tgid, start_boot_ns, time_boot_ns) -> bool     end a process after a lost exit event
    close_all_missing(tgids, starts, is_absent, ...) -> results  the same with many processes
    reparent(tgid, ppid, time_boot_ns, ...) -> bool              set the parent that the kernel names
    take_wanted() -> [(tgid, start_boot_ns)]                     processes to read from /proc
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memset

from pipeline.records._records cimport (
    PL_FLAG_HEAD_ONLY, PL_FLAG_PARTIAL, PL_KIND_EXEC, PL_KIND_EXIT, PL_KIND_FORK, pl_exec_any, pl_exit_any,
    pl_fork_any, pl_header_any, pl_task_any,
)
from pipeline.resolver.apply._effects cimport Events
from pipeline.resolver.apply._execs cimport PROCESS_FLAGS
from pipeline.resolver.apply._images cimport known_states
from pipeline.resolver.apply._record cimport parsed_record
from pipeline.resolver.merge._queues cimport Batch
from pipeline.shm.layout._layout cimport (
    PL_CGROUP_SOURCE_PROCFS, PL_CGROUP_SOURCE_UNKNOWN, PL_C_ADDED_KERNEL_MAPS, PL_C_ADDED_PROCFS, PL_C_EXITS_UNSEEN,
    PL_C_FLUSHED, PL_C_SNAPSHOT_ADDED, PL_KNOWN_FILE, PL_ROW_BEFORE_CAPTURE, PL_ROW_DELETED, PL_ROW_EXIT_UNSEEN,
    PL_ROW_GAP, PL_ROW_HEAD, PL_ROW_IS_EXEC, PL_ROW_IS_EXEC_EXEC, PL_ROW_START_TICKS, PL_ROW_STAT_INODE,
    PL_SOURCE_EVENT, PL_SOURCE_MAP, PL_SOURCE_PROCFS, PL_SOURCE_SNAPSHOT, PL_TOPIC_EXIT, pl_hot, pl_prefetch,
    pl_prefetch_write,
)

cdef enum:
    RESULT_SAME = 0
    RESULT_ADDED = 1
    RESULT_COMPLETED = 2
    RESULT_CHANGED = 3
    #: Where many processes are ended one after another: processes between two heartbeats, and how many processes ahead
    #: the state of a pid and a row are prefetched.
    LIFE_PROCESSES = 256
    AHEAD_PID = 16
    AHEAD_HEAD = 8

#: What `insert_from_proc` returns.
SAME, ADDED, COMPLETED, CHANGED = RESULT_SAME, RESULT_ADDED, RESULT_COMPLETED, RESULT_CHANGED


cdef class Applier(Events):
    """Applies events and facts from /proc. No other code decides what the rows hold.

    Args:
        tables: pipeline.shm.writer._writer.TableWriter of this process.
        encoder: pipeline.resolver.stream._encoder.Encoder that gets each applied event, or None.
        kthreadd: pid of the parent of all kernel threads; 0: the pid namespace of the records shows none.
    """

    def apply(self, Batch batch not None) -> int:
        """Apply a batch of a Merger; return how many events it had."""
        with nogil:
            self.apply_batch(batch)
        return batch.count

    # -- single records ------------------------------------------------------------------------------------------------

    def apply_records(
        self, header, task=None, body=None, strings=b"", *, known=None, int source=PL_SOURCE_EVENT, uint64_t digest=0
    ) -> int:
        """Apply one record.

        Args:
            header, task, body: buffers of one HEADER, one TASK and the body of the kind (FORK, EXEC or EXIT) of
                pipeline.records.dtypes; None: the record has none.
            strings: path, name, args and envs of an exec, one after the other.
            known: KNOWN_* groups of `task` that hold a value; by default what the header's flags say.
            source: SOURCE_* of the images that the record makes, if it is not from the kernel's ring.
            digest: of arguments and environment before anything was hidden (_conceal.pyx); 0: nothing was hidden.

        Returns:
            The row of the process's head; 0: it is not in the tables.

        Raises:
            ValueError: a buffer has the wrong length.
        """
        cdef _Buffers buffers = _Buffers(header, task, body, strings)
        cdef const pl_header_any *h = <const pl_header_any *>buffers.data(0, sizeof(pl_header_any))
        cdef const pl_task_any *t = <const pl_task_any *>buffers.data(1, sizeof(pl_task_any))
        cdef const char *b = NULL
        cdef const char *string_bytes = buffers.data(3, 0)
        if h == NULL:
            raise ValueError("a record has a header")
        if h.flags & PL_FLAG_HEAD_ONLY:
            t = NULL
        elif t == NULL:
            raise ValueError("a record without FLAG_HEAD_ONLY has a task")
        if t != NULL and PL_KIND_FORK <= h.kind <= PL_KIND_EXIT:
            b = buffers.data(
                2,
                sizeof(pl_fork_any) if h.kind == PL_KIND_FORK
                else sizeof(pl_exec_any) if h.kind == PL_KIND_EXEC else sizeof(pl_exit_any),
            )
            if b == NULL:
                raise ValueError("a record of this kind has a body")
        if buffers.length(3) < h.var_bytes:
            raise ValueError(f"the record has {h.var_bytes} bytes of strings, not {buffers.length(3)}")
        cdef parsed_record record
        memset(&record, 0, sizeof(record))
        record.header, record.task, record.body.bytes, record.strings = h, t, b, string_bytes
        if t != NULL:
            record.ns_pid = t.ns_pid
            record.groups = self.groups_of(h.flags, t) if known is None else <uint32_t>known | known_states(t)
        record.source = <uint8_t>source if source else PL_SOURCE_EVENT
        record.digest = digest
        with nogil:
            self.apply_one(&record)
        return self.find(h.tgid, h.start_boot_ns, h.flags & PL_FLAG_PARTIAL)

    def insert_from_proc(
        self, header, task, exec_=None, strings=b"", *, int source=PL_SOURCE_SNAPSHOT, known=None,
        bint start_ticks=False, uint32_t flags=0, uint64_t exec_boot_ns=0, uint64_t digest=0,
    ) -> int:
        """Enter, complete or correct a live process with facts from /proc, the task iterator or the kernel's maps.

        Args:
            header: one HEADER: tgid, tid, start_boot_ns, ppid, and in time_boot_ns the time of reading. If
                parent_start_boot_ns is 0, the current owner of the parent's pid is linked, provided it is older.
            task, exec_: one TASK, one EXEC or None; strings: path, name, args, envs, as `exec_` says.
            source: SOURCE_SNAPSHOT, SOURCE_PROCFS or SOURCE_MAP.
            known: KNOWN_* groups of `task` that hold a value; by default all for a header without FLAG_PARTIAL, else
                those that are not zero.
            start_ticks: the start time is from /proc, rounded down to a tick.
            flags: ROW_* to set on a new row (ROW_BEFORE_CAPTURE, ROW_GAP).
            exec_boot_ns: time of the exec that made the image with `task`'s cookie, from the kernel's maps; 0: it is
                unknown, or there was none. If the row has another cookie, that exec was lost.
            digest: as in `apply_records`, except that 0 means unknown.

        Returns:
            SAME, ADDED, COMPLETED (an unknown fact was added) or CHANGED (a fact was different).

        Raises:
            ValueError: a buffer has the wrong length.
        """
        cdef _Buffers buffers = _Buffers(header, task, exec_, strings)
        cdef const pl_header_any *h = <const pl_header_any *>buffers.data(0, sizeof(pl_header_any))
        cdef const pl_task_any *t = <const pl_task_any *>buffers.data(1, sizeof(pl_task_any))
        cdef const pl_exec_any *b = <const pl_exec_any *>buffers.data(2, sizeof(pl_exec_any))
        cdef const char *string_bytes = buffers.data(3, 0)
        cdef parsed_record record
        cdef int result
        if h == NULL or t == NULL:
            raise ValueError("a process has a header and a task")
        self.fill_record(&record, h, t, b, string_bytes, <uint64_t>buffers.length(3), source, digest)
        if known is not None:
            record.groups = <uint32_t>known | known_states(t)
        with nogil:
            result = self.insert(&record, start_ticks, flags, exec_boot_ns)
        return result

    def insert_survey(
        self, const uint8_t[::1] headers, const uint8_t[::1] tasks, const uint8_t[::1] execs, list strings,
        const uint8_t[::1] is_exact, list digests, *, int source, uint32_t flags, uint64_t before_boot_ns, insert,
        show_life,
    ) -> bytearray:
        """Enter, complete or correct many live processes, as `insert_from_proc` does with one.

        Args:
            headers, tasks, execs: HEADERs, TASKs and EXECs.
            strings, digests: of each process; see `insert_from_proc`. No digests: all are 0.
            is_exact: of each process: whether its start is in ns.
            source, flags: of all of them.
            before_boot_ns: a process that started before gets ROW_BEFORE_CAPTURE as well.
            insert: a function of the number of a process. It is called if the record of the process has FLAG_PARTIAL,
                or has another cookie than the row. It reads what is missing, and returns the result for the process.
            show_life: is called for each process.

        Returns:
            The result of each process.

        Raises:
            ValueError: the columns have different lengths, or what `insert_from_proc` raises.
        """
        cdef Py_ssize_t i, count = len(strings)
        cdef const pl_header_any *header = <const pl_header_any *>&headers[0] if headers.shape[0] else NULL
        cdef const pl_task_any *task = <const pl_task_any *>&tasks[0] if tasks.shape[0] else NULL
        cdef const pl_exec_any *body = <const pl_exec_any *>&execs[0] if execs.shape[0] else NULL
        cdef bytearray results = bytearray(count)
        cdef parsed_record record
        cdef uint32_t row, each
        cdef bytes text
        if (
            headers.shape[0] != count * <Py_ssize_t>sizeof(pl_header_any)
            or tasks.shape[0] != count * <Py_ssize_t>sizeof(pl_task_any)
            or execs.shape[0] != count * <Py_ssize_t>sizeof(pl_exec_any)
            or is_exact.shape[0] != count or len(digests) not in (0, count)
        ):
            raise ValueError("the columns have different lengths")
        for i in range(count):
            show_life()
            row = self.tables.head(header[i].tgid) if header[i].tgid < self.tables.root_pids else 0
            if header[i].flags & PL_FLAG_PARTIAL or (
                row and task[i].cookie and self.cold[row].cookie and self.cold[row].cookie != task[i].cookie
            ):
                results[i] = insert(i)
                continue
            text = strings[i]
            self.fill_record(
                &record, &header[i], &task[i], &body[i], text, len(text), source, digests[i] if digests else 0
            )
            each = flags | (PL_ROW_BEFORE_CAPTURE if header[i].start_boot_ns < before_boot_ns else 0)
            with nogil:
                results[i] = self.insert(&record, not is_exact[i], each, 0)
        return results

    cdef int fill_record(
        self, parsed_record *record, const pl_header_any *header, const pl_task_any *task, const pl_exec_any *body,
        const char *strings, uint64_t string_bytes, int source, uint64_t digest,
    ) except -1:
        """Make the record of a live process.

        Raises:
            ValueError: the pid is too large for the tables, or the strings are shorter than the EXEC says.
        """
        if not 0 < header.tgid < self.tables.root_pids:
            raise ValueError(f"pid {header.tgid} is outside the table's pids")
        if body != NULL and (
            <uint64_t>body.path_bytes + body.name_bytes + body.args_bytes + body.envs_bytes > string_bytes
        ):
            raise ValueError("the strings are shorter than the record says")
        memset(record, 0, sizeof(record[0]))
        record.header, record.task, record.body.exec, record.strings = header, task, body, strings
        record.ns_pid = task.ns_pid
        record.groups = self.groups_of(header.flags, task)
        record.source = <uint8_t>source
        record.cgroup_source = PL_CGROUP_SOURCE_UNKNOWN if source == PL_SOURCE_MAP else PL_CGROUP_SOURCE_PROCFS
        record.is_stat = (header.flags & PL_FLAG_PARTIAL) != 0
        record.digest = digest
        return 0

    cdef int insert(
        self, const parsed_record *record, bint ticks, uint32_t flags, uint64_t exec_boot_ns
    ) noexcept nogil:
        cdef const pl_header_any *header = record.header
        cdef const pl_task_any *task = record.task
        cdef uint32_t row = self.find(header.tgid, header.start_boot_ns, ticks), parent, newer = 0
        cdef pl_hot *hot
        if row:
            return self.merge_facts(row, record, ticks, exec_boot_ns)
        row = self.tables.head(header.tgid)
        if row and self.hot[row].start_boot_ns > header.start_boot_ns:
            return RESULT_SAME  # the pid has a younger owner already
        if self.has_ended(header.tgid, header.start_boot_ns, ticks):
            return RESULT_SAME  # it has ended since its facts were read, and was evicted
        row = self.open_entry(header, header.start_boot_ns, &newer)
        if row == 0:
            return RESULT_SAME
        hot = &self.hot[row]
        hot.source = record.source
        hot.flags |= flags
        if ticks:
            hot.flags |= PL_ROW_START_TICKS
        self.cold[row].fork_boot_ns = header.start_boot_ns
        self.put_task(row, record, record.groups)
        self.cold[row].exec_inode = task.exe_inode
        if record.body.exec != NULL:
            self.put_image(row, record, True)
        else:
            hot.inode = task.exe_inode
            if record.is_stat and task.exe_inode:
                hot.flags |= PL_ROW_STAT_INODE
        self.missing_parent(row, header, newer)
        parent = self.tables.follow(hot.parent)
        # A difference from the parent shows that there was an exec since the fork (specification 3.3.9).
        if header.tgid == 1:
            hot.flags |= PL_ROW_IS_EXEC
        elif parent and hot.known & PL_KNOWN_FILE and not self.same_image(row, parent):
            hot.flags |= PL_ROW_IS_EXEC
        self.insert_entry(row, newer)
        self.begin_pid(header)
        if self.tables.first_child(header.tgid) or self.pids[header.tgid].awaited:
            self.link_waiting(row, header.time_boot_ns)
        if record.source == PL_SOURCE_SNAPSHOT:
            self.counters[PL_C_SNAPSHOT_ADDED] += 1
        else:
            self.count_made(record.source)
        self.close_if_ended(row)
        return RESULT_ADDED

    cdef void count_made(self, uint8_t source) noexcept nogil:
        """Count an entry that no event made; entries of a snapshot are not counted here (specification 3.3.7)."""
        if source == PL_SOURCE_PROCFS:
            self.counters[PL_C_ADDED_PROCFS] += 1
        elif source == PL_SOURCE_MAP:
            self.counters[PL_C_ADDED_KERNEL_MAPS] += 1

    cdef bint is_other_image(self, uint32_t row, const parsed_record *record, uint64_t exec_boot_ns) noexcept nogil:
        """Whether a record shows another image than the row.

        Either the cookie shows that there was an exec, or the executable is another one. Inode numbers of the kernel
        and of stat() differ on some file systems, so if one is compared with the other, the path has to differ too. The
        path alone does not count, as a rename changes it.
        """
        cdef const pl_task_any *task = record.task
        cdef const pl_exec_any *body = record.body.exec
        cdef const pl_hot *hot = &self.hot[row]
        cdef const char *path
        cdef uint32_t n = 0
        cdef bint is_comparable
        if body.path_bytes == 0:
            return False
        if exec_boot_ns and task.cookie and self.cold[row].cookie and task.cookie != self.cold[row].cookie:
            return True
        if hot.inode == 0 or body.inode == 0 or hot.inode == body.inode:
            return False
        # Entries of the kernel's maps do not say which of the two they hold.
        is_comparable = (
            not record.is_stat and not hot.flags & PL_ROW_STAT_INODE
            and record.source != PL_SOURCE_MAP and hot.source != PL_SOURCE_MAP
        )
        if is_comparable:
            return True
        if not hot.known & PL_KNOWN_FILE:
            return False
        path = self.tables.names.bytes(hot.file_ref, &n)
        return n != 64 + body.path_bytes or memcmp(path + 64, record.strings, body.path_bytes) != 0

    cdef int merge_facts(
        self, uint32_t row, const parsed_record *record, bint ticks, uint64_t exec_boot_ns
    ) noexcept nogil:
        """Complete a process, and correct it if the record is younger than the last event.

        Path, arguments and environment of an image are never corrected. A lost exec makes another image, and without an
        exec only the process itself can have changed them in /proc.
        """
        cdef const pl_header_any *header = record.header
        cdef const pl_task_any *task = record.task
        cdef bint has_image = record.body.exec != NULL
        cdef pl_hot *hot = &self.hot[row]
        cdef uint32_t image, parent = self.tables.follow(hot.parent), ppid = hot.ppid
        cdef int result = RESULT_SAME
        cdef bint younger = header.time_boot_ns >= self.pids[header.tgid].facts_at
        if hot.exit_boot_ns or self.tables.head(header.tgid) != row:
            return RESULT_SAME
        if hot.flags & PL_ROW_START_TICKS and not ticks:
            self.exact_start(row, header.start_boot_ns)
            result = RESULT_COMPLETED
        if has_image and younger and self.is_other_image(row, record, exec_boot_ns):
            image = self.add_lost_exec(row, record)
            if image:
                row, result = image, RESULT_CHANGED
        elif has_image and self.complete_image(row, record):
            result = RESULT_COMPLETED
        result = max(result, self.merge_task(row, record, younger))
        if younger:
            hot = &self.hot[row]
            if task.cookie and self.cold[row].cookie != task.cookie:
                # The maps are not those of the last event: a new supervisor made them, or the entry was evicted.
                self.tables.begin(row)
                self.cold[row].cookie = task.cookie
                self.tables.end(row)
            self.pids[header.tgid].facts_at = header.time_boot_ns
            self.follow_kernel(row, header, 0)
            if hot.ppid != ppid or (parent and self.tables.follow(hot.parent) != parent):
                result = RESULT_CHANGED
        return result

    cdef uint32_t add_lost_exec(self, uint32_t row, const parsed_record *record) noexcept nogil:
        """Insert the image of an exec that was lost, so its time is unknown; return its row, or 0 without room."""
        cdef const pl_header_any *header = record.header
        cdef uint32_t image = self.copy_row(row)
        cdef pl_hot *hot = &self.hot[image]
        if image == 0:
            return 0
        hot.flags = (hot.flags & PROCESS_FLAGS) | PL_ROW_HEAD | PL_ROW_IS_EXEC | PL_ROW_GAP | (
            PL_ROW_IS_EXEC_EXEC if self.hot[row].flags & PL_ROW_IS_EXEC else 0
        )
        self.put_task(image, record, record.groups)
        self.put_image(image, record, True)
        hot.source = record.source
        hot.exec_boot_ns = header.time_boot_ns
        hot.images = <uint16_t>min(<uint32_t>hot.images + 1, <uint32_t>0xFFFF)
        self.cold[image].exec_inode = 0
        self.cold[image].cookie = record.task.cookie
        self.reset_extra(
            image, self.cold[row].extra_ref,
            self.same_places(image, &self.hot[row], &self.cold[row]),
        )
        self.tables.set_ancestor(image, row)
        self.tables.end(image)
        self.tables.set_head(header.tgid, image)
        self.replace(row, header.time_boot_ns)
        self.count_made(record.source)
        return image

    cdef int merge_task(self, uint32_t row, const parsed_record *record, bint younger) noexcept nogil:
        """Complete the groups of TASK that are unknown, or write all groups if a younger record differs."""
        cdef uint32_t known = self.hot[row].known, groups = record.groups & ~known
        cdef int result = RESULT_COMPLETED
        if younger and self.differs(row, record, record.groups & known):
            groups, result = record.groups, RESULT_CHANGED
        elif not groups:
            return RESULT_SAME
        self.tables.begin(row)
        self.put_task(row, record, groups)
        self.tables.end(row)
        return result

    def close_missing(
        self, uint32_t tgid, uint64_t start_boot_ns, uint64_t time_boot_ns, *, bint seen=False
    ) -> bool:
        """End a process that was gone at `time_boot_ns`; its exit event was lost.

        Args:
            start_boot_ns: of the process; 0: the current owner of the pid.
            seen: the caller has seen the end, at `time_boot_ns`.

        Returns:
            False if there is no such process, if it has ended, or if younger facts of it are known.
        """
        cdef uint32_t row = self.tables.head(tgid)
        if (
            row == 0
            or (start_boot_ns and not self.same_start(row, start_boot_ns, False))
            or self.hot[row].exit_boot_ns
            or (self.pids[tgid].facts_at > time_boot_ns and not seen)
        ):
            return False
        with nogil:
            self.end_missing(row, time_boot_ns, seen)
        return True

    def close_all_missing(
        self, const uint32_t[::1] tgids, const uint64_t[::1] starts, const uint8_t[::1] is_absent, *,
        uint64_t time_boot_ns, close,
    ) -> bytearray:
        """End many processes that were gone at `time_boot_ns`, in their order, as `close_missing` does with one.

        A process that is ended without `close` is counted as flushed here.

        Args:
            tgids, starts: the processes.
            is_absent: of each process: whether ``/proc`` does not have its pid.
            close: is called with the number of a process for which more has to be done, and returns whether it was
                ended: it has a child that may live and needs another parent, or the tables do not have it as alive, or
                they have younger facts.

        Returns:
            Whether each process was ended.

        Raises:
            ValueError: the columns have different lengths.
        """
        cdef Py_ssize_t i, count = tgids.shape[0]
        cdef bytearray results = bytearray(count)
        cdef uint8_t *result = <uint8_t *>results
        cdef uint8_t *absent
        cdef uint32_t row
        if starts.shape[0] != count or is_absent.shape[0] != count:
            raise ValueError("the columns have different lengths")
        # By pid. Zero pages that are never touched cost nothing, however long the pid index is.
        absent = <uint8_t *>calloc(self.tables.pid_capacity, 1)
        if absent == NULL:
            raise MemoryError
        try:
            with nogil:
                for i in range(count):
                    if is_absent[i] and tgids[i] < self.tables.pid_capacity:
                        absent[tgids[i]] = 1
                for i in range(count):
                    if i % LIFE_PROCESSES == 0:
                        self.tables.show_life()
                    if i + AHEAD_PID < count:
                        self.fetch_pid(tgids[i + AHEAD_PID])
                    if i + AHEAD_HEAD < count:
                        self.fetch_head(tgids[i + AHEAD_HEAD])
                    row = self.childless_missing(tgids[i], starts[i], time_boot_ns, absent)
                    if row:
                        self.end_missing(row, time_boot_ns, False)
                        self.counters[PL_C_FLUSHED] += 1
                        result[i] = 1
                    else:
                        self.tables.show_life()
                        with gil:
                            result[i] = <bint>close(i)
        finally:
            free(absent)
        return results

    cdef void fetch_pid(self, uint32_t tgid) noexcept nogil:
        """Prefetch the state of a pid, because ending a process takes less time than reading its state from memory."""
        if tgid < self.tables.pid_capacity:
            pl_prefetch(&self.tables.index[tgid])
            pl_prefetch_write(&self.tables.kin[tgid])
            pl_prefetch(&self.pids[tgid])

    cdef void fetch_head(self, uint32_t tgid) noexcept nogil:
        """Prefetch the parts of a process's newest row that ending the process reads and writes."""
        cdef uint32_t row = self.tables.head(tgid)
        pl_prefetch_write(&self.tables.rows[row])
        pl_prefetch_write(&self.hot[row])
        pl_prefetch_write(&self.hot[row].flags)
        pl_prefetch(&self.cold[row].sid)

    cdef uint32_t childless_missing(
        self, uint32_t tgid, uint64_t start, uint64_t time_boot_ns, const uint8_t *absent
    ) noexcept nogil:
        """Return the head of a process to end, if its children are absent too; 0: more has to be done."""
        cdef uint32_t row = self.tables.head(tgid), child
        cdef const pl_hot *hot = &self.hot[row]
        if (
            row == 0 or hot.start_boot_ns != start or hot.exit_boot_ns or hot.flags & PL_ROW_DELETED
            or self.pids[tgid].facts_at > time_boot_ns
        ):
            return 0
        child = self.tables.first_child(tgid)
        while child:
            if not absent[child]:
                return 0
            child = self.tables.next_sibling(child)
        return row

    cdef void end_missing(self, uint32_t row, uint64_t time_boot_ns, bint seen) noexcept nogil:
        """End a process that has no exit event; see `close_missing`."""
        if not seen:
            self.counters[PL_C_EXITS_UNSEEN] += 1
        self.finish(row, time_boot_ns, 0 if seen else PL_ROW_EXIT_UNSEEN)
        self.leave_children(row, 0, 0, time_boot_ns)
        self.emit(PL_TOPIC_EXIT, PL_KIND_EXIT, row, time_boot_ns, 0)

    def reparent(
        self, uint32_t tgid, uint32_t ppid, uint64_t time_boot_ns, *, uint64_t start_boot_ns=0,
        uint64_t parent_start_boot_ns=0,
    ) -> bool:
        """Set the parent of `tgid` to the `ppid` that the kernel names; return whether that changed it.

        A parent that is not in the tables changes nothing (specification R21); `take_wanted` returns it.
        """
        cdef uint32_t row = self.tables.head(tgid)
        cdef uint64_t parent
        cdef pl_header_any header
        if row == 0 or (start_boot_ns and not self.same_start(row, start_boot_ns, False)) or self.hot[row].exit_boot_ns:
            return False
        memset(&header, 0, sizeof(header))
        header.tgid = tgid
        header.ppid = ppid
        header.start_boot_ns = self.hot[row].start_boot_ns
        header.parent_start_boot_ns = parent_start_boot_ns
        header.time_boot_ns = time_boot_ns
        parent = self.hot[row].parent
        with nogil:
            self.follow_kernel(row, &header, 0)
        return self.hot[row].parent != parent


cdef class _Buffers:
    """Four buffers of a single record, released together."""

    cdef Py_buffer views[4]
    cdef bint held[4]

    def __cinit__(self, *objects):
        cdef int i
        for i in range(4):
            self.held[i] = False
        for i in range(4):
            if objects[i] is not None:
                PyObject_GetBuffer(objects[i], &self.views[i], PyBUF_SIMPLE)
                self.held[i] = True

    def __dealloc__(self):
        cdef int i
        for i in range(4):
            if self.held[i]:
                PyBuffer_Release(&self.views[i])

    cdef Py_ssize_t length(self, int i):
        return self.views[i].len if self.held[i] else 0

    cdef const char *data(self, int i, Py_ssize_t expected) except? NULL:
        if not self.held[i]:
            return NULL
        if expected and self.views[i].len != expected:
            raise ValueError(f"expected a record of {expected} bytes, not {self.views[i].len}")
        return <const char *>self.views[i].buf
