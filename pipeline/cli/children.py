"""`procline children`: what a process has started."""

from __future__ import annotations

import click

from pipeline.cli import common
from pipeline.export.json import dumps


@click.command(
    epilog="""\b
Examples:
  procline children 1
  procline children $$ --json | jq length
"""
)
@click.argument("pid", type=common.Pid())
@common.name_option
@common.json_option
def command(pid: int, name: str, as_json: bool) -> int:
    """Show the live children of PID."""
    with common.attached(name) as table:
        entry = common.patiently(lambda: table.resolve(pid, wait_ms=common.FORKED_JUST_NOW_MS))
        if entry is None:
            return common.not_found(pid, name)
        found = common.facts(lambda: table.children(pid))
    if as_json:
        click.echo(dumps(found))
    else:
        common.echo_lines(common.rows(found))
    return 0
