"""docs/memory-layout.md has a place for every field of the specification. Its layout tables are generated."""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.shm.layout import layout

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "memory-layout.md").read_text()


def test_places_are_columns_of_their_size() -> None:
    """In the table of the specification's fields, each place is a column of the stated size."""
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
        if len(cells) == 4 and cells[0] not in ("specification 1", "---"):
            assert any(cells[1:]), f"{cells[0]} has no place"
