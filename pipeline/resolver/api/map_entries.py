"""Read processes from the kernel's maps, and insert them (specification 3.3.5).

The records of the maps are decoded by `kernel_maps`. `finder` inserts missing ancestors.
"""

from __future__ import annotations

from typing import NamedTuple

from pipeline.host import boot
from pipeline.resolver.api.completion import Completer
from pipeline.resolver.api.insertion import Inserter
from pipeline.resolver.api.proc_access import ProcAccess
from pipeline.resolver.api.state import ResolverState
from pipeline.resolver.entries import kernel_maps
from pipeline.resolver.entries.cache_entry import ProcessCacheEntry
from pipeline.resolver.entries.collaborators import NewEntryCallback
from pipeline.resolver.entries.kernel_maps import KernelMaps
from pipeline.resolver.entries.model import CGroupContext, ResolverError, Source


class Mapped(NamedTuple):
    """A process that was read from the maps, complete and in no table."""

    entry: ProcessCacheEntry
    has_own_image: bool  #: False: it shares the cookie of its parent, as it has not called exec
    is_alive: bool  #: ``/proc`` shows it, too

    @property
    def has_called_exec(self) -> bool:
        """Whether the image is the process' own. Otherwise image and exec time are those of its parent."""
        exec_time, fork_time = self.entry.exec_time, self.entry.fork_time
        if exec_time is None:  # older than the capture
            return self.has_own_image and fork_time is not None
        return fork_time is None or exec_time >= fork_time


class MapEntries:
    """Processes of the kernel's maps as entries.

    Args:
        state: of the resolver.
        maps: the kernel's.
        proc: confirms that the process lives.
        completer: completes what was decoded.
        inserter: inserts it.
    """

    def __init__(
        self, state: ResolverState, maps: KernelMaps, proc: ProcAccess, completer: Completer, inserter: Inserter
    ) -> None:
        self._state = state
        self._maps = maps
        self._proc = proc
        self._completer = completer
        self._inserter = inserter

    def read(
        self, pid: int, tid: int, inode: int, new_entry_cb: NewEntryCallback | None, *, must_live: bool
    ) -> Mapped | None:
        """Read a process from the maps and complete it.

        Args:
            pid: of the process.
            tid: of its thread.
            inode: of the expected executable; 0: any (specification 9.3.2).
            new_entry_cb: is informed of an entry that could not be completed.
            must_live: whether a process that has ended is not meant.

        Returns:
            None: the maps do not have it, have another executable, or contradict ``/proc`` or the tables.
        """
        held = self._maps.find(pid)
        if held is None or (must_live and int(held.owner["exit_boot_ns"])):
            return None
        info = self._proc.read(pid, 0)
        if info is None:
            if must_live:
                return None
        elif info.start_ticks != int(held.owner["start_boot_ns"]) // boot.TICK_NS:
            return None  # the maps keep ended processes: the pid has another owner by now
        elif info.is_kthread or (must_live and info.is_zombie):
            return None
        entry, is_path_whole = kernel_maps.entry_of(pid, tid, inode, held.owner, held.image, info)
        if inode and entry.file_event.inode and entry.file_event.inode != inode:
            return None
        if self._state.has_left(pid, entry.start_boot_ns):
            return None
        cached = self._state.book.head(pid)
        if (
            cached is not None
            and kernel_maps.is_rounded(held.owner)
            and boot.ticks_of(cached.start_boot_ns) == boot.ticks_of(entry.start_boot_ns)
        ):
            entry.start_boot_ns = cached.start_boot_ns
        try:
            self._completer.complete(entry, is_path_whole)
        except ResolverError as error:
            if new_entry_cb is not None:
                new_entry_cb(entry, error)
            return None
        return Mapped(entry, int(held.image["tgid"]) == pid, info is not None)

    def insert_exec(self, mapped: Mapped) -> ProcessCacheEntry:
        """Insert a process that has called exec and, if the process is not cached, its first image below it.

        The two images are what its fork and exec events would have inserted.

        Raises:
            ResolverError: the table is full.
        """
        entry, fork_time = mapped.entry, mapped.entry.fork_time
        previous = self._state.book.head(entry.pid)
        if previous is not None and not self._state.is_same_process(previous, entry.start_boot_ns):
            previous = None
        is_older = entry.exec_time is None  # than the capture
        if is_older:
            if previous is not None and previous.file_event.inode == entry.file_event.inode:
                return previous
            # The time of the exec is unknown, but it is later than everything that is known of the process.
            entry.exec_time = fork_time if previous is None else self._state.clock.to_unix_ns(self._state.now_boot_ns())
        if fork_time is not None and previous is None:
            first = ProcessCacheEntry(
                pid=entry.pid, tid=entry.pid, ppid=entry.ppid, start_boot_ns=entry.start_boot_ns, fork_time=fork_time,
                cgroup=entry.cgroup,
            )  # fmt: skip
            self._inserter.insert_fork(self._inserter.fork_of(first, 0), CGroupContext(), Source.MAP)
        found = self._inserter.insert_exec(entry, 0, CGroupContext(), Source.MAP)
        if found is entry and is_older:
            found.exec_time = None
        return found
