"""Parsing of the iterator's output, on bytes made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.bpf.iterator import parse_tasks
from pipeline.records import dtypes
from tests.record_sizes import PLAIN_BYTES, TASK_BYTES


def record(tgid: int, path: bytes) -> bytes:
    header = np.zeros(1, dtypes.HEADER)
    header["tgid"] = tgid
    exec_ = np.zeros(1, dtypes.EXEC)
    header["record_bytes"] = PLAIN_BYTES + exec_.itemsize + len(path)
    exec_["path_bytes"] = len(path)
    return header.tobytes() + bytes(TASK_BYTES) + exec_.tobytes() + path


def test_columns_and_paths() -> None:
    tasks = parse_tasks(record(7, b"/a") + record(8, b"") + record(9, b"/\xff"))
    assert tasks.header["tgid"].tolist() == [7, 8, 9]
    assert tasks.exec["path_bytes"].tolist() == [2, 0, 2]
    assert tasks.paths == [b"/a", b"", b"/\xff"]
    assert len(tasks.task) == len(tasks) == 3


def test_nothing() -> None:
    assert len(parse_tasks(b"")) == 0


@pytest.mark.parametrize("data", [record(7, b"/a")[:-1], record(7, b"") + b"x" * 60, bytes(352)])
def test_inconsistent_lengths_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="task iterator"):
        parse_tasks(data)
