"""A daemon with real resource limits starts, or reports in one line why it cannot."""

from __future__ import annotations

import os
import signal
import time

import pytest

from pipeline.bpf.host import possible_cpus
from pipeline.config.schema import Config
from pipeline.host.boot import pid_max
from pipeline.supervisor import limits
from tests.live.harness import READY_SECONDS, Daemon

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("live_kernel")]


def needed(name: str) -> int:
    """Return the value that the check requires for a limit, with default settings."""
    return next(least for _, limit, _, _, least in limits._needs(Config(), max(possible_cpus()) + 1, pid_max())
                if limit == name)  # fmt: skip


@pytest.mark.parametrize(("option", "name"), [("--nofile=32", "RLIMIT_NOFILE"), (f"--as={300_000 << 10}", "RLIMIT_AS")])
def test_a_limit_that_is_too_low_ends_the_start_with_one_line_and_code_2(option: str, name: str) -> None:
    daemon = Daemon()
    daemon.wrapper = ("prlimit", option)
    try:
        daemon.start(wait=False)
        assert daemon.process is not None
        assert daemon.process.wait(READY_SECONDS) == 2
        (line,) = daemon.log.read_text().splitlines()
        assert line.startswith(f"procline: the limit {name} is ")
        assert f"needs {needed(name)}" in line and "raise it" in line
        assert not daemon.directory.exists()
    finally:
        daemon.close()


def test_with_the_least_that_the_check_asks_for_a_daemon_works() -> None:
    daemon = Daemon()
    daemon.wrapper = ("prlimit", f"--nofile={needed('RLIMIT_NOFILE')}", f"--as={needed('RLIMIT_AS')}")
    try:
        daemon.start()
        assert daemon.stat()["entries"]["live"] > 0
        assert daemon.stop() == 0
    finally:
        daemon.close()


def test_workers_that_never_get_ready_end_the_daemon_with_one_line_and_code_4() -> None:
    """The limit is lowered after the check, so the workers run into an unexpected limit."""
    daemon = Daemon("", "--set", "supervision.early_deaths_max=3")
    try:
        with daemon:
            assert daemon.process is not None
            (shard,) = daemon.pids("shard")
            os.system(f"prlimit --pid {daemon.process.pid} --as={60 << 20}")
            os.kill(shard, signal.SIGKILL)
            began = time.monotonic()
            assert daemon.process.wait(READY_SECONDS) == 4
            assert time.monotonic() - began < 30
            last = daemon.log.read_text().splitlines()[-1]
            assert last.startswith("procline: shard-0 ") and "it died 3 times in a row before it was ready" in last
            assert not daemon.directory.exists()
    finally:
        daemon.close()
