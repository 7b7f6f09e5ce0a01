"""Map the segments of an instance for reading: open and check them, and report clearly what is wrong.

A View is one epoch. It stays mapped while anything refers to it, so an entry can outlive the epoch that it was read
from. _reader.pyx decides when to check for the next epoch; _entry.pyx defines what an entry shows. Nothing is ever
written: the mappings are read-only. pipeline.trust opens the files, so only files that the instance's own user can have
created are mapped. If a file is truncated anyway, the reader raises LayoutError (sigbus.h). Imports nothing that a
short-lived reader does not need.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.errno cimport ESRCH, errno
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp
from posix.unistd cimport close as c_close

cimport cython

import os
import time

from pipeline import paths, proc_text, trust
from pipeline.errors import AccessError, LayoutError, NotRunningError
from pipeline.records._clock cimport pl_now_boot_ns
from pipeline.shm.layout._keyhash cimport pl_keys_bytes
from pipeline.shm.layout._layout cimport (
    PL_CHANGES_KEPT, PL_LAYOUT_VERSION, PL_MAGIC, PL_STATE_READY, PL_STATE_STOPPED, PL_STATE_SUPERSEDED, pl_commit,
    pl_ring_ack,
    pl_load_acquire32, pl_load_acquire64, pl_load_relaxed32, pl_load_relaxed64,
)


cdef extern from "sys/mman.h" nogil:
    void *mmap(void *address, size_t length, int protection, int flags, int fd, long offset)
    int munmap(void *address, size_t length)
    int PROT_READ
    int MAP_SHARED
    void *MAP_FAILED


cdef extern from "sigbus.h" nogil:
    pl_guard *pl_guard_acquire()
    void pl_guard_cover(pl_guard *guard, int number, void *base, size_t length)
    void pl_guard_release(pl_guard *guard)
    bint pl_guard_is_hit(const pl_guard *guard)
    int pl_guard_install()


cdef extern from "signal.h" nogil:
    int kill(int pid, int sig)


cdef extern from "sched.h" nogil:
    int sched_yield()


# No segment grows beyond this; a larger ceiling in the control segment is damage, and could not be mapped.
cdef uint64_t SEGMENT_CEILING_BYTES = <uint64_t>1 << 44

#: A writer with an older heartbeat is gone or behind (the interval between heartbeats is at most 300 ms).
cdef uint64_t _STALE_AFTER_NS = 1_000_000_000
STALE_AFTER_NS = _STALE_AFTER_NS

#: At attach, a table that was not written for this long belongs to a running instance only if its writer is alive.
ABANDONED_AFTER_NS = 5_000_000_000

# A read of a busy row is retried for 50 ms in total. For the first 2 us the reader only pauses, because the writer
# needs 0.1 us for a change in place. Then it yields the CPU, because the writer may be waiting for it. Then it sleeps.
SPINS = 64
YIELDS = 80
PATIENCE_NS = 50_000_000

cdef uint64_t _serials = 0

_OPEN_TRIES = 100
_OPEN_PAUSE_S = 0.002


def present_ns(boot_unix_ns, bytes boot_id not None):
    """Return the present time as tables count it that are of a boot, ns since the Unix epoch.

    All their times are relative to `boot_unix_ns`. If the clock was set since that was read, its time differs from
    theirs. For tables of another boot, the time of the clock is returned.
    """
    return _present_ns(boot_unix_ns, _is_of_this_boot(boot_id))


cdef object _present_ns(int64_t boot_unix_ns, bint is_of_this_boot):
    return <int64_t>pl_now_boot_ns() + boot_unix_ns if is_of_this_boot else time.time_ns()


cdef bint _is_of_this_boot(bytes boot_id) except -1:
    # Not by pipeline.host.boot: with what it imports, it would cost each reader a megabyte.
    with open("/proc/sys/kernel/random/boot_id", "rb") as file:
        return file.read().strip().replace(b"-", b"") == boot_id.hex().encode()


@cython.no_gc
cdef class View:
    """One epoch of an instance's segments, read-only.

    Args:
        directory: the instance's runtime directory.
        instance: its name, for messages.

    Raises:
        NotRunningError: there are no tables, they are not ready, or their writer has ended and was silent for
            ABANDONED_AFTER_NS (until then another writer may take over).
        UntrustedError: another user could have created the tables.
        AccessError: a segment that every reader needs cannot be opened. (`args` and `envs` may have stricter modes;
            without access their columns are absent.)
        LayoutError: the files are not these segments, or have another layout version.
    """

    def __cinit__(self, directory, str instance):
        global _serials
        cdef int number
        _serials += 1
        self.serial = _serials
        self.directory = None if directory is None else os.fspath(directory)
        self.instance = instance
        self.control_fd = -1
        for number in range(9):
            self.maps[number] = NULL
        if self.directory is None:
            return  # see detached_view
        if pl_guard_install() != 0:
            raise OSError(errno, f"cannot install a handler of SIGBUS: {os.strerror(errno)}")
        self.guard = pl_guard_acquire()
        if self.guard == NULL:
            raise MemoryError
        for _ in range(_OPEN_TRIES):
            if self._open():
                return
            self._unmap()
            time.sleep(_OPEN_PAUSE_S)
        raise NotRunningError(
            f"instance {instance!r} is only just starting ({self.directory}): try again, or use `procline wait`",
            instance=instance,
        )

    def __dealloc__(self):
        self._unmap()
        if self.guard != NULL:
            pl_guard_release(self.guard)
        pl_kept_free(&self.kept)
        if self.facts is not None:
            free(<void *>self.view.control)

    cdef void _unmap(self) noexcept:
        cdef int number
        for number in range(9):
            if self.maps[number] != NULL:
                pl_guard_cover(self.guard, number, NULL, 0)  # before munmap: another mapping may reuse the addresses
                munmap(self.maps[number], self.lengths[number])
                self.maps[number] = NULL
        if self.control_fd >= 0:
            c_close(self.control_fd)
            self.control_fd = -1

    # -- opening -----------------------------------------------------------------------------------------------------

    def _not_running(self, why):
        return NotRunningError(
            f"instance {self.instance!r} is not running: {why}; start it with `procline run --name {self.instance}`",
            instance=self.instance,
        )

    def _open_directory(self):
        try:
            return trust.Directory(self.directory)
        except PermissionError as error:
            raise AccessError(
                f"no permission to enter {error.filename}: run as root or as a member of the group that owns it",
                path=str(error.filename),
            ) from error
        except (FileNotFoundError, NotADirectoryError) as error:
            raise self._not_running(f"there is no {self.directory}") from error

    def _open_segment(self, place, str name, bint optional):
        """Return a descriptor; -1 for an optional segment that this reader may not open."""
        path = os.path.join(self.directory, name)
        try:
            return place.open(name)
        except PermissionError as error:
            if optional:
                return -1
            raise AccessError(
                f"no permission to read {path}: run as root or as a member of the group that owns {self.directory}",
                path=path,
            ) from error
        except FileNotFoundError as error:
            raise self._not_running(f"there is no {path}") from error

    cdef const void *_map(self, int number, int fd, size_t length) except NULL:
        cdef void *address = mmap(NULL, length, PROT_READ, MAP_SHARED, fd, 0)
        if address == MAP_FAILED:
            name = paths.SEGMENTS[number]
            raise OSError(errno, f"cannot map {length} bytes of {name}: {os.strerror(errno)}", self.directory)
        self.maps[number] = address
        self.lengths[number] = length
        pl_guard_cover(self.guard, number, address, length)
        return address

    cdef bint _open(self) except -1:
        """Map all segments; return False to retry if they are being created or replaced."""
        cdef bint is_done
        with self._open_directory() as place:
            is_done = self._map_all(place)
        self.check_whole()
        return is_done

    cdef bint _map_all(self, object place) except -1:
        cdef size_t size
        if not self._map_control(place):
            return False
        size = self.lengths[0]
        self._check_header(size)
        state = pl_load_acquire32(&self.view.control.state)
        if state == PL_STATE_STOPPED:
            raise self._not_running("it has been stopped")
        if state == PL_STATE_SUPERSEDED:
            return False
        self._find_parts(size)
        self.same_pid_ns = self.view.control.pid_ns == 0 or self.view.control.pid_ns == proc_text.own_pid_ns()
        self._check_abandoned()
        self._map_tables(place)
        # A new writer marks the control file SUPERSEDED before it replaces the first segment, and installs its own
        # control file after the last. If neither has happened by now, all segments are of one epoch.
        return pl_load_acquire32(&self.view.control.state) != PL_STATE_SUPERSEDED and not self.is_replaced()

    cdef bint _map_control(self, object place) except -1:
        """Map the control segment; return False if its header is not complete yet."""
        self.control_fd = self._open_segment(place, paths.CONTROL, False)
        status = os.fstat(self.control_fd)
        if status.st_size == 0:
            return False
        if status.st_size < <long>sizeof(pl_control):
            raise LayoutError(
                f"{self.directory}/control has {status.st_size} bytes: not a control segment of Procline",
                expected=sizeof(pl_control), found=status.st_size,
            )
        self.control_inode, self.control_device = status.st_ino, status.st_dev
        self.view.control = <const pl_control *>self._map(0, self.control_fd, status.st_size)
        # The writer stores this field last (release), so all other fields of the header are complete once it is set.
        return pl_load_acquire32(&self.view.control.layout_version) != 0

    cdef int _check_header(self, size_t size) except -1:
        """Check that the control segment, of `size` bytes, is Procline's and has the layout that is read here."""
        cdef const pl_control *control = self.view.control
        cdef uint32_t version = control.layout_version
        if memcmp(control.magic, PL_MAGIC, 8) != 0:
            found = PyBytes_FromStringAndSize(control.magic, 8)
            raise LayoutError(
                f"{self.directory}/control does not begin with PROCLINE but with {found!r}: another program's file;"
                f" remove it or choose another instance name",
                expected=<bytes>PL_MAGIC, found=found,
            )
        if version != PL_LAYOUT_VERSION:
            raise LayoutError(
                f"instance {self.instance!r} has table layout {version} and this procline reads layout"
                f" {PL_LAYOUT_VERSION}: use the version that the instance runs, or restart the instance with this one",
                expected=PL_LAYOUT_VERSION, found=version,
            )
        if control.header_bytes < sizeof(pl_control) or control.header_bytes > size:
            raise LayoutError(
                f"{self.directory}/control states a header of {control.header_bytes} bytes: damaged;"
                f" stop the instance, remove the directory and start it again",
                expected=sizeof(pl_control), found=control.header_bytes,
            )
        return 0

    cdef int _find_parts(self, size_t size) except -1:
        """Find the commits and the changes, and check that what the header names is within the control segment."""
        cdef const pl_control *control = self.view.control
        cdef uint64_t changes_end = control.changes_offset + <uint64_t>sizeof(uint32_t) * PL_CHANGES_KEPT
        self.commit_offset, self.commit_bytes = control.commit_offset, control.commit_bytes
        if (
            <uint64_t>control.ring_offset + control.ring_count * <uint64_t>sizeof(pl_ring_ack) > size
            or self.commit_bytes < sizeof(pl_commit)
            or self.commit_offset + 2 * self.commit_bytes > size
            or control.changes_offset % 8 != 0 or changes_end > size
        ):
            raise LayoutError(
                f"{self.directory}/control has {size} bytes, fewer than its header states: damaged;"
                f" stop the instance, remove the directory and start it again",
                expected=max(self.commit_offset + 2 * self.commit_bytes, changes_end), found=size,
            )
        self.kept.control = control
        self.kept.changes = <const uint32_t *>(<const char *>control + control.changes_offset)
        return 0

    cdef int _check_abandoned(self) except -1:
        """Raise NotRunningError if the writer has ended and was silent for ABANDONED_AFTER_NS."""
        cdef const pl_control *control = self.view.control
        age_ns = self._age_ns(control)
        if age_ns > ABANDONED_AFTER_NS and self.writer_lives() is False:
            raise self._not_running(
                f"its writer, pid {control.writer_tgid}, has ended; its last heartbeat is {age_ns // 10**9} s old"
            )
        return 0

    cdef int _map_tables(self, object place) except -1:
        """Map the segments of the index, the rows and the strings, with the capacities of the header."""
        cdef const pl_control *control = self.view.control
        self.view.pid_capacity = control.pid_capacity
        self.view.row_capacity = control.row_capacity
        self.view.key_capacity = control.key_capacity
        self.view.slots = control.pid_capacity + control.key_capacity
        self.boot_id = PyBytes_FromStringAndSize(<const char *>control.boot_id, 16)
        self.epoch = control.epoch
        self.view.index = <const uint32_t *>self._segment(
            place, paths.INDEX, 4 * <uint64_t>self.view.slots, 4 * <uint64_t>self.view.slots, False)
        self.view.keys = <const pl_keys *>self._segment(
            place, paths.KEYS, pl_keys_bytes(self.view.key_capacity), pl_keys_bytes(self.view.key_capacity), False)
        self.view.hot = <const pl_hot *>self._segment(
            place, paths.HOT, sizeof(pl_hot) * <uint64_t>self.view.row_capacity,
            sizeof(pl_hot) * <uint64_t>pl_load_acquire32(&control.rows_allocated), False)
        self.view.cold = <const pl_cold *>self._segment(
            place, paths.COLD, sizeof(pl_cold) * <uint64_t>self.view.row_capacity,
            sizeof(pl_cold) * <uint64_t>pl_load_acquire32(&control.rows_allocated), False)
        # Its file is as long as it can become: memory is allocated for pieces of it, see pl_view.
        self.view.costs = <const pl_costs *>self._segment(
            place, paths.COSTS, sizeof(pl_costs) * <uint64_t>self.view.row_capacity,
            sizeof(pl_costs) * <uint64_t>self.view.row_capacity, False)
        self._map_strings(
            place, paths.NAMES, &self.view.names, control.names_capacity_bytes, &control.names_allocated_bytes, False)
        self._map_strings(
            place, paths.ARGS, &self.view.args, control.args_capacity_bytes, &control.args_allocated_bytes, True)
        self._map_strings(
            place, paths.ENVS, &self.view.envs, control.envs_capacity_bytes, &control.envs_allocated_bytes, True)
        return 0

    cdef const void *_segment(
        self, object place, str name, uint64_t capacity, uint64_t allocated, bint optional
    ) except? NULL:
        """Map one segment at its ceiling; its file must contain all allocated bytes."""
        cdef int fd
        fd = self._open_segment(place, name, optional)
        if fd < 0 or capacity == 0:
            return NULL
        try:
            size = os.fstat(fd).st_size
            if capacity > SEGMENT_CEILING_BYTES:
                raise LayoutError(
                    f"{self.directory}/{name} can have {capacity} bytes by its control segment: damaged; stop the"
                    f" instance, remove the directory and start it again",
                    expected=SEGMENT_CEILING_BYTES, found=capacity,
                )
            if size < allocated:
                raise LayoutError(
                    f"{self.directory}/{name} has {size} bytes where its control segment states {allocated}: damaged;"
                    f" stop the instance, remove the directory and start it again",
                    expected=allocated, found=size,
                )
            return self._map(paths.SEGMENTS.index(name), fd, capacity)
        finally:
            os.close(fd)

    cdef int _map_strings(
        self, object place, str name, pl_strings *to, uint64_t capacity, const uint64_t *allocated, bint optional
    ) except -1:
        to.bytes = <const char *>self._segment(place, name, capacity, pl_load_acquire64(allocated), optional)
        to.allocated, to.mapped = allocated, capacity
        return 0

    def is_replaced(self):
        """Return whether the directory now holds another control file, or none."""
        try:
            status = os.stat(os.path.join(self.directory, paths.CONTROL))
        except OSError:
            return True
        return status.st_ino != self.control_inode or status.st_dev != self.control_device

    # -- the writer's state ------------------------------------------------------------------------------------------

    cdef int64_t _age_ns(self, const pl_control *control) noexcept:
        cdef uint64_t beat = pl_load_relaxed64(&control.heartbeat_boot_ns)
        cdef int64_t age = <int64_t>(pl_now_boot_ns() - beat)
        return age if age > 0 else 0

    def writer_lives(self):
        """Return whether the writer's process exists; None if it is in a pid namespace that is not visible here."""
        if not self.same_pid_ns:
            return None
        from pipeline.host.processes import lives

        return lives(self.view.control.writer_tgid, self.view.control.writer_start_boot_ns)

    cdef int check_whole(self) except -1:
        """Raise LayoutError if a file was truncated below its mapping; all segments read as zeros since then."""
        if self.guard != NULL and pl_guard_is_hit(self.guard):
            raise LayoutError(
                f"a file in {self.directory} was cut short while it was read: stop the instance, remove the directory"
                f" and start it again",
                expected="segments as long as control states", found="a shorter file",
            )
        return 0

    @property
    def age_ns(self):
        """The time since the writer's last heartbeat, ns."""
        return self._age_ns(self.view.control)

    @property
    def state(self):
        """The STATE_* constant of shm/layout/declared.py."""
        return pl_load_acquire32(&self.view.control.state)

    @property
    def pid_ns(self):
        """The inode of the pid namespace of the table's pids; 0 if unknown."""
        return self.view.control.pid_ns

    @property
    def pids_are_ours(self):
        """Whether this process is in the pid namespace of the table's pids."""
        return bool(self.same_pid_ns)

    @property
    def boot_unix_ns(self):
        """The Unix time of boot-clock zero, ns."""
        return self.view.control.boot_unix_ns

    def now_unix_ns(self):
        """Return the present time as the table's times count it; see `present_ns`."""
        if self.is_of_this_boot is None:
            self.is_of_this_boot = _is_of_this_boot(self.boot_id)
        return _present_ns(self.view.control.boot_unix_ns, self.is_of_this_boot)

    def header(self):
        """Return the 512 bytes of the control header."""
        header = PyBytes_FromStringAndSize(<const char *>self.view.control, sizeof(pl_control))
        self.check_whole()
        return header

    cdef bint writer_is_fresh(self) noexcept nogil:
        """Return whether a missing row means "absent": the table is complete and its writer is alive.

        A killed writer is detected immediately if its pid can be checked, otherwise when its heartbeat is old.
        """
        cdef const pl_control *control = self.view.control
        if pl_load_acquire32(&control.state) != PL_STATE_READY:
            return False
        if pl_load_relaxed64(&control.heartbeat_boot_ns) + _STALE_AFTER_NS < pl_now_boot_ns():
            return False
        return not (self.same_pid_ns and kill(<int>control.writer_tgid, 0) != 0 and errno == ESRCH)

    # -- reads that retry for a short time ---------------------------------------------------------------------------

    cdef bint again(self, uint32_t attempt, uint64_t *deadline_ns) noexcept nogil:
        self.busy_retries += 1
        if attempt < SPINS:
            pl_pause()
            return True
        if attempt < YIELDS:
            sched_yield()
            return True
        if attempt == YIELDS:
            deadline_ns[0] = pl_now_boot_ns() + PATIENCE_NS
        if pl_now_boot_ns() >= deadline_ns[0]:
            return False
        pl_sleep_ns(100_000)
        return True

    cdef bint gives_up(self, int *result, uint32_t *attempt, uint64_t *deadline_ns) noexcept nogil:
        """Return whether a read that found a row busy must end now, and with what; otherwise wait for a moment."""
        # The index still names an image that is being replaced: retry. If the writer was killed between the two
        # stores, the index keeps naming this image, and it is the last known one.
        if result[0] == PL_READ_OLD_HEAD and attempt[0] > SPINS:
            result[0] = PL_READ_FOUND
            return True
        if not self.again(attempt[0], deadline_ns):
            result[0] = PL_READ_BUSY
            return True
        attempt[0] += 1
        return False

    cdef int lookup(self, uint32_t tgid, pl_hot *to, uint32_t *row) noexcept nogil:
        """Return PL_READ_FOUND, PL_READ_ABSENT, or PL_READ_BUSY if the row stayed busy."""
        return self.lookup_slot(tgid, to, row) if tgid < self.view.pid_capacity else PL_READ_ABSENT

    cdef int lookup_slot(self, uint32_t slot, pl_hot *to, uint32_t *row) noexcept nogil:
        """Look up any entry of the index; otherwise like `lookup`."""
        cdef uint32_t attempt = 0
        cdef uint64_t deadline = 0
        cdef int result
        while True:
            result = pl_lookup_slot_once(&self.view, slot, to, row)
            if result <= PL_READ_ABSENT or self.gives_up(&result, &attempt, &deadline):
                return result

    cdef int lookup_key(
        self, uint32_t pid, uint32_t pid_ns, pl_hot *to, pl_rest *rest, uint32_t *row
    ) noexcept nogil:
        """Look up by key; otherwise like `lookup`, with the same retries."""
        cdef uint32_t attempt = 0
        cdef uint64_t deadline = 0
        cdef int result
        while True:
            result = pl_lookup_key_once(&self.view, pid, pid_ns, to, rest, row)
            if result <= PL_READ_ABSENT or self.gives_up(&result, &attempt, &deadline):
                return result

    cdef int follow(self, uint64_t link, pl_hot *to) noexcept nogil:
        """Return PL_READ_FOUND, PL_READ_ABSENT (no link, or the row belongs to another process now) or PL_READ_BUSY."""
        cdef uint32_t attempt = 0
        cdef uint64_t deadline = 0
        cdef int result
        while True:
            result = pl_follow_once(&self.view, link, to)
            if result <= PL_READ_ABSENT or self.gives_up(&result, &attempt, &deadline):
                return result

    cdef int copy_row(self, uint32_t row, uint32_t generation, pl_hot *hot, pl_rest *rest) noexcept nogil:
        """Copy all parts of an image in one section; PL_READ_ABSENT if the row belongs to another process now."""
        cdef uint32_t attempt = 0
        cdef uint64_t deadline = 0
        while True:
            if pl_copy_row(&self.view, row, hot, rest):
                return PL_READ_FOUND if hot.generation == generation else PL_READ_ABSENT
            if pl_load_relaxed32(&self.view.hot[row].generation) != generation:
                return PL_READ_ABSENT
            if not self.again(attempt, &deadline):
                return PL_READ_BUSY
            attempt += 1


cdef View detached_view(
    bytes boot_id, uint32_t epoch, tuple control_file, int64_t boot_unix_ns, bint has_args, bint has_envs, dict facts
):
    """Return a view without segments, for an entry that was pickled.

    It has no rows, so every link leads nowhere. What is not in a row is in `facts`, see `Entry.__reduce__`.
    """
    cdef View view
    cdef pl_control *control = <pl_control *>calloc(1, sizeof(pl_control))
    if control == NULL:
        raise MemoryError
    control.boot_unix_ns = boot_unix_ns
    view = View.__new__(View, None, None)
    view.view.control = control
    view.facts = facts
    view.boot_id = boot_id
    view.epoch = epoch
    view.control_device, view.control_inode = control_file
    # Only compared with NULL: the strings are in the entry.
    view.view.args.bytes = <const char *>control if has_args else NULL
    view.view.envs.bytes = <const char *>control if has_envs else NULL
    return view
