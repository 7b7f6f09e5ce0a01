"""Records of a source that knows processes by their numbers and from ``/proc``.

They are the records of `pipeline.records.declared`, all with FLAG_PARTIAL: the field `known` of TASK contains the
groups that have a value; the others are unknown. `pipeline.procfs` reads ``/proc``; `source` selects the record for an
event.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from pipeline.procfs.info import ProcInfo, to_record
from pipeline.records import declared, dtypes
from pipeline.records.declared import EXIT_LAYOUT, HEADER_LAYOUT, SAMPLED_LAYOUT
from pipeline.shm.layout import layout

_HEADER = HEADER_LAYOUT.struct(
    "time_boot_ns", "ring_seq", "tgid", "tid", "start_boot_ns", "ppid", "kind", "flags", "cpu", "parent_start_boot_ns",
    "record_bytes", "var_bytes", "ring_pos",
)  # fmt: skip
_EXIT = EXIT_LAYOUT.struct(
    "reaper_start_boot_ns", "reaper_tgid", "exit_code", "exit_flags", "leader_exit_code", whole=True
)
_SAMPLED = SAMPLED_LAYOUT.struct("changed_after_boot_ns", whole=True)


def _offset(dtype: np.dtype[np.void], field: str) -> int:
    assert dtype.fields is not None
    return int(dtype.fields[field][1])


_TASK_BYTES = dtypes.TASK.itemsize
_TASK_SID = _offset(dtypes.TASK, "sid")
_TASK_COMM = _offset(dtypes.TASK, "comm")
_TASK_KNOWN = _offset(dtypes.TASK, "known")
_HEADER_SEQ = _offset(dtypes.HEADER, "ring_seq")
_HEADER_START = _offset(dtypes.HEADER, "start_boot_ns")
_HEADER_CPU = _offset(dtypes.HEADER, "cpu")
_HEADER_PARENT_START = _offset(dtypes.HEADER, "parent_start_boot_ns")

_PROC_KNOWS = layout.KNOWN_CREDS | layout.KNOWN_CAPS | layout.KNOWN_COMM | layout.KNOWN_TTY | layout.KNOWN_AUID


@dataclass(slots=True)
class About:
    """The content of a HEADER: the process, the time, and the CPU."""

    time_boot_ns: int
    tgid: int
    tid: int
    start_boot_ns: int
    cpu: int = 0
    seq: int = 0
    ppid: int = 0
    parent_start_boot_ns: int = 0


def _record(about: About, kind: int, task: bytes | bytearray, body: bytes = b"", sampled: bytes = b"") -> bytes:
    flags = declared.FLAG_PARTIAL | (0 if task else declared.FLAG_HEAD_ONLY)
    flags |= declared.FLAG_SAMPLED if sampled else 0
    header = _HEADER.pack(
        about.time_boot_ns, about.seq, about.tgid, about.tid, about.start_boot_ns, about.ppid, kind, flags, about.cpu,
        about.parent_start_boot_ns, _HEADER.size + len(task) + len(body) + len(sampled), len(sampled), 0,
    )  # fmt: skip
    return header + task + body + sampled


_EMPTY_TASK = bytes(_TASK_BYTES)
_NO_FORK_BODY = bytes(dtypes.FORK.itemsize)


def fork(about: About, info: ProcInfo | None = None) -> bytes:
    """Return a fork record, without the values that the child shares with its parent.

    The resolver has better values for those than ``/proc``.

    Args:
        about: the child.
        info: of a child in namespaces of its own, which the record then contains.
    """
    return _record(about, declared.KIND_FORK, _namespaces(info), _NO_FORK_BODY)


def exec_(about: About, info: ProcInfo) -> bytes:
    """Return an exec record with the facts `info` from ``/proc``."""
    made = to_record(info, declared.KIND_EXEC, about.time_boot_ns)
    header = bytearray(made.header.tobytes())
    struct.pack_into("<Q", header, _HEADER_SEQ, about.seq)
    struct.pack_into("<Q", header, _HEADER_START, about.start_boot_ns)
    struct.pack_into("<H", header, _HEADER_CPU, about.cpu)
    struct.pack_into("<Q", header, _HEADER_PARENT_START, about.parent_start_boot_ns)
    return bytes(header) + _with_known(made.task.tobytes(), known_groups(info)) + made.exec.tobytes() + made.blob


def change(about: About, kind: int, info: ProcInfo, groups: int, *, changed_after_boot_ns: int | None = None) -> bytes:
    """Return a record of a change in `groups` (KNOWN_*) of TASK, with the values `info` from ``/proc``.

    Args:
        about: the process, and the time of the change.
        kind: CRED, SID or CGROUP.
        info: as it is after the change.
        groups: what has changed.
        changed_after_boot_ns: of a CRED or SID that a comparison found: the last time at which the process was as
            recorded before. None: the time in `about` is exact.
    """
    sampled = b"" if changed_after_boot_ns is None else _SAMPLED.pack(changed_after_boot_ns)
    return _record(about, kind, _with_known(to_record(info).task.tobytes(), groups), sampled=sampled)


def comm(about: About, name: bytes) -> bytes:
    """Return a record of a changed name."""
    task = bytearray(_EMPTY_TASK)
    task[_TASK_COMM : _TASK_COMM + len(name[:15])] = name[:15]
    return _record(about, declared.KIND_COMM, _with_known(task, layout.KNOWN_COMM))


def sid(about: About) -> bytes:
    """Return a record of a process that now leads a new session and group with its own number, without a terminal."""
    task = bytearray(_EMPTY_TASK)
    struct.pack_into("<II", task, _TASK_SID, about.tgid, about.tgid)
    return _record(about, declared.KIND_SID, _with_known(task, layout.KNOWN_SID | layout.KNOWN_TTY))


def exit_(about: About, exit_code: int, info: ProcInfo | None = None) -> bytes:
    """Return an exit record; the process that adopts the children is not known.

    Args:
        about: the process that ended.
        exit_code: wait status, as u32.
        info: its namespaces, which the record contains because they identify the process of a tracer.
    """
    signed = exit_code - (exit_code >> 31 << 32)
    body = _EXIT.pack(0, 0, signed, declared.EXIT_NO_REAPER, signed)
    return _record(about, declared.KIND_EXIT, _namespaces(info), body)


def unknown(about: About, kind: int) -> bytes:
    """Return a record with only a HEADER: the event is known, but the process ended before it could be read."""
    return _record(about, kind, b"")


def known_groups(info: ProcInfo) -> int:
    """Return the KNOWN_* groups of TASK that ``/proc`` reported: 0 is a value there, except for hidden fields."""
    groups = _PROC_KNOWS
    groups |= layout.KNOWN_CGROUP if info.cgroup_id or info.cgroups_v1 else 0
    # A process that is being released no longer has a session; the first process may never have had one.
    groups |= layout.KNOWN_SID if info.sid or info.tgid == 1 else 0
    groups |= layout.KNOWN_NS if info.mnt_ns and info.user_ns else 0
    return groups


def _namespaces(info: ProcInfo | None) -> bytes:
    """Return a TASK in which only the namespaces are known; nothing is known without `info`."""
    if info is None:
        return _EMPTY_TASK
    task = to_record(info).task.copy()
    for state in layout.STATES:
        task[state.name] = 0
    return _with_known(task.tobytes(), layout.KNOWN_NS if info.mnt_ns else 0)


def _with_known(task: bytes | bytearray, groups: int) -> bytes:
    changed = bytearray(task)
    struct.pack_into("<H", changed, _TASK_KNOWN, groups)
    return bytes(changed)
