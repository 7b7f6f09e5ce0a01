"""`procline help`: the help of a command, as with --help, and what a setting, a field or a counter means."""

from __future__ import annotations

import click

from pipeline.cli import commands
from pipeline.cli.common import Topic, guess


@click.command(
    epilog="""\b
Examples:
  procline help                          all commands
  procline help subscribe                the options of one, with examples
  procline help fleet query              the same of a command of `procline fleet`
  procline help creator_pid              what a field of an entry or an event means
  procline help creator                  what an attribute of an entry means in Python
  procline help capture.freshness_ms     what a setting does, and its default
  procline help maps_full                what a counter of `procline stat -v` counts
  procline help lost                     what a line of `procline stat` means
"""
)
@click.argument("topic", required=False, type=Topic())
@click.argument("subcommand", required=False)
def command(topic: str | None, subcommand: str | None) -> int:
    """Show what a command does, its options, and examples.

    TOPIC is a command, a field of an entry or an event (also the columns of `procline ps -o`), an attribute of an entry
    in Python, a setting or a section of settings, a counter, or a line of `procline stat`. SUBCOMMAND is one of the
    command's own, such as `query` of `fleet`.
    """
    above = click.get_current_context().parent
    assert above is not None
    if topic is None:
        click.echo(commands.cli.get_help(above))
        return 0
    found = commands.cli.get_command(above, topic)
    if found is not None:
        context = click.Context(found, info_name=topic, parent=above)
        if subcommand is not None:
            found, context = _below(found, context, subcommand)
        click.echo(found.get_help(context))
        return 0
    if subcommand is not None:
        raise click.UsageError(f"use one topic: {topic!r} is not a command with subcommands")
    from pipeline.cli.topics import explained, names
    from pipeline.screen.terminal import Screen

    lines = explained(topic)
    if not lines:
        raise click.UsageError(commands.unknown_command(topic, names()))
    Screen().wrap(lines, 2)
    return 0


def _below(found: click.Command, context: click.Context, name: str) -> tuple[click.Command, click.Context]:
    """Return a subcommand of a command, with its context."""
    known = found.list_commands(context) if isinstance(found, click.Group) else []
    if name not in known:
        raise click.UsageError(f"`procline {context.info_name}` has no command {name!r}{guess(name, known)}")
    assert isinstance(found, click.Group)
    inner = found.commands[name]
    return inner, click.Context(inner, info_name=name, parent=context)
