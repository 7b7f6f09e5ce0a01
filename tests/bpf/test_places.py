"""Which processes keep a place in `pid_cache` and which get one, tested with pids that fall into one set."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from pipeline.bpf import features, maps, syscall
from pipeline.bpf.loader import Capture
from pipeline.host.boot import now_boot_ns
from pipeline.records import declared
from pipeline.resolver.daemon._losses import SharedCounters
from tests.bpf.acts import act
from tests.bpf.ring_reader import RING_BYTES, Reader

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("live_kernel")]

#: Above every pid: an entry that user space makes with it is no process of this host.
NOBODY = 1 << 30


@pytest.fixture(scope="module")
def pids(capture: Capture) -> maps.PidMap:
    return maps.PidMap(capture.fds.pid_owners, capture.fds.pid_cache, capture.fds.pid_exchange)


def numbers_of_one_set(pids: maps.PidMap, count: int = 5) -> list[int]:
    """Pids that are unused and not about to be used, in a set without live processes; the set is empty afterwards."""
    pid_max = int(Path("/proc/sys/kernel/pid_max").read_text())
    used = {int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()}
    newest = int(Path("/proc/sys/kernel/ns_last_pid").read_text())
    for low in range(newest % maps.PID_SETS + maps.PID_SETS // 2, newest % maps.PID_SETS + maps.PID_SETS):
        low %= maps.PID_SETS
        found = [maps.PID_SETS * (i + 1) + low for i in range(count)]
        owners = [word & 0xFFFFFFFF for word in pids._set(low).tolist() if word]
        if found[-1] < pid_max and used.isdisjoint([*found, *owners]):
            for owner in owners:
                pids.delete(owner)
            return found
    raise AssertionError("no set is free")


@contextmanager
def places(pids: maps.PidMap, of: int, count: int) -> Iterator[None]:
    """Keep `count` places free in the set of pid `of`; live entries fill the others inside the block."""
    strangers = [NOBODY + of % maps.PID_SETS + maps.PID_SETS * i for i in range(maps.PID_WAYS - count)]
    try:
        for stranger in strangers:
            pids.put(stranger, np.zeros(1, maps.PID_ENTRY)[0], syscall.NOEXIST)
        yield
    finally:
        for stranger in strangers:
            assert pids.delete(stranger)


@contextmanager
def living(actions: Path, *numbers: int) -> Iterator[None]:
    """Start processes with these pids; they live until the block ends."""
    command = [actions, "lives", *map(str, numbers)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None and parent.stdin is not None
        try:
            assert [int(parent.stdout.readline()) for _ in numbers] == list(numbers)
            yield
        finally:
            parent.stdin.close()
            assert parent.wait(60) == 0


def end(actions: Path, *numbers: int) -> None:
    """Start processes with these pids, which end one after another."""
    assert act(actions, "ends", *map(str, numbers))[1] == list(numbers)


def test_an_image_is_named_in_place_and_once(pids: maps.PidMap, actions: Path) -> None:
    pid, *_ = numbers_of_one_set(pids)
    with living(actions, pid):
        told = pids.get(pid)
        assert told is not None and told["cookie"]
        assert not pids.name_image(pid, 5)
        nameless = told.copy()
        nameless["cookie"] = 0
        pids.put(pid, nameless)
        assert pids.name_image(pid, 5) and not pids.name_image(pid, 6)
        named = pids.get(pid)
        assert named is not None and named["cookie"] == 5 and named["start_boot_ns"] == told["start_boot_ns"]
    assert pids.delete(pid) and not pids.name_image(pid, 5)


def test_live_processes_keep_their_places_during_many_forks(pids: maps.PidMap, actions: Path) -> None:
    oldest, *others = numbers_of_one_set(pids)
    with places(pids, oldest, 3), living(actions, oldest):
        before = pids.get(oldest)
        for _ in range(6):
            end(actions, *others)
        after = pids.get(oldest)
        assert before is not None and after == before and after["exit_boot_ns"] == 0


def test_live_processes_stay_in_a_storm(live_kernel: None, actions: Path) -> None:
    """Processes with any pids, many more than a set has places; on a small host the pids are reused."""
    with Capture(ring_bytes=RING_BYTES) as capture:
        pids = maps.PidMap(capture.fds.pid_owners, capture.fds.pid_cache, capture.fds.pid_exchange)
        keys, entries = pids.items()
        mine = {int(key): int(entry["start_boot_ns"]) for key, entry in zip(keys, entries, strict=True)}
        assert os.getpid() in mine
        subprocess.run([actions, "storm", "5003", "0"], check=True)
        for pid, start in mine.items():
            if Path(f"/proc/{pid}").exists():
                entry = pids.get(pid)
                assert entry is not None and entry["start_boot_ns"] == start, pid
        assert not SharedCounters(capture.fds.shared, capture.ring_count).pids_full


def test_an_ended_process_is_found_until_its_place_is_reused(pids: maps.PidMap, actions: Path) -> None:
    ended = numbers_of_one_set(pids)
    with places(pids, ended[0], 3):
        for i, number in enumerate(ended):
            end(actions, number)
            for one in ended[max(0, i - 2) : i + 1]:
                entry = pids.get(one)
                assert entry is not None and entry["exit_boot_ns"]
            for one in ended[: max(0, i - 2)]:
                assert pids.get(one) is None
            time.sleep(0.003)  # ends within one millisecond are not ordered


def test_a_reused_pid_has_only_the_entry_of_its_new_owner(pids: maps.PidMap, actions: Path) -> None:
    pid, *others = numbers_of_one_set(pids)
    end(actions, pid, pid, pid)
    first = pids.get(pid)
    assert first is not None and first["exit_boot_ns"]
    with places(pids, pid, 2), living(actions, pid):
        end(actions, *others, *others)
        entry = pids.get(pid)
        assert entry is not None and entry["exit_boot_ns"] == 0
        assert entry["start_boot_ns"] > first["exit_boot_ns"]
        assert np.count_nonzero(pids.items()[0] == pid) == 1


def test_a_full_set_is_counted_and_the_process_recorded(actions: Path) -> None:
    with Capture(ring_bytes=RING_BYTES) as capture:
        reader = Reader(capture)
        counters = SharedCounters(capture.fds.shared, capture.ring_count)
        pids = maps.PidMap(capture.fds.pid_owners, capture.fds.pid_cache, capture.fds.pid_exchange)
        first, second, *_ = numbers_of_one_set(pids)
        with places(pids, first, 1):
            with living(actions, first):
                assert counters.pids_full == 0
                end(actions, second)
                assert counters.read()
                assert counters.pids_full == 2  # its fork and its end
                assert pids.get(second) is None
                # Its fork record still has its creator's image.
                fork = reader.one(second, declared.KIND_FORK)
                execed = reader.one(int(fork.header["ppid"]), declared.KIND_EXEC)
                assert fork.task["cookie"] == execed.task["cookie"] != 0
                assert reader.one(second, declared.KIND_EXIT).task["cookie"] == 0
            # The first has ended, so there is a free place.
            end(actions, second)
            assert pids.get(second) is not None and pids.get(first) is None
        counters.read()
        assert counters.pids_full == 2


def test_a_stranger_is_entered_when_it_ends(pids: maps.PidMap, actions: Path) -> None:
    pid = numbers_of_one_set(pids)[0]
    with living(actions, pid):
        assert pids.delete(pid) and pids.get(pid) is None
    entry = pids.get(pid)
    assert entry is not None and entry["exit_boot_ns"] and entry["cookie"] == 0


def test_user_space_uses_free_places_before_those_of_the_first_to_end(pids: maps.PidMap) -> None:
    low = numbers_of_one_set(pids)[0] % maps.PID_SETS
    keys = [NOBODY + low + maps.PID_SETS * i for i in range(maps.PID_WAYS + 3)]
    lives, other = np.zeros(2, maps.PID_ENTRY)
    try:
        for i, key in enumerate(keys[: maps.PID_WAYS]):
            entry = lives.copy()
            if i in (2, 5):
                entry["exit_boot_ns"] = now_boot_ns() - (i << 30)
            pids.put(key, entry, syscall.NOEXIST)
            with pytest.raises(FileExistsError):
                pids.put(key, entry, syscall.NOEXIST)
        for key, gone in ((keys[maps.PID_WAYS], keys[5]), (keys[maps.PID_WAYS + 1], keys[2])):
            assert pids.get(gone) is not None
            pids.put(key, lives)
            assert pids.get(gone) is None and pids.get(key) is not None
        with pytest.raises(OSError, match="too long"):  # E2BIG
            pids.put(keys[-1], lives)
        other["cookie"] = 5
        pids.put(keys[0], other)  # over its own entry
        assert pids.get(keys[0]) == other
    finally:
        freed = [pids.delete(key) for key in keys]
    assert sum(freed) == maps.PID_WAYS


def test_a_place_that_is_being_written_has_no_owner(pids: maps.PidMap) -> None:
    """As after a kill in the middle of a write: look-ups do not find the entry, and no other entry gets its place."""
    low = numbers_of_one_set(pids)[0] % maps.PID_SETS
    key, place = NOBODY + low, low * maps.PID_WAYS
    pids._words[place] = maps.PLACE_BUSY << 32 | key
    try:
        assert pids.get(key) is None and not pids.delete(key)
        with pytest.raises(FileExistsError):
            pids.put(key, np.zeros(1, maps.PID_ENTRY)[0])
        assert key not in pids.items()[0].tolist()
    finally:
        pids._words[place] = 0


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the older set of this machine has no locks")
def test_user_space_takes_no_place_while_a_program_has_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the older set, a program compares a word and stores another one under a lock, not in one operation."""
    monkeypatch.setenv(features.FORCE, "old")
    with Capture(ring_bytes=RING_BYTES, credentials="off", task_iterator="off") as capture:
        pids = maps.PidMap(capture.fds.pid_owners, capture.fds.pid_cache, capture.fds.pid_exchange)
        locks = capture._map_fds["pl_locks"]
        low = numbers_of_one_set(pids)[0] % maps.PID_SETS
        key, lock = NOBODY + low, low.to_bytes(4, "little")
        (entry,) = np.zeros(1, maps.PID_ENTRY)
        entry["cookie"] = 7
        syscall.update(locks, lock, bytes(4), syscall.NOEXIST)
        with pytest.raises(OSError, match="too long"):  # E2BIG
            pids.put(key, entry, syscall.NOEXIST)
        assert pids.get(key) is None and not pids._set(key).any()
        assert syscall.delete(locks, lock)
        pids.put(key, entry, syscall.NOEXIST)
        assert pids.get(key) == entry
        assert not syscall.delete(locks, lock), "the program has kept the lock"


def test_the_order_of_ends_survives_a_wrap_of_their_stamps() -> None:
    unit, half = 1 << 20, 1 << 31
    assert maps.end_stamp(0) == 1 and maps.end_stamp(half * unit - 1) < maps.PLACE_BUSY
    assert maps.end_stamp(half * unit + 5 * unit) == maps.end_stamp(5 * unit)
    assert all(maps.end_stamp(ns) & 1 for ns in range(0, 8 * unit, unit // 3))
