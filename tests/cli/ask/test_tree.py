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
from tests.cli.fakes import BOOT_NS, FakeEntry, FakeTable, entry
from tests.sampling import times


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the clock to 100 s after the boot."""
    monkeypatch.setattr("time.time_ns", lambda: BOOT_NS + 100 * 10**9)


def test_a_tree_shows_the_living(procline: Command, table: type[FakeTable]) -> None:
    done = procline("tree")
    assert done.code == 0
    assert done.out.splitlines() == [
        "1 systemd -x  user 0 · 99s", "└─ 40 bash -x  60s", "   └─ 41 sleep '1 0'  59s"
    ]  # fmt: skip


def test_a_tree_can_show_exited_processes(procline: Command, table: type[FakeTable]) -> None:
    assert "   └─ 42 true -x  exited · lived 8 s\n" in procline("tree", "--exited").out
    assert procline("tree", "42").out == "42 true -x  exited · user 0 · lived 8 s\n"


def test_a_tree_can_begin_anywhere(procline: Command, table: type[FakeTable]) -> None:
    tree = json.loads(procline("tree", "40", "--json").out)
    assert tree["pid"] == 40 and [child["pid"] for child in tree["children"]] == [41]
    whole = json.loads(procline("tree", "--json").out)
    assert [root["pid"] for root in whole] == [1] and whole[0]["children"] == [tree]


def test_long_lines_are_kept_whole_where_no_terminal_is(procline: Command, table: type[FakeTable]) -> None:
    table.entries = (entry(1, 0, "init", argv=["init", "x" * 5000]),)
    assert procline("tree").out == f"1 init {'x' * 5000}  user 0 · 99s\n"


@pytest.mark.parametrize("form", [[], ["--json"], ["--dot"]])
@pytest.mark.slow
def test_a_long_chain_is_shown(procline: Command, table: type[FakeTable], form: list[str]) -> None:
    """Longer than the stacks of Python and of its JSON encoder, which is the larger one."""
    length = 12_000 if form == ["--json"] else times(12_000, 3000)
    table.entries = tuple(entry(pid, pid - 1) for pid in range(1, length + 1))
    done = procline("tree", *form)
    assert done.code == 0
    assert str(length) in done.out
    assert len(done.out) < length * 1500  # not the square of its length


def sleeps(count: int, **changes: object) -> tuple[FakeEntry, ...]:
    """Return init and this many sleeping children of it."""
    children = (entry(pid, 1, "sleep", argv=["sleep", str(pid)], **changes) for pid in range(10, 10 + count))
    return entry(1, 0, "init"), *children


def test_similar_children_are_folded(procline: Command, table: type[FakeTable]) -> None:
    table.entries = (*sleeps(12), entry(30, 1, "bash"), entry(31, 30, "sleep"))
    assert procline("tree").out.splitlines() == [
        "1 init -x  user 0 · 99s",
        "├─ 12 × sleep  pids 10 … 21 · 79s … 90s",
        "└─ 30 bash -x  70s",
        "   └─ 31 sleep -x  69s",
    ]
    for option in ("-v", "--no-fold"):
        assert len(procline("tree", option).out.splitlines()) == 15


def test_the_common_command_line_of_folded_children_is_shown(procline: Command, table: type[FakeTable]) -> None:
    table.entries = tuple(entry(pid, min(pid - 1, 1), "sleep", argv=["sleep", "9"]) for pid in range(1, 5))
    assert "3 × sleep 9  pids" in procline("tree").out


@pytest.mark.parametrize(
    "other",
    [
        {"uid": 7}, {"container_id": "c0ffee"}, {"container_trust": "user"}, {"path": "/usr/bin/dash"},
        {"exit_time_ns": BOOT_NS, "exit_code": 0}, {"path": "/usr/bin/python3", "argv": ["python3", "a.py"]},
    ],
)  # fmt: skip
def test_what_differs_is_not_folded(procline: Command, table: type[FakeTable], other: dict[str, object]) -> None:
    table.entries = (*sleeps(3), entry(20, 1, "sleep", **other))
    lines = procline("tree", "--exited").out.splitlines()
    assert len(lines) == 3 and "3 × sleep" in lines[1] and "20 " in lines[2]


def test_two_are_not_folded(procline: Command, table: type[FakeTable]) -> None:
    table.entries = sleeps(2)
    assert len(procline("tree").out.splitlines()) == 3


def test_the_depth_is_limited(procline: Command, table: type[FakeTable]) -> None:
    assert procline("tree", "--depth", "1").out.splitlines()[1:] == ["└─ 40 bash -x  1 below · 60s"]
    tree = json.loads(procline("tree", "--depth", "1", "--json").out)[0]
    assert tree["children"][0]["pid"] == 40 and tree["children"][0]["children"] == []
    assert procline("tree", "--depth", "x").code == 2


def pids(out: str) -> list[int]:
    """Return the pid of each line of a tree."""
    return [int(line.rpartition("─ ")[2].split()[0]) for line in out.splitlines()]


def test_a_selection_keeps_the_ancestors(procline: Command, table: type[FakeTable]) -> None:
    table.entries = (*table.entries, entry(50, 1, "cron", uid=3, user="daemon"), entry(51, 50, "job"))
    assert pids(procline("tree", "--path", "sleep").out) == [1, 40, 41]
    assert pids(procline("tree", "--user", "daemon").out) == [1, 50]
    assert pids(procline("tree", "--user", "0", "--path", "j*").out) == [1, 50, 51]
    assert pids(procline("tree", "40", "--path", "sleep").out) == [40, 41]
    nested_pids = json.loads(procline("tree", "--user", "daemon", "--json").out)
    assert nested_pids[0]["children"][0]["pid"] == 50 and nested_pids[0]["children"][0]["children"] == []
    assert procline("tree", "--user", "daemon", "--dot").out.count(" -> ") == 1
    done = procline("tree", "--user", "nobody")
    assert (done.code, done.out, done.err) == (1, "", "procline: no process matches\n")


def test_ancestors_that_do_not_match_are_dim(
    procline: Command, table: type[FakeTable], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    first, second, third = procline("tree", "--path", "sleep").out.splitlines()
    for line in (first, second):
        assert line.startswith("\x1b[2m") and line.count("\x1b[") == 2
    assert "\x1b[32msleep" in third


def test_changes_of_user_and_container_are_marked_where_they_happen(procline: Command, table: type[FakeTable]) -> None:
    inside = {"container_id": "0123456789abcdef", "uid": 33, "user": "www"}
    table.entries = (
        entry(1, 0, "init", user="root"), entry(2, 1, "runc", **inside), entry(3, 2, "nginx", **inside),
        entry(4, 3, "out"),
    )  # fmt: skip
    assert procline("tree").out.splitlines() == [
        "1 init -x  user root · 99s",
        "└─ 2 runc -x  user www · container 0123456789ab · 98s",
        "   └─ 3 nginx -x  97s",
        "      └─ 4 out -x  user 0 · not in the container · 96s",
    ]


def test_a_container_that_a_user_may_have_named_is_marked(procline: Command, table: type[FakeTable]) -> None:
    """Also if a process of the container with that id starts it."""
    inside = {"container_id": "0123456789abcdef"}
    table.entries = (
        entry(1, 0, "init"), entry(2, 1, "nginx", container_trust="root", **inside),
        entry(3, 2, "forger", container_trust="user", **inside),
    )  # fmt: skip
    assert procline("tree").out.splitlines()[1:] == [
        "└─ 2 nginx -x  container 0123456789ab · 98s",
        "   └─ 3 forger -x  container 0123456789ab (named by a user?) · 97s",
    ]


def test_failures_say_how(procline: Command, table: type[FakeTable]) -> None:
    ended = {"exit_time_ns": BOOT_NS + 95 * 10**9, "exit_cause": "signaled", "exit_cause_code": 9, "exit_code": 9}
    table.entries = (*table.entries, entry(43, 40, "job", **ended))
    out = procline("tree", "--failed").out
    assert "43 job -x  exited, signal 9 (SIGKILL) · lived 52 s" in out
    assert "42" not in out and "41" not in out


@pytest.fixture
def adopted(table: type[FakeTable]) -> type[FakeTable]:
    """A daemon 60 that a shell 50 started, which has exited; init adopted the daemon. 70 has exited too."""
    table.entries = (
        entry(1, 0, "init"),
        entry(40, 1, "bash"),
        entry(50, 40, "sh", exit_time_ns=BOOT_NS + 60 * 10**9, creator_entity_id="e40"),
        entry(60, 1, "daemon", creator_entity_id="e50"),
        entry(70, 40, "true", exit_time_ns=BOOT_NS + 71 * 10**9, creator_entity_id="e40"),
    )
    return table


def test_by_creator_shows_what_a_shell_has_started(procline: Command, adopted: type[FakeTable]) -> None:
    assert procline("tree", "40").out.splitlines() == ["40 bash -x  user 0 · 60s"]
    assert procline("tree", "40", "--by", "creator").out.splitlines() == [
        "40 bash -x  user 0 · 60s", "└─ 50 sh -x  exited · lived 10 s", "   └─ 60 daemon -x  40s"
    ]  # fmt: skip
    assert "70 true" in procline("tree", "40", "--by", "creator", "--exited").out
    whole = json.loads(procline("tree", "--by", "creator", "--json").out)
    assert [child["pid"] for child in whole[0]["children"]] == [40]
    assert whole[0]["children"][0]["children"][0]["children"][0]["parent_entity_id"] == "e1"
    assert procline("tree", "40", "--by", "creator", "--dot").out.count(" -> ") == 2
    assert procline("tree", "70", "--by", "creator").out.startswith("70 true -x  exited")


def test_exited_processes_are_bounded(
    procline: Command, table: type[FakeTable], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.cli.ask.tree.LINES_MAX", 5)
    table.entries = sleeps(9, exit_time_ns=BOOT_NS + 50 * 10**9)
    assert len(procline("tree", "--exited").out.splitlines()) == 2
    lines = procline("tree", "--exited", "-v").out.splitlines()
    assert len(lines) == 6 and lines[-1] == "… 5 more processes: --all shows them"
    assert len(procline("tree", "--exited", "-v", "--all").out.splitlines()) == 10
    assert len(json.loads(procline("tree", "--exited", "--json").out)[0]["children"]) == 9
    assert procline("tree", "--all").code == 2


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
    assert sum("".join(nested(root)).count('"pid"') for root in roots) == 5


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
    assert procline("tree", "2", "--pid-ns", "77").out == "2 worker -x  user 0 · 98s\n"
    # A process of the host, by its pid in an inner namespace.
    assert procline("tree", "2", "--pid-ns", "pid:[88]").out == "40 inner -x  user 0 · 60s\n"
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
