"""`procline tree` and `dump`: forests, long chains, drawings."""

from __future__ import annotations

import json
import os
import shutil
import stat
from pathlib import Path

import pytest

from pipeline.export.forest import find, forest, nested
from tests.cli.conftest import Command
from tests.cli.fakes import FakeTable, entry


def test_a_tree_shows_the_living(procline: Command, table: type[FakeTable]) -> None:
    done = procline("tree")
    assert done.code == 0
    assert done.out.splitlines() == ["1 systemd -x", "└── 40 bash -x", "    └── 41 sleep '1 0'"]


def test_a_tree_can_show_exited_processes(procline: Command, table: type[FakeTable]) -> None:
    assert "42 true -x (exited)" in procline("tree", "--exited").out
    assert procline("tree", "42").out == "42 true -x (exited)\n"


def test_a_tree_can_begin_anywhere(procline: Command, table: type[FakeTable]) -> None:
    tree = json.loads(procline("tree", "40", "--json").out)
    assert tree["pid"] == 40 and [child["pid"] for child in tree["children"]] == [41]
    whole = json.loads(procline("tree", "--json").out)
    assert [root["pid"] for root in whole] == [1] and whole[0]["children"] == [tree]


def test_long_lines_are_kept_whole_where_no_terminal_is(procline: Command, table: type[FakeTable]) -> None:
    table.entries = (entry(1, 0, "init", argv=["init", "x" * 5000]),)
    assert procline("tree").out == f"1 init {'x' * 5000}\n"


@pytest.mark.parametrize("form", [[], ["--json"], ["--dot"]])
def test_a_chain_of_600_is_shown(procline: Command, table: type[FakeTable], form: list[str]) -> None:
    table.entries = tuple(entry(pid, pid - 1) for pid in range(1, 601))
    done = procline("tree", *form)
    assert done.code == 0
    assert "600" in done.out


def test_parents_are_found_by_identity_never_by_pid() -> None:
    """The parent of 8 is not in the table; the process with its pid 5 in the table is another one."""
    entries = [
        entry(5, 0, parent_entity_id=None),
        entry(6, 5, parent_entity_id="gone"),
        entry(7, 5),
        entry(8, 5, parent_entity_id=None, is_parent_missing=True),
    ]
    roots = forest(each.to_dict() for each in entries)
    assert [root.entry["pid"] for root in roots] == [5, 6, 8]
    assert [child.entry["pid"] for child in roots[0].children] == [7]


def test_contradicting_entries_are_all_in_the_tree() -> None:
    ring = [entry(5, 7), entry(6, 5), entry(7, 6), entry(8, 8), entry(9, 7)]
    roots = forest(each.to_dict() for each in ring)
    assert [root.entry["pid"] for root in roots] == [8, 5]
    assert sum(json.dumps(nested(root)).count('"pid"') for root in roots) == 5


def test_the_living_owner_of_a_pid_is_found_first() -> None:
    dead = entry(5, 0, entity_id="old", exit_time_ns=9, start_time_ns=1, parent_entity_id=None)
    older = entry(5, 0, entity_id="older", exit_time_ns=5, start_time_ns=0, parent_entity_id=None)
    alive = entry(5, 0, entity_id="new", start_time_ns=10, parent_entity_id=None)
    roots = forest(each.to_dict() for each in (older, dead, alive))
    assert find(roots, 5).entry["entity_id"] == "new"
    assert find(roots[:0], 5) is None
    roots = forest(each.to_dict() for each in (older, dead))
    assert find(roots, 5).entry["entity_id"] == "old"


def test_dump_is_one_document_with_an_entry_a_line(procline: Command, table: type[FakeTable]) -> None:
    done = procline("dump", "--json")
    assert [each["pid"] for each in json.loads(done.out)["entries"]] == [1, 40, 41, 42]
    assert len(done.out.splitlines()) == 6


