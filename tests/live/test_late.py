"""Events of a ring that the merge has passed over: none is lost or applied twice, and each of them is counted."""

from __future__ import annotations

import itertools
import os
import signal
import time
from pathlib import Path

import pytest

from pipeline.bpf.host import online_cpus
from tests.faults import truth
from tests.linux import SKIPPED_KINDS, lost_kinds
from tests.live.agreement import assert_agrees
from tests.live.harness import Daemon, patience
from tests.live.storms import Storm
from tests.waiting import eventually

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("live_kernel")]

#: A shard for each of two rings, and repairs all the time: they enter processes of which no event has come yet. A ring
#: holds what comes while its reader is frozen and catches up, also on a busy machine.
CONFIG = """
[capture]
ring_bytes = 33554432
[tables]
max_entries = 1048576
retention_s = 3600
[shards]
count = 2
[supervision]
share_cpu = false
[merge]
stall_ms = 100
[repair]
check_interval_s = 0.3
min_interval_ms = 100
"""
FREEZES = 4
#: Longer than a ring is waited for, and shorter than the time after which the watchdog replaces a shard.
FROZEN_S = 0.8


@pytest.mark.skipif(len(online_cpus()) < 2, reason="a ring has one reader, and this host has one ring")
def test_what_a_frozen_shard_sends_late_is_applied_once_and_counted(workload: Path) -> None:
    with Daemon(CONFIG) as daemon, daemon.attach() as table:
        with Storm(workload, pause_s=0.05, forks=350, execs=85) as storm:
            for shard in itertools.islice(itertools.cycle(daemon.pids("shard")), FREEZES):
                time.sleep(0.3)
                os.kill(shard, signal.SIGSTOP)
                try:
                    time.sleep(FROZEN_S)
                finally:
                    os.kill(shard, signal.SIGCONT)
        eventually(lambda: assert_agrees(table, complete=False), limit_s=30 * patience())
        stats = table.stats()
        found = truth.read(daemon.directory, storm.processes)
        assert stats["late"] > 0 and stats["repairs"] > 0, stats
        assert lost_kinds(stats["lost"]) <= SKIPPED_KINDS, stats["lost"]
        assert found.faults(stats["lost"], stats["late"]) == [], truth.message(found, stats)
        assert daemon.stop() == 0
