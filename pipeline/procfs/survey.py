"""Survey every live process once: the facts that a snapshot inserts and a repair compares.

Two views are joined. The task iterator, if there is one, reads the kernel's own facts in one pass, with start times in
ns. ``/proc`` adds the facts that only it has (arguments, environment, cgroup path) and the processes that some kernels
hide from the iterator (pid 1 on one vendor kernel). Without an iterator all facts come from ``/proc``, with start times
in ticks. Inserting and comparing are in resolver/upkeep/repair.py.

A pass of the iterator costs 2 us a process; checking in ``/proc`` that arguments belong to the right image costs tens
of us. So a second pass of the iterator checks it: an image that both passes show was there in between. A process that
changed meanwhile is read once more, as carefully as proc_reader.py does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from pipeline.host.alive import watched
from pipeline.host.boot import TICK_NS
from pipeline.procfs._bulk_reads import join_strings, scripts_of
from pipeline.procfs.info import (
    NO_DIRECTORIES,
    ProcInfo,
    ProcRecords,
    script_of,
    to_records,
    with_directories,
)
from pipeline.procfs.membership import is_in
from pipeline.procfs.proc_reader import WANT_ARGS, WANT_CGROUP, WANT_DEFAULT, WANT_ENVS, WANT_EXE, Area, ProcReader
from pipeline.records import declared, dtypes
from pipeline.records.limits import PF_KTHREAD

if TYPE_CHECKING:
    import numpy.typing as npt

    #: header, task, exec, strings and is_exact of some processes, see `Survey`.
    _Part = tuple[npt.NDArray[np.void], npt.NDArray[np.void], npt.NDArray[np.void], list[bytes], bool]


class Tasks(Protocol):
    """The result of the task iterator (bpf/iterator.py): HEADER, TASK and EXEC rows, and the executables' paths."""

    header: npt.NDArray[np.void]
    task: npt.NDArray[np.void]
    exec: npt.NDArray[np.void]
    paths: list[bytes]


TaskIterator = Callable[[], Tasks]

#: The paths of a cgroup are read from at most this many of its processes, until the ids are those of the iterator.
_CGROUP_TRIES = 3


class LiveProcess(NamedTuple):
    """One live process, in the form in which it is entered into the tables."""

    header: np.void  #: HEADER; `time_boot_ns` is when the process was read
    task: np.void  #: TASK
    exec: np.void  #: EXEC
    strings: bytes  #: path, name, args and envs, as long as `exec` says
    is_exact: bool  #: the start is in ns; otherwise it is rounded down to a tick
    digest: int = 0  #: of arguments and environment before secrets were hidden; 0: unknown


@dataclass(slots=True, eq=False, repr=False)
class Survey:
    """Live processes in order of their start; row i of every column is one process.

    Attributes:
        header, task, exec: shapes (n,), dtypes HEADER, TASK, EXEC. `header.time_boot_ns` is when the process was read.
        strings: path, name, args and envs of each process, in that order and as long as `exec` says.
        is_exact: shape (n,), bool: start times are in ns; otherwise they are rounded down to a tick.
        cgroup_paths: cgroup id -> path, for the cgroups that ``/proc`` named; and set of cgroups of version 1 -> the
            ``/proc/PID/cgroup`` from which it was computed.
        begin_boot_ns, end_boot_ns: all reads happened between these times.
        digests: of arguments and environments before secrets were hidden (conceal.py); empty: nothing was hidden yet.
    """

    header: npt.NDArray[np.void]
    task: npt.NDArray[np.void]
    exec: npt.NDArray[np.void]
    strings: list[bytes]
    is_exact: npt.NDArray[np.bool_]
    begin_boot_ns: int
    end_boot_ns: int
    cgroup_paths: dict[int, bytes] = field(default_factory=dict)
    digests: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.header)

    def process(self, i: int) -> LiveProcess:
        """Return process i."""
        digest = self.digests[i] if self.digests else 0
        return LiveProcess(
            self.header[i], self.task[i], self.exec[i], self.strings[i], bool(self.is_exact[i]), digest
        )  # fmt: skip


