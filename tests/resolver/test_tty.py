"""Terminal names from numbers, from the kernel's text and from links."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.resolver.tty import TtyNames, clean_tty_name, procfs_tty, tty_of_link


def encode(major: int, minor: int) -> int:
    """The kernel's new_encode_dev()."""
    return (minor & 0xFF) | major << 8 | (minor & ~0xFF) << 12


@pytest.mark.parametrize(
    ("major", "minor", "name"),
    [
        (136, 3, b"pts3"), (136, 255, b"pts255"), (136, 256, b"pts256"), (136, 1048575, b"pts1048575"),
        (137, 1, b"pts257"), (143, 255, b"pts2047"), (4, 1, b"tty1"), (4, 63, b"tty63"), (4, 64, b"ttyS0"),
        (3, 0x1A, b"ttyqa"), (200, 7, b""),
    ],
)  # fmt: skip
def test_number_gives_the_kernels_name(tmp_path: Path, major: int, minor: int, name: bytes) -> None:
    names = TtyNames(str(tmp_path))
    assert names.name(encode(major, minor)) == name
    assert names.name(encode(major, minor)) == name, "cached"


def test_no_terminal_has_no_name() -> None:
    assert TtyNames().name(0) == b""


def test_negative_number_is_the_unsigned_one() -> None:
    """proc(5) prints a signed number: a large minor makes it negative."""
    assert TtyNames("/nonexistent").name(encode(136, 1048575) - (1 << 32)) == b"pts1048575"


def test_other_drivers_are_looked_up_in_sysfs(tmp_path: Path) -> None:
    (tmp_path / "204:64").symlink_to("../../devices/platform/uart/tty/ttyAMA0")
    assert TtyNames(str(tmp_path)).name(encode(204, 64)) == b"ttyAMA0"


def test_cache_is_bounded() -> None:
    names = TtyNames("/nonexistent")
    for minor in range(5000):
        assert names.name(encode(136, minor)) == b"pts%d" % minor
    assert len(names._names) <= 1024
    assert names.name(0) == b""


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (b"pts3\0\0\0", "pts3"), (b"tty1", "tty1"), (b"ttyS0\0junk", "ttyS0"), (b"", ""), (b"\0pts3", ""),
        (b"hvc0", "hvc0"), (b"pts\x01", ""), (b"pts\xff", ""), (b"tty\n", ""),
    ],
)  # fmt: skip
def test_only_a_printable_name_is_kept(raw: bytes, name: str) -> None:
    assert clean_tty_name(raw) == name


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (b"/dev/pts/3", "pts3"), (b"/dev/tty1", "tty1"), (b"/dev/null", ""), (b"/dev/console", "console"),
        (b"/dev/pts/3 (deleted)", ""), (b"pipe:[123]", ""), (b"/home/dev/x", ""), (b"/devices/x", ""),
    ],
)  # fmt: skip
def test_link_of_descriptor_0_gives_a_name(target: bytes, name: str) -> None:
    assert tty_of_link(target) == name


def test_own_descriptor_0(tmp_path: Path) -> None:
    leader, follower = os.openpty()
    try:
        expected = tty_of_link(os.ttyname(follower).encode())
        (tmp_path / "7/fd").mkdir(parents=True)
        (tmp_path / "7/fd/0").symlink_to(os.ttyname(follower))
        assert procfs_tty(7, str(tmp_path)) == expected != ""
        assert procfs_tty(8, str(tmp_path)) == ""
    finally:
        os.close(leader)
        os.close(follower)
