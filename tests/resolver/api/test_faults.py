"""Faults of comparable systems that no other test covers; docs/parity.md lists all of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.bus.frames.frame import decode_frame
from pipeline.export.forest import forest
from pipeline.host import boot
from pipeline.records import declared
from pipeline.resolver.apply._applier import Applier
from pipeline.resolver.entries.entry_rows import Book
from pipeline.shm.check.validate import validate_tables
from pipeline.shm.layout import layout
from pipeline.shm.reader.table import ProcessTable
from tests.resolver.applier_world import World, flag
from tests.resolver.resolver_world import check_children_of, high, world
from tests.resolver.story import BOOT_ID, Event, Story, apply_frame, instance, make_tables, message_of_columns
from tests.sampling import times
from tests.shm import _inside

LIVE = times(65_536, 8_192)
#: The distance of their pids, so that they have all pids of the kernel, and 16 bits do not distinguish them.
PIDS_APART = 62 * (65_536 // LIVE)


@pytest.fixture
def w() -> Iterator[World]:
    with instance() as directory:
        made = World(directory)
        made.init()
        yield made
        validate_tables(made.tables)
        check_children_of(made.applier)
        made.tables.close()


def family(w: World, tgid: int) -> tuple[int | None, list[tuple[int, int]]]:
    row = w.proc(tgid)
    creator = w.read.follow(row.creator)
    return creator.tgid if creator is not None else None, w.read.shape(tgid)


def test_a_parent_that_ended_before_its_child_was_seen(w: World) -> None:
    """fork of 4 on CPU 1, exit of 3 on CPU 0, ring 0 first: the child is not lost and gets no unrelated parent."""
    w.fork(1, 3)
    late = w.story.fork(3, 4)
    gone = w.proc(3)
    w.exit(3)
    late.apply(w.applier)
    assert family(w, 4) == (3, [(4, 1), (3, 1), (1, 1)])
    assert w.read.follow(w.proc(4).creator).row == gone.row and w.read.live() == {1, 4}
    w.change(4, declared.KIND_COMM, comm=b"x")  # its next record names the process that adopted it
    assert family(w, 4) == (3, [(4, 1), (1, 1)])
    assert w.proc(4).ppid == 1 and flag(w.proc(4), "ADOPTED")


def test_an_ended_parent_with_a_reused_pid(w: World) -> None:
    w.fork(1, 3)
    late = w.story.fork(3, 4)
    first = w.proc(3)
    w.exit(3)
    w.fork(1, 3)
    late.apply(w.applier)
    assert w.read.follow(w.proc(4).creator).row == first.row
    assert w.proc(3).row not in {row.row for row in w.read.chain(4)}


def test_after_a_lost_fork_a_child_is_not_linked_to_the_former_owner(w: World) -> None:
    """Lost: the exit of the first 3, and the fork of the second. The third child belongs to the second 3."""
    w.fork(1, 3)
    w.fork(3, 5)
    w.story.exit(3)
    w.story.fork(1, 3)
    w.fork(3, 4)
    assert w.read.follow(w.proc(4).parent) is None and w.proc(4).ppid == 3 and flag(w.proc(4), "PARENT_MISSING")
    book = Book(w.tables, w.applier, 0)
    stale = book.head(3)
    assert stale is not None and [child.pid for child in stale.children] == [5]
    w.tables.commit(1, np.zeros(4, np.uint64), np.zeros(4, np.uint64), np.zeros(16, np.uint64))
    w.tables.set_state(layout.STATE_READY)
    w.tables.heartbeat(boot.now_boot_ns())
    with ProcessTable.attach(path=w.tables.directory) as table:
        assert [child.pid for child in table.children(3)] == [5]
        (root, orphan) = forest(entry.to_dict() for entry in table.walk())
        assert root.entry["pid"] == 1 and orphan.entry["pid"] == 4


def test_a_change_of_credentials_after_an_exec_is_of_the_image_that_runs(w: World) -> None:
    w.fork(1, 3)
    w.exec(3, b"/usr/bin/su")
    w.fork(3, 4)
    w.change(3, declared.KIND_CRED, uid=1000)
    assert (w.proc(3).uid, w.proc(3).euid, w.proc(3).path) == (1000, 1000, b"/usr/bin/su")
    assert [row.uid for row in w.read.chain(3)] == [1000, 0, 0], "the image before it ran as root, and so did init"
    assert w.proc(4).uid == 0, "a child that was forked before keeps its own"
    w.exec(3, b"/bin/sh")
    w.fork(3, 5)
    assert (w.proc(3).uid, w.proc(5).uid) == (1000, 1000)
    assert [row.uid for row in w.read.chain(3)] == [1000, 1000, 0, 0]


def test_a_change_of_credentials_that_comes_after_the_next_exec_stays_with_its_time(w: World) -> None:
    """setuid on CPU 0, exec of a setuid program on CPU 1, ring 1 first: the exec has reported newer ids already."""
    w.fork(1, 3)
    late = w.story.change(3, declared.KIND_CRED, uid=1000)
    w.story.processes[3].uid = 7
    w.exec(3, b"/bin/sh")
    before = w.proc(3)
    late.apply(w.applier)
    after = w.proc(3)
    assert (after.row, after.uid, after.euid, after.path) == (before.row, 7, 7, b"/bin/sh")
    w.fork(3, 4)
    assert w.proc(4).uid == 7


def segments(directory: Path) -> dict[str, bytes]:
    return {
        name: (directory / name).read_bytes()
        for name in ("control", "index", "hot", "cold", "costs", "names", "args", "envs")
    }


def test_a_look_up_of_a_reader_changes_nothing() -> None:
    with instance() as directory:
        made = World(directory)
        made.init()
        for tgid in range(3, 40):
            made.fork(1 if tgid < 6 else tgid - 3, tgid)
            made.exec(tgid, b"/bin/%d" % tgid, args=[b"x", b"y"])
        for tgid in (5, 8, 20):
            made.exit(tgid)
        made.tables.commit(1, np.zeros(4, np.uint64), np.zeros(4, np.uint64), np.zeros(16, np.uint64))
        made.tables.set_state(layout.STATE_READY)
        made.tables.heartbeat(boot.now_boot_ns())
        before = segments(directory)
        with ProcessTable.attach(path=directory) as table:
            for tgid in (1, 4, 5, 20, 39, 50, 60_000):
                entry = table.resolve(tgid)
                if entry is not None:
                    entry.to_dict()
                    table.resolve(tgid, at=entry.start_time_ns)
                    list(table.children(tgid))
                    for one in table.ancestors(tgid):
                        one.load()
            table.resolve_many(np.arange(1, 200, dtype=np.uint32))
            assert len(list(table.walk())) == 38
            table.stats()
        assert segments(directory) == before
        made.tables.close()


def test_a_look_up_of_the_resolver_changes_no_row() -> None:
    """This includes misses while procfs may not be read: no placeholder is entered for a pid without a process."""
    with world() as made:
        made.fork(0, 1)
        made.fork(1, 3)
        made.resolver.set_state(1)
        tables = made.tables
        before = tables.hot_view().tobytes(), tables.cold_view().tobytes(), tables.index_view().tobytes()
        for pid in (0, 1, high(3), high(4)):
            made.resolver.get(pid)
            made.resolver.find_cached(pid)
            made.resolver.resolve(pid, pid, 0, False, None)
        assert (tables.hot_view().tobytes(), tables.cold_view().tobytes(), tables.index_view().tobytes()) == before


def forks(like: Event, pids: npt.NDArray[np.uint32], starts: npt.NDArray[np.uint64]) -> bytes:
    """Return a message in which each process is forked 1 µs before its record, in all else like the one of an event."""
    header, task = np.repeat(like.header, len(pids)), np.repeat(like.task, len(pids))
    header["tgid"] = header["tid"] = task["ns_pid"] = pids
    header["start_boot_ns"], header["time_boot_ns"] = starts, starts + np.uint64(1_000)
    return message_of_columns(header, task, ring=0, from_pos=0, fork=np.repeat(like.body, len(pids)).tobytes())


@pytest.mark.slow
def test_65536_live_identities_do_not_collide() -> None:
    with instance() as directory:
        tables = make_tables(
            directory, row_capacity=LIVE + 8, chunk_rows=4096, pid_capacity=1 << 22, names_bytes=1 << 24, checked=False
        )
        applier, story = Applier(tables), Story()
        story.begin(1, inode=10)
        # Many share their start tick, too.
        pids = np.arange(LIVE, dtype=np.uint32) * PIDS_APART + 64
        starts = story.now + 2_000 * np.arange(1, LIVE + 1, dtype=np.uint64)
        apply_frame(applier, decode_frame(forks(story.fork(1, 2), pids, starts)))
        assert tables.heads_live == LIVE
        tables.commit(int(starts[-1]) + 1_000, np.zeros(4, np.uint64), np.zeros(4, np.uint64), np.zeros(16, np.uint64))
        tables.set_state(layout.STATE_READY)
        tables.heartbeat(boot.now_boot_ns())
        with ProcessTable.attach(path=directory) as table:
            rows = table.resolve_many(pids)
            assert (rows["tgid"] == pids).all()
            assert (rows["start_boot_ns"] == starts).all()
            assert len(np.unique(rows["start_boot_ns"] // boot.TICK_NS)) < LIVE // 1000
            assert len(np.unique(pids & 0xFFFF)) < LIVE
            names = {entry.entity_id for entry in table.walk()}
            assert len(names) == LIVE
            assert names == {
                boot.entity_id(BOOT_ID, int(pid), int(start)) for pid, start in zip(pids, starts, strict=True)
            }
        validate_tables(tables)
        tables.close()


def test_entries_that_no_pid_slot_holds_are_whole(w: World) -> None:
    """Earlier images, exited ancestors and shared arguments are ordinary rows as long as they have a descendant."""
    w.fork(1, 3)
    w.exec(3, b"/bin/sh", args=[b"sh", b"-c", b"make"])
    w.fork(3, 4)
    w.fork(4, 5)
    w.exec(5, b"/usr/bin/make", args=[b"make"])
    shared = w.proc(4).args_ref
    assert shared == w.proc(3).args_ref != 0 and _inside.refcount(w.tables.args, shared) >= 2
    earlier, middle = w.read.chain(3)[1], w.proc(4)
    without_reaper = w.story.exit(4)
    without_reaper.body["exit_flags"], without_reaper.body["reaper_tgid"] = declared.EXIT_NO_REAPER, 0
    without_reaper.apply(w.applier)
    w.exit(3)
    w.tables.evict_exited(w.story.now + 10**15, 1000)
    assert w.read.live() == {1, 5} and w.read.head(3) is not None and w.read.head(4) is not None
    chain: list[SimpleNamespace] = w.read.chain(5)
    assert [(row.tgid, row.path) for row in chain] == [
        (5, b"/usr/bin/make"), (5, b"/bin/sh"), (4, b"/bin/sh"), (3, b"/bin/sh"), (3, b"/sbin/init"),
        (1, b"/sbin/init"),
    ]  # fmt: skip
    assert chain[2].row == middle.row and chain[2].args_ref == shared and chain[4].row == earlier.row
    assert bytes(w.tables.args.py_bytes(shared))[4:] == b"sh\0-c\0make\0"
    # No descendants are left: all of it is freed, with everything that it held.
    w.exit(5)
    w.tables.evict_exited(w.story.now + 10**15, 1000)
    assert [w.read.head(tgid) for tgid in (3, 4, 5)] == [None, None, None]
    assert _inside.find(w.tables.args, bytes(w.tables.args.py_bytes(w.proc(1).args_ref))) == w.proc(1).args_ref
    assert _inside.find(w.tables.args, b"\x0b\0\0\0sh\0-c\0make\0") == 0
