"""When the duty cycle calls each of its parts, and how long it lets the process sleep."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.errors import FrameError
from pipeline.host import boot
from pipeline.records import declared
from pipeline.resolver.daemon import duty_cycle
from pipeline.resolver.daemon.duty_cycle import DutyCycle, Parts
from pipeline.resolver.upkeep.repair import NEVER_NS
from pipeline.shm.layout import layout
from tests.resolver.process_host import Resolver, built, instance_directory
from tests.resolver.story import Story

MS = 1_000_000


class Part:
    """A part of the duty cycle that notes its calls; attributes have the values that a test sets."""

    def __init__(self, name: str, calls: list[str], **values: Any) -> None:
        self._name, self._calls = name, calls
        self.waiting, self.is_flooded, self.is_waiting, self.active, self.has_answers = 0, False, False, False, False
        self.is_resting, self.due_boot_ns = False, NEVER_NS
        self.__dict__.update(values)

    def _note(self, what: str) -> int:
        self._calls.append(f"{self._name}.{what}" if what else self._name)
        return 0

    def __call__(self, *_: object) -> int:
        return self._note("")

    def do_work(self, now: int = 0) -> int:
        return self._note("")

    def start(self) -> None:
        self.active = True
        self._note("start")

    def count_dropped(self) -> None:
        self._note("count_dropped")

    def show_audience(self, has_subscribers: bool) -> None:
        self._note("show_audience")

    def welcome(self, has_subscribers: bool) -> None:
        self._note("welcome")

    def wait_ms(self, now: int) -> float:
        return 0.25


FUNCTIONS = ("watch_growth", "complete")
NAMES = [name for name in Parts.__dataclass_fields__ if name not in FUNCTIONS]


class Cycle:
    """The cycle of a replay, all parts of which note their calls. Nothing is due unless a test says so."""

    def __init__(self, resolver: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
        self.resolver = resolver
        self.loop: DutyCycle = resolver.process.loop
        self.calls: list[str] = []
        self._monkeypatch = monkeypatch
        self.is_due(False)
        self.loop.do_work()  # the first cycle is always due: no heartbeat was stored before
        parts = {name: Part(name, self.calls) for name in NAMES}
        functions = {name: lambda *_, name=name: self.calls.append(name) for name in FUNCTIONS}
        self.loop.parts = Parts(**parts, **functions)  # type: ignore[arg-type]
        self.loop.may_be_asked = False

    def is_due(self, due: bool) -> None:
        for name in ("HEARTBEAT_NS", "HEARTBEAT_LATEST_NS", "IDLE_HOUSEKEEPING_NS", "IDLE_HOUSEKEEPING_SOON_NS"):
            self._monkeypatch.setattr(duty_cycle, name, 0 if due else NEVER_NS)

    def set(self, part: str, **values: Any) -> None:
        getattr(self.loop.parts, part).__dict__.update(values)

    def called(self, run: Callable[[], object] | None = None) -> set[str]:
        """Return what one cycle calls."""
        self.calls.clear()
        (run or self.loop.do_work)()
        return set(self.calls)


@pytest.fixture
def cycle(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cycle]:
    with instance_directory() as directory, built(directory, is_silent=True) as resolver:
        yield Cycle(resolver, monkeypatch)


# -- which parts work --------------------------------------------------------------------------------------------------

READERS = {"names", "containers", "packages", "hashes"}
HOUSEKEEPING = {
    "watch_growth",
    "repairer",
    "name_cgroups",
    "calls.count_dropped",
    "newcomers.show_audience",
    "rejected_clients",
}
ALWAYS = {"calls"}
FOLLOW_UP = {"sessions", "session_terminals", "tty_fallback", "scripts"}


def test_between_two_heartbeats_nothing_works_but_what_waits(cycle: Cycle) -> None:
    assert cycle.called() == ALWAYS
    for part, attribute in (("answering", "waiting"), ("contexts", "waiting"), ("sessions", "is_waiting")):
        cycle.set(part, **{attribute: 1})
        assert cycle.called() == ALWAYS | {part}
        cycle.set(part, **{attribute: 0})
    cycle.set("scripts", has_answers=True)
    assert cycle.called() == ALWAYS
    cycle.loop.may_be_asked = True
    assert cycle.called() == ALWAYS | {"answering"}


def test_a_question_from_before_the_first_sleep_is_answered() -> None:
    calls: list[str] = []
    with instance_directory() as directory, built(directory, is_silent=True) as resolver:
        loop = resolver.process.loop
        loop.parts = Parts(answering=Part("answering", calls))  # type: ignore[arg-type]
        loop.do_work()
    assert calls == ["answering"]


def test_a_heartbeat_keeps_house(cycle: Cycle) -> None:
    cycle.is_due(True)
    assert cycle.called() == ALWAYS | READERS | HOUSEKEEPING | {"sessions", "contexts"}
    cycle.set("scripts", has_answers=True)
    assert "scripts" in cycle.called()


def test_a_question_that_waits_delays_a_heartbeat_but_not_for_long(
    cycle: Cycle, monkeypatch: pytest.MonkeyPatch
) -> None:
    cycle.set("answering", waiting=1)
    cycle.is_due(True)
    monkeypatch.setattr(duty_cycle, "HEARTBEAT_LATEST_NS", NEVER_NS)
    assert cycle.called() == ALWAYS | {"answering"}
    monkeypatch.setattr(duty_cycle, "HEARTBEAT_LATEST_NS", 0)
    assert cycle.called() >= HOUSEKEEPING


def test_an_idle_host_is_kept_house_less_often(cycle: Cycle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duty_cycle, "HEARTBEAT_NS", 0)
    monkeypatch.setattr(duty_cycle, "HEARTBEAT_LATEST_NS", 0)
    cycle.loop.do_work()
    assert not cycle.called() & HOUSEKEEPING  # nothing happened since
    cycle.set("repairer", active=True, due_boot_ns=0)  # a step of a repair does not wait
    assert cycle.called() >= HOUSEKEEPING
    cycle.set("repairer", active=False, due_boot_ns=NEVER_NS)
    monkeypatch.setattr(duty_cycle, "IDLE_HOUSEKEEPING_RESTING_NS", 0)
    assert not cycle.called() & HOUSEKEEPING
    cycle.set("newcomers", is_resting=True)
    monkeypatch.setattr(duty_cycle, "RESTING_NS", 0)
    assert cycle.called() >= HOUSEKEEPING


def test_a_batch_is_followed_up(cycle: Cycle) -> None:
    story = Story(now=boot.now_boot_ns())
    story.begin(1)
    for event, is_followed in ((story.fork(1, 10), False), (story.change(1, declared.KIND_SID), True)):
        cycle.calls.clear()
        cycle.resolver.shard.send(event)
        cycle.resolver.shard.send()
        cycle.resolver.until(lambda live=1 + is_followed: cycle.loop.tables.heads_live == live)
        assert set(cycle.calls) - ALWAYS == (FOLLOW_UP if is_followed else set())


def test_heirs_are_completed_after_a_batch(cycle: Cycle) -> None:
    assert cycle.called(cycle.loop._follow_up) == FOLLOW_UP
    cycle.loop.applier = SimpleNamespace(has_heirs=True)  # type: ignore[assignment]
    assert cycle.called(cycle.loop._follow_up) == FOLLOW_UP | {"complete"}


def test_a_cycle_without_parts_works(cycle: Cycle) -> None:
    cycle.loop.parts = Parts()
    cycle.is_due(True)
    before = cycle.loop.tables.control_view()[0]["heartbeat_boot_ns"]
    assert cycle.called() == set()
    assert cycle.loop.tables.control_view()[0]["heartbeat_boot_ns"] > before
    cycle.loop._follow_up()
    assert not cycle.loop.attends and cycle.loop.idle_ms() == duty_cycle.IDLE_MS


def test_long_work_outside_the_cycle_stores_heartbeats(cycle: Cycle) -> None:
    before = int(cycle.loop.tables.control_view()[0]["heartbeat_boot_ns"])
    cycle.loop.beat()
    assert int(cycle.loop.tables.control_view()[0]["heartbeat_boot_ns"]) > before


def test_a_heartbeat_commits(cycle: Cycle) -> None:
    loop = cycle.loop
    slots = [int(loop.tables.control_view()[0]["commit_index"])]
    for due in (False, True):
        cycle.is_due(due)
        loop.do_work()
        slots.append(int(loop.tables.control_view()[0]["commit_index"]))
    assert slots[0] == slots[1] != slots[2]


# -- how long it sleeps ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "values", "ms"),
    [
        (None, {}, duty_cycle.IDLE_MS),
        ("answering", {"waiting": 1}, 0.25),
        ("answering", {"is_flooded": True}, duty_cycle.WAIT_REQUEST_MS),
        ("contexts", {"waiting": 2}, duty_cycle.WAIT_REQUEST_MS),
        ("repairer", {"active": True}, duty_cycle.WAIT_REPAIR_MS),
        ("sessions", {"is_waiting": True}, duty_cycle.WAIT_SESSIONS_MS),
    ],
)
def test_the_sleep_ends_when_a_part_has_work(cycle: Cycle, part: str | None, values: dict[str, Any], ms: float) -> None:
    if part is not None:
        cycle.set(part, **values)
    assert cycle.loop.idle_ms() == ms and cycle.loop.attends is (part is not None)


def test_events_that_are_held_back_are_awaited(cycle: Cycle, monkeypatch: pytest.MonkeyPatch) -> None:
    for merger_ms, questions, ms in ((0.5, 0, 0.5), (0.5, 1, 0.25), (0.125, 1, 0.125), (0.0, 0, 0.0), (-1.0, 1, 0.25)):
        cycle.set("answering", waiting=questions)
        monkeypatch.setattr(cycle.loop, "_turn", SimpleNamespace(wait_ms=lambda ms=merger_ms: ms))
        assert cycle.loop.idle_ms() == ms


# -- losses and repairs ------------------------------------------------------------------------------------------------


class Losses:
    """The kernel's counters."""

    def __init__(self) -> None:
        self.lost = np.zeros(len(duty_cycle._LOST), np.uint64)
        self.threads_forked, self.kthreads_forked, self.pids_full, self.runs_skipped = 1, 2, 3, 4
        self.is_new = True

    @property
    def lost_total(self) -> int:
        return int(self.lost.sum())

    def read(self) -> bool:
        return self.is_new


