"""Metrics over DogStatsD: names and tags of the specification, only increases, and no loss after a failure."""

from __future__ import annotations

import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.export.figures import Figures, read_figures
from pipeline.export.statsd import StatsdPush, StatsdPusher
from pipeline.resolver.api.stats import COUNTERS, PREFIX
from pipeline.shm.layout import layout
from pipeline.shm.layout.layout import counter_of
from pipeline.shm.writer._opening import open_tables
from pipeline.shm.writer._writer import TableWriter


class Client:
    def __init__(self) -> None:
        self.sent: list[tuple[str, str, float, tuple[str, ...]]] = []
        self.fails_at = -1

    def _send(self, kind: str, metric: str, value: float, tags: list[str]) -> None:
        if len(self.sent) == self.fails_at:
            raise OSError("nobody there")
        self.sent.append((kind, metric.removeprefix(PREFIX + ".process_resolver."), value, tuple(tags)))

    def gauge(self, metric: str, value: float, tags: list[str]) -> None:
        self._send("g", metric, value, tags)

    def count(self, metric: str, value: int, tags: list[str]) -> None:
        self._send("c", metric, value, tags)


class World:
    def __init__(self, directory: Path, tables: TableWriter) -> None:
        self.directory, self.tables = directory, tables

    def figures(self, **counts: int) -> Figures:
        for name, number in counts.items():
            self.tables.set_counter(name, number)
        zeros = np.zeros(1, np.uint64)
        self.tables.commit(1, zeros, zeros, np.zeros(8, np.uint64))
        found = read_figures(self.directory)
        assert found is not None
        return found


@pytest.fixture
def world() -> Iterator[World]:
    path = Path(tempfile.mkdtemp(prefix="procline-test-", dir="/dev/shm"))
    with open_tables(
        path, boot_id=bytes(16), capture_id=1, ring_count=1, row_capacity=1024, pid_capacity=1024,
        chunk_rows=4096, key_capacity=1024, names_bytes=1 << 20, args_bytes=1 << 20, envs_bytes=1 << 20,
        boot_unix_ns=0, retention_ns=10**9,
    ) as tables:  # fmt: skip
        yield World(path, tables)
    shutil.rmtree(path)


EVERYTHING = {
    "hits_cache": 1, "hits_kernel_maps": 2, "hits_procfs": 3, "miss": 4, "added_event": 5, "added_kernel_maps": 6,
    "added_procfs": 7, "flushed": 8, "broken_lineage": 9, "limiter_drop": 10, "path_error": 11, "args_truncated": 12,
    "args_size": 13, "envs_truncated": 14, "envs_size": 15, "reparent_success_set_process_context": 16,
    "reparent_success_do_exit": 17, "reparent_success_dequeue_exited": 18, "reparent_success_event_serialization": 19,
    "reparent_success_kernel_ppid": 20, "reparent_failed_set_process_context": 21, "reparent_failed_do_exit": 22,
    "reparent_failed_dequeue_exited": 23, "reparent_failed_event_serialization": 24,
    "reparent_failed_kernel_ppid": 25, "reparent_procfs_ok": 26, "reparent_procfs_fail": 27,
    "inode_error_fork_parent_missing": 28, "inode_error_exec_parent_missing": 29, "inode_error_procfs_mismatch": 30,
}  # fmt: skip
SENT = [
    ("g", "cache_size", 0.0, ()), ("c", "hits", 1, ("type:cache",)), ("c", "hits", 2, ("type:kernel_maps",)),
    ("c", "hits", 3, ("type:procfs",)), ("c", "miss", 4, ()), ("c", "added", 5, ("type:event",)),
    ("c", "added", 6, ("type:kernel_maps",)), ("c", "added", 7, ("type:procfs",)), ("c", "flushed", 8, ()),
    ("c", "path_error", 11, ()), ("c", "args.truncated", 12, ()), ("c", "args.size", 13, ()),
    ("c", "envs.truncated", 14, ()), ("c", "envs.size", 15, ()), ("c", "event_broken_lineage", 9, ()),
    ("c", "reparent.success", 16, ("callpath:set_process_context",)),
    ("c", "reparent.success", 17, ("callpath:do_exit",)), ("c", "reparent.success", 18, ("callpath:dequeue_exited",)),
    ("c", "reparent.success", 19, ("callpath:event_serialization",)),
    ("c", "reparent.success", 20, ("callpath:kernel_ppid",)),
    ("c", "reparent.failed", 21, ("callpath:set_process_context",)),
    ("c", "reparent.failed", 22, ("callpath:do_exit",)), ("c", "reparent.failed", 23, ("callpath:dequeue_exited",)),
    ("c", "reparent.failed", 24, ("callpath:event_serialization",)),
    ("c", "reparent.failed", 25, ("callpath:kernel_ppid",)),
    ("c", "reparent.procfs.success", 26, ()), ("c", "reparent.procfs.failed", 27, ()),
    ("c", "proc_fallback_limiter.drop", 10, ()), ("c", "inode_error", 28, ("type:fork_parent_missing",)),
    ("c", "inode_error", 29, ("type:exec_parent_missing",)), ("c", "inode_error", 30, ("type:procfs_mismatch",)),
]  # fmt: skip


