"""The table writer compared with a model of a host; ceilings, eviction order, growth, and the writer's lock."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError, UnsupportedError, UntrustedError, WriterExistsError
from pipeline.records.limits import CHAIN_MAX, LINEAGE_CHECKED
from pipeline.shm.check.state import STRONG_LINKS
from pipeline.shm.check.validate import validate_tables
from pipeline.shm.layout import layout
from pipeline.shm.reader._reader import TableReader
from pipeline.shm.reader.lineage import is_complete
from pipeline.shm.reader.table import ProcessTable
from pipeline.shm.writer import segments
from pipeline.shm.writer._writer import TableWriter, row_check
from pipeline.shm.writer.declared import LINEAGE_EPOCH
from tests.sampling import examples, times
from tests.shm import _inside
from tests.shm.table_host import Host, make_writer

FOREVER = 1 << 62


@pytest.fixture
def host(shm_dir: Path) -> Iterator[Host]:
    with make_writer(shm_dir) as writer:
        yield Host(writer)


def row_of(host: Host, pid: int) -> np.void:
    return host.writer.hot_view()[host.writer.py_head(pid)]


# -- rows and links ---------------------------------------------------------------------------------------------------


def test_new_row_is_odd_and_empty(host: Host) -> None:
    row = _inside.new_row(host.writer)
    hot = host.writer.hot_view()[row]
    assert hot["row_seq"] % 2 == 1
    assert hot["generation"] == 1
    assert hot.tobytes()[8:] == bytes(120)
    assert host.writer.cold_view()[row].tobytes() == bytes(layout.COLD.itemsize)


def test_row_that_is_used_again_is_empty_and_has_another_generation(host: Host) -> None:
    host.fork(0, 5)
    host.exec(5, b"sh", b"sh\0")
    row = host.writer.py_head(5)
    link = host.writer.py_link(row)
    host.exit(5)
    assert host.writer.evict_exited(FOREVER, 100) == 2
    assert host.writer.py_follow(link) == 0
    again = {_inside.new_row(host.writer), _inside.new_row(host.writer)}
    assert row in again
    hot = host.writer.hot_view()[row]
    assert hot["row_seq"] % 2 == 1
    assert hot["generation"] == 2
    assert hot.tobytes()[8:] == bytes(120)


def test_end_makes_a_row_even_and_begin_odd(host: Host) -> None:
    row = host.fork(0, 5)
    hot = host.writer.hot_view()[row]
    sequence = int(hot["row_seq"])
    assert sequence % 2 == 0
    host.writer.py_begin(row)
    assert hot["row_seq"] == sequence + 1
    host.writer.py_end(row)
    assert hot["row_seq"] == sequence + 2


def test_checked_tables_carry_a_checksum_of_everything_that_changes_together(host: Host) -> None:
    row = host.fork(0, 5)
    hot, cold, costs = host.writer.hot_view(), host.writer.cold_view(), host.writer.costs_view()
    assert row_check(hot[row], cold[row], b"?" * 64) == hot[row]["check"], "it has no costs"
    host.writer.py_begin(row)
    _inside.set_costs(host.writer, row, np.full(1, 7, layout.COSTS))
    host.writer.py_end(row)
    assert row_check(hot[row], cold[row], costs[row]) == hot[row]["check"]
    parts = (hot, 8, 124), (cold, 0, layout.COLD.itemsize), (costs, 0, layout.COSTS.itemsize)
    for memory, first, last in parts:
        data = memory.view(np.uint8).reshape(len(memory), -1)
        for position in range(first, last):
            data[row, position] ^= 1
            assert row_check(hot[row], cold[row], costs[row]) != hot[row]["check"], position
            data[row, position] ^= 1
    host.writer.py_begin(row)
    assert row_check(hot[row], cold[row], costs[row]) == hot[row]["check"]


def test_copy_of_a_row_holds_its_strings_and_links_once_more(host: Host) -> None:
    host.fork(0, 1)
    host.fork(1, 5)
    host.exec(5, b"sh", b"sh\0")
    writer = host.writer
    source = writer.py_head(5)
    ref = int(row_of(host, 5)["args_ref"])
    refs = writer.private_view("refs")
    before = int(refs[writer.py_head(1)])
    copy = _inside.copy_row(writer, source)
    assert _inside.refcount(writer.args, ref) == 2
    assert refs[writer.py_head(1)] == before + 2  # parent and creator; the ancestor is the first image
    _inside.discard(writer, copy)
    assert _inside.refcount(writer.args, ref) == 1
    assert refs[writer.py_head(1)] == before
    validate_tables(writer)


def test_discarded_row_leaves_nothing(host: Host) -> None:
    host.fork(0, 1)
    row = _inside.new_row(host.writer)
    host.writer.py_set_ref("envs", row, host.writer.py_intern_envs(b"A=b\0"))
    host.writer.py_set_link("parent", row, host.writer.py_head(1))
    _inside.discard(host.writer, row)
    assert host.writer.envs.records == 0
    assert host.writer.rows_used == 1
    validate_tables(host.writer)


def test_link_to_a_row_that_is_not_in_use_is_no_link(host: Host) -> None:
    """A caller that kept a row's number across an eviction cannot set a wrong parent."""
    parent = host.fork(0, 5)
    host.exit(5)
    host.writer.evict_exited(FOREVER, 10)
    row = _inside.new_row(host.writer)
    assert row == parent
    other = _inside.new_row(host.writer)
    for field in (*STRONG_LINKS, "previous_owner"):
        host.writer.py_set_link(field, row, row)
        assert host.writer.hot_view()[row]["ancestor"] == 0
    _inside.discard(host.writer, other)
    host.writer.py_set_link("parent", row, other)
    assert host.writer.hot_view()[row]["parent"] == 0


