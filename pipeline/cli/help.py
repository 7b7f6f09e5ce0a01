"""`procline help`: the help of a command, as with --help."""

from __future__ import annotations

import click

from pipeline.cli import main
from pipeline.cli.common import CommandName


@click.command(
    epilog="""\b
Examples:
  procline help                  all commands
  procline help subscribe        the options of one, with examples
"""
)
@click.argument("command_name", metavar="[COMMAND]", required=False, type=CommandName())
def command(command_name: str | None) -> int:
    """Show what a command does, its options, and examples."""
    above = click.get_current_context().parent
    assert above is not None
    if command_name is None:
        click.echo(main.cli.get_help(above))
        return 0
    found = main.cli.get_command(above, command_name)
    if found is None:
        raise click.UsageError(main.unknown_command(command_name))
    click.echo(found.get_help(click.Context(found, info_name=command_name, parent=above)))
    return 0
