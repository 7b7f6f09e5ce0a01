"""A resolver over real tables, with a clock, a /proc and collaborators that the test controls.

Follows specification 8.1: no kernel maps; no mount, cgroup, environment or session resolver; no scrubber; a path
resolver that always succeeds with an empty path; default options; state SNAPSHOTTING. The specification's small pids
are moved above `pid_max`, so that no real process has them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.bpf import maps
from pipeline.host import boot
from pipeline.procfs import proc_reader
from pipeline.procfs.info import ProcInfo
from pipeline.records import declared
from pipeline.resolver.api.ebpf import EBPFResolver
from pipeline.resolver.apply._applier import Applier
from pipeline.resolver.entries import entry_records
from pipeline.resolver.entries.cache_entry import ProcessCacheEntry
from pipeline.resolver.entries.entry_rows import Book
from pipeline.resolver.entries.event import Event
from pipeline.resolver.entries.model import CGroupContext, Credentials, FileEvent, PathKey, PIDContext, Source
from pipeline.shm.check.validate import validate_tables
from pipeline.shm.writer._opening import open_tables
from tests.resolver.story import BOOT_ID, instance

#: Above every real pid. The tables have a place for each pid, and each check reads all of them several times, so there
#: are no more places than needed.
BASE = boot.pid_max()
PID_CAPACITY = BASE + 100_000

#: Stand for the two processes for which a test knows the contents of the real /proc. The process that runs a test can
#: be a fork of the one that imported it.
OWN, PARENT = -1, -2


def high(pid: int) -> int:
    """A pid that no real process has; 0 and 1 stay as they are."""
    if pid in (OWN, PARENT):
        return os.getpid() if pid == OWN else os.getppid()
    return pid if pid in (0, 1) or pid >= BASE or pid == os.getpid() or pid == os.getppid() else BASE + pid


class Clock:
    """The boot clock; each reading advances it by 20 ms, two ticks of /proc."""

    def __init__(self) -> None:
        self.now = boot.now_boot_ns()

    def __call__(self) -> int:
        self.now += 20_000_000
        return self.now

    def ago(self, seconds: float) -> int:
        return self.now - int(seconds * 1e9)


class FakeProc:
    """The /proc that a test sets up: `infos` and `ppids` by pid; other pids are read from `real`, if that is set."""

    def __init__(self, real: proc_reader.ProcReader | None = None) -> None:
        self.infos: dict[int, ProcInfo] = {}
        self.ppids: dict[int, int] = {}
        self.listed: list[int] | None = None
        self.reads: list[int] = []
        self.ppid_reads: list[int] = []
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

    def read(self, tgid: int, want: int = proc_reader.WANT_DEFAULT) -> ProcInfo | None:
        self.reads.append(tgid)
        if tgid in self.infos:
            import copy

            return copy.copy(self.infos[tgid])
        return self.real.read(tgid, want) if self.real is not None else None

    def read_ppid(self, tgid: int) -> int | None:
        self.ppid_reads.append(tgid)
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
    """The path resolver that the specification's harness uses."""

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

    def name_image(self, key: int, cookie: int) -> bool:
        if key not in self or self[key]["cookie"]:
            return False
        self[key]["cookie"] = cookie
        return True


def owner_of(w: World, pid: int, cookie: int, *, ppid: int = 0, **fields: int) -> np.void:
    """The record that the kernel's `pid_cache` has of a process that starts now."""
    owner = np.zeros(1, maps.PID_ENTRY)
    owner["cookie"], owner["ppid"], owner["start_boot_ns"] = cookie, ppid, w.clock()
    owner["fork_boot_ns"] = owner["start_boot_ns"]
    owner["uid"] = owner["euid"] = owner["fsuid"] = 1000
    owner["auid"] = 0xFFFFFFFF
    for name, value in fields.items():
        owner[name] = value
    return owner[0]


