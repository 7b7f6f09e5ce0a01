"""`ProcessTable`: the processes of this host, read from the tables of a running instance.

    with ProcessTable.attach() as table:
        entry = table.resolve(4711)
        print(entry.comm, entry.path, [ancestor.comm for ancestor in table.ancestors(4711)])

TableReader (_reader.pyx) implements the look-ups, which need neither a lock nor a system call. This module finds an
instance by name and reads its statistics. It imports neither numpy nor any daemon module, so that a single look-up from
a shell is quick.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypedDict

from pipeline import paths
from pipeline.errors import LineageError, NoProcessContextError
from pipeline.shm.reader import lineage
from pipeline.shm.reader._entry import FIELDS, Entry
from pipeline.shm.reader._reader import CHAIN_MAX, TableReader

if TYPE_CHECKING:
    from pipeline.host.processes import WorkerUsage

__all__ = ["CHAIN_MAX", "FIELDS", "Entry", "ProcessTable"]


class ImageCounts(TypedDict):
    """How many processes and images the tables hold."""

    live: int
    exited: int
    images: int


class Stats(TypedDict):
    """What `ProcessTable.stats` returns."""

    instance: str
    state: str
    epoch: int
    takeovers: int
    writer_pid: int
    heartbeat_age_ns: int
    behind_ns: int
    events: dict[str, int]
    lost: dict[str, int]
    late: int
    frames: int
    entries: ImageCounts
    watermark_lag_ns: int | None
    repairs: int
    evictions: int
    readers: int
    readers_complete: bool
    processes: list[WorkerUsage]
    memory: dict[str, int]
    stream: dict[str, int]
    counters: dict[str, int]


class ProcessTable(TableReader):
    """Lock-free access to one instance's tables; `TableReader` documents the look-ups and their errors."""

    @classmethod
    def attach(
        cls, name: str = paths.DEFAULT_INSTANCE, *, path: str | os.PathLike[str] | None = None, max_age_ms: int = 10_000
    ) -> Self:
        """Open the tables of a running instance.

        Args:
            name: the instance's name.
            path: its runtime directory, if it is not the default one.
            max_age_ms: how long entries are still returned after the writer's last heartbeat.

        Raises:
            NotRunningError: the instance does not exist, is not ready, or its writer has ended. (An instance that is
                only behind is opened.)
            AccessError: the caller may not read it.
            UntrustedError: another user could have created the tables.
            LayoutError: another version created the tables.
            ConfigError: `name` is not a valid instance name.
        """
        directory = Path(path) if path is not None else paths.instance_dir(name)
        return cls(directory, name, max_age_ms=max_age_ms)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<ProcessTable {self.instance!r}{' closed' if self.closed else ''}>"

    @property
    def boot_unix_ns(self) -> int:
        """Unix time of boot-clock zero in ns, as this instance determined it; all entry times are relative to it."""
        return int(self.view.boot_unix_ns)

    # -- lineage (specification 5.10, 5.11), with the same results as the resolver's own entries -----------------------

    def has_valid_lineage(
        self, process: int | Entry, *, pid_ns: int | None = None
    ) -> tuple[bool, LineageError | NoProcessContextError | None]:
        """Return whether the chain of a process (or of one of its images) leads to pid 1 without a gap, and why not.

        Args:
            process, pid_ns: as in `ancestors`, which also lists the exceptions; the other methods here raise the same.

        Returns:
            (True, None), or False and a ProcessMissingParentNodeError, ProcessWrongParentNodeError or
            ProcessIncompleteLineageError, each with the entry's `pid`, `ppid` and `container_id`, or a
            NoProcessContextError if the process does not exist. These errors are returned, not raised.
        """
        chain = self._chain(process, pid_ns)
        if not chain:
            return False, NoProcessContextError(f"pid {process} is not in the table")
        fault = lineage.fault(chain, _container)
        return fault is None, fault

    def has_complete_lineage(self, process: int | Entry, *, pid_ns: int | None = None) -> bool:
        """Return whether pid 1 is on the chain, regardless of gaps below it."""
        return any(entry.pid == 1 for entry in self._chain(process, pid_ns))

    def get_ancestors_pids(self, process: int | Entry, *, pid_ns: int | None = None) -> list[int]:
        """Return the distinct pids of the chain, the process' own first; empty if the process does not exist."""
        return lineage.pids(self._chain(process, pid_ns))

    def get_container_pids(self, process: int | Entry, *, pid_ns: int | None = None) -> tuple[list[int], list[str]]:
        """Return pids and executables up the chain while it is in a container, by the newest image of each process."""
        return lineage.in_container(self._chain(process, pid_ns), _container, lambda entry: entry.path or "")

    def is_container_root(self, process: int | Entry, *, pid_ns: int | None = None) -> bool:
        """Return whether the process is in a container and its ancestor is not."""
        entry = process if isinstance(process, Entry) else self.resolve(process, pid_ns=pid_ns)
        if entry is None or not entry.container_id:
            return False
        ancestors = self.ancestors(entry, limit=1)
        return bool(ancestors) and not ancestors[0].container_id

    def _chain(self, process: int | Entry, pid_ns: int | None) -> list[Entry]:
        """Return a process and all its ancestors, newest first; empty if the process does not exist."""
        entry = process if isinstance(process, Entry) else self.resolve(process, pid_ns=pid_ns)
        return [] if entry is None else [entry, *self.ancestors(entry)]

    def stats(self) -> Stats:
        """Return what the instance has done and holds, as `procline stat --json` shows it.

        The counts are of one commit. `events` and `lost` are by kind. `entries` counts processes, `images` counts rows.
        `watermark_lag_ns` is how far the tables are behind the clock (None before the first commit). `behind_ns` is the
        same or the age of the heartbeat; it is 0 unless it exceeds what an idle instance can have. `processes` have
        `cpu_seconds` and `pss_bytes`, None if the caller may not read it. `readers` counts processes with open
        tables; if `readers_complete` is false, it is a lower limit (a user holds other locks on the tables).

        Raises:
            StaleError, NotRunningError: the instance has been stopped, or is being replaced. Statistics are available
                while the table is being filled and while it is behind.
        """
        # Imported late: statistics need numpy's dtypes, look-ups do not.
        import numpy as np

        from pipeline.host import processes
        from pipeline.records.events import KIND_NAMES
        from pipeline.shm.layout import layout

        view, commit_bytes, behind_ns = self.status()
        header = np.frombuffer(view.header(), layout.CONTROL)[0]
        commit = np.frombuffer(commit_bytes or bytes(layout.COMMIT.itemsize), layout.COMMIT, 1)[0]
        readers, readers_complete = self.count_readers()
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        counters = dict(zip(layout.COUNTERS, map(int, commit["counters"]), strict=False))
        by_kind = {
            what: {kind: counters.pop(f"{what}_{kind}") for kind in KIND_NAMES if kind != "none"}
            for what in ("events", "lost")
        }
        counters.pop("events_none")
        # Losses of a source that reports only that something was lost, not what.
        by_kind["lost"]["unknown"] = counters.pop("lost_none")
        watermark = int(commit["watermark_boot_ns"])
        return {
            "instance": self.instance,
            "state": layout.STATE_NAMES[int(header["state"])],
            "epoch": int(header["epoch"]),
            "takeovers": int(header["takeovers"]),
            "writer_pid": int(header["writer_tgid"]),
            "heartbeat_age_ns": view.age_ns,
            "behind_ns": behind_ns,
            "events": by_kind["events"],
            "lost": by_kind["lost"],
            "late": counters.pop("late"),
            "frames": counters.pop("frames"),
            "entries": {
                "live": int(commit["heads_live"]),
                "exited": int(commit["heads_exited"]),
                "images": int(commit["rows_used"]),
            },
            "watermark_lag_ns": max(0, now - watermark) if watermark else None,
            "repairs": counters.pop("repairs"),
            "evictions": counters.pop("evictions"),
            "readers": readers,
            "readers_complete": readers_complete,
            "processes": processes.measure(Path(self.directory)),
            "memory": {
                "rows_used": int(commit["rows_used"]),
                "rows_allocated": int(header["rows_allocated"]),
                "rows_capacity": int(header["row_capacity"]),
                **{
                    f"{arena}_{what}_bytes": int((commit if what == "used" else header)[f"{arena}_{what}_bytes"])
                    for arena in ("names", "args", "envs")
                    for what in ("used", "allocated", "capacity")
                },
            },
            "stream": dict(zip(layout.TOPICS, map(int, commit["topic_seq"]), strict=False)),
            "counters": counters,
        }


def _container(entry: Entry) -> str | None:
    return entry.container_id
