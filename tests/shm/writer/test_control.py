"""The control segment from the writer's side: commits, acknowledgement, rewinds, state."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.shm.layout import layout
from pipeline.shm.layout.control import COUNTER_INDEX
from pipeline.shm.reader._reader import TableReader
from pipeline.shm.writer._writer import TableWriter
from tests.shm.table_host import BOOT_ID, Host, make_writer


@pytest.fixture
def writer(shm_dir: Path) -> Iterator[TableWriter]:
    with make_writer(shm_dir) as writer:
        yield writer


def u64(*values: int) -> np.ndarray:
    return np.array(values, np.uint64)


def test_a_new_control_file_describes_the_tables(writer: TableWriter) -> None:
    control = writer.control_view()[0]
    assert bytes(control["magic"]) == layout.MAGIC
    assert control["layout_version"] == layout.LAYOUT_VERSION
    assert control["header_bytes"] == layout.CONTROL.itemsize
    assert control["boot_id"].tobytes() == BOOT_ID
    assert control["writer_tgid"] == os.getpid()
    assert 0 < control["writer_start_boot_ns"] < control["heartbeat_boot_ns"]
    assert control["pid_ns"] == Path("/proc/self/ns/pid").stat().st_ino & 0xFFFFFFFF
    assert control["user_hz"] == os.sysconf("SC_CLK_TCK")
    assert (control["epoch"], control["takeovers"], control["state"]) == (1, 0, layout.STATE_FILLING)
    assert control["rows_allocated"] == 64
    assert control["args_capacity_bytes"] == 1 << 20
    assert control["args_allocated_bytes"] == 256 << 10
    # No process that ended before the tables began is in them.
    assert control["horizon_boot_ns"] == control["heartbeat_boot_ns"]


def test_the_audience_is_empty_then_readers_then_subscribers(writer: TableWriter) -> None:
    control = writer.control_view()[0]
    writer.set_state(layout.STATE_READY)
    assert writer.show_audience(False, True) == layout.AUDIENCE_NOBODY == control["audience"]
    reader = TableReader(writer.directory)
    assert writer.show_audience(False, True) == layout.AUDIENCE_READERS
    assert writer.control_view()[0]["audience"] == layout.AUDIENCE_READERS
    assert writer.show_audience(True, True) == layout.AUDIENCE_SUBSCRIBERS
    reader.close()
    assert writer.show_audience(False, True) == layout.AUDIENCE_NOBODY


def test_a_successor_finds_how_many_context_events_waited(writer: TableWriter, shm_dir: Path) -> None:
    assert writer.contexts_waiting == 0
    writer.show_contexts_waiting(5)
    assert writer.contexts_waiting == 5 == writer.control_view()[0]["contexts_waiting"]
    writer.close()
    with make_writer(shm_dir) as successor:
        assert successor.is_takeover and successor.contexts_waiting == 5


def test_first_commit_slot_is_valid_and_empty(writer: TableWriter) -> None:
    committed = writer.committed()
    assert (committed.number, committed.watermark) == (1, 0)
    assert not committed.counters.any()
    assert not committed.topic_seq.any()
    assert committed.rings.tolist() == [(0, 0), (0, 0)]


def test_commit_fills_the_other_slot_and_flips(writer: TableWriter) -> None:
    host = Host(writer)
    host.fork(0, 1)
    host.exec(1, b"init", b"init\0")
    writer.count("frames", 5)
    before = writer.commit_view(0).tobytes()
    writer.commit(77, u64(10, 20), u64(30, 40), u64(1, 2, 3))
    assert writer.control_view()[0]["commit_index"] == 1
    assert writer.commit_view(0).tobytes() == before
    slot = writer.commit_view(1)[0]
    assert (slot["number"], slot["watermark_boot_ns"]) == (2, 77)
    assert (slot["heads_live"], slot["heads_exited"], slot["rows_used"]) == (1, 0, 2)
    assert slot["args_used_bytes"] == writer.args.used_bytes > 0
    assert slot["names_used_bytes"] == writer.names.used_bytes > 0
    assert slot["counters"][COUNTER_INDEX["frames"]] == 5
    assert slot["time_boot_ns"] > 0
    writer.commit(78, u64(11, 21), u64(31, 41), u64(4))
    committed = writer.committed()
    assert (committed.number, committed.watermark) == (3, 78)
    assert committed.rings.tolist() == [(11, 31), (21, 41)]
    assert committed.topic_seq[:4].tolist() == [4, 2, 3, 0]  # topics without a new value keep theirs


def test_rings_are_acknowledged_from_the_commit_and_not_before(writer: TableWriter) -> None:
    writer.commit(1, u64(10, 20), u64(30, 40), u64())
    assert writer.ring_ack_view()["applied_pos"].tolist() == [0, 0]
    writer.acknowledge(u64(100, 200), np.array([0, 1], np.uint8))
    acks = writer.ring_ack_view()
    assert acks["applied_pos"].tolist() == [10, 20]
    assert acks["watermark_boot_ns"].tolist() == [30, 40]
    assert acks["received_pos"].tolist() == [100, 200]
    assert acks["stalled"].tolist() == [0, 1]
    writer.acknowledge()
    assert acks["received_pos"].tolist() == [100, 200]


def test_wrong_number_of_rings_is_refused(writer: TableWriter) -> None:
    with pytest.raises(ValueError, match="2 rings"):
        writer.commit(1, u64(1), u64(1, 2), u64())
    with pytest.raises(ValueError, match="16 numbers"):
        writer.commit(1, u64(1, 2), u64(1, 2), np.zeros(17, np.uint64))
    with pytest.raises(ValueError, match="2 rings"):
        writer.acknowledge(u64(1, 2, 3))
    with pytest.raises(IndexError):
        writer.request_rewind(2, 0)


def test_a_rewind_stores_its_position_and_counts_up(writer: TableWriter) -> None:
    writer.request_rewind(1, 4096)
    writer.request_rewind(1, 8192)
    acks = writer.ring_ack_view()
    assert acks["wanted_pos"].tolist() == [0, 8192]
    assert acks["rewind_seq"].tolist() == [0, 2]


def test_state_and_heartbeat(writer: TableWriter) -> None:
    control = writer.control_view()[0]
    assert control["ready_boot_ns"] == 0
    writer.set_state(layout.STATE_READY)
    assert writer.state == control["state"] == layout.STATE_READY
    assert control["ready_boot_ns"] >= control["heartbeat_boot_ns"]
    writer.heartbeat(123)
    assert control["heartbeat_boot_ns"] == 123
    with pytest.raises(ValueError, match="no state 9"):
        writer.set_state(9)
    writer.close()
    assert control["state"] == layout.STATE_STOPPED


def test_tables_that_another_writer_continues_are_not_stopped(writer: TableWriter) -> None:
    control = writer.control_view()[0]
    writer.set_state(layout.STATE_READY)
    writer.has_successor = True
    writer.close()
    assert control["state"] == layout.STATE_FILLING


def test_life_is_shown_in_long_work_when_the_last_sign_is_old(writer: TableWriter) -> None:
    control = writer.control_view()[0]
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    writer.heartbeat(now - 500_000_000)
    writer.py_show_life()
    assert control["heartbeat_boot_ns"] >= now
    writer.heartbeat(later := now + 50_000_000)
    writer.py_show_life()
    assert control["heartbeat_boot_ns"] == later


def test_counters_have_names(writer: TableWriter) -> None:
    writer.count("late")
    writer.count("late", 4)
    writer.set_counter("lost_fork", 9)
    assert (writer.counter("late"), writer.counter("lost_fork")) == (5, 9)
    with pytest.raises(KeyError):
        writer.count("no such counter")
