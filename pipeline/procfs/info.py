"""What ``/proc`` says about a process, and the same as the records that BPF programs write.

Covers `ProcInfo` and `to_records`, through which a snapshot, a repair and the proc connector feed the same code as the
kernel does. Leaves out the reading: that is `procfs`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.records import kinds as events
from pipeline.shm.layout import tables as layout

#: Login uid or audit session that was never set, or a kernel without audit.
UNSET = 0xFFFFFFFF

PF_KTHREAD = 0x00200000

_PROC_KNOWS = (
    layout.KNOWN_CREDS | layout.KNOWN_CAPS | layout.KNOWN_SID | layout.KNOWN_COMM | layout.KNOWN_TTY | layout.KNOWN_AUID
)

# The kernel's invalid id: nobody has it.
_NO_IDS = (UNSET, UNSET, UNSET, UNSET)


@dataclass(slots=True)
class ProcInfo:
    """What ``/proc`` says about one process. Unknown is None, or for numbers 0, or the sentinel that is named."""

    tgid: int
    ppid: int
    start_ticks: int  #: since boot, USER_HZ
    start_boot_ns: int  #: first ns of that tick, unless somebody knew better: see start_is_ticks
    comm: bytes  #: at most 15 bytes
    state: str  #: one letter, as in stat
    task_flags: int
    thread_count: int
    pgid: int
    sid: int
    tty: bytes  #: b"pts3"; b"" none or unknown
    uids: tuple[int, int, int, int] = _NO_IDS  #: real, effective, saved, file system
    gids: tuple[int, int, int, int] = _NO_IDS
    cap_effective: int = 0
    cap_permitted: int = 0
    ns_pids: tuple[int, ...] = ()  #: from the reader's pid namespace inwards; the last is the innermost
    start_is_ticks: bool = True
    parent_start_boot_ns: int = 0
    is_torn: bool = False  #: was calling exec while being read: fields may be of several images
    is_leader_dead: bool = False  #: other threads live on
    exe: bytes | None = None  #: as somebody outside a chroot sees it, without " (deleted)"
    is_exe_deleted: bool = False
    is_memfd: bool = False  #: exe is b"/memfd:NAME"
    exe_inode: int = 0
    exe_device: int = 0  #: kernel encoding: major << 20 | minor
    exe_mode: int = 0
    exe_uid: int = 0
    exe_gid: int = 0
    exe_nlink: int = 0
    exe_ctime_ns: int = 0  #: unix
    exe_mtime_ns: int = 0
    mount_id: int = 0
    mount_end: int = 0  #: 1 + how much of exe leads to where that mount is; 0 unknown
    fs_magic: int = 0
    root: bytes | None = None  #: the process' root directory, b"/" unless chrooted
    argv: bytes | None = None  #: NUL after each, and at least one
    args_full_bytes: int = 0
    is_args_truncated: bool = False
    envs: bytes | None = None
    envs_full_bytes: int = 0
    is_envs_truncated: bool = False
    auid: int = UNSET
    audit_session: int = UNSET
    pid_ns: int = 0
    mnt_ns: int = 0
    net_ns: int = 0
    user_ns: int = 0
    cgroup: bytes | None = None  #: /proc/PID/cgroup as it is
    cgroup_path: bytes | None = None  #: path in the cgroup v2 hierarchy
    cgroup_id: int = 0
    cgroups_v1: int = 0  #: as TASK has it; 0: not known

    @property
    def ns_pid(self) -> int:
        """Pid in the innermost pid namespace."""
        return self.ns_pids[-1] if self.ns_pids else 0

    @property
    def is_kthread(self) -> bool:
        """A kernel thread: it has no image, and its children are kernel threads."""
        return bool(self.task_flags & PF_KTHREAD)

    @property
    def is_zombie(self) -> bool:
        """Every thread has ended; only the exit status waits."""
        return self.state in "ZX" and not self.is_leader_dead

    @property
    def args(self) -> list[bytes]:
        """The arguments as a list, argv[0] included."""
        return self.argv[:-1].split(b"\0") if self.argv else []

    @property
    def cgroup_v1(self) -> dict[str, bytes]:
        """Paths in cgroup v1 hierarchies, by their controllers (``"cpu,cpuacct"``, ``"name=systemd"``)."""
        paths = {}
        for line in (self.cgroup or b"").splitlines():
            hierarchy, _, rest = line.partition(b":")
            controllers, colon, path = rest.partition(b":")
            if colon and hierarchy != b"0":
                paths[controllers.decode("utf-8", "surrogateescape")] = path
        return paths

    @property
    def script_path(self) -> bytes | None:
        """The script that was invoked, when the image looks like a script's interpreter; else None."""
        return script_of(self.exe, self.comm, self.argv)


