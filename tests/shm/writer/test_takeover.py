"""A successor continues from the state that a killed writer left, at any moment."""

from __future__ import annotations

import gc
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError, WriterExistsError
from pipeline.shm.check.validate import validate_tables
from pipeline.shm.layout import layout
from pipeline.shm.writer import segments
from pipeline.shm.writer._writer import TableWriter
from pipeline.shm.writer.segments import SEGMENTS
from tests.sampling import chosen, examples, some, times
from tests.shm import _inside
from tests.shm.table_host import Host, Process, make_writer
from tests.shm.writer.stepped import OPTIONS, SCENARIOS, Trace, put_state, trace_of

FOREVER = 1 << 62


# -- a kill after any store -------------------------------------------------------------------------------------------


#: Enough that a test sees a kill in the middle of each part of an operation, in nearly every run.
STATES_MIN = 60


def open_state(directory: Path, state: dict[str, bytes]) -> TableWriter:
    put_state(directory, state)
    return make_writer(directory, **OPTIONS)


def settle(writer: TableWriter) -> set[int]:
    """Do the resolver's work on torn rows; return their pids."""
    hot = writer.hot_view()
    pids = set()
    for row in writer.torn_rows:
        assert hot[row]["row_seq"] % 2 == 1
        assert not hot[row]["exit_boot_ns"]
        assert writer.py_head(int(hot[row]["tgid"])) == row
        pids.add(int(hot[row]["tgid"]))
        writer.py_end(row)
    return pids


def is_one_of(found: Process | None, before: Process | None, after: Process | None) -> bool:
    if found in (before, after):
        return True
    # Between the end of a pid's owner and the start of its next owner, the pid has no owner.
    reused = before is not None and after is not None and before.start != after.start
    return reused and found is None


@pytest.mark.expensive
@pytest.mark.parametrize(
    "name",
    chosen(name if name == "fork" else pytest.param(name, marks=pytest.mark.slow) for name in SCENARIOS),
)
def test_writer_killed_after_any_store_is_taken_over(shm_dir: Path, name: str, kept: Path) -> None:
    """Every state that a kill in an operation can leave: sound tables, and each process as before or after it."""
    try:
        trace: Trace = trace_of(name, shm_dir, kept)
    except PermissionError as error:
        pytest.skip(f"needs ptrace on a child process: {error}")
    assert len(trace.states) >= 5
    torn_states = 0
    for number, state in some(list(enumerate(trace.states)), STATES_MIN):
        with open_state(shm_dir / "state", state) as writer:
            assert writer.is_takeover, f"state {number}: {writer.fresh_reason}"
            validate_tables(writer)
            torn = settle(writer)
            torn_states += bool(torn)
            validate_tables(writer)
            host = Host(writer)
            host.adopt_model()
            for pid in {*trace.before, *trace.after, *host.processes}:
                found = (host.processes.get(pid), trace.before.get(pid), trace.after.get(pid))
                if pid in torn:
                    assert found[1] != found[2], f"state {number}: pid {pid} is torn but was not changed"
                else:
                    assert is_one_of(*found), f"state {number}: pid {pid}: {found}"
            # And it continues: a process starts, changes and ends; everything that ended is evicted.
            host.fork(1, 60)
            if 60 in host.processes:
                host.exec(60, b"next", b"next\0")
                host.exit(60)
            host.check()
            for pid in sorted(host.processes, reverse=True):
                host.exit(pid)
            while writer.evict_exited(FOREVER, 1000):
                pass
            assert writer.rows_used == writer.args.records == writer.names.records == 0
            validate_tables(writer)
    if name == "rename":
        assert torn_states


@pytest.mark.expensive
@pytest.mark.slow
def test_commit_killed_after_any_store_is_the_old_one_or_the_new_one(shm_dir: Path, kept: Path) -> None:
    try:
        trace = trace_of("commit", shm_dir, kept)
    except PermissionError as error:
        pytest.skip(f"needs ptrace on a child process: {error}")
    numbers = []
    for state in trace.states:
        header = np.frombuffer(state["control"], layout.CONTROL, 1)[0]
        acks = np.frombuffer(state["control"], layout.RING_ACK, 2, int(header["ring_offset"]))
        with open_state(shm_dir / "state", state) as writer:
            committed = writer.committed()
            now = committed.watermark
            assert committed.rings.tolist() == [(now, now), (now + 1, now)]
            assert committed.topic_seq[:3].tolist() == [now] * 3
            assert writer.counter("frames") == now
            # No ring was acknowledged beyond the commit, so the successor catches up.
            assert (acks["applied_pos"] <= committed.rings["applied_pos"]).all()
            assert writer.ring_ack_view()["applied_pos"].tolist() == [now, now + 1]
            numbers.append(committed.number)
    assert numbers == sorted(numbers)
    assert len(set(numbers)) == 2


