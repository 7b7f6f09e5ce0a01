"""docs/memory-layout.md accounts for every column, and its sums are those of the structs."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from pipeline.shm.layout import tables as layout

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "memory-layout.md").read_text()


@pytest.mark.parametrize(
    ("heading", "dtype"),
    [
        ("## Hot row", layout.HOT),
        ("## Cold row", layout.COLD),
        ("## FILE record", layout.FILE),
        ("## CGROUP record", layout.CGROUP),
    ],
)
def test_columns_and_sizes(heading: str, dtype: np.dtype) -> None:
    section = PAGE.split(heading)[1].split("\n## ")[0]
    rows = re.findall(r"^\| (\d+) \| ([^|]*)\|", section, re.MULTILINE)
    names = [re.findall(r"`(\w+)`", columns) for _, columns in rows]
    assert [name for columns in names for name in columns] == list(dtype.names or ())
    for (size, _), columns in zip(rows, names, strict=True):
        assert int(size) == sum(dtype[column].itemsize for column in columns), columns
    assert sum(int(size) for size, _ in rows) == dtype.itemsize


def test_places_are_columns_of_their_size() -> None:
    """In the table of the specification's fields, each place is a column with the size that it has."""
    section = PAGE.split("## Every field")[1].split("\n## ")[0]
    sizes = {
        name: dtype[name].itemsize
        for dtype in (layout.HOT, layout.COLD, layout.FILE, layout.CGROUP)
        for name in dtype.names or ()
    }
    places = re.findall(r"`(\w+)` (\d+)", section)
    assert len(places) > 50
    for name, size in places:
        assert sizes[name] == int(size), name
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) == 4 and cells[0] not in ("specification §1", "---"):
            assert any(cells[1:]), f"{cells[0]} has no place"
