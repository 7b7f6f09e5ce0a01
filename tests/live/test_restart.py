"""A restart keeps the history if the tables are to be kept, and readers follow by themselves."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator

import pytest

from pipeline import ProcessTable
from pipeline.errors import NotRunningError, StaleError
from tests.live.harness import Daemon, Recorder

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("live_kernel")]

KEEP = "[supervision]\nkeep_tables = true\n"
#: Longest time in which a reader may get no answer, on a host that has time.
STALE_S = 2.0
#: A host that runs other tests at the same time is slower. What must hold for a user is STALE_S.
BUSY_FACTOR = 5


@pytest.fixture
def daemon(live_kernel: None) -> Iterator[Daemon]:
    with Daemon(KEEP) as running:
        yield running


def ended_process(table: ProcessTable) -> int:
    """Run a process that the tables then know as exited; return its pid."""
    with subprocess.Popen(["/bin/true"]) as process:
        pass
    deadline = time.monotonic() + 10
    while True:
        entry = table.resolve(process.pid)
        if entry is not None and entry.exit_time_ns and entry.path == "/usr/bin/true":
            return process.pid
        assert time.monotonic() < deadline, entry
        time.sleep(0.01)


def restart(daemon: Daemon, table: ProcessTable, pid: int) -> tuple[float, set[type]]:
    """Restart the daemon while a reader asks for `pid`; return how long it got no answer, and the errors it got."""
    process = daemon.process
    assert process is not None
    seen: set[type] = set()
    process.terminate()
    is_started = False
    failed_at = answered_at = 0.0
    deadline = time.monotonic() + 60
    while not answered_at:
        assert time.monotonic() < deadline, daemon.log.read_text()
        if not is_started and process.poll() is not None:
            assert process.returncode == 0
            daemon.start(wait=False)
            is_started = True
        try:
            entry = table.resolve(pid)
            # A stopped writer's entries are still right, and are returned until the reader checks the state.
            if is_started and failed_at:
                assert entry is not None, "the history is gone"
                answered_at = time.monotonic()
        except (StaleError, NotRunningError) as error:
            seen.add(type(error))
            failed_at = failed_at or time.monotonic()
        time.sleep(0.002)
    return answered_at - failed_at, seen


@pytest.mark.alone
def test_a_restart_keeps_the_history_and_readers_are_stale_for_two_seconds_at_most(daemon: Daemon) -> None:
    with daemon.attach() as table:
        pid = ended_process(table)
        before = table.resolve(pid)
        epoch = table.stats()["epoch"]
        stale_s, errors = restart(daemon, table, pid)
        assert stale_s < STALE_S and errors == {StaleError}
        after = table.resolve(pid)
        assert before is not None and after is not None
        assert (after.start_time_ns, after.exit_time_ns, after.argv) == (
            before.start_time_ns, before.exit_time_ns, before.argv,
        )  # fmt: skip
        stats = table.stats()
        assert stats["epoch"] == epoch and stats["takeovers"] == 1
    print(f"stale for {stale_s:.2f} s")


def test_other_sizes_begin_new_tables_and_readers_follow(daemon: Daemon) -> None:
    """What an upgrade to another layout does: the tables cannot be continued, so the history ends."""
    with daemon.attach() as table:
        pid = ended_process(table)
        epoch = table.stats()["epoch"]
        assert daemon.stop() == 0
        with pytest.raises(StaleError):
            table.stats()
        daemon.config.write_text(KEEP + "[tables]\nmax_entries = 131072\n")
        daemon.start()
        began = time.monotonic()
        assert table.resolve(1) is not None
        assert time.monotonic() - began < STALE_S * BUSY_FACTOR
        assert table.resolve(pid) is None
        assert table.stats()["epoch"] == epoch + 1


def test_a_process_that_ended_between_two_daemons_is_not_alive(daemon: Daemon) -> None:
    with daemon.attach() as table, subprocess.Popen(["/bin/sleep", "100"]) as sleeper:
        deadline = time.monotonic() + 10
        while table.resolve(sleeper.pid) is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert daemon.stop() == 0
        sleeper.kill()
        sleeper.wait()
        daemon.start()
        deadline = time.monotonic() + 10
        while not (entry := table.resolve(sleeper.pid)) or not entry.exit_time_ns:
            assert time.monotonic() < deadline, entry
            time.sleep(0.05)
        assert entry.marks == ["exit_unseen"]


def test_a_subscriber_goes_on_after_a_restart(daemon: Daemon) -> None:
    with Recorder(daemon, "exec", options=("--follow",)) as recorder:
        recorder.started()
        assert daemon.stop() == 0
        daemon.start()
        recorder.wait_for(lambda events: any(event["event"] == "unwatched" for event in events))
        subprocess.run(["/bin/true"], check=True)
        recorder.wait_for(lambda events: any(event.get("path") == "/usr/bin/true" for event in events))
