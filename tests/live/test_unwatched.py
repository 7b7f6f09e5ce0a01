"""A subscriber that stays connected over a restart of the daemon gets an event for the unwatched period."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.live.harness import Daemon, Recorder

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("live_kernel")]


@pytest.fixture
def daemon(live_kernel: None) -> Iterator[Daemon]:
    with Daemon() as running:
        yield running


@pytest.mark.parametrize("is_killed", [True, False], ids=["kill", "stop"])
def test_unwatched_times_enclose_the_missed_events(daemon: Daemon, is_killed: bool) -> None:
    with Recorder(daemon, "exec", options=("--follow",)) as recorder:
        recorder.started()
        daemon.kill() if is_killed else daemon.stop()
        unseen_ns = time.time_ns()
        subprocess.run(["/bin/echo"], check=True, stdout=subprocess.DEVNULL)
        unseen_until_ns = time.time_ns()
        daemon.start()
        recorder.wait_for(lambda events: any(event["event"] == "unwatched" for event in events))
        again_ns = time.time_ns()
        subprocess.run(["/bin/true"], check=True)
        recorder.wait_for(
            lambda events: any(event["event"] == "exec" and event["time_ns"] > again_ns for event in events)
        )
        events = recorder.stop()
    (told,) = [event for event in events if event["event"] == "unwatched"]
    begin, end = told["unwatched_from_ns"], told["unwatched_to_ns"]
    assert begin < unseen_ns < unseen_until_ns < end
    seen = [event["time_ns"] for event in events if event["event"] == "exec"]
    # The period begins with what was committed and ends when the next capture is complete: events at both edges may be
    # seen.
    assert not [time_ns for time_ns in seen if unseen_ns < time_ns < unseen_until_ns], "no daemon watched"
    assert min(seen) < begin and max(seen) > end, "the unwatched period is too long"
    assert told["seq"] is None and told["time_ns"] >= end

    # A subscriber that begins a moment later gets it too.
    with Recorder(daemon, "exec") as later:
        later.wait_for(lambda events: any(event["event"] == "unwatched" for event in events))
        assert later.stop()[0] == told | {"time_ns": later.events[0]["time_ns"]}
