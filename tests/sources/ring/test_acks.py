"""Acknowledgements from a control file that is absent, not ready, of other rings, or replaced."""

from __future__ import annotations

import os
import select
from pathlib import Path

import pytest

from pipeline.resolver.daemon._waiting import Openings
from pipeline.shm.layout import layout
from pipeline.sources.ring._acks import ControlAcks
from tests.sources.hand_control import CAPTURE_ID, RINGS, HandControl
from tests.sources.hand_records import descriptors


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def acks(tmp_path: Path, clock: Clock) -> ControlAcks:
    return ControlAcks(tmp_path / "control", capture_id=CAPTURE_ID, clock=clock)


def _look(acks: ControlAcks, clock: Clock) -> tuple[int, int, int] | None:
    clock.now += 2
    acks.refresh()
    return acks.ring(1)


def test_without_a_control_file_there_is_no_acknowledgement(acks: ControlAcks, clock: Clock, tmp_path: Path) -> None:
    assert _look(acks, clock) is None
    HandControl(tmp_path / "control").answer(1, applied=64, wanted=128, rewind=3)
    answer = _look(acks, clock)
    assert answer is not None and answer[:2] == (64, 128)
    assert acks.ring(RINGS) is None


def test_changes_are_seen_at_once(acks: ControlAcks, clock: Clock, tmp_path: Path) -> None:
    control = HandControl(tmp_path / "control")
    before = _look(acks, clock)
    control.answer(1, applied=8, wanted=16, rewind=0)
    assert before is not None and acks.ring(1) == (8, 16, before[2])
    control.answer(1, applied=8, wanted=16, rewind=1)
    changed = acks.ring(1)
    assert changed is not None and changed[2] != before[2]


@pytest.mark.parametrize("content", [b"", b"short", bytes(4096), b"\xff" * 8192])
def test_file_that_is_not_complete_is_tried_again(
    acks: ControlAcks, clock: Clock, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "control").write_bytes(content)
    before = descriptors()
    assert _look(acks, clock) is None
    assert descriptors() == before
    HandControl(tmp_path / "control")
    assert _look(acks, clock) is not None


def test_ring_section_that_leaves_the_file_is_not_believed(acks: ControlAcks, clock: Clock, tmp_path: Path) -> None:
    control = HandControl(tmp_path / "control")
    control.header["ring_count"] = 1 << 31
    assert _look(acks, clock) is None
    control.header["ring_count"] = RINGS
    control.header["ring_offset"] = 4097
    assert _look(acks, clock) is None


def test_a_writer_stores_the_version_last(acks: ControlAcks, clock: Clock, tmp_path: Path) -> None:
    control = HandControl(tmp_path / "control", ready=False)
    assert _look(acks, clock) is None
    control.make_ready()
    assert _look(acks, clock) is not None


def test_positions_of_other_rings_are_ignored(acks: ControlAcks, clock: Clock, tmp_path: Path) -> None:
    HandControl(tmp_path / "control", capture_id=1).answer(1, applied=64, wanted=64, rewind=1)
    assert _look(acks, clock) is None


@pytest.mark.parametrize("superseded", [True, False])
def test_a_replacing_file_is_followed_and_requests_a_rewind(
    acks: ControlAcks, clock: Clock, tmp_path: Path, superseded: bool
) -> None:
    old = HandControl(tmp_path / "control")
    old.answer(1, applied=8, wanted=8, rewind=5)
    before = _look(acks, clock)
    HandControl(tmp_path / "control").answer(1, applied=8, wanted=8, rewind=5)
    if superseded:
        # The old file says so: no need to wait for the next check of the path.
        old.header["state"] = layout.STATE_SUPERSEDED
        acks.refresh()
        after = acks.ring(1)
    else:
        acks.refresh()
        assert acks.ring(1) == before
        after = _look(acks, clock)
    assert before is not None and after is not None
    assert after[:2] == before[:2] and after[2] != before[2]
    assert acks.reopened_total == 1


def test_a_file_that_was_not_replaced_is_not_opened_again(acks: ControlAcks, clock: Clock, tmp_path: Path) -> None:
    """The resolver would take that for a program that wants to read the tables."""
    HandControl(tmp_path / "control")
    assert _look(acks, clock) is not None
    openings = Openings(tmp_path / "control")
    assert openings.arm()
    for _ in range(5):
        assert _look(acks, clock) is not None
    assert select.select([openings.fileno()], [], [], 0)[0] == []
    openings.close()


def test_last_answer_stays_while_the_file_is_gone(acks: ControlAcks, clock: Clock, tmp_path: Path) -> None:
    HandControl(tmp_path / "control").answer(1, applied=8, wanted=8, rewind=1)
    before = _look(acks, clock)
    (tmp_path / "control").unlink()
    assert _look(acks, clock) == before is not None


def test_nothing_stays_open(acks: ControlAcks, clock: Clock, tmp_path: Path) -> None:
    before = descriptors()
    for _ in range(20):
        HandControl(tmp_path / "control")
        assert _look(acks, clock) is not None
    acks.close()
    acks.close()
    assert descriptors() == before
    maps = Path("/proc/self/maps").read_text()
    # The test's own np.memmap may still exist; the shard's mappings are read-only.
    assert not [line for line in maps.splitlines() if os.fspath(tmp_path) in line and "r--s" in line]
