"""Entries of processes that are known by (pid, pid namespace): `entry_rows` over the index behind the pids.

Columns hold slots (`keyed_frames`); what an entry shows are the numbers of its namespace.
"""

from __future__ import annotations

from os import fsencode
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.resolver.entries.cache_entry import ProcessCacheEntry
from pipeline.resolver.entries.entry_rows import Book, RowStore
from pipeline.resolver.entries.model import CacheResolverKey
from pipeline.shm.layout import tables as layout
from pipeline.shm.writer.keyspace import KeySpace

#: As long as the column is; the kernel's names have a NUL in it.
COMM_CHARS = 16


def is_key(key: CacheResolverKey) -> bool:
    """Whether a process can have this key: both are numbers of 32 bits, and there is no pid namespace 0."""
    return 0 < key.pid <= 0xFFFFFFFF and 0 < key.nsid <= 0xFFFFFFFF


class KeyedBook(Book):
    """Entry objects of one writer's keyed processes."""

    #: Set by the owner before the first use.
    space: KeySpace

    def store(self, link: int) -> RowStore:
        return KeyedStore(self, link)

    def index(self) -> npt.NDArray[np.uint32]:
        """All of the index: a key of the daemon's own pid namespace is a pid there."""
        return self.tables.index_view()

    def of_key(self, key: CacheResolverKey) -> ProcessCacheEntry | None:
        """The newest image of a cached process."""
        slot = self.space.find(key.pid, key.nsid) if is_key(key) else 0
        return self.head(slot) if slot else None


class KeyedStore(RowStore):
    """Fields of an entry that is a row of a keyed process."""

    __slots__ = ()

    def get(self, name: str) -> Any:
        if name == "pid":
            return int(self.cold["ns_pid"])
        if name == "nsid":
            return int(self.cold["pid_ns"])
        if name == "ppid":
            ppid = int(self.hot["ppid"])
            return ppid if ppid < self.book.tables.root_pids else self.book.tables.keys.key_of(ppid)[0]
        return super().get(name)

    def _put_column(self, name: str, value: Any) -> None:
        if name == "ppid":
            assert isinstance(self.book, KeyedBook)
            self.hot["ppid"] = self.book.space.slot(value, int(self.cold["pid_ns"])) if value else 0
            return
        super()._put_column(name, value)

    def _put_comm(self, row: int, comm: str) -> None:
        self.hot["comm"] = fsencode(comm)[:COMM_CHARS]
        self._know(layout.KNOWN_COMM)
