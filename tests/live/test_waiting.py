"""Waiting for processes that really end: the children of this test, and those that init adopts."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from pipeline import ProcessTable, WaitTimeoutError
from tests.live.harness import Daemon

pytestmark = pytest.mark.live

LONG_S = 60


@pytest.fixture(scope="module")
def table(daemon: Daemon) -> Iterator[ProcessTable]:
    with daemon.attach() as table:
        yield table


@pytest.mark.parametrize(("script", "status"), [("exit 3", 3 << 8), ("kill -9 $$", signal.SIGKILL)])
def test_a_process_that_was_just_started_is_waited_for(table: ProcessTable, script: str, status: int) -> None:
    with subprocess.Popen(["sh", "-c", f"sleep 0.2; {script}"]) as child:
        entry = table.wait_exit(child.pid, timeout=LONG_S)
    assert entry is not None and entry.pid == child.pid and entry.exit_code == status and entry not in table


def test_a_tree_has_ended_when_its_orphan_has(table: ProcessTable) -> None:
    """The shell ends at once; its child is adopted by init and runs on."""
    script = "sleep 600 >/dev/null & echo $!"
    with subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True) as shell:
        orphan = int(shell.communicate()[0])
        try:
            assert table.wait_exit(shell.pid, timeout=LONG_S) is not None
            with pytest.raises(WaitTimeoutError, match=f"pid {orphan}, a descendant of pid {shell.pid}"):
                table.wait_tree(shell.pid, timeout=0)
        finally:
            os.kill(orphan, signal.SIGKILL)
        entry = table.wait_tree(shell.pid, timeout=LONG_S)
    assert entry is not None and entry.pid == shell.pid and orphan not in table
