"""A resolver over real tables, with a clock, a /proc and collaborators that a test decides about.

Follows specification 8.1: no kernel maps, no mount, cgroup, environment or session resolver, no scrubber, a path
resolver that always succeeds with an empty path, default options, state SNAPSHOTTING. Small pids of the specification
are put above `pid_max`, so that no real process has them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from story import BOOT_ID, instance

from pipeline import boot, events
from pipeline.resolver import entry_records as records
from pipeline.resolver import procfs
from pipeline.resolver.cache_entry import ProcessCacheEntry
from pipeline.resolver.ebpf import EBPFResolver
from pipeline.resolver.model import CGroupContext, Event, FileEvent, PathKey, PIDContext, Source
from pipeline.resolver.procinfo import ProcInfo
from pipeline.shm._writer import TableWriter
from pipeline.shm.validate import validate_tables

PID_CAPACITY = 5_200_000
BASE = 5_000_000


def high(pid: int) -> int:
    """A pid that no real process has; 0 and 1 are themselves."""
    return pid if pid in (0, 1) or pid >= BASE or pid == os.getpid() or pid == os.getppid() else BASE + pid


class Clock:
    """The boot clock; each look takes 20 ms, two ticks of /proc."""

    def __init__(self) -> None:
        self.now = boot.now_boot_ns()

    def __call__(self) -> int:
        self.now += 20_000_000
        return self.now

    def ago(self, seconds: float) -> int:
        return self.now - int(seconds * 1e9)


class FakeProc:
    """/proc as a test wants it: `infos` and `ppids` by pid; what is in neither is asked of `real`, if that is given."""

    def __init__(self, real: procfs.ProcReader | None = None) -> None:
        self.infos: dict[int, ProcInfo] = {}
        self.ppids: dict[int, int] = {}
        self.listed: list[int] | None = None
        self.reads: list[int] = []
        self.real = real

    def add(self, pid: int, ppid: int, **facts: Any) -> ProcInfo:
        start = facts.pop("start_boot_ns", boot.TICK_NS * (100 + len(self.infos)))
        values: dict[str, Any] = {
            "tgid": pid, "ppid": ppid, "start_ticks": start // boot.TICK_NS,
            "start_boot_ns": start // boot.TICK_NS * boot.TICK_NS, "comm": b"x", "state": "S", "task_flags": 0,
            "thread_count": 1, "pgid": pid, "sid": pid, "tty": b"", "exe": b"/bin/x", "exe_inode": 10, "mount_id": 5,
            "argv": b"x\0", "args_full_bytes": 2, "uids": (0, 0, 0, 0), "gids": (0, 0, 0, 0), "ns_pids": (pid,),
            "pid_ns": 4026531836, "mnt_ns": 4026531832, "net_ns": 4026531840, "user_ns": 4026531837,
        }  # fmt: skip
        values.update(facts)
        self.infos[pid] = ProcInfo(**values)
        return self.infos[pid]

    def read(self, tgid: int, want: int = procfs.WANT_DEFAULT) -> ProcInfo | None:
        self.reads.append(tgid)
        if tgid in self.infos:
            import copy

            return copy.copy(self.infos[tgid])
        return self.real.read(tgid, want) if self.real is not None else None

    def read_ppid(self, tgid: int) -> int | None:
        if tgid in self.ppids:
            return self.ppids[tgid]
        if tgid in self.infos:
            return self.infos[tgid].ppid
        return self.real.read_ppid(tgid) if self.real is not None else None

    def read_start(self, tgid: int) -> int | None:
        if tgid in self.infos:
            return self.infos[tgid].start_ticks
        return self.real.read_start(tgid) if self.real is not None else None

    def list_pids(self) -> list[int]:
        return self.listed if self.listed is not None else [*self.infos, *self.ppids]


class EmptyPaths:
    """The path resolver of the specification's harness."""

    def __init__(self) -> None:
        self.fails = False

    def resolve(self, file: FileEvent, context: PIDContext) -> FileEvent:
        if self.fails:
            raise OSError("no path today")
        return file.with_names("", "")


class FakeMap(dict[int, Any]):
    """A kernel map."""

    def put(self, key: int, entry: Any, flags: int = 0) -> None:
        if flags == 1 and key in self:
            raise FileExistsError(key)
        self[key] = entry

    def delete(self, key: int) -> bool:
        return self.pop(key, None) is not None


