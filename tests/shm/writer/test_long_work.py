"""Work that visits all rows or all processes shows signs of life, and a start runs no Python code for each row."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config.schema import Config, Contexts, Tables
from pipeline.host.alive import watched
from pipeline.procfs.survey import Survey
from pipeline.resolver.daemon import build, process
from pipeline.shm.layout import layout
from pipeline.worker.description import WorkerDescription
from tests.resolver.process_host import instance_directory
from tests.shm.table_host import BOOT_ID, Host


@pytest.fixture
def directory() -> Iterator[Path]:
    with instance_directory() as made:
        yield made


def specification(directory: Path) -> WorkerDescription:
    config = Config(tables=Tables(max_entries=16384, pid_capacity=8192), contexts=Contexts(user_names="off"))
    return WorkerDescription(
        instance="a", dir=str(directory), role="resolver", source="proc-connector", config=config,
        boot_id=BOOT_ID.hex(), capture_id=1, supervisor_tgid=os.getppid(), ring_count=1,
    )  # fmt: skip


def fill(spec: WorkerDescription, processes: int) -> None:
    """Leave complete tables with this many live processes and as many ended ones; each has executed a program."""
    with build._tables(spec, 0) as writer:
        host = Host(writer)
        for pid in range(1, 2 * processes + 1):
            host.fork(1 if pid > 1 else 0, pid)
            host.exec(pid, b"c%d" % (pid % 50), b"a%d" % pid)
        for pid in range(2, 2 * processes + 1, 2):
            host.exit(pid)
        writer.set_state(layout.STATE_READY)


class Calls:
    """Counts calls of Python functions, and calls from them."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> Calls:
        sys.setprofile(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _note(self, frame: object, event: str, argument: object) -> None:
        self.count += event in {"call", "c_call"}


def calls_of_a_take_over(directory: Path, processes: int, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Count the calls until the state is READY, and those of the search for processes that a repair has not seen."""
    monkeypatch.setattr(process, "CATCH_UP_SECONDS", 0.0)
    shutil.copytree(directory, directory.with_name("b"))
    spec = specification(directory)
    fill(spec, processes)
    with Calls() as starting, build.build(spec) as worker:
        worker.start()
        tables = worker.loop.tables
        assert tables.is_takeover and tables.state == layout.STATE_READY
        assert tables.heads_live == tables.heads_exited == processes
        sys.setprofile(None)
        seen = everything(tables.hot_view())
        with Calls() as comparing:
            assert worker.loop.parts.repairer is not None
            tgids, starts = worker.loop.parts.repairer._unseen(seen)
        assert not len(tgids) and not len(starts)
    for below in sorted(directory.iterdir()):
        shutil.rmtree(below) if below.is_dir() else below.unlink()
    shutil.copytree(directory.with_name("b"), directory, dirs_exist_ok=True)
    shutil.rmtree(directory.with_name("b"))
    return starting.count, comparing.count


def everything(hot: np.ndarray[Any, Any]) -> Survey:
    """A survey that saw every process in the tables."""
    from pipeline.records import dtypes

    rows = np.flatnonzero((hot["flags"] & layout.ROW_HEAD != 0) & (hot["exit_boot_ns"] == 0))
    columns = [np.zeros(len(rows), dtype) for dtype in (dtypes.HEADER, dtypes.TASK, dtypes.EXEC)]
    columns[0]["tgid"], columns[0]["start_boot_ns"] = hot["tgid"][rows], hot["start_boot_ns"][rows]
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    return Survey(*columns, [b""] * len(rows), np.ones(len(rows), np.bool_), now, now)


def test_a_take_over_and_the_first_comparison_cost_no_python_by_the_row(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = calls_of_a_take_over(directory, 100, monkeypatch)
    many = calls_of_a_take_over(directory, 3000, monkeypatch)
    for least, most in zip(few, many, strict=True):
        assert most - least < 300, f"{few} calls with 100 processes, {many} with 3000"


def test_a_repair_finds_exactly_the_processes_that_it_did_not_see(directory: Path) -> None:
    spec = specification(directory)
    fill(spec, 50)
    with build.build(spec) as worker:
        assert worker.loop.parts.repairer is not None
        hot = worker.loop.tables.hot_view()
        seen = everything(hot)
        gone, reused = seen.header["tgid"][:2].tolist()
        seen.header["tgid"][0] = 8191
        seen.header["start_boot_ns"][1] += 20_000_000  # another process with the same pid
        expected = {pid: int(hot["start_boot_ns"][worker.loop.tables.py_head(pid)]) for pid in (gone, reused)}
        tgids, starts = worker.loop.parts.repairer._unseen(seen)
        assert dict(zip(tgids.tolist(), starts.tolist(), strict=True)) == expected


def test_signs_of_life_come_between_the_items() -> None:
    signs: list[int] = []
    taken = [item for item in watched("abc", lambda: signs.append(len(signs))) if signs]
    assert taken == ["a", "b", "c"] and signs == [0, 1, 2]