def test_every_reference_of_a_row_is_released_with_it(host: Host) -> None:
    writer = host.writer
    row = _inside.new_row(writer)
    fields = {"file": writer.names, "name": writer.names, "cgroup": writer.names, "container": writer.names,
              "args": writer.args, "extra": writer.args, "envs": writer.envs}  # fmt: skip
    for field, arena in fields.items():
        writer.py_set_ref(field, row, arena.py_intern(b"first " + field.encode()))
        writer.py_set_ref(field, row, arena.py_intern(b"then " + field.encode()))
        assert _inside.find(arena, b"first " + field.encode()) == 0
        assert _inside.find(arena, b"then " + field.encode())
    assert (writer.names.records, writer.args.records, writer.envs.records) == (4, 2, 1)
    _inside.discard(writer, row)
    assert (writer.names.records, writer.args.records, writer.envs.records) == (0, 0, 0)


def test_pid_beyond_the_index_is_nowhere(host: Host) -> None:
    row = _inside.new_row(host.writer)
    host.writer.py_end(row)
    _inside.set_head(host.writer, 5000, row)
    assert host.writer.py_head(5000) == 0
    host.writer.py_adopt(5000, 1)
    host.writer.py_adopt(1, 5000)
    assert host.writer.py_children(5000) == host.writer.py_children(1) == []


# -- children ---------------------------------------------------------------------------------------------------------


def test_children_are_a_list_that_an_exec_does_not_touch(host: Host) -> None:
    host.fork(0, 1)
    for pid in (5, 6, 7):
        host.fork(1, pid)
    host.exec(1, b"init", b"init\0")
    assert sorted(host.writer.py_children(1)) == [5, 6, 7]
    host.exit(6)
    assert sorted(host.writer.py_children(1)) == [5, 7]


def test_adopted_child_leaves_its_old_list(host: Host) -> None:
    host.fork(0, 1)
    host.fork(1, 5)
    host.fork(5, 6)
    host.fork(5, 7)
    host.exit(5)
    assert sorted(host.writer.py_children(1)) == [6, 7]
    assert host.writer.py_children(5) == []
    host.check()


# -- retention --------------------------------------------------------------------------------------------------------


def test_exited_process_stays_until_retention_is_over(host: Host) -> None:
    host.fork(0, 5)
    host.exit(5)
    ended = int(row_of(host, 5)["exit_boot_ns"])
    assert host.writer.evict_exited(ended + 999, 10) == 0
    assert host.writer.py_head(5)
    assert host.writer.evict_exited(ended + 1000, 10) == 1
    assert host.writer.py_head(5) == 0
    assert host.writer.control_view()[0]["horizon_boot_ns"] >= ended
    assert host.writer.heads_exited == 0


def test_exited_ancestor_stays_while_something_descends_from_it(host: Host) -> None:
    host.fork(0, 1)
    host.fork(1, 5)
    host.fork(5, 6)
    host.exit(5)  # 6 passes to pid 1, but 5 created it
    assert host.writer.evict_exited(FOREVER, 10) == 0
    creator = host.writer.py_follow(int(row_of(host, 6)["creator"]))
    assert host.writer.hot_view()[creator]["tgid"] == 5
    host.exit(6)
    assert host.writer.evict_exited(FOREVER, 10) == 2
    assert host.writer.rows_used == 1


def test_replaced_images_are_kept_and_evicted_with_their_process(host: Host) -> None:
    host.fork(0, 5)
    for number in range(20):
        host.exec(5, b"image%d" % number, b"%d\0" % number)
    assert host.writer.evict_exited(FOREVER, 1000) == 0
    assert host.writer.rows_used == 21
    host.exit(5)
    assert host.writer.evict_exited(FOREVER, 5) == 5
    assert host.writer.evict_exited(FOREVER, 1000) == 16
    assert host.writer.rows_used == 0
    assert host.writer.args.records == host.writer.names.records == 0


