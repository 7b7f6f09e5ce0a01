"""Effects of a record that stays reserved: rings by hand, which are drained and merged in turns of a millisecond."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest

from pipeline.records import declared
from pipeline.records.limits import MERGE_SLACK_NS
from pipeline.resolver.merge._merger import Merger
from pipeline.sources.ring._drain import Columns
from pipeline.sources.ring._ring import Ring
from pipeline.sources.ring.handring import make_ring_file
from tests.resolver import _inside
from tests.sources.hand_records import drain_frame, record
from tests.sources.kernel_writer import KernelWriter

MS = 1_000_000
STALL_MS = 250
#: As in pipeline/resolver/daemon/build.py.
HOLD_MS = 2 * STALL_MS
#: Ring 0 has the records that stay reserved; the other one gets a record in each turn.
OTHER = 1


class Rings:
    """Two rings, and what a shard and a resolver do with them in turns of one millisecond."""

    def __init__(self, rings: list[Ring], writers: list[KernelWriter]) -> None:
        self.rings, self.writers = rings, writers
        self.merger = Merger(len(rings), stall_ms=STALL_MS, hold_ms=HOLD_MS)
        self.now = 1000 * MS
        self.applied: list[int] = []
        self.written: list[int] = []
        self.counters: dict[str, int] = {}
        self.turn()

    def stamped(self) -> bytes:
        """A record with the time of its reservation, which is now."""
        self.now += 1
        self.written.append(self.now)
        return record(declared.KIND_FORK, self.now, head_only=True)

    def reserve(self) -> tuple[int, bytes]:
        """Reserve room in ring 0; pass the result to `submit`."""
        one = self.stamped()
        position = self.writers[0].reserve(len(one))
        assert position is not None
        return position, one

    def submit(self, position: int, one: bytes) -> None:
        self.writers[0].commit(position, one)

    def write(self, ring: int) -> None:
        """Write a record that is complete at once."""
        assert self.writers[ring].write(self.stamped()) is not None

    def turn(self, *, is_quiet: bool = False) -> int:
        """Write to the other ring, read all that is complete, and apply what may be; return the watermark's lag in ns.

        The clock stands at a whole millisecond again at the end.
        """
        if not is_quiet:
            self.write(OTHER)
        self.now += MS - self.now % MS
        positions = np.array([ring.producer_pos for ring in self.rings], np.uint64)
        for ring in self.rings:
            self.merger.add(drain_frame(ring, Columns(1 << 16)))
        watermark = self.merger.advance(self.now, positions)
        while (batch := self.merger.take(1000)) is not None:
            self.applied += _inside.times(batch).tolist()
            self.merger.done(batch)
        for name, count in self.merger.take_counters().items():
            self.counters[name] = self.counters.get(name, 0) + count
        return self.now - watermark


@contextmanager
def _made() -> Iterator[Rings]:
    with ExitStack() as stack:
        rings, writers = [], []
        for number in range(2):
            fd = make_ring_file(1 << 18)
            writers.append(stack.enter_context(KernelWriter(fd)))
            rings.append(stack.enter_context(Ring(fd, number=number)))
            os.close(fd)
        yield Rings(rings, writers)


@pytest.fixture
def world() -> Iterator[Rings]:
    with _made() as made:
        yield made


@pytest.mark.parametrize("held_ms", [1, 20, STALL_MS])
def test_the_watermark_lags_by_the_time_for_which_a_record_stays_reserved(world: Rings, held_ms: int) -> None:
    """Up to `stall_ms` that is all: every event comes in order, and none is late."""
    assert world.turn() == MERGE_SLACK_NS
    reserved = world.reserve()
    world.write(0)  # complete, but behind the reserved one
    assert [world.turn() for _ in range(held_ms)] == [n * MS + MERGE_SLACK_NS for n in range(1, held_ms + 1)]
    assert max(world.applied) < world.now - held_ms * MS, "also those of the other ring wait"
    world.submit(*reserved)
    assert world.turn() == MERGE_SLACK_NS, "nothing remains of the delay"
    assert world.applied == world.written
    assert world.counters == {}


def test_a_record_that_stays_reserved_for_longer_is_late_with_those_behind_it(world: Rings) -> None:
    reserved = world.reserve()
    world.write(0)
    lags = [world.turn() for _ in range(3 * STALL_MS)]
    assert max(lags) == STALL_MS * MS + MERGE_SLACK_NS
    assert set(lags[STALL_MS:]) == {MERGE_SLACK_NS}, "the others do not wait any more"
    assert world.counters == {"stalls": 1}
    world.submit(*reserved)
    assert world.turn() == MERGE_SLACK_NS
    assert sorted(world.applied) == world.written, "late, but not lost"
    assert world.counters == {"stalls": 1, "late": 2}


def test_while_no_other_event_waits_the_record_is_awaited_until_the_hold(world: Rings) -> None:
    reserved = world.reserve()
    lags = [world.turn(is_quiet=True) for _ in range(HOLD_MS)]
    assert lags[-1] == HOLD_MS * MS + MERGE_SLACK_NS and world.counters == {}
    world.turn(is_quiet=True)
    assert world.counters == {"stalls": 1}
    world.submit(*reserved)
    world.turn()
    assert world.applied == world.written, "nothing younger was applied before it"
    assert world.counters == {"stalls": 1}


def test_short_delays_one_after_the_other_are_not_added_up(world: Rings) -> None:
    """The ring is current in between; each delay is one for itself, however many there are."""
    delays = 2 * HOLD_MS // 20
    lags = []
    for _ in range(delays):
        reserved = world.reserve()
        lags += [world.turn() for _ in range(20)]
        world.submit(*reserved)
        lags.append(world.turn())
    assert max(lags) == 20 * MS + MERGE_SLACK_NS
    assert world.applied == world.written
    assert world.counters == {}


def overlap(world: Rings, reserved: tuple[int, bytes], for_ms: int) -> tuple[list[int], tuple[int, bytes]]:
    """Reserve each record of ring 0 before the one before it is submitted, 20 ms later, so the ring is never current.

    Returns:
        The lags in ns, and the last record, which is still reserved.
    """
    lags = []
    while len(lags) < for_ms:
        following = world.reserve()
        world.submit(*reserved)
        lags += [world.turn() for _ in range(20)]
        reserved = following
    return lags, reserved


def test_short_delays_that_overlap_make_no_event_late_however_long_they_go_on(world: Rings) -> None:
    lags, reserved = overlap(world, world.reserve(), 4 * HOLD_MS)
    assert max(lags) == 20 * MS + MERGE_SLACK_NS, "the ring moves on, and the watermark with it"
    world.submit(*reserved)
    assert world.turn() == MERGE_SLACK_NS
    assert world.applied == world.written
    assert world.counters == {}


def test_delays_that_add_up_make_events_late_after_the_hold(world: Rings) -> None:
    """Records are reserved at once and submitted one after the other: the ring moves, and lags more and more."""
    apart_ms = STALL_MS * 7 // 10
    reserved = [world.reserve() for _ in range(6)]
    lags = []
    for one in reserved:
        lags += [world.turn() for _ in range(apart_ms)]
        world.submit(*one)
    assert max(lags) == HOLD_MS * MS + MERGE_SLACK_NS
    assert set(lags[HOLD_MS:]) == {MERGE_SLACK_NS}, "the others do not wait any more"
    assert world.turn() == MERGE_SLACK_NS and not world.merger.stalled.any()
    assert sorted(world.applied) == world.written, "late, but not lost"
    submitted_before = HOLD_MS // apart_ms
    assert world.counters == {"stalls": 1, "late": len(reserved) - submitted_before}


def test_a_ring_that_was_passed_over_is_awaited_again_when_it_lags_less(world: Rings) -> None:
    reserved = [world.reserve() for _ in range(4)]
    for one in reserved[:-1]:
        for _ in range(STALL_MS * 7 // 10):
            world.turn()
        world.submit(*one)
    world.turn()
    assert world.merger.stalled.tolist() == [True, False]
    late = world.counters["late"]
    lags, last = overlap(world, reserved[-1], HOLD_MS)
    assert max(lags) == 20 * MS + MERGE_SLACK_NS and not world.merger.stalled.any()
    world.submit(*last)
    world.turn()
    assert world.counters == {"stalls": 1, "late": late + 1}, "only the one that was reserved before"
    assert sorted(world.applied) == world.written
