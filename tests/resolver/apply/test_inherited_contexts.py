"""Container and cgroup facts from a caller pass to forks and execs that stay in that cgroup, and to no others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from pipeline.procfs.tracer_metadata import TracerMetadata
from pipeline.records import events
from pipeline.resolver.api.ebpfless import EBPFLessResolver
from pipeline.resolver.entries.cache_entry import ProcessCacheEntry
from pipeline.resolver.entries.model import (
    AWSSecurityCredentials,
    CacheResolverKey,
    CGroupContext,
    ContainerContext,
    PathKey,
    SSHSessionContext,
    UserSessionContext,
)
from tests.resolver.api.keyed import exec_entry, keyed_tables
from tests.resolver.apply.full_arenas import full
from tests.resolver.story import checked, instance
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


@pytest.mark.parametrize("is_full", [False, True])
def test_a_move_removes_inherited_contexts(w: World, is_full: bool) -> None:
    """The tags of the container that the process left do not describe its new container."""
    with full(w.tables.args) if is_full else full():
        w.do(w.story.change(3, events.KIND_CGROUP, cgroup=200))
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