def test_newest_images_are_listed_by_what_they_are(host: Host) -> None:
    writer = host.writer
    assert writer.live_heads().tolist() == writer.heads_with_extra() == []
    for pid in (5, 6, 7):
        host.fork(0, pid)
    before = writer.py_head(6)
    host.exec(6, b"sh", b"sh\0")
    host.exit(7)
    heads = {pid: writer.py_head(pid) for pid in (5, 6, 7)}
    assert writer.live_heads().tolist() == sorted([heads[5], heads[6]]) and writer.live_heads().dtype == np.uint32
    for row in (before, heads[6], heads[7]):
        writer.py_begin(row)
        writer.py_set_ref("extra", row, writer.py_intern_args(b"extra"))
        writer.py_end(row)
    assert writer.heads_with_extra() == sorted([heads[6], heads[7]])


def test_previous_owner_of_a_pid_is_linked_but_not_kept(host: Host) -> None:
    """A pid that is constantly reused does not retain every owner that it ever had."""
    host.fork(0, 5)
    for _ in range(10):
        host.exit(5)
        host.fork(0, 5)
    owners = []
    row = host.writer.py_head(5)
    while row := host.writer.py_follow(int(host.writer.cold_view()[row]["previous_owner"])):
        owners.append(row)
    assert len(owners) == 10
    assert host.writer.evict_exited(FOREVER, 100) == 10
    assert host.writer.py_follow(int(host.writer.cold_view()[host.writer.py_head(5)]["previous_owner"])) == 0


def test_budget_bounds_a_long_cascade(host: Host) -> None:
    host.fork(0, 1)
    for pid in range(2, 202):
        host.fork(pid - 1, pid)
    for pid in range(2, 202):
        host.exit(pid)
    host.exit(1)
    freed = 0
    while count := host.writer.evict_exited(FOREVER, 7):
        assert count <= 7
        freed += count
    assert host.writer.evict_exited(FOREVER, 1000) + freed == 201
    assert host.writer.rows_used == 0


def test_row_count_of_a_new_capture_of_the_pid_does_not_end_the_old(host: Host) -> None:
    """Exit unseen, pid reused: the old owner is closed, and the new one lives."""
    host.fork(0, 5)
    host.fork(0, 5)
    assert (host.writer.heads_live, host.writer.heads_exited) == (1, 1)
    previous = host.writer.py_follow(int(host.writer.cold_view()[host.writer.py_head(5)]["previous_owner"]))
    assert host.writer.hot_view()[previous]["flags"] & layout.ROW_EXIT_UNSEEN
    validate_tables(host.writer)


# -- chains -----------------------------------------------------------------------------------------------------------


def test_a_chain_of_images_is_capped_and_marked(shm_dir: Path) -> None:
    with make_writer(shm_dir, chain_max=16) as writer:
        host = Host(writer)
        host.fork(0, 1)
        host.fork(1, 5)
        for number in range(100):
            host.exec(5, b"i%d" % number, b"%d\0" % number)
        hot = writer.hot_view()
        chain = [writer.py_head(5)]
        while (row := writer.py_follow(int(hot[chain[-1]]["ancestor"]))) and hot[row]["tgid"] == 5:
            chain.append(row)
        assert len(chain) <= 16
        assert hot[row]["tgid"] == 1  # the first image is retained, and with it the link to the parent
        assert hot[chain[-1]]["images"] == 1
        newest = [int(hot[row]["images"]) for row in chain[:-1]]
        assert newest == list(range(101, 101 - len(newest), -1))
        elided = [bool(hot[row]["flags"] & layout.ROW_ELIDED) for row in chain]
        assert elided == [False] * (len(chain) - 2) + [True, False]
        assert writer.counter("elided") == 101 - len(chain)
        writer.evict_exited(FOREVER, 1000)
        assert writer.rows_used == len(chain) + 1
        validate_tables(writer)


# -- ceilings ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_ceiling_of_rows_with_70000_processes(shm_dir: Path) -> None:
    """Live processes are never evicted; one process above the ceiling is refused and counted."""
    count = times(70_000, 20_000)
    with make_writer(
        shm_dir, row_capacity=count + 1, pid_capacity=80_000, chunk_rows=4096, args_bytes=8 << 20, checked=False
    ) as writer:
        host = Host(writer)
        for pid in range(1, count + 1):
            assert host.fork(0, pid)
        assert writer.rows_used == writer.heads_live == count
        assert writer.hot_view().shape == (count + 1,)
        assert host.fork(0, count + 1) == 0
        assert writer.counter("table_full") == 1
        assert host.exec(5, b"x", b"x") == 0
        host.exit(77)
        assert host.fork(0, count + 1)
        assert writer.py_head(77) == 0
        assert writer.counter("evictions") == 1
        assert len(set(writer.index_view()[1:].nonzero()[0].tolist())) == count
        validate_tables(writer)


