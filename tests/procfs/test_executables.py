"""Executables that are opened and read: only the reported file, only where nothing can block, and bounded."""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from pipeline.proc_text import mount_id, mounts_of
from pipeline.procfs import executables
from pipeline.procfs.executables import ForbiddenFileError, Key, OtherFileError, open_executable, open_path, sha256
from tests.waiting import until

SLEEP = os.path.realpath("/usr/bin/sleep")


def key_of(path: Path | str) -> Key:
    """The key as the kernel reports it: the device is that of the mount."""
    file = os.open(path, os.O_PATH)
    try:
        status, number = os.fstat(file), mount_id(file)
    finally:
        os.close(file)
    major, minor = next(
        fields[2].split(b":")
        for fields, _ in mounts_of(Path("/proc/self/mountinfo").read_bytes())
        if fields[0] == number
    )
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns, int(major) << 20 | int(minor)


def read(key: Key, tgid: int, path: bytes, **options: int) -> str:
    file = open_executable(key, tgid, path)
    try:
        given = {"bytes_max": 1 << 30, "bytes_per_s": 1 << 40} | options
        return sha256(file, key, wait=lambda _: False, now=lambda: time.time_ns() + 10**9, **given)[0]
    finally:
        os.close(file)


@pytest.fixture
def copy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file that can be hashed: /tmp is often a tmpfs, and all directories of a container are on an overlay."""
    monkeypatch.setattr(executables, "_UNSTABLE", executables._UNSTABLE - {b"overlay"})
    with tempfile.TemporaryDirectory(prefix="procline-test-", dir="/var/tmp") as directory:
        yield Path(shutil.copy(SLEEP, Path(directory) / "copy"))


@pytest.fixture
def process(copy: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([copy, "600"])
    yield process
    process.kill()
    process.wait()


def test_the_executable_of_a_process_is_read_also_without_a_name(copy: Path, process: subprocess.Popen[bytes]) -> None:
    expected = hashlib.sha256(copy.read_bytes()).hexdigest()
    assert read(key_of(copy), process.pid, b"/nothing") == expected
    file = os.open(copy, os.O_PATH)
    copy.unlink()
    key = key_of(f"/proc/self/fd/{file}")  # ctime has changed, as it has for the kernel
    os.close(file)
    assert read(key, process.pid, bytes(copy)) == expected


def test_after_the_end_of_a_process_its_path_is_used(copy: Path) -> None:
    assert read(key_of(copy), 1 << 22, bytes(copy)) == hashlib.sha256(copy.read_bytes()).hexdigest()
    os.close(open_path(key_of(SLEEP), os.fsencode(SLEEP)))


@pytest.mark.parametrize("part", range(4))
def test_another_file_is_never_taken(copy: Path, process: subprocess.Popen[bytes], part: int) -> None:
    key = list(key_of(copy))
    key[part] += 1
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(OtherFileError):
        open_executable(tuple(key), process.pid, bytes(copy))
    with pytest.raises(OtherFileError):
        open_path(tuple(key), bytes(copy))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("path", [b"", b"relative", b"/x\0y", b"/nothing", b"/dev/null", b"/" + b"x/" * 5000])
def test_paths_that_lead_nowhere(copy: Path, path: bytes) -> None:
    with pytest.raises((OtherFileError, ForbiddenFileError)):
        open_path(key_of(copy), path)


def test_a_pipe_in_the_place_of_the_file_does_not_block(copy: Path) -> None:
    copy.unlink()
    os.mkfifo(copy)
    with pytest.raises(ForbiddenFileError):
        open_path(key_of(copy), bytes(copy))


def test_a_sparse_file_is_refused_by_its_size(copy: Path) -> None:
    os.truncate(copy, 1 << 40)
    began = time.monotonic()
    with pytest.raises(ForbiddenFileError, match="1099511627776"):
        read(key_of(copy), 1 << 22, bytes(copy), bytes_max=(1 << 40) - 1)
    assert time.monotonic() - began < 20


def test_a_file_that_changes_is_not_used(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = key_of(copy)
    true_read = os.read

    def changing(file: int, n: int) -> bytes:
        os.utime(copy, ns=(1, 1))
        return true_read(file, n)

    file = open_path(key, bytes(copy))
    try:
        with monkeypatch.context() as patched, pytest.raises(OtherFileError, match="while"):
            patched.setattr(executables.os, "read", changing)
            sha256(file, key, bytes_max=1 << 30, bytes_per_s=1 << 40, wait=lambda _: False, now=lambda: 0)
        with pytest.raises(OtherFileError, match="moment"):
            sha256(file, key, bytes_max=1 << 30, bytes_per_s=1, wait=lambda _: False, now=lambda: key[2] + 1)
    finally:
        os.close(file)


def test_a_lease_of_somebody_else_does_not_block(copy: Path) -> None:
    key = key_of(copy)
    held = os.open(copy, os.O_RDWR)
    was = signal.signal(signal.SIGIO, signal.SIG_IGN)
    try:
        fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        began = time.monotonic()
        with pytest.raises(ForbiddenFileError, match="lease"):
            read(key, 1 << 22, bytes(copy))
        assert time.monotonic() - began < 20, "the kernel breaks a lease after 45 s"
    finally:
        fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        os.close(held)
        signal.signal(signal.SIGIO, was)


def test_reading_is_slow_enough_and_ends_when_it_shall(copy: Path) -> None:
    os.truncate(copy, 3 << 18)
    key, pauses = key_of(copy), []

    def wait(seconds: float) -> bool:
        pauses.append(seconds)
        return len(pauses) == 2

    file = open_path(key, bytes(copy))
    try:
        with pytest.raises(OtherFileError, match="ended"):
            sha256(file, key, bytes_max=1 << 30, bytes_per_s=1 << 10, wait=wait, now=lambda: 0)
    finally:
        os.close(file)
    assert 0 < 256 - pauses[0] < 60 and 0 < 512 - pauses[1] < 60


def overwrite(file: int) -> None:
    """Change unused bytes through a mapping; on tmpfs, this changes no time if the page was read before."""
    with mmap.mmap(file, 4096) as mapped:
        assert mapped[0] == 0x7F
        mapped[9:13] = b"evil"


def test_a_file_on_tmpfs_has_no_hash_because_another_content_can_have_its_key(
    missing: Callable[[str], NoReturn],
) -> None:
    with tempfile.TemporaryDirectory(prefix="procline-test-", dir="/dev/shm") as directory:
        copy = Path(shutil.copy(SLEEP, Path(directory) / "copy"))
        key = key_of(copy)
        with copy.open("r+b") as file:
            overwrite(file.fileno())
        assert key_of(copy) == key, "this is why"
        try:
            process = subprocess.Popen([copy, "600"])
        except PermissionError:
            missing("/dev/shm is mounted with noexec")
        try:
            with pytest.raises(ForbiddenFileError, match="tmpfs"):
                open_executable(key, process.pid, b"/nothing")
        finally:
            process.kill()
            process.wait()


def test_a_memfd_has_a_hash_only_if_it_is_sealed_against_writing() -> None:
    with os.fdopen(os.memfd_create("payload", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "r+b", 0) as file:
        file.write(Path(SLEEP).read_bytes())
        status = os.fstat(file.fileno())
        device = os.major(status.st_dev) << 20 | os.minor(status.st_dev)
        key = status.st_ino, status.st_mtime_ns, status.st_ctime_ns, device
        overwrite(file.fileno())

        def digest() -> str:
            given = {"bytes_max": 1 << 30, "bytes_per_s": 1 << 40}
            return sha256(file.fileno(), key, wait=lambda _: False, now=lambda: 0, **given)[0]

        with pytest.raises(ForbiddenFileError, match="sealed"):
            digest()
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
        content = Path(SLEEP).read_bytes()
        assert digest() == hashlib.sha256(content[:9] + b"evil" + content[13:]).hexdigest()


HIDDEN = """
import ctypes, os, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
directory = sys.argv[1]
own = os.getuid(), os.getgid()
if libc.unshare(0x10000000 | 0x20000):
    sys.exit(3)
