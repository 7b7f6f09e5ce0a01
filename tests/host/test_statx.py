"""statx(2) and its structure."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.host import statx


def test_a_file_has_the_facts_that_stat_returns(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    path.chmod(0o640)
    os.link(path, tmp_path / "other")
    os.utime(path, ns=(1, 1_234_567_890_123_456_789))
    found, expected = statx.statx(statx.AT_FDCWD, os.fsencode(path)), path.stat()
    assert found is not None
    assert (found.inode, found.mode, found.nlink) == (expected.st_ino, expected.st_mode, 2)
    assert (found.uid, found.gid) == (expected.st_uid, expected.st_gid)
    assert (found.ctime_ns, found.mtime_ns) == (expected.st_ctime_ns, 1_234_567_890_123_456_789)
    assert found.device == os.major(expected.st_dev) << 20 | os.minor(expected.st_dev)
    assert (found.own_major, found.own_minor) == (0, 0)


def test_a_device_file_has_the_number_of_its_device_and_its_mount() -> None:
    fd = os.open("/dev/null", os.O_RDONLY)
    try:
        found = statx.statx(fd, b"/dev/null", statx.AT_DONT_SYNC)
        mount = int(Path(f"/proc/self/fdinfo/{fd}").read_bytes().partition(b"mnt_id:")[2].split()[0])
    finally:
        os.close(fd)
    assert found is not None
    assert (found.own_major, found.own_minor) == (1, 3)
    assert found.mount_id in {mount, 0}, "0: before Linux 5.8"


def test_a_path_is_below_the_directory_and_a_missing_file_has_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        assert statx.statx(fd, b"file") is not None
        assert statx.statx(fd, b"missing") is None
    finally:
        os.close(fd)
