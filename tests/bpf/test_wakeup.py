"""The shard sleeps until a program wakes it, once; a busy ring wakes no shard until it fills above the mark."""

from __future__ import annotations

import select
import subprocess
from pathlib import Path

import pytest

from pipeline.bpf import maps
from pipeline.bpf.loader import Capture
from pipeline.records import declared
from tests.bpf.ring_reader import Reader
from tests.bpf.test_loss import pinned

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("live_kernel")]


def watched(capture: Capture) -> tuple[int, select.epoll]:
    cpu = min(capture.fds.rings)
    epoll = select.epoll()
    epoll.register(capture.fds.rings[cpu], select.EPOLLIN | select.EPOLLET)
    epoll.poll(0)  # drop the events that are pending already
    return cpu, epoll


def test_the_first_event_wakes_a_sleeper_and_no_other_does(live_kernel: None, actions: Path) -> None:
    # With a mark that processes beside the test do not fill the ring to.
    with Capture(ring_bytes=1 << 24, wakeup_fill_bytes=1 << 24) as capture:
        cpu, epoll = watched(capture)
        states = maps.cpu_states(capture.fds.shared, writable=True)
        before = int(states["wakeups"][cpu])
        states["sleeping"][cpu] = 1
        child = subprocess.Popen(["taskset", "-c", str(cpu), actions, "forks", "101"], stdout=subprocess.DEVNULL)
        assert epoll.poll(60) != []
        child.wait(timeout=60)
        assert states["sleeping"][cpu] == 0
        assert states["wakeups"][cpu] - before == 1


def test_an_awake_shard_gets_no_wake_up(capture: Capture, actions: Path) -> None:
    cpu, epoll = watched(capture)
    states = maps.cpu_states(capture.fds.shared)
    before = int(states["wakeups"][cpu])
    pinned(cpu, actions, "nothing")
    assert epoll.poll(0.05) == []
    assert states["wakeups"][cpu] == before


def test_a_ring_that_fills_above_the_mark_wakes_once(live_kernel: None, actions: Path) -> None:
    with Capture(ring_bytes=1 << 20, wakeup_fill_bytes=100_000) as capture:
        cpu, epoll = watched(capture)
        reader, states = Reader(capture), maps.cpu_states(capture.fds.shared)
        # About 256 bytes for each fork and each exit, all in this ring, and none of it is read.
        pinned(cpu, actions, "storm", "499")
        assert states["wakeups"][cpu] == 1
        assert epoll.poll(60) != []
        reader.poll()
        assert sum(r.ring == cpu and r.kind == declared.KIND_FORK for r in reader.records) >= 499
        pinned(cpu, actions, "storm", "499")
        assert states["wakeups"][cpu] == 2
