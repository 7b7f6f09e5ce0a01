"""Synthetic storms: the same every time, and without impossible events."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.bus.frames.frame import Frame, decode_frame
from pipeline.records import declared
from tests.sampling import examples
from tests.synthetic.storm import INIT_START_BOOT_NS, INIT_TGID, SERVICE_TGID_BASE, build_storm, make_storm


def _frames(*arguments: object, **options: object) -> list[Frame]:
    return [decode_frame(message) for message in make_storm(*arguments, **options)]


def _in_time_order(frames: list[Frame]) -> list[tuple[np.void, np.void | None]]:
    """All (header, body) by time; the body of exec records only."""
    found = []
    for frame in frames:
        bodies = iter(frame.exec)
        for header in frame.header:
            found.append((header, next(bodies) if header["kind"] == declared.KIND_EXEC else None))
    return sorted(found, key=lambda pair: int(pair[0]["time_boot_ns"]))


def test_same_arguments_make_the_same_bytes_and_another_seed_others() -> None:
    first = make_storm(2, 200, 7)
    assert first == make_storm(2, 200, 7)
    assert first != make_storm(2, 200, 8)


@settings(max_examples=examples(15), deadline=None)
@given(
    st.integers(1, 5), st.integers(2, 300), st.integers(0, 99), st.sampled_from([0.0, 0.25, 1.0]), st.integers(5, 300)
)
def test_every_event_could_have_happened(
    rings: int, processes: int, seed: int, exec_ratio: float, frame_records: int
) -> None:
    tgid_range = 150
    frames = _frames(
        rings, processes, seed, exec_ratio, frame_records=frame_records, tgid_range=tgid_range, alive=10, services=4,
        variants=20,
    )  # fmt: skip
    living = {INIT_TGID: INIT_START_BOOT_NS}
    forks = exits = 0
    for header, body in _in_time_order(frames):
        tgid, start = int(header["tgid"]), int(header["start_boot_ns"])
        parent = int(header["ppid"]), int(header["parent_start_boot_ns"])
        assert start < header["time_boot_ns"]
        assert living.get(parent[0]) == parent[1], "the parent lives"
        if header["kind"] == declared.KIND_FORK:
            assert tgid not in living, "no process has the pid"
            living[tgid] = start
            forks += 1
            continue
        assert living[tgid] == start
        if header["kind"] == declared.KIND_EXIT:
            del living[tgid]
            exits += 1
        else:
            assert body is not None and body["exec_tid"] == tgid
    assert forks == processes and exits == processes - min(processes, 4)


def test_rings_are_whole_and_watermarks_hold() -> None:
    frames = _frames(3, 2000, frame_records=100)
    position, last_seq, promised = [0] * 3, [-1] * 3, [0] * 3
    for number, frame in enumerate(frames):
        assert frame.frame_seq == number and frame.from_pos == position[frame.ring]
        position[frame.ring] = frame.to_pos
        sequence = frame.header["ring_seq"].tolist()
        assert sequence == list(range(last_seq[frame.ring] + 1, last_seq[frame.ring] + 1 + frame.count))
        last_seq[frame.ring] = sequence[-1]
        assert frame.header["time_boot_ns"].min() >= promised[frame.ring]
        promised[frame.ring] = frame.watermark_boot_ns or 0
    oldest = [int(frame.header["time_boot_ns"].min()) for frame in frames]
    assert oldest == sorted(oldest)


def test_image_of_a_record_is_the_one_that_the_last_exec_made() -> None:
    storm = build_storm(2, 3000, exec_ratio=0.3, again_ratio=0.3)
    order = np.argsort(storm.header["time_boot_ns"], kind="stable")
    image: dict[int, tuple[int, bytes]] = {}
    seen = set()
    for index in order:
        header, task = storm.header[index], storm.task[index]
        tgid, now = int(header["tgid"]), (int(task["cookie"]), bytes(task["comm"]))
        if header["kind"] == declared.KIND_EXEC:
            assert now[0] not in seen
            seen.add(now[0])
        elif header["kind"] == declared.KIND_FORK and tgid != SERVICE_TGID_BASE:
            assert now == image[int(header["ppid"])]
        elif header["kind"] == declared.KIND_EXIT:
            assert now == image[tgid]
        image[tgid] = now


def test_strings_are_of_the_length_asked_for() -> None:
    (frame,) = _frames(1, 50, args_bytes=1234, envs_bytes=77, exec_ratio=1.0, again_ratio=0.0)
    assert set(frame.exec["args_bytes"].tolist()) == {1234} and set(frame.exec["envs_bytes"].tolist()) == {77}
    path = bytes(frame.blob[: int(frame.exec["path_bytes"][0])])
    assert path.startswith(b"/usr/")
    assert len(_frames(1, 50, args_bytes=0, envs_bytes=0)[0].blob) > 0


def test_too_few_pids_are_refused() -> None:
    with pytest.raises(ValueError, match="too few"):
        build_storm(1, 1000, tgid_range=10, alive=200)
