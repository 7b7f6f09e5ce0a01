"""A fake table and a fake subscriber with the methods that the commands call; the test provides their contents."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from pipeline.errors import NotRunningError
from pipeline.export.forest import is_called

BOOT_NS = 1_700_000_000_000_000_000


class FakeEntry:
    """An entry with a given JSON form."""

    def __init__(self, **fields: Any) -> None:
        self._fields = fields

    def to_dict(self) -> dict[str, Any]:
        return dict(self._fields)


def entry(pid: int, ppid: int = 1, comm: str = "sh", **changes: Any) -> FakeEntry:
    """Return the entry of a process that started `pid` seconds after the boot."""
    fields = {
        "pid": pid, "tid": pid, "ppid": ppid, "start_time_ns": BOOT_NS + pid * 10**9, "exec_time_ns": None,
        "exit_time_ns": None, "comm": comm, "path": f"/usr/bin/{comm}", "argv": [comm, "-x"], "envs": None,
        "uid": 0, "gid": 0, "cap_effective": 0x1FF, "entity_id": f"e{pid}", "parent_entity_id": f"e{ppid}",
        "is_exec": True, "is_parent_missing": False, "marks": [],
    }  # fmt: skip
    return FakeEntry(**(fields | changes))


class FakeTable:
    """A `ProcessTable` with given entries. Each call first raises the next of `failures`, if there is one left."""

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

    def ancestors(self, pid: int, *, pid_ns: int | None = None) -> list[FakeEntry]:
        self._note("ancestors", pid)
        chain: list[FakeEntry] = []
        while (found := self.resolve(pid, pid_ns=pid_ns)) and (
            above := self.resolve(found.to_dict()["ppid"], pid_ns=pid_ns)
        ):
            chain.append(above)
            pid = above.to_dict()["pid"]
        return chain

    def children(self, pid: int, *, pid_ns: int | None = None) -> list[FakeEntry]:
        self._note("children", pid)
        return [
            each for each in self.entries
            if each.to_dict()["ppid"] == pid and (pid_ns is None or each.to_dict().get("pid_ns") == pid_ns)
        ]  # fmt: skip

    def walk(self, *, exited: bool = True) -> Iterator[FakeEntry]:
        self._note("walk", exited)
        yield from (each for each in self.entries if exited or each.to_dict()["exit_time_ns"] is None)

    def stats(self) -> dict[str, Any]:
        self._note("stats")
        return {
            "events": {"fork": 3, "exec": 0}, "lost": {"fork": 0}, "late": 0, "watermark_lag_ns": 1_500_000,
            "processes": [{"role": "resolver", "pid": 7, "cpu_seconds": 1.5, "pss_bytes": 3 << 20},
                          {"role": "shard-0", "pid": 8, "cpu_seconds": 0.0, "pss_bytes": None}],
        }  # fmt: skip


class FakeSubscriber:
    """A `Subscriber` that returns `batches` one by one; if a batch is callable, it is called."""

    batches: tuple[Any, ...] = ()
    made: tuple[Any, ...] = ()

    def __init__(self, name: str, topics: tuple[str, ...], *, snapshot: bool, follow: bool) -> None:
        type(self).made = (name, topics, snapshot, follow)
        self._left = list(self.batches)

    def read(self, timeout: float | None = None) -> list[dict[str, Any]]:
        if self._left:
            batch = self._left.pop(0)
            made: list[dict[str, Any]] = batch() if isinstance(batch, Callable) else batch  # type: ignore[arg-type]
            return made
        if timeout is not None:
            time.sleep(timeout)
        return []

    def close(self) -> None:
        pass
