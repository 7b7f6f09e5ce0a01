"""Terminals: which processes lose theirs with the session, and which processes the fallback reads or skips.

Tests of live terminals: tests/live/test_changes.py, tests/live/test_contexts.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.procfs.info import ProcInfo
from pipeline.records import declared
from pipeline.resolver.apply._applier import Applier
from pipeline.resolver.entries import entry_extra
from pipeline.resolver.stream._encoder import Encoder
from pipeline.resolver.upkeep import terminals
from pipeline.resolver.upkeep.terminals import SessionTerminals, TtyFallback
from pipeline.shm.check.validate import validate_tables
from pipeline.shm.layout import layout
from tests.resolver.applier_world import World, flag
from tests.resolver.story import BOOT_UNIX_NS, Event, instance, sampled
from tests.resolver.stream_rows import take


@pytest.fixture
def w(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with instance() as directory:
        world = World(directory)
        world.init()
        world.encoder = Encoder(bytes(16))
        world.applier = Applier(world.tables, world.encoder)
        starts = world.story.processes
        monkeypatch.setattr(terminals, "procfs_tty", lambda tgid, proc: f"pts{tgid}" if tgid != 9 else "")
        monkeypatch.setattr(terminals, "read_start", lambda tgid: starts[tgid].start // 10_000_000)
        yield world
        validate_tables(world.tables)
        world.tables.close()


def ttyless(event):
    event.task["tty"] = b""
    return event


def test_nothing_is_noted_unless_it_is_asked_for(w: World) -> None:
    w.fork(1, 3)
    ttyless(w.story.exec(3, b"/bin/sh")).apply(w.applier)
    assert w.applier.followups.take_ttyless() == []


def test_processes_that_exec_or_change_without_a_terminal_get_one(w: World) -> None:
    fallback = TtyFallback(w.tables, w.applier, lambda: w.story.now)
    for tgid in (3, 4, 9):
        w.fork(1, tgid)
    ttyless(w.story.exec(3, b"/bin/sh")).apply(w.applier)
    ttyless(w.story.change(4, declared.KIND_CRED, uid=7)).apply(w.applier)
    ttyless(w.story.exec(9, b"/bin/sh")).apply(w.applier)
    fallback.do_work()
    assert [w.proc(tgid).tty for tgid in (3, 4, 9)] == [b"pts3", b"pts4", b""]
    w.exec(4, b"/bin/sh")  # the kernel names a terminal: it takes precedence
    fallback.do_work()
    assert w.proc(4).tty == b"pts0"


def test_a_fallback_knows_which_terminals_are_its_own(w: World) -> None:
    fallback = TtyFallback(w.tables, w.applier, lambda: w.story.now)
    w.fork(1, 3)
    w.fork(1, 4)
    ttyless(w.story.exec(3, b"/bin/sh")).apply(w.applier)
    w.exec(4, b"/bin/sh")
    time_boot_ns = w.story.now
    fallback.do_work()
    assert fallback.has_set(w.proc(3).row) and not fallback.has_set(w.proc(4).row)
    assert fallback.has_published(3, time_boot_ns, b"pts3") and not fallback.has_published(4, time_boot_ns, b"pts0")
    fallback.do_work()
    assert not fallback.has_published(3, time_boot_ns, b"pts3") and fallback.has_set(w.proc(3).row)


def test_ended_processes_and_reused_pids_are_left_alone(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    fallback = TtyFallback(w.tables, w.applier, lambda: w.story.now)
    w.fork(1, 3)
    ttyless(w.story.exec(3, b"/bin/sh")).apply(w.applier)
    ttyless(w.story.exit(3)).apply(w.applier)
    fallback.do_work()
    assert w.proc(3).tty == b""
    w.fork(1, 4)
    ttyless(w.story.exec(4, b"/bin/sh")).apply(w.applier)
    monkeypatch.setattr(terminals, "read_start", lambda tgid: w.story.processes[tgid].start // 10_000_000 + 1)
    fallback.do_work()
    assert w.proc(4).tty == b""


def test_processes_from_before_the_start_are_read_once(w: World) -> None:
    w.fork(1, 3)
    ttyless(w.story.exec(3, b"/bin/sh")).apply(w.applier)
    TtyFallback(w.tables, w.applier, lambda: w.story.now).begin()
    assert w.proc(3).tty == b"pts3"


def test_a_terminal_set_by_a_predecessor_is_recognised(w: World, tmp_path: Path) -> None:
    """The predecessor's marks are lost. A record without a terminal removes only one that the kernel reported."""
    for pid, tty_nr in ((3, 0), (4, 34816)):
        w.fork(1, pid)
        w.exec(pid, b"/bin/sh")
        change = w.story.change(pid, declared.KIND_SID)
        change.task["tty"] = b"pts7"
        change.apply(w.applier)
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_text(f"{pid} (a) b) S 1 {pid} {pid} {tty_nr} -1 0")
    TtyFallback(w.tables, w.applier, lambda: w.story.now, str(tmp_path)).begin()
    for pid in (3, 4):
        ttyless(w.story.change(pid, declared.KIND_SID)).apply(w.applier)
    assert (w.proc(3).tty, w.proc(4).tty) == (b"pts7", b"")


