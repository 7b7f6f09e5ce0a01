"""Readers of a real writer that grows its tables, is killed, has a successor, and begins another epoch."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import BusyError, NotRunningError, StaleError, TooOldError
from pipeline.shm.layout import layout
from pipeline.shm.reader.table import Entry, ProcessTable
from tests.sampling import examples, times
from tests.shm.table_host import Host, make_writer

LIVE_PIDS = range(1, 9)
#: The last one never lives, so at least one of them is absent at any time.
ALL_PIDS = range(1, 31)

WRITER = """
import random, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from pipeline.shm.layout import layout
from tests.shm.table_host import Host, make_writer

seed = int(sys.argv[3])
writer = make_writer(Path(sys.argv[1]), row_capacity=300, args_bytes=64 << 10, retention_ns=50)
host = Host(writer)
for row in writer.torn_rows:  # as the resolver does when it takes over: set right, then made visible
    writer.py_end(row)
host.adopt_model()
choice = random.Random(seed)
for pid in range(1, 9):
    if pid not in host.processes:
        host.fork(0, pid)
writer.heartbeat(time.clock_gettime_ns(time.CLOCK_BOOTTIME))
writer.set_state(layout.STATE_READY)
print("ready", flush=True)
while True:
    for _ in range(20):
        pid = choice.randrange(1, 30)
        name = b"c%d" % choice.randrange(1000)
        if pid not in host.processes:
            host.fork(choice.randrange(1, 9), pid)
        elif pid > 8 and choice.random() < 0.5:
            host.exit(pid)
        elif choice.random() < 0.6:
            host.exec(pid, name, b"\\x08\\0\\0\\0" + name + b"\\0", head_first=choice.random() < 0.5)
        else:
            host.rename(pid, name)
        writer.evict_exited(host.now, 5)
    writer.heartbeat(time.clock_gettime_ns(time.CLOCK_BOOTTIME))
