"""The hash of (pid, pid namespace) keys: compared with a dict, read by another process meanwhile, and after a kill."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import StaleError
from pipeline.shm.layout import layout
from pipeline.shm.reader._reader import TableReader
from pipeline.shm.writer._keys import NamespaceKeys, segment_bytes
from pipeline.shm.writer._segment import Segment
from pipeline.shm.writer._writer import TableWriter
from pipeline.shm.writer.keyspace import KeySpace
from tests.sampling import examples
from tests.shm import _inside
from tests.shm.table_host import make_writer

FIRST = 100
#: Few numbers in few namespaces, so that keys repeat; some differ only in the high half.
KEYS = st.tuples(st.integers(1, 12), st.sampled_from([1, 2, 4026531836, 0xFFFFFFFF]))


def keys_of(capacity: int, segment: Segment | None = None) -> tuple[NamespaceKeys, Segment]:
    segment = segment or Segment("keys", -1, segment_bytes(capacity), 0)
    return NamespaceKeys(segment, FIRST, capacity), segment


@settings(max_examples=examples(200), deadline=None)
@given(st.integers(1, 20), st.lists(st.one_of(KEYS, st.lists(st.integers(0, 25), max_size=5), st.just(None))))
def test_it_is_a_dict(capacity: int, steps: list[object]) -> None:
    """A key adds itself, a list removes slots, None is a successor that maps the same bytes."""
    keys, segment = keys_of(capacity)
    model: dict[tuple[int, int], int] = {}
    for step in steps:
        if step is None:
            keys, segment = keys_of(capacity, segment)
        elif isinstance(step, list):
            keys.remove(step)
            model = {key: tgid for key, tgid in model.items() if tgid - FIRST not in step}
        elif isinstance(step, tuple) and step not in model:
            tgid = keys.add(*step)
            assert (tgid != 0) == (len(model) < capacity)
            if tgid:
                assert FIRST <= tgid < FIRST + capacity and tgid not in model.values()
                model[step] = tgid
        for key, tgid in model.items():
            assert keys.find(*key) == tgid and keys.key_of(tgid) == key
        for pid in range(1, 13):
            for pid_ns in (1, 2, 4026531836, 0xFFFFFFFF):
                assert keys.find(pid, pid_ns) == model.get((pid, pid_ns), 0)
        assert keys.used == len(model)
    assert keys.find(0, 1) == 0 and keys.add(0, 1) == 0 and keys.key_of(FIRST + capacity) == (0, 0)


def test_each_layout_of_the_buckets_has_a_later_number() -> None:
    """Otherwise a search that began before a layout could take its number for that of another, and report *absent*."""
    keys, segment = keys_of(4)
    number = np.frombuffer(segment, layout.KEYS, 1)["rebuild_seq"]
    seen = [int(number[0])]
    for pid in (1, 2):
        keys.add(pid, 1)
        assert int(number[0]) == seen[-1]
        keys.remove(int(number[0]) % 2 for _ in range(1))  # slot 1 while the number is odd
        seen.append(int(number[0]))
    keys, segment = keys_of(4, segment)
    seen.append(int(number[0]))
    assert keys.used == 1 and keys.find(1, 1) and not keys.find(2, 1)
    assert seen == sorted(set(seen)) and not any(each % 2 for each in seen)


def test_slots_come_back_as_late_as_possible() -> None:
    keys, _ = keys_of(4)
    first = [keys.add(pid, 1) for pid in (1, 2, 3)]
    keys.remove([first[1] - FIRST])
    assert keys.add(4, 1) == FIRST + 3 and keys.add(5, 1) == first[1]


@pytest.mark.parametrize("cut", ["bucket is missing", "layout is cut short"])
def test_a_successor_finds_the_keys_of_a_killed_writer(cut: str) -> None:
    keys, segment = keys_of(8)
    tgids = {pid: keys.add(pid, 7) for pid in range(1, 6)}
    raw = np.frombuffer(segment, np.uint8)
    if cut == "layout is cut short":
        raw[:4].view(np.uint32)[0] |= 1
        raw[64 + 8 * 8 :] = 0
    else:
        table = raw[64 + 8 * 8 :].view(np.uint32)
        table[np.flatnonzero(table)[0]] = 0
    keys, _ = keys_of(8, segment)
    assert {pid: keys.find(pid, 7) for pid in tgids} == tgids and keys.used == 5
    assert not int(raw[:4].view(np.uint32)[0]) & 1


# -- slots -----------------------------------------------------------------------------------------------------------


def enter(w: TableWriter, tgid: int, key: tuple[int, int], *, ppid: int = 0, end: int = 0) -> int:
    """Make a row of a process with a key, in the index."""
    row = _inside.new_row(w)
    hot, cold = w.hot_view(), w.cold_view()
    hot["tgid"][row], hot["start_boot_ns"][row], hot["ppid"][row] = tgid, 1, ppid
    hot["flags"][row] = layout.ROW_HEAD | layout.ROW_FOREIGN
    cold["ns_pid"][row], cold["pid_ns"][row] = key
    w.py_end(row)
    _inside.set_head(w, tgid, row)
    if end:
        finish(w, row, end)
    return row


def finish(w: TableWriter, row: int, end: int) -> None:
    w.py_begin(row)
    w.hot_view()["exit_boot_ns"][row] = end
    w.py_end(row)
    w.py_retire(row)


def test_slots_are_reclaimed_late_and_never_while_a_row_names_them(shm_dir: Path) -> None:
    now = 1_000_000
    with make_writer(shm_dir, key_capacity=4) as w:
        space = KeySpace(w, lambda: now, quiet_ns=1000)
        child, parent, gone, ended = (space.slot(pid, 9) for pid in (1, 2, 3, 4))
        assert min(child, parent, gone, ended) >= w.root_pids and space.slot(1, 9) == child
        enter(w, child, (1, 9), ppid=parent)
        enter(w, ended, (4, 9), end=500)
        # All were looked up just now.
        assert space.slot(5, 9) == 0 and w.counter("keys_refused") == 1
        now += 2_000_000_000
        assert space.slot(5, 9) == gone and space.find(3, 9) == 0
        # Now the exited process is removed; the live one and its parent stay.
        assert space.slot(6, 9) == ended and w.py_head(ended) == 0 and w.counter("keys_recycled") == 2
        assert w.control_view()[0]["horizon_boot_ns"] >= 500
        now += 2_000_000_000
        enter(w, gone, (5, 9))
        enter(w, ended, (6, 9))
        assert space.slot(7, 9) == 0 and space.find(1, 9) == child and space.find(2, 9) == parent


def test_a_parent_that_is_no_entry_of_the_index_keeps_no_slot(shm_dir: Path) -> None:
    """A damaged row is no reason to fail."""
    now = 1_000_000
    with make_writer(shm_dir, key_capacity=2) as w:
        space = KeySpace(w, lambda: now, quiet_ns=0)
        child, gone = space.slot(1, 9), space.slot(2, 9)
        enter(w, child, (1, 9), ppid=0xFFFF_FFFF)
        assert space.slot(3, 9) == gone


def test_keys_and_rows_survive_a_take_over(shm_dir: Path) -> None:
    with make_writer(shm_dir) as w:
        tgid = w.keys.add(7, 9)
        row = enter(w, tgid, (7, 9))
        w.set_state(layout.STATE_READY)
    with make_writer(shm_dir) as w:
        assert w.is_takeover and w.keys.find(7, 9) == tgid and w.py_head(tgid) == row
        w.set_state(layout.STATE_READY)
        entry = TableReader(shm_dir).resolve(7, pid_ns=9)
        assert entry is not None and (entry.pid, entry.pid_ns, entry.row, entry.is_foreign) == (7, None, row, True)


def test_numbers_of_namespaces_are_never_mixed_with_pids(shm_dir: Path) -> None:
    with make_writer(shm_dir) as w:
        w.set_state(layout.STATE_READY)
        one, other, parent = w.keys.add(7, 9), w.keys.add(7, 10), w.keys.add(3, 9)
        enter(w, other, (7, 10))
        enter(w, parent, (3, 9))
        w.py_set_link("parent", enter(w, one, (7, 9), ppid=parent), w.py_head(parent))
        plain = _inside.new_row(w)
        w.hot_view()["tgid"][plain], w.hot_view()["flags"][plain] = 7, layout.ROW_HEAD
        w.cold_view()["ns_pid"][plain], w.cold_view()["pid_ns"][plain] = 5, 11
        w.hot_view()["start_boot_ns"][plain] = 1
        w.py_end(plain)
        _inside.set_head(w, 7, plain)
        reader = TableReader(shm_dir)
        found = reader.resolve(7)
        assert found is not None and found.row == plain and not found.is_foreign
        with pytest.raises(StaleError, match="beyond the index"):
            reader.resolve(one)
        assert reader.resolve(3) is None
        entry = reader.resolve(7, pid_ns=9)
        assert entry is not None and (entry.pid, entry.ppid, entry.is_foreign) == (7, 3, True)
        assert entry.entity_id.split("-")[1] == "9.7" and "foreign" in entry.marks
        assert reader.resolve(7, pid_ns=12) is None
        # The daemon's own process, by its number in an inner namespace, and by the number in the daemon's namespace.
        inner = reader.resolve(5, pid_ns=11)
        assert inner is not None and inner.row == plain
        outer = reader.resolve(7, pid_ns=reader.view.pid_ns)
        assert outer is not None and outer.row == plain
        assert [child.pid for child in reader.children(3, pid_ns=9)] == [7] and reader.children(3) == []
        assert sorted((e.pid, e.is_foreign) for e in reader.walk()) == [(3, True), (7, False), (7, True), (7, True)]
        assert reader.rows()["tgid"].tolist() == [7]
        with pytest.raises(ValueError, match="only for processes that a tracer"):
            reader.resolve(5, 1 << 62, pid_ns=11)


def test_a_reader_in_another_process_sees_whole_keys(shm_dir: Path) -> None:
    """Keys change while another process looks them up: each hit is the requested key, and a lasting key is found."""
    program = textwrap.dedent("""
        import random, sys, time
        from pathlib import Path
        sys.path.insert(0, sys.argv[2])
        from pipeline.errors import BehindError, BusyError
        from pipeline.shm.reader._reader import TableReader
        reader, rng, hits = TableReader(sys.argv[1]), random.Random(1), 0
        print("ready", flush=True)
        while not Path(sys.argv[1], "enough").exists():
            for _ in range(2000):
                pid, ns = rng.randint(1, 400), rng.randint(1, 2)
                try:
                    entry = reader.resolve(pid, pid_ns=ns)
                except (BehindError, BusyError):  # the writer of this test waits for a CPU
                    assert pid > 40, pid
                    continue
                if entry is None:
                    assert pid > 40, pid
                else:
                    hits += 1
                    try:
                        assert (entry.ns_pid or entry.pid, entry.pid) == (pid, pid), (entry.pid, pid)
                    except Exception as error:
                        if type(error).__name__ != "TooOldError":
                            raise
        print(hits, flush=True)
    """)
    rng = np.random.default_rng(1)
    with make_writer(shm_dir, key_capacity=128, row_capacity=1024, retention_ns=0) as w:
        w.set_state(layout.STATE_READY)
        for pid in range(1, 41):
            for ns in (1, 2):
                enter(w, w.keys.add(pid, ns), (pid, ns))
        child = subprocess.Popen(
            [sys.executable, "-c", program, str(shm_dir), str(Path(__file__).parents[3])],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert child.stdout is not None and child.stdout.readline() == "ready\n"
            rows: dict[int, int] = {}
            for turn in range(4000):
                pid, ns = int(rng.integers(41, 401)), int(rng.integers(1, 3))
                tgid = w.keys.find(pid, ns) or w.keys.add(pid, ns)
                if tgid and tgid not in rows:
                    rows[tgid] = enter(w, tgid, (pid, ns))
                elif not tgid:
                    for taken, row in rows.items():
                        finish(w, row, turn + 2)
                        w.forget_head(taken)
                    w.keys.remove([taken - w.keys.first for taken in rows])
                    rows = {}
                    w.evict_exited(1 << 62, 1000)
                if turn % 50 == 0:
                    w.heartbeat(time.clock_gettime_ns(time.CLOCK_BOOTTIME))
            Path(shm_dir, "enough").touch()
            assert int(child.communicate(timeout=60)[0]) > 0 and child.returncode == 0
        finally:
            child.kill()
