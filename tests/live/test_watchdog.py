"""A worker that hangs is replaced, whether it is stopped or not. (tests/attacks: a slow worker is not replaced.)"""

from __future__ import annotations

import os
import signal

import pytest

from tests.live.harness import Daemon
from tests.waiting import eventually

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("live_kernel")]


def test_a_stopped_resolver_is_replaced() -> None:
    with Daemon() as daemon:
        (stopped,) = daemon.pids("resolver")
        os.kill(stopped, signal.SIGSTOP)
        eventually(lambda: "resolver shows no sign of life" in daemon.log.read_text(), limit_s=60)
        eventually(lambda: daemon.log.read_text().count('"event": "ready"') == 2, limit_s=60)
        assert daemon.pids("resolver") != [stopped]
        assert daemon.stat()["takeovers"] == 1
        assert daemon.stop() == 0


def test_a_successor_compares_its_tables_with_proc() -> None:
    """Also without a loss: its predecessor may have been killed before it could count one."""
    with Daemon("[repair]\ncheck_interval_s = 0\n") as daemon:
        before = daemon.stat()["repairs"]
        (resolver,) = daemon.pids("resolver")
        os.kill(resolver, signal.SIGKILL)
        eventually(lambda: daemon.stat()["takeovers"] > 0, 60, 0.2)
        eventually(lambda: daemon.stat()["repairs"] > before, 60, 0.2)
