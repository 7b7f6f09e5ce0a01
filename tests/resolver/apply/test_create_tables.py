"""Tables for a resolver in the caller's own program: with the public names only, and read by another process."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import pipeline
from pipeline import (
    CacheResolverKey,
    ConfigError,
    EBPFLessResolver,
    EBPFResolver,
    NotRunningError,
    ProcessTable,
    StaleError,
    UnsupportedError,
    WriterExistsError,
    create_tables,
    paths,
)
from pipeline.shm.check.validate import validate_tables
from tests.waiting import until

NAMESPACE = 4026532000
SMALL = {"max_entries": 4096, "names_bytes": 1 << 20, "args_bytes": 1 << 20, "envs_bytes": 1 << 20}


def test_another_process_reads_what_a_tracer_reported(directory: Path) -> None:
    program = (
        "import sys; from pipeline import ProcessTable\n"
        "with ProcessTable.attach(path=sys.argv[1]) as table:\n"
        f"    print(table.resolve(7, pid_ns={NAMESPACE}).path, table.resolve(8, pid_ns={NAMESPACE}))"
    )
    with create_tables(path=directory, **SMALL) as tables:
        resolver = EBPFLessResolver(tables=tables)
        now = time.time_ns()
        key = CacheResolverKey(7, NAMESPACE)
        resolver.add_fork_entry(key, 1, now)
        resolver.add_exec_entry(key, 1, "/bin/true", ["true"], False, [], False, "", now + 1000, "")
        # The tables show that their writer lives, more often than readers require.
        beats = [int(tables.control_view()[0]["heartbeat_boot_ns"])]
        for _ in range(2):
            until(lambda: tables.control_view()[0]["heartbeat_boot_ns"] != beats[-1])
            beats.append(int(tables.control_view()[0]["heartbeat_boot_ns"]))
        assert np.diff(beats).max() < 1_000_000_000
        done = subprocess.run([sys.executable, "-c", program, directory], capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["/bin/true", "None"]
        validate_tables(tables)


def test_the_resolver_of_a_host_uses_them(directory: Path) -> None:
    with create_tables(path=directory, **SMALL) as tables, ProcessTable.attach(path=directory) as table:
        resolver = EBPFResolver(tables=tables)
        assert len(table) == 0 and 1 not in table
        own = os.getpid()
        found = resolver.resolve_from_procfs(own, 0, None)
        assert found is not None and found.pid == own and own in table
        # An ancestor can be Python too.
        assert own in [entry.pid for entry in table.find(path=Path(sys.executable).resolve().name)]
        assert table.find(path="no-such-program") == []


def test_the_example_of_the_page_works(directory: Path) -> None:
    """Only public names, and those that the page lists exist."""
    page = (Path(__file__).parents[3] / "docs" / "python.md").read_text()
    part = page[page.index("## Resolve without the daemon") :]
    code = part[part.index("```python\n") + 10 :].partition("```")[0]
    small = ", ".join(f"{name}={size}" for name, size in SMALL.items())
    done = subprocess.run(
        [sys.executable, "-c", code.replace('create_tables("mine")', f'create_tables("mine", {small})')],
        env={**os.environ, "PROCLINE_RUNTIME_DIR": str(directory)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "True\n"
    listed = re.findall(r"`(\w+)`", part[part.index("| for | names |") : part.index("```python")])
    assert len(listed) > 30 and set(listed) - {"Event"} <= set(pipeline.__all__)


def test_only_one_process_writes_them_and_the_next_one_continues(directory: Path) -> None:
    with create_tables(path=directory, **SMALL) as tables:
        with pytest.raises(WriterExistsError):
            create_tables(path=directory, **SMALL)
        EBPFLessResolver(tables=tables).add_fork_entry(CacheResolverKey(7, NAMESPACE), 1, time.time_ns())
        table = ProcessTable.attach(path=directory)
    with pytest.raises(StaleError):
        table.resolve(9, pid_ns=NAMESPACE)
    with create_tables(path=directory, **SMALL) as tables:
        assert table.resolve(7, pid_ns=NAMESPACE) is not None
        tables.close(remove=True)
    with pytest.raises(NotRunningError):
        ProcessTable.attach(path=directory)


def test_what_cannot_be_created_is_named(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROCLINE_RUNTIME_DIR", str(directory))
    with create_tables("mine", **SMALL) as tables:
        assert tables.directory == directory / "mine"
        with ProcessTable.attach("mine") as table:
            assert len(table) == 0
    with pytest.raises(ConfigError):
        create_tables("../mine")
    for wrong in (
        {"max_entries": 0},
        {"retention_s": -1.0},
        {"retention_s": 1e12},
        {"retention_s": float("nan")},
        {"names_bytes": 1},
    ):
        with pytest.raises(ConfigError):
            create_tables(path=directory, **(SMALL | wrong))
    disk = Path(__file__).parent / "not-on-tmpfs"
    assert not paths.is_in_memory(disk), "this test needs a checkout that is not on tmpfs"
    with pytest.raises(UnsupportedError, match="tmpfs"):
        create_tables(path=disk)
    assert not disk.exists()


def test_tables_that_are_dropped_end_as_if_they_were_closed(directory: Path) -> None:
    tables = create_tables(path=directory, **SMALL)
    resolver = EBPFLessResolver(tables=tables)
    del tables
    with pytest.raises(WriterExistsError):
        create_tables(path=directory, **SMALL)
    with ProcessTable.attach(path=directory) as table:
        del resolver
        gc.collect()
        deadline = time.monotonic() + 30  # the thread that shows life may hold them for a moment
        while True:
            try:
                table.resolve(7)
            except StaleError as error:
                assert "stopped" in str(error)
                break
            assert time.monotonic() < deadline
    create_tables(path=directory, **SMALL).close(remove=True)
