"""`procline list`: the instances of this host."""

from __future__ import annotations

import time
from dataclasses import asdict

import click

from pipeline.cli import common
from pipeline.host.instances import BEHIND, ENDED, READY, Instance, every
from pipeline.screen.lines import Line
from pipeline.screen.styles import Style
from pipeline.screen.tables import Column, table
from pipeline.screen.terminal import Screen
from pipeline.screen.times import moment, since

_STYLES = {READY: Style.BORN, BEHIND: Style.WARNING, ENDED: Style.EXITED}


@click.command(
    epilog="""\b
Examples:
  procline list
  procline list --json | jq -r '.[].name'
  export PROCLINE_INSTANCE=web        all commands then use the instance web, unless --name is given
"""
)
@click.option("--all", "is_all", is_flag=True, help="Also list instances that have ended and have left their tables.")
@common.json_option
def command(is_all: bool, as_json: bool) -> int:
    """List the instances that are running on this host, with their state.

    Exits with 0 if there are any, otherwise with 1.
    """
    found = [each for each in every() if is_all or each.is_running]
    if as_json:
        from pipeline.export.json import dumps

        click.echo(dumps([asdict(each) for each in found]))
    elif found:
        now_ns = time.time_ns()
        columns = [Column("NAME"), Column("STATE"), Column("PID", is_right=True), Column("STARTED")]
        Screen().cut(table(columns, [_row(each, now_ns) for each in found]))
    else:
        click.echo("procline: no instance is running; start one with: procline run", err=True)
    return 0 if found else 1


def _row(instance: Instance, now_ns: int) -> list[Line | str]:
    started = Line("-")
    if instance.since_ns is not None:
        started = Line(since(instance.since_ns, now_ns), (f"  {moment(instance.since_ns)[:19]}Z", Style.TIME))
    return [
        instance.name,
        Line((instance.state, _STYLES.get(instance.state, Style.CHANGED))),
        Line(("-" if instance.pid is None else str(instance.pid), Style.PID)),
        started,
    ]
