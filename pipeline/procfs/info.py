"""Facts about a process from ``/proc``, and their conversion to the records that BPF programs write.

Through `to_records`, a snapshot, a repair and the proc connector use the same code as events of the kernel. `reader`
reads the facts.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pipeline.records import declared, dtypes
from pipeline.records.limits import COMM_MAX, ID_UNSET, PF_KTHREAD, TTY_MAX
from pipeline.shm.layout import layout

if TYPE_CHECKING:
    import numpy.typing as npt

UNSET = ID_UNSET  #: login uid or audit session that was never set, or of a kernel without audit

_PROC_KNOWS = (
    layout.KNOWN_CREDS | layout.KNOWN_CAPS | layout.KNOWN_SID | layout.KNOWN_COMM | layout.KNOWN_TTY | layout.KNOWN_AUID
)

#: Paths of DIRECTORIES that are all unknown.
NO_DIRECTORIES: tuple[bytes | None, ...] = (None,) * len(declared.DIRECTORIES)

# The kernel's invalid id, which no user or group has.
_NO_IDS = (UNSET, UNSET, UNSET, UNSET)


@dataclass(slots=True, eq=False, repr=False)
class ProcInfo:
    """Facts from ``/proc`` about one process. Unknown is None, or 0 for numbers, or the sentinel named at the field."""

    tgid: int
    ppid: int
    start_ticks: int  #: since boot, USER_HZ
    start_boot_ns: int  #: first ns of that tick, or the exact start time: see start_is_ticks
    comm: bytes  #: at most COMM_MAX bytes
    state: str  #: one letter, as in stat
    task_flags: int
    thread_count: int
    pgid: int
    sid: int
    tty: bytes  #: for example b"pts3"; b"": none or unknown
    uids: tuple[int, int, int, int] = _NO_IDS  #: real, effective, saved, file system
    gids: tuple[int, int, int, int] = _NO_IDS
    cap_effective: int = 0
    cap_permitted: int = 0
    #: As TASK has them, in the order of STATES: the number in ``/proc/PID/status`` + 1, 0 unknown.
    states: tuple[int, ...] = (0,) * len(layout.STATES)
    ns_pids: tuple[int, ...] = ()  #: from the reader's pid namespace inwards; the last is the innermost
    start_is_ticks: bool = True
    parent_start_boot_ns: int = 0
    is_torn: bool = False  #: the process called exec while it was read: fields may belong to several images
    is_leader_dead: bool = False  #: the first thread has ended, other threads have not
    exe: bytes | None = None  #: path as seen from outside a chroot, without " (deleted)"
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
    mount_end: int = 0  #: 1 + length of the mount point at the start of exe; 0: unknown
    fs_magic: int = 0
    root: bytes | None = None  #: root directory of the process, b"/" unless chrooted
    directories: tuple[bytes | None, ...] = NO_DIRECTORIES  #: paths; None: unknown, deleted or unreachable
    argv: bytes | None = None  #: a NUL after each argument; at least one argument
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
    cgroup: bytes | None = None  #: content of /proc/PID/cgroup
    cgroup_path: bytes | None = None  #: path in the cgroup v2 hierarchy
    cgroup_id: int = 0
    cgroups_v1: int = 0  #: as in TASK; 0: unknown

    @property
    def ns_pid(self) -> int:
        """Pid in the innermost pid namespace."""
        return self.ns_pids[-1] if self.ns_pids else 0

    @property
    def is_kthread(self) -> bool:
        """Whether it is a kernel thread: it has no image, and its children are kernel threads."""
        return bool(self.task_flags & PF_KTHREAD)

    @property
    def is_zombie(self) -> bool:
        """Whether every thread has ended and only the exit status remains."""
        return self.state in "ZX" and not self.is_leader_dead

    @property
    def args(self) -> list[bytes]:
        """The arguments as a list, including argv[0]."""
        return self.argv[:-1].split(b"\0") if self.argv else []

    @property
    def script_path(self) -> bytes | None:
        """The script that was executed, if the image looks like a script's interpreter; otherwise None."""
        return script_of(self.exe, self.comm, self.argv)


