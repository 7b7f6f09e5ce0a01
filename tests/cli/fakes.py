"""A fake table and a fake subscriber with the methods that the commands call; the test provides their contents."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import pipeline
from pipeline.bus.stream.position import StreamPosition
from pipeline.client.event_filter import EventFilter
from pipeline.errors import ClosedError, NoProcessError, NotRunningError
from pipeline.export.forest import is_called
from pipeline.select.selection import Selection
from pipeline.shm.layout.entry_fields import ENTRY_FIELDS

BOOT_NS = 1_700_000_000_000_000_000


class FakeEntry:
    """An entry with a given JSON form."""

    def __init__(self, **fields: Any) -> None:
        self._fields = fields

    def to_dict(self, fields: Collection[str] | None = None) -> dict[str, Any]:
        return dict(self._fields) if fields is None else {name: self._fields.get(name) for name in fields}


def entry(pid: int, ppid: int = 1, comm: str = "sh", **changes: Any) -> FakeEntry:
    """Return the entry of a process that started `pid` seconds after the boot."""
    fields = {
        "pid": pid, "tid": pid, "ppid": ppid, "start_time_ns": BOOT_NS + pid * 10**9, "exec_time_ns": None,
        "exit_time_ns": None, "comm": comm, "path": f"/usr/bin/{comm}", "argv": [comm, "-x"], "envs": None,
        "uid": 0, "gid": 0, "cap_effective": 0x1FF, "entity_id": f"e{pid}", "parent_entity_id": f"e{ppid}",
        "is_exec": True, "is_parent_missing": False, "marks": [],
    }  # fmt: skip
    return FakeEntry(**(fields | changes))


class FakeBatch:
    """Entries that were read at once; one that has no JSON form any more is left out."""

    def __init__(self, entries: list[FakeEntry], fields: Sequence[str]) -> None:
        self._entries = entries
        self.fields = tuple(fields)

    def __len__(self) -> int:
        return len(self._entries)

    def entry(self, place: int) -> FakeEntry:
        return self._entries[place]

    def dicts(self) -> list[dict[str, Any]]:
        return [each.to_dict(None if self.fields == ENTRY_FIELDS else self.fields) for each in self._entries]

    def column(self, name: str) -> list[Any]:
        return [each.to_dict().get(name) for each in self._entries]

    def groups(self, name: str) -> None:
        return None

    def lists(self, name: str) -> None:
        return None


class FakeView:
    """The view of a table; its pids are not those of this host, so nothing is read from /proc."""

    pids_are_ours = False


class FakeTable:
    """A `ProcessTable` with given entries. Each call first raises the next of `failures`, if there is one left."""

    view = FakeView()
    directory = Path("/nonexistent")
    boot_unix_ns = BOOT_NS
    watermark_boot_ns = 1 << 63

    entries: tuple[FakeEntry, ...] = ()
    failures: tuple[Exception, ...] = ()
    calls: tuple[tuple[Any, ...], ...] = ()

    @classmethod
    def attach(cls, name: str = "default") -> FakeTable:
        if name == "nobody":
            raise NotRunningError(f"no instance {name!r}", instance=name)
        return cls()

    def __enter__(self) -> FakeTable:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def _note(self, *call: Any) -> None:
        type(self).calls += (call,)
        if self.failures:
            failure, *rest = self.failures
            type(self).failures = tuple(rest)
            raise failure

    def resolve(
        self, pid: int, at: int | None = None, *, pid_ns: int | None = None, wait_ms: int = 0
    ) -> FakeEntry | None:
        self._note("resolve", pid, at, wait_ms)
        facts = (each.to_dict() for each in self.entries)
        return next((FakeEntry(**each) for each in facts if is_called(each, pid, pid_ns)), None)

    def ancestors(
        self, process: int | FakeEntry, *, by: str = "ancestor", pid_ns: int | None = None, limit: int = 4096
    ) -> list[FakeEntry]:
        if isinstance(process, FakeEntry):
            fields = process.to_dict()
            is_foreign = "foreign" in fields["marks"]
            pid, pid_ns = (fields["ns_pid"], fields["pid_ns"]) if is_foreign else (fields["pid"], None)
        else:
            pid = process
        self._note("ancestors", pid)
        chain: list[FakeEntry] = []
        if by == "creator":
            known = {each.to_dict()["entity_id"]: each for each in self.entries}
            found = self.resolve(pid)
            while found and (above := known.get(found.to_dict().get("creator_entity_id"))):
                chain.append(above)
                found = above
            return chain[:limit]
        while (found := self.resolve(pid, pid_ns=pid_ns)) and (
            above := self.resolve(found.to_dict()["ppid"], pid_ns=pid_ns)
        ):
            chain.append(above)
            pid = above.to_dict()["pid"]
        return chain[:limit]

    def children(self, pid: int, *, pid_ns: int | None = None) -> list[FakeEntry]:
        self._note("children", pid)
        return [
            each for each in self.entries
            if each.to_dict()["ppid"] == pid and (pid_ns is None or each.to_dict().get("pid_ns") == pid_ns)
        ]  # fmt: skip

    def walk(self, *, exited: bool = True) -> Iterator[FakeEntry]:
        self._note("walk", exited)
        yield from (each for each in self.entries if exited or each.to_dict()["exit_time_ns"] is None)

    def batch(self, fields: Sequence[str], *, running: bool = False, links: object = None) -> FakeBatch:
        return FakeBatch([*self.walk(exited=not running)], fields)

    def batches(self, fields: Sequence[str], *, running: bool = False) -> Iterator[FakeBatch]:
        for entry in self.walk(exited=not running):
            yield FakeBatch([entry], fields)

    def stats(self) -> dict[str, Any]:
        self._note("stats")
        return {
            "events": {"fork": 3, "exec": 0}, "lost": {"fork": 0}, "late": 0, "memory": {},
            "watermark_lag_ns": 1_500_000,
            "processes": [{"role": "resolver", "pid": 7, "cpu_seconds": 1.5, "pss_bytes": 3 << 20},
                          {"role": "shard-0", "pid": 8, "cpu_seconds": 0.0, "pss_bytes": None}],
        }  # fmt: skip


class FakeSubscriber:
    """A `Subscriber` that returns `batches` one by one; if a batch is callable, it is called.

    The filter is the real one. Its table is that of `pipeline.ProcessTable`, which a test may replace by a `FakeTable`.
    """

    batches: tuple[Any, ...] = ()
    made: tuple[Any, ...] = ()
    is_incomplete = False
    host = "web1"

    #: Where the last one began, and how many of its events were given.
    resumed: StreamPosition | None = None

    def __init__(
        self, name: str, topics: tuple[str, ...], *, select: Selection, snapshot: bool, follow: bool,
        resume: StreamPosition | None = None,
    ) -> None:  # fmt: skip
        type(self).resumed = resume
        self._is_closed = False
        self._given = 0 if resume is None else resume.next["proc.exec"] - 1
        self._rest: list[dict[str, Any]] = []
        self._wanted = EventFilter(select, topics)
        type(self).made = (name, self._wanted.topics, snapshot, follow)
        self._left = list(self.batches)
        missing = self._start()
        if missing:
            raise NoProcessError("unknown", pids=tuple(missing))

    def _start(self) -> list[int]:
        if not self._wanted.needs_table:
            return []
        return self._wanted.start([each.to_dict() for each in pipeline.ProcessTable.attach().walk()], 0)

    @property
    def position(self) -> StreamPosition:
        return StreamPosition(7, {"proc.exec": self._given + 1})

    def read(self, timeout: float | None = None, *, limit: int | None = None) -> list[dict[str, Any]]:
        found = self._rest or self._read(timeout)
        given, self._rest = found[:limit], found[len(found[:limit]) :]
        self._given += len(given)
        return given

    def _read(self, timeout: float | None) -> list[dict[str, Any]]:
        while self._left:
            batch = self._left.pop(0)
            made: Any = batch() if isinstance(batch, Callable) else batch  # type: ignore[arg-type]
            if self._is_closed:
                raise ClosedError("closed")
            if found := self._wanted.of(made, self._start):
                return found
        if timeout is not None:
            time.sleep(timeout)
        return []

    def close(self) -> None:
        self._is_closed = True
