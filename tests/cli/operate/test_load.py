"""Options of `procline load`, and what --compare prints. tests/live/test_load.py runs loads."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pipeline.cli.operate import load
from tests.cli.conftest import Command
from tests.load.reports import limit, paired, report

SCENARIO = "forks"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "use one scenario"),
        (["storm"], "forks, execs, build"),
        ([SCENARIO, "execs"], "use one scenario"),
        ([SCENARIO, "--rate", "0"], "not a rate"),
        ([SCENARIO, "--rate", "nan"], "not a rate"),
        ([SCENARIO, "--rate", "inf"], "not a rate"),
        ([SCENARIO, "--duration", "0"], "range"),
        ([SCENARIO, "--duration", "3601"], "range"),
        ([SCENARIO, "--concurrency", "65"], "range"),
        ([SCENARIO, "--cpus", "x"], "not a list of CPUs"),
        ([SCENARIO, "--cpus", "4095"], "may not use CPU 4095"),
        ([SCENARIO, "--paired"], "needs --own"),
        ([SCENARIO, "--set", "a=1"], "needs --own"),
        ([SCENARIO, "--own", "--paired", "--find-limit"], "only one"),
        ([SCENARIO, "--find-limit", "--rate", "max"], "use a number"),
        ([SCENARIO, "--report", "/nonexistent/x.html"], "/nonexistent"),
        (["--compare"], "two or more"),
        (["--compare", "a.json"], "two or more"),
        (["--compare", "/nonexistent/a.json", "/nonexistent/b.json"], "No such file"),
        ([SCENARIO, "--name", "a/b"], "not a valid instance name"),
    ],
)
def test_wrong_use_is_one_line_and_code_2(procline: Command, arguments: list[str], words: str) -> None:
    done = procline("load", *arguments)
    assert (done.code, done.out) == (2, "")
    assert words in done.err and len(done.err.splitlines()) == 1


def test_no_instance_is_code_3(procline: Command) -> None:
    done = procline("load", SCENARIO, "--name", "nobody")
    assert done.code == 3 and "procline run --name nobody" in done.err


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    slower = report("beta\x1b[31m<b>", paired=paired(), limit=limit(), late=7)
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, each in zip(paths, (report(), slower), strict=True):
        path.write_text(json.dumps(each))
    return [str(path) for path in paths]


def test_reports_are_compared(procline: Command, files: list[str]) -> None:
    done = procline("load", "--compare", *files)
    assert (done.code, done.err) == (0, "")
    lines = [line.split() for line in done.out.splitlines()]
    assert lines[0] == ["What", "differs"]
    assert ["late", "0", "7", "+7"] in lines
    assert "\x1b" not in done.out and "beta\\x1b[31m<b>" in done.out


def test_a_comparison_is_data_for_a_program(procline: Command, files: list[str]) -> None:
    done = procline("load", "--compare", *files, "--json")
    found = json.loads(done.out)
    assert (done.code, found["figures"]["late"], found["differences"].keys()) == (0, [0, 7], {"host.name"})
    assert "\x1b" not in done.out


def test_a_page_of_a_comparison_is_written(procline: Command, files: list[str], tmp_path: Path) -> None:
    page = tmp_path / "hosts.html"
    assert procline("load", "--compare", *files, files[0], "--report", str(page)).code == 0
    text = page.read_text()
    assert text.count("<svg") >= 5 and "&lt;b&gt;" in text and "<b>" not in text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may write beside /dev/full")
def test_a_page_that_cannot_be_written_is_one_line(procline: Command, files: list[str]) -> None:
    done = procline("load", "--compare", *files, "--report", "/dev/full")
    assert done.code == 2 and "No space left" in done.err and len(done.err.splitlines()) == 1


def test_a_wide_table_is_divided_and_none_of_it_is_lost() -> None:
    rows = [["", *(f"host{number}" for number in range(9))], ["figure", *(str(number) for number in range(9))]]
    parts = list(load._parts(rows, 40))
    assert len(parts) > 1
    assert all(len(line) <= 40 for part in parts for line in load._aligned(part))
    assert all(part[1][0] == "figure" for part in parts)
    assert [cell for part in parts for cell in part[1][1:]] == rows[1][1:]
    assert list(load._parts(rows, 0)) == [rows], "without a terminal it is whole"
    assert next(load._parts(rows, 5))[1] == ["figure", "0"], "one column is always shown"
