"""Records made by hand for the tests of merge and apply, and tables to apply them to.

`Story` keeps the clock and the facts of fake processes, so that a test reads as what happened: `s.fork(3, 4)`,
`s.exec(4, b"/bin/sh")`, `s.exit(4)`. Each call makes one `Event`. `Event.apply` applies it as a single call of the
Python API does; `apply_batch` applies events as the daemon does, which also counts them.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.bus.frames.frame import Frame, FrameEncoder, decode_frame, record_span
from pipeline.records import declared, dtypes
from pipeline.resolver.apply._applier import Applier
from pipeline.resolver.merge._merger import Merger
from pipeline.shm.check.validate import validate_tables
from pipeline.shm.layout import layout
from pipeline.shm.writer._opening import open_tables
from pipeline.shm.writer._writer import TableWriter
from tests.record_sizes import PLAIN_BYTES

BODY_BYTES = {declared.KIND_FORK: 32, declared.KIND_EXEC: 128, declared.KIND_EXIT: 32}
BOOT_ID = bytes(range(16))
BOOT_UNIX_NS = 1_700_000_000_000_000_000


@dataclass
class Event:
    """One record: columns of shape (1,), and its strings."""

    header: npt.NDArray[np.void]
    task: npt.NDArray[np.void]
    body: npt.NDArray[np.void] | None
    strings: bytes = b""

    @property
    def time(self) -> int:
        return int(self.header["time_boot_ns"][0])

    @property
    def kind(self) -> int:
        return int(self.header["kind"][0])

    @property
    def is_head_only(self) -> bool:
        return bool(self.header["flags"][0] & declared.FLAG_HEAD_ONLY)

    def apply(self, applier: Applier, *, digest: int = 0) -> int:
        task = None if self.is_head_only else self.task
        body = None if self.is_head_only else self.body
        return applier.apply_records(self.header, task, body, self.strings, digest=digest)


@dataclass(eq=False)  # lists of processes are searched by identity, which is much faster than by all facts
class Process:
    """The kernel's facts about a fake process."""

    tgid: int
    start: int
    parent: Process | None
    inode: int = 0
    comm: bytes = b"init"
    uid: int = 0
    cookie: int = 1
    cgroup: int = 100
    tid: int = 0
    is_subreaper: bool = False
    end: int = 0
    code: int = 0
    alive: bool = True
    children: list[Process] = field(default_factory=list)
    parents: set[tuple[int, int]] = field(default_factory=set)  # every parent that it ever had
    paths: list[bytes] = field(default_factory=list)  # of its execs
    started: list[tuple[bytes, bytes]] = field(default_factory=list)  # paths and arguments of its execs

    def __post_init__(self) -> None:
        if self.parent is not None:
            self.parents.add((self.parent.tgid, self.parent.start))


