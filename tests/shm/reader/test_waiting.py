"""Waiting for the end of a process or of a tree: the last image, no other owner of the pid, and an end in time."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ProclineError, StaleError, TooOldError, WaitTimeoutError
from pipeline.shm.layout import layout
from pipeline.shm.reader import waiting
from pipeline.shm.reader._reader import PROCESS_BYTES
from pipeline.shm.reader.table import Entry, ProcessTable
from tests.shm.handmade import Tables

HEAD = layout.ROW_HEAD
#: Long for a machine that is busy, and never waited for by a test that passes.
LONG_S = 60


@pytest.fixture
def tables(shm_dir: Path) -> Tables:
    tables = Tables(shm_dir)
    return tables


@pytest.fixture
def table(tables: Tables) -> ProcessTable:
    return ProcessTable.attach(path=tables.directory)


@pytest.fixture(autouse=True)
def give_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for a moment only until a pid without a process has one."""
    monkeypatch.setattr(waiting, "_APPEARS_MS", 20)


#: Set when a caller has found that it must wait.
_WAITS = threading.Event()


@pytest.fixture(autouse=True)
def note_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    pause = waiting._Clock.pause

    def noted(clock: waiting._Clock, what: str, at_least_s: float = 0.0) -> None:
        _WAITS.set()
        pause(clock, what, at_least_s)

    monkeypatch.setattr(waiting._Clock, "pause", noted)


@contextmanager
def later(*steps: Callable[[], object]) -> Iterator[None]:
    """Do something, step by step, while the caller waits."""
    _WAITS.clear()

    def run() -> None:
        if steps:
            assert _WAITS.wait(LONG_S)
        for step in steps:
            time.sleep(0.05)
            step()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def end(tables: Tables, row: int, at: int = 90_000, code: int = 0) -> Callable[[], None]:
    flags = int(tables.hot["flags"][row]) | layout.ROW_EXIT_KNOWN
    return lambda: tables.change(row, exit_boot_ns=at, flags=flags, exit_code=code)


def child(tables: Tables, pid: int, row: int, **fields: object) -> int:
    """Return the row of a process that `row` has forked."""
    link = tables.link(row)
    return tables.row(pid, **({"creator": link, "parent": link, "ancestor": link} | fields))


def test_the_end_of_a_process_is_returned(tables: Tables, table: ProcessTable) -> None:
    row = tables.row(10)
    with later(end(tables, row, code=3 << 8)):
        entry = table.wait_exit(10, timeout=LONG_S)
    assert entry is not None and (entry.pid, entry.exit_code) == (10, 3 << 8)
    again = table.wait_exit(10)  # it has ended already
    assert again is not None and again.exit_code == 3 << 8
    assert table.wait_exit(entry) is not None
    assert table.wait_exit(11, timeout=LONG_S) is None and table.wait_tree(11, timeout=LONG_S) is None


def test_it_is_the_last_image_of_the_same_process(tables: Tables, table: ProcessTable) -> None:
    """While the caller waits, the process calls exec and ends, and another one gets its pid."""
    row = tables.row(10)
    first = table.resolve(10)
    assert first is not None
    rows = [row]

    def call_exec() -> None:
        new = tables.row(10, insert=False, start_boot_ns=10_000, exec_boot_ns=15_000, flags=HEAD | layout.ROW_IS_EXEC,
                         ancestor=tables.link(row))  # fmt: skip
        tables.index[10] = new
        tables.change(row, exit_boot_ns=15_000, flags=layout.ROW_REPLACED)
        rows.append(new)

    def die_and_be_followed() -> None:
        end(tables, rows[-1], at=20_000)()
        tables.row(10, start_boot_ns=30_000, previous_owner=tables.link(rows[-1]))

    for process in (10, first):
        with later(*([call_exec, die_and_be_followed] if process == 10 else [])):
            entry = table.wait_exit(process, timeout=LONG_S)
        assert entry is not None and entry.exit_time_ns == table.boot_unix_ns + 20_000 and entry.is_exec
    with pytest.raises(WaitTimeoutError):
        table.wait_exit(10, timeout=0)  # the new owner of the pid


