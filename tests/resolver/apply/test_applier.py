"""The effect of each event on the tables: the scenarios of specification 8.2 that events can express, and more."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import msgpack
import numpy as np
import pytest

from pipeline.records import declared, dtypes
from pipeline.resolver.apply import _applier
from pipeline.resolver.apply._applier import Applier
from pipeline.resolver.stream._encoder import Encoder
from pipeline.shm.check.validate import validate_tables
from pipeline.shm.layout import layout
from tests.resolver.applier_world import World, flag
from tests.resolver.resolver_world import check_children_of
from tests.resolver.story import (
    Event,
    apply_batch,
    checked,
    dump,
    head_only,
    instance,
    sampled,
    task_of,
)
from tests.resolver.stream_rows import take


@pytest.fixture
def w() -> Iterator[World]:
    with instance() as directory, checked(World(directory)) as world:
        world.init()
        yield world
        check_children_of(world.applier)


# -- specification 8.2 -------------------------------------------------------------------------------------------------


def test_r1_a_fork_is_an_entry_below_its_parent(w):
    w.fork(1, 3)
    assert w.read.live() == {1, 3}
    w.fork(3, 4)
    assert w.read.live() == {1, 3, 4}
    assert w.read.shape(4) == [(4, 1), (3, 1), (1, 1)]
    w.exit(4)
    assert w.read.live() == {1, 3}
    w.exit(3)
    assert w.read.live() == {1}


def test_r2_a_child_outlives_its_parent_and_keeps_its_creator(w):
    w.fork(1, 3)
    w.fork(3, 4)
    w.exit(3)
    row = w.proc(4)
    assert w.read.live() == {1, 4}
    assert row.ppid == 1 and w.read.follow(row.creator).tgid == 3
    # Kernel reparenting: the root's ancestor is the adopter's image (specification 9.2).
    assert w.read.shape(4) == [(4, 1), (1, 1)]
    assert flag(row, "ADOPTED") and flag(row, "ADOPTION_PREDICTED")
    w.exit(4)
    assert w.read.live() == {1}


def test_r2_without_a_reaper_the_exited_parent_stays_the_ancestor(w):
    w.fork(1, 3)
    w.fork(3, 4)
    event = w.story.exit(3)
    event.body["exit_flags"] = declared.EXIT_NO_REAPER
    event.body["reaper_tgid"] = 0
    event.apply(w.applier)
    assert w.read.shape(4) == [(4, 1), (3, 1), (1, 1)]
    assert (4, w.proc(4).start_boot_ns) in w.applier.take_wanted()


def test_r3_an_exec_is_an_entry_on_top_of_the_fork(w):
    w.fork(1, 3)
    w.fork(3, 4)
    fork = w.proc(4)
    w.exec(4, b"/bin/sh", args=[b"sh", b"-c", b"x"])
    row = w.proc(4)
    assert w.read.live() == {1, 3, 4}
    assert w.read.shape(4) == [(4, 2), (4, 1), (3, 1), (1, 1)]
    assert row.row != fork.row and row.path == b"/bin/sh" and row.comm == b"sh"
    old = w.read.row(fork.row)
    assert flag(old, "REPLACED") and not flag(old, "HEAD") and old.exit_boot_ns == row.exec_boot_ns
    assert flag(row, "HEAD") and flag(row, "IS_EXEC") and not flag(row, "IS_EXEC_EXEC")
    w.exit(4)
    assert w.read.live() == {1, 3}


def test_r5_an_orphan_execs(w):
    w.fork(1, 3)
    w.fork(3, 4)
    w.exit(3)
    w.exec(4)
    assert w.read.live() == {1, 4}
    assert w.read.shape(4) == [(4, 2), (4, 1), (1, 1)]
    assert w.proc(4).ppid == 1 and w.read.follow(w.proc(4).creator).tgid == 3
    w.exit(4)
    assert w.read.live() == {1}


def test_r6_two_execs_are_two_images(w):
    w.fork(1, 3)
    w.fork(3, 4)
    w.exec(4, b"/bin/a")
    w.exec(4, b"/bin/b")
    assert [r.path for r in w.read.chain(4)][:3] == [b"/bin/b", b"/bin/a", b"/sbin/init"]
    assert w.read.shape(4)[:4] == [(4, 3), (4, 2), (4, 1), (3, 1)]


def test_r7_a_recycled_pid_is_another_process(w):
    p1 = w.fork(1, 3)
    w.fork(3, 4)
    w.exit(3)
    w.exec(4, b"/bin/sh")
    p2 = w.fork(1, 3)
    c2 = w.fork(3, 5)
    assert w.read.live() == {1, 3, 4, 5}
    assert w.proc(3).start_boot_ns == int(p2.header["start_boot_ns"][0])
    assert w.read.follow(w.proc(3).previous_owner).start_boot_ns == int(p1.header["start_boot_ns"][0])
    assert w.read.follow(w.proc(4).creator).start_boot_ns == int(p1.header["start_boot_ns"][0])
    assert w.read.chain(5)[1].start_boot_ns == int(p2.header["start_boot_ns"][0])
    w.exit(4)
    assert w.read.live() == {1, 3, 5}
    w.exit(3)
    assert w.read.live() == {1, 5}
    assert int(c2.header["start_boot_ns"][0]) == w.proc(5).start_boot_ns


def test_r8_a_child_keeps_the_image_that_forked_it(w):
    w.fork(1, 3)
    w.fork(3, 4)
    w.fork(4, 5)
    w.exec(4, b"/bin/sh")
    assert w.read.shape(5) == [(5, 1), (4, 1), (3, 1), (1, 1)]
    assert w.read.shape(4) == [(4, 2), (4, 1), (3, 1), (1, 1)]
    w.exit(3)
    assert w.read.live() == {1, 4, 5}
    w.exit(4)
    # The exit moved 5 below its reaper; its creator is the image that forked it.
    assert w.read.shape(5) == [(5, 1), (1, 1)]
    assert w.read.follow(w.proc(5).creator).images == 1


def test_r9_an_exec_bomb_is_folded(w):
    def again(digest: int) -> Event:
        event = w.story.exec(4, b"/bin/x", inode=456, args=[b"x"])
        event.apply(w.applier, digest=digest)
        return event

    w.fork(1, 4)
    again(7)
    head = w.proc(4)
    event = again(7)
    assert w.proc(4).row == head.row and w.proc(4).exec_boot_ns == event.time
    assert w.read.counter("exec_bomb") == 1
    again(8)
    assert w.proc(4).images == 3, "something else was hidden in its arguments"


def test_r10_a_fork_from_an_image_with_a_lost_exec_is_marked(w):
    w.fork(1, 3)
    w.exec(3, b"/bin/agent", inode=123)
    w.fork(3, 4)
    assert w.proc(4).path == b"/bin/agent" and not flag(w.proc(4), "PARENT_MISSING")
    w.story.exec(4, b"/bin/sh", inode=456)
    w.fork(4, 5)
    row = w.proc(5)
    assert row.path == b"/bin/agent" and flag(row, "PARENT_MISSING") and flag(row, "GAP")
    assert w.read.chain(5)[1].tgid == 4


def test_r11_an_exec_after_a_lost_exec_is_marked(w):
    w.fork(1, 3)
    w.exec(3, b"/bin/agent", inode=123)
    w.fork(3, 4)
    w.story.exec(4, b"/bin/lost", inode=456)
    w.exec(4, b"/bin/sh", inode=789)
    row = w.proc(4)
    assert row.path == b"/bin/sh" and flag(row, "PARENT_MISSING") and flag(row, "GAP")
    # The next exec replaces the image that is there: no mark.
    w.exec(4, b"/bin/ls")
    assert not flag(w.proc(4), "PARENT_MISSING")


def test_r12_exec_on_exec(w):
    w.fork(1, 3)
    w.fork(3, 4)
    seen = []
    for path in (None, b"/a", b"/b", b"/c"):
        if path:
            w.exec(4, path)
        seen.append((flag(w.proc(4), "IS_EXEC"), flag(w.proc(4), "IS_EXEC_EXEC")))
    assert seen == [(False, False), (True, False), (True, True), (True, True)]


def test_r13_exec_on_exec_after_a_snapshot(w):
    parent = w.story.begin(3, inode=10)
    parent.parent = w.story.processes[1]
    child = w.story.begin(4, inode=10)
    child.parent = parent
    w.snapshot(3)
    w.snapshot(4)
    assert not flag(w.proc(3), "IS_EXEC") and not flag(w.proc(4), "IS_EXEC")
    assert w.read.chain(4)[1].tgid == 3
    w.exec(4, b"/a", inode=456)
    assert flag(w.proc(4), "IS_EXEC") and not flag(w.proc(4), "IS_EXEC_EXEC")
    w.exec(4, b"/b", inode=769)
    assert flag(w.proc(4), "IS_EXEC") and flag(w.proc(4), "IS_EXEC_EXEC")
    assert w.read.shape(4) == [(4, 3), (4, 2), (4, 1), (3, 1), (1, 1)]


def test_r18_children_of_an_exited_process_move_to_the_subreaper(w):
    w.fork(1, 10)
    w.story.processes[10].is_subreaper = True
    w.fork(10, 11)
    w.exec(11, b"/bin/father")
    w.fork(11, 12)
    w.exec(12, b"/bin/child")
    w.exit(11)
    row = w.proc(12)
    assert row.ppid == 10 and w.read.follow(row.parent).tgid == 10
    assert w.read.shape(12) == [(12, 2), (12, 1), (10, 1), (1, 1)]
    assert flag(row, "ADOPTED") and flag(row, "ADOPTION_PREDICTED")
    w.change(12, declared.KIND_COMM, comm=b"renamed")
    assert not flag(w.proc(12), "ADOPTION_PREDICTED") and w.proc(12).comm == b"renamed"
    assert w.read.counter("reparents_confirmed") == 1


def test_r19_to_r22_the_kernels_word_on_the_parent(w):
    w.fork(1, 10)
    w.fork(10, 11)
    w.fork(11, 12)
    now = w.story.tick()
    assert not w.applier.reparent(12, 11, now)
    assert w.applier.reparent(12, 10, now)
    assert w.proc(12).ppid == 10 and w.read.chain(12)[1].tgid == 10
    w.applier.take_wanted()
    assert not w.applier.reparent(12, 999, now)
    assert w.proc(12).ppid == 10 and w.read.chain(12)[1].tgid == 10
    assert w.applier.take_wanted() == [(999, 0)]
    # Each is wanted once until it is taken, and then again.
    for _ in range(3):
        wanted = list(range(900, 906))
        for ppid in [*wanted, *reversed(wanted), *wanted[2:]]:
            w.applier.reparent(12, ppid, now)
        assert w.applier.take_wanted() == [(ppid, 0) for ppid in wanted]
        w.applier.reparent(12, 905, now)
        w.applier.reparent(12, 902, now)
        assert w.applier.take_wanted() == [(905, 0), (902, 0)]
    assert not w.applier.reparent(12, 0, now)
    assert not w.applier.reparent(1, 12, now), "no process is its own ancestor"


# -- facts that a fork copies ------------------------------------------------------------------------------------------


def test_a_fork_shares_image_and_arguments_and_has_its_own_facts(w):
    w.fork(1, 3)
    w.exec(3, b"/bin/sh", args=[b"sh", b"-x"], envs=[b"A=1"])
    w.story.processes[3].cgroup = 7
    w.fork(3, 4, cgroup=8, uid=1000)
    up, row = w.proc(3), w.proc(4)
    for name in ("file_ref", "args_ref", "envs_ref", "name_ref", "inode", "exec_boot_ns", "argc", "comm", "cookie"):
        assert getattr(row, name) == getattr(up, name), name
    assert row.uid == row.euid == 1000 and row.cgroup_id == 8
    assert row.fork_boot_ns > row.start_boot_ns - 1 and not flag(row, "IS_EXEC")
    assert row.known & layout.KNOWN_CREATOR and row.creator_tgid == 3


def test_clone_parent_makes_a_sibling_of_its_creator(w):
    w.fork(1, 3)
    w.exec(3, b"/bin/sh")
    w.fork(1, 4, creator=3)
    row = w.proc(4)
    assert row.ppid == 1 and w.read.chain(4)[1].tgid == 1
    assert w.read.follow(row.creator).tgid == 3 and row.path == b"/bin/sh"
    assert flag(row, "ADOPTED") and not flag(row, "PARENT_MISSING")


def test_a_missing_parent_is_marked_and_linked_when_it_appears(w):
    w.story.fork(1, 3)
    w.fork(3, 4)
    row = w.proc(4)
    assert flag(row, "PARENT_MISSING") and w.read.follow(row.ancestor) is None and row.ppid == 3
    assert (3, w.story.processes[3].start) in w.applier.take_wanted()
    w.snapshot(3)
    row = w.proc(4)
    assert not flag(row, "PARENT_MISSING")
    assert w.read.shape(4) == [(4, 1), (3, 1), (1, 1)]
    assert w.read.follow(row.creator).tgid == 3


def test_a_process_with_another_identity_is_not_the_missing_parent(w):
    w.story.fork(1, 3)
    w.fork(3, 4)
    w.story.exit(3)
    # Every record of the first 3 was lost; its pid is used again.
    w.fork(1, 3)
    assert flag(w.proc(4), "PARENT_MISSING") and w.read.follow(w.proc(4).ancestor) is None
    assert w.proc(4).ppid == 0, "the pid names another process now"


# -- identity ----------------------------------------------------------------------------------------------------------


def test_one_pid_fifty_times(w):
    starts = []
    for i in range(50):
        event = w.fork(1, 77, uid=i)
        starts.append(int(event.header["start_boot_ns"][0]))
        w.exec(77, b"/bin/p%d" % i)
        w.exit(77, code=i << 8)
    row, found = w.proc(77), []
    while row is not None:
        found.append((row.start_boot_ns, row.path, row.exit_code >> 8, row.uid))
        row = w.read.follow(row.previous_owner)
    assert found == [(starts[i], b"/bin/p%d" % i, i, i) for i in reversed(range(50))]


def test_a_lost_exit_shows_when_the_pid_is_used_again(w):
    w.fork(1, 3)
    w.fork(3, 9)
    first = w.proc(3)
    w.story.exit(3)
    event = w.fork(1, 3)
    old = w.read.row(first.row)
    assert old.exit_boot_ns == event.time and flag(old, "EXIT_UNSEEN") and flag(old, "DELETED")
    assert w.read.counter("exits_unseen") == 1
    assert w.read.follow(w.proc(3).previous_owner).row == first.row
    assert w.proc(9).ppid == 0 and w.read.chain(9)[1].row == first.row


def test_a_late_exit_of_an_earlier_owner_leaves_its_successor_alone(w):
    w.fork(1, 3)
    first = w.proc(3)
    late = w.story.exit(3, code=256)
    w.fork(1, 3)
    late.apply(w.applier)
    assert w.read.live() == {1, 3}
    old = w.read.row(first.row)
    assert old.exit_boot_ns == late.time and not flag(old, "EXIT_UNSEEN")
    assert old.exit_code == 256 and flag(old, "EXIT_KNOWN")


def test_an_exit_before_its_fork_resurrects_no_process(w):
    fork = w.story.fork(1, 3)
    execed = w.story.exec(3, b"/bin/x")
    end = w.story.exit(3, code=9)
    end.apply(w.applier)
    assert w.read.head(3) is None and w.read.counter("exit_unknown") == 1
    fork.apply(w.applier)
    row = w.proc(3)
    assert row.exit_boot_ns == end.time and row.exit_code == 9 and w.read.live() == {1}
    execed.apply(w.applier)
    assert [(r.path, r.exit_boot_ns) for r in w.read.chain(3)][:2] == [
        (b"/bin/x", end.time), (b"/sbin/init", execed.time),
    ]  # fmt: skip
    assert w.read.live() == {1}


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))), ids=str)
def test_exits_of_four_owners_of_a_pid_before_their_forks(w, order):
    forks, ends = zip(*[(w.story.fork(1, 3), w.story.exit(3, code=code << 8)) for code in range(1, 5)], strict=True)
    for number in order:
        ends[number].apply(w.applier)
    assert w.read.counter("exit_unknown") == 4
    for fork in forks:
        fork.apply(w.applier)
    assert w.read.live() == {1}
    row = w.proc(3)
    for end in reversed(ends):
        assert row.exit_boot_ns == end.time and row.exit_code == int(end.body["exit_code"][0])
        assert not flag(row, "EXIT_UNSEEN")
        row = w.read.follow(row.previous_owner)


def test_of_five_exits_of_owners_of_a_pid_an_older_one_is_displaced(w):
    forks, ends = zip(*[(w.story.fork(1, 3), w.story.exit(3)) for _ in range(5)], strict=True)
    for end in ends:
        end.apply(w.applier)
    for fork in forks:
        fork.apply(w.applier)
    assert w.read.live() == {1}
    row = w.proc(3)
    for end in reversed(ends[1:]):
        assert row.exit_boot_ns == end.time and not flag(row, "EXIT_UNSEEN")
        row = w.read.follow(row.previous_owner)
    assert row.exit_boot_ns == forks[1].time and flag(row, "EXIT_UNSEEN"), "its end is that of its pid"


@pytest.mark.parametrize("late", ["facts from /proc", "facts of the iterator", "change", "exec", "fork"])
def test_a_process_that_has_ended_and_was_evicted_does_not_live_again(late):
    """A survey, or a record of a ring that was passed over, shows it alive; its exit was applied long ago."""
    with instance() as directory, checked(World(directory, retention_ns=1000)) as world:
        world.init()
        process = world.fork(1, 3)
        story = world.story
        change = story.change(3, declared.KIND_COMM, comm=b"late")
        execed = story.exec(3, b"/bin/late")
        ended = story.processes[3]
        world.exit(3)
        world.tables.evict_exited(story.tick() + 1_000_000, 10)
        assert world.read.head(3) is None
        story.processes[3] = ended
        if late.startswith("facts"):
            assert world.snapshot(3, ticks=late == "facts from /proc") == _applier.SAME
        else:
            {"change": change, "exec": execed, "fork": process}[late].apply(world.applier)
        assert world.read.live() == {1}
        world.fork(1, 3)
        assert world.read.live() == {1, 3}, "the next owner of the pid"
        check_children_of(world.applier)


def test_a_process_whose_start_was_known_to_the_tick_does_not_live_again():
    with instance() as directory, checked(World(directory, retention_ns=1000)) as world:
        world.init()
        world.story.fork(1, 3)
        ended = world.story.processes[3]
        assert world.snapshot(3, ticks=True) == _applier.ADDED
        world.exit(3)
        world.tables.evict_exited(world.story.tick() + 1_000_000, 10)
        world.story.processes[3] = ended
        assert world.snapshot(3) == _applier.SAME and world.read.live() == {1}


def test_a_late_fork_of_an_earlier_owner_becomes_history(w):
    fork = w.story.fork(1, 3)
    end = w.story.exit(3)
    w.fork(1, 3)
    fork.apply(w.applier)
    old = w.read.follow(w.proc(3).previous_owner)
    assert old.start_boot_ns == int(fork.header["start_boot_ns"][0])
    assert flag(old, "EXIT_UNSEEN") and w.read.live() == {1, 3}
    end.apply(w.applier)
    assert not flag(w.read.row(old.row), "EXIT_UNSEEN")
    assert w.read.row(old.row).exit_boot_ns == end.time


def test_many_exits_can_wait_for_their_forks(w):
    """While a ring is passed over, thousands of exits can come before their forks."""
    forks = [w.story.fork(1, tgid) for tgid in range(3, 1003)]
    ends = [w.story.exit(tgid, code=tgid << 8) for tgid in range(3, 1003)]
    for end in ends:
        end.apply(w.applier)
    for fork in forks:
        fork.apply(w.applier)
    rows = [w.proc(tgid) for tgid in range(3, 1003)]
    assert w.read.live() == {1}
    assert [(row.exit_code, row.exit_boot_ns) for row in rows] == [
        (tgid << 8, end.time) for tgid, end in zip(range(3, 1003), ends, strict=True)
    ]


@pytest.mark.parametrize("ticks", [False, True])
def test_a_fork_that_comes_after_proc_and_the_exit_leaves_the_end(w, ticks):
    """A process that /proc showed has ended when its fork arrives, which was in a ring that is late."""
    fork = w.story.fork(1, 3)
    w.snapshot(3, ticks=ticks, flags=layout.ROW_GAP)
    end = w.exit(3, code=256)
    fork.apply(w.applier)
    row = w.proc(3)
    assert (row.fork_boot_ns, row.exit_boot_ns, row.exit_code) == (fork.time, end.time, 256)
    assert flag(row, "DELETED") and flag(row, "EXIT_KNOWN") and not flag(row, "EXIT_UNSEEN")
    assert w.read.live() == {1}


@pytest.mark.parametrize("ticks", [False, True])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_an_exec_that_comes_after_proc_and_the_exit_leaves_the_end(w, ticks, order):
    fork = w.story.fork(1, 3)
    execed = w.story.exec(3, b"/bin/x")
    w.snapshot(3, b"/bin/x", ticks=ticks, flags=layout.ROW_GAP)
    end = w.exit(3, code=256)
    for number in order:
        (fork, execed)[number].apply(w.applier)
    row = w.proc(3)
    assert (row.path, row.fork_boot_ns, row.exit_boot_ns, row.exit_code) == (b"/bin/x", fork.time, end.time, 256)
    assert flag(row, "DELETED") and flag(row, "EXIT_KNOWN") and w.read.live() == {1}


@pytest.mark.parametrize("ticks", [False, True])
def test_an_exit_that_came_first_ends_a_process_that_proc_shows(w, ticks):
    """/proc was read while the process lived. Its exit was applied before that, and its fork comes last."""
    fork = w.story.fork(1, 3)
    seen = w.story.tick()
    end = w.exit(3, code=256)
    w.story.now, later = seen, w.story.now
    w.snapshot(3, ticks=ticks, flags=layout.ROW_GAP)
    w.story.now = later
    row = w.proc(3)
    assert (row.exit_boot_ns, row.exit_code) == (end.time, 256) and flag(row, "EXIT_KNOWN")
    assert w.read.live() == {1}
    fork.apply(w.applier)
    row = w.proc(3)
    assert row.start_boot_ns == int(fork.header["start_boot_ns"][0]) and row.exit_boot_ns == end.time
    assert flag(row, "DELETED") and w.read.live() == {1}


# -- exec --------------------------------------------------------------------------------------------------------------


def test_twenty_execs_in_one_pid_are_twenty_images_in_order(w):
    w.fork(1, 3)
    for i in range(20):
        w.exec(3, b"/bin/%d" % i)
    assert [r.path for r in w.read.chain(3)][:20] == [b"/bin/%d" % i for i in reversed(range(20))]
    assert w.proc(3).images == 21


def test_a_chain_of_images_has_an_end(w):
    w.fork(1, 3)
    for i in range(1500):
        w.exec(3, b"/bin/%d" % (i % 7))
    chain = [r for r in w.read.chain(3) if r.tgid == 3]
    assert 400 <= len(chain) <= 512
    assert chain[-1].images == 1, "the first image stays"
    assert sum(flag(r, "ELIDED") for r in chain) == 1
    assert w.read.counter("elided") > 0


def test_exec_from_a_thread_keeps_the_process(w):
    w.fork(1, 3)
    w.exec(3, b"/bin/t", tid=55)
    row = w.proc(3)
    assert row.tgid == 3 and row.tid == 55 and row.images == 2


def test_an_exec_without_a_fork_is_entered_and_marked(w):
    w.story.fork(1, 3)
    w.exec(3, b"/bin/x")
    row = w.proc(3)
    assert flag(row, "PARENT_MISSING") and flag(row, "GAP") and flag(row, "IS_EXEC")
    assert row.ppid == 1 and w.read.shape(3) == [(3, 1), (1, 1)]
    assert w.read.counter("exec_without_fork") == 1


def test_a_late_fork_completes_the_row_of_its_exec(w):
    fork = w.story.fork(1, 3)
    w.exec(3, b"/bin/x")
    fork.apply(w.applier)
    row = w.proc(3)
    assert row.images == 1 and row.path == b"/bin/x"
    assert row.fork_boot_ns == fork.time and w.read.follow(row.creator).tgid == 1
    assert w.read.counter("events_fork") == 1


def test_a_late_exec_is_inserted_at_its_place_in_the_chain(w):
    w.fork(1, 3)
    first = w.story.exec(3, b"/bin/1")
    w.exec(3, b"/bin/2")
    w.exec(3, b"/bin/3")
    first.apply(w.applier)
    chain = w.read.chain(3)
    assert [r.path for r in chain][:4] == [b"/bin/3", b"/bin/2", b"/bin/1", b"/sbin/init"]
    assert [r.images for r in chain][:4] == [4, 3, 2, 1]
    assert [r.exit_boot_ns for r in chain][:4] == [0, chain[0].exec_boot_ns, chain[1].exec_boot_ns, first.time]
    assert flag(chain[0], "HEAD") and not flag(chain[2], "HEAD")


def test_a_late_exec_was_the_one_that_was_missing(w):
    w.fork(1, 3)
    late = w.story.exec(3, b"/bin/a", inode=20)
    w.exec(3, b"/bin/b", inode=30)
    assert flag(w.proc(3), "PARENT_MISSING") and flag(w.proc(3), "GAP")
    late.apply(w.applier)
    assert [r.path for r in w.read.chain(3)[:2]] == [b"/bin/b", b"/bin/a"]
    assert not flag(w.proc(3), "PARENT_MISSING") and not flag(w.proc(3), "GAP")


def test_a_late_exec_does_not_undo_later_changes(w):
    w.fork(1, 3)
    w.story.processes[3].cgroup = 100
    late = w.story.exec(3, b"/bin/a")
    w.change(3, declared.KIND_CRED, uid=9, cgroup=7)
    late.apply(w.applier)
    row = w.proc(3)
    assert (row.path, row.images, row.uid, row.cgroup_id, row.comm) == (b"/bin/a", 2, 9, 7, b"a")


def test_an_exec_that_comes_after_the_end_is_counted_as_any(w):
    w.fork(1, 3)
    late = w.story.exec(3, b"/bin/a")
    w.exit(3)
    late.apply(w.applier)
    assert w.read.counter("added_event") == 2


def test_scripts_truncations_and_unreadable_arguments(w):
    w.fork(1, 3)
    flags = declared.EXEC_SCRIPT | declared.EXEC_ENVS_TRUNCATED | declared.EXEC_ARGS_UNREADABLE
    event = w.story.exec(3, b"/usr/bin/python3", name=b"./x.py", flags=flags, kept_args_bytes=0)
    event.apply(w.applier)
    row = w.proc(3)
    assert flag(row, "SCRIPT") and flag(row, "ENVS_TRUNCATED") and row.path == b"/usr/bin/python3"
    assert not row.known & layout.KNOWN_ARGS and row.args_ref == 0
    assert w.tables.names.py_bytes(row.name_ref) == b"./x.py"


def test_arguments_that_the_capture_omits_are_unknown_and_not_cut(w):
    w.fork(1, 3)
    event = w.story.exec(3, b"/bin/x", envs=[b"A=1", b"B=2"], kept_envs_bytes=0)
    event.apply(w.applier)
    row = w.proc(3)
    assert not row.known & layout.KNOWN_ENVS and not flag(row, "ENVS_TRUNCATED")
    assert row.known & layout.KNOWN_ARGS
    # Nor does a batch that reports them count them, as cut or otherwise.
    assert apply_batch(w.applier, event) == 1
    names = ("args_size", "args_truncated", "envs_size", "envs_truncated")
    assert [w.tables.counter(name) for name in names] == [event.body["argc"][0], 0, 0, 0]


def test_batches_count_arguments_and_environments_that_are_known(w):
    w.fork(1, 3)
    cut = w.story.exec(3, b"/bin/x", args=[b"x", b"y"], envs=[b"A=1", b"B=2"], kept_args_bytes=3, kept_envs_bytes=4)
    whole = w.story.exec(3, b"/bin/y", args=[b"y"], envs=[b"A=1"])
    absent = w.story.exec(3, b"/bin/z", args=[b"z"], kept_args_bytes=0)
    bare = head_only(w.story.exec(3, b"/bin/x", args=[b"x"], kept_args_bytes=1))
    assert apply_batch(w.applier, cut, whole, absent, bare) == 4
    names = ("args_size", "args_truncated", "envs_size", "envs_truncated", "path_error", "head_only")
    assert [w.read.counter(name) for name in names] == [3, 1, 3, 1, 0, 1]


@pytest.mark.parametrize(
    ("path", "name", "is_link"),
    [
        (b"/usr/bin/ls", b"/usr/bin/ls", False),
        (b"/usr/bin/ls", b"/bin/ls", True),  # a directory is the symbolic link
        (b"/usr/bin/busybox", b"/usr/bin/ls", True),
        (b"/usr/bin/ls", b"ls", False),
        (b"/usr/bin/ls", b"./ls", False),
        (b"/usr/bin/ls", b"/usr//bin/ls", False),
        (b"/usr/bin/ls", b"/usr/./bin/ls", False),
        (b"/usr/bin/ls", b"/usr/lib/../bin/ls", False),
        (b"/usr/bin/ls", b"/usr/bin/.ls", True),
        (b"/usr/bin/ls", b"/usr/bin/...", True),
        (b"/usr/bin/ls", b"/usr/bin/..", False),
        (b"/usr/bin/ls", b"", False),
        (b"/usr/bin/ls", b"/dev/fd/3", False),
        (b"/usr/bin/ls", b"/proc/self/fd/3", False),
    ],
)
def test_the_invoked_name_shows_whether_a_link_was_followed(w, path, name, is_link):
    w.fork(1, 3)
    w.exec(3, path, name=name)
    assert flag(w.proc(3), "THROUGH_SYMLINK") == is_link
    w.fork(3, 4)
    assert flag(w.proc(4), "THROUGH_SYMLINK") == is_link, "the child has the same image"
    w.exec(3, b"/bin/x")
    assert not flag(w.proc(3), "THROUGH_SYMLINK")


def test_a_path_below_the_tasks_root_is_compared_as_the_task_sees_it(w):
    w.fork(1, 3)
    for name, is_link in ((b"/bin/x", False), (b"/bin/y", True), (b"/jail/bin/x", True)):
        event = w.story.exec(3, b"/jail/bin/x", name=name)
        event.body["root_offset"] = len(b"/root")
        event.apply(w.applier)
        assert flag(w.proc(3), "THROUGH_SYMLINK") == is_link
    event = w.story.exec(3, b"/jail/bin/x", name=b"/bin/y", flags=declared.EXEC_DELETED)
    event.apply(w.applier)
    assert not flag(w.proc(3), "THROUGH_SYMLINK"), "where it was is not known for sure"


def test_a_record_that_claims_more_strings_than_it_has_changes_nothing(w):
    w.fork(1, 3)
    before = dump(w.tables)
    event = w.story.exec(3, b"/bin/x")
    event.body["args_bytes"] = 1 << 30
    event.apply(w.applier)
    assert dump(w.tables) == before and w.read.counter("malformed") == 1


# -- exit and lineage --------------------------------------------------------------------------------------------------


def test_exit_stamps_code_credentials_and_time(w):
    w.fork(1, 3)
    w.story.processes[3].uid = 42
    event = w.exit(3, code=11)
    row = w.proc(3)
    assert (row.exit_boot_ns, row.exit_code, row.uid, row.fsuid) == (event.time, 11, 42, 42)
    assert flag(row, "DELETED") and flag(row, "EXIT_KNOWN") and flag(row, "HEAD")


COST = {
    "cpu_user_ns": 10**12, "cpu_system_ns": 2, "children_cpu_ns": 3, "max_rss_bytes": 4, "read_bytes": 5,
    "write_bytes": 1 << 40, "minor_faults": 7, "major_faults": 8, "voluntary_switches": 9, "involuntary_switches": 10,
}  # fmt: skip


def cost_of(row):
    """The resources that a process has used, by its row; {}: unknown."""
    io = ("read_bytes", "write_bytes")
    return {name: getattr(row, name) for name in COST
            if row.known & (layout.KNOWN_IO if name in io else layout.KNOWN_COST)}  # fmt: skip


def test_exit_stores_what_the_process_has_used_in_its_newest_image(w):
    w.fork(1, 3)
    w.exec(3, b"/bin/cc")
    w.exit(3, cost=COST)
    assert cost_of(w.proc(3)) == COST
    assert [cost_of(row) for row in w.read.chain(3)[1:] if row.tgid == 3] == [{}]


def test_what_was_used_is_unknown_where_the_record_does_not_say_it(w):
    w.fork(1, 3)
    w.fork(1, 4)
    w.exit(3)
    w.exit(4, cost=COST, counts_io=False)
    assert cost_of(w.proc(3)) == {}
    assert cost_of(w.proc(4)) == {name: value for name, value in COST.items() if not name.endswith("_bytes")} | {
        "max_rss_bytes": 4
    }


def test_the_next_owner_of_a_row_has_used_nothing_yet(w):
    w.fork(1, 3)
    w.exit(3, cost=COST)
    w.fork(1, 3)
    assert cost_of(w.proc(3)) == {}


def test_a_late_child_has_not_used_what_its_creator_has(w):
    w.fork(1, 3)
    late = w.story.fork(3, 4)
    w.exit(3, cost=COST)
    late.apply(w.applier)
    assert w.proc(4).start_boot_ns and cost_of(w.proc(4)) == {}


def test_an_exit_before_its_fork_keeps_what_was_used(w):
    fork = w.story.fork(1, 3)
    w.exit(3, cost=COST)
    fork.apply(w.applier)
    assert cost_of(w.proc(3)) == COST


def test_a_late_exec_leaves_what_was_used_in_the_newest_image(w):
    w.fork(1, 3)
    late = w.story.exec(3, b"/bin/late")
    w.exit(3, cost=COST)
    late.apply(w.applier)
    assert w.proc(3).path == b"/bin/late" and cost_of(w.proc(3)) == COST
    assert [cost_of(row) for row in w.read.chain(3)[1:] if row.tgid == 3] == [{}]


def test_a_double_fork_ends_below_the_reaper_with_its_creator_known(w):
    w.fork(1, 3)
    w.fork(3, 4)
    w.fork(4, 5)
    w.exit(4)
    w.exec(5, b"/bin/daemon")
    row = w.proc(5)
    assert row.ppid == 1 and w.read.follow(row.creator).tgid == 4 and flag(row, "ADOPTED")
    assert w.read.shape(5) == [(5, 2), (5, 1), (1, 1)]


def test_a_reaper_that_ended_first_names_the_next_one(w):
    w.fork(1, 2)
    w.story.processes[2].is_subreaper = True
    w.fork(2, 3)
    w.fork(3, 4)
    father = w.story.exit(3)
    father.body["reaper_tgid"], father.body["reaper_start_boot_ns"] = 2, w.proc(2).start_boot_ns
    w.exit(2)
    father.header["time_boot_ns"] = w.story.tick()
    father.apply(w.applier)
    assert w.proc(4).ppid == 1 and w.read.chain(4)[1].tgid == 1


def test_a_record_between_exit_and_relink_does_not_move_the_child_back(w):
    w.fork(1, 3)
    w.fork(3, 4)
    old = w.story.processes[3]
    w.exit(3)
    child = w.story.processes[4]
    adopter, child.parent = child.parent, old
    w.change(4, declared.KIND_COMM, comm=b"x")
    assert w.proc(4).ppid == 1 and flag(w.proc(4), "ADOPTION_PREDICTED")
    child.parent = adopter
    w.change(4, declared.KIND_COMM, comm=b"y")
    assert not flag(w.proc(4), "ADOPTION_PREDICTED")


def test_a_wrong_prediction_is_corrected_by_the_next_record(w):
    w.fork(1, 2)
    w.fork(2, 3)
    w.fork(3, 4)
    w.exit(3)
    assert w.proc(4).ppid == 1
    w.story.processes[4].parent = w.story.processes[2]
    w.change(4, declared.KIND_COMM, comm=b"x")
    assert w.proc(4).ppid == 2 and w.read.chain(4)[1].tgid == 2
    assert w.read.counter("reparents_corrected") == 1


def test_a_process_that_ended_before_its_parent_returns_to_it(w):
    """The parent's exit was applied first, so the child was adopted for a time."""
    w.fork(1, 3)
    w.fork(3, 4)
    child = w.story.exit(4)
    w.exit(3)
    assert w.proc(4).ppid == 1 and flag(w.proc(4), "ADOPTION_PREDICTED")
    child.apply(w.applier)
    assert w.proc(4).ppid == 3 and w.read.chain(4)[1].tgid == 3
    assert w.read.counter("reparents_corrected") == 1


