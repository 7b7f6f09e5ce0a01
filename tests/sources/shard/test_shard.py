"""The duty cycle, step by step, over rings made by hand; the test is the receiver and sets what is applied."""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.bus.frames.frame import Frame, decode_frames
from pipeline.records import declared
from pipeline.sources.ring._ring import PAGE_BYTES, Ring
from pipeline.sources.ring._shared import CpuStates
from pipeline.sources.ring.handring import make_ring_file
from pipeline.sources.shard._shard import Shard
from tests.sampling import examples
from tests.sources.hand_records import (
    BOOT_ID,
    CPU_STATE_BYTES,
    SPAN,
    FakeAcks,
    FakeReceiver,
    cpu_states,
    record,
    records_in,
)
from tests.sources.kernel_writer import KernelWriter


class Bench:
    """A shard on rings made by hand, and everything around it."""

    def __init__(self, rings: int = 2, *, frame_max_bytes: int = 1 << 16, data_bytes: int = PAGE_BYTES) -> None:
        self.fds = [make_ring_file(data_bytes) for _ in range(rings)]
        self.writers = [KernelWriter(fd) for fd in self.fds]
        self.acks = FakeAcks()
        self.memory: mmap.mmap = cpu_states(rings + 2)
        self.receiver = FakeReceiver()
        self.lost: dict[int, dict[str, int]] = {}
        self.frame_max_bytes = frame_max_bytes
        self.shard = self.start()

    def start(self) -> Shard:
        """Start a new shard on the same rings, as after a kill."""
        self.states = CpuStates(self.memory)
        self.shard = Shard(
            [Ring(fd, number=number, cpus=(number,)) for number, fd in enumerate(self.fds)],
            acks=self.acks, send=self.receiver.send, cpus=self.states, boot_id=BOOT_ID,
            frame_max_bytes=self.frame_max_bytes,
        )  # fmt: skip
        return self.shard

    def frames(self, *, with_empty: bool = False) -> list[Frame]:
        """The frames handed over since the last call; on request also those that only report that a ring was read."""
        found = []
        for frame in (frame for message in self.receiver.take() for frame in decode_frames(message)):
            is_news = frame.to_pos > frame.from_pos or frame.lost != self.lost.get(frame.ring, frame.lost)
            self.lost[frame.ring] = frame.lost
            if is_news or with_empty:
                found.append(frame)
        return found

    def lose(self, cpu: int, kind: int, count: int) -> None:
        struct.pack_into("<Q", self.memory, cpu * CPU_STATE_BYTES + 8 + 8 + 8 * kind, count)

    def is_asleep(self, ring: int) -> bool:
        """Whether the next record in a ring would wake its shard: the first word of the ring's CPU."""
        return any(self.memory[ring * CPU_STATE_BYTES : ring * CPU_STATE_BYTES + 4])

    def close(self) -> None:
        self.shard.close()
        for writer in self.writers:
            writer.close()
        for fd in self.fds:
            os.close(fd)


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


def test_frames_name_their_source(bench: Bench) -> None:
    one = record(declared.KIND_FORK, 1)
    bench.writers[0].write(one)
    bench.writers[1].write(one)
    bench.lose(1, declared.KIND_EXEC, 5)
    assert bench.shard.do_work(100) == 2
    frames = sorted(bench.frames(), key=lambda frame: frame.ring)
    assert [frame.ring for frame in frames] == [0, 1]
    assert sorted(frame.frame_seq for frame in frames) == [0, 1]
    assert all(frame.boot_id == BOOT_ID and frame.source == "ebpf" for frame in frames)
    assert all((frame.from_pos, frame.to_pos, records_in(frame)) == (0, SPAN, [one]) for frame in frames)
    assert [frame.lost["exec"] for frame in frames] == [0, 5]
    assert set(frames[0].lost) == set(declared.KIND_NAMES[1:])