def test_costs_take_memory_only_where_a_process_has_ended(shm_dir: Path) -> None:
    with make_writer(shm_dir, row_capacity=1000, chunk_rows=300) as writer:
        file = shm_dir / "costs"
        assert (file.stat().st_size, file.stat().st_blocks) == (64_000, 0)
        host = Host(writer)
        rows = [host.fork(0, pid) for pid in range(1, 1000)]
        writer.set_state(layout.STATE_READY)
        writer.heartbeat(time.clock_gettime_ns(time.CLOCK_BOOTTIME))
        with ProcessTable.attach(path=shm_dir, max_age_ms=10**8) as table:
            assert all(entry.to_dict()["cpu_user_ns"] is None and entry.verify() for entry in table.walk())
            writer.heartbeat(time.clock_gettime_ns(time.CLOCK_BOOTTIME))  # the first may be old by now
            assert set(table.batch(["cpu_user_ns", "read_bytes"]).column("cpu_user_ns")) == {None}
        validate_tables(writer)
        assert file.stat().st_blocks == 0, "neither a reader nor the writer has touched them"
        costs = np.arange(len(layout.COSTS.names or ()))
        for count, row in enumerate((rows[70], rows[-1]), 1):
            for _ in range(2):
                writer.py_begin(row)
                _inside.set_costs(writer, row, np.array([tuple(costs + row)], layout.COSTS))
                writer.py_end(row)
                assert file.stat().st_blocks * 512 == count * 4096 and file.stat().st_size == 64_000
        known = writer.hot_view()["known"] & layout.KNOWN_COST != 0
        assert np.flatnonzero(known).tolist() == [rows[70], rows[-1]]
        for row in (rows[70], rows[-1]):
            assert list(writer.costs_view()[row]) == (costs + row).tolist()
        validate_tables(writer)
        with pytest.raises(ValueError, match="64 bytes"):
            _inside.set_costs(writer, rows[0], b"")


def test_a_table_grows_in_chunks_and_stores_the_allocated_part(shm_dir: Path) -> None:
    with make_writer(shm_dir, row_capacity=1000, chunk_rows=300) as writer:
        host = Host(writer)
        seen = []
        for pid in range(1, 1000):
            host.fork(0, pid)
            allocated = int(writer.control_view()[0]["rows_allocated"])
            assert writer.py_head(pid) < allocated
            assert (shm_dir / "hot").stat().st_size == allocated * 128
            assert (shm_dir / "cold").stat().st_size == allocated * layout.COLD.itemsize
            assert (shm_dir / "costs").stat().st_blocks == 0, "no process has ended"
            if not seen or seen[-1] != allocated:
                seen.append(allocated)
        assert seen == [300, 600, 900, 1000]


def test_at_the_ceiling_the_oldest_exited_process_is_evicted_first(shm_dir: Path) -> None:
    with make_writer(shm_dir, row_capacity=11) as writer:
        host = Host(writer)
        for pid in range(1, 11):
            host.fork(0, pid)
        for pid in (4, 2, 9):
            host.exit(pid)
        for gone, pid in ((4, 21), (2, 22), (9, 23)):
            assert writer.py_head(gone)
            assert host.fork(0, pid)
            assert writer.py_head(gone) == 0
        assert host.fork(0, 24) == 0
        host.check()


def test_at_the_ceiling_exited_ancestors_are_evicted_last_and_their_links_become_invalid(shm_dir: Path) -> None:
    with make_writer(shm_dir, row_capacity=6) as writer:
        host = Host(writer)
        host.fork(0, 1)
        host.fork(1, 2)
        host.fork(2, 3)
        host.exit(2)  # an ancestor of 3, and older than the next that ends
        host.fork(1, 4)
        host.exit(4)
        host.fork(1, 5)
        assert host.fork(1, 6)  # 4 is evicted
        assert writer.py_head(4) == 0
        assert writer.py_head(2)
        assert writer.counter("elided") == 0
        assert host.fork(1, 7)  # then 2
        assert writer.py_head(2) == 0
        assert writer.counter("elided") == 1
        assert row_of(host, 3)["creator"] != 0
        assert writer.py_follow(int(row_of(host, 3)["creator"])) == 0
        assert host.fork(1, 8) == 0
        validate_tables(writer)
        host.check()


def test_at_the_ceiling_dead_families_are_evicted_before_ancestors_of_live_processes(shm_dir: Path) -> None:
    with make_writer(shm_dir, row_capacity=9) as writer:
        host = Host(writer)
        host.fork(0, 1)
        host.fork(1, 2)
        host.fork(2, 3)
        host.exit(2)  # ancestor of the live 3
        for pid in (4, 5, 6):
            host.fork(pid - 1 if pid > 4 else 1, pid)
        for pid in (4, 5, 6):  # parents before children
            host.exit(pid)
        for pid in (11, 12):
            host.fork(1, pid)
        order = []
        for pid in (13, 14, 15, 16):
            before = {gone for gone in (2, 4, 5, 6) if writer.py_head(gone)}
            assert host.fork(1, pid)
            order += sorted(before - {gone for gone in before if writer.py_head(gone)})
        assert order == [6, 5, 4, 2]
        host.check()


