"""Packages and hashes of executables, with a running daemon: in entries and events, of host files and hostile ones."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from pipeline import Subscriber
from tests.live.harness import Daemon, resolve
from tests.waiting import eventually

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("live_kernel")]

SLEEP = Path(os.path.realpath("/usr/bin/sleep"))
HASH_BYTES_MAX = 4_000_000


@pytest.fixture(scope="module")
def daemon(live_kernel: None) -> Iterator[Daemon]:
    mounted = subprocess.run(["stat", "-f", "-c", "%T", "/usr/bin", "/var/tmp"], capture_output=True, text=True).stdout
    if {"overlayfs", "tmpfs"} & set(mounted.split()):
        pytest.skip("executables here have no hash: they are on an overlay or tmpfs")
    settings = f"[contexts]\nfile_packages = true\nfile_hashes = true\nfile_hash_bytes = {HASH_BYTES_MAX}\n"
    with Daemon(settings, name="files") as one:
        yield one


@pytest.mark.skipif(not shutil.which("dpkg-query"), reason="needs dpkg")
def test_entries_events_and_commands_have_package_and_hash(daemon: Daemon) -> None:
    query = ["dpkg-query", "-W", "-f", "${Version} ${Architecture}", "coreutils"]
    version, architecture = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()
    package = {"name": "coreutils", "version": version, "architecture": architecture}
    digest = hashlib.sha256(SLEEP.read_bytes()).hexdigest()
    with ExitStack() as stack:
        table = stack.enter_context(daemon.attach())
        process = subprocess.Popen([SLEEP, "600"])
        stack.callback(process.wait)
        stack.callback(process.kill)

        def found() -> tuple[Any, Any]:
            entry = resolve(table, process.pid)
            return entry.file_package, entry.file_sha256

        eventually(lambda: found() == (package, digest), limit_s=60)
        subscriber = stack.enter_context(Subscriber(daemon.name, ["proc.exec"], path=daemon.directory, idle_timeout=30))
        again = subprocess.Popen([SLEEP, "0"])
        again.wait()
        event = next(event for event in subscriber if event["pid"] == again.pid)
        assert (event["file_package"], event["file_sha256"]) == (package, digest), "known from the first event on"
        shown = daemon.cli("resolve", str(process.pid), "-v").stdout
        assert digest in shown and version in shown
        assert f"coreutils {version}" in daemon.cli("why", str(process.pid)).stdout


def test_files_that_must_not_be_read_are_counted(daemon: Daemon) -> None:
    """A user can make an executable of any size that takes no room."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="procline-test-", dir="/var/tmp")))
        copy, huge = directory / "copy", directory / "huge"
        for path in (copy, huge):
            shutil.copy(SLEEP, path)
        os.truncate(huge, 1 << 40)
        table = stack.enter_context(daemon.attach())
        before = table.stats()["counters"]["files_refused"]
        processes = [subprocess.Popen([path, "600"]) for path in (huge, copy)]
        for process in processes:
            stack.callback(process.wait)
            stack.callback(process.kill)
        digest = hashlib.sha256(copy.read_bytes()).hexdigest()
        eventually(lambda: resolve(table, processes[1].pid).file_sha256 == digest, limit_s=60)
        eventually(lambda: table.stats()["counters"]["files_refused"] > before, limit_s=60)
        assert resolve(table, processes[0].pid).file_sha256 is None
        unowned = {"name": None, "version": None, "architecture": None}
        eventually(lambda: resolve(table, processes[1].pid).file_package == unowned, limit_s=60)


def test_a_sealed_executable_in_memory_has_a_hash(daemon: Daemon) -> None:
    content = SLEEP.read_bytes()
    file = os.memfd_create("payload", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    child = 0
    try:
        os.write(file, content)
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
        copy = os.open(f"/proc/self/fd/{file}", os.O_RDONLY | os.O_CLOEXEC)
        os.close(file)  # what is open for writing cannot be executed
        file = copy
        child = os.posix_spawn(f"/proc/self/fd/{file}", ["sleep", "600"], {})
        with daemon.attach() as table:
            digest = hashlib.sha256(content).hexdigest()
            eventually(lambda: resolve(table, child).file_sha256 == digest, limit_s=60)
            assert resolve(table, child).is_memfd
    finally:
        os.close(file)
        if child:
            os.kill(child, 9)
            os.waitpid(child, 0)
