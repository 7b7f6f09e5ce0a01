"""Any interleaving of the CPUs' streams gives the same tree as events in time order, and a restart changes nothing.

The kernel is `story.Story`; the rings are lists of events; a shard is a cursor into one of them. Hypothesis chooses
the events and their CPUs, how records are nested, where frames are cut, how long they take, how often the resolver
reads the clock, how large its batches are, and when it is killed.
"""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline.records import declared
from pipeline.records.limits import MERGE_SLACK_NS
from pipeline.resolver.apply._applier import Applier
from pipeline.resolver.merge._merger import Merger
from pipeline.shm.layout import layout
from tests.resolver import _inside
from tests.resolver.apply.model import FIELDS, Model, view_of
from tests.resolver.random_story import LETTERS, OPS, STEP_NS, tell
from tests.resolver.resolver_world import check_children_of
from tests.resolver.story import (
    Event,
    Process,
    Reading,
    Story,
    dump,
    enter_init,
    frame_of,
    instance,
    make_tables,
)
from tests.sampling import examples, times

RINGS = 3

COMMON = settings(deadline=None, max_examples=examples(120), suppress_health_check=[HealthCheck.too_slow])


def in_order(story: Story) -> dict[tuple[int, int, int], dict[str, object]]:
    with instance() as directory:
        tables = make_tables(directory)
        applier = Applier(tables)
        enter_init(tables, applier, story)
        for event in story.events:
            event.apply(applier)
        check_children_of(applier)
        result = dump(tables)
        tables.close()
    return result


#: A comparison finds a change, and the next record shows a later one.
_CHANGED_AGAIN = [("f", 0, 0), ("k", 0, 2), ("h", 0, 3), ("m", 0, 0)]


@COMMON
@given(OPS)
@example(_CHANGED_AGAIN)
def test_events_in_order_equal_the_model(ops):
    story = tell(ops)
    process = story.processes[1]
    model = Model()
    model.begin_init(process.start)
    for event in story.events:
        model.apply(event)
    with instance() as directory:
        tables = make_tables(directory)
        applier = Applier(tables)
        enter_init(tables, applier, story)
        for event in story.events:
            event.apply(applier)
        found, expected = view_of(tables), model.view()
        tables.close()
    assert found.keys() == expected.keys()
    for key, row in expected.items():
        wrong = {name: (found[key][name], row[name]) for name in FIELDS if found[key][name] != row[name]}
        assert not wrong, f"{key}: (found, expected) {wrong}"


class Kernel:
    """Rings with their records in the order of reservation, and the part of them that is visible at each time."""

    def __init__(self, story: Story, draw) -> None:
        self.rings: list[list[Event]] = [[] for _ in range(RINGS)]
        for event in story.events:
            ring = self.rings[draw(st.integers(0, RINGS - 1))]
            # A program that interrupts another one: its record is reserved later and stamped earlier.
            nested = bool(ring) and event.time - ring[-1].time < MERGE_SLACK_NS and draw(st.integers(0, 5)) == 0
            ring.insert(len(ring) - 1 if nested else len(ring), event)
        self.positions: list[list[int]] = []
        for ring in self.rings:
            positions = [0]
            for event in ring:
                positions.append(positions[-1] + 8 + (int(event.header["record_bytes"][0]) + 7 & ~7))
            self.positions.append(positions)

    def producer(self, now: int, extra: list[int]) -> np.ndarray:
        """Positions at the clock time `now`: everything older than now - slack is reserved, perhaps more."""
        out = np.zeros(RINGS, np.uint64)
        for r, ring in enumerate(self.rings):
            need = max((i + 1 for i, event in enumerate(ring) if event.time < now - MERGE_SLACK_NS), default=0)
            out[r] = self.positions[r][min(len(ring), need + extra[r])]
        return out


class Shard:
    """Sends one ring's records in frames cut anywhere; `seek` makes it go back."""

    def __init__(self, kernel: Kernel, ring: int) -> None:
        self.kernel, self.ring, self.cursor = kernel, ring, 0

    def seek(self, position: int) -> None:
        self.cursor = self.kernel.positions[self.ring].index(position)

    def frame(self, most: int, limit: int):
        """Up to `most` records, none beyond position `limit`; None when there are none."""
        records, positions = self.kernel.rings[self.ring], self.kernel.positions[self.ring]
        end = self.cursor
        while end < len(records) and end - self.cursor < most and positions[end + 1] <= limit:
            end += 1
        if end == self.cursor:
            return None
        frame = frame_of(records[self.cursor : end], ring=self.ring, from_pos=positions[self.cursor], seq=self.cursor)
        self.cursor = end
        return frame


