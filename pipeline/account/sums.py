"""Sums of what processes have used."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pipeline.account.usage import Usage, by_identity
from pipeline.shm.layout.entry_types import EntryFields

_K = TypeVar("_K", bound=Hashable)


@dataclass(slots=True)
class Sum:
    """The resources that several processes have used together.

    Attributes:
        processes: how many they are.
        live: how many of them run.
        unknown: how many have an unknown use; they count in the two numbers above and in `life_ns` only.
        unknown_io: how many have an unknown number of bytes; the processes of `unknown` are among them.
        execs: how many programs they executed.
        max_rss_bytes: the largest resident memory of one process. Peaks of different times are not added up.
        life_ns: sum of their life times.
        rest_cpu_ns: CPU time that the kernel counts for descendants of these processes, and that no record says; see
            `rests`.
    """

    processes: int = 0
    live: int = 0
    unknown: int = 0
    unknown_io: int = 0
    execs: int = 0
    cpu_user_ns: int = 0
    cpu_system_ns: int = 0
    max_rss_bytes: int = 0
    minor_faults: int = 0
    major_faults: int = 0
    voluntary_switches: int = 0
    involuntary_switches: int = 0
    read_bytes: int = 0
    write_bytes: int = 0
    life_ns: int = 0
    rest_cpu_ns: int = 0

    @property
    def cpu_ns(self) -> int:
        """CPU time in all."""
        return self.cpu_user_ns + self.cpu_system_ns + self.rest_cpu_ns

    def add(self, usage: Usage, now_ns: int, rest_ns: int = 0) -> None:
        """Add a process."""
        self.processes += 1
        self.live += usage.is_live
        self.execs += max(0, (usage.entry.get("images") or 1) - 1)
        self.life_ns += usage.life_ns(now_ns)
        self.rest_cpu_ns += rest_ns
        self.unknown_io += usage.read_bytes is None
        if usage.cpu_user_ns is None:
            self.unknown += 1
            return
        self.cpu_user_ns += usage.cpu_user_ns
        self.cpu_system_ns += usage.cpu_system_ns or 0
        self.max_rss_bytes = max(self.max_rss_bytes, usage.max_rss_bytes or 0)
        self.minor_faults += usage.minor_faults or 0
        self.major_faults += usage.major_faults or 0
        self.voluntary_switches += usage.voluntary_switches or 0
        self.involuntary_switches += usage.involuntary_switches or 0
        self.read_bytes += usage.read_bytes or 0
        self.write_bytes += usage.write_bytes or 0

    def merge(self, other: Sum) -> None:
        """Add another sum."""
        peak = max(self.max_rss_bytes, other.max_rss_bytes)
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.max_rss_bytes = peak


def sums_by(usages: Iterable[Usage], key: Callable[[Usage], _K], now_ns: int, rest_ns: dict[str, int]) -> dict[_K, Sum]:
    """Return a sum for each key. `rest_ns` is what `rests` returned."""
    found: dict[_K, Sum] = {}
    for usage in usages:
        name = key(usage)
        if name not in found:
            found[name] = Sum()
        found[name].add(usage, now_ns, rest_ns.get(usage.entry.get("entity_id") or "", 0))
    return found


def capture_time_ns(entries: Iterable[EntryFields]) -> int:
    """Return the start of the youngest process that is older than the capture; 0: there is none.

    Every process that began later was seen from its fork on. The mark itself is only in the image that the process had
    when the capture began.
    """
    return max((entry.get("start_time_ns") or 0 for entry in entries if "before_capture" in entry["marks"]), default=0)


def rests(usages: Sequence[Usage], parents_of_others: Collection[str | None], captured_ns: int = 0) -> dict[str, int]:
    """Return the CPU time that the kernel counts for the descendants of a process and that their records lack.

    When a process waits for a child, the kernel adds to it all of the CPU time of the child, and of the processes that
    the child waited for. That includes the time that they needed to end, which their own records lack. It also includes
    processes that were lost or are not retained any more. The use of its exited children that are retained, and of
    their descendants, is subtracted.

    A process from before the capture has no rest, because it is not known how much of its count is older than the
    capture. For pid 1 it can be days.

    Args:
        usages: the selected processes.
        parents_of_others: identities of the parents of all processes that are not selected. These parents have no
            rest here, because a part of it belongs to processes that are not selected.
        captured_ns: what `capture_time_ns` returned.

    Returns:
        By identity; only what is above 0.
    """
    own = by_identity(usages)
    children: dict[str, list[str]] = {}
    roots = []
    for identity, usage in own.items():
        parent = usage.entry.get("parent_entity_id")
        if parent in own and parent is not None:
            children.setdefault(parent, []).append(identity)
        else:
            roots.append(identity)
    total: dict[str, int] = {}
    found: dict[str, int] = {}
    for identity in _children_first(roots, children):
        usage = own[identity]
        total[identity] = usage.cpu_ns + sum(total[child] for child in children.get(identity, ()))
        if identity in parents_of_others or (usage.entry.get("start_time_ns") or 0) <= captured_ns:
            continue
        ended = sum(total[child] for child in children.get(identity, ()) if not own[child].is_live)
        rest = (usage.children_cpu_ns or 0) - ended
        if rest > 0:
            found[identity] = rest
            total[identity] += rest
    return found


def _children_first(roots: Iterable[str], children: dict[str, list[str]]) -> Iterator[str]:
    """Yield every identity below the roots, children before their parents."""
    waiting = [(root, False) for root in roots]
    while waiting:
        identity, is_ready = waiting.pop()
        if is_ready:
            yield identity
            continue
        waiting.append((identity, True))
        waiting.extend((child, False) for child in children.get(identity, ()))


@dataclass
class Coverage:
    """The processes that are missing in sums, or count only in part.

    Attributes:
        complete_from_ns: every process that ended later is retained; None: all that ended since the capture began are.
        evicted: how many images were evicted.
        lost_exits: how many exits the kernel could not report; their processes count as unknown.
        began_earlier: processes that began before the period and lived on in it; they are left out.
        began_earlier_cpu_ns: CPU time of these in their whole life.
        before_capture: processes that began before the capture and have waited for children. What the kernel counts for
            these children is left out, because a part of it is from before the capture.
    """

    complete_from_ns: int | None = None
    evicted: int = 0
    lost_exits: int = 0
    began_earlier: int = 0
    began_earlier_cpu_ns: int = 0
    before_capture: int = 0
