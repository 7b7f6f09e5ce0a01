"""Execs of the running program (specification 3.3.4): no new image, a later exec time."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import TooOldError
from pipeline.records import declared
from pipeline.resolver.apply._applier import Applier
from pipeline.secrets.conceal import Concealer
from pipeline.secrets.scrub import Scrubber
from pipeline.shm.check.validate import validate_tables
from pipeline.shm.layout import layout
from pipeline.shm.reader.table import ProcessTable
from pipeline.shm.writer._writer import TableWriter
from tests.resolver.applier_world import World
from tests.resolver.story import Reading, Story, apply_frame, checked, dump, enter_init, frame_of, instance, make_tables
from tests.sampling import times

BOOT_UNIX_NS = 1_700_000_000_000_000_000


@pytest.fixture
def w() -> Iterator[World]:
    with instance() as directory, checked(World(directory)) as world:
        world.init()
        yield world


def in_frames(directory: Path, story: Story) -> TableWriter:
    """Tables to which a story's events came as a frame of a ring, with the configured secrets hidden."""
    scrubber = Scrubber()
    concealer = Concealer(scrubber.scrub_argv, scrubber.literals, scrubber.program_names)
    tables = make_tables(directory, ring_count=1)
    applier = Applier(tables)
    enter_init(tables, applier, story)
    apply_frame(applier, concealer.sieve.frame(frame_of(story.events, ring=0, from_pos=0)), batch_events=3)
    return tables


def flags_of(row) -> set[str]:
    names = ("IS_EXEC", "IS_EXEC_EXEC", "PARENT_MISSING", "GAP", "HEAD", "REPLACED", "DELETED")
    return {name for name in names if row.flags & getattr(layout, "ROW_" + name)}


def test_a_program_that_executes_itself_is_one_image_with_a_later_exec_time(w: World) -> None:
    w.fork(1, 4)
    w.exec(4, b"/bin/x", args=[b"x"])
    first = w.proc(4)
    again = w.exec(4, b"/bin/x", args=[b"x"])
    row = w.proc(4)
    assert (row.row, row.images, row.exec_boot_ns) == (first.row, 2, again.time)
    assert w.read.counter("exec_bomb") == 1 and w.read.counter("added_event") == 2
    assert w.read.chain(4)[1].exit_boot_ns == first.exec_boot_ns, "it began when it began"
    w.exec(4, b"/bin/x", args=[b"x", b"y"])
    assert w.proc(4).images == 3 and flags_of(w.proc(4)) == {"IS_EXEC", "IS_EXEC_EXEC", "HEAD"}


def test_a_forked_process_that_executes_its_own_program_is_marked_as_exec(w: World) -> None:
    w.fork(1, 4)
    w.exec(4, b"/bin/x")
    w.fork(4, 5)
    w.exec(5, b"/bin/x")
    assert w.proc(5).images == 1 and flags_of(w.proc(5)) == {"IS_EXEC", "HEAD"}


def test_facts_that_are_not_compared_are_those_of_the_last_exec(w: World) -> None:
    w.fork(1, 3)
    w.fork(3, 4)
    w.exec(4, b"/bin/x")
    w.change(4, declared.KIND_COMM, comm=b"renamed")
    w.story.exit(3)  # lost
    w.story.processes[4].cgroup = 7
    event = w.exec(4, b"/bin/x", name=b"/link/x", tid=77)
    row = w.proc(4)
    assert row.images == 2 and (row.comm, row.cgroup_id, row.tid) == (b"x", 7, 77)
    assert row.cookie == int(event.task["cookie"][0]) and row.flags & layout.ROW_THROUGH_SYMLINK
    assert row.ppid == 1 and w.read.counter("reparent_success_kernel_ppid") == 1


@pytest.mark.parametrize("lost", [False, True])
def test_credentials_are_compared_as_they_are_at_the_exec(w: World, lost: bool) -> None:
    w.fork(1, 4)
    w.exec(4, b"/bin/x")
    change = w.story.change(4, declared.KIND_CRED, uid=9)
    if not lost:
        change.apply(w.applier)
    w.exec(4, b"/bin/x")
    assert (w.proc(4).images, w.proc(4).uid) == (3 if lost else 2, 9)


