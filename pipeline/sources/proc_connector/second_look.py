"""What the proc connector does not report: processes are looked at again a while after they changed.

Programs set themselves up just after they begin, or after they changed their user: capabilities, groups, login uid,
session, terminal, cgroup. So each exec and each change of credentials has the process looked at again after a second
and after ten. One that has ended by then costs a look into a dictionary.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

from pipeline.procfs.info import ProcInfo
from pipeline.procfs.reader import WANT_AUDIT, WANT_CGROUP, WANT_IDS, WANT_NS
from pipeline.records import kinds as events
from pipeline.shm.layout import tables as layout

WANT_LOOK = WANT_IDS | WANT_AUDIT | WANT_CGROUP | WANT_NS
AFTER_NS = (1_000_000_000, 10_000_000_000)
#: With more of them waiting, the soonest are given up: a repair will find what they would have.
WAITING_MAX = 1 << 16


@dataclass(frozen=True, slots=True)
class Facts:
    """What is compared, by the kind of event that would have told; what was not to be read is None."""

    cred: tuple[object, ...]
    session: tuple[object, ...]
    namespaces: tuple[int, ...] | None
    cgroup: int | None  #: of version 2
    cgroups_v1: int | None

    @classmethod
    def of(cls, info: ProcInfo) -> Facts:
        """Take them from what ``/proc`` said."""
        return cls(
            (info.uids, info.gids, info.cap_effective, info.cap_permitted, info.auid),
            (info.sid, info.pgid, info.tty),
            (info.pid_ns, info.mnt_ns, info.net_ns, info.user_ns) if info.mnt_ns else None,
            info.cgroup_id or None,
            info.cgroups_v1 or None,
        )

    def changes(self, later: Facts) -> Iterator[tuple[int, int]]:
        """Yield (kind of event, KNOWN_* groups) for what is different later."""
        if self.cred != later.cred:
            yield events.KIND_CRED, layout.KNOWN_CREDS | layout.KNOWN_CAPS | layout.KNOWN_AUID
        belongs = layout.KNOWN_SID | layout.KNOWN_TTY if self.session != later.session else 0
        if later.namespaces is not None and self.namespaces != later.namespaces:
            belongs |= layout.KNOWN_NS
        if belongs:
            yield events.KIND_SID, belongs
        if (later.cgroup is not None and self.cgroup != later.cgroup) or (
            later.cgroups_v1 is not None and self.cgroups_v1 != later.cgroups_v1
        ):
            yield events.KIND_CGROUP, layout.KNOWN_CGROUP


@dataclass(slots=True)
class Watched:
    """A process to be looked at again, and what was last told of it: its looks compare with that."""

    tgid: int
    start_boot_ns: int
    facts: Facts
    planned_boot_ns: int = 0  #: the last time
    waits: int = 0  #: bit n: the look after AFTER_NS[n] is still to come


class Looks:
    """The looks that are due, soonest first; each process waits once for each of AFTER_NS, whatever it does."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, int, int, Watched]] = []  # a heap: when, number, which of AFTER_NS, who
        self._watched: dict[int, Watched] = {}
        self._numbers = itertools.count()

    def plan(self, tgid: int, start_boot_ns: int, facts: Facts, now_boot_ns: int) -> None:
        """Have a process looked at after each of AFTER_NS; `facts` are those of now, and were told."""
        watched = self._watched.get(tgid)
        if watched is None or watched.start_boot_ns != start_boot_ns:
            watched = self._watched[tgid] = Watched(tgid, start_boot_ns, facts)
        watched.facts = facts
        watched.planned_boot_ns = now_boot_ns
        for which in range(len(AFTER_NS)):
            if not watched.waits & 1 << which:
                watched.waits |= 1 << which
                self._wait(which, watched)
        while len(self._waiting) > WAITING_MAX:
            self._forget(*heapq.heappop(self._waiting)[2:])

    def session_told(self, tgid: int, start_boot_ns: int) -> None:
        """An event has told that a process leads a new session: no look need tell it again."""
        watched = self._watched.get(tgid)
        if watched is not None and watched.start_boot_ns == start_boot_ns:
            watched.facts = replace(watched.facts, session=(tgid, tgid, b""))

    def due(self, now_boot_ns: int) -> Watched | None:
        """Take one that is due; None if there is none."""
        while self._waiting and self._waiting[0][0] <= now_boot_ns:
            due_ns, _, which, watched = heapq.heappop(self._waiting)
            if watched.planned_boot_ns + AFTER_NS[which] > due_ns:
                self._wait(which, watched)  # it has changed again since
                continue
            self._forget(which, watched)
            return watched
        return None

    def _wait(self, which: int, watched: Watched) -> None:
        due_ns = watched.planned_boot_ns + AFTER_NS[which]
        heapq.heappush(self._waiting, (due_ns, next(self._numbers), which, watched))

    def _forget(self, which: int, watched: Watched) -> None:
        watched.waits &= ~(1 << which)
        if not watched.waits and self._watched.get(watched.tgid) is watched:
            del self._watched[watched.tgid]
