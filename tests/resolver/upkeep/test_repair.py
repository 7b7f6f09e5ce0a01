"""When the repairer reads processes that events named, and how many at once."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from pipeline.procfs.info import ProcInfo
from pipeline.resolver.api.proc_rows import ProcRows
from pipeline.resolver.apply._applier import Applier
from pipeline.resolver.entries.kernel_maps import KernelMaps
from pipeline.resolver.upkeep import repair
from pipeline.resolver.upkeep.repair import NEVER_NS, Repairer
from pipeline.shm.layout import layout
from tests.resolver.resolver_world import FakeProc
from tests.resolver.story import Story, instance, make_tables

#: A pid that no process of the story has.
FIRST = 1000


class World:
    """A repairer over real tables; its `/proc` shows the processes of `proc`, and its clock stands still."""

    def __init__(self, directory: Any) -> None:
        self.tables = make_tables(directory / "tables")
        self.applier = Applier(self.tables)
        self.story = Story()
        self.story.begin(1)
        self.now_ns = self.watermark_ns = 10**12
        self.closed: list[int] = []
        self.proc = FakeProc()
        self.repairer = Repairer(
            self.tables, self.applier, cast("Any", self), None, now_boot_ns=lambda: self.now_ns,
            watermark=lambda: self.watermark_ns, concealer=cast("Any", SimpleNamespace(survey=lambda *_: None)),
            learn_cgroups=lambda _: None, close=self._close, fill_maps=lambda *_: 0,
            rows=ProcRows(self.tables, self.applier, KernelMaps(None, lambda name: None), 0),
        )  # fmt: skip

    def _close(self, pids: Any, starts_boot_ns: Any, is_absent: Any, time_boot_ns: int) -> int:
        assert list(is_absent) == [pid not in self.proc.infos for pid in pids.tolist()]
        self.closed += pids.tolist()
        return len(pids)

    def want(self, *parents: int) -> None:
        """Apply forks below unknown parents: the events name them, and the tables do not have them."""
        for number, parent in enumerate(parents):
            self.story.begin(parent)
            self.story.fork(parent, 20_000 + self.now_ns // 10**6 % 10_000 + number).apply(self.applier)

    def show(self, pid: int, ppid: int) -> None:
        """From now on, `/proc` shows a process of the story."""
        start = self.story.processes[pid].start
        self.proc.add(pid, ppid, start_boot_ns=start, comm=b"init", pgid=1, sid=1, tty=b"pts0", exe_inode=0)

    # -- /proc ---------------------------------------------------------------------------------------------------------

    def list_pids(self) -> np.ndarray[Any, Any]:
        return np.array(self.proc.list_pids(), np.uint32)

    def read(self, tgid: int, want: int) -> ProcInfo | None:
        return self.proc.read(tgid, want)

    def absent(self, tgids: np.ndarray[Any, Any], live: int, show_life: Any) -> np.ndarray[Any, Any]:
        return np.array([tgid not in self.proc.infos for tgid in tgids.tolist()], np.bool_)

    @property
    def reads(self) -> int:
        return self.tables.counter("procfs_reads")


@pytest.fixture
def world() -> Iterator[World]:
    with instance() as directory:
        made = World(directory)
        yield made
        made.tables.close()


def test_a_named_process_is_read_at_once_and_then_not_for_a_while(world: World) -> None:
    assert world.repairer.due_boot_ns == NEVER_NS
    world.want(FIRST)
    assert world.repairer.due_boot_ns <= world.now_ns
    world.repairer.do_work()
    assert world.reads == 1 and world.repairer.due_boot_ns == NEVER_NS
    world.want(FIRST + 1)
    world.repairer.do_work()
    assert world.reads == 1 and world.repairer.due_boot_ns == world.now_ns + repair.WANTED_PAUSE_NS
    world.now_ns = world.repairer.due_boot_ns
    world.repairer.do_work()
    assert world.reads == 2 and world.repairer.due_boot_ns == NEVER_NS


def test_a_process_that_was_read_a_moment_ago_is_read_again_later(world: World) -> None:
    """Not forgotten: what the second event said is missing may be missing for ever."""
    world.want(FIRST)
    world.repairer.do_work()
    world.now_ns += repair.WANTED_PAUSE_NS
    world.want(FIRST)
    world.repairer.do_work()
    assert world.reads == 1
    deadline_ns = world.now_ns + repair.WANTED_AGAIN_NS + repair.WANTED_PAUSE_NS
    while world.reads == 1:
        world.now_ns = world.repairer.due_boot_ns
        assert world.now_ns < deadline_ns
        world.repairer.do_work()
    assert world.reads == 2 and world.repairer.due_boot_ns == NEVER_NS


def test_many_are_read_in_portions(world: World) -> None:
    count = 2 * repair.WANTED_MAX + 10
    world.want(*range(FIRST, FIRST + count))
    reads = []
    while world.reads < count:
        world.now_ns = max(world.now_ns, world.repairer.due_boot_ns)
        before = world.reads
        world.repairer.do_work()
        reads.append(world.reads - before)
    assert reads == [repair.WANTED_MAX, repair.WANTED_MAX, 10]


def test_no_more_than_a_number_wait(world: World) -> None:
    for first in range(FIRST, FIRST + 3000, 1000):
        world.want(*range(first, first + 1000))
        world.repairer.do_work()
        world.now_ns += repair.WANTED_PAUSE_NS
    while world.repairer.due_boot_ns < NEVER_NS:
        world.now_ns = max(world.now_ns, world.repairer.due_boot_ns)
        world.repairer.do_work()
    assert world.reads <= 3 * repair.WANTED_MAX + repair.WANTED_WAITING_MAX


def test_a_survey_is_compared_as_soon_as_the_events_of_its_time_are_applied(world: World) -> None:
    world.watermark_ns = world.now_ns - 1
    world.repairer.start()
    assert world.repairer.active and world.repairer.due_boot_ns == NEVER_NS
    world.watermark_ns = world.now_ns + 1
    assert world.repairer.due_boot_ns == 0
    world.repairer.do_work()
    assert world.tables.counter("repairs") == 1 and not world.repairer.active
    assert world.repairer.due_boot_ns == NEVER_NS


def moved(world: World) -> tuple[int, int]:
    """Return how many moves are counted for exits and for repairs."""
    count = world.tables.counter
    return count("reparent_success_do_exit"), count("reparent_success_dequeue_exited")


def family(world: World) -> None:
    """Pid 1 has the children 10 and 12, of which the latter was moved there by the exit of 11; 13 is a child of 10."""
    world.show(1, 0)
    assert world.repairer.snapshot() == 1
    for parent, pid in ((1, 10), (1, 11), (11, 12), (10, 13)):
        world.story.fork(parent, pid).apply(world.applier)
    world.story.exit(11).apply(world.applier)
    assert moved(world) == (1, 0)


def test_a_repair_adds_moves_and_closes_processes(world: World) -> None:
    family(world)
    world.story.fork(1, 14)  # lost, as is the exit of 10
    for pid in (12, 13, 14):
        world.show(pid, 1)
    world.watermark_ns += 1
    world.repairer.start()
    assert world.repairer.do_work() == 3
    assert world.tables.counter("repair_added") == world.tables.counter("repair_changed") == 1
    hot = world.tables.hot_view()
    assert {pid: int(hot["ppid"][world.tables.py_head(pid)]) for pid in (12, 13, 14)} == {12: 1, 13: 1, 14: 1}
    assert world.closed == [10] and moved(world) == (1, 1)
    world.repairer.start()
    assert world.repairer.do_work() == 1, "only the test's `close` does not close"
    assert moved(world) == (1, 1)


def test_the_new_parent_that_an_exit_did_not_name_is_read(world: World) -> None:
    family(world)
    end = world.story.exit(10)
    assert end.body is not None
    end.body["reaper_tgid"] = end.body["reaper_start_boot_ns"] = 0
    end.apply(world.applier)
    world.show(13, 1)
    assert world.repairer.do_work() == 0 and world.repairer.active
    world.watermark_ns += 1
    assert world.repairer.do_work() == 1
    assert int(world.tables.hot_view()["ppid"][world.tables.py_head(13)]) == 1
    assert moved(world) == (2, 0)


def test_what_the_snapshot_did_not_find_is_closed_when_the_events_are_applied(world: World) -> None:
    world.story.fork(1, 10).apply(world.applier)
    world.repairer.close_unseen()
    assert not world.closed  # there was no snapshot
    assert world.repairer.snapshot() == 0
    world.repairer.close_unseen()
    assert world.closed == [10] and world.tables.counter("repair_closed") == 1
    world.repairer.close_unseen()
    assert world.closed == [10]


def test_children_are_closed_before_their_parents(world: World) -> None:
    """So that no child of a process that is closed has to be moved first. Row numbers say nothing about age."""
    for parent, pid in ((1, 10), (10, 11), (11, 12), (1, 13), (10, 14)):
        world.story.fork(parent, pid).apply(world.applier)
    world.story.exec(10).apply(world.applier)
    assert world.repairer.snapshot() == 0
    world.repairer.close_unseen()
    assert world.closed == [14, 13, 12, 11, 10]


def test_a_row_in_the_middle_of_a_change_is_ended(world: World) -> None:
    row = world.story.fork(1, 10).apply(world.applier)
    world.repairer.mend([])
    world.tables.py_begin(row)
    world.repairer.mend([row])
    hot = world.tables.hot_view()[row]
    assert not int(hot["row_seq"]) & 1 and int(hot["flags"]) & layout.ROW_GAP
    assert world.tables.counter("takeover_rows_repaired") == 1
