"""Look up processes in the shared tables: one, many, ancestors, children, all, and as of a past time.

reader.h implements the row protocol, _view.pyx maps the segments and retries busy rows, and _entry.pyx defines an
entry. The public class is ProcessTable in table.py, which adds names and statistics. A look-up takes no lock, writes
nothing to shared memory and never waits for the writer longer than 50 ms.

Results. A hit is the image that the table contained at the time of the read. None ("no such process") is returned only
while the table is complete and its writer is alive and not behind. Otherwise StaleError is raised (the answer is
unknown), or BehindError (the writer has not caught up yet). A row that stays half-written raises BusyError, or
StaleError if its writer is gone.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

import os
import time

from pipeline.errors import BehindError, LayoutError, NotRunningError, StaleError, TooOldError
from pipeline.records._limits cimport CHAIN_MAX as _CHAIN_MAX
from pipeline.shm.reader._entry cimport Entry, make_entry, raise_busy
from pipeline.shm.layout._layout cimport (
    PL_ROW_ELIDED, PL_ROW_FOREIGN, PL_ROW_GAP, PL_ROW_HEAD, PL_ROW_IS_EXEC, PL_ROW_REPLACED, PL_STATE_READY,
    pl_cold, pl_commit, pl_control, pl_fence_acquire, pl_hot, pl_load_acquire32, pl_load_acquire64, pl_load_relaxed32, pl_load_relaxed64,
    pl_prefetch,
)
from pipeline.shm.reader._view cimport (
    PL_READ_ABSENT, PL_READ_BUSY, PL_READ_FOUND, PL_READ_OLD_HEAD, View, pl_copy_words, pl_follow_once,
    pl_lookup_once, pl_lookup_slot_once, pl_copy_row, pl_now_boot_ns, pl_now_coarse_ns, pl_pause, pl_sleep_ns, pl_view,
)
from pipeline.shm.reader._view import STALE_AFTER_NS


cdef extern from "fcntl.h" nogil:
    struct flock:
        short l_type
        short l_whence
        long l_start
        long l_len
        int l_pid
    int fcntl(int fd, int command, flock *lock)
    int F_OFD_SETLK
    int F_OFD_GETLK
    int F_RDLCK
    int F_WRLCK
    int F_UNLCK


#: Longest chain that a walk follows.
CHAIN_MAX = _CHAIN_MAX

#: A table with an older watermark is behind: a process that is missing in it may still exist.
BEHIND_AFTER_NS = 2_000_000_000
cdef uint64_t BEHIND_NS = 2_000_000_000

# Limit of count_readers, regardless of the locks that other users hold.
_COUNT_CALLS = 4096
_COUNT_S = 0.1

# Interval at which a reader with continuous hits checks whether its table is still the instance's.
cdef uint64_t _CHECK_NS = 250_000_000

# Look-ups of a bulk call in progress at once: while a row is copied, the index word 2 * 12 positions ahead and the row
# 12 positions ahead are prefetched. A cache miss takes about 80 ns and a copy 5.
cdef enum:
    _AHEAD = 12

# Chains that are walked together, so that as many cache misses overlap. Their rows (16 KB for chains of 8) stay in L1.
cdef enum:
    _ABREAST = 16

# Chains that are counted before memory for the rows of many is allocated.
cdef enum:
    _SAMPLE = 64

_STATES = ("down", "filling", "ready", "stopped", "superseded")

cdef object _numpy = None
cdef object _hot_dtype = None


cdef int _import_numpy() except -1:
    global _numpy, _hot_dtype
    if _numpy is None:
        import numpy
        from pipeline.shm.layout.layout import HOT
        _hot_dtype = HOT
        _numpy = numpy
    return 0


cdef inline uint64_t _link_of(const pl_hot *hot, int which) noexcept nogil:
    return hot.ancestor if which == 0 else (hot.creator if which == 1 else hot.parent)


cdef Py_ssize_t _lookup_many(
    View view, const uint32_t *pids, Py_ssize_t n, pl_hot *out, Py_ssize_t *absent
) noexcept nogil:
    """Fill out[0:n]; return the position of a row that stayed busy, or n."""
    cdef const pl_view *v = &view.view
    cdef uint32_t row = 0
    cdef uint32_t number
    cdef Py_ssize_t i
    cdef int result
    for i in range(min(n, 2 * _AHEAD)):
        if pids[i] < v.pid_capacity:
            pl_prefetch(&v.index[pids[i]])
    for i in range(min(n, _AHEAD)):
        if pids[i] < v.pid_capacity:
            number = pl_load_relaxed32(&v.index[pids[i]])
            if number < v.row_capacity:
                pl_prefetch(&v.hot[number])
                pl_prefetch(<const char *>&v.hot[number] + 64)
    for i in range(n):
        if i + 2 * _AHEAD < n and pids[i + 2 * _AHEAD] < v.pid_capacity:
            pl_prefetch(&v.index[pids[i + 2 * _AHEAD]])
        if i + _AHEAD < n and pids[i + _AHEAD] < v.pid_capacity:
            number = pl_load_relaxed32(&v.index[pids[i + _AHEAD]])
            if number < v.row_capacity:  # prefetching a missing row would have no effect
                pl_prefetch(&v.hot[number])
                pl_prefetch(<const char *>&v.hot[number] + 64)
        result = pl_lookup_once(v, pids[i], &out[i], &row)
        if result == PL_READ_FOUND:
            continue
        if result != PL_READ_ABSENT:
            view.busy_retries += 1
            result = view.lookup(pids[i], &out[i], &row)
        if result == PL_READ_ABSENT:
            memset(&out[i], 0, sizeof(pl_hot))
            absent[0] += 1
        elif result != PL_READ_FOUND:
            return i
    return n


cdef Py_ssize_t _chain(View view, uint64_t link, int which, pl_hot *out) noexcept nogil:
    """Follow links into out[0:_CHAIN_MAX]; return the number of rows, or -1 if one stayed busy.

    Brent's method detects a cycle (possible in a table that is being repaired): the mark moves to the current link at
    each power of two, and the walk ends when a link returns to the mark.
    """
    cdef Py_ssize_t n = 0
    cdef Py_ssize_t move_at = 1
    cdef uint64_t mark = 0
    cdef int result
    while link != 0 and link != mark and n < _CHAIN_MAX:
        if n == move_at:
            mark = link
            move_at *= 2
        result = pl_follow_once(&view.view, link, &out[n])
        if result == PL_READ_BUSY:
            view.busy_retries += 1
            result = view.follow(link, &out[n])
        if result == PL_READ_ABSENT:
            break
        if result != PL_READ_FOUND:
            return -1
        link = _link_of(&out[n], which)
        n += 1
    return n


cdef uint64_t *_mark(View view, uint32_t ppid, bint any_parent, uint32_t *words) noexcept nogil:
    """Return a bitmap of the tgids of all rows, or of the rows with that ppid; NULL without memory.

    Reads single words of rows in any state: the bits only select pids to look up in the index. A live process has a row
    with its tgid at every moment, and an exec keeps the old row for its retention, so a process that lives during the
    whole scan is marked even if its rows change.
    """
    cdef uint32_t rows = pl_load_acquire32(&view.view.control.rows_allocated)
    cdef uint32_t capacity = view.view.slots
    cdef const pl_hot *hot = view.view.hot
    cdef uint32_t row, tgid
    cdef uint64_t *bits
    words[0] = (capacity + 63) // 64
    bits = <uint64_t *>calloc(words[0], 8)
    if bits == NULL:
        return NULL
    for row in range(1, rows):
        tgid = pl_load_relaxed32(&hot[row].tgid)
        if tgid == 0 or tgid >= capacity:
            continue
        if any_parent or pl_load_relaxed32(&hot[row].ppid) == ppid:
            bits[tgid >> 6] |= <uint64_t>1 << (tgid & 63)
    return bits


cdef bint _scan(View view, uint32_t pid, uint32_t pid_ns, pl_hot *to, uint32_t *row) noexcept nogil:
    """Find one of the daemon's own processes by its number in an inner pid namespace.

    Prefers live processes to ended ones, and among these the one that ended last. Rows that are being written are read
    again a few times without waiting.
    """
    cdef uint32_t rows = pl_load_acquire32(&view.view.control.rows_allocated)
    cdef const pl_cold *cold = view.view.cold
    cdef pl_hot hot
    cdef pl_cold copy
    cdef uint32_t number, attempt
    cdef bint found = False
    for number in range(1, rows):
        if pl_load_relaxed32(&cold[number].ns_pid) != pid or pl_load_relaxed32(&cold[number].pid_ns) != pid_ns:
            continue
        for attempt in range(1000):
            if pl_copy_row(&view.view, number, &hot, &copy):
                break
            pl_pause()
        else:
            continue
        if copy.ns_pid != pid or copy.pid_ns != pid_ns or not hot.flags & PL_ROW_HEAD or hot.flags & PL_ROW_FOREIGN:
            continue
        if not found or hot.exit_boot_ns == 0 or to.exit_boot_ns != 0 and hot.exit_boot_ns > to.exit_boot_ns:
            to[0] = hot
            row[0] = number
            found = True
            if hot.exit_boot_ns == 0:
                break
    return found


cdef bint _is_final(int result, const pl_hot *hot, bint passed, uint64_t called, uint32_t wait_ms) noexcept nogil:
    """Return whether a caller that waits for an owner of a pid can stop.

    It can if the table is as recent as the call (`passed`), the time is up, or the owner is alive.
    """
    if passed or pl_now_boot_ns() - called > <uint64_t>wait_ms * 1_000_000:
        return True
    return result != PL_READ_ABSENT and (result != PL_READ_FOUND or hot.exit_boot_ns == 0)


cdef class TableReader:
    """A reader's access to one instance; follows it from epoch to epoch. Use ProcessTable.

    Several threads may use it. After fork(2) the child may continue to use it.

    Args:
        directory: the instance's runtime directory.
        instance: its name, for messages.
        max_age_ms: how long after the writer's last heartbeat hits are still returned (a restarted writer needs one to
            two seconds); after that StaleError is raised, or BehindError if the writer is alive.

    Raises:
        NotRunningError, AccessError, UntrustedError, LayoutError: see View.
    """

    cdef View _view
    cdef readonly str directory, instance
    cdef uint64_t _max_age_ns
    cdef uint64_t _check_at  # on the coarse clock; 0: check immediately

    def __init__(self, directory, str instance="default", *, uint32_t max_age_ms=10_000):
        self.directory = os.fspath(directory)
        self.instance = instance
        self._max_age_ns = <uint64_t>max_age_ms * 1_000_000
        self._open()

    def close(self):
        """Release the segments. Entries stay usable; they keep mapped what they need."""
        if self._view is not None:
            self._lock(self._view, F_UNLCK)
        self._view = None

    @property
    def closed(self):
        """Whether `close` was called."""
        return self._view is None

    @property
    def view(self):
        """The epoch that is being read (mapping, writer's state)."""
        return self._current()

    @property
    def busy_retries(self):
        """Number of reads of this epoch that were restarted because a write overlapped them."""
        return self._current().busy_retries

    # -- epochs ------------------------------------------------------------------------------------------------------

    def _open(self):
        view = View(self.directory, self.instance)
        self._lock(view, F_RDLCK)
        self._view = view
        # A table that is already old must be checked against max_age_ms before a hit is returned.
        self._check_at = 0 if view.age_ns > STALE_AFTER_NS else pl_now_coarse_ns() + _CHECK_NS

    cdef View _current(self):
        """Return the view to read from. A hit costs one shared word and a clock read of 3 ns here."""
        cdef View view = self._view
        if view is None:
            raise ValueError("this ProcessTable is closed")
        if pl_load_relaxed32(&view.view.control.state) > PL_STATE_READY or pl_now_coarse_ns() >= self._check_at:
            self._check()
            view = self._view
        return view

    cdef View _latest(self):
        """Return the view to read from, regardless of the age of the table."""
        if self._view is None:
            raise ValueError("this ProcessTable is closed")
        self._check(True)
        return self._view

    def status(self):
        """Return the instance's status, regardless of the age of its table: (view, commit or None, behind_ns).

        `commit` is the result of the method `commit`, None before the first one. `behind_ns` is how far the table is
        behind the present; it is 0 unless it exceeds what an idle instance can have.

        Raises:
            NotRunningError, StaleError: the instance has been stopped, or is being replaced.
        """
        cdef View view = self._latest()
        cdef uint64_t age = view.age_ns
        try:
            commit = self._commit_of(view)
        except StaleError:
            commit = None
        return view, commit, max(age if age > <uint64_t>STALE_AFTER_NS else 0, _behind_ns(view))

    def _check(self, bint any_age=False):
        """Follow the instance if another epoch has begun.

        Args:
            any_age: accept a table of any age.

        Raises:
            NotRunningError: the instance is gone.
            LayoutError: a file was truncated, and still is.
            StaleError: the instance is being replaced or has been stopped, or its writer was silent for max_age_ms.
            BehindError: the writer was silent for max_age_ms, but is alive.
        """
        cdef View view = self._view
        cdef uint64_t age = view.age_ns
        cdef uint32_t state = view.state
        try:
            view.check_whole()
        except LayoutError as cut:
            try:
                self._open()  # another instance, or this one's file is complete again
            except NotRunningError:
                if view.is_replaced():
                    raise
                raise cut
            return
        if state > PL_STATE_READY or age > <uint64_t>STALE_AFTER_NS:
            if view.is_replaced():
                try:
                    self._open()
                    return
                except NotRunningError as error:
                    if not os.path.exists(os.path.join(self.directory, "control")):
                        raise
                    raise StaleError(str(error)) from error
            if state > PL_STATE_READY:
                raise StaleError(f"instance {self.instance!r} is {_STATES[state]}; try again when it runs again")
            if age > self._max_age_ns and not any_age:
                if view.writer_lives() is not False:
                    raise BehindError(
                        f"instance {self.instance!r} is running, behind by {age / 1e9:.1f} s; try again when it has "
                        f"caught up (`procline stat` shows its lag)",
                        behind_ns=age,
                    )
                raise StaleError(
                    f"the writer of instance {self.instance!r} has been silent for {age / 1e9:.1f} s and is gone; "
                    f"try again when it has been restarted"
                )
        self._check_at = pl_now_coarse_ns() + _CHECK_NS

    cdef bint _may_say_absent(self, View view, object what) except -1:
        """Return whether "absent" is a valid answer; False if another epoch must be read.

        Raises StaleError or BehindError if the table cannot answer.
        """
        cdef uint64_t behind
        if view.writer_is_fresh():
            behind = _behind_ns(view)
            if behind == 0:
                return True
        else:
            self._check()
            if self._view is not view:
                return False
            behind = view.age_ns if view.state == PL_STATE_READY and view.writer_lives() is not False else 0
        if behind:
            raise BehindError(
                f"{what} is not in the table of instance {self.instance!r}, which is running, behind by "
                f"{behind / 1e9:.1f} s: it may exist all the same; try again",
                behind_ns=behind,
            )
        raise StaleError(
            f"{what} is not in the table of instance {self.instance!r}, which is {_STATES[view.state]} and was last "
            f"written {view.age_ns / 1e9:.1f} s ago: it may exist all the same; try again"
        )

    # -- readers' locks ----------------------------------------------------------------------------------------------
    # Each reader holds a shared lock on one byte of `control`, at an offset made of its pid and pid namespace. So
    # readers can be counted without writes, and a killed reader is not counted any more. The lock belongs to the open
    # file (OFD), so it is independent of other locks of the process. No process waits for these locks.

    cdef int _lock(self, View view, int kind) except -1:
        cdef flock lock
        memset(&lock, 0, sizeof(lock))
        lock.l_type = kind
        lock.l_start = (os.stat("/proc/self/ns/pid").st_ino & 0x3FFFFFFF) << 32 | os.getpid()
        lock.l_len = 1
        fcntl(view.control_fd, F_OFD_SETLK, &lock)  # without the lock, a reader works but is not counted
        return 0

    def count_readers(self):
        """Count the processes that have this instance's tables open through a TableReader, including this one.

        Any user can hold locks on `control`, so the count takes at most 0.1 s and requests each lock once. A lock
        longer than a byte does not belong to a reader, and hides those below it.

        Returns:
            (count, whether it is complete); an incomplete count is a lower limit.

        Raises:
            NotRunningError: the instance's directory has been removed.
        """
        cdef flock lock
        cdef int64_t start, end
        cdef View view = self._latest()
        with view._open_directory() as place:
            # Use another open file, because the locks of this one do not conflict with its own requests.
            fd = view._open_segment(place, "control", False)
        count = calls = 0
        is_complete = True
        deadline = time.monotonic() + _COUNT_S
        ranges = [(0, (1 << 63) - 1)]
        try:
            # F_OFD_GETLK returns one lock of the range that conflicts with a write lock: count it, then query the
            # ranges on both sides of it.
            while ranges:
                start, end = ranges.pop()
                if end <= start:
                    continue
                calls += 1
                if calls > _COUNT_CALLS or time.monotonic() > deadline:
                    is_complete = False
                    break
                memset(&lock, 0, sizeof(lock))
                lock.l_type = F_WRLCK
                lock.l_start = start
                lock.l_len = end - start
                if fcntl(fd, F_OFD_GETLK, &lock) != 0 or lock.l_type == F_UNLCK:
                    continue
                if lock.l_len == 1:
                    count += 1
                else:
                    is_complete = False
                ranges.append((start, lock.l_start))
                if lock.l_len != 0:  # otherwise it extends to the end of the file
                    ranges.append((lock.l_start + lock.l_len, end))
        finally:
            os.close(fd)
        return count, is_complete

    # -- one process -------------------------------------------------------------------------------------------------

    def resolve(self, uint32_t pid, at=None, *, pid_ns=None, uint32_t wait_ms=0):
        """Look up one process.

        Args:
            pid: tgid in the daemon's pid namespace.
            at: ns since the Unix epoch; selects the image that the pid's owner had at that time.
            pid_ns: inode of the pid namespace of `pid`. Processes that an external tracer reported are found by a hash.
                For the daemon's own processes all rows are searched (some ms), because their number in an inner
                namespace is a column without an index.
            wait_ms: if no live process has the pid, wait up to this long until the table contains everything that
                happened before this call: the pid may have a new owner.

        Returns:
            Entry, also of an exited process that is retained (exit_time_ns is then set); None if there is no such
            process.

        Raises:
            StaleError: the process is not in the table, but the table is incomplete or its writer is gone.
            BusyError: its row stayed half-written for 50 ms.
            TooOldError: `at` is before the retained history.
            NotRunningError: the instance has been stopped.
            ValueError: `at` with a `pid_ns` that no tracer reported.
        """
        cdef View view
        cdef Entry entry
        cdef int result
        if at is not None or pid_ns is not None:
            return self._resolve_otherwise(pid, at, pid_ns, wait_ms)
        view = self._current()
        entry = make_entry(view, 0)
        result = pl_lookup_once(&view.view, pid, &entry.hot, &entry.row_number)
        if result == PL_READ_FOUND and (wait_ms == 0 or entry.hot.exit_boot_ns == 0):
            return entry
        if result != PL_READ_FOUND and result != PL_READ_ABSENT:
            view.busy_retries += 1
        return self._resolve_slowly(pid, wait_ms)

    cdef Entry _resolve_slowly(self, uint32_t pid, uint32_t wait_ms):
        """Handle a miss or a busy row: retry, wait if requested, and verify the state before returning None."""
        cdef uint64_t called = pl_now_boot_ns()
        cdef View view
        cdef Entry entry
        cdef int result
        cdef bint passed
        while True:
            view = self._current()
            entry = make_entry(view, 0)
            with nogil:
                while True:
                    # Before the look-up: once the watermark has passed the call, a missing process will not appear.
                    passed = wait_ms == 0 or _watermark(view) >= called
                    result = view.lookup(pid, &entry.hot, &entry.row_number)
                    if _is_final(result, &entry.hot, passed, called, wait_ms):
                        break
                    pl_sleep_ns(300_000)
            if result == PL_READ_FOUND:
                return entry
            if result != PL_READ_ABSENT:
                raise_busy(view, f"pid {pid}")
            if pid >= view.view.pid_capacity:
                self._check_pid_range(view, pid)
            if self._may_say_absent(view, f"pid {pid}"):
                return None

    def _check_pid_range(self, View view, pid):
        from pipeline.host.boot import pid_max
        if pid < pid_max():
            raise StaleError(
                f"pid {pid} is beyond the index of instance {self.instance!r} ({view.view.pid_capacity} pids), because "
                f"kernel.pid_max was raised after its start: restart the instance"
            )

    # -- by the pid of another namespace ------------------------------------------------------------------------------

    def _resolve_otherwise(self, uint32_t pid, at, pid_ns, uint32_t wait_ms):
        cdef View view = self._current()
        cdef Entry entry
        if pid_ns is None or pid_ns == view.view.control.pid_ns:
            if pid >= view.view.pid_capacity or at is None:
                return self._resolve_slowly(pid, wait_ms)
            return self._resolve_at(pid, at)
        if at is None:
            return self._resolve_in(pid, pid_ns, wait_ms)
        entry = self._resolve_in(pid, pid_ns, 0)
        if entry is None:
            return None
        if not entry.hot.flags & PL_ROW_FOREIGN:
            raise ValueError("a past time in a pid namespace: only for processes that a tracer reported")
        return self._resolve_at(entry.hot.tgid, at)

    def _resolve_in(self, uint32_t pid, uint32_t pid_ns, uint32_t wait_ms):
        """Look up by key; if no live process has it, search all rows."""
        cdef uint64_t called = pl_now_boot_ns()
        cdef View view
        cdef Entry entry, other
        cdef pl_cold cold
        cdef int result
        cdef bint passed
        while True:
            view = self._current()
            entry = make_entry(view, 0)
            other = make_entry(view, 0)
            with nogil:
                while True:
                    passed = wait_ms == 0 or _watermark(view) >= called
                    result = view.lookup_key(pid, pid_ns, &entry.hot, &cold, &entry.row_number)
                    if result == PL_READ_ABSENT or result == PL_READ_FOUND and entry.hot.exit_boot_ns != 0:
                        if _scan(view, pid, pid_ns, &other.hot, &other.row_number) and (
                            result == PL_READ_ABSENT or other.hot.exit_boot_ns == 0
                        ):
                            entry.hot = other.hot
                            entry.row_number = other.row_number
                            result = PL_READ_FOUND
                    if _is_final(result, &entry.hot, passed, called, wait_ms):
                        break
                    pl_sleep_ns(300_000)
            if result == PL_READ_FOUND:
                return entry
            if result != PL_READ_ABSENT:
                raise_busy(view, f"pid {pid} of namespace {pid_ns}")
            if self._may_say_absent(view, f"pid {pid} of namespace {pid_ns}"):
                return None

    # -- as of a past time -------------------------------------------------------------------------------------------

    cdef Entry _follow(self, View view, uint64_t link):
        """Return the image that a link names, with its cold part; None if it is not retained."""
        cdef Entry entry = make_entry(view, <uint32_t>link)
        cdef int result
        with nogil:
            result = view.follow(link, &entry.hot)
        if result == PL_READ_ABSENT:
            view.check_whole()
            return None
        if result != PL_READ_FOUND:
            raise_busy(view, f"row {<uint32_t>link}")
        return entry

    cdef uint64_t _previous_owner(self, View view, Entry head):
        """Return a link to the last image of the pid's previous process. Any image of a process may contain it."""
        cdef Entry image = head
        cdef Entry earlier
        for _ in range(_CHAIN_MAX):
            if image._cold().previous_owner != 0 or image.hot.ancestor == 0:
                break
            earlier = self._follow(view, image.hot.ancestor)
            if (earlier is None or earlier.hot.tgid != head.hot.tgid
                    or earlier.hot.start_boot_ns != head.hot.start_boot_ns):
                break
            image = earlier
        return image._cold().previous_owner

    def _resolve_at(self, uint32_t pid, at):
        cdef View view
        cdef Entry owner, image, earlier
        cdef int64_t time
        while True:
            view = self._current()
            time = at - <int64_t>view.view.control.boot_unix_ns
            if time < 0:
                raise TooOldError(
                    f"{at} ns since the Unix epoch lies before this boot",
                    horizon_unix_ns=view.view.control.boot_unix_ns,
                )
            owner = make_entry(view, 0)
            with nogil:
                result = view.lookup_slot(pid, &owner.hot, &owner.row_number)
            if result == PL_READ_ABSENT:
                owner = None
                if not self._may_say_absent(view, f"pid {pid}"):
                    continue
            elif result != PL_READ_FOUND:
                raise_busy(view, f"pid {pid}")
            break
        # Go back through the pid's owners to the one that had started by then.
        for _ in range(_CHAIN_MAX):
            if owner is None or <int64_t>owner.hot.start_boot_ns <= time:
                break
            owner = self._follow(view, self._previous_owner(view, owner))
        if owner is None or <int64_t>owner.hot.start_boot_ns > time:
            # No retained process had the pid then. Processes that are not retained had ended by the horizon.
            self._check_horizon(view, pid, at, time)
            return None
        if not owner.hot.flags & PL_ROW_REPLACED and 0 < <int64_t>owner.hot.exit_boot_ns <= time:
            # The time is between two owners, or after the last one. If the row of an owner in between was evicted,
            # that owner had also ended by the horizon.
            self._check_horizon(view, pid, at, time)
            return None
        # Go back through its images to the one that ran then. The first image runs from the start.
        image = owner
        for _ in range(_CHAIN_MAX):
            if not image.hot.flags & PL_ROW_IS_EXEC or <int64_t>image.hot.exec_boot_ns <= time:
                return image
            earlier = self._follow(view, image.hot.ancestor) if image.hot.ancestor else None
            if (earlier is None or earlier.hot.tgid != owner.hot.tgid
                    or earlier.hot.start_boot_ns != owner.hot.start_boot_ns):
                if image.hot.images == 1 and not image.hot.flags & (PL_ROW_GAP | PL_ROW_ELIDED):
                    return image  # the image of the fork, which was restarted since then
                break
            if earlier.hot.flags & PL_ROW_REPLACED and <int64_t>earlier.hot.exit_boot_ns <= time:
                if image.hot.flags & PL_ROW_ELIDED:
                    break  # an image between the two ran then
                # An image that is restarted repeatedly runs from the end of the previous one (specification 3.3.4).
                return image
            image = earlier
        raise TooOldError(
            f"pid {pid} had started by {at}, but which image it ran then is not retained",
            horizon_unix_ns=<int64_t>image.hot.exec_boot_ns + view.view.control.boot_unix_ns,
        )

    cdef int _check_horizon(self, View view, uint32_t pid, object at, int64_t time) except -1:
        """Raise TooOldError unless every process that was alive at `time` is retained."""
        cdef const pl_control *control = view.view.control
        view.check_whole()
        cdef uint64_t horizon = pl_load_acquire64(&control.horizon_boot_ns)
        # Processes that ended before the first table of this epoch was complete were never in it. The table of a
        # successor has its predecessor's history, so its own start is no limit.
        if control.takeovers == 0 or horizon == 0:
            horizon = max(horizon, pl_load_relaxed64(&control.ready_boot_ns))
        if time < <int64_t>horizon:
            raise TooOldError(
                f"the owner of pid {pid} at {at} is not known any more: everything is retained only from "
                f"{<int64_t>horizon + control.boot_unix_ns} on",
                horizon_unix_ns=<int64_t>horizon + control.boot_unix_ns,
            )
        return 0

    # -- relatives ---------------------------------------------------------------------------------------------------

    cdef Entry _start(self, object process, object pid_ns):
        """Return an entry unchanged; look up a pid."""
        if isinstance(process, Entry):
            return <Entry>process
        return self.resolve(process, pid_ns=pid_ns)

    def ancestors(self, process, *, str by="ancestor", pid_ns=None, Py_ssize_t limit=_CHAIN_MAX):
        """Return the chain that led to a process, nearest first, without the process itself.

        Args:
            process: a pid, or an Entry (for the chain of that image).
            by: "ancestor": earlier images of the process, then the image of its parent, and so on; "creator": the image
                that forked it, the image that forked that one, and so on; "parent": current parents.
            pid_ns: for a pid, as in `resolve`.
            limit: maximum number of entries to read, if less than CHAIN_MAX.

        Returns:
            Entries, up to CHAIN_MAX. Empty if the process does not exist. If the chain could not be followed to its
            end, is_elided is set in the last entry (or in the entry that was passed in).

        Raises:
            ValueError: `by` is unknown. Other exceptions as in `resolve`.
        """
        cdef int which = ("ancestor", "creator", "parent").index(by)
        cdef Entry entry = self._start(process, pid_ns)
        cdef Entry last
        cdef View view
        cdef uint64_t link
        cdef uint64_t mark = 0
        cdef Py_ssize_t n = 0
        cdef Py_ssize_t move_at = 1
        cdef int result
        cdef list chain = []
        if entry is None:
            return chain
        view = entry.view
        last = entry
        link = _link_of(&entry.hot, which)
        while link != 0 and (n < limit or limit >= _CHAIN_MAX):
            if n == _CHAIN_MAX or link == mark:
                last.elided = True
                break
            if n == move_at:  # Brent's method, see _chain
                mark = link
                move_at *= 2
            entry = make_entry(view, <uint32_t>link)
            result = pl_follow_once(&view.view, link, &entry.hot)
            if result == PL_READ_BUSY:
                view.busy_retries += 1
                with nogil:
                    result = view.follow(link, &entry.hot)
            if result == PL_READ_ABSENT:
                view.check_whole()
                last.elided = True
                break
            if result != PL_READ_FOUND:
                raise_busy(view, f"row {<uint32_t>link}")
            chain.append(entry)
            link = _link_of(&entry.hot, which)
            last = entry
            n += 1
        return chain

    def children(self, process, *, pid_ns=None):
        """Return the live processes that have `process` as their current parent, by pid.

        `process` is a pid (of the namespace `pid_ns`) or an Entry. An Entry means that process, even if its pid has
        another owner now; a pid means its current owner. An ended process has no children: they have been reported
        with another parent by then, or their next record will name it.
        """
        cdef Entry owner, entry
        cdef uint32_t pid
        cdef list result
        while True:
            owner = self._start(process, pid_ns)
            if owner is None and pid_ns is not None:
                return []
            pid = process if owner is None else owner.hot.tgid
            if owner is not None and owner.hot.exit_boot_ns and not owner.hot.flags & PL_ROW_REPLACED:
                if isinstance(process, Entry) or pid_ns is not None:
                    return []
                owner = None  # the current owner of the pid is not in the table
            result = []
            view = self._current()
            for entry in self._all(view, pid, False):
                if entry.hot.ppid == pid and entry.hot.exit_boot_ns == 0 and self._is_child(view, entry, owner):
                    result.append(entry)
            if self._may_say_absent(view, f"a child of pid {pid}"):
                return result

    cdef bint _is_child(self, View view, Entry entry, Entry owner) except -1:
        """Return whether an entry with the ppid of `owner` is its child; owner None is a process not in the table."""
        cdef pl_hot parent
        cdef int result
        if entry.hot.parent == 0:
            return owner is None
        with nogil:
            result = view.follow(entry.hot.parent, &parent)
        if result == PL_READ_ABSENT:
            return True  # the linked image was evicted; a new owner of the pid would have changed the ppid
        if result != PL_READ_FOUND:
            raise_busy(view, f"row {<uint32_t>entry.hot.parent}")
        return owner is not None and parent.start_boot_ns == owner.hot.start_boot_ns

    def walk(self, *, bint exited=True):
        """Iterate over the newest image of every pid's latest process in the table, by pid.

        Use `resolve(pid, at)` for earlier processes of a pid. A process that lives during the whole walk is returned
        exactly once.

        Args:
            exited: include exited processes that are retained.
        """
        cdef Entry entry
        view = self._current()
        # Check before the first entry, so that an error is raised before the caller has printed half of a list.
        while not self._may_say_absent(view, "a process"):
            view = self._current()
        for entry in self._all(view, 0, True):
            if exited or entry.hot.exit_boot_ns == 0:
                yield entry

    def _all(self, View view, uint32_t ppid, bint any_parent):
        """Yield the newest image of each pid that is in some row."""
        cdef uint32_t words = 0
        cdef uint32_t word
        cdef uint64_t bits
        cdef uint32_t pid
        cdef Entry entry
        cdef int result
        cdef uint64_t *marks
        with nogil:
            marks = _mark(view, ppid, any_parent, &words)
        if marks == NULL:
            raise MemoryError
        try:
            for word in range(words):
                bits = marks[word]
                while bits != 0:
                    pid = word * 64 + _lowest(bits)
                    bits &= bits - 1
                    entry = make_entry(view, 0)
                    result = pl_lookup_slot_once(&view.view, pid, &entry.hot, &entry.row_number)
                    if result != PL_READ_FOUND and result != PL_READ_ABSENT:
                        view.busy_retries += 1
                        with nogil:
                            result = view.lookup_slot(pid, &entry.hot, &entry.row_number)
                    if result == PL_READ_FOUND:
                        yield entry
                    elif result != PL_READ_ABSENT:
                        raise_busy(view, f"index entry {pid}")
            view.check_whole()
        finally:
            free(marks)

    # -- in bulk -----------------------------------------------------------------------------------------------------

    def resolve_many(self, pids, out=None):
        """Look up several processes at once.

        Args:
            pids: shape (n,), converted to uint32; tgids in the daemon's pid namespace.
            out: shape (n,), dtype HOT, contiguous; filled and returned, to reuse memory.

        Returns:
            Shape (n,), dtype HOT (pipeline.shm.layout.layout), private copies. A missing process has generation 0.

        Raises:
            StaleError: a process is not in the table, but the table is incomplete or its writer is gone.
            BusyError: a row stayed half-written for 50 ms.
        """
        cdef Py_buffer source, target
        cdef Py_ssize_t n, done
        cdef Py_ssize_t absent = 0
        cdef View view
        _import_numpy()
        pids = _numpy.ascontiguousarray(pids, dtype=_numpy.uint32)
        if pids.ndim != 1:
            raise ValueError(f"pids has {pids.ndim} dimensions, not 1")
        n = pids.shape[0]
        if out is None:
            out = _numpy.empty(n, _hot_dtype)
        elif out.dtype != _hot_dtype or out.shape != (n,):
            raise ValueError(f"out must be of dtype HOT and shape ({n},)")
        if n == 0:
            return out
        while True:
            view = self._current()
            absent = 0
            PyObject_GetBuffer(pids, &source, PyBUF_SIMPLE)
            try:
                PyObject_GetBuffer(out.view(_numpy.uint8), &target, PyBUF_SIMPLE | PyBUF_WRITABLE)
                try:
                    with nogil:
                        done = _lookup_many(view, <const uint32_t *>source.buf, n, <pl_hot *>target.buf, &absent)
                finally:
                    PyBuffer_Release(&target)
            finally:
                PyBuffer_Release(&source)
            if done < n:
                raise_busy(view, f"pid {pids[done]}")
            if absent == 0 or self._may_say_absent(view, f"one of {n} pids"):
                return out

    def rows(self, *, bint exited=True):
        """Return the newest image of every process with a pid in the daemon's namespace, by pid.

        Processes that are known only by their number in another namespace are in `walk`.

        Returns:
            Shape (n,), dtype HOT.
        """
        cdef uint32_t words = 0
        cdef uint64_t *marks
        cdef View view = self._current()
        _import_numpy()
        with nogil:
            marks = _mark(view, 0, True, &words)
        if marks == NULL:
            raise MemoryError
        try:
            bitmap = PyBytes_FromStringAndSize(<const char *>marks, words * 8)
        finally:
            free(marks)
        view.check_whole()
        bits = _numpy.unpackbits(_numpy.frombuffer(bitmap, _numpy.uint8), bitorder="little")
        rows = self.resolve_many(_numpy.flatnonzero(bits[:view.view.pid_capacity]))
        keep = rows["generation"] != 0
        return rows[keep if exited else keep & (rows["exit_boot_ns"] == 0)]

    def ancestor_rows(self, uint32_t pid, *, str by="ancestor"):
        """Return `ancestors` as an array, nearest first. Shape (n,), dtype HOT."""
        rows, _ = self.ancestors_many([pid], by=by)
        return rows

    def ancestors_many(self, pids, *, str by="ancestor"):
        """Return the chains of several processes at once.

        Args:
            pids: shape (n,), converted to uint32.
            by: as in `ancestors`.

        Returns:
            (rows, offsets): the chain of pids[i] is rows[offsets[i]:offsets[i + 1]], dtype HOT, nearest first; offsets
            has shape (n + 1,), int64. A missing process has an empty chain.
        """
        cdef int which = ("ancestor", "creator", "parent").index(by)
        cdef Py_buffer source, ends, target
        cdef Py_ssize_t n, done, room
        cdef Py_ssize_t absent = 0
        cdef View view
        _import_numpy()
        pids = _numpy.ascontiguousarray(pids, dtype=_numpy.uint32)
        n = pids.shape[0]
        offsets = _numpy.zeros(n + 1, _numpy.int64)
        room = 0
        result = None
        while True:
            view = self._current()
            absent = done = 0
            PyObject_GetBuffer(pids, &source, PyBUF_SIMPLE)
            PyObject_GetBuffer(offsets, &ends, PyBUF_SIMPLE | PyBUF_WRITABLE)
            try:
                while done < n:
                    # Room for the estimated total length and one more chain; repeated if the chains are longer.
                    with nogil:
                        room = (<int64_t *>ends.buf)[done] + _CHAIN_MAX + _guess_rows(
                            view, <const uint32_t *>source.buf + done, n - done, which
                        )
                    former, result = result, _numpy.empty(room, _hot_dtype)
                    if done:
                        result[: offsets[done]] = former[: offsets[done]]
                    PyObject_GetBuffer(result.view(_numpy.uint8), &target, PyBUF_SIMPLE | PyBUF_WRITABLE)
                    try:
                        with nogil:
                            done = _chains(
                                view, <const uint32_t *>source.buf, done, n, which, <pl_hot *>target.buf, room,
                                <int64_t *>ends.buf, &absent,
                            )
                    finally:
                        PyBuffer_Release(&target)
                    if done < 0:
                        raise_busy(view, f"pid {pids[-1 - done]} or an ancestor")
            finally:
                PyBuffer_Release(&source)
                PyBuffer_Release(&ends)
            view.check_whole()  # otherwise a chain could end where zeros began
            if absent == 0 or self._may_say_absent(view, f"one of {n} pids"):
                return (_numpy.empty(0, _hot_dtype) if result is None else result[: offsets[n]]), offsets

    # -- the control segment -----------------------------------------------------------------------------------------

    def commit(self):
        """Return the valid commit slot: COMMIT and COMMIT_RING[ring_count] of tables.py, as bytes of one commit.

        Raises:
            StaleError: no commit yet.
        """
        return self._commit_of(self._current())

    cdef bytes _commit_of(self, View view):
        cdef const pl_control *control = view.view.control
        cdef const char *slot
        cdef uint64_t number
        cdef uint32_t index
        cdef uint32_t attempt
        cdef bytes copy = PyBytes_FromStringAndSize(NULL, control.commit_bytes)
        for attempt in range(1000):
            index = pl_load_acquire32(&control.commit_index)
            slot = <const char *>control + control.commit_offset + (index & 1) * <uint64_t>control.commit_bytes
            number = pl_load_acquire64(&(<const pl_commit *>slot).number)
            pl_copy_words(PyBytes_AS_STRING(copy), slot, control.commit_bytes // 8)
            pl_fence_acquire()
            # The writer sets the number to 0 before it fills a slot again. If this process was delayed, the slot may be
            # two commits old by now, but it is consistent.
            if number != 0 and pl_load_relaxed64(&(<const pl_commit *>slot).number) == number:
                return copy
            if attempt > 10:
                pl_sleep_ns(50_000)
        view.check_whole()
        raise StaleError(f"instance {self.instance!r} has not committed anything yet; try again")

    @property
    def watermark_boot_ns(self):
        """Boot-clock time in ns before which all events are in the table; 0 if there are none yet."""
        return _watermark(self._current())


cdef extern from *:
    """
    static inline uint32_t pl_lowest(uint64_t bits) { return (uint32_t)__builtin_ctzll(bits); }
    """
    uint32_t _lowest "pl_lowest"(uint64_t bits) noexcept nogil


cdef uint64_t _behind_ns(View view) noexcept nogil:
    """Return how far a table is behind although its writer is alive; 0 if the delay is normal.

    A recording contains the past: before its end, its watermark never passes the moment when its table was ready.
    """
    cdef uint64_t ready = pl_load_relaxed64(&view.view.control.ready_boot_ns)
    cdef uint64_t watermark = _watermark(view)
    cdef uint64_t now = pl_now_boot_ns()
    if ready == 0 or watermark < ready or watermark + BEHIND_NS > now:
        return 0
    return now - watermark


cdef uint64_t _watermark(View view) noexcept nogil:
    cdef const pl_control *control = view.view.control
    cdef const pl_commit *slot
    cdef uint64_t number, watermark
    cdef int attempt
    for attempt in range(100):
        slot = <const pl_commit *>(<const char *>control + control.commit_offset
                                   + (pl_load_acquire32(&control.commit_index) & 1) * <uint64_t>control.commit_bytes)
        number = pl_load_acquire64(&slot.number)
        watermark = pl_load_relaxed64(&slot.watermark_boot_ns)
        pl_fence_acquire()
        if number != 0 and pl_load_relaxed64(&slot.number) == number:
            return watermark
    return 0


cdef Py_ssize_t _guess_rows(View view, const uint32_t *pids, Py_ssize_t n, int which) noexcept nogil:
    """Return the total number of rows in the chains of these pids.

    Counted exactly for few pids, otherwise estimated as an eighth more than in a sample of _SAMPLE pids spread over
    all.
    """
    cdef uint32_t sample[_ABREAST]
    cdef Py_ssize_t i = 0, j, taken, asked = min(n, <Py_ssize_t>_SAMPLE), count = 0
    while i < asked:
        taken = min(asked - i, <Py_ssize_t>_ABREAST)
        for j in range(taken):
            sample[j] = pids[(i + j) * n // asked]
        count += _fetch_chains(view, sample, taken, which)
        i += taken
    return count if n == asked else (count + count // 8) * n // asked


cdef Py_ssize_t _fetch_chains(View view, const uint32_t *pids, Py_ssize_t n, int which) noexcept nogil:
    """Prefetch the chains of n <= _ABREAST pids, all of them step by step; return the number of their rows.

    The next row of one chain is known only after the row before it has arrived; by walking several chains together,
    their cache misses overlap. The values read here may be torn and only serve as hints for prefetching.
    """
    cdef const pl_view *v = &view.view
    cdef uint32_t rows = pl_load_acquire32(&v.control.rows_allocated)
    cdef uint32_t at[_ABREAST]
    cdef uint32_t row, step
    cdef Py_ssize_t i, walking, count = 0
    for i in range(n):
        row = pl_load_relaxed32(&v.index[pids[i]]) if pids[i] < v.pid_capacity else 0
        at[i] = row if row < rows else 0
        pl_prefetch(&v.hot[at[i]])
        pl_prefetch(<const char *>&v.hot[at[i]] + 64)
    for step in range(<uint32_t>_CHAIN_MAX):
        walking = 0
        for i in range(n):
            if at[i] == 0:
                continue
            row = <uint32_t>pl_load_relaxed64(_link_word(&v.hot[at[i]], which))
            at[i] = row if row < rows else 0
            if at[i] != 0:
                walking += 1
                pl_prefetch(&v.hot[at[i]])
                pl_prefetch(<const char *>&v.hot[at[i]] + 64)
        if walking == 0:
            break
        count += walking
    return count


cdef inline const uint64_t *_link_word(const pl_hot *hot, int which) noexcept nogil:
    return &hot.ancestor if which == 0 else (&hot.creator if which == 1 else &hot.parent)


cdef Py_ssize_t _chains(
    View view, const uint32_t *pids, Py_ssize_t begin, Py_ssize_t n, int which, pl_hot *rows, Py_ssize_t room,
    int64_t *offsets, Py_ssize_t *absent
) noexcept nogil:
    """Walk the chains from pids[begin] on; return how many are done.

    The result is less than n if `room` rows are not enough for the next chain, or -1 - the position of a pid with a row
    that stayed busy.
    """
    cdef pl_hot head
    cdef uint32_t row
    cdef Py_ssize_t i
    cdef Py_ssize_t length
    cdef Py_ssize_t used = offsets[begin]
    cdef int result
    for i in range(begin, n):
        if room - used < _CHAIN_MAX:
            return i
        if (i - begin) % _ABREAST == 0 and n - i > 1:
            _fetch_chains(view, &pids[i], min(n - i, _ABREAST), which)
        result = view.lookup(pids[i], &head, &row)
        if result == PL_READ_ABSENT:
            absent[0] += 1
        elif result != PL_READ_FOUND:
            return -1 - i
        else:
            length = _chain(view, _link_of(&head, which), which, rows + used)
            if length < 0:
                return -1 - i
            used += length
        offsets[i + 1] = used
    return n
