"""Sizes of the parts of a record, for tests that take records apart: TASK grows when a state is added."""

from __future__ import annotations

from pipeline.records import dtypes

HEADER_BYTES = dtypes.HEADER.itemsize
TASK_BYTES = dtypes.TASK.itemsize
#: Bytes of a record without a body and strings. A body begins behind them.
PLAIN_BYTES = HEADER_BYTES + TASK_BYTES
