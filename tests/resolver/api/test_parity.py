"""docs/parity.md names only attributes and tests that exist, and the interface has the required signatures."""

from __future__ import annotations

import ast
import inspect
import re
from collections import Counter
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

from pipeline.resolver.api.ebpf import EBPFResolver
from pipeline.resolver.api.ebpfless import EBPFLessResolver
from pipeline.resolver.api.stats import COUNTERS
from pipeline.shm.names.symlinks import BUSYBOX_PATHS, symlink_names
from tests.resolver.api.test_scenarios import SCENARIOS

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs/parity.md").read_text(encoding="utf-8")

#: Parameters of the interface with the reference's names, in snake case.
EBPF = {
    "add_exec_entry": "event cgroup_context", "add_fork_entry": "event cgroup_context new_entry_cb",
    "add_tracer_metadata": "pid event", "apply_boot_time": "entry", "apply_exit_entry": "event new_entry_cb",
    "count_broken_lineage": "", "delete_entry": "pid exit_time", "dequeue_exited": "",
    "fetch_aws_security_credentials": "e", "get": "pid", "get_process_argv_scrubbed": "pr", "get_process_envp": "pr",
    "get_process_envs": "pr", "new_process_cache_entry": "pid_context",
    "resolve": "pid tid inode use_procfs new_entry_cb", "resolve_from_cache": "pid tid inode",
    "resolve_from_kernel_maps": "pid tid inode new_entry_cb", "resolve_from_procfs": "pid inode new_entry_cb",
    "retrieve_file_fields_from_procfs": "filename", "send_stats": "", "set_process_args": "pce",
    "set_process_envs": "pce", "set_process_symlink": "entry", "set_process_tty": "pce",
    "set_process_users_groups": "pce", "set_state": "state", "start": "ctx", "sync_cache": "proc",
    "to_dot": "with_args", "to_json": "raw",
    "try_reparent_from_kernel_ppid": "entry kernel_ppid new_entry_cb",
    "try_reparent_from_procfs": "entry callpath_tag new_entry_cb",
    "try_reparent_from_procfs_locked": "entry callpath_tag new_entry_cb",
    "update_aws_security_credentials": "pid e", "update_args_envs": "event", "update_capset": "pid e",
    "update_gid": "pid e", "update_login_uid": "pid e",
    "update_process_contexts": "pce cgroup_context container_context", "update_uid": "pid e", "walk": "callback",
}  # fmt: skip
_ENTRY = "key ppid file argv args_truncated envs envs_truncated ctr_id ts tty"
EBPFLESS = {
    "add_exec_entry": _ENTRY, "add_fork_entry": "key ppid ts", "add_procfs_entry": _ENTRY,
    "delete_entry": "key exit_time", "dump": "with_args", "get_process_argv_scrubbed": "pr", "get_process_envp": "pr",
    "get_process_envs": "pr", "new_entry": f"{_ENTRY} source", "resolve": "key", "send_stats": "", "snapshot": "",
    "start": "ctx", "update_group": "key gid egid group egroup", "update_user": "key uid euid user euser",
    "walk": "callback",
}  # fmt: skip


def tables() -> list[tuple[list[str], list[str]]]:
    """(column names, cells) of every row of every table."""
    rows = []
    header: list[str] = []
    for line in TEXT.splitlines():
        if not line.startswith("|"):
            header = []
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not header:
            header = cells
        elif not all(set(cell) <= set("-:") and "---" in cell for cell in cells):
            rows.append((header, cells))
    return rows


ROWS = [dict(zip(header, cells, strict=True)) for header, cells in tables() if "module" in header]
PROBLEMS = [dict(zip(header, cells, strict=True)) for header, cells in tables() if "problem" in header]
FAULTS = [dict(zip(header, cells, strict=True)) for header, cells in tables() if "fault" in header]


def has(module: object, name: str) -> bool:
    if hasattr(module, name):
        return True
    classes = [value for value in vars(module).values() if inspect.isclass(value)]
    return any(hasattr(one, name) for one in classes if one.__module__ == module.__name__)  # type: ignore[attr-defined]


def defined(header: str, name: str) -> int:
    """The number that a C header defines for a name."""
    [number] = re.findall(rf"^#define {name} (\d+)\b", (ROOT / "pipeline" / header).read_text("utf-8"), re.MULTILINE)
    return int(number)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['module']}.{row['here'].strip('`')}")
def test_names_exist(row: dict[str, str]) -> None:
    name = row["module"]
    if name.endswith(".h"):
        assert defined(name, row["here"].strip("`"))
        return
    module = import_module(f"pipeline.{name}")
    assert has(module, row["here"].strip("`"))
    if row.get("test"):
        assert is_test(ROOT / "tests", row["test"])


@pytest.mark.parametrize("column", ["reference", "here"])
def test_every_name_has_one_row(column: str) -> None:
    """Rows that were pasted over others name something that exists, so `test_names_exist` does not notice them."""
    rows = [(row["module"], row[column]) for row in ROWS if row.get(column, "-") != "-"]
    twice = [name for name, count in Counter(rows).items() if count > 1]
    assert twice == [("resolver.entries.model", "`SNAPSHOTTED`")] * (column == "here")  # two states of the reference


@pytest.mark.parametrize("resolver", [EBPFResolver, EBPFLessResolver])
def test_every_method_has_a_row(resolver: type) -> None:
    named = {row["here"].strip("`") for row in ROWS}
    methods = {name for name, value in vars(resolver).items() if inspect.isfunction(value) and name[0] != "_"}
    assert methods - named == set()


