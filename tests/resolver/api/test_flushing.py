"""Removing many processes without an exit event at once does the same as removing one after the other."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline.resolver.api.ebpf import EBPFResolver
from pipeline.resolver.apply._applier import Applier
from pipeline.resolver.stream._encoder import Encoder
from pipeline.shm.layout import layout
from tests.resolver.random_story import OPS, PIDS, STEP_NS, tell
from tests.resolver.resolver_world import FakeProc, World, high, world
from tests.resolver.story import Event, Story, dump, enter_init, instance, make_tables
from tests.sampling import examples

Suspect = tuple[int, int]  # pid, start

ALIVE, ZOMBIE, OTHER, ABSENT = range(4)
SECOND = 1_000_000_000


@pytest.fixture
def w() -> Iterator[World]:
    with world() as made:
        yield made


def flush(resolver: EBPFResolver, proc: FakeProc, suspects: list[Suspect], time_boot_ns: int) -> int:
    """Flush many processes as the repair does."""
    pids = np.array([pid for pid, _ in suspects], np.uint32)
    starts = np.array([start for _, start in suspects], np.uint64)
    is_absent = np.array([pid not in proc.infos for pid, _ in suspects], np.bool_)
    return resolver.flush_all_gone(pids, starts, is_absent, time_boot_ns)


def flush_each(resolver: EBPFResolver, _: FakeProc, suspects: list[Suspect], time_boot_ns: int) -> int:
    """Flush the same processes one after the other."""
    with resolver.lock:
        return sum(resolver._flusher.flush_if_gone(*suspect, time_boot_ns) for suspect in suspects)


def test_a_process_that_proc_shows_is_not_flushed(w: World) -> None:
    """A zombie has ended; only its parent has not waited for it yet."""
    entry = w.fork(0, 3, 10).entry
    assert entry is not None
    suspects = [(high(3), entry.start_boot_ns)]
    w.proc.add(high(3), 0, start_boot_ns=entry.start_boot_ns)
    assert flush(w.resolver, w.proc, suspects, w.clock()) == 0 and w.cache == {high(3)}
    w.proc.add(high(3), 0, start_boot_ns=entry.start_boot_ns, state="Z")
    assert flush(w.resolver, w.proc, suspects, w.clock()) == 1
    assert w.cache == set() and w.count("flushed") == 1


def test_an_ended_process_that_is_still_cached_is_flushed(w: World) -> None:
    entry = w.fork(0, 3, 10).entry
    assert entry is not None
    assert entry.fork_time is not None
    entry.exit(entry.fork_time + 5)
    assert w.cache == {high(3)}
    assert flush(w.resolver, w.proc, [(high(3), entry.start_boot_ns)], w.clock()) == 1
    assert w.cache == set() and w.count("flushed") == 1


def test_only_processes_with_children_that_may_live_need_more_than_the_pass(
    w: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a take-over of thousands of ended processes takes a few microseconds each."""
    suspects = []
    for parent, pid in ((0, 3), (3, 4), (0, 5), (5, 6), (0, 7), (0, 8)):
        entry = w.fork(parent, pid, 10).entry
        assert entry is not None
        suspects.append((high(pid), entry.start_boot_ns))
    alive = suspects.pop(3)
    w.proc.add(alive[0], 1, start_boot_ns=alive[1])
    w.proc.add(high(8), 1)  # another process has its pid
    each: list[int] = []
    one_by_one = w.resolver._flusher.flush

    def flushed(pid: int, *more: int) -> bool:
        each.append(pid)
        return one_by_one(pid, *more)

    monkeypatch.setattr(w.resolver._flusher, "flush", flushed)
    assert flush(w.resolver, w.proc, suspects, w.clock()) == 5
    assert each == [high(5)] and w.cache == {high(6)} and w.count("flushed") == 5


def test_columns_of_different_lengths_are_rejected(w: World) -> None:
    columns: list[Any] = [np.zeros(2, dtype) for dtype in (np.uint32, np.uint64, np.uint8)]
    for at in range(3):
        wrong = [column[: 1 if place == at else 2] for place, column in enumerate(columns)]
        with pytest.raises(ValueError, match="different lengths"):
            w.applier.close_all_missing(*wrong, time_boot_ns=1, close=bool)


def test_an_error_in_the_middle_leaves_the_processes_before_it_removed(w: World) -> None:
    suspects = []
    for pid in (3, 4, 5):
        entry = w.fork(0, pid, 10).entry
        assert entry is not None
        suspects.append((high(pid), entry.start_boot_ns))
    w.fork(4, 6, 10)
    w.proc.add(high(6), high(4))

    def failing(pids: object) -> list[int]:
        raise OSError("/proc is gone")

    w.proc.read_ppid = failing  # type: ignore[method-assign, assignment]
    with pytest.raises(OSError, match="is gone"):
        flush(w.resolver, w.proc, suspects, w.clock())
    assert w.cache == {high(5), high(6)} and w.count("flushed") == 2


# -- any tables --------------------------------------------------------------------------------------------------------