def run(story: Story, data, *, kills: int = 0):
    """Run the resolver with its shards; return the dump of the tables at the end, and the counters of events."""
    draw = data.draw
    kernel = Kernel(story, draw)
    shards = [Shard(kernel, r) for r in range(RINGS)]
    with instance() as parent:
        directory = Path(parent) / "0"
        tables = make_tables(directory, ring_count=RINGS)
        applier = Applier(tables)
        enter_init(tables, applier, story)
        merger = Merger(RINGS, stall_ms=1e9, hold_ms=1e9)
        tables.commit(0, merger.applied_pos, merger.ring_watermark, np.zeros(16, np.uint64))
        first = story.events[0].time if story.events else story.now
        now, end = first - STEP_NS, story.now + 3 * MERGE_SLACK_NS
        deaths = sorted(draw(st.integers(first, end)) for _ in range(kills))
        generation = 0
        while True:
            now = min(end, now + draw(st.integers(1, 6)) * STEP_NS)
            producer = kernel.producer(now, draw(st.lists(st.integers(0, 2), min_size=RINGS, max_size=RINGS)))
            for r in draw(st.permutations(range(RINGS))):
                for _ in range(draw(st.integers(0, 3)) if now < end else 1000):
                    frame = shards[r].frame(draw(st.integers(1, 7)), int(producer[r]))
                    if frame is None:
                        break
                    if draw(st.integers(0, 9)) == 0:
                        # The frame is lost on its way; the next frame reveals the hole.
                        continue
                    merger.add(frame)
                    if draw(st.integers(0, 9)) == 0:
                        merger.add(frame)
                for ring, position in merger.take_rewinds():
                    shards[ring].seek(position)
            merger.advance(now, producer)
            size = draw(st.integers(1, 20))
            while (batch := merger.take(size)) is not None:
                if deaths and now >= deaths[0]:
                    # Killed in the middle of a batch: part of it is in the tables, and nothing of it is committed.
                    frames, places = batch.frames, _inside.places(batch)
                    for i in range(draw(st.integers(0, len(batch)))):
                        event_at(kernel, frames[places[i][0]], places[i][1]).apply(applier)
                    deaths.pop(0)
                    generation += 1
                    directory = Path(shutil.copytree(directory, Path(parent) / str(generation)))
                    tables = make_tables(directory, ring_count=RINGS)
                    assert tables.is_takeover
                    committed = tables.committed()
                    applier = Applier(tables)
                    merger = Merger(RINGS, stall_ms=1e9, hold_ms=1e9)
                    positions, times = committed.rings["applied_pos"], committed.rings["watermark_boot_ns"]
                    merger.resume(positions, times, committed.watermark)
                    for r, shard in enumerate(shards):
                        shard.seek(int(positions[r]))
                    break
                assert applier.apply(batch) == len(batch)
                merger.done(batch)
                tables.commit(merger.watermark, merger.applied_pos, merger.ring_watermark, np.zeros(16, np.uint64))
            received = [int(merger.received_pos[r]) for r in range(RINGS)]
            if now == end:
                if received == [p[-1] for p in kernel.positions] and merger.pending == 0:
                    break
                for r, shard in enumerate(shards):
                    shard.seek(received[r])
        assert [int(p) for p in merger.applied_pos] == received
        check_children_of(applier)
        result = dump(tables)
        counted = [tables.counter("events_" + name) for name in declared.KIND_NAMES]
        for kept in (tables,):
            kept.close()
    return result, counted


def event_at(kernel: Kernel, frame, place: int) -> Event:
    return kernel.rings[frame.ring][kernel.positions[frame.ring].index(int(frame.header["ring_pos"][place]))]


def differences(found: dict, expected: dict) -> dict:
    """The differences between two dumps, row by row: {key: {field: (found, expected)}}."""
    result = dict.fromkeys(found.keys() - expected.keys(), ("only here",))
    result |= dict.fromkeys(expected.keys() - found.keys(), ("missing",))
    for key in found.keys() & expected.keys():
        fields = {n: (v, expected[key][n]) for n, v in found[key].items() if v != expected[key][n]}
        if fields:
            result[key] = fields
    return result


def kinds(story: Story) -> list[int]:
    return [sum(event.kind == kind for event in story.events) for kind in range(declared.KIND_COUNT)]


@COMMON
@given(OPS, st.data())
def test_any_interleaving_makes_the_same_tree(ops, data):
    story = tell(ops)
    found, counted = run(story, data)
    assert differences(found, in_order(story)) == {}
    assert counted == kinds(story), "each event is applied exactly once"


#: The same program is started three times, and its user changes before the last time.
_SAME_AGAIN = [("f", 0, 0), ("e", 0, 0), ("e", 0, 0), ("c", 0, 1), ("f", 0, 0), ("e", 0, 0)]


#: A comparison finds a change, and an exec follows, which removes the mark.
_SAMPLED_THEN_EXEC = [("f", 0, 0), ("k", 0, 2), ("e", 0, 0)]


