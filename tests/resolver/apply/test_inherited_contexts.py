"""Container and cgroup facts from a caller pass to forks and execs that stay in that cgroup, and to no others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipeline.procfs.tracer_metadata import TracerMetadata
from pipeline.records import declared, dtypes
from pipeline.resolver.api.ebpfless import EBPFLessResolver
from pipeline.resolver.entries import entry_extra
from pipeline.resolver.entries.cache_entry import ProcessCacheEntry
from pipeline.resolver.entries.model import (
    AWSSecurityCredentials,
    CacheResolverKey,
    CGroupContext,
    ContainerContext,
    Credentials,
    PathKey,
    SSHSessionContext,
    UserSessionContext,
)
from tests.resolver.api.keyed import exec_entry, keyed_tables
from tests.resolver.apply.full_arenas import full
from tests.resolver.story import Event, checked, instance
from tests.resolver.story_world import StoryWorld

CONTAINER = ContainerContext("c0ffee", 123, ("env:prod", "team:a"), True)
CGROUP = CGroupContext("/docker/c0ffee", PathKey(100, 7), 2, 0, 99)
SSH = UserSessionContext(ssh=SSHSessionContext(ssh_session_id=5, ssh_username="alice"))
AWS = (AWSSecurityCredentials("c", "t", "AKIA1", 1, 2),)


class World(StoryWorld):
    def __init__(self, directory) -> None:
        super().__init__(directory, args_bytes=1 << 16)
        self.begin()


@pytest.fixture
def w() -> Iterator[World]:
    with instance() as directory, checked(World(directory)) as world:
        world.entry(3).set(
            cgroup=CGROUP, container=CONTAINER, user_session=SSH, aws_security_credentials=AWS, span_id=9,
            tracer_metadata=TracerMetadata(1),
        )  # fmt: skip
        yield world


def test_forks_and_execs_have_tags_and_times(w: World) -> None:
    w.do(w.story.fork(3, 4))
    w.do(w.story.exec(4, b"/bin/a"))
    w.do(w.story.exec(3, b"/bin/b"))
    w.do(w.story.fork(4, 5))
    for tgid in (3, 4, 5):
        entry = w.entry(tgid)
        assert (entry.container, replace(entry.cgroup, source=0), entry.user_session) == (CONTAINER, CGROUP, SSH), tgid
        assert (entry.aws_security_credentials, entry.span_id) == ((), 0)
    assert w.entry(3).tracer_metadata is w.entry(5).tracer_metadata is None
    # Facts that are inherited as a whole are one shared string.
    assert w.read.head(4).extra_ref == w.read.head(5).extra_ref == w.read.head(3).extra_ref


def test_a_fork_inherits_tracer_metadata(w: World) -> None:
    w.do(w.story.fork(3, 4))
    entry = w.entry(4)
    assert entry.tracer_metadata == TracerMetadata(1) and entry.container == CONTAINER


def test_names_of_credentials_are_inherited_with_their_ids(w: World) -> None:
    """Other ids have other names, and the users of another container are others too."""
    named = replace(w.entry(3).credentials, user="root", euser="root", fsgroup="wheel")
    w.entry(3).set(credentials=named)
    w.do(w.story.fork(3, 4))
    w.do(w.story.exec(4, b"/bin/a"))
    w.do(w.story.fork(4, 5))
    w.do(w.story.exec(3, b"/bin/b"))
    for tgid in (3, 4, 5):
        assert w.entry(tgid).credentials == named, tgid
    w.do(w.story.change(4, declared.KIND_CRED, uid=7))
    changed = w.entry(4).credentials
    assert (changed.uid, changed.user, changed.euser, changed.fsgroup) == (7, "", "", "")
    assert (w.entry(4).container, w.entry(5).credentials) == (CONTAINER, named)
    w.do(w.story.change(5, declared.KIND_CGROUP, cgroup=300))
    assert w.entry(5).credentials.user == ""
    suid = w.story.exec(3, b"/bin/su")
    suid.task["euid"] = 9
    w.do(suid)
    assert (w.entry(3).credentials.euid, w.entry(3).credentials.euser) == (9, "")


def extra_of(w: World, tgid: int) -> dict[str, Any]:
    ref = w.head(tgid).extra_ref
    return entry_extra.unpack(w.tables.args.py_bytes(ref)) if ref else {}


def sent(w: World, pid: int, kept: int = dtypes.SENDER.itemsize, **fields: object) -> Event:
    """The end of a process by a signal, with `kept` bytes of the part of the record about its sender."""
    event = w.story.exit(pid, 9, cost={})
    assert event.body is not None
    sender = np.zeros(1, dtypes.SENDER)
    sender["sender_signal"] = 9
    for name, value in fields.items():
        sender[f"sender_{name}"] = value
    event.body["exit_flags"] |= declared.EXIT_SENDER
    event.strings += sender.tobytes()[:kept]
    event.header["var_bytes"] = len(event.strings)
    return event


def test_the_exit_names_the_sender_of_the_signal(w: World) -> None:
    """Beside what the map had; a later record of the same exit changes nothing."""
    w.do(w.story.fork(3, 4))
    before = extra_of(w, 3)
    event = sent(w, 3, tgid=77, uid=1000, comm=b"ki\xffll", start_boot_ns=5)
    w.do(event)
    w.do(event)
    sender = {"pid": 77, "start_time_ns": 1_700_000_000_000_000_005, "uid": 1000, "comm": "ki\udcffll", "signal": 9}
    assert extra_of(w, 3) == before | {"exit_signal_sender": sender}
    assert before and "exit_signal_sender" not in extra_of(w, 4)


@pytest.mark.parametrize("keys", [0, 14, 15, 200])
def test_a_sender_is_added_to_a_map_of_any_size(w: World, keys: int) -> None:
    w.do(w.story.fork(3, 4))
    w.do(w.story.exec(4, b"/bin/a"))
    row = w.head(4).row
    more = {f"key{number}": number for number in range(keys)}
    w.tables.py_begin(row)
    w.tables.py_set_ref("extra", row, w.tables.py_intern_args(entry_extra.pack(more)) if more else 0)
    w.tables.py_end(row)
    w.do(sent(w, 4, comm=b"x" * 16))
    extra = extra_of(w, 4)
    assert extra.pop("exit_signal_sender")["comm"] == "x" * 16 and extra == more


def test_a_sender_outside_has_no_pid_and_a_cut_record_no_sender(w: World) -> None:
    w.do(w.story.fork(3, 4))
    w.do(w.story.fork(3, 5))
    w.do(sent(w, 4))
    assert extra_of(w, 4)["exit_signal_sender"]["pid"] is None
    w.do(sent(w, 5, kept=dtypes.SENDER.itemsize - 1))
    assert "exit_signal_sender" not in extra_of(w, 5) and w.head(5).exit_boot_ns


def test_a_full_arena_keeps_what_the_map_had(w: World) -> None:
    before = extra_of(w, 3)
    with full(w.tables.args):
        w.do(sent(w, 3, tgid=77))
    assert extra_of(w, 3) == before and w.head(3).exit_boot_ns


@pytest.mark.parametrize("uid", [0, 8])
def test_an_entry_inherits_the_names_of_the_same_ids_alone(w: World, uid: int) -> None:
    above, below = ProcessCacheEntry(), ProcessCacheEntry()
    above.set(credentials=Credentials(user="root", fsgroup="wheel"))
    below.set(credentials=Credentials(uid=uid, group="staff"))
    below.inherit_from(above)
    names = (below.credentials.user, below.credentials.group, below.credentials.fsgroup)
    assert names == (("root", "staff", "wheel") if uid == 0 else ("", "staff", ""))


@pytest.mark.parametrize("is_full", [False, True])
def test_a_move_removes_inherited_contexts(w: World, is_full: bool) -> None:
    """The tags of the container that the process left do not describe its new container."""
    with full(w.tables.args) if is_full else full():
        w.do(w.story.change(3, declared.KIND_CGROUP, cgroup=200))
    entry = w.entry(3)
    assert (entry.container, entry.cgroup.version, entry.cgroup.created_at) == (ContainerContext(), 0, 0)
    assert entry.cgroup.path_key == PathKey(200)
    assert (entry.user_session, entry.aws_security_credentials, entry.span_id) == (SSH, AWS, 9)
    w.do(w.story.fork(3, 4))
    assert w.entry(4).container == ContainerContext() and w.entry(4).user_session == SSH


def test_a_fork_elsewhere_and_an_exec_elsewhere_have_none(w: World) -> None:
    w.do(w.story.fork(3, 4, cgroup=300))
    w.story.processes[3].cgroup = 301
    w.do(w.story.exec(3, b"/bin/b"))
    for tgid, cgroup_id in ((4, 300), (3, 301)):
        entry = w.entry(tgid)
        assert (entry.container, entry.cgroup) == (ContainerContext(), CGroupContext("", PathKey(cgroup_id), 0, 1))
        assert entry.user_session == SSH


def test_a_row_that_was_filled_before_its_fork_record(w: World) -> None:
    """The row keeps its own parts and inherits the others."""
    child = ProcessCacheEntry(pid=4, container=ContainerContext("c0ffee"), cgroup=CGroupContext("/x", PathKey(100)))
    parent = ProcessCacheEntry(pid=3, container=CONTAINER, cgroup=CGROUP)
    child.inherit_from(parent)
    assert child.container == CONTAINER
    assert (child.cgroup.cgroup_id, child.cgroup.version, child.cgroup.created_at) == ("/x", 2, 99)
    other = ProcessCacheEntry(pid=5, container=ContainerContext("beef", 7), cgroup=CGroupContext("/y", PathKey(1)))
    other.inherit_from(parent)
    assert (other.container, other.cgroup) == (ContainerContext("beef", 7), CGroupContext("/y", PathKey(1)))


def test_without_ebpf_too() -> None:
    with keyed_tables() as tables:
        resolver = EBPFLessResolver(tables=tables)
        parent = exec_entry(resolver, 3)
        own = ContainerContext(parent.container.container_id, 123, ("env:prod",), True)
        parent.container = own
        child = resolver.add_fork_entry(CacheResolverKey(4, 1), 3, 60)
        assert child is not None and child.container == own
        again = resolver.add_exec_entry(CacheResolverKey(4, 1), 3, "/bin/x", ["x"], False, [], False, "", 70, "")
        assert again is not None and again is not child and again.container == own
        told = resolver.add_exec_entry(
            CacheResolverKey(4, 1), 3, "/bin/y", ["y"], False, [], False, own.container_id, 80, ""
        )
        assert told is not None and told.container == own
        moved = resolver.add_exec_entry(CacheResolverKey(4, 1), 3, "/bin/z", ["z"], False, [], False, "other", 90, "")
        assert moved is not None and moved.container == ContainerContext("other")