def test_nothing_new_sends_nothing(bench: Bench) -> None:
    bench.writers[0].write(record(declared.KIND_FORK, 1))
    assert [bench.shard.do_work(100) for _ in range(3)] == [1, 0, 0]
    assert len(bench.frames()) == 1


def test_a_message_reports_that_the_other_rings_were_read(bench: Bench) -> None:
    """Otherwise the resolver would wait for a record that arrives in one of them directly afterwards."""
    for ring in (0, 1):
        began_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        bench.writers[ring].write(record(declared.KIND_FORK, 1))
        assert bench.shard.do_work(100) == 1
        frames = {frame.ring: frame for frame in bench.frames(with_empty=True)}
        other = frames[1 - ring]
        assert set(frames) == {0, 1}
        assert (frames[ring].count, other.count, other.from_pos) == (1, 0, other.to_pos)
        assert all((frame.watermark_boot_ns or 0) > began_ns - 100_001 for frame in frames.values())
        assert bench.shard.do_work(100) == 0 and bench.frames(with_empty=True) == []


def test_a_ring_with_a_record_that_is_being_written_is_not_reported_as_read(bench: Bench) -> None:
    bench.writers[0].write(record(declared.KIND_FORK, 1))
    bench.writers[1].reserve(SPAN)
    bench.shard.do_work(100)
    assert [frame.watermark_boot_ns for frame in bench.frames(with_empty=True) if frame.ring == 1] == [None]


def test_with_many_rings_only_those_with_records_are_in_a_message() -> None:
    bench = Bench(17)
    bench.writers[3].write(record(declared.KIND_FORK, 1))
    assert bench.shard.do_work(100) == 1
    assert [frame.ring for frame in bench.frames(with_empty=True)] == [3]
    bench.close()


def test_a_loss_after_the_last_record_is_reported_in_an_empty_frame(bench: Bench) -> None:
    bench.writers[0].write(record(declared.KIND_FORK, 1))
    bench.shard.do_work(100)
    bench.lose(0, declared.KIND_EXIT, 3)
    bench.shard.do_work(100)
    bench.shard.do_work(100)
    _, told = bench.frames()
    assert (told.count, told.from_pos, told.to_pos, told.lost["exit"]) == (0, SPAN, SPAN, 3)


def test_discarded_records_alone_are_covered_by_a_frame(bench: Bench) -> None:
    bench.writers[0].write_discarded(record(declared.KIND_FORK, 1))
    bench.shard.do_work(100)
    (frame,) = bench.frames()
    assert (frame.count, frame.from_pos, frame.to_pos) == (0, 0, SPAN)


def test_a_frame_has_the_watermark_of_its_ring(bench: Bench) -> None:
    """Only if nothing was left: behind a record that is being written, older records may still arrive."""
    before_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    bench.writers[0].write(record(declared.KIND_FORK, 1))
    bench.shard.do_work(100)
    bench.writers[0].write(record(declared.KIND_FORK, 2))
    bench.writers[0].reserve(64)
    bench.shard.do_work(100)
    for number in range(3):
        bench.writers[1].write(record(declared.KIND_FORK, number))
    bench.shard.do_work(2)
    complete, busy, full = bench.frames()
    assert before_ns - 1_000_000 < (complete.watermark_boot_ns or 0) < time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    assert busy.watermark_boot_ns is None and full.watermark_boot_ns is None


def test_budget_bounds_a_cycle_and_no_ring_starves(bench: Bench) -> None:
    for number in range(10):
        for writer in bench.writers:
            writer.write(record(declared.KIND_FORK, number))
    assert bench.shard.do_work(4) == bench.shard.do_work(4) == 4
    assert sorted(frame.ring for frame in bench.frames()) == [0, 1]
    while bench.shard.do_work(4):
        pass
    assert sum(frame.count for frame in bench.frames()) == 12


