"""A daemon without CPU time is reported as running but behind."""

from __future__ import annotations

import os
import signal
import time

import pytest

from pipeline.errors import BehindError
from pipeline.shm.reader._view import ABANDONED_AFTER_NS
from tests.live.harness import Daemon
from tests.waiting import eventually

pytestmark = [pytest.mark.live]


def test_a_daemon_that_is_held_is_running_and_behind(live_kernel: None) -> None:
    with Daemon() as daemon:
        # Stop the supervisor first, because it would replace a resolver that hangs.
        held = [*daemon.pids("supervisor"), *daemon.pids("resolver")]
        for pid in held:
            os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(ABANDONED_AFTER_NS / 1e9 + 0.5)
            shown = daemon.cli("stat")
            assert shown.returncode == 0 and "is running, behind by" in shown.stderr
            for arguments in (["dump", "--json"], ["resolve", str(1 << 22)], ["wait", "--timeout", "0"]):
                done = daemon.cli(*arguments)
                assert done.returncode == 75 and "is running, behind by" in done.stderr, done.stderr
            with daemon.attach() as table:
                assert table.stats()["behind_ns"] > ABANDONED_AFTER_NS
                with pytest.raises(BehindError):
                    table.resolve(1 << 22)
        finally:
            for pid in reversed(held):
                os.kill(pid, signal.SIGCONT)
        eventually(lambda: daemon.stat()["behind_ns"] == 0)
        assert daemon.cli("wait", "--timeout", "20").returncode == 0
        assert daemon.cli("resolve", "1").returncode == 0
        assert daemon.stat()["takeovers"] == 0