def image_of(inode: int, path: bytes = b"/bin/x", *, exec_boot_ns: int = 0, comm: bytes = b"x") -> np.void:
    """The record that the kernel's `proc_cache` has of an image."""
    image = np.zeros(1, maps.IMAGE_ENTRY)
    image["inode"], image["mount_id"], image["exec_boot_ns"], image["comm"] = inode, 5, exec_boot_ns, comm
    image["path_bytes"], image["path"] = len(path), np.void(path[:128].ljust(128, b"\0"))
    return image[0]


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
        self.directory = Path(directory)
        self.clock = Clock()
        self.tables = open_tables(
            directory, boot_id=BOOT_ID, capture_id=1, ring_count=1, row_capacity=rows, chunk_rows=1024,
            pid_capacity=pid_capacity, names_bytes=rows * 256, args_bytes=rows * 256, envs_bytes=1 << 20,
            boot_unix_ns=1_700_000_000_000_000_000, retention_ns=60_000_000_000, key_capacity=1024, checked=True,
        )  # fmt: skip
        self.applier = Applier(self.tables)
        self.proc = FakeProc(proc_reader.ProcReader() if real_proc else None)
        self.paths = EmptyPaths()
        #: The kernel's maps, for `bind`.
        self.maps: dict[str, FakeMap] = {}
        self.resolver = self.resolver_with(**more)
        self.offset = 1_700_000_000_000_000_000
        self.named: dict[str, ProcessCacheEntry] = {}
        self.events: dict[str, Event] = {}
        self.told: list[tuple[ProcessCacheEntry, Exception | None]] = []
        self.results: dict[str, Any] = {}
        self.error: Exception | None = None
        self.began_unix_ns = self.clock.now + self.offset

    def resolver_with(self, **collaborators: Any) -> EBPFResolver:
        """Make another resolver over the same tables; it replaces the one before."""
        self.resolver = EBPFResolver(
            collaborators.pop("manager", self.maps), path_resolver=collaborators.pop("path_resolver", self.paths),
            tables=self.tables, applier=self.applier, proc=self.proc,
            now_boot_ns=self.clock, limiter_clock=lambda: self.clock.now, **collaborators,
        )  # fmt: skip
        return self.resolver

    def bind(self, pids: FakeMap, images: FakeMap) -> None:
        """Pass the kernel's maps to the resolver."""
        self.maps.update(pid_cache=pids, proc_cache=images)
        self.resolver.bind_maps()

    # -- what happens --------------------------------------------------------------------------------------------------

    def event(
        self, ppid: int, pid: int, inode: int, expected: int = 0, basename: str = "", name: str = "", **fields: Any
    ) -> Event:
        """Make an event with an entry; `events` stores it under the name before it takes effect."""
        context = PIDContext(pid=high(pid), tid=high(pid), ppid=high(ppid), exec_inode=expected)
        entry = self.resolver.new_process_cache_entry(context)
        file = FileEvent(inode=inode, mount_id=1)
        entry.set(file_event=replace(file, basename=basename))
        if fields:
            entry.set(**fields)
        event = Event(timestamp_ns=self.clock(), pid_context=context, entry=entry)
        if name:
            self.events[name] = event
        return event

    def dummy_cgroup(self) -> CGroupContext:
        return CGroupContext(cgroup_id="/dummy", path_key=PathKey(4242, 7))

    def fork(self, ppid: int, pid: int, inode: int = 0, expected: int = 0, basename: str = "", **more: Any) -> Event:
        event = self.event(ppid, pid, inode, expected, basename, **more)
        assert event.entry is not None
        if "fork_time" not in more:
            event.entry.fork_time = self.clock()
        self.resolver.add_fork_entry(event, self.dummy_cgroup(), None)
        return event

    def exec(self, ppid: int, pid: int, inode: int = 0, expected: int = 0, basename: str = "", **more: Any) -> Event:
        event = self.event(ppid, pid, inode, expected, basename, **more)
        assert event.entry is not None
        if "exec_time" not in more:
            event.entry.exec_time = self.clock()
        self.resolver.add_exec_entry(event, self.dummy_cgroup())
        return event

    def apply_exit(self, event: Event) -> bool:
        event.timestamp_ns = self.clock()
        return self.resolver.apply_exit_entry(event, None)

    def exit(self, event: Event) -> bool:
        known = self.apply_exit(event)
        self.check()
        self.delete_at(event)
        return known

    def delete_at(self, event: Event) -> None:
        self.resolver.delete_entry(event.pid_context.pid, event.timestamp_ns + self.offset)

    def delete(self, pid: int) -> None:
        self.resolver.delete_entry(high(pid), self.clock() + self.offset)

    def change(self, pid: int, tid: int, **credentials: Any) -> Event:
        """Make an event that reports ids."""
        context = PIDContext(pid=high(pid), tid=high(tid))
        return Event(timestamp_ns=self.clock(), pid_context=context, credentials=Credentials(**credentials))

    def put(self, entry: ProcessCacheEntry, source: Source = Source.EVENT) -> ProcessCacheEntry:
        """Put an entry into the cache unchanged, linked only to the ancestor that it has."""
        resolver, parent = self.resolver, entry.ancestor
        resolver.apply_boot_time(entry)
        time_ns = self.clock()
        told = entry_records.task(entry)
        values = {
            name: value for name, value in entry_records.fields_of(entry).items()
            if name not in ("pid", "tid", "ancestor", "source", "fork_time")
        }  # fmt: skip
        self.applier.insert_from_proc(
            entry_records.header(
                declared.KIND_FORK, entry.pid, entry.tid, time_ns, time_ns, parent.pid if parent is not None else 0,
                parent.start_boot_ns if parent is not None else 0,
            ),
            told.task, source=int(source), known=told.known,
        )  # fmt: skip
        entry = resolver.book.attach(entry, self.tables.py_head(entry.pid))
        entry.set(**values)
        if parent is not None:
            assert entry.ancestor is parent
        return entry

    def tell(self, entry: ProcessCacheEntry, error: Exception | None) -> None:
        """The new-entry callback."""
        self.told.append((entry, error))

    # -- invariants ----------------------------------------------------------------------------------------------------

    @property
    def cache(self) -> set[int]:
        found: set[int] = set()
        self.resolver.walk(lambda entry: found.add(entry.pid))
        assert len(found) == self.resolver.book.count()
        return found

    def count(self, name: str, tag: str = "") -> int:
        return self.resolver.stats.get(name, tag)

    def check(self) -> None:
        """Check the tables' invariants, and specification 5.12 for the index of children."""
        validate_tables(self.tables)
        check_children(self.resolver.book)


def check_children_of(applier: Applier) -> None:
    """The same check for tables without a resolver."""
    check_children(Book(applier.tables, applier, 0))


def check_children(book: Book) -> None:
    """Specification 5.12: a listed child descends from its parent, and every descendant of a cached parent is listed.

    Any image of the parent counts: a child is a process, below the image that forked it (9.1.2).
    """
    heads = {entry.root: entry for entry in book.heads()}
    for root, entry in heads.items():
        for child in entry.children:
            before = child.root.ancestor
            assert before is not None and before.root is root, f"{child} is listed below {entry}"
        before = root.ancestor
        if before is not None and entry.exit_time is None:
            parent = heads.get(before.root)
            assert parent is None or entry in parent.children, f"{entry} is not listed below {parent}"


@contextmanager
def world(**more: Any) -> Iterator[World]:
    with instance() as directory:
        made = World(directory, **more)
        try:
            yield made
            made.check()
        finally:
            made.tables.close()