class Cgroups:
    """A cgroup resolver that notes which processes leave."""

    def __init__(self) -> None:
        self.gone: list[int] = []

    def add_pid(self, pid: int, cgroup: object) -> None:
        self.gone.append(-pid)

    def del_pid(self, pid: int) -> None:
        self.gone.append(pid)


@dataclass
class Plan:
    """The contents of the tables and of ``/proc``, and the processes that are suspected.

    Attributes:
        ops: of `tell`.
        fates: of each event: 0: it is lost; otherwise it is applied, the later the larger.
        shown: of each pid: what ``/proc`` shows.
        ppids: of each pid: which of the older processes is its parent in ``/proc``.
        late: pids that are entered from ``/proc`` after the events.
        ended: pids that have a known exit, but are still cached.
        more: further suspects: pid, and how much later than its owner it began.
        is_first: whether these come before the processes of the tables.
        age_ns: how long before the end of the story the processes were gone.
    """

    ops: list[tuple[str, int, int]]
    fates: list[int] = field(default_factory=list)
    shown: list[int] = field(default_factory=list)
    ppids: list[int] = field(default_factory=list)
    late: list[int] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    more: list[tuple[int, int]] = field(default_factory=list)
    is_first: bool = False
    age_ns: int = 0


ALL_PIDS = range(1, PIDS.stop + 3)
PLANS = st.builds(
    Plan,
    ops=OPS,
    fates=st.lists(st.sampled_from([0, 1, 1, 1, 1, 1, 1, 4, 9]), min_size=60, max_size=60),
    shown=st.lists(st.sampled_from([ABSENT, ABSENT, ABSENT, ALIVE, ZOMBIE, OTHER]), min_size=17, max_size=17),
    ppids=st.lists(st.integers(0, 16), min_size=17, max_size=17),
    late=st.lists(st.sampled_from(ALL_PIDS), max_size=3, unique=True),
    ended=st.lists(st.sampled_from(PIDS), max_size=2, unique=True),
    more=st.lists(st.tuples(st.sampled_from([0, *ALL_PIDS, 60_000]), st.sampled_from([0, 0, 1])), max_size=4),
    is_first=st.booleans(),
    age_ns=st.sampled_from([0, 0, 0, 5 * STEP_NS, 20 * STEP_NS]),
)


class Host:
    """Tables after a plan's events, with a resolver over them. Two of the same plan are equal."""

    def __init__(self, directory: Path, plan: Plan, story: Story) -> None:
        self.plan, self.story = plan, story
        self.proc = FakeProc()
        for pid in ALL_PIDS:
            self._show(pid, plan.shown[pid] if plan.shown else ABSENT)
        self.cgroups = Cgroups()
        self.open(directory)
        enter_init(self.tables, self.applier, story)
        for event in self._applied():
            event.apply(self.applier)
        for pid in plan.late:
            self.resolver.resolve_from_procfs(pid, 0, None)
        for pid in plan.ended:
            entry = self.resolver.book.head(pid)
            if entry is not None and entry.exit_time is None:
                entry.exit(self.story.now + SECOND)
        # A process of which anything younger is known is not removed.
        self.end_boot_ns = story.now - plan.age_ns if plan.age_ns else story.now + SECOND // 2

    def open(self, directory: Path) -> None:
        """Write to the tables in this directory, which may be a predecessor's."""
        self.tables = make_tables(directory, pid_capacity=1 << 12, row_capacity=1024)
        now = self.story.now + SECOND
        self.encoder = Encoder(bytes(16))
        self.encoder.topics_mask = 0xFF
        self.applier = Applier(self.tables, self.encoder)
        self.applier.followups.notes_leaders = self.applier.followups.notes_ttyless = True
        self.resolver = EBPFResolver(
            tables=self.tables, applier=self.applier, proc=self.proc, now_boot_ns=lambda: now,
            limiter_clock=lambda: 1, cgroup_resolver=self.cgroups,  # type: ignore[arg-type]
        )  # fmt: skip

    def _show(self, pid: int, how: int) -> None:
        if how == ABSENT:
            return
        start = self._began(pid) + (3 * SECOND if how == OTHER else 0)
        # An older process: no kernel shows parents that are each other's children.
        older = [1, *(other for other in PIDS if self._began(other) < self._began(pid))]
        ppid = older[self.plan.ppids[pid] % len(older)] if pid != 1 else 0
        self.proc.add(pid, ppid, start_boot_ns=start, state="Z" if how == ZOMBIE else "S")

    def _began(self, pid: int) -> int:
        owner = self.story.processes.get(pid)
        return owner.start if owner is not None else self.story.now

    def _applied(self) -> list[Event]:
        fates = self.plan.fates or [1] * len(self.story.events)
        places = [place for place in range(len(self.story.events)) if fates[place % len(fates)]]
        places.sort(key=lambda at: (at + fates[at % len(fates)], at))
        return [self.story.events[place] for place in places]

    def suspects(self) -> list[Suspect]:
        """The processes that live according to the tables, in the order of their rows, and those of the plan."""
        hot = self.tables.hot_view()[: self.tables.rows_frontier]
        live = np.flatnonzero((hot["flags"] & layout.ROW_HEAD != 0) & (hot["exit_boot_ns"] == 0))
        found = list(zip(hot["tgid"][live].tolist(), hot["start_boot_ns"][live].tolist(), strict=True))
        owners = self.story.processes
        more = [(pid, (owners[pid].start if pid in owners else 1) + later) for pid, later in self.plan.more]
        return more + found if self.plan.is_first else found + more

    def state(self) -> dict[str, object]:
        """Everything that readers, subscribers, collaborators, a successor or the next event can see."""
        tables, book = self.tables, self.resolver.book
        used = tables.rows_frontier
        return {
            "rows": dump(tables),
            "hot": tables.hot_view()[:used].tobytes(),
            "cold": tables.cold_view()[:used].tobytes(),
            "index": tables.index_view().tobytes(),
            "status": tables.private_view("status")[:used].tobytes(),
            "next": tables.private_view("next")[:used].tobytes(),
            "children": {pid: list(tables.py_children(pid)) for pid in range(64)},
            "awaited": [self.applier.py_is_awaited(pid) for pid in range(64)],
            "counters": {name: tables.counter(name) for name in layout.COUNTERS},
            "events": [
                (bytes(message.body), message.topic, message.first, message.count) for message in self.encoder.take()
            ],
            "order": (self.encoder.order, self.encoder.sequences()[: len(layout.TOPICS)].tolist()),
            "wanted": self.applier.take_wanted(),
            "heirs": self.applier.take_heirs(),
            "leaders": self.applier.followups.take_leaders(),
            "ttyless": self.applier.followups.take_ttyless(),
            "cgroups": self.cgroups.gone,
            "leaving": dict(book.leaving),
            "cached": [entry.pid for entry in book.heads()],
        }


