"""Which processes a timeline has: all that are retained, earlier owners of pids too, up to a limit."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import ProcessTable
from pipeline.select.selection import Selection
from pipeline.shm.layout import layout
from pipeline.timeline.reading import Found, newest, read
from tests.shm.handmade import BOOT_UNIX_NS, Tables

EXEC = layout.ROW_HEAD | layout.ROW_IS_EXEC
NOW = BOOT_UNIX_NS + 10_000_000


@pytest.fixture
def tables(shm_dir: Path) -> Tables:
    return Tables(shm_dir)


def found(tables: Tables, *, limit: int = 100, since_ns: int | None = None, **selection: Any) -> Found:
    with ProcessTable.attach("test", path=tables.directory) as table:
        return read(
            table, Selection(**selection), since_ns=since_ns, now_ns=NOW, limit=limit, progress=lambda text: None
        )


def pids(result: Found) -> list[int]:
    return sorted(process.entry["pid"] for process in result.processes)


def test_live_and_exited_processes_are_found(tables: Tables) -> None:
    tables.row(7)
    tables.row(8, exit_boot_ns=9000)
    result = found(tables)
    assert pids(result) == [7, 8] and result.left_out == 0
    ends = {process.entry["pid"]: process.entry["exit_time_ns"] for process in result.processes}
    assert ends == {7: None, 8: BOOT_UNIX_NS + 9000}
    assert (result.from_ns, result.to_ns) == (BOOT_UNIX_NS + 7000, NOW)


def test_an_earlier_owner_of_a_pid_is_a_process_of_its_own(tables: Tables) -> None:
    old = tables.row(7, start_boot_ns=100, exit_boot_ns=200)
    tables.row(7, start_boot_ns=300, previous_owner=tables.link(old))
    assert pids(found(tables)) == [7, 7]


def test_a_process_has_its_images_oldest_first(tables: Tables) -> None:
    parent = tables.row(3)
    first = tables.row(7, flags=layout.ROW_REPLACED, exit_boot_ns=7500, ancestor=tables.link(parent),
                       creator=tables.link(parent), parent=tables.link(parent))  # fmt: skip
    tables.row(7, flags=EXEC, exec_boot_ns=7500, images=2, ancestor=tables.link(first), creator=tables.link(parent),
               parent=tables.link(parent))  # fmt: skip
    processes = {process.entry["pid"]: process for process in found(tables).processes}
    assert [image.start_ns for image in processes[7].images] == [BOOT_UNIX_NS + 7000, BOOT_UNIX_NS + 7500]
    assert processes[7].images[-1].fields is processes[7].entry
    assert processes[7].entry["creator_entity_id"] == processes[3].entry["entity_id"]
    assert len(processes[3].images) == 1, "the image of the parent is none of the child"


def test_a_replaced_image_that_is_the_newest_read_did_not_end_its_process(tables: Tables) -> None:
    """Its process called exec while the rows were read, and the new image was not seen."""
    tables.row(7, flags=layout.ROW_REPLACED, exit_boot_ns=7500)
    [process] = found(tables).processes
    assert process.entry["exit_time_ns"] is None


def test_kernel_threads_are_left_out_unless_asked_for(tables: Tables) -> None:
    kernel = tables.row(2, flags=layout.ROW_HEAD | layout.ROW_KTHREAD)
    tables.row(5, flags=layout.ROW_HEAD | layout.ROW_KTHREAD, parent=tables.link(kernel), ppid=2)
    tables.row(7)
    assert pids(found(tables)) == [7]
    assert pids(found(tables, under=[2])) == [2, 5]


def test_since_leaves_out_what_had_ended(tables: Tables) -> None:
    tables.row(7, exit_boot_ns=7500)
    tables.row(8, exit_boot_ns=9000)
    tables.row(9)
    result = found(tables, since_ns=BOOT_UNIX_NS + 8500)
    assert pids(result) == [8, 9] and result.from_ns == BOOT_UNIX_NS + 8500


def test_what_descends_from_an_ended_process_is_still_under_it(tables: Tables) -> None:
    top = tables.row(7, exit_boot_ns=7500)
    below = tables.row(8, creator=tables.link(top), exit_boot_ns=8500)
    tables.row(9, creator=tables.link(below))
    tables.row(10)
    assert pids(found(tables, under=[7])) == [7, 8, 9]
    assert pids(found(tables, under=[7], since_ns=BOOT_UNIX_NS + 8600)) == [9]


def test_without_running_processes_the_timeline_ends_with_the_last_one(tables: Tables) -> None:
    tables.row(7, exit_boot_ns=7500)
    tables.row(8, exit_boot_ns=9000)
    assert found(tables).to_ns == BOOT_UNIX_NS + 9000


@pytest.mark.parametrize("flag", ["ROW_BEFORE_CAPTURE", "ROW_START_TICKS"])
def test_the_timeline_begins_with_the_first_process_that_was_captured(tables: Tables, flag: str) -> None:
    tables.row(7, flags=layout.ROW_HEAD | getattr(layout, flag))
    assert found(tables).from_ns == BOOT_UNIX_NS + 7000
    tables.row(9)
    assert found(tables).from_ns == BOOT_UNIX_NS + 9000


def test_nothing_is_found(tables: Tables) -> None:
    tables.row(7)
    assert found(tables, under=[8]).processes == []


def test_the_newest_are_kept_with_what_they_descend_from(tables: Tables) -> None:
    shell = tables.row(1)
    for pid in range(2, 50):
        tables.row(pid, creator=tables.link(shell), parent=tables.link(shell))
    result = found(tables, limit=5)
    assert pids(result) == [1, 46, 47, 48, 49] and result.left_out == 44


def kept(starts: list[int], above: list[int], limit: int, wanted: list[bool] | None = None) -> list[int]:
    is_wanted = np.array([True] * len(starts) if wanted is None else wanted)
    return sorted(newest(np.array(starts, np.uint64), np.array(above, np.int64), is_wanted, limit))


def test_the_limit_holds_for_any_lineage() -> None:
    chain = list(range(-1, 19))
    for limit in range(1, 25):
        places = kept(list(range(20)), chain, limit)
        assert len(places) == min(limit, 20)
    assert kept(list(range(20)), chain, 3) == [17, 18, 19], "a chain that is too long begins with the newest"
    assert kept([5, 1, 3], [-1, -1, -1], 2) == [0, 2]
    assert kept([1, 2, 3], [-1, 0, 1], 2, [True, False, True]) == [0, 2], "what was not asked for is not shown"
    assert kept([1, 2, 3, 4], [1, 0, 0, 0], 3) == [0, 1, 3], "a cycle ends"


def test_a_long_lineage_is_followed_no_further_than_the_limit() -> None:
    """A program that forks and exits, again and again, makes a lineage as long as the table."""
    count = 100_000
    started = time.monotonic()
    assert kept(list(range(count)), list(range(-1, count - 1)), 20_000) == list(range(count - 20_000, count))
    assert time.monotonic() - started < 5


def test_equal_arguments_are_kept_once(tables: Tables) -> None:
    for pid in (7, 8):
        tables.row(pid, flags=EXEC, known=layout.KNOWN_ARGS, argc=2, args_ref=tables.strings("args", b"x", b"y" * 999))
    one, other = (process.entry["argv"] for process in found(tables).processes)
    assert one == ["x", "y" * 999] and one is other
