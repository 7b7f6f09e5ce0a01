"""A live daemon sends a subscriber with a selection little more than what it wants, also after a take-over."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline import Selection, Subscriber
from tests.live.harness import Daemon
from tests.nobody import NOBODY
from tests.waiting import eventually

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("live_kernel")]
LIMIT_S = 60
RUNS = 20


@pytest.fixture(scope="module")
def daemon(live_kernel: None) -> Iterator[Daemon]:
    with Daemon() as made:
        yield made


def run_as_nobody() -> set[int]:
    """Run a program some times as a user, between many runs as root; return its pids."""
    pids = set()
    for _ in range(RUNS):
        subprocess.run(["/bin/sh", "-c", "for i in 1 2 3 4 5 6 7 8 9 10; do /bin/true; done"], check=True)
        with subprocess.Popen(["/bin/true"], user=NOBODY, group=NOBODY, extra_groups=[], cwd="/") as process:
            pids.add(process.pid)
    return pids


def read_execs(subscriber: Subscriber, pids: set[int]) -> list[Any]:
    found: list[Any] = []

    def has_all() -> bool:
        found.extend(event for event in subscriber.read(0.1) if event["event"] not in {"missed", "unwatched"})
        return pids <= {event["pid"] for event in found if event["event"] == "exit"}

    eventually(has_all, LIMIT_S)
    return found


def test_the_resolver_encodes_only_what_is_wanted(daemon: Daemon) -> None:
    with Subscriber(path=daemon.directory, topics=["exec", "exit"], select=Selection(users=[str(NOBODY)])) as narrow:
        before = sum(last or 0 for last in narrow._reader.tracker.last)
        pids = run_as_nobody()
        events = read_execs(narrow, pids)
        assert {event["event"] for event in events} == {"exec", "exit"}
        assert all(NOBODY in (event["uid"], event["euid"]) for event in events)
        assert narrow._reader.is_narrow and narrow.missed == 0
        happened = sum(last or 0 for last in narrow._reader.tracker.last) - before
        assert happened > 10 * RUNS
        # A resolver counts what it publishes until its end.
        eventually(lambda: daemon.stat()["counters"]["published"] >= len(events), LIMIT_S)
        assert daemon.stat()["counters"]["published"] < happened / 2


def test_a_successor_goes_on_with_the_filter(daemon: Daemon) -> None:
    with Subscriber(
        path=daemon.directory, topics=["exec", "exit"], select=Selection(paths=["/bin/tr*", "*/true"])
    ) as one:
        read_execs(one, run_as_nobody())
        (resolver,) = daemon.pids("resolver")
        os.kill(resolver, signal.SIGKILL)
        eventually(lambda: [] != daemon.pids("resolver") != [resolver] and one.read(0.1) is not None, LIMIT_S)

        def hears() -> bool:
            with subprocess.Popen(["/bin/true"]) as process:
                pass
            return any(event.get("pid") == process.pid for _ in range(5) for event in one.read(0.2))

        eventually(hears, LIMIT_S)
        assert one._reader.is_narrow
        assert all(event["path"].endswith("/true") for event in read_execs(one, run_as_nobody()))
