"""Man pages and completions say what the command's own parser knows."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import click
import pytest

from pipeline.cli import commands as command_line
from pipeline.cli import completion
from tests.loading import load

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def manual() -> ModuleType:
    """The script as a module."""
    return load(ROOT / "packaging" / "manual.py", "procline_manual")


@pytest.fixture(scope="module")
def pages(manual: ModuleType) -> dict[str, str]:
    return manual.pages()


@pytest.fixture
def shell_environment(tmp_path: Path) -> dict[str, str]:
    """An environment in which `procline` is this checkout's command."""
    program = tmp_path / "procline"
    program.write_text(
        f'#!{sys.executable}\nimport sys\nsys.path.insert(0, "{ROOT}")\nfrom pipeline.cli.main import run\nrun()\n'
    )
    program.chmod(0o755)
    return {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}


def plain(page: str) -> str:
    """Return a page without its fonts and escapes."""
    return re.sub(r"\\f.|\\&|\\(?=-)|\\(?=e)", "", page)


def test_every_command_and_every_option_is_described(pages: dict[str, str]) -> None:
    context = click.Context(command_line.cli, info_name="procline")
    assert set(pages) == {"procline", *(f"procline-{name}" for name in command_line.COMMANDS)}
    for name in command_line.COMMANDS:
        assert f".BR procline-{name} (1)" in plain(pages["procline"])
        command = command_line.cli.get_command(context, name)
        assert command is not None
        text = plain(pages[f"procline-{name}"])
        parts = [command, *command.commands.values()] if isinstance(command, click.Group) else [command]
        for parameter in (parameter for part in parts for parameter in part.params):
            if isinstance(parameter, click.Option):
                assert all(option in text for option in parameter.opts), (name, parameter.opts)


def test_every_variable_is_described(pages: dict[str, str]) -> None:
    """All that the product reads, except PROCLINE_LOAD, by which `procline load` starts its own program."""
    listed = set(re.findall(r"^\.B ([A-Z_]+)$", pages["procline"].partition(".SH ENVIRONMENT")[2], re.MULTILINE))
    sources = "".join(path.read_text() for path in (ROOT / "pipeline").rglob("*.py"))
    assert set(re.findall(r'"(PROCLINE_[A-Z_]+)"', sources)) - {"PROCLINE_LOAD"} <= listed
    assert listed >= {"PROCLINE_INSTANCE", "PROCLINE_FLEET_STORE", "PROCLINE_SHARDS", "NO_COLOR", "FORCE_COLOR"}


def test_exit_codes_are_those_of_the_command(pages: dict[str, str]) -> None:
    listed = set(re.findall(r"^\.B (\d+)$", pages["procline"].partition(".SH EXIT STATUS")[2], re.MULTILINE))
    codes = {getattr(command_line, name) for name in dir(command_line) if name.startswith("EXIT_")}
    assert codes | {0} == {int(code) for code in listed}


@pytest.mark.expensive
def test_pages_are_correct_roff(pages: dict[str, str], missing: Callable[[str], NoReturn]) -> None:
    if shutil.which("groff") is None:
        missing("groff is not installed")
    for name, page in pages.items():
        done = subprocess.run(
            ["groff", "-man", "-Tutf8", "-ww", "-z"], input=page, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, ""), name
        # A control character, or click's mark for text that must not be wrapped.
        assert not re.search(r"[\x00-\x08]|\\b|\\eb", page), name


def test_help_is_printed_as_it_was_written() -> None:
    """click reads a backspace as "do not wrap"; in a raw string it would be two characters."""
    context = click.Context(command_line.cli, info_name="procline")
    for name in command_line.COMMANDS:
        command = command_line.cli.get_command(context, name)
        assert command is not None
        assert "\\b" not in command.get_help(click.Context(command, info_name=name, parent=context)), name


def test_bash_completes_commands_and_options(tmp_path: Path, shell_environment: dict[str, str]) -> None:
    (tmp_path / "completion").write_text(completion.script("bash"))
    script = f"""
        . {tmp_path}/completion
        complete -p procline > /dev/null || exit 1
        COMP_WORDS=(procline res); COMP_CWORD=1; _procline_completion procline; echo "${{COMPREPLY[@]}}"
        COMPREPLY=()
        COMP_WORDS=(procline stat --j); COMP_CWORD=2; _procline_completion procline; echo "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", script], env=shell_environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("resolve\n--json\n", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completions_are_correct_in_their_language(tmp_path: Path, shell: str) -> None:
    """tests/packaging/run presses TAB in all three."""
    path = tmp_path / "completion"
    path.write_text(completion.script(shell))
    assert "_PROCLINE_COMPLETE" in path.read_text() and "%" not in re.sub(r"%[%#]|##?%|%%?\*", "", path.read_text())
    if program := shutil.which(shell):
        assert subprocess.run([program, "-n", path], capture_output=True, check=False).stderr == b""
