"""The images of a period at once."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import BusyError, StaleError
from pipeline.shm.layout import layout
from pipeline.shm.reader._reader import TableReader
from tests.shm.handmade import BOOT_UNIX_NS, Tables


@pytest.fixture
def tables(shm_dir: Path) -> Tables:
    return Tables(shm_dir)


def pids(reader: TableReader, **period: int | datetime) -> list[int]:
    _, rows = reader.images(**period)
    return [int(pid) for pid in rows["tgid"]]


def test_live_images_and_those_that_ended_later_are_returned(tables: Tables) -> None:
    tables.row(7)
    tables.row(8, exit_boot_ns=5000)
    tables.row(9, exit_boot_ns=5001, flags=layout.ROW_REPLACED)
    reader = TableReader(tables.directory)
    assert pids(reader) == [7, 8, 9]
    assert pids(reader, ended_after_boot_ns=5000) == [7, 9]


def test_processes_that_started_later_are_left_out(tables: Tables) -> None:
    tables.row(7, start_boot_ns=100)
    tables.row(8, start_boot_ns=101)
    assert pids(TableReader(tables.directory), began_before_boot_ns=100) == [7]


def test_a_period_can_be_given_as_unix_times(tables: Tables) -> None:
    """As ns or as datetimes; a time before this boot leaves nothing out."""
    second = 10**9
    tables.row(7, start_boot_ns=second, exit_boot_ns=4 * second)
    tables.row(8, start_boot_ns=3 * second, exit_boot_ns=6 * second)
    reader = TableReader(tables.directory)
    for at in (lambda ns: BOOT_UNIX_NS + ns, lambda ns: datetime.fromtimestamp((BOOT_UNIX_NS + ns) // second, UTC)):
        assert pids(reader, ended_after=at(5 * second)) == [8]
        assert pids(reader, began_after=at(2 * second)) == [8]
        assert pids(reader, began_before=at(2 * second)) == [7]
        for name in ("ended_after", "began_after"):
            assert pids(reader, **{name: at(-second)}) == [7, 8]
        assert pids(reader, began_before=at(-second)) == []


def test_an_earlier_owner_of_a_pid_is_returned_too(tables: Tables) -> None:
    tables.row(7, exit_boot_ns=50, flags=layout.ROW_DELETED)
    tables.row(7)
    assert pids(TableReader(tables.directory)) == [7, 7]


def test_numbers_and_generations_are_links(tables: Tables) -> None:
    tables.row(7)
    tables.row(8)
    reader = TableReader(tables.directory)
    numbers, rows = reader.images()
    for number, row in zip(numbers.tolist(), rows, strict=True):
        found = reader.image(number | int(row["generation"]) << 32)
        assert found is not None and (found.row, found.pid) == (number, int(row["tgid"]))


def test_free_rows_are_left_out(tables: Tables) -> None:
    tables.free(tables.row(7))
    tables.change(tables.row(8), flags=0)
    tables.row(9)
    assert pids(TableReader(tables.directory)) == [8, 9]


def test_a_row_that_stays_half_written_is_an_error(tables: Tables) -> None:
    """Its process may be running: an answer without it would be wrong."""
    tables.row(7)
    half = tables.row(8, exit_boot_ns=5000)
    reader = TableReader(tables.directory)
    tables.hot["row_seq"][half] += 1
    with pytest.raises(BusyError, match=f"row {half}"):
        reader.images()
    assert pids(reader, ended_after_boot_ns=5000) == [7]  # it had ended by then, so it does not matter
    tables.hot["row_seq"][half] += 1
    assert pids(reader) == [7, 8]


def test_a_row_that_is_written_soon_is_waited_for(tables: Tables) -> None:
    half = tables.row(7)
    reader = TableReader(tables.directory)
    tables.hot["row_seq"][half] += 1

    def finish() -> None:
        time.sleep(0.01)
        tables.hot["row_seq"][half] += 1

    writer = threading.Thread(target=finish)
    writer.start()
    try:
        found: list[int] | None = None
        while found is None:
            with suppress(BusyError):  # the thread was not scheduled for 50 ms
                found = pids(reader)
    finally:
        writer.join()
    assert found == [7]


def test_the_image_of_a_freed_row_is_none(tables: Tables) -> None:
    row = tables.row(7)
    link = tables.link(row)
    reader = TableReader(tables.directory)
    assert reader.image(link) is not None
    tables.free(row)
    assert reader.image(link) is None
    assert reader.image(0) is None


def test_an_incomplete_table_is_stale(tables: Tables) -> None:
    reader = TableReader(tables.directory)
    tables.control["state"] = layout.STATE_FILLING
    with pytest.raises(StaleError):
        reader.images()


def test_all_images_of_a_growing_table_are_returned(shm_dir: Path) -> None:
    """The rows are counted and then copied; those that begin in between have no limit."""
    count = 4000
    tables = Tables(shm_dir, rows=count + 2, pids=count + 2)
    for pid in range(1, count + 1):
        tables.row(pid, start_boot_ns=1)
    reader = TableReader(tables.directory)
    sizes: list[int] = []
    empty = np.empty

    def grown(size: int, dtype: object) -> np.ndarray:
        """The first call is for the room of few rows; then all the others begin."""
        if not sizes:
            tables.hot["start_boot_ns"][1 : count + 1] = 1
        sizes.append(size)
        return empty(size, dtype)

    tables.hot["start_boot_ns"][10 : count + 1] = 10**6
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "empty", grown)
        numbers, rows = reader.images(began_before_boot_ns=1)
    assert len(numbers) == len(rows) == count > sizes[0]
    assert numbers.tolist() == list(range(1, count + 1)) and (rows["tgid"] == numbers).all()