def test_space_is_released_up_to_the_applied_position(bench: Bench) -> None:
    bench.acks.answers[0] = (0, 0, 0)
    for number in range(4):
        bench.writers[0].write(record(declared.KIND_FORK, number))
    bench.shard.do_work(100)
    assert bench.writers[0].consumer_pos == 0 and not bench.shard.is_applied
    bench.acks.answers[0] = (SPAN, 0, 0)
    bench.shard.do_work(100)
    assert bench.writers[0].consumer_pos == SPAN and not bench.shard.is_applied
    bench.acks.answers[0] = (4 * SPAN, 0, 0)
    bench.shard.do_work(100)
    assert bench.writers[0].consumer_pos == 4 * SPAN and bench.shard.is_applied
    assert len(bench.frames()) == 1


def test_acknowledgements_are_read_while_the_receiver_is_blocked(bench: Bench) -> None:
    bench.acks.answers[0] = (0, 0, 0)
    bench.writers[0].write(record(declared.KIND_FORK, 1))
    bench.shard.do_work(100)
    bench.receiver.room = 0
    bench.writers[0].write(record(declared.KIND_FORK, 2))
    bench.shard.do_work(100)
    assert bench.shard.is_blocked and not bench.shard.is_caught_up
    bench.acks.answers[0] = (SPAN, 0, 0)
    assert bench.shard.do_work(100) == 0
    assert bench.writers[0].consumer_pos == SPAN
    bench.receiver.room = 10
    bench.writers[0].write(record(declared.KIND_FORK, 3))
    assert bench.shard.do_work(100) == 1
    frames = bench.frames(with_empty=True)
    assert [frame.from_pos for frame in frames if frame.ring == 0] == [0, SPAN, 2 * SPAN]
    assert [frame.frame_seq for frame in frames] == list(range(bench.shard.frames_total))
    assert bench.shard.blocked_total == 2


def test_a_changed_rewind_id_reads_the_ring_again(bench: Bench) -> None:
    bench.acks.answers[0] = (0, 0, 7)
    for number in range(3):
        bench.writers[0].write(record(declared.KIND_FORK, number))
    bench.shard.do_work(100)
    bench.acks.answers[0] = (0, SPAN, 7)
    assert bench.shard.do_work(100) == 0
    bench.acks.answers[0] = (0, SPAN, 8)
    assert bench.shard.do_work(100) == 2
    assert bench.shard.do_work(100) == 0
    frames = bench.frames()
    assert [(frame.from_pos, frame.to_pos) for frame in frames] == [(0, 3 * SPAN), (SPAN, 3 * SPAN)]
    assert bench.shard.rewinds_total == 1


def test_the_first_acknowledgement_repeats_earlier_frames_and_skips_nothing(bench: Bench) -> None:
    """A resolver takes a frame and is killed before the shard finds its control file; its successor lacks the frame."""
    bench.writers[0].write(record(declared.KIND_FORK, 1))
    bench.shard.do_work(100)
    bench.acks.answers[0] = (0, 0, 1)
    bench.writers[1].write(record(declared.KIND_FORK, 2))
    bench.writers[1].write(record(declared.KIND_FORK, 3))
    bench.acks.answers[1] = (0, SPAN, 1)
    bench.shard.do_work(100)
    frames = [(frame.ring, frame.from_pos, frame.to_pos) for frame in bench.frames()]
    assert frames[0] == (0, 0, SPAN) and sorted(frames[1:]) == [(0, 0, SPAN), (1, 0, 2 * SPAN)]


def test_rewind_drops_the_frame_that_waits(bench: Bench) -> None:
    bench.acks.answers[0] = (0, 0, 1)
    bench.writers[0].write(record(declared.KIND_FORK, 1))
    bench.shard.do_work(100)
    bench.receiver.room = 0
    bench.writers[0].write(record(declared.KIND_FORK, 2))
    bench.shard.do_work(100)
    bench.acks.answers[0] = (0, 0, 2)
    bench.receiver.room = 10
    bench.shard.do_work(100)
    frames = bench.frames(with_empty=True)
    # No frame begins after the position promised to the receiver, and the numbers have no hole.
    assert [(frame.from_pos, frame.to_pos) for frame in frames if frame.ring == 0] == [
        (0, SPAN),
        (0, 2 * SPAN),
    ]
    assert [frame.frame_seq for frame in frames] == list(range(len(frames)))