def test_another_program_between_that_was_lost_makes_two_images(w: World) -> None:
    w.fork(1, 4)
    w.exec(4, b"/bin/x")
    w.story.exec(4, b"/bin/lost")
    w.exec(4, b"/bin/x")
    assert w.proc(4).images == 3 and "PARENT_MISSING" in flags_of(w.proc(4))


def test_sources_without_ebpf_and_tracers_make_an_image_for_each_exec(w: World) -> None:
    w.fork(1, 4)
    for images in (2, 3):
        event = w.story.exec(4, b"/bin/x")
        event.header["flags"] |= declared.FLAG_PARTIAL
        event.apply(w.applier)
        assert w.proc(4).images == images


def test_frames_fold_and_hidden_values_distinguish_images() -> None:
    story = Story()
    story.begin(1, inode=10)
    story.fork(1, 4)
    for args, envs in (
        ([b"x"], []), ([b"x"], []), ([b"x", b"--password=a"], []), ([b"x", b"--password=b"], []),
        ([b"x", b"--password=b"], []), ([b"x"], [b"A=1"]), ([b"x"], [b"A=2"]), ([b"x"], [b"A=2"]),
    ):  # fmt: skip
        story.exec(4, b"/bin/x", args=args, envs=envs)
    with instance() as directory:
        tables = in_frames(directory, story)
        read = Reading(tables)
        shown = [bytes(tables.args.py_bytes(row.args_ref))[4:] for row in read.chain(4) if row.args_ref]
        assert shown == 2 * [b"x\0"] + 2 * [b"x\0--password=********\0"] + [b"x\0"]
        assert read.counter("exec_bomb") == 3 and read.counter("args_size") == 11
        tables.close()


def test_after_a_restart_the_stored_values_are_compared(w: World) -> None:
    """The applier forgets the hidden values in a restart, and the tree must not depend on when a restart happened."""
    w.fork(1, 4)
    w.exec(4, b"/bin/x", args=[b"x"])
    for row in w.read.chain(4):
        w.applier.py_forget_digest(row.row)
    w.exec(4, b"/bin/x", args=[b"x"])
    assert w.proc(4).images == 2
    w.applier.py_forget_digest(w.proc(4).row)
    w.exec(4, b"/bin/x", args=[b"y"])
    assert w.proc(4).images == 3


# -- past times --------------------------------------------------------------------------------------------------------


def test_a_look_up_as_of_a_past_time_finds_the_image_that_ran(w: World) -> None:
    fork = w.fork(1, 4)
    w.exec(4, b"/bin/a")
    a = w.exec(4, b"/bin/a")
    b = [w.exec(4, b"/bin/b") for _ in range(3)]
    late = w.story.fork(4, 5)
    c = w.exec(4, b"/bin/c")
    late.apply(w.applier)
    assert w.proc(5).path == b"/bin/b" and w.read.chain(5)[1].path == b"/bin/b"
    w.tables.set_state(layout.STATE_READY)
    w.tables.commit(w.story.now, *[np.zeros(4, np.uint64)] * 2, np.zeros(16, np.uint64))
    expected = [
        (fork.time, b"/sbin/init"), (a.time - 500, b"/bin/a"), (a.time + 500, b"/bin/a"), (b[0].time, b"/bin/b"),
        (b[0].time + 500, b"/bin/b"), (b[1].time + 1, b"/bin/b"), (b[2].time, b"/bin/b"), (c.time - 1, b"/bin/b"),
        (c.time, b"/bin/c"),
    ]  # fmt: skip
    with ProcessTable.attach(path=w.tables.directory) as table:
        for at, path in expected:
            assert w.read.row(w.applier.py_image_at(w.tables.py_head(4), at)).path == path
            found = table.resolve(4, at=BOOT_UNIX_NS + at)
            assert found is not None and found.path == path.decode(), at - fork.time


def test_a_fork_that_was_started_again_runs_from_its_beginning(w: World) -> None:
    w.fork(1, 4)
    w.exec(4, b"/bin/a")
    fork = w.fork(4, 5)
    w.exec(5, b"/bin/a")
    w.tables.set_state(layout.STATE_READY)
    w.tables.commit(w.story.now, *[np.zeros(4, np.uint64)] * 2, np.zeros(16, np.uint64))
    with ProcessTable.attach(path=w.tables.directory) as table:
        found = table.resolve(5, at=BOOT_UNIX_NS + fork.time)
        assert found is not None and found.path == "/bin/a" and found.image_number == 1


# -- late and repeated -------------------------------------------------------------------------------------------------


