"""Keep track of the descendants of processes by the events of the stream.

The lineage in an event has at most eight ancestors, so it cannot show that a process is a distant descendant. A
`Following` therefore keeps the identities of all live descendants: from the table at the start and after a gap, from
forks in between. An exit removes the identity of the process.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pipeline.select.selection import descendants

if TYPE_CHECKING:
    from pipeline.shm.layout.entry_types import EntryFields

#: The topics whose events have to be passed to `Following.takes`.
TOPICS = ("proc.fork", "proc.exit")
#: The fields of entries that `Following.start` reads.
FIELDS = ("pid", "entity_id", "parent_entity_id", "creator_entity_id", "exit_time_ns")
#: Identities that are kept. It is the default of `tables.max_entries`, and about 40 MB.
IDENTITIES_MAX = 1 << 18
#: Exited processes of the table are kept too if they ended so recently that events of them can still arrive, ns.
_RECENT_NS = 60_000_000_000


class Following:
    """The processes with one of some pids at the start, and their descendants.

    Args:
        pids: of the processes.
        limit: identities that are kept at most; of more, the oldest is forgotten, and `is_full` becomes true.

    Attributes:
        is_full: whether descendants were forgotten, so that some events may be missing.
    """

    def __init__(self, pids: Collection[int], limit: int = IDENTITIES_MAX) -> None:
        self._pids = frozenset(pids)
        self._limit = limit
        #: The order is that in which they came to be known.
        self._identities: dict[str, None] = {}
        self._roots: frozenset[str] = frozenset()
        self.is_full = False

    def __len__(self) -> int:
        return len(self._identities)

    def start(self, entries: Iterable[EntryFields], now_ns: int) -> list[int]:
        """Read the descendants from a table that was read after the stream was opened; call it again after a gap.

        Args:
            entries: all processes of the table, exited ones too, because a descent may lead through them.
            now_ns: the present time, ns since the Unix epoch.

        Returns:
            The pids that no process has; empty after the first call, because a process may have ended meanwhile.
        """
        everything = list(entries)
        missing: list[int] = []
        if not self._roots:
            newest = {entry["pid"]: entry for entry in everything if entry["pid"] in self._pids}
            missing = sorted(self._pids - newest.keys())
            self._roots = frozenset(entry.get("entity_id") or "" for entry in newest.values())
        below = descendants(everything, identities=self._roots) | self._identities.keys()
        self._identities = {}
        for entry in everything:
            own, ended_ns = entry.get("entity_id"), entry.get("exit_time_ns")
            if own in below and own is not None and (ended_ns is None or now_ns - ended_ns < _RECENT_NS):
                self._add(own)
        return missing

    def follows(self, event: Mapping[str, Any]) -> bool:
        """Return whether an event is about one of the processes, and note a birth or an end."""
        own = event.get("entity_id")
        if own is None:
            return False
        known = self._identities
        if own not in known:
            above = event.get("parent_entity_id"), event.get("creator_entity_id")
            if not any(each in known for each in above) and not self._descends(event):
                return False
            self._add(own)
        if event.get("event") == "exit":
            del known[own]
        return True

    def _descends(self, event: Mapping[str, Any]) -> bool:
        """Whether an ancestor that the event names is one of the processes: its fork may have been missed."""
        return any(image.get("entity_id") in self._identities for image in event.get("lineage") or ())

    def _add(self, identity: str) -> None:
        self._identities[identity] = None
        if len(self._identities) > self._limit:
            self.is_full = True
            del self._identities[next(iter(self._identities))]