def test_row_that_is_being_copied_is_not_evicted_for_its_copy(shm_dir: Path) -> None:
    with make_writer(shm_dir, row_capacity=3) as writer:
        host = Host(writer)
        host.fork(0, 1)
        host.fork(0, 2)
        host.exit(2)
        assert _inside.copy_row(writer, writer.py_head(2)) == 0
        assert writer.py_head(2)
        validate_tables(writer)
        assert _inside.new_row(writer)
        assert writer.py_head(2) == 0


# -- lineages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [LINEAGE_CHECKED - 1, LINEAGE_CHECKED, LINEAGE_CHECKED + 1, 2 * LINEAGE_CHECKED + 9])
def test_a_lineage_is_read_up_to_its_limit(host: Host, depth: int) -> None:
    """From either end first: a long chain is known only in part when it is read from its end."""
    for pid in range(1, depth + 1):
        host.fork(pid - 1, pid)
    writer = host.writer
    expected = [1] * min(depth, LINEAGE_CHECKED) + [-1] * max(0, depth - LINEAGE_CHECKED)
    rows = [writer.py_head(pid) for pid in range(1, depth + 1)]
    assert [_inside.lineage(writer, row) for row in reversed(rows)] == expected[::-1]
    validate_tables(writer)
    assert [_inside.lineage(writer, row) for row in rows] == expected
    validate_tables(writer)


@settings(max_examples=examples(20), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1 << 32))
def test_a_lineage_follows_changes_of_all_ancestors(shm_dir: Path, seed: int) -> None:
    """Links, flags and images anywhere above a process, at all distances from it."""
    random = Random(seed)
    with make_writer(shm_dir, row_capacity=700) as writer:
        host = Host(writer)
        for pid in range(1, 500):
            host.fork(max(0, pid - random.choice((1, 1, 1, 2, 40))), pid)
        epochs = writer.lineage_epoch
        for number in range(times(150, 60)):
            pid = random.randrange(1, 500)
            row = writer.py_head(pid)
            change = random.choice(("move", "move", "end", "flag", "exec", "fork", "nothing"))
            if change in ("move", "end", "flag"):
                writer.py_begin(row)
                if change == "flag":
                    writer.hot_view()["flags"][row] ^= layout.ROW_PARENT_MISSING
                elif change == "move" and pid > 1:
                    writer.py_set_link("ancestor", row, writer.py_head(random.randrange(max(1, pid - 9), pid)))
                else:
                    writer.py_set_link("ancestor", row, 0)
                writer.py_end(row)
            elif change == "exec":
                host.exec(pid, b"c", b"%d" % number)
            elif change == "fork":
                host.fork(pid, 500 + number)
            rows = [writer.py_head(random.choice((pid, 499, random.randrange(1, 500)))) for _ in range(9)]
            assert [_inside.lineage(writer, row) for row in rows] == [walked_lineage(writer, row) for row in rows]
            if number % times(10, 30) == 0:
                validate_tables(writer)
        assert writer.lineage_epoch > epochs
        validate_tables(writer)
        writer.close(remove=True)


def test_the_epochs_of_lineages_begin_again(host: Host) -> None:
    """A word of an old epoch is not valid again when the numbers of the epochs are used up."""
    for pid in range(1, 9):
        host.fork(pid - 1, pid)
    writer, second, last = host.writer, host.writer.py_head(2), host.writer.py_head(8)
    assert _inside.lineage(writer, last) == 1 and writer.lineage_epoch == LINEAGE_EPOCH
    writer.py_begin(second)
    writer.py_set_link("ancestor", second, 0)
    writer.py_end(second)
    _inside.forget_lineages(writer, (1 << 32) // LINEAGE_EPOCH - 2)
    assert writer.lineage_epoch == LINEAGE_EPOCH
    assert _inside.lineage(writer, last) == 0


# -- random operations against the model ------------------------------------------------------------------------------

STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["fork"] * 5 + ["exec"] * 4 + ["exit"] * 3 + ["rename", "evict", "evict-old", "commit", "reopen"]
        ),
        st.integers(0, 1 << 16),
        st.integers(0, 1 << 16),
    ),
    min_size=10, max_size=120,
)  # fmt: skip


def walked_lineage(writer: TableWriter, row: int) -> int:
    """The same as `_inside.lineage`, by reading the whole chain."""
    pids, flags, ancestors = (writer.hot_view()[name] for name in ("tgid", "flags", "ancestor"))
    chain = []
    while row and len(chain) <= LINEAGE_CHECKED:
        known = flags.item(row)
        chain.append(
            SimpleNamespace(
                pid=pids.item(row), ppid=0, is_exec=bool(known & layout.ROW_IS_EXEC),
                is_parent_missing=bool(known & layout.ROW_PARENT_MISSING),
            )
        )  # fmt: skip
        row = writer.py_follow(ancestors.item(row))
    found = is_complete(chain)
    return -1 if found is None else int(found)