def history(world: World) -> list[tuple[object, ...]]:
    """The images of pid 4: their contents, and when they began and ended."""
    return [
        (row.images, row.path, bytes(world.tables.args.py_bytes(row.args_ref))[4:] if row.args_ref else None,
         row.exit_boot_ns, flags_of(row), row.exec_inode)
        for row in world.read.chain(4) if row.tgid == 4
    ]  # fmt: skip


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("seed", range(24))
def test_in_any_order_the_same_images_ran_at_the_same_times(seed: int, ends: bool) -> None:
    results = []
    for shuffled in (False, True):
        with instance() as directory:
            world = World(directory)
            world.init()
            world.fork(1, 4)
            rng, story = np.random.default_rng(seed), []
            for number in rng.integers(0, 3, 8):
                args = [b"x"] if number < 2 else [b"x", b"y"]
                story.append(world.story.exec(4, b"/bin/%d" % (number % 2), args=args))
            if ends:
                story.append(world.story.exit(4))
            order = rng.permutation(len(story)) if shuffled else range(len(story))
            for place in (*order, *order):
                story[place].apply(world.applier)
            results.append(history(world))
            validate_tables(world.tables)
            world.tables.close()
    found, expected = results[1], results[0]
    assert [one[1:4] for one in found] == [one[1:4] for one in expected]


@pytest.mark.parametrize("drops_privileges", [False, True])
def test_a_successor_that_receives_them_again_changes_nothing(w: World, drops_privileges: bool) -> None:
    story = [w.fork(1, 4)]
    story += [w.exec(4, path) for path in (b"/a", b"/a", b"/a", b"/b", b"/b", b"/a", b"/a")]
    if drops_privileges:
        story.append(w.change(4, declared.KIND_CRED, uid=9))
    once = dump(w.tables)
    for row in w.read.chain(4):
        w.applier.py_forget_digest(row.row)
    for start in reversed(range(len(story))):
        for event in story[start:]:
            event.apply(w.applier)
        assert dump(w.tables) == once, start


def test_a_late_exec_after_a_kill_is_inserted_by_the_next_writer(w: World) -> None:
    """The killed writer had only ended the image before."""
    w.fork(1, 4)
    w.exec(4, b"/bin/b")
    before = w.proc(4).row
    mid = w.story.exec(4, b"/bin/mid")
    c = w.exec(4, b"/bin/c")
    w.tables.py_begin(before)
    w.tables.hot_view()["exit_boot_ns"][before] = mid.time
    w.tables.py_end(before)
    mid.apply(w.applier)
    w.tables.set_state(layout.STATE_READY)
    w.tables.commit(w.story.now, *[np.zeros(4, np.uint64)] * 2, np.zeros(16, np.uint64))
    with ProcessTable.attach(path=w.tables.directory) as table:
        for at, path in ((mid.time - 1, "/bin/b"), (mid.time + 500, "/bin/mid"), (c.time, "/bin/c")):
            found = table.resolve(4, at=BOOT_UNIX_NS + at)
            assert found is not None and found.path == path
    times = [(row.exec_boot_ns, row.exit_boot_ns) for row in w.read.chain(4)[:3]]
    assert times[0] == (c.time, 0) and times[1] == (mid.time, c.time) and times[2][1] == mid.time


def test_an_image_that_took_the_place_of_the_forks_did_not_run_before() -> None:
    """The table was full: the process's earlier image is not retained."""
    with instance() as directory:
        world = World(directory, row_capacity=8, chunk_rows=8)
        world.init()
        fork = world.fork(1, 4)
        for pid in range(5, 12):
            world.fork(1, pid)
        world.exec(4, b"/bin/other")
        assert world.proc(4).path == b"/bin/other" and world.proc(4).flags & layout.ROW_ELIDED
        world.tables.set_state(layout.STATE_READY)
        world.tables.commit(world.story.now, *[np.zeros(4, np.uint64)] * 2, np.zeros(16, np.uint64))
        with ProcessTable.attach(path=world.tables.directory) as table, pytest.raises(TooOldError):
            table.resolve(4, at=BOOT_UNIX_NS + fork.time)
        world.tables.close()


# -- limits of a chain -------------------------------------------------------------------------------------------------

EXECS = times(10_000, 2500)


