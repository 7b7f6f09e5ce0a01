"""Entries of processes that are identified by (pid, pid namespace): `entry_rows` over the index behind the pids.

Columns hold slots of the index (`keyed_frames`); an entry shows the numbers of its namespace.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.records.limits import COMM_BYTES
from pipeline.resolver.apply._applier import Applier
from pipeline.resolver.entries.cache_entry import ProcessCacheEntry
from pipeline.resolver.entries.entry_rows import Book, RowStore
from pipeline.resolver.entries.model import CacheResolverKey
from pipeline.shm.writer._writer import TableWriter
from pipeline.shm.writer.keyspace import KeySpace

if TYPE_CHECKING:
    import numpy.typing as npt

#: The length of the column; a name of the kernel uses one byte of it for the NUL.
COMM_CHARS = COMM_BYTES


def is_key(key: CacheResolverKey) -> bool:
    """Whether a process can have this key: both are numbers of 32 bits and not 0."""
    return 0 < key.pid <= 0xFFFFFFFF and 0 < key.nsid <= 0xFFFFFFFF


class KeyedBook(Book):
    """Entry objects of one writer's keyed processes.

    Args:
        tables, applier, offset_ns, now_boot_ns: as of `Book`.
        space: the keys of the tables.
    """

    def __init__(
        self, tables: TableWriter, applier: Applier, offset_ns: int, now_boot_ns: Callable[[], int], space: KeySpace
    ) -> None:
        super().__init__(tables, applier, offset_ns, now_boot_ns)
        self.space = space

    def store(self, link: int) -> RowStore:
        """Return the fields of the row that `link` names."""
        return KeyedStore(self, link)

    def index(self) -> npt.NDArray[np.uint32]:
        """Return the whole index: a key of the daemon's own pid namespace is a pid there."""
        return self.tables.index_view()

    def of_key(self, key: CacheResolverKey) -> ProcessCacheEntry | None:
        """Return the newest image of a cached process."""
        slot = self.space.find(key.pid, key.nsid) if is_key(key) else 0
        return self.head(slot) if slot else None


class KeyedStore(RowStore):
    """Fields of an entry that is a row of a keyed process."""

    __slots__ = ()
    _COMM_CHARS = COMM_CHARS

    def get(self, name: str) -> Any:
        """Return a field."""
        if name == "pid":
            return int(self.cold["ns_pid"])
        if name == "nsid":
            return int(self.cold["pid_ns"])
        if name == "ppid":
            ppid = int(self.hot["ppid"])
            return ppid if ppid < self.book.tables.root_pids else self.book.tables.keys.key_of(ppid)[0]
        return super().get(name)

    def _put_column(self, name: str, value: Any) -> None:
        if name == "ppid" and value:
            assert isinstance(self.book, KeyedBook)
            value = self.book.space.slot(value, int(self.cold["pid_ns"]))
        super()._put_column(name, value)
