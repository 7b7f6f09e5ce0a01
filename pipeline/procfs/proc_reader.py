"""Read a process from ``/proc``: everything a table entry needs, in one pass with few system calls.

Covers listing processes and reading one (`ProcReader`). The facts and their conversion to records are in `info`, mounts
in `mounts`, paths of cgroup ids in `containers`, and user names in `users`.

Reads are safe for these reasons:

1. Everything is opened below one descriptor of ``/proc/PID``, which holds the kernel's ``struct pid``. When the process
   ends and its pid is reused, further reads fail with ESRCH and never return facts of the new process. The start time
   is compared nevertheless.
2. An exec during the read would mix two images. ``stat`` is read first and last. The addresses of stack, code and
   argument area are randomised at every exec, so if they or the name differ, the read is repeated. After three attempts
   the result is returned and marked as torn.
3. A part that cannot be read is unknown (None, 0 or the sentinel of the field), never an error and never a guess. The
   result is None only if the process has ended.

Capabilities needed for the parts: none for stat, status, cmdline, cgroup, loginuid and sessionid; CAP_SYS_PTRACE for
exe, root and ns; also CAP_DAC_READ_SEARCH for environ. The mount option hidepid= hides whole processes. If the ns links
of the first process cannot be read, other files show which namespaces it shares with this process
(`shared_namespaces`).

There are two known differences from the kernel's own view. Start times are in ticks of 10 ms, rounded down. On file
systems with their own ``st_dev`` (btrfs subvolumes, some overlays), the device differs from that of the super block.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from contextlib import suppress
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipeline import proc_text
from pipeline.host import statx
from pipeline.host.boot import TICK_NS
from pipeline.procfs import shared_namespaces
from pipeline.procfs._bulk_reads import absent, read_images
from pipeline.procfs.containers import cgroup_v2_root
from pipeline.procfs.hierarchies import Hierarchies
from pipeline.procfs.info import UNSET, ProcInfo
from pipeline.procfs.membership import is_in
from pipeline.procfs.mounts import MountPoints
from pipeline.procfs.tty import TtyNames
from pipeline.records.declared import DIRECTORIES, STRING_MAX
from pipeline.records.limits import COMM_MAX, PF_EXITING, PF_KTHREAD, TMPFS_MAGIC
from pipeline.shm.layout.declared import STATES, State

if TYPE_CHECKING:
    import numpy.typing as npt

    from pipeline.config.schema import Capture

WANT_EXE = 1 << 0  #: executable, its file attributes, root directory; with WANT_NS also its mount point
WANT_ARGS = 1 << 1  #: arguments
WANT_ENVS = 1 << 2  #: environment
WANT_NS = 1 << 3  #: namespace inodes
WANT_CGROUP = 1 << 4  #: cgroups of both versions
WANT_AUDIT = 1 << 5  #: login uid and audit session
WANT_IDS = 1 << 6  #: users, groups, capabilities, pids in inner namespaces
WANT_DEFAULT = WANT_IDS | WANT_EXE | WANT_ARGS | WANT_NS | WANT_CGROUP | WANT_AUDIT
WANT_ALL = WANT_DEFAULT | WANT_ENVS  #: for tracers, which report environments too: see examples/tracer.py

#: Fields of `stat` that an exec changes.
_image_of = itemgetter(
    proc_text.CODE_START, proc_text.CODE_END, proc_text.STACK_START, proc_text.ARGS_START, proc_text.ARGS_END,
    proc_text.ENVS_START, proc_text.ENVS_END,
)  # fmt: skip
_ATTEMPTS = 3
_DIRECTORY_LINKS = tuple(directory.link.encode() for directory in DIRECTORIES)
_OPEN = os.O_RDONLY | os.O_CLOEXEC
_OPEN_DIR = _OPEN | os.O_DIRECTORY
#: A process that overwrites its arguments with a title leaves NULs behind. More of them than this at the end are
#: removed.
_PADDING_MAX = 8
_PADDING = b"\0" * (_PADDING_MAX + 2)
_U32_MAX = 0xFFFF_FFFF


class Area(NamedTuple):
    """Arguments or environment of a process."""

    text: bytes  #: strings with a NUL after each
    is_truncated: bool


class ProcReader:
    """Reads processes from one mount of procfs. Not thread-safe: use one reader per thread.

    Args:
        proc: the mount; pids are those of its pid namespace.
        cgroup_root: mount point of the cgroup v2 hierarchy, for cgroup ids; None: ids stay 0.
        args_limit: maximum bytes of arguments to read.
        envs_limit: maximum bytes of environment to read.
    """

    def __init__(
        self,
        proc: str = "/proc",
        cgroup_root: str | None = None,
        args_limit: int = STRING_MAX,
        envs_limit: int = STRING_MAX,
    ) -> None:
        self._proc = os.open(proc, _OPEN_DIR)
        self._cgroup_root = -1
        self.args_limit = args_limit
        self.envs_limit = envs_limit
        self._ttys = TtyNames()
        self._hierarchies = Hierarchies(proc=proc)
        self._mounts = MountPoints(self._proc)
        if cgroup_root is not None:
            try:
                self._cgroup_root = os.open(cgroup_root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError:
                self.close()
                raise

    @classmethod
    def of(cls, capture: Capture) -> ProcReader:
        """Return a reader of this host's processes and cgroups, with the limits of the settings."""
        return cls(cgroup_root=cgroup_v2_root(), args_limit=capture.args_bytes, envs_limit=capture.envs_bytes)

    def close(self) -> None:
        """Close the descriptors. It may be called more than once."""
        for fd in (self._proc, self._cgroup_root):
            if fd >= 0:
                os.close(fd)
        self._proc = self._cgroup_root = -1

    def __enter__(self) -> ProcReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def list_pids(self) -> npt.NDArray[np.uint32]:
        """Return the tgids of all processes, ascending, including zombies and kernel threads."""
        return np.array([int(name) for name in _names(self._proc) if name.isdigit()], np.uint32)

    def read_ppid(self, tgid: int) -> int | None:
        """Return the parent's tgid; 0: it is outside this pid namespace or there is none; None: no such process."""
        fields = self._read_stat(tgid)
        return None if fields is None else int(fields[proc_text.PPID])

    def read_start(self, tgid: int) -> int | None:
        """Return the start time in clock ticks since boot; None: no such process."""
        fields = self._read_stat(tgid)
        return None if fields is None else int(fields[proc_text.START_TICKS])

    def absent(
        self, tgids: npt.NDArray[np.uint32], live: int, show_life: Callable[[], object]
    ) -> npt.NDArray[np.bool_]:
        """Return which processes have no directory in ``/proc``, so that `read` would return None.

        The others may have ended too: a zombie has a directory, and another process may have the pid.

        Args:
            tgids: the processes.
            live: about how many processes live. If `tgids` has more, ``/proc`` is listed instead of looked up, because
                a look-up takes the kernel longer than an entry of the list. A process that lives during all of the
                listing is in the list.
            show_life: is called between the look-ups.
        """
        if len(tgids) > live and self._proc >= 0:
            with contextlib.suppress(OSError):  # too many open files, for example: a look-up needs none
                return ~is_in(tgids, self.list_pids())
        return np.frombuffer(absent(self._proc, tgids, show_life), np.bool_)

    def read_images(
        self, tgids: npt.NDArray[np.uint32], want: int, show_life: Callable[[], object]
    ) -> tuple[list[Area | None], list[Area | None], list[tuple[bytes | None, ...]]]:
        """Return what processes have at this moment: arguments, environments, and the paths of DIRECTORIES.

        Arguments are b"" during an exec. What is unreadable, not wanted or of no process is None. Nothing is compared:
        the caller must make sure that process and image were the same before and after.

        Args:
            tgids: the processes.
            want: with WANT_ENVS, environments are read.
            show_life: is called for each process.
        """
        areas: list[tuple[bytes, int, Callable[[bytes], Area], Callable[[int], Area | None]]] = [
            (b"cmdline", self.args_limit, _area_of, self._read_long_args)
        ]
        if want & WANT_ENVS:
            areas.append((b"environ", self.envs_limit, _area_of, self._read_long_envs))
        found, directories = read_images(self._proc, tgids, areas, _DIRECTORY_LINKS, _directory_of, show_life)
        return found[0], found[1] if want & WANT_ENVS else [None] * len(tgids), directories

    def _read_long_args(self, tgid: int) -> Area | None:
        return _read_area(b"%d/cmdline" % tgid, self._proc, self.args_limit)

    def _read_long_envs(self, tgid: int) -> Area | None:
        return _read_area(b"%d/environ" % tgid, self._proc, self.envs_limit)

    def _read_stat(self, tgid: int) -> list[bytes] | None:
        try:
            fd = os.open(b"%d/stat" % tgid, _OPEN, dir_fd=self._proc)
        except OSError:
            return None
        try:
            return proc_text.stat_fields(os.read(fd, 4096))
        except OSError:
            return None
        finally:
            os.close(fd)

    def read(self, tgid: int, want: int = WANT_DEFAULT) -> ProcInfo | None:
        """Read one process.

        Args:
            tgid: process in the pid namespace of the mount. (The id of a thread reads that thread, as ``/proc/TID``
                does.)
            want: WANT_* bits; parts that are not wanted remain unknown.

        Returns:
            The process; None if it does not exist, ended during the read, or is hidden from this reader.
        """
        try:
            fd = os.open(b"%d" % tgid, _OPEN_DIR, dir_fd=self._proc)
        except OSError:
            return None
        try:
            stat_fd = os.open(b"stat", _OPEN, dir_fd=fd)
        except OSError:
            os.close(fd)
            return None
        try:
            return self._read_below(tgid, fd, stat_fd, want)
        except OSError:
            # Only errors of stat and status are not handled where they are read: the process has ended.
            return None
        finally:
            os.close(stat_fd)
            os.close(fd)

    def _read_below(self, tgid: int, fd: int, stat_fd: int, want: int) -> ProcInfo | None:
        comm, fields = proc_text.split_stat(os.pread(stat_fd, 4096, 0))
        attempt = 0
        while True:
            attempt += 1
            start = int(fields[proc_text.START_TICKS])
            info = ProcInfo(
                tgid=tgid, ppid=0, start_ticks=start, start_boot_ns=start * TICK_NS, comm=comm[:COMM_MAX], state="",
                task_flags=int(fields[proc_text.TASK_FLAGS]), thread_count=0, pgid=0, sid=0, tty=b"",
            )  # fmt: skip
            if want & WANT_IDS:
                _read_ids(info, fd)
            if not info.task_flags & PF_KTHREAD:
                self._read_pieces(info, fd, want, fields)
            # The process may have called exec or ended since `fields` was read. Read stat again, and use the later
            # values of what changes without an exec (parent, session, state).
            comm_after, after = proc_text.split_stat(os.pread(stat_fd, 4096, 0))
            is_same_image = comm_after == comm and _image_of(after) == _image_of(fields)
            is_done = proc_text.has_ended(after) or bool(int(after[proc_text.TASK_FLAGS]) & (PF_KTHREAD | PF_EXITING))
            # A program always has an argument (the kernel adds an empty argv[0]). Without any, an exec is in progress:
            # the new memory is in place, but its argument area is not.
            is_settled = is_done or (is_same_image and info.argv != b"")
            if is_settled or attempt == _ATTEMPTS:
                break
            os.sched_yield()
            comm, fields = comm_after, after
        if after[proc_text.START_TICKS] != fields[proc_text.START_TICKS]:
            return None
        info.argv = info.argv or None
        info.state = after[proc_text.STATE].decode("ascii")
        # A process that is being released has neither group nor session: -1.
        info.ppid = int(after[proc_text.PPID])
        info.pgid, info.sid = max(0, int(after[proc_text.PGID])), max(0, int(after[proc_text.SID]))
        info.tty = self._ttys.name(int(after[proc_text.TTY_NR]))
        info.task_flags = int(after[proc_text.TASK_FLAGS])
        info.thread_count = int(after[proc_text.THREADS])
        info.is_leader_dead = proc_text.has_ended(after) and info.thread_count > 1
        info.is_torn = not is_settled
        return info

    def _read_pieces(self, info: ProcInfo, fd: int, want: int, fields: list[bytes]) -> None:
        is_dead = proc_text.has_ended(fields)
        # The memory of an ended leader is gone; a thread that has not ended shows the same process.
        below = _living_thread(fd) if is_dead else b""
        if want & WANT_EXE and below is not None:
            self._read_exe(info, fd, below)
        if want & WANT_ARGS and below is not None:
            read = _read_area(below + b"cmdline", fd, self.args_limit)
            if read is not None:
                info.argv, info.is_args_truncated = read
                info.args_full_bytes = _full_bytes(read, fields[proc_text.ARGS_START], fields[proc_text.ARGS_END])
        if want & WANT_ENVS and below is not None:
            read = _read_area(below + b"environ", fd, self.envs_limit)
            if read is not None:
                info.envs, info.is_envs_truncated = read
                info.envs_full_bytes = _full_bytes(read, fields[proc_text.ENVS_START], fields[proc_text.ENVS_END])
        if want & WANT_NS:
            _read_namespaces(info, fd, below or b"", self._proc)
            if want & WANT_EXE and below is not None:
                self._find_mount(info, fd, below)
        if want & WANT_AUDIT:
            info.auid = _number(b"loginuid", fd)
            # The kernel sets and clears the two together.
            if info.auid != UNSET:
                info.audit_session = _number(b"sessionid", fd)
        if want & WANT_CGROUP:
            self._read_cgroup(info, fd)

    def _read_exe(self, info: ProcInfo, fd: int, below: bytes) -> None:
        try:
            link: bytes = os.readlink(below + b"exe", dir_fd=fd)
        except OSError:
            return
        file = statx.statx(fd, below + b"exe")
        if file is not None:
            info.exe_nlink, info.exe_uid, info.exe_gid, info.exe_mode, info.exe_inode = file[:5]
            info.exe_ctime_ns, info.exe_mtime_ns = file.ctime_ns, file.mtime_ns
            info.exe_device, info.mount_id = file.device, file.mount_id
        if link.endswith(proc_text.DELETED) and not self._is_its_name(info, fd, below, link):
            link = link[: -len(proc_text.DELETED)]
            info.is_exe_deleted = True
            info.is_memfd = link.startswith(b"/memfd:") and info.exe_nlink == 0
            info.fs_magic = TMPFS_MAGIC if info.is_memfd else 0
        info.exe = link
        with suppress(OSError):
            info.root = os.readlink(below + b"root", dir_fd=fd)
        info.directories = _directories(below, fd)

    def _find_mount(self, info: ProcInfo, fd: int, below: bytes) -> None:
        """Find mount point and type of the executable's mount. A memfd is on an internal mount that has none."""
        if not info.exe or not info.root or not info.mnt_ns or not info.mount_id or info.is_memfd:
            return
        found = self._mounts.find(fd, below, info.mnt_ns, info.root, info.mount_id, info.exe_device, info.exe)
        if found is not None:
            info.mount_end, info.fs_magic = found

    @staticmethod
    def _is_its_name(info: ProcInfo, fd: int, below: bytes, link: bytes) -> bool:
        """Return whether a file is really named ``NAME (deleted)``: whether that path leads to the same inode."""
        if info.exe_nlink == 0:
            return False
        try:
            found = os.stat(below + b"root" + link, dir_fd=fd)
        except OSError:
            return False
        return found.st_ino == info.exe_inode and (
            os.major(found.st_dev) << 20 | os.minor(found.st_dev) == info.exe_device
        )

    def _read_cgroup(self, info: ProcInfo, fd: int) -> None:
        try:
            info.cgroup = _read_small(b"cgroup", fd)
        except OSError:
            return
        info.cgroups_v1 = self._hierarchies.set_of(info.cgroup)
        # The v2 line is "0::PATH". A path may contain anything but a newline, so only line starts are compared.
        _, found, rest = (b"\n" + info.cgroup).partition(b"\n0::")
        if not found:
            return
        path = rest[: rest.find(b"\n")]
        if self._cgroup_root >= 0 and not path.startswith(b"/.."):  # "/..": outside this reader's cgroup namespace
            with suppress(OSError):
                info.cgroup_id = os.stat(path[1:] or b".", dir_fd=self._cgroup_root, follow_symlinks=False).st_ino
        if not info.cgroup_id and path.endswith(proc_text.DELETED):
            path = path[: -len(proc_text.DELETED)]
        info.cgroup_path = path