def test_rewind_of_one_ring_leaves_the_frame_of_another(bench: Bench) -> None:
    bench.acks.answers.update({0: (0, 0, 1), 1: (0, 0, 1)})
    bench.shard.do_work(100)
    bench.receiver.room = 0
    bench.writers[1].write(record(declared.KIND_FORK, 1))
    bench.shard.do_work(100)
    bench.acks.answers[0] = (0, 0, 2)
    bench.shard.do_work(100)
    bench.receiver.room = 10
    bench.shard.do_work(100)
    assert [(frame.ring, frame.count) for frame in bench.frames()] == [(1, 1)]


def test_busy_record_is_waited_for_and_not_slept_on(bench: Bench) -> None:
    one = record(declared.KIND_FORK, 1)
    position = bench.writers[0].reserve(len(one))
    assert bench.shard.do_work(100) == 0
    assert not bench.shard.is_caught_up and not bench.shard.may_sleep()
    assert position is not None
    bench.writers[0].commit(position, one)
    assert bench.shard.do_work(100) == 1 and bench.shard.is_caught_up


def test_shard_that_falls_asleep_asks_to_be_woken(bench: Bench) -> None:
    bench.shard.do_work(100)
    assert bench.shard.may_sleep()
    assert bench.is_asleep(0) and bench.is_asleep(1)
    bench.shard.wake_up()
    assert not bench.is_asleep(0) and not bench.is_asleep(1)


def test_a_record_between_the_last_read_and_the_request_prevents_sleep(bench: Bench) -> None:
    """A shard polls once more after it has announced its sleep.

    Shard: polls, finds nothing. CPU 1: writes a record, finds no shard asleep, sends no wake-up. Shard: announces its
    sleep, polls once more, and finds the record.
    """
    bench.shard.do_work(100)
    bench.writers[1].write(record(declared.KIND_FORK, 1))
    assert not bench.shard.may_sleep()
    assert not bench.is_asleep(0) and not bench.is_asleep(1)
    assert bench.shard.do_work(100) == 1


def test_a_new_shard_withdraws_the_request_of_a_shard_that_was_killed_asleep(bench: Bench) -> None:
    bench.shard.may_sleep()
    bench.start()
    assert not bench.is_asleep(0)


def test_a_new_shard_reads_unapplied_records_again(bench: Bench) -> None:
    for number in range(3):
        bench.writers[0].write(record(declared.KIND_FORK, number))
    bench.shard.do_work(100)
    bench.acks.answers[0] = (SPAN, 2 * SPAN, 4)
    bench.shard.do_work(100)
    bench.frames()
    bench.start().do_work(100)
    (frame,) = bench.frames()
    assert (frame.frame_seq, frame.from_pos, frame.to_pos) == (0, SPAN, 3 * SPAN)


def test_corrupt_header_does_not_stop_the_ring(bench: Bench) -> None:
    bench.writers[0].write(record(declared.KIND_FORK, 1))
    os.pwrite(bench.fds[0], struct.pack("<I", 4000), 2 * PAGE_BYTES)
    bench.shard.do_work(100)
    bench.writers[0].write(record(declared.KIND_FORK, 2))
    bench.shard.do_work(100)
    frames = bench.frames()
    assert [(frame.from_pos, frame.to_pos, frame.count) for frame in frames] == [
        (0, SPAN, 0),
        (SPAN, 2 * SPAN, 1),
    ]
    assert [frame.malformed for frame in frames] == [1, 1]


