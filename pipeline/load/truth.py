"""The events that a load made, as its program recorded them, and the comparison with those that a subscriber received.

The program's records have a time before and after each event (boot clock). The kernel's time of an event is between
the two, so pid and time identify the process, also if the pid is used again. An event is *seen* if it is in such a
span, *lost* if a span has too few events, *extra* if it is in none or the span has enough already.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from pipeline.load.declared import (
    KIND_THREAD,
    KINDS,
    LOG_HEADER_BYTES,
    LOG_HEADER_LAYOUT,
    LOG_RECORD_LAYOUT,
    SEEN_LAYOUT,
)
from pipeline.records.declared import KIND_CRED, KIND_FORK

if TYPE_CHECKING:
    import numpy.typing as npt

RECORD = np.dtype(LOG_RECORD_LAYOUT.dtype())
SEEN = np.dtype(SEEN_LAYOUT.dtype())

#: What `Log` reads of the header.
_HEADER = LOG_HEADER_LAYOUT.struct(
    "used", "begin_ns", "end_ns", "cpu_ns", "units", "failed", "is_full", "error", "late_ns"
)  # fmt: skip
_PID_BITS = 22
#: A program reads the clock again after it was interrupted, the kernel reads it in the system call: both are exact, but
#: the clocks of two CPUs may differ by this much.
_SLACK_NS = 20_000
#: Lines of examples for each kind of fault.
_EXAMPLES_MAX = 5


@dataclass(slots=True)
class Made:
    """The events that a load made.

    Attributes:
        records: of all processes, in no order.
        begin_boot_ns, end_boot_ns: of the run, from the first worker to the end of the last.
        cpu_ns: CPU time of all its processes.
        units: how many units were made.
        failed: system calls that failed, and `error`, the errno of the last one.
        is_full: the log was full, so the load ended early.
        late_ns: the longest time by which a unit began too late.
    """

    records: npt.NDArray[np.void]
    begin_boot_ns: int
    end_boot_ns: int
    cpu_ns: int
    units: int
    failed: int
    error: int
    is_full: bool
    late_ns: int

    @property
    def seconds(self) -> float:
        """Duration of the run."""
        return max(self.end_boot_ns - self.begin_boot_ns, 1) / 1e9

    def counts(self) -> dict[str, int]:
        """Return the number of events by kind, and the threads."""
        found = {}
        for name, kind in {**KINDS, "thread": KIND_THREAD}.items():
            found[name] = int(self.records["count"][self.records["kind"] == kind].sum())
        return found

    @property
    def events(self) -> int:
        """All events and threads."""
        return int(self.records["count"].sum())


class Log:
    """The memory that a load writes its records to.

    Args:
        capacity: records; memory is used only for those that are written.
    """

    def __init__(self, capacity: int) -> None:
        self.fd = os.memfd_create("procline-load", os.MFD_CLOEXEC)
        length = LOG_HEADER_BYTES + capacity * RECORD.itemsize
        os.ftruncate(self.fd, length)
        self._memory = mmap.mmap(self.fd, length)
        self._memory[LOG_HEADER_LAYOUT.span("capacity")] = capacity.to_bytes(8, "little")
        self._capacity = capacity
        self._summed = (0, 0)  #: records, and their events

    def read(self) -> Made:
        """Return what was recorded so far; complete when the program has ended."""
        used, begin, end, cpu, units, failed, is_full, error, late = _HEADER.unpack_from(self._memory)
        count = min(used, self._capacity)
        records = _with_begin(self._records(0, count).copy())
        return Made(records, begin, end, cpu, units, failed, error, bool(is_full), late)

    def events(self) -> int:
        """Return the number of events that were recorded so far."""
        count = min(_HEADER.unpack_from(self._memory)[0], self._capacity)
        new = self._records(self._summed[0], count)
        self._summed = (count, self._summed[1] + int(new["count"].sum()))
        return self._summed[1]

    def _records(self, begin: int, end: int) -> npt.NDArray[np.void]:
        offset = LOG_HEADER_BYTES + begin * RECORD.itemsize
        return np.frombuffer(self._memory[offset : LOG_HEADER_BYTES + end * RECORD.itemsize], RECORD)

    def close(self) -> None:
        """Free the memory."""
        self._memory.close()
        os.close(self.fd)


def _with_begin(records: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
    """Set the begin of exits of orphans, which their adopter does not know: the fork of the process."""
    unknown = np.flatnonzero(records["begin_ns"] == 0)
    if len(unknown):
        forks = records[records["kind"] == KIND_FORK]
        forks = forks[np.lexsort((forks["begin_ns"], forks["pid"]))]
        base = int(forks["begin_ns"].min()) if len(forks) else 0
        keys = _keys(forks["pid"], forks["begin_ns"], base)
        at = np.searchsorted(keys, _keys(records["pid"][unknown], records["end_ns"][unknown], base)) - 1
        known = (at >= 0) & (forks["pid"][at] == records["pid"][unknown])
        records["begin_ns"][unknown[known]] = forks["begin_ns"][at[known]]
    return records


def _keys(pids: npt.NDArray[np.uint32], times_ns: npt.NDArray[np.uint64], base_ns: int) -> npt.NDArray[np.uint64]:
    """Return numbers that are ordered by pid, then time; times before `base_ns` count as it."""
    passed = np.maximum(times_ns, np.uint64(base_ns)) - np.uint64(base_ns)
    return pids.astype(np.uint64) << np.uint64(64 - _PID_BITS) | np.minimum(passed, np.uint64((1 << 42) - 1))


@dataclass(slots=True)
class Compared:
    """The result of a comparison.

    Attributes:
        seen, lost, extra: events by kind.
        wrong: events with another parent, exit status or executable than was made, by kind.
        examples: a few lines about lost, extra and wrong events.
    """

    seen: dict[str, int] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    extra: dict[str, int] = field(default_factory=dict)
    wrong: dict[str, int] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)

    @property
    def is_exact(self) -> bool:
        """Whether nothing was lost, extra or wrong."""
        return not (sum(self.lost.values()) + sum(self.extra.values()) + sum(self.wrong.values()))


def compare(records: npt.NDArray[np.void], seen: npt.NDArray[np.void]) -> Compared:
    """Compare what was made with what a subscriber received.

    Args:
        records: dtype RECORD.
        seen: dtype SEEN, only events of the load.
    """
    result = Compared()
    base = int(records["begin_ns"].min()) - _SLACK_NS if len(records) else 0
    for name, kind in KINDS.items():
        spans = records[records["kind"] == kind]
        spans = spans[np.lexsort((spans["begin_ns"], spans["pid"]))]
        events = seen[seen["kind"] == kind]
        keys = _keys(spans["pid"], spans["begin_ns"] - np.uint64(_SLACK_NS), base)
        at = np.searchsorted(keys, _keys(events["pid"], events["time_ns"], base), side="right") - 1
        inside = at >= 0
        if len(spans):
            inside &= spans["pid"][at] == events["pid"]
            inside &= events["time_ns"] <= spans["end_ns"][at] + np.uint64(_SLACK_NS)
        counts = np.bincount(at[inside], minlength=len(spans)).astype(np.int64)
        made = spans["count"].astype(np.int64)
        result.seen[name] = int(np.minimum(counts, made).sum())
        result.lost[name] = int(np.maximum(made - counts, 0).sum())
        result.extra[name] = int(np.maximum(counts - made, 0).sum() + np.count_nonzero(~inside))
        about = spans["about"][at[inside]] if len(spans) else np.zeros(0, np.uint32)
        reported = events["about"][inside]
        is_wrong = (reported != about) | (events["is_other"][inside] != 0)
        if kind == KIND_CRED:  # it changes to and fro
            is_wrong = (reported != about) & (reported != 0)
        result.wrong[name] = int(np.count_nonzero(is_wrong))
        for span, count in zip(spans[counts != made][:_EXAMPLES_MAX], counts[counts != made], strict=False):
            result.examples.append(f"{name} of pid {span['pid']}: made {span['count']}, seen {count}")
        for event in events[~inside][:_EXAMPLES_MAX]:
            result.examples.append(f"{name} of pid {event['pid']}: seen, not made")
        for event, expected in zip(events[inside][is_wrong][:_EXAMPLES_MAX], about[is_wrong], strict=False):
            result.examples.append(f"{name} of pid {event['pid']}: {event['about']} instead of {expected}")
    return result
