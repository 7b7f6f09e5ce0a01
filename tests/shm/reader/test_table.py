"""`ProcessTable`: found by name, closed after use, and its statistics."""

from __future__ import annotations

import inspect
import json
import os
from pathlib import Path

import pytest

import pipeline
from pipeline import paths
from pipeline.errors import (
    ConfigError,
    NoProcessContextError,
    NotRunningError,
    ProcessIncompleteLineageError,
    ProcessMissingParentNodeError,
    ProcessWrongParentNodeError,
)
from pipeline.host import processes, sampling_interval
from pipeline.records.declared import KIND_NAMES
from pipeline.shm.layout import layout
from pipeline.shm.reader.table import ProcessTable
from tests.shm.handmade import Tables, now_boot_ns
from tests.test_imports import loaded_by


def test_an_instance_is_found_by_name(shm_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(paths.RUNTIME_DIR_VARIABLE, str(shm_dir))
    Tables(shm_dir / "default").row(7)
    Tables(shm_dir / "other").row(8)
    with ProcessTable.attach() as table:
        assert table.resolve(7) is not None and table.instance == "default"
        assert "resolve" in dir(table) and "slots" not in dir(table)
    assert table.closed and "closed" in repr(table)
    with ProcessTable.attach("other") as table:
        assert table.resolve(7) is None and table.resolve(8) is not None
    with ProcessTable.attach(path=shm_dir / "other") as table:
        assert table.resolve(8) is not None
    with pytest.raises(NotRunningError, match="'nobody'"):
        ProcessTable.attach("nobody")
    with pytest.raises(ConfigError):
        ProcessTable.attach("../other")


def test_a_fresh_look_up_needs_the_resolver(shm_dir: Path) -> None:
    """The tables have the process, but only the resolver knows whether they are up to date."""
    Tables(shm_dir).row(7)
    with ProcessTable.attach(path=shm_dir) as table:
        assert table.resolve(7) is not None
        with pytest.raises(NotRunningError):
            table.resolve(7, fresh=True)
        with pytest.raises(NotRunningError):
            table.refresh()


def test_the_environment_names_the_instance(shm_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(paths.RUNTIME_DIR_VARIABLE, str(shm_dir))
    Tables(shm_dir / "web").row(7)
    monkeypatch.setenv(paths.INSTANCE_VARIABLE, "web")
    with ProcessTable.attach() as table:
        assert table.instance == "web" and 7 in table
    with pytest.raises(NotRunningError, match="'default'"):
        ProcessTable.attach("default")
    monkeypatch.setenv(paths.INSTANCE_VARIABLE, "../web")
    with pytest.raises(ConfigError):
        ProcessTable.attach()
    monkeypatch.setenv(paths.INSTANCE_VARIABLE, "")
    with pytest.raises(NotRunningError, match="'default'"):
        ProcessTable.attach()


def test_an_instance_that_does_not_run_names_those_that_do(shm_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(paths.RUNTIME_DIR_VARIABLE, str(shm_dir))
    with pytest.raises(NotRunningError) as caught:
        ProcessTable.attach("nobody")
    assert caught.value.running == () and "; running" not in str(caught.value)
    assert str(caught.value).endswith("; PROCLINE_RUNTIME_DIR is set")
    with monkeypatch.context() as without:
        without.delenv(paths.RUNTIME_DIR_VARIABLE)
        for name in ("RUN", "FALLBACK"):  # this host's own may have instances
            without.setattr(paths, name, str(shm_dir / "empty"))
        with pytest.raises(NotRunningError, match=r"another runtime directory, set PROCLINE_RUNTIME_DIR$"):
            ProcessTable.attach("procline-test-no-such-instance")
    Tables(shm_dir / "web").row(7)
    Tables(shm_dir / "db").row(7)
    with pytest.raises(NotRunningError, match=r"'nobody' is not running: .*; running: db, web$") as caught:
        ProcessTable.attach("nobody")
    assert caught.value.running == ("db", "web") and caught.value.instance == "nobody"
    with pytest.raises(NotRunningError) as caught:
        ProcessTable.attach("nobody", path=shm_dir / "nobody")  # a directory that the caller chose has no neighbours
    assert caught.value.running == ()


def test_statistics(shm_dir: Path) -> None:
    tables = Tables(shm_dir)
    counters = dict.fromkeys(layout.COUNTERS, 0)
    for number, name in enumerate(counters):
        counters[name] = number + 100
    values = list(counters.values()) + [0] * (layout.COUNTER_CAPACITY - len(counters))
    now = now_boot_ns()
    tables.commit(1, watermark_boot_ns=now - 10**9, counters=values, heads_live=5, heads_exited=2, rows_used=9)
    (shm_dir / processes.FILE).write_bytes(processes.describe({"supervisor": os.getpid()}))
    (shm_dir / sampling_interval.FILE).write_bytes(sampling_interval.describe(7.5))
    with ProcessTable.attach(path=shm_dir) as table:
        stats = table.stats()
    for what in ("events", "lost"):
        expected = {kind: counters[f"{what}_{kind}"] for kind in KIND_NAMES[1:]}
        assert stats[what] == expected | ({"unknown": counters["lost_none"]} if what == "lost" else {})
    for name in ("late", "frames", "repairs", "evictions"):
        assert stats[name] == counters[name]
    assert stats["entries"] == {"live": 5, "exited": 2, "images": 9}
    assert 10**9 <= stats["watermark_lag_ns"] < 10**10
    assert stats["readers"] == 1 and stats["state"] == "ready" and stats["sampling_interval_s"] == 7.5
    (daemon,) = stats["processes"]
    assert (daemon["role"], daemon["pid"]) == ("supervisor", os.getpid()) and daemon["cpu_seconds"] > 0
    shown = {f"{what}_{kind}" for what in ("events", "lost") for kind in KIND_NAMES}
    assert set(stats["counters"]) == set(layout.COUNTERS) - shown - {"late", "frames", "repairs", "evictions"}
    json.dumps(stats)


def test_statistics_before_the_first_commit(shm_dir: Path) -> None:
    Tables(shm_dir).control["state"] = layout.STATE_FILLING
    with ProcessTable.attach(path=shm_dir) as table:
        stats = table.stats()
    assert stats["state"] == "filling" and stats["watermark_lag_ns"] is None and stats["processes"] == []


def test_the_pid_namespace_of_the_table(shm_dir: Path) -> None:
    tables = Tables(shm_dir)
    with ProcessTable.attach(path=shm_dir) as table:
        assert table.view.pids_are_ours and table.view.pid_ns == Path("/proc/self/ns/pid").stat().st_ino
    tables.control["pid_ns"] = 1
    with ProcessTable.attach(path=shm_dir) as table:
        assert not table.view.pids_are_ours


def test_whether_a_lineage_is_whole(shm_dir: Path) -> None:
    """Specification 5.10 and 5.11: a reader's entries give the same answer as the resolver's (test_cache_entry)."""
    tables = Tables(shm_dir)
    box = tables.intern("names", b"c0ffee")
    missing = layout.ROW_HEAD | layout.ROW_PARENT_MISSING
    links = {}

    def below(ppid: int, pid: int, **fields: int) -> None:
        links[pid] = tables.link(tables.row(pid, ppid=ppid, ancestor=links.get(ppid, 0), **fields))

    below(0, 1)
    below(1, 1, flags=layout.ROW_HEAD | layout.ROW_IS_EXEC)  # an init that called exec
    below(1, 2)
    known = layout.KNOWN_START | layout.KNOWN_FILE
    below(2, 3, container_ref=box, known=known, file_ref=tables.file(b"/bin/shim"))
    shell, called = tables.file(b"/bin/sh"), layout.ROW_HEAD | layout.ROW_IS_EXEC
    below(3, 3, container_ref=box, known=known, file_ref=shell, flags=called)
    below(3, 4, container_ref=box)
    below(2, 5, flags=missing)
    below(5, 6)
    below(9, 7, container_ref=box)
    with ProcessTable.attach(path=shm_dir) as table:
        assert [table.has_valid_lineage(pid) for pid in (1, 2, 4)] == [(True, None)] * 3
        verdict, error = table.has_valid_lineage(6)
        assert not verdict and isinstance(error, ProcessMissingParentNodeError)
        assert str(error) == "the parent of pid 5 is missing"
        assert (error.pid, error.ppid, error.container_id) == (5, 2, "")
        verdict, error = table.has_valid_lineage(7)
        assert not verdict and isinstance(error, ProcessIncompleteLineageError)
        assert (error.pid, error.ppid, error.container_id) == (7, 9, "c0ffee")
        assert isinstance(table.has_valid_lineage(99)[1], NoProcessContextError)
        assert [table.has_complete_lineage(pid) for pid in (1, 4, 6, 7, 99)] == [True, True, True, False, False]
        assert table.get_ancestors_pids(4) == [4, 3, 2, 1] and table.get_ancestors_pids(99) == []
        assert table.get_container_pids(4) == ([4, 3], ["", "/bin/sh"]) and table.get_container_pids(2) == ([], [])
        entry = table.resolve(3)
        assert entry is not None
        first = table.ancestors(entry)[0]
        assert [table.is_container_root(each) for each in (first, entry, 4, 7, 2)] == [True, False, False, False, False]
        assert table.has_valid_lineage(first) == (True, None)
        tables.hot["row_seq"][1] += 1  # pid 1 is being written: these two links do not need it
        assert table.is_container_root(first) and not table.is_container_root(2)
        assert [entry.pid for entry in table.ancestors(4, limit=2)] == [3, 3] and table.ancestors(4, limit=0) == []
        tables.hot["row_seq"][1] += 1
    tables.row(1, ancestor=links[2])
    with ProcessTable.attach(path=shm_dir) as table:
        error = table.has_valid_lineage(1)[1]
        assert isinstance(error, ProcessWrongParentNodeError) and str(error) == "pid 1 has an ancestor, pid 2"


def test_the_package_imports_its_names_on_first_use() -> None:
    assert pipeline.ProcessTable is ProcessTable
    for name in pipeline.__all__:
        found = getattr(pipeline, name)
        if inspect.isclass(found) or inspect.isroutine(found):  # otherwise a constant, or a name of several types
            assert found.__name__ == {"ResolverEvent": "Event"}.get(name, name)
    assert set(pipeline.__all__) <= set(dir(pipeline))
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = pipeline.Nothing


def test_a_look_up_loads_no_large_module_of_the_standard_library(shm_dir: Path) -> None:
    """Each of these, with what it imports, takes 0.3 to 1 MB; Python itself has 9. (Cython imports `collections`.)"""
    tables = Tables(shm_dir)
    tables.row(7)
    large = {"argparse", "datetime", "enum", "functools", "inspect", "json", "pathlib", "re", "typing"}
    attach = f"from pipeline import ProcessTable; table = ProcessTable.attach(path={str(shm_dir)!r})"
    read = "e = table.resolve(7); table.resolve(8); table.ancestors(e); e.load(); e.path; repr(e); table.close()"
    loaded = loaded_by(f"{attach}; {read}") - loaded_by("pass")  # a host can load anything at the start of Python
    assert "pipeline.shm.reader.table" in loaded and not loaded & large
