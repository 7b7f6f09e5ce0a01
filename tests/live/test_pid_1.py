"""pid 1, which some kernels hide from the task iterator, agrees with /proc; kernel threads are not in the tables."""

from __future__ import annotations

import json
import os
import pwd
from pathlib import Path

import pytest

from tests.live.harness import Daemon
from tests.live.test_last_thread import daemon as one_daemon
from tests.waiting import eventually

pytestmark = [pytest.mark.live]
daemon = one_daemon


def inode(path: str) -> int | None:
    try:
        return Path(path).stat().st_ino
    except PermissionError:
        return None


def test_pid_1_equals_proc(daemon: Daemon) -> None:
    def found() -> dict:
        entry = json.loads(daemon.cli("resolve", "1", "--json").stdout)
        assert entry["user"] is not None
        return entry

    entry = eventually(found)
    status = dict(line.split(":", 1) for line in Path("/proc/1/status").read_text().splitlines())
    assert entry["comm"] == Path("/proc/1/comm").read_text().rstrip("\n")
    assert entry["argv"] == os.fsdecode(Path("/proc/1/cmdline").read_bytes()).rstrip("\0").split("\0")
    assert [entry[name] for name in ("uid", "euid", "suid", "fsuid")] == [int(one) for one in status["Uid"].split()]
    assert entry["user"] == pwd.getpwuid(entry["uid"]).pw_name and entry["euser"] == pwd.getpwuid(entry["euid"]).pw_name
    assert entry["ns_pid"] == 1
    try:
        executable: str | None = str(Path("/proc/1/exe").readlink())
    except PermissionError:
        executable = None  # some kernels deny it to every user
    assert entry["path"] == executable
    for kind in ("pid", "mnt", "net", "user"):
        theirs = inode(f"/proc/1/ns/{kind}")
        if theirs is None and kind != "user":
            # The link is not readable, but other files show that the namespace is the same as this process's.
            theirs = inode(f"/proc/self/ns/{kind}")
        assert entry[f"{kind}_ns"] == theirs, kind


def test_kernel_threads_are_not_in_the_tables(daemon: Daemon) -> None:
    kernel, user = set(), set()
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            fields = (directory / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        (kernel if int(fields[6]) & 0x200000 else user).add(int(directory.name))
    assert 2 in kernel
    with daemon.attach() as table:
        known = {entry.pid for entry in table.walk() if entry.exit_time_ns is None}
        assert not known & kernel
        assert os.getpid() in known & user
        assert all(not entry.is_kworker for entry in table.walk())
        # Look it up in the cache, in /proc and on the command line.
        for pid in sorted(kernel)[:3]:
            assert table.resolve(pid) is None
            for options in ((), ("--ask",)):
                assert daemon.cli("resolve", str(pid), *options).returncode == 1
