"""The shards may rest only while an opening of the tables would be noticed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from pipeline.resolver.daemon._waiting import Openings
from pipeline.resolver.daemon.newcomers import Newcomers
from pipeline.shm.layout.layout import AUDIENCE_NOBODY, AUDIENCE_READERS, AUDIENCE_SUBSCRIBERS
from pipeline.shm.reader.table import ProcessTable
from pipeline.shm.writer._writer import TableWriter
from tests.resolver.story import instance, make_tables


@dataclass
class Host:
    directory: Any
    tables: TableWriter
    openings: Openings
    hurried: int = 0
    newcomers: Newcomers = field(init=False)

    def __post_init__(self) -> None:
        self.newcomers = Newcomers(self.tables, self.openings, self.hurry)

    def hurry(self) -> None:
        self.hurried += 1

    @property
    def audience(self) -> int:
        return int(self.tables.control_view()[0]["audience"])


@pytest.fixture
def host() -> Iterator[Host]:
    with instance() as directory:
        tables = make_tables(directory)
        openings = Openings(directory / "control")
        yield Host(directory, tables, openings)
        openings.close()
        tables.close()


def test_an_empty_audience_is_shown_only_after_the_watch_is_set(host: Host) -> None:
    """A reader that opened the tables before has its lock when the audience is shown for the second time."""
    host.newcomers.show_audience(False)
    assert host.audience == AUDIENCE_READERS and host.openings.is_armed
    host.newcomers.show_audience(False)
    assert host.audience == AUDIENCE_NOBODY and host.hurried == 0 and host.newcomers.is_resting


def test_a_reader_that_locks_late_is_not_overlooked(host: Host) -> None:
    with ProcessTable(host.directory) as table:
        host.newcomers.show_audience(False)
        assert host.audience == AUDIENCE_READERS and not host.openings.is_armed
        assert not table.closed
    host.newcomers.show_audience(False)
    host.newcomers.show_audience(False)
    assert host.audience == AUDIENCE_NOBODY


def test_rings_are_read_at_once_for_a_program_that_opens_the_tables(host: Host) -> None:
    for _ in range(2):
        host.newcomers.show_audience(False)
    with ProcessTable(host.directory):
        host.newcomers.welcome(False)
        assert host.audience == AUDIENCE_READERS and host.hurried == 1 and not host.newcomers.is_resting
        host.newcomers.show_audience(False)
        assert host.audience == AUDIENCE_READERS
    host.newcomers.welcome(True)
    assert host.audience == AUDIENCE_SUBSCRIBERS


def test_with_subscribers_nothing_is_watched(host: Host) -> None:
    host.newcomers.show_audience(True)
    assert host.audience == AUDIENCE_SUBSCRIBERS and not host.openings.is_armed


def test_without_a_watch_there_may_always_be_a_reader(host: Host) -> None:
    newcomers = Newcomers(host.tables, None, host.hurry)
    for _ in range(3):
        newcomers.show_audience(False)
    assert host.audience == AUDIENCE_READERS
