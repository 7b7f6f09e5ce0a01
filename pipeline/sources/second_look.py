"""What the proc connector does not report: processes are looked at again a while after they changed.

Programs set themselves up just after they begin, or after they changed their user: capabilities, groups, login uid,
session, terminal, cgroup. So each exec and each change of credentials has the process looked at again after a second
and after ten. One that has ended by then costs a look into a dictionary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

from pipeline import events
from pipeline.resolver.procfs import WANT_AUDIT, WANT_CGROUP, WANT_IDS, WANT_NS
from pipeline.resolver.procinfo import ProcInfo
from pipeline.shm import layout

WANT_LOOK = WANT_IDS | WANT_AUDIT | WANT_CGROUP | WANT_NS
AFTER_NS = (1_000_000_000, 10_000_000_000)
#: With more of them waiting, the oldest are given up: a repair will find what they would have.
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
    """A process to be looked at again, and what was last told of it: all of its looks compare with that."""

    tgid: int
    start_boot_ns: int
    facts: Facts
    looks: int = 0  #: that wait


class Looks:
    """The looks that are due, soonest first."""

    def __init__(self) -> None:
        self._waiting: tuple[deque[tuple[int, Watched]], ...] = tuple(deque() for _ in AFTER_NS)
        self._watched: dict[int, Watched] = {}

    def plan(self, tgid: int, start_boot_ns: int, facts: Facts, now_boot_ns: int) -> None:
        """Have a process looked at after each of AFTER_NS; `facts` are those of now, and were told."""
        watched = self._watched.get(tgid)
        if watched is None or watched.start_boot_ns != start_boot_ns:
            watched = self._watched[tgid] = Watched(tgid, start_boot_ns, facts)
        watched.facts = facts
        for waiting, after_ns in zip(self._waiting, AFTER_NS, strict=True):
            if len(waiting) >= WAITING_MAX:
                self._taken(waiting.popleft()[1])
            waiting.append((now_boot_ns + after_ns, watched))
            watched.looks += 1

    def session_told(self, tgid: int, start_boot_ns: int) -> None:
        """An event has told that a process leads a new session: no look need tell it again."""
        watched = self._watched.get(tgid)
        if watched is not None and watched.start_boot_ns == start_boot_ns:
            watched.facts = replace(watched.facts, session=(tgid, tgid, b""))

    def due(self, now_boot_ns: int) -> Watched | None:
        """Take one that is due; None if there is none."""
        for waiting in self._waiting:
            if waiting and waiting[0][0] <= now_boot_ns:
                watched = waiting.popleft()[1]
                self._taken(watched)
                return watched
        return None

    def _taken(self, watched: Watched) -> None:
        watched.looks -= 1
        if not watched.looks and self._watched.get(watched.tgid) is watched:
            del self._watched[watched.tgid]
