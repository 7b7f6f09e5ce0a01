"""`procline ancestors`: where a process came from."""

from __future__ import annotations

import click

from pipeline.cli import common
from pipeline.export.json import dumps


@click.command(
    epilog="""\b
Examples:
  procline ancestors 4711
  procline ancestors $$ --json | jq -r '.[].comm'
"""
)
@click.argument("pid", type=common.Pid())
@common.name_option
@common.json_option
def command(pid: int, name: str, as_json: bool) -> int:
    """Show the earlier images of PID and its parents, nearest first, without PID as it is now."""
    with common.attached(name) as table:
        entry = common.patiently(lambda: table.resolve(pid, wait_ms=common.FORKED_JUST_NOW_MS))
        if entry is None:
            return common.not_found(pid, name)
        found = common.facts(lambda: table.ancestors(pid))
    if as_json:
        click.echo(dumps(found))
    else:
        common.echo_lines(common.rows(found))
    return 0
