"""Find changes that the proc connector does not report, by reading processes again a while after an event.

Programs set themselves up soon after they start, or after they change their user: capabilities, groups, login uid,
session, terminal, cgroup. So after each exec and each change of credentials the process is read again, after one second
and after ten. A process that has ended by then costs one look-up in a dictionary.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

from pipeline.procfs.info import ProcInfo
from pipeline.procfs.proc_reader import WANT_AUDIT, WANT_CGROUP, WANT_IDS, WANT_NS
from pipeline.records import declared
from pipeline.shm.layout import layout

WANT_RECHECK = WANT_IDS | WANT_AUDIT | WANT_CGROUP | WANT_NS
AFTER_NS = (1_000_000_000, 10_000_000_000)
#: If more checks are waiting, the earliest are dropped; a repair finds the changes that they would have found.
WAITING_MAX = 1 << 16


@dataclass(frozen=True, slots=True)
class Facts:
    """The values to compare, by the kind of event that reports them; None if they could not be read."""

    cred: tuple[object, ...]
    session: tuple[object, ...]
    namespaces: tuple[int, ...] | None
    cgroup: int | None  #: id of the version 2 cgroup
    cgroups_v1: int | None

    @classmethod
    def of(cls, info: ProcInfo) -> Facts:
        """Return the values of a process that have been read from ``/proc``."""
        return cls(
            (info.uids, info.gids, info.cap_effective, info.cap_permitted, info.auid),
            (info.sid, info.pgid, info.tty),
            (info.pid_ns, info.mnt_ns, info.net_ns, info.user_ns) if info.mnt_ns else None,
            info.cgroup_id or None,
            info.cgroups_v1 or None,
        )

    def changes(self, later: Facts) -> Iterator[tuple[int, int]]:
        """Yield (kind of event, KNOWN_* groups) of the values that differ in `later`."""
        if self.cred != later.cred:
            yield declared.KIND_CRED, layout.KNOWN_CREDS | layout.KNOWN_CAPS | layout.KNOWN_AUID
        belongs = layout.KNOWN_SID | layout.KNOWN_TTY if self.session != later.session else 0
        if later.namespaces is not None and self.namespaces != later.namespaces:
            belongs |= layout.KNOWN_NS
        if belongs:
            yield declared.KIND_SID, belongs
        if (later.cgroup is not None and self.cgroup != later.cgroup) or (
            later.cgroups_v1 is not None and self.cgroups_v1 != later.cgroups_v1
        ):
            yield declared.KIND_CGROUP, layout.KNOWN_CGROUP


@dataclass(slots=True)
class Watched:
    """A process to read again, and the values that were last reported, which are compared."""

    tgid: int
    start_boot_ns: int
    facts: Facts
    planned_boot_ns: int = 0  #: time of the last event
    same_boot_ns: int = 0  #: the process had these values at this time or later
    waits: int = 0  #: bit n: the check after AFTER_NS[n] is due later


class Rechecks:
    """The checks that are due, earliest first. Each process waits at most once for each of AFTER_NS."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, int, int, Watched]] = []  # a heap: time, number, index in AFTER_NS, process
        self._watched: dict[int, Watched] = {}
        self._numbers = itertools.count()

    def plan(self, tgid: int, start_boot_ns: int, facts: Facts, now_boot_ns: int) -> None:
        """Plan a check of a process after each of AFTER_NS; `facts` are the current values, which were reported."""
        watched = self._watched.get(tgid)
        if watched is None or watched.start_boot_ns != start_boot_ns:
            watched = self._watched[tgid] = Watched(tgid, start_boot_ns, facts)
        watched.facts = facts
        watched.planned_boot_ns = watched.same_boot_ns = now_boot_ns
        for which in range(len(AFTER_NS)):
            if not watched.waits & 1 << which:
                watched.waits |= 1 << which
                self._wait(which, watched)
        while len(self._waiting) > WAITING_MAX:
            self._forget(*heapq.heappop(self._waiting)[2:])

    def session_reported(self, tgid: int, start_boot_ns: int, time_boot_ns: int) -> None:
        """Record that an event has reported a new session of the process, so that no check reports it again."""
        watched = self._watched.get(tgid)
        if watched is not None and watched.start_boot_ns == start_boot_ns:
            watched.facts = replace(watched.facts, session=(tgid, tgid, b""))
            # A check can have read the process after this event, which arrived later.
            watched.same_boot_ns = min(watched.same_boot_ns, time_boot_ns)

    def due(self, now_boot_ns: int) -> Watched | None:
        """Remove and return a process that is due; None if there is none."""
        while self._waiting and self._waiting[0][0] <= now_boot_ns:
            due_ns, _, which, watched = heapq.heappop(self._waiting)
            if watched.planned_boot_ns + AFTER_NS[which] > due_ns:
                self._wait(which, watched)  # another event has occurred since, so the check was planned again
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
