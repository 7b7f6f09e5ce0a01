"""The kernel's maps of a running instance contain the processes that are older than it, also those only in /proc."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline.bpf import maps
from pipeline.host import boot
from pipeline.procfs.proc_reader import ProcReader
from pipeline.resolver.entries.kernel_maps import is_rounded
from tests.live.harness import Daemon, each_change
from tests.waiting import eventually

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("live_kernel")]

#: Each line of input is one step: fork, change credentials, exec.
STEPS = """
import os, signal, sys, time
sys.stdin.readline()
child = os.fork()
if not child:
    signal.pause()
print(child, flush=True)
sys.stdin.readline()
os.kill(child, signal.SIGKILL)
os.setresuid(1234, 1234, 0)
print("changed", flush=True)
sys.stdin.readline()
os.execv("/bin/sleep", ["sleep", "300"])
"""


class Maps:
    """Return both maps of a daemon."""

    def __init__(self, pids: maps.PidMap, images: maps.HashMap) -> None:
        self.pids = pids
        self.images = images

    def of(self, pid: int) -> tuple[Any, Any]:
        """Return the two records of a process."""
        owner = self.pids.get(pid)
        assert owner is not None, pid
        return owner, self.images.get(int(owner["cookie"]))


@contextmanager
def maps_of(daemon: Daemon) -> Iterator[Maps]:
    fds = [
        daemon.map_fd(key_size=4, value_size=8 * maps.PID_WAYS, max_entries=maps.PID_SETS),
        daemon.map_fd(key_size=4, value_size=maps.PID_ENTRY.itemsize),
        daemon.map_fd(key_size=8, value_size=maps.IMAGE_ENTRY.itemsize),
    ]
    try:
        yield Maps(maps.PidMap(fds[0], fds[1]), maps.proc_cache(fds[2]))
    finally:
        for fd in fds:
            os.close(fd)


def older(reader: ProcReader) -> dict[int, Any]:
    """Return the live user processes."""
    infos = [reader.read(pid) for pid in reader.list_pids().tolist()]
    return {info.tgid: info for info in infos if info is not None and not info.is_kthread and not info.is_zombie}


def assert_held(held: Maps, before: dict[int, Any], reader: ProcReader) -> int:
    """Check that the maps agree with /proc for all older, unchanged processes; returns their number."""
    compared = 0
    for pid, info in before.items():
        now = reader.read(pid)
        if now is None or now.is_zombie or now.start_ticks != info.start_ticks:
            continue
        owner, image = held.of(pid)
        assert boot.is_same_start(int(owner["start_boot_ns"]), info.start_ticks), pid
        assert (owner["fork_boot_ns"], owner["exit_boot_ns"]) == (0, 0), pid
        if (now.uids, now.gids, now.cap_effective, now.exe) != (info.uids, info.gids, info.cap_effective, info.exe):
            continue
        assert tuple(int(owner[name]) for name in ("uid", "euid", "suid", "fsuid")) == info.uids, pid
        assert tuple(int(owner[name]) for name in ("gid", "egid", "sgid", "fsgid")) == info.gids, pid
        for name in ("cap_effective", "cap_permitted", "auid", "mnt_ns", "net_ns", "user_ns"):
            assert int(owner[name]) == getattr(info, name), (pid, name)
        assert owner["cookie"] and image is not None, pid
        # On some hosts /proc hides facts of pid 1.
        assert (image["inode"], image["exec_boot_ns"]) == (info.exe_inode, 0), (pid, info.exe)
        compared += 1
    return compared


def test_the_snapshot_fills_both_maps_without_the_iterator() -> None:
    steps = subprocess.Popen(
        [sys.executable, "-c", STEPS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert steps.stdin is not None and steps.stdout is not None
    try:
        with ProcReader() as reader:
            before = eventually(lambda: _with(older(reader), steps.pid))
            with (
                Daemon(each_change() + 'task_iterator = "off"\n', name="mapped") as daemon,
                daemon.attach() as table,
                maps_of(daemon) as held,
            ):
                assert assert_held(held, before, reader) >= 2
                counters = daemon.stat()["counters"]
                assert counters["maps_filled"] >= 2 and counters["maps_refused"] == 0
                owner, image = held.of(steps.pid)
                assert is_rounded(owner) and image["tgid"] == steps.pid
                assert table.resolve(steps.pid).cookie == owner["cookie"]
                # Its child shares the image.
                steps.stdin.write("\n")
                child = int(steps.stdout.readline())
                eventually(lambda: table.resolve(child) is not None)
                assert held.of(child)[0]["cookie"] == owner["cookie"] == table.resolve(child).cookie
                exact, _ = held.of(steps.pid)
                assert not is_rounded(exact) and exact["fork_boot_ns"] == 0
                # A change of credentials is made in place.
                steps.stdin.write("\n")
                assert steps.stdout.readline() == "changed\n"
                changed = eventually(lambda: held.of(steps.pid)[0]["uid"] == 1234 and held.of(steps.pid)[0])
                assert changed["cookie"] == owner["cookie"]
                eventually(lambda: table.resolve(steps.pid).uid == 1234)
                # An exec changes the image.
                steps.stdin.write("\n")
                eventually(lambda: table.resolve(steps.pid).comm == "sleep")
                renewed, image = held.of(steps.pid)
                assert renewed["cookie"] != owner["cookie"] and renewed["uid"] == 1234
                assert renewed["start_boot_ns"] == exact["start_boot_ns"]
                assert image["inode"] == Path("/bin/sleep").stat().st_ino and image["exec_boot_ns"]
                assert table.resolve(steps.pid).cookie == renewed["cookie"]
    finally:
        steps.kill()
        steps.wait()


def test_new_maps_are_filled_for_tables_that_are_taken_over() -> None:
    """A take-over has no snapshot: the comparison that follows it fills the maps."""
    with ProcReader() as reader:
        before = older(reader)
        with Daemon('[capture]\ntask_iterator = "off"\n', name="remapped") as daemon:
            daemon.kill()
            daemon.start()
            assert daemon.stat()["takeovers"] == 1
            with maps_of(daemon) as held:
                assert eventually(lambda: assert_held(held, before, reader), 20) >= 2
                with daemon.attach() as table:
                    mine = os.getpid()
                    eventually(lambda: table.resolve(mine).cookie == held.of(mine)[0]["cookie"])


def test_processes_that_the_iterator_omits_are_in_the_maps() -> None:
    """Pid 1, on some kernels. The records of its children contain its exact start time.

    The test starts its own daemon, because unused images leave the map after 16,384 others.
    """
    with ProcReader() as reader, Daemon(name="init") as daemon, maps_of(daemon) as held:
        init = older(reader)[1]
        assert assert_held(held, {1: init}, reader) == 1
        with daemon.attach() as table:
            assert table.resolve(1).cookie == held.of(1)[0]["cookie"]


def _with(found: dict[int, Any], pid: int) -> dict[int, Any]:
    """Return `found` as soon as the process runs Python instead of the image of its parent."""
    assert pid in found and b"signal.pause" in (found[pid].argv or b"")
    return found
