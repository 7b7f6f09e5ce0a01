"""Look-ups on tables made by hand: which processes are found, which are absent, and when neither is certain."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import AccessError, BehindError, BusyError, LayoutError, NotRunningError, StaleError, TooOldError
from pipeline.shm.layout import layout
from pipeline.shm.reader._entry import Entry
from pipeline.shm.reader._reader import CHAIN_MAX, TableReader
from tests.nobody import run_by_nobody
from tests.sampling import examples
from tests.shm.handmade import BOOT_UNIX_NS, Tables, now_boot_ns

F_OFD_SETLK = 37  # include/uapi/asm-generic/fcntl.h
EXEC = layout.ROW_HEAD | layout.ROW_IS_EXEC


@pytest.fixture
def tables(shm_dir: Path) -> Tables:
    return Tables(shm_dir)


# -- one process -------------------------------------------------------------------------------------------------------


def test_a_hit_is_a_private_copy(tables: Tables) -> None:
    row = tables.row(7, ppid=3, uid=5)
    reader = TableReader(tables.directory)
    entry = reader.resolve(7)
    assert entry is not None and (entry.pid, entry.ppid, entry.comm, entry.row) == (7, 3, "p7", row)
    tables.change(row, ppid=1)
    assert entry.ppid == 3
    assert reader.resolve(7).ppid == 1


def test_an_exited_process_that_is_retained_is_found(tables: Tables) -> None:
    tables.row(7, exit_boot_ns=9000, flags=layout.ROW_HEAD | layout.ROW_DELETED)
    entry = TableReader(tables.directory).resolve(7)
    assert entry is not None and entry.is_exited and entry.exit_time_ns == BOOT_UNIX_NS + 9000


def test_an_unused_pid_is_none(tables: Tables) -> None:
    reader = TableReader(tables.directory)
    assert reader.resolve(7) is None
    assert reader.resolve(2**32 - 1) is None
    for wrong in (-1, 2**32, "7", None):
        with pytest.raises((ValueError, TypeError)):
            reader.resolve(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("state", [layout.STATE_DOWN, layout.STATE_FILLING])
def test_absent_is_no_answer_while_the_table_is_filled(tables: Tables, state: int) -> None:
    tables.row(7)
    tables.control["state"] = state
    reader = TableReader(tables.directory)
    assert reader.resolve(7) is not None
    for look in (lambda: reader.resolve(8), lambda: reader.resolve_many([7, 8]), lambda: list(reader.walk())):
        with pytest.raises(StaleError):
            look()
    with pytest.raises(StaleError):
        reader.children(7)
    tables.control["state"] = layout.STATE_READY
    assert reader.resolve(8) is None


def test_absent_is_no_answer_when_the_writer_is_gone(tables: Tables) -> None:
    tables.row(7)
    reader = TableReader(tables.directory, max_age_ms=3000)
    tables.heartbeat(age_s=1.5)
    assert reader.resolve(7) is not None  # known, and still recent enough
    with pytest.raises(StaleError, match="may exist all the same"):
        reader.resolve(8)
    tables.heartbeat()
    tables.control["writer_tgid"] = dead_pid()  # killed a moment ago: the heartbeat is still fresh
    with pytest.raises(StaleError):
        reader.resolve(8)


def test_hits_are_not_repeated_for_ever(tables: Tables) -> None:
    tables.row(7)
    reader = TableReader(tables.directory, max_age_ms=1200)
    tables.heartbeat(age_s=1.3)
    deadline = time.monotonic() + 60
    with pytest.raises(BehindError, match=r"is running, behind by \d+\.\d s") as caught:
        while time.monotonic() < deadline:
            reader.resolve(7)
    assert caught.value.behind_ns > 1_200_000_000
    tables.control["writer_tgid"] = dead_pid()
    with pytest.raises(StaleError, match=r"silent.*gone") as gone:
        reader.resolve(7)
    assert not isinstance(gone.value, BehindError)
    tables.control["writer_tgid"] = os.getpid()
    tables.heartbeat()
    assert reader.resolve(7) is not None


def test_a_writer_that_is_behind_is_running(tables: Tables) -> None:
    """Its heartbeat is older than the limit after which an instance counts as ended, but the writer lives."""
    tables.row(7)
    tables.heartbeat(age_s=60)
    tables.control["writer_start_boot_ns"] = own_start_ns()
    reader = TableReader(tables.directory, max_age_ms=120_000)
    assert reader.resolve(7) is not None
    with pytest.raises(BehindError, match=r"pid 8 .* is running, behind by 60\.\d s: it may exist all the same"):
        reader.resolve(8)
    for look in (lambda: reader.resolve_many([7, 8]), lambda: list(reader.walk()), lambda: reader.children(7)):
        with pytest.raises(BehindError):
            look()
    reader = TableReader(tables.directory)
    with pytest.raises(BehindError, match=r"is running, behind by 60\.\d s") as caught:
        reader.resolve(7)
    assert caught.value.behind_ns > 60 * 10**9 and "procline run" not in str(caught.value)
    view, commit, behind_ns = reader.status()
    assert view.state == layout.STATE_READY and commit is None and behind_ns > 60 * 10**9
    assert reader.count_readers() == (1, True)


@pytest.mark.parametrize("change", ["its pid is free", "its pid is another process's"])
def test_a_writer_that_has_ended_does_not_run(tables: Tables, change: str) -> None:
    tables.heartbeat(age_s=60)
    if change == "its pid is free":
        tables.control["writer_tgid"] = dead_pid()
    else:
        tables.control["writer_start_boot_ns"] = own_start_ns() - 10**9
    with pytest.raises(NotRunningError, match=r"is not running: its writer, pid \d+, has ended") as caught:
        TableReader(tables.directory)
    assert "procline run" in str(caught.value)


def test_a_writer_in_a_namespace_that_cannot_be_seen_is_not_called_ended(tables: Tables) -> None:
    tables.heartbeat(age_s=60)
    tables.control["writer_tgid"] = dead_pid()
    tables.control["pid_ns"] += 1
    reader = TableReader(tables.directory)
    with pytest.raises(BehindError):
        reader.resolve(8)


def test_absent_is_no_answer_while_the_watermark_is_old(tables: Tables) -> None:
    tables.row(7)
    reader = TableReader(tables.directory)
    tables.control["ready_boot_ns"] = now_boot_ns() - 60 * 10**9
    tables.commit(1, watermark_boot_ns=now_boot_ns() - 3 * 10**9)
    assert reader.resolve(7) is not None
    with pytest.raises(BehindError, match=r"is running, behind by 3\.\d s"):
        reader.resolve(8)
    assert reader.status()[2] > 3 * 10**9
    tables.commit(2, watermark_boot_ns=now_boot_ns() - 10**9)
    assert reader.resolve(8) is None and reader.status()[2] == 0
    # A recording contains the past.
    tables.commit(3, watermark_boot_ns=now_boot_ns() - 61 * 10**9)
    assert reader.resolve(8) is None and reader.status()[2] == 0


def test_a_busy_row_is_busy_not_absent(tables: Tables) -> None:
    row = tables.row(7)
    tables.row(8)
    tables.hot["row_seq"][row] += 1
    reader = TableReader(tables.directory)
    start = time.monotonic()
    with pytest.raises(BusyError):
        reader.resolve(7)
    assert 0.04 < time.monotonic() - start < 30
    with pytest.raises(BusyError, match="pid 7"):
        reader.resolve_many([8, 7])
    with pytest.raises(BusyError):
        list(reader.walk())
    assert reader.busy_retries > 3
    tables.control["state"] = layout.STATE_FILLING  # the writer was killed in the middle, its successor is working
    with pytest.raises(StaleError):
        reader.resolve(7)


def test_a_busy_row_in_a_pid_namespace_is_busy_not_absent(tables: Tables) -> None:
    """A process without a key is found by reading the rows; a free row with the same numbers does not count."""
    row = tables.row(7, ns_pid=3, pid_ns=77)
    tables.free(tables.row(8, ns_pid=4, pid_ns=77))
    reader = TableReader(tables.directory)
    assert reader.resolve(3, pid_ns=77) is not None and reader.resolve(4, pid_ns=77) is None
    tables.hot["row_seq"][row] += 1
    with pytest.raises(BusyError, match="pid 3 of namespace 77"):
        reader.resolve(3, pid_ns=77)
    assert reader.resolve(4, pid_ns=77) is None


@given(ends=st.lists(st.sampled_from([0, 1, 2, 3, 4]), min_size=1, max_size=4))
@settings(max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_of_processes_that_had_a_number_in_a_pid_namespace_the_live_or_the_last_one_is_found(
    tables: Tables, ends: list[int]
) -> None:
    """Without a key. 0: it lives."""
    tables.hot["row_seq"], tables.hot["flags"], tables.next_row = 1, 0, 1
    for tgid, end in enumerate(ends, 10):
        tables.row(tgid, ns_pid=3, pid_ns=77, exit_boot_ns=end)
    tables.row(20, ns_pid=3, pid_ns=78)
    tables.row(21, ns_pid=4, pid_ns=77)
    found = TableReader(tables.directory).resolve(3, pid_ns=77)
    assert found is not None and found.pid == 10 + ends.index(0 if 0 in ends else max(ends))


def test_a_past_time_in_a_pid_namespace(tables: Tables) -> None:
    """The index does not keep the earlier owner of a number there, unless a tracer reported it."""
    tables.row(7, ns_pid=3, pid_ns=77, exit_boot_ns=0)
    reader = TableReader(tables.directory)
    with pytest.raises(ValueError, match="only for processes that a tracer reported"):
        reader.resolve(3, at=BOOT_UNIX_NS + 8000, pid_ns=77)
    assert reader.resolve(5, at=BOOT_UNIX_NS + 8000, pid_ns=77) is None


def test_a_busy_row_is_waited_for(tables: Tables) -> None:
    row = tables.row(7)
    reader = TableReader(tables.directory)

    def end() -> None:
        while reader.busy_retries == retries:  # the look-up waits
            time.sleep(0.0001)
        tables.hot["row_seq"][row] += 1

    # On a busy machine the thread can be later than a reader waits; then the look-up is made again.
    for _ in range(20):
        tables.hot["row_seq"][row] += 1
        retries = reader.busy_retries
        thread = threading.Thread(target=end)
        thread.start()
        try:
            assert reader.resolve(7) is not None
            return
        except BusyError:
            continue
        finally:
            thread.join()
    pytest.fail("no look-up waited long enough")


def test_a_row_of_another_pid_is_not_absent(tables: Tables) -> None:
    """The row was freed and reused between the index load and the copy; the index changes next."""
    row = tables.row(8)
    tables.index[7] = row
    with pytest.raises(BusyError):
        TableReader(tables.directory).resolve(7)


def test_rows_beyond_the_allocated_part_are_not_touched(tables: Tables) -> None:
    tables.control["row_capacity"] = 1 << 20  # mapped, but the files end long before
    os.truncate(tables.directory / "costs", (1 << 20) * layout.COSTS.itemsize)  # this one is as long as it can become
    tables.index[7] = 1 << 19
    reader = TableReader(tables.directory)
    with pytest.raises(BusyError):
        reader.resolve(7)
    row = tables.row(9, ancestor=(1 << 19) | 1 << 32)
    assert reader.ancestors(9) == []
    assert reader.resolve_many([9])["generation"][0] == tables.hot["generation"][row]


def test_an_image_that_is_being_replaced_is_still_an_answer(tables: Tables) -> None:
    """exec: the old image is no longer the head, and the writer died before the index named the new image."""
    tables.row(7, flags=layout.ROW_REPLACED, exit_boot_ns=8000)
    entry = TableReader(tables.directory).resolve(7)
    assert entry is not None and entry.is_replaced and not entry.is_exited


def test_a_miss_can_wait_for_the_table(tables: Tables) -> None:
    tables.commit(1, watermark_boot_ns=now_boot_ns())
    reader = TableReader(tables.directory)

    def insert() -> None:
        tables.row(7)

    timer = threading.Timer(0.05, insert)
    timer.start()
    assert reader.resolve(7, wait_ms=60_000) is not None
    timer.join()
    # Everything that happened before the call is applied: no reason to wait longer.
    tables.commit(2, watermark_boot_ns=now_boot_ns() + 600 * 10**9)
    start = time.monotonic()
    assert reader.resolve(8, wait_ms=60_000) is None
    assert time.monotonic() - start < 30
    # The watermark never arrives: the wait is bounded.
    tables.commit(3, watermark_boot_ns=1)
    start = time.monotonic()
    assert reader.resolve(8, wait_ms=60) is None
    assert 0.05 < time.monotonic() - start < 30


def test_a_look_up_can_wait_for_the_next_owner_of_a_pid(tables: Tables) -> None:
    tables.row(7, exit_boot_ns=8000, start_boot_ns=7000)
    tables.commit(1, watermark_boot_ns=now_boot_ns())
    reader = TableReader(tables.directory)
    assert reader.resolve(7).is_exited, "without waiting, the look-up returns the exited process"
    timer = threading.Timer(0.05, lambda: tables.row(7, start_boot_ns=9000))
    timer.start()
    assert reader.resolve(7, wait_ms=60_000).start_boot_ns == 9000
    timer.join()
    # No new owner appeared before the call: the process that has ended is the answer, without a wait.
    tables.row(8, exit_boot_ns=8000)
    tables.commit(2, watermark_boot_ns=now_boot_ns() + 600 * 10**9)
    start = time.monotonic()
    assert reader.resolve(8, wait_ms=60_000).is_exited
    assert time.monotonic() - start < 30


def test_a_pid_beyond_the_index_is_an_error(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = TableReader(tables.directory)
    monkeypatch.setattr("pipeline.host.boot.pid_max", lambda: 1 << 22)  # raised after the start
    with pytest.raises(StaleError, match="pid_max"):
        reader.resolve(5000)
    assert reader.resolve((1 << 22) + 1) is None


# -- many --------------------------------------------------------------------------------------------------------------


def test_many_are_the_same_as_one_by_one(tables: Tables) -> None:
    rng = np.random.default_rng(3)
    for pid in rng.permutation(np.arange(1, 200)):
        tables.row(int(pid), ppid=int(pid) // 2)
    reader = TableReader(tables.directory)
    pids = rng.integers(1, 300, 5000).astype(np.uint32)
    rows = reader.resolve_many(pids)
    assert rows.dtype == layout.HOT and rows.shape == pids.shape
    for pid, row in zip(pids.tolist(), rows, strict=True):
        entry = reader.resolve(pid)
        if entry is None:
            assert row["generation"] == 0 and not row.tobytes().strip(b"\0")
        else:
            assert entry.row_bytes()[: layout.HOT.itemsize] == row.tobytes()


def test_many_into_the_callers_array(tables: Tables) -> None:
    tables.row(7)
    reader = TableReader(tables.directory)
    out = np.ones(3, layout.HOT)
    assert reader.resolve_many(np.array([7, 8, 7]), out) is out
    assert out["tgid"].tolist() == [7, 0, 7]
    for wrong in (np.zeros(2, layout.HOT), np.zeros(3, np.uint64)):
        with pytest.raises(ValueError, match="out must be"):
            reader.resolve_many([7, 8, 7], wrong)
    with pytest.raises(ValueError, match="dimensions"):
        reader.resolve_many(np.zeros((2, 2), np.uint32))
    assert reader.resolve_many([]).shape == (0,)


# -- relatives ---------------------------------------------------------------------------------------------------------


def chain(tables: Tables, length: int, first_pid: int = 1) -> list[int]:
    """Processes that each forked the next one; return their rows."""
    rows: list[int] = []
    for pid in range(first_pid, first_pid + length):
        link = tables.link(rows[-1]) if rows else 0
        rows.append(tables.row(pid, ppid=pid - 1 if rows else 0, ancestor=link, parent=link, creator=link))
    return rows


@pytest.mark.parametrize("by", ["ancestor", "creator", "parent"])
def test_ancestors_come_nearest_first(tables: Tables, by: str) -> None:
    chain(tables, 9)
    reader = TableReader(tables.directory)
    ancestors = reader.ancestors(9, by=by)
    assert [entry.pid for entry in ancestors] == [8, 7, 6, 5, 4, 3, 2, 1]
    assert not any(entry.is_elided for entry in ancestors)
    assert reader.ancestors(reader.resolve(9), by=by) == ancestors
    assert reader.ancestor_rows(9, by=by)["tgid"].tolist() == [8, 7, 6, 5, 4, 3, 2, 1]
    assert reader.ancestors(100) == [] and reader.ancestor_rows(100).shape == (0,)


def test_a_link_to_a_reused_row_ends_the_chain(tables: Tables) -> None:
    rows = chain(tables, 6)
    tables.free(rows[2])
    reader = TableReader(tables.directory)
    for _ in range(2):
        ancestors = reader.ancestors(6)
        assert [entry.pid for entry in ancestors] == [5, 4]
        assert [entry.is_elided for entry in ancestors] == [False, True] and "elided" in ancestors[1].marks
        assert reader.ancestor_rows(6)["tgid"].tolist() == [5, 4]
        entry = reader.resolve(4)
        assert reader.ancestors(entry) == [] and entry.is_elided
        tables.reuse(rows[2], 77)  # reused by another process, which must not appear either
        tables.free(rows[2])
        tables.reuse(rows[2], 78)


def test_a_chain_is_bounded(tables: Tables, shm_dir: Path) -> None:
    tables = Tables(shm_dir, rows=1000)
    chain(tables, CHAIN_MAX + 20)
    reader = TableReader(tables.directory)
    ancestors = reader.ancestors(CHAIN_MAX + 20)
    assert len(ancestors) == CHAIN_MAX and ancestors[-1].is_elided and not ancestors[-2].is_elided
    assert len(reader.ancestor_rows(CHAIN_MAX + 20)) == CHAIN_MAX
    assert not reader.ancestors(CHAIN_MAX + 1)[-1].is_elided


@pytest.mark.parametrize("length", [1, 2, 3, 7])
def test_a_ring_of_links_does_not_hang(tables: Tables, length: int) -> None:
    rows = chain(tables, length)
    tables.hot["ancestor"][rows[0]] = tables.link(rows[-1])
    reader = TableReader(tables.directory)
    ancestors = reader.ancestors(length)
    assert length <= len(ancestors) < 4 * length + 4 and ancestors[-1].is_elided
    assert len(reader.ancestor_rows(length)) == len(ancestors)


def test_chains_of_many(tables: Tables) -> None:
    chain(tables, 20)
    reader = TableReader(tables.directory)
    pids = [20, 1, 999, 5, 20]
    rows, offsets = reader.ancestors_many(pids)
    assert offsets.tolist() == [0, 19, 19, 19, 23, 42]
    for i, pid in enumerate(pids):
        expected = [entry.pid for entry in reader.ancestors(pid)]
        assert rows["tgid"][offsets[i] : offsets[i + 1]].tolist() == expected


def test_chains_that_are_longer_than_guessed(shm_dir: Path) -> None:
    """For many pids the reader samples the lengths before it allocates; here it samples only the shortest chains."""
    tables = Tables(shm_dir, rows=1000)
    chain(tables, 400)
    reader = TableReader(tables.directory)
    pids = np.where(np.arange(512) % 8 == 0, 1, 400)
    rows, offsets = reader.ancestors_many(pids)
    assert np.diff(offsets).tolist() == np.where(pids == 1, 0, 399).tolist()
    assert rows["tgid"][: offsets[2]].tolist() == list(range(399, 0, -1)) == rows["tgid"][-399:].tolist()


def test_an_unknown_process_has_no_chain(tables: Tables) -> None:
    tables.row(1)
    rows, offsets = TableReader(tables.directory).ancestors_many([])
    assert rows.shape == (0,) and offsets.tolist() == [0]


def test_children_are_the_live_ones(tables: Tables) -> None:
    links = {1: tables.link(tables.row(1))}
    for pid, ppid in ((2, 1), (3, 1), (4, 2), (5, 1)):
        links[pid] = tables.link(tables.row(pid, ppid=ppid, parent=links[ppid]))
    tables.row(6, ppid=1, parent=links[1], exit_boot_ns=1, flags=layout.ROW_HEAD | layout.ROW_DELETED)
    tables.row(3, ppid=1, parent=links[1], flags=EXEC)  # an exec: the old row stays, with the same pid and ppid
    reader = TableReader(tables.directory)
    assert [entry.pid for entry in reader.children(1)] == [2, 3, 5]
    assert [entry.pid for entry in reader.children(reader.resolve(2))] == [4]
    assert reader.children(4) == [] and reader.children(999) == []
    assert next(iter(reader.children(1)[1:])).is_exec


def test_a_child_whose_image_is_just_being_replaced_is_one(tables: Tables) -> None:
    """Its newest image has an end until the index names the next one, and its writer may be stopped there."""
    parent = tables.link(tables.row(1))
    for pid, flags in ((2, layout.ROW_REPLACED), (3, layout.ROW_HEAD | layout.ROW_DELETED)):
        tables.row(pid, ppid=1, parent=parent, exit_boot_ns=50, flags=flags)
    assert [entry.pid for entry in TableReader(tables.directory).children(1)] == [2]


def test_children_are_of_one_process_not_of_a_pid(tables: Tables) -> None:
    """Pid 7 had an owner that ended and has a new one; 8 has an owner in the table, but its successor is not there."""
    former = tables.row(7, start_boot_ns=10, exit_boot_ns=20, flags=layout.ROW_HEAD | layout.ROW_DELETED)
    image = tables.row(7, start_boot_ns=30, exit_boot_ns=40, flags=layout.ROW_REPLACED)
    owner = tables.row(7, start_boot_ns=30, ancestor=tables.link(image), flags=EXEC)
    tables.row(8)
    ended = tables.row(9, exit_boot_ns=1, flags=layout.ROW_HEAD | layout.ROW_DELETED)
    tables.row(11, ppid=7, parent=tables.link(image))
    tables.row(12, ppid=7, parent=tables.link(former))
    tables.row(13, ppid=7, parent=tables.link(owner) + (1 << 32))  # an image that was evicted
    tables.row(14, ppid=8, flags=layout.ROW_HEAD | layout.ROW_PARENT_MISSING)
    tables.row(15, ppid=9, parent=tables.link(ended))
    tables.row(16, ppid=9)  # child of the pid's later owner
    tables.row(17, ppid=10)
    reader = TableReader(tables.directory)

    def children(of: int | Entry) -> list[int]:
        return [child.pid for child in reader.children(of)]

    head = reader.resolve(7)
    assert head is not None and head.row == owner
    assert children(7) == children(head) == [11, 13] == children(reader.ancestors(head)[0])
    tables.index[7] = former
    gone, other, over = (reader.resolve(pid) for pid in (7, 8, 9))
    tables.index[7] = owner
    assert gone is not None and other is not None and over is not None
    assert (children(gone), children(8), children(other), children(over)) == ([], [], [], [])
    assert (children(9), children(10)) == ([16], [17]), "of a process that is not in the table only the pid is known"


def test_a_walk_shows_each_process_once(tables: Tables) -> None:
    for pid in (9, 3, 70, 4000, 5):
        tables.row(pid)
    tables.row(3, flags=EXEC)
    tables.row(11, exit_boot_ns=5)
    tables.free(tables.row(12))
    reader = TableReader(tables.directory)
    assert [entry.pid for entry in reader.walk()] == [3, 5, 9, 11, 70, 4000]
    assert [entry.pid for entry in reader.walk(exited=False)] == [3, 5, 9, 70, 4000]
    assert reader.rows()["tgid"].tolist() == [3, 5, 9, 11, 70, 4000]
    assert reader.rows(exited=False)["tgid"].tolist() == [3, 5, 9, 70, 4000]
    assert next(iter(reader.walk())).is_exec


# -- as of a time ------------------------------------------------------------------------------------------------------


@pytest.fixture
def history(tables: Tables) -> tuple[Tables, TableReader]:
    """Pid 7: first owner 100..200; second owner from 300: fork, exec at 320, exec at 340, exit at 400."""
    first = tables.row(7, start_boot_ns=100, exit_boot_ns=200, flags=layout.ROW_HEAD | layout.ROW_DELETED, comm=b"a")
    owner = {"start_boot_ns": 300, "previous_owner": tables.link(first)}
    fork = tables.row(7, **owner, exec_boot_ns=10, exit_boot_ns=320, flags=layout.ROW_REPLACED, comm=b"b0")
    flags = layout.ROW_REPLACED | layout.ROW_IS_EXEC
    image = tables.row(
        7, **owner, exec_boot_ns=320, exit_boot_ns=340, flags=flags, comm=b"b1", ancestor=tables.link(fork), images=2
    )
    tables.row(
        7, **owner, exec_boot_ns=340, exit_boot_ns=400, flags=EXEC | layout.ROW_DELETED, comm=b"b2",
        ancestor=tables.link(image), images=3,
    )  # fmt: skip
    tables.control["horizon_boot_ns"] = 50
    tables.control["takeovers"] = 1
    return tables, TableReader(tables.directory)


@pytest.mark.parametrize(
    ("time_ns", "comm"),
    [
        (99, None), (100, "a"), (199, "a"), (200, None), (299, None), (300, "b0"), (319, "b0"), (320, "b1"),
        (339, "b1"), (340, "b2"), (399, "b2"), (400, None), (10**9, None),
    ],
)  # fmt: skip
def test_the_owner_of_a_pid_at_a_past_time(history: tuple[Tables, TableReader], time_ns: int, comm: str | None) -> None:
    entry = history[1].resolve(7, at=BOOT_UNIX_NS + time_ns)
    assert (entry.comm if entry else None) == comm


def test_before_the_horizon_is_too_old(history: tuple[Tables, TableReader]) -> None:
    tables, reader = history
    with pytest.raises(TooOldError) as caught:
        reader.resolve(7, at=BOOT_UNIX_NS + 49)
    assert caught.value.horizon_unix_ns == BOOT_UNIX_NS + 50
    tables.control["horizon_boot_ns"] = 250  # an owner that ended at 250 was evicted: it may have had the pid
    for time_ns in (99, 249):
        with pytest.raises(TooOldError):
            reader.resolve(7, at=BOOT_UNIX_NS + time_ns)
    assert reader.resolve(7, at=BOOT_UNIX_NS + 150).comm == "a"
    assert reader.resolve(7, at=BOOT_UNIX_NS + 260) is None
    with pytest.raises(TooOldError):
        reader.resolve(7, at=BOOT_UNIX_NS - 1)
    with pytest.raises(TooOldError):  # the pid has no owner now; its former owner is unknown
        reader.resolve(8, at=BOOT_UNIX_NS + 99)


def test_an_error_about_a_past_time_can_be_read(history: tuple[Tables, TableReader]) -> None:
    """Times of day instead of numbers with 19 digits, and no "any more" for what was never known."""
    tables, reader = history
    moment = r"2023-11-1\d \d\d:\d\d:\d\d[+-]\d\d:\d\d"  # local time
    with pytest.raises(TooOldError, match=f"had pid 7 at {moment} is not known any more: processes that ended before"):
        reader.resolve(7, at=BOOT_UNIX_NS + 49)
    tables.control["takeovers"] = 0
    tables.control["ready_boot_ns"] = 60 * 10**9
    with pytest.raises(TooOldError, match=f"is not known: the capture began at {moment}"):
        reader.resolve(7, at=BOOT_UNIX_NS + 49)
    with pytest.raises(TooOldError, match=f"{moment} was before this boot"):
        reader.resolve(7, at=BOOT_UNIX_NS - 1)


def test_before_the_first_table_was_complete_is_too_old(history: tuple[Tables, TableReader]) -> None:
    tables, reader = history
    tables.control["takeovers"] = 0
    tables.control["ready_boot_ns"] = 260
    with pytest.raises(TooOldError):
        reader.resolve(7, at=BOOT_UNIX_NS + 250)
    tables.control["takeovers"] = 1  # a successor's table has its predecessor's history
    assert reader.resolve(7, at=BOOT_UNIX_NS + 250) is None


def test_an_image_that_is_not_retained_is_too_old(history: tuple[Tables, TableReader]) -> None:
    tables, reader = history
    tables.free(2)  # the fork's row
    tables.index[7] = 4
    assert reader.resolve(7, at=BOOT_UNIX_NS + 330).comm == "b1"
    with pytest.raises(TooOldError, match="which image"):
        reader.resolve(7, at=BOOT_UNIX_NS + 310)


def test_an_image_that_was_elided_is_too_old(history: tuple[Tables, TableReader]) -> None:
    tables, reader = history
    row = tables.index[7]
    tables.hot["exec_boot_ns"][row] = 370
    assert reader.resolve(7, at=BOOT_UNIX_NS + 350).comm == "b2", "started again, it runs since 340"
    tables.hot["flags"][row] |= layout.ROW_ELIDED
    with pytest.raises(TooOldError, match="which image"):
        reader.resolve(7, at=BOOT_UNIX_NS + 350)
    assert [reader.resolve(7, at=BOOT_UNIX_NS + at).comm for at in (339, 370)] == ["b1", "b2"]


# -- opening -----------------------------------------------------------------------------------------------------------


def test_no_instance(shm_dir: Path) -> None:
    for directory in (shm_dir, shm_dir / "nowhere"):
        with pytest.raises(NotRunningError, match="procline run") as caught:
            TableReader(directory, "fleet")
        assert caught.value.instance == "fleet" and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("magic", b"SOMEBODY", LayoutError), ("layout_version", 99, LayoutError), ("header_bytes", 8, LayoutError),
        ("layout_version", 0, NotRunningError), ("state", layout.STATE_STOPPED, NotRunningError),
        ("state", layout.STATE_SUPERSEDED, NotRunningError),
        ("commit_offset", 1 << 30, LayoutError), ("ring_offset", 1 << 30, LayoutError),
        ("changes_offset", 1 << 30, LayoutError), ("changes_offset", 8194, LayoutError),
    ],
)  # fmt: skip
def test_errors_name_the_reason(tables: Tables, field: str, value: object, error: type[Exception]) -> None:
    tables.control[field] = value
    with pytest.raises(error) as caught:
        TableReader(tables.directory)
    assert "\n" not in str(caught.value)
    if isinstance(caught.value, LayoutError):
        size = (tables.directory / "control").stat().st_size
        assert caught.value.expected is not None and caught.value.found == (size if "offset" in field else value)


@pytest.mark.parametrize("name", ["index", "hot", "cold", "costs", "names", "args"])
def test_a_segment_that_is_shorter_than_in_control_is_refused(tables: Tables, name: str) -> None:
    path = tables.directory / name
    path.unlink()
    path.write_bytes(bytes(100))
    with pytest.raises(LayoutError, match=name):
        TableReader(tables.directory)
    path.unlink()
    with pytest.raises(NotRunningError, match=name):
        TableReader(tables.directory)


def test_another_programs_file_is_refused(tables: Tables) -> None:
    path = tables.directory / "control"
    path.unlink()
    path.write_bytes(b"hello")
    with pytest.raises(LayoutError, match="not a control segment"):
        TableReader(tables.directory)


@pytest.mark.filterwarnings("ignore:This process")  # fork: the child only calls code that is loaded already
def test_without_permission(tables: Tables) -> None:
    (tables.directory / "hot").chmod(0o600)
    tables.directory.chmod(0o755)

    def attach() -> None:
        with pytest.raises(AccessError, match="no permission") as caught:
            TableReader(tables.directory)
        assert caught.value.path == str(tables.directory / "hot") and "\n" not in str(caught.value)

    if os.getuid() != 0:
        pytest.skip("the files belong to the caller: only root can make some that do not")
    run_by_nobody(attach)


@pytest.mark.filterwarnings("ignore:This process")
def test_arguments_that_may_not_be_read_are_none(tables: Tables) -> None:
    if os.getuid() != 0:
        pytest.skip("the files belong to the caller: only root can make some that do not")
    known = layout.KNOWN_ARGS | layout.KNOWN_ENVS
    tables.row(7, known=known, args_ref=tables.strings("args", b"ls"), envs_ref=tables.strings("envs", b"A=1"))
    entry = TableReader(tables.directory).resolve(7)
    assert (entry.argv, entry.envs) == (["ls"], ["A=1"])
    for name in ("args", "envs"):
        (tables.directory / name).chmod(0o600)
    tables.directory.chmod(0o755)

    def look() -> None:
        entry = TableReader(tables.directory).resolve(7)
        assert (entry.argv, entry.envs, entry.extra) == (None, None, None)
        assert entry.to_dict()["argv"] is None

    run_by_nobody(look)


# -- epochs ------------------------------------------------------------------------------------------------------------


def test_a_reader_follows_a_new_epoch(tables: Tables) -> None:
    tables.row(7, comm=b"old")
    reader = TableReader(tables.directory)
    before = reader.resolve(7)
    tables.control["state"] = layout.STATE_SUPERSEDED
    with pytest.raises(StaleError):  # marked, but the new one does not exist yet
        reader.resolve(7)
    after = Tables(tables.directory, pids=8192, epoch=2)
    row = after.row(7, comm=b"new", known=layout.KNOWN_FILE | layout.KNOWN_COMM, file_ref=after.file(b"/bin/new"))
    now = reader.resolve(7)
    assert (now.comm, now.path, reader.view.epoch) == ("new", "/bin/new", 2)
    assert before.comm == "old" and before.euid is None  # still mapped for the holder of an entry
    assert before != now and before.row == row


def test_a_miss_is_asked_again_in_the_new_epoch(tables: Tables) -> None:
    reader = TableReader(tables.directory)
    tables.heartbeat(age_s=2)  # killed, its files removed, another instance started in their place
    after = Tables(tables.directory, epoch=2)
    after.row(7)
    assert reader.resolve(7) is not None
    tables.control["state"] = layout.STATE_SUPERSEDED
    assert reader.resolve_many([7])["tgid"][0] == 7
    assert [entry.pid for entry in reader.walk()] == [7]


def test_a_reader_learns_that_its_instance_has_ended(tables: Tables) -> None:
    tables.row(7)
    reader = TableReader(tables.directory)
    tables.control["state"] = layout.STATE_STOPPED
    with pytest.raises(StaleError, match="stopped"):
        reader.resolve(7)
    for path in tables.directory.iterdir():
        path.unlink()
    with pytest.raises(NotRunningError):
        reader.resolve(7)
    tables.control["state"] = layout.STATE_READY
    assert reader.resolve(7) is not None


def test_a_closed_reader_raises(tables: Tables) -> None:
    tables.row(7, known=layout.KNOWN_CREDS, euid=4)
    reader = TableReader(tables.directory)
    entry = reader.resolve(7)
    reader.close()
    reader.close()
    assert reader.closed and entry.euid == 4
    with pytest.raises(ValueError, match="closed"):
        reader.resolve(7)


# -- control -----------------------------------------------------------------------------------------------------------


def test_a_commit_slot_that_is_being_filled_is_not_read(tables: Tables) -> None:
    reader = TableReader(tables.directory)
    with pytest.raises(StaleError):
        reader.commit()
    assert reader.watermark_boot_ns == 0
    tables.commit(1, watermark_boot_ns=5)
    tables.commit(2, watermark_boot_ns=6, heads_live=3)
    slot = np.frombuffer(reader.commit()[: layout.COMMIT.itemsize], layout.COMMIT)[0]
    assert (slot["number"], slot["watermark_boot_ns"], slot["heads_live"]) == (2, 6, 3)
    assert reader.watermark_boot_ns == 6


def test_readers_are_counted_as_long_as_they_live(tables: Tables) -> None:
    reader = TableReader(tables.directory)
    assert reader.count_readers() == (1, True)
    second = TableReader(tables.directory)  # in the same process
    assert reader.count_readers() == (1, True)
    program = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from pipeline.shm.reader._reader import TableReader\n"
        "reader = TableReader(sys.argv[1]); print(flush=True); sys.stdin.read()\n"
    )
    root = str(Path(__file__).parents[3])
    command = [sys.executable, "-c", program, str(tables.directory), root]
    others = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(3)]
    try:
        for other in others:
            assert other.stdout is not None
            other.stdout.readline()
        assert reader.count_readers() == second.count_readers() == (4, True)
        others[0].kill()
        others[0].wait()
        assert reader.count_readers() == (3, True)
    finally:
        for other in others:
            other.kill()
            other.communicate()
    second.close()
    assert reader.count_readers() == (1, True)
    reader.close()


def test_counting_readers_ends_whatever_locks_others_hold(tables: Tables) -> None:
    reader = TableReader(tables.directory)
    assert reader.count_readers() == (1, True)
    with (tables.directory / "control").open("rb") as other:
        lock(other.fileno(), start=1 << 61, length=0)
        count, is_complete = reader.count_readers()
        assert count <= 1 and not is_complete
        lock(other.fileno(), start=0, length=0)
        count, is_complete = reader.count_readers()
        assert count <= 1 and not is_complete
    assert reader.count_readers() == (1, True)
    with (tables.directory / "control").open("rb") as other:
        for number in range(5000):
            lock(other.fileno(), start=3 * number, length=1)
        begun = time.monotonic()
        count, is_complete = reader.count_readers()
        assert time.monotonic() - begun < 10
        assert count > 1 and not is_complete


def lock(fd: int, *, start: int, length: int) -> None:
    """Take a shared lock that belongs to the open file."""
    fcntl.fcntl(fd, F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, start, length, 0))


def test_readers_of_an_instance_that_has_vanished_are_not_counted(tables: Tables) -> None:
    reader = TableReader(tables.directory)
    (tables.directory / "control").unlink()
    with pytest.raises(NotRunningError, match="control"):
        reader.count_readers()


def test_a_look_up_imports_little(tables: Tables) -> None:
    tables.row(7, known=0x7FFF)
    program = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from pipeline import ProcessTable\n"
        "entry = ProcessTable.attach(path=sys.argv[1]).resolve(7)\n"
        "entry.to_dict()\n"
        "heavy = {'numpy', 'msgpack', 'zmq', 'msgspec', 'pythonjsonlogger', 'pylibbpf', 'llvmlite', 're2', 'click'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    root = str(Path(__file__).parents[3])
    command = [sys.executable, "-c", program, str(tables.directory), root]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"


def own_start_ns() -> int:
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return ticks * (10**9 // os.sysconf("SC_CLK_TCK"))


def dead_pid() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid
