"""The options that choose processes."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from pipeline.cli.ask.selecting import select_options
from pipeline.host import retention
from pipeline.select.selection import Selection


def chosen(*arguments: str, names: tuple[str, ...] = ()) -> tuple[Selection | None, str]:
    """Return the selection that a command gets, and what it printed."""
    got: list[Selection] = []

    @click.command()
    @select_options(*names)
    def command(selection: Selection) -> None:
        got.append(selection)

    done = CliRunner().invoke(command, list(arguments))
    return (got[0] if got else None), done.output


def test_options_become_a_selection() -> None:
    assert chosen() == (Selection(), "")
    assert chosen("--user", "0", "--user", "www-data", "--under", "7", "--failed")[0] == Selection(
        users=("0", "www-data"), under=(7,), is_failed=True
    )
    assert chosen("--unit", "nginx", "--path", "*.sh", "--container", "c0ffee")[0] == Selection(
        units=("nginx",), paths=("*.sh",), containers=("c0ffee",)
    )


def test_a_command_has_only_the_options_that_it_names() -> None:
    assert chosen("--user", "0", names=("user",))[0] == Selection(users=("0",))
    selection, text = chosen("--failed", names=("user", "under"))
    assert selection is None and "--failed" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--under", ""), "neither a pid nor the name of a program"),
        (("--under", "0"), "0 is not a pid"),
        (("--container", "c0f"), "too short for a container"),
        (("--user", ""), "use a user"),
        (("--path", " "), "use a pattern"),
    ],
)
def test_wrong_values_are_errors(arguments: tuple[str, ...], said: str) -> None:
    selection, text = chosen(*arguments)
    assert selection is None and said in text


@pytest.fixture
def recording(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default instance replays a recording."""
    monkeypatch.setenv("PROCLINE_RUNTIME_DIR", str(runtime))
    (runtime / "default").mkdir()
    (runtime / "default" / retention.FILE).write_bytes(retention.describe(None))


def test_in_a_recording_the_name_of_a_user_is_that_of_this_host(recording: None) -> None:
    assert chosen("--user", "0") == (Selection(users=("0",)), "")
    selection, said = chosen("--user", "root")
    assert selection == Selection(users=("root",))
    assert said == "procline: a recording has no names of users: root is uid 0, as on this host\n"


def test_in_a_recording_a_name_that_this_host_does_not_know_is_an_error(recording: None) -> None:
    selection, said = chosen("--user", "no\x1bbody-here")
    assert selection is None and "--user no\\x1bbody-here: a recording has no names of users" in said
    assert "use the number" in said


def test_of_an_instance_names_of_users_are_its_own(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROCLINE_RUNTIME_DIR", str(runtime))
    assert chosen("--user", "nobody-here") == (Selection(users=("nobody-here",)), "")
