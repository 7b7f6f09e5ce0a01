"""The resources that one process has used, and which of them are unknown."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

from pipeline.shm.layout.entry_types import EntryFields

#: The fields of an entry that `usage_of` and `pipeline.account.sums` read.
FIELDS = (
    "pid", "entity_id", "parent_entity_id", "creator_entity_id", "start_time_ns", "exit_time_ns", "is_exited", "images",
    "marks",
    "cpu_user_ns", "cpu_system_ns", "children_cpu_ns", "max_rss_bytes", "minor_faults", "major_faults",
    "voluntary_switches", "involuntary_switches", "read_bytes", "write_bytes",
)  # fmt: skip


@dataclass(slots=True)
class Usage:
    """The resources that a process has used from its fork to its end, or to now, without those of its children.

    Attributes:
        entry: the process.
        is_live: whether it runs; the numbers are those of now then, and CPU times have the resolution of a clock tick.
        cpu_user_ns, cpu_system_ns: None: unknown; then the following are unknown too.
        children_cpu_ns: of the descendants that were waited for.
        read_bytes, write_bytes: None: unknown.
    """

    entry: EntryFields
    is_live: bool
    cpu_user_ns: int | None = None
    cpu_system_ns: int | None = None
    children_cpu_ns: int | None = None
    max_rss_bytes: int | None = None
    minor_faults: int | None = None
    major_faults: int | None = None
    voluntary_switches: int | None = None
    involuntary_switches: int | None = None
    read_bytes: int | None = None
    write_bytes: int | None = None

    @property
    def cpu_ns(self) -> int:
        """CPU time in all; 0 if it is unknown."""
        return (self.cpu_user_ns or 0) + (self.cpu_system_ns or 0)

    def life_ns(self, now_ns: int) -> int:
        """How long the process has lived."""
        begin, end = self.entry.get("start_time_ns"), self.entry.get("exit_time_ns") or now_ns
        return 0 if begin is None else max(0, end - begin)


#: The numbers of a `Usage` that an entry and `pipeline.host.processes.used` have, in the order of `Usage`.
NUMBERS = (
    "cpu_user_ns", "cpu_system_ns", "children_cpu_ns", "max_rss_bytes", "minor_faults", "major_faults",
    "voluntary_switches", "involuntary_switches", "read_bytes", "write_bytes",
)  # fmt: skip


def usage_of(entry: EntryFields, used: Callable[[int, int], dict[str, int | None] | None] | None) -> Usage:
    """Return what a process has used.

    Args:
        entry: with FIELDS.
        used: reads the numbers of a live process with this pid and start time (in ns since the Unix epoch); returns
            None if there is none. None: live processes cannot be read.
    """
    if entry.get("exit_time_ns"):
        return Usage(entry, False, *map(cast("dict[str, Any]", entry).get, NUMBERS))
    found = None
    start_ns = entry.get("start_time_ns")
    if used is not None and start_ns is not None:
        found = used(entry["pid"], start_ns)
    return Usage(entry, True, **(found or {}))


def by_identity(usages: Iterable[Usage]) -> dict[str, Usage]:
    """Return the usages of processes with a known identity, by that."""
    return {identity: usage for usage in usages if (identity := usage.entry.get("entity_id"))}
