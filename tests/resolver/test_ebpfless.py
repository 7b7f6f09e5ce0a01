"""The eBPF-less resolver: specification 4 and D22 to D25."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pipeline.resolver.cache_entry import ProcessCacheEntry
from pipeline.resolver.ebpfless import EBPFLessResolver
from pipeline.resolver.model import CacheResolverKey, NotSupportedError, Source
from pipeline.resolver.opts import ResolverOpts

Key = CacheResolverKey


def exec_(r: EBPFLessResolver, pid: int, nsid: int = 1, ppid: int = 0, **more: Any) -> ProcessCacheEntry:
    facts: dict[str, Any] = {
        "file": "/bin/sh", "argv": ["sh", "-c"], "args_truncated": False, "envs": ["A=1", "B=2"],
        "envs_truncated": True, "ctr_id": "abc", "ts": 50, "tty": "pts0",
    }  # fmt: skip
    facts.update(more)
    entry = r.add_exec_entry(Key(pid, nsid), ppid, **facts)
    assert entry is not None
    return entry


def test_d22_a_pid_is_of_its_namespace() -> None:
    r = EBPFLessResolver()
    one, other = r.add_fork_entry(Key(7, 1), 1, 10), r.add_fork_entry(Key(7, 2), 1, 11)
    assert one is not other and r.resolve(Key(7, 1)) is one and r.resolve(Key(7, 2)) is other and len(r) == 2
    assert r.resolve(Key(7, 3)) is None and one is not None and one.nsid == 1
    r.delete_entry(Key(7, 1), 20)
    assert one.exit_time == 20 and r.resolve(Key(7, 1)) is None and r.resolve(Key(7, 2)) is other
    r.delete_entry(Key(7, 1), 20)


def test_d23_an_exec_keeps_parent_and_credentials() -> None:
    r = EBPFLessResolver()
    fork = r.add_fork_entry(Key(7, 1), 3, 10)
    assert fork is not None
    fork.credentials = replace(fork.credentials, uid=1000)
    entry = exec_(r, 7)
    assert (entry.ppid, entry.credentials.uid, entry.is_exec) == (3, 1000, True)
    assert entry.ancestor is fork and fork.exit_time == 50
    # No exec-bomb test: the same again is a new image.
    again = exec_(r, 7)
    assert again.ancestor is entry and again.is_exec_exec
    # Without an image before: unlinked, and no exec.
    alone = exec_(r, 8, ppid=7)
    assert alone.ancestor is None and not alone.is_exec


def test_d24_an_id_of_minus_1_is_unchanged() -> None:
    r = EBPFLessResolver()
    entry = r.add_fork_entry(Key(7, 1), 3, 10)
    assert entry is not None
    entry.credentials = replace(entry.credentials, uid=5, user="five", gid=6)
    r.update_user(Key(7, 1), -1, 0, "ignored", "root")
    assert (entry.credentials.uid, entry.credentials.euid, entry.credentials.user) == (5, 0, "five")
    assert entry.credentials.euser == "root"
    r.update_group(Key(7, 1), 9, -1, "nine", "ignored")
    assert (entry.credentials.gid, entry.credentials.group, entry.credentials.egroup) == (9, "nine", "")
    r.update_user(Key(7, 1), -2, -1, "nobody", "")
    assert entry.credentials.uid == 0xFFFFFFFE
    r.update_group(Key(99, 1), 1, 1, "", "")


def test_d25_a_memfd_has_no_path() -> None:
    r = EBPFLessResolver()
    entry = r.new_entry(Key(7, 1), 0, "memfd:x", [], False, [], False, "", 1, "", Source.EVENT)
    assert (entry.file_event.pathname, entry.file_event.basename) == ("", "memfd:x") and len(r) == 0
    assert (entry.comm, entry.view("argv0")) == ("", "")


def test_fork_copies_from_a_parent_of_the_same_namespace() -> None:
    r = EBPFLessResolver()
    parent = exec_(r, 3)
    child, stranger = r.add_fork_entry(Key(4, 1), 3, 60), r.add_fork_entry(Key(4, 2), 3, 60)
    assert child is not None and child.ancestor is parent and child.args_entry is parent.args_entry
    assert child.container.container_id == "abc" and child.fork_time == 60 and child.source == Source.EVENT
    assert stranger is not None and stranger.ancestor is None and not stranger.is_parent_missing
    # Pid 1 has no parent here, whatever the message says.
    init = r.add_fork_entry(Key(1, 1), 3, 61)
    assert init is not None and init.ancestor is None


def test_a_reused_pid_ends_its_former_owner() -> None:
    r = EBPFLessResolver()
    old, new = r.add_fork_entry(Key(4, 1), 0, 60), r.add_fork_entry(Key(4, 1), 0, 70)
    assert old is not None and old.exit_time == 70 and r.resolve(Key(4, 1)) is new


def test_what_the_tracer_found_when_it_began() -> None:
    r = EBPFLessResolver()
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


def test_pid_0_is_nobody() -> None:
    r = EBPFLessResolver()
    assert r.add_fork_entry(Key(0, 1), 0, 1) is None and r.resolve(Key(0, 1)) is None
    assert r.add_exec_entry(Key(0, 1), 0, "", [], False, [], False, "", 1, "") is None
    assert r.add_procfs_entry(Key(0, 1), 0, "", [], False, [], False, "", 1, "") is None
    assert len(r) == 0


def test_views_and_the_rest() -> None:
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
    r = EBPFLessResolver(None, client, Scrub(), ResolverOpts().with_envs_value(["A"]))
    entry = exec_(r, 7, argv=["a-name-of-twenty-chars", "x"])
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
    EBPFLessResolver().send_stats()