# -- a kill at any time -----------------------------------------------------------------------------------------------

STORM = """
import random, sys
from pathlib import Path
sys.path[:0] = [sys.argv[2], sys.argv[3]]
import numpy as np
from tests.shm.table_host import Host, make_writer

writer = make_writer(Path(sys.argv[1]), row_capacity=300, chunk_rows=32, args_bytes=64 << 10, retention_ns=200)
for row in writer.torn_rows:
    writer.py_end(row)
host = Host(writer)
host.adopt_model()
choice = random.Random(int(sys.argv[4]))
print("ready", flush=True)
while True:
    live = sorted(host.processes)
    kind = choice.random()
    if not live or kind < 0.4:
        host.fork(choice.choice(live) if live else 0, choice.randrange(1, 200))
    elif kind < 0.7:
        host.exec(choice.choice(live), b"c%d" % choice.randrange(50), b"a" * choice.randrange(2000))
    elif kind < 0.95:
        host.exit(choice.choice(live))
    else:
        writer.evict_exited(host.now, 50)
        now = np.full(2, host.now, np.uint64)
        writer.commit(host.now, now, now, np.zeros(8, np.uint64))
        writer.acknowledge()
"""


@pytest.mark.expensive
@pytest.mark.slow
def test_writers_killed_one_after_the_other_in_a_storm(shm_dir: Path) -> None:
    """Writers, each taking over from the one before, each killed (-9) at a random moment."""
    choice = random.Random(23)
    root = Path(__file__).parents[3]
    options = {"row_capacity": 300, "chunk_rows": 32, "args_bytes": 64 << 10, "retention_ns": 200}
    number = 0
    for seed in range(times(15, 2)):
        child = subprocess.Popen(
            [sys.executable, "-c", STORM, str(shm_dir), str(root), str(Path(__file__).parent), str(seed)],
            stdout=subprocess.PIPE,
        )  # fmt: skip
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        time.sleep(choice.uniform(0.0, 0.15))
        child.send_signal(signal.SIGKILL)
        assert child.wait(timeout=60) == -signal.SIGKILL
        child.stdout.close()
        with make_writer(shm_dir, **options) as writer:
            assert writer.is_takeover, writer.fresh_reason
            assert writer.takeovers == 2 * seed + 1
            validate_tables(writer)
            settle(writer)
            validate_tables(writer)
            committed = writer.committed()
            assert committed.number >= number
            number = committed.number


# -- state that is taken over -----------------------------------------------------------------------------------------


@pytest.fixture
def host(shm_dir: Path) -> Iterator[Host]:
    with make_writer(shm_dir) as writer:
        host = Host(writer)
        host.fork(0, 1)
        host.fork(1, 5)
        host.exec(5, b"sh", b"sh\0")
        host.fork(5, 6)
        yield host


def successor(host: Host, **changes: object) -> TableWriter:
    host.writer.close()
    return make_writer(host.writer.directory, **changes)


def test_history_counts_and_retention_survive(host: Host) -> None:
    for pid in range(10, 30):
        host.fork(5, pid)
    for pid in range(29, 9, -1):
        host.exit(pid)
    ends = [int(host.hot["exit_boot_ns"][row]) for row in host.writer.listed_rows("queue")]
    before = (host.writer.heads_live, host.writer.heads_exited, host.writer.rows_used)
    host.writer.count("late", 3)
    host.writer.commit(7, np.array([1, 2], np.uint64), np.array([3, 4], np.uint64), np.array([9], np.uint64))
    with successor(host) as writer:
        assert writer.is_takeover
        assert writer.fresh_reason == ""
        assert (writer.heads_live, writer.heads_exited, writer.rows_used) == before
        assert [int(writer.hot_view()[row]["exit_boot_ns"]) for row in writer.listed_rows("queue")] == ends
        assert writer.counter("late") == 3
        assert (writer.epoch, writer.takeovers, writer.state) == (1, 1, layout.STATE_FILLING)
        assert writer.committed().rings.tolist() == [(1, 3), (2, 4)]
        assert sorted(writer.py_children(5)) == [6]
        validate_tables(writer)


