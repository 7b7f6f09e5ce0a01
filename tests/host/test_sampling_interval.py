"""The file that says how soon an instance finds a change by comparison."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.host import sampling_interval


@pytest.mark.parametrize("interval_s", [2.0, 7.5, None])
def test_what_is_written_is_read(tmp_path: Path, interval_s: float | None) -> None:
    (tmp_path / sampling_interval.FILE).write_bytes(sampling_interval.describe(interval_s))
    assert sampling_interval.read(tmp_path) == interval_s


@pytest.mark.parametrize("content", [None, b"", b"{", b"[1]", b'"1"', b"\xff"])
def test_a_file_that_says_nothing(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / sampling_interval.FILE).write_bytes(content)
    assert sampling_interval.read(tmp_path) is None


def test_a_file_of_another_user_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / sampling_interval.FILE).write_bytes(b"2.0")
    (tmp_path / sampling_interval.FILE).chmod(0o666)
    assert sampling_interval.read(tmp_path) is None
