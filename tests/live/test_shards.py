"""A change of the number of shards during a storm: nothing is lost, and nothing is applied twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from pipeline.bpf.host import online_cpus
from tests.linux import SKIPPED_KINDS, lost_kinds
from tests.live.agreement import assert_agrees
from tests.live.harness import Daemon
from tests.live.storms import Storm, Watcher, images_of, unforked
from tests.waiting import eventually

pytestmark = [pytest.mark.live, pytest.mark.slow]

EAGER = (sys.executable, str(Path(__file__).with_name("eager_shards.py")))
CHANGES = 5


def changes(daemon: Daemon) -> list[tuple[int, int]]:
    """Return (before, after) of each change that the log names."""
    lines = [json.loads(line) for line in daemon.log.read_text().splitlines() if line.startswith("{")]
    return [(line["before"], line["shards"]) for line in lines if line["event"] == "number of shards changed"]


@pytest.mark.skipif(len(online_cpus()) < 2, reason="a ring has one reader, and this host has one ring")
def test_changes_in_a_storm_lose_and_double_nothing(live_kernel: None, workload: Path) -> None:
    # Room for all images of the storm, which takes a minute.
    tables = "[tables]\nmax_entries = 1048576\nretention_s = 3600\n"
    daemon = Daemon(f'[supervision]\nshare_cpu = false\n[log]\nformat = "json"\n{tables}')
    daemon.wrapper = EAGER
    with daemon, subprocess.Popen(["sleep", "600"]) as sleeper:
        try:
            with daemon.attach() as table:
                assert table.resolve(sleeper.pid, wait_ms=60_000) is not None
                watcher = Watcher(daemon.attach(), sleeper.pid)
                watcher.start()
                with Storm(workload, pause_s=0.2) as storm:
                    eventually(lambda: len(changes(daemon)) >= CHANGES, limit_s=120)
                made = storm.made
                assert made["fork"] > 1000
                wanted = made["fork"] + made["exec"]

                def all_are_there() -> None:
                    found, stats = images_of(daemon.directory, storm.parents)["fork"], table.stats()
                    # On a host that is too busy, a ring can wait for a shard for so long that others pass it over.
                    missing = unforked(daemon.directory, storm.parents) if stats["counters"]["stalls"] else 0
                    lost = stats["lost"]["fork"]
                    assert 0 <= wanted - found - missing <= lost, (wanted, found, stats["lost"], changes(daemon))

                eventually(all_are_there, limit_s=30)
                stats = table.stats()
                watcher.stop = True
                watcher.join()
                assert not watcher.wrong, Counter(watcher.wrong)
                lost = stats["lost"]
                assert lost_kinds(lost) <= SKIPPED_KINDS, lost
                identities = images_of(daemon.directory, storm.parents)
                assert 0 <= made["exec"] - identities["exec"] <= lost["exec"]
                eventually(lambda: images_of(daemon.directory, storm.parents)["alive"] <= lost["exit"], limit_s=30)
                eventually(lambda: assert_agrees(table, complete=False), limit_s=30)
                assert {before != after for before, after in changes(daemon)} == {True}
                assert daemon.stop() == 0
        finally:
            sleeper.kill()


@pytest.mark.skipif(len(online_cpus()) < 2, reason="a ring has one reader, and this host has one ring")
def test_a_change_waits_for_no_old_shard(live_kernel: None) -> None:
    """The new shard reads again what an old one cannot hand over, because it gets no CPU or waits for another ring."""
    daemon = Daemon('[supervision]\nstop_timeout_s = 300\n[log]\nformat = "json"\n')
    daemon.wrapper = EAGER
    with daemon:

        def freeze_one_of_two() -> int:
            shards = daemon.pids("shard")
            if len(shards) != 2:
                return 0
            with suppress(ProcessLookupError):
                os.kill(shards[0], signal.SIGSTOP)
            return shards[0]

        frozen = eventually(freeze_one_of_two, limit_s=60)
        eventually(lambda: frozen not in daemon.pids("shard"), limit_s=60)
        eventually(lambda: changes(daemon)[-1][0] == 2, limit_s=60)


def test_an_event_after_a_change_is_not_delayed(live_kernel: None, workload: Path) -> None:
    """A new shard asks the kernel to be woken: a host on which little happens has no reader that polls."""
    daemon = Daemon('[log]\nformat = "json"\n')
    daemon.wrapper = EAGER
    with daemon, daemon.attach() as table:
        eventually(lambda: len(changes(daemon)) >= 2, limit_s=60)
        for _ in range(5):
            with subprocess.Popen([str(workload), "sleep", "30000"]) as child:
                entry = table.resolve(child.pid, wait_ms=60_000)
                child.kill()
                assert entry is not None