def test_counters_continue_from_the_last_commit(host: Host) -> None:
    """Events after the last commit are applied again, and counted again."""
    host.writer.count("late", 3)
    host.writer.commit(7, *np.zeros((3, 2), np.uint64))
    host.writer.count("late", 5)
    with successor(host) as writer:
        assert writer.counter("late") == 3


def test_rows_that_need_nothing_are_not_changed(host: Host) -> None:
    """So what readers keep of them stays valid."""
    host.exec(6, b"ls", b"ls\0")
    host.fork(5, 7)
    host.exit(6)
    before = host.writer.hot_view().copy()
    used = before["flags"] != 0
    assert used.sum() == 6
    with successor(host) as writer:
        assert writer.is_takeover
        assert (writer.hot_view()[used] == before[used]).all()
        assert writer.counter("takeover_rows_repaired") == 0


def test_row_that_was_never_inserted_is_freed(host: Host) -> None:
    row = _inside.copy_row(host.writer, host.writer.py_head(5))
    host.hot["tgid"][row] = 99
    complete = _inside.copy_row(host.writer, host.writer.py_head(5))
    host.hot["tgid"][complete] = 98
    host.writer.py_end(complete)
    used = host.writer.rows_used
    links = [host.writer.py_link(row), host.writer.py_link(complete)]
    with successor(host) as writer:
        assert writer.rows_used == used - 2
        assert [writer.py_follow(link) for link in links] == [0, 0]
        assert writer.torn_rows == []
        validate_tables(writer)


def test_a_torn_live_image_stays_torn_until_it_is_ended(host: Host) -> None:
    row = host.writer.py_head(6)
    host.writer.py_begin(row)
    host.hot["uid"][row] = 7
    with successor(host) as writer:
        assert writer.torn_rows == [row]
        assert writer.hot_view()[row]["row_seq"] % 2 == 1
        assert writer.counter("takeover_rows_repaired") == 1
        assert writer.py_children(5) == [6]
        validate_tables(writer)
        settle(writer)
        validate_tables(writer)


def test_a_cut_history_is_ended_and_marked_with_a_gap(host: Host) -> None:
    image = host.writer.py_follow(int(host.hot["ancestor"][host.writer.py_head(5)]))
    host.writer.py_begin(image)
    host.hot["uid"][image] = 7
    with successor(host) as writer:
        assert writer.torn_rows == []
        assert writer.hot_view()[image]["row_seq"] % 2 == 0
        assert writer.hot_view()[image]["flags"] & layout.ROW_GAP
        validate_tables(writer)


def test_half_of_an_exec_is_undone_when_the_index_has_the_old_image(host: Host) -> None:
    old = host.writer.py_head(6)
    new = _inside.copy_row(host.writer, old)
    host.writer.py_set_link("ancestor", new, old)
    host.writer.py_end(new)
    host.writer.py_begin(old)
    host.hot["flags"][old] = layout.ROW_REPLACED
    host.hot["exit_boot_ns"][old] = host.now
    host.writer.py_end(old)
    with successor(host) as writer:
        hot = writer.hot_view()[old]
        assert writer.py_head(6) == old
        assert (hot["flags"], hot["exit_boot_ns"]) == (layout.ROW_HEAD, 0)
        assert writer.py_follow(writer.py_link(new)) in writer.listed_rows("free")
        validate_tables(writer)


def test_half_of_an_exec_is_finished_when_the_index_has_the_new_image(host: Host) -> None:
    old = host.writer.py_head(6)
    new = _inside.copy_row(host.writer, old)
    host.writer.py_set_link("ancestor", new, old)
    host.hot["exec_boot_ns"][new] = host.now
    host.writer.py_end(new)
    _inside.set_head(host.writer, 6, new)
    with successor(host) as writer:
        hot = writer.hot_view()[old]
        assert writer.py_head(6) == new
        assert (hot["flags"], hot["exit_boot_ns"]) == (layout.ROW_REPLACED, host.now)
        assert old in writer.listed_rows("queue")
        validate_tables(writer)


