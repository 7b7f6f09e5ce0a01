"""Completions of a press of TAB."""

from __future__ import annotations

from typing import Any

import click
import pytest
from click.shell_completion import ShellComplete

from pipeline.bus.stream.messages import TOPICS
from pipeline.cli import completing
from pipeline.cli.commands import COMMANDS, cli
from pipeline.errors import NotRunningError
from tests.cli.conftest import Command
from tests.cli.fakes import FakeTable, entry


def offered(*words: str) -> list[str]:
    """Return the values for the last word of a command line."""
    shell = ShellComplete(cli, {}, "procline", "_PROCLINE_COMPLETE")
    return [item.value for item in shell.get_completions(list(words[:-1]), words[-1])]


def test_commands_and_options(procline: Command) -> None:
    assert offered("res") == ["resolve"]
    assert offered("help", "bench") == ["bench-read"]
    assert set(offered("help", "")) == set(COMMANDS)
    assert offered("completion", "") == ["bash", "zsh", "fish"]
    assert "--name" in offered("stat", "--")


def test_pids_come_newest_first_and_then_names(procline: Command, table: type[FakeTable]) -> None:
    # 42 has exited.
    assert offered("resolve", "") == ["41", "40", "1", "sleep", "bash", "systemd"]
    assert offered("children", "4") == ["41", "40"]
    assert offered("tree", "4") == ["41", "40"]
    assert offered("subscribe", "--under", "4") == ["41", "40"]
    assert offered("ancestors", "ba") == ["bash"]


def test_a_name_that_a_shell_would_read_otherwise_is_not_offered(procline: Command, table: type[FakeTable]) -> None:
    hostile = ["$(reboot)", "a b", "x;y", "\x1b[2J", "`id`", "a'b", 'a"b', "a\nb", "plain,1"]
    table.entries = tuple(entry(number + 50, 1, name, argv=[name]) for number, name in enumerate(hostile))
    assert [value for value in offered("resolve", "") if not value.isdigit()] == []
    shell = ShellComplete(cli, {}, "procline", "_PROCLINE_COMPLETE")
    helps = [item.help for item in shell.get_completions(["resolve"], "5")]
    assert len(helps) == len(hostile) and all(text.isprintable() for text in helps)


def test_topics_and_settings(procline: Command) -> None:
    assert offered("subscribe", "proc.e") == ["proc.exec", "proc.exit"]
    assert set(TOPICS) <= set(offered("subscribe", ""))
    assert offered("config", "--set", "capture.ring_by") == ["capture.ring_bytes="]
    assert offered("run", "--set", "log.l") == ["log.level="]


def test_instances(procline: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.host import instances

    found = [instances.Instance(name, "ready", 1, 1) for name in ("db", "web")]
    monkeypatch.setattr(instances, "running", lambda: found)
    assert offered("stat", "--name", "") == ["db", "web"]
    assert offered("tree", "--name", "w") == ["web"]


def test_without_an_instance_nothing_is_offered_and_nothing_is_said(
    procline: Command, table: type[FakeTable], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def attach(name: str) -> Any:
        raise NotRunningError("not running", instance=name)

    monkeypatch.setattr(table, "attach", attach)
    assert offered("resolve", "") == []
    assert capsys.readouterr() == ("", "")


def test_the_instance_of_the_command_line_is_asked(
    procline: Command, table: type[FakeTable], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    usual = FakeTable.attach

    def attach(name: str) -> Any:
        asked.append(name)
        return usual.__func__(table, name)  # type: ignore[attr-defined]

    monkeypatch.setattr(table, "attach", attach)
    offered("resolve", "--name", "web", "")
    monkeypatch.setenv("PROCLINE_INSTANCE", "db")
    offered("resolve", "")
    assert asked == ["web", "db"]


def test_a_menu_is_bounded(procline: Command, table: type[FakeTable]) -> None:
    table.entries = tuple(entry(number + 1, 1, "x") for number in range(500))
    context = click.Context(cli, info_name="procline")
    assert len(completing.processes(context, "")) == completing.ITEMS_MAX