def _read_small(name: bytes, dir_fd: int) -> bytes:
    """Read a file that seq_file usually returns in one read; a larger one (many groups, deep cgroups) needs several."""
    fd = os.open(name, _OPEN, dir_fd=dir_fd)
    try:
        text = os.read(fd, 8192)
        if len(text) >= 4096:
            while more := os.read(fd, 65536):
                text += more
        return text
    finally:
        os.close(fd)


def _read_area(name: bytes, dir_fd: int, limit: int) -> Area | None:
    """Read arguments or environment; None: unreadable."""
    try:
        fd = os.open(name, _OPEN, dir_fd=dir_fd)
    except OSError:
        return None
    try:
        text = os.read(fd, min(4096, limit + 1))
        if len(text) == 4096:
            while len(text) <= limit and (more := os.read(fd, limit + 1 - len(text))):
                text += more
    except OSError:
        return None
    finally:
        os.close(fd)
    return _area_of(text[:limit], is_truncated=len(text) > limit)


def _area_of(text: bytes, *, is_truncated: bool = False) -> Area:
    """Return the Area of a text that was read: the padding behind it is removed, and a NUL is its end."""
    if not is_truncated and text.endswith(_PADDING):
        text = text.rstrip(b"\0") + b"\0"
    if text and not text.endswith(b"\0"):
        text = text[:-1] + b"\0" if is_truncated else text + b"\0"
    return Area(text, is_truncated)