def test_the_children_of_a_pids_next_owner_stay_when_its_former_owner_ends(w):
    w.fork(1, 3)
    end = w.story.exit(3)
    late = w.story.fork(1, 3)
    w.fork(3, 4)
    end.apply(w.applier)
    assert w.proc(4).ppid == 3 and w.read.counter("reparents") == 0
    late.apply(w.applier)
    assert w.read.chain(4)[1].start_boot_ns == w.story.processes[3].start
    assert w.read.counter("reparents") == 0 and not flag(w.proc(4), "ADOPTED")


def test_children_wait_for_an_unknown_adopter(w):
    w.story.fork(1, 2)
    w.story.processes[2].is_subreaper = True
    w.fork(2, 3)
    w.fork(3, 4)
    w.exit(3)
    assert w.proc(4).ppid == 3 and (2, w.story.processes[2].start) in w.applier.take_wanted()
    w.snapshot(2)
    assert w.proc(4).ppid == 2 and w.read.chain(4)[1].tgid == 2
    assert flag(w.proc(4), "ADOPTED") and flag(w.proc(4), "ADOPTION_PREDICTED")
    w.change(4, declared.KIND_COMM, comm=b"x")
    assert not flag(w.proc(4), "ADOPTION_PREDICTED") and w.read.counter("reparents_confirmed") == 1


