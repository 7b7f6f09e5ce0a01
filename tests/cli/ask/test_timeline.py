"""`procline timeline`: what it writes, rejects, and reports as left out."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.shm.layout import layout
from tests.cli.conftest import Command
from tests.shm.handmade import BOOT_UNIX_NS, Tables

EXEC = layout.ROW_HEAD | layout.ROW_IS_EXEC


@pytest.fixture
def tables(runtime: Path) -> Tables:
    """An instance with a shell and three children; the second was forked with the shell's image and called exec."""
    tables = Tables(runtime / "default")
    known = layout.KNOWN_START | layout.KNOWN_ARGS | layout.KNOWN_FILE | layout.KNOWN_COMM
    arguments, file = tables.strings("args", b"bash", b"-i"), tables.file(b"/usr/bin/bash")
    shell = tables.row(10, args_ref=arguments, file_ref=file, known=known)
    above = {"creator": tables.link(shell), "parent": tables.link(shell), "ppid": 10}
    tables.row(11, exit_boot_ns=11_500, exit_code=256, flags=EXEC | layout.ROW_EXIT_KNOWN, **above)
    forked = tables.row(12, flags=layout.ROW_REPLACED, exit_boot_ns=12_500, ancestor=tables.link(shell), **above)
    tables.row(12, flags=EXEC, exec_boot_ns=12_500, images=2, ancestor=tables.link(forked), **above)
    tables.row(13, flags=EXEC, **above)
    return tables


def data_of(page: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text())
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_it_writes_a_page_for_the_caller_alone(procline: Command, tables: Tables, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = procline("timeline", "--html", str(page))
    assert (done.code, done.out) == (0, "")
    assert done.err == f"{page}: 4 processes, {page.stat().st_size:,} bytes\n"
    assert page.stat().st_mode & 0o777 == 0o600, "arguments of other users are in it"
    data = data_of(page)
    assert data["pid"] == [10, 11, 12, 13] and data["creator"] == [-1, 0, 0, 0] and data["images"] == [1, 1, 2, 1]
    assert data["failed"] == [0, 1, 0, 0]


def test_a_file_or_link_that_is_there_is_not_written_to(procline: Command, tables: Tables, tmp_path: Path) -> None:
    """Another user could have made it, to read the page or to have another file overwritten."""
    other, page, link = tmp_path / "other", tmp_path / "page.html", tmp_path / "link.html"
    other.write_text("kept")
    other.chmod(0o666)
    page.hardlink_to(other)
    link.symlink_to(other)
    for each in (page, link):
        assert procline("timeline", "--html", str(each)).code == 0
        assert each.lstat().st_mode & 0o777 == 0o600 and not each.is_symlink()
    assert other.read_text() == "kept"
    assert sorted(each.name for each in tmp_path.iterdir() if each.name != "other") == ["link.html", "page.html"]


def test_json_has_the_processes_with_their_images(procline: Command, tables: Tables) -> None:
    done = procline("timeline", "--json")
    assert (done.code, done.err) == (0, "")
    found = json.loads(done.out)
    assert found["from_time_ns"] == BOOT_UNIX_NS + 10_000 and found["left_out"] == 0
    assert [each["pid"] for each in found["processes"]] == [10, 11, 12, 13]
    shell, _, changed, _ = found["processes"]
    assert shell["argv"] == ["bash", "-i"] and shell["path"] == "/usr/bin/bash"
    assert changed["creator_entity_id"] == shell["entity_id"]
    assert [image["time_ns"] - BOOT_UNIX_NS for image in changed["images"]] == [12_000, 12_500]
    assert [image["is_exec"] for image in changed["images"]] == [False, True]


def test_page_and_json_together(procline: Command, tables: Tables, tmp_path: Path) -> None:
    done = procline("timeline", "--json", "--html", str(tmp_path / "page.html"))
    assert done.code == 0 and len(json.loads(done.out)["processes"]) == 4 and (tmp_path / "page.html").exists()


def test_the_selection_and_the_time_choose(procline: Command, tables: Tables, tmp_path: Path) -> None:
    def pids(*options: str) -> list[int]:
        return [each["pid"] for each in json.loads(procline("timeline", "--json", *options).out)["processes"]]

    assert pids("--failed") == [11]
    assert pids("--under", "12") == [12]
    assert pids("--since", str(BOOT_UNIX_NS + 11_600)) == [10, 12, 13]
    assert pids("--limit", "2") == [10, 13]
    page = tmp_path / "page.html"
    procline("timeline", "--html", str(page), "--under", "12")
    assert "<h1>Processes: under 12</h1>" in page.read_text()


def test_what_is_left_out_is_said_twice(procline: Command, tables: Tables, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = procline("timeline", "--html", str(page), "--limit", "2")
    assert done.err.splitlines()[0] == (
        "procline: 2 older processes are left out: use a later --since, another choice, or more by --limit"
    )
    assert "2 older processes are left out: this page has at most 2." in page.read_text()


def test_nothing_matches(procline: Command, tables: Tables, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = procline("timeline", "--html", str(page), "--under", "99")
    assert (done.code, done.out) == (1, "") and not page.exists()
    assert done.err == "procline: instance 'default' knows no process 99\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "use --html FILE for the page, or --json"),
        (["--json", "--since", "yesterday"], "--since: 'yesterday' is not a time"),
        (["--html", "/nowhere/page.html"], "you cannot write to the directory /nowhere"),
        (["--json", "--limit", "0"], "--limit"),
        (["--json", "--container", "a"], "too short"),
    ],
)
def test_wrong_use(procline: Command, tables: Tables, options: list[str], message: str) -> None:
    done = procline("timeline", *options)
    assert done.code == 2 and message in done.err and done.out == ""


def test_a_file_that_is_no_recording(procline: Command, tmp_path: Path) -> None:
    for file, text in ((tmp_path / "none.rec", "cannot read"), (tmp_path / "other.rec", "it is not a recording")):
        if file.stem == "other":
            file.write_bytes(b"x" * 100)
        done = procline("timeline", "--json", "--replay", str(file))
        assert done.code == 2 and text in done.err


def test_no_instance(procline: Command) -> None:
    assert procline("timeline", "--json").code == 3
