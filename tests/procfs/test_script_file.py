"""The file of a script, read below the root of its process, and what a hostile path cannot do."""

from __future__ import annotations

import errno
import os
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgpack
import pytest

from pipeline.proc_text import mounts_of
from pipeline.procfs import rooted
from pipeline.procfs import script_file as script_file_module
from pipeline.procfs.proc_reader import read_start
from pipeline.procfs.script_file import script_file
from tests.procfs.roots import needs_root, process_in
from tests.procfs.strangers import stranger


def look(pid: int, invoked: str | bytes) -> dict[str, Any] | None:
    start = read_start(pid)
    assert start is not None
    return script_file(pid, start, os.fsencode(invoked))


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "run me.sh"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o751)
    return path


def process_at(directory: Path) -> AbstractContextManager[int]:
    """Run a process with this working directory."""
    code = "import os,sys;os.chdir(sys.argv[1]);print(os.getpid(),flush=True);sys.stdin.read()"
    return stranger([sys.executable, "-c", code, directory])


def test_the_facts_are_those_of_the_file(script: Path) -> None:
    before = time.time_ns()
    found = look(os.getpid(), str(script))
    assert found is not None
    status = script.stat()
    assert (found["path"], found["inode"], found["mode"]) == (os.fsencode(script), status.st_ino, status.st_mode)
    assert (found["uid"], found["gid"], found["nlink"]) == (status.st_uid, status.st_gid, 1)
    assert (found["mtime_ns"], found["ctime_ns"]) == (status.st_mtime_ns, status.st_ctime_ns)
    assert found["device"] == os.major(status.st_dev) << 20 | os.minor(status.st_dev)
    assert before <= found["looked_at_ns"] <= time.time_ns() and stat.S_IMODE(found["mode"]) == 0o751
    [mount] = [m for m, _ in mounts_of(Path("/proc/self/mountinfo").read_bytes()) if int(m[0]) == found["mount_id"]]
    assert os.fsencode(script).startswith(found["mount_path"]) and mount[4] == found["mount_path"]


def test_a_relative_path_begins_in_the_working_directory(script: Path) -> None:
    with process_at(script.parent) as pid:
        for invoked in (script.name, f"./{script.name}", f"../{script.parent.name}/{script.name}"):
            found = look(pid, invoked)
            assert found is not None and found["inode"] == script.stat().st_ino
        assert look(pid, f"{script.name}/x") is None


@needs_root
def test_another_root_is_that_of_the_process(root: Path, script: Path) -> None:
    (root / "bin").mkdir()
    inside = root / "bin/run"
    inside.write_text("#!/bin/sh\n")
    inside.chmod(0o755)
    (root / "link").symlink_to("/bin/run")
    (root / "out").symlink_to(script)
    (root / "up").symlink_to(f"../../../../../{script}")
    with process_in(root) as pid:
        for invoked in ("/bin/run", "bin/run", "/link", "/../../bin/run"):
            found = look(pid, invoked)
            assert found is not None and found["inode"] == inside.stat().st_ino, invoked
        for outside in (str(script), "/out", "/up", f"/../../..{script}"):
            assert look(pid, outside) is None, outside


def test_a_script_in_shared_memory_is_found() -> None:
    """On most hosts the path crosses two mounts: devtmpfs on /dev, and tmpfs on /dev/shm."""
    with tempfile.NamedTemporaryFile(dir="/dev/shm", prefix="procline-test-") as file:
        os.fchmod(file.fileno(), 0o700)
        found = look(os.getpid(), file.name)
        assert found is not None and found["inode"] == os.fstat(file.fileno()).st_ino


def test_a_pipe_or_device_is_not_opened(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    fifo.chmod(0o777)
    assert look(os.getpid(), str(fifo)) is None
    assert look(os.getpid(), "/dev/null") is None and look(os.getpid(), str(tmp_path)) is None


@pytest.mark.parametrize(
    ("mode", "is_shown"), [(0o644, False), (0o6666, False), (0o100, True), (0o010, True), (1, True)]
)
def test_only_a_file_that_somebody_may_execute_is_shown(script: Path, mode: int, is_shown: bool) -> None:
    """Otherwise a process could use this for a stat of files that it cannot reach, through a link."""
    script.chmod(mode)
    assert (look(os.getpid(), str(script)) is not None) == is_shown


@pytest.mark.parametrize(
    ("chosen_ns", "shown_ns"), [(10**21, (1 << 63) - 1), (-(10**21), -(1 << 63)), (-5, -5), (10**18, 10**18)]
)
def test_times_fit_in_64_bits(script: Path, monkeypatch: pytest.MonkeyPatch, chosen_ns: int, shown_ns: int) -> None:
    """File systems such as XFS and tmpfs store times that others do not."""
    real = os.fstat

    class Status:
        st_mtime_ns = st_ctime_ns = chosen_ns

        def __init__(self, fd: int) -> None:
            self._status = real(fd)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._status, name)

    monkeypatch.setattr(os, "fstat", Status)
    found = look(os.getpid(), str(script))
    assert found is not None and (found["mtime_ns"], found["ctime_ns"]) == (shown_ns, shown_ns)
    msgpack.packb(found)