def test_dump_as_a_graph(procline: Command, table: type[FakeTable]) -> None:
    out = procline("dump", "--dot").out
    assert out.startswith('digraph "default" {') and out.endswith("}\n")
    assert "p0 -> p1;" in out and "p1 -> p2;" in out and "p1 -> p3;" in out
    assert out.count("style=dashed") == 1


def fake_graphviz(directory: Path, script: str) -> None:
    program = directory / "dot"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


def test_a_drawing_needs_graphviz(
    procline: Command, table: type[FakeTable], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = procline("tree", "--svg", str(tmp_path / "tree.svg"))
    assert done.code == 2 and "apt-get install graphviz" in done.err
    assert not (tmp_path / "tree.svg").exists()


def test_a_drawing_is_the_graph_drawn_by_graphviz(
    procline: Command, table: type[FakeTable], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    fake_graphviz(tmp_path, "cat")
    assert procline("tree", "--svg", str(tmp_path / "tree.svg")).code == 0
    assert (tmp_path / "tree.svg").read_text() == procline("tree", "--dot").out
    fake_graphviz(tmp_path, "echo 'syntax error' >&2; exit 1")
    done = procline("tree", "--svg", str(tmp_path / "tree.svg"))
    assert done.code == 2 and "syntax error" in done.err
    fake_graphviz(tmp_path, "cat")
    assert procline("tree", "--svg", "/nonexistent/tree.svg").code == 2


@pytest.mark.skipif(shutil.which("dot") is None, reason="needs Graphviz (apt-get install graphviz)")
def test_graphviz_draws_hostile_labels(procline: Command, table: type[FakeTable], tmp_path: Path) -> None:
    table.entries = (entry(5, 0, 'a"];x->y[', argv=["\\N\\", "\x00\x1b", "\udcff", "<b>&amp;", "\\l"]),)
    assert procline("tree", "--svg", str(tmp_path / "tree.svg")).code == 0
    assert "&lt;b&gt;" in (tmp_path / "tree.svg").read_text()


def test_processes_of_a_tracer_form_their_own_tree(procline: Command, table: type[FakeTable]) -> None:
    """Pids of a pid namespace do not match pids of the host, neither as parents nor in look-ups."""
    told = {"pid_ns": 77, "marks": ["foreign"], "parent_entity_id": None}
    table.entries = (
        entry(1, 0, "systemd"),
        entry(1, 0, "init", entity_id="f1", ns_pid=1, **told),
        entry(2, 1, "worker", entity_id="f2", ns_pid=2, **told | {"parent_entity_id": "f1"}),
        entry(40, 1, "inner", pid_ns=88, ns_pid=2),
    )
    whole = json.loads(procline("tree", "--json").out)
    assert [(root["comm"], [child["comm"] for child in root["children"]]) for root in whole] == [
        ("systemd", ["inner"]), ("init", ["worker"]),
    ]  # fmt: skip
    assert procline("tree", "2").code == 1
    assert procline("tree", "1").out.startswith("1 systemd")
    assert procline("tree", "2", "--pid-ns", "77").out == "2 worker -x\n"
    # A process of the host, by its pid in an inner namespace.
    assert procline("tree", "2", "--pid-ns", "pid:[88]").out == "40 inner -x\n"
    assert json.loads(procline("resolve", "2", "--pid-ns", "77", "--json").out)["comm"] == "worker"
    assert json.loads(procline("ancestors", "2", "--pid-ns", "77", "--json").out)[0]["comm"] == "init"
    assert json.loads(procline("children", "1", "--pid-ns", "77", "--json").out)[0]["comm"] == "worker"
    missing = procline("resolve", "9", "--pid-ns", "77")
    assert missing.code == 1 and "no process 9 in pid namespace 77" in missing.err


@pytest.mark.parametrize(
    "arguments",
    [("tree", "--pid-ns", "7"), ("resolve", "7", "--ask", "--pid-ns", "7"), ("children", "7", "--pid-ns", "x")],
)
def test_a_namespace_needs_a_pid_of_it(procline: Command, table: type[FakeTable], arguments: tuple[str, ...]) -> None:
    assert procline(*arguments).code == 2