class Story:
    """A fake kernel: a test calls it for everything that happens. Times are ns; each call takes `step`."""

    def __init__(self, *, now: int = 1_000_000_000, step: int = 1_000) -> None:
        self.now = now
        self.step = step
        self.processes: dict[int, Process] = {}  # by tgid, the latest owner
        self.everyone: list[Process] = []
        self.events: list[Event] = []
        self.cookies = itertools.count(1000)

    # -- what happens --------------------------------------------------------------------------------------------------

    def begin(self, tgid: int, *, inode: int = 0, comm: bytes = b"init", start: int | None = None) -> Process:
        """A process that began before the capture: no event."""
        process = Process(tgid, self.tick() if start is None else start, None, inode=inode, comm=comm)
        self.processes[tgid] = process
        return process

    def tick(self) -> int:
        self.now += self.step
        return self.now

    def fork(self, parent: int, child: int, *, creator: int | None = None, **facts: int) -> Event:
        """Fork `child`. If `creator` is not the parent, it forks with CLONE_PARENT."""
        start = self.tick()
        up = self.processes.get(parent)
        maker = self.processes.get(parent if creator is None else creator)
        process = Process(child, start, up, tid=child)
        if maker is not None:
            process.inode, process.comm, process.uid = maker.inode, maker.comm, maker.uid
            process.cookie, process.cgroup = maker.cookie, maker.cgroup
        self.processes[child] = process
        self.everyone.append(process)
        if up is not None:
            up.children.append(process)
        body = np.zeros(1, dtypes.FORK)
        if maker is not None:
            body["creator_tgid"], body["creator_tid"] = maker.tgid, maker.tgid
            body["creator_start_boot_ns"] = maker.start
        for name, value in facts.items():
            setattr(process, name, value)
        self.tick()  # the record is stamped a little after the child's start
        return self._event(declared.KIND_FORK, process, body)

    def exec(
        self, tgid: int, path: bytes = b"/bin/true", *, inode: int | None = None, args: Sequence[bytes] = (),
        envs: Sequence[bytes] = (), name: bytes | None = None, flags: int = 0, tid: int | None = None,
        prev_inode: int | None = None, kept_args_bytes: int | None = None, kept_envs_bytes: int | None = None,
    ) -> Event:  # fmt: skip
        """Execute `path`. A record that keeps fewer bytes of `args` or `envs` says that they are truncated."""
        process = self.processes[tgid]
        body = np.zeros(1, dtypes.EXEC)
        previous = process.inode
        process.inode = inode if inode is not None else 1 + sum(path) * 7919 % 100_003
        process.paths.append(path)
        process.comm = path.rsplit(b"/", 1)[-1][:15]
        body["inode"], body["prev_inode"] = process.inode, previous if prev_inode is None else prev_inode
        body["prev_cookie"] = process.cookie
        process.cookie = next(self.cookies)
        process.tid = tgid if tid is None else tid
        name = path if name is None else name
        arg_bytes = b"".join(a + b"\0" for a in (args or (path,)))
        env_bytes = b"".join(e + b"\0" for e in envs)
        process.started.append((path, arg_bytes))
        body["path_bytes"], body["name_bytes"] = len(path), len(name)
        body["args_full_bytes"], body["envs_full_bytes"] = len(arg_bytes), len(env_bytes)
        kept_args, kept_envs = arg_bytes[:kept_args_bytes], env_bytes[:kept_envs_bytes]
        if len(kept_args) < len(arg_bytes):
            flags |= declared.EXEC_ARGS_TRUNCATED
        if len(kept_envs) < len(env_bytes):
            flags |= declared.EXEC_ENVS_TRUNCATED
        body["exec_flags"] = flags
        body["args_bytes"], body["envs_bytes"] = len(kept_args), len(kept_envs)
        body["argc"], body["envc"] = len(args) or 1, len(envs)
        self.tick()
        event = self._event(declared.KIND_EXEC, process, body, path + name + kept_args + kept_envs)
        event.task["exe_inode"] = body["prev_inode"]
        return event

    def exit(self, tgid: int, code: int = 0, cost: Mapping[str, int] | None = None, counts_io: bool = True) -> Event:
        """End a process. `cost`: fields of COST, None: the record has none; `counts_io`: the kernel counts bytes."""
        process = self.processes[tgid]
        body = np.zeros(1, dtypes.EXIT)
        body["exit_code"] = code
        strings = b""
        if cost is not None:
            used = np.zeros(1, dtypes.COST)
            for name, value in cost.items():
                used[name] = value
            strings = used.tobytes()
            body["exit_flags"] = declared.EXIT_COST | (declared.EXIT_IO if counts_io else 0)
        reaper = process.parent
        while reaper is not None and not (reaper.alive and (reaper.is_subreaper or reaper.tgid == 1)):
            reaper = reaper.parent
        if reaper is not None:
            body["reaper_tgid"], body["reaper_start_boot_ns"] = reaper.tgid, reaper.start
        else:
            body["exit_flags"] |= declared.EXIT_NO_REAPER
        self.tick()
        event = self._event(declared.KIND_EXIT, process, body, strings)
        process.alive = False
        process.end, process.code = self.now, code
        if process.parent is not None and process in process.parent.children:
            process.parent.children.remove(process)
        for child in process.children:
            child.parent = reaper
            if reaper is not None:
                reaper.children.append(child)
                child.parents.add((reaper.tgid, reaper.start))
        process.children = []
        return event

    def caps(self, tgid: int, attempted: int, used: int) -> Event:
        self.tick()
        masks = np.array([(attempted, used)], dtypes.CAPS).tobytes()
        return self._event(declared.KIND_CAPS, self.processes[tgid], None, masks)

    def change(self, tgid: int, kind: int, **facts: object) -> Event:
        process = self.processes[tgid]
        for name, value in facts.items():
            setattr(process, name, value)
        self.tick()
        return self._event(kind, process, None)

    # -- records -------------------------------------------------------------------------------------------------------

    def _event(self, kind: int, process: Process, body: npt.NDArray[np.void] | None, strings: bytes = b"") -> Event:
        up = process.parent
        ppid, parent_start = (up.tgid, up.start) if up is not None else (0, 0)
        record_bytes = PLAIN_BYTES + BODY_BYTES.get(kind, 0) + len(strings)
        # In the order of the fields: numpy sets all of them at once four times as fast as one after the other.
        header = np.array([(
            self.now, 0, process.tgid, process.tid or process.tgid, process.start, ppid, kind, 0, 0, parent_start,
            record_bytes, len(strings), 0,
        )], dtypes.HEADER)  # fmt: skip
        event = Event(header, task_of(process), body, strings)
        self.events.append(event)
        return event