def test_a_child_waits_for_the_parent_that_its_record_names(w):
    """The kernel has named it, so the adoption is no prediction, and the next record has nothing to confirm."""
    w.fork(1, 3)
    w.story.fork(1, 5)  # lost
    w.fork(3, 4)
    w.story.processes[4].parent = w.story.processes[5]
    w.change(4, declared.KIND_COMM, comm=b"x")
    assert w.proc(4).ppid == 3 and (5, w.story.processes[5].start) in w.applier.take_wanted()
    assert w.applier.py_is_awaited(5)
    w.snapshot(5)
    assert not w.applier.py_is_awaited(5)
    assert w.proc(4).ppid == 5 and w.read.chain(4)[1].tgid == 5
    assert flag(w.proc(4), "ADOPTED") and not flag(w.proc(4), "ADOPTION_PREDICTED")
    w.change(4, declared.KIND_COMM, comm=b"y")
    assert w.read.counter("reparents_confirmed") == w.read.counter("reparents_corrected") == 0


def test_a_child_that_ends_or_gets_another_parent_waits_no_more(w):
    w.fork(1, 3)
    for parent, child in ((5, 4), (7, 6)):
        w.story.fork(1, parent)  # lost
        w.fork(3, child)
        w.story.processes[child].parent = w.story.processes[parent]
        w.change(child, declared.KIND_COMM, comm=b"x")
    assert w.applier.py_is_awaited(5) and w.applier.py_is_awaited(7)
    w.exit(4)
    assert not w.applier.py_is_awaited(5)
    w.story.fork(1, 8)  # lost
    w.story.processes[6].parent = w.story.processes[8]
    w.change(6, declared.KIND_COMM, comm=b"y")
    assert not w.applier.py_is_awaited(7) and w.applier.py_is_awaited(8)
    w.story.processes[6].parent = w.story.processes[3]
    w.change(6, declared.KIND_COMM, comm=b"z")
    assert w.proc(6).ppid == 3 and not w.applier.py_is_awaited(1 << 30)