def test_an_owner_without_a_stored_end_ends_when_the_next_one_starts(host: Host) -> None:
    old = host.writer.py_head(6)
    new = _inside.new_row(host.writer)
    host.hot["tgid"][new] = 6
    host.hot["flags"][new] = layout.ROW_HEAD
    host.hot["start_boot_ns"][new] = host.now + 50
    host.writer.py_set_link("previous_owner", new, old)
    host.writer.py_end(new)
    host.writer.py_orphan(6)
    _inside.set_head(host.writer, 6, new)
    start = host.now + 50
    with successor(host) as writer:
        hot = writer.hot_view()[old]
        assert hot["exit_boot_ns"] == start
        assert hot["flags"] & layout.ROW_EXIT_UNSEEN
        assert writer.heads_exited == 1
        validate_tables(writer)


def test_another_capture_starts_at_0_and_moves_the_horizon(host: Host) -> None:
    host.writer.commit(7, np.array([100, 200], np.uint64), np.array([3, 4], np.uint64), np.array([9], np.uint64))
    host.writer.acknowledge()
    horizon = int(host.writer.control_view()[0]["horizon_boot_ns"])
    with successor(host, capture_id=2) as writer:
        assert writer.is_takeover
        control = writer.control_view()[0]
        assert control["capture_id"] == 2
        assert control["horizon_boot_ns"] > horizon
        assert writer.ring_ack_view()["applied_pos"].tolist() == [0, 0]
        committed = writer.committed()
        assert committed.rings.tolist() == [(0, 0), (0, 0)]
        assert (committed.watermark, committed.topic_seq[0]) == (7, 9)
        assert writer.heads_live == 3


# -- state that is not taken over -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"boot_id": b"x" * 16}, "another boot"),
        ({"row_capacity": 5000}, "row_capacity is 4096, not 5000"),
        ({"args_bytes": 2 << 20}, "args_capacity_bytes"),
        ({"ring_count": 3}, "ring_count"),
        ({"checked": False}, "checked"),
    ],
)
def test_other_capacities_begin_a_new_epoch_and_log_the_reason(
    host: Host, changes: dict[str, object], reason: str
) -> None:
    old = host.writer.control_view()[0]
    with successor(host, **changes) as writer:
        assert not writer.is_takeover
        assert reason in writer.fresh_reason
        assert writer.epoch == 2
        assert writer.rows_used == 0
        assert old["state"] == layout.STATE_SUPERSEDED  # readers of the old files open the tables again
        validate_tables(writer)


def test_pids_of_another_namespace_are_not_taken_over(host: Host) -> None:
    """A daemon in a container may find the tables of one outside, which have other numbers for the same processes."""
    own = int(host.writer.control_view()[0]["pid_ns"])
    with successor(host) as writer:
        assert writer.is_takeover
        writer.control_view()[0]["pid_ns"] = own + 1
        directory = writer.directory
        writer.close()
    with make_writer(directory) as writer:
        assert not writer.is_takeover and f"pid_ns is {own + 1}, not {own}" in writer.fresh_reason
        assert int(writer.control_view()[0]["pid_ns"]) == own


@pytest.mark.parametrize("name", SEGMENTS)
def test_missing_or_short_segment_begins_a_new_epoch(host: Host, name: str) -> None:
    host.writer.close()
    (host.writer.directory / name).unlink()
    with make_writer(host.writer.directory) as writer:
        assert not writer.is_takeover
        assert f"{name} is missing" in writer.fresh_reason
    os.truncate(host.writer.directory / name, 100)
    with make_writer(host.writer.directory) as writer:
        assert not writer.is_takeover
        assert name in writer.fresh_reason
        validate_tables(writer)


def test_reference_to_no_string_begins_a_new_epoch(host: Host) -> None:
    host.hot["args_ref"][host.writer.py_head(5)] += 1
    with successor(host) as writer:
        assert not writer.is_takeover
        assert "refers to a string that does not exist" in writer.fresh_reason


@pytest.mark.parametrize("entry", [0xFFFF_FFFF, 60, 2], ids=["beyond the rows", "never used", "of another pid"])
def test_an_index_entry_that_names_no_row_of_its_pid_begins_a_new_epoch(host: Host, entry: int) -> None:
    """The fuzzer found it: the row was read and written, whatever its number was."""
    host.writer.index_view()[6] = entry
    with successor(host) as writer:
        assert not writer.is_takeover
        assert "pid 6: the index names no row of it" in writer.fresh_reason