def script_of(exe: bytes | None, comm: bytes, argv: bytes | None) -> bytes | None:
    """Return the script that was executed, if an image looks like a script's interpreter; otherwise None.

    For a script the kernel names the task after it and passes its path as an argument, after the interpreter and the
    interpreter's option. So this is a guess from three facts: argv[0] is an absolute path, the name of the task differs
    from that of the executable, and it equals the last part of one of the first arguments after argv[0]. (Specification
    3.3.8 step 7 checks the last argument only and so misses scripts with arguments.)

    Args:
        exe: path of the executable.
        comm: name of the task.
        argv: the arguments, a NUL after each.
    """
    if not exe or not argv or exe.rpartition(b"/")[2][:COMM_MAX] == comm:
        return None
    args = argv[:-1].split(b"\0", 3)
    if not args[0].startswith(b"/"):
        return None
    return next((arg for arg in args[1:3] if arg.rpartition(b"/")[2][:COMM_MAX] == comm), None)


def with_directories(name: bytes, directories: Sequence[bytes | None]) -> bytes:
    """Return the name of an EXEC record: what was invoked, and the paths of DIRECTORIES behind it."""
    return b"\0".join((name, *(path or b"" for path in directories))).rstrip(b"\0")


class ProcRecords(NamedTuple):
    """Processes as records, in the columns of a frame. Row i of each column is process i."""

    header: npt.NDArray[np.void]  #: shape (n,), dtypes.HEADER
    task: npt.NDArray[np.void]  #: shape (n,), dtypes.TASK
    exec: npt.NDArray[np.void]  #: shape (n,), dtypes.EXEC
    blob: bytes  #: path, name, arguments and environment of each process, concatenated in order


_CODES = {"<u8": "Q", "<u4": "I", "<u2": "H", "|u1": "B", "<i4": "i"}


def _code(field: np.dtype[Any]) -> str:
    """Return what `struct` calls a field: text, reserved bytes, or a number."""
    letter = {"S": "s", "V": "x"}.get(field.kind)
    return f"{field.itemsize}{letter}" if letter else _CODES[field.str]


def _struct_of(dtype: np.dtype[np.void]) -> struct.Struct:
    assert dtype.names is not None and dtype.fields is not None
    packed = struct.Struct("<" + "".join(_code(dtype.fields[name][0]) for name in dtype.names))
    assert packed.size == dtype.itemsize
    return packed


# One pack per row is 20 times faster than assigning the fields of a numpy record.
_HEADER = _struct_of(dtypes.HEADER)
_TASK = _struct_of(dtypes.TASK)
_EXEC = _struct_of(dtypes.EXEC)