def _task_of_everybody() -> bytes:
    task = np.zeros(1, dtypes.TASK)
    task["auid"] = task["audit_session"] = 0xFFFFFFFF
    task["sid"] = task["pgid"] = 1
    task["pid_ns"], task["mnt_ns"], task["net_ns"], task["user_ns"] = 4026531836, 4026531832, 4026531840, 4026531837
    task["tty"] = b"pts0"
    return task.tobytes()


_TASK_OF_EVERYBODY = _task_of_everybody()


def task_of(process: Process) -> npt.NDArray[np.void]:
    task = np.frombuffer(bytearray(_TASK_OF_EVERYBODY), dtypes.TASK)
    if process.uid:
        for name in ("uid", "gid", "euid", "egid", "suid", "sgid", "fsuid", "fsgid"):
            task[name] = process.uid
    task["ns_pid"], task["cgroup_id"], task["comm"] = process.tgid, process.cgroup, process.comm
    task["exe_inode"], task["cookie"] = process.inode, process.cookie
    return task


def head_only(event: Event) -> Event:
    """The same record as the kernel writes it when only the header fits."""
    header = event.header.copy()
    header["flags"] |= declared.FLAG_HEAD_ONLY
    header["record_bytes"], header["var_bytes"] = 64, 0
    return Event(header, np.zeros(1, dtypes.TASK), None)


def message_of(part: Iterable[Event], **where: Any) -> bytes:
    """A message with one frame of one ring; its records are contiguous. `where`: see `message_of_columns`."""
    part = list(part)
    bodies: dict[int, list[npt.NDArray[np.void]]] = {kind: [] for kind in BODY_BYTES}
    for event in part:
        if event.body is not None and not event.is_head_only:
            bodies[event.kind].append(event.body)
    columns = {
        name: b"".join(body.tobytes() for body in bodies[kind])
        for name, kind in (("fork", 1), ("exec", 2), ("exit", 3))
    }
    # np.concatenate would compare the fields of all arrays.
    header = np.frombuffer(bytearray().join(event.header.tobytes() for event in part), dtypes.HEADER)
    task = np.frombuffer(bytearray().join(event.task.tobytes() for event in part), dtypes.TASK)
    return message_of_columns(header, task, **where, **columns, blob=b"".join(event.strings for event in part))