def ended_rows(writer: TableWriter) -> dict[int, int]:
    """{row: generation} of all images in use that have ended."""
    hot = writer.hot_view()[: writer.rows_frontier]
    used = writer.private_view("status") & 1 != 0
    rows = np.flatnonzero(used & (hot["exit_boot_ns"] != 0))
    return dict(zip(rows.tolist(), hot["generation"][rows].tolist(), strict=True))


def ancestors_of_the_living(writer: TableWriter) -> set[int]:
    hot = writer.hot_view()
    stack = [row for row in writer.index_view()[writer.index_view() != 0].tolist() if not hot[row]["exit_boot_ns"]]
    seen = set(stack)
    while stack:
        row = stack.pop()
        for name in STRONG_LINKS:
            target = writer.py_follow(int(hot[row][name]))
            if target and target not in seen:
                seen.add(target)
                stack.append(target)
    return seen


def step(host: Host, action: str, one: int, two: int, reopen: Callable[[], Host]) -> Host:
    """Run one operation; check law 7 after an eviction."""
    writer = host.writer
    live = sorted(host.processes)
    ended = ended_rows(writer)
    ancestors = ancestors_of_the_living(writer)
    pid = live[one % len(live)] if live else 0
    made = 1
    if action == "fork":
        made = host.fork(pid, 1 + two % 30)
    elif action == "exec" and pid:
        made = host.exec(pid, b"c%d" % (two % 50), b"a" * (two % 300), head_first=bool(two & 1))
    elif action == "exit" and pid:
        host.exit(pid)
    elif action == "rename" and pid:
        host.rename(pid, b"r%d" % two)
    elif action == "evict":
        writer.evict_exited(FOREVER, one % 5)
    elif action == "evict-old":
        writer.evict_exited(host.now, 100)
    elif action == "commit":
        writer.commit(host.now, *np.full((2, 2), host.now, np.uint64), np.zeros(0, np.uint64))
        writer.acknowledge()
    elif action == "reopen":
        return reopen()
    hot = writer.hot_view()
    gone = {row for row, generation in ended.items() if hot[row]["generation"] != generation}
    if action in ("fork", "exec"):
        assert len(gone) <= 1
        if gone & ancestors:
            assert set(ended) <= ancestors, "an ancestor of the living went while others could"
        if not made:
            # At most the row that was being copied, or an old owner that was just closed, could have been evicted.
            assert len(ended_rows(writer)) <= 1
    elif action == "evict-old":
        for row in gone:
            assert row not in ancestors
    else:
        assert not gone & ancestors
    return host


@pytest.mark.parametrize("rows", [8, 24, 200])
@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_tables_behave_like_a_dictionary_of_processes(
    shm_dir: Path, rows: int, steps: list[tuple[str, int, int]]
) -> None:
    """Random forks, execs, exits and evictions at small ceilings, with take-overs in between; checked after each."""
    options = {"row_capacity": rows, "chunk_rows": 5, "pid_capacity": 64, "args_bytes": 16 << 10, "retention_ns": 20,
               "chain_max": 5}  # fmt: skip
    writer = make_writer(shm_dir, **options)

    def reopen() -> Host:
        nonlocal writer
        evictions = writer.evicted_total
        writer.close()
        writer = make_writer(shm_dir, **options)
        assert writer.is_takeover, writer.fresh_reason
        assert not writer.torn_rows
        again = Host(writer, host.now)
        again.processes = host.processes
        assert evictions >= 0
        return again

    try:
        host = Host(writer)
        for action, one, two in steps:
            host = step(host, action, one, two, reopen)
            heads = [writer.py_head(pid) for pid in host.processes]
            assert [_inside.lineage(writer, row) for row in heads] == [walked_lineage(writer, row) for row in heads]
            validate_tables(writer)
            host.check()
    finally:
        writer.close(remove=True)


# -- the lock and the directory ----------------------------------------------------------------------------------------

SECOND_WRITER = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[2], sys.argv[3]]
from tests.shm.table_host import make_writer
from pipeline.errors import WriterExistsError
try:
    make_writer(Path(sys.argv[1]))
except WriterExistsError as error:
    print(error.tgid)