@pytest.mark.parametrize("wait", [ProcessTable.wait_exit, ProcessTable.wait_tree])
@pytest.mark.parametrize("timeout", [0, 0.05])
def test_the_time_is_bounded(tables: Tables, table: ProcessTable, wait: Callable[..., object], timeout: float) -> None:
    tables.row(10)
    began = time.monotonic()
    with pytest.raises(WaitTimeoutError, match=f"pid 10 is still running after {timeout:g} s") as caught:
        wait(table, 10, timeout)
    assert time.monotonic() - began >= timeout and caught.value.timeout == timeout
    assert isinstance(caught.value, TimeoutError) and isinstance(caught.value, ProclineError)


@pytest.mark.parametrize("wait", [ProcessTable.wait_exit, ProcessTable.wait_tree])
def test_ctrl_c_ends_the_wait(tables: Tables, table: ProcessTable, wait: Callable[..., object]) -> None:
    tables.row(10)
    with later(lambda: os.kill(os.getpid(), signal.SIGINT)), pytest.raises(KeyboardInterrupt):
        wait(table, 10)


def test_an_end_that_is_not_retained_is_an_error(tables: Tables, table: ProcessTable) -> None:
    row = tables.row(10)
    with later(lambda: tables.free(row)), pytest.raises(TooOldError, match="pid 10 has ended"):
        table.wait_exit(10, timeout=LONG_S)