@contextmanager
def host(plan: Plan, story: Story) -> Iterator[tuple[Host, Path]]:
    with instance() as directory:
        made = Host(directory / "first", plan, story)
        try:
            yield made, directory
        finally:
            made.tables.close()


COMMON = settings(deadline=None, max_examples=examples(60), suppress_health_check=[HealthCheck.too_slow])
#: 2 and 3 are forked by 1, and 4 to 6 by them; some have executed a program.
_FAMILY = [("f", 0, 0), ("f", 0, 0), ("e", 0, 3), ("f", 1, 0), ("f", 2, 0), ("f", 1, 0), ("e", 2, 4)]


@COMMON
@given(PLANS)
@example(Plan(_FAMILY))
@example(Plan([*_FAMILY, ("x", 0, 0), ("f", 0, 0), ("x", 0, 0), ("f", 0, 0)], fates=[1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1]))
@example(Plan(_FAMILY, more=[(3, 1), (3, 0), (3, 0), (2, 1)], is_first=True))
@example(Plan(_FAMILY, age_ns=5 * STEP_NS))
@example(Plan(_FAMILY, shown=[3, 0, 3, 3, 3, 0, 2, *[3] * 10], ppids=[0] * 17, late=[5], ended=[4]))
def test_many_at_once_leave_what_one_by_one_leaves(plan: Plan) -> None:
    story = tell(plan.ops, _story())
    found = []
    for way in (flush, flush_each):
        with host(plan, story) as (made, _):
            suspects = made.suspects()
            count = way(made.resolver, made.proc, suspects, made.end_boot_ns)
            found.append({"count": count, **made.state()})
    assert _different(*found) == []


@COMMON
@given(PLANS, st.integers(0, 16))
@example(Plan(_FAMILY), 2)
def test_a_successor_of_a_resolver_that_was_killed_in_the_middle_removes_the_rest(plan: Plan, removed: int) -> None:
    """After a kill, the tables are those of one-by-one removal at that place, and the successor continues with them."""
    story = tell(plan.ops, _story())
    plan = replace(plan, age_ns=0)  # so that no process has younger facts
    found = []
    for way in (flush, flush_each):
        with host(plan, story) as (made, directory):
            suspects = made.suspects()
            way(made.resolver, made.proc, suspects[:removed], made.end_boot_ns)
            made.tables.close()
            made.open(Path(shutil.copytree(directory / "first", directory / "next")))
            assert made.tables.is_takeover
            assert set(suspects[:removed]).isdisjoint(_gone(made, suspects)), "what was removed stays removed"
            count = flush(made.resolver, made.proc, suspects, made.end_boot_ns)
            found.append({"count": count, **made.state()})
            assert not _gone(made, suspects), "nothing that has ended is left"
    assert _different(*found) == []


def _different(found: dict[str, object], expected: dict[str, object]) -> list[str]:
    """The names of what differs. (pytest needs minutes to explain how two tables differ.)"""
    return [name for name in found if found[name] != expected[name]]


def _story() -> Story:
    story = Story(step=STEP_NS)
    story.begin(1, inode=10)
    return story


def _gone(made: Host, suspects: list[Suspect]) -> set[Suspect]:
    """The suspects that live according to the tables and that ``/proc`` does not have."""
    live = {(entry.pid, entry.start_boot_ns) for entry in made.resolver.book.heads() if entry.exit_time is None}
    return {suspect for suspect in suspects if suspect in live and suspect[0] not in made.proc.infos}
