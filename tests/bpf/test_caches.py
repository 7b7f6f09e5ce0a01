"""The kernel's own caches of processes and images, as their readers rely on them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.bpf import iterator, maps, syscall
from pipeline.bpf.loader import Capture
from pipeline.host.boot import TICK_NS
from pipeline.records import declared
from tests.bpf.acts import act, waiting
from tests.bpf.ring_reader import Reader

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("live_kernel")]


@pytest.fixture(scope="module")
def pids(capture: Capture) -> maps.PidMap:
    return maps.PidMap(capture.fds.pid_owners, capture.fds.pid_cache, capture.fds.pid_exchange)


@pytest.fixture(scope="module")
def images(capture: Capture) -> maps.HashMap:
    return maps.proc_cache(capture.fds.proc_cache)


def test_exec_makes_an_image_and_points_the_process_to_it(
    reader: Reader, pids: maps.PidMap, images: maps.HashMap, actions: Path
) -> None:
    with waiting(actions, "wait") as pid:
        record = reader.one(pid, declared.KIND_EXEC)
        entry = pids.get(pid)
        assert entry is not None
        assert entry["cookie"] == record.task["cookie"] != 0
        assert entry["start_boot_ns"] == record.header["start_boot_ns"]
        fork = reader.one(pid, declared.KIND_FORK)
        assert entry["start_boot_ns"] < entry["fork_boot_ns"] <= fork.header["time_boot_ns"]
        assert entry["exit_boot_ns"] == 0
        shared = ("uid", "gid", "euid", "egid", "suid", "sgid", "fsuid", "fsgid", "cap_effective", "cap_permitted")
        for field in (*shared, "auid", "audit_session", "cgroup_id"):
            assert entry[field] == record.task[field], field
        assert entry["ppid"] == os.getpid()
        image = images.get(int(entry["cookie"]))
        assert image is not None
        facts = ("inode", "device", "mount_id", "ctime_ns", "mtime_ns", "file_uid", "file_gid", "nlink", "mode")
        for field in (*facts, "mount_end"):
            assert image[field] == record.body[field], field
        assert image["tgid"] == pid
        assert image["comm"] == b"actions"
        assert image["exec_boot_ns"] <= record.header["time_boot_ns"]
        assert bytes(image["path"])[: image["path_bytes"]] == record.path[:128]
        assert image["path_bytes"] == len(record.path)
    exit_ = reader.one(pid, declared.KIND_EXIT)
    entry = pids.get(pid)
    assert entry is not None
    assert fork.header["time_boot_ns"] < entry["exit_boot_ns"] <= exit_.header["time_boot_ns"]
    assert entry["cookie"] == exit_.task["cookie"]


def test_children_share_the_image_until_they_exec(reader: Reader, pids: maps.PidMap, actions: Path) -> None:
    pid, children = act(actions, "forks", "5")
    reader.ended(pid, *children)
    cookie = reader.one(pid, declared.KIND_EXEC).task["cookie"]
    for child in children:
        assert reader.one(child, declared.KIND_FORK).task["cookie"] == cookie
        entry = pids.get(child)
        assert entry is not None and entry["cookie"] == cookie
    pid, (child,) = act(actions, "run", actions, "nothing")
    exec_ = reader.one(child, declared.KIND_EXEC)
    assert exec_.body["prev_cookie"] == reader.one(child, declared.KIND_FORK).task["cookie"]
    assert exec_.task["cookie"] != exec_.body["prev_cookie"]


def test_the_forked_child_is_known_before_its_record(reader: Reader, pids: maps.PidMap, actions: Path) -> None:
    pid, children = act(actions, "forks", "23")
    reader.ended(pid, *children)
    for child in children:
        entry, record = pids.get(child), reader.one(child, declared.KIND_FORK)
        assert entry is not None
        assert entry["fork_boot_ns"] <= record.header["time_boot_ns"]


def test_processes_older_than_the_capture_are_filled_in(pids: maps.PidMap, images: maps.HashMap) -> None:
    entry = pids.get(os.getpid())
    assert entry is not None and entry["cookie"]
    image = images.get(int(entry["cookie"]))
    assert image is not None
    exe = Path("/proc/self/exe").resolve()
    assert image["inode"] == exe.stat().st_ino
    assert image["exec_boot_ns"] == entry["fork_boot_ns"] == 0
    assert bytes(image["path"])[: image["path_bytes"]] == os.fsencode(exe)


def test_the_iterator_changes_no_cookie(capture: Capture, pids: maps.PidMap) -> None:
    before = pids.get(os.getpid())
    tasks = iterator.read_tasks(capture.fds.iter_link)
    after = pids.get(os.getpid())
    assert before is not None and after is not None
    assert before["cookie"] == after["cookie"]
    mine = tasks.task[tasks.header["tgid"] == os.getpid()]
    assert mine["cookie"] == [before["cookie"]]


def test_an_entry_made_of_proc_alone_is_known_by_its_tick(
    reader: Reader, pids: maps.PidMap, images: maps.HashMap, actions: Path
) -> None:
    """The entry's start is rounded down, but the process's children still share its image."""
    exact = pids.get(os.getpid())
    assert exact is not None
    rounded, image = exact.copy(), images.get(int(exact["cookie"]))
    assert image is not None
    rounded["start_boot_ns"] = int(exact["start_boot_ns"]) // TICK_NS * TICK_NS
    rounded["cookie"] = cookie = 4711
    images.put(cookie, image)
    try:
        pids.put(os.getpid(), rounded)
        pid, _ = act(actions, "nothing")
        assert reader.one(pid, declared.KIND_FORK).task["cookie"] == cookie
        after = pids.get(os.getpid())
        assert after is not None
        assert (after["cookie"], after["start_boot_ns"]) == (cookie, exact["start_boot_ns"])
        # Another tick means another process, and so does an entry that was forked under the capture.
        for start, fork in ((rounded["start_boot_ns"] - TICK_NS, 0), (rounded["start_boot_ns"], 1)):
            other = rounded.copy()
            other["start_boot_ns"], other["fork_boot_ns"] = start, fork
            pids.put(os.getpid(), other)
            pid, _ = act(actions, "nothing")
            assert reader.one(pid, declared.KIND_FORK).task["cookie"] == 0
    finally:
        pids.put(os.getpid(), exact)
        images.delete(cookie)


def test_all_entries_at_once(pids: maps.PidMap, images: maps.HashMap) -> None:
    keys, entries = pids.items()
    assert len(set(keys.tolist())) == len(keys) == len(entries)
    at = keys.tolist().index(os.getpid())
    assert entries[at] == pids.get(os.getpid())
    cookies, _ = images.items()
    assert int(entries[at]["cookie"]) in cookies.tolist()


def test_put_and_delete(pids: maps.PidMap) -> None:
    key = 1 << 30  # above pid_max
    entry = pids.get(os.getpid())
    assert entry is not None
    assert pids.get(key) is None
    pids.put(key, entry, syscall.NOEXIST)
    with pytest.raises(FileExistsError):
        pids.put(key, entry, syscall.NOEXIST)
    assert pids.get(key) == entry
    assert pids.delete(key)
    assert not pids.delete(key)
