"""Aligned columns that fit the screen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pipeline.export.text import printable
from pipeline.screen.lines import Line, cell_len
from pipeline.screen.styles import Style

#: Spaces between columns.
_GAP = 2


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        title: its heading.
        is_right: whether it is aligned to the right, as numbers are.
        width_max: wider cells are cut; None: no limit.
    """

    title: str
    is_right: bool = False
    width_max: int | None = None


def table(columns: Sequence[Column], rows: Sequence[Sequence[Line | str]], gap: int = _GAP) -> Iterator[Line]:
    """Yield the heading and a line for each row. The last column is as wide as it needs to be.

    Args:
        columns: their titles and alignment.
        rows: a cell for each column.
        gap: spaces between columns.

    Example:
        >>> [line.plain for line in table([Column("PID", is_right=True), Column("COMMAND")], [["7", "sleep 20"]])]
        ['PID  COMMAND', '  7  sleep 20']
    """
    cells = [[cell if isinstance(cell, Line) else Line(cell) for cell in row] for row in rows]
    if any(column.width_max is not None for column in columns):
        cells = [[cell.cut(column.width_max) for cell, column in zip(row, columns, strict=True)] for row in cells]
    headings = [Line((column.title, Style.HEADING)) for column in columns]
    widths = [
        max(heading.width, max((row[number].width for row in cells), default=0))
        for number, heading in enumerate(headings)
    ]
    last = len(columns) - 1
    places = [(number, column.is_right, widths[number]) for number, column in enumerate(columns)]
    for row in [headings, *cells]:
        line = Line()
        for (number, is_right, width), cell in zip(places, row, strict=True):
            space = " " * (width - cell.width)
            before = " " * gap if number else ""
            if is_right:
                before += space
            if before:
                line.add(before)
            line.join(cell)
            if space and not is_right and number < last:
                line.add(space)
        yield line


def plain_table(columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the text of the lines of `table`, for an output without styles. It takes a fraction of the time.

    Args:
        columns: their titles and alignment; `width_max` is ignored.
        cells: the text of each row, for each column. It is made printable.

    Example:
        >>> list(plain_table([Column("PID", is_right=True), Column("COMMAND")], [["7"], ["sleep 20"]]))
        ['PID  COMMAND', '  7  sleep 20']
    """
    padded: list[Sequence[str]] = []
    last = len(columns) - 1
    for number, (column, found) in enumerate(zip(columns, cells, strict=True)):
        texts = [column.title, *found]
        whole = "".join(texts)  # two questions about one text instead of many
        if not whole.isprintable():
            texts = [text if text.isprintable() else printable(text) for text in texts]
        if number != last or column.is_right:
            pad = str.rjust if column.is_right else str.ljust
            if whole.isascii():
                width = max(map(len, texts))
                texts = [pad(text, width) for text in texts]
            else:
                # `ljust` counts characters, and some take two cells or none.
                widths = [*map(cell_len, texts)]
                width = max(widths)
                texts = [pad(text, width - cells + len(text)) for text, cells in zip(texts, widths, strict=True)]
        padded.append(texts)
    return map((" " * _GAP).join, zip(*padded, strict=True))