def _full_bytes(read: Area, start: bytes, end: bytes) -> int:
    """Return the length of the whole area. The kernel shows its addresses only with permission to trace, else 0.

    A process can choose the addresses (prctl(2), PR_SET_MM), so the length is limited to what a record can hold.
    """
    text, is_truncated = read
    return max(len(text) + 1, min(int(end) - int(start), _U32_MAX)) if is_truncated else len(text)


def _living_thread(fd: int) -> bytes | None:
    """Return ``task/TID/`` of a thread that has not ended, for a process with an ended leader; None: all have ended."""
    try:
        task_fd = os.open(b"task", _OPEN_DIR, dir_fd=fd)
    except OSError:
        return None
    try:
        for name in _names(task_fd):
            below = b"task/%s/" % name.encode("ascii")
            try:
                if not proc_text.has_ended(proc_text.stat_fields(_read_small(below + b"stat", fd))):
                    return below
            except OSError:
                continue
    except OSError:
        pass
    finally:
        os.close(task_fd)
    return None


def _directories(below: bytes, dir_fd: int) -> tuple[bytes | None, ...]:
    return tuple(_directory(below + link, dir_fd) for link in _DIRECTORY_LINKS)


def _directory(link: bytes, dir_fd: int) -> bytes | None:
    """Return where a link to a directory leads; None: unknown, deleted or not below the root directory."""
    try:
        return _directory_of(os.readlink(link, dir_fd=dir_fd))
    except OSError:
        return None