open("/proc/self/setgroups", "w").write("deny")
open("/proc/self/uid_map", "w").write(f"0 {own[0]} 1")
open("/proc/self/gid_map", "w").write(f"0 {own[1]} 1")
options = f"lowerdir={directory}/a:{directory}/b".encode()
if libc.mount(b"overlay", f"{directory}/m".encode(), b"overlay", 0, options):
    sys.exit(3)
print(os.stat(f"{directory}/m/copy").st_ino, flush=True)
os.execv(f"{directory}/m/copy", ["copy", "600"])
"""


def test_an_overlay_that_a_user_mounted_is_not_touched(
    missing: Callable[[str], NoReturn],
) -> None:
    """Below it there could be a file system that never answers."""
    directory = Path(tempfile.mkdtemp(prefix="procline-test-", dir="/tmp"))
    directory.chmod(0o755)
    for name in ("a", "b", "m"):
        (directory / name).mkdir()
    shutil.copy(SLEEP, directory / "a/copy")
    made = subprocess.Popen(
        ["/usr/bin/python3", "-c", HIDDEN, directory], stdout=subprocess.PIPE, user=65534 if os.geteuid() == 0 else None
    )
    try:
        assert made.stdout is not None
        if not made.stdout.readline():
            missing("users cannot mount an overlay here")
        until(lambda: str(Path(f"/proc/{made.pid}/exe").readlink()).endswith("/copy"))
        with pytest.raises(ForbiddenFileError, match="overlay"):
            open_executable((1, 2, 3, 4), made.pid, b"/nothing")
    finally:
        made.kill()
        made.wait()
        shutil.rmtree(directory)
