"""An EBPFLessResolver over real tables, and its vocabulary for the table of scenarios. Times are small numbers of ns.

Processes are keyed by pid and pid namespace, so a pid is the number that the table has. Words that concern only an
entry are in scenario_happens.py and scenario_checks.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.resolver.api.ebpfless import EBPFLessResolver
from pipeline.resolver.entries.cache_entry import ProcessCacheEntry
from pipeline.resolver.entries.model import CacheResolverKey, Source
from pipeline.shm.check.validate import validate_tables
from pipeline.shm.layout import layout
from pipeline.shm.writer._opening import open_tables
from pipeline.shm.writer._writer import TableWriter
from tests.resolver.api.scenario_steps import Part, Scenario, expects, happens
from tests.resolver.resolver_world import check_children
from tests.resolver.story import instance

Key = tuple[int, int]


@contextmanager
def keyed_tables() -> Iterator[TableWriter]:
    """Tables with few pids. Boot-clock zero is Unix time zero, so that times are small numbers."""
    with instance() as directory, open_tables(
        directory, boot_id=bytes(16), capture_id=1, ring_count=1, row_capacity=4096, pid_capacity=1024,
        names_bytes=1 << 20, args_bytes=1 << 20, envs_bytes=1 << 20, boot_unix_ns=0, retention_ns=10**12,
        chunk_rows=4096, key_capacity=1024, checked=True,
    ) as tables:  # fmt: skip
        tables.set_state(layout.STATE_READY)
        yield tables
        validate_tables(tables)


def exec_entry(r: EBPFLessResolver, pid: int, nsid: int = 1, ppid: int = 0, **more: Any) -> ProcessCacheEntry:
    """AddExecEntry of a shell, with defaults for everything that `more` does not set."""
    facts: dict[str, Any] = {
        "file": "/bin/sh", "argv": ["sh", "-c"], "args_truncated": False, "envs": ["A=1", "B=2"],
        "envs_truncated": True, "ctr_id": "abc", "ts": 50, "tty": "pts0",
    }  # fmt: skip
    facts.update(more)
    entry = r.add_exec_entry(CacheResolverKey(pid, nsid), ppid, **facts)
    assert entry is not None
    return entry


class KeyedWorld:
    def __init__(self, tables: TableWriter) -> None:
        self.tables = tables
        self.resolver = EBPFLessResolver(tables=tables)
        self.named: dict[str, ProcessCacheEntry] = {}

    def check(self) -> None:
        """Check the tables' invariants, and specification 5.12 for the index of children."""
        validate_tables(self.tables)
        check_children(self.resolver.book)


@contextmanager
def keyed_world() -> Iterator[KeyedWorld]:
    with keyed_tables() as tables:
        yield KeyedWorld(tables)


def ebpfless(*parts: Part) -> Scenario:
    """A row that tests the EBPFLessResolver."""
    return Scenario(keyed_world, parts)


# -- what happens ------------------------------------------------------------------------------------------------------


@happens
def fork(w: KeyedWorld, name: str, key: Key, ppid: int, ts: int) -> None:
    entry = w.resolver.add_fork_entry(CacheResolverKey(*key), ppid, ts)
    assert entry is not None
    w.named[name] = entry


@happens
def exec_(w: KeyedWorld, name: str, key: Key, ppid: int, ts: int) -> None:
    w.named[name] = exec_entry(w.resolver, *key, ppid, ts=ts)


@happens
def delete(w: KeyedWorld, key: Key, ts: int) -> None:
    w.resolver.delete_entry(CacheResolverKey(*key), ts)


@happens
def update_user(w: KeyedWorld, key: Key, uid: int, euid: int, user: str, euser: str) -> None:
    w.resolver.update_user(CacheResolverKey(*key), uid, euid, user, euser)


@happens
def update_group(w: KeyedWorld, key: Key, gid: int, egid: int, group: str, egroup: str) -> None:
    w.resolver.update_group(CacheResolverKey(*key), gid, egid, group, egroup)


@happens
def new_entry(w: KeyedWorld, name: str, key: Key, file: str, *argv: str) -> None:
    w.named[name] = w.resolver.new_entry(
        CacheResolverKey(*key), 0, file, argv, False, [], False, "", 1, "", Source.EVENT
    )


# -- checks ------------------------------------------------------------------------------------------------------------


@expects
def cache(w: KeyedWorld, *keys: Key) -> None:
    found: list[Key] = []
    w.resolver.walk(lambda entry: found.append((entry.pid, entry.nsid)))
    assert sorted(found) == sorted(keys) and len(w.resolver) == len(keys)


@expects
def head(w: KeyedWorld, key: Key, name: str | None) -> None:
    """The entry that a key finds; None if it must find none."""
    found = w.resolver.resolve(CacheResolverKey(*key))
    assert found is (w.named[name] if name else None)


@expects
def argv0(w: KeyedWorld, name: str, text: str) -> None:
    assert w.named[name].view("argv0") == text
