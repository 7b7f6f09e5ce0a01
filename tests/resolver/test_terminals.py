"""The fallback for terminals: whom it looks at, whom it leaves alone. Live ones: tests/live/test_contexts.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from story import instance
from test_apply import World

from pipeline import events
from pipeline.resolver import terminals
from pipeline.resolver._apply import Applier
from pipeline.resolver._encode import Encoder
from pipeline.resolver.terminals import TtyFallback
from pipeline.shm.validate import validate_tables


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
    assert w.encoder.take_ttyless() == []


def test_what_is_executed_or_changed_without_a_terminal_gets_one(w: World) -> None:
    fallback = TtyFallback(w.tables, w.encoder)
    for tgid in (3, 4, 9):
        w.fork(1, tgid)
    ttyless(w.story.exec(3, b"/bin/sh")).apply(w.applier)
    ttyless(w.story.change(4, events.KIND_CRED, uid=7)).apply(w.applier)
    ttyless(w.story.exec(9, b"/bin/sh")).apply(w.applier)
    fallback.poll()
    assert [w.proc(tgid).tty for tgid in (3, 4, 9)] == [b"pts3", b"pts4", b""]
    w.exec(4, b"/bin/sh")  # the kernel names one: that counts
    fallback.poll()
    assert w.proc(4).tty == b"pts0"


def test_who_has_ended_or_whose_pid_is_somebody_elses_is_left_alone(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    fallback = TtyFallback(w.tables, w.encoder)
    w.fork(1, 3)
    ttyless(w.story.exec(3, b"/bin/sh")).apply(w.applier)
    ttyless(w.story.exit(3)).apply(w.applier)
    fallback.poll()
    assert w.proc(3).tty == b""
    w.fork(1, 4)
    ttyless(w.story.exec(4, b"/bin/sh")).apply(w.applier)
    monkeypatch.setattr(terminals, "read_start", lambda tgid: w.story.processes[tgid].start // 10_000_000 + 1)
    fallback.poll()
    assert w.proc(4).tty == b""


def test_processes_from_before_the_start_are_looked_at_once(w: World) -> None:
    w.fork(1, 3)
    ttyless(w.story.exec(3, b"/bin/sh")).apply(w.applier)
    TtyFallback(w.tables, w.encoder).begin()
    assert w.proc(3).tty == b"pts3"
