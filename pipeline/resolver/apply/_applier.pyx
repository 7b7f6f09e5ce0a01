"""The Applier: events in batches or one at a time, and what /proc says, into the tables.

What an event does is in _effects.pyx. /proc facts come as the same records (`insert_snapshot`), with the time at which they
were read. They are newer than the events that were under way then: a process entered from /proc is put back to what its
fork event says when that one arrives, and the events that follow bring it forward again, so the tables end as if /proc had
never been asked. Follows specification 3.3.6, 3.3.7 and 3.3.9; reading /proc is in survey.py and reader.py.

Python-level methods, for the resolver's loop, snapshot, repair and single calls (times are boot ns):

    apply(batch) -> int                                       events applied; the batch of a Merger
    apply_records(head, task, body, strings) -> int           one record; the row of its process, 0 if it has none
    insert_snapshot(head, task, exec_, strings, source=SOURCE_SNAPSHOT, known=None, start_ticks=False, flags=0,
                    exec_boot_ns=0) -> int                    SAME, ADDED, COMPLETED or CHANGED
    close_missing(tgid, start_boot_ns, time_boot_ns) -> bool  the process is gone and nobody saw it end
    reparent(tgid, ppid, time_boot_ns, ...) -> bool           the kernel says who its parent is
    take_wanted() -> [(tgid, start_boot_ns)]                  what /proc should be asked about
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memset

from pipeline.resolver.apply._effects cimport PROCESS_FLAGS, Events
from pipeline.resolver.merge._queues cimport Batch
from pipeline.records._records cimport (
    PL_FLAG_HEAD_ONLY,
    PL_FLAG_PARTIAL,
    PL_KIND_EXEC,
    PL_KIND_EXIT,
    PL_KIND_FORK,
    pl_exec_any,
    pl_exit_any,
    pl_fork_any,
    pl_head_any,
    pl_task_any,
)
from pipeline.resolver.apply._followups cimport TOPIC_EXIT
from pipeline.resolver.apply._record cimport told_record
from pipeline.shm.layout._layout cimport (
    PL_CGROUP_SOURCE_PROCFS,
    PL_CGROUP_SOURCE_UNKNOWN,
    PL_C_ADDED_KERNEL_MAPS,
    PL_C_ADDED_PROCFS,
    PL_C_EXITS_UNSEEN,
    PL_C_SNAPSHOT_ADDED,
    PL_KNOWN_FILE,
    PL_ROW_EXIT_UNSEEN,
    PL_ROW_GAP,
    PL_ROW_HEAD,
    PL_ROW_IS_EXEC,
    PL_ROW_IS_EXEC_EXEC,
    PL_ROW_START_TICKS,
    PL_ROW_STAT_INODE,
    PL_SOURCE_EVENT,
    PL_SOURCE_MAP,
    PL_SOURCE_PROCFS,
    PL_SOURCE_SNAPSHOT,
    pl_hot,
)
from pipeline.shm.writer._writer cimport TableWriter

include "states.pxi"

#: What `insert_snapshot` returns.
SAME = 0
ADDED = 1
COMPLETED = 2
CHANGED = 3

cdef enum:
    RESULT_SAME = 0
    RESULT_ADDED = 1
    RESULT_COMPLETED = 2
    RESULT_CHANGED = 3


cdef class Applier(Events):
    """Applies events: the only code that decides what is in the rows.

    Args:
        tables: pipeline.shm.writer._writer.TableWriter of this process.
        encoder: pipeline.resolver.stream._encoder.Encoder to tell each applied event, or None.
    """

    def apply(self, Batch batch not None) -> int:
        """Apply a batch of a Merger; returns how many events it had."""
        with nogil:
            self.apply_batch(batch)
        return batch.count

    # -- single records ------------------------------------------------------------------------------------------------

    def apply_records(
        self, head, task=None, body=None, strings=b"", *, known=None, int source=PL_SOURCE_EVENT, uint64_t digest=0
    ) -> int:
        """Apply one record.

        Args:
            head, task, body: buffers of one HEAD, one TASK and the body of the kind (FORK, EXEC or EXIT) of
                pipeline.records.kinds; None where the record has none.
            strings: path, name, args and envs of an exec, one after the other.
            known: KNOWN_* groups of `task` that hold a value; by default what the head's flags say.
            source: SOURCE_* of the images that it makes: where somebody else than the kernel's ring told it.
            digest: of the arguments and the environment before anything was hidden (_conceal.pyx); 0: nothing was.

        Returns:
            The row of the process's head, 0 when it is not in the tables.

        Raises:
            ValueError: a buffer has the wrong length.
        """
        cdef _Buffers buffers = _Buffers(head, task, body, strings)
        cdef const pl_head_any *h = <const pl_head_any *>buffers.data(0, sizeof(pl_head_any))
        cdef const pl_task_any *t = <const pl_task_any *>buffers.data(1, sizeof(pl_task_any))
        cdef const char *b = NULL
        cdef const char *string_bytes = buffers.data(3, 0)
        if h == NULL:
            raise ValueError("a record has a head")
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
        cdef told_record record
        memset(&record, 0, sizeof(record))
        record.head, record.task, record.body.bytes, record.strings = h, t, b, string_bytes
        if t != NULL:
            record.groups = self.told(h.flags, t) if known is None else <uint32_t>known | known_states(t)
        record.source = <uint8_t>source if source else PL_SOURCE_EVENT
        record.digest = digest
        with nogil:
            self.apply_one(&record)
        return self.find(h.tgid, h.start_boot_ns, h.flags & PL_FLAG_PARTIAL)

    def insert_snapshot(
        self, head, task, exec_=None, strings=b"", *, int source=PL_SOURCE_SNAPSHOT, known=None,
        bint start_ticks=False, uint32_t flags=0, uint64_t exec_boot_ns=0, uint64_t digest=0,
    ) -> int:
        """Enter, complete or correct a live process from what /proc, the task iterator or the kernel maps say of it.

        Args:
            head: one HEAD: tgid, tid, start_boot_ns, ppid, and time_boot_ns: when this was read. parent_start_boot_ns
                may be 0; then whoever has the parent's pid is linked if it is older.
            task, exec_: one TASK, one EXEC or None; strings: path, name, args, envs, as `exec_` says.
            source: SOURCE_SNAPSHOT, SOURCE_PROCFS or SOURCE_MAP.
            known: KNOWN_* groups of `task` that hold a value; by default all for a head without FLAG_PARTIAL, else
                those that are not zero.
            start_ticks: the start time is one of /proc, rounded down to a tick.
            flags: ROW_* to set on a row that is entered (ROW_BEFORE_CAPTURE, ROW_GAP).
            exec_boot_ns: when an exec made the image that has `task`'s cookie, as the kernel's maps say; 0: unknown, or none
                did. If the row has another cookie, that exec was lost.
            digest: as in `apply_records`, but for 0: not known.

        Returns:
            SAME, ADDED, COMPLETED (what was unknown is known now) or CHANGED (something was different).

        Raises:
            ValueError: a buffer has the wrong length.
        """
        cdef _Buffers buffers = _Buffers(head, task, exec_, strings)
        cdef const pl_head_any *h = <const pl_head_any *>buffers.data(0, sizeof(pl_head_any))
        cdef const pl_task_any *t = <const pl_task_any *>buffers.data(1, sizeof(pl_task_any))
        cdef const pl_exec_any *b = <const pl_exec_any *>buffers.data(2, sizeof(pl_exec_any))
        cdef const char *string_bytes = buffers.data(3, 0)
        cdef told_record record
        cdef int result
        if h == NULL or t == NULL:
            raise ValueError("a process has a head and a task")
        if not 0 < h.tgid < self.tables.root_pids:
            raise ValueError(f"pid {h.tgid} is outside the table's pids")
        if b != NULL and (
            <uint64_t>b.path_bytes + b.name_bytes + b.args_bytes + b.envs_bytes > <uint64_t>buffers.length(3)
        ):
            raise ValueError("the strings are shorter than the record says")
        memset(&record, 0, sizeof(record))
        record.head, record.task, record.body.exec, record.strings = h, t, b, string_bytes
        record.groups = self.told(h.flags, t) if known is None else <uint32_t>known | known_states(t)
        record.source = <uint8_t>source
        record.cgroup_source = PL_CGROUP_SOURCE_UNKNOWN if source == PL_SOURCE_MAP else PL_CGROUP_SOURCE_PROCFS
        record.is_stat = (h.flags & PL_FLAG_PARTIAL) != 0
        record.digest = digest
        with nogil:
            result = self.insert(&record, start_ticks, flags, exec_boot_ns)
        return result

    cdef int insert(
        self, const told_record *record, bint ticks, uint32_t flags, uint64_t exec_boot_ns
    ) noexcept nogil:
        cdef const pl_head_any *head = record.head
        cdef const pl_task_any *task = record.task
        cdef uint32_t row = self.find(head.tgid, head.start_boot_ns, ticks), parent, newer = 0
        cdef pl_hot *hot
        if row:
            return self.merge_facts(row, record, ticks, exec_boot_ns)
        row = self.tables.head(head.tgid)
        if row and self.hot[row].start_boot_ns > head.start_boot_ns:
            return RESULT_SAME  # its pid has a younger owner already
        row = self.open_entry(head, head.start_boot_ns, &newer)
        if row == 0:
            return RESULT_SAME
        hot = &self.hot[row]
        hot.source = record.source
        hot.flags |= flags
        if ticks:
            hot.flags |= PL_ROW_START_TICKS
        self.cold[row].fork_boot_ns = head.start_boot_ns
        self.put_task(row, record, record.groups)
        self.cold[row].exec_inode = task.exe_inode
        if record.body.exec != NULL:
            self.put_image(row, record, True)
        else:
            hot.inode = task.exe_inode
            if record.is_stat and task.exe_inode:
                hot.flags |= PL_ROW_STAT_INODE
        self.missing_parent(row, head, newer)
        parent = self.tables.follow(hot.parent)
        # Whether there was an exec since the fork shows in what differs from the parent (specification 3.3.9).
        if head.tgid == 1:
            hot.flags |= PL_ROW_IS_EXEC
        elif parent and hot.known & PL_KNOWN_FILE and not self.same_image(row, parent):
            hot.flags |= PL_ROW_IS_EXEC
        self.publish_entry(row, newer)
        self.slots[head.tgid].facts_at = head.time_boot_ns
        self.slots[head.tgid].parent_start = head.parent_start_boot_ns
        if self.tables.first_child(head.tgid) or self.slots[head.tgid].awaited:
            self.link_waiting(row, head.time_boot_ns)
        if record.source == PL_SOURCE_SNAPSHOT:
            self.counters[PL_C_SNAPSHOT_ADDED] += 1
        else:
            self.count_told(record.source)
        self.close_if_ended(row)
        return RESULT_ADDED

    cdef void count_told(self, uint8_t source) noexcept nogil:
        """An entry was made of what events did not tell; of a snapshot that is counted nowhere (specification 3.3.7)."""
        if source == PL_SOURCE_PROCFS:
            self.counters[PL_C_ADDED_PROCFS] += 1
        elif source == PL_SOURCE_MAP:
            self.counters[PL_C_ADDED_KERNEL_MAPS] += 1

    cdef bint is_other_image(self, uint32_t row, const told_record *record, uint64_t exec_boot_ns) noexcept nogil:
        """Whether a look at a process shows another image than the row has.

        Either the kernel's exec program gave the process another image since, by its cookie. Or the executable is
        another one. Inode numbers of the kernel and of stat() differ on some file systems, so between these the path
        has to differ too; a path alone can change by a rename.
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
        # Whatever filled the kernel's maps does not say which of the two it had.
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
        self, uint32_t row, const told_record *record, bint ticks, uint64_t exec_boot_ns
    ) noexcept nogil:
        """The process is there: fill what is unknown, correct what differs if /proc is younger than the last event.

        The path, the arguments and the environment of an image are never corrected: an exec that was lost makes another
        image, and without an exec only the process itself can have changed what /proc shows of them.
        """
        cdef const pl_head_any *head = record.head
        cdef const pl_task_any *task = record.task
        cdef bint has_image = record.body.exec != NULL
        cdef pl_hot *hot = &self.hot[row]
        cdef uint32_t groups = record.groups, missing, image, parent = self.tables.follow(hot.parent), ppid = hot.ppid
        cdef int result = RESULT_SAME
        cdef bint younger = head.time_boot_ns >= self.slots[head.tgid].facts_at
        if hot.exit_boot_ns or self.tables.head(head.tgid) != row:
            return RESULT_SAME
        if hot.flags & PL_ROW_START_TICKS and not ticks:
            self.exact_start(row, head.start_boot_ns)
            result = RESULT_COMPLETED
        if has_image and younger and self.is_other_image(row, record, exec_boot_ns):
            # An exec between the last event and now was lost; its time is unknown.
            image = self.copy_row(row)
            if image:
                hot = &self.hot[image]
                hot.flags = (hot.flags & PROCESS_FLAGS) | PL_ROW_HEAD | PL_ROW_IS_EXEC | PL_ROW_GAP | (
                    PL_ROW_IS_EXEC_EXEC if self.hot[row].flags & PL_ROW_IS_EXEC else 0
                )
                self.put_task(image, record, groups)
                self.put_image(image, record, True)
                hot.source = record.source
                hot.exec_boot_ns = head.time_boot_ns
                hot.images = <uint16_t>min(<uint32_t>hot.images + 1, <uint32_t>0xFFFF)
                self.cold[image].exec_inode = 0
                self.cold[image].cookie = task.cookie
                self.forget_told(
                    image, self.cold[row].extra_ref,
                    self.same_places(image, self.hot[row].cgroup_id, self.cold[row].container_ref),
                )
                self.tables.set_ancestor(image, row)
                self.tables.end(image)
                self.tables.set_head(head.tgid, image)
                self.replace(row, head.time_boot_ns)
                self.count_told(record.source)
                row = image
                result = RESULT_CHANGED
        elif has_image and self.complete_image(row, record):
            result = RESULT_COMPLETED
        hot = &self.hot[row]
        missing = groups & ~hot.known
        if younger and self.differs(row, task, groups & hot.known):
            self.tables.begin(row)
            self.put_task(row, record, groups)
            self.tables.end(row)
            result = RESULT_CHANGED
        elif missing:
            self.tables.begin(row)
            self.put_task(row, record, missing)
            self.tables.end(row)
            if result == RESULT_SAME:
                result = RESULT_COMPLETED
        if younger:
            if task.cookie and self.cold[row].cookie != task.cookie:
                # The maps are others than those of which an event told: a new supervisor's, or they had forgotten it.
                self.tables.begin(row)
                self.cold[row].cookie = task.cookie
                self.tables.end(row)
            self.slots[head.tgid].facts_at = head.time_boot_ns
            self.follow_kernel(row, head, 0)
            if hot.ppid != ppid or (parent and self.tables.follow(hot.parent) != parent):
                result = RESULT_CHANGED
        return result

    def close_missing(
        self, uint32_t tgid, uint64_t start_boot_ns, uint64_t time_boot_ns, *, bint seen=False
    ) -> bool:
        """The process did not live any more at `time_boot_ns`, and its end was not seen.

        Args:
            start_boot_ns: of the process meant; 0: whoever has the pid.
            seen: the end was seen after all, at `time_boot_ns`, by whoever calls.

        Returns:
            False when there is no such process, or it has ended, or something younger is known of it.
        """
        cdef uint32_t row = self.tables.head(tgid)
        if (
            row == 0
            or (start_boot_ns and not self.same_start(row, start_boot_ns, False))
            or self.hot[row].exit_boot_ns
            or (self.slots[tgid].facts_at > time_boot_ns and not seen)
        ):
            return False
        with nogil:
            if not seen:
                self.counters[PL_C_EXITS_UNSEEN] += 1
            self.finish(row, time_boot_ns, 0 if seen else PL_ROW_EXIT_UNSEEN)
            self.leave_children(row, 0, 0, time_boot_ns)
            self.emit(TOPIC_EXIT, PL_KIND_EXIT, row, time_boot_ns, 0)
        return True

    def reparent(
        self, uint32_t tgid, uint32_t ppid, uint64_t time_boot_ns, *, uint64_t start_boot_ns=0,
        uint64_t parent_start_boot_ns=0,
    ) -> bool:
        """The kernel says that the parent of `tgid` is `ppid` now; returns whether anything moved.

        A parent that is not in the tables moves nothing (specification R21); it shows up in `take_wanted`.
        """
        cdef uint32_t row = self.tables.head(tgid)
        cdef uint64_t parent
        cdef pl_head_any head
        if row == 0 or (start_boot_ns and not self.same_start(row, start_boot_ns, False)) or self.hot[row].exit_boot_ns:
            return False
        memset(&head, 0, sizeof(head))
        head.tgid = tgid
        head.ppid = ppid
        head.start_boot_ns = self.hot[row].start_boot_ns
        head.parent_start_boot_ns = parent_start_boot_ns
        head.time_boot_ns = time_boot_ns
        parent = self.hot[row].parent
        with nogil:
            self.follow_kernel(row, &head, 0)
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
