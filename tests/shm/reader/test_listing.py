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


class World:
    """Processes 1 to 4. Process 3 can call exec, and its new image has a row before the others."""

    def __init__(self, directory: Path) -> None:
        self.tables = tables = Tables(directory)
        tables.heartbeat(age_s=-600)  # fresh for as long as the test runs
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


@pytest.mark.parametrize("fate", ["replaced", "freed", "reused"])
@pytest.mark.parametrize("name", LISTS)
def test_a_process_whose_new_image_is_behind_the_reader_is_listed(shm_dir: Path, name: str, fate: str) -> None:
    for number in range(20):
        world = World(shm_dir / str(number))
        try:
            found = world.during(LISTS[name], lambda: world.exec(fate))  # noqa: B023
        except BusyError:  # the machine was too busy to make the change in the 50 ms that a reader waits
            continue
        assert [pid for pid in found if pid != 6] == [1, 2, 3, 4]
        return
    pytest.fail("the reader never waited long enough")


@pytest.mark.parametrize("fate", ["replaced", "freed", "reused"])
def test_a_list_that_is_read_in_parts_has_processes_that_call_exec_meanwhile(shm_dir: Path, fate: str) -> None:
    world = World(shm_dir)
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


@pytest.mark.parametrize("name", LISTS)
def test_a_process_that_cannot_be_read_is_an_error_and_not_absent(shm_dir: Path, name: str) -> None:
    """Only the replaced image of process 3 can be read, and the index names a row that stays half-written."""
    world = World(shm_dir)
    world.tables.change(world.former, exit_boot_ns=4000, flags=layout.ROW_REPLACED)
    world.tables.index[3] = world.barrier  # of another process: the writer is about to name the next image
    with pytest.raises(BusyError):
        LISTS[name](world.table)


def test_a_damaged_index_is_bounded(shm_dir: Path) -> None:
    """Entries of the index that name no row are not read."""
    world = World(shm_dir)
    world.tables.index[100:200] = 0xFFFFFFF0
    with pytest.raises(BusyError):
        world.during(LISTS["walk"], lambda: world.exec("freed"))
