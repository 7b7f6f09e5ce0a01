"""Names of cgroups in rows: found once, written to all rows of the cgroup, forgotten by none."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline import events
from pipeline.resolver._apply import Applier
from pipeline.resolver.cgroups import TRIES, CgroupNamer
from pipeline.resolver.containers import CgroupTree
from pipeline.shm._writer import TableWriter
from pipeline.shm.validate import validate_tables

CONTAINER = "a" * 64


@pytest.fixture
def tables() -> Iterator[TableWriter]:
    with tempfile.TemporaryDirectory(prefix="procline-test-", dir="/dev/shm") as directory, TableWriter.create(
        Path(directory), boot_id=bytes(16), capture_id=1, ring_count=1, row_capacity=4096, pid_capacity=32768,
        names_bytes=1 << 22, args_bytes=1 << 20, envs_bytes=1 << 20, boot_unix_ns=0, retention_ns=10**12,
    ) as writer:  # fmt: skip
        yield writer


class Paths(CgroupTree):
    """Knows only what it was told."""

    def __init__(self, paths: dict[int, str]) -> None:
        super().__init__(root="/nowhere", mode="unified")
        self.paths = paths

    def path_of(self, cgroup_id: int, tgid: int = 0) -> str | None:
        return self.paths.get(cgroup_id)


def fork(applier: Applier, tgid: int, cgroup_id: int, time: int) -> int:
    head, task, body = (np.zeros(1, dtype) for dtype in (events.HEAD, events.TASK, events.FORK))
    head["kind"], head["tgid"], head["tid"] = events.KIND_FORK, tgid, tgid
    head["time_boot_ns"] = head["start_boot_ns"] = time
    task["cgroup_id"], task["comm"], task["ns_pid"], task["pid_ns"] = cgroup_id, b"x", tgid, 1
    row: int = applier.apply_records(head.tobytes(), task.tobytes(), body.tobytes(), b"")
    assert row
    return row


def names_of(tables: TableWriter, row: int) -> tuple[bytes, bytes]:
    cold = tables.cold_view()[row]
    return tables.names.py_bytes(int(cold["cgroup_ref"])), tables.names.py_bytes(int(cold["container_ref"]))


def test_rows_before_and_after_the_name_is_found_have_it(tables: TableWriter) -> None:
    applier = Applier(tables)
    paths: dict[int, str] = {}
    namer = CgroupNamer(applier.cgroups, Paths(paths))
    before = [fork(applier, tgid, 7, tgid * 1000) for tgid in (10, 11)]
    other = fork(applier, 12, 8, 12_000)
    namer()
    assert names_of(tables, before[0]) == (b"", b"")
    paths |= {7: f"/docker/{CONTAINER}", 8: "/user.slice"}
    namer()
    after = fork(applier, 13, 7, 13_000)
    for row in (*before, after):
        assert names_of(tables, row) == (f"/docker/{CONTAINER}".encode(), CONTAINER.encode())
    assert names_of(tables, other) == (b"/user.slice", b"")
    applier.cgroups.forget()
    validate_tables(tables)
    assert names_of(tables, other)[0] == b"/user.slice"


def test_a_cgroup_that_is_gone_is_not_looked_for_for_ever(tables: TableWriter) -> None:
    applier = Applier(tables)
    namer = CgroupNamer(applier.cgroups, Paths({}))
    fork(applier, 10, 7, 1000)
    for _ in range(TRIES):
        namer()
    assert not namer._tries


def test_thousands_of_cgroups(tables: TableWriter) -> None:
    applier = Applier(tables)
    namer = CgroupNamer(applier.cgroups, Paths({}))
    for cgroup_id in range(1, 3000):
        namer.learn(cgroup_id, b"/c%d" % cgroup_id)
    assert len(applier.cgroups) == 2999
    rows = {cgroup_id: fork(applier, 100 + cgroup_id, cgroup_id, 10_000 + cgroup_id) for cgroup_id in (1, 1500, 2999)}
    for cgroup_id, row in rows.items():
        assert names_of(tables, row)[0] == b"/c%d" % cgroup_id
