"""The state that the parts of the eBPF resolver share: tables, applier, options, clocks, counters and the lock.

It holds no rules: each part receives this object and the parts below it in its constructor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from pipeline.errors import TooOldError
from pipeline.host import boot
from pipeline.resolver.api.lock import ResolverLock
from pipeline.resolver.api.stats import Stats
from pipeline.resolver.apply._applier import Applier
from pipeline.resolver.entries.args_views import is_kworker
from pipeline.resolver.entries.cache_entry import ProcessCacheEntry
from pipeline.resolver.entries.collaborators import TimeResolver
from pipeline.resolver.entries.entry_rows import Book
from pipeline.resolver.entries.model import SNAPSHOTTING, Source
from pipeline.resolver.entries.opts import ResolverOpts
from pipeline.shm.layout import layout
from pipeline.shm.writer._writer import TableWriter


class TreePosition(NamedTuple):
    """The position of an entry in the tree."""

    is_owner: bool  #: its process has its pid now
    ppid: int
    ancestor: ProcessCacheEntry | None  #: of the oldest image of the process


class ResolverState:
    """Shared by all parts of one resolver. Parts use it under `lock`.

    A part that reads ``/proc`` releases the lock meanwhile (specification 9.3.13). It compares `link` or
    `tree_position` from before and after, and drops an answer that no longer fits.

    Attributes:
        tables, applier: of the instance; this process is their writer.
        opts: the resolver's own copy.
        clock: converts between boot and Unix time.
        now_boot_ns: the boot clock.
        capture_boot_ns: when the capture began. 0: there is no capture, so nothing is marked as missed by it.
        book: entry objects of the rows.
        stats: counters.
        lock: held by every method of the resolver that uses the tables.
        phase: SNAPSHOTTING or SNAPSHOTTED.
    """

    __slots__ = (
        "applier", "book", "capture_boot_ns", "clock", "lock", "now_boot_ns", "opts", "phase", "stats", "tables",
    )  # fmt: skip

    def __init__(
        self,
        tables: TableWriter,
        applier: Applier | None,
        opts: ResolverOpts,
        clock: TimeResolver | None,
        now_boot_ns: Callable[[], int],
        capture_boot_ns: int,
    ) -> None:
        """Create the state of a resolver over `tables`; the applier and the clock are created if they are None."""
        offset_ns = int(tables.control_view()[0]["boot_unix_ns"])
        self.tables, self.opts = tables, opts
        self.applier = applier if applier is not None else Applier(tables)
        self.clock: TimeResolver = clock if clock is not None else boot.BootClock(offset_ns)
        self.now_boot_ns, self.capture_boot_ns = now_boot_ns, capture_boot_ns
        self.book = Book(tables, self.applier, offset_ns, now_boot_ns)
        self.stats = Stats(tables)
        self.lock = ResolverLock()
        self.phase = SNAPSHOTTING

    def has_slot(self, pid: int) -> bool:
        """Whether the index has a slot for this pid."""
        return 0 < pid < self.tables.root_pids

    def is_kernel_thread(self, ppid: int, pid: int) -> bool:
        """Whether these are the pids of a kernel thread. In the pid namespace of a container no pids are."""
        return self.applier.kthreadd != 0 and is_kworker(ppid, pid)

    def boot_time(self, unix_ns: int | None) -> int:
        """Convert a time of an entry to the boot clock; now if it is unset."""
        return self.book.to_boot(unix_ns) if unix_ns is not None else self.now_boot_ns()

    # -- before and after the lock was released ------------------------------------------------------------------------

    def link(self, pid: int) -> int:
        """Return a link to the newest image of the pid's owner. It changes with a fork or an exec; 0: no owner."""
        row = self.tables.py_head(pid)
        return self.tables.py_link(row) if row else 0

    def tree_position(self, entry: ProcessCacheEntry) -> TreePosition | None:
        """Return the position of an entry; None if its row has been evicted."""
        try:
            row = self.tables.py_head(entry.pid)
            is_owner = bool(row) and int(self.tables.hot_view()[row]["start_boot_ns"]) == entry.start_boot_ns
            return TreePosition(is_owner or entry.is_free, entry.ppid, entry.root.ancestor)
        except TooOldError:
            return None

    # -- identities ----------------------------------------------------------------------------------------------------

    def is_same_process(self, entry: ProcessCacheEntry, start_boot_ns: int) -> bool:
        """Whether a cached entry belongs to the process that started then. An unknown start (0) counts as the same."""
        own = entry.start_boot_ns
        if not start_boot_ns or own == start_boot_ns:
            return True
        flags = int(self.tables.hot_view()[self.tables.py_head(entry.pid)]["flags"])
        return bool(flags & layout.ROW_START_TICKS) and own // boot.TICK_NS == start_boot_ns // boot.TICK_NS

    def has_left(self, pid: int, start_boot_ns: int) -> bool:
        """Whether the tables have the end of this process. Other sources may show it as alive for a while."""
        row = self.tables.py_head(pid)
        if not row or self.book.is_cached(row):
            return False
        own = int(self.tables.hot_view()[row]["start_boot_ns"])
        return own == start_boot_ns or own // boot.TICK_NS == start_boot_ns // boot.TICK_NS

    def marks(self, source: Source, start_boot_ns: int) -> int:
        """Return the ROW_* flags that show what is uncertain about an entry which no event reported."""
        marks = 0
        if source == Source.MAP and start_boot_ns % boot.TICK_NS == 0:
            marks |= layout.ROW_START_TICKS  # the map may have the start from /proc; harmless if it is exact
        if source in (Source.MAP, Source.PROCFS_FALLBACK) and self.capture_boot_ns:
            marks |= layout.ROW_GAP | (layout.ROW_BEFORE_CAPTURE if start_boot_ns < self.capture_boot_ns else 0)
        return marks