def test_an_index_entry_that_has_moved_to_another_pid_begins_a_new_epoch(host: Host) -> None:
    """The index has as many entries as before."""
    index = host.writer.index_view()
    index[6], index[5] = index[5], 0
    with successor(host) as writer:
        assert not writer.is_takeover
        assert "pid 6: the index names no row of it" in writer.fresh_reason


@pytest.mark.parametrize("has_times", [True, False], ids=["times differ", "equal times"])
def test_ancestors_that_form_a_ring_begin_a_new_epoch(host: Host, has_times: bool) -> None:
    """Otherwise a later exec of the process looks for its first image without an end."""
    newest = host.writer.py_head(5)
    oldest = host.writer.py_follow(int(host.hot["ancestor"][newest]))
    host.hot["ancestor"][oldest] = host.writer.py_link(newest)
    if not has_times:
        for row in (oldest, newest):
            host.hot["start_boot_ns"][row] = host.hot["exec_boot_ns"][row] = 7
    with successor(host) as writer:
        assert not writer.is_takeover
        assert "its ancestors form a ring" in writer.fresh_reason


def test_a_link_to_a_row_that_is_being_freed_does_not_keep_it(host: Host) -> None:
    """The predecessor was killed between the row's flags and its generation."""
    newest = host.writer.py_head(5)
    freed = host.writer.py_follow(int(host.hot["ancestor"][newest]))
    host.hot["flags"][freed], host.hot["row_seq"][freed] = 0, host.hot["row_seq"][freed] | 1
    with successor(host) as writer:
        assert writer.is_takeover, writer.fresh_reason
        assert writer.py_follow(int(writer.hot_view()["ancestor"][newest])) == 0
        assert int(writer.private_view("refs")[freed]) == 0


TIMES = st.integers(1, 3)


@settings(max_examples=examples(200), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.none() | st.integers(0, 5), TIMES, TIMES), min_size=1, max_size=6))
def test_rings_are_found_whatever_the_times_of_their_images(
    shm_dir: Path, images: list[tuple[int | None, int, int]]
) -> None:
    """`images` has, for each image, the number of its ancestor, and when its process and it began."""
    ancestors = [None if to is None or to >= len(images) or to == i else to for i, (to, _, _) in enumerate(images)]
    rings = 0
    for i in range(len(images)):
        at = ancestors[i]
        for _ in images:
            rings += at == i
            at = None if at is None else ancestors[at]
    directory = shm_dir / "rings"
    shutil.rmtree(directory, ignore_errors=True)
    with make_writer(directory) as writer:
        writer.has_successor = True
        hot = writer.hot_view()
        rows = [_inside.new_row(writer) for _ in images]
        for i, row in enumerate(rows):
            _, hot["start_boot_ns"][row], hot["exec_boot_ns"][row] = images[i]
            hot["tgid"][row], hot["flags"][row], hot["images"][row] = i + 1, layout.ROW_HEAD, 1
            to = ancestors[i]
            if to is not None:
                writer.py_set_link("ancestor", row, rows[to])
            writer.py_end(row)
            _inside.set_head(writer, i + 1, row)
    with make_writer(directory) as writer:
        assert writer.is_takeover is (rings == 0), writer.fresh_reason
        assert ("its ancestors form a ring" in writer.fresh_reason) is (rings > 0)


def test_tables_of_another_layout_are_left_alone_but_replaced(host: Host) -> None:
    old = host.writer.control_view()[0]
    host.writer.close()
    old["layout_version"] = 99
    with make_writer(host.writer.directory) as writer:
        assert not writer.is_takeover
        assert "layout_version is 99" in writer.fresh_reason
        assert old["state"] == layout.STATE_STOPPED


def test_random_bytes_are_no_tables(shm_dir: Path) -> None:
    rng = np.random.default_rng(7)
    for _ in range(30):
        with make_writer(shm_dir, **OPTIONS) as writer:
            host = Host(writer)
            host.fork(0, 1)
            host.exec(1, b"a", b"b" * 50)
        damaged = rng.choice([name for name in SEGMENTS if name != "control"])
        data = bytearray((shm_dir / damaged).read_bytes())
        for _ in range(40):
            data[int(rng.integers(len(data)))] = int(rng.integers(256))
        with (shm_dir / damaged).open("r+b") as file:
            file.write(data)
        # With or without the old state: no crash, and a usable table.
        with make_writer(shm_dir, **OPTIONS) as writer:
            assert _inside.new_row(writer)


