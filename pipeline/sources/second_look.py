"""What the proc connector does not report: processes are looked at again a while after they changed.

Programs set themselves up just after they begin, or after they changed their user: capabilities, groups, login uid,
session, terminal, cgroup. So each exec and each change of credentials has the process looked at again after a second
and after ten. One that has ended by then costs a look into a dictionary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

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
    cgroup: int | None

    @classmethod
    def of(cls, info: ProcInfo) -> Facts:
        """Take them from what ``/proc`` said."""
        return cls(
            (info.uids, info.gids, info.cap_effective, info.cap_permitted, info.auid),
            (info.sid, info.pgid, info.tty),
            info.cgroup_id or None,
        )

    def changes(self, later: Facts) -> Iterator[tuple[int, int]]:
        """Yield (kind of event, KNOWN_* groups) for what is different later."""
        if self.cred != later.cred:
            yield events.KIND_CRED, layout.KNOWN_CREDS | layout.KNOWN_CAPS | layout.KNOWN_AUID
        if self.session != later.session:
            yield events.KIND_SID, layout.KNOWN_SID | layout.KNOWN_TTY
        if later.cgroup is not None and self.cgroup != later.cgroup:
            yield events.KIND_CGROUP, layout.KNOWN_CGROUP


@dataclass(frozen=True, slots=True)
class Look:
    """A process to be looked at again, and what it was like."""

    due_boot_ns: int
    tgid: int
    start_boot_ns: int
    facts: Facts


class Looks:
    """The looks that are due, soonest first."""

    def __init__(self) -> None:
        self._waiting: tuple[deque[Look], ...] = tuple(deque(maxlen=WAITING_MAX) for _ in AFTER_NS)

    def plan(self, tgid: int, start_boot_ns: int, facts: Facts, now_boot_ns: int) -> None:
        """Have a process looked at after each of AFTER_NS; `facts` are those of now."""
        for waiting, after_ns in zip(self._waiting, AFTER_NS, strict=True):
            waiting.append(Look(now_boot_ns + after_ns, tgid, start_boot_ns, facts))

    def due(self, now_boot_ns: int) -> Look | None:
        """Take one that is due; None if there is none."""
        for waiting in self._waiting:
            if waiting and waiting[0].due_boot_ns <= now_boot_ns:
                return waiting.popleft()
        return None
