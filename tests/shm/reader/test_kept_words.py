"""Words of rows that a reader keeps for questions about many pids are those of the rows, whatever the writer does."""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.errors import BusyError
from pipeline.shm.layout import layout
from pipeline.shm.reader.table import ProcessTable
from pipeline.shm.writer.segments import SEGMENTS
from tests.sampling import chosen, some, times
from tests.shm.handmade import Tables
from tests.shm.table_host import Host, make_writer
from tests.shm.writer.stepped import OPTIONS, SCENARIOS, trace_of

FIELDS = ("ppid", "start_boot_ns")
LARGE = 5000  #: rows of a table whose chains are walked with kept words
TRIES = 20  #: a row that stays open is an error after 50 ms, in which another thread must get its turn


@pytest.fixture(params=[256, LARGE])
def tables(request: pytest.FixtureRequest, shm_dir: Path) -> Tables:
    return Tables(shm_dir, rows=request.param)


@pytest.fixture
def table(tables: Tables) -> ProcessTable:
    return ProcessTable.attach(path=tables.directory)


def ask(table: ProcessTable, pids: npt.ArrayLike) -> list[object]:
    """Return what bulk questions answer, as far as it is known at once."""
    few = table.resolve_many(pids, fields=FIELDS)
    walked = table.ancestor_pids_many(pids, 6)
    return [few.tolist(), walked.found.tolist(), walked.ancestors.tolist()]


