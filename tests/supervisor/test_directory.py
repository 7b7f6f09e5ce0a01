"""The runtime directory: one instance claims it, an unsafe one is rejected, and it is removed completely."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import paths
from pipeline.errors import ConfigError, UnsupportedError, UntrustedError, WriterExistsError
from pipeline.supervisor import directory
from pipeline.supervisor.directory import InstanceDirectory, group_id, put_aside


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="procline-test-", dir="/dev/shm"))
    monkeypatch.setenv(paths.RUNTIME_DIR_VARIABLE, str(path / "root"))
    yield path / "root"
    shutil.rmtree(path)


def test_one_claim_at_a_time(root: Path) -> None:
    with InstanceDirectory("a") as first:
        with pytest.raises(WriterExistsError) as caught:
            InstanceDirectory("a")
        assert caught.value.tgid == os.getpid()
        with InstanceDirectory("b"):
            pass
        first.remove()
        assert not (root / "a").exists()
    with InstanceDirectory("a"):
        pass


def test_modes_do_not_depend_on_the_umask(root: Path) -> None:
    before = os.umask(0o077)
    try:
        with InstanceDirectory("a") as directory:
            assert directory.path.stat().st_mode & 0o777 == 0o755
            assert (directory.path / "stream").stat().st_mode & 0o777 == 0o755
            directory.write("x", b"1")
            assert (directory.path / "x").stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(before)


def test_files_in_the_directories_inherit_the_group() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to choose a group")
    with InstanceDirectory("a", group=12) as directory:
        for place in (directory.path, directory.path / "stream", directory.path / "requests"):
            assert place.stat().st_mode & 0o7777 == 0o2755
            (place / "made").touch()
            assert (place / "made").stat().st_gid == 12
        assert (directory.path / "frames").stat().st_mode & 0o7777 == 0o700


def test_the_directory_of_an_earlier_run_is_taken_over(root: Path) -> None:
    with InstanceDirectory("a") as first:
        first.write("control", b"left")
    with InstanceDirectory("a") as second:
        assert (second.path / "control").read_bytes() == b"left"
        (second.path / "stream" / "stream.ipc").touch()
        second.remove()
    assert list(root.iterdir()) == []


def test_a_claim_waits_for_the_writer_of_a_killed_run(root: Path) -> None:
    with InstanceDirectory("a") as first:
        lock = os.open(first.path / paths.WRITER_LOCK, os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with pytest.raises(WriterExistsError, match="earlier run"):
        InstanceDirectory("a", takeover_timeout_s=0.1)
    ending = threading.Timer(0.2, os.close, [lock])
    ending.start()
    begun = time.monotonic()
    with InstanceDirectory("a", takeover_timeout_s=10):
        assert time.monotonic() - begun < 5
    ending.join()


def contend(results: multiprocessing.Queue) -> None:
    for _ in range(50):
        try:
            with InstanceDirectory("a") as directory:
                directory.write("mine", b"%d" % os.getpid())
                results.put((directory.path / "mine").read_bytes() == b"%d" % os.getpid())
                directory.remove()
        except WriterExistsError:
            pass


@pytest.mark.slow
def test_claiming_and_removing_concurrently_never_makes_two_owners() -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    results = context.Queue()
    others = [context.Process(target=contend, args=(results,)) for _ in range(3)]
    for other in others:
        other.start()
    for other in others:
        other.join(60)
        assert other.exitcode == 0
    seen = [results.get(timeout=60)]
    while not results.empty():
        seen.append(results.get())
    assert all(seen)


def test_a_directory_of_another_user_is_refused(root: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to give a directory away")
    (root / "a").mkdir(parents=True)
    os.chown(root / "a", 65534, 65534)
    with pytest.raises(UntrustedError, match="a belongs to uid 65534"):
        InstanceDirectory("a")


def test_a_link_to_a_directory_that_everybody_may_write_to_is_refused(root: Path) -> None:
    root.mkdir()
    (root / "a").symlink_to("/dev/shm")
    with pytest.raises(UntrustedError, match="written by everybody"):
        InstanceDirectory("a")


@pytest.mark.parametrize("place", [".", "root", "root/a", "root/a/frames"])
def test_a_parent_directory_that_others_may_write_to_is_refused(root: Path, place: str) -> None:
    with InstanceDirectory("a"):
        pass
    (root.parent / place).chmod(0o775)
    with pytest.raises(UntrustedError, match=rf"group {os.getegid()} \(mode 0775\).*chmod go-w") as caught:
        InstanceDirectory("a")
    assert caught.value.path == os.path.normpath(root.parent / place) and caught.value.mode == 0o775


@pytest.fixture
def shared(root: Path) -> Path:
    """A directory that everybody may write to, as /dev/shm."""
    if os.geteuid() != 0:
        pytest.skip("needs root to give a directory away")
    path = root.parent / "shared"
    path.mkdir()
    path.chmod(0o1777)
    return path


def test_the_fallback_is_made_as_roots(shared: Path) -> None:
    for _ in range(2):
        put_aside(shared / "procline")
        assert [each.name for each in shared.iterdir()] == ["procline"]
        assert (shared / "procline").stat().st_mode & 0o7777 == 0o755


@pytest.mark.parametrize("kind", ["directory", "link", "file"])
def test_another_users_fallback_is_put_aside(shared: Path, kind: str) -> None:
    path = shared / "procline"
    {"directory": path.mkdir, "link": lambda: path.symlink_to("/tmp"), "file": path.touch}[kind]()
    os.chown(path, 65534, 65534, follow_symlinks=False)
    put_aside(path)
    assert path.lstat().st_uid == 0 and path.is_dir() and not path.is_symlink()
    (aside,) = shared.glob("procline-not-ours-*")
    assert aside.lstat().st_uid == 65534


def test_the_fallback_of_another_daemon_stays_where_it_is(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both saw the directory of another user, and the other daemon was faster."""
    path = shared / "procline"
    (path / "default").mkdir(parents=True)
    owners = iter([65534])
    monkeypatch.setattr(directory, "_owner_of", lambda each: next(owners, each.lstat().st_uid))
    put_aside(path)
    assert (path / "default").is_dir() and [each.name for each in shared.iterdir()] == ["procline"]