@pytest.mark.parametrize(("kthreadd", "is_missing"), [(2, False), (0, True)])
def test_pid_2_is_the_parent_of_kernel_threads_only_in_the_initial_namespace(w, kthreadd, is_missing):
    w.applier = Applier(w.tables, kthreadd=kthreadd)
    w.story.fork(1, 2)
    w.fork(2, 3)
    assert flag(w.proc(3), "PARENT_MISSING") == is_missing
    assert ((2, w.story.processes[2].start) in w.applier.take_wanted()) == is_missing


def test_every_event_of_a_broken_lineage_counts(w):
    """Also those of descendants of the process without a parent, until the gap is closed; but no kernel threads."""
    broken = w.story.fork(1, 2)  # lost
    kernel = w.story.fork(1, 9)
    kernel.task["task_flags"] = 0x200000
    kernel.header["ppid"], kernel.header["parent_start_boot_ns"] = 8, 5
    apply_batch(w.applier, w.story.fork(1, 7), w.story.exec(7, b"/bin/a"), kernel)
    assert broken.kind == declared.KIND_FORK and w.read.counter("broken_lineage") == 0
    child = [w.story.fork(2, 3), w.story.exec(3, b"/bin/a"), w.story.fork(3, 4), w.story.exec(4, b"/bin/b")]
    apply_batch(w.applier, *child, w.story.exit(4))
    assert w.read.counter("broken_lineage") == 5
    w.snapshot(2)
    apply_batch(w.applier, w.story.fork(3, 5), w.story.exit(5))
    assert w.read.counter("broken_lineage") == 5