"""


def start_writer(directory: Path, seed: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(directory), str(Path(__file__).parents[3]), str(seed)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def read_for(table: ProcessTable, seconds: float) -> Counter[str]:
    """Look up everything repeatedly; count the results, and fail on impossible ones."""
    seen: Counter[str] = Counter()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for pid in ALL_PIDS:
            try:
                entry = table.resolve(pid)
                if entry is None:
                    assert pid not in LIVE_PIDS, f"pid {pid} lives and was said to be absent"
                    seen["absent"] += 1
                    continue
                assert entry.pid == pid
                assert entry.verify(), "torn"
                for ancestor in table.ancestors(entry):
                    assert ancestor.verify(), "torn ancestor"
                if pid % 7 == 0:
                    rows = table.resolve_many(list(LIVE_PIDS))
                    assert rows["tgid"].tolist() == list(LIVE_PIDS)
                seen["found"] += 1
            except (StaleError, BusyError, TooOldError) as error:
                seen[type(error).__name__] += 1
    return seen


@pytest.mark.expensive
@pytest.mark.slow
def test_a_writer_that_is_killed_leaves_readers_right(shm_dir: Path) -> None:
    """Killed at random moments, also between the stores of one change; then its successor continues, several times."""
    choice = random.Random(31)
    after_kills: Counter[str] = Counter()
    writer = start_writer(shm_dir, 0)
    try:
        with ProcessTable.attach(path=shm_dir) as table:
            for seed in range(1, times(5, 2)):
                seen = read_for(table, 0.1 + choice.random() / 20)
                assert seen["found"] > 100 and seen["absent"] + seen["StaleError"] > 0
                writer.kill()
                assert writer.wait() == -signal.SIGKILL
                after_kills += read_for(table, 0.15)
                writer = start_writer(shm_dir, seed)
                assert read_for(table, 0.1)["found"] > 100
            assert table.view.epoch == 1
    finally:
        writer.kill()
        writer.communicate()
    # Without a writer, no look-up returns "absent"; known processes are still found.
    assert after_kills["absent"] == 0 and after_kills["StaleError"] > 0 and after_kills["found"] > times(100, 10)


def test_rows_that_are_added_later_are_seen(shm_dir: Path) -> None:
    with make_writer(shm_dir, chunk_rows=64) as writer:
        host = Host(writer)
        host.fork(0, 1)
        writer.set_state(layout.STATE_READY)
        with ProcessTable.attach(path=shm_dir) as table:
            for pid in range(2, 900):
                host.fork(pid - 1, pid)
            writer.heartbeat(time.clock_gettime_ns(time.CLOCK_BOOTTIME))
            assert [entry.pid for entry in table.walk()] == list(range(1, 900))
            assert [entry.pid for entry in table.ancestors(899)] == list(range(898, 898 - 512, -1))


def test_a_reader_follows_to_tables_of_another_size(shm_dir: Path) -> None:
    first = make_writer(shm_dir)
    Host(first).fork(0, 1)
    first.set_state(layout.STATE_READY)
    with ProcessTable.attach(path=shm_dir) as table:
        assert table.resolve(1) is not None and table.view.epoch == 1
        first.close()
        with pytest.raises(StaleError):
            table.resolve(1)
        with make_writer(shm_dir, pid_capacity=2048) as second:
            with pytest.raises(StaleError):
                table.resolve(1)
            assert table.view.epoch == 2
            Host(second).fork(0, 2000)
            second.set_state(layout.STATE_READY)
            assert table.resolve(2000) is not None and table.resolve(1) is None
            second.close(remove=True)
        with pytest.raises(NotRunningError):
            table.resolve(2000)


def test_past_owners_of_a_constantly_reused_pid(shm_dir: Path) -> None:
    """50 owners of one pid: each is found at its time while it is retained, and is too old afterwards."""
    with make_writer(shm_dir, retention_ns=10**6, boot_unix_ns=0) as writer:
        host = Host(writer, now=time.clock_gettime_ns(time.CLOCK_BOOTTIME))
        host.fork(0, 1)
        writer.set_state(layout.STATE_READY)
        host.now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        times = []
        for number in range(50):
            host.fork(1, 7)
            host.exec(7, b"n%d" % number, b"")
            times.append(host.now)
            host.exit(7)
            host.now += 10
        writer.heartbeat(time.clock_gettime_ns(time.CLOCK_BOOTTIME))
        with ProcessTable.attach(path=shm_dir) as table:
            owners = [table.resolve(7, at=at) for at in times]
            assert [owner.comm for owner in owners if owner] == [f"n{number}" for number in range(50)]
            assert len({owner.entity_id for owner in owners if owner}) == 50
            assert table.resolve(7, at=times[-1] + 5) is None
            assert table.resolve(7).comm == "n49" and table.resolve(7).is_exited
            assert writer.evict_exited(host.now + 2 * 10**6, 40) == 40
            outcomes = []
            for at in times:
                try:
                    outcomes.append(table.resolve(7, at=at))
                except TooOldError:
                    outcomes.append("too old")
            kept = [outcome for outcome in outcomes if isinstance(outcome, Entry)]
            assert outcomes[: len(outcomes) - len(kept)] == ["too old"] * (50 - len(kept)) and len(kept) >= 10


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["fork", "exec", "rename", "exit", "evict"]), st.integers(1, 12), st.integers(1, 12)),
    max_size=60,
)


@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions=ACTIONS)
def test_readers_agree_with_the_model(shm_dir: Path, actions: list[tuple[str, int, int]]) -> None:
    with make_writer(shm_dir) as writer:
        host = Host(writer)
        host.adopt_model()
        for pid in list(host.processes):
            host.exit(pid)
        host.fork(0, 1)
        writer.set_state(layout.STATE_READY)
        writer.heartbeat(time.clock_gettime_ns(time.CLOCK_BOOTTIME))
        with ProcessTable.attach(path=shm_dir) as table:
            for number, (action, pid, other) in enumerate(actions):
                if action == "fork":
                    host.fork(other, pid)
                elif action == "evict":
                    host.now += 2000
                    writer.evict_exited(host.now, other)
                elif pid in host.processes and action == "exec":
                    host.exec(pid, b"x%d" % number, b"\x04\0\0\0%03d\0" % number)
                elif pid in host.processes and action == "rename":
                    host.rename(pid, b"r%d" % number)
                elif pid in host.processes and action == "exit" and pid != 1:
                    host.exit(pid)
            check_against(table, host)


def check_against(table: ProcessTable, host: Host) -> None:
    """Compare every look-up with the model."""
    live = {entry.pid: entry for entry in table.walk(exited=False)}
    assert set(live) == set(host.processes)
    assert set(table.rows(exited=False)["tgid"].tolist()) == set(host.processes)
    for pid, process in host.processes.items():
        entry = table.resolve(pid)
        assert entry is not None and entry == live[pid] and entry.verify()
        assert (entry.start_boot_ns, entry.ppid, entry.image_number) == (process.start, process.ppid, process.images)
        assert entry.row_bytes()[104:120].rstrip(b"\0") == process.comm
        children = sorted(child for child, other in host.processes.items() if other.ppid == pid)
        assert [child.pid for child in table.children(pid)] == children
        chain = table.ancestors(pid)
        assert [row["tgid"] for row in table.ancestor_rows(pid)] == [ancestor.pid for ancestor in chain]
        images = [ancestor for ancestor in chain if ancestor.pid == pid and ancestor.start_boot_ns == process.start]
        assert len(images) == process.images - 1 or (chain and chain[-1].is_elided)
    for pid in range(1, 13):
        entry = table.resolve(pid)
        if pid not in host.processes:
            assert entry is None or entry.is_exited