def _directory_of(path: bytes) -> bytes | None:
    return path if path.startswith(b"/") and not path.endswith(proc_text.DELETED) else None


def _read_ids(info: ProcInfo, fd: int) -> None:
    status = _read_small(b"status", fd)
    info.uids = _four(status, b"Uid")
    info.gids = _four(status, b"Gid")
    info.cap_effective = proc_text.effective_capabilities(status)
    info.cap_permitted = int(proc_text.status_value(status, b"CapPrm") or b"0", 16)
    info.states = tuple(_state(status, state) for state in STATES)
    # A kernel without pid namespaces has no such line.
    info.ns_pids = tuple(map(int, proc_text.status_value(status, b"NSpid").split())) or (info.tgid,)


def _state(status: bytes, state: State) -> int:
    """Return a state as TASK has it: the number + 1, 0 if the kernel has no such line."""
    value = proc_text.status_value(status, state.status_key.encode("ascii"))
    return 1 + min(int(value), len(state.values or "01") - 1) if value else 0


def _read_namespaces(info: ProcInfo, fd: int, below: bytes, proc: int) -> None:
    """Read the inodes of namespaces from links such as ``pid:[4026531836]``."""
    try:
        info.pid_ns = int(os.readlink(below + b"ns/pid", dir_fd=fd)[5:-1])
    except PermissionError:
        # Some kernels let nobody read the links of the first process. For other processes, a reader without
        # CAP_SYS_PTRACE does not try the alternative: a dozen more files per process would slow down a source that
        # reads /proc at each event.
        if info.tgid == 1:
            shared_namespaces.fill(info, fd, proc)
        return
    except OSError:
        return  # it has ended
    # A zombie has left the other namespaces.
    with suppress(OSError):
        info.user_ns = int(os.readlink(below + b"ns/user", dir_fd=fd)[6:-1])
        info.mnt_ns = int(os.readlink(below + b"ns/mnt", dir_fd=fd)[5:-1])
        info.net_ns = int(os.readlink(below + b"ns/net", dir_fd=fd)[5:-1])