def test_a_resolver_that_is_replaced_does_not_end_the_wait(
    tables: Tables, table: ProcessTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = tables.row(10)
    state = tables.control["state"]

    def store(value: int) -> Callable[[], None]:
        return lambda: state.__setitem__(0, value)

    with later(store(layout.STATE_STOPPED), end(tables, row), store(layout.STATE_READY)):
        entry = table.wait_exit(10, timeout=LONG_S)
    assert entry is not None and entry.is_exited
    store(layout.STATE_STOPPED)()
    with pytest.raises(WaitTimeoutError, match="could not answer"):
        table.wait_exit(10, timeout=0.01)
    monkeypatch.setattr(waiting, "_REPLACED_S", 0.05)
    with pytest.raises(StaleError):
        table.wait_exit(10)


def test_a_new_epoch_may_know_the_start_only_to_a_tick(tables: Tables, table: ProcessTable) -> None:
    """The first epoch saw the fork; the next one read the process from /proc."""
    start = 5_003_000_000
    tables.row(10, start_boot_ns=start)
    tables.row(11, start_boot_ns=start)
    exact, other = table.resolve(10), table.resolve(11)
    assert exact is not None and other is not None
    tables.control["state"] = layout.STATE_SUPERSEDED
    successor = Tables(tables.directory, epoch=2)
    successor.control["user_hz"] = 100
    row = successor.row(10, start_boot_ns=5_000_000_000, flags=HEAD | layout.ROW_START_TICKS)
    successor.row(11, start_boot_ns=5_010_000_000, flags=HEAD | layout.ROW_START_TICKS)  # another process
    assert exact.is_running and exact in table
    assert not other.is_running and other not in table
    end(successor, row, at=6_000_000_000, code=1 << 8)()
    ended = table.wait_exit(exact, timeout=LONG_S)
    assert ended is not None and ended.exit_code == 1 << 8


# -- trees ---------------------------------------------------------------------------------------------------------


def test_a_tree_ends_with_its_last_process(tables: Tables, table: ProcessTable) -> None:
    root = tables.row(10)
    shell = child(tables, 11, root)
    daemon = child(tables, 12, shell, ppid=1)
    tables.row(13)  # no relative
    init = tables.row(1)
    seen: list[bool] = []

    def adopt() -> None:
        tables.change(daemon, parent=tables.link(init))
        seen.append(10 in table)

    with later(end(tables, shell), adopt, end(tables, root, code=1 << 8), end(tables, daemon)):
        entry = table.wait_tree(10, timeout=LONG_S)
    assert entry is not None and entry.pid == 10 and entry.exit_code == 1 << 8 and seen == [True]
    assert 12 not in table and 13 in table


def test_the_last_survivor_is_named(tables: Tables, table: ProcessTable) -> None:
    root = tables.row(10)
    middle = child(tables, 11, root)
    child(tables, 12, middle)
    end(tables, root)()
    end(tables, middle)()
    with pytest.raises(WaitTimeoutError, match=r"pid 12, a descendant of pid 10, is still running after 0\.02 s"):
        table.wait_tree(10, timeout=0.02)


def test_an_ancestor_whose_pid_was_reused_still_counts(tables: Tables, table: ProcessTable) -> None:
    root = tables.row(10)
    middle = child(tables, 11, root)
    last = child(tables, 12, middle, parent=0)
    end(tables, root)()
    end(tables, middle)()
    tables.row(11, start_boot_ns=95_000, previous_owner=tables.link(middle))  # another process
    with pytest.raises(WaitTimeoutError, match="pid 12"):
        table.wait_tree(10, timeout=0)
    end(tables, last)()
    assert table.wait_tree(10, timeout=LONG_S) is not None
    with pytest.raises(WaitTimeoutError, match="pid 11 is still running"):
        table.wait_tree(11, timeout=0)


def test_an_adopted_process_descends_from_its_parent(tables: Tables, table: ProcessTable) -> None:
    reaper = tables.row(10)
    other = tables.row(20)
    orphan = child(tables, 21, other, parent=tables.link(reaper))
    end(tables, reaper)()
    with pytest.raises(WaitTimeoutError, match="pid 21"):
        table.wait_tree(10, timeout=0)
    tables.change(orphan, parent=tables.link(other))
    assert table.wait_tree(10, timeout=LONG_S) is not None


def test_a_child_of_an_earlier_image_with_another_start_counts(tables: Tables, table: ProcessTable) -> None:
    """The start of the first image was read from /proc; that of the second one is exact."""
    first = tables.row(10, start_boot_ns=10_000_000, flags=layout.ROW_REPLACED, exit_boot_ns=10_500_000)
    second = tables.row(10, start_boot_ns=10_300_000, flags=HEAD | layout.ROW_IS_EXEC, ancestor=tables.link(first))
    forked = child(tables, 11, first)
    end(tables, second)()
    with pytest.raises(WaitTimeoutError, match="pid 11"):
        table.wait_tree(10, timeout=0)
    end(tables, forked)()
    assert table.wait_tree(10, timeout=LONG_S) is not None


def test_a_process_that_one_search_missed_is_waited_for(
    tables: Tables, table: ProcessTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parent was read as ended, but its own row before it existed. The second search shows it."""
    root = tables.row(10)
    middle = child(tables, 11, root)
    end(tables, root)()
    end(tables, middle)()
    first = table.resolve(10)
    assert first is not None
    search = ProcessTable._tree
    found = search(table, first)
    searches: list[int] = []

    def tree(self: ProcessTable, root: Entry) -> tuple[bytes, int]:
        searches.append(len(searches))
        return found if len(searches) == 1 else search(self, root)

    last = child(tables, 12, middle)
    monkeypatch.setattr(ProcessTable, "_tree", tree)
    with pytest.raises(WaitTimeoutError, match="pid 12"):
        table.wait_tree(10, timeout=0)
    searches.clear()
    end(tables, last)()
    assert table.wait_tree(10, timeout=LONG_S) is not None and len(searches) == 3


def test_a_descendant_with_a_half_written_row_is_waited_for(tables: Tables, table: ProcessTable) -> None:
    """Its writer was interrupted in the middle of a change."""
    root = tables.row(10)
    last = child(tables, 11, root)
    end(tables, root)()
    tables.hot["row_seq"][last] += 1
    with pytest.raises(WaitTimeoutError, match="could not answer"):
        table.wait_tree(10, timeout=0.01)

    def finish() -> None:
        tables.hot["row_seq"][last] += 1

    with later(finish, end(tables, last)):
        assert table.wait_tree(10, timeout=LONG_S) is not None
        assert 11 not in table


def test_searches_use_a_small_part_of_a_cpu(
    tables: Tables, table: ProcessTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each search finds a descendant that ends at once; a pause follows all the same."""
    root = tables.row(10)
    kids = [child(tables, pid, root) for pid in (11, 12, 13)]
    end(tables, root)()
    search = ProcessTable._tree
    cost_s = 0.002
    began: list[float] = []

    def slow(self: ProcessTable, root: Entry) -> tuple[bytes, int]:
        began.append(time.monotonic())
        until = time.thread_time() + cost_s
        while time.thread_time() < until:
            pass
        found = search(self, root)
        if kids:
            end(tables, kids.pop(0))()
        return found

    monkeypatch.setattr(ProcessTable, "_tree", slow)
    assert table.wait_tree(10, timeout=LONG_S) is not None
    gaps = np.diff(began)
    assert len(began) == 5 and (gaps[:3] >= 20 * cost_s).all()  # the last search confirms the one before


@pytest.mark.parametrize("timeout", [0, 0.3])
def test_a_pause_between_searches_ends_with_the_time(
    tables: Tables, table: ProcessTable, monkeypatch: pytest.MonkeyPatch, timeout: float
) -> None:
    root = tables.row(10)
    last = child(tables, 11, root)
    end(tables, root)()
    monkeypatch.setattr(waiting, "_SEARCHES", 10**6)
    search = ProcessTable._tree

    def ended(self: ProcessTable, root: Entry) -> tuple[bytes, int]:
        found = search(self, root)
        end(tables, last)()
        return found

    monkeypatch.setattr(ProcessTable, "_tree", ended)
    if timeout:
        assert table.wait_tree(10, timeout=timeout) is not None
    else:
        with pytest.raises(WaitTimeoutError, match="descendants of pid 10 were still running after 0 s"):
            table.wait_tree(10, timeout=timeout)


def test_the_search_agrees_with_the_links(tables: Tables, table: ProcessTable) -> None:
    """Random forests, against the ancestors that each process has had from its fork on."""
    generator = np.random.default_rng(7)
    rows: list[int] = []
    # By their creators, by their parents, and by any of both.
    ancestors: dict[int, tuple[set[int], set[int], set[int]]] = {0: (set(), set(), set())}
    for pid in range(100, 300):
        creator = rows[int(generator.integers(len(rows)))] if rows and generator.random() < 0.9 else 0
        parent = rows[int(generator.integers(len(rows)))] if rows and generator.random() < 0.3 else creator
        links = {name: tables.link(row) if row else 0 for name, row in (("creator", creator), ("parent", parent))}
        row = tables.row(pid, **links, exit_boot_ns=int(generator.random() < 0.8) * 10**9)
        by_creator, by_parent = {creator} | ancestors[creator][0], {parent} | ancestors[parent][1]
        by_any = {creator, parent} | ancestors[creator][2] | ancestors[parent][2]
        ancestors[row] = by_creator, by_parent, by_any
        rows.append(row)

    for root in rows[:40]:
        entry = table.image(tables.link(root))
        assert entry is not None
        processes, alive = table._tree(entry)
        expected = {row for row in rows if root in ancestors[row][2]}
        links = np.frombuffer(processes, np.uint64).reshape(-1, PROCESS_BYTES // 8)[:, 1]
        assert set(links.tolist()) == {tables.link(row) for row in expected}
        living = {tables.link(row) for row in expected if not tables.hot["exit_boot_ns"][row]}
        assert alive in living if living else alive == 0
        for by, field in (("creator", 0), ("parent", 1)):
            found = entry.descendants(by=by, exited=True)
            assert {each.row for each in found} == {row for row in rows if root in ancestors[row][field]}
            assert [each.row for each in entry.descendants(by=by)] == [each.row for each in found if not each.is_exited]


def test_only_what_began_later_is_searched(tables: Tables, table: ProcessTable) -> None:
    """A process that began seconds before another cannot descend from it, whatever a damaged table says."""
    root = tables.row(10, start_boot_ns=9 * 10**9)
    child(tables, 11, root, start_boot_ns=10 * 10**9)
    child(tables, 12, root, start_boot_ns=9 * 10**9 - 5 * 10**6)  # the tick of /proc in which it was forked
    child(tables, 13, root, start_boot_ns=7 * 10**9)
    entry = table.resolve(10)
    assert entry is not None and [each.pid for each in entry.descendants()] == [11, 12]