def test_tables_that_are_dropped_free_their_lock(shm_dir: Path) -> None:
    """Otherwise nothing happens: a writer whose program has failed is like one that was killed."""
    writer = make_writer(shm_dir)
    writer.set_state(layout.STATE_READY)
    with pytest.raises(WriterExistsError):
        make_writer(shm_dir)
    state = writer.control_view()
    del writer
    gc.collect()
    assert state[0]["state"] == layout.STATE_READY
    with make_writer(shm_dir) as successor:
        assert successor.is_takeover


@pytest.mark.parametrize("failure", ["modes", "map", "map new", "link"])
def test_a_failure_at_any_step_leaves_no_file_open(host: Host, monkeypatch: pytest.MonkeyPatch, failure: str) -> None:
    directory, files = host.writer.directory, Path("/proc/self/fd")
    host.writer.close()
    changes: dict[str, object] = {}
    if failure == "modes":
        changes = {"modes": {"no-such-segment": 0o600}}
    elif failure == "link":
        (directory / "cold").unlink()
        (directory / "cold").symlink_to("hot")
    else:
        changes = {"row_capacity": 5000} if failure == "map new" else {}
        sizes = segments.allocated

        def allocated(name: str, *rest: Any) -> int:
            if name == "names" and sys._getframe(1).f_code.co_filename != segments.__file__:
                raise OSError("cannot map it")
            return sizes(name, *rest)

        monkeypatch.setattr(segments, "allocated", allocated)
    before = len(list(files.iterdir()))
    with pytest.raises((ConfigError, OSError)):
        make_writer(directory, **changes)
    assert len(list(files.iterdir())) == before


# -- duration ---------------------------------------------------------------------------------------------------------

TAKE_OVER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.shm.table_host import make_writer

with make_writer(Path(sys.argv[1]), row_capacity=50_000, chunk_rows=50_000) as writer:
    assert writer.is_takeover, writer.fresh_reason
    print(writer.control_view()[0]["heartbeat_boot_ns"])
"""


@pytest.mark.expensive
def test_a_take_over_of_many_rows_shows_signs_of_life(shm_dir: Path, tmp_path: Path) -> None:
    """With a clock that moves on by a second whenever it is read, its time is the number of the signs."""
    library = tmp_path / "clock.so"
    build = ["gcc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", library, Path(__file__).with_name("clock.c")]
    subprocess.run(build, check=True)
    signs = []
    for rows in (100, 49_999):
        directory = shm_dir / str(rows)
        with make_writer(directory, row_capacity=50_000, chunk_rows=50_000) as writer:
            writer.hot_view()["generation"][1:rows] = 1
            writer.hot_view()["row_seq"][1:rows] = 1
        root = Path(__file__).parents[3]
        found = subprocess.run(
            [sys.executable, "-c", TAKE_OVER, directory, root], env=os.environ | {"LD_PRELOAD": str(library)},
            stdout=subprocess.PIPE, check=True,
        )  # fmt: skip
        signs.append(int(found.stdout) // 10**9)
    # Each of the three loops over the rows has three in 50,000 rows.
    assert signs[1] - signs[0] == 3 * 3


def test_100000_rows_are_taken_over_quickly(shm_dir: Path) -> None:
    options = {"row_capacity": 100_001, "pid_capacity": 110_000, "args_bytes": 32 << 20, "checked": False}
    with make_writer(shm_dir, **options) as writer:
        host = Host(writer)
        for pid in range(1, 100_001):
            row = _inside.new_row(writer)
            host.refresh(row)
            host.hot["tgid"][row] = pid
            host.hot["flags"][row] = layout.ROW_HEAD
            host.hot["ppid"][row] = 1 if pid > 1 else 0
            writer.py_set_ref("args", row, writer.py_intern_args(b"argument %d of many" % pid))
            writer.py_end(row)
            _inside.set_head(writer, pid, row)
    began = time.process_time()
    writer = make_writer(shm_dir, **options)
    took = time.process_time() - began
    assert writer.heads_live == writer.args.records == 100_000
    writer.close(remove=True)
    assert took < 1, "a look at each row, not at each pair"