def test_a_list_of_mounts_that_is_too_long_shows_nothing(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mount that is missing in a cut list would seem not to exist."""
    length = len(Path("/proc/self/mountinfo").read_bytes())
    monkeypatch.setattr(script_file_module, "MOUNTINFO_BYTES_MAX", length)
    assert look(os.getpid(), str(script)) is None
    monkeypatch.setattr(script_file_module, "MOUNTINFO_BYTES_MAX", length + 4096)
    assert look(os.getpid(), str(script)) is not None


def test_a_path_of_many_parts_is_not_opened(tmp_path: Path) -> None:
    parts = rooted.PARTS_MAX - len(tmp_path.parts[1:]) - 1
    deep = tmp_path.joinpath(*["d"] * parts)
    (deep / "d").mkdir(parents=True)
    for path in (deep / "run", deep / "d/run"):
        path.touch()
        path.chmod(0o755)
    assert look(os.getpid(), str(deep / "run")) is not None
    assert look(os.getpid(), f"/.//.{deep}/./run") is not None
    assert look(os.getpid(), str(deep / "d/run")) is None


def test_the_mounts_are_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many directories a path has."""
    path = tmp_path.joinpath("a/b/c/d/e/f/run")
    path.parent.mkdir(parents=True)
    path.touch()
    parsed: list[int] = []

    def counted(text: bytes) -> Iterator[tuple[list[bytes], bytes]]:
        parsed.append(len(text))
        return mounts_of(text)

    def crossing(at: int, name: str, flags: int, resolve: int) -> int:
        if resolve & rooted.RESOLVE_NO_XDEV:
            raise OSError(errno.EXDEV, "crosses a mount")
        return real(at, name, flags, resolve)

    real: Callable[..., int] = rooted.openat2
    monkeypatch.setattr(rooted, "openat2", crossing)
    monkeypatch.setattr(rooted, "mounts_of", counted)
    held = os.open("/", os.O_PATH | os.O_DIRECTORY)
    try:
        os.close(rooted.open_in_root(held, str(path)[1:], b"31 1 0:8 / / rw - ext4 /dev/x rw\n"))
    finally:
        os.close(held)
    assert len(parsed) == 1


@pytest.mark.parametrize(
    "invoked", [b"", b"/proc/self/fd/0", b"/dev/fd/0", b"/nonexistent", b"/tmp\0/x", b"/" + b"a/" * 3000]
)
def test_what_is_no_safe_path_is_unknown(invoked: bytes) -> None:
    assert look(os.getpid(), invoked) is None


def test_another_owner_of_the_pid_is_not_read(script: Path) -> None:
    start = read_start(os.getpid())
    assert start is not None
    assert script_file(os.getpid(), start + 1, os.fsencode(script)) is None
    assert script_file(1 << 22, start, os.fsencode(script)) is None


@pytest.mark.parametrize(
    ("path", "is_open"), [("a/b/run", False), ("a/run", False), ("x/../a/b/run", False), ("c/run", True)]
)
def test_no_file_system_on_the_way_may_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, is_open: bool
) -> None:
    """A file system that is mounted anywhere above the file, if the path crosses a mount."""
    for directory in ("a/b", "c", "x"):
        (tmp_path / directory).mkdir(parents=True)
        (tmp_path / directory / "run").touch()
    (tmp_path / "a/run").touch()
    real: Callable[..., int] = rooted.openat2

    def crossing(at: int, name: str, flags: int, resolve: int) -> int:
        if resolve & rooted.RESOLVE_NO_XDEV:
            raise OSError(errno.EXDEV, "crosses a mount")
        return real(at, name, flags, resolve)

    monkeypatch.setattr(rooted, "openat2", crossing)
    mounts = b"30 1 0:9 / /a rw - fuse.evil evil rw\n31 1 0:8 / /c rw - ext4 /dev/x rw\n"
    held = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    try:
        if is_open:
            os.close(rooted.open_in_root(held, path, mounts))
        else:
            with pytest.raises(OSError, match=path.rpartition("/")[2]):
                rooted.open_in_root(held, path, mounts)
    finally:
        os.close(held)
