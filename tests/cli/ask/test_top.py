"""`procline top` where it cannot run: each case is one line and a code."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from pipeline.cli.ask import top
from pipeline.top.columns import COLUMNS
from tests.cli.conftest import Command


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that there is a terminal."""
    monkeypatch.setattr(top, "_check_terminal", lambda: None)
    monkeypatch.setattr(top, "_end_cleanly", lambda stack: None)


def test_without_a_terminal_it_names_the_commands_for_scripts(procline: Command) -> None:
    done = procline("top")
    assert done.code == 2 and done.err.count("\n") == 1
    assert "needs a terminal" in done.err and "procline tree" in done.err and "procline ps" in done.err


def test_a_terminal_that_cannot_move_the_cursor_is_named(procline: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.isatty", lambda fd: True)
    for stream in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(f"sys.{stream}.isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")
    done = procline("top")
    assert done.code == 2 and "TERM is dumb" in done.err


def test_no_instance_is_code_3(procline: Command, terminal: None) -> None:
    done = procline("top")
    assert done.code == 3 and "procline run" in done.err


def test_without_textual_the_error_names_the_package(
    procline: Command, terminal: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "textual" else find(name))
    done = procline("top")
    assert done.code == 2 and "pip install 'procline[top]'" in done.err


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--columns", "pid,nonesuch"], "no column 'nonesuch'"),
        (["--sort", "nonesuch"], "no column 'nonesuch'"),
        (["--columns", "pid,agee"], "did you mean age?"),
        (["--sort", "agee"], "did you mean age?"),
        (["--interval", "0"], "--interval"),
        (["--keep", "5x"], "'5x' is not a number"),
        (["--container", "ab"], "at least 4 characters"),
    ],
)
def test_wrong_options_are_code_2(procline: Command, terminal: None, arguments: list[str], why: str) -> None:
    done = procline("top", *arguments)
    assert done.code == 2 and why in done.err


def test_a_file_that_is_no_recording_is_code_2(procline: Command, terminal: None, tmp_path: Path) -> None:
    assert "cannot read" in procline("top", "--replay", str(tmp_path / "nothing")).err
    (tmp_path / "other").write_bytes(bytes(100))
    done = procline("top", "--replay", str(tmp_path / "other"))
    assert done.code == 2 and "not a recording" in done.err


@pytest.mark.parametrize(("term", "has_colour"), [("vt100", False), ("xterm-256color", True), ("unheard-of", True)])
def test_a_terminal_without_colour_gets_none(term: str, has_colour: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess
    import sys

    code = "from pipeline.cli.ask.top import _has_colour; print(_has_colour())"
    done = subprocess.run([sys.executable, "-c", code], env={"TERM": term}, capture_output=True, text=True, timeout=60)
    assert done.stdout == f"{has_colour}\n", done.stderr


def test_the_help_names_all_columns(procline: Command) -> None:
    _, _, named = procline("top", "--help").out.partition("Columns: ")
    assert named.partition(",")[0].split() == list(COLUMNS)


def test_the_page_has_the_columns() -> None:
    page = (Path(__file__).parents[3] / "docs/top.md").read_text()
    for column in COLUMNS.values():
        assert f"| `{column.name}` | {column.title} | {column.help} |" in page
