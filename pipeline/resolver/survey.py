"""Look at every live process once: the facts that a snapshot inserts and a repair compares.

Two views are joined. The task iterator, where there is one, gives the kernel's own facts in one pass, with start times
in ns; ``/proc`` gives what only it has (arguments, environment, cgroup path) and the processes that some kernels hide
from the iterator (pid 1 on the vendor kernel this was built on). Without an iterator ``/proc`` gives everything, with
start times in ticks. Inserting and comparing are in snapshot.py and repair.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pipeline import events
from pipeline.boot import TICK_NS
from pipeline.resolver import procfs


class Tasks(Protocol):
    """What the task iterator gives (bpf/iterator.py): HEAD, TASK and EXEC rows, and the path of each executable."""

    head: npt.NDArray[np.void]
    task: npt.NDArray[np.void]
    exec: npt.NDArray[np.void]
    paths: list[bytes]


TaskIterator = Callable[[], Tasks]


@dataclass(slots=True)
class Survey:
    """Live processes in order of their start; row i of every column is one process.

    Attributes:
        head, task, exec: shapes (n,), dtypes HEAD, TASK, EXEC. `head.time_boot_ns` is when the process was looked at.
        strings: path, name, args and envs of each process, in that order and as long as `exec` says.
        is_exact: shape (n,), bool: start times in ns; otherwise rounded down to a tick.
        cgroup_paths: cgroup id -> path, as far as ``/proc`` named them; and set of cgroups of version 1 -> the
            ``/proc/PID/cgroup`` that it was made of.
        begin_boot_ns, end_boot_ns: nothing was looked at before or after.
    """

    head: npt.NDArray[np.void]
    task: npt.NDArray[np.void]
    exec: npt.NDArray[np.void]
    strings: list[bytes]
    is_exact: npt.NDArray[np.bool_]
    begin_boot_ns: int
    end_boot_ns: int
    cgroup_paths: dict[int, bytes] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.head)


def survey(
    reader: procfs.ProcReader,
    iterate: TaskIterator | None,
    now_boot_ns: Callable[[], int],
    want: int = procfs.WANT_DEFAULT,
    only: frozenset[int] | None = None,
) -> Survey:
    """Look at all live processes, or at those of `only` (tgids); kernel threads are left out."""
    begin = now_boot_ns()
    parts: list[tuple[npt.NDArray[np.void], npt.NDArray[np.void], npt.NDArray[np.void], list[bytes], bool]] = []
    cgroup_paths: dict[int, bytes] = {}
    seen: set[int] = set()
    exact_starts: dict[int, int] = {}
    if iterate is not None:
        tasks = iterate()
        head, task, exec_, paths = tasks.head, tasks.task, tasks.exec, tasks.paths
        # A leader that ended has no memory, so no image: /proc shows that of the threads that live on.
        leaderless = (head["flags"] & events.FLAG_LEADER_DEAD) != 0
        exact_starts = dict(
            zip(head["tgid"][leaderless].tolist(), head["start_boot_ns"][leaderless].tolist(), strict=True)
        )
        keep = ((task["task_flags"] & procfs.PF_KTHREAD) == 0) & ~leaderless
        if only is not None:
            keep &= np.isin(head["tgid"], np.fromiter(only, np.uint32, len(only)))
        rows = np.flatnonzero(keep)
        head, task, exec_ = head[rows].copy(), task[rows].copy(), exec_[rows].copy()
        exact_starts |= zip(head["ppid"].tolist(), head["parent_start_boot_ns"].tolist(), strict=True)
        strings = [
            _complete(reader, want, head, task, exec_, i, bytes(paths[row]), cgroup_paths)
            for i, row in enumerate(rows.tolist())
        ]
        parts.append((head, task, exec_, strings, True))
        seen.update(head["tgid"].tolist())
    wanted = [tgid for tgid in reader.list_pids().tolist() if only is None or tgid in only]
    infos = []
    for tgid in wanted:
        if tgid in seen:
            continue
        info = reader.read(tgid, want)
        # A zombie has no image any more, but its parent has not waited for it: it is not a live process.
        if info is None or info.is_kthread or info.is_zombie:
            continue
        exact = exact_starts.get(tgid, 0)
        if exact and exact // TICK_NS == info.start_ticks:
            info.start_boot_ns, info.start_is_ticks = exact, False
        infos.append(info)
        _learn_cgroups(info, cgroup_paths)
    for is_exact in (False, True):
        some = [info for info in infos if info.start_is_ticks is not is_exact]
        if some:
            records = procfs.to_records(some, time_boot_ns=begin)
            parts.append((*_columns(records), is_exact))
    return _join(parts, begin, now_boot_ns(), cgroup_paths)


def _complete(
    reader: procfs.ProcReader,
    want: int,
    head: npt.NDArray[np.void],
    task: npt.NDArray[np.void],
    exec_: npt.NDArray[np.void],
    i: int,
    path: bytes,
    cgroup_paths: dict[int, bytes],
) -> bytes:
    """Add to an iterator's row what only ``/proc`` has; returns the row's strings."""
    row = exec_[i]
    info = reader.read(
        int(head["tgid"][i]), want & (procfs.WANT_ARGS | procfs.WANT_ENVS | procfs.WANT_CGROUP | procfs.WANT_EXE)
    )
    if info is not None and info.start_ticks != int(head["start_boot_ns"][i]) // TICK_NS:
        info = None  # the pid has another owner by now
    name = args = envs = b""
    flags = int(row["exec_flags"])
    row["path_bytes"] = len(path)
    if info is None or info.argv is None:
        flags |= events.EXEC_ARGS_UNREADABLE
    else:
        args = info.argv
        row["args_bytes"], row["args_full_bytes"], row["argc"] = len(args), info.args_full_bytes, args.count(0)
        if info.is_args_truncated:
            flags |= events.EXEC_ARGS_TRUNCATED
    if info is None or info.envs is None:
        flags |= events.EXEC_ENVS_UNREADABLE
    else:
        envs = info.envs
        row["envs_bytes"], row["envs_full_bytes"], row["envc"] = len(envs), info.envs_full_bytes, envs.count(0)
        if info.is_envs_truncated:
            flags |= events.EXEC_ENVS_TRUNCATED
    if info is not None:
        script = info.script_path
        if script is not None:
            name, flags = script, flags | events.EXEC_SCRIPT
        _learn_cgroups(info, cgroup_paths)
    row["name_bytes"], row["exec_flags"] = len(name), flags
    return path + name + args + envs


def _learn_cgroups(info: procfs.ProcInfo, cgroup_paths: dict[int, bytes]) -> None:
    """Under the ids of what was read itself: the process may have moved since the iterator saw it."""
    if info.cgroup_path is not None and info.cgroup_id:
        cgroup_paths[info.cgroup_id] = info.cgroup_path
    if info.cgroups_v1 > events.CGROUPS_V1_ROOTS and info.cgroup is not None:
        cgroup_paths[info.cgroups_v1] = info.cgroup


def _columns(
    records: procfs.ProcRecords,
) -> tuple[npt.NDArray[np.void], npt.NDArray[np.void], npt.NDArray[np.void], list[bytes]]:
    ends = np.cumsum(records.head["var_bytes"], dtype=np.int64)
    starts = ends - records.head["var_bytes"]
    strings = [records.blob[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]
    return records.head, records.task, records.exec, strings


def _join(
    parts: list[tuple[npt.NDArray[np.void], npt.NDArray[np.void], npt.NDArray[np.void], list[bytes], bool]],
    begin: int,
    end: int,
    cgroup_paths: dict[int, bytes],
) -> Survey:
    if not parts:
        empty = [np.zeros(0, dtype) for dtype in (events.HEAD, events.TASK, events.EXEC)]
        return Survey(empty[0], empty[1], empty[2], [], np.zeros(0, np.bool_), begin, end, cgroup_paths)
    head = np.concatenate([part[0] for part in parts])
    exact = np.concatenate([np.full(len(part[0]), part[4]) for part in parts])
    strings = [text for part in parts for text in part[3]]
    # Oldest first, so that a parent is there before its children.
    order = np.argsort(head["start_boot_ns"], kind="stable")
    head = head[order]
    head["var_bytes"] = [len(strings[i]) for i in order.tolist()]
    return Survey(
        head,
        np.concatenate([part[1] for part in parts])[order],
        np.concatenate([part[2] for part in parts])[order],
        [strings[i] for i in order.tolist()],
        exact[order],
        begin,
        end,
        cgroup_paths,
    )
