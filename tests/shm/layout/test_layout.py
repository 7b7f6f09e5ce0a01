"""The forms of a layout agree: declaration, dtype, C struct, constants in segments.h."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from pipeline.shm.layout import declared, layout
from tests.records.layout_rows import rows_of
from tests.shm import _inside

HEADER = Path(layout.__file__).with_name("segments.h").read_text(encoding="ascii")
LAYOUTS = sorted(declared.LAYOUTS)
DTYPES = {name: getattr(layout, name.upper()) for name in LAYOUTS}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_c_reads_every_field_where_the_dtype_has_it(name: str, seed: int) -> None:
    """The compiler and numpy read the same values from random bytes: sizes, offsets, signs."""
    dtype = DTYPES[name]
    data = np.random.default_rng(seed).integers(1, 255, dtype.itemsize + 64, np.uint8, endpoint=True).tobytes()
    size, fields = _inside.c_struct(name, data + b"\0")
    assert size == dtype.itemsize
    record = np.frombuffer(data, dtype, 1)[0]
    assert set(fields) == set(dtype.names or ())
    for field in dtype.names or ():
        ours, theirs = record[field], fields[field]
        if isinstance(theirs, bytes):  # char[]: C stops at the next 0
            assert theirs.startswith(bytes(ours)), field
        elif isinstance(theirs, list):
            assert theirs == np.frombuffer(ours.tobytes(), f"u{dtype[field].itemsize // len(theirs)}").tolist(), field
        else:
            assert int(theirs) == int(ours), field


@pytest.mark.parametrize("name", LAYOUTS)
def test_dtypes_have_no_gaps(name: str) -> None:
    dtype = DTYPES[name]
    end = 0
    for field in dtype.names or ():
        kind, offset = dtype.fields[field][:2]  # type: ignore[index]
        assert offset == end, field
        end += kind.itemsize
    assert end == dtype.itemsize


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_dtype_has_the_fields_of_the_declaration(name: str) -> None:
    layout = declared.LAYOUTS[name]
    rows = [(field.offset, field.size, field.name, field.type) for field in layout.fields.values()]
    assert (layout.size, rows) == (DTYPES[name].itemsize, rows_of(DTYPES[name]))


def numbers(prefix: str) -> dict[str, int]:
    """The constants of segments.h with names that begin with `prefix`, without the prefix."""
    found = re.findall(rf"^#define {prefix}(\w+) \(?(0x[0-9A-F]+|\d+)(?: << (\d+)\))?", HEADER, re.MULTILINE)
    return {name: int(value, 0) << int(shift or 0) for name, value, shift in found}


@pytest.mark.parametrize("prefix", ["STATE_", "SOURCE_", "CGROUP_SOURCE_", "MOUNT_", "ROW_", "KNOWN_"])
def test_numbers_of_c_and_python_are_the_same(prefix: str) -> None:
    python = {
        name.removeprefix(prefix): value
        for name, value in vars(layout).items()
        if name.startswith(prefix) and isinstance(value, int)
    }
    assert numbers("PL_" + prefix) == python


def test_counters_of_c_and_python_are_the_same() -> None:
    assert numbers("PL_C_") == {name.upper(): position for position, name in enumerate(layout.COUNTERS)}
    assert numbers("PL_COUNTER_") == {"CAPACITY": layout.COUNTER_CAPACITY}
    assert len(set(layout.COUNTERS)) == len(layout.COUNTERS)


def test_topics_of_c_and_python_are_the_same() -> None:
    topics = {name.partition(".")[2].upper(): position for position, name in enumerate(layout.TOPICS)}
    assert numbers("PL_TOPIC_") == topics | {"COUNT": len(layout.TOPICS)}


def test_versions_and_units_of_c_and_python_are_the_same() -> None:
    assert numbers("PL_LAYOUT_") == {"VERSION": layout.LAYOUT_VERSION}
    assert numbers("PL_ARENA_") == {"UNIT_BYTES": layout.ARENA_UNIT_BYTES, "FREE_UNIT": layout.ARENA_FREE_UNIT}
    assert layout.ARENA.itemsize == layout.ARENA_UNIT_BYTES


@pytest.mark.parametrize("prefix", ["ROW_", "KNOWN_"])
def test_masks_are_distinct_bits(prefix: str) -> None:
    values = list(numbers("PL_" + prefix).values())
    assert all(value & (value - 1) == 0 for value in values)
    assert len(set(values)) == len(values)


@pytest.mark.parametrize("rings", [1, 2, 63, 64, 65, 1024])
def test_sections_of_the_control_file_do_not_overlap(rings: int) -> None:
    ring_offset, commit_offset, commit_bytes, size = layout.control_bytes(rings)
    assert ring_offset >= layout.CONTROL.itemsize
    assert commit_offset >= ring_offset + rings * layout.RING_ACK.itemsize
    assert commit_bytes >= layout.COMMIT.itemsize + rings * layout.COMMIT_RING.itemsize
    assert size >= commit_offset + 2 * commit_bytes
    assert ring_offset % 4096 == commit_offset % 4096 == size % 4096 == commit_bytes % 64 == 0


def test_the_layouts_agree_with_the_constants() -> None:
    assert declared.COMMIT_LAYOUT.fields["counters"].count == declared.COUNTER_CAPACITY
    assert declared.ARENA_LAYOUT.size == declared.ARENA_UNIT_BYTES
    assert layout.REST.itemsize == layout.COLD.itemsize + layout.COSTS.itemsize
