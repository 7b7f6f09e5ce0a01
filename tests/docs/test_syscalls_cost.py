"""The cost of the method "syscalls": the ranges in settings and reports cover every table of the documents."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from pipeline.config import methods
from tests.docs.citations import ROOT


class Table(NamedTuple):
    """A table of measured calls: which columns have the time without and with the method, or what it adds.

    Attributes:
        page: the document.
        header: its first row.
        without: the column without the method; None: `columns` has the additional time.
        columns: the columns with the method.
        is_percent: these have percents of the time without it.
    """

    page: str
    header: str
    without: int | None
    columns: tuple[int, ...]
    is_percent: bool = False


TABLES = [
    Table("docs/sources.md", "| system call | without | with `syscalls` |", 1, (2,)),
    Table(
        "docs/sources.md",
        "| system call | no method | `syscalls` without its programs on opens and writes | all of `syscalls` |",
        1,
        (3,),
    ),
    Table("docs/sources.md", "| | no method | `syscalls` without 32-bit calls | all of `syscalls` |", 1, (3,)),
    Table("docs/performance.md", "| call | ns without | default | `syscalls` |", 1, (3,), is_percent=True),
    Table("docs/kernels.md", "| system call | newer set, Xeon | older set, Xeon |", None, (1, 2)),
    Table(
        "docs/kernels.md",
        "| call | without a daemon | newer set | older set | newer, `syscalls` | older, `syscalls` |",
        None,
        (4, 5),
    ),
]
#: Which range a row belongs to; "": it is not a single call, or it is one that is recorded with any method.
KINDS = {
    r"empty|stat$|read of": "every system call of the host",
    r"`?write|`?ioctl": "a write or an ioctl",
    r"`?open": "an open with its close",
    r"signal": "a signal",
    r"`setresuid`|`setpgid`": "setresuid() and the like",
    r"`dd`|rename|cgroup move|fork": "",
}


def ns(cell: str) -> float:
    """Return the time that begins a cell, in ns, or the number of percent."""
    match = re.match(r"([\d,.]+) ?(us|ms)?", cell)
    assert match, cell
    return float(match[1].replace(",", "")) * {None: 1, "us": 1e3, "ms": 1e6}[match[2]]


def added(table: Table) -> Iterator[tuple[str, float]]:
    """Yield the name of a call and the additional time, for each figure."""
    _, _, rest = (ROOT / table.page).read_text(encoding="utf-8").partition(f"\n{table.header}\n")
    assert rest, f"{table.page} has no table {table.header}"
    for line in rest.partition("\n\n")[0].splitlines()[1:]:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        for column in table.columns:
            if not cells[column]:
                continue
            time = ns(cells[column])
            if table.is_percent:
                time *= ns(cells[1]) / 100
            yield cells[0], time - (ns(cells[table.without]) if table.without and not table.is_percent else 0)


def kind_of(call: str) -> str:
    (kind,) = (kind for pattern, kind in KINDS.items() if re.match(pattern, call))
    return kind


@pytest.mark.parametrize("kind", methods.SYSCALLS_ADDS_NS)
def test_a_range_covers_each_measured_figure_and_not_much_more(kind: str) -> None:
    low, high = methods.SYSCALLS_ADDS_NS[kind]
    figures = [time for table in TABLES for call, time in added(table) if kind_of(call) == kind]
    assert low <= min(figures) and max(figures) <= high, figures
    assert low >= 0.4 * min(figures) and high <= 1.1 * max(figures), figures


def test_the_part_for_32_bit_calls() -> None:
    low, high = methods.COMPAT_ADDS_NS
    table = next(table for table in TABLES if "without 32-bit calls" in table.header)
    figures = [time for call, time in added(table._replace(without=2)) if kind_of(call)]
    page = (ROOT / "docs" / "kernels.md").read_text(encoding="utf-8")
    for text in re.findall(r"([\d]+) to (\d+) ns of each call are those for 32-bit calls", page):
        figures += map(int, text)
    assert len(figures) == 6 and low == min(figures) and max(figures) <= high <= 1.1 * max(figures), figures


def test_the_ranges_are_in_the_settings_and_the_reports() -> None:
    example = " ".join((ROOT / "docs" / "procline.toml").read_text(encoding="utf-8").replace("#", "").split())
    for text in (example, methods.SEES["syscalls"]):
        assert "every system call of the host takes 5 to 190 ns longer, a write or an ioctl 25 to 390 ns" in text
        assert methods.SYSCALLS_COST in text
