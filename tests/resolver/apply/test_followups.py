"""The follow-up work that an applied event leaves, whether or not the event is published."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipeline.records import declared
from pipeline.resolver.apply._applier import Applier
from tests.resolver.applier_world import World
from tests.resolver.story import instance


@pytest.fixture
def w() -> Iterator[World]:
    """A world with an applier without encoder, and so without a stream."""
    with instance() as directory:
        world = World(directory)
        world.init()
        world.applier = Applier(world.tables)
        yield world
        world.tables.close()


def test_nothing_is_noted_until_a_part_asks_for_it(w: World) -> None:
    w.fork(1, 3)
    w.exec(3, b"/usr/sbin/sshd")
    w.fork(3, 4)
    w.exec(4, b"/bin/sh")
    w.exit(4)
    followups = w.applier.followups
    assert (followups.take_logins(), followups.take_leaders(), followups.take_ttyless()) == (0, [], [])
    w.exec(3, b"/bin/sh", flags=declared.EXEC_SCRIPT)
    assert followups.take_scripts() == ([], 0)


def test_scripts_are_noted_up_to_a_bound(w: World) -> None:
    followups = w.applier.followups
    followups.notes_scripts = True
    w.fork(1, 3)
    w.exec(3, b"/bin/sh")
    assert followups.take_scripts() == ([], 0)
    for _ in range(258):
        w.exec(3, b"/bin/sh", flags=declared.EXEC_SCRIPT)
    rows, dropped = followups.take_scripts()
    assert len(rows) == 256 and w.proc(3).row in rows and dropped == 2
    assert followups.take_scripts() == ([], 0)


def test_a_login_is_reported_while_its_exec_is_applied_without_a_stream(w: World) -> None:
    seen: list[tuple[int, int]] = []
    w.applier.followups.watch_logins(lambda row, parent: not seen.append((row, parent)))
    w.fork(1, 3)
    w.exec(3, b"/usr/sbin/sshd")
    w.fork(3, 4)
    w.exec(4, b"/bin/sh")
    assert seen == [(w.proc(4).row, w.proc(3).row)]
    assert w.applier.followups.take_logins() == 1 and w.applier.followups.take_logins() == 0


def test_a_failing_login_callback_is_counted(w: World) -> None:
    w.applier.followups.watch_logins(lambda row, parent: 1 / 0 > 0)
    w.fork(1, 3)
    w.exec(3, b"/usr/sbin/sshd")
    w.fork(3, 4)
    w.exec(4, b"/bin/sh")
    assert w.tables.counter("sessions_unread") == 1 and w.applier.followups.take_logins() == 0


def test_an_entry_that_a_single_call_made_is_noted_too(w: World) -> None:
    w.applier.followups.notes_ttyless = True
    w.fork(1, 3)
    row = w.proc(3).row
    w.tables.cold_view()["tty"][row] = b""
    w.applier.followups.add(0, declared.KIND_FORK, row, 1)
    assert w.applier.followups.take_ttyless() == []
    w.applier.followups.add(1, declared.KIND_EXEC, row, 1)
    assert w.applier.followups.take_ttyless() == [row]
    with pytest.raises((ValueError, IndexError)):
        w.applier.followups.add(1, declared.KIND_EXEC, 1 << 31, 1)
