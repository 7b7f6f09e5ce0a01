"""`procline help`: the help of a command, as with --help, and what a setting, a field or a counter means."""

from __future__ import annotations

import click

from pipeline.cli import main
from pipeline.cli.common import Topic


@click.command(
    epilog="""\b
Examples:
  procline help                          all commands
  procline help subscribe                the options of one, with examples
  procline help creator_pid              what a field of an entry or an event means
  procline help creator                  what an attribute of an entry means in Python
  procline help capture.freshness_ms     what a setting does, and its default
  procline help maps_full                what a counter of `procline stat -v` counts
"""
)
@click.argument("topic", required=False, type=Topic())
def command(topic: str | None) -> int:
    """Show what a command does, its options, and examples.

    TOPIC is a command, a field of an entry or an event (also the columns of `procline ps -o`), an attribute of an entry
    in Python, a setting or a section of settings, or a counter.
    """
    above = click.get_current_context().parent
    assert above is not None
    if topic is None:
        click.echo(main.cli.get_help(above))
        return 0
    found = main.cli.get_command(above, topic)
    if found is not None:
        click.echo(found.get_help(click.Context(found, info_name=topic, parent=above)))
        return 0
    from pipeline.cli.topics import explained, names
    from pipeline.screen.terminal import Screen

    lines = explained(topic)
    if not lines:
        raise click.UsageError(main.unknown_command(topic, names()))
    Screen().wrap(lines, 2)
    return 0
