"""How a process is shown."""

from __future__ import annotations

import shlex

import pytest

from pipeline.export.text import printable
from pipeline.screen import processes
from pipeline.screen.lines import Line
from pipeline.screen.styles import OF_KIND, Style, rich_style
from pipeline.screen.tables import Column, table
from pipeline.select.programs import Kind


def test_the_program_has_its_own_colour_and_directories_are_dim() -> None:
    line = processes.command({"path": "/usr/bin/sleep", "argv": ["/usr/bin/sleep", "20"]})
    assert line.pieces == [("/usr/bin/", Style.PATH), ("sleep", Style.PROGRAM), (" 20", Style.ARGUMENT)]


def test_a_script_is_named_and_not_its_interpreter() -> None:
    line = processes.command({"path": "/usr/bin/python3", "argv": ["python3", "-u", "/srv/x.py", "-v"]})
    assert [text for text, style in line.pieces if style is Style.SCRIPT] == ["x.py"]


def test_an_exited_process_is_grey() -> None:
    line = processes.command({"path": "/bin/ls", "argv": ["ls"], "exit_time_ns": 5})
    assert {style for _, style in line.pieces} == {Style.EXITED}


def test_what_is_unknown_is_shown_as_by_ps() -> None:
    assert processes.command({"comm": "kworker/0:1", "is_kworker": True}).plain == "[kworker/0:1]"
    assert processes.command({}).plain == "[?]"


@pytest.mark.parametrize(
    ("cause", "number", "text"),
    [("exited", 3, "code 3"), ("signaled", 9, "signal 9 (SIGKILL)"), ("signaled", 40, "signal 40 (SIGRTMIN+6)"),
     ("coredumped", 11, "signal 11 (SIGSEGV), core dumped"), (None, None, "")],
)  # fmt: skip
def test_endings(cause: str | None, number: int | None, text: str) -> None:
    assert processes.ending({"exit_cause": cause, "exit_cause_code": number}) == text


def test_root_stands_out() -> None:
    assert processes.user({"uid": 0, "user": "root"}).pieces == [("root", Style.ROOT)]
    assert processes.user({"uid": 1000}).pieces == [("1000", Style.USER)]
    assert processes.user({}).plain == "?"


def test_every_kind_and_style_has_a_look() -> None:
    assert set(OF_KIND) == set(Kind)
    for style in Style:
        assert "x" in Line(("x", style)).painted()
        assert rich_style(style)


def test_columns_are_aligned_by_cells() -> None:
    rows = [["7", "漢字", "sh"], ["123", "ab", "sleep 20"]]
    lines = [line.plain for line in table([Column("PID", is_right=True), Column("USER"), Column("COMMAND")], rows)]
    assert lines == ["PID  USER  COMMAND", "  7  漢字  sh", "123  ab    sleep 20"]


@pytest.mark.parametrize(
    "argv", [["a", "-x", "b=c"], ["a", "b c"], ["a", ""], ["", ""], ["x;y", "$z"], ["é"], [" "], ["a ", "b"], ["a\tb"]]
)
def test_a_command_line_is_quoted_as_a_shell_needs_it(argv: list[str]) -> None:
    assert processes.command_line({"argv": argv}) == printable(shlex.join(argv))