def test_a_child_of_a_process_outside_is_read_from_proc(w):
    """A creator outside of the recorded pid namespace has no number, and no image that the child could inherit."""
    w.fork(1, 2)
    assert w.applier.take_wanted() == []
    w.fork(99, 3)
    assert w.proc(3).ppid == 0 and w.applier.take_wanted() == [(3, w.story.processes[3].start)]


def test_children_in_a_dying_namespace_are_not_moved(w):
    w.fork(1, 3)
    w.fork(3, 4)
    event = w.story.exit(3)
    event.body["exit_flags"] = declared.EXIT_NS_DIES
    event.apply(w.applier)
    assert w.proc(4).ppid == 3 and w.read.counter("reparents") == 0


# -- changes -----------------------------------------------------------------------------------------------------------


def test_changes_of_a_process_that_lives(w):
    w.fork(1, 3)
    row = w.proc(3)
    w.change(3, declared.KIND_CRED, uid=1000)
    w.change(3, declared.KIND_COMM, comm=b"new")
    w.change(3, declared.KIND_CGROUP, cgroup=5)
    after = w.proc(3)
    assert after.row == row.row
    assert (after.uid, after.euid, after.comm, after.cgroup_id) == (1000, 1000, b"new", 5)
    assert [w.read.counter("events_" + k) for k in ("cred", "comm", "cgroup")] == [1, 1, 1]


