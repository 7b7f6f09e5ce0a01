"""Counters and contents of an instance: the result of `ProcessTable.stats`. It is read without numpy."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypedDict

from pipeline.errors import LayoutError
from pipeline.host import processes, retention, sampling_interval
from pipeline.records.declared import KIND_NAMES
from pipeline.shm.layout.declared import COMMIT_LAYOUT, CONTROL_LAYOUT, COUNTERS, STATE_NAMES, TOPICS
from pipeline.shm.reader.horizon import horizon

if TYPE_CHECKING:
    from pipeline.host.processes import WorkerUsage
    from pipeline.shm.reader._reader import TableReader

_ARENAS = ("names", "args", "envs")
#: Fields of CONTROL and of COMMIT, in the order in which they lie there.
_HEADER = (
    "writer_tgid", "epoch", "row_capacity", "rows_allocated", "state",
    *(f"{arena}_{what}_bytes" for what in ("capacity", "allocated") for arena in _ARENAS),
    "boot_unix_ns", "takeovers", "ready_boot_ns",
)  # fmt: skip
_COMMIT = (
    "watermark_boot_ns", "heads_live", "heads_exited", "rows_used", *(f"{arena}_used_bytes" for arena in _ARENAS),
)  # fmt: skip


class ImageCounts(TypedDict):
    """How many processes and images the tables hold."""

    live: int
    exited: int
    images: int


class Stats(TypedDict):
    """The result of `ProcessTable.stats`."""

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
    header = dict(zip(_HEADER, CONTROL_LAYOUT.struct(*_HEADER).unpack_from(view.header()), strict=True))
    commit = _commit_of(commit_bytes)
    readers, readers_complete = table.count_readers()
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    counters = dict(zip(COUNTERS, commit.counters, strict=False))
    by_kind = {
        what: {kind: counters.pop(f"{what}_{kind}") for kind in KIND_NAMES if kind != "none"}
        for what in ("events", "lost")
    }
    counters.pop("events_none")
    # Losses of a source that reports only that something was lost, not what.
    by_kind["lost"]["unknown"] = counters.pop("lost_none")
    watermark = commit.numbers["watermark_boot_ns"]
    began_ns = header["ready_boot_ns"]
    kept_s = retention.read(Path(table.directory))
    reach = horizon(table.directory)
    return {
        "instance": table.instance,
        "state": STATE_NAMES[header["state"]],
        "epoch": header["epoch"],
        "takeovers": header["takeovers"],
        "writer_pid": header["writer_tgid"],
        "started_ns": began_ns + header["boot_unix_ns"] if began_ns else None,
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
            "live": commit.numbers["heads_live"],
            "exited": commit.numbers["heads_exited"],
            "images": commit.numbers["rows_used"],
        },
        "watermark_lag_ns": max(0, now - watermark) if watermark else None,
        "repairs": counters.pop("repairs"),
        "evictions": counters.pop("evictions"),
        "readers": readers,
        "readers_complete": readers_complete,
        "processes": processes.measure(Path(table.directory)),
        "memory": _memory(header, commit.numbers),
        "stream": dict(zip(TOPICS, commit.topic_seq, strict=False)),
        "counters": counters,
    }


class _Commit(NamedTuple):
    """A commit: the fields of _COMMIT, and two lists of numbers."""

    numbers: dict[str, int]
    topic_seq: tuple[int, ...]
    counters: tuple[int, ...]


def _commit_of(data: bytes | None) -> _Commit:
    """Return the fields of a commit; all are 0 if there is none yet."""
    data = data or bytes(COMMIT_LAYOUT.size)
    if len(data) < COMMIT_LAYOUT.size:
        raise LayoutError(
            "a commit in the control segment is too short: damaged; stop the instance, remove the directory and start"
            " it again",
            expected=COMMIT_LAYOUT.size,
            found=len(data),
        )
    values = COMMIT_LAYOUT.struct(*_COMMIT, "topic_seq", "counters").unpack_from(data)
    topics, counters = len(_COMMIT), len(_COMMIT) + COMMIT_LAYOUT.fields["topic_seq"].count
    return _Commit(dict(zip(_COMMIT, values, strict=False)), values[topics:counters], values[counters:])


def _memory(header: dict[str, int], commit: dict[str, int]) -> dict[str, int]:
    """Return how much of the rows and of the arenas is used, allocated, and possible."""
    return {
        "rows_used": commit["rows_used"],
        "rows_allocated": header["rows_allocated"],
        "rows_capacity": header["row_capacity"],
        **{
            f"{arena}_{what}_bytes": (commit if what == "used" else header)[f"{arena}_{what}_bytes"]
            for arena in _ARENAS
            for what in ("used", "allocated", "capacity")
        },
    }
