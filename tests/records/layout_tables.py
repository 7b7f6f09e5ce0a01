"""Read the layout tables that stand in module docstrings."""

from __future__ import annotations

import re

import numpy as np

_ROW = re.compile(r"^    (\d+) +(\d+) +(\w+) +((?:\d+)?[a-zA-Z]\d+) +(\S+)", re.MULTILINE)
_TITLE = re.compile(r"^([A-Z_]+), (\d+) bytes", re.MULTILINE)


def tables(docstring: str) -> dict[str, tuple[int, list[tuple[int, int, str, str]]]]:
    """Return name -> (bytes, rows); a row is offset, size, field, type as written."""
    titles = list(_TITLE.finditer(docstring))
    found = {}
    for title, end in zip(titles, [*(t.start() for t in titles[1:]), len(docstring)], strict=True):
        rows = [(int(row[1]), int(row[2]), row[3], row[4]) for row in _ROW.finditer(docstring, title.end(), end)]
        found[title[1]] = (int(title[2]), rows)
    return found


def rows_of(dtype: np.dtype[np.void]) -> list[tuple[int, int, str, str]]:
    """Return the same rows, made from the dtype."""
    rows = []
    assert dtype.fields is not None and dtype.names is not None
    for name in dtype.names:
        field, offset = dtype.fields[name][:2]
        rows.append((offset, field.itemsize, name, _type(field)))
    return rows


def _type(field: np.dtype) -> str:
    if field.subdtype is None:
        return field.str.lstrip("<|")
    base, shape = field.subdtype
    return f"{shape[0]}{base.str.lstrip('<|')}"
