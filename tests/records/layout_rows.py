"""Describe a dtype as the rows of a table."""

from __future__ import annotations

import numpy as np


def rows_of(dtype: np.dtype[np.void]) -> list[tuple[int, int, str, str]]:
    """Return offset, size, name and type of each field; the type is written as in a declaration."""
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
