"""The layouts agree with each other: dtype, C struct, table in the docstring, numbers in layout.h."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from pipeline.shm.layout import tables as layout
from pipeline.shm.writer._writer import c_struct

HEADER = Path(layout.__file__).with_name("layout.h").read_text(encoding="ascii")
LAYOUTS = sorted(layout.SEGMENT_LAYOUTS)


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_c_reads_every_field_where_the_dtype_has_it(name: str, seed: int) -> None:
    """The compiler's view of random bytes and numpy's give the same values: sizes, offsets, signs."""
    dtype = layout.SEGMENT_LAYOUTS[name]
    data = np.random.default_rng(seed).integers(1, 255, dtype.itemsize + 64, np.uint8, endpoint=True).tobytes()
    size, fields = c_struct(name, data + b"\0")
    assert size == dtype.itemsize
    record = np.frombuffer(data, dtype, 1)[0]
    assert set(fields) == set(dtype.names or ())
    for field in dtype.names or ():
        ours, theirs = record[field], fields[field]
        if isinstance(theirs, bytes):  # char[]: C's view goes on to the next 0
            assert theirs.startswith(bytes(ours)), field
        elif isinstance(theirs, list):
            assert theirs == np.frombuffer(ours.tobytes(), f"u{dtype[field].itemsize // len(theirs)}").tolist(), field
        else:
            assert int(theirs) == int(ours), field


@pytest.mark.parametrize("name", LAYOUTS)
def test_dtypes_have_no_gaps(name: str) -> None:
    dtype = layout.SEGMENT_LAYOUTS[name]
    end = 0
    for field in dtype.names or ():
        kind, offset = dtype.fields[field][:2]  # type: ignore[index]
        assert offset == end, field
        end += kind.itemsize
    assert end == dtype.itemsize


def tables() -> dict[str, list[tuple[int, int, str, str]]]:
    """Tables of the docstring: {title: [(offset, size, field, type)]}."""
    found: dict[str, list[tuple[int, int, str, str]]] = {}
    title = ""
    for line in (layout.__doc__ or "").splitlines():
        if match := re.match(r"([A-Z_]+)\b", line):
            title = match[1].lower()
        elif match := re.match(r"    (\d+) +(\d+) +(\w+) +(\S+) +\S", line):
            found.setdefault(title, []).append((int(match[1]), int(match[2]), match[3], match[4]))
    return found


def test_every_layout_has_a_table() -> None:
    assert set(tables()) == set(layout.SEGMENT_LAYOUTS)


@pytest.mark.parametrize("name", LAYOUTS)
def test_table_in_the_docstring_is_the_dtype(name: str) -> None:
    dtype = layout.SEGMENT_LAYOUTS[name]
    expected = []
    for field in dtype.names or ():
        kind, offset = dtype.fields[field][:2]  # type: ignore[index]
        base, shape = kind.base, kind.shape
        text = f"{base.kind}{base.itemsize}"
        expected.append((offset, kind.itemsize, field, f"{shape[0]}{text}" if shape else text))
    assert tables()[name] == expected


def numbers(prefix: str) -> dict[str, int]:
    """Enumerators of layout.h that begin with `prefix`, without it."""
    return {name: int(value) for name, value in re.findall(rf"\b{prefix}(\w+) = (\d+)", HEADER)}


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


def test_versions_and_units_of_c_and_python_are_the_same() -> None:
    assert numbers("PL_LAYOUT_") == {"VERSION": layout.LAYOUT_VERSION}
    assert numbers("PL_ARENA_") == {"UNIT_BYTES": layout.ARENA_UNIT_BYTES}
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
