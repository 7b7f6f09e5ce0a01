"""Directories and files that another user could have created or changed are rejected anywhere on the path."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline import trust
from pipeline.errors import AccessError, UntrustedError

STRANGER, SERVICE, OTHER = 65534, 1234, 1235

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files away")


@pytest.fixture
def top() -> Iterator[Path]:
    """A directory of ours below a sticky one that everyone can write to."""
    path = Path(tempfile.mkdtemp(prefix="procline-test-", dir="/dev/shm"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def instance(top: Path) -> Path:
    """The directory of an instance below `top`, with one file."""
    (top / "procline" / "default").mkdir(parents=True)
    (top / "procline" / "default" / "control").write_bytes(b"tables")
    return top / "procline" / "default"


def give(path: Path, user: int) -> None:
    os.chown(path, user, user, follow_symlinks=False)


def test_a_file_of_our_own_is_read(instance: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert trust.read(instance / "control") == b"tables"
    with trust.Directory(instance) as directory, trust.Directory(instance, mine=True):
        assert directory.read("control") == b"tables"
    assert directory.fd == -1
    monkeypatch.chdir(instance.parent)
    assert trust.read("default/../default/control") == b"tables"


def test_no_descriptor_is_left(instance: Path) -> None:
    (instance / "link").symlink_to(instance)
    (instance / "loop").symlink_to("loop")
    (instance / "bad").symlink_to("/dev/shm")
    before = len(list(Path("/proc/self/fd").iterdir()))
    trust.read(instance / "link" / "control")
    for missing in ("loop/x", "bad", "control/x", "none/x", "none", "bad/none"):
        with pytest.raises((OSError, UntrustedError)):
            trust.Directory(instance / missing)
        with pytest.raises((OSError, UntrustedError)):
            trust.read(instance / missing)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_missing_file_is_an_os_error_with_the_whole_path(instance: Path) -> None:
    for path, error in ((instance / "no" / "x", FileNotFoundError), (instance / "control" / "x", NotADirectoryError)):
        with pytest.raises(error) as caught:
            trust.Directory(path)
        assert caught.value.filename == str(path.parent)
    with trust.Directory(instance) as directory, pytest.raises(FileNotFoundError) as missing:
        directory.open("index")
    assert missing.value.filename == str(instance / "index")


@needs_root
@pytest.mark.parametrize("mine", [False, True])
def test_another_users_directory_below_a_sticky_one_is_refused(instance: Path, top: Path, mine: bool) -> None:
    give(top, STRANGER)
    with pytest.raises(UntrustedError, match=rf"{top} belongs to uid 65534 .*forged.*PROCLINE_RUNTIME_DIR") as caught:
        trust.Directory(instance, mine=mine)
    assert isinstance(caught.value, AccessError)
    assert (caught.value.path, caught.value.owner, caught.value.mode) == (str(top), STRANGER, 0o700)
    with pytest.raises(UntrustedError):
        trust.read(instance / "control")


@needs_root
def test_readers_accept_the_one_user_that_root_made_owner_of_the_directory(instance: Path) -> None:
    """For example /run/procline, which systemd creates for the service user."""
    give(instance.parent, SERVICE)
    give(instance, SERVICE)
    give(instance / "control", SERVICE)
    assert trust.read(instance / "control") == b"tables"
    with pytest.raises(UntrustedError, match="procline belongs to uid 1234"):
        trust.Directory(instance, mine=True)
    give(instance / "control", OTHER)
    with pytest.raises(UntrustedError, match="control belongs to uid 1235"):
        trust.read(instance / "control")
    give(instance / "control", SERVICE)
    give(instance, OTHER)
    with pytest.raises(UntrustedError, match="default belongs to uid 1235"):
        trust.read(instance / "control")


@needs_root
def test_the_service_user_is_not_accepted_below_a_sticky_directory(instance: Path) -> None:
    give(instance.parent, SERVICE)
    (instance.parent / "shared").mkdir()
    instance.rename(instance.parent / "shared" / "default")
    give(instance.parent / "shared" / "default", SERVICE)
    assert trust.read(instance.parent / "shared" / "default" / "control") == b"tables"
    (instance.parent / "shared").chmod(0o1777)
    with pytest.raises(UntrustedError, match="shared/default belongs to uid 1234"):
        trust.read(instance.parent / "shared" / "default" / "control")


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o2775])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_directory_that_others_may_write_to_is_refused(instance: Path, top: Path, mode: int, level: int) -> None:
    place = (top, instance.parent, instance)[level]
    place.chmod(mode)
    with pytest.raises(UntrustedError, match=f"{place} .*can be written by .*mode {mode:04o}.*chmod go-w") as caught:
        trust.Directory(instance)
    assert caught.value.path == str(place)


def test_the_instances_directory_may_not_even_be_sticky(instance: Path) -> None:
    instance.parent.chmod(0o1777)
    trust.Directory(instance).close()
    instance.chmod(0o1777)
    with pytest.raises(UntrustedError, match="everybody"):
        trust.Directory(instance)


@needs_root
def test_links_are_followed_only_if_they_are_ours(instance: Path, top: Path) -> None:
    (top / "relative").symlink_to("procline/default")
    (top / "absolute").symlink_to(instance)
    for link in ("relative", "absolute"):
        assert trust.read(top / link / "control") == b"tables"
        give(top / link, STRANGER)
    # Root has created them for their owner, as it does with directories; a daemon does not follow them nevertheless.
    with pytest.raises(UntrustedError, match="relative belongs to uid 65534"):
        trust.Directory(top / "relative", mine=True)
    top.chmod(0o1777)
    for link in ("relative", "absolute"):
        with pytest.raises(UntrustedError, match=f"{link} belongs to uid 65534"):
            trust.read(top / link / "control")


@pytest.mark.parametrize("kind", ["link", "fifo", "socket", "directory"])
def test_only_regular_files_are_opened(instance: Path, kind: str) -> None:
    make: dict[str, Callable[[Path], object]] = {
        "link": lambda path: path.symlink_to("control"), "fifo": os.mkfifo, "directory": Path.mkdir,
        "socket": lambda path: socket.socket(socket.AF_UNIX).bind(str(path)),
    }  # fmt: skip
    make[kind](instance / "file")
    with pytest.raises(UntrustedError, match="file is not a regular file"):
        trust.read(instance / "file")


def test_a_file_that_others_may_write_is_refused(instance: Path) -> None:
    (instance / "control").chmod(0o664)
    with pytest.raises(UntrustedError, match=r"control .*mode 0664"):
        trust.read(instance / "control")


@needs_root
def test_sockets_of_strangers_are_refused(instance: Path) -> None:
    path = instance / "stream.ipc"
    for missing in (path, instance / "none" / "stream.ipc"):
        with pytest.raises(FileNotFoundError):
            trust.check_socket(missing)  # a socket that is made later may be a stranger's
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    path.chmod(0o666)
    trust.check_socket(path)
    give(path, STRANGER)
    # A service user may own a socket in root's directory only if it owns a directory of the path.
    with pytest.raises(UntrustedError, match=r"stream\.ipc belongs to uid 65534"):
        trust.check_socket(path)
    with pytest.raises(UntrustedError, match="not a socket"):
        trust.check_socket(instance / "control")
    listener.close()


def test_missing_directories_are_made_with_their_mode(top: Path) -> None:
    before = os.umask(0o077)
    try:
        trust.Directory(top / "a" / "b", mine=True, make=0o755).close()
    finally:
        os.umask(before)
    assert (top / "a").stat().st_mode & 0o7777 == (top / "a" / "b").stat().st_mode & 0o7777 == 0o755
    (top / "a").chmod(0o777)
    with pytest.raises(UntrustedError):
        trust.Directory(top / "a" / "c" / "d", mine=True, make=0o755)
    assert not (top / "a" / "c").exists(), "nothing is created where other users can write"
