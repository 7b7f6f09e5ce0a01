"""Completions of a press of TAB: live processes, instances, commands, topics and settings.

Nothing here may fail or print: the shell is waiting. What cannot be read is not offered.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, cast

import click
from click.shell_completion import CompletionItem

from pipeline import paths
from pipeline.errors import ProclineError, TooOldError
from pipeline.export.text import printable

if TYPE_CHECKING:
    from pipeline.shm.layout.entry_types import EntryFields

_FIELDS = ("pid", "start_time_ns", "exit_time_ns", "comm", "path", "script_path", "argv", "is_kworker")
#: A menu with more lines is of no use.
ITEMS_MAX = 200
_HELP_WIDTH = 60


def commands(incomplete: str) -> list[CompletionItem]:
    """Return the commands that begin with a text, with their line of help."""
    from pipeline.cli.commands import COMMANDS

    return [CompletionItem(name, help=line) for name, line in COMMANDS.items() if name.startswith(incomplete)]


def explained(incomplete: str) -> list[CompletionItem]:
    """Return the fields, settings and counters that begin with a text."""
    from pipeline.cli.topics import names

    return [CompletionItem(name) for name in dict.fromkeys(names()) if name.startswith(incomplete)]


def instances(incomplete: str) -> list[CompletionItem]:
    """Return the running instances that begin with a text, with their state."""
    from pipeline.host.instances import running

    try:
        found = running()
    except (ProclineError, OSError):
        return []
    return [CompletionItem(each.name, help=each.state) for each in found if each.name.startswith(incomplete)]


def topics(incomplete: str) -> list[CompletionItem]:
    """Return the topics of the stream that begin with a text, with or without their family."""
    from pipeline.bus.stream.messages import TOPICS

    names = [*TOPICS, *(topic.partition(".")[2] for topic in TOPICS)]
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def settings(incomplete: str) -> list[CompletionItem]:
    """Return the settings that begin with a text, each with an equals sign and its default."""
    try:
        from pipeline.config.schema import Config
        from pipeline.config.schema import settings as every
    except ImportError:  # the daemon's packages are not installed
        return []
    return [
        CompletionItem(f"{key}=", help=f"default: {value}")
        for key, value, _ in every(Config())
        if key.startswith(incomplete)
    ]


def processes(ctx: click.Context, incomplete: str, *, with_names: bool = False) -> list[CompletionItem]:
    """Return the live processes that begin with a text, newest first.

    Args:
        ctx: names the instance.
        incomplete: what has been typed.
        with_names: whether to offer programs by name, after the pids.
    """
    from pipeline.screen.processes import command_line
    from pipeline.select.programs import program_of

    found = _live(str(ctx.params.get("name") or paths.DEFAULT_INSTANCE))
    items = [
        CompletionItem(str(entry["pid"]), help=command_line(entry)[:_HELP_WIDTH])
        for entry in found
        if str(entry["pid"]).startswith(incomplete)
    ]
    if with_names:
        names = dict.fromkeys(program_of(entry).name for entry in found)
        # A name with other characters would be a part of a command line, or take part in one.
        items += [
            CompletionItem(name, help="program")
            for name in names
            if name.startswith(incomplete) and name == printable(name) and not set(name) & _SPECIAL
        ]
    return items[:ITEMS_MAX]


#: Characters with a meaning for a shell or for the protocol of completion.
_SPECIAL = frozenset(" \t\n,;&|<>()$`\\\"'*?[]{}#~=%!:")


def _live(name: str) -> list[EntryFields]:
    from pipeline import ProcessTable

    found: list[EntryFields] = []
    try:
        with ProcessTable.attach(name) as table:
            for entry in table.walk(exited=False):
                with contextlib.suppress(TooOldError):
                    found.append(cast("EntryFields", entry.to_dict(_FIELDS)))
    except (ProclineError, OSError):
        return []
    found = [entry for entry in found if entry.get("exit_time_ns") is None]
    return sorted(found, key=lambda entry: entry.get("start_time_ns") or 0, reverse=True)
