"""Terminal names from device numbers, from the kernel's text and from descriptors."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from pipeline.procfs import tty
from pipeline.procfs.tty import TtyNames, clean_tty_name, procfs_tty


def encode(major: int, minor: int) -> int:
    """Encode a device number as the kernel's new_encode_dev() does."""
    return (minor & 0xFF) | major << 8 | (minor & ~0xFF) << 12


@pytest.mark.parametrize(
    ("major", "minor", "name"),
    [
        (136, 3, b"pts3"), (136, 255, b"pts255"), (136, 256, b"pts256"), (136, 1048575, b"pts1048575"),
        (137, 1, b"pts257"), (143, 255, b"pts2047"), (4, 1, b"tty1"), (4, 63, b"tty63"), (4, 64, b"ttyS0"),
        (3, 0x1A, b"ttyqa"), (200, 7, b""),
    ],
)  # fmt: skip
def test_a_number_has_the_kernels_name(tmp_path: Path, major: int, minor: int, name: bytes) -> None:
    names = TtyNames(str(tmp_path))
    assert names.name(encode(major, minor)) == name
    assert names.name(encode(major, minor)) == name, "cached"


def test_no_terminal_has_no_name() -> None:
    assert TtyNames().name(0) == b""


def test_negative_number_is_the_unsigned_one() -> None:
    """proc(5) prints a signed number: a large minor makes it negative."""
    assert TtyNames("/nonexistent").name(encode(136, 1048575) - (1 << 32)) == b"pts1048575"


def test_other_drivers_are_read_from_sysfs(tmp_path: Path) -> None:
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


@contextmanager
def running(stdin: int, *command: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a process with this standard input."""
    command = command or ("sleep", "60")
    with subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, text=True, **options) as child:
        try:
            yield child
        finally:
            child.kill()


def name_with(mount: str, path: str) -> str:
    """Return the terminal of a process with a standard input that a shell command created in its mount namespace."""
    script = f"{mount} && exec sh -c 'echo $$; readlink /proc/self/fd/0; exec sleep 60' <{path}"
    with running(subprocess.DEVNULL, "unshare", "-m", "sh", "-c", script) as child:
        assert child.stdout is not None
        pid = int(child.stdout.readline())
        assert child.stdout.readline() == f"{path}\n"
        return procfs_tty(pid)


@pytest.fixture
def terminal() -> Iterator[tuple[int, int, str]]:
    """Both sides of a pseudo-terminal, and its name."""
    leader, follower = os.openpty()
    try:
        yield leader, follower, "pts" + Path(os.ttyname(follower)).name
    finally:
        for fd in {leader, follower}:
            with suppress(OSError):
                os.close(fd)


def test_descriptor_0_may_be_a_terminal(terminal: tuple[int, int, str]) -> None:
    _, follower, name = terminal
    with running(follower) as child:
        assert procfs_tty(child.pid) == name
    assert procfs_tty(child.pid) == ""


def test_other_files_are_none(tmp_path: Path, terminal: tuple[int, int, str]) -> None:
    (tmp_path / "plain").write_bytes(b"")
    ptmx = terminal[0]
    files = [os.open(file, os.O_RDONLY) for file in (os.devnull, "/dev/zero", tmp_path / "plain", "/dev")]
    for stdin in (*files, subprocess.PIPE, ptmx):
        with running(stdin) as child:
            assert procfs_tty(child.pid) == "", Path(f"/proc/{child.pid}/fd/0").readlink()
    for fd in files:
        os.close(fd)


def test_a_descriptor_that_opened_nothing_is_none(terminal: tuple[int, int, str]) -> None:
    """Any process can have an O_PATH descriptor of another user's terminal."""
    fd = os.open(os.ttyname(terminal[1]), os.O_PATH)
    with running(fd) as child:
        assert Path(f"/proc/{child.pid}/fd/0").readlink() == Path(os.ttyname(terminal[1]))
        assert procfs_tty(child.pid) == ""
    os.close(fd)


def test_a_terminal_that_was_hung_up_is_none(terminal: tuple[int, int, str]) -> None:
    leader, follower, name = terminal
    with running(follower, start_new_session=True) as child:
        assert procfs_tty(child.pid) == name
        os.close(leader)
        assert procfs_tty(child.pid) == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
def test_the_number_counts_and_not_the_path(terminal: tuple[int, int, str]) -> None:
    _, follower, name = terminal
    there = os.ttyname(follower)
    assert name_with("mount -t tmpfs none /dev/pts && : >/dev/pts/3", "/dev/pts/3") == ""
    # A terminal with the path of another file, such as /dev/console in a container.
    assert name_with(f"mount --bind {there} /dev/zero", "/dev/zero") == name


@pytest.mark.parametrize(
    ("major", "minor", "link", "is_terminal"),
    [
        (136, 3, None, True), (143, 0, None, True), (4, 1, None, True), (4, 64, None, True),
        (204, 64, "../../devices/platform/9000000.uart/tty/ttyAMA0", True),
        (5, 1, "../../devices/virtual/tty/console", True),
        (5, 0, "../../devices/virtual/tty/tty", False), (5, 2, "../../devices/virtual/tty/ptmx", False),
        (1, 3, "../../devices/virtual/mem/null", False), (144, 0, None, False), (135, 0, None, False),
    ],
)  # fmt: skip
def test_a_device_is_a_terminal_by_its_number(
    tmp_path: Path, major: int, minor: int, link: str | None, is_terminal: bool
) -> None:
    if link is not None:
        (tmp_path / f"{major}:{minor}").symlink_to(link)
    assert tty._is_terminal(major, minor, str(tmp_path)) is is_terminal