def context_events(w: World) -> int:
    return int(w.encoder.sequences()[layout.TOPICS.index("proc.context")])


def test_subscribers_get_the_terminal_of_the_fallback(w: World) -> None:
    fallback = TtyFallback(w.tables, w.applier, lambda: w.story.now)
    w.fork(1, 3)
    ttyless(w.story.exec(3, b"/bin/sh")).apply(w.applier)
    before = context_events(w)
    fallback.do_work()
    fallback.do_work()
    assert context_events(w) == before + 1


def test_it_is_unknown_since_when_a_descriptor_is_a_terminal(w: World) -> None:
    """It is read after the time of the event, so not even that time is a limit."""
    fallback = TtyFallback(w.tables, w.applier, lambda: w.story.now)
    w.fork(1, 3)
    sampled(ttyless(w.story.change(3, declared.KIND_CRED, uid=7)), 500).apply(w.applier)
    assert limits(w, 3) is not None
    w.encoder.topics_mask = 0xFF
    fallback.do_work()
    (event,) = take(w.encoder)
    assert (event["tty"], event["time_ns"]) == ("pts3", BOOT_UNIX_NS + w.story.now)
    assert event["changed_after_ns"] is None and "change_sampled" in event["marks"]
    assert flag(w.proc(3), "CHANGE_SAMPLED") and limits(w, 3) is None
    assert not event["extra"]


def test_a_fork_inherits_the_terminal_and_an_exec_is_read(w: World) -> None:
    fallback = TtyFallback(w.tables, w.applier, lambda: w.story.now)
    w.fork(1, 3)
    ttyless(w.story.exec(3, b"/bin/sh")).apply(w.applier)
    for parent, child in ((3, 4), (4, 5), (4, 9)):
        ttyless(w.story.fork(parent, child)).apply(w.applier)
    ttyless(w.story.exec(9, b"/bin/ls")).apply(w.applier)
    fallback.do_work()
    assert ttys(w, 3, 4, 5, 9) == [b"pts3", b"pts3", b"pts3", b""]