def survey(
    reader: ProcReader,
    iterate: TaskIterator | None,
    now_boot_ns: Callable[[], int],
    want: int = WANT_DEFAULT,
    only: frozenset[int] | None = None,
    show_life: Callable[[], object] = lambda: None,
) -> Survey:
    """Survey all live processes except kernel threads.

    Args:
        reader: of ``/proc``.
        iterate: the task iterator; None: there is none.
        now_boot_ns: the boot clock.
        want: the facts to read, see `pipeline.procfs.proc_reader`.
        only: survey only these tgids; None: all.
        show_life: is called for each process.
    """
    begin = now_boot_ns()
    parts: list[_Part] = []
    cgroup_paths: dict[int, bytes] = {}
    seen: npt.NDArray[np.uint32] = np.zeros(0, np.uint32)
    exact_starts: dict[int, int] = {}
    if iterate is not None:
        part, exact_starts = _visited(reader, iterate, want, only, cgroup_paths, show_life)
        parts.append(part)
        seen = part[0]["tgid"]
    infos = _others(reader, want, only, seen, exact_starts, show_life)
    for info in infos:
        cgroup_paths.update(named_cgroups(info))
    for is_exact in (False, True):
        some = [info for info in infos if info.start_is_ticks is not is_exact]
        if some:
            records = to_records(some, time_boot_ns=begin)
            parts.append((*_columns(records), is_exact))
    return _join(parts, begin, now_boot_ns(), cgroup_paths)


def _visited(
    reader: ProcReader,
    iterate: TaskIterator,
    want: int,
    only: frozenset[int] | None,
    cgroup_paths: dict[int, bytes],
    show_life: Callable[[], object],
) -> tuple[_Part, dict[int, int]]:
    """Return the processes that the task iterator visits, and exact starts of others; fill `cgroup_paths`."""
    tasks = iterate()
    header, task, exec_, paths = tasks.header, tasks.task, tasks.exec, tasks.paths
    # A leader that has ended has no memory, so no image: /proc shows the image of the remaining threads.
    leaderless = (header["flags"] & declared.FLAG_LEADER_DEAD) != 0
    without = header[leaderless]
    exact_starts = dict(zip(without["tgid"].tolist(), without["start_boot_ns"].tolist(), strict=True))
    keep = ((task["task_flags"] & PF_KTHREAD) == 0) & ~leaderless
    if only is not None:
        keep &= is_in(header["tgid"], np.fromiter(only, np.uint32, len(only)))
    rows = np.flatnonzero(keep)
    header, task, exec_ = header[rows].copy(), task[rows].copy(), exec_[rows].copy()
    exact_starts |= zip(header["ppid"].tolist(), header["parent_start_boot_ns"].tolist(), strict=True)
    texts = [paths[row] for row in rows.tolist()]
    strings = _complete(reader, want, iterate, header, task, exec_, texts, show_life)
    if want & WANT_CGROUP:
        _name_cgroups(reader, header, task, cgroup_paths, show_life)
    return (header, task, exec_, strings, True), exact_starts


def _others(
    reader: ProcReader,
    want: int,
    only: frozenset[int] | None,
    seen: npt.NDArray[np.uint32],
    exact_starts: dict[int, int],
    show_life: Callable[[], object],
) -> list[ProcInfo]:
    """Read the processes that are only in ``/proc``."""
    pids = reader.list_pids()
    if only is not None:
        pids = pids[is_in(pids, np.fromiter(only, np.uint32, len(only)))]
    infos = []
    for tgid in watched(pids[~is_in(pids, seen)].tolist(), show_life):
        info = reader.read(tgid, want)
        # A zombie has no image: only its parent has not waited for it yet.
        if info is None or info.is_kthread or info.is_zombie:
            continue
        exact = exact_starts.get(tgid, 0)
        if exact and exact // TICK_NS == info.start_ticks:
            info.start_boot_ns, info.start_is_ticks = exact, False
        infos.append(info)
    return infos


def _complete(
    reader: ProcReader,
    want: int,
    iterate: TaskIterator,
    header: npt.NDArray[np.void],
    task: npt.NDArray[np.void],
    exec_: npt.NDArray[np.void],
    paths: list[bytes],
    show_life: Callable[[], object],
) -> list[bytes]:
    """Add the facts that only ``/proc`` has to the iterator's rows; returns each row's strings."""
    tgids = np.ascontiguousarray(header["tgid"])
    args, envs, directories = reader.read_images(tgids, want, show_life)
    is_same = _same_images(header, task, exec_, iterate())
    scripts, again = scripts_of(paths, task.view(np.uint8), args, is_same.view(np.uint8), script_of, show_life)
    # An exec has happened or is under way, the process has ended, or the pid has another owner by now.
    for i in watched(again, show_life):
        info = reader.read(int(tgids[i]), want & (WANT_ARGS | WANT_ENVS | WANT_EXE))
        if info is not None and info.start_ticks != int(header["start_boot_ns"][i]) // TICK_NS:
            info = None
        args[i] = envs[i] = None
        directories[i] = NO_DIRECTORIES if info is None else info.directories
        if info is not None and info.argv is not None:
            args[i], scripts[i] = Area(info.argv, info.is_args_truncated), info.script_path or b""
            exec_["args_full_bytes"][i] = info.args_full_bytes
        if info is not None and info.envs is not None:
            envs[i] = Area(info.envs, info.is_envs_truncated)
            exec_["envs_full_bytes"][i] = info.envs_full_bytes
    # Most processes of a service have the same directories.
    names = {some: with_directories(b"", some) for some in set(directories)}
    return join_strings(exec_.view(np.uint8), paths, scripts, [names[some] for some in directories], args, envs)


