"""`procline cost` on tables that were made by hand."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from pipeline import ProcessTable
from pipeline.account.usage import NUMBERS
from pipeline.export.text import printable
from pipeline.shm.layout import layout
from tests.cli.conftest import Command
from tests.shm.handmade import BOOT_UNIX_NS, Tables

S = 1_000_000_000
KNOWN = (
    layout.KNOWN_START | layout.KNOWN_COMM | layout.KNOWN_FILE | layout.KNOWN_CREDS | layout.KNOWN_CGROUP
    | layout.KNOWN_COST | layout.KNOWN_IO
)  # fmt: skip
NOW = BOOT_UNIX_NS + 100 * S


@pytest.fixture
def tables(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> Tables:
    made = Tables(runtime / "test")
    made.commit(1, watermark_boot_ns=1)
    attach = ProcessTable.attach
    monkeypatch.setattr(
        "pipeline.ProcessTable.attach", classmethod(lambda cls, name: attach("test", path=made.directory))
    )
    monkeypatch.setattr("time.time_ns", lambda: NOW)
    return made


@pytest.fixture
def build(tables: Tables) -> Callable[..., int]:
    """Add an exited process: 2 s in user mode and 1 s in the kernel, from second `pid` on for two seconds."""

    def add(pid: int, path: str, parent: int = 0, unit: str = "x", **changes: Any) -> int:
        fields = {
            "start_boot_ns": pid * S, "exit_boot_ns": (pid + 2) * S, "known": KNOWN, "uid": 1000, "images": 2,
            "file_ref": tables.file(path.encode()), "inode": 7, "comm": path.rpartition("/")[2].encode()[:15],
            "cgroup_ref": tables.intern("names", bytes(16) + f"/system.slice/{unit}.service".encode()),
            "cpu_user_ns": 2 * S, "cpu_system_ns": S, "max_rss_bytes": pid << 20, "read_bytes": 1 << 20,
            "write_bytes": 2 << 20,
        }  # fmt: skip
        if parent:
            fields |= {"parent": tables.link(parent), "creator": tables.link(parent), "ancestor": tables.link(parent)}
        return tables.row(pid, **(fields | changes))

    return add


def groups(result: Any) -> dict[str | None, dict[str, Any]]:
    return {group["key"]: group for group in json.loads(result.out)["groups"]}


def test_a_row_for_each_program_with_sums_the_most_first(procline: Command, build: Callable[..., int]) -> None:
    make = build(20, "/usr/bin/make", children_cpu_ns=7 * S)
    build(21, "/usr/bin/cc", make)
    build(22, "/usr/bin/cc", make)
    found = procline("cost")
    assert found.code == 0
    heading, first, second, total, *notes = found.out.splitlines()
    assert heading.split()[:3] == ["CPU", "USER", "SYSTEM"] and heading.split()[-1] == "PATH"
    assert first.endswith("/usr/bin/cc") and "6 s" in first and "22 MiB" in first
    # The parent's count has a second more than the records of its children: the time of their ends.
    assert second.endswith("/usr/bin/make") and second.split()[:2] == ["4", "s"]
    assert total.endswith("total") and total.split()[:2] == ["10", "s"]
    assert any("CPU has 1 s more than USER and SYSTEM" in note for note in notes)
    table = groups(procline("cost", "--json"))
    assert table["/usr/bin/cc"]["cpu_ns"] == 6 * S and table["/usr/bin/cc"]["processes"] == 2
    assert table["/usr/bin/make"]["rest_cpu_ns"] == S


def test_a_subtree_and_its_adopted_processes(procline: Command, tables: Tables, build: Callable[..., int]) -> None:
    init = build(1, "/sbin/init")
    make = build(20, "/usr/bin/make", init)
    build(21, "/usr/bin/cc", make)
    build(22, "/usr/bin/daemon", init, creator=tables.link(make))
    build(23, "/usr/bin/other", init)
    total = json.loads(procline("cost", "--under", "20", "--json").out)
    assert set(groups(procline("cost", "--under", "20", "--json"))) == {
        "/usr/bin/make",
        "/usr/bin/cc",
        "/usr/bin/daemon",
    }
    assert total["total"]["processes"] == 3 and total["total"]["cpu_ns"] == 9 * S


def test_a_program_with_everything_that_it_started(procline: Command, build: Callable[..., int]) -> None:
    make = build(20, "/usr/bin/make")
    build(21, "/usr/bin/cc", make)
    build(23, "/usr/bin/other")
    assert set(groups(procline("cost", "--path", "make", "--json"))) == {"/usr/bin/make", "/usr/bin/cc"}


def test_of_a_program_and_its_descendants_a_user_or_a_unit_is_chosen(
    procline: Command, build: Callable[..., int]
) -> None:
    make = build(20, "/usr/bin/make", uid=0)
    build(21, "/usr/bin/cc", make, uid=4000)
    build(22, "/usr/bin/ld", make, uid=0, unit="y")
    build(23, "/usr/bin/other", uid=4000, unit="y")
    assert set(groups(procline("cost", "--path", "make", "--user", "4000", "--json"))) == {"/usr/bin/cc"}
    assert set(groups(procline("cost", "--path", "make", "--unit", "y", "--json"))) == {"/usr/bin/ld"}
    assert procline("cost", "--path", "other", "--user", "4001").code == 1


@pytest.mark.parametrize(
    ("by", "keys"), [("unit", {"x.service", "y.service"}), ("user", {"1000", "0"}), ("container", {None})]
)
def test_the_key_can_be_chosen(procline: Command, build: Callable[..., int], by: str, keys: set[str | None]) -> None:
    build(20, "/usr/bin/make")
    build(21, "/usr/bin/cc", unit="y", uid=0)
    assert set(groups(procline("cost", "--by", by, "--json"))) == keys


def test_what_started_most_is_the_program_at_the_time_of_the_fork(
    procline: Command, tables: Tables, build: Callable[..., int]
) -> None:
    shell = build(20, "/usr/bin/sh")
    build(21, "/usr/bin/cc", shell)
    build(22, "/usr/bin/cc", shell)
    build(23, "/usr/bin/cc", build(20, "/usr/bin/make", start_boot_ns=20 * S, ancestor=tables.link(shell), images=3))
    tables.change(shell, flags=layout.ROW_REPLACED)
    found = groups(procline("cost", "--by", "spawner", "--json"))
    assert {key: sum_["processes"] for key, sum_ in found.items()} == {"/usr/bin/sh": 2, "/usr/bin/make": 1, None: 1}
    assert "not known: started before the capture" in procline("cost", "--by", "spawner").out


def test_the_rows_can_be_sorted(procline: Command, build: Callable[..., int]) -> None:
    build(20, "/usr/bin/long", cpu_user_ns=9 * S, max_rss_bytes=1 << 20)
    build(21, "/usr/bin/many", write_bytes=0)
    build(22, "/usr/bin/many", write_bytes=0)

    def first(*arguments: str) -> str:
        shown = procline("cost", *arguments).out.splitlines()[1].split()[-1]
        assert json.loads(procline("cost", *arguments, "--json").out)["groups"][0]["key"] == shown
        return shown

    assert first() == first("--sort", "written") == "/usr/bin/long"
    assert first("--sort", "processes") == first("--sort", "memory") == first("--sort", "lived") == "/usr/bin/many"


def test_processes_that_began_earlier_are_left_out_and_named(procline: Command, build: Callable[..., int]) -> None:
    build(20, "/usr/bin/old", exit_boot_ns=99 * S)
    build(21, "/usr/bin/gone")
    build(95, "/usr/bin/new")
    found = procline("cost", "--since", "10s", "--json")
    assert set(groups(found)) == {"/usr/bin/new"}
    coverage = json.loads(found.out)["coverage"]
    assert (coverage["began_earlier"], coverage["began_earlier_cpu_ns"]) == (1, 3 * S)
    assert "1 process that began earlier is left out" in procline("cost", "--since", "10s").out.replace("\n", " ")


def test_earlier_owners_of_a_pid_count(procline: Command, tables: Tables, build: Callable[..., int]) -> None:
    old = build(20, "/usr/bin/cc")
    build(20, "/usr/bin/cc", start_boot_ns=50 * S, exit_boot_ns=51 * S, previous_owner=tables.link(old))
    assert json.loads(procline("cost", "--json").out)["total"]["processes"] == 2


def test_under_a_pid_is_its_last_owner(procline: Command, tables: Tables, build: Callable[..., int]) -> None:
    old = build(20, "/usr/bin/old")
    build(21, "/usr/bin/child-of-old", old)
    build(20, "/usr/bin/new", start_boot_ns=50 * S, exit_boot_ns=51 * S, previous_owner=tables.link(old))
    assert set(groups(procline("cost", "--under", "20", "--json"))) == {"/usr/bin/new"}


def test_what_is_unknown_is_said(procline: Command, tables: Tables, build: Callable[..., int]) -> None:
    build(20, "/usr/bin/lost", known=KNOWN & ~(layout.KNOWN_COST | layout.KNOWN_IO))
    build(21, "/usr/bin/old", known=KNOWN & ~layout.KNOWN_IO)
    tables.commit(2, watermark_boot_ns=1)
    tables.control["horizon_boot_ns"] = 10 * S
    counters = layout.COUNTERS
    tables.commits[0]["counters"][0][counters.index("evictions")] = 9
    tables.commits[0]["counters"][0][counters.index("lost_exit")] = 4
    text = procline("cost").out.replace("\n", " ")
    assert "What 1 process used is not known" in text
    assert "What 1 process read and wrote is not known" in text
    assert "Some may be missing: processes that ended before" in text
    assert "4 exits lost" in text


# Tables are read if they belong to root or to the user, so the user that is not root is the one that runs the test.
@pytest.mark.parametrize(("uid", "is_told"), [(0, False), (os.geteuid() or 1000, True)])
def test_the_advice_to_become_root_is_for_other_users(
    procline: Command, build: Callable[..., int], monkeypatch: pytest.MonkeyPatch, uid: int, is_told: bool
) -> None:
    build(21, "/usr/bin/old", known=KNOWN & ~layout.KNOWN_IO)
    monkeypatch.setattr("os.geteuid", lambda: uid)
    assert ("as root" in procline("cost").out) == is_told


def test_time_from_before_the_capture_is_left_out(procline: Command, build: Callable[..., int]) -> None:
    """The children of pid 1 may have used days before the capture; those of a process that is younger did not."""
    init = build(1, "/sbin/init", flags=layout.ROW_HEAD | layout.ROW_BEFORE_CAPTURE, children_cpu_ns=100_000 * S)
    make = build(20, "/usr/bin/make", init, children_cpu_ns=7 * S)
    build(21, "/usr/bin/cc", make)
    # It ran before the capture too, but its present image was executed later.
    build(2, "/usr/bin/old", init, start_boot_ns=S // 2, children_cpu_ns=9 * S)
    found = json.loads(procline("cost", "--json").out)
    assert found["total"]["rest_cpu_ns"] == 4 * S and found["coverage"]["before_capture"] == 2
    text = procline("cost").out.replace("\n", " ")
    assert "2 processes began before the capture: what the kernel counts for their ended children is left out" in text


def test_the_time_of_a_few_ends_needs_no_note(procline: Command, build: Callable[..., int]) -> None:
    build(21, "/usr/bin/cc", build(20, "/usr/bin/make", children_cpu_ns=3 * S + 50_000_000))
    assert "more than USER and SYSTEM" not in procline("cost").out


def test_a_period_that_reaches_too_far_is_reported(
    procline: Command, tables: Tables, build: Callable[..., int]
) -> None:
    """Processes that are not retained any more must be reported as missing in the sums."""
    build(95, "/usr/bin/new")
    (tables.directory / "retention").write_text("300")
    tables.control["horizon_boot_ns"] = 50 * S
    at = datetime.fromtimestamp(BOOT_UNIX_NS // S + 50)
    kept = f"processes that ended before {at:%H:%M:%S} are not kept (tables.retention_s is 5 min)"

    def words(text: str) -> str:
        # On a host that has run for hours, the present of these tables is another day.
        return text.replace("\n", " ").replace(f"{at:%Y-%m-%d} ", "")

    assert kept in words(procline("cost", "--since", "60s").out)
    assert "not kept" not in procline("cost", "--since", "40s").out
    none = procline("cost", "--path", "nothing", "--since", "60s")
    assert none.code == 1 and kept in words(none.err)
    assert "not kept" not in procline("cost", "--path", "nothing", "--since", "40s").err


def test_a_live_process_counts_with_what_it_has_used_so_far(procline: Command, tables: Tables) -> None:
    start = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) * 10_000_000
    row = {"start_boot_ns": start, "known": KNOWN & ~layout.KNOWN_COST, "file_ref": tables.file(b"/bin/me"), "inode": 7}
    tables.row(os.getpid() % 4096, **row)
    found = json.loads(procline("cost", "--json").out)["total"]
    if os.getpid() < 4096:
        assert found["live"] == 1 and found["cpu_ns"] > 0 and found["unknown"] == 0
    else:  # the hand-made index has no room for this pid: another process, which is not there
        assert found["live"] == 1 and found["unknown"] == 1


def test_parents_are_measured_before_their_children(
    procline: Command, tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the time of a child that ends in between counts twice; pids begin again at some time."""
    order = []

    def used(pid: int, start_ns: int) -> dict[str, int | None]:
        order.append(pid)
        return dict.fromkeys(NUMBERS, 0)

    monkeypatch.setattr("pipeline.host.processes.used", used)
    for pid, second in ((21, 30), (20, 40), (22, 10)):
        row = {"start_boot_ns": second * S, "known": KNOWN & ~layout.KNOWN_COST, "inode": 7}
        tables.row(pid, file_ref=tables.file(b"/bin/x"), **row)
    assert procline("cost").code == 0
    assert order == [22, 21, 20]