def test_ten_thousand_execs_of_the_same_are_one_image(w: World) -> None:
    w.fork(1, 4)
    for _ in range(EXECS):
        w.exec(4, b"/bin/x", args=[b"x"])
    assert w.proc(4).images == 2 and w.tables.rows_used == 3 and w.read.counter("exec_bomb") == EXECS - 1


@pytest.mark.slow
def test_ten_thousand_execs_of_something_else_are_a_chain_of_512() -> None:
    """Each exec has another argument: the chain is capped, and the dropped images are freed after their retention.

    Moving the process and walking its lineage cost no more than the cap.
    """
    with instance() as directory:
        world = World(directory, row_capacity=1 << 14, retention_ns=1_000_000)
        world.init()
        world.fork(1, 3)
        world.fork(3, 4)
        first = world.proc(4)
        used = []
        for number in range(EXECS):
            world.exec(4, b"/bin/x", args=[b"%d" % number])
            world.tables.evict_exited(world.story.now, 512)
            used.append(world.tables.rows_used)
        # 512 of its own and those of the last ms (one exec each us), plus the eighth of the chain that is cut at once.
        assert max(used) < 512 + 1000 + 64 + 4
        chain = world.read.chain(4)
        own = [row for row in chain if row.tgid == 4]
        assert len(own) <= 512 and own[0].images == EXECS + 1 and own[-1].row == first.row
        assert [row.images for row in own[:440]] == list(range(EXECS + 1, EXECS + 1 - 440, -1))
        assert any(row.flags & layout.ROW_ELIDED for row in own) and [row.tgid for row in chain[-2:]] == [3, 1]
        assert world.applier.py_root(own[0].row) == first.row
        survivor = next(row for row in own if row.flags & layout.ROW_ELIDED)
        late = world.story.exec(4, b"/bin/x", args=[b"late"])
        late.header["time_boot_ns"] = world.read.follow(survivor.ancestor).exit_boot_ns + 1
        late.apply(world.applier)
        below = world.read.follow(world.read.row(survivor.row).ancestor)
        assert below is not None and below.exec_boot_ns == late.time and below.exit_boot_ns == survivor.exec_boot_ns
        world.exit(3)
        assert world.proc(4).ppid == 1 and world.read.row(first.row).ppid == 1
        assert world.read.chain(4)[len(own) + 1].tgid == 1
        began = time.process_time()
        for _ in range(100):
            world.applier.py_root(own[0].row)
        assert time.process_time() - began < 0.1, "a walk of 512 rows takes a few us"
        validate_tables(world.tables)
        world.tables.close()


def test_execs_that_alternate_are_images(w: World) -> None:
    w.fork(1, 4)
    for path in itertools.islice(itertools.cycle((b"/a", b"/b")), 10):
        w.exec(4, path)
    assert w.proc(4).images == 11


@pytest.mark.parametrize("order", [(1, 0, 3, 2), (1, 3, 0, 2), (3, 1, 0, 2), (1, 3, 2, 0), (3, 2, 1, 0)], ids=str)
def test_an_exec_between_two_of_the_same_program_before_whose_fork_they_came(w: World, order: tuple[int, ...]) -> None:
    fork = w.story.fork(1, 4)
    first, between, again = (w.story.exec(4, b"/bin/x", args=[b"x"] * n) for n in (1, 2, 1))
    events_of = (fork, first, between, again)
    for number in order:
        events_of[number].apply(w.applier)
    images = [row for row in w.read.chain(4) if row.tgid == 4]
    assert [(row.argc, row.exec_boot_ns) for row in images if row.flags & layout.ROW_IS_EXEC] == [
        (1, again.time), (2, between.time), (1, first.time),
    ]  # fmt: skip
    assert [row.exit_boot_ns for row in images][:3] == [0, again.time, between.time]


# -- counters of frames ------------------------------------------------------------------------------------------------


def test_counts_of_a_frame_belong_to_the_process_of_the_record() -> None:
    story = Story()
    story.begin(1, inode=10)
    story.fork(1, 4)
    unknown = story.processes[4]
    story.exit(4)
    story.begin(9)  # no fork was reported for it
    story.fork(9, 4)
    late = story.change(4, declared.KIND_COMM, comm=b"late")
    late.header["start_boot_ns"] = unknown.start
    with instance() as directory:
        read = Reading(in_frames(directory, story))
        assert read.counter("broken_lineage") == 1, "the second fork; what came late is of another process"
        read.tables.close()