def script_of(exe: bytes | None, comm: bytes, argv: bytes | None) -> bytes | None:
    """The script that was invoked, when an image looks like a script's interpreter; else None.

    The kernel names the task after the script and puts its path behind the interpreter and the interpreter's option.
    Guessed so: the name is not the executable's, and is that of an argument after the first, which is an absolute path.
    (Specification 3.3.8 step 7 looks at the last argument only, so misses scripts with arguments.)
    """
    if not exe or not argv or exe.rpartition(b"/")[2][:15] == comm:
        return None
    args = argv[:-1].split(b"\0", 3)
    if not args[0].startswith(b"/"):
        return None
    return next((arg for arg in args[1:3] if arg.rpartition(b"/")[2][:15] == comm), None)


class ProcRecords(NamedTuple):
    """Processes as records: the same columns as a frame has. Row i of each is process i."""

    head: npt.NDArray[np.void]  #: shape (n,), events.HEAD
    task: npt.NDArray[np.void]  #: shape (n,), events.TASK
    exec: npt.NDArray[np.void]  #: shape (n,), events.EXEC
    blob: bytes  #: path, name, args, envs of each, concatenated in order


_CODES = {"<u8": "Q", "<u4": "I", "<u2": "H", "|u1": "B", "<i4": "i", "|S16": "16s"}


def _struct_of(dtype: np.dtype[np.void]) -> struct.Struct:
    assert dtype.names is not None and dtype.fields is not None
    packed = struct.Struct("<" + "".join(_CODES[dtype.fields[name][0].str] for name in dtype.names))
    assert packed.size == dtype.itemsize
    return packed


# One pack per row is 20 times as fast as storing into a numpy record field by field.
_HEAD = _struct_of(events.HEAD)
_TASK = _struct_of(events.TASK)
_EXEC = _struct_of(events.EXEC)


