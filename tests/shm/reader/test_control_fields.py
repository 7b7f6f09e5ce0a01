"""Numbers of the control segment that commands read without opening the tables."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from pipeline import paths
from pipeline.host import boot
from pipeline.shm.reader import control_fields
from tests.shm.handmade import Tables

HOUR_NS = 3600 * 10**9
SLACK_NS = 600 * 10**9


@pytest.fixture
def tables(shm_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Tables:
    """Tables of this boot; the clock was set back by an hour since their start."""
    monkeypatch.setenv(paths.RUNTIME_DIR_VARIABLE, str(shm_dir))
    tables = Tables(shm_dir / "a", pids=2048)
    tables.control[0]["boot_id"] = np.frombuffer(boot.boot_id(), "V16")[0]
    tables.control[0]["boot_unix_ns"] = boot.BootClock.read().offset_ns + HOUR_NS
    return tables


def test_fields_are_read_by_name(tables: Tables) -> None:
    assert control_fields.fields(tables.directory, "epoch", "pid_capacity") == {"epoch": 1, "pid_capacity": 2048}
    assert control_fields.fields(tables.directory / "missing", "epoch") is None


def test_the_present_time_is_that_of_the_tables(tables: Tables) -> None:
    assert abs(control_fields.now_ns("a") - time.time_ns() - HOUR_NS) < SLACK_NS
    step_ns = control_fields.clock_step_ns("a")
    assert step_ns is not None and abs(step_ns + HOUR_NS) < SLACK_NS


def test_without_tables_of_this_boot_it_is_that_of_the_clock(tables: Tables) -> None:
    tables.control[0]["boot_id"] = np.frombuffer(bytes(16), "V16")[0]
    for name in ("a", "missing", ""):
        assert abs(control_fields.now_ns(name) - time.time_ns()) < SLACK_NS
        assert control_fields.clock_step_ns(name) is None
