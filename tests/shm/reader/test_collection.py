"""A table as a collection of its running processes: counted, iterated over, searched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline import paths
from pipeline.errors import AccessError, StaleError
from pipeline.shm.layout import layout
from pipeline.shm.reader.table import ProcessTable
from tests.shm.full_row import ALL_KNOWN
from tests.shm.handmade import Tables

HEAD = layout.ROW_HEAD


@pytest.fixture
def tables(shm_dir: Path) -> Tables:
    tables = Tables(shm_dir)
    return tables


@pytest.fixture
def table(tables: Tables) -> ProcessTable:
    return ProcessTable.attach(path=tables.directory)


def test_a_table_contains_what_is_running(tables: Tables, table: ProcessTable) -> None:
    assert len(table) == 0 and bool(table) and list(table) == []
    row = tables.row(10)
    tables.row(11, exit_boot_ns=20_000)
    tables.row(12)
    assert len(table) == 2 and [entry.pid for entry in table] == [10, 12]
    assert [entry.pid for entry in table.walk(exited=True)] == [10, 11, 12]
    assert [pid in table for pid in (10, 11, 12, 13)] == [True, False, True, False]
    tables.change(row, exit_boot_ns=30_000)
    assert len(table) == 1 and 10 not in table
    tables.control["state"] = layout.STATE_FILLING
    assert 12 in table
    for unknown in (lambda: 13 in table, lambda: len(table), lambda: list(table)):
        with pytest.raises(StaleError):
            unknown()


def test_an_entry_is_in_the_table_while_its_process_runs(tables: Tables, table: ProcessTable) -> None:
    row = tables.row(10)
    entry = table.resolve(10)
    assert entry is not None and entry in table
    # An exec: the entry is an earlier image of a process that still runs.
    tables.change(row, exit_boot_ns=15_000, flags=layout.ROW_REPLACED)
    second = tables.row(10, start_boot_ns=10_000, exec_boot_ns=15_000, flags=HEAD | layout.ROW_IS_EXEC,
                        ancestor=tables.link(row))  # fmt: skip
    newest = table.newest(entry)
    assert entry in table and newest is not None and newest.exec_time_ns == table.boot_unix_ns + 15_000
    tables.change(second, exit_boot_ns=20_000)
    assert entry not in table
    # Another process has the pid now.
    third = tables.row(10, start_boot_ns=30_000, previous_owner=tables.link(second))
    assert 10 in table and entry not in table and table.resolve(10) in table
    newest = table.newest(entry)
    assert newest is not None and newest.exit_time_ns == table.boot_unix_ns + 20_000
    tables.free(second)
    tables.index[10] = third
    assert table.newest(entry) is None and entry not in table


def test_a_start_that_became_exact_is_the_same_process(tables: Tables, table: ProcessTable) -> None:
    tables.control["user_hz"] = 100
    row = tables.row(10, start_boot_ns=50_000_000, flags=HEAD | layout.ROW_START_TICKS)
    entry = table.resolve(10)
    tables.change(row, start_boot_ns=50_300_000, flags=HEAD)
    assert entry is not None and entry in table
    tables.change(row, start_boot_ns=60_000_000)
    assert entry not in table


def test_an_entry_of_another_boot_is_not_in_the_table(tables: Tables, table: ProcessTable, shm_dir: Path) -> None:
    tables.row(10)
    other = Tables(shm_dir / "other")
    other.row(10)
    other.control["boot_id"] = b"x" * 16
    entry = ProcessTable.attach(path=other.directory).resolve(10)
    assert entry is not None and entry not in table and table.newest(entry) is None


# -- find ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def services(tables: Tables) -> None:
    python, shell = tables.file(b"/usr/bin/python3.13"), tables.file(b"/usr/bin/dash")
    nginx = tables.file(b"/usr/sbin/nginx")
    box = tables.intern("names", b"0123456789ab")
    unit = tables.intern("names", bytes(16) + b"/system.slice/nginx.service")
    known: dict[str, Any] = {"known": ALL_KNOWN, "flags": HEAD}
    tables.row(20, **known, file_ref=nginx, comm=b"nginx", uid=33, euid=33, cgroup_ref=unit,
               args_ref=tables.strings("args", b"nginx", b"-g", b"daemon off;"))  # fmt: skip
    tables.row(21, **known, file_ref=python, comm=b"python3", uid=0, container_ref=box,
               args_ref=tables.strings("args", b"python3", b"/srv/job.py", b"--port=80"))  # fmt: skip
    tables.row(22, **known, file_ref=shell, comm=b"dash", uid=1000, euid=1000,
               args_ref=tables.strings("args", b"-dash"))  # fmt: skip
    tables.row(23, **known, file_ref=nginx, comm=b"nginx", uid=33, euid=33, exit_boot_ns=30_000, args_ref=0)


@pytest.mark.parametrize(
    ("wanted", "pids"),
    [
        ({}, [20, 21, 22]),
        ({"exited": True}, [20, 21, 22, 23]),
        ({"name": "nginx"}, [20]),
        ({"name": "nginx", "exited": True}, [20, 23]),
        ({"name": "ngin"}, []),
        ({"name": "NGINX"}, []),
        ({"name": "ngin?"}, [20]),
        ({"name": "job.py"}, [21]),
        ({"name": "python*"}, [21]),
        ({"name": ["dash", "nginx"]}, [20, 22]),
        ({"path": "/usr/bin/*"}, [21, 22]),
        ({"path": "dash"}, [22]),
        ({"path": "/usr/bin/dash"}, [22]),
        ({"argv": "--port=*"}, [21]),
        ({"argv": "-dash"}, [22]),
        ({"argv": "daemon off;"}, [20]),
        ({"argv": "daemon"}, []),
        ({"user": 0}, [21]),
        ({"user": "0"}, [21]),
        ({"user": [33, 1000]}, [20, 22]),
        ({"container": "0123"}, [21]),
        ({"unit": "nginx"}, [20]),
        ({"unit": "*.service"}, [20]),
        ({"user": 33, "name": "dash"}, []),
    ],
)
@pytest.mark.usefixtures("services")
def test_processes_are_found_by_what_they_are(table: ProcessTable, wanted: dict[str, Any], pids: list[int]) -> None:
    found = table.find(**wanted)
    assert [entry.pid for entry in found] == pids
    assert all(entry.comm for entry in found)


@pytest.mark.usefixtures("services")
def test_a_wrong_condition_is_refused(table: ProcessTable) -> None:
    for name in ("name", "path", "argv", "container", "unit", "user"):
        wrong: dict[str, Any]
        for wrong in ({name: True}, {name: 1.5}, {name: b"nginx"}, {name: ["a", None]}):
            with pytest.raises(TypeError, match=f"{name} must be a str"):
                table.find(**wrong)
        for wrong in ({name: ""}, {name: []}):
            with pytest.raises(ValueError, match="empty"):
                table.find(**wrong)
    with pytest.raises(ValueError, match="4 characters"):
        table.find(container="012")
    with pytest.raises(TypeError):
        table.find("nginx")  # type: ignore[misc]


@pytest.mark.usefixtures("services")
def test_without_access_to_arguments_they_find_nothing_silently(
    table: ProcessTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda file, *rest, **options: Path(file).name != paths.ARGS)
    with pytest.raises(AccessError, match="arguments"):
        table.find(argv="x")
    assert [entry.pid for entry in table.find(name="nginx")] == [20]