def to_records(infos: Sequence[ProcInfo], kind: int = events.KIND_EXEC, time_boot_ns: int | None = None) -> ProcRecords:
    """What was read, as the records that the BPF programs would have written, all with FLAG_PARTIAL.

    Args:
        infos: processes; a parent that is among them gives its start time to its children.
        kind: of the HEADs; the EXEC rows are there for every kind.
        time_boot_ns: when it was so; None: each process' start, the time from which ``/proc`` vouches for it.

    Unknown is 0, and UNSET for login uid and audit session; EXEC_ARGS_UNREADABLE and EXEC_ENVS_UNREADABLE mark
    strings that are unknown, not empty. FORK facts (creator, clone flags) are not to be had from ``/proc``.
    """
    starts = {info.tgid: info.start_boot_ns for info in infos}
    heads: list[bytes] = []
    tasks: list[bytes] = []
    execs: list[bytes] = []
    blob: list[bytes] = []
    for info in infos:
        path = info.exe or b""
        name = info.script_path or b""
        args = info.argv or b""
        envs = info.envs or b""
        var_bytes = len(path) + len(name) + len(args) + len(envs)
        is_exec = kind == events.KIND_EXEC
        heads.append(
            _HEAD.pack(
                info.start_boot_ns if time_boot_ns is None else time_boot_ns, 0, info.tgid, info.tgid,
                info.start_boot_ns, info.ppid, kind,
                events.FLAG_PARTIAL | (events.FLAG_LEADER_DEAD if info.is_leader_dead else 0), 0,
                info.parent_start_boot_ns or starts.get(info.ppid, 0),
                _HEAD.size + _TASK.size + (_EXEC.size if is_exec else 0) + var_bytes, var_bytes, 0,
            )
        )  # fmt: skip
        tasks.append(
            _TASK.pack(
                info.uids[0], info.gids[0], info.uids[1], info.gids[1], info.uids[2], info.gids[2], info.uids[3],
                info.gids[3], info.cap_effective, info.cap_permitted, info.auid, info.audit_session, info.sid,
                info.pgid, info.ns_pid, info.pid_ns, info.mnt_ns, info.net_ns, info.user_ns, info.task_flags,
                info.cgroup_id, info.comm, info.tty[:15],
                # In an exec record TASK's executable is the one before: unknown.
                0 if is_exec else info.exe_inode, 0 if is_exec else info.exe_device, 0, 0, info.cgroups_v1,
            )
        )  # fmt: skip
        execs.append(
            _EXEC.pack(
                info.exe_inode, info.exe_ctime_ns, info.exe_mtime_ns, info.exe_device, info.mount_id, info.exe_uid,
                info.exe_gid, info.exe_nlink, info.exe_mode, _exec_flags(info), info.tgid, info.fs_magic, len(path),
                _root_offset(info), len(name), len(args), info.args_full_bytes, len(envs), info.envs_full_bytes,
                args.count(0), envs.count(0), info.tgid, 0, 0, 0, info.mount_end, 0,
            )
        )  # fmt: skip
        blob += (path, name, args, envs)
    return ProcRecords(
        np.frombuffer(b"".join(heads), events.HEAD),
        np.frombuffer(b"".join(tasks), events.TASK),
        np.frombuffer(b"".join(execs), events.EXEC),
        b"".join(blob),
    )


def to_record(info: ProcInfo, kind: int = events.KIND_EXEC, time_boot_ns: int | None = None) -> ProcRecords:
    """`to_records` of one process: columns of length 1."""
    return to_records((info,), kind, time_boot_ns)


def _exec_flags(info: ProcInfo) -> int:
    flags = 0
    if info.script_path is not None:
        flags |= events.EXEC_SCRIPT
    if info.is_memfd:
        flags |= events.EXEC_MEMFD
    if info.is_exe_deleted:
        flags |= events.EXEC_DELETED
    if info.exe and not info.is_memfd and info.root and info.root != b"/" and not info.exe.startswith(info.root + b"/"):
        flags |= events.EXEC_NO_ROOT
    if info.is_args_truncated:
        flags |= events.EXEC_ARGS_TRUNCATED
    if info.is_envs_truncated:
        flags |= events.EXEC_ENVS_TRUNCATED
    if info.argv is None:
        flags |= events.EXEC_ARGS_UNREADABLE
    if info.envs is None:
        flags |= events.EXEC_ENVS_UNREADABLE
    return flags


def _root_offset(info: ProcInfo) -> int:
    root = info.root
    if not root or root == b"/" or not (info.exe or b"").startswith(root + b"/"):
        return 0
    return len(root)


def proc_knows(task: np.void, already: int = 0) -> int:
    """The KNOWN_* groups of a TASK from ``/proc``: 0 means 0 there, but for what it may not show.

    Args:
        already: the groups that are known. Namespaces without the user namespace (shared_namespaces.py) are less than
            what an event reports, and do not replace it.
    """
    known = _PROC_KNOWS
    known |= layout.KNOWN_CGROUP if int(task["cgroup_id"]) or int(task["cgroups_v1"]) else 0
    has_all = int(task["user_ns"]) or not already & layout.KNOWN_NS
    known |= layout.KNOWN_NS if int(task["mnt_ns"]) and has_all else 0
    return known