def _same_images(
    header: npt.NDArray[np.void], task: npt.NDArray[np.void], exec_: npt.NDArray[np.void], after: Tasks
) -> npt.NDArray[np.bool_]:
    """Return which rows a later pass shows with the same image of the same process."""
    if not len(after.header):
        return np.zeros(len(header), np.bool_)
    rows = np.minimum(np.searchsorted(after.header["tgid"], header["tgid"]), len(after.header) - 1)
    later = after.header[rows]
    is_same: npt.NDArray[np.bool_] = later["tgid"] == header["tgid"]
    is_same &= later["start_boot_ns"] == header["start_boot_ns"]
    is_same &= after.task["comm"][rows] == task["comm"]
    is_same &= after.exec[rows] == exec_
    return is_same


def _name_cgroups(
    reader: ProcReader,
    header: npt.NDArray[np.void],
    task: npt.NDArray[np.void],
    cgroup_paths: dict[int, bytes],
    show_life: Callable[[], object],
) -> None:
    """Read the paths of each cgroup from one of its processes. If all have moved away, a later read names it."""
    tries: dict[tuple[int, int], int] = {}
    places = zip(header["tgid"].tolist(), task["cgroup_id"].tolist(), task["cgroups_v1"].tolist(), strict=True)
    for tgid, cgroup_id, cgroups_v1 in watched(places, show_life):
        is_v1_named = cgroups_v1 <= declared.CGROUPS_V1_ROOTS or cgroups_v1 in cgroup_paths
        if is_v1_named and (not cgroup_id or cgroup_id in cgroup_paths):
            continue
        place = (cgroup_id, cgroups_v1)
        tries[place] = tries.get(place, 0) + 1
        if tries[place] <= _CGROUP_TRIES:
            info = reader.read(tgid, WANT_CGROUP)
            if info is not None:
                cgroup_paths.update(named_cgroups(info))


def named_cgroups(info: ProcInfo) -> Iterator[tuple[int, bytes]]:
    """Yield the cgroups that ``/proc`` showed with names and ids, as in `Survey.cgroup_paths`.

    The ids were read together with the names: the process may have moved since the iterator visited it.
    """
    if info.cgroup_path is not None and info.cgroup_id:
        yield info.cgroup_id, info.cgroup_path
    if info.cgroups_v1 > declared.CGROUPS_V1_ROOTS and info.cgroup is not None:
        yield info.cgroups_v1, info.cgroup


def _columns(
    records: ProcRecords,
) -> tuple[npt.NDArray[np.void], npt.NDArray[np.void], npt.NDArray[np.void], list[bytes]]:
    ends = np.cumsum(records.header["var_bytes"], dtype=np.int64)
    starts = ends - records.header["var_bytes"]
    strings = [records.blob[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]
    return records.header, records.task, records.exec, strings


def _join(
    parts: list[_Part],
    begin: int,
    end: int,
    cgroup_paths: dict[int, bytes],
) -> Survey:
    if not parts:
        empty = [np.zeros(0, dtype) for dtype in (dtypes.HEADER, dtypes.TASK, dtypes.EXEC)]
        return Survey(empty[0], empty[1], empty[2], [], np.zeros(0, np.bool_), begin, end, cgroup_paths)
    header = np.concatenate([part[0] for part in parts])
    exact = np.concatenate([np.full(len(part[0]), part[4]) for part in parts])
    strings = [text for part in parts for text in part[3]]
    # Oldest first, so that a parent is there before its children.
    order = np.argsort(header["start_boot_ns"], kind="stable")
    header = header[order]
    header["var_bytes"] = [len(strings[i]) for i in order.tolist()]
    return Survey(
        header,
        np.concatenate([part[1] for part in parts])[order],
        np.concatenate([part[2] for part in parts])[order],
        [strings[i] for i in order.tolist()],
        exact[order],
        begin,
        end,
        cgroup_paths,
    )
