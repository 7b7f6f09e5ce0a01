"""What an instance has done and holds: the result of `ProcessTable.stats`."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, cast

import numpy as np

from pipeline.errors import LayoutError
from pipeline.host import processes, retention, sampling_interval
from pipeline.records.declared import KIND_NAMES
from pipeline.shm.layout import layout
from pipeline.shm.reader.horizon import horizon

if TYPE_CHECKING:
    from pipeline.host.processes import WorkerUsage
    from pipeline.shm.reader._reader import TableReader


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
    started_ns: int | None
    retention_s: float | None
    complete_from_ns: int | None
    sampling_interval_s: float | None
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


def statistics(table: TableReader) -> Stats:
    """Implement `ProcessTable.stats`."""
    view, commit_bytes, behind_ns = table.status()
    header = np.frombuffer(view.header(), layout.CONTROL)[0]
    commit = _commit_of(commit_bytes)
    readers, readers_complete = table.count_readers()
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
    began_ns = int(header["ready_boot_ns"])
    kept_s = retention.read(Path(table.directory))
    reach = horizon(table.directory)
    return {
        "instance": table.instance,
        "state": layout.STATE_NAMES[int(header["state"])],
        "epoch": int(header["epoch"]),
        "takeovers": int(header["takeovers"]),
        "writer_pid": int(header["writer_tgid"]),
        "started_ns": began_ns + int(header["boot_unix_ns"]) if began_ns else None,
        "retention_s": None if kept_s is None or math.isinf(kept_s) else kept_s,
        "complete_from_ns": None if reach is None else reach.time_ns,
        "sampling_interval_s": sampling_interval.read(Path(table.directory)),
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
        "processes": processes.measure(Path(table.directory)),
        "memory": _memory(header, commit),
        "stream": dict(zip(layout.TOPICS, map(int, commit["topic_seq"]), strict=False)),
        "counters": counters,
    }


def _commit_of(data: bytes | None) -> np.void:
    """Return the fields of a commit; all are 0 if there is none yet."""
    data = data or bytes(layout.COMMIT.itemsize)
    if len(data) < layout.COMMIT.itemsize:
        raise LayoutError(
            "a commit in the control segment is too short: damaged; stop the instance, remove the directory and start"
            " it again",
            expected=layout.COMMIT.itemsize,
            found=len(data),
        )
    return cast("np.void", np.frombuffer(data, layout.COMMIT, 1)[0])


def _memory(header: np.void, commit: np.void) -> dict[str, int]:
    """Return how much of the rows and of the arenas is used, allocated, and possible."""
    return {
        "rows_used": int(commit["rows_used"]),
        "rows_allocated": int(header["rows_allocated"]),
        "rows_capacity": int(header["row_capacity"]),
        **{
            f"{arena}_{what}_bytes": int((commit if what == "used" else header)[f"{arena}_{what}_bytes"])
            for arena in ("names", "args", "envs")
            for what in ("used", "allocated", "capacity")
        },
    }