def keep(table: ProcessTable, pids: list[int], rows: int) -> list[object]:
    """Ask until the reader keeps words, and the words of these pids are kept."""
    many = np.tile(np.array(pids, np.uint32), rows // len(pids) + 2)
    for _ in range(2):
        ask(table, many)
    return ask(table, pids)


def rows_answer(table: ProcessTable, pids: list[int]) -> list[object]:
    """Return the same from whole rows, of which nothing is kept."""
    whole = table.resolve_many(pids)
    few = [
        (pid, bool(row["tgid"]), int(row["ppid"]), int(row["start_boot_ns"]))
        for pid, row in zip(pids, whole, strict=True)
    ]
    rows, offsets = table.ancestors_many(pids)
    chains = []
    for place, pid in enumerate(pids):
        tgids = rows["tgid"][offsets[place] : offsets[place + 1]].tolist()
        chain = [tgid for tgid, below in zip(tgids, [pid, *tgids], strict=False) if tgid != below][:6]
        chains.append(chain + [0] * (6 - len(chain)))
    return [few, [is_found for _, is_found, *_ in few], chains]


def family(tables: Tables) -> list[int]:
    """Pids of a chain of processes; returns them."""
    row, above = 0, 0
    for pid in range(10, 20):
        row = tables.row(pid, ancestor=tables.link(row) if row else 0, ppid=above)
        above = pid
    return list(range(10, 20))


def test_words_are_kept_until_the_row_is_noted(tables: Tables, table: ProcessTable) -> None:
    pids = family(tables)
    before = keep(table, pids, len(tables.hot))
    row = int(tables.index[15])
    link = int(tables.hot["ancestor"][row])
    tables.hot["ppid"][row] = 77  # no writer does this: it shows that the row is not read
    tables.hot["ancestor"][row] = 0
    answer = ask(table, pids)
    assert answer[0] == before[0] and (answer[2] == before[2]) == (len(tables.hot) == LARGE)
    tables.hot["ancestor"][row] = link
    tables.change(row, ppid=78)
    assert ask(table, pids) == rows_answer(table, pids) != before
    tables.change(row, ancestor=0)
    assert ask(table, pids) == rows_answer(table, pids)
    assert ask(table, [16])[2] == [[15, 0, 0, 0, 0, 0]]


def test_words_of_other_rows_are_kept_after_a_change(tables: Tables, table: ProcessTable) -> None:
    pids = family(tables)
    keep(table, pids, len(tables.hot))
    tables.change(int(tables.index[12]), ppid=78)
    changed = ask(table, pids)
    assert changed == rows_answer(table, pids)
    row = int(tables.index[15])
    tables.hot["ppid"][row] = 77  # not noted, as above
    tables.hot["ancestor"][row] = 0
    answer = ask(table, pids)
    assert answer[0] == changed[0] and (answer[2] == changed[2]) == (len(tables.hot) == LARGE)


def test_a_row_that_is_freed_or_reused_is_forgotten(tables: Tables, table: ProcessTable) -> None:
    pids = family(tables)
    keep(table, pids, len(tables.hot))
    row = int(tables.index[14])
    tables.free(row)
    assert ask(table, pids) == rows_answer(table, pids)
    assert ask(table, [14, 16])[1:] == [[False, True], [[0] * 6, [15, 0, 0, 0, 0, 0]]]
    tables.reuse(row, 14, ppid=3, start_boot_ns=5)
    assert ask(table, pids) == rows_answer(table, pids)
    tables.free(row)
    tables.reuse(row, 30, ppid=4, start_boot_ns=6)
    assert ask(table, [*pids, 30]) == rows_answer(table, [*pids, 30])


def test_a_row_that_is_being_changed_is_busy(tables: Tables, table: ProcessTable) -> None:
    """Before its note, the row is as it was; so it is if the writer was killed between the two stores."""
    pids = family(tables)
    before = keep(table, pids, len(tables.hot))
    row = int(tables.index[15])
    tables.hot["row_seq"][row] += 1
    if len(tables.hot) == LARGE:
        assert ask(table, pids) == before
    tables.note(row)
    for read in (
        lambda: table.resolve_many(pids, fields=FIELDS),
        lambda: table.ancestor_pids_many(pids),
        lambda: table.ancestor_pids_many([17]),
    ):
        with pytest.raises(BusyError):
            read()
    tables.hot["row_seq"][row] += 1
    assert ask(table, pids) == before == rows_answer(table, pids)


@pytest.mark.parametrize("count", [layout.CHANGES_KEPT - 1, layout.CHANGES_KEPT, 3 * layout.CHANGES_KEPT, 1 << 63, -5])
def test_more_changes_than_the_ring_has(tables: Tables, table: ProcessTable, count: int) -> None:
    """Then nothing is kept any more, also if the number of changes is damaged."""
    pids = family(tables)
    keep(table, pids, len(tables.hot))
    row = int(tables.index[15])
    tables.control["changes"] = 10
    for _ in range(2):
        ask(table, pids)
        keep(table, pids, 2 * len(tables.hot))
    tables.change(row, ppid=78)
    # The note of the change is no longer in the ring, or the reader cannot know.
    tables.changes[:] = 0 if count != layout.CHANGES_KEPT - 1 else row
    tables.control["changes"] = (10 + count) % (1 << 64)
    for _ in range(3):
        assert ask(table, pids) == rows_answer(table, pids)
    keep(table, pids, 8 * len(tables.hot))
    tables.change(row, ppid=79)
    assert ask(table, pids) == rows_answer(table, pids)


def test_rows_that_do_not_exist_in_the_ring(tables: Tables, table: ProcessTable) -> None:
    pids = family(tables)
    before = keep(table, pids, len(tables.hot))
    for row in (0, len(tables.hot), 1 << 31, (1 << 32) - 1):
        tables.note(row)
    assert ask(table, pids) == before


def test_damaged_index_and_links(tables: Tables, table: ProcessTable) -> None:
    pids = family(tables)
    before = keep(table, pids, len(tables.hot))
    tables.index[15], good = (1 << 32) - 1, int(tables.index[15])
    with pytest.raises(BusyError):
        table.resolve_many(pids, fields=FIELDS)
    tables.index[15] = int(tables.index[11])
    with pytest.raises(BusyError):
        table.resolve_many(pids, fields=FIELDS)
    tables.index[15] = good
    tables.change(good, ancestor=(1 << 63) | (1 << 31))
    assert ask(table, pids) == rows_answer(table, pids)
    assert table.resolve_many([0, (1 << 32) - 1], fields=FIELDS)["found"].tolist() == [False, False]
    assert before[1] == [True] * len(pids)


def test_rows_that_are_noted_during_a_call(tables: Tables, table: ProcessTable) -> None:
    """Processes that were found with kept words until then are found again in the rows."""
    pids = family(tables)
    expected = keep(table, pids, len(tables.hot))
    many, whole = np.tile(np.array(pids, np.uint32), 300), [part * 300 for part in expected]  # type: ignore[operator]
    stopping = threading.Event()

    def note() -> None:
        while not stopping.wait(1e-5):
            tables.note(int(tables.index[15]))

    thread = threading.Thread(target=note)
    thread.start()
    try:
        for _ in range(40):
            assert ask(table, many) == [[(*row,) for row in whole[0]], *whole[1:]]
    finally:
        stopping.set()
        thread.join()


def test_no_look_up_of_a_call_goes_back_in_time(shm_dir: Path) -> None:
    """A process executes two programs during a call, which waits twice at a row that is being changed.

    Its next image is in another row. The one after that is in the row whose words were kept when the call began.
    """
    for number in range(TRIES):
        tables = Tables(shm_dir / str(number), rows=LARGE)
        rows = [tables.row(15, ppid=1), tables.row(14)]
        tables.free(rows[1])
        open_rows = [tables.row(pid) for pid in (16, 17)]
        with ProcessTable.attach(path=tables.directory) as table:
            keep(table, [15, 16, 17], LARGE)
            for row in open_rows:
                tables.hot["row_seq"][row] += 1
                tables.note(row)
            if (found := ask_during_execs(tables, table, rows, open_rows)) is not None:
                assert found == [1, 2, 3]
                return
    pytest.fail("the machine is too busy")


def ask_during_execs(tables: Tables, table: ProcessTable, rows: list[int], open_rows: list[int]) -> list[int] | None:
    """Return the parent of pid 15 before, between and after two execs; None: they came too late."""
    view, has_ended = table.view, threading.Event()

    def execute() -> None:
        for number, row in enumerate(open_rows):
            # A try that began while the row before was closed may still count for that one.
            waiting = view.busy_retries + 2
            while view.busy_retries < waiting:
                if has_ended.wait(1e-5):
                    return
            old, new = rows[number], rows[1 - number]
            tables.free(old)
            tables.reuse(new, 15, ppid=number + 2)
            tables.hot["row_seq"][row] += 1

    thread = threading.Thread(target=execute)
    thread.start()
    try:
        return table.resolve_many([15, 16, 15, 17, 15], fields=FIELDS)["ppid"][::2].tolist()
    except BusyError:
        return None
    finally:
        has_ended.set()
        thread.join()


def step(host: Host, choice: random.Random) -> None:
    pid = choice.randrange(1, 60)
    if pid not in host.processes:
        host.fork(choice.choice([0, *host.processes]), pid)
    elif choice.random() < 0.4:
        host.exit(pid)
    elif choice.random() < 0.6:
        host.exec(pid, b"x", b"\4\0\0\0%03d\0" % choice.randrange(1000))
    else:
        row = host.writer.py_head(pid)
        host.writer.py_begin(row)
        host.hot["ppid"][row] = above = choice.randrange(1, 60)
        if above in host.processes and host.processes[above].start < host.processes[pid].start:
            host.writer.py_set_link("ancestor", row, host.writer.py_head(above))
        host.writer.py_end(row)
    if choice.random() < 0.3:
        host.writer.evict_exited(host.now, 10)


@pytest.mark.parametrize("seed", range(times(4, 2)))
@pytest.mark.parametrize("rows", [120, 8192])
def test_answers_are_those_of_the_rows_at_any_time(shm_dir: Path, rows: int, seed: int) -> None:
    choice = random.Random(seed)
    with make_writer(shm_dir, row_capacity=rows, chunk_rows=min(rows, 4096), retention_ns=20) as writer:
        host = Host(writer)
        host.fork(0, 1)
        writer.heartbeat(1 << 62)
        writer.set_state(layout.STATE_READY)
        with ProcessTable.attach(path=shm_dir) as table:
            pids = list(range(60))
            for number in range(300):
                if number % 100 == 20:
                    keep(table, pids, 2 * rows)
                for _ in range(choice.choice([0, 1, 1, 3, 200])):
                    step(host, choice)
                assert ask(table, pids) == rows_answer(table, pids)


@pytest.mark.expensive
@pytest.mark.parametrize(
    "name",
    # A quick run chooses the same one for tests/shm/writer/test_takeover.py, so a writer is stepped once.
    chosen(name if name == "fork-evicts" else pytest.param(name, marks=pytest.mark.slow) for name in SCENARIOS),
)
def test_a_kill_after_any_store_and_a_take_over(shm_dir: Path, name: str, kept: Path) -> None:
    """A reader with kept words sees the state before or after the operation, and that of the rows after a take-over."""
    try:
        trace = trace_of(name, shm_dir, kept)
    except PermissionError as error:
        pytest.skip(f"needs ptrace on a child process: {error}")
    directory, pids = shm_dir / "state", list(range(64))
    directory.mkdir(mode=0o755)
    with lay(directory, trace.states[-1], is_new=True) as table:
        after = table.resolve_many(pids, fields=FIELDS).tolist()
    for state in some(trace.states, 40):
        with lay(directory, trace.states[0], is_new=True) as table:
            before = keep(table, pids, 64)[0]
            lay(directory, state)  # in the same files, which the reader has mapped
            for pid in pids:
                try:
                    found = table.resolve_many([pid], fields=FIELDS).tolist()[0]
                except BusyError:
                    continue
                assert found in (before[pid], after[pid]) or not found[1], pid
            with make_writer(directory, **OPTIONS) as writer:
                assert writer.is_takeover, writer.fresh_reason
                for row in writer.torn_rows:
                    writer.py_end(row)
                writer.heartbeat(1 << 62)
                writer.set_state(layout.STATE_READY)
                assert ask(table, pids) == rows_answer(table, pids)
                host = Host(writer)
                host.adopt_model()
                for pid in list(host.processes):
                    host.exit(pid)
                    writer.evict_exited(1 << 62, 10)
                    assert ask(table, pids) == rows_answer(table, pids)


def lay(directory: Path, state: dict[str, bytes], *, is_new: bool = False) -> ProcessTable | None:
    """Put a state of the files there; with `is_new` in new files, and return a reader of them."""
    for name in SEGMENTS:
        if is_new:
            (directory / name).unlink(missing_ok=True)
            (directory / name).touch(0o644)
        with (directory / name).open("r+b") as file:
            file.write(state[name])
    control = np.memmap(directory / "control", layout.CONTROL, "r+", shape=(1,))
    control["state"], control["heartbeat_boot_ns"] = layout.STATE_READY, 1 << 62
    control["writer_tgid"] = os.getpid()
    return ProcessTable.attach(path=directory, max_age_ms=10**9) if is_new else None