"""


def test_a_second_writer_is_refused_and_the_error_names_the_first(shm_dir: Path) -> None:
    with make_writer(shm_dir):
        with pytest.raises(WriterExistsError, match=str(os.getpid())):
            make_writer(shm_dir)
        root = Path(__file__).parents[3]
        result = subprocess.run(
            [sys.executable, "-c", SECOND_WRITER, str(shm_dir), str(root), str(Path(__file__).parent)],
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        assert int(result.stdout) == os.getpid()
    make_writer(shm_dir).close()


def test_a_lock_on_a_file_that_was_removed_meanwhile_excludes_no_writer(
    shm_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked: list[int] = []
    lock = fcntl.flock

    def flock(descriptor: int, operation: int) -> None:
        lock(descriptor, operation)
        if not locked:
            (shm_dir / segments.LOCK).unlink()  # by a writer that ends
        locked.append(descriptor)

    monkeypatch.setattr(fcntl, "flock", flock)
    with make_writer(shm_dir):
        assert len(locked) == 2 and (shm_dir / segments.LOCK).exists()


def test_a_row_that_differs_from_its_checksum_is_not_verified(shm_dir: Path) -> None:
    with make_writer(shm_dir) as writer:
        host = Host(writer)
        host.fork(1, 7)
        writer.set_state(layout.STATE_READY)
        entry = TableReader(shm_dir).resolve(7)
        assert entry is not None and entry.verify()
        writer.hot_view()["uid"][writer.py_head(7)] += 1
        entry = TableReader(shm_dir).resolve(7)
        assert entry is not None and not entry.verify()


def test_the_end_of_a_block_closes_a_writer(shm_dir: Path) -> None:
    with make_writer(shm_dir) as writer:
        pass
    with pytest.raises(ValueError, match="closed"):
        writer.heartbeat(1)


def test_readers_of_tables_that_are_made_anew_notice(shm_dir: Path) -> None:
    with make_writer(shm_dir) as writer:
        control = writer.control_view()
    with make_writer(shm_dir, row_capacity=2048):
        assert control[0]["state"] == layout.STATE_SUPERSEDED


def test_closed_writer_refuses_calls(shm_dir: Path) -> None:
    writer = make_writer(shm_dir)
    hot = writer.hot_view()
    writer.close()
    writer.close()
    with pytest.raises(ValueError, match="closed"):
        _inside.new_row(writer)
    assert hot[0]["row_seq"] == 0  # views stay valid after the writer is closed


#: Every method and computed property of a writer that reads or writes the tables, and arguments for it.
USES_TABLES: dict[str, tuple[Any, ...]] = {
    "commit": (1, np.zeros(1, np.uint64), np.zeros(1, np.uint64), np.zeros(8, np.uint64)), "committed": (),
    "acknowledge": (), "request_rewind": (0, 0), "heartbeat": (1,), "py_show_life": (), "show_audience": (False, False),
    "show_contexts_waiting": (1,),
    "set_state": (1,), "state": (), "epoch": (), "takeovers": (), "ring_count": (), "control_memory": (),
    "control_view": (), "ring_ack_view": (), "commit_view": (0,), "py_begin": (1,), "py_end": (1,), "py_link": (1,),
    "py_follow": (1 << 32 | 1,), "py_set_link": ("parent", 1, 0), "py_set_ref": ("args", 1, 0),
    "py_note_tty_given": (1,), "py_is_tty_given": (1,), "py_head": (1,),
    "forget_head": (1,), "py_adopt": (2, 1), "py_orphan": (1,), "py_children": (1,), "py_retire": (1,),
    "evict_exited": (1, 1), "hot_view": (), "cold_view": (), "costs_view": (), "index_view": (),
    "private_view": ("status",), "listed_rows": ("ended",), "live_heads": (), "heads_with_extra": (),
}  # fmt: skip
USES_NO_TABLES = {
    "close", "counter", "count", "set_counter", "growth_refused", "py_intern_names", "py_intern_args", "py_intern_envs",
}  # fmt: skip


def test_each_method_of_a_closed_writer_raises_closed_error(shm_dir: Path) -> None:
    """A missing check reads address 0, and ends the interpreter."""
    writer = make_writer(shm_dir)
    writer.close()
    methods = {name for name in dir(TableWriter) if name[0] != "_" and callable(getattr(TableWriter, name))}
    assert methods <= USES_TABLES.keys() | USES_NO_TABLES
    for name, arguments in USES_TABLES.items():
        with pytest.raises(ValueError, match="closed"):
            getattr(writer, name)(*arguments)


def test_directory_that_is_not_on_tmpfs_is_refused(tmp_path: Path) -> None:
    from pipeline.shm.writer._segment import filesystem_type

    if filesystem_type(tmp_path) == 0x01021994:
        pytest.skip("the temporary directory is on tmpfs itself")
    with pytest.raises(UnsupportedError, match=r"not on tmpfs.*PROCLINE_RUNTIME_DIR"):
        make_writer(tmp_path)


def test_directory_that_others_may_write_to_is_refused(shm_dir: Path) -> None:
    shm_dir.chmod(0o777)
    with pytest.raises(UntrustedError, match="can be written by everybody"):
        make_writer(shm_dir)


@pytest.mark.parametrize(
    ("key", "value"),
    [("row_capacity", 1), ("chunk_rows", 0), ("pid_capacity", 1), ("names_bytes", 100), ("ring_count", 0),
     ("boot_id", b"short"), ("args_bytes", 1 << 40)],
)  # fmt: skip
def test_capacity_out_of_range_names_its_setting(shm_dir: Path, key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=key) as caught:
        make_writer(shm_dir, **{key: value})
    assert caught.value.key == key
    make_writer(shm_dir).close()  # the lock was released


@pytest.mark.parametrize("chain_max", [3, CHAIN_MAX + 1])
def test_chain_max_out_of_range_is_refused(shm_dir: Path, chain_max: int) -> None:
    with pytest.raises(ValueError, match=f"chain_max: expected 4 to {CHAIN_MAX}, got {chain_max}"):
        make_writer(shm_dir, chain_max=chain_max)


def test_modes_hold_whatever_the_umask_is(shm_dir: Path) -> None:
    old = os.umask(0o077)
    try:
        make_writer(shm_dir).close()
        modes = {name: (shm_dir / name).stat().st_mode & 0o777 for name in ("control", "index", "hot", "args", "envs")}
        assert modes == {"control": 0o644, "index": 0o644, "hot": 0o644, "args": 0o640, "envs": 0o640}
        # A successor with stricter settings restricts the files that it takes over.
        make_writer(shm_dir, modes={"args": 0o600, "envs": 0o600}).close()
        assert (shm_dir / "args").stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(old)
    with pytest.raises(ConfigError, match="no segment"):
        make_writer(shm_dir, modes={"argz": 0o600})


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files to another group")
def test_the_group_owns_the_files_with_secrets(shm_dir: Path) -> None:
    make_writer(shm_dir, group=12345).close()
    assert {name: (shm_dir / name).stat().st_gid for name in ("hot", "args", "envs")} == {
        "hot": os.getegid(), "args": 12345, "envs": 12345,
    }  # fmt: skip


def test_close_with_remove_leaves_an_empty_directory(shm_dir: Path) -> None:
    writer = make_writer(shm_dir)
    writer.close(remove=True)
    assert list(shm_dir.iterdir()) == []


# -- a full tmpfs -----------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny_tmpfs(shm_dir: Path) -> Iterator[Path]:
    """A tmpfs of 1 MiB."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small tmpfs")
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,mode=755", "procline-test", str(shm_dir)],
        capture_output=True,
        text=True,
    )
    if mount.returncode:
        pytest.skip(f"cannot mount a small tmpfs: {mount.stderr.strip()}")
    yield shm_dir
    subprocess.run(["umount", "-l", str(shm_dir)], check=True)