def test_a_grandparent_of_another_user_is_refused(root: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to give a directory away")
    os.chown(root.parent, 65534, 65534)
    with pytest.raises(UntrustedError, match=f"{root.parent} belongs to uid 65534"):
        InstanceDirectory("a")
    assert not root.exists()


@pytest.mark.parametrize("kind", ["directory", "link", "file"])
def test_root_renames_a_directory_of_another_user_at_the_fallback(
    monkeypatch: pytest.MonkeyPatch, root: Path, kind: str
) -> None:
    """`root` stands for /dev/shm/procline: its parent is a sticky, world-writable directory."""
    if os.geteuid() != 0:
        pytest.skip("needs root to give a directory away")
    root.parent.chmod(0o1777)
    if kind == "directory":
        (root / "a").mkdir(parents=True)
    elif kind == "link":
        root.symlink_to("/proc")
    else:
        root.touch()
    os.chown(root, 65534, 65534, follow_symlinks=False)
    monkeypatch.delenv(paths.RUNTIME_DIR_VARIABLE)
    monkeypatch.setattr(paths, "FALLBACK", root)
    monkeypatch.setattr(paths, "is_in_memory", lambda path: path != paths.RUN)
    with InstanceDirectory("a") as directory:
        assert directory.path == root / "a" and root.lstat().st_uid == 0 and not root.is_symlink()
        assert root.stat().st_mode & 0o7777 == 0o755
    (aside,) = [path for path in root.parent.iterdir() if path != root]
    assert aside.lstat().st_uid == 65534 and aside.name.startswith("root-not-ours-")
    with InstanceDirectory("a"):
        assert len(list(root.parent.iterdir())) == 2, "nothing is put aside twice"


def test_a_path_too_long_for_a_socket_is_refused_before_anything_is_made(root: Path) -> None:
    with pytest.raises(ConfigError, match="bytes long"):
        InstanceDirectory("x" * 64)
    assert not root.exists()


def test_a_disk_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(paths.RUNTIME_DIR_VARIABLE, "/proc/here")
    with pytest.raises(UnsupportedError, match="not on tmpfs"):
        InstanceDirectory("a")


def test_group_names_are_resolved_once_at_start() -> None:
    assert group_id("") == -1
    assert group_id("root") == 0
    with pytest.raises(ConfigError, match="groupadd --system no-such-group"):
        group_id("no-such-group")