def _names(dir_fd: int) -> list[str]:
    return os.listdir(dir_fd)


def _number(name: bytes, fd: int) -> int:
    try:
        return int(_read_small(name, fd))
    except (OSError, ValueError):
        return UNSET


def _four(status: bytes, key: bytes) -> tuple[int, int, int, int]:
    values = proc_text.status_value(status, key).split()
    if len(values) != 4:
        raise ProcessLookupError
    return int(values[0]), int(values[1]), int(values[2]), int(values[3])


_default_reader: ProcReader | None = None


def _reader() -> ProcReader:
    global _default_reader
    if _default_reader is None:
        _default_reader = ProcReader()
    return _default_reader


def read_process(tgid: int, want: int = WANT_DEFAULT) -> ProcInfo | None:
    """Read a process from ``/proc`` with `ProcReader.read`, without cgroup ids.

    For tools and tests; a worker has its own reader.

    Args:
        tgid: see `ProcReader.read`.
        want: see `ProcReader.read`.

    Returns:
        See `ProcReader.read`.
    """
    return _reader().read(tgid, want)


def list_pids() -> npt.NDArray[np.uint32]:
    """Return the tgids of all processes in ``/proc``, as `ProcReader.list_pids` does."""
    return _reader().list_pids()


def read_ppid(tgid: int) -> int | None:
    """Return the parent of a process in ``/proc``, as `ProcReader.read_ppid` does."""
    return _reader().read_ppid(tgid)


def read_start(tgid: int) -> int | None:
    """Return the start time of a process in ``/proc``, as `ProcReader.read_start` does."""
    return _reader().read_start(tgid)