def test_a_full_tmpfs_at_start_is_an_error_with_the_needed_size(tiny_tmpfs: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"no room for the tables: needs 4\.9 MB, has 1\.0 MB"):
        make_writer(tiny_tmpfs, pid_capacity=1 << 20)
    assert [path.name for path in tiny_tmpfs.iterdir()] == ["writer.lock"]


def test_full_tmpfs_later_is_a_ceiling_not_an_end(tiny_tmpfs: Path) -> None:
    options = {"row_capacity": 100_000, "pid_capacity": 8192, "names_bytes": 64 << 10, "envs_bytes": 4096}
    with make_writer(tiny_tmpfs, args_bytes=16 << 20, **options) as writer:
        host = Host(writer)
        refused = 0
        for pid in range(1, 4000):
            refused += not host.fork(0, pid)
        assert refused > 0
        assert writer.counter("table_full") == refused
        live = sorted(host.processes)
        for pid in live[:100]:
            host.exit(pid)
        for pid in range(5000, 5050):
            assert host.fork(0, pid)  # eviction of the oldest exited ones made room
        host.exec(live[-1], b"x", b"y" * 5000)
        full = 0
        for number in range(200):
            full += writer.args.py_intern(b"%d" % number + b"z" * 5000) == 0
        assert full
        assert writer.counter("arena_full") >= full
        host.check()


def test_a_writer_continues_when_a_full_tmpfs_has_room_again(tiny_tmpfs: Path) -> None:
    options = {"row_capacity": 100_000, "pid_capacity": 8192, "names_bytes": 64 << 10, "envs_bytes": 4096}
    filler = tiny_tmpfs / "filler"
    with make_writer(tiny_tmpfs, args_bytes=64 << 10, **options) as writer:
        host = Host(writer)
        with filler.open("wb") as file:
            space = os.statvfs(tiny_tmpfs)
            file.write(b"x" * (space.f_bavail * space.f_frsize))
        made = sum(bool(host.fork(0, pid)) for pid in range(1, 200))
        assert made == 63
        filler.unlink()
        # After a refusal the writer asks the kernel again only now and then.
        made = sum(bool(host.fork(0, pid)) for pid in range(200, 2000))
        assert made > 500
        host.check()