def message_of_columns(
    header: npt.NDArray[np.void],
    task: npt.NDArray[np.void],
    *,
    ring: int,
    from_pos: int,
    seq: int = 0,
    malformed: int = 0,
    to_pos: int | None = None,
    watermark_boot_ns: int | None = None,
    **columns: bytes,
) -> bytes:
    """A message of records in the form of its columns; their positions and numbers are filled in."""
    ends = from_pos + np.cumsum(record_span(header["record_bytes"].astype(np.int64)))
    header["ring_pos"] = np.concatenate([[from_pos], ends[:-1]])[: len(header)]
    header["ring_seq"] = seq + np.arange(len(header))
    if to_pos is None:
        to_pos = int(ends[-1]) if len(ends) else from_pos
    message: bytes = FrameEncoder(boot_id=BOOT_ID, source="story").encode(
        ring=ring, seq=seq, from_pos=from_pos, to_pos=to_pos, count=len(header), lost={}, malformed=malformed,
        watermark_boot_ns=watermark_boot_ns, header=header.tobytes(), task=task.tobytes(), **columns,
    )  # fmt: skip
    return message


def frame_of(part: Iterable[Event], **where: Any) -> Frame:
    """The same frame after it was sent and read."""
    return decode_frame(message_of(part, **where))


def apply_frame(applier: Applier, frame: Frame, *, batch_events: int = 8192) -> int:
    """Apply a frame that starts at position 0 of ring 0, as the daemon does; return how many events were applied."""
    merger = Merger(1, stall_ms=1e9, hold_ms=1e9)
    merger.add(frame)
    merger.advance(int(frame.header["time_boot_ns"].max()) + 1_000_000_000, np.array([frame.to_pos], np.uint64))
    count = 0
    while (batch := merger.take(batch_events)) is not None:
        count += applier.apply(batch)
        merger.done(batch)
    return count


def apply_batch(applier: Applier, *happened: Event) -> int:
    """Apply events as one frame; see `apply_frame`."""
    return apply_frame(applier, frame_of(happened, ring=0, from_pos=0))


def sampled(event: Event, changed_after_boot_ns: int | None = None) -> Event:
    """The same record as the comparison of live processes makes it; without the limit as in an older recording."""
    event.header["flags"] |= declared.FLAG_SAMPLED
    if changed_after_boot_ns is not None:
        event.strings = np.array([(changed_after_boot_ns,)], dtypes.SAMPLED).tobytes()
        event.header["var_bytes"] = len(event.strings)
        event.header["record_bytes"] += len(event.strings)
    return event


# -- tables ------------------------------------------------------------------------------------------------------------


class HasTables(Protocol):
    """An object of a test file's own class that has tables."""

    tables: TableWriter