def test_a_terminal_of_the_fallback_stays_until_the_next_exec(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records without a terminal say nothing about a descriptor's terminal: no change, no fork, no exit does."""
    fallback = TtyFallback(w.tables, w.applier, lambda: w.story.now)
    w.fork(1, 3)
    ttyless(w.story.exec(3, b"/bin/sh")).apply(w.applier)
    fallback.do_work()
    for tgid in (4, 5):
        ttyless(w.story.fork(tgid - 1, tgid)).apply(w.applier)
    for kind in (declared.KIND_CRED, declared.KIND_SID, declared.KIND_COMM, declared.KIND_CGROUP):
        ttyless(w.story.change(4, kind, uid=int(kind))).apply(w.applier)
    assert ttys(w, 3, 4, 5) == [b"pts3"] * 3
    assert w.applier.followups.take_ttyless() == [], "no process is examined again"
    before = context_events(w)
    fallback.do_work()
    assert context_events(w) == before
    ttyless(w.story.exit(4)).apply(w.applier)
    assert ttys(w, 4) == [b"pts3"]
    ttyless(w.story.exec(5, b"/bin/ls")).apply(w.applier)
    assert ttys(w, 5) == [b""], "the image may have been given other descriptors"
    assert w.read.chain(5)[1].tty == b"pts3"
    fallback.do_work()
    assert ttys(w, 5) == [b"pts5"]
    # Processes that the fallback finds at its start are treated alike.
    w.fork(1, 6)
    ttyless(w.story.exec(6, b"/bin/sh")).apply(w.applier)
    w.applier.followups.take_ttyless()
    fallback.begin()
    ttyless(w.story.fork(6, 7)).apply(w.applier)
    for tgid in (6, 7):
        ttyless(w.story.exit(tgid)).apply(w.applier)
    assert ttys(w, 6, 7) == [b"pts6"] * 2


def test_only_the_kernel_removes_a_terminal_that_it_named(w: World) -> None:
    fallback = TtyFallback(w.tables, w.applier, lambda: w.story.now)
    w.fork(1, 3)
    ttyless(w.story.exec(3, b"/bin/sh")).apply(w.applier)
    fallback.do_work()
    put(w.story.fork(3, 4), 3, b"pts8").apply(w.applier)
    put(w.story.change(3, declared.KIND_SID), 3, b"pts3").apply(w.applier)  # the same one, now as controlling terminal
    assert ttys(w, 3, 4) == [b"pts3", b"pts8"]
    for tgid in (3, 4):
        ttyless(w.story.exit(tgid)).apply(w.applier)
    assert ttys(w, 3, 4) == [b"", b""]


def test_leaders_that_share_a_descriptor_keep_it(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fallback's terminal is not a controlling terminal: no process loses it to another, or with its leader."""
    monkeypatch.setattr(terminals, "procfs_tty", lambda tgid, proc: "pts1")
    w.proc_of = Proc(w)
    w.proc_of.ttys = dict.fromkeys((3, 4, 5, 6), b"")
    fallback = TtyFallback(w.tables, w.applier, lambda: w.story.now)
    sessions = SessionTerminals(w.tables, w.applier, w.proc_of, fallback)
    for leader, member in ((3, 4), (5, 6)):
        session(w, leader, member, tty=b"")
        for tgid in (leader, member):
            put(w.story.exec(tgid, b"/bin/sh"), leader, b"").apply(w.applier)
    for _ in range(3):
        sessions.do_work()
        fallback.do_work()
    before = context_events(w)
    put(w.story.exit(3), 3, b"pts1").apply(w.applier)
    for _ in range(3):
        sessions.do_work()
        fallback.do_work()
    assert ttys(w, 4, 5, 6) == [b"pts1"] * 3
    assert context_events(w) == before, "and no event is published again"
    # A process that later gets a controlling terminal loses it like any other.
    session(w, 7, 8, tty=b"pts7")
    put(w.story.exit(7), 7, b"pts7").apply(w.applier)
    sessions.do_work()
    assert ttys(w, 8) == [b""]


# -- sessions ----------------------------------------------------------------------------------------------------------


class Proc:
    """A ``/proc`` that knows some processes' terminals."""

    def __init__(self, w: World) -> None:
        self.ttys: dict[int, bytes] = {}
        self.asked: list[int] = []
        self._w = w

    def read(self, tgid: int, want: int = 0) -> ProcInfo | None:
        self.asked.append(tgid)
        if tgid not in self.ttys:
            return None
        start = self._w.story.processes[tgid].start
        return ProcInfo(
            tgid=tgid, ppid=1, start_ticks=start // 10_000_000, start_boot_ns=start, comm=b"", state="S", task_flags=0,
            thread_count=1, pgid=0, sid=0, tty=self.ttys[tgid],
        )  # fmt: skip


@pytest.fixture
def sessions(w: World) -> SessionTerminals:
    w.proc_of = Proc(w)
    return SessionTerminals(w.tables, w.applier, w.proc_of)


def put(event: Any, sid: int, tty: bytes = b"pts1") -> Any:
    event.task["sid"], event.task["tty"] = sid, tty
    return event


def session(w: World, leader: int, *members: int, tty: bytes = b"pts1") -> None:
    w.fork(1, leader)
    put(w.story.change(leader, declared.KIND_SID), leader, b"").apply(w.applier)
    put(w.story.change(leader, declared.KIND_SID), leader, tty).apply(w.applier)
    for member in members:
        put(w.story.fork(leader, member), leader, tty).apply(w.applier)


def ttys(w: World, *tgids: int) -> list[bytes]:
    return [w.proc(tgid).tty for tgid in tgids]


def test_a_session_loses_its_terminal_with_its_leader(w: World, sessions: SessionTerminals) -> None:
    session(w, 3, 4, 5)
    session(w, 6, 7, tty=b"pts2")
    sessions.do_work()
    assert ttys(w, 3, 4, 5, 6, 7) == [b"pts1"] * 3 + [b"pts2"] * 2, "all got it after the leaders had none"
    put(w.story.exit(3), 3).apply(w.applier)
    sessions.do_work()
    assert ttys(w, 4, 5, 6, 7) == [b"", b"", b"pts2", b"pts2"]
    assert w.proc(4).known & layout.KNOWN_TTY, "it is known that there is none"
    assert w.applier.followups.take_leaders() == []


def test_sessions_from_before_the_start(w: World, sessions: SessionTerminals) -> None:
    session(w, 3, 4)
    w.applier.followups.take_leaders()
    sessions.begin()
    put(w.story.exit(3), 3).apply(w.applier)
    sessions.do_work()
    assert ttys(w, 4) == [b""]


def test_only_live_leaders_have_a_session_to_lose(w: World, sessions: SessionTerminals) -> None:
    session(w, 3, 4)
    session(w, 6, tty=b"")
    session(w, 7, 8)
    put(w.story.exit(7), 7).apply(w.applier)
    sessions.do_work()
    assert w.applier.followups.live_leaders() == [w.proc(1).row, w.proc(3).row]


def test_a_leader_that_never_had_a_terminal_causes_no_search(
    w: World, sessions: SessionTerminals, monkeypatch: pytest.MonkeyPatch
) -> None:
    w.fork(1, 3)
    put(w.story.change(3, declared.KIND_SID), 3, b"").apply(w.applier)
    monkeypatch.setattr(sessions, "_with_terminal", None)
    sessions.do_work()


def test_a_leader_releases_its_terminal(w: World, sessions: SessionTerminals) -> None:
    session(w, 3, 4)
    put(w.story.change(3, declared.KIND_SID), 3, b"").apply(w.applier)
    # The leader gets a new terminal and forks: only that child shares it.
    put(w.story.change(3, declared.KIND_SID), 3, b"pts9").apply(w.applier)
    put(w.story.fork(3, 5), 3, b"pts9").apply(w.applier)
    sessions.do_work()
    assert ttys(w, 3, 4, 5) == [b"pts9", b"", b"pts9"]


def test_processes_outside_the_session_keep_their_terminal(w: World, sessions: SessionTerminals) -> None:
    session(w, 3, 4, 5, 6)
    put(w.story.exit(5), 3).apply(w.applier)
    put(w.story.change(4, declared.KIND_SID), 4, b"").apply(w.applier)
    put(w.story.change(4, declared.KIND_SID), 4, b"pts1").apply(w.applier)
    put(w.story.exit(6), 3).apply(w.applier)
    put(w.story.exit(3), 3).apply(w.applier)
    sessions.do_work()
    assert ttys(w, 3, 4, 5, 6) == [b"pts1"] * 4


def test_a_later_record_without_a_terminal_does_not_keep_it(w: World, sessions: SessionTerminals) -> None:
    session(w, 3, 4)
    put(w.story.exit(3), 3).apply(w.applier)
    change = w.story.change(4, declared.KIND_COMM)
    change.header["flags"] |= declared.FLAG_PARTIAL
    change.task["known"], change.task["comm"] = layout.KNOWN_COMM, b"later"
    change.apply(w.applier)
    sessions.do_work()
    assert ttys(w, 4) == [b""]
    assert bytes(w.proc(4).comm) == b"later"


def test_subscribers_get_the_loss_of_a_terminal(w: World, sessions: SessionTerminals) -> None:
    session(w, 3, 4)
    put(w.story.exit(3), 3).apply(w.applier)
    before = int(w.encoder.sequences()[layout.TOPICS.index("proc.context")])
    sessions.do_work()
    assert int(w.encoder.sequences()[layout.TOPICS.index("proc.context")]) == before + 1


# -- when a process loses its terminal ---------------------------------------------------------------------------------


def limits(w: World, tgid: int) -> tuple[int | None, int] | None:
    """Between which times the last change of a process happened, on the boot clock; None: not known, or exact."""
    row = w.proc(tgid)
    extra = entry_extra.unpack(w.tables.args.py_bytes(row.extra_ref)) if row.extra_ref else {}
    change: Any = extra.get("sampled_change")
    if change is None:
        return None
    after = change["changed_after_ns"]
    return None if after is None else after - BOOT_UNIX_NS, change["changed_before_ns"] - BOOT_UNIX_NS


def begins(w: World, tgid: int) -> int:
    return w.story.processes[tgid].start


def lose(w: World, leader: int, after: int | None) -> Event:
    """Let a comparison find that a leader has lost its terminal."""
    found = sampled(put(w.story.change(leader, declared.KIND_SID), leader, b""), after)
    found.apply(w.applier)
    return found


def events_of_a_loss(w: World, sessions: SessionTerminals) -> list[dict[str, Any]]:
    """Publish the loss of a terminal by the members of its session."""
    w.encoder.topics_mask = 0xFF
    sessions.do_work()
    return take(w.encoder)


def test_members_lose_their_terminal_between_the_limits_of_their_leader(w: World, sessions: SessionTerminals) -> None:
    session(w, 3, 4)
    after = w.story.tick()
    put(w.story.fork(3, 5), 3).apply(w.applier)
    sessions.do_work()
    found = lose(w, 3, after)
    events = events_of_a_loss(w, sessions)
    expected = {4: (after, found.time), 5: (begins(w, 5), found.time)}
    assert after < begins(w, 5) < found.time, "a process that began later has lost it later"
    told = {event["pid"]: (event["changed_after_ns"], event["time_ns"]) for event in events}
    assert told == {tgid: (BOOT_UNIX_NS + first, BOOT_UNIX_NS + last) for tgid, (first, last) in expected.items()}
    for event in events:
        assert "change_sampled" in event["marks"] and event["tty"] == ""
    assert {tgid: limits(w, tgid) for tgid in expected} == expected
    assert all(flag(w.proc(tgid), "CHANGE_SAMPLED") for tgid in expected)


def test_a_leader_without_the_first_limit_leaves_the_start_of_each_member(w: World, sessions: SessionTerminals) -> None:
    session(w, 3, 4)
    sessions.do_work()
    found = lose(w, 3, None)
    sessions.do_work()
    assert limits(w, 4) == (begins(w, 4), found.time)


@pytest.mark.parametrize("flags", [0, declared.FLAG_PARTIAL])
def test_what_a_comparison_finds_of_a_member_later_is_no_second_event(
    w: World, sessions: SessionTerminals, flags: int
) -> None:
    def find(**facts: object) -> Event:
        event = sampled(put(w.story.change(4, declared.KIND_SID, **facts), 3, b""), after)
        event.header["flags"] |= flags
        event.task["known"] = layout.KNOWN_SID | layout.KNOWN_TTY if flags else 0
        event.apply(w.applier)
        return event

    session(w, 3, 4)
    after = w.story.tick()
    sessions.do_work()
    found = lose(w, 3, after)
    sessions.do_work()
    before = context_events(w)
    find()
    assert context_events(w) == before and limits(w, 4) == (after, found.time)
    # A record that a predecessor applied and did not commit looks the same; it is published again.
    again = find()
    assert context_events(w) == before + 1 and limits(w, 4) == (after, again.time)


def test_another_change_in_the_record_that_reports_the_loss_is_an_event(w: World, sessions: SessionTerminals) -> None:
    session(w, 3, 4)
    sessions.do_work()
    lose(w, 3, w.story.now)
    sessions.do_work()
    before = context_events(w)
    found = sampled(put(w.story.change(4, declared.KIND_SID), 3, b""), 600)
    found.task["pgid"] = 77
    found.apply(w.applier)
    assert context_events(w) == before + 1 and w.proc(4).pgid == 77 and limits(w, 4) == (600, found.time)


def test_a_member_can_lose_a_terminal_twice(w: World, sessions: SessionTerminals) -> None:
    """The second loss is published although no comparison has found the first one."""
    session(w, 3, 4)
    for _ in range(2):
        sessions.do_work()
        after = w.story.tick()
        found = lose(w, 3, after)
        before = context_events(w)
        sessions.do_work()
        assert context_events(w) == before + 1 and limits(w, 4) == (after, found.time)
        for tgid in (3, 4):
            put(w.story.change(tgid, declared.KIND_SID), 3, b"pts1").apply(w.applier)


def test_the_end_of_a_leader_is_as_exact_for_its_members(w: World, sessions: SessionTerminals) -> None:
    """An end that was inferred says only that the session has lost its terminal before."""
    session(w, 3, 4)
    session(w, 5, 6, tty=b"pts2")
    for member in (4, 6):
        sampled(put(w.story.change(member, declared.KIND_CRED, uid=7), member - 1, b"pts1"), 500).apply(w.applier)
    sessions.do_work()
    ended = put(w.story.exit(3), 3)
    ended.apply(w.applier)
    assert w.applier.close_missing(5, 0, seen_at := w.story.tick())
    events = {event["pid"]: event for event in events_of_a_loss(w, sessions)}
    assert events[4]["time_ns"] == BOOT_UNIX_NS + ended.time and events[4]["changed_after_ns"] is None
    assert not flag(w.proc(4), "CHANGE_SAMPLED") and limits(w, 4) is None
    assert events[6]["time_ns"] == BOOT_UNIX_NS + seen_at
    assert events[6]["changed_after_ns"] == BOOT_UNIX_NS + begins(w, 6)
    assert flag(w.proc(6), "CHANGE_SAMPLED") and limits(w, 6) == (begins(w, 6), seen_at)


@pytest.mark.parametrize("is_exact", [True, False])
def test_a_stolen_terminal_is_lost_when_the_other_session_gets_it(
    w: World, sessions: SessionTerminals, is_exact: bool
) -> None:
    """If a comparison has found that, the first session can have lost it before the second one began."""
    session(w, 3, 4)
    sessions.do_work()
    w.proc_of.ttys = {3: b"", 4: b""}
    w.fork(1, 5)
    put(w.story.change(5, declared.KIND_SID), 5, b"").apply(w.applier)
    got = put(w.story.change(5, declared.KIND_SID), 5)
    (got if is_exact else sampled(got, w.story.now)).apply(w.applier)
    sessions.do_work()
    for tgid in (3, 4):
        assert w.proc(tgid).tty == b"" and flag(w.proc(tgid), "CHANGE_SAMPLED") is not is_exact
        assert limits(w, tgid) == (None if is_exact else (begins(w, tgid), got.time))


def test_a_terminal_is_acquired_by_another_session(w: World, sessions: SessionTerminals) -> None:
    """A name is unique within one devpts: a process with the same name elsewhere is checked, and keeps its terminal."""
    session(w, 3, 4)
    session(w, 5, 6)
    w.proc_of.ttys = {3: b"", 4: b"", 5: b"pts1", 6: b"pts1"}
    sessions.do_work()
    assert ttys(w, 3, 4, 5, 6) == [b"", b"", b"pts1", b"pts1"]
    session(w, 7)
    sessions.do_work()
    assert ttys(w, 5, 6, 7) == [b"pts1"] * 3
    session(w, 8)
    w.proc_of.ttys = {}
    sessions.do_work()
    assert ttys(w, 5, 6, 7, 8) == [b"pts1"] * 4, "the terminal is not known any more"


def test_a_process_with_a_start_known_to_the_tick_only(w: World, sessions: SessionTerminals) -> None:
    session(w, 3, 4)
    row = w.proc(4).row
    w.tables.hot_view()["flags"][row] |= layout.ROW_START_TICKS
    put(w.story.exit(3), 3).apply(w.applier)
    sessions.do_work()
    assert ttys(w, 4) == [b"pts1"], "it may have been forked later"


def test_leaders_are_bounded(w: World, sessions: SessionTerminals) -> None:
    w.fork(1, 3)
    for _ in range(1100):
        put(w.story.change(3, declared.KIND_SID), 3, b"").apply(w.applier)
    assert len(w.applier.followups.take_leaders()) == terminals.LEADERS_MAX
    assert np.all(w.applier.followups.take_leaders() == [])