def test_nothing_is_written_when_nothing_differs(w):
    w.fork(1, 3)
    before = w.proc(3)
    w.change(3, declared.KIND_CRED)
    assert w.proc(3).row_seq == before.row_seq


def test_an_older_record_does_not_undo_a_younger_one(w):
    w.fork(1, 3)
    late = w.story.change(3, declared.KIND_CRED, uid=5)
    w.change(3, declared.KIND_CRED, uid=6)
    late.apply(w.applier)
    assert w.proc(3).uid == 6


def test_a_change_of_an_unknown_process_enters_it(w):
    w.story.fork(1, 3)
    w.change(3, declared.KIND_CRED, uid=9)
    row = w.proc(3)
    assert row.uid == 9 and flag(row, "GAP") and w.read.chain(3)[1].tgid == 1
    assert (3, row.start_boot_ns) in w.applier.take_wanted()


def masks(row):
    return row.cap_attempted, row.cap_used


def test_attempted_capabilities_add_up_and_are_reset_by_an_exec(w):
    w.fork(1, 3)
    w.story.caps(3, 0b11, 0b01).apply(w.applier)
    w.story.caps(3, 0b100, 0b100).apply(w.applier)
    before = w.proc(3)
    assert masks(before) == (0b111, 0b101) and w.read.counter("events_caps") == 2
    assert w.read.counter("lost_none") == 0
    w.story.caps(3, 0b100, 0b001).apply(w.applier)
    assert w.proc(3).row_seq == before.row_seq
    late = w.story.caps(3, 0b1000, 0)
    w.exec(3, b"/bin/sh")
    assert masks(w.proc(3)) == (0, 0)
    late.apply(w.applier)
    assert [masks(row) for row in w.read.chain(3)[:2]] == [(0, 0), (0b1111, 0b101)], "it is the image's of that time"
    head_only(w.story.caps(3, 1, 1)).apply(w.applier)
    assert masks(w.proc(3)) == (0, 0) and w.applier.take_wanted() == []


# -- records without a body --------------------------------------------------------------------------------------------


def test_head_only_fork_exec_exit(w):
    head_only(w.story.fork(1, 3)).apply(w.applier)
    row = w.proc(3)
    assert flag(row, "HEAD_ONLY") and flag(row, "GAP") and row.ppid == 1 and w.read.chain(3)[1].tgid == 1
    assert not row.known & (layout.KNOWN_FILE | layout.KNOWN_CREDS | layout.KNOWN_CREATOR | layout.KNOWN_COMM)
    w.exec(3, b"/bin/sh")
    assert not flag(w.proc(3), "HEAD_ONLY") and w.proc(3).known & layout.KNOWN_CREDS
    head_only(w.story.exec(3, b"/bin/ls")).apply(w.applier)
    row = w.proc(3)
    assert row.images == 3 and row.path is None and flag(row, "HEAD_ONLY") and row.file_ref == row.args_ref == 0
    assert row.known & layout.KNOWN_SID and not row.known & layout.KNOWN_CREDS
    end = head_only(w.story.exit(3))
    end.apply(w.applier)
    row = w.proc(3)
    assert row.exit_boot_ns == end.time and not flag(row, "EXIT_KNOWN")
    assert w.read.counter("head_only") == 3


@pytest.mark.parametrize(
    ("kind", "unknown"),
    [
        # The fields that the programs for this kind of record compare: change.bpf.h.
        (declared.KIND_CRED, layout.KNOWN_CREDS | layout.KNOWN_CAPS | layout.KNOWN_AUID | layout.KNOWN_NS),
        (declared.KIND_SID, layout.KNOWN_SID | layout.KNOWN_TTY | layout.KNOWN_NS),
        (declared.KIND_COMM, layout.KNOWN_COMM),
        (declared.KIND_CGROUP, layout.KNOWN_CGROUP),
    ],
)
def test_head_only_change_makes_the_facts_unknown(w, kind, unknown):
    w.fork(1, 3)
    before = w.proc(3).known
    assert before & unknown == unknown
    head_only(w.story.change(3, kind, uid=4)).apply(w.applier)
    assert w.proc(3).known == before & ~unknown
    assert w.proc(3).start_boot_ns in [start for _, start in w.applier.take_wanted()]


@pytest.fixture
def told():
    """A world with a stream: `told.numbers()` is how many events each topic has."""
    with instance() as directory:
        world = World(directory)
        world.applier = Applier(world.tables, encoder := Encoder(bytes(16)))
        world.init()
        world.numbers = lambda: topics_of(encoder)
        yield world
        world.tables.close()


@pytest.mark.parametrize("kind", [declared.KIND_CRED, declared.KIND_SID])
def test_a_change_that_a_comparison_found_is_marked_until_one_is_seen_exactly(told, kind):
    told.fork(1, 3)
    topic = "proc.cred" if kind == declared.KIND_CRED else "proc.context"
    sampled(told.story.change(3, kind, uid=4)).apply(told.applier)
    assert told.proc(3).uid == 4 and flag(told.proc(3), "CHANGE_SAMPLED")
    assert told.numbers()[topic] == 1
    told.change(3, declared.KIND_COMM, comm=b"q")
    assert flag(told.proc(3), "CHANGE_SAMPLED"), "a change of name says nothing of credentials"
    told.change(3, kind, uid=5)
    assert told.proc(3).uid == 5 and not flag(told.proc(3), "CHANGE_SAMPLED")
    sampled(told.story.change(3, kind, uid=6)).apply(told.applier)
    told.exec(3, b"/bin/a")
    assert told.proc(3).uid == 6 and not flag(told.proc(3), "CHANGE_SAMPLED"), "the exec read them itself"