@contextmanager
def instance(**settings: object) -> Iterator[Path]:
    """A directory on tmpfs, removed afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="procline-test-", dir="/dev/shm"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


_World = TypeVar("_World", bound=HasTables)


@contextmanager
def checked(world: _World) -> Iterator[_World]:
    """Run the body with `world`; afterwards check and close its tables."""
    yield world
    validate_tables(world.tables)
    world.tables.close()


def make_tables(directory: Path, **settings: object) -> TableWriter:
    plan: dict[str, object] = {
        "boot_id": BOOT_ID, "capture_id": 1, "ring_count": 4, "row_capacity": 4096, "chunk_rows": 1024,
        "pid_capacity": 1 << 16, "names_bytes": 1 << 20, "args_bytes": 1 << 20, "envs_bytes": 1 << 20,
        "boot_unix_ns": BOOT_UNIX_NS, "retention_ns": 60_000_000_000, "key_capacity": 1024, "checked": True,
    }  # fmt: skip
    plan.update(settings)
    return open_tables(directory, **plan)


class Reading:
    """The rows of a process in the form that tests check."""

    def __init__(self, tables: TableWriter) -> None:
        self.tables = tables

    def row(self, row: int) -> SimpleNamespace:
        hot, cold = self.tables.hot_view()[row], self.tables.cold_view()[row]
        values = dict(zip(layout.HOT.names, hot.item(), strict=True))
        values |= zip(layout.COLD.names, cold.item(), strict=True)
        values |= costs_of(self.tables, row)
        return SimpleNamespace(row=row, path=self.path(values["file_ref"]), **values)

    def path(self, ref: int) -> bytes | None:
        return bytes(self.tables.names.py_bytes(ref))[64:] if ref else None

    def head(self, tgid: int) -> SimpleNamespace | None:
        row = self.tables.py_head(tgid)
        return self.row(row) if row else None

    def present(self, tgid: int) -> SimpleNamespace:
        """Return the row of a process that must be in the tables."""
        row = self.head(tgid)
        assert row is not None
        return row

    def live(self) -> set[int]:
        index = self.tables.index_view()
        hot = self.tables.hot_view()
        return {int(t) for t in np.flatnonzero(index) if hot[index[t]]["exit_boot_ns"] == 0}

    def follow(self, link: int) -> SimpleNamespace | None:
        row = self.tables.py_follow(link)
        return self.row(row) if row else None

    def chain(self, tgid: int) -> list[SimpleNamespace]:
        """The head and all its ancestors, newest first."""
        found = []
        row = self.head(tgid)
        while row is not None:
            found.append(row)
            assert len(found) < 5000, "the chain is a loop"
            row = self.follow(row.ancestor)
        return found

    def shape(self, tgid: int) -> list[tuple[int, int]]:
        """(tgid, images) along the chain."""
        return [(r.tgid, r.images) for r in self.chain(tgid)]

    def counter(self, name: str) -> int:
        return int(self.tables.counter(name))


def costs_of(tables: TableWriter, row: int) -> dict[str, object]:
    """The resources that the process of a row has used; None where the row does not have them."""
    if not tables.hot_view()[row]["known"] & layout.KNOWN_COST:
        return dict.fromkeys(layout.COSTS.names)
    return dict(zip(layout.COSTS.names, tables.costs_view()[row].item(), strict=True))


#: Fields that differ between two tables with the same history, or that `dump` shows in another form.
_PRIVATE = {
    "row_seq", "generation", "check", "ancestor", "parent", "creator", "previous_owner", "file_ref",
    "args_ref", "envs_ref", "name_ref", "cgroup_ref", "container_ref", "extra_ref",
}  # fmt: skip


def dump(tables: TableWriter) -> dict[tuple[int, int, int], dict[str, object]]:
    """Every row in use, by (tgid, start, image), with links and references replaced by what they refer to."""
    validate_tables(tables)
    hot, cold = tables.hot_view(), tables.cold_view()
    status = tables.private_view("status")
    index = tables.index_view()
    used = [row for row in range(1, tables.rows_frontier) if status[row] & 1]

    def key(row: int) -> tuple[int, int, int] | None:
        if row == 0:
            return None
        return int(hot[row]["tgid"]), int(hot[row]["start_boot_ns"]), int(hot[row]["images"])

    result: dict[tuple[int, int, int], dict[str, object]] = {}
    for row in used:
        assert hot[row]["row_seq"] % 2 == 0, f"row {row} was left open"
        values: dict[str, object] = {
            name: value
            for column, dtype in ((hot, layout.HOT), (cold, layout.COLD))
            for name, value in zip(dtype.names, column[row].item(), strict=True)
            if name not in _PRIVATE
        }
        values |= costs_of(tables, row)
        for name in ("ancestor", "parent", "creator"):
            values[name] = key(tables.py_follow(int(hot[row][name])))
        values["previous_owner"] = key(tables.py_follow(int(cold[row]["previous_owner"])))
        for name, arena in (
            ("file_ref", tables.names), ("args_ref", tables.args), ("envs_ref", tables.envs),
            ("name_ref", tables.names), ("extra_ref", tables.args),
        ):  # fmt: skip
            ref = int((hot if name in layout.HOT.names else cold)[row][name])
            values[name] = arena.py_bytes(ref) if ref else None
        values["indexed"] = bool(index[hot[row]["tgid"]] == row)
        name_of_row = key(row)
        assert name_of_row is not None and name_of_row not in result, f"two rows for {name_of_row}"
        result[name_of_row] = values
    return result


def enter_init(tables: TableWriter, applier: Applier, story: Story) -> None:
    """Add pid 1, which the story has, as the snapshot at start finds it."""
    process = story.processes[1]
    header = np.zeros(1, dtypes.HEADER)
    header["tgid"] = header["tid"] = 1
    header["start_boot_ns"], header["time_boot_ns"] = process.start, process.start + 1
    assert applier.insert_from_proc(header, task_of(process)) == 1
