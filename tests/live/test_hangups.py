"""The hangup of a terminal where no program sees it: the regular comparison with /proc corrects the whole session."""

from __future__ import annotations

import pytest

from tests.actor import Actor
from tests.live.harness import Daemon
from tests.proc import stat
from tests.waiting import eventually

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("live_kernel")]

INTERVAL_S = 2
#: Without the task iterator, "auto" has no method for changes on a kernel that allows neither fentry nor kprobes.
CONFIG = f"""
[capture]
task_iterator = "off"
[repair]
check_interval_s = {INTERVAL_S}
"""


def test_the_comparison_finds_a_hangup_within_its_interval() -> None:
    with Daemon(CONFIG, name="hangup") as daemon, daemon.attach() as table, Actor() as actor:
        actor.do("import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)")
        leader = actor.join_session()
        pids = (leader, actor.pid)

        def terminals() -> list[str | None]:
            return [getattr(table.resolve(pid), "tty", None) for pid in pids]

        eventually(lambda: all(terminals()), INTERVAL_S + 3)
        actor.do("libc.vhangup()")
        assert [stat(pid)[4] for pid in pids] == ["0", "0"]
        eventually(lambda: not any(terminals()), INTERVAL_S + 3)
        assert [table.resolve(pid).sid for pid in pids] == [leader, leader]
