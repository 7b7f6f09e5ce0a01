"""An instance that starts while processes are forked faster than they can be read."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pipeline.shm.layout.layout import CONTROL, HOT, ROW_EXIT_KNOWN
from tests.linux import SKIPPED_KINDS, lost_kinds
from tests.live.agreement import assert_agrees
from tests.live.harness import Daemon
from tests.waiting import eventually

pytestmark = [pytest.mark.live, pytest.mark.alone]

STARTS = 2


def identities(daemon: Daemon) -> dict[tuple[int, int], int]:
    """Return (pid, start) -> end of every live or exited process in the tables; end 0: live; times of the boot clock.

    Fails if a process is there twice. If a process has several images, the newest one ends last.
    """
    hot = np.fromfile(daemon.directory / "hot", HOT)
    used = hot[(hot["flags"] != 0) & (hot["row_seq"] % 2 == 0)]
    images = Counter(zip(used["tgid"].tolist(), used["start_boot_ns"].tolist(), used["images"].tolist(), strict=True))
    assert max(images.values()) == 1, [image for image, n in images.items() if n > 1][:5]
    ends: dict[tuple[int, int], int] = {}
    for tgid, start, end in zip(
        used["tgid"].tolist(), used["start_boot_ns"].tolist(), used["exit_boot_ns"].tolist(), strict=True
    ):
        before = ends.get((tgid, start), 1)
        ends[tgid, start] = max(end, before) if end and before else 0
    return ends


def ended_unseen(daemon: Daemon) -> set[tuple[int, int]]:
    """Return (pid, start) of each process that ended without a record: the tables contain a later time as its end."""
    hot = np.fromfile(daemon.directory / "hot", HOT)
    unseen = hot[(hot["row_seq"] % 2 == 0) & (hot["exit_boot_ns"] != 0) & (hot["flags"] & ROW_EXIT_KNOWN == 0)]
    return set(zip(unseen["tgid"].tolist(), unseen["start_boot_ns"].tolist(), strict=True))


def settled(daemon: Daemon) -> None:
    """Wait until all events so far are in the tables."""
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    with daemon.attach() as table:
        eventually(lambda: table.watermark_boot_ns > now, limit_s=30)


def test_a_start_during_a_fork_storm_misses_no_process(live_kernel: None, workload: Path) -> None:
    """Each process that was live when the second instance was ready, or began after its capture, is in its tables once.

    The first instance, which is already running, is the reference. (A process that began before the second capture and
    ended before its snapshot is in neither part; look-ups in the past therefore answer only from `ready_boot_ns` on.)
    """
    with Daemon(name="before") as before:
        for _ in range(STARTS):
            storm = subprocess.Popen(
                [workload, "storm", "1000000", "100000"], stdout=subprocess.DEVNULL, start_new_session=True
            )
            try:
                time.sleep(0.3)
                with Daemon(name="during") as during:
                    header = np.fromfile(during.directory / "control", CONTROL, count=1)[0]
                    began_ns, ready_ns = int(header["horizon_boot_ns"]), int(header["ready_boot_ns"])
                    assert 0 < began_ns < ready_ns  # the tables are created after the capture began
                    time.sleep(0.5)
                    os.killpg(storm.pid, signal.SIGKILL)
                    storm.wait()
                    settled(before)
                    with before.attach() as reference:
                        # On a busy machine it may be the reference that has a process wrong for a moment.
                        eventually(lambda reference=reference: assert_agrees(reference, complete=False))
                    there = identities(before)
                    settled(during)
                    found = identities(during)
                    assert lost_kinds(before.stat()["lost"]) <= SKIPPED_KINDS, (
                        "the first instance itself lost something"
                    )
                    assert lost_kinds(during.stat()["lost"]) <= SKIPPED_KINDS
                    stormy = sum(end > ready_ns for end in there.values())
                    assert stormy > 500, "no storm"
                    quick = {each for each, end in there.items() if each[1] >= began_ns and 0 < end < ready_ns}
                    assert quick, "no process was quick enough for the snapshot alone to miss"
                    lived = {each for each, end in there.items() if not end or end >= ready_ns} | quick
                    missed = lived - found.keys()
                    if "exit" in SKIPPED_KINDS:
                        # They may have ended before the second capture began.
                        missed -= ended_unseen(before)
                    assert not missed, {each: (there[each], began_ns, ready_ns) for each in missed}
                    # No process is invented, and none is there twice with a coarser start time.
                    assert found.keys() - identities(before).keys() == set()
                    # The exits of all ended processes are known.
                    with during.attach() as table:
                        eventually(lambda table=table: assert_agrees(table))
            finally:
                if storm.poll() is None:
                    os.killpg(storm.pid, signal.SIGKILL)
                    storm.wait()