@cache
def functions_of(source: str) -> set[str]:
    return {node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}


def is_test(directory: Path, name: str) -> bool:
    """Whether `FILE::FUNCTION` below a directory is a test; with `[R1]`, the table must also have that scenario."""
    file, function, scenario = re.fullmatch(r"([\w/]+)::(\w+)(?:\[(\w+)\])?", name).groups()  # type: ignore[union-attr]
    is_there = function in functions_of((directory / f"{file}.py").read_text(encoding="utf-8"))
    return is_there and (scenario is None or any(row.startswith(f"{scenario} ") for row in SCENARIOS))


@pytest.mark.parametrize("row", FAULTS, ids=lambda row: row["fault"][:60])
def test_every_fault_has_tests(row: dict[str, str]) -> None:
    tests = row["tests"].split("<br>")
    assert tests
    for name in tests:
        assert is_test(ROOT / "tests", name), name


@pytest.mark.parametrize("row", PROBLEMS, ids=lambda row: row["problem"])
def test_every_problem_has_tests(row: dict[str, str]) -> None:
    for name in row["tests"].split("<br>"):
        assert is_test(ROOT / "tests", name), name


def test_every_problem_and_quirk_of_the_reference_is_answered() -> None:
    answered = set(re.findall(r"9\.[13]\.\d+", TEXT))
    assert answered == {f"9.1.{n}" for n in range(1, 16)} | {f"9.3.{n}" for n in range(1, 22)}


def test_there_are_18_faults() -> None:
    assert len(FAULTS) == 18


@pytest.mark.parametrize(("resolver", "owed"), [(EBPFResolver, EBPF), (EBPFLessResolver, EBPFLESS)])
def test_methods_have_the_parameters_that_are_owed(resolver: type, owed: dict[str, str]) -> None:
    for name, parameters in owed.items():
        found = list(inspect.signature(getattr(resolver, name)).parameters)
        assert found[1:] == parameters.split(), name
        assert f"`{name}`" in TEXT


def test_constructors_accept_the_collaborators_of_the_reference() -> None:
    assert list(inspect.signature(EBPFResolver).parameters)[:12] == [
        "manager", "config", "statsd_client", "scrubber", "mount_resolver", "cgroup_resolver", "user_group_resolver",
        "time_resolver", "path_resolver", "env_vars_resolver", "user_session_resolver", "opts",
    ]  # fmt: skip
    assert list(inspect.signature(EBPFLessResolver).parameters)[:4] == ["config", "statsd_client", "scrubber", "opts"]


def test_every_metric_and_tag_is_listed() -> None:
    for name, (metric, key, tags) in COUNTERS.items():
        assert f"| `{metric.removeprefix('.process_resolver')}` | `{name}` |" in TEXT
        for tag in tags:
            assert not key or f"`{key}:{tag}`" in TEXT


def test_constants_have_the_values_that_are_listed() -> None:
    values = {
        ("resolver.entries.model", "SNAPSHOTTING"): 0,
        ("resolver.entries.model", "SNAPSHOTTED"): 1,
        ("secrets.argsenvs", "PRIORITY_PREFIXES"): ("DD_SERVICE",),
        ("resolver.api.finder", "PROCFS_DEPTH"): 16,
        ("secrets.argsenvs", "CACHE_IDS"): 512,
        ("secrets.interner", "CAPACITY"): 8192,
        ("resolver.api.ebpf", "LIMITER_PIDS"): 128,
        ("resolver.api.ebpf", "LIMITER_USES"): 1,
        ("resolver.api.ebpf", "LIMITER_PERIOD_NS"): 30 * 10**9,
        ("resolver.api.reparenting", "FORK_LEVELS"): 3,
        ("resolver.api.reparenting", "WALK_STEPS"): 64,
        ("resolver.api.flushing", "FLUSH_INTERVAL_S"): 120,
        ("resolver.api.flushing", "FLUSH_AGE_NS"): 60 * 10**9,
        ("secrets.argsenvs", "CHUNK_BYTES"): 256,
        ("secrets.argsenvs", "ENVIRON_STRINGS"): 256,
        ("secrets.argsenvs", "TRUNCATION_MARK"): "...",
        ("resolver.api.ebpfless", "COMM_CHARS"): 16,
        ("resolver.entries.args_views", "KTHREADD"): 2,
        ("resolver.entries.model", "FILELESS_FILESYSTEM"): "tmpfs",
        ("resolver.entries.model", "FILELESS_PREFIX"): "memfd:",
        ("procfs.info", "UNSET"): 4294967295,
        ("secrets.values", "WORD_MASK"): b"*" * 8,
        ("secrets.values", "PATTERN_MASK"): b"*" * 5,
        ("resolver.api.dump", "DOT_DIRECTORY"): "/tmp",
        ("resolver.api.dump", "DOT_PREFIX"): "process-cache-dump-",
        ("resolver.api.dump", "DOT_MODE"): 0o400,
    }
    for (module, name), value in values.items():
        assert getattr(import_module(f"pipeline.{module}"), name) == value, name
    assert defined("records/records.h", "PL_STRING_MAX") == 32_768
    for name, number in (
        ("PL_PID_SETS", 4096), ("PL_PID_WAYS", 8), ("PL_PROC_CACHE_ENTRIES", 16_384),
    ):  # fmt: skip
        assert defined("bpf/programs/shared.h", name) == number, name
    assert frozenset({"/bin/busybox", "/usr/bin/busybox"}) == BUSYBOX_PATHS
    names = symlink_names("/bin/busybox", "ls")
    assert names is not None and names.paths == ("/bin/ls", "/usr/bin/ls")