class Receiver:
    """A resolver's handling of frames: it drops repeated ones, asks for holes again, and applies some of its frames."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.received = [0] * len(bench.fds)
        self.applied = [0] * len(bench.fds)
        self.rewinds = [0] * len(bench.fds)
        self.wanted = [0] * len(bench.fds)
        self.records: list[list[bytes]] = [[] for _ in bench.fds]
        self.positions: list[list[int]] = [[] for _ in bench.fds]

    def take(self, message: bytes) -> None:
        for frame in decode_frames(message):
            self._take(frame)

    def _take(self, frame: Frame) -> None:
        ring = frame.ring
        if frame.from_pos > self.received[ring]:
            self._rewind(ring, self.received[ring])
        elif frame.to_pos > self.received[ring]:
            part = frame.since(self.received[ring])
            self.records[ring] += records_in(part)
            self.positions[ring] += part.header["ring_pos"].tolist()
            self.received[ring] = frame.to_pos

    def _rewind(self, ring: int, position: int) -> None:
        if self.wanted[ring] != position or self.rewinds[ring] == 0:
            self.rewinds[ring] += 1
        self.wanted[ring] = position
        self._answer(ring)

    def _answer(self, ring: int) -> None:
        self.bench.acks.answers[ring] = (self.applied[ring], self.wanted[ring], self.rewinds[ring])

    def apply(self, ring: int, part: float) -> None:
        ends = [p for p in [*self.positions[ring], self.received[ring]] if p >= self.applied[ring]]
        self.applied[ring] = ends[round(part * (len(ends) - 1))]
        self._answer(ring)

    def restart(self) -> None:
        """Start a successor: it knows the applied records, and nothing that was received after them."""
        for ring, applied in enumerate(self.applied):
            keep = sum(position < applied for position in self.positions[ring])
            del self.records[ring][keep:], self.positions[ring][keep:]
            self.received[ring] = self.wanted[ring] = applied
            self.rewinds[ring] += 1
            self._answer(ring)


steps = st.one_of(
    st.tuples(st.just("write"), st.integers(0, 1), st.integers(0, 200)),
    st.tuples(st.just("poll"), st.integers(1, 5), st.integers(0, 3)),
    st.tuples(st.just("lose frames"), st.integers(0, 1), st.integers(1, 3)),
    st.tuples(st.just("deliver"), st.integers(0, 1), st.integers(1, 4)),
    st.tuples(st.just("apply"), st.integers(0, 1), st.floats(0, 1)),
    st.tuples(st.just("kill shard"), st.integers(0, 1), st.integers(0, 1)),
    st.tuples(st.just("kill resolver"), st.integers(0, 1), st.integers(0, 1)),
)


@settings(max_examples=examples(300), deadline=None)
@given(st.lists(steps, max_size=80))
def test_every_record_is_received_once_whichever_process_dies_and_whatever_is_lost(script: list[tuple]) -> None:
    bench = Bench(frame_max_bytes=700)
    written: list[list[bytes]] = [[], []]
    receiver = Receiver(bench)
    under_way: list[bytes] = []
    number = 0
    for name, first, second in script:
        if name == "write":
            one = record(declared.KIND_EXEC, number, strings=(b"x" * second, b"", b"", b""))
            number += 1
            if bench.writers[first].write(one) is not None:
                written[first].append(one)
        elif name == "poll":
            bench.receiver.room = second
            bench.shard.do_work(first)
            under_way += bench.receiver.messages
            bench.receiver.messages.clear()
        elif name == "lose frames":
            del under_way[:second]
        elif name == "deliver":
            for message in under_way[:second]:
                receiver.take(message)
            del under_way[:second]
        elif name == "apply":
            receiver.apply(first, second)
        elif name == "kill shard":
            bench.shard.close()
            bench.start()
        elif name == "kill resolver":
            under_way.clear()
            receiver.restart()
        for ring in range(2):
            assert bench.writers[ring].consumer_pos <= receiver.applied[ring] <= receiver.received[ring]
    bench.receiver.room = 1 << 30
    receiver.restart()
    for _ in range(100):
        bench.shard.do_work(100)
        for message in bench.receiver.messages:
            receiver.take(message)
        bench.receiver.messages.clear()
        for ring in range(2):
            receiver.apply(ring, 1.0)
    assert receiver.records == written
    assert bench.shard.is_applied
    bench.close()