@pytest.mark.parametrize("kind", [declared.KIND_CRED, declared.KIND_SID])
def test_an_event_says_after_which_time_its_change_happened(kind):
    """Only the event of the record that says so, whether it is the only one of its frame or not."""
    with instance() as directory:
        world = World(directory, boot_unix_ns=10**18)
        encoder = Encoder(bytes(16))
        encoder.topics_mask = 0xFF
        world.applier = Applier(world.tables, encoder)
        world.init()
        world.fork(1, 3)
        encoder.take()
        found = [
            sampled(world.story.change(3, kind, uid=4), 500),
            world.story.change(3, kind, uid=5),
            sampled(world.story.change(3, kind, uid=6), 600),
            sampled(world.story.change(3, kind, uid=7)),
            world.story.change(3, declared.KIND_COMM, comm=b"q"),
        ]
        apply_batch(world.applier, *found)
        sampled(world.story.change(3, kind, uid=8), 700).apply(world.applier)
        events = sorted(take(encoder), key=lambda event: event["order"])
        assert [event.get("changed_after_ns", "no key") for event in events] == [
            10**18 + 500, None, 10**18 + 600, None, "no key", 10**18 + 700,
        ]  # fmt: skip
        world.tables.close()


def test_a_comparison_that_finds_what_is_known_makes_no_event(told):
    """The kernel's cache knew less than the row."""
    told.fork(1, 3)
    before = told.numbers()
    sampled(told.story.change(3, declared.KIND_SID)).apply(told.applier)
    assert told.numbers() == before and not flag(told.proc(3), "CHANGE_SAMPLED")
    found = sampled(told.story.change(3, declared.KIND_CRED, uid=7))
    late = sampled(told.story.change(3, declared.KIND_CRED, uid=8))
    told.exit(3)
    late.header["time_boot_ns"] = told.story.now
    numbers = told.numbers()
    late.apply(told.applier)
    assert told.numbers() == numbers and told.proc(3).uid == 8, "the exit record has it; nothing follows an end"
    found.apply(told.applier)
    assert told.numbers() != numbers, "it was found before the end"


def test_a_successor_publishes_what_a_comparison_found_as_its_predecessor_did():
    def story_of(world: World) -> None:
        world.fork(1, 3)
        sampled(world.story.change(3, declared.KIND_CRED, uid=4)).apply(world.applier)
        world.change(3, declared.KIND_COMM, comm=b"q")
        sampled(world.story.change(3, declared.KIND_SID, uid=5)).apply(world.applier)
        world.exec(3, b"/bin/a")
        sampled(world.story.change(3, declared.KIND_CRED, uid=6)).apply(world.applier)
        world.exit(3)

    with instance() as directory:
        told, world, _ = told_by(directory, story_of)
        assert (told["proc.cred"], told["proc.context"]) == (2, 2)
        again = Encoder(bytes(16))
        applier = Applier(world.tables, again)
        for event in world.story.events:
            event.apply(applier)
        assert topics_of(again) == told
        world.tables.close()


@pytest.mark.parametrize("kept", [0, 1])
def test_the_buffers_of_a_record_are_released(w, kept):
    """Whether it is applied or refused: a `bytearray` of which somebody has a view cannot change its length."""
    w.fork(1, 3)
    event = w.story.exec(3, b"/bin/a")
    assert event.body is not None
    buffers = [bytearray(each) for each in (event.header.tobytes(), event.task.tobytes(), event.body.tobytes())]
    buffers.append(bytearray(event.strings))
    if kept:
        buffers[1].append(0)
        with pytest.raises(ValueError, match="expected a record of"):
            w.applier.apply_records(*buffers)
    else:
        assert w.applier.apply_records(*buffers)
    for buffer in buffers:
        buffer.clear()


# -- /proc -------------------------------------------------------------------------------------------------------------


def test_a_snapshot_of_a_process_with_queued_events(w):
    """fork, exec, then /proc is read, then the events arrive: the result is the same as without reading /proc."""
    w.fork(1, 3)
    events_ = [w.story.fork(3, 4), w.story.exec(4, b"/bin/a", inode=5), w.story.exec(4, b"/bin/b", inode=6)]
    assert w.snapshot(4, b"/bin/b", flags=0) == _applier.ADDED
    for event in events_:
        event.apply(w.applier)
    row = w.proc(4)
    assert w.read.shape(4) == [(4, 3), (4, 2), (4, 1), (3, 1), (1, 1)]
    assert [r.path for r in w.read.chain(4)][:2] == [b"/bin/b", b"/bin/a"]
    assert w.read.follow(row.creator).tgid == 3 and row.fork_boot_ns == events_[0].time
    flags = [(flag(r, "IS_EXEC"), flag(r, "IS_EXEC_EXEC")) for r in w.read.chain(4)][:3]
    assert flags == [(True, True), (True, False), (False, False)]


def test_ticks_and_nanoseconds_are_one_entry(w):
    w.fork(1, 3)
    fork = w.story.fork(3, 4)
    w.snapshot(4, b"/sbin/init", ticks=True, flags=0)
    assert flag(w.proc(4), "START_TICKS")
    fork.apply(w.applier)
    row = w.proc(4)
    assert row.start_boot_ns == int(fork.header["start_boot_ns"][0]) and not flag(row, "START_TICKS")
    assert row.images == 1 and w.read.live() == {1, 3, 4}
    assert w.read.follow(row.previous_owner) is None and w.read.counter("exits_unseen") == 0, "one, not two"
    # The other order: /proc is read after the exact start of the process is known.
    row = w.proc(3)
    assert w.snapshot(3, b"/sbin/init", ticks=True, flags=0) != _applier.ADDED
    assert (w.proc(3).row, w.proc(3).start_boot_ns) == (row.row, row.start_boot_ns)
    assert w.read.follow(w.proc(3).previous_owner) is None and w.read.counter("exits_unseen") == 0


def test_an_exec_between_capture_and_snapshot(w):
    w.story.begin(3, inode=10).parent = w.story.processes[1]
    execed = w.story.exec(3, b"/bin/new", inode=77)
    w.snapshot(3, b"/bin/new")
    execed.apply(w.applier)
    chain = w.read.chain(3)
    assert [r.path for r in chain][:2] == [b"/bin/new", None]
    assert chain[1].inode == 10 and flag(chain[1], "BEFORE_CAPTURE")
    assert chain[0].exec_boot_ns == execed.time


def test_proc_shows_unreported_changes(w):
    w.fork(1, 3)
    w.exec(3, b"/bin/a", inode=5, args=[b"a"])
    assert w.snapshot(3, b"/bin/a", args=[b"a"]) == _applier.SAME
    w.story.change(3, declared.KIND_CRED, uid=77)
    assert w.snapshot(3, b"/bin/a", args=[b"a"]) == _applier.CHANGED
    assert w.proc(3).uid == 77
    w.story.exec(3, b"/bin/lost", inode=6)
    assert w.snapshot(3, b"/bin/lost", args=[b"l"]) == _applier.CHANGED
    row = w.proc(3)
    assert row.path == b"/bin/lost" and row.images == 3 and flag(row, "GAP") and flag(row, "IS_EXEC_EXEC")


def test_an_image_has_the_name_that_the_maps_have_now(w):
    """Cookies are new with each supervisor, and the kernel's maps can lose them."""
    w.fork(1, 3)
    w.exec(3, b"/bin/a", inode=5, args=[b"a"])
    process = w.story.processes[3]
    told, process.cookie = process.cookie, 4711
    assert told and w.snapshot(3, b"/bin/a", args=[b"a"]) == _applier.SAME
    assert w.proc(3).cookie == 4711
    process.cookie = 0
    assert w.snapshot(3, b"/bin/a", args=[b"a"]) == _applier.SAME
    assert w.proc(3).cookie == 4711, "0 is unknown"


def test_an_image_from_proc_begins_like_one_of_an_exec(w):
    """It inherits the ssh session (specification 5.2) and starts with empty capability masks; it counts as added."""
    w.fork(1, 3)
    w.story.caps(3, 0b11, 0b01).apply(w.applier)
    head = w.proc(3)
    extra = msgpack.packb({"ssh": {"ssh_session_id": 5}, "tracer_metadata": {"schema_version": 1}})
    w.tables.py_begin(head.row)
    w.tables.py_set_ref("extra", head.row, w.tables.py_intern_args(extra))
    w.tables.py_end(head.row)
    w.story.exec(3, b"/bin/lost", inode=77)
    assert w.snapshot(3, b"/bin/lost", source=layout.SOURCE_PROCFS, flags=0) == _applier.CHANGED
    row = w.proc(3)
    assert row.images == 2 and masks(row) == (0, 0)
    assert msgpack.unpackb(w.tables.args.py_bytes(row.extra_ref)) == {"ssh": {"ssh_session_id": 5}}
    assert w.read.counter("added_procfs") == 1


