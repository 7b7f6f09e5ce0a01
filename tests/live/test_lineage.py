"""Lineage: nesting, images, orphans, reused pids."""

from __future__ import annotations

import json
import os
import subprocess
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from pipeline import Subscriber
from pipeline.errors import TooOldError
from pipeline.shm.layout.layout import HOT
from pipeline.shm.reader._entry import Entry
from tests.live.harness import Daemon, resolve, run_workload, running_workload
from tests.waiting import eventually

pytestmark = pytest.mark.live


def parents_of(pid: int) -> list[int]:
    """Return the pids from the parent of `pid` up to pid 1, from /proc."""
    chain = []
    while pid > 1:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("PPid:"):
                pid = int(line.split()[1])
        chain.append(pid)
    return chain


def test_ancestors_of_a_nest_of_64_reach_pid_1(daemon: Daemon, workload: Path) -> None:
    with running_workload(workload, "nest", 64, 30_000, lines=65) as (_, said), daemon.attach() as table:
        leaf = next(pid for kind, pid, _ in said if kind == "leaf")
        resolve(table, leaf)
        expected = parents_of(leaf)
        assert len(expected) >= 65
        ancestors = table.ancestors(leaf)
        # Images of one process follow each other; with each pid once this is the kernel's chain.
        pids = [a.pid for i, a in enumerate(ancestors) if i == 0 or a.pid != ancestors[i - 1].pid]
        assert pids == expected
        assert ancestors[-1].pid == 1
        # A process from before the capture: its earlier images are unknown, and a mark says so.
        assert ancestors[-1].is_before_capture
        out = json.loads(daemon.cli("ancestors", str(leaf), "--json").stdout)
        assert [a["pid"] for a in out] == [a.pid for a in ancestors]


def test_twenty_execs_in_one_pid_are_twenty_images_in_order(daemon: Daemon, workload: Path) -> None:
    with running_workload(workload, "execs", 20, 30_000) as (pid, _), daemon.attach() as table:
        eventually(lambda: (resolve(table, pid).argv or [])[2:3] == ["0"])
        entry = table.resolve(pid)
        images = [entry, *(a for a in table.ancestors(pid) if a.pid == pid)]
        argvs = [image.argv for image in images if image.is_exec]
        assert [argv[2] for argv in argvs if len(argv) > 2] == [str(n) for n in range(21)]
        # The first image is that of the fork, which is the same as its parent's.
        assert not images[-1].is_exec
        times = [image.exec_time_ns for image in images if image.is_exec]
        assert times == sorted(times, reverse=True)
        assert all(older.exit_time_ns == newer.exec_time_ns for newer, older in pairwise(images))


def test_an_orphan_has_its_reaper_as_parent_and_keeps_its_creator(daemon: Daemon, workload: Path) -> None:
    with running_workload(workload, "doublefork", 30_000, lines=2) as (_, said), daemon.attach() as table:
        orphan, creator = next((a, b) for kind, a, b in said if kind == "orphan")
        eventually(lambda: resolve(table, orphan).ppid == parents_of(orphan)[0])
        entry = resolve(table, orphan)
        assert entry.creator_pid == creator
        assert entry.is_adopted
        assert creator not in [a.pid for a in table.ancestors(orphan)]


def test_events_and_lists_say_that_the_lineage_is_whole(daemon: Daemon) -> None:
    said: dict[str, bool | None] = {}
    with Subscriber(daemon.name, ["proc"], path=daemon.directory, snapshot=True, idle_timeout=60) as subscriber:
        child = 0
        for event in subscriber:
            if event.get("pid") == os.getpid() and event["event"] == "snapshot":
                said["list"] = event["lineage_complete"]
                child = subprocess.Popen(["/bin/true"]).pid
            if child and event.get("pid") == child:
                said[event["event"]] = event["lineage_complete"]
                if event["event"] == "exit":
                    break
    assert set(said) == {"list", "fork", "exec", "exit"} and set(said.values()) == {True}


def is_over(entry: Entry | None, last_argument: str) -> bool:
    return entry is not None and entry.exit_time_ns is not None and (entry.argv or [])[-1:] == [last_argument]


def test_a_pid_that_is_reused_50_times_is_50_processes(live_kernel: None, workload: Path) -> None:
    with Daemon('[args]\nshow = "raw"\n') as daemon, daemon.attach() as table:
        before = time.time_ns()
        made = run_workload(workload, "reuse", 50)
        assert len({pid for _, pid, _ in made}) == 1
        pid = made[0][1]
        # The last process, not one before it: its argument is the number.
        eventually(lambda: is_over(table.resolve(pid), "49"))
        # All start times of the pid, from the rows themselves.
        rows = np.fromfile(daemon.directory / "hot", HOT)
        is_mine = (rows["tgid"] == pid) & (rows["start_boot_ns"] > before - table.boot_unix_ns)
        mine = rows[is_mine & (rows["flags"] != 0)]
        starts = np.unique(mine["start_boot_ns"])
        assert len(starts) == 50
        identities = set()
        for number, start in enumerate(starts.tolist()):
            first = table.resolve(pid, at=start + table.boot_unix_ns)
            assert first is not None and not first.is_exec and first.start_boot_ns == start
            # Between fork and exec it has its parent's image, and no fact of the pid's previous owner.
            assert first.argv == [str(workload), "reuse", "50"]
            last = table.resolve(pid, at=first.exit_time_ns)
            assert last.is_exec and last.argv == ["workload", "nop", str(number)]
            assert last.exit_code == 0 and last.entity_id == first.entity_id
            # Between two of them no process had the pid.
            assert table.resolve(pid, at=last.exit_time_ns + 1) is None
            identities.add(last.entity_id)
        assert len(identities) == 50
        with pytest.raises(TooOldError):
            table.resolve(pid, at=table.boot_unix_ns + 1)
    with Daemon("[tables]\nretention_s = 0\n") as daemon, daemon.attach() as table:
        before = time.time_ns()  # before their ends, however long the workload takes to report that it is done
        made = run_workload(workload, "reuse", 5)
        # Until all its events are in the table, and it has been evicted.
        eventually(lambda: table.resolve(made[0][1], wait_ms=500) is None)
        with pytest.raises(TooOldError):
            table.resolve(made[0][1], at=before)


def test_children_and_tree(daemon: Daemon) -> None:
    with subprocess.Popen(["sleep", "30"]) as child, daemon.attach() as table:
        try:
            resolve(table, child.pid)
            assert child.pid in [c.pid for c in table.children(os.getpid())]
            tree = daemon.cli("tree", str(os.getpid()), "--json")
            assert tree.returncode == 0
            assert str(child.pid) in tree.stdout
        finally:
            child.kill()


def test_an_image_names_the_executable_before_it(daemon: Daemon) -> None:
    with subprocess.Popen(["sleep", "30"]) as child, daemon.attach() as table:
        try:
            eventually(lambda: resolve(table, child.pid).comm == "sleep")
            entry, fork = table.resolve(child.pid), table.ancestors(child.pid)[0]
            mine = Path("/proc/self/exe").stat().st_ino
            assert (entry.exec_inode, entry.is_thread, entry.created_at_ns) == (mine, False, entry.exec_time_ns)
            assert (fork.exec_inode, fork.is_thread, fork.created_at_ns) == (mine, True, fork.fork_time_ns)
            assert entry.inode == Path(f"/proc/{child.pid}/exe").stat().st_ino != mine
        finally:
            child.kill()