@COMMON
@given(OPS, st.integers(0, 60), st.integers(0, 60))
@example(_SAME_AGAIN, 6, 6)
@example(_SAMPLED_THEN_EXEC, 3, 2)
def test_events_that_are_repeated_after_a_take_over_change_nothing(ops, applied, repeated):
    story = tell(ops)
    applied = min(applied, len(story.events))
    with instance() as directory:
        tables = make_tables(directory)
        applier = Applier(tables)
        enter_init(tables, applier, story)
        for event in story.events[:applied]:
            event.apply(applier)
        # Killed: the successor has the tables alone.
        directory = Path(shutil.copytree(directory, Path(directory) / "next"))
        tables.close()
        tables = make_tables(directory)
        assert tables.is_takeover
        applier = Applier(tables)
        for event in story.events[max(0, applied - repeated) :]:
            event.apply(applier)
        check_children_of(applier)
        found = dump(tables)
        tables.close()
    assert differences(found, in_order(story)) == {}


@pytest.mark.slow
@settings(COMMON, max_examples=examples(20))  # each takes some 3 s of CPU
@given(OPS, st.data())
def test_a_killed_and_replaced_resolver_makes_the_same_tree(ops, data):
    story = tell(ops)
    found, counted = run(story, data, kills=2)
    assert differences(found, in_order(story)) == {}
    assert counted == kinds(story)


#: Two processes have the same pid one after the other. Both exits arrive before the forks.
_TWO_OWNERS = [*[("f", 0, 0)] * 5, *[("x", 0, 0), ("f", 0, 0), ("f", 0, 0), ("x", 0, 0), ("f", 0, 0), ("x", 0, 0)]]

#: An exec before its fork, and a second one of the same program before another one that lay in between.
_OTHER_IN_BETWEEN = [("f", 0, 0), ("e", 0, 104), ("e", 0, 2124), ("e", 0, 104)]


@COMMON
@given(OPS, st.lists(st.integers(0, 14), min_size=60, max_size=60))
@example(_TWO_OWNERS, [0] * 6 + [6, 0, 3, 2] + [0] * 50)
@example(_TWO_OWNERS, [0] * 6 + [5, 0, 0, 2] + [0] * 50)
@example(_OTHER_IN_BETWEEN, [2, 0, 2, 0] + [0] * 56)
def test_late_events_lose_nothing_and_make_nothing_up(ops, delays):
    """Later than the watermark allows, order is lost; identities, ends, images and the set of former parents stay."""
    story = tell(ops)
    order = sorted(range(len(story.events)), key=lambda i: (i + delays[i % len(delays)], i))
    with instance() as directory:
        tables = make_tables(directory)
        applier, read = Applier(tables), Reading(tables)
        enter_init(tables, applier, story)
        for i in order:
            story.events[i].apply(applier)
            check_children_of(applier)
        rows = dump(tables)
        assert read.live() == {p.tgid for p in story.processes.values() if p.alive}
        for process in story.everyone:
            check_history(process, {key: row for key, row in rows.items() if key[:2] == (process.tgid, process.start)})
        tables.close()


def check_history(process: Process, rows: dict) -> None:
    images = [rows[key] for key in sorted(rows)]
    assert images, "every process has its entry"
    last = images[-1]
    assert [row["images"] for row in images] == list(range(1, len(images) + 1))
    assert [bool(row["flags"] & layout.ROW_HEAD) for row in images] == [False] * (len(images) - 1) + [True]
    started = [(row["file_ref"][64:], row["args_ref"][4:]) for row in images if row["flags"] & layout.ROW_IS_EXEC]
    # A repeated exec may have an image of its own here: when its record arrived, a late record with the credentials, or
    # with the exec before, was still missing.
    assert [key for key, _ in itertools.groupby(started)] == [key for key, _ in itertools.groupby(process.started)]
    assert last["exit_boot_ns"] == process.end and last["exit_code"] == process.code
    assert not last["flags"] & layout.ROW_EXIT_UNSEEN
    for before, after in itertools.pairwise(images):
        assert before["exit_boot_ns"] <= after["exec_boot_ns"] and before["flags"] & layout.ROW_REPLACED
        assert after["ancestor"] == (process.tgid, process.start, before["images"])
    for link in (images[0]["ancestor"], last["parent"]):
        assert link is None or link[:2] in process.parents, "a parent that it never had"
    if last["ppid"]:
        assert last["ppid"] in {tgid for tgid, _ in process.parents}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_long_random_story(seed):
    rng = np.random.default_rng(seed)
    letters = np.array(list(LETTERS))
    ops = [
        (str(rng.choice(letters)), int(rng.integers(1 << 16)), int(rng.integers(1 << 16)))
        for _ in range(times(2000, 600))
    ]
    story = tell(ops)
    model = Model()
    process = story.processes[1]
    model.begin_init(process.start)
    for event in story.events:
        model.apply(event)
    found = in_order(story)
    expected = model.view()
    assert found.keys() == expected.keys()
    for key, row in expected.items():
        for name in ("ppid", "ancestor", "parent", "creator", "exit_boot_ns", "exec_boot_ns", "uid", "comm"):
            assert found[key][name] == row[name], (key, name)
