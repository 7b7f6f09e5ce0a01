"""The eBPF-less resolver: specification 4, without the scenarios of section 8."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from pipeline.resolver.api.ebpfless import EBPFLessResolver
from pipeline.resolver.entries.cache_entry import ProcessCacheEntry
from pipeline.resolver.entries.model import CacheResolverKey, NotSupportedError, ResolverError, Source
from pipeline.resolver.entries.opts import ResolverOpts
from pipeline.shm.reader._reader import TableReader
from pipeline.shm.writer._writer import TableWriter
from tests.resolver.api.keyed import exec_entry, keyed_tables

Key = CacheResolverKey
Make = Callable[..., EBPFLessResolver]


@pytest.fixture
def tables() -> Iterator[TableWriter]:
    with keyed_tables() as made:
        yield made


@pytest.fixture
def make(tables: TableWriter) -> Make:
    return lambda *args, **more: EBPFLessResolver(*args, tables=tables, **more)


@pytest.fixture
def r(make: Make) -> EBPFLessResolver:
    return make()


def test_fork_copies_from_a_parent_of_the_same_namespace(r: EBPFLessResolver) -> None:
    parent = exec_entry(r, 3)
    child, stranger = r.add_fork_entry(Key(4, 1), 3, 60), r.add_fork_entry(Key(4, 2), 3, 60)
    assert child is not None and child.ancestor is parent and child.args_entry is parent.args_entry
    assert child.container.container_id == "abc" and child.fork_time == 60 and child.source == Source.EVENT
    assert stranger is not None and stranger.ancestor is None and stranger.is_parent_missing
    # Pid 1 has no parent here, even if the message names one.
    init = r.add_fork_entry(Key(1, 1), 3, 61)
    assert init is not None and init.ancestor is None


def test_a_reused_pid_ends_its_former_owner(r: EBPFLessResolver) -> None:
    old, new = r.add_fork_entry(Key(4, 1), 0, 60), r.add_fork_entry(Key(4, 1), 0, 70)
    assert old is not None and old.exit_time == 70 and r.resolve(Key(4, 1)) is new


def test_a_late_fork_belongs_to_the_former_owner_of_the_parents_pid(r: EBPFLessResolver, tables: TableWriter) -> None:
    r.add_fork_entry(Key(3, 1), 0, 100)
    old = exec_entry(r, 3, ts=110, file="/bin/old")
    r.delete_entry(Key(3, 1), 150)
    r.add_fork_entry(Key(3, 1), 0, 200)
    young = exec_entry(r, 3, ts=210, file="/bin/young")
    child = r.add_fork_entry(Key(4, 1), 3, 140)
    assert child is not None and child.ancestor is old and child.file_event.pathname == "/bin/old"
    hot = tables.hot_view()
    creator = tables.py_follow(int(hot[tables.py_head(r.book.space.find(4, 1))]["creator"]))
    assert int(hot[creator]["start_boot_ns"]) == 100 and young.children == []


def test_a_late_exit_does_not_end_the_next_owner(r: EBPFLessResolver) -> None:
    r.add_fork_entry(Key(3, 1), 0, 100)
    young = r.add_fork_entry(Key(3, 1), 0, 200)
    r.delete_entry(Key(3, 1), 150)
    assert young is not None and r.resolve(Key(3, 1)) is young and young.exit_time is None


def test_a_repeated_fork_returns_the_same_entry(r: EBPFLessResolver) -> None:
    fork = r.add_fork_entry(Key(3, 1), 0, 100)
    image = exec_entry(r, 3, ts=110)
    assert r.add_fork_entry(Key(3, 1), 0, 100) is fork and r.resolve(Key(3, 1)) is image


def test_a_caller_sets_the_parent_and_the_name_of_an_entry(r: EBPFLessResolver, tables: TableWriter) -> None:
    for pid in (3, 5):
        r.add_fork_entry(Key(pid, 1), 0, 100 + pid)
    child = r.add_fork_entry(Key(4, 1), 5, 200)
    assert child is not None and child.ppid == 5
    child.ppid, child.comm = 3, "sixteen letters!"  # a name of the kernel has 15
    assert child.ppid == 3 and child.comm == "sixteen letters!"
    parent, former, slot = (r.book.space.find(pid, 1) for pid in (3, 5, 4))
    assert int(tables.hot_view()[tables.py_head(slot)]["ppid"]) == parent
    assert (tables.py_children(parent), tables.py_children(former)) == ([slot], [])
    child.ppid = 0
    assert child.ppid == 0


def test_the_parent_that_an_exec_names(r: EBPFLessResolver) -> None:
    for pid, ts in ((3, 100), (9, 110)):
        r.add_fork_entry(Key(pid, 1), 0, ts)
    fork = r.add_fork_entry(Key(4, 1), 3, 200)
    image = exec_entry(r, 4, ppid=9, ts=300)
    assert image.ancestor is fork and image.ppid == 9 and image.root.ancestor is r.resolve(Key(9, 1))
    later = exec_entry(r, 4, ppid=99, ts=400, file="/bin/x")
    assert later.ancestor is image and later.ppid == 9 and not later.is_parent_missing


@pytest.mark.parametrize("key", [Key(5, 0), Key(5, 1 << 40), Key(1 << 40, 1), Key(5, -1)])
def test_a_key_that_no_process_can_have(r: EBPFLessResolver, tables: TableWriter, key: Key) -> None:
    for enter in (lambda: r.add_fork_entry(key, 0, 50), lambda: exec_entry(r, *key)):
        with pytest.raises(ResolverError, match="both must be numbers"):
            enter()
    assert tables.counter("keys_refused") == 2 and r.resolve(key) is None
    r.delete_entry(key, 60)
    r.update_user(key, 1, 1, "a", "a")
    assert len(r) == 0


@pytest.mark.parametrize("ppid", [-1, 1 << 32])
def test_a_parent_that_no_process_can_be(r: EBPFLessResolver, ppid: int) -> None:
    with pytest.raises(ResolverError, match=str(ppid)):
        r.add_fork_entry(Key(7, 1), ppid, 100)
    with pytest.raises(ResolverError, match=str(ppid)):
        exec_entry(r, 7, ppid=ppid)
    assert len(r) == 0


def test_a_repeated_procfs_entry_changes_nothing(r: EBPFLessResolver) -> None:
    def find(ts: int, *argv: str) -> ProcessCacheEntry:
        found = r.add_procfs_entry(Key(3, 1), 0, "/bin/sh", argv, False, [], False, "", ts, "")
        assert found is not None and found.args_entry is not None
        return found

    first = find(5, "sh")
    assert find(5, "sh", "-c") is first and first.args_entry is not None and first.args_entry.values == ["sh"]
    second = find(6, "sh", "-c")
    assert second is not first and second.args_entry is not None and second.args_entry.values == ["sh", "-c"]
    assert first.exit_time == 6 and r.resolve(Key(3, 1)) is second


def test_processes_that_the_tracer_found_at_its_start(r: EBPFLessResolver) -> None:
    facts: dict[str, Any] = {
        "argv": ["sh"], "args_truncated": False, "envs": [], "envs_truncated": False, "ctr_id": "abc", "ts": 5,
        "tty": "",
    }  # fmt: skip
    one = r.add_procfs_entry(Key(3, 1), 0, "/bin/sh", **facts)
    same = r.add_procfs_entry(Key(4, 1), 3, "/bin/sh", **facts)
    other = r.add_procfs_entry(Key(5, 1), 3, "/bin/sh", **{**facts, "argv": ["sh", "x"]})
    assert one is not None and same is not None and other is not None
    assert same.ancestor is one and not same.is_exec and same.args_entry is one.args_entry
    assert other.ancestor is one and other.is_exec and one.source == Source.PROCFS_SNAPSHOT


def test_pid_0_has_no_process(r: EBPFLessResolver) -> None:
    assert r.add_fork_entry(Key(0, 1), 0, 1) is None and r.resolve(Key(0, 1)) is None
    assert r.add_exec_entry(Key(0, 1), 0, "", [], False, [], False, "", 1, "") is None
    assert r.add_procfs_entry(Key(0, 1), 0, "", [], False, [], False, "", 1, "") is None
    assert len(r) == 0


def test_views_and_the_rest(make: Make) -> None:
    class Client:
        def __init__(self) -> None:
            self.sent: list[tuple[str, float, list[str]]] = []

        def gauge(self, name: str, value: float, tags: list[str]) -> None:
            self.sent.append((name, value, tags))

        def count(self, name: str, value: int, tags: list[str]) -> None:
            raise AssertionError(name)

    class Scrub:
        def scrub(self, args: Any, argv0: str = "") -> tuple[list[str], bool]:
            return ["***" for _ in args], True

    client = Client()
    r = make(None, client, Scrub(), ResolverOpts().with_envs_value(["A"]).with_raw_values())
    entry = exec_entry(r, 7, argv=["a-name-of-twenty-chars", "x"])
    assert entry.comm == "a-name-of-twenty" and entry.view("argv0") == "a-name-of-twenty-chars"
    assert r.get_process_argv_scrubbed(entry) == (["***"], False)
    assert r.get_process_envs(entry) == (["A=1", "B"], True)
    assert r.get_process_envp(entry) == (["A=1", "B=2"], True)
    seen: list[ProcessCacheEntry] = []
    r.walk(seen.append)
    assert seen == [entry]
    r.start()
    r.snapshot()
    r.send_stats()
    assert client.sent == [("datadog.runtime_security.process_resolver.cache_size", 1.0, [])]
    with pytest.raises(NotSupportedError):
        r.dump(True)
    make().send_stats()


def test_without_a_scrubber_argument_secrets_are_hidden(r: EBPFLessResolver) -> None:
    entry = exec_entry(r, 3, argv=["x", "--password=hunter2"])
    assert entry.args_entry is not None and entry.args_entry.values == ["x", "--password=********"]


@pytest.mark.parametrize("is_raw", [False, True])
def test_secrets_are_stored_only_with_the_option(make: Make, tables: TableWriter, is_raw: bool) -> None:
    class Scrub:
        def scrub(self, args: Any, argv0: str = "") -> tuple[list[str], bool]:
            return ["***" if "secret" in arg else arg for arg in args], True

    opts = ResolverOpts().with_envs_value(["LANG"])
    r = make(scrubber=Scrub(), opts=opts.with_raw_values() if is_raw else opts)
    facts: dict[str, Any] = {"argv": ["x", "--key=secret", "y"], "envs": ["TOKEN=secret", "LANG=C"]}
    init, entry = exec_entry(r, 1, ts=10, **facts), exec_entry(r, 7, ppid=1, **facts)
    more: dict[str, Any] = {"args_truncated": False, "envs_truncated": False, "ctr_id": "", "ts": 5, "tty": ""}
    found = r.add_procfs_entry(Key(8, 1), 0, "/bin/sh", **facts, **more)
    assert found is not None
    exec_entry(r, 9, ppid=1, argv=["[worker: --key=secret]"])
    for one in (init, entry, found):
        assert r.get_process_argv_scrubbed(one)[0] == ["***", "y"]
        assert r.get_process_envs(one)[0] == ["TOKEN", "LANG=C"]
        assert r.get_process_envp(one)[0] == (["TOKEN=secret", "LANG=C"] if is_raw else ["TOKEN", "LANG=C"])
    for arena in (tables.args, tables.envs):
        assert (b"secret" in bytes(np.frombuffer(arena.view(), np.uint8))) is is_raw
    reader = TableReader(tables.directory)
    seen = reader.resolve(7, pid_ns=1)
    assert seen is not None and seen.argv == ["x", "--key=secret" if is_raw else "***", "y"]
    titled = reader.resolve(9, pid_ns=1)
    assert titled is not None and titled.argv == ["[worker: --key=secret]" if is_raw else "***"]


def test_readers_see_its_entries(r: EBPFLessResolver, tables: TableWriter) -> None:
    exec_entry(r, 1, ts=10)
    r.add_fork_entry(Key(7, 1), 1, 20)
    exec_entry(r, 7, file="/bin/b", argv=["b", "x"], ts=30, ctr_id="def")
    r.update_user(Key(7, 1), 33, 33, "www", "www")
    r.add_fork_entry(Key(7, 2), 1, 40)
    reader = TableReader(tables.directory)
    found = reader.resolve(7, pid_ns=1)
    assert found is not None and (found.pid, found.ppid, found.pid_ns, found.ns_pid) == (7, 1, 1, 7)
    assert (found.path, found.argv, found.container_id, found.uid, found.comm) == ("/bin/b", ["b", "x"], "def", 33, "b")
    assert [(one.pid, one.comm) for one in reader.ancestors(found)] == [(7, "sh"), (1, "sh")]
    assert [child.pid for child in reader.children(1, pid_ns=1)] == [7]
    assert reader.resolve(7) is None and reader.resolve(1) is None
    other = reader.resolve(7, pid_ns=2)
    assert other is not None and other.is_parent_missing and other.ppid == 1
    r.delete_entry(Key(7, 1), 50)
    gone = reader.resolve(7, pid_ns=1)
    assert gone is not None and gone.exit_time_ns == 50 and gone.exit_code is None
    assert r.resolve(Key(7, 1)) is None and len(r) == 2
    at = reader.resolve(7, 25, pid_ns=1)
    assert at is not None and at.comm == "sh"


def test_a_full_key_space_refuses_and_counts(tables: TableWriter, make: Make) -> None:
    r = make(now_boot_ns=lambda: 1)
    for pid in range(1, tables.keys.capacity + 1):
        r.add_fork_entry(Key(pid, 1), 0, pid)
    with pytest.raises(ResolverError, match="no slot is free"):
        r.add_fork_entry(Key(1, 2), 0, 1)
    assert tables.counter("keys_refused") == 1
