"""Lists of processes while processes call exec: each that lives for the whole time is listed, exactly once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import BusyError
from pipeline.shm.layout import layout
from pipeline.shm.reader.table import ProcessTable
from tests.shm.handmade import Tables

#: Each returns the pids of a list.
LISTS: dict[str, Callable[[ProcessTable], list[int]]] = {
    "walk": lambda table: [entry.pid for entry in table.walk()],
    "walk-running": lambda table: [entry.pid for entry in table.walk(exited=False)],
    "batch": lambda table: table.batch(["pid"]).column("pid"),
    "batch-running": lambda table: table.batch(["pid"], running=True).column("pid"),
    "batches": lambda table: [pid for part in table.batches(["pid"], size=1) for pid in part.column("pid")],
    "columns": lambda table: table.columns(["pid", "argv"], running=False)["pid"].tolist(),
    "rows": lambda table: table.rows()["tgid"].tolist(),
    "descendants": lambda table: [1, *(entry.pid for entry in table.resolve(1).descendants(exited=True))],
    "descendants-running": lambda table: [1, *(entry.pid for entry in table.resolve(1).descendants(by="creator"))],
}
#: Numbers of entries of the index: it is always read, or only after a row was freed.
SIZES = (4096, 65536)


class World:
    """Processes 1 to 4. Process 3 can call exec, and its new image has a row before the others."""

    def __init__(self, directory: Path, pids: int = 4096) -> None:
        self.tables = tables = Tables(directory, pids=pids)
        tables.next_row = 9
        root = tables.row(1)
        self.links = {"parent": tables.link(root), "creator": tables.link(root)}
        self.barrier = tables.row(2, **self.links)
        self.former = tables.row(3, **self.links)
        tables.row(4, **self.links)
        tables.next_row = 5
        self.table = ProcessTable.attach(path=directory)

    def exec(self, fate: str) -> None:
        """Give process 3 a new image. The former one is replaced; or freed, too; or its row reused, too."""
        tables = self.tables
        link = tables.link(self.former)
        row = tables.row(
            3, **self.links, ancestor=link, images=2, exec_boot_ns=4000, flags=layout.ROW_HEAD | layout.ROW_IS_EXEC
        )
        tables.change(self.former, exit_boot_ns=4000, flags=layout.ROW_REPLACED)
        if fate != "replaced":
            tables.free(self.former)
            tables.index[3] = row
        if fate == "reused":
            tables.reuse(self.former, 6, start_boot_ns=6000, exit_boot_ns=0, **self.links)

    def during(self, call: Callable[[ProcessTable], list[int]], change: Callable[[], None]) -> list[int]:
        """Make a change while a call waits for the half-written row of process 2; return the result of the call."""
        self.tables.hot["row_seq"][self.barrier] += 1
        found: list[list[int] | BusyError] = []

        def read() -> None:
            try:
                found.append(call(self.table))
            except BusyError as error:
                found.append(error)

        retries = self.table.busy_retries
        thread = threading.Thread(target=read)
        thread.start()
        until = time.monotonic() + 30
        while self.table.busy_retries == retries and thread.is_alive():
            assert time.monotonic() < until
        change()
        self.tables.hot["row_seq"][self.barrier] += 1
        thread.join()
        if isinstance(found[0], BusyError):
            raise found[0]
        return found[0]


@pytest.mark.parametrize("pids", SIZES)
@pytest.mark.parametrize("fate", ["replaced", "freed", "reused"])
@pytest.mark.parametrize("name", LISTS)
def test_a_process_whose_new_image_is_behind_the_reader_is_listed(
    shm_dir: Path, name: str, fate: str, pids: int
) -> None:
    for number in range(20):
        world = World(shm_dir / str(number), pids)
        try:
            found = world.during(LISTS[name], lambda: world.exec(fate))  # noqa: B023
        except BusyError:  # the machine was too busy to make the change in the 50 ms that a reader waits
            continue
        assert [pid for pid in found if pid != 6] == [1, 2, 3, 4]
        return
    pytest.fail("the reader never waited long enough")


@pytest.mark.parametrize("pids", SIZES)
@pytest.mark.parametrize("fate", ["replaced", "freed", "reused"])
def test_a_list_that_is_read_in_parts_has_processes_that_call_exec_meanwhile(
    shm_dir: Path, fate: str, pids: int
) -> None:
    world = World(shm_dir, pids)
    entries, parts = world.table.walk(), world.table.batches(["pid", "image_number"], size=2)
    first = next(entries).pid, next(parts).column("pid")
    world.exec(fate)
    assert first == (1, [1, 2])
    assert [(entry.pid, entry.image_number) for entry in entries] == [(2, 1), (3, 2), (4, 1)]
    assert [tuple(row.values()) for part in parts for row in part.dicts()] == [(3, 2), (4, 1)]


def test_a_new_process_of_the_pid_does_not_take_the_place_of_one_that_was_listed(shm_dir: Path) -> None:
    world = World(shm_dir)
    entries, parts = world.table.walk(), world.table.batches(["pid"], size=2)
    next(entries), next(parts)
    world.tables.free(world.former)
    world.tables.reuse(world.former, 3, start_boot_ns=9_000_000_000)
    assert [entry.pid for entry in entries] == [2, 4]
    assert [part.column("pid") for part in parts] == [[4]]


@pytest.mark.parametrize("pids", SIZES)
@pytest.mark.parametrize("name", LISTS)
def test_a_process_that_ends_during_its_look_up_is_not_listed(shm_dir: Path, name: str, pids: int) -> None:
    """The index names a row that was free when the rows were read. It is half-written until the entry is cleared."""
    for number in range(20):
        world = World(shm_dir / str(number), pids)
        world.barrier = world.tables.row(3, flags=0)
        world.tables.change(world.former, exit_boot_ns=4000, flags=layout.ROW_REPLACED)

        def end() -> None:
            world.tables.index[3] = 0  # noqa: B023

        try:
            found = world.during(LISTS[name], end)
        except BusyError:  # as above
            continue
        assert found == [1, 2, 4]
        return
    pytest.fail("the reader never waited long enough")


@pytest.mark.parametrize("pids", SIZES)
@pytest.mark.parametrize("name", LISTS)
def test_a_process_that_cannot_be_read_is_an_error_and_not_absent(shm_dir: Path, name: str, pids: int) -> None:
    """Only the replaced image of process 3 can be read, and the index names a row that stays half-written."""
    world = World(shm_dir, pids)
    world.tables.change(world.former, exit_boot_ns=4000, flags=layout.ROW_REPLACED)
    world.tables.index[3] = world.barrier  # of another process: the writer is about to name the next image
    with pytest.raises(BusyError, match="index entry 3 "):
        LISTS[name](world.table)


@pytest.mark.parametrize("pids", SIZES)
def test_entries_of_the_index_that_name_no_row_are_an_error(shm_dir: Path, pids: int) -> None:
    world = World(shm_dir, pids)
    world.tables.index[100:200] = 0xFFFFFFF0
    with pytest.raises(BusyError):
        world.during(LISTS["walk"], lambda: world.exec("freed"))


@pytest.mark.parametrize("pids", SIZES)
def test_many_processes_are_in_order(shm_dir: Path, pids: int) -> None:
    """More than are sorted by comparison; some pids have several processes, and one has two newest images."""
    tables = Tables(shm_dir, rows=1024, pids=pids)
    expected = []
    for number in range(300):
        pid = number * 7919 % 4000 + 1
        for start in range(1 + (number % 50 == 0) * 19):
            start_ns = (start * 13 % 20 + 1) * 10**9
            tables.row(pid, start_boot_ns=start_ns, exit_boot_ns=start_ns + 1)
            expected.append((pid, start_ns))
    first = tables.row(4001, start_boot_ns=5)
    tables.row(4001, start_boot_ns=5, exec_boot_ns=6, ancestor=tables.link(first), images=2)
    table = ProcessTable.attach(path=shm_dir)
    rows = table.rows()
    assert list(zip(rows["tgid"].tolist(), rows["start_boot_ns"].tolist(), strict=True)) == [
        *sorted(expected), (4001, 5)
    ]  # fmt: skip
    assert rows["images"][-1] == 2
