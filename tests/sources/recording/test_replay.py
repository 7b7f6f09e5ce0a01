"""Replay: a receiver that rewinds and applies in any way gets every recorded record once, in a made-up ring."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.bus.frames.frame import Frame, FrameEncoder, decode_frame
from pipeline.config.schema import Config, Supervision
from pipeline.errors import FrameError
from pipeline.sources.recording.file import RecordingWriter
from pipeline.sources.recording.replay import WATERMARK_END_NS, ReplaySource
from tests.resolver import _inside
from tests.sampling import examples
from tests.sources.hand_control import CAPTURE_ID
from tests.sources.hand_records import BOOT_ID, FakeAcks, FakeReceiver, records_in
from tests.sources.stage import TERM, Stage
from tests.synthetic.storm import make_storm
from tests.waiting import until

STORM = make_storm(3, 400, frame_records=40, variants=10, envs_bytes=20)


class Bench:
    """A replay, and a receiver with room for a limited number of frames."""

    def __init__(self, messages: list[bytes]) -> None:
        self.now = 0.0
        self.acks = FakeAcks()
        self.receiver = FakeReceiver()
        self.source = ReplaySource(
            messages, boot_id=BOOT_ID, acks=self.acks, send=self.receiver.send, clock=lambda: self.now
        )

    def frames(self) -> list[Frame]:
        return [decode_frame(message) for message in self.receiver.take()]


def _records(messages: list[bytes]) -> dict[int, list[bytes]]:
    found: dict[int, list[bytes]] = {}
    for message in messages:
        frame = decode_frame(message)
        found.setdefault(frame.ring, []).extend(records_in(frame))
    return found


def test_everything_is_sent_once_without_holes() -> None:
    bench = Bench(STORM)
    while bench.source.do_work(10):
        pass
    frames = bench.frames()
    assert bench.source.is_sent and not bench.source.is_applied
    assert [frame.frame_seq for frame in frames] == list(range(len(frames)))
    ends = dict.fromkeys(range(3), 0)
    found: dict[int, list[bytes]] = {ring: [] for ring in ends}
    for frame in frames:
        assert frame.source == "replay" and frame.from_pos == ends[frame.ring]
        ends[frame.ring] = frame.to_pos
        found[frame.ring] += records_in(frame)
    assert found == _records(STORM)
    assert bench.source.event_count == sum(map(len, found.values()))
    bench.acks.answers = {ring: (end, 0, 0) for ring, end in ends.items()}
    bench.source.do_work(1)
    assert bench.source.is_applied


def test_messages_with_several_frames_are_as_good_as_one_each() -> None:
    """A shard sends the frames that all its rings have at one time in one message."""
    alone, together = Bench(STORM), Bench([b"".join(STORM[at : at + 5]) for at in range(0, len(STORM), 5)])
    assert together.source.error is None and together.source.event_count == alone.source.event_count
    sent: list[list[Frame]] = []
    for bench in (alone, together):
        while bench.source.do_work(10):
            pass
        sent.append([frame for frame in bench.frames() if len(frame.header)])
    for ring in range(3):
        first, second = ([frame for frame in frames if frame.ring == ring] for frames in sent)
        assert [frame.to_pos for frame in first] == [frame.to_pos for frame in second]
        assert list(map(records_in, first)) == list(map(records_in, second))


def test_watermark_is_never_broken_and_the_last_one_frees_the_rest() -> None:
    bench = Bench(STORM)
    while bench.source.do_work(10):
        pass
    promised = dict.fromkeys(range(3), 0)
    for frame in bench.frames():
        if frame.count:
            assert frame.header["time_boot_ns"].min() >= promised[frame.ring]
        assert frame.watermark_boot_ns is not None
        promised[frame.ring] = frame.watermark_boot_ns
    assert set(promised.values()) == {WATERMARK_END_NS}


def test_holes_and_repetitions_of_the_recording_are_closed() -> None:
    """A frame is missing, one is repeated, one overlaps its predecessor: like the recording of a rewind."""
    ring = [message for message in STORM if decode_frame(message).ring == 1]
    first, second = decode_frame(ring[2]), decode_frame(ring[3])
    encoder = FrameEncoder(boot_id=BOOT_ID, source="ebpf")
    half = first.since(int(first.header["ring_pos"][20]))
    overlap = encoder.encode(
        ring=1, seq=0, from_pos=half.from_pos, to_pos=second.to_pos, count=half.count + second.count, lost={},
        **{
            name: np.concatenate([getattr(half, name), getattr(second, name)])
            for name in ("header", "task", "fork", "exec", "exit")
        },
        blob=bytes(half.blob) + bytes(second.blob),
    )  # fmt: skip
    bench = Bench([*ring[1:3], ring[2], overlap, ring[5]])
    while bench.source.do_work(10):
        pass
    frames = bench.frames()
    assert frames[0].from_pos == 0
    assert all(after.from_pos == before.to_pos for before, after in itertools.pairwise(frames))
    sent = [one for frame in frames for one in records_in(frame)]
    assert sent == _records([*ring[1:4], ring[5]])[1]


def test_rings_without_events_send_their_watermark() -> None:
    bench = Bench(STORM)
    while bench.source.do_work(100):
        pass
    ends = {frame.ring: frame.to_pos for frame in bench.frames()}
    bench.source.do_work(100)
    assert bench.frames() == []
    bench.now += 0.11
    bench.source.do_work(100)
    assert sorted((frame.ring, frame.count, frame.from_pos, frame.to_pos) for frame in bench.frames()) == [
        (ring, 0, end, end) for ring, end in sorted(ends.items())
    ]


def test_recording_that_is_cut_off_is_replayed_up_to_there() -> None:
    bench = Bench([*STORM[:5], STORM[5][:-1], *STORM[6:]])
    assert bench.source.error is not None
    while bench.source.do_work(10):
        pass
    assert sum(frame.count > 0 for frame in bench.frames()) == 5


@pytest.mark.parametrize("messages", [[], [b"nonsense"]])
def test_recording_without_a_frame_is_refused(messages: list[bytes]) -> None:
    with pytest.raises(FrameError):
        Bench(messages)


def test_merge_of_a_replay_is_in_time_order_and_nothing_is_late() -> None:
    from pipeline.resolver.merge._merger import Merger

    bench = Bench(STORM)
    merger = Merger(3, timed_by_sender=True)
    times: list[int] = []
    while not bench.source.is_applied:
        bench.source.do_work(3)
        for frame in bench.frames():
            merger.add(frame)
        merger.advance(1)
        while (batch := merger.take(8192)) is not None:
            times += _inside.times(batch).tolist()
            merger.done(batch)
        for ring in range(3):
            bench.acks.answers[ring] = (int(merger.applied_pos[ring]), 0, 0)
    assert times == sorted(times) and len(times) == bench.source.event_count
    assert "late" not in merger.take_counters()


steps = st.one_of(
    st.tuples(st.just("work"), st.integers(1, 6), st.integers(0, 4)),
    st.tuples(st.just("lose"), st.integers(0, 2), st.integers(1, 3)),
    st.tuples(st.just("rewind"), st.integers(0, 2), st.integers(0, 0)),
    st.tuples(st.just("apply"), st.integers(0, 2), st.integers(0, 0)),
)


@settings(max_examples=examples(100), deadline=None)
@given(st.lists(steps, max_size=50))
def test_rewinds_bring_everything_once(script: list[tuple[str, int, int]]) -> None:
    bench = Bench(STORM[:20])
    expected = _records(STORM[:20])
    received = dict.fromkeys(expected, 0)
    rewinds = dict.fromkeys(expected, 1)
    found: dict[int, list[bytes]] = {ring: [] for ring in expected}

    def answer(ring: int, applied: int) -> None:
        bench.acks.answers[ring] = (applied, received[ring], rewinds[ring])

    def take() -> None:
        for frame in bench.frames():
            if frame.from_pos > received[frame.ring]:
                continue
            found[frame.ring] += records_in(frame.since(received[frame.ring]))
            received[frame.ring] = max(received[frame.ring], frame.to_pos)

    def rewind(ring: int) -> None:
        rewinds[ring] += 1
        answer(ring, bench.acks.answers.get(ring, (0, 0, 0))[0])

    for name, first, second in script:
        ring = sorted(expected)[first % len(expected)]
        if name == "work":
            bench.receiver.room = second
            bench.source.do_work(first)
            take()
        elif name == "lose":
            bench.receiver.room = second
            bench.source.do_work(second)
            bench.receiver.messages.clear()
        elif name == "rewind":
            rewind(ring)
        else:
            answer(ring, received[ring])
    bench.receiver.room = 1 << 30
    for ring in expected:
        rewind(ring)
    while bench.source.do_work(10):
        pass
    take()
    assert found == expected


def test_process_replays_a_file_and_stays_until_it_is_stopped(tmp_path: Path) -> None:
    path = tmp_path / "recording"
    with RecordingWriter(path, boot_id=BOOT_ID) as writer:
        for message in STORM:
            writer.write(message)
    stage = Stage(
        {}, shared_fd=-1, ring_count=3, capture_id=CAPTURE_ID, config=Config(supervision=Supervision(stop_timeout_s=1)),
        module="pipeline.sources.recording.main", source=f"replay:{os.fspath(path)}",
    )  # fmt: skip
    try:
        stage.start()
        expected = _records(STORM)
        total = sum(map(len, expected.values()))
        frames = stage.frames_until(lambda frames: sum(frame.count for frame in frames) >= total)
        assert stage.control is not None
        for frame in frames:
            stage.control.acks["applied_pos"][frame.ring] = frame.to_pos
        until(lambda: "replayed" in stage.log.read_text())
        # The shard still shows signs of life.
        later = stage.frames_until(lambda frames: len(frames) >= 6)
        assert sum(frame.count for frame in later) == 0
        assert stage.end(TERM) == 0
    finally:
        stage.close()


def test_process_names_a_file_that_is_no_recording(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(bytes(100))
    stage = Stage(
        {}, shared_fd=-1, ring_count=3, module="pipeline.sources.recording.main", source=f"replay:{tmp_path / 'other'}"
    )
    try:
        assert stage.start().wait(60) == 2
        assert "it is not a recording" in stage.log.read_text()
    finally:
        stage.close()
