"""How far back tables reach, and the reason that a command gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.cli.horizon import BEGIN, FULL, RETENTION, Horizon, horizon
from pipeline.host import retention
from tests.shm.handmade import BOOT_UNIX_NS, Tables, now_boot_ns

S = 1_000_000_000


@pytest.fixture
def tables(runtime: Path) -> Tables:
    return Tables(runtime / "test")


def found(tables: Tables, age_s: float, ready_s: float, takeovers: int = 0) -> Horizon:
    """Return the horizon of tables that reach `age_s` back, and that were complete `ready_s` ago."""
    tables.control["horizon_boot_ns"] = now_boot_ns() - int(age_s * S)
    tables.control["ready_boot_ns"] = now_boot_ns() - int(ready_s * S)
    tables.control["takeovers"] = takeovers
    made = horizon(tables.directory)
    assert made is not None
    return made


@pytest.mark.parametrize(
    ("age_s", "ready_s", "takeovers", "cause"),
    [
        (31, 30, 0, BEGIN),
        (80, 200, 0, RETENTION),
        (60.5, 200, 0, RETENTION),
        (20, 200, 0, FULL),
        (31, 30, 1, BEGIN),
        (80, 30, 1, RETENTION),
        (20, 30, 1, FULL),
    ],
)
def test_the_cause(tables: Tables, age_s: float, ready_s: float, takeovers: int, cause: str) -> None:
    (tables.directory / retention.FILE).write_bytes(retention.describe(60.0))
    assert found(tables, age_s, ready_s, takeovers).cause == cause


def test_what_ended_before_the_first_table_was_complete_is_not_known(tables: Tables) -> None:
    at = found(tables, 31, 30)
    assert abs(at.time_ns - BOOT_UNIX_NS - (now_boot_ns() - 30 * S)) < S
    assert at.sentence().endswith("are not known: the capture began then")


def test_the_setting_that_decides_is_named(tables: Tables) -> None:
    assert found(tables, 80, 200).sentence().endswith("are not kept (tables.retention_s)")
    (tables.directory / retention.FILE).write_bytes(retention.describe(90))
    assert found(tables, 100, 200).sentence().endswith("are not kept (tables.retention_s is 1 min 30 s)")
    full = found(tables, 20, 200)
    memory = {"rows_used": 5, "rows_capacity": 100} | {
        f"{name}_{what}_bytes": 95 if (name, what) == ("args", "used") else 100 if what == "capacity" else 1
        for name in ("names", "args", "envs")
        for what in ("used", "capacity")
    }
    assert full.sentence(memory).endswith("were evicted early (tables.args_bytes)")
    assert "procline stat" in full.sentence()


def test_of_a_recording_and_of_an_unknown_instance_nothing_is_said(tables: Tables, runtime: Path) -> None:
    (tables.directory / retention.FILE).write_bytes(retention.describe(None))
    tables.control["horizon_boot_ns"] = 1
    assert horizon(tables.directory) is None
    assert horizon(runtime / "nobody") is None


def test_a_list_that_is_no_number_is_unknown(tables: Tables) -> None:
    (tables.directory / retention.FILE).write_text("[]")
    assert found(tables, 80, 200).retention_s is None