def test_stacks_go_to_a_file(procline: Command, build: Callable[..., int], tmp_path: Path) -> None:
    make = build(20, "/usr/bin/make")
    build(21, "/usr/bin/cc", make)
    assert procline("cost", "--folded", str(tmp_path / "x.folded")).code == 0
    assert (tmp_path / "x.folded").read_text() == "make 3000000\nmake;cc 3000000\n"
    assert procline("cost", "--folded", "-").out == "make 3000000\nmake;cc 3000000\n"


def test_a_file_that_cannot_be_written_is_a_clear_error(
    procline: Command, build: Callable[..., int], tmp_path: Path
) -> None:
    build(20, "/usr/bin/make")
    done = procline("cost", "--folded", str(tmp_path / "none" / "x.folded"))
    assert done.code == 2 and "No such file or directory" in done.err
    both = procline("cost", "--folded", "-", "--json")
    assert both.code == 2 and both.out == "" and "--folded - and --json both print" in both.err


@pytest.mark.usefixtures("narrow_screen")
def test_a_narrow_screen_keeps_the_name(procline: Command, build: Callable[..., int]) -> None:
    build(20, "/usr/bin/make")
    lines = procline("cost").out.splitlines()
    assert all(len(line) <= 40 for line in lines)
    assert lines[0].split()[0] == "CPU" and "/usr" in lines[1]


def test_hostile_names_are_printable(procline: Command, build: Callable[..., int]) -> None:
    build(20, "/tmp/\x1b[31m\n;evil")
    out = procline("cost").out
    assert all(line == printable(line) for line in out.splitlines()) and "evil" in out


def test_nothing_that_matches(procline: Command, build: Callable[..., int]) -> None:
    build(20, "/usr/bin/make")
    found = procline("cost", "--path", "nothing")
    assert (found.code, found.out) == (1, "") and "no process matches" in found.err


def test_a_period_that_is_none(procline: Command, tables: Tables) -> None:
    assert procline("cost", "--since", "soon").code == 2
