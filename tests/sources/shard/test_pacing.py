"""When the shard reads again: after a time under load, after a wake-up when little happens; and the waiting itself."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

import pytest

from pipeline.shm.layout import layout
from pipeline.sources.shard._pacing import Pacer, RingWaiter, Wait


def _pacer(audience: int = layout.AUDIENCE_SUBSCRIBERS, freshness_s: float = 0.02) -> Pacer:
    pacer = Pacer(freshness_s=freshness_s)
    pacer.attend(audience, 0)
    return pacer


def _intervals(audience: int, freshness_s: float) -> list[float]:
    """The intervals between two reads as the rate of records grows."""
    intervals = []
    for rate in (1_200, 3_200, 8_000, 200_000):
        pacer = _pacer(audience, freshness_s)
        for _ in range(50):
            wait = _choose(pacer, rate // 400, 0.0025)
        assert not wait.asleep
        intervals.append(wait.seconds)
    return intervals


def _choose(pacer: Pacer, records: int, elapsed_s: float, **changed: bool) -> Wait:
    state = {"is_exhausted": False, "is_caught_up": True, "is_applied": True} | changed
    return pacer.choose(records, elapsed_s, **state)


def test_idle_shard_sleeps_for_long() -> None:
    assert _choose(_pacer(), 0, 1.0) == Wait(1.0, True)


def test_a_few_records_now_and_then_do_not_keep_it_awake() -> None:
    """One command makes a fork, exec and exit within a millisecond, and each of them wakes the shard."""
    pacer = _pacer()
    for _ in range(20):
        for elapsed in (0.1, 0.0004, 0.0004):
            assert _choose(pacer, 1, elapsed).asleep


def test_with_subscribers_events_gather_for_a_short_time() -> None:
    assert set(_intervals(layout.AUDIENCE_SUBSCRIBERS, 0.02)) == {0.008}


@pytest.mark.parametrize(("events_per_s", "gather_s"), [(1, 0.0), (30, 0.0), (100, 0.008)])
def test_with_subscribers_only_events_of_a_quiet_host_are_read_at_once(events_per_s: int, gather_s: float) -> None:
    pacer = _pacer()
    for _ in range(200):
        assert _choose(pacer, 1, 1 / events_per_s).asleep
    assert pacer.gather_s == gather_s


def test_a_command_on_a_quiet_host_is_read_at_once() -> None:
    """Its fork, exec and exit are three wake-ups within a millisecond."""
    pacer = _pacer()
    for _ in range(20):
        for elapsed in (0.5, 0.0004, 0.0004):
            _choose(pacer, 1, elapsed)
            assert pacer.gather_s == 0


@pytest.mark.parametrize("freshness_s", [0.002, 0.02, 0.5])
def test_the_interval_stays_within_the_freshness(freshness_s: float) -> None:
    for audience in (layout.AUDIENCE_SUBSCRIBERS, layout.AUDIENCE_READERS):
        pacer = _pacer(audience, freshness_s)
        assert 0 < max(_intervals(audience, freshness_s)) <= 0.8 * freshness_s + 1e-9
        assert pacer.gather_s <= 0.8 * freshness_s + 1e-9


@pytest.mark.parametrize("audience", [layout.AUDIENCE_SUBSCRIBERS, layout.AUDIENCE_READERS])
@pytest.mark.parametrize("events_per_s", [1, 100, 900])
def test_with_a_freshness_of_0_each_event_is_read_at_once(audience: int, events_per_s: int) -> None:
    pacer = _pacer(audience, 0.0)
    for _ in range(2000):
        assert _choose(pacer, 1, 1 / events_per_s).asleep
        assert pacer.gather_s == 0


@pytest.mark.parametrize("freshness_s", [0.0, 0.0001, 0.0005])
def test_under_load_a_ring_is_read_at_most_once_a_millisecond(freshness_s: float) -> None:
    pacer = _pacer(layout.AUDIENCE_READERS, freshness_s)
    assert pacer.gather_s == pytest.approx(0.8 * freshness_s)
    for _ in range(100):
        wait = _choose(pacer, 20, 0.0025)
    assert wait == Wait(0.001, False)


def test_events_gather_for_less_than_a_millisecond_if_the_resolver_asks_for_it() -> None:
    pacer = _pacer(layout.AUDIENCE_READERS, 0.0005)
    pacer.attend(layout.AUDIENCE_READERS, 225)
    assert pacer.gather_s == pytest.approx(0.000225)


@pytest.mark.parametrize(("freshness_s", "interval_s"), [(0.0, 0.25), (0.002, 0.25), (0.02, 0.25), (0.5, 0.4)])
def test_without_readers_the_interval_is_at_least_an_eighth_of_a_second(freshness_s: float, interval_s: float) -> None:
    """It stays well below merge.stall_ms, after which a ring is passed over."""
    assert max(_intervals(layout.AUDIENCE_NOBODY, freshness_s)) == pytest.approx(interval_s)


def test_events_gather_longest_while_no_program_has_the_tables_open() -> None:
    readers, nobody = _pacer(layout.AUDIENCE_READERS), _pacer(layout.AUDIENCE_NOBODY)
    assert readers.gather_s == pytest.approx(0.016) and nobody.gather_s == pytest.approx(0.25)
    nobody.attend(layout.AUDIENCE_READERS, 0)
    assert nobody.gather_s == readers.gather_s


def test_storm_is_noticed_after_a_moment_and_its_end_too() -> None:
    pacer = _pacer()
    cycles = 0
    while _choose(pacer, 5, 0.0001).asleep:
        cycles += 1
    assert cycles * 0.0001 < 0.002
    for _ in range(100):
        _choose(pacer, 200, 0.008)
    quiet_s = 0.0
    while not (wait := _choose(pacer, 0, 0.008)).asleep:
        quiet_s += wait.seconds
    assert quiet_s < 0.8


def test_full_cycle_is_followed_by_the_next() -> None:
    assert _choose(_pacer(), 16_384, 0.01, is_exhausted=True) == Wait(0.0, False)


def test_a_record_that_is_being_written_is_read_again_soon() -> None:
    assert _choose(_pacer(), 0, 1.0, is_caught_up=False) == Wait(0.008, False)


def test_waits_for_unapplied_records_become_longer() -> None:
    pacer = _pacer()
    waits = [_choose(pacer, records, 0.1, is_applied=False) for records in (1, 0, 0, 0, 0, 0)]
    assert all(wait.asleep for wait in waits)
    seconds = [wait.seconds for wait in waits]
    assert seconds == [0.1, 0.2, 0.4, 0.4, 0.4, 0.4]
    assert _choose(pacer, 0, 0.1) == Wait(1.0, True)
    assert _choose(pacer, 0, 0.1, is_applied=False).seconds == 0.2


@pytest.fixture
def restore_signals() -> object:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    yield
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def _seconds(act: Callable[[], None]) -> float:
    start = time.monotonic()
    act()
    return time.monotonic() - start


@pytest.mark.usefixtures("restore_signals")
def test_wait_ends_with_its_time_a_wake_up_or_a_signal() -> None:
    wake = os.eventfd(0, os.EFD_NONBLOCK)
    waiter = RingWaiter([wake])
    try:
        assert 0.045 < _seconds(lambda: waiter.wait(Wait(0.05, True))) < 2
        threading.Timer(0.05, os.eventfd_write, (wake, 1)).start()
        assert _seconds(lambda: waiter.wait(Wait(20, True))) < 10
        # Still readable, like a ring that was read but not released: that is no wake-up.
        assert _seconds(lambda: waiter.wait(Wait(0.05, True))) > 0.045
        os.eventfd_write(wake, 1)
        assert _seconds(lambda: waiter.wait(Wait(20, False))) < 10
        assert not waiter.stopping
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)).start()
        assert _seconds(lambda: waiter.wait(Wait(20, True))) < 10
        assert waiter.stopping
        assert _seconds(lambda: waiter.wait(Wait(20, True))) < 10
    finally:
        waiter.close()
        os.close(wake)
