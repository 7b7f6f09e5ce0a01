"""The fields of the control segment that are read without numpy agree with the dtypes."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.shm.layout import control_header, layout


def control(seed: int = 1) -> np.ndarray:
    data = np.random.default_rng(seed).integers(1, 255, layout.CONTROL.itemsize, np.uint8)
    record = data.view(layout.CONTROL)
    record["magic"], record["layout_version"], record["ring_count"] = layout.MAGIC, layout.LAYOUT_VERSION, 2 + seed
    return record


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_head_has_the_fields_of_the_dtype(seed: int) -> None:
    record = control(seed)
    found = control_header.read_header(record.tobytes())
    assert found is not None
    assert found._asdict() == {name: record[0][name].item() for name in control_header.ControlHeader._fields}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_rings_have_the_fields_of_the_dtype(seed: int) -> None:
    data = np.random.default_rng(seed).integers(0, 255, 5 * layout.RING_ACK.itemsize, np.uint8)
    rings = data.view(layout.RING_ACK)
    assert control_header.read_rings(data.tobytes() + b"half a ring") == list(
        zip(rings["received_pos"].tolist(), rings["stalled"].tolist(), strict=True)
    )


def test_another_file_or_version_has_no_head() -> None:
    record = control()
    assert control_header.read_header(b"") is None
    assert control_header.read_header(record.tobytes()[:-1]) is None
    record["layout_version"] += 1
    assert control_header.read_header(record.tobytes()) is None


def test_more_rings_than_there_can_be_are_damage() -> None:
    """The supervisor makes room for as many."""
    record = control()
    record["ring_count"] = control_header.RINGS_MAX
    assert control_header.read_header(record.tobytes()) is not None
    record["ring_count"] += 1
    assert control_header.read_header(record.tobytes()) is None
    record = control()
    record["magic"] = b"OTHER"
    assert control_header.read_header(record.tobytes()) is None


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_valid_commit_slot_is_at_the_offset_of_the_dtype(seed: int) -> None:
    record = control(seed)
    data, fields = record.tobytes(), record[0]
    place = int(fields["commit_offset"]) + (int(fields["commit_index"]) & 1) * int(fields["commit_bytes"])
    assert control_header.find_commit(data, fields["boot_id"].tobytes()) == place
    assert control_header.find_commit(data, bytes(16)) is None
    assert control_header.find_commit(data[:-1], fields["boot_id"].tobytes()) is None


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_watermark_of_a_commit_is_that_of_the_dtype(seed: int) -> None:
    commit = np.random.default_rng(seed).integers(0, 255, layout.COMMIT.itemsize, np.uint8).view(layout.COMMIT)
    assert control_header.read_watermark(commit.tobytes()) == int(commit["watermark_boot_ns"][0])
    assert control_header.read_watermark(commit.tobytes()[: control_header.WATERMARK_BYTES - 1]) == 0
