from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from pipeline import files


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_file_is_replaced_whole_with_its_mode_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        for content, mode in ((b"one", 0o644), (b"another one", 0o640), (b"", 0o600)):
            with (tmp_path / "file").open("ab") as held:
                files.replace(tmp_path / "file", content, mode)
                assert os.fstat(held.fileno()).st_nlink == 0, "it is a new file, not the old one with other content"
            assert (tmp_path / "file").read_bytes() == content
            assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode
    finally:
        os.umask(before)
    assert names(tmp_path) == ["file"]


def test_files_of_a_killed_process_are_removed_and_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"other")
    (tmp_path / ".file.new").symlink_to(tmp_path / "other")
    files.replace(tmp_path / "file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content" and not (tmp_path / "file").is_symlink()
    assert (tmp_path / "other").read_bytes() == b"other"
    assert names(tmp_path) == ["file", "other"]


def test_a_failure_leaves_only_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(IsADirectoryError):
        files.replace(tmp_path / "file", b"content")
    with pytest.raises(FileNotFoundError):
        files.replace(tmp_path / "none" / "file", b"content")
    assert names(tmp_path) == ["file"] and names(tmp_path / "file") == []
