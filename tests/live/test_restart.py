"""A restart keeps the history if the tables are to be kept, and readers follow by themselves."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator

import pytest

from pipeline import ProcessTable
from pipeline.errors import StaleError
from tests.live.harness import Daemon, Recorder, patience
from tests.waiting import eventually, until

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("live_kernel")]

#: As procline.service runs it: without CAP_SYS_ADMIN, no system calls are traced for credentials. Where a kernel has no
#: better way, attaching and detaching these tracepoints takes longer than all the rest of a restart.
KEEP = '[supervision]\nkeep_tables = true\n[capture]\ncredentials = "off"\n'
#: How soon a reader must follow a new daemon that is ready.
FOLLOW_S = 2.0
#: How long readers may use tables without a writer; a start takes long on a host that runs other tests.
MAX_AGE_MS = 120_000
#: A pid that no process has: pids begin again at 300 long before.
NOBODY = (1 << 22) - 1


@pytest.fixture
def daemon(live_kernel: None) -> Iterator[Daemon]:
    with Daemon(KEEP) as running:
        yield running


def ended_process(table: ProcessTable) -> int:
    """Run a process that the tables then know as exited; return its pid."""
    with subprocess.Popen(["/bin/true"]) as process:
        pass
    deadline = time.monotonic() + 60
    while True:
        entry = table.resolve(process.pid)
        if entry is not None and entry.exit_time_ns and entry.path == "/usr/bin/true":
            return process.pid
        assert time.monotonic() < deadline, entry
        time.sleep(0.01)


def restart(daemon: Daemon, table: ProcessTable, pid: int) -> tuple[float, float]:
    """Restart the daemon while a reader asks for `pid`, and for a process that does not exist.

    Returns:
        For how long nothing could be called absent, and for how long after the new daemon was ready, in seconds.
    """
    process = daemon.process
    assert process is not None
    process.terminate()
    is_started = False
    stale_at = ready_at = 0.0
    deadline = time.monotonic() + 120
    while True:
        assert time.monotonic() < deadline, daemon.log.read_text()
        entry = table.resolve(pid)
        assert entry is not None and entry.exit_time_ns, "a process that the tables have was not found"
        try:
            assert table.resolve(NOBODY) is None
            if is_started and stale_at:
                return time.monotonic() - stale_at, time.monotonic() - (ready_at or time.monotonic())
        except StaleError:
            stale_at = stale_at or time.monotonic()
        if not is_started and process.poll() is not None:
            assert process.returncode == 0
            daemon.start(wait=False)
            is_started = True
        if is_started and not ready_at and daemon.log.read_text().count('"ready"') == 2:
            ready_at = time.monotonic()
        time.sleep(0.002)


def test_a_restart_keeps_the_history_and_readers_follow(daemon: Daemon) -> None:
    with ProcessTable.attach(path=daemon.directory, max_age_ms=MAX_AGE_MS) as table:
        pid = ended_process(table)
        before = table.resolve(pid)
        epoch = table.stats()["epoch"]
        stale_s, after_ready_s = restart(daemon, table, pid)
        print(f"stale for {stale_s:.2f} s, of it {after_ready_s:.3f} s after the new daemon was ready")
        assert after_ready_s < FOLLOW_S * patience()
        after = table.resolve(pid)
        assert before is not None and after is not None
        assert (after.start_time_ns, after.exit_time_ns, after.argv) == (
            before.start_time_ns, before.exit_time_ns, before.argv,
        )  # fmt: skip
        stats = table.stats()
        assert stats["epoch"] == epoch and stats["takeovers"] == 1


def test_other_sizes_begin_new_tables_and_readers_follow(daemon: Daemon) -> None:
    """As after an upgrade to another layout: the tables cannot be continued, so the history ends."""
    with ProcessTable.attach(path=daemon.directory, max_age_ms=MAX_AGE_MS) as table:
        pid = ended_process(table)
        epoch = table.stats()["epoch"]
        assert daemon.stop() == 0
        assert table.resolve(pid) is not None
        with pytest.raises(StaleError):
            table.resolve(NOBODY)
        daemon.config.write_text(KEEP + "[tables]\nmax_entries = 131072\n")
        daemon.start()
        eventually(lambda: table.resolve(pid) is None)
        assert table.resolve(1) is not None
        assert table.stats()["epoch"] == epoch + 1


def test_a_process_that_ended_between_two_daemons_is_not_alive(daemon: Daemon) -> None:
    with daemon.attach() as table, subprocess.Popen(["/bin/sleep", "100"]) as sleeper:
        until(lambda: table.resolve(sleeper.pid) is not None)
        assert daemon.stop() == 0
        sleeper.kill()
        sleeper.wait()
        daemon.start()
        until(lambda: (entry := table.resolve(sleeper.pid)) and entry.exit_time_ns, pause_s=0.05)
        assert table.resolve(sleeper.pid).marks == ["exit_unseen"]


def test_a_subscriber_goes_on_after_a_restart(daemon: Daemon) -> None:
    with Recorder(daemon, "exec", options=("--follow",)) as recorder:
        recorder.started()
        assert daemon.stop() == 0
        daemon.start()
        recorder.wait_for(lambda events: any(event["event"] == "unwatched" for event in events))
        subprocess.run(["/bin/true"], check=True)
        recorder.wait_for(lambda events: any(event.get("path") == "/usr/bin/true" for event in events))