def test_a_loss_is_counted_and_published_once(cycle: Cycle, monkeypatch: pytest.MonkeyPatch) -> None:
    loop, losses = cycle.loop, Losses()
    published: list[dict[str, int]] = []
    monkeypatch.setattr(loop.publisher, "loss", lambda counts, now: published.append(counts))
    loop.losses = losses  # type: ignore[assignment]
    loop._watch_losses(5)
    assert not published
    counted = [loop.tables.counter(name) for name in ("threads_forked", "kthreads_forked", "maps_full", "runs_skipped")]
    assert counted == [1, 2, 3, 4]
    losses.lost[0], losses.lost[-1] = 7, 4
    loop._watch_losses(6)
    loop._watch_losses(7)
    first, last = duty_cycle._LOST[0], duty_cycle._LOST[-1]
    assert loop.tables.counter(f"lost_{first}") == 7 and loop.tables.counter(f"lost_{last}") == 4
    assert len(published) == 1 and sum(published[0].values()) == 11 and published[0]["unknown"] == 7
    losses.is_new, losses.threads_forked = False, 9
    loop._watch_losses(8)
    assert loop.tables.counter("threads_forked") == 1


QUIET, LATEST = duty_cycle.REPAIR_QUIET_NS, duty_cycle.REPAIR_LATEST_NS


