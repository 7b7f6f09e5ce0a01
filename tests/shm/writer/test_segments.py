"""The limits and the sizes of the segments."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.errors import ConfigError
from pipeline.shm.layout import layout
from pipeline.shm.layout.control_header import RINGS_MAX
from pipeline.shm.writer.segments import ARENA_FIRST_BYTES, ARENA_MAX_BYTES, ROWS_MAX, TablePlan

PLAN: dict[str, Any] = {
    "boot_id": bytes(16), "ring_count": 2, "row_capacity": 1000, "chunk_rows": 100, "pid_capacity": 5000,
    "names_bytes": 1 << 20, "args_bytes": 1 << 21, "envs_bytes": 1 << 22, "key_capacity": 64,
}  # fmt: skip
ARENA = (4096, ARENA_MAX_BYTES)


@pytest.mark.parametrize(
    ("key", "least", "most"),
    [
        ("ring_count", 1, RINGS_MAX), ("row_capacity", 2, ROWS_MAX), ("chunk_rows", 1, 1 << 20),
        ("pid_capacity", 2, 1 << 23), ("key_capacity", 1, 1 << 20),
        ("names_bytes", *ARENA), ("args_bytes", *ARENA), ("envs_bytes", *ARENA),
    ],
)  # fmt: skip
def test_each_size_has_limits(key: str, least: int, most: int) -> None:
    for value in (least, most):
        assert getattr(TablePlan(**PLAN | {key: value}), key) == value
    for value in (least - 1, most + 1):
        with pytest.raises(ConfigError, match=f"{key}: expected {least} to {most}, got {value}") as caught:
            TablePlan(**PLAN | {key: value})
        assert (caught.value.key, caught.value.value) == (key, value)


@pytest.mark.parametrize("bytes_", [15, 17])
def test_a_boot_id_has_16_bytes(bytes_: int) -> None:
    with pytest.raises(ConfigError, match="boot_id"):
        TablePlan(**PLAN | {"boot_id": bytes(bytes_)})


def test_sizes_of_segments() -> None:
    plan = TablePlan(**PLAN | {"names_bytes": (1 << 20) + 17, "args_bytes": 5000})
    assert plan.slots == 5064
    page = 4096
    ceilings = {
        "control": layout.control_bytes(2)[3], "index": (5064 * 4 + page - 1) // page * page,
        "hot": 1000 * layout.HOT.itemsize, "cold": 1000 * layout.COLD.itemsize, "costs": 64_000,
        "names": (1 << 20) + 16, "args": 4992, "envs": 1 << 22,
    }  # fmt: skip
    assert {name: plan.ceiling_bytes(name) for name in ceilings} == ceilings
    first = ceilings | {
        "hot": 100 * layout.HOT.itemsize, "cold": 100 * layout.COLD.itemsize, "costs": 0, "names": ARENA_FIRST_BYTES,
        "envs": ARENA_FIRST_BYTES,
    }  # fmt: skip
    assert {name: plan.first_bytes(name) for name in first} == first
    assert TablePlan(**PLAN | {"row_capacity": 50}).first_bytes("hot") == 50 * layout.HOT.itemsize
