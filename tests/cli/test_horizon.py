"""How far back tables reach, and the reason that a command gives."""

from __future__ import annotations

from datetime import UTC
from pathlib import Path

import pytest

from pipeline.cli.horizon import sentence
from pipeline.host import retention
from pipeline.shm.reader.horizon import BEGIN, FULL, RETENTION, Horizon, horizon
from pipeline.shm.reader.table import ProcessTable
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
    assert sentence(at).endswith("are not known: the capture began then")


def test_the_setting_that_decides_is_named(tables: Tables) -> None:
    assert sentence(found(tables, 80, 200)).endswith("are not kept (tables.retention_s)")
    (tables.directory / retention.FILE).write_bytes(retention.describe(90))
    assert sentence(found(tables, 100, 200)).endswith("are not kept (tables.retention_s is 1 min 30 s)")
    full = found(tables, 20, 200)
    memory = {"rows_used": 5, "rows_capacity": 100} | {
        f"{name}_{what}_bytes": 95 if (name, what) == ("args", "used") else 100 if what == "capacity" else 1
        for name in ("names", "args", "envs")
        for what in ("used", "capacity")
    }
    assert sentence(full, memory).endswith("were evicted early (tables.args_bytes)")
    assert "procline stat" in sentence(full)


def test_of_a_recording_and_of_an_unknown_instance_nothing_is_said(tables: Tables, runtime: Path) -> None:
    (tables.directory / retention.FILE).write_bytes(retention.describe(None))
    tables.control["horizon_boot_ns"] = 1
    assert horizon(tables.directory) is None
    assert horizon(runtime / "nobody") is None


def test_a_list_that_is_no_number_is_unknown(tables: Tables) -> None:
    (tables.directory / retention.FILE).write_text("[]")
    assert found(tables, 80, 200).retention_s is None


def test_a_table_says_since_when_it_is_complete(tables: Tables) -> None:
    tables.control["ready_boot_ns"] = 200 * S
    tables.control["horizon_boot_ns"] = 0  # nothing was evicted
    tables.commit(1, watermark_boot_ns=1)
    (tables.directory / retention.FILE).write_bytes(retention.describe(60.0))
    table = ProcessTable.attach(path=tables.directory)
    began_ns = BOOT_UNIX_NS + 200 * S
    assert table.complete_from_ns == began_ns
    tables.control["horizon_boot_ns"] = 300 * S + 1999
    assert table.complete_from_ns == began_ns + 100 * S + 1999
    assert (
        table.complete_from is not None and table.complete_from.microsecond == 1 and table.complete_from.tzinfo is UTC
    )
    stats = table.stats()
    assert (stats["started_ns"], stats["retention_s"], stats["complete_from_ns"]) == (
        began_ns, 60, began_ns + 100 * S + 1999,
    )  # fmt: skip
    (tables.directory / retention.FILE).write_bytes(retention.describe(None))  # a recording
    assert table.complete_from is None and table.stats()["retention_s"] is None
