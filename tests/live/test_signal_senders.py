"""Who sent the signal that ended a process (`capture.signal_senders`), as tables, events and commands show it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from pipeline import Subscriber
from tests.live.harness import Daemon, resolve
from tests.waiting import eventually

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("live_kernel")]


@pytest.fixture(scope="module")
def daemon(live_kernel: None) -> Iterator[Daemon]:
    with Daemon('[capture]\nsignal_senders = "on"\n', name="senders") as one:
        yield one


def test_tables_events_and_commands_say_who_killed_it(daemon: Daemon) -> None:
    with (
        daemon.attach() as table,
        Subscriber(daemon.name, ["proc.exit"], path=daemon.directory, idle_timeout=60) as subscriber,
    ):
        victim = subprocess.Popen(["/bin/sleep", "60"])
        eventually(lambda: resolve(table, victim.pid).comm == "sleep")
        killer = subprocess.run(
            ["setpriv", "--reuid", "0", "/bin/sh", "-c", f"echo $$; kill -TERM {victim.pid}; exit 0"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert victim.wait() == -signal.SIGTERM
        event = next(event for event in subscriber if event.get("pid") == victim.pid)
        sender = (event["extra"] or {})["exit_signal_sender"]
        assert (sender["pid"], sender["uid"], sender["comm"]) == (int(killer.stdout), os.getuid(), "sh")
        assert sender["signal"] == signal.SIGTERM
        entry = resolve(table, victim.pid)
        assert entry.extra["exit_signal_sender"] == sender
        found = table.resolve(sender["pid"], sender["start_time_ns"])
        assert found is not None and found.start_time_ns == sender["start_time_ns"]
    story = daemon.cli("why", str(victim.pid)).stdout
    assert f"pid {sender['pid']}" in story and "sent it" in story and "Who sent the signal" not in story
    assert (
        f"SIGTERM) from pid {sender['pid']} (sh, user {os.getuid()})" in daemon.cli("resolve", str(victim.pid)).stdout
    )


def test_an_exit_by_itself_has_no_sender(daemon: Daemon) -> None:
    with daemon.attach() as table:
        quiet = subprocess.Popen(["/bin/sleep", "0.2"])
        assert quiet.wait() == 0
        eventually(lambda: resolve(table, quiet.pid).exit_time_ns is not None)
        assert "exit_signal_sender" not in (resolve(table, quiet.pid).extra or {})
