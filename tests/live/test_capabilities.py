"""Capabilities that processes were checked for, with `capture.capabilities_usage`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise

import pytest

from tests.actor import Actor
from tests.live.harness import Daemon, Recorder, patience
from tests.waiting import eventually

pytestmark = [pytest.mark.live]

SYS_CHROOT, SYS_TIME = 18, 25
#: A change must be in the table within this time; see test_changes.
VISIBLE_SECONDS = 0.1
USER = ["setpriv", "--reuid", "1000", "--clear-groups", "--regid", "1000"]
TRY = "try:\n    {}\nexcept OSError:\n    pass"


@pytest.fixture(scope="module")
def daemon(live_kernel: None) -> Iterator[Daemon]:
    with Daemon('[capture]\ncapabilities_usage = "on"\n', name="caps") as one:
        tier = tier_of(one)
        if not tier["ok"]:
            # Kernels before 6.14 do not have this tracepoint.
            pytest.skip(tier["detail"])
        yield one


def tier_of(daemon: Daemon) -> dict:
    checks = json.loads(daemon.cli("doctor", "--json").stdout)["checks"]
    (tier,) = [check for check in checks if check["name"] == "tier capability"]
    return tier


def bits(entry, capability: int) -> tuple[int, int]:
    return entry.caps_attempted >> capability & 1, entry.caps_used >> capability & 1


def test_capabilities_that_processes_attempt_and_use(daemon: Daemon) -> None:
    with (
        daemon.attach() as table,
        Recorder(daemon, "proc.context", "proc.exec").started() as recorder,
        Actor(USER) as user,
        Actor() as root,
    ):

        def is_seen(pid: int, capability: int, expected: tuple[int, int]) -> bool:
            entry = table.resolve(pid)
            return entry is not None and bits(entry, capability) == expected

        def told(pid: int) -> list[tuple[int, int]]:
            """The masks of its current image."""
            found = [e for e in recorder.events if (e["pid"], e["event"]) == (pid, "caps")]
            return [(e["caps_attempted"], e["caps_used"]) for e in found if e["images"] == found[-1]["images"]]

        for pid in (user.pid, root.pid):
            eventually(lambda pid=pid: is_seen(pid, SYS_CHROOT, (0, 0)))
        user.do(TRY.format("os.chroot('/')"))
        eventually(lambda: is_seen(user.pid, SYS_CHROOT, (1, 0)), VISIBLE_SECONDS * patience(), 0.001)
        root.do("os.chroot('/')")
        eventually(lambda: is_seen(root.pid, SYS_CHROOT, (1, 1)), VISIBLE_SECONDS * patience(), 0.001)
        # Bits accumulate on the stream and in the table, and a repeated check causes no event.
        user.do(TRY.format("time.clock_settime(time.CLOCK_REALTIME, 0)"))
        eventually(lambda: is_seen(user.pid, SYS_TIME, (1, 0)), VISIBLE_SECONDS * patience(), 0.001)
        user.do(TRY.format("os.chroot('/')"))
        user.do("libc.prctl(15, b'mark', 0, 0, 0)")
        recorder.wait_for(lambda events: any((e["pid"], e["event"]) == (user.pid, "comm") for e in events))
        masks = told(user.pid)
        assert len(set(masks)) == len(masks) and masks == sorted(masks)
        entry = table.resolve(user.pid)
        assert masks[-1] == (entry.caps_attempted, entry.caps_used) and entry.caps_used == 0
        assert all(before[0] & after[0] == before[0] for before, after in pairwise(masks))
        # A child begins with empty masks, regardless of its parent.
        root.do("child = os.fork() or time.sleep(60)")
        eventually(lambda: table.children(root.pid))
        (child,) = table.children(root.pid)
        assert bits(child, SYS_CHROOT) == (0, 0)
        root.do("os.kill(child, 9); os.waitpid(child, 0)")
        recorder.stop()
    counts = daemon.stat()
    assert counts["events"]["caps"] > 0 and counts["lost"]["caps"] == 0


def test_no_capabilities_are_reported_by_default(live_kernel: None) -> None:
    with Daemon(name="nocaps") as daemon, daemon.attach() as table, Actor() as root:
        assert tier_of(daemon)["detail"] == 'capture.capabilities_usage is "off"'
        root.do("os.chroot('/'); libc.prctl(15, b'mark', 0, 0, 0)")
        eventually(lambda: (entry := table.resolve(root.pid)) is not None and entry.comm == "mark")
        entry = table.resolve(root.pid)
        assert (entry.caps_attempted, entry.caps_used) == (0, 0)
        assert daemon.stat()["events"]["caps"] == 0