def test_names_tags_and_order_are_the_specifications(world: World) -> None:
    client = Client()
    StatsdPush(client, COUNTERS, PREFIX).push(world.figures(**EVERYTHING))
    assert client.sent == SENT


def test_only_growth_is_sent_and_zero_is_not(world: World) -> None:
    client = Client()
    push = StatsdPush(client, COUNTERS, PREFIX)
    push.push(world.figures(miss=4))
    push.push(world.figures(miss=4))
    push.push(world.figures(miss=9))
    assert [sent for sent in client.sent if sent[0] == "c"] == [("c", "miss", 4, ()), ("c", "miss", 5, ())]
    assert sum(sent[0] == "g" for sent in client.sent) == 3


@pytest.mark.parametrize("fails_at", range(len(SENT)))
def test_counts_of_a_failed_push_are_sent_once_with_the_next_one(world: World, fails_at: int) -> None:
    client = Client()
    client.fails_at = fails_at
    push = StatsdPush(client, COUNTERS, PREFIX)
    with pytest.raises(OSError):
        push.push(world.figures(**EVERYTHING))
    client.fails_at = -1
    push.push(world.figures())
    assert sorted(set(client.sent)) == sorted(SENT)
    assert len([sent for sent in client.sent if sent[0] == "c"]) == len(SENT) - 1


def test_counts_of_an_earlier_daemon_are_not_sent_again(world: World) -> None:
    client = Client()
    push = StatsdPush(client, COUNTERS, PREFIX, world.figures(miss=100))
    push.push(world.figures(miss=103))
    push.push(world.figures(miss=2))
    assert [value for _, name, value, _ in client.sent if name == "miss"] == [3, 2]


def test_every_counter_is_pushed_and_is_one_of_the_tables() -> None:
    every = {counter_of(name, tag) for name, (_, _, tags) in COUNTERS.items() for tag in tags}
    assert every == set(EVERYTHING) and every <= set(layout.COUNTERS)


def test_the_thread_survives_a_failing_client_and_logs_it_once(world: World) -> None:
    client = Client()
    client.fails_at = 0
    failures: list[Exception] = []
    pusher = StatsdPusher(
        StatsdPush(client, COUNTERS, PREFIX), lambda: world.figures(miss=4), 0.01, failures.append
    )  # fmt: skip
    time.sleep(0.2)
    assert len(failures) == 1
    client.fails_at = -1
    pusher.close()
    assert ("c", "miss", 4, ()) in client.sent


def test_the_real_client_puts_it_on_the_wire(world: World) -> None:
    dogstatsd = pytest.importorskip("datadog.dogstatsd", reason="procline[statsd] is not installed")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(60)
        client = dogstatsd.DogStatsd(
            host="127.0.0.1", port=receiver.getsockname()[1], disable_telemetry=True, origin_detection_enabled=False
        )
        StatsdPush(client, COUNTERS, PREFIX).push(world.figures(hits_cache=3))
        received = {receiver.recv(4096).decode().strip() for _ in range(2)}
    assert received == {
        "datadog.runtime_security.process_resolver.cache_size:0.0|g",
        "datadog.runtime_security.process_resolver.hits:3|c|#type:cache",
    }
