"""The merge: watermarks, order, stalls, and no record twice."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.records import declared, dtypes
from pipeline.records.limits import MERGE_SLACK_NS
from pipeline.resolver.merge._merger import Merger
from pipeline.resolver.merge._queues import Batch
from tests.resolver import _inside
from tests.resolver.story import frame_of, head_only, instance, make_tables

MS = 1_000_000
RECORD = 8 + 64  # a ring's header and a record with its header only


def frame(
    ring: int,
    times: list[int],
    *,
    start: int = 0,
    bytes_from: int | None = None,
    seq: int | None = None,
    to_pos: int | None = None,
    watermark_boot_ns: int | None = None,
):
    """A frame of header-only records. The first one is `start` records after the beginning of the ring."""
    from tests.resolver.story import Event

    records = []
    for time in times:
        header = np.zeros(1, dtypes.HEADER)
        header["time_boot_ns"], header["kind"], header["tgid"] = time, declared.KIND_SID, 1
        records.append(head_only(Event(header, np.zeros(1, dtypes.TASK), None)))
    return frame_of(
        records, ring=ring, from_pos=start * RECORD if bytes_from is None else bytes_from,
        seq=start if seq is None else seq, to_pos=to_pos, watermark_boot_ns=watermark_boot_ns,
    )  # fmt: skip


def positions(*records: int) -> np.ndarray:
    return np.array([n * RECORD for n in records], np.uint64)


def take_all(merger: Merger, size: int = 1000) -> list[int]:
    times = []
    while (batch := merger.take(size)) is not None:
        times += _inside.times(batch).tolist()
        merger.done(batch)
    return times


# -- the watermark -----------------------------------------------------------------------------------------------------


def test_events_wait_for_every_ring():
    merger = Merger(2)
    merger.add(frame(0, [10, 20]))
    merger.advance(MS, positions(2, 1))
    assert take_all(merger) == [], "ring 1 has a record that has not come"
    assert merger.is_lagging
    merger.add(frame(1, [15]))
    merger.advance(2 * MS, positions(2, 1))
    assert take_all(merger) == [10, 15, 20] and not merger.is_lagging


def test_the_watermark_is_the_time_of_the_sample_less_the_slack():
    merger = Merger(1)
    merger.add(frame(0, [5 * MS - MERGE_SLACK_NS - 1, 5 * MS - MERGE_SLACK_NS]))
    assert merger.advance(5 * MS, positions(2)) == 5 * MS - MERGE_SLACK_NS
    assert take_all(merger) == [5 * MS - MERGE_SLACK_NS - 1]
    assert merger.pending == 1 and merger.watermark == 5 * MS - MERGE_SLACK_NS


def test_an_empty_ring_is_current_without_a_word():
    merger = Merger(3)
    merger.add(frame(1, [7]))
    merger.advance(MS, positions(0, 1, 0))
    assert take_all(merger) == [7]


def test_a_ring_that_is_always_a_little_behind_still_advances():
    merger = Merger(2, stall_ms=1000)
    seen = []
    for i in range(1, 400):
        merger.advance(i * MS, positions(i, 0))
        merger.add(frame(0, [i * MS - MERGE_SLACK_NS], start=i - 1))  # arrives after the sample
        seen += take_all(merger)
    assert len(seen) >= 390 and seen == sorted(seen)


def test_many_samples_while_one_ring_is_behind():
    merger = Merger(2, stall_ms=1e9, hold_ms=1e9)
    for i in range(1, 1000):
        merger.advance(i * MS, positions(1, 0))
    merger.add(frame(0, [2]))
    assert merger.advance(1000 * MS, positions(2, 0)) > 900 * MS


def test_order_is_time_then_ring_then_sequence():
    merger = Merger(3)
    merger.add(frame(2, [100, 100, 50]))
    merger.add(frame(0, [100, 100]))
    merger.add(frame(1, [100, 99]))
    merger.advance(MS, positions(2, 2, 3))
    batch = merger.take(100)
    keys = [
        (int(f.header["time_boot_ns"][e]), f.ring, int(f.header["ring_seq"][e]))
        for f, e in ((batch.frames[n], e) for n, e in _inside.places(batch))
    ]
    assert keys == sorted(keys) and len(keys) == 7


@given(
    st.lists(st.lists(st.tuples(st.integers(1, 500), st.integers(1, 9)), max_size=40), min_size=1, max_size=9),
    st.integers(1, 50),
    st.sampled_from([1, 3, 500]),
)
def test_batches_of_any_size_are_the_sorted_whole(rings, size, span):
    """With a small span of time, most events have the time of another one."""
    rings = [[(1 + time % span, count) for time, count in records] for records in rings]
    merger = Merger(len(rings))
    expected = []
    for ring, records in enumerate(rings):
        at = 0
        while at < len(records):
            n = records[at][1]
            times = [time for time, _ in records[at : at + n]]
            merger.add(frame(ring, times, start=at))
            at += len(times)
        expected += [(time, ring, seq) for seq, (time, _) in enumerate(records)]
    merger.advance(MS, positions(*(len(r) for r in rings)))
    found = []
    while (batch := merger.take(size)) is not None:
        assert len(batch) <= size
        for n, e in _inside.places(batch):
            one = batch.frames[n]
            found.append((int(one.header["time_boot_ns"][e]), one.ring, int(one.header["ring_seq"][e])))
        before = merger.applied_pos.copy()
        merger.done(batch)
        assert (merger.applied_pos >= before).all()
    assert found == sorted(expected)
    assert merger.applied_pos.tolist() == positions(*(len(r) for r in rings)).tolist()


def test_equal_times_of_many_rings_are_in_the_order_of_the_rings():
    for count in range(2, 10):
        for order in (range(count), range(count - 1, -1, -1)):
            merger = Merger(count)
            for ring in order:
                merger.add(frame(ring, [5, 7, 7]))
            merger.advance(MS, positions(*[3] * count))
            batch = merger.take(100)
            found = [batch.frames[n].ring for n, _ in _inside.places(batch)]
            assert found == [*range(count), *(ring for ring in range(count) for _ in range(2))], count


def test_hundreds_of_frames_wait_at_once():
    merger = Merger(2)
    for number in range(300):
        merger.add(frame(number % 2, [10 * number + 15, 10 * number + 10], start=number // 2 * 2))
    merger.advance(MS, positions(300, 300))
    assert take_all(merger, 77) == [10 * number + tail for number in range(300) for tail in (10, 15)]
    assert merger.applied_pos.tolist() == positions(300, 300).tolist()


def test_a_ring_far_out_of_order_is_sorted():
    merger = Merger(1)
    times = list(range(5000, 0, -1))
    merger.add(frame(0, times))
    merger.advance(MS, positions(5000))
    assert take_all(merger) == sorted(times)


# -- positions ---------------------------------------------------------------------------------------------------------


def test_the_applied_position_stays_before_the_first_record_that_is_not_applied():
    merger = Merger(1)
    merger.add(frame(0, [30, 10, 20]))
    merger.add(frame(0, [40], start=3))
    merger.advance(MS, positions(4))
    batch = merger.take(2)
    assert _inside.times(batch).tolist() == [10, 20] and merger.applied_pos[0] == 0
    merger.done(batch)
    assert merger.applied_pos[0] == 0 and merger.ring_watermark[0] == 20
    successor = Merger(1)
    successor.resume(merger.applied_pos.copy(), merger.ring_watermark.copy(), merger.watermark)
    successor.add(frame(0, [30, 10, 20]))
    successor.advance(MS, positions(3))
    assert take_all(successor) == [30], "what was applied, and not given back, is not applied again"
    merger.done(merger.take(1))
    assert merger.applied_pos[0] == 3 * RECORD and merger.ring_watermark[0] == 30
    assert take_all(merger) == [40] and merger.applied_pos[0] == 4 * RECORD


def test_a_commit_releases_what_was_applied():
    with instance() as directory, make_tables(directory / "tables", ring_count=1) as tables:
        merger = Merger(1)
        merger.add(frame(0, [10, 20]))
        merger.advance(MS, positions(2))
        assert take_all(merger) == [10, 20]
        with pytest.raises(ValueError, match="not 16"):
            merger.commit(tables, np.zeros(3, np.uint64))
        merger.commit(tables, np.zeros(16, np.uint64))
        assert int(tables.committed().rings["applied_pos"][0]) == 2 * RECORD


def test_the_memory_of_applied_frames_is_used_again():
    merger = Merger(1)
    for number in range(200):
        merger.add(frame(0, [number + 1], start=number))
        merger.advance((number + 1) * MS, positions(number + 1))
        batch = merger.take(10)
        assert batch is not None and batch.count == 1 and sum(each is not None for each in batch.frames) == 1
        merger.done(batch)
    assert len(batch.frames) < 100


def test_discarded_records_are_released_too():
    merger = Merger(1)
    merger.add(frame(0, [], to_pos=4096))
    assert merger.applied_pos[0] == 4096
    merger.add(frame(0, [5], bytes_from=4096))
    merger.add(frame(0, [], bytes_from=4096 + RECORD, to_pos=8192))
    assert merger.applied_pos[0] == 4096
    merger.advance(MS, np.array([8192], np.uint64))
    assert take_all(merger) == [5] and merger.applied_pos[0] == 8192


def test_one_batch_at_a_time():
    merger = Merger(1)
    merger.add(frame(0, [1, 2]))
    merger.advance(MS, positions(2))
    batch = merger.take(1)
    with pytest.raises(RuntimeError):
        merger.take(1)
    merger.done(batch)
    with pytest.raises(RuntimeError):
        merger.done(batch)


# -- no record twice ---------------------------------------------------------------------------------------------------


def test_received_records_are_dropped_whole_or_in_part():
    merger = Merger(1)
    merger.add(frame(0, [1, 2, 3]))
    merger.add(frame(0, [1, 2]))
    merger.add(frame(0, [2, 3, 4], start=1))
    merger.advance(MS, positions(4))
    assert take_all(merger) == [1, 2, 3, 4]
    assert merger.take_counters() == {"frames_duplicate": 1}


def test_a_hole_is_asked_for_once_and_again_when_nothing_comes():
    merger = Merger(1)
    merger.advance(MS, positions(4))
    merger.add(frame(0, [1]))
    merger.add(frame(0, [3], start=2))
    merger.add(frame(0, [4], start=3))
    assert merger.take_rewinds() == [(0, RECORD)]
    merger.advance(300 * MS, positions(4))
    merger.add(frame(0, [4], start=3))
    assert merger.take_rewinds() == [(0, RECORD)]
    merger.add(frame(0, [2, 3, 4], start=1))
    merger.add(frame(0, [9], start=8))
    assert merger.take_rewinds() == [(0, 4 * RECORD)], "another hole"
    merger.advance(301 * MS, positions(4))
    assert take_all(merger) == [1, 2, 3, 4]
    assert merger.take_counters()["frames_gap"] == 4


def test_losses_that_a_sender_repeats_are_counted_once():
    merger = Merger(2)
    for start, total in enumerate([2, 2, 5]):
        merger.add(frame_of([], ring=0, from_pos=start * 8, malformed=total))
    merger.add(frame_of([], ring=1, from_pos=0, malformed=1))
    assert merger.take_counters()["malformed"] == 6
    merger.add(frame_of([], ring=0, from_pos=24, malformed=1))  # a new sender starts its count again
    assert merger.take_counters()["malformed"] == 1


def test_a_ring_that_does_not_exist_is_refused():
    with pytest.raises(IndexError):
        Merger(1).add(frame(1, [1]))


def test_a_successor_continues_at_the_commit():
    merger = Merger(2)
    merger.resume(positions(2, 0), np.array([25, 25], np.uint64), 26)
    merger.add(frame(0, [10, 20, 30, 24, 40]))
    merger.add(frame(1, [25, 26, 5]))
    merger.advance(MS, positions(5, 3))
    batch = merger.take(100)
    assert _inside.times(batch).tolist() == [26, 30, 40]
    merger.done(batch)
    assert merger.take_counters() == {"replayed": 3}
    assert merger.applied_pos.tolist() == positions(5, 3).tolist()


# -- stalls ------------------------------------------------------------------------------------------------------------


def test_a_ring_that_is_behind_at_the_start_is_awaited():
    merger = Merger(2)
    merger.add(frame(0, [10]))
    merger.advance(10**15, positions(1, 1))  # the clock of a host that booted long ago
    assert take_all(merger) == [] and "stalls" not in merger.take_counters()


def test_a_stalled_ring_is_passed_over_and_its_events_are_late():
    merger = Merger(2, stall_ms=250)
    merger.advance(1000 * MS, positions(0, 0))
    merger.add(frame(0, [1001 * MS]))
    merger.advance(1002 * MS, positions(1, 1))
    assert take_all(merger) == []
    merger.advance(1200 * MS, positions(1, 1))
    assert take_all(merger) == [] and not merger.stalled.any()
    merger.advance(1260 * MS, positions(1, 1))
    assert merger.stalled.tolist() == [False, True]
    assert take_all(merger) == [1001 * MS]
    assert merger.ring_watermark[1] < 1001 * MS, "a successor must not skip what the ring still has to bring"
    merger.add(frame(1, [1000 * MS + 5]))
    merger.advance(1261 * MS, positions(1, 1))
    batch = merger.take(10)
    assert _inside.times(batch).tolist() == [1000 * MS + 5]
    merger.done(batch)
    assert not merger.stalled.any()
    assert merger.take_counters() == {"stalls": 1, "late": 1}


def test_nothing_is_late_when_the_only_shard_dies_and_comes_back():
    merger = Merger(3, stall_ms=250, hold_ms=1000)
    merger.advance(1000 * MS, positions(0, 0, 0))
    merger.add(frame(0, [1004 * MS]))
    for now in range(1010, 1900, 50):
        merger.advance(now * MS, positions(3, 2, 0))
        assert take_all(merger) == [], "no ring makes progress, so none is held up"
    merger.add(frame(1, [1003 * MS, 1008 * MS]))
    merger.advance(1910 * MS, positions(3, 2, 0))
    found = take_all(merger)
    merger.add(frame(0, [1005 * MS, 1007 * MS], start=1))
    merger.advance(1920 * MS, positions(3, 2, 0))
    found += take_all(merger)
    assert found == [t * MS for t in (1003, 1004, 1005, 1007, 1008)]
    assert "late" not in merger.take_counters()


def test_a_shard_that_returns_later_is_awaited():
    merger = Merger(3, stall_ms=250, hold_ms=1000)
    merger.advance(1000 * MS, positions(0, 0, 0))
    for i in range(20):  # ring 2 belongs to another shard and continues
        merger.add(frame(2, [(1001 + 50 * i) * MS], start=i))
        merger.advance((1010 + 50 * i) * MS, positions(3, 2, i + 1))
        take_all(merger)
    assert merger.stalled.tolist() == [True, True, False] and merger.watermark > 1900 * MS
    merger.add(frame(1, [1003 * MS, 1008 * MS]))
    merger.advance(2010 * MS, positions(3, 2, 20))
    found = take_all(merger)
    merger.add(frame(0, [1004 * MS, 1005 * MS, 1007 * MS]))
    merger.advance(2020 * MS, positions(3, 2, 20))
    found += take_all(merger)
    assert found == [t * MS for t in (1003, 1004, 1005, 1007, 1008)], "late, but in order among themselves"
    assert merger.take_counters()["late"] == 5


def test_events_of_a_dead_shard_are_released_after_a_while():
    merger = Merger(2, stall_ms=250, hold_ms=1000)
    merger.advance(1000 * MS, positions(0, 0))
    merger.add(frame(0, [1001 * MS]))
    merger.advance(1002 * MS, positions(2, 2))
    merger.advance(2100 * MS, positions(2, 2))
    assert take_all(merger) == [], "all rings are stalled: there is no time to go by"
    merger.advance(2100 * MS, positions(2, 2))


def test_a_ring_that_crawls_holds_the_others_for_a_bounded_time():
    merger = Merger(2, stall_ms=250, hold_ms=1000)
    merger.advance(1000 * MS, positions(0, 0))
    merger.add(frame(0, [1000 * MS]))
    applied_at = None
    for i in range(1, 30):
        now = (1000 + 100 * i) * MS
        merger.add(frame(1, [1001 * MS + i], start=i - 1))
        merger.advance(now, positions(1, 1000))
        if take_all(merger) and applied_at is None:
            applied_at = now
    assert applied_at is not None and 2000 * MS <= applied_at <= 2300 * MS


def test_too_much_waiting_ends_the_hold():
    merger = Merger(2, stall_ms=1e6, hold_ms=1e6, max_pending=10)
    merger.advance(1000 * MS, positions(0, 0))
    merger.add(frame(0, [1000 * MS + i for i in range(20)]))
    merger.advance(1001 * MS, positions(20, 5))
    assert len(take_all(merger)) == 20


# -- senders without positions -----------------------------------------------------------------------------------------


def test_senders_may_send_their_watermark():
    merger = Merger(2, timed_by_sender=True)
    merger.advance(1000 * MS)
    merger.add(frame(0, [10, 20], watermark_boot_ns=21))
    merger.advance(1001 * MS)
    assert take_all(merger) == [10, 20], "the other ring has not said a word yet"
    merger.add(frame(1, [30], watermark_boot_ns=31))
    merger.add(frame(0, [25], start=2, watermark_boot_ns=26))
    merger.advance(1002 * MS)
    assert take_all(merger) == [25]
    merger.advance(1400 * MS)
    assert merger.stalled.all() and take_all(merger) == []


def test_batches_equal_those_of_the_queues():
    merger = Merger(1)
    merger.add(frame(0, [3, 1]))
    merger.advance(MS, positions(2))
    batch = merger.take(9)
    assert isinstance(batch, Batch)
    (first, event), (second, other) = _inside.places(batch)
    assert first == second and (event, other) == (1, 0) and batch.frames[first].ring == 0


def test_the_release_time_of_the_oldest_event_is_known():
    merger = Merger(2)
    assert merger.due_boot_ns == 0
    merger.add(frame(0, [5 * MS]))
    merger.add(frame(1, [4 * MS, 9 * MS]))
    assert merger.due_boot_ns == 4 * MS + MERGE_SLACK_NS + 1
    merger.advance(merger.due_boot_ns - 1, positions(1, 2))
    assert take_all(merger) == []
    merger.advance(merger.due_boot_ns, positions(1, 2))
    assert take_all(merger) == [4 * MS]
    assert merger.due_boot_ns == 5 * MS + MERGE_SLACK_NS + 1


def test_an_invalid_frame_or_batch_is_refused():
    merger = Merger(1)
    with pytest.raises(TypeError):
        merger.add(None)
    with pytest.raises(TypeError):
        merger.done(None)
