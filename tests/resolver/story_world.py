"""A story and the tables that it is applied to, with the queries that several test files need."""

from __future__ import annotations

from pipeline.resolver.apply._applier import Applier
from pipeline.resolver.entries.cache_entry import ProcessCacheEntry
from pipeline.resolver.entries.entry_rows import Book
from tests.resolver.story import Event, Reading, Story, enter_init, make_tables


class StoryWorld:
    """Args: the `directory` of the tables, and their sizes as in `make_tables`."""

    def __init__(self, directory, **sizes: int) -> None:
        self.tables = make_tables(directory, **sizes)
        self.applier = Applier(self.tables)
        self.book = Book(self.tables, self.applier, 0)
        self.story = Story()
        self.read = Reading(self.tables)

    def begin(self) -> None:
        """Process 1 exists and forks process 3."""
        self.story.begin(1, inode=10)
        enter_init(self.tables, self.applier, self.story)
        self.do(self.story.fork(1, 3))

    def do(self, event: Event) -> Event:
        event.apply(self.applier)
        return event

    def head(self, tgid: int):
        return self.read.present(tgid)

    def args(self, row) -> bytes | None:
        return self.tables.args.py_bytes(row.args_ref)[4:] if row.args_ref else None

    def entry(self, tgid: int) -> ProcessCacheEntry:
        entry = self.book.head(tgid)
        assert entry is not None
        return entry
