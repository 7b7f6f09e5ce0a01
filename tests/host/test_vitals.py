"""The state of an instance is read without opening the tables again, and from the file that is there now."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import UntrustedError
from pipeline.host.vitals import VitalsReader, read_vitals
from pipeline.resolver.daemon._waiting import Openings
from pipeline.shm.layout import layout
from tests.sources.hand_control import RINGS, HandControl


@pytest.fixture
def reader(directory: Path) -> Iterator[VitalsReader]:
    made = VitalsReader(directory)
    yield made
    made.close()


def _control(directory: Path, heartbeat: int) -> HandControl:
    control = HandControl(directory / "control")
    (directory / "control").chmod(0o644)
    control.header["heartbeat_boot_ns"] = heartbeat
    return control


def test_without_a_control_file_nothing_is_known(reader: VitalsReader, directory: Path) -> None:
    assert reader.read() is None
    _control(directory, 1)
    vitals = reader.read()
    assert vitals is not None and (vitals.heartbeat_boot_ns, vitals.state) == (1, layout.STATE_READY)
    assert len(vitals.received_pos) == len(vitals.stalled) == RINGS
    (directory / "control").unlink()
    assert reader.read() is None is read_vitals(directory)


def test_the_file_is_opened_once_and_its_successor_is_found(reader: VitalsReader, directory: Path) -> None:
    """The resolver would take another opening for a program that wants to read the tables."""
    first = _control(directory, 1)
    reader.read()
    openings = Openings(directory / "control")
    assert openings.arm()
    for heartbeat in (2, 3, 4):
        first.header["heartbeat_boot_ns"] = heartbeat
        vitals = reader.read()
        assert vitals is not None and vitals.heartbeat_boot_ns == heartbeat
    assert select.select([openings.fileno()], [], [], 0)[0] == []
    openings.close()
    _control(directory, 9)
    vitals = reader.read()
    assert vitals is not None and vitals.heartbeat_boot_ns == 9


def test_a_file_that_another_user_could_have_written_is_refused(reader: VitalsReader, directory: Path) -> None:
    _control(directory, 1)
    (directory / "control").chmod(0o666)
    with pytest.raises(UntrustedError):
        reader.read()


def test_no_descriptor_is_left(directory: Path) -> None:
    before = os.listdir("/proc/self/fd")  # noqa: PTH208
    _control(directory, 1)
    for _ in range(3):
        read_vitals(directory)
    assert len(os.listdir("/proc/self/fd")) == len(before)  # noqa: PTH208
