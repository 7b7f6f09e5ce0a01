"""CPUs go offline and come back while a daemon runs. Only in a guest (tests/vm): other programs need their CPUs."""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from pipeline import ProcessTable
from pipeline.bpf.host import online_cpus
from tests.linux import IS_GUEST, SKIPPED_KINDS, lost_kinds
from tests.live.agreement import assert_agrees
from tests.live.harness import Daemon
from tests.live.storms import Storm, images_of
from tests.waiting import eventually

pytestmark = [
    pytest.mark.live,
    pytest.mark.vm,
    pytest.mark.alone,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not IS_GUEST, reason="takes CPUs away: only in a guest (tests/vm)"),
]

CONFIG = "[args]\nshow = 'raw'\n[tables]\nchunk_rows = 64\nmax_entries = 1048576\nretention_s = 3600\n"
#: Emulated, everything takes some fifteen times as long.
LONG_S = 300.0
ONLINE = Path("/sys/devices/system/cpu/cpu1/online")


@contextmanager
def offline() -> Iterator[None]:
    """Take CPU 1 away for a while."""
    ONLINE.write_text("0")
    try:
        assert online_cpus() == [0]
        yield
    finally:
        ONLINE.write_text("1")
        assert 1 in online_cpus()


@pytest.fixture(autouse=True)
def two_cpus(live_kernel: None, missing: Callable[[str], NoReturn]) -> None:
    if not ONLINE.exists():
        missing("CPU 1 cannot go offline")


def check(daemon: Daemon, table: ProcessTable, made: Mapping[str, int], parents: set[int]) -> None:
    """Each process is in the tables once, unless the kernel skipped it and counted that; all agrees with /proc."""
    eventually(lambda: assert_agrees(table, complete=False), LONG_S, 0.5)
    assert made["fork"] > 0 and made["exec"] > 0
    found = images_of(daemon.directory, parents)
    stats = table.stats()
    lost = Counter(stats["lost"])
    assert lost_kinds(lost) <= SKIPPED_KINDS
    for kind, count in {"fork": made["fork"] + made["exec"], "exec": made["exec"]}.items():
        assert 0 <= count - found[kind] <= lost["fork"] + lost["exec"], kind
    assert not stats["late"]
    assert not any(name in stats["counters"] for name in ("no_ring", "corrupt_records", "malformed_records"))


def test_a_cpu_goes_and_comes_back_in_a_storm(workload: Path) -> None:
    with Daemon(CONFIG) as daemon, daemon.attach() as table:
        workers = sorted(daemon.pids(""))
        with Storm(workload) as storm:
            for _ in range(3):
                time.sleep(2)
                with offline():
                    time.sleep(3)
        check(daemon, table, storm.made, storm.parents)
        assert sorted(daemon.pids("")) == workers


def on_cpu_1(workload: Path) -> tuple[Counter[str], int]:
    """Run a workload on CPU 1 alone; return what it has made, and its pid."""
    process = subprocess.Popen(
        ["taskset", "-c", "1", workload, "storm", "300", "60", "4"], stdout=subprocess.PIPE, text=True
    )
    out, _ = process.communicate()
    assert process.returncode == 0
    return Counter(line.split()[0] for line in out.splitlines()), process.pid


def test_a_cpu_that_was_offline_at_the_start(workload: Path) -> None:
    """It writes to the spare ring."""
    with offline():
        daemon = Daemon(CONFIG).start()
    try:
        with daemon.attach() as table:
            made, parent = on_cpu_1(workload)
            check(daemon, table, made, {parent})
            # Also while it goes and comes back.
            with Storm(workload) as storm:
                for _ in range(2):
                    time.sleep(2)
                    with offline():
                        time.sleep(2)
            check(daemon, table, storm.made, storm.parents)
    finally:
        daemon.close()
