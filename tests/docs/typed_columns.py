"""Uses batches and columns, with exact types: script/lint checks this file with mypy --strict.

`test_typed.py` runs it.
"""

from __future__ import annotations

from datetime import datetime
from typing import assert_type

import numpy as np
import numpy.typing as npt

from pipeline import ProcessTable
from pipeline.shm.reader.arrays import AnyArray, IntegerArray, PeriodArray, TimeArray
from pipeline.shm.reader.entry_dict import EntryAttributes


def use(table: ProcessTable) -> None:
    """Read each kind of value of all processes at once."""
    batch = table.batch(["pid", "argv", "user", "start_time"])
    assert_type(batch.dicts(), list[EntryAttributes])
    assert_type(max(row["pid"] for row in batch.dicts()) + 1, int)
    assert_type(batch.column("pid"), list[int])
    assert_type(batch.column("user"), list[str | None])
    assert_type(batch.column("argv"), list[list[str] | None])
    assert_type(batch.column("start_time"), list[datetime | None])
    for name in batch.fields:
        assert_type(batch.column(name), list[object])

    columns = table.columns(["pid", "uid", "user", "argv", "is_thread", "start_time", "duration"])
    assert_type(columns["uid"], IntegerArray)
    assert_type(columns["is_thread"], npt.NDArray[np.bool_])
    assert_type(columns["argv"], npt.NDArray[np.object_])
    assert_type(columns["start_time"], TimeArray)
    assert_type(columns["duration"], PeriodArray)
    assert_type(columns.known("uid"), npt.NDArray[np.bool_])
    assert_type(columns.dictionary("user"), tuple[npt.NDArray[np.int32], list[str]])
    for name in columns:
        assert_type(columns[name], AnyArray)
    assert_type(columns["pid"] > 1, npt.NDArray[np.bool_])
    assert columns.entry(0).pid == columns["pid"][0]
