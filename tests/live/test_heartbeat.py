"""Heartbeats of an idle resolver. After 1 s without a heartbeat, readers assume that the resolver has ended."""

from __future__ import annotations

import contextlib
import itertools
import time

import pytest

from pipeline.host.vitals import VitalsReader
from tests.live.harness import Daemon
from tests.waiting import eventually

pytestmark = [pytest.mark.live, pytest.mark.alone, pytest.mark.tolerant]

#: Long enough to include the housekeeping, which is rarer.
WINDOW_S = 6.0
#: A missing heartbeat would be a gap of 0.6 s.
GAP_NS = 500_000_000


def gaps_ns(reader: VitalsReader) -> list[int]:
    """Return the times between heartbeats within a window."""
    seen: list[int] = []
    end = time.monotonic() + WINDOW_S
    while time.monotonic() < end:
        vitals = reader.read()
        assert vitals is not None
        if not seen or vitals.heartbeat_boot_ns != seen[-1]:
            seen.append(vitals.heartbeat_boot_ns)
        time.sleep(0.02)
    return [after - before for before, after in itertools.pairwise(seen)]


def test_an_idle_resolver_leaves_no_sign_of_life_out(live_kernel: None) -> None:
    # The file is opened once: another opening would count as a reader, and the resolver would not rest.
    with Daemon() as daemon, contextlib.closing(VitalsReader(daemon.directory)) as reader:
        time.sleep(WINDOW_S)
        # One good window is enough, because the machine may have stopped in another.
        eventually(lambda: max(gaps_ns(reader)) < GAP_NS, limit_s=3 * WINDOW_S)