class World:
    def __init__(
        self,
        directory: Any,
        *,
        real_proc: bool = False,
        pid_capacity: int = PID_CAPACITY,
        rows: int = 4096,
        **more: Any,
    ) -> None:
        self.clock = Clock()
        self.tables = TableWriter.create(
            directory, boot_id=BOOT_ID, capture_id=1, ring_count=1, row_capacity=rows, chunk_rows=1024,
            pid_capacity=pid_capacity, names_bytes=rows * 256, args_bytes=rows * 256, envs_bytes=1 << 20,
            boot_unix_ns=1_700_000_000_000_000_000, retention_ns=60_000_000_000, checked=True,
        )  # fmt: skip
        self.proc = FakeProc(procfs.ProcReader() if real_proc else None)
        self.paths = EmptyPaths()
        self.resolver = EBPFResolver(
            path_resolver=more.pop("path_resolver", self.paths), tables=self.tables, proc=self.proc,
            now_boot_ns=self.clock, limiter_clock=lambda: self.clock.now, **more,
        )  # fmt: skip
        self.offset = 1_700_000_000_000_000_000
        self.named: dict[str, ProcessCacheEntry] = {}
        self.events: dict[str, Event] = {}

    # -- what happens --------------------------------------------------------------------------------------------------

    def event(self, ppid: int, pid: int, inode: int, expected: int = 0, basename: str = "", **fields: Any) -> Event:
        context = PIDContext(pid=high(pid), tid=high(pid), ppid=high(ppid), exec_inode=expected)
        entry = self.resolver.new_process_cache_entry(context)
        file = FileEvent(inode=inode, mount_id=1)
        entry.set(file_event=replace(file, basename=basename))
        if fields:
            entry.set(**fields)
        return Event(timestamp_ns=self.clock(), pid_context=context, entry=entry)

    def dummy_cgroup(self) -> CGroupContext:
        return CGroupContext(cgroup_id="/dummy", path_key=PathKey(4242, 7))

    def fork(self, ppid: int, pid: int, inode: int = 0, expected: int = 0, basename: str = "", **fields: Any) -> Event:
        event = self.event(ppid, pid, inode, expected, basename, **fields)
        assert event.entry is not None
        event.entry.set(**{"fork_time": self.clock(), **fields})
        self.resolver.add_fork_entry(event, self.dummy_cgroup(), None)
        return event

    def exec(self, ppid: int, pid: int, inode: int = 0, expected: int = 0, basename: str = "", **fields: Any) -> Event:
        event = self.event(ppid, pid, inode, expected, basename, **fields)
        assert event.entry is not None
        event.entry.set(**{"exec_time": self.clock(), **fields})
        self.resolver.add_exec_entry(event, self.dummy_cgroup())
        return event

    def exit(self, event: Event) -> bool:
        event.timestamp_ns = self.clock()
        known = self.resolver.apply_exit_entry(event, None)
        self.check()
        self.resolver.delete_entry(event.pid_context.pid, event.timestamp_ns + self.offset)
        return known

    def delete(self, pid: int) -> None:
        self.resolver.delete_entry(high(pid), self.clock() + self.offset)

    def put(self, entry: ProcessCacheEntry, source: Source = Source.EVENT) -> ProcessCacheEntry:
        """An entry goes into the cache as it is, linked to the ancestor that it has and to no other."""
        resolver, parent = self.resolver, entry.ancestor
        resolver.apply_boot_time(entry)
        time_ns = self.clock()
        told = records.task(entry)
        values = {
            name: value for name, value in records.told(entry).items()
            if name not in ("pid", "tid", "ancestor", "source", "fork_time")
        }  # fmt: skip
        resolver.applier.insert_snapshot(
            records.head(
                events.KIND_FORK, entry.pid, entry.tid, time_ns, time_ns, parent.pid if parent is not None else 0,
                parent.start_boot_ns if parent is not None else 0,
            ),
            told.task, source=int(source), known=told.known,
        )  # fmt: skip
        entry = resolver.book.attach(entry, self.tables.py_head(entry.pid))
        entry.set(**values)
        if parent is not None:
            assert entry.ancestor is parent
        return entry

    # -- what is true --------------------------------------------------------------------------------------------------

    @property
    def cache(self) -> set[int]:
        found: set[int] = set()
        self.resolver.walk(lambda entry: found.add(entry.pid))
        assert len(found) == self.resolver.book.count()
        return found

    def count(self, name: str, tag: str = "") -> int:
        return self.resolver.stats.get(name, tag)

    def check(self) -> None:
        """The tables' invariants, and that of specification 5.12 over the index of children."""
        validate_tables(self.tables)
        heads = {entry.pid: entry for entry in self.resolver.book.heads()}
        for entry in heads.values():
            for child in entry.children:
                before = child.root.ancestor
                assert before is not None and before.root is entry.root, f"{child} is listed below {entry}"
            before = entry.root.ancestor
            if before is not None and entry.exit_time is None:
                parent = heads.get(before.pid)
                if parent is not None and parent.root is before.root:
                    assert entry in parent.children, f"{entry} is not listed below {parent}"


@contextmanager
def world(**more: Any) -> Iterator[World]:
    with instance() as directory:
        made = World(directory, **more)
        yield made
        made.check()
        made.tables.close()
