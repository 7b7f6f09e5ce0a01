"""Records of the eBPF-less resolver: what a tracer's frame would have held, applied as the daemon applies frames.

The methods that decide which record is needed are in `ebpfless`; its keys are translated by `keyed_frames`.
"""

from __future__ import annotations

from os import fsencode
from typing import TYPE_CHECKING

import numpy as np

from pipeline.records import declared, dtypes
from pipeline.records.limits import TTY_MAX
from pipeline.resolver.apply._applier import Applier
from pipeline.resolver.entries import args_views, entry_records
from pipeline.resolver.entries.cache_entry import ProcessCacheEntry
from pipeline.resolver.entries.entry_records import TaskRecord
from pipeline.resolver.entries.entry_rows import is_number
from pipeline.resolver.entries.keyed_rows import COMM_CHARS, KeyedBook, is_key
from pipeline.resolver.entries.model import CacheResolverKey, ResolverError, Source
from pipeline.resolver.entries.opts import ResolverOpts
from pipeline.resolver.merge.keyed_frames import KeyedFrames
from pipeline.secrets.argsenvs import ArgScrubber
from pipeline.shm.layout import layout

if TYPE_CHECKING:
    from pipeline.resolver.entries.entry_records import Column


class KeyedRecorder:
    """Writes the records of keyed processes.

    Args:
        applier: of the tables.
        book: entry objects of its rows.
        frames: translates keys into slots of the index.
        scrubber, opts: decide what may be stored of arguments and environment.
    """

    def __init__(
        self,
        applier: Applier,
        book: KeyedBook,
        frames: KeyedFrames,
        scrubber: ArgScrubber | None,
        opts: ResolverOpts,
    ) -> None:
        self._applier = applier
        self._book = book
        self._frames = frames
        self._scrubber = scrubber
        self._opts = opts

    def fork(self, key: CacheResolverKey, ppid: int, time_ns: int) -> ProcessCacheEntry:
        """Record a fork below the process that had the ppid then; returns the entry."""
        named = self.named_parent(key, ppid, time_ns)
        header = entry_records.header(declared.KIND_FORK, key.pid, key.pid, time_ns, time_ns, *named)
        row = self._apply(key, header, body=entry_records.fork(ProcessCacheEntry(), *named))
        return self._book.entry(self._applier.py_root(row))

    def exec(
        self, key: CacheResolverKey, entry: ProcessCacheEntry, time_ns: int, start_ns: int, parent: tuple[int, int]
    ) -> ProcessCacheEntry:
        """Record an exec; returns the entry.

        Args:
            key: of the process.
            entry: the new image, in no table.
            time_ns: of the exec, boot clock.
            start_ns: of the process. Equal to `time_ns`: the process was found when its tracer started.
            parent: pid and start of the parent; pid 0: unknown.
        """
        kept = args_views.kept(entry.args_entry, entry.envs_entry, self._scrubber, self._opts)
        body, strings = entry_records.image(entry, *kept)
        container = fsencode(entry.container.container_id)
        header = entry_records.header(
            declared.KIND_EXEC, key.pid, key.pid, time_ns, start_ns, *parent, len(strings) + len(container)
        )
        header["flags"] = declared.FLAG_CONTAINER if container else 0
        task = np.zeros(1, dtypes.TASK)
        task["comm"], task["tty"] = fsencode(entry.comm)[:COMM_CHARS], fsencode(entry.tty_name)[:TTY_MAX]
        task_record = TaskRecord(task, layout.KNOWN_COMM | (layout.KNOWN_TTY if entry.tty_name else 0))
        row = self._apply(key, header, task_record, body, strings + container, entry.source)
        return self._book.attach(entry, row)

    def exit(self, key: CacheResolverKey, start_ns: int, time_ns: int) -> None:
        """Record the end of a process."""
        header = entry_records.header(declared.KIND_EXIT, key.pid, key.pid, time_ns, start_ns)
        header["flags"] = declared.FLAG_HEAD_ONLY  # a tracer does not report the exit code, so the record has no body
        self._apply(key, header)

    def credentials(self, key: CacheResolverKey, start_ns: int, time_ns: int, task_record: TaskRecord) -> None:
        """Record a change of credentials."""
        self._apply(key, entry_records.header(declared.KIND_CRED, key.pid, key.pid, time_ns, start_ns), task_record)

    def _apply(
        self, key: CacheResolverKey, header: Column, task_record: TaskRecord | None = None,
        body: Column | None = None, strings: bytes = b"", source: Source = Source.EVENT,
    ) -> int:  # fmt: skip
        """Apply a record of a process; returns the row of its newest image.

        Raises:
            ResolverError: there is no room for the process.
        """
        task, known = task_record or TaskRecord(np.zeros(1, dtypes.TASK), 0)
        task["pid_ns"] = key.nsid
        fork = body if int(header["kind"][0]) == declared.KIND_FORK else None
        if not self._frames.record(header, task, fork):
            raise ResolverError(f"pid {key.pid} of namespace {key.nsid}: no slot is free: increase tables.key_capacity")
        is_whole = not int(header["flags"][0]) & declared.FLAG_HEAD_ONLY
        row = self._applier.apply_records(
            header, task if is_whole else None, body, strings, known=known | layout.KNOWN_NS, source=int(source)
        )
        if not row:
            raise ResolverError(
                f"pid {key.pid} of namespace {key.nsid}: the table is full: increase tables.max_entries"
            )
        return row

    # -- parents -------------------------------------------------------------------------------------------------------

    def named_parent(self, key: CacheResolverKey, ppid: int, time_ns: int) -> tuple[int, int]:
        """Return pid and start of the parent for a record.

        The parent is the process that had the ppid at `time_ns`, even if its exit was reported before its child's fork.
        Pid 0 if the last owner of the ppid had ended before: otherwise the applier would link to it.
        """
        if key.pid == 1:
            return 0, 0
        slot = self._book.space.find(ppid, key.nsid)
        parent = self._book.owner_at(slot, time_ns) if slot else None
        if parent is not None:
            return ppid, parent.start_boot_ns
        return (0 if slot and self._book.tables.py_head(slot) else ppid), 0


def require_key(key: CacheResolverKey, ppid: int) -> None:
    """Check that a process can have a key, and a parent the ppid.

    Raises:
        ResolverError: they cannot.
    """
    if not is_key(key):
        raise ResolverError(f"pid {key.pid} of namespace {key.nsid}: both must be numbers from 1 to 4294967295")
    if not is_number(ppid):
        raise ResolverError(f"pid {key.pid} of namespace {key.nsid}: no parent can have the pid {ppid}")