@pytest.mark.parametrize(
    ("losses", "repaired_at"),
    [
        ([], None),
        ([1000 * MS], 1000 * MS + QUIET),
        # Each loss delays the repair, but not for ever.
        ([1000 * MS, 1000 * MS + QUIET - 10 * MS], 1000 * MS + 2 * QUIET - 10 * MS),
        (list(range(1000 * MS, 4000 * MS, 10 * MS)), 1000 * MS + LATEST),
    ],
)
def test_when_a_loss_is_repaired(cycle: Cycle, losses: list[int], repaired_at: int | None) -> None:
    loop, source = cycle.loop, Losses()
    loop.losses = source  # type: ignore[assignment]
    loop._repaired_ns = 0
    loop.settings = loop.settings._replace(repair_interval_ns=NEVER_NS, repair_again_ns=MS)
    for now in range(1000 * MS, 3000 * MS, 10 * MS):
        source.lost[0] += now in losses
        if "repairer.start" in cycle.called(lambda now=now: loop._watch_losses(now)):
            assert now == repaired_at
            return
    assert repaired_at is None


def test_repairs_have_a_distance_and_an_interval(cycle: Cycle) -> None:
    loop = cycle.loop
    loop.settings = loop.settings._replace(repair_interval_ns=500 * MS, repair_again_ns=100 * MS)

    def starts(now: int) -> bool:
        return "repairer.start" in cycle.called(lambda: loop._watch_losses(now))

    loop._repaired_ns = 1000 * MS
    assert not starts(1500 * MS - 1) and starts(1500 * MS)
    assert not starts(2000 * MS)  # it is under way
    cycle.set("repairer", active=False)
    loop.repair_soon(1550 * MS)
    assert not starts(1600 * MS - 1) and starts(1600 * MS)
    cycle.set("repairer", active=False)
    assert not starts(1600 * MS + LATEST // 3)  # the loss is repaired


# -- reports -----------------------------------------------------------------------------------------------------------


def test_the_first_refused_frame_of_each_peer_is_logged(cycle: Cycle) -> None:
    logged: list[str] = []
    cycle.loop.log_refused = lambda error: logged.append(error.peer)
    for peer in ("a", "b", "a", "b", "c"):
        error = FrameError("no frame", reason="kind")
        error.peer = peer
        cycle.loop._reject(error)
    assert logged == ["a", "b", "c"]


def test_statistics_are_published_each_second_if_wanted(cycle: Cycle, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[dict[str, Any], int]] = []
    publisher = cycle.loop.publisher
    monkeypatch.setattr(publisher, "stats", lambda body, now: sent.append((body, now)))
    now = boot.now_boot_ns()
    for wants, ms in ((False, 0), (True, 999), (True, 1000), (True, 1999), (True, 2000)):
        monkeypatch.setattr(type(publisher), "wants_stats", wants)
        cycle.loop._housekeeping(now + ms * MS)
    assert [at - now for _, at in sent] == [1000 * MS, 2000 * MS]
    body = sent[0][0]
    assert set(body["counters"]) == set(layout.COUNTERS)
    tables = cycle.loop.tables
    assert body["entries"] == {"live": tables.heads_live, "exited": tables.heads_exited, "images": tables.rows_used}
    assert body["watermark_lag_ns"] == now + 1000 * MS - cycle.loop.merger.watermark


def test_a_newcomer_is_welcomed_once(cycle: Cycle) -> None:
    waiter: Any = SimpleNamespace(is_opened=True)
    control = cycle.loop.tables.control_view()[0]
    before = int(control["commit_index"])
    assert cycle.called(lambda: cycle.loop.welcome(waiter)) == {"newcomers.welcome"}
    assert int(control["commit_index"]) != before, "it may know at once that nothing was unread"
    assert cycle.called(lambda: cycle.loop.welcome(waiter)) == set()
