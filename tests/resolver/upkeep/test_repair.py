"""When the repairer reads processes that events named, and how many at once."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from pipeline.resolver.apply._applier import Applier
from pipeline.resolver.upkeep import repair
from pipeline.resolver.upkeep.repair import NEVER_NS, Repairer
from pipeline.shm.layout import layout
from tests.resolver.story import Story, instance, make_tables

#: A pid of the story that nobody knows.
FIRST = 1000


class World:
    """A repairer over real tables; its `/proc` knows the processes of `known`, and its clock stands still."""

    def __init__(self, directory: Any) -> None:
        self.tables = make_tables(directory / "tables")
        self.applier = Applier(self.tables)
        self.story = Story()
        self.story.begin(1)
        self.now_ns = self.watermark_ns = 10**12
        self.closed: list[int] = []
        self.repairer = Repairer(
            self.tables, self.applier, cast("Any", self), None, now_boot_ns=lambda: self.now_ns,
            watermark=lambda: self.watermark_ns, concealer=cast("Any", SimpleNamespace(survey=lambda *_: None)),
            learn_cgroup=lambda *_: None, rows=cast("Any", None), close=self._close, fill_maps=lambda *_: 0,
        )  # fmt: skip

    def _close(self, tgid: int, start_boot_ns: int, time_boot_ns: int) -> bool:
        self.closed.append(tgid)
        return True

    def want(self, *parents: int) -> None:
        """Apply forks below unknown parents: the events name them, and the tables do not have them."""
        for number, parent in enumerate(parents):
            self.story.begin(parent)
            self.story.fork(parent, 20_000 + self.now_ns // 10**6 % 10_000 + number).apply(self.applier)

    # -- /proc: no process lives ---------------------------------------------------------------------------------------

    def list_pids(self) -> np.ndarray[Any, Any]:
        return np.zeros(0, np.uint32)

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


def test_what_the_snapshot_did_not_find_is_closed_when_the_events_are_applied(world: World) -> None:
    world.story.fork(1, 10).apply(world.applier)
    world.repairer.close_unseen()
    assert not world.closed  # there was no snapshot
    assert world.repairer.snapshot() == 0
    world.repairer.close_unseen()
    assert world.closed == [10] and world.tables.counter("repair_closed") == 1
    world.repairer.close_unseen()
    assert world.closed == [10]


def test_a_row_in_the_middle_of_a_change_is_ended(world: World) -> None:
    row = world.story.fork(1, 10).apply(world.applier)
    world.repairer.mend([])
    world.tables.py_begin(row)
    world.repairer.mend([row])
    hot = world.tables.hot_view()[row]
    assert not int(hot["row_seq"]) & 1 and int(hot["flags"]) & layout.ROW_GAP
    assert world.tables.counter("takeover_rows_repaired") == 1
