"""A few fields, and the pids of ancestors, of many processes: the same as in whole rows."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import BusyError, StaleError
from pipeline.shm.layout import layout
from pipeline.shm.reader import _reader
from pipeline.shm.reader.table import ProcessTable
from tests.shm.handmade import BOOT_UNIX_NS, Tables

LARGE = 5000  #: rows of a table that is walked in another way


@pytest.fixture(params=[256, LARGE])
def tables(request: pytest.FixtureRequest, shm_dir: Path) -> Tables:
    tables = Tables(shm_dir, rows=request.param)
    return tables


@pytest.fixture
def table(tables: Tables) -> ProcessTable:
    return ProcessTable.attach(path=tables.directory)


def chain(tables: Tables, *pids: int, **fields: object) -> int:
    """Each process is the parent of the next; returns the last row."""
    row, above = 0, 0
    for pid in pids:
        link = tables.link(row) if row else 0
        row = tables.row(pid, ancestor=link, parent=link, creator=link, ppid=above, **fields)
        above = pid
    return row


def test_fields_are_those_of_the_rows(tables: Tables, table: ProcessTable) -> None:
    chain(tables, *range(10, 90), exec_boot_ns=77)
    tables.row(100, ppid=4, exit_boot_ns=500, flags=layout.ROW_HEAD | layout.ROW_DELETED, start_boot_ns=0)
    pids = np.array([100, *range(10, 90)], np.uint32)
    whole = table.resolve_many(pids)
    found = table.resolve_many(pids, fields=_reader.PROJECTED)
    assert found.dtype.names == ("pid", "found", *_reader.PROJECTED)
    assert found["pid"].tolist() == pids.tolist() and found["found"].all()
    assert found["ppid"].tolist() == whole["ppid"].tolist()
    assert found["start_boot_ns"].tolist() == whole["start_boot_ns"].tolist()
    for name in ("start", "exec", "exit"):
        times = [BOOT_UNIX_NS + ns if ns else 0 for ns in whole[f"{name}_boot_ns"].tolist()]
        assert found[f"{name}_time_ns"].tolist() == times
    assert table.resolve_many([10], fields=["ppid"]).dtype.names == ("pid", "found", "ppid")


def test_what_is_missing_keeps_its_pid(tables: Tables, table: ProcessTable) -> None:
    chain(tables, 10, 11)
    found = table.resolve_many([11, 999, 10, 2**31], fields=("start_time_ns", "ppid"))
    assert found["pid"].tolist() == [11, 999, 10, 2**31]
    assert found["found"].tolist() == [True, False, True, False]
    assert found["ppid"].tolist() == [10, 0, 0, 0] and found["start_time_ns"][1] == 0
    assert len(table.resolve_many([], fields=("ppid",))) == 0
    tables.control["state"] = layout.STATE_FILLING
    assert table.resolve_many([11], fields=("ppid",))["found"].all()
    with pytest.raises(StaleError):
        table.resolve_many([999], fields=("ppid",))
    with pytest.raises(StaleError):
        table.ancestor_pids_many([999])


def test_other_fields_are_refused(tables: Tables, table: ProcessTable) -> None:
    with pytest.raises(ValueError, match="did you mean 'start_time_ns'"):
        table.resolve_many([1], fields=("start_time",))
    with pytest.raises(ValueError, match="`columns` has all"):
        table.resolve_many([1], fields=("zz",))
    with pytest.raises(ValueError, match="either"):
        table.resolve_many([1], np.empty(1, layout.HOT), fields=("ppid",))
    with pytest.raises(ValueError, match="2 dimensions"):
        table.resolve_many([[1]], fields=("ppid",))


def test_an_image_that_is_being_replaced_is_looked_up_again(tables: Tables, table: ProcessTable) -> None:
    """The index still names it; only the flags, which are not in the first cache line, say so."""
    row = tables.row(10, exit_boot_ns=50, flags=layout.ROW_REPLACED, ppid=3)
    before = table.busy_retries
    assert table.resolve_many([10], fields=("ppid",))["found"].all()  # after its writer was killed there
    assert table.busy_retries > before
    tables.hot["row_seq"][row] += 1
    for read in (lambda: table.resolve_many([10], fields=("ppid",)), lambda: table.ancestor_pids_many([10])):
        with pytest.raises(BusyError):
            read()


def expect_ancestors_of_the_rows(table: ProcessTable, pids: list[int], by: str = "ancestor") -> None:
    rows, offsets = table.ancestors_many(pids, by=by)
    for depth in (1, 2, 7, 64):
        found = table.ancestor_pids_many(pids, depth, by=by)
        assert found.ancestors.shape == (len(pids), depth) and found.pid.tolist() == pids and found.found.all()
        for place, pid in enumerate(pids):
            tgids = rows["tgid"][offsets[place] : offsets[place + 1]].tolist()
            expected = [tgid for tgid, below in zip(tgids, [pid, *tgids], strict=False) if tgid != below]
            shown = expected[:depth]
            assert found.ancestors[place].tolist() == shown + [0] * (depth - len(shown)), (depth, place, pid)


def test_pids_of_ancestors_are_those_of_the_rows(tables: Tables, table: ProcessTable) -> None:
    chain(tables, *range(10, 60))
    chain(tables, 100, 100, 101, 102, 102, 102, 103)  # with earlier images
    expect_ancestors_of_the_rows(table, [*range(10, 60), 103, 102, 100])
    for by in ("parent", "creator"):
        assert table.ancestor_pids_many([12], 3, by=by).ancestors.tolist() == [[11, 10, 0]]


@pytest.mark.parametrize("by", ["ancestor", "parent", "creator"])
def test_processes_of_one_parent_have_its_chain(tables: Tables, table: ProcessTable, by: str) -> None:
    """A chain that was walked in a call is copied for the next process behind the same link."""
    shell = tables.link(chain(tables, 10, 11, 12))
    for pid in range(20, 40):
        row = tables.row(pid, ancestor=shell, parent=shell, creator=shell)
        if pid % 3 == 0:  # an earlier image of itself is in between
            again = tables.link(row)
            tables.row(pid, ancestor=again, parent=shell, creator=shell)
    pids = [*range(20, 40), 12, 11, 10, *range(39, 19, -1)]
    expect_ancestors_of_the_rows(table, pids, by)


@pytest.mark.parametrize("by", ["ancestor", "parent", "creator"])
@pytest.mark.parametrize("order", [[50, 51], [51, 50]])
def test_an_earlier_image_is_an_ancestor_of_its_child_only(
    tables: Tables, table: ProcessTable, by: str, order: list[int]
) -> None:
    """Pid 50 forked 51 and then executed a program. Both have a link to the image that forked."""
    image = tables.link(chain(tables, 10, 11, 50))
    tables.row(51, ancestor=image, parent=image, creator=image)
    tables.row(50, ancestor=image, parent=image, creator=image)
    expect_ancestors_of_the_rows(table, order * 20, by)


@pytest.mark.parametrize("seed", range(12))
def test_chains_that_join_anywhere(tables: Tables, table: ProcessTable, seed: int) -> None:
    """Copies of chains that were walked before are equal to what the hops would find."""
    chance = random.Random(seed)
    rows: list[int] = []
    heads: dict[int, int] = {}
    for number in range(240):
        pid, above = 10 + number, 0
        if heads and chance.random() < 0.4:  # an exec
            pid = chance.choice(list(heads))
            above = heads[pid]
        elif rows:  # a fork, of few or of many processes
            above = chance.choice(rows[-chance.choice((1, 3, 240)) :])
        link = tables.link(above) if above else 0
        heads[pid] = tables.row(pid, ancestor=link, parent=link, creator=link)
        rows.append(heads[pid])
    for row in rows if seed % 3 == 0 else ():
        if row not in heads.values() and chance.random() < 0.1:
            tables.hot["generation"][row] += 1  # not retained
    pids = [*heads, *heads]
    chance.shuffle(pids)
    expect_ancestors_of_the_rows(table, pids)
    expect_ancestors_of_the_rows(table, list(heads))


def test_a_row_with_an_end_is_not_mixed_with_its_neighbours(tables: Tables, table: ProcessTable) -> None:
    """Ended, missing and live processes in one call, at every place of the loop that reads live ones."""
    chain(tables, *range(10, 40))
    for pid in range(40, 60):
        tables.row(pid, ppid=7, exit_boot_ns=pid, flags=layout.ROW_HEAD | layout.ROW_DELETED)
    pids = np.array([pid for n in range(20) for pid in (10 + n, 40 + n, 900 + n)], np.uint32)
    for names in (("ppid", "start_time_ns"), ("ppid",), ("start_boot_ns", "exit_time_ns")):
        found = table.resolve_many(pids, fields=names)
        assert found["pid"].tolist() == pids.tolist() and found["found"].tolist() == [True, True, False] * 20
        for place, pid in enumerate(pids.tolist()):
            one = table.resolve_many(pids[place : place + 1], fields=names)
            assert one.tolist() == found[place : place + 1].tolist(), pid
    assert table.resolve_many(pids, fields=("ppid",))["ppid"][1::3].tolist() == [7] * 20


def test_any_array_of_pids_is_taken(tables: Tables, table: ProcessTable) -> None:
    chain(tables, 10, 11, 12, 13)
    gaps = np.array([13, 0, 12, 0, 11, 0], np.uint32)[::2]
    for pids in (gaps, gaps.astype(np.int64), gaps.astype(">u4"), gaps.tolist(), tuple(gaps.tolist())):
        assert table.resolve_many(pids, fields=("ppid",))["ppid"].tolist() == [12, 11, 10]
        assert table.ancestor_pids_many(pids, 2).ancestors.tolist() == [[12, 11], [11, 10], [10, 0]]
        assert table.resolve_many(pids)["tgid"].tolist() == [13, 12, 11]


def test_a_chain_ends_where_a_row_is_not_retained(tables: Tables, table: ProcessTable) -> None:
    chain(tables, 10, 11, 12, 13)
    tables.free(2)  # the row of pid 11
    assert table.ancestor_pids_many([13], 4).ancestors.tolist() == [[12, 0, 0, 0]]
    tables.row(20, ancestor=1 << 32 | 0xFFFFFF)
    found = table.ancestor_pids_many([20, 21, 13], 2)
    assert found.ancestors.tolist() == [[0, 0], [0, 0], [12, 0]] and found.found.tolist() == [True, False, True]


def test_a_cycle_ends(tables: Tables, table: ProcessTable) -> None:
    first = tables.row(10)
    second = tables.row(11, ancestor=tables.link(first))
    tables.change(first, ancestor=tables.link(second))
    assert table.ancestor_pids_many([10], 5).ancestors.tolist() == [[11, 10, 11, 10, 11]]
    alone = tables.row(12)
    tables.change(alone, ancestor=tables.link(alone))
    assert table.ancestor_pids_many([12, 12], 5).ancestors.tolist() == [[0] * 5] * 2
    below = tables.link(alone)
    tables.row(13, ancestor=below)
    tables.row(14, ancestor=below)
    for depth in (1, 3, _reader.CHAIN_MAX):
        found = table.ancestor_pids_many([13, 14, 12, 11, 10, 11], depth).ancestors
        assert found[:2].tolist() == [[12] + [0] * (depth - 1)] * 2 and not found[2].any()
        assert found[3].tolist() == ([10, 11] * depth)[:depth] == found[5].tolist()
        assert found[4].tolist() == ([11, 10] * depth)[:depth]


def test_depths_and_shapes(tables: Tables, table: ProcessTable) -> None:
    assert table.ancestor_pids_many([], 3).ancestors.shape == (0, 3)
    for depth in (0, -1, _reader.CHAIN_MAX + 1):
        with pytest.raises(ValueError, match="depth"):
            table.ancestor_pids_many([1], depth)
    with pytest.raises(ValueError):
        table.ancestor_pids_many([1], by="sibling")