def to_records(
    infos: Sequence[ProcInfo], kind: int = declared.KIND_EXEC, time_boot_ns: int | None = None
) -> ProcRecords:
    """Convert facts to the records that the BPF programs would have written, all with FLAG_PARTIAL.

    Unknown is 0, and UNSET for login uid and audit session. EXEC_ARGS_UNREADABLE and EXEC_ENVS_UNREADABLE mark strings
    that are unknown rather than empty. ``/proc`` does not have the facts of a FORK (creator, clone flags).

    Args:
        infos: the processes. If a parent is among them, its start time is used for its children.
        kind: kind of the HEADERs. EXEC rows are made for every kind.
        time_boot_ns: time of the records; None: the start of each process, from which on ``/proc`` describes it.
    """
    starts = {info.tgid: info.start_boot_ns for info in infos}
    headers: list[bytes] = []
    tasks: list[bytes] = []
    execs: list[bytes] = []
    blob: list[bytes] = []
    for info in infos:
        path = info.exe or b""
        name = with_directories(info.script_path or b"", info.directories)
        args = info.argv or b""
        envs = info.envs or b""
        var_bytes = len(path) + len(name) + len(args) + len(envs)
        is_exec = kind == declared.KIND_EXEC
        headers.append(
            _HEADER.pack(
                info.start_boot_ns if time_boot_ns is None else time_boot_ns, 0, info.tgid, info.tgid,
                info.start_boot_ns, info.ppid, kind,
                declared.FLAG_PARTIAL | (declared.FLAG_LEADER_DEAD if info.is_leader_dead else 0), 0,
                info.parent_start_boot_ns or starts.get(info.ppid, 0),
                _HEADER.size + _TASK.size + (_EXEC.size if is_exec else 0) + var_bytes, var_bytes, 0,
            )
        )  # fmt: skip
        tasks.append(
            _TASK.pack(
                info.uids[0], info.gids[0], info.uids[1], info.gids[1], info.uids[2], info.gids[2], info.uids[3],
                info.gids[3], info.cap_effective, info.cap_permitted, info.auid, info.audit_session, info.sid,
                info.pgid, info.ns_pid, info.pid_ns, info.mnt_ns, info.net_ns, info.user_ns, info.task_flags,
                info.cgroup_id, info.comm, info.tty[:TTY_MAX],
                # In an exec record the executable in TASK is the previous one, which is unknown.
                0 if is_exec else info.exe_inode, 0 if is_exec else info.exe_device, 0, *info.states, 0,
                info.cgroups_v1,
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
        np.frombuffer(b"".join(headers), dtypes.HEADER),
        np.frombuffer(b"".join(tasks), dtypes.TASK),
        np.frombuffer(b"".join(execs), dtypes.EXEC),
        b"".join(blob),
    )


def to_record(info: ProcInfo, kind: int = declared.KIND_EXEC, time_boot_ns: int | None = None) -> ProcRecords:
    """Convert the facts of one process, as `to_records` does: columns of length 1.

    Args:
        info: the process.
        kind: see `to_records`.
        time_boot_ns: see `to_records`.
    """
    return to_records((info,), kind, time_boot_ns)


def _exec_flags(info: ProcInfo) -> int:
    flags = 0
    if info.script_path is not None:
        flags |= declared.EXEC_SCRIPT
    if info.is_memfd:
        flags |= declared.EXEC_MEMFD
    if info.is_exe_deleted:
        flags |= declared.EXEC_DELETED
    if info.exe and not info.is_memfd and info.root and info.root != b"/" and not info.exe.startswith(info.root + b"/"):
        flags |= declared.EXEC_NO_ROOT
    if info.is_args_truncated:
        flags |= declared.EXEC_ARGS_TRUNCATED
    if info.is_envs_truncated:
        flags |= declared.EXEC_ENVS_TRUNCATED
    if info.argv is None:
        flags |= declared.EXEC_ARGS_UNREADABLE
    if info.envs is None:
        flags |= declared.EXEC_ENVS_UNREADABLE
    return flags


def _root_offset(info: ProcInfo) -> int:
    root = info.root
    if not root or root == b"/" or not (info.exe or b"").startswith(root + b"/"):
        return 0
    return len(root)


def proc_knows(task: np.void, already: int = 0) -> int:
    """Return the KNOWN_* groups of a TASK from ``/proc``.

    In a known group 0 means 0, except in fields that ``/proc`` may not show.

    Args:
        task: the TASK record.
        already: groups that are known already. Namespaces without the user namespace (shared_namespaces.py) are less
            than an event reports, so they do not replace known ones.
    """
    known = _PROC_KNOWS
    known |= layout.KNOWN_CGROUP if int(task["cgroup_id"]) or int(task["cgroups_v1"]) else 0
    has_all = int(task["user_ns"]) or not already & layout.KNOWN_NS
    known |= layout.KNOWN_NS if int(task["mnt_ns"]) and has_all else 0
    return known