def test_an_exec_seen_in_proc_before_its_record_is_one_image(w):
    w.fork(1, 3)
    fork = w.proc(3)
    told = w.story.exec(3, b"/bin/new", inode=77, args=[b"new"])
    assert w.snapshot(3, b"/bin/new", source=layout.SOURCE_PROCFS, flags=0) == _applier.CHANGED
    child = w.story.fork(3, 4)
    told.apply(w.applier)
    child.apply(w.applier)
    row = w.proc(3)
    assert (row.images, row.path, row.exec_boot_ns, row.source) == (2, b"/bin/new", told.time, layout.SOURCE_EVENT)
    assert w.read.row(fork.row).exit_boot_ns == told.time and not flag(row, "GAP")
    assert w.proc(4).path == b"/bin/new"


def test_a_fork_older_than_a_survey_does_not_come_from_the_surveyed_image(w):
    w.fork(1, 3)
    w.exec(3, b"/bin/old", inode=76)
    child = w.story.fork(3, 4)
    w.story.exec(3, b"/bin/lost", inode=77)
    w.snapshot(3, b"/bin/lost", source=layout.SOURCE_PROCFS, flags=0)
    child.apply(w.applier)
    assert (w.proc(4).path, w.proc(4).inode) == (b"/bin/old", 76) and w.read.chain(4)[1].path == b"/bin/old"


def test_arguments_that_a_process_wrote_over_are_no_exec(w):
    w.fork(1, 3)
    w.exec(3, b"/bin/nginx", inode=5, args=[b"nginx"])
    assert w.snapshot(3, b"/bin/nginx", args=[b"nginx: worker"]) == _applier.SAME
    assert w.tables.args.py_bytes(w.proc(3).args_ref)[4:] == b"nginx\0" and w.proc(3).images == 2


def test_proc_is_not_believed_over_a_younger_event(w):
    w.fork(1, 3)
    process = w.story.processes[3]
    header = np.zeros(1, dtypes.HEADER)
    header["tgid"], header["start_boot_ns"], header["ppid"] = 3, process.start, 1
    header["time_boot_ns"] = w.story.now - 1
    task = task_of(process)
    task["uid"] = 99
    w.change(3, declared.KIND_COMM, comm=b"c")
    assert w.applier.insert_from_proc(header, task) == _applier.SAME
    assert w.proc(3).uid == 0


def test_a_process_that_is_gone_is_closed(w):
    w.fork(1, 3)
    w.fork(3, 4)
    start = w.proc(3).start_boot_ns
    assert not w.applier.close_missing(3, start, w.proc(3).start_boot_ns), "older than what is known"
    assert not w.applier.close_missing(3, start + 1, w.story.tick())
    assert w.applier.close_missing(3, start, w.story.tick())
    assert not w.applier.close_missing(3, start, w.story.tick())
    assert flag(w.proc(3), "EXIT_UNSEEN") and w.read.live() == {1, 4}
    assert (4, w.proc(4).start_boot_ns) in w.applier.take_wanted()


def test_a_parent_that_comes_late_is_linked_by_the_childs_next_record(w):
    """The parent's fork arrives after the child's; this does not count as reparenting."""
    parent = w.story.fork(1, 3)
    w.fork(3, 4)
    w.applier.take_wanted()
    parent.apply(w.applier)
    row = w.proc(4)
    assert w.read.shape(4) == [(4, 1), (3, 1), (1, 1)] and not flag(row, "PARENT_MISSING")
    w.change(4, declared.KIND_COMM, comm=b"x")
    assert w.read.counter("reparents") == 0 and not flag(w.proc(4), "ADOPTED")


# -- events for subscribers --------------------------------------------------------------------------------------------


def topics_of(encoder: Encoder) -> dict[str, int]:
    return {name: int(n) for name, n in zip(layout.TOPICS, encoder.sequences(), strict=False) if n}


def told_by(directory, story_of) -> tuple[dict[str, int], World, Encoder]:
    world = World(directory)
    world.applier = Applier(world.tables, encoder := Encoder(bytes(16)))
    world.init()
    story_of(world)
    return topics_of(encoder), world, encoder


def family(world: World) -> None:
    world.fork(1, 3)
    world.exec(3, b"/bin/sh")
    world.fork(3, 4)
    world.fork(3, 5)
    world.change(4, declared.KIND_CRED, uid=3)
    world.change(4, declared.KIND_COMM, comm=b"q")
    world.change(4, declared.KIND_SID)
    world.exit(3)
    world.exit(5)


def test_every_event_has_a_number_in_its_topic():
    with instance() as directory:
        told, world, _ = told_by(directory, family)
        assert told == {
            "proc.fork": 3, "proc.exec": 1, "proc.exit": 2, "proc.cred": 1, "proc.context": 2, "proc.reparent": 2,
        }  # fmt: skip
        world.tables.close()


def test_a_successor_numbers_as_its_predecessor_did():
    """Events that were applied and not committed are published again with the same numbers."""
    with instance() as directory:
        told, world, _ = told_by(directory, family)
        again = Encoder(bytes(16))
        applier = Applier(world.tables, again)
        for event in world.story.events:
            event.apply(applier)
        assert topics_of(again) == told
        world.tables.close()


# -- limits ------------------------------------------------------------------------------------------------------------


def test_a_full_table_drops_history_not_the_living():
    with instance() as directory:
        world = World(directory, row_capacity=64, chunk_rows=64)
        world.init()
        world.fork(1, 2)
        for i in range(300):
            world.fork(2, 100 + i)
            world.exec(100 + i, b"/bin/%d" % i)
            world.exit(100 + i)
        assert world.read.live() == {1, 2}
        for i in range(100):
            world.fork(2, 1000 + i)
        live = world.read.live()
        assert {1, 2} <= live and world.read.counter("table_full") > 0
        for tgid in live:
            assert world.proc(tgid).row_seq % 2 == 0
        validate_tables(world.tables)
        world.tables.close()


def test_a_full_table_still_follows_execs():
    with instance() as directory:
        world = World(directory, row_capacity=32, chunk_rows=32)
        world.init()
        tgid = 2
        while world.read.counter("table_full") == 0:
            world.fork(1, tgid)
            tgid += 1
        world.story.caps(5, 1, 1).apply(world.applier)
        world.exec(5, b"/bin/new")
        row = world.proc(5)
        assert row.path == b"/bin/new" and flag(row, "ELIDED") and flag(row, "IS_EXEC") and masks(row) == (0, 0)
        world.exec(5, b"/bin/newer")
        assert flag(world.proc(5), "IS_EXEC_EXEC")
        late = world.story.exec(5, b"/bin/late")
        world.exit(5, code=256)
        assert 5 not in world.read.live()
        late.apply(world.applier)
        row = world.proc(5)
        assert row.path == b"/bin/late" and flag(row, "EXIT_KNOWN") and row.exit_code == 256 and flag(row, "DELETED")
        world.tables.close()


def test_pids_outside_the_index_are_refused(w):
    event = w.story.fork(1, 3)
    event.header["tgid"] = 1 << 30
    event.apply(w.applier)
    event.header["tgid"] = 0
    event.apply(w.applier)
    assert w.read.counter("malformed") == 2
    with pytest.raises(ValueError):
        w.applier.insert_from_proc(event.header, event.task)


def test_applying_everything_twice_changes_nothing(w):
    w.fork(1, 2)
    story: list[Event] = [
        w.story.fork(2, 3), w.story.exec(3, b"/a"), w.story.fork(3, 4), w.story.exec(3, b"/b"),
        w.story.change(4, declared.KIND_CRED, uid=3), w.story.exit(3), w.story.exec(4, b"/c"), w.story.exit(4),
        w.story.fork(2, 3), w.story.exec(3, b"/d"),
    ]  # fmt: skip
    for event in story:
        event.apply(w.applier)
    once = dump(w.tables)
    for start in reversed(range(len(story))):
        for event in story[start:]:
            event.apply(w.applier)
        assert dump(w.tables) == once, start
